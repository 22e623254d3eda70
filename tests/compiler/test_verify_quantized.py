"""Verification of models that quantize: a tie that is rounded the other way passes, a number that is wrong does not."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import onnx
import pytest
import torch
import torch.ao.quantization.fx._decomposed
from maas_rt.compiler import compile
from maas_rt.compiler._configs import VerifyOptions
from maas_rt.compiler.importers import import_model
from maas_rt.compiler.verify import Report, differences
from maas_rt.compiler.verify._compare import EPSILON, tied_share
from maas_rt.compiler.verify._run import movements
from onnx import TensorProto, helper

from maas_rt import VerificationError

OPTIONS = VerifyOptions()
pt2e = torch.ops.quantized_decomposed
WIDTH = 48


def _network(plant: str = "", fixed: bool = False) -> onnx.ModelProto:
    """Three layers as quantize_dynamic writes them, with a softmax over all tokens between; `plant` is what is wrong in the second."""
    rng = np.random.default_rng(3)
    nodes: list[onnx.NodeProto] = []
    constants: dict[str, np.ndarray] = {"floor": np.float32(-30000), "ceiling": np.float32(30000)}
    last = "x"
    for i in range(3):
        weight, scale, zero = rng.integers(-127, 128, (WIDTH, WIDTH)).astype("int8"), np.float32(0.0021), np.int8(0)
        if i == 1 and plant == "scale":
            scale = np.float32(scale * np.float32(1.01))
        if i == 1 and plant == "column":
            weight[:, [3, 4]] = weight[:, [4, 3]]
        if i == 1 and plant == "zero point":
            zero = np.int8(1)
        constants |= {
            f"w{i}": weight,
            f"s{i}": scale,
            f"z{i}": zero,
            f"b{i}": rng.standard_normal(WIDTH).astype("float32"),
        }
        nodes += [
            helper.make_node("DynamicQuantizeLinear", [last], [f"q{i}", f"qs{i}", f"qz{i}"]),
            helper.make_node("MatMulInteger", [f"q{i}", f"w{i}", f"qz{i}", f"z{i}"], [f"p{i}"]),
            helper.make_node("Cast", [f"p{i}"], [f"f{i}"], to=TensorProto.FLOAT),
        ]
        sums = f"f{i}"
        if i == 1 and plant == "saturation":
            nodes.append(helper.make_node("Clip", [sums, "floor", "ceiling"], ["clipped"]))
            sums = "clipped"
        nodes += [
            helper.make_node("Mul", [f"qs{i}", f"s{i}"], [f"both{i}"]),
            helper.make_node("Mul", [sums, f"both{i}"], [f"m{i}"]),
            helper.make_node("Add", [f"m{i}", f"b{i}"], [f"a{i}"]),
            helper.make_node("Transpose", [f"a{i}"], [f"t{i}"], perm=[0, 2, 1]),
            helper.make_node("MatMul", [f"a{i}", f"t{i}"], [f"c{i}"]),
            helper.make_node("Softmax", [f"c{i}"], [f"u{i}"]),
            helper.make_node("MatMul", [f"u{i}", f"a{i}"], [f"v{i}"]),
            helper.make_node("LayerNormalization", [f"v{i}", "one"], ["y" if i == 2 else f"l{i}"]),
        ]
        last = f"l{i}"
    constants["one"] = np.ones(WIDTH, "float32")
    shape = [8, 512, WIDTH] if fixed else ["b", "s", WIDTH]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


class _Implementation:
    """Another implementation of a model: its roundings before each quantization are not ONNX Runtime's."""

    inputs = (type("Info", (), {"name": "x"}),)
    manifest: ClassVar[dict[str, Any]] = {"states": []}

    def __init__(self, model: onnx.ModelProto, share: float) -> None:
        moved = import_model(model).source.with_moved_scales(share, 5)
        assert moved is not None
        self._source = moved

    def run(self, inputs: dict[str, Any], **_: Any) -> dict[str, Any]:
        return self._source.run(inputs)


def _found(program: Any, model: onnx.ModelProto) -> tuple[Report, bool]:
    report = Report()
    return report, any(True for _ in differences(program, import_model(model), OPTIONS, None, report))


def test_ties_that_are_rounded_the_other_way_pass() -> None:
    report, differs = _found(_Implementation(_network(), 8 * EPSILON), _network())
    assert not differs
    assert report.unsteady == {"y"}  # there were some,
    assert report.outputs["y"] < 1e-5  # and inputs without


def test_without_an_input_far_from_ties_the_movement_decides() -> None:
    report, differs = _found(_Implementation(_network(fixed=True), 2 * EPSILON), _network(fixed=True))
    assert not differs
    assert report.unsteady == {"y"}


@pytest.mark.parametrize("plant", ["scale", "column", "zero point", "saturation"])
def test_what_is_wrong_is_refused(plant: str) -> None:
    _, differs = _found(_Implementation(_network(plant), EPSILON), _network())
    assert differs


def test_a_network_as_quantize_dynamic_writes_it_compiles() -> None:
    assert compile(_network()).manifest["verified"]["status"] == "passed"


def test_integers_may_be_off_by_one_step() -> None:
    wanted = np.arange(200, dtype="uint8")
    off = wanted.copy()
    off[7] += 1
    assert tied_share(off, wanted) == 1 / 200
    assert tied_share(wanted, wanted) == 0
    off[8] += 2
    assert tied_share(off, wanted) is None
    assert tied_share(off, wanted, 255) == 2 / 200
    assert tied_share(np.int32([1]), np.int32([2])) is None
    assert tied_share(np.int8([-128]), np.int8([127])) is None


@pytest.mark.parametrize(("shift", "passes"), [(0, True), (1, False)])
def test_an_output_of_eight_bits(shift: int, passes: bool) -> None:
    """Its ties may fall the other way; a zero point may not."""
    model = _network()
    model.graph.node.append(helper.make_node("DynamicQuantizeLinear", ["y"], ["i", "is", "iz"]))
    model.graph.output.append(helper.make_tensor_value_info("i", TensorProto.UINT8, None))

    class Shifted(_Implementation):
        def run(self, inputs: dict[str, Any], **_: Any) -> dict[str, Any]:
            results = self._source.run(inputs)
            return {**results, "i": results["i"] + np.uint8(shift)}

    _, differs = _found(Shifted(model, 8 * EPSILON), model)
    assert differs != passes


# ---- ties whatever the input is


def _tied() -> onnx.ModelProto:
    """Three layers between numbers of 8 bits, all scales powers of two: half of what is rounded is a tie."""
    rng = np.random.default_rng(5)
    nodes, last = [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q0"])], "q0"
    constants: dict[str, np.ndarray] = {"s": np.float32(2**-5), "z": np.uint8(128), "half": np.float32(2**-6)}
    for i in range(1, 4):
        constants |= {
            f"w{i}": rng.integers(-9, 10, (WIDTH, WIDTH)).astype("int8"),
            f"ws{i}": np.full(WIDTH, 2**-6, "float32"),
            f"wz{i}": np.zeros(WIDTH, "int8"),
        }
        nodes += [
            helper.make_node("DequantizeLinear", [last, "s", "z"], [f"a{i}"], name=f"input{i}"),
            helper.make_node("DequantizeLinear", [f"w{i}", f"ws{i}", f"wz{i}"], [f"d{i}"], name=f"weight{i}", axis=1),
            helper.make_node("MatMul", [f"a{i}", f"d{i}"], [f"m{i}"], name=f"product{i}"),
            helper.make_node("QuantizeLinear", [f"m{i}", "s", "z"], [f"q{i}"], name=f"round{i}"),
        ]
        last = f"q{i}"
    nodes.append(helper.make_node("DequantizeLinear", [last, "half", "z"], ["y"]))
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [64, WIDTH]) for name in "xy"]
    initializers = [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "g", info[:1], info[1:], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def _changed(name: str, value: np.ndarray, plant: str) -> np.ndarray:
    """An initializer of _tied as a compiler reads it that is wrong in one way."""
    if (plant, name) == ("scale", "ws2"):
        return value * np.float32(1.01)
    if (plant, name) == ("roundings", "ws2"):
        return value * np.float32(1 + 4 * EPSILON)
    if (plant, name) == ("column", "w2"):
        return value[:, [1, 0, *range(2, WIDTH)]]
    if (plant, name) == ("zero point", "wz2"):
        return np.where(np.arange(WIDTH) == 7, 1, value).astype("int8")
    if (plant, name) == ("saturation", "w2"):
        return np.clip(value, -8, 8)
    return value


@pytest.fixture
def planted(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    from maas_rt.compiler.importers.onnx._graph import Graph

    plant = str(request.param)
    original = Graph.tensor

    def wrong(self: Any, tensor: onnx.TensorProto, where: str) -> Any:
        value = onnx.numpy_helper.to_array(tensor)
        return original(self, onnx.numpy_helper.from_array(_changed(tensor.name, value, plant), tensor.name), where)

    monkeypatch.setattr(Graph, "tensor", wrong)
    return plant


@pytest.mark.parametrize("planted", ["scale", "column", "zero point", "saturation"], indirect=True)
def test_where_all_inputs_are_near_ties_quantized_tensors_are_compared_by_themselves(planted: str) -> None:
    with pytest.raises(VerificationError, match="the first difference is at operator (product2|weight2)") as caught:
        compile(_tied())
    assert caught.value.operator in ("product2 (MatMul)", "weight2 (DequantizeLinear)")


@pytest.mark.parametrize("planted", ["", "roundings"], indirect=True)
def test_ties_of_such_a_model_may_be_rounded_the_other_way(planted: str) -> None:
    verified = compile(_tied()).manifest["verified"]
    assert verified.get("ill_conditioned_outputs") == (["y"] if planted else None)


class Fixed(torch.nn.Module):
    """As torch's own export writes quantized layers, the second with weights of another scale."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weights = torch.nn.ParameterList(
            torch.nn.Parameter(
                torch.randint(-60, 60, (48, 48), generator=generator, dtype=torch.int8), requires_grad=False
            )
            for _ in range(3)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for weight, scale in zip(self.weights, (2**-8, 2**-7, 2**-8)):
            bounds = (2**-5, 0, -128, 127, torch.int8)
            q = pt2e.quantize_per_tensor(x, *bounds)
            w = pt2e.dequantize_per_tensor(weight, scale, *bounds[1:])
            x = torch.relu(pt2e.dequantize_per_tensor(q, *bounds) @ w)
        return pt2e.dequantize_per_tensor(pt2e.quantize_per_tensor(x, *bounds), *bounds)


@pytest.mark.parametrize(("off", "passes"), [(4 * EPSILON, True), (0.01, False)])
def test_quantized_torch_models_are_compared_the_same_way(
    off: float, passes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from maas_rt.compiler.importers.torch.ops import quantize

    original = quantize._dequantized

    def wrong(c: Any, q: Any, scale: Any, *rest: Any) -> Any:
        return original(c, q, scale * (1 + off) if scale == 2**-7 else scale, *rest)

    monkeypatch.setattr(quantize, "_dequantized", wrong)
    x = torch.randn(64, 48, generator=torch.Generator().manual_seed(1))
    if passes:
        assert compile(Fixed(), (x,)).manifest["verified"]["status"] == "passed"
        return
    with pytest.raises(VerificationError) as caught:
        compile(Fixed(), (x,))
    assert caught.value.operator.startswith(("dequantize_per_tensor_1 ", "dequantize_per_tensor_2 ", "matmul_1 "))


class _Rounds(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> Any:
        return torch.fake_quantize_per_tensor_affine(x, 1.0, 0, 0, 127)


@pytest.mark.parametrize("side", [-1, 1])
def test_a_tie_on_either_side_moves_the_output(side: int) -> None:
    """Whatever is drawn: a sum that is added up in another order may fall on the other side of it."""
    x = np.array([[np.nextafter(np.float32(22.5), np.float32(22.5 + side)), 3.0]], np.float32)
    source = import_model(_Rounds(), (torch.from_numpy(x),)).source
    inputs = {"x": x}
    for seed in range(12):
        moved = movements(source, inputs, source.run(inputs), VerifyOptions(seed=seed))
        assert all(each > 0.01 for each in moved.values()), seed
