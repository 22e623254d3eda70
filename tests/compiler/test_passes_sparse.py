"""Which products become sparse ones: those with so many zeros that the estimate is lower, in blocks where the zeros stand so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from maas_rt.compiler.importers import import_model
from maas_rt.compiler.passes.choose_sparse import Zeros

import maas_rt
from maas_rt import compiler
from tests.compiler._interpret import run_lowered
from tests.compiler._lowering import kernels, lower
from tests.compiler.test_tune import script


def linear(n: int, k: int, density: float, block: int = 1) -> torch.nn.Linear:
    """Of weights [n, k]: `block` outputs next to each other have a weight for an input, or none has."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(k, n).eval()
    keep = (torch.rand(-(-n // block), k) < density).repeat_interleave(block, 0)[:n]
    layer.weight.data *= keep
    return layer


def calls(module: torch.nn.Module, *shape: int) -> list[tuple[str, object]]:
    found = kernels(lower(import_model(module, (torch.randn(*shape),)).mod))
    return [(call.contract, call.attrs.get("block")) for call in found]


@pytest.mark.parametrize(
    ("density", "block", "rows", "wanted"),
    [
        (0.1, 1, 128, [1]),
        (0.2, 1, 32, [1]),
        (0.2, 4, 32, [4]),
        (0.5, 4, 128, [4]),
        (0.5, 1, 128, None),
        (1.0, 1, 128, None),
        (0.1, 1, 1, None),  # one row is little work to the dense kernel, which reads the weights anyway
        (0.1, 4, 1, [4]),  # blocks are vectors to it, however
        (0.0, 1, 64, [4]),
    ],
)
def test_the_estimate_chooses(density: float, block: int, rows: int, wanted: list[int] | None) -> None:
    contract = "gemm_f32_sparse" if wanted else "gemm_f32"
    assert calls(linear(256, 512, density, block), rows, 512) == [(contract, wanted)]


def test_of_a_file_for_several_machines_each_is_asked() -> None:
    weight = linear(256, 512, 0.1).weight.detach().numpy()
    zeros = Zeros.of(weight, True)
    assert zeros.quickest(128) == zeros.quickest(128, machines=["x86_64"]) == 1
    assert zeros.quickest(128, machines=["aarch64"]) is None  # on which nothing was measured
    assert zeros.quickest(128, machines=["aarch64", "x86_64"]) is None


def test_what_is_lowered_computes_the_same_with_its_epilogue() -> None:
    class Block(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = linear(300, 257, 0.1), linear(257, 300, 0.15, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.b(torch.nn.functional.gelu(self.a(x)))

    module, x = Block().eval(), torch.randn(2, 33, 257)
    lowered = lower(import_model(module, (x,)).mod)
    found = kernels(lowered)
    assert [(call.contract, call.attrs["block"], len(call.args)) for call in found] == [
        ("gemm_f32_sparse", [1], 3),
        ("gemm_f32_sparse", [4], 4),
    ]
    np.testing.assert_allclose(run_lowered(lowered, [x.numpy()])[0], module(x).detach().numpy(), rtol=1e-4, atol=1e-5)


def test_a_convolution_of_one_pixel_is_such_a_product() -> None:
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(128, 192, 1).eval()
    conv.weight.data *= torch.rand(192, 128, 1, 1) < 0.1
    found = kernels(lower(import_model(conv, (torch.randn(1, 128, 14, 14),)).mod))
    assert [call.contract for call in found if "gemm" in call.contract or "conv" in call.contract] == [
        "gemm_f32_sparse"
    ]


def convolution(c: int, o: int, density: float, block: int = 1, **options: Any) -> torch.nn.Conv2d:
    """Of `block` outputs next to each other all have a weight at a tap of a channel, or none has."""
    torch.manual_seed(0)
    layer = torch.nn.Conv2d(c, o, 3, padding=1, **options).eval()
    keep = torch.rand(o // block, *layer.weight.shape[1:]) < density
    layer.weight.data *= keep.repeat_interleave(block, 0)
    return layer


@pytest.mark.parametrize(
    ("layer", "pixels", "wanted"),
    [
        (convolution(128, 128, 0.1, 4), 14, "conv2d_f32_sparse"),
        (convolution(128, 128, 0.05), 14, "conv2d_f32_sparse"),
        (convolution(128, 128, 0.3), 14, "conv2d_winograd_f32"),
        (convolution(128, 128, 0.2, 4, stride=2), 14, "conv2d_f32_sparse"),
        (convolution(128, 128, 0.2, 4, stride=2, groups=2), 14, "conv2d_f32"),
        (convolution(3, 64, 0.05, stride=2), 28, "conv2d_f32"),  # gathered by the pixel, three channels are too few
    ],
)
def test_convolutions_with_zeros(layer: torch.nn.Conv2d, pixels: int, wanted: str) -> None:
    """Against the direct kernel, or Winograd's where it can be."""
    x = torch.randn(1, layer.in_channels, pixels, pixels)
    lowered = lower(import_model(layer, (x,)).mod)
    assert [call.contract for call in kernels(lowered) if "conv" in call.contract] == [wanted]
    np.testing.assert_allclose(run_lowered(lowered, [x.numpy()])[0], layer(x).detach().numpy(), rtol=1e-4, atol=1e-4)


def test_a_sparse_convolution_runs_from_its_file_with_what_follows_it() -> None:
    class Block(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = convolution(64, 128, 0.05, 4, stride=2), convolution(128, 128, 0.05)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = torch.relu(self.a(x))
            return torch.relu(y + self.b(y))

    module, x = Block().eval(), torch.randn(2, 64, 15, 17)
    artifact = compiler.compile(module, example_inputs=(x,), target="x86-64")
    found = [step.target for block in artifact.linear.plan.blocks for step in block.steps if "conv" in step.target]
    assert found == ["conv2d_f32_sparse"] * 2
    assert {row["sparse"] for row in artifact.manifest["weights"] if "sparse" in row} == {"1x1", "4x1"}
    model = maas_rt.load(artifact.to_bytes())
    (got,) = dict(model.run({model.inputs[0].name: x.numpy()})).values()
    np.testing.assert_allclose(got, module(x).detach().numpy(), rtol=1e-4, atol=1e-4)


def test_of_a_batch_that_only_a_run_knows_one_row_is_taken() -> None:
    layer, x = linear(256, 512, 0.2), torch.randn(2, 512)
    batch = torch.export.Dim("batch", min=1, max=512)
    program = torch.export.export(layer, (x,), dynamic_shapes=({0: batch},))
    assert [call.contract for call in kernels(lower(import_model(program).mod))] == ["gemm_f32"]


def test_the_file_is_smaller_and_runs_without_a_recipe(tmp_path: Path) -> None:
    layer, x = linear(512, 512, 0.1), torch.randn(64, 512)
    artifact = compiler.compile(layer, example_inputs=(x,), target="x86-64")
    dense = compiler.compile(linear(512, 512, 1.0), example_inputs=(x,), target="x86-64")
    assert len(artifact.to_bytes()) < 0.35 * len(dense.to_bytes())
    model = maas_rt.load(artifact.to_bytes())
    (name,) = [info.name for info in model.inputs]
    (got,) = dict(model.run({name: x.numpy()})).values()
    np.testing.assert_allclose(got, layer(x).detach().numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("transposed", [False, True])
def test_entries_are_counted_by_columns(transposed: bool) -> None:
    w = np.zeros((3, 6), np.float32)
    w[0, 0], w[0, 3], w[1, 5], w[2, 4] = 1, 1, -1, -0.0
    assert Zeros.of(w.T if transposed else w, transposed) == Zeros(3, 6, {1: 3, 4: 2})
    b = np.zeros((9, 6), np.int8)
    b[0, 0], b[3, 3], b[4, 3], b[8, 5] = 1, 1, -1, 1
    assert Zeros.of(b.T if transposed else b, transposed) == Zeros(9, 6, {16: 3})


def test_tuning_tries_them_where_zeros_are_many(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    scripted = script(monkeypatch, "block=1")
    model, x = torch.nn.Sequential(linear(96, 64, 0.2), torch.nn.ReLU(), linear(64, 96, 1.0)).eval(), torch.randn(2, 64)
    artifact = compiler.compile(model, example_inputs=(x,), tune=compiler.Tune(cache=str(tmp_path)))
    wanted = {"gemm_f32", "gemm_f32_sparse block=1", "gemm_f32_sparse block=4"}
    assert [wanted <= set(labels) for _, labels in scripted.asked].count(True) == 1
    found = [step.target for block in artifact.linear.plan.blocks for step in block.steps if "gemm" in step.target]
    assert found == ["gemm_f32_sparse", "gemm_f32"]


@pytest.mark.parametrize(
    ("density", "rows", "wanted"),
    [(0.2, 64, "gemm_u8s8_sparse"), (0.1, 8, "gemm_u8s8_sparse"), (0.2, 1, "gemm_u8s8"), (1.0, 64, "gemm_u8s8")],
)
def test_products_of_bytes_with_blocks_of_zeros(density: float, rows: int, wanted: str) -> None:
    """A quantized layer keeps its zeros."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(512, 256).eval()
    keep = torch.rand(64, 128) < density
    layer.weight.data *= keep.repeat_interleave(4, 0).repeat_interleave(4, 1)
    x = torch.randn(rows, 512)
    recipe = compiler.Recipe(quantize=compiler.Int8(), calibration=[{"input": x.numpy()}])
    artifact = compiler.compile(layer, example_inputs=(x,), target="x86-64", recipe=recipe)
    found = [step.target for block in artifact.linear.plan.blocks for step in block.steps if "gemm" in step.target]
    assert found == [wanted]
    (name,) = [info.name for info in maas_rt.load(artifact.to_bytes()).inputs]
    (got,) = dict(maas_rt.load(artifact.to_bytes()).run({name: x.numpy()})).values()
    want = layer(x).detach().numpy()
    assert np.abs(got - want).max() < 0.05 * np.abs(want).max()
