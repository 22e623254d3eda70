"""What a search has measured, line by line in a file, so that one that was interrupted or killed goes on where it was."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from maas_rt._errors import InvalidArgumentError

__all__ = ["Journal"]


class Journal:
    """Results by key. `path` None keeps them in memory alone. A file of another search is refused, not overwritten."""

    def __init__(self, path: str | os.PathLike[str] | None, search: str) -> None:
        self._path = None if path is None else Path(path)
        self._known: dict[str, Any] = {}
        if self._path is None:
            return
        lines = self._read()
        if lines and lines[0].get("search") != search:
            raise InvalidArgumentError(
                f"{self._path} holds what another search measured (of another model, data or options): remove it, or name another file"
            )
        self._known = {line["key"]: line["value"] for line in lines[1:]}
        if not lines:
            self._append({"search": search})

    def __contains__(self, key: str) -> bool:
        return key in self._known

    def __getitem__(self, key: str) -> Any:
        return self._known[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self._known[key] = value
        if self._path is not None:
            self._append({"key": key, "value": value})

    def remove(self) -> None:
        """The search is over."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def _read(self) -> list[dict[str, Any]]:
        """The whole lines. A last one that a kill cut off is cut off the file, too."""
        assert self._path is not None
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) != len(data):
            os.truncate(self._path, len(whole))
        try:
            return [dict(json.loads(line)) for line in whole.splitlines()]
        except (ValueError, TypeError):
            raise InvalidArgumentError(
                f"{self._path} is not what a search wrote: remove it, or name another file"
            ) from None

    def _append(self, line: dict[str, Any]) -> None:
        assert self._path is not None
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, sort_keys=True) + "\n")
            file.flush()
            os.fsync(file.fileno())
