"""Transpose, concat, slice, pad and gather against numpy, byte for byte, for elements of 1, 2, 4 and 8 bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from maas_rt import Error, _kernels
from tests.kernels._checks import SEEDS, check_moved, quick

DTYPES = st.sampled_from([np.bool_, np.uint8, np.float16, np.int32, np.float32, np.int64, np.float64, np.complex64])
EXTENT = st.one_of(st.integers(0, 5), st.sampled_from([1, 7, 8, 9, 16, 17]))


def shapes(most: int = 5) -> st.SearchStrategy[list[int]]:
    return st.lists(EXTENT, max_size=most).filter(lambda s: np.prod(s, dtype=float) < 20000)


def numbers(seed: int, shape: Any, dtype: Any) -> NDArray[Any]:
    """Any bytes that make elements of the dtype."""
    rng = np.random.default_rng(seed)
    if dtype == np.bool_:
        return rng.integers(0, 2, shape).astype(np.bool_)
    raw = rng.integers(0, 256, int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize, np.uint8)
    return raw.view(dtype).reshape(shape)


@pytest.mark.parametrize("channels", [2, 3, 4, 5])
@pytest.mark.parametrize("columns", [1, 2, 3, 4, 5, 7, 8, 9, 63, 64, 65, 5461, 5462, 70001])
def test_transpose_of_few_rows(channels: int, columns: int) -> None:
    """The channels of an image, cut along its pixels: one more and one less than what a piece of work or a store takes."""
    x = np.arange(2 * channels * columns, dtype=np.float32).reshape(2, channels, columns)
    check_moved("transpose", [x], np.ascontiguousarray(x.transpose(0, 2, 1)), {"perm": (0, 2, 1)}, threads=2)


@quick
@given(shape=shapes(6), dtype=DTYPES, order=st.randoms(use_true_random=False), seed=SEEDS)
def test_transpose(shape: list[int], dtype: Any, order: Any, seed: int) -> None:
    x = numbers(seed, shape, dtype)
    perm = list(range(len(shape)))
    order.shuffle(perm)
    check_moved(
        "transpose", [x], np.ascontiguousarray(x.transpose(perm)).reshape(x.transpose(perm).shape), {"perm": perm}
    )


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64])
@pytest.mark.parametrize("perm", [(0, 3, 1, 2), (0, 2, 3, 1), (3, 2, 1, 0), (0, 2, 1, 3)])
def test_transpose_of_images_on_two_threads(dtype: Any, perm: tuple[int, ...]) -> None:
    x = numbers(7, (2, 67, 35, 33), dtype)
    check_moved("transpose", [x], np.ascontiguousarray(x.transpose(perm)), {"perm": perm}, threads=2)


@quick
@given(
    shape=shapes().filter(bool),
    extents=st.lists(st.integers(0, 4), min_size=1, max_size=5),
    axis=st.integers(0, 4),
    back=st.booleans(),
    dtype=DTYPES,
    seed=SEEDS,
)
def test_concat(shape: list[int], extents: list[int], axis: int, back: bool, dtype: Any, seed: int) -> None:
    axis %= len(shape)
    parts = [numbers(seed + i, [*shape[:axis], e, *shape[axis + 1 :]], dtype) for i, e in enumerate(extents)]
    check_moved("concat", parts, np.concatenate(parts, axis), {"axis": axis - len(shape) if back else axis})


@st.composite
def sliced(draw: st.DrawFn) -> tuple[list[int], list[slice]]:
    shape = draw(shapes().filter(lambda s: 0 not in s))
    slices = []
    for extent in shape:
        start, stop = draw(st.integers(0, extent - 1)), draw(st.integers(0, extent))
        step = draw(st.sampled_from([1, 1, 2, 3, -1, -2]))
        if draw(st.booleans()):
            slices.append(slice(None))
        elif step > 0:
            slices.append(slice(start, stop, step))
        else:
            slices.append(slice(start, stop - 1 if 0 < stop <= start else None, step))
    return shape, slices


@quick
@given(case=sliced(), back=st.booleans(), dtype=DTYPES, seed=SEEDS)
def test_slice(case: tuple[list[int], list[slice]], back: bool, dtype: Any, seed: int) -> None:
    shape, slices = case
    x = numbers(seed, shape, dtype)
    starts = [s.start or 0 for s in slices]
    attrs = {
        "starts": [s - extent if back else s for s, extent in zip(starts, shape, strict=True)],
        "steps": [s.step or 1 for s in slices],
    }
    want = x[tuple(slices)]
    check_moved("slice", [x], np.ascontiguousarray(want).reshape(want.shape), attrs)


def test_slice_without_steps_takes_every_element() -> None:
    x = numbers(1, (300, 70, 9), np.float32)
    check_moved("slice", [x], np.ascontiguousarray(x[5:, 3:61]), {"starts": [5, 3, 0]}, threads=2)


MODES = st.sampled_from(["constant", "reflect", "edge", "wrap"])


@quick
@given(
    shape=shapes(4).filter(lambda s: 0 not in s),
    pads=st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), min_size=4, max_size=4),
    kept=st.integers(0, 4),
    mode=MODES,
    dtype=st.sampled_from([np.uint8, np.int16, np.float16, np.float32, np.int64, np.float64]),
    value=st.sampled_from([0.0, 1.0, 3.0]),
    threads=st.integers(1, 2),
    seed=SEEDS,
)
def test_pad(
    shape: list[int],
    pads: list[tuple[int, int]],
    kept: int,
    mode: str,
    dtype: Any,
    value: float,
    threads: int,
    seed: int,
) -> None:
    x = numbers(seed, shape, dtype)
    width = [(0, 0) if i >= kept else p for i, p in enumerate(pads[: len(shape)])]
    more = {"constant_values": value} if mode == "constant" else {}
    want = np.pad(x, width, mode=mode, **more) if width else x  # type: ignore[call-overload]
    check_moved("pad", [x], want, {"before": [p[0] for p in width], "mode": mode, "value": value}, threads)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("value", [-0.1, 65504.0, 65519.0, 65521.0, 3e-8, 6.1e-5, -2.5e-7, float("inf"), float("-inf")])
def test_pad_rounds_its_value(dtype: Any, value: float) -> None:
    x = np.ones((2, 3), dtype)
    with np.errstate(over="ignore"):
        want = np.pad(x, [(1, 1), (0, 2)], constant_values=np.float64(value).astype(dtype))
    check_moved("pad", [x], want, {"before": [1, 0], "value": value})


def test_pad_crops_where_before_is_negative() -> None:
    x = numbers(2, (6, 7, 3), np.float32)
    want = np.pad(x[2:, :4], [(0, 1), (2, 0), (0, 0)], constant_values=5)
    check_moved("pad", [x], want, {"before": [-2, 2, 0], "value": 5.0})


@quick
@given(
    shape=shapes(4).filter(lambda s: bool(s)),
    axis=st.integers(0, 3),
    index_shape=st.lists(st.integers(0, 4), max_size=2),
    wide=st.booleans(),
    dtype=DTYPES,
    seed=SEEDS,
)
def test_gather(shape: list[int], axis: int, index_shape: list[int], wide: bool, dtype: Any, seed: int) -> None:
    axis %= len(shape)
    if shape[axis] == 0:
        shape[axis] = 3
    x = numbers(seed, shape, dtype)
    rng = np.random.default_rng(seed)
    indices = rng.integers(-shape[axis], shape[axis], index_shape).astype(np.int64 if wide else np.int32)
    check_moved("gather", [x, indices], np.take(x, indices, axis), {"axis": axis - len(shape) if seed % 2 else axis})


@pytest.mark.parametrize("isa", ["reference", "scalar"])
@pytest.mark.parametrize("index", [4, -5, 2**31 - 1, -(2**31), 2**62, -(2**63)])
def test_gather_names_an_index_that_does_not_exist(isa: str, index: int) -> None:
    x = np.ones((4, 3), np.float32)
    for dtype in [np.int32, np.int64]:
        if abs(index) >= 2**32 and dtype == np.int32:
            continue
        with pytest.raises(Error, match="gather: an index is out of range"):
            _kernels.run("gather", [x, np.array([0, index], dtype)], [(2, 3)], {"axis": 0}, isa=isa)


@pytest.mark.parametrize("isa", ["reference", "scalar"])
def test_gather_by_positions_from_the_start(isa: str) -> None:
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    attrs = {"axis": 0, "wraps": 0}
    (got,) = _kernels.run("gather", [x, np.array([0, 3])], [(2, 3)], attrs, isa=isa)
    np.testing.assert_array_equal(got, x[[0, 3]])
    for index in (-1, -4, 4):
        with pytest.raises(Error, match=r"gather: an index is out of range; indices must lie in \[0, extent\)"):
            _kernels.run("gather", [x, np.array([0, index])], [(2, 3)], attrs, isa=isa)


X = np.ones((4, 3), np.float32)


@pytest.mark.parametrize(
    ("contract", "inputs", "shape", "attrs", "words"),
    [
        ("transpose", [X], (3, 4), {}, "'perm'"),
        ("transpose", [X], (3, 4), {"perm": [0, 0]}, "permutation"),
        ("transpose", [X], (3, 4), {"perm": [1, 2]}, "permutation"),
        ("transpose", [X], (4, 3), {"perm": [1, 0]}, "extent"),
        ("transpose", [X], (3, 4), {"perm": [1, 0, 2]}, "dimensions"),
        ("transpose", [X.astype(np.float64)], (3, 4), {"perm": [1, 0]}, "expected float64 as x"),
        ("transpose", [X.astype(np.complex128)], (3, 4), {"perm": [1, 0]}, "64 bits"),
        ("concat", [X, X], (4, 5), {"axis": 1}, "extent"),
        ("concat", [X, X], (8, 3), {"axis": 2}, "axis"),
        ("concat", [X, X[:, :2].copy()], (8, 3), {"axis": 0}, "extent"),
        ("concat", [X, np.ones(3, np.float32)], (5, 3), {"axis": 0}, "dimensions"),
        ("concat", [], (5, 3), {"axis": 0}, "inputs"),
        ("slice", [X], (4, 3), {}, "'starts'"),
        ("slice", [X], (4, 3), {"starts": [0]}, "dimensions"),
        ("slice", [X], (4, 3), {"starts": [1, 0]}, "leave"),
        ("slice", [X], (4, 3), {"starts": [0, 0], "steps": [-1, 1]}, "leave"),
        ("slice", [X], (2, 3), {"starts": [0, 0], "steps": [2**62, 1]}, "leave"),
        ("slice", [X], (3, 3), {"starts": [0, 0], "steps": [2**63 - 1, 1]}, "leave"),
        ("slice", [X], (1, 1), {"starts": [-5, 0]}, "leave"),
        ("slice", [X], (1, 1), {"starts": [-(2**63), 0]}, "leave"),
        ("pad", [X], (4, 3), {}, "'before'"),
        ("pad", [X], (4, 3), {"before": [0]}, "dimensions"),
        ("pad", [X], (4, 3), {"before": [0, 2**50]}, "'before'"),
        ("pad", [np.ones(3, np.int32)], ((4,), np.int32), {"before": [1], "value": 0.5}, "value"),
        ("pad", [np.ones(3, np.uint8)], ((4,), np.uint8), {"before": [1], "value": -1.0}, "value"),
        ("pad", [np.ones(3, np.uint8)], ((4,), np.uint8), {"before": [1], "value": float("nan")}, "value"),
        ("pad", [np.ones((0, 3), np.float32)], (4, 3), {"before": [1, 0], "mode": "edge"}, "no elements"),
        ("gather", [X, np.ones(2, np.float32)], (2, 3), {"axis": 0}, "indices"),
        ("gather", [X, np.ones(2, np.int16)], (2, 3), {"axis": 0}, "indices"),
        ("gather", [X, np.ones(2, np.int32)], (2, 4), {"axis": 0}, "extent"),
        ("gather", [X, np.ones(2, np.int32)], (2, 3), {"axis": 2}, "axis"),
        ("gather", [np.float32(1), np.ones(2, np.int32)], (2,), {"axis": 0}, "axis"),
    ],
)
def test_refuses(contract: str, inputs: list[Any], shape: Any, attrs: dict[str, Any], words: str) -> None:
    with pytest.raises(Error, match=words):
        _kernels.run(contract, inputs, [shape], attrs)
