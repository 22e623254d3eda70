"""Which convolutions become Winograd's: those whose estimate is lower, and none whose result would not be the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from maas_rt.compiler.importers import import_model

from tests.compiler._interpret import run_lowered
from tests.compiler._lowering import kernels, lower


def _convolution(channels: int, out: int, size: int, **options: int) -> tuple[torch.nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    options = {"kernel_size": 3, "padding": 1, **options}
    return torch.nn.Conv2d(channels, out, **options).eval(), torch.randn(1, channels, size, size)


def _calls(module: torch.nn.Module, x: torch.Tensor) -> list[tuple[str, object]]:
    calls = kernels(lower(import_model(module, (x,)).mod))
    return [(call.contract, call.attrs.get("tile")) for call in calls if "conv" in call.contract]


@pytest.mark.parametrize(
    ("channels", "out", "size", "tile"),
    [
        (64, 64, 56, [4]),
        (256, 256, 14, [4]),
        (512, 512, 7, [2]),  # four tiles of 4 x 4: not worth reading four times the weights
        (256, 256, 4, None),
        (3, 64, 224, None),  # the transforms would cost more than the products
    ],
)
def test_the_estimate_chooses(channels: int, out: int, size: int, tile: list[int] | None) -> None:
    contract = "conv2d_winograd_f32" if tile else "conv2d_f32"
    assert _calls(*_convolution(channels, out, size)) == [(contract, tile)]


@pytest.mark.parametrize("options", [{"stride": 2}, {"dilation": 2}, {"groups": 2}, {"kernel_size": 5}])
def test_other_convolutions_stay(options: dict[str, int]) -> None:
    assert _calls(*_convolution(64, 64, 56, **options)) == [("conv2d_f32", None)]


def test_a_filter_that_is_not_finite_stays() -> None:
    module, x = _convolution(64, 64, 56)
    with torch.no_grad():
        module.weight[0, 0, 1, 1] = torch.inf  # type: ignore[index, operator]
    assert _calls(module, x) == [("conv2d_f32", None)]


def test_what_is_lowered_keeps_its_epilogue() -> None:
    class Block(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = torch.nn.Conv2d(32, 32, 3, padding=1), torch.nn.Conv2d(32, 32, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(x + self.b(torch.relu(self.a(x))))

    torch.manual_seed(0)
    module, x = Block().eval(), torch.randn(1, 32, 40, 40)
    lowered = lower(import_model(module, (x,)).mod)
    calls = [call for call in kernels(lowered) if call.contract == "conv2d_winograd_f32"]
    assert [(call.attrs["act"], len(call.args)) for call in calls] == [("relu", 3), ("relu", 4)]
    got = run_lowered(lowered, [x.numpy()])[0]
    np.testing.assert_allclose(got, module(x).detach().numpy(), rtol=1e-4, atol=1e-5)
