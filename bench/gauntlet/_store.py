"""A run on disk: written after every row, so that an interrupted run keeps what was measured and `--resume` goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench._results import replace_text

Key = tuple[str, str, int, int]


class Store:
    """`header` says what the rows depend on; a stored run under another header is not continued."""

    def __init__(self, path: Path, header: dict[str, Any], resume: bool) -> None:
        self.path = path
        self.run: dict[str, Any] = {"header": header, "rows": [], "extras": {}}
        if not resume:
            return
        if not path.exists():
            raise SystemExit("--resume: there is no interrupted run; start one without it")
        stored = json.loads(path.read_text())
        differing = [name for name in header if stored["header"].get(name) != header[name]]
        if differing:
            raise SystemExit(
                f"--resume: the interrupted run differs from this one in {', '.join(differing)}, and figures of two programs "
                "do not make one run; start a new one without --resume"
            )
        self.run = stored
        self.run["rows"] = [row for row in stored["rows"] if row["quiet"]]  # void ones are measured again

    @property
    def rows(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.run["rows"]
        return rows

    @property
    def extras(self) -> dict[str, Any]:
        extras: dict[str, Any] = self.run["extras"]
        return extras

    def has(self, key: Key) -> bool:
        return any((r["model"], r["precision"], r["threads"], r["batch"]) == key for r in self.rows)

    def add_row(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        self._write()

    def add_extra(self, name: str, value: Any) -> None:
        self.extras[name] = value
        self._write()

    def _write(self) -> None:
        replace_text(self.path, json.dumps(self.run, indent=1) + "\n")
