"""The gauntlet's own arithmetic: who the best peer is, what counts, what agrees, and what the table says."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench._agreement import largest_error, scaled_rms
from bench._harness import Comparison, race
from bench.gauntlet import _table
from bench.gauntlet.__main__ import few_are_void
from bench.gauntlet._prepare import reason_in
from bench.gauntlet._roofline import Work
from bench.gauntlet._row import Rates, assemble
from bench.gauntlet._store import Store

HEAD = {"model": "m", "precision": "fp32", "threads": 1, "batch": 1}


def test_best_peer_is_chosen_on_even_rounds_and_compared_on_odd_ones() -> None:
    result = Comparison({"maas_rt": [1.0] * 4, "a": [1.0, 9.0, 1.0, 9.0], "b": [2.0, 3.0, 2.0, 3.0]}, {})
    assert result.best_peer() == "a"  # b is quicker in the odd rounds, which do not choose
    assert result.best_ratio() == pytest.approx(1 / 9)
    assert result.best_peer(among=["maas_rt", "b"]) == "b"


def test_our_other_interfaces_are_no_peers() -> None:
    assert Comparison({"maas_rt": [1.0, 1.0], "maas_rt_c": [0.5, 0.5]}, {}).best_peer() is None


def test_one_round_chooses_but_compares_nothing() -> None:
    assert Comparison({"maas_rt": [1.0], "a": [2.0]}, {}).best_ratio() is None


def test_a_wrong_peer_is_marked_and_not_compared_with() -> None:
    result = Comparison({"maas_rt": [2.0, 2.0], "right": [3.0, 3.0], "quick": [1.0, 1.0]}, {}, {"right": {"memory": 5}})
    row = assemble(HEAD, result, {"maas_rt": 1e-6, "right": 1e-6, "quick": 1.1e-4}, {"absent": "no"}, 1.0, 1e-4)
    assert row["wrong"] == ["quick"]
    assert row["best_peer"] == "right"
    assert row["speed_to_best"] == pytest.approx(1.5)
    assert row["speed"]["quick"] == pytest.approx(0.5)  # still shown
    assert row["failed"] == {"absent": "no"}
    assert row["share_of_roofline"]["maas_rt"] == pytest.approx(0.5)
    assert row["memory_bytes"] == {"right": 5}


@pytest.mark.parametrize("error", [1.1e-4, math.inf, math.nan])
def test_a_row_does_not_count_where_we_are_wrong(error: float) -> None:
    result = Comparison({"maas_rt": [1.0, 1.0], "a": [3.0, 3.0]}, {})
    row = assemble(HEAD, result, {"maas_rt": error, "a": 0.0}, {}, 1.0, 1e-4) | {"quiet": True}
    assert row["wrong"] == ["maas_rt"]
    assert row["speed_to_best"] is None
    assert _table.counted([row]) == []


def test_a_row_does_not_count_where_we_do_not_run() -> None:
    row = assemble(HEAD, Comparison({"a": [3.0, 3.0]}, {"maas_rt": "x"}), {"a": 0.0}, {"maas_rt": "x"}, 1.0, 1e-4)
    assert row["speed_to_best"] is None
    assert row["speed"] == {}


def test_agreement_is_relative_to_the_scale_and_ignores_axes_of_one() -> None:
    expected = np.array([[1.0, -200.0]], np.float32)
    assert largest_error([expected], [np.array([1.0, -198.0], np.float32)]) == pytest.approx(0.01)
    assert largest_error([expected], [expected.T]) == 0.0
    assert largest_error([np.ones((2, 3))], [np.ones((3, 2))]) == math.inf
    assert largest_error([expected], []) == math.inf


def test_the_error_of_quantization_is_of_the_worst_output() -> None:
    expected = [np.full((2, 2), 4.0), np.array([3.0, -4.0])]
    assert scaled_rms(expected, [np.full((2, 2), 4.0), np.array([3.0, -3.0])]) == pytest.approx(1 / 5)
    assert scaled_rms(expected, [np.full((2, 2), 5.0), np.array([3.0, -4.0])]) == pytest.approx(1 / 4)
    assert scaled_rms(expected, [np.full((2, 2), np.nan), np.array([3.0, -4.0])]) == math.inf
    assert scaled_rms(expected, expected[:1]) == math.inf


def test_values_that_are_not_finite_must_be_the_same_on_both_sides() -> None:
    broken = np.array([np.nan, 1.0])
    assert largest_error([broken], [broken]) == 0.0
    assert largest_error([broken], [np.array([0.0, 1.0])]) == math.inf
    assert largest_error([np.array([0.0, 1.0])], [broken]) == math.inf


def test_roofline_is_the_slower_of_arithmetic_and_reading() -> None:
    bandwidth = {1 << 15: 100.0, 1 << 20: 10.0}
    assert Work(2e9, 0).least_seconds(50.0, bandwidth) == pytest.approx(0.04)
    assert Work(0, 2e6).least_seconds(50.0, bandwidth) == pytest.approx(2e6 / 10e9)
    assert Work(0, 1e6).least_seconds(50.0, bandwidth) == pytest.approx(1e6 / 100e9)  # may stay in the first cache
    assert Work(0, 100).least_seconds(50.0, bandwidth) == pytest.approx(100 / 100e9)


def test_rates_that_move_in_memory_or_arithmetic_make_a_row_void() -> None:
    before = Rates(100.0, {1: 50.0, 2: 10.0})
    for rates, quiet in [((104.0, 10.0), True), ((94.0, 10.0), False), ((100.0, 8.6), True), ((100.0, 8.4), False)]:
        moved = before.moved(Rates(rates[0], {1: 1.0, 2: rates[1]}))
        assert moved.quiet is quiet
        assert (moved.arithmetic, moved.memory) == pytest.approx((abs(rates[0] / 100 - 1), abs(rates[1] / 10 - 1)))
    assert "memory by 16% (at most 15%)" in str(moved)
    assert before.best(Rates(90.0, {1: 60.0, 2: 9.0})) == Rates(100.0, {1: 60.0, 2: 10.0})


def test_a_run_with_few_void_rows_counts() -> None:
    rows = [{"quiet": True}] * 9
    assert few_are_void([*rows, {"quiet": False}])
    assert not few_are_void([*rows, {"quiet": False}, {"quiet": False}])


def _row(model: str, speed: float, **others: Any) -> dict[str, Any]:
    return {
        **HEAD,
        "model": model,
        "quiet": True,
        "speed_to_best": speed,
        "best_peer": "a",
        "memory_bytes": {},
        "median_ms": {},
    } | others


def test_table_takes_geometric_means_of_what_counts_only() -> None:
    rows = [_row("x", 2.0), _row("y", 0.5), _row("z", 9.0, quiet=False), _row("w", 7.0, threads=2)]
    table = {line.title: line for line in _table.lines(rows, {})}
    single = table["fp32 against each model's best peer, geometric mean: 1 thread, batch 1"]
    assert single.measured == pytest.approx(1.0)
    assert single.verdict == "reached"
    assert single.note == "2 models of 3; the others do not count"
    slowest = table["slowest single model against its best peer"]
    assert (slowest.measured, slowest.verdict) == (0.5, "MISSED")
    assert slowest.note.startswith("y,")
    assert table["libmaas_rt.so, stripped"].verdict == "not measured"


def test_the_lowest_pair_and_the_highest_step_count() -> None:
    together = {"a with b": {"throughput": 1.1}, "a with a": {"throughput": 0.95}}
    cliffs = {"x": {"worst_step": 1.1, "at": 3}, "y": {"worst_step": 1.6, "at": 17}}
    found = {
        line.note: (line.measured, line.verdict)
        for line in _table.lines([], {"together": together, "cliffs": cliffs})
        if line.note
    }
    assert found == {"a with a": (0.95, "reached"), "y, at 17": (1.6, "MISSED")}


@pytest.mark.parametrize(
    ("measured", "verdict"), [(1.3e6, "reached"), (1.0e6, "aim reached"), (1.6e6, "MISSED"), (None, "not measured")]
)
def test_targets_that_are_upper_bounds(measured: float | None, verdict: str) -> None:
    extras = {} if measured is None else {"library": {"stripped_bytes": measured}}
    line = next(line for line in _table.lines([], extras) if line.title.startswith("libmaas_rt"))
    assert line.verdict == verdict


def test_memory_is_the_worst_model_against_onnxruntime() -> None:
    rows = [
        _row("x", 1.0, memory_bytes={"maas_rt": 10, "onnxruntime": 20}),
        _row("y", 1.0, memory_bytes={"maas_rt": 9, "onnxruntime": 10}),
        _row("z", 1.0, memory_bytes={"maas_rt": 9}),
        _row("v", 1.0, memory_bytes={"maas_rt": 90, "onnxruntime": 10}, threads=2),
    ]
    line = next(line for line in _table.lines(rows, {}) if line.title.startswith("peak memory"))
    assert (line.measured, line.verdict) == (0.9, "reached")
    assert line.note.startswith("y;")


def test_table_prints_a_line_for_each_target() -> None:
    table = _table.lines([_row("x", 1.1)], {"gemm": {"share_of_peak": {"384": 0.5, "2048": 0.9}}})
    text = _table.text(table)
    assert len(text.splitlines()) == len(table) + 1
    assert "50 %" in text
    json.dumps(_table.records(table))


def test_an_interrupted_run_goes_on_where_it_was(tmp_path: Path) -> None:
    path, header = tmp_path / "run.json", {"program": "1"}
    store = Store(path, header, resume=False)
    store.add_row(_row("x", 1.0))
    store.add_row(_row("void", 1.0, quiet=False))
    store.add_extra("library", {"bytes": 1})
    again = Store(path, header, resume=True)
    assert again.has(("x", "fp32", 1, 1))
    assert not again.has(("void", "fp32", 1, 1))  # measured again
    assert not again.has(("x", "fp32", 2, 1))
    assert again.extras == {"library": {"bytes": 1}}


def test_a_run_of_another_program_is_not_continued(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    with pytest.raises(SystemExit, match="no interrupted run"):
        Store(path, {"program": "1"}, resume=True)
    Store(path, {"program": "1"}, resume=False).add_row(_row("x", 1.0))
    with pytest.raises(SystemExit, match="differs from this one in program"):
        Store(path, {"program": "2"}, resume=True)


def test_the_reason_of_a_failed_conversion_is_the_line_that_names_the_error() -> None:
    log = "loading\nValueError: no such operator: Foo\n  at graph\n"
    assert reason_in(log, 1) == "ValueError: no such operator: Foo"
    assert reason_in("one\ntwo\n", 1) == "two"
    assert reason_in("", 3) == "status 3, with no message"
    assert reason_in("pass 3\n", -11) == "its converter crashed with signal 11 after: pass 3"


class _Scripted:
    """A worker that answers with times from a list, then fails."""

    def __init__(self, peer: str, times: list[float], error: str | None = None) -> None:
        self.peer, self.error, self.facts, self._times = peer, error, {}, iter(times)

    def time(self, seconds: float) -> list[float]:
        value = next(self._times, None)
        if value is None:
            raise RuntimeError(f"{self.peer}: ended")
        return [value]


def test_a_peer_far_behind_is_timed_no_more_after_three_rounds() -> None:
    workers: list[Any] = [
        _Scripted(name, [t] * 6) for name, t in (("maas_rt", 9.0), ("a", 1.0), ("b", 2.4), ("c", 2.6))
    ]
    result = race(workers, 6, 0.0, far_behind=2.5)
    assert {peer: len(times) for peer, times in result.rounds.items()} == {"maas_rt": 6, "a": 6, "b": 6, "c": 3}


def test_a_budget_ends_a_race_after_four_rounds() -> None:
    workers: list[Any] = [_Scripted("maas_rt", [1.0] * 9), _Scripted("a", [1.0] * 9)]
    assert len(race(workers, 8, 0.0, budget=1e-9).rounds["a"]) == 4


def test_a_peer_that_ends_or_does_not_load_is_a_reason_and_the_others_go_on() -> None:
    workers: list[Any] = [
        _Scripted("maas_rt", [1.0] * 4),
        _Scripted("a", [1.0]),
        _Scripted("b", [], error="no such file"),
    ]
    result = race(workers, 4, 0.0)
    assert result.rounds == {"maas_rt": [1.0] * 4}
    assert result.errors == {"a": "a: ended", "b": "no such file"}
