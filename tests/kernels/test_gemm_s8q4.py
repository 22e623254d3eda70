"""gemm_s8q4: its definition in numpy, which the reference and every ISA equal bit for bit; epilogues; what is not finite; refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from maas_rt import Error, _kernels
from tests.kernels._support import activate, epilogues, isas_of, uniform
from tests.kernels.test_gemm_conv import SEEDS, SIZES, attributes, check_all, double, quick
from tests.kernels.test_gemmq import PACKING, weights

Array = NDArray[Any]
DEPTHS = st.one_of(st.integers(0, 70), st.sampled_from([255, 256, 257, 384, 513]))
GROUPS = st.sampled_from([32, 64, 96, 1000])


def rounded(a: Array) -> tuple[Array, Array]:
    """The bytes of rows [m, blocks, 32] and their scales [m, blocks]."""
    m, k = a.shape
    blocks = np.zeros((m, -(-k // 32), 32), np.float32)
    blocks.reshape(m, blocks.shape[1] * 32)[:, :k] = a
    scale = np.abs(blocks).max(-1, initial=0) / np.float32(127)
    with np.errstate(divide="ignore", invalid="ignore"):
        q = np.where(scale[..., None] > 0, np.rint(blocks / scale[..., None]), 0)
    return np.clip(q, -127, 127).astype(np.int64), scale


def defined(a: Array, q: Array, scale: Array, zero: Array | None, group: int) -> Array:
    """The product, each step rounded to float32."""
    m, n = len(a), q.shape[1]
    xs, x_scale = rounded(a)
    y = np.zeros((m, n), np.float32)
    for b in range(xs.shape[1]):
        g = b * 32 // group
        w = q[b * 32 : (b + 1) * 32].astype(np.int64) - (0 if zero is None else zero[g].astype(np.int64))
        sums = (xs[:, b, : len(w)] @ w).astype(np.float32)
        y += sums * (scale[g] * x_scale[:, b, None])
    return y


@quick
@given(
    m=SIZES, n=SIZES, k=DEPTHS, group=GROUPS, zeros=st.booleans(), trans=st.booleans(), threads=st.integers(1, 2), seed=SEEDS
)  # fmt: skip
def test_every_isa_gives_what_the_definition_says(
    m: int, n: int, k: int, group: int, zeros: bool, trans: bool, threads: int, seed: int
) -> None:
    """Bit for bit, the weights packed as gemm_f32q has them."""
    rng = np.random.default_rng(seed)
    q, scale, zero, _ = weights(rng, k, n, 4, group, zeros)
    a = uniform(rng, m, k) * np.float32(10.0) ** rng.integers(-6, 6, (m, 1)).astype(np.float32)
    attrs = {"n": n, "k": k, "group": group, "w_trans": int(trans)}
    dense = np.ascontiguousarray(q.T) if trans else q
    packed = _kernels.pack("gemm_s8q4", PACKING, dense, attrs)
    assert packed == _kernels.pack("gemm_f32q", PACKING, dense, {**attrs, "bits": 4})
    want = defined(a, q, scale, zero, group)
    for isa in ("reference", *isas_of("gemm_s8q4")):
        inputs = [a, packed, scale, zero]
        (got,) = _kernels.run("gemm_s8q4", inputs, [(m, n)], attrs, isa=isa, threads=threads)
        np.testing.assert_array_equal(got, want, err_msg=isa)


def test_more_rows_than_are_rounded_at_a_time() -> None:
    rng = np.random.default_rng(5)
    q, scale, zero, _ = weights(rng, 70, 33, 4, 32, True)
    a, attrs = uniform(rng, 261, 70), {"n": 33, "k": 70, "group": 32}
    packed = _kernels.pack("gemm_s8q4", PACKING, q, attrs)
    for isa in isas_of("gemm_s8q4"):
        (got,) = _kernels.run("gemm_s8q4", [a, packed, scale, zero], [(261, 33)], attrs, isa=isa, threads=2)
        np.testing.assert_array_equal(got, defined(a, q, scale, zero, 32))


@pytest.mark.parametrize(("k", "n"), [(64, 64), (70, 128), (96, 200), (33, 65)])
@pytest.mark.parametrize("threads", [1, 2])
def test_one_row_of_several_panels(k: int, n: int, threads: int) -> None:
    """Whole panels four at a time, what is left one by one."""
    rng = np.random.default_rng([k, n])
    q, scale, zero, _ = weights(rng, k, n, 4, 32, True)
    a, attrs = uniform(rng, 1, k), {"n": n, "k": k, "group": 32}
    packed = _kernels.pack("gemm_s8q4", PACKING, q, attrs)
    for isa in isas_of("gemm_s8q4"):
        (got,) = _kernels.run("gemm_s8q4", [a, packed, scale, zero], [(1, n)], attrs, isa=isa, threads=threads)
        np.testing.assert_array_equal(got, defined(a, q, scale, zero, 32))


@quick
@given(m=SIZES, n=SIZES, k=DEPTHS, bias=st.booleans(), ep=epilogues(), threads=st.integers(1, 2), seed=SEEDS)
def test_epilogues(m: int, n: int, k: int, bias: bool, ep: dict[str, Any], threads: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    q, scale, zero, _ = weights(rng, k, n, 4, 32, True)
    scale = scale / np.float32(max(k, 1) ** 0.5)
    a, b, r = uniform(rng, m, k), uniform(rng, n) if bias else None, uniform(rng, m, n) if ep["_residual"] else None
    attrs = {**attributes(ep), "n": n, "k": k, "group": 32}
    packed = _kernels.pack("gemm_s8q4", PACKING, q, attrs)
    acc = torch.from_numpy(defined(a, q, scale, zero, 32)).double()
    if b is not None:
        acc = acc + torch.from_numpy(b).double()
    want = activate(acc, attrs, double(r)).numpy()
    check_all("gemm_s8q4", [a, packed, scale, zero, b, r], want, attrs, k, threads)


def test_the_largest_sums_are_exact() -> None:
    """16 bits hold what a block adds in them at most, of either sign."""
    k, n = 96, 16
    attrs = {"n": n, "k": k, "group": 32}
    for number, side in ((7, 1), (7, -1), (-8, 1), (-8, -1)):
        q, scale = np.full((k, n), number, np.int8), np.ones((3, n), np.float32)
        a = np.full((5, k), 127.0 * side, np.float32)
        zero = np.full((3, n), -128 if number > 0 else 127, np.int8)
        packed = _kernels.pack("gemm_s8q4", PACKING, q, attrs)
        for isa in isas_of("gemm_s8q4"):
            (got,) = _kernels.run("gemm_s8q4", [a, packed, scale, zero], [(5, n)], attrs, isa=isa)
            np.testing.assert_array_equal(got, np.full((5, n), 127 * side * (number - int(zero[0, 0])) * k))


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_a_row_with_a_number_that_is_not_finite_is_nan(odd: float) -> None:
    rng = np.random.default_rng(2)
    q, scale, _, _ = weights(rng, 64, 17, 4, 32, False)
    a, attrs = uniform(rng, 6, 64), {"n": 17, "k": 64, "group": 32}
    a[2, 40] = a[5, 3] = odd
    packed = _kernels.pack("gemm_s8q4", PACKING, q, attrs)
    for isa in ("reference", *isas_of("gemm_s8q4")):
        (got,) = _kernels.run("gemm_s8q4", [a, packed, scale], [(6, 17)], attrs, isa=isa)
        assert np.isnan(got[[2, 5]]).all() and np.isfinite(got[[0, 1, 3, 4]]).all(), isa


@pytest.mark.parametrize("largest", [0.0, 1e-45, 1e-41, 1e-38, 1e36])
def test_the_smallest_and_largest_activations(largest: float) -> None:
    """Also where a block's scale has few digits, or none."""
    rng = np.random.default_rng(4)
    q, scale, _, _ = weights(rng, 64, 17, 4, 32, False)
    a = (rng.uniform(-1, 1, (3, 64)) * largest).astype(np.float32)
    attrs = {"n": 17, "k": 64, "group": 32}
    packed = _kernels.pack("gemm_s8q4", PACKING, q, attrs)
    want = defined(a, q, scale, None, 32)
    for isa in ("reference", *isas_of("gemm_s8q4")):
        (got,) = _kernels.run("gemm_s8q4", [a, packed, scale], [(3, 17)], attrs, isa=isa)
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"bits": 8}, "bits"),
        ({"group": 16}, "group is 16, expected a multiple of 32, or all of k"),
        ({"group": 48}, "group"),
        ({"group": 64}, "extent"),
        ({"k": 97}, "extent"),
        ({"n": 40}, "extent|packed"),
    ],
)
def test_refuses(change: dict[str, Any], words: str) -> None:
    attrs = {"n": 17, "k": 96, "group": 32}
    packed = _kernels.pack("gemm_s8q4", PACKING, np.ones((96, 17), np.int8), attrs)
    inputs = [np.ones((3, 96), np.float32), packed, np.ones((3, 17), np.float32)]
    with pytest.raises(Error, match=words):
        _kernels.run("gemm_s8q4", inputs, [(3, 17)], {**attrs, **change})
    with pytest.raises(Error, match="packed weight"):
        _kernels.run("gemm_s8q4", [inputs[0], packed[:-1], inputs[2]], [(3, 17)], attrs)
    with pytest.raises(Error, match="4 bits do not hold"):
        _kernels.pack("gemm_s8q4", PACKING, np.full((96, 17), 8, np.int8), attrs)
