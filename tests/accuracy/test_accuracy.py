"""Every elementary function within 4 units in the last place over the whole range of its dtype; compositions no worse than torch's own.

The fast part of `make ulp`, which sweeps densely and writes docs/accuracy.md."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import maas_rt
from maas_rt import compiler
from tests.accuracy._functions import FUNCTIONS
from tests.accuracy._measure import Worst, sweep, sweep_float64

# At half precision everything is computed in float32 and rounded once: a few stand for all.
HALVES = ["tanh", "expm1", "erfc", "sigmoid", "lgamma", "elu", "gelu", "mish"]


def _hold(worst: dict[str, tuple[Worst, Worst]]) -> None:
    for name, (ours, theirs) in worst.items():
        bound = 4.0 if FUNCTIONS[name].elementary else max(4.0, theirs.error)
        assert ours.error <= bound, f"{name}({ours.at!r}) is off by {ours.error:.3g} units, torch by {theirs.error:.3g}"


def test_float32() -> None:
    _hold(sweep(FUNCTIONS, "float32", stride=65521, chunk=1 << 16))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_types(dtype: str) -> None:
    _hold(sweep(HALVES, dtype))


def test_float64_by_exponent() -> None:
    _hold(sweep_float64(FUNCTIONS, 300))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_signs_of_zero_infinities_and_nan(dtype: torch.dtype) -> None:
    names = [
        "asinh",
        "atan",
        "atanh",
        "elu",
        "erf",
        "erfinv",
        "expm1",
        "log1p",
        "selu",
        "sin",
        "sinh",
        "sqrt",
        "tan",
        "tanh",
    ]

    class Each(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            odd = [FUNCTIONS[name].apply(x) for name in names]
            # TVM takes these for 0, x, 0 and x, whatever x is.
            zeros = [x * 0.0, x + 0.0, 0.0 / x, x - -0.0]
            return (*odd, *zeros, torch.fmod(x, 0.3), torch.remainder(x, 0.3), torch.hypot(x, x), torch.pow(x, 0.5))

    tiny = torch.finfo(dtype).tiny
    x = torch.tensor(
        [0.0, -0.0, math.inf, -math.inf, math.nan, tiny, -tiny, tiny / 4, -tiny / 4, 3.0, -3.0, 1e5], dtype=dtype
    )
    model = maas_rt.load(compiler.compile(Each(), [x], verify=False))
    for got, want in zip(model.run({model.inputs[0].name: x.numpy()}).values(), Each()(x)):
        np.testing.assert_allclose(got, want.numpy(), rtol=4 * torch.finfo(dtype).eps, atol=0)
        known = ~np.isnan(got)
        np.testing.assert_array_equal(np.signbit(got[known]), torch.signbit(want).numpy()[known])


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_elu_keeps_the_sign_of_zero(dtype: torch.dtype) -> None:
    class Each(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return F.elu(x), F.elu(x, 0.5), F.selu(x), F.celu(x, 2.0)

    x = torch.tensor([0.0, -0.0, 1e-3, -1e-3, math.inf, -math.inf, 6e4, -6e4], dtype=dtype)
    model = maas_rt.load(compiler.compile(Each(), [x], verify=False))
    for got, want in zip(model.run({model.inputs[0].name: x.numpy()}).values(), Each()(x)):
        np.testing.assert_allclose(got, want.numpy(), rtol=4 * torch.finfo(dtype).eps, atol=0)
        np.testing.assert_array_equal(np.signbit(got), torch.signbit(want).numpy())


def test_float64_to_float16_is_rounded_once() -> None:
    class Half(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x * 2.0).to(torch.float16)

    half = np.random.default_rng(0).uniform(-2, 2, 300).astype(np.float16).astype(np.float64)
    ties = half * (1 + 2.0**-11)  # between two float16, and next to that: rounded over float32 they would be ties
    x = np.concatenate([ties, ties + 1e-14, [math.inf, math.nan, 1e300, 32759.9999, 32760.0, 1.49e-8, 1e-9]]) / 2
    got = maas_rt.load(compiler.compile(Half(), [torch.from_numpy(x)], verify=False))(x)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(got, (x * 2).astype(np.float16))
