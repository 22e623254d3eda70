"""gemm_f32q: the reference against numpy in double precision, every ISA against the reference, and equal to gemm_f32 of the same weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from maas_rt import Error, _kernels
from tests.kernels._support import activate, epilogues, isas_of, uniform
from tests.kernels.test_gemm_conv import SEEDS, SIZES, attributes, check_all, double, quick

PACKING = "gemm_f32q_nr16_v1"


def weights(rng: np.random.Generator, k: int, n: int, bits: int, group: int, zeros: bool) -> tuple[Any, ...]:
    """q [k, n], scale and zero [groups, n] (or None), and what they stand for."""
    low = -(1 << (bits - 1))
    groups = -(-k // group)
    q = rng.integers(low, -low, (k, n)).astype(np.int8)
    scale = rng.uniform(0.5, 1, (groups, n)).astype(np.float32) / np.float32(1 << bits)
    zero = rng.integers(low, -low, (groups, n)).astype(np.int8) if zeros else None
    rows = np.arange(k) // group
    centred = q.astype(np.float32) - (zero[rows].astype(np.float32) if zero is not None else 0)
    return q, scale, zero, centred * scale[rows]


@quick
@given(
    m=SIZES,
    n=SIZES,
    k=st.one_of(st.integers(0, 40), st.sampled_from([255, 256, 257, 384, 513, 769])),
    group=st.sampled_from([1, 2, 3, 16, 31, 32, 100, 1000]),
    bits=st.sampled_from([4, 8]),
    zeros=st.booleans(),
    trans=st.booleans(),
    bias=st.booleans(),
    ep=epilogues(),
    threads=st.integers(1, 2),
    seed=SEEDS,
)
def test_products(
    m: int, n: int, k: int, group: int, bits: int, zeros: bool, trans: bool, bias: bool, ep: dict[str, Any], threads: int, seed: int
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    q, scale, zero, w = weights(rng, k, n, bits, group, zeros)
    scale, w = scale / np.float32(max(k, 1) ** 0.5), w / np.float32(max(k, 1) ** 0.5)
    a = uniform(rng, m, k)
    b = uniform(rng, n) if bias else None
    r = uniform(rng, m, n) if ep["_residual"] else None
    attrs = {**attributes(ep), "n": n, "k": k, "w_trans": int(trans), "bits": bits, "group": group}
    packed = _kernels.pack("gemm_f32q", PACKING, np.ascontiguousarray(q.T) if trans else q, attrs)
    acc = torch.from_numpy(a).double() @ torch.from_numpy(w).double()
    if b is not None:
        acc = acc + torch.from_numpy(b).double()
    want = activate(acc, attrs, double(r)).numpy()
    check_all("gemm_f32q", [a, packed, scale, zero, b, r], want, attrs, k, threads)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("isa", isas_of("gemm_f32q"))
def test_it_is_the_product_of_the_same_floats(bits: int, isa: str) -> None:
    """Bit for bit, beyond a few rows: the weights are what the formula says, rounded as it says."""
    rng = np.random.default_rng(3)
    for m, k, n, group in ((9, 96, 33, 32), (13, 130, 48, 10), (40, 255, 17, 255)):
        q, scale, zero, w = weights(rng, k, n, bits, group, True)
        a, attrs = uniform(rng, m, k), {"n": n, "k": k}
        more = {**attrs, "bits": bits, "group": group}
        packed = _kernels.pack("gemm_f32q", PACKING, q, more)
        (got,) = _kernels.run("gemm_f32q", [a, packed, scale, zero], [(m, n)], more, isa=isa)
        plain = _kernels.pack("gemm_f32", "gemm_f32_nr16_v1", w, attrs)
        (want,) = _kernels.run("gemm_f32", [a, plain], [(m, n)], attrs, isa=isa)
        np.testing.assert_array_equal(got, want)


def test_packed_sizes() -> None:
    q = np.zeros((33, 20), np.int8)
    sizes = {bits: len(_kernels.pack("gemm_f32q", PACKING, q, {"bits": bits})) for bits in (4, 8)}
    assert sizes == {8: 2 * 33 * 16, 4: 2 * 17 * 16}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"bits": 6}, "bits"),
        ({"bits": 3}, "bits"),
        ({"group": 0}, "group"),
        ({"group": 2}, "extent"),
        ({"k": 9}, "extent"),
        ({"n": 40}, "extent|packed"),
    ],
)
def test_refuses(change: dict[str, Any], words: str) -> None:
    attrs = {"n": 17, "k": 8, "group": 4, "bits": 4}
    packed = _kernels.pack("gemm_f32q", PACKING, np.ones((8, 17), np.int8), attrs)
    inputs = [np.ones((3, 8), np.float32), packed, np.ones((2, 17), np.float32)]
    with pytest.raises(Error, match=words):
        _kernels.run("gemm_f32q", inputs, [(3, 17)], {**attrs, **change})
    with pytest.raises(Error, match="packed weight"):
        _kernels.run("gemm_f32q", [inputs[0], packed[:-1], inputs[2]], [(3, 17)], attrs)
    with pytest.raises(Error, match="4 bits do not hold"):
        _kernels.pack("gemm_f32q", PACKING, np.full((8, 17), 8, np.int8), attrs)
