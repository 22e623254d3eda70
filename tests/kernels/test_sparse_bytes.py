"""gemm_u8s8_sparse: the reference against numpy's integers, every ISA bit for bit against the reference and the dense product, damaged packings."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from maas_rt import Error, _kernels
from tests.kernels._support import epilogues, isas_of
from tests.kernels.test_qgemm import WEIGHTS, activations, check_all, output_attrs, quick, weights
from tests.kernels.test_sparse import ROWS, SEEDS, with_bytes

CONTRACT, PACKING = "gemm_u8s8_sparse", "gemm_u8s8_sparse_v1"
# Around the four columns of a row, chunks of 256, the four k's of an entry and blocks of 1024.
COLUMNS = st.one_of(st.integers(0, 20), st.sampled_from([64, 255, 256, 257, 530, 1100]))
DEPTHS = st.one_of(st.integers(0, 20), st.sampled_from([63, 64, 513, 1020, 1023, 1024, 1025, 2050]))
DENSITIES = st.sampled_from([0.0, 0.01, 0.2, 1.0])


def sparse(rng: np.random.Generator, kind: str, k: int, n: int, density: float, block: int = 4) -> NDArray[np.int8]:
    """[k, n]: of `block` rows and columns next to each other all are zero, or none."""
    keep = rng.random((-(-k // block), -(-n // block))) < density
    w: NDArray[np.int8] = weights(kind, rng, k, n) * np.repeat(np.repeat(keep, block, 0), block, 1)[:k, :n]
    return w


def pack(w: NDArray[np.int8], attrs: dict[str, Any]) -> bytes:
    return _kernels.pack(CONTRACT, PACKING, w.T if attrs.get("w_trans") else w, attrs)


@quick
@given(
    m=ROWS,
    n=COLUMNS,
    k=DEPTHS,
    kind=WEIGHTS,
    density=DENSITIES,
    block=st.sampled_from([1, 4]),
    worst=st.booleans(),
    seven=st.booleans(),
    zero=st.sampled_from([0, 128, 255, 37]),
    trans=st.booleans(),
    bias=st.booleans(),
    ep=epilogues(),
    dtype=st.sampled_from([np.float32, np.uint8, np.int8]),
    threads=st.integers(1, 2),
    seed=SEEDS,
)
def test_products(
    m: int, n: int, k: int, kind: str, density: float, block: int, worst: bool, seven: bool, zero: int, trans: bool, bias: bool,
    ep: dict[str, Any], dtype: type, threads: int, seed: int,
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    a, w = activations(rng, worst, m, k), sparse(rng, kind, k, n, density, block)
    a = a >> 1 if seven else a
    acc = (a.astype(np.int64) - zero) @ w.astype(np.int64)
    scale = (rng.uniform(0.5, 1, n) * 2 / max(1, np.abs(acc).max(initial=1))).astype(np.float32)
    b = rng.uniform(-1, 1, n).astype(np.float32) if bias else None
    r = rng.uniform(-1, 1, (m, n)).astype(np.float32) if ep["_residual"] else None
    attrs = {key: value for key, value in ep.items() if not key.startswith("_")}
    attrs |= {"n": n, "k": k, "w_trans": int(trans), "a_zero": zero} | output_attrs(rng, dtype, 0.013)
    if seven:
        attrs["a_max"] = 127
    check_all(CONTRACT, [a, pack(w, attrs), scale, b, r], acc, attrs, dtype, threads)


@pytest.mark.parametrize("isa", isas_of(CONTRACT))
@pytest.mark.parametrize("a_max", [127, 255])
def test_it_is_the_dense_product_bit_for_bit(isa: str, a_max: int) -> None:
    """Scale and zero point of the run, sums as they are, and every kind of weights: pairs, singles, and what fits in no 16 bits."""
    rng = np.random.default_rng(3)
    for m, k, n, kind in (
        *((1, 64, 40, "normal"), (33, 1300, 300, "spiky"), (70, 2048, 64, "127"), (9, 800, 33, "any")),
        *((1, 1300, 300, "spiky"), (1, 2048, 64, "127"), (1, 801, 33, "any")),
    ):
        a, w = np.minimum(activations(rng, kind == "127", m, k), a_max).astype(np.uint8), sparse(rng, kind, k, n, 0.4)
        attrs = {"n": n, "k": k, "a_max": a_max}
        scale = rng.uniform(0.5, 1, n).astype(np.float32)
        dense = _kernels.pack("gemm_u8s8", "gemm_u8s8_nr16_v2", w, attrs)
        given = [np.array(0.003, np.float32), np.array(200, np.uint8)]
        for operands, dtype in (([None, None, *given], np.float32), ([None, None, None, given[1]], np.int32)):
            got, want = (
                _kernels.run(contract, [a, packed, scale, *operands], [((m, n), dtype)], attrs, isa=isa)[0]
                for contract, packed in ((CONTRACT, pack(w, attrs)), ("gemm_u8s8", dense))
            )
            np.testing.assert_array_equal(got, want)


def test_zeros_take_no_room_and_pairs_are_found() -> None:
    k, n = 1024, 256
    table, rows = 16 + 4 * n, 64 * 7
    assert len(pack(np.zeros((k, n), np.int8), {})) == table + rows
    packed = pack(np.full((k, n), 20, np.int8), {"a_max": 127})
    assert len(packed) == table + rows + 64 * 256 * 17
    assert struct.unpack_from("<192H", packed, 16) == (256,) * 64 + (0,) * 128  # 4 * 20 * 127 fits in 16 bits
    packed = pack(np.full((k, n), 100, np.int8), {"a_max": 127})
    assert struct.unpack_from("<192H", packed, 16) == (0,) * 64 + (256,) * 64 + (0,) * 64  # 2 * 100 * 127 does
    packed = pack(np.full((k, n), 100, np.int8), {"a_max": 255})
    assert struct.unpack_from("<192H", packed, 16) == (0,) * 128 + (256,) * 64


def test_what_is_damaged_is_refused() -> None:
    k, n = 1100, 20
    rng, attrs = np.random.default_rng(1), {"n": n, "k": k}
    packed = pack(sparse(rng, "normal", k, n, 0.3), attrs)
    inputs = [np.ones((2, k), np.uint8), np.ones(n, np.float32)]
    first, second, end = struct.unpack_from("<3q", packed)
    assert (first, end) == (24, len(packed) - 4 * n)
    rows = n // 4
    for bent, words in [
        (packed[:-4], "part 1 of it does not lie where it should"),
        (packed[:16], "the packed weight holds 16 bytes"),
        (packed[:24], "part 0 of it|its offsets alone need 24"),
        (with_bytes(packed, second, struct.pack("<H", 999)), "part 1 of it has other weights than its counts say"),
        (with_bytes(packed, second + 6 * rows, bytes([rows])), "part 1 of it has a row twice or one"),
        (with_bytes(packed, second + 7 * rows, bytes([19])), "part 1 of it has an index out of range"),
    ]:
        for isa in ["reference", *isas_of(CONTRACT)]:
            with pytest.raises(Error, match=words):
                _kernels.run(CONTRACT, [inputs[0], bent, inputs[1]], [(2, n)], attrs, isa=isa)
    with pytest.raises(Error, match=r"65537|65536"):
        pack(np.ones((65537, 4), np.int8), {})


@quick
@given(data=st.data(), seed=SEEDS)
def test_bent_packings_are_refused_or_run(data: st.DataObject, seed: int) -> None:
    k, n = data.draw(st.sampled_from([(3, 5), (1100, 20), (1030, 300)]))
    packed = bytearray(pack(sparse(np.random.default_rng(seed), "any", k, n, 0.2), {}))
    for _ in range(data.draw(st.integers(1, 4))):
        packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    inputs = [np.ones((3, k), np.uint8), bytes(packed), np.ones(n, np.float32)]
    for isa in ["reference", *isas_of(CONTRACT)]:
        try:
            _kernels.run(CONTRACT, inputs, [(3, n)], {"n": n, "k": k}, isa=isa)
        except Error as error:
            assert "damaged" in str(error)
