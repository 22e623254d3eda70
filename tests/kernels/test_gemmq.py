"""gemm_f32q: the reference against numpy in double precision, every ISA against the reference, and equal to gemm_f32 of the same weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from maas_rt import Error, _kernels
from tests.kernels._support import activate, assert_close, epilogues, isas_of, uniform
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


SIZED = (
    (9, 96, 33, 32),
    (13, 130, 48, 10),
    (40, 254, 17, 254),
    (9, 1300, 48, 64),
    (40, 255, 17, 255),
)  # m, k, n, group


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("isa", isas_of("gemm_f32q"))
def test_it_is_the_product_of_the_same_floats(bits: int, isa: str) -> None:
    """Bit for bit, beyond a few rows: the weights are what the formula says, rounded as it says. Where AVX-512 multiplies sums of groups by
    scales, as close as sums of another order are."""
    rng = np.random.default_rng(3)
    for m, k, n, group in SIZED:
        q, scale, zero, w = weights(rng, k, n, bits, group, True)
        a, attrs = uniform(rng, m, k), {"n": n, "k": k}
        more = {**attrs, "bits": bits, "group": group}
        packed = _kernels.pack("gemm_f32q", PACKING, q, more)
        (got,) = _kernels.run("gemm_f32q", [a, packed, scale, zero], [(m, n)], more, isa=isa)
        plain = _kernels.pack("gemm_f32", "gemm_f32_nr16_v1", w, attrs)
        (want,) = _kernels.run("gemm_f32", [a, plain], [(m, n)], attrs, isa=isa)
        if isa == "avx512" and bits == 4 and group >= 16 and k % 2 == 0:
            assert_close(got, want.astype(np.float64), k)
        else:
            np.testing.assert_array_equal(got, want)


@pytest.mark.skipif("avx512" not in isas_of("gemm_f32q"), reason="needs a CPU with AVX-512")
@pytest.mark.parametrize(("k", "group"), [(96, 32), (2400, 64), (130, 1000), (66, 16)])
@pytest.mark.parametrize("n", [16, 40, 80])
def test_sums_of_groups_are_the_same_whatever_stands_beside_a_row(k: int, group: int, n: int) -> None:
    """Tiles of fewer rows, panels one or two at a time, two threads."""
    rng = np.random.default_rng([k, n])
    q, scale, zero, _ = weights(rng, k, n, 4, group, True)
    attrs = {"n": n, "k": k, "bits": 4, "group": group}
    a, packed = uniform(rng, 70, k), _kernels.pack("gemm_f32q", PACKING, q, attrs)

    def rows(m: int, threads: int) -> Any:
        return _kernels.run("gemm_f32q", [a[:m], packed, scale, zero], [(m, n)], attrs, isa="avx512", threads=threads)[
            0
        ]

    want = rows(70, 1)
    for m in (5, 6, 7, 8, 9, 12, 17, 33):
        for threads in (1, 2):
            np.testing.assert_array_equal(rows(m, threads), want[:m])


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


# ---- rows of a table, which are columns of the weight


@quick
@given(
    shape=st.lists(st.integers(0, 5), max_size=3),
    n=st.integers(1, 70),
    k=st.one_of(st.integers(1, 40), st.sampled_from([255, 300])),
    group=st.sampled_from([1, 3, 16, 32, 1000]),
    bits=st.sampled_from([4, 8]),
    zeros=st.booleans(),
    trans=st.booleans(),
    wide=st.booleans(),
    threads=st.integers(1, 2),
    seed=SEEDS,
)
def test_gathered_columns_are_those_that_the_product_reads(
    shape: list[int], n: int, k: int, group: int, bits: int, zeros: bool, trans: bool, wide: bool, threads: int, seed: int
) -> None:  # fmt: skip
    """Bit for bit, out of the same packed bytes."""
    rng = np.random.default_rng(seed)
    q, scale, zero, w = weights(rng, k, n, bits, group, zeros)
    indices = rng.integers(-n, n, shape).astype(np.int64 if wide else np.int32)
    attrs = {"n": n, "k": k, "w_trans": int(trans), "bits": bits, "group": group}
    dense = np.ascontiguousarray(q.T) if trans else q
    packed = _kernels.pack("gather_f32q", PACKING, dense, attrs)
    assert packed == _kernels.pack("gemm_f32q", PACKING, dense, attrs)
    given = {key: value for key, value in attrs.items() if key != "w_trans"}
    for isa in isas_of("gather_f32q"):
        (got,) = _kernels.run(
            "gather_f32q", [indices, packed, scale, zero], [(*shape, k)], given, isa=isa, threads=threads
        )
        np.testing.assert_array_equal(got, w.T[indices])


@pytest.mark.parametrize(("index", "wraps"), [(5, 1), (-6, 1), (-1, 0), (5, 0), (1 << 40, 1)])
def test_a_row_that_does_not_exist_is_told(index: int, wraps: int) -> None:
    rng = np.random.default_rng(0)
    q, scale, _, _ = weights(rng, 8, 5, 8, 8, False)
    attrs = {"n": 5, "k": 8, "wraps": wraps}
    packed = _kernels.pack("gather_f32q", PACKING, q, {"n": 5, "k": 8})
    words = r"gather_f32q: an index is out of range; indices must lie in \[" + ("-n" if wraps else "0")
    with pytest.raises(Error, match=words):
        _kernels.run("gather_f32q", [np.array([0, index]), packed, scale, None], [(2, 8)], attrs)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"out": (2, 9)}, "extent"),
        ({"scale": (2, 5)}, "scale"),
        ({"cut": 1}, "w"),
        ({"indices": np.float32}, "indices"),
    ],
)
def test_tables_that_do_not_fit_are_refused(change: dict[str, Any], words: str) -> None:
    q, scale, _, _ = weights(np.random.default_rng(0), 8, 5, 8, 8, False)
    packed = _kernels.pack("gather_f32q", PACKING, q, {"n": 5, "k": 8})
    packed = packed[: len(packed) - change.get("cut", 0)]
    scale = np.ones(change["scale"], np.float32) if "scale" in change else scale
    indices = np.zeros(2, change.get("indices", np.int64))
    with pytest.raises(Error, match=words):
        _kernels.run("gather_f32q", [indices, packed, scale, None], [change.get("out", (2, 8))], {"n": 5, "k": 8})


# ---- scales of 16 bits


@pytest.mark.parametrize("n", [5, 16, 67, 130])
@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("drawn", ["usual", "any"])
def test_scales_in_float16_are_those_in_float32(n: int, zeros: bool, drawn: str) -> None:
    """Bit for bit, whatever they are: small, infinite and no numbers, too."""
    rng = np.random.default_rng([n, zeros])
    k, group = 96, 32
    for bits in (4, 8):
        q, scale, zero, _ = weights(rng, k, n, bits, group, zeros)
        half = scale.astype(np.float16)
        if drawn == "any":
            half = rng.integers(0, 1 << 16, half.shape).astype(np.uint16).view(np.float16)
            half[0, :5] = np.array([0, 6e-8, -6e-5, np.inf, np.nan], np.float16)
        attrs = {"n": n, "k": k, "bits": bits, "group": group}
        packed = _kernels.pack("gemm_f32q", PACKING, q, attrs)
        for contract, m in (("gemm_f32q", 1), ("gemm_f32q", 3), ("gemm_f32q", 9), ("gemm_s8q4", 1), ("gemm_s8q4", 6)):
            if contract == "gemm_s8q4" and bits == 8:
                continue
            a = uniform(rng, m, k)
            for isa in ("reference", *isas_of(contract)):
                wide, narrow = (
                    _kernels.run(contract, [a, packed, part, zero], [(m, n)], attrs, isa=isa)[0]
                    for part in (half.astype(np.float32), half)
                )
                np.testing.assert_array_equal(narrow, wide, err_msg=f"{contract} {isa} {bits}")
        indices = np.arange(n)
        for isa in isas_of("gather_f32q"):
            wide, narrow = (
                _kernels.run("gather_f32q", [indices, packed, part, zero], [(n, k)], attrs, isa=isa)[0]
                for part in (half.astype(np.float32), half)
            )
            np.testing.assert_array_equal(narrow, wide)


def test_scales_are_of_floats() -> None:
    attrs = {"n": 5, "k": 8, "bits": 4, "group": 8}
    packed = _kernels.pack("gemm_f32q", PACKING, np.zeros((8, 5), np.int8), attrs)
    for dtype in (np.float64, np.int16):
        with pytest.raises(Error, match="scale is .*, expected float16 or float32"):
            _kernels.run("gemm_f32q", [np.ones((2, 8), np.float32), packed, np.ones((1, 5), dtype)], [(2, 5)], attrs)
