"""Layers within branches and loops: methods that need no data have them as they have others, Int8 with ranges that each run finds."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from maas_rt.compiler import Half, Int8, Int8Dynamic, Prune, Recipe, WeightOnly
from maas_rt.compiler import compile as compile_model
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import maas_rt

RNG = np.random.default_rng(3)


class Branches(nn.Module):
    """A product before, in each branch (of one value from outside), and behind."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(32, 32)
        self.yes = nn.Linear(32, 32)
        self.no = nn.Linear(32, 32)
        self.last = nn.Linear(32, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.first(x).relu()
        y = torch.cond(x.sum() > 0, lambda h: self.yes(h).relu(), lambda h: self.no(h).tanh(), (h,))
        return self.last(y + h)


def loop() -> onnx.ModelProto:
    """Four times h = tanh(h W), then h V."""

    def constant(name: str, *shape: int) -> onnx.TensorProto:
        values = (RNG.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32)
        return numpy_helper.from_array(values, name)

    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["h", "w"], ["p"], name="inner"),
            helper.make_node("Tanh", ["p"], ["g"]),
            helper.make_node("Identity", ["go"], ["on"]),
        ],
        "body",
        [value("i", TensorProto.INT64, []), value("go", TensorProto.BOOL, []), value("h", TensorProto.FLOAT, [4, 32])],
        [value("on", TensorProto.BOOL, []), value("g", TensorProto.FLOAT, [4, 32])],
        [constant("w", 32, 32)],
    )
    nodes = [
        helper.make_node("Loop", ["count", "", "x"], ["y"], body=body),
        helper.make_node("MatMul", ["y", "v"], ["z"], name="outer"),
    ]
    graph = helper.make_graph(
        nodes,
        "loops",
        [value("count", TensorProto.INT64, []), value("x", TensorProto.FLOAT, [4, 32])],
        [value("z", TensorProto.FLOAT, [4, 8])],
        [constant("v", 32, 8)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def kernels(artifact: Any) -> Counter[str]:
    """Of all blocks, those of branches and loops included."""
    return Counter(s.target for block in artifact.linear.plan.blocks for s in block.steps)


def both(net: nn.Module) -> list[torch.Tensor]:
    """Inputs for either branch."""
    torch.manual_seed(1)
    x = torch.randn(4, 32)
    return [x * x.sum().sign(), -x * x.sum().sign()]


METHODS = {
    "int8": (Int8, "gemm_u8s8"),
    "int8 dynamic by row": (Int8Dynamic(), "gemm_u8s8"),
    "int8 dynamic": (Int8Dynamic(granularity="tensor"), "gemm_u8s8"),
    "int4": (WeightOnly(bits=4), "gemm_f32q"),
    "int4 before bytes": (WeightOnly(bits=4, activations="int8"), "gemm_s8q4"),
}


@pytest.mark.parametrize("name", METHODS)
def test_products_of_branches(name: str) -> None:
    torch.manual_seed(0)
    net = Branches().eval()
    inputs = both(net)
    method, _ = METHODS[name]
    data = {"x": np.stack([x.numpy() for x in inputs])}
    recipe = Recipe(quantize=method(tolerance=0.3) if method is Int8 else method, calibration=data)
    artifact = compile_model(net, (inputs[0],), recipe=recipe)
    quantize = artifact.manifest["recipe"]["quantize"]
    assert (quantize["layers"], quantize["float_layers"]) == (4, [])
    counts = kernels(artifact)
    assert not any(target in ("gemm_f32", "matmul_f32") for target in counts), counts
    session = maas_rt.load(artifact.to_bytes())
    for x in inputs:
        with torch.no_grad():
            want = net(x).numpy()
        (got,) = session.run({session.inputs[0].name: x.numpy()}).values()
        floor = 15 if "int4" in name else 28
        assert 10 * np.log10((want**2).sum() / ((want - got) ** 2).sum()) > floor


def test_what_static_ranges_are_not_for_is_noted() -> None:
    torch.manual_seed(0)
    net = Branches().eval()
    data = {"x": np.stack([x.numpy() for x in both(net)])}
    recipe = Recipe(quantize=Int8(tolerance=0.3), calibration=data)
    notes = compile_model(net, (both(net)[0],), recipe=recipe).manifest["recipe"]["quantize"]["notes"]
    assert any("has ranges that each run finds" in note and note.count("linear") == 2 for note in notes), notes


@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_methods_that_want_to_see_inputs_leave_them(method: str) -> None:
    torch.manual_seed(0)
    net = Branches().eval()
    data = {"x": RNG.standard_normal((48, 4, 32)).astype(np.float32)}
    recipe = Recipe(quantize=WeightOnly(bits=4, method=method, tolerance=1.0), calibration=data)
    quantize = compile_model(net, (both(net)[0],), recipe=recipe).manifest["recipe"]["quantize"]
    assert quantize["layers"] == 2
    reasons = {each["reason"] for each in quantize["float_layers"]}
    assert reasons == {"it is inside of a branch or a loop, where calibration does not see what it reads"}


@pytest.mark.parametrize("name", METHODS)
def test_products_of_loops(name: str) -> None:
    proto = loop()
    method, kernel = METHODS[name]
    x = RNG.standard_normal((6, 4, 32)).astype(np.float32)
    data = [{"count": np.int64(count), "x": each} for each in x for count in (0, 1, 4)]
    recipe = Recipe(quantize=method(tolerance=0.5) if method is Int8 else method, calibration=data)
    artifact = compile_model(proto, recipe=recipe)
    assert artifact.manifest["recipe"]["quantize"]["layers"] == 2
    assert kernels(artifact)[kernel] == 2
    weights = {init.name: numpy_helper.to_array(init) for init in [*proto.graph.initializer, *_body(proto).initializer]}
    session = maas_rt.load(artifact.to_bytes())
    for count in (0, 1, 4):
        want = x[0]
        for _ in range(count):
            want = np.tanh(want @ weights["w"])
        want = want @ weights["v"]
        got = session.run({"count": np.int64(count), "x": x[0]})["z"]
        assert 10 * np.log10((want**2).sum() / ((want - got) ** 2).sum()) > (12 if "int4" in name else 25)


def _body(proto: onnx.ModelProto) -> onnx.GraphProto:
    return proto.graph.node[0].attribute[0].g


def test_weights_of_branches_are_pruned_by_magnitude() -> None:
    torch.manual_seed(0)
    net = Branches().eval()
    recipe = Recipe(prune=Prune(0.5, method="magnitude", tolerance=10.0), prune_layers={})
    manifest = compile_model(net, (both(net)[0],), recipe=recipe).manifest["recipe"]["prune"]
    pruned = {each["name"]: each["zeros"] for each in manifest["layers"]}
    assert sorted(pruned.values()) == [512, 512]  # the first and the last stay dense


def test_embeddings_of_branches_are_tables_of_16_bits() -> None:
    class Tables(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Embedding(50, 32), nn.Embedding(50, 32)

        def forward(self, ids: torch.Tensor, flag: torch.Tensor) -> torch.Tensor:
            return torch.cond(flag, lambda i: self.a(i) + 0, lambda i: self.b(i) + 0, (ids,))

    torch.manual_seed(0)
    net, ids = Tables().eval(), torch.arange(6)
    artifact = compile_model(net, (ids, torch.tensor(True)), recipe=Recipe(quantize=Half()))
    assert artifact.manifest["recipe"]["quantize"]["layers"] == 2
    session = maas_rt.load(artifact.to_bytes())
    names = [each.name for each in session.inputs]
    for flag, table in ((True, net.a), (False, net.b)):
        (got,) = session.run({names[0]: ids.numpy(), names[1]: np.bool_(flag)}).values()
        np.testing.assert_array_equal(got, table(ids).detach().numpy().astype(np.float16).astype(np.float32))
