"""gemm_f32_sparse: the reference against numpy in double precision, every ISA against the reference, and packings that are damaged."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray

import maas_rt
from maas_rt import Error, _kernels
from tests import formats
from tests.kernels._calls import CALLS
from tests.kernels._support import activate, epilogues, isas_of, uniform
from tests.kernels.test_gemm_conv import SEEDS, attributes, check_all, convolve, double, fits, geometries, quick

PACKING = "gemm_f32_sparse_v1"
# Around vectors, tiles, chunks of 256 columns and blocks of 256 of the depth.
ROWS = st.one_of(st.integers(0, 20), st.sampled_from([24, 31, 32, 33, 47, 49, 63, 64, 65, 129]))
COLUMNS = st.one_of(st.integers(0, 20), st.sampled_from([64, 255, 256, 257, 511, 1025, 1300]))
DEPTHS = st.one_of(st.integers(0, 20), st.sampled_from([64, 255, 256, 257, 384, 513]))
DENSITIES = st.sampled_from([0.0, 0.003, 0.05, 0.2, 0.7, 1.0])


def sparse(rng: np.random.Generator, k: int, n: int, density: float, block: int) -> NDArray[np.float32]:
    """[k, n]: of `block` columns next to each other all are zero, or none."""
    keep = np.repeat(rng.random((k, -(-n // block))) < density, block, axis=1)[:, :n]
    w: NDArray[np.float32] = uniform(rng, k, n) / np.float32(max(1.0, density * k) ** 0.5) * keep
    return w


def pack(w: NDArray[np.float32], attrs: dict[str, Any]) -> bytes:
    return _kernels.pack("gemm_f32_sparse", PACKING, w.T if attrs.get("w_trans") else w, attrs)


@quick
@given(
    m=ROWS,
    n=COLUMNS,
    k=DEPTHS,
    density=DENSITIES,
    block=st.sampled_from([1, 4]),
    structured=st.booleans(),
    trans=st.booleans(),
    bias=st.booleans(),
    ep=epilogues(),
    threads=st.integers(1, 2),
    seed=SEEDS,
)
def test_products(
    m: int, n: int, k: int, density: float, block: int, structured: bool, trans: bool, bias: bool, ep: dict[str, Any], threads: int, seed: int
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    a, w = uniform(rng, m, k), sparse(rng, k, n, density, block if structured else 1)
    b = uniform(rng, n) if bias else None
    r = uniform(rng, m, n) if ep["_residual"] else None
    attrs = {**attributes(ep), "n": n, "k": k, "w_trans": int(trans), "block": block}
    acc = torch.from_numpy(a).double() @ torch.from_numpy(w).double()
    if b is not None:
        acc = acc + torch.from_numpy(b).double()
    want = activate(acc, attrs, double(r)).numpy()
    check_all("gemm_f32_sparse", [a, pack(w, attrs), b, r], want, attrs, k, threads)


def test_leading_dimensions_are_kept() -> None:
    rng = np.random.default_rng(0)
    a, w, attrs = uniform(rng, 2, 3, 5, 7), sparse(rng, 7, 9, 0.3, 1), {"n": 9, "k": 7}
    check_all("gemm_f32_sparse", [a, pack(w, attrs)], a.astype(np.float64) @ w, attrs, 7)


@pytest.mark.parametrize("block", [1, 4])
@pytest.mark.parametrize("isa", ["reference", *isas_of("gemm_f32_sparse")])
def test_nan_and_infinity_are_those_of_the_dense_product(isa: str, block: int) -> None:
    """A zero that is not stored times infinity is NaN all the same."""
    rng = np.random.default_rng(5)
    for m, k, n in ((1, 4, 3), (5, 300, 40), (70, 600, 300)):
        w = sparse(rng, k, n, 0.3, block)
        w[:, 0], w[:, -1] = 0, 1
        a = uniform(rng, m, k)
        for value in (np.nan, np.inf, -np.inf, np.inf, -np.inf):
            a[rng.integers(m), rng.integers(k)] = value
        a[0, 0] = np.inf
        attrs = {"n": n, "k": k, "block": block}
        (got,) = _kernels.run("gemm_f32_sparse", [a, pack(w, attrs)], [(m, n)], attrs, isa=isa)
        with np.errstate(invalid="ignore"):
            want = (a.astype(np.float64)[:, :, None] * w.astype(np.float64)).sum(axis=1)
        np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
        infinite = np.isinf(want)
        np.testing.assert_array_equal(got[infinite], want[infinite])
        np.testing.assert_allclose(got[np.isfinite(want)], want[np.isfinite(want)], rtol=0, atol=1e-4)


@pytest.mark.parametrize("isa", isas_of("gemm_f32_sparse"))
@pytest.mark.parametrize("block", [1, 4])
def test_a_row_is_the_same_among_others_and_on_more_threads(isa: str, block: int) -> None:
    rng = np.random.default_rng(6)
    m, k, n = 77, 700, 1100
    a, w, attrs = uniform(rng, m, k), sparse(rng, k, n, 0.1, block), {"n": n, "k": k, "block": block}
    packed = pack(w, attrs)
    (whole,) = _kernels.run("gemm_f32_sparse", [a, packed], [(m, n)], attrs, isa=isa, threads=2)
    for rows in (slice(0, 1), slice(3, 20), slice(40, 77)):
        (part,) = _kernels.run("gemm_f32_sparse", [a[rows], packed], [(len(a[rows]), n)], attrs, isa=isa)
        np.testing.assert_array_equal(part, whole[rows])


# ---- convolutions ----


def thinned(
    rng: np.random.Generator, o: int, c: int, kernel: Sequence[int], density: float, block: int
) -> NDArray[np.float32]:
    """A filter [o, c, kh, kw] of which `block` output channels next to each other are zero together."""
    w = sparse(rng, c * kernel[0] * kernel[1], o, density, block)
    return np.ascontiguousarray(w.reshape(c, *kernel, o).transpose(3, 0, 1, 2))


@quick
@given(
    g=geometries(),
    density=DENSITIES,
    block=st.sampled_from([1, 4]),
    bias=st.booleans(),
    ep=epilogues(),
    threads=st.integers(1, 2),
    seed=SEEDS,
)
def test_convolutions(
    g: dict[str, Any], density: float, block: int, bias: bool, ep: dict[str, Any], threads: int, seed: int
) -> None:
    assume(fits(g))
    groups = g.pop("groups")
    c, o = (channels // groups for channels in g["channels"])
    g["channels"] = [c, o]
    rng = np.random.default_rng(seed)
    x, w = uniform(rng, *g["x"], c), thinned(rng, o, c, g["kernel"], density, block)
    b = uniform(rng, o) if bias else None
    acc = convolve({**g, "groups": 1}, x, w, b).permute(0, 2, 3, 1)
    r = uniform(rng, *acc.shape) if ep["_residual"] else None
    attrs = {**attributes(ep), **{key: value for key, value in g.items() if key != "x"}, "block": block}
    packed = _kernels.pack("conv2d_f32_sparse", "conv2d_f32_sparse_v1", w, attrs)
    want = activate(acc, attrs, double(r)).numpy()
    check_all("conv2d_f32_sparse", [x, packed, b, r], want, attrs, c * w.shape[2] * w.shape[3], threads)


@pytest.mark.parametrize("isa", ["reference", *isas_of("conv2d_f32_sparse")])
def test_a_pixel_that_is_not_finite_spoils_what_sees_it(isa: str) -> None:
    """As in conv2d_f32, zeros that are not stored included; padding is no product with it."""
    rng = np.random.default_rng(7)
    g = {"kernel": [3, 3], "pads": [1, 1, 1, 1], "channels": [70, 40]}
    x, w = uniform(rng, 1, 9, 10, 70), thinned(rng, 40, 70, (3, 3), 0.2, 1)
    x[0, 0, 0, 3], x[0, 5, 6, 69] = np.inf, np.nan
    packed = _kernels.pack("conv2d_f32_sparse", "conv2d_f32_sparse_v1", w, g)
    (got,) = _kernels.run("conv2d_f32_sparse", [x, packed], [(1, 9, 10, 40)], g, isa=isa)
    seen = np.zeros((9, 10), bool)
    seen[0:2, 0:2] = seen[4:7, 5:8] = True
    np.testing.assert_array_equal(np.isfinite(got[0]), np.repeat(~seen[..., None], 40, axis=2))


def test_a_damaged_filter_is_refused_by_its_own_name() -> None:
    g = {"kernel": [3, 3], "channels": [40, 5]}
    packed = _kernels.pack("conv2d_f32_sparse", "conv2d_f32_sparse_v1", np.ones((5, 40, 3, 3), np.float32), g)
    (second,) = struct.unpack_from("<q", packed, 8)
    bent = with_bytes(packed, second + 3 * 5, bytes([104]))
    with pytest.raises(Error, match="conv2d_f32_sparse: the packed weight is damaged: part 1 of it has an index"):
        _kernels.run("conv2d_f32_sparse", [np.ones((1, 4, 4, 40), np.float32), bent], [(1, 2, 2, 5)], g)


def test_zeros_take_no_room() -> None:
    k, n = 512, 512
    offsets, counts = 8 * 5, 4 * 256 * 3
    assert len(pack(np.zeros((k, n), np.float32), {})) == offsets + counts
    w = np.zeros((k, n), np.float32)
    w[::2, ::2] = 1
    assert len(pack(w, {})) == offsets + counts + k // 2 * n // 2 * 5
    assert len(pack(w, {"block": 4})) == offsets + 4 * 64 * 3 + k // 2 * n // 4 * 17


def test_negative_zero_is_a_zero_and_nan_is_none() -> None:
    w = np.array([[-0.0, np.nan, 0.0]], np.float32)
    (got,) = _kernels.run("gemm_f32_sparse", [np.ones((1, 1), np.float32), pack(w, {})], [(1, 3)], {"n": 3, "k": 1})
    np.testing.assert_array_equal(got, [[0, np.nan, 0]])


# ---- damaged packings ----

K, N = 300, 20
ATTRS = {"n": N, "k": K}


def good() -> bytes:
    return pack(sparse(np.random.default_rng(1), K, N, 0.3, 1), ATTRS)


def run(packed: bytes, **change: int) -> None:
    attrs = {**ATTRS, **change}
    for isa in ["reference", *isas_of("gemm_f32_sparse")]:
        _kernels.run(
            "gemm_f32_sparse", [np.ones((2, attrs["k"]), np.float32), packed], [(2, attrs["n"])], attrs, isa=isa
        )


def with_bytes(packed: bytes, at: int, data: bytes) -> bytes:
    return packed[:at] + data + packed[at + len(data) :]


def test_what_is_damaged_is_refused() -> None:
    packed = good()
    run(packed)
    first, second, end = struct.unpack_from("<3q", packed)
    assert (first, end) == (24, len(packed))
    order, index = second + 2 * N, second + 3 * N
    for bent, words in [
        (packed[:-4], "part 1 of it does not lie where it should"),
        (packed[:16], "the packed weight holds 16 bytes"),
        (with_bytes(packed, 0, struct.pack("<q", 32)), "part 0 of it does not lie where it should"),
        (with_bytes(packed, 8, struct.pack("<q", 2**62)), "part 0 of it does not lie where it should"),
        (with_bytes(packed, 8, struct.pack("<q", -8)), "part 0 of it does not lie where it should"),
        (with_bytes(packed, 8, struct.pack("<q", 28)), "part 0 of it is too short"),
        (with_bytes(packed, first, struct.pack("<H", 65535)), "part 0 of it has other weights than its counts say"),
        (with_bytes(packed, order, bytes([N])), "part 1 of it has a row twice or one that it does not have"),
        (with_bytes(packed, order, packed[order + 1 : order + 2]), "part 1 of it has a row twice"),
        (with_bytes(packed, index, bytes([K - 256])), "part 1 of it has an index out of range"),
    ]:
        with pytest.raises(Error, match=words):
            run(bent)


def test_a_file_with_a_damaged_packing_is_not_loaded() -> None:
    file, runs, _ = formats.kernels(["gemm_f32_sparse"])
    maas_rt.load(file).run(runs[0])
    packed = CALLS["gemm_f32_sparse"]
    stored = pack(packed.inputs[1], packed.attrs)
    at = file.index(stored)
    (second,) = struct.unpack_from("<q", stored, 8)
    with pytest.raises(
        Error, match="step .*gemm_f32_sparse: the packed weight is damaged: part 1 of it has an index out of range"
    ):
        maas_rt.load(with_bytes(file, at + second + 3 * 17, bytes([44])))


@pytest.mark.parametrize(
    "change", [{"k": 40}, {"k": 700}, {"n": 19}, {"n": 600}, {"block": 4}, {"n": 2**40}, {"k": 2**40}]
)
def test_another_extent_than_it_was_packed_for_is_refused(change: dict[str, int]) -> None:
    packed, attrs = good(), {**ATTRS, **change}
    with pytest.raises(Error, match="packed weight|extent"):
        m = 0 if max(attrs.values()) > 2**30 else 2
        a = np.ones((m, min(attrs["k"], 2**30)), np.float32)
        _kernels.run("gemm_f32_sparse", [a, packed], [(m, min(attrs["n"], 2**30))], attrs)


@pytest.mark.parametrize("block", [2, 3, 5])
def test_other_blocks_are_refused(block: int) -> None:
    with pytest.raises(Error, match="block"):
        pack(np.ones((4, 8), np.float32), {"block": block})


@quick
@given(data=st.data(), block=st.sampled_from([1, 4]), seed=SEEDS)
def test_bent_packings_are_refused_or_run(data: st.DataObject, block: int, seed: int) -> None:
    """With the address sanitizer: whatever a file holds, nothing else is read."""
    k, n = data.draw(st.sampled_from([(3, 5), (300, 20), (520, 300)]))
    packed = bytearray(pack(sparse(np.random.default_rng(seed), k, n, 0.2, block), {"block": block}))
    for _ in range(data.draw(st.integers(1, 4))):
        packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    attrs = {"n": n, "k": k, "block": block}
    for isa in ["reference", *isas_of("gemm_f32_sparse")]:
        try:
            _kernels.run("gemm_f32_sparse", [np.ones((3, k), np.float32), bytes(packed)], [(3, n)], attrs, isa=isa)
        except Error as error:
            assert "damaged" in str(error)
