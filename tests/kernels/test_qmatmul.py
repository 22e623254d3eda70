"""Products of two uint8 operands: the reference against numpy's integers, every ISA against the reference, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from maas_rt import Error, _kernels
from tests.kernels._checks import SEEDS
from tests.kernels._support import isas_of
from tests.kernels.test_qgemm import folded

# Around the tile (6 x 16), pairs of the depth, a block of 48 rows.
SIZES = st.one_of(st.integers(0, 20), st.sampled_from([31, 32, 33, 47, 48, 49, 97]))
quick = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


def check(a: NDArray[np.uint8], b: NDArray[np.uint8], attrs: dict[str, Any], threads: int = 1) -> None:
    """float32, uint8 and int8 of every ISA and the reference."""
    acc = np.matmul(a.astype(np.int64) - attrs["a_zero"], b.astype(np.int64) - attrs["b_zero"])
    scale = np.float32(attrs["scale"])
    for dtype, zero in ((np.float32, 0), (np.uint8, 9), (np.int8, -3)):
        given_attrs = dict(attrs)
        want = acc.astype(np.float32) * scale
        if dtype is not np.float32:
            given_attrs |= {"y_scale": 0.37, "y_zero": zero}
            want = folded(acc, scale, None, given_attrs, dtype)
        for isa in ["reference", *isas_of("matmul_u8")]:
            (got,) = _kernels.run("matmul_u8", [a, b], [(want.shape, dtype)], given_attrs, isa=isa, threads=threads)
            np.testing.assert_array_equal(got, want, err_msg=f"{isa} {dtype.__name__}")


@quick
@given(
    m=SIZES,
    n=SIZES,
    k=SIZES,
    zeros=st.tuples(st.integers(0, 255), st.integers(0, 255)),
    worst=st.booleans(),
    seed=SEEDS,
)
def test_one_product(m: int, n: int, k: int, zeros: tuple[int, int], worst: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = (rng.integers(255 if worst else 0, 256, shape).astype(np.uint8) for shape in ((m, k), (k, n)))
    check(a, b, {"a_zero": zeros[0], "b_zero": zeros[1], "scale": 0.01})


@pytest.mark.parametrize(("left", "right"), [((3,), (3,)), ((2, 3), (1, 3)), ((), (4,)), ((5,), ()), ((12,), (12,))])
@pytest.mark.parametrize("threads", [1, 2])
def test_batches(left: tuple[int, ...], right: tuple[int, ...], threads: int) -> None:
    rng = np.random.default_rng(3)
    a = rng.integers(0, 256, (*left, 101, 33)).astype(np.uint8)
    b = rng.integers(0, 256, (*right, 33, 50)).astype(np.uint8)
    check(a, b, {"a_zero": 7, "b_zero": 131, "scale": 0.002}, threads)


@pytest.mark.parametrize("zero", [0, 255])
@pytest.mark.parametrize("m", [2, 6])
@pytest.mark.parametrize("k", [32767, 32768, 32769, 70001])
def test_the_deepest_sums_are_exact(k: int, m: int, zero: int) -> None:
    """All at the largest difference: the last of them does not fit in 32 bits."""
    a, b = np.full((m, k), 255 - zero, np.uint8), np.full((k, 3), 255 - zero, np.uint8)
    check(a, b, {"a_zero": zero, "b_zero": zero, "scale": 1e-9})
    check(a, 255 - b, {"a_zero": zero, "b_zero": 255 - zero, "scale": 1e-9})


@pytest.mark.parametrize(
    ("a", "b", "shape", "attrs", "message"),
    [
        ((2, 3), (4, 5), (2, 5), {}, "extent"),
        ((2, 3), (3, 5), (2, 4), {}, "extent"),
        ((3,), (3, 5), (5,), {}, "at least two"),
        ((2, 2, 3), (3, 3, 5), (2, 2, 5), {}, "broadcast"),
        ((2, 3), (3, 5), (2, 5), {"a_zero": 256}, "a_zero"),
        ((2, 3), (3, 5), (2, 5), {"y_scale": 0.0}, "y_scale"),
    ],
)
def test_what_does_not_fit_is_refused(a: Any, b: Any, shape: Any, attrs: dict[str, Any], message: str) -> None:
    with pytest.raises(Error, match=message):
        _kernels.run("matmul_u8", [np.ones(a, np.uint8), np.ones(b, np.uint8)], [shape], attrs)
