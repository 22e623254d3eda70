"""What was measured, kept: one small file for each task, by CPU, library, threads and shapes."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from maas_rt import _container, _kernels
from maas_rt._errors import Error

__all__ = ["Cache", "cpu_name", "default_cache"]

_VERSION = 2  # of what is timed and how


def default_cache() -> Path:
    """$XDG_CACHE_HOME/maas_rt/tune, or ~/.cache/maas_rt/tune."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "maas_rt" / "tune"


@functools.cache
def cpu_name() -> str:
    """The processor's name as the system has it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


@functools.cache
def _library() -> str:
    """The kernels that are timed: a hash of the library."""
    return hashlib.sha256((Path(_kernels.__file__).parent / "libmaas_rt.so").read_bytes()).hexdigest()


class Cache:
    """Choices by task. A file that cannot be read, or is of something else, counts as absent."""

    def __init__(self, folder: Path, threads: int, swept: int) -> None:
        self._folder = folder
        self._machine = {
            "version": _VERSION,
            "cpu": cpu_name(),
            "isa": _kernels.cpu_isa(),
            "library": _library(),
            "threads": threads,
            "swept": swept,
        }

    def get(self, task: Mapping[str, Any]) -> str | None:
        """The label of the candidate that was chosen."""
        key = self._key(task)
        try:
            entry = json.loads(self._path(key).read_text(encoding="utf-8"))
            return str(entry["choice"]) if _text(entry["key"]) == _text(key) else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def check_writable(self) -> None:
        """Raises maas_rt.Error where a choice could not be kept."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Error(f"{self._folder}, where tuning keeps its times, could not be made: {error.strerror}") from error
        if not os.access(self._folder, os.W_OK):
            raise Error(f"{self._folder}, where tuning keeps its times, cannot be written")

    def put(self, task: Mapping[str, Any], choice: str, seconds: Mapping[str, float]) -> None:
        """Keep a choice, with what each candidate took."""
        key = self._key(task)
        text = json.dumps({"key": key, "choice": choice, "seconds": dict(seconds)}, indent=1, sort_keys=True) + "\n"
        _container.write_whole(self._path(key), [text.encode()])

    def _key(self, task: Mapping[str, Any]) -> dict[str, Any]:
        key: dict[str, Any] = json.loads(json.dumps({"machine": self._machine, "task": task}))
        return key

    def _path(self, key: Mapping[str, Any]) -> Path:
        return self._folder / (hashlib.sha256(_text(key).encode()).hexdigest()[:32] + ".json")


def _text(key: Any) -> str:
    return json.dumps(key, sort_keys=True)
