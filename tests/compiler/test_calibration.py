"""Calibration data of any form, and the ranges that come of them; against numpy, by the methods' own formulas."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from maas_rt.compiler.compression._ranges import Numbers, find_range
from maas_rt.compiler.compression._samples import InputType, Samples

import maas_rt

IMAGE = InputType("image", "float32", (None, 3))
IDS = InputType("ids", "int64", (None,))
X = np.arange(12, dtype=np.float32).reshape(4, 3)
N = np.arange(4)


def taken(data: Any, *inputs: InputType) -> list[dict[str, np.ndarray]]:
    return list(Samples(data, inputs or (IMAGE,)))


# ---- samples


def one_by_one() -> Iterator[Any]:
    yield from ({"image": row[None]} for row in X)


@pytest.mark.parametrize(
    "data",
    [
        [{"image": row[None]} for row in X],
        one_by_one(),
        ((row[None],) for row in X),
        (row[None] for row in X),
        X,
        X[:, None],  # a set of inputs each
        {"image": X},
        torch.from_numpy(X).requires_grad_(),
        X.astype(np.float64),
        {"image": X.tolist()},
        torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.from_numpy(X)), batch_size=1),
    ],
)
def test_data_of_any_form(data: Any) -> None:
    found = taken(data)
    assert [sample["image"].dtype for sample in found] == [np.float32] * 4
    np.testing.assert_array_equal(np.concatenate([sample["image"] for sample in found]), X)


def test_a_batch_takes_so_many_samples() -> None:
    """The last ones twice where they do not divide."""
    found = taken({"image": X, "ids": N}, InputType("image", "float32", (3, 3)), IDS)
    assert [sample["ids"].tolist() for sample in found] == [[0, 1, 2], [1, 2, 3]]
    assert [len(s["image"]) for s in taken(X, InputType("image", "float32", (None, 3), least=2))] == [2, 2]


def test_integers_of_another_width_are_taken_where_they_fit() -> None:
    assert taken([N.astype(np.int32)], IDS)[0]["ids"].dtype == np.int64
    with pytest.raises(maas_rt.InvalidArgumentError, match="holds numbers that int8 does not"):
        taken([N + 200], InputType("ids", "int8", (4,)))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([], "hold no sample"),
        (iter(()), "hold no sample"),
        (X[:0], "hold no sample"),
        (7, "are an int, expected an iterable"),
        ("calib.npz", "are a str, expected an iterable"),
        ([{"picture": X}], "calibration sample 0 has ['picture'], expected the model's inputs ['image']"),
        ({"picture": X}, "the calibration data have ['picture'], expected the model's inputs ['image']"),
        ([X[:1], X[:1, :2]], "calibration sample 1: input 'image' has shape [1, 2], expected [any, 3]"),
        ([X.astype(np.int64)], "calibration sample 0: input 'image' is int64, expected float32"),
        ([(X, N)], "calibration sample 0 is a tuple of 2, expected a mapping"),
        ([{"image": np.array([{}], object)}], "is a ndarray of objects, expected an array of numbers"),
        ([{"image": [[1.0, 2.0], [3.0]]}], "is a list of objects, expected an array of numbers"),
        ([X, np.where(X == 7, np.nan, X)], "calibration sample 1: input 'image' holds nan at [2, 1], expected finite numbers"),
        ([np.full((1, 3), 1e300)], "holds inf at [0, 0]"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_data_is_told(data: Any, words: str) -> None:
    with pytest.raises(maas_rt.InvalidArgumentError, match=re.escape(words)):
        taken(data)


def test_arrays_of_several_inputs_belong_together() -> None:
    for data, words in (
        ({"image": X, "ids": N[:3]}, "different numbers of samples along their first axis ('image': 4, 'ids': 3)"),
        ({"image": X, "ids": np.array(3)}, "('image': 4, 'ids': none)"),
        ({"image": X[:, None], "ids": N}, "stacked in two ways"),
        (X, "are one array, and the model has 2 inputs"),
    ):
        with pytest.raises(maas_rt.InvalidArgumentError, match=re.escape(words)):
            taken(data, IMAGE, IDS)
    with pytest.raises(maas_rt.InvalidArgumentError, match="hold 4 samples, and the model takes 8 at a time"):
        taken(X, InputType("image", "float32", (8, 3)))


def test_some_samples_are_kept_spread_evenly_over_all() -> None:
    samples = Samples(({"ids": np.array([i])} for i in range(1000)), (IDS,))
    assert sum(1 for _ in samples) == 1000
    kept = [int(sample["ids"][0]) for sample in samples.kept]
    assert 16 <= len(kept) <= 32 and kept[0] == 0 and kept[-1] >= 900
    assert len(set(np.diff(kept))) == 1


# ---- ranges


def numbers(*parts: Any) -> Numbers:
    found = Numbers()
    for part in parts:
        found.add(np.asarray(part, np.float32))
    return found


def rounded(x: np.ndarray, span: tuple[float, float]) -> np.ndarray:
    step = (span[1] - span[0]) / 255
    zero = np.rint(-span[0] / step)
    return np.asarray((np.clip(np.rint(x / step) + zero, 0, 255) - zero) * step)


def test_minmax_takes_in_zero() -> None:
    assert find_range(numbers([1, 5], [2, 3]), "minmax", 255) == (0, 5)
    assert find_range(numbers([-4, -1]), "minmax", 255) == (-4, 0)
    for method in ("minmax", "percentile", "mse", "entropy"):
        assert find_range(numbers(np.zeros(9)), method, 255) == (0, 0)


def test_bins_are_the_same_in_every_order_and_hold_all() -> None:
    x = np.random.default_rng(0).standard_normal(5000).astype(np.float32) * np.float32(1e-3)
    once, again = numbers(x, [0.0, -0.0, 1e30]), numbers([1e30], x[::-1], [-0.0, 0.0])
    for a, b in zip(once.bins(), again.bins()):
        np.testing.assert_array_equal(a, b)
    lower, upper, counts = once.bins()
    assert counts.sum() == 5003 and (np.diff(lower) >= 0).all() and (lower <= upper).all()
    assert (upper - lower <= np.maximum(np.abs(lower), np.abs(upper)) / 127).all()


def test_percentile_leaves_out_a_ten_thousandth() -> None:
    x = np.sort(np.random.default_rng(1).standard_normal(100_000)).astype(np.float32)
    low, high = find_range(numbers(x), "percentile", 255)
    assert low == pytest.approx(x[5], rel=0.02) and high == pytest.approx(x[-6], rel=0.02)  # half of it on each side
    low, high = find_range(numbers(np.maximum(x, 0)), "percentile", 255)
    assert low == 0 and high == pytest.approx(x[-11], rel=0.02)  # one tail
    assert find_range(numbers(x, [1e30]), "percentile", 255)[1] < 5


@pytest.mark.parametrize("draw", ["standard_normal", "standard_exponential", "standard_cauchy", "random"])
def test_mse_has_about_the_least_error_that_there_is(draw: str) -> None:
    """Found among 64 by 64 ranges by quantizing the numbers themselves."""
    x = getattr(np.random.default_rng(2), draw)(4000).astype(np.float32)
    found = numbers(x)

    def error(span: tuple[float, float]) -> float:
        return float(((x - rounded(x, span)) ** 2).mean())

    ends = np.exp2(-np.arange(64) / 10)
    least = min(error((found.low * a if found.low < 0 else 0, found.high * b)) for a in ends for b in ends)
    assert error(find_range(found, "mse", 255)) <= 1.1 * least
    assert error(find_range(found, "mse", 255)) <= error(find_range(found, "minmax", 255)) * 1.001


def test_entropy_is_that_of_the_paper() -> None:
    """The thresholds' divergences as Migacz has them, from a histogram of the numbers themselves."""
    x = np.random.default_rng(3).laplace(size=20_000).astype(np.float32)
    magnitudes = np.abs(x)
    histogram, edges = np.histogram(magnitudes, 2048, (0, magnitudes.max()))

    def divergence(bins: int) -> float:
        p = histogram[:bins].astype(np.float64)
        q = np.zeros(bins)
        for level in range(128):
            own = np.flatnonzero(np.arange(bins) * 128 // bins == level)
            filled = own[p[own] > 0]
            q[filled] = p[own].sum() / max(len(filled), 1)
        p[-1] += histogram[bins:].sum()
        p, q = p / p.sum(), q / q.sum()
        keep = p > 0
        return float((p[keep] * np.log(p[keep] / np.where(q[keep] > 0, q[keep], 1e-12))).sum())

    low, high = find_range(numbers(x), "entropy", 255)
    assert max(-low, high) <= magnitudes.max()
    chosen = int(np.searchsorted(edges, max(-low, high) * 0.9999))
    every = [divergence(bins) for bins in range(128, 2049, 4)]
    # Bins of 1/128 cannot show where one of these is empty: among the least tenth of all thresholds.
    assert divergence(chosen) <= np.quantile(every, 0.1)


def test_what_can_be_read_once_is_kept_for_the_next_time() -> None:
    rows = np.arange(12, dtype=np.float32).reshape(4, 1, 3)
    samples = Samples(({"x": row} for row in rows), [InputType("x", "float32", (1, 3))])
    assert np.array_equal([s["x"] for s in samples], rows)
    again, beside = iter(samples), iter(samples)
    assert np.array_equal(next(again)["x"], rows[0]) and np.array_equal(next(beside)["x"], rows[0])
    assert np.array_equal([s["x"] for s in again], rows[1:])
    assert np.array_equal([s["x"] for s in samples.kept], rows)
