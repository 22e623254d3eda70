"""Figures are kept with a row a line."""

from __future__ import annotations

import json
from pathlib import Path

from bench._results import dumps, write_results


def test_a_row_a_line(tmp_path: Path) -> None:
    value = {
        "command": "python -m bench.x",
        "machine": {"cores": 2},
        "rows": [{"model": "a", "ms": 0.123456789}, {"model": "b", "ms": None}],
        "extras": {"size": {"bytes": 12345678}, "note": ["x"]},
        "empty": [],
    }
    text = dumps(value)
    assert json.loads(text) == {**value, "rows": [{"model": "a", "ms": 0.12346}, {"model": "b", "ms": None}]}
    assert [line.strip().rstrip(",") for line in text.splitlines()].count('{"model": "a", "ms": 0.12346}') == 1
    assert text.count("\n") == 13
    write_results(tmp_path / "new" / "x.json", value)
    assert (tmp_path / "new" / "x.json").read_text() == text
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["x.json"]
