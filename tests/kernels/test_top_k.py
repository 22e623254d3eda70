"""top_k against numpy's stable sort: every element type, NaN and zeros of both signs, ties, lines along any axis, on threads."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from maas_rt import Error, _kernels
from tests.kernels._checks import SEEDS, quick
from tests.kernels._support import isas_of

FLOATS = [np.float16, ml_dtypes.bfloat16, np.float32, np.float64]
INTEGERS = [np.bool_, *(np.dtype(f"{kind}{bits}").type for kind in ("int", "uint") for bits in (8, 16, 32, 64))]


def numbers(rng: np.random.Generator, shape: Any, dtype: Any, ties: bool) -> NDArray[Any]:
    """Elements of the whole range, or few different ones; floats with infinities, NaN of both signs, zeros of both signs."""
    if dtype not in FLOATS:
        if dtype == np.bool_:
            return rng.integers(0, 2, shape).astype(bool)
        info = np.iinfo(dtype)
        low, high = (max(info.min, -2), 2) if ties else (info.min, info.max)
        return rng.integers(low, high, shape, dtype, endpoint=True)
    x = rng.integers(-3, 3, shape).astype(np.float64) if ties else rng.standard_normal(shape) * 100
    odd = np.array([np.nan, -np.nan, np.inf, -np.inf, 0.0, -0.0])
    return np.where(rng.random(shape) < 0.2, rng.choice(odd, shape), x).astype(dtype)


def in_order(x: NDArray[Any], axis: int, largest: bool) -> NDArray[np.int64]:
    """Positions of the sorted lines: NaN above everything, ties by position."""
    wide = x.astype(np.float64) if x.dtype in FLOATS else x.astype(object)
    if not largest:
        return np.argsort(wide, axis=axis, kind="stable")
    n = x.shape[axis]  # a stable descending sort: the line backwards, sorted ascending, read backwards
    return n - 1 - np.flip(np.argsort(np.flip(wide, axis), axis=axis, kind="stable"), axis)


def run(x: NDArray[Any], count: int, axis: int, largest: bool, *, isa: str, threads: int = 1, positions: Any = np.int64,
        **attrs: Any) -> tuple[NDArray[Any], NDArray[Any]]:  # fmt: skip
    shape = tuple(count if d == axis % x.ndim else n for d, n in enumerate(x.shape))
    values, places = _kernels.run(
        "top_k", [x], [(shape, x.dtype), (shape, positions)], {"axis": axis, "largest": int(largest), **attrs},
        isa=isa, threads=threads,
    )  # fmt: skip
    return values, places


@quick
@given(
    shape=st.lists(st.sampled_from([1, 2, 3, 5, 7, 33]), min_size=1, max_size=3),
    dtype=st.sampled_from([*FLOATS, *INTEGERS]),
    ties=st.booleans(),
    largest=st.booleans(),
    data=st.data(),
    seed=SEEDS,
)
def test_first_of_lines(
    shape: list[int], dtype: Any, ties: bool, largest: bool, data: st.DataObject, seed: int
) -> None:
    x = numbers(np.random.default_rng(seed), shape, dtype, ties)
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    k = data.draw(st.integers(0, shape[axis]))
    want = np.take(in_order(x, axis, largest), range(k), axis)
    for isa in ["reference", *isas_of("top_k")]:
        values, places = run(x, k, axis, largest, isa=isa, positions=data.draw(st.sampled_from([np.int64, np.int32])))
        np.testing.assert_array_equal(places, want, err_msg=isa)
        assert values.tobytes() == np.take_along_axis(x, want, axis).tobytes(), isa


@pytest.mark.parametrize("k", [1, 2, 50, 1000, 30_000, 70_001])
@pytest.mark.parametrize("how", ["random", "rising", "falling", "equal"])
def test_long_lines_in_pieces(k: int, how: str) -> None:
    """More than the room for what may be wanted, whichever way a line runs; cut into pieces for two threads."""
    rng = np.random.default_rng(k)
    x = {
        "random": rng.standard_normal(70_001),
        "rising": np.arange(70_001.0),
        "falling": -np.arange(70_001.0),
        "equal": np.ones(70_001),
    }[how].astype(np.float32)
    for largest in (False, True):
        want = in_order(x, 0, largest)[:k]
        for isa in isas_of("top_k"):
            for threads in (1, 2):
                np.testing.assert_array_equal(run(x, k, 0, largest, isa=isa, threads=threads)[1], want)


@quick
@given(n=st.sampled_from([1, 2, 3, 8, 257, 3000]), after=st.sampled_from([1, 3]), dtype=st.sampled_from([*FLOATS, np.int8, np.int64]),
       nans=st.booleans(), data=st.data(), seed=SEEDS)  # fmt: skip
def test_places_of_the_sorted_line(n: int, after: int, dtype: Any, nans: bool, data: st.DataObject, seed: int) -> None:
    x = numbers(np.random.default_rng(seed), (2, n, after), dtype, False)
    if not nans and dtype in FLOATS:
        x = np.where(np.isnan(x.astype(np.float64)), 1, x).astype(dtype)
    order = in_order(x, 1, False)
    missing = np.isnan(x.astype(np.float64)).sum(1)
    k = data.draw(st.integers(0, n - 1))
    places = {
        "kth": np.full((2, after), k),
        "median": np.where(missing > 0, n - missing, (n - 1) // 2),
        "nanmedian": np.maximum(n - missing - 1, 0) // 2,
    }
    for pick, place in places.items():
        want = np.take_along_axis(order, place[:, None], 1)
        for isa in ["reference", *isas_of("top_k")] if n < 300 else isas_of("top_k"):
            values, found = run(x, 1, 1, False, isa=isa, threads=2, pick=pick, k=k)
            np.testing.assert_array_equal(found, want, err_msg=f"{pick} {isa}")
            assert values.tobytes() == np.take_along_axis(x, want, 1).tobytes()


def test_what_has_no_order_or_is_not_there_is_refused() -> None:
    x = np.ones(4, np.float32)
    with pytest.raises(Error, match="asks for 5 of 4"):
        run(x, 5, 0, True, isa="scalar")
    with pytest.raises(Error, match="x is .*, expected bool, float16"):
        run(x.astype(np.complex64), 1, 0, True, isa="scalar")
    with pytest.raises(Error, match="place 4 of 4"):
        run(x, 1, 0, False, isa="scalar", pick="kth", k=4)
    with pytest.raises(Error, match="largest = 0"):
        run(x, 1, 0, True, isa="scalar", pick="median")
