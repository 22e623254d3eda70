"""Weights of which N of M neighbours are left: how they are stored, from recipes and importers, and what of that is told."""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import maas_rt.compiler as c
import numpy as np
import onnx
import pytest
import torch
from maas_rt.compiler._recipes import Quantize
from maas_rt.compiler.compression._rounding import adaround
from maas_rt.compiler.ir import SparseNM
from onnx import TensorProto, helper
from safetensors.torch import save_file
from torch import nn

import maas_rt
from maas_rt._cli import main
from maas_rt._plan import ArgKind, Encoding, StepKind
from tests.compiler.test_import_onnx import node

RNG = np.random.default_rng(0)


def pruned(weight: np.ndarray, n: int, m: int, axis: int = -1) -> np.ndarray:
    """All but the n largest of each m neighbours are zero."""
    moved = np.moveaxis(weight, axis, -1)
    groups = moved.reshape(-1, m).copy()
    np.put_along_axis(groups, np.argsort(np.abs(groups), 1)[:, : m - n], 0, 1)
    return np.ascontiguousarray(np.moveaxis(groups.reshape(moved.shape), -1, axis))


def sparse_net(n: int = 2, m: int = 4, convolution: bool = False) -> nn.Module:
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Linear(128, 192), nn.ReLU(), nn.Linear(192, 64)]
    if convolution:
        layers = [nn.Conv2d(16, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3, stride=2), nn.ReLU()]
    net = nn.Sequential(*layers).eval()
    with torch.no_grad():
        for layer in net:
            if isinstance(layer, nn.Linear | nn.Conv2d):
                layer.weight.copy_(torch.from_numpy(pruned(layer.weight.numpy(), n, m, axis=1)))
    return net


def example(convolution: bool = False) -> torch.Tensor:
    return torch.randn(2, 16, 12, 12) if convolution else torch.randn(3, 128)


def sparsities(artifact: c.Artifact) -> list[Any]:
    return [row.get("sparse") for row in artifact.manifest["weights"]]


# ---- the form ----


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int8])
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(("n", "m"), [(1, 2), (2, 3), (2, 4), (1, 4), (4, 8), (3, 12), (7, 16)])
def test_what_is_taken_apart_is_put_together_again(n: int, m: int, axis: int, dtype: Any) -> None:
    dense = pruned(RNG.integers(1, 100, (48, 48, 48)), n, m, axis).astype(dtype)
    found = SparseNM.of(dense, 1.0)
    assert found is not None and (found.n, found.m, found.axis) == (n, m, axis)
    np.testing.assert_array_equal(found.dense(), dense)
    assert (np.diff(found.indices.astype(int), axis=-1) > 0).all() and found.indices.max() < m
    bits = 2 if m <= 4 else 4
    assert found.nbytes == found.values.nbytes + found.values.size * bits // 8
    assert len(found.packed_indices()) == found.nbytes - found.values.nbytes


def test_indices_are_packed_from_the_lowest_bits_on() -> None:
    dense = np.array([[0, 5, 0, 7], [1, 2, 0, 0], [0, 0, 3, 4]], np.float32)
    found = SparseNM.of(dense, 1.0)
    assert found is not None and found.indices.tolist() == [[[1, 3]], [[0, 1]], [[2, 3]]]
    assert found.packed_indices() == bytes([0b01001101, 0b00001110])
    assert found.values.reshape(-1).tolist() == [5, 7, 1, 2, 3, 4]


def test_groups_with_more_zeros_keep_their_first_ones() -> None:
    dense = np.array([[0, 0, 0, 0], [0, 0, 0, 9], [0, 0, 7, 9]], np.float32)
    found = SparseNM.of(np.tile(dense, (1, 8)), 1.0)
    assert found is not None and (found.n, found.m) == (2, 4)
    assert found.indices[:, 0].tolist() == [[0, 1], [0, 3], [2, 3]]
    np.testing.assert_array_equal(found.dense(), np.tile(dense, (1, 8)))


@pytest.mark.parametrize("dense", [np.ones((8, 8), np.float32), np.zeros((8, 8), np.float32), np.zeros((0, 4), np.float32), np.eye(8), np.arange(7, dtype=np.float32)])  # fmt: skip
def test_what_gains_nothing_stays_dense(dense: np.ndarray) -> None:
    assert SparseNM.of(dense, 0.8) is None


# ---- files ----


@pytest.mark.parametrize("convolution", [False, True])
@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (4, 8), (2, 16)])
def test_a_file_holds_what_is_left_and_its_places(n: int, m: int, convolution: bool) -> None:
    net, x = sparse_net(n, m, convolution), example(convolution)
    artifact = c.compile(net, example_inputs=(x,))  # which is verified
    assert sparsities(artifact) == [f"{n}:{m}"]
    size = sum(w.numel() * 4 for w in net.parameters() if w.ndim > 1)
    bits = 2 if m <= 4 else 4
    (row,) = artifact.manifest["weights"]
    assert row["bytes"] == size * n / m * (1 + bits / 32)
    assert artifact.linear.weights.size < row["bytes"] + 4096
    plan = artifact.linear.plan
    sparse = [value for value in plan.values if value.encoding == Encoding.N_M]
    assert len(sparse) == 2 and {plan.values[value.base].dtype_bits for value in sparse} == {bits}


def test_the_kernel_is_still_chosen_by_time() -> None:
    """One weight of 16 is left: few enough for the kernel that does not multiply by zeros, whose own packing is hardly larger."""
    torch.manual_seed(0)
    net = nn.Linear(768, 768, bias=False).eval()
    with torch.no_grad():
        net.weight.copy_(torch.from_numpy(pruned(net.weight.numpy(), 1, 16)))
    artifact = c.compile(net, example_inputs=(torch.randn(128, 768),))
    (step,) = (s for s in artifact.linear.plan.blocks[0].steps if s.kind == StepKind.KERNEL)
    assert step.target == "gemm_f32_sparse" and sparsities(artifact) == ["1x1"]


METHODS: dict[str, tuple[Quantize, float]] = {
    "int8": (c.Int8(float_share=0), 1),
    "int8 by gptq": (c.Int8(rounding="gptq", float_share=0), 1),
    "int8 by adaround": (c.Int8(rounding="adaround", float_share=0), 1),
    "dynamic": (c.Int8Dynamic(), 1),
    "weights of 8 bits": (c.WeightOnly(bits=8, group=None), 1),
    "weights of 8 bits in groups, by gptq": (c.WeightOnly(bits=8, group=32, method="gptq"), 1),
    "half": (c.Half(), 2),
}


@pytest.mark.parametrize("name", METHODS)
def test_quantized_weights_keep_their_pattern(name: str) -> None:
    method, size = METHODS[name]
    data = [torch.randn(3, 128, generator=torch.Generator().manual_seed(i)).numpy() for i in range(16)]
    recipe = c.Recipe(quantize=method, calibration=data)
    artifact = c.compile(sparse_net(), example_inputs=(example(),), recipe=recipe)
    (row,) = artifact.manifest["weights"]
    assert (row["sparse"], row["tensors"], row["bits"]) == ("2:4", 2, 8 * size)
    assert row["bytes"] == 192 * (128 + 64) * (size / 2 + 1 / 8)


def test_a_recipe_prunes_and_quantizes() -> None:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 64)).eval()
    data = torch.randn(64, 64).numpy()
    prune = c.Prune(0.5, "2:4", "magnitude")
    recipe = c.Recipe(prune=prune, quantize=c.Int8(tolerance=1.0), calibration=data, prune_layers={"*": prune})
    artifact = c.compile(net, example_inputs=(torch.randn(1, 64),), recipe=recipe)
    assert sparsities(artifact) == ["2:4"] and artifact.manifest["weights"][0]["tensors"] == 3


def test_weights_of_two_products_are_stored_and_widened_once() -> None:
    net = nn.Linear(128, 128, bias=False).eval()
    with torch.no_grad():
        net.weight.copy_(torch.from_numpy(pruned(net.weight.numpy(), 2, 4)))
    twice = nn.Sequential(net, nn.Tanh(), net)
    artifact = c.compile(twice.eval(), example_inputs=(torch.randn(2, 128),))
    (row,) = artifact.manifest["weights"]
    assert row["tensors"] == 1 and sum(v.encoding == Encoding.N_M for v in artifact.linear.plan.values) == 1


def test_a_table_that_is_a_products_weight_too() -> None:
    """`gather_f32q` reads the packing of `gemm_f32q`: one of both."""

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(256, 128)
            with torch.no_grad():
                self.table.weight.copy_(torch.from_numpy(pruned(self.table.weight.numpy(), 2, 4)))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.tanh(self.table(x)) @ self.table.weight.T

    x = torch.arange(12).reshape(2, 6)
    recipe = c.Recipe(quantize=c.WeightOnly(bits=8, group=32))
    artifact = c.compile(Tied().eval(), example_inputs=(x,), recipe=recipe)
    steps = {s.target: s for s in artifact.linear.plan.blocks[0].steps if s.target.endswith("_f32q")}
    assert steps.keys() == {"gather_f32q", "gemm_f32q"} and sparsities(artifact) == ["2:4"]
    read = [[a.index for a in step.args if a.kind == ArgKind.VALUE] for step in steps.values()]
    assert len([v for v in set(read[0]) & set(read[1]) if artifact.linear.plan.values[v].encoding == Encoding.N_M]) == 1


def test_recurrent_weights() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(64, 64)
            with torch.no_grad():
                for each in (self.lstm.weight_ih_l0, self.lstm.weight_hh_l0):
                    each.copy_(torch.from_numpy(pruned(each.numpy(), 1, 4)))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.lstm(x)[0]

    artifact = c.compile(Net().eval(), example_inputs=(torch.randn(5, 2, 64),))
    assert sparsities(artifact) == ["1:4"] and artifact.manifest["weights"][0]["tensors"] == 2


def test_an_onnx_file_with_integers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """QDQ with int8 weights of which 2 of 4 are zero; `inspect` says it."""
    weight = pruned(RNG.integers(-100, 101, (128, 96)), 2, 4, axis=0).astype(np.int8)
    tensors = [onnx.numpy_helper.from_array(a, k) for k, a in {"q": weight, "s": np.float32(0.02)}.items()]
    nodes = [node("DequantizeLinear", "q s", "w"), node("MatMul", "x w", "y")]
    x, y = (helper.make_tensor_value_info(k, TensorProto.FLOAT, [4, n]) for k, n in (("x", 128), ("y", 96)))
    graph = helper.make_graph(nodes, "net", [x], [y], tensors)
    artifact = c.compile(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10))
    artifact.save(tmp_path / "net.mrt")
    assert main(["inspect", str(tmp_path / "net.mrt")]) == 0
    assert "1 × int8, sparse (2:4) (7.5 KiB)" in capsys.readouterr().out


def projection() -> nn.Module:
    return nn.Sequential(OrderedDict(proj=nn.Linear(128, 96)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.int8])
def test_a_checkpoint_with_bit_masks(tmp_path: Path, dtype: torch.dtype) -> None:
    """compressed-tensors' sparse-24-bitmask: what it holds in 2:4, the file does."""
    weight = torch.from_numpy(pruned(RNG.integers(-100, 101, (96, 128)), 2, 4)).to(dtype)
    mask = torch.from_numpy(SparseNM.of(weight.numpy(), 1.0).indices).long()  # type: ignore[union-attr]
    mask = torch.zeros(96, 32, 4, dtype=torch.bool).scatter_(-1, mask, True).reshape(96, 128)
    bits = torch.from_numpy(np.packbits(mask.numpy(), axis=-1, bitorder="little"))
    tensors = {"proj.compressed": weight[mask].reshape(96, 64), "proj.bitmask": bits, "proj.bias": torch.ones(96)}
    tensors["proj.shape"] = torch.tensor([96, 128]).reshape(-1, 1)
    tensors |= {"proj.weight_scale": torch.rand(96, 1) / 100} if dtype == torch.int8 else {}
    save_file(tensors, tmp_path / "model.safetensors")
    config = {"quant_method": "compressed-tensors", "sparsity_config": {"format": "sparse-24-bitmask"}}
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": config}))
    artifact = c.compile(tmp_path, (torch.randn(2, 128),), factory=f"{__name__}:projection")
    (row,) = artifact.manifest["weights"]
    assert (row["sparse"], row["bits"]) == ("2:4", 8 if dtype == torch.int8 else 32)
    assert row["bytes"] == 96 * 128 * (row["bits"] / 16 + 1 / 8)


def test_the_same_model_gives_the_same_bytes() -> None:
    files = [c.compile(sparse_net(), example_inputs=(torch.ones(1, 128),)).to_bytes() for _ in range(2)]
    assert files[0] == files[1]
    run = maas_rt.load(files[0])
    x = RNG.standard_normal((1, 128)).astype(np.float32)
    with torch.no_grad():
        expected = sparse_net()(torch.from_numpy(x)).numpy()
    (found,) = run.run({run.inputs[0].name: x}).values()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_weights_that_are_zero_are_not_rounded_up() -> None:
    """AdaRound may take either integer beside a number, and 0 is one."""
    weights = pruned(RNG.standard_normal((16, 64)).astype(np.float32), 2, 4)
    x = RNG.standard_normal((64, 256)) + 2  # whose columns go together, so that rounding up pays
    q = adaround(weights, x @ x.T, np.abs(weights).max(1, keepdims=True) / 127)
    assert not q[weights == 0].any() and (q != np.round(weights / (np.abs(weights).max(1, keepdims=True) / 127))).any()
