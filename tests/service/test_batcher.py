"""Batching without a thread and a clock."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import maas_rt
from maas_rt.service._batcher import (
    Batch,
    Batcher,
    BatchPolicy,
    Left,
    batch_key,
    batches,
    shared_out,
    stacked,
)
from maas_rt.service._datatypes import DATATYPES
from maas_rt.service._signature import Signature, TensorSpec


def _names(found: list[Batch[str]]) -> list[tuple[str, str]]:
    return [(" ".join(part.request for part in batch.parts), batch.left.value) for batch in found]


def test_a_batch_leaves_when_it_is_full() -> None:
    batcher: Batcher[str] = Batcher(BatchPolicy(4, max_delay=100))
    assert _names(batcher.add("a", 1, "k", 0)) == []
    assert _names(batcher.add("b", 2, "k", 1)) == []
    assert _names(batcher.add("other", 3, "l", 2)) == []
    assert _names(batcher.add("c", 2, "k", 3)) == [("a b", "full")]  # c is not passed by, and not divided
    assert _names(batcher.add("d", 2, "k", 4)) == [("c d", "full")]
    assert batcher.rows == 3


def test_a_batch_leaves_when_its_first_has_waited() -> None:
    batcher: Batcher[str] = Batcher(BatchPolicy(8, max_delay=100))
    batcher.add("a", 1, "k", 10)
    batcher.add("b", 1, "k", 60)
    batcher.add("c", 1, "l", 70)
    assert batcher.next_due() == 110 and batcher.due(109) == []
    assert _names(batcher.due(110)) == [("a b", "delay")]
    assert batcher.next_due() == 170 and _names(batcher.due(1000)) == [("c", "delay")]
    assert batcher.next_due() is None and batcher.rows == 0


def test_preferred_sizes() -> None:
    batcher: Batcher[str] = Batcher(BatchPolicy(8, max_delay=100, preferred=(2, 4)))
    for name in "abc":
        assert batcher.add(name, 1, "k", 0) == []
    assert _names(batcher.add("d", 1, "k", 0)) == [("a b c d", "preferred")]
    for name in "efg":
        batcher.add(name, 1, "k", 0)
    assert _names(batcher.due(100)) == [("e f", "delay"), ("g", "delay")]
    batcher.add("h", 3, "k", 0)
    assert batcher.add("i", 3, "k", 0) == []  # 6 rows: neither 4 nor full
    assert _names(batcher.add("j", 3, "k", 0)) == [("h i", "full")]


def test_a_request_above_the_maximum_is_run_in_parts() -> None:
    batcher: Batcher[str] = Batcher(BatchPolicy(4, max_delay=100))
    batcher.add("a", 1, "k", 0)
    found = batcher.add("big", 10, "k", 1)
    assert [[(p.request, p.first, p.rows) for p in batch.parts] for batch in found] == [
        [("a", 0, 1)],
        [("big", 0, 4)],
        [("big", 4, 4)],
    ]
    assert [[(p.request, p.first, p.rows) for p in batch.parts] for batch in batcher.due(101)] == [[("big", 8, 2)]]


def test_a_request_of_many_parts_costs_no_more_than_their_number() -> None:
    batcher: Batcher[str] = Batcher(BatchPolicy(1, max_delay=100))
    began = time.monotonic()
    assert len(batcher.add("big", 100_000, "k", 0)) == 100_000
    assert time.monotonic() - began < 10 and batcher.rows == 0


def test_priorities_and_ageing() -> None:
    strict: Batcher[str] = Batcher(BatchPolicy(2, max_delay=100))
    strict.add("low", 1, "k", 0, priority=3)
    assert _names(strict.add("high", 1, "k", 50, priority=1)) == [("high low", "full")]
    for ageing, expected in ((0, "high"), (20, "low")):
        batcher: Batcher[str] = Batcher(BatchPolicy(3, max_delay=1000, ageing=ageing))
        batcher.add("low", 2, "k", 0, priority=3)
        (batch,) = batcher.add("high", 2, "k", 70, priority=1)
        assert [part.request for part in batch.parts] == [expected]


def test_a_deadline_ends_the_wait() -> None:
    batcher: Batcher[str] = Batcher(BatchPolicy(8, max_delay=100), run_time=lambda rows: 10 * rows)
    batcher.add("a", 1, "k", 0)
    batcher.add("b", 1, "k", 0, deadline=60)
    assert batcher.next_due() == 40  # a run of two rows takes 20
    assert _names(batcher.due(40)) == [("a b", "deadline")]


def test_cancelled_requests_leave_before_they_run() -> None:
    batcher: Batcher[str] = Batcher(BatchPolicy(2, max_delay=100))
    batcher.add("a", 1, "k", 0)
    assert batcher.remove("a") and not batcher.remove("a") and batcher.next_due() is None
    assert batcher.rows == 0
    batcher.add("c", 1, "k", 0)
    assert _names(batcher.drain(1)) == [("c", "drain")] and batcher.drain(2) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_rows": 0},
        {"max_rows": 4, "max_delay": -1},
        {"max_rows": 4, "preferred": (8,)},
        {"max_rows": 4, "ageing": -1},
    ],
)
def test_policies_that_are_none(wrong: dict[str, Any]) -> None:
    with pytest.raises(maas_rt.InvalidArgumentError):
        BatchPolicy(**wrong)


@settings(max_examples=150, deadline=None)
@given(
    policy=st.tuples(st.integers(1, 6), st.integers(0, 50), st.sets(st.integers(1, 6)), st.sampled_from([0, 7])),
    steps=st.lists(
        st.tuples(st.integers(1, 14), st.integers(0, 2), st.integers(1, 3), st.integers(0, 40), st.booleans()),
        max_size=25,
    ),
)
def test_every_row_leaves_once_in_time_and_in_order(policy: Any, steps: Any) -> None:
    most, delay, preferred, ageing = policy
    batcher: Batcher[int] = Batcher(BatchPolicy(most, delay, tuple(s for s in preferred if s <= most), ageing))
    now, sent, found = 0, {}, []
    for number, (rows, key, priority, pause, poll) in enumerate(steps):
        now += pause
        if poll:
            found += batcher.due(now)
            assert (due := batcher.next_due()) is None or due > now
        sent[number] = (rows, key)
        found += batcher.add(number, rows, key, now, priority)
        assert batcher.rows <= 3 * (most - 1)
    found += batcher.drain(now)
    assert batcher.rows == 0 and batcher.next_due() is None
    rows_of: dict[int, list[int]] = {number: [] for number in sent}
    for batch in found:
        assert 1 <= batch.rows <= most and batch.parts
        assert len({sent[part.request][1] for part in batch.parts}) == 1
        for part in batch.parts:
            rows_of[part.request] += range(part.first, part.first + part.rows)
    assert all(sorted(rows_of[number]) == list(range(rows)) for number, (rows, _) in sent.items())


# ---- arrays ---------------------------------------------------------------------------------------------------------


def test_rows_are_stacked_and_shared_out() -> None:
    one = {"x": np.arange(4).reshape(2, 2), "y": np.array([[1.0], [2.0]])}
    two = {"y": np.array([[3.0]]), "x": np.full((1, 2), 9)}
    assert batch_key(one) == batch_key(two) != batch_key({**two, "x": np.zeros((1, 3), int)})
    batch = stacked([(one, 1, 1), (two, 0, 1)])
    assert batch["x"].tolist() == [[2, 3], [9, 9]] and batch["y"].tolist() == [[2.0], [3.0]]
    alone = stacked([(one, 0, 2)])
    assert np.shares_memory(alone["x"], one["x"])
    first, second = shared_out({"z": np.arange(6).reshape(3, 2)}, [1, 2])
    assert first["z"].tolist() == [[0, 1]] and second["z"].tolist() == [[2, 3], [4, 5]]


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        ([("n", 3), ("n",)], True),
        ([("n", "length"), ("n", 4)], True),
        ([("n", 3), ("m", 3)], False),
        ([("n", 3), (1, 3)], False),
        ([(4, 3), (4, 3)], False),
        ([("n", "n"), ("n", 1)], False),
        ([("n", 3), ("n", "2*n")], False),
        ([("2*n", 3), ("2*n", 3)], False),
        ([("n", 3), ()], False),
    ],
)
def test_which_models_take_batches(shapes: list[tuple[int | str, ...]], expected: bool) -> None:
    specs = [TensorSpec(str(i), DATATYPES["FP32"], "float32", shape) for i, shape in enumerate(shapes)]
    assert batches(Signature(tuple(specs[:-1]), tuple(specs[-1:]))) is expected


def test_why_a_batch_left_has_a_name() -> None:
    assert {each.value for each in Left} == {"full", "preferred", "delay", "deadline", "drain"}
