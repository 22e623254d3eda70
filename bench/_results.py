"""How measured figures are kept: JSON with a row a line, so that two runs can be compared line by line."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

DIGITS = 5  # significant; a machine's noise is in the third


def write_results(path: Path, value: dict[str, Any]) -> None:
    """A line for each entry, and for each element of a list or mapping that holds such."""
    replace_text(path, dumps(value))


def replace_text(path: Path, text: str) -> None:
    """Beside, then renamed into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".new")
    beside.write_text(text)
    os.replace(beside, path)


def dumps(value: dict[str, Any]) -> str:
    """The text of `write_results`."""
    entries = [f" {json.dumps(key)}: {_entry(_rounded(entry))}" for key, entry in value.items()]
    return "{\n" + ",\n".join(entries) + "\n}\n"


def _entry(entry: Any) -> str:
    if isinstance(entry, list) and any(isinstance(row, dict | list) for row in entry):
        return "[\n" + ",\n".join(f"  {json.dumps(row)}" for row in entry) + "\n ]"
    if isinstance(entry, dict) and any(isinstance(row, dict | list) for row in entry.values()):
        rows = (f"  {json.dumps(key)}: {json.dumps(row)}" for key, row in entry.items())
        return "{\n" + ",\n".join(rows) + "\n }"
    return json.dumps(entry)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, list | tuple) else value
