"""The compression benchmark's rows, goals, table and results, without any peer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.compression import __main__ as command
from bench.compression import _groups, _table, quantized
from bench.compression._peers import best, signal_to_error, varying_to_error
from bench.compression._rows import ROWS, Goal, Measured, Row, row

SHARE = Goal("agreement", 0.994, 0.998)
ERROR = Goal("signal to error", 0, 6, over_peer=True, unit=" dB")
SIZE = Goal("size", 1 / 8, 1 / 20, least=False)


@pytest.mark.parametrize(
    ("goal", "ours", "peer", "reached"),
    [
        (SHARE, 0.9939, None, "missed"),
        (SHARE, 0.994, 0.9999, "must"),
        (SHARE, 0.998, None, "aim"),
        (ERROR, 29.9, 30.0, "missed"),
        (ERROR, 30.0, 30.0, "must"),
        (ERROR, 36.0, 30.0, "aim"),
        (ERROR, 36.0, None, "no peer"),
        (SIZE, 0.2, None, "missed"),
        (SIZE, 0.125, None, "must"),
        (SIZE, 0.05, None, "aim"),
        (SHARE, float("nan"), None, "missed"),
    ],
)
def test_what_a_figure_reaches(goal: Goal, ours: float, peer: float | None, reached: str) -> None:
    assert goal.reached(ours, peer) == reached


def test_the_best_peer_is_the_one_with_the_best_figure() -> None:
    peers = {"a": {"agreement": 0.9, "size": 3.0}, "b": {"agreement": 0.95}, "c": {}}
    assert SHARE.best(peers) == ("b", 0.95)
    assert SIZE.best(peers) == ("a", 3.0)
    assert ERROR.best(peers) is None


def test_the_best_setting_of_a_peer_counts() -> None:
    want = np.arange(4.0)
    outputs = {"p": {"x": want + 1, "y": want + 0.5}, "none": {}}
    kept, settings = best(outputs, lambda got: {"dB": signal_to_error(want, got)}, "dB")
    assert settings == {"p": "y"} and set(kept) == {"p"}
    assert kept["p"]["dB"] == pytest.approx(10 * np.log10(14 / 1.0))


def test_a_constant_says_nothing() -> None:
    want = np.array([[1.0, 5.0], [3.0, 5.0]])
    assert varying_to_error(want, want.mean(0) + np.zeros_like(want)) == pytest.approx(0)
    assert varying_to_error(want, want) == float("inf")


def test_the_table_says_what_was_missed_failed_and_not_measured() -> None:
    rows = [Row(name, name, (SHARE, ERROR), lambda: Measured({}), name == "times") for name in ("good", "failed", "times")]  # fmt: skip
    measured = {
        "good": {"ours": {"agreement": 0.999, "signal to error": 20.0}, "peers": {"p": {"signal to error": 25.0}}},
        "failed": {"error": "OSError: no such file"},
        "times": {"ours": {"agreement": 0.9}, "peers": {}, "quiet": False},
    }
    lines = _table.lines(rows, measured)
    assert lines[0] == ("good", "agreement", "≥ 0.994", "≥ 0.998", "0.9990", "", "aim")
    assert lines[1] == ("", "signal to error", "the peer's", "peer + 6 dB", "20", "25 (p)", "missed")
    assert lines[2][-1] == "failed: OSError: no such file"
    assert lines[4][0] == "times (busy)" and lines[5][-1] == "not measured"
    assert _table.lines(rows[:1], {})[0][-1] == "not measured"
    assert _table.text(lines).splitlines()[0].split() == list(_table.HEAD)
    assert _table.markdown(lines).splitlines()[2] == "| good | agreement | ≥ 0.994 | ≥ 0.998 | 0.9990 |  | aim |"


def test_every_row_has_goals_that_can_be_told() -> None:
    _groups.load()
    assert {
        "int8-resnet",
        "awkward-lstm",
        "prune-vit",
        "small-resnet",
        "calibration-memory",
        "minilm-int4",
        "sparse-minilm",
    } <= set(ROWS)
    assert all(each.goals and each.title for each in ROWS.values())
    assert len({(each.title, goal.figure) for each in ROWS.values() for goal in each.goals}) == sum(
        len(each.goals) for each in ROWS.values()
    )
    assert _table.text(_table.lines(ROWS.values(), {})).count("not measured") >= len(ROWS)
    with pytest.raises(ValueError, match="two rows int8-resnet"):
        row("int8-resnet", "again")(lambda: Measured({}))


def test_rows_of_a_busy_machine_are_no_part_of_the_gauntlets_figures() -> None:
    def of(speed: float | None, quiet: bool = True, precision: str = "int8") -> dict[str, Any]:
        where = {"model": f"m{speed}", "precision": precision, "threads": 1, "batch": 8, "best_peer": "p"}
        return where | {"quiet": quiet, "speed_to_best": speed}

    found = quantized.of_rows([of(4.0), of(1.0), of(0.1, quiet=False), of(0.1, precision="fp32"), of(None)])
    assert found.ours == {quantized.MEAN: pytest.approx(2.0), quantized.SLOWEST: 1.0}
    assert found.more["rows"] == 2 and found.more["slowest"]["model"] == "m1.0"
    with pytest.raises(RuntimeError, match="busy in all rows"):
        quantized.of_rows([of(1.0, quiet=False)])


def test_rows_are_kept_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    calls: list[str] = []

    def measured() -> Measured:
        calls.append("good")
        return Measured({"agreement": 0.995}, {}, {"why": "because"})

    def failing() -> Measured:
        raise OSError("no such file\nand more")

    rows = {"good": Row("good", "Good", (SHARE,), measured, False), "bad": Row("bad", "Bad", (SHARE,), failing, False)}
    monkeypatch.setattr(command, "ROWS", rows)
    monkeypatch.setattr(command._groups, "load", lambda: None)
    monkeypatch.setattr(command, "_commit", lambda: "abc")
    output = tmp_path / "results.json"
    assert command.main(["--output", str(output)]) == 1
    kept = json.loads(output.read_text())["rows"]
    assert kept["good"]["ours"] == {"agreement": 0.995} and kept["good"]["more"] == {"why": "because"}
    assert kept["bad"] == {"commit": "abc", "error": "OSError: no such file"}
    assert command.main(["--output", str(output), "--resume"]) == 1  # the one that failed is tried again
    assert calls == ["good"]
    assert command.main(["--output", str(output), "good"]) == 0
    assert calls == ["good", "good"] and "bad" in json.loads(output.read_text())["rows"]
    capsys.readouterr()
    assert command.main(["--output", str(output), "--show", "text"]) == 0
    assert "0.9950" in capsys.readouterr().out and calls == ["good", "good"]
    with pytest.raises(SystemExit, match="no row wrong"):
        command.main(["wrong"])


def test_the_page_shows_what_was_measured() -> None:
    """The table in bench/README.md is that of the kept results: `python -m bench.compression --show markdown` prints it."""
    _groups.load()
    page = (command.ROOT / "bench" / "README.md").read_text()
    kept = json.loads(command.RESULTS.read_text())["rows"]
    assert _table.markdown(_table.lines(ROWS.values(), kept)) in page
