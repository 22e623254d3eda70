"""The vector math functions, one by one, through an epilogue of a 1 x 1 matrix product: act(x * 1).

Bounds are in units of the last place of the exact result (measured: within 4 everywhere but in gelu's tails).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from maas_rt import _kernels
from tests.kernels._support import isas_of

Double = NDArray[np.float64]


def of(function: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Double], Double]:
    def exact(x: Double) -> Double:
        y: Double = function(torch.from_numpy(x)).numpy()
        return y

    return exact


def gelu(x: Double) -> Double:
    y: Double = (torch.from_numpy(x) * 0.5 * torch.special.erfc(torch.from_numpy(-x) / 2**0.5)).numpy()
    return y


def gelu_tanh(x: Double) -> Double:
    u = (2 / np.pi) ** 0.5 * (x + 0.044715 * x**3)
    return x / (1 + np.exp(-2 * u))


# name -> exact function, the interval, the bound in units in the last place
FUNCTIONS: dict[str, tuple[Callable[[Double], Double], float, float, float]] = {
    "exp": (np.exp, -104.0, 88.72, 1.5),
    "sigmoid": (of(torch.sigmoid), -87.0, 40.0, 3),
    "tanh": (np.tanh, -12.0, 12.0, 3.5),
    "gelu": (gelu, -1.0, 8.0, 5),
    "gelu_tanh": (gelu_tanh, -1.0, 8.0, 8),
    "silu": (of(torch.nn.functional.silu), -80.0, 40.0, 3),
    "softplus": (lambda x: np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))), -80.0, 40.0, 3),
    "mish": (lambda x: x * np.tanh(np.log1p(np.exp(x))), -60.0, 40.0, 6),
    "elu": (lambda x: np.where(x > 0, x, np.expm1(x)), -20.0, 20.0, 3),
}


def apply(act: str, x: NDArray[np.float32], isa: str) -> NDArray[np.float32]:
    packed = _kernels.pack("gemm_f32", "gemm_f32_nr16_v1", np.ones((1, 1), np.float32), {"n": 1, "k": 1})
    attrs = {"n": 1, "k": 1, "act": act}
    (y,) = _kernels.run("gemm_f32", [x.reshape(-1, 1), packed], [(x.size, 1)], attrs, isa=isa)
    return y.reshape(-1)


def units(got: NDArray[np.float32], want: Double) -> Double:
    last_place = np.ldexp(1.0, np.maximum(np.frexp(want)[1] - 24, -149))
    return np.abs(got.astype(np.float64) - want) / last_place


@pytest.mark.parametrize("isa", isas_of("gemm_f32"))
@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_error_in_units_of_the_last_place(name: str, isa: str) -> None:
    exact, lo, hi, bound = FUNCTIONS[name]
    rng = np.random.default_rng(0)
    small = np.ldexp(rng.uniform(-1, 1, 20000), rng.integers(-120, 1, 20000))
    x = np.concatenate([np.linspace(lo, hi, 60001), small[(small >= lo) & (small <= hi)]]).astype(np.float32)
    error = units(apply(name, x, isa), exact(x.astype(np.float64)))
    worst = int(error.argmax())
    assert error[worst] <= bound, f"{name}({x[worst]!r}) is off by {error[worst]:.2f} units"


@pytest.mark.parametrize("isa", isas_of("gemm_f32"))
def test_gelu_in_its_tail(isa: str) -> None:
    x = np.linspace(-6, -1, 20001).astype(np.float32)
    error = np.abs(apply("gelu", x, isa) - gelu(x.astype(np.float64)))
    assert (error <= 1.5e-7 * np.abs(x)).all()  # of x, as float32 erf would give
    assert (error[x > -4] <= 1e-4 * np.abs(gelu(x.astype(np.float64)))[x > -4]).all()
    assert (apply("gelu", np.float32([-20, -1e4, -3e38]), isa) == 0).all()


@pytest.mark.parametrize("isa", ["reference", *isas_of("gemm_f32")])
@pytest.mark.parametrize(
    ("name", "at_plus_inf", "at_minus_inf"),
    [
        ("exp", np.inf, 0.0),
        ("sigmoid", 1.0, 0.0),
        ("tanh", 1.0, -1.0),
        ("gelu", np.inf, np.nan),
        ("gelu_tanh", np.inf, np.nan),
        ("silu", np.inf, np.nan),
        ("softplus", np.inf, 0.0),
        ("mish", np.inf, np.nan),
        ("elu", np.inf, -1.0),
    ],
)
def test_special_arguments(name: str, at_plus_inf: float, at_minus_inf: float, isa: str) -> None:
    x = np.float32([np.nan, np.inf, -np.inf, 0.0, 1e30, 1e-42, -1e-42])
    with np.errstate(all="ignore"):
        zero = FUNCTIONS[name][0](np.float64([0.0]))[0]
    y = apply(name, x, isa)
    large = 1.0 if at_plus_inf == 1.0 else np.inf if name == "exp" else np.float32(1e30)
    np.testing.assert_array_equal(y[:3], np.float32([np.nan, at_plus_inf, at_minus_inf]))
    np.testing.assert_allclose(y[3:5], [zero, large], rtol=3e-7)
    # Denormal arguments are not taken for zero by odd functions.
    near = FUNCTIONS[name][0](np.float64(np.float32([1e-42, -1e-42])))
    np.testing.assert_allclose(y[5:], near, rtol=3e-7, atol=3e-45)
