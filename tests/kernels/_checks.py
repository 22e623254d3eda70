"""Running one contract on every instruction set, and comparing results that may hold NaN and infinities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from maas_rt import _kernels
from tests.kernels._support import isas_of

Array = NDArray[Any]

EPSILON = float(np.finfo(np.float32).eps)
SEEDS = st.integers(0, 2**32 - 1)
# Around the vectors (4, 8), the panels (16), two of them, and primes.
SIZES = st.one_of(st.integers(0, 18), st.sampled_from([31, 32, 33, 37, 63, 64, 65, 101]))
quick = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


def normal(rng: np.random.Generator, *shape: int, special: bool = False) -> NDArray[np.float32]:
    """Normally distributed numbers, with NaN and infinities among them where special."""
    x = rng.standard_normal(shape).astype(np.float32)
    if special and x.size:
        for value in (np.nan, np.inf, -np.inf):
            if rng.random() < 0.5:
                x.reshape(-1)[rng.integers(x.size)] = value
    return x


def assert_same(got: Array, want: Array, steps: float = 16, what: str = "") -> None:
    """Equal NaN and infinities; finite elements within `steps` epsilons of the output's scale."""
    assert got.shape == want.shape, f"{what}: {got.shape} against {want.shape}"
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want), err_msg=f"{what}: NaN")
    np.testing.assert_array_equal(np.isinf(got), np.isinf(want), err_msg=f"{what}: infinity")
    np.testing.assert_array_equal(got[np.isinf(got)], want[np.isinf(want)], err_msg=f"{what}: sign of infinity")
    finite = np.isfinite(want)
    if not finite.any():
        return
    exact = want[finite].astype(np.float64)
    scale = max(1e-30, float(np.abs(exact).max()))
    error = float(np.abs(got[finite].astype(np.float64) - exact).max()) / scale
    assert error <= steps * EPSILON, f"{what}: off by {error:.3g} of the scale, bound {steps * EPSILON:.3g}"


def check_kernel(
    contract: str,
    inputs: Sequence[Array | bytes | None],
    want: Sequence[Array],
    attrs: dict[str, Any],
    depth: int = 1,
    threads: int = 1,
    reference_steps: float = 8,
) -> None:
    """The reference is `want`, and every instruction set is the reference but for `depth` roundings."""
    shapes = [(w.shape, w.dtype if w.dtype != np.float64 else np.float32) for w in want]
    reference = _kernels.run(contract, inputs, shapes, attrs, isa="reference")
    for i, (got, expected) in enumerate(zip(reference, want, strict=True)):
        assert_same(got, expected, reference_steps, f"{contract} reference, output {i}")
    for isa in isas_of(contract):
        for i, got in enumerate(_kernels.run(contract, inputs, shapes, attrs, isa=isa, threads=threads)):
            assert_same(got, reference[i], 16 * (1 + depth**0.5), f"{contract} {isa}, output {i}")


def check_moved(contract: str, inputs: Sequence[Array], want: Array, attrs: dict[str, Any], threads: int = 1) -> None:
    """Every instruction set and the reference give the bytes of `want`."""
    for isa in ["reference", *isas_of(contract)]:
        (got,) = _kernels.run(contract, inputs, [(want.shape, want.dtype)], attrs, isa=isa, threads=threads)
        assert got.tobytes() == want.tobytes(), f"{contract} {isa}"
