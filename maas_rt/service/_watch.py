"""A folder that is looked at again and again: what has stood still from one look to the next is taken."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from .._errors import Error
from ._errors import ServiceError
from ._layout import Contents
from ._record import Entry
from ._repeated import Repeated

_LOGGER = logging.getLogger(__name__)
_Stamp = tuple[int, int, int]


class Settling:
    """Leaves out of a look the models whose files are others than at the last one: copies under way, and what is away for a moment.

    A model is left out as a whole, so that no older version comes up while a newer one is replaced.
    """

    def __init__(self) -> None:
        self._last: dict[str, dict[Path, _Stamp | None]] = {}

    def __call__(self, contents: Contents) -> Contents:
        now = {name: _stamps(contents, name) for name in contents.models}
        moving = {name for name in {*now, *self._last} if now.get(name) != self._last.get(name)}
        self._last = now
        models = {name: files for name, files in contents.models.items() if name not in moving}
        return replace(contents, models=models, unread=contents.unread | moving)


def _stamps(contents: Contents, name: str) -> dict[Path, _Stamp | None]:
    paths = list(contents.models[name].values())
    paths += [files[name] for files in (contents.configs, contents.labels) if name in files]
    return {path: _stamp(path) for path in paths}


def _stamp(path: Path) -> _Stamp | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


class Reloaded(Protocol):
    """A Repository, or one whose changes others follow."""

    def index(self, ready_only: bool = False) -> list[Entry]: ...

    def reload(self, settle: Callable[[Contents], Contents]) -> list[Error]: ...


class Watch:
    """Reloads a repository every so many seconds, on a thread of its own, until it is closed."""

    def __init__(self, repository: Reloaded, interval: float) -> None:
        self._repository = repository
        self._settle = Settling()
        self._told: list[str] = []
        self._repeated = Repeated(self._look, interval, "maas_rt_watch")

    def close(self) -> None:
        """Ends the thread, after a load that is under way."""
        self._repeated.close()

    def _look(self) -> None:
        before = set(self._repository.index(ready_only=True))
        try:
            told = [str(error) for error in self._repository.reload(self._settle)]
        except ServiceError as error:  # the storage is away
            told = [str(error)]
        except Exception:
            _LOGGER.exception("the repository could not be reloaded")
            return
        after = set(self._repository.index(ready_only=True))
        for entry in sorted(after - before, key=lambda each: (each.name, int(each.version))):
            _LOGGER.info("serving %s, version %s", entry.name, entry.version)
        for entry in sorted(before - after, key=lambda each: (each.name, int(each.version))):
            _LOGGER.info("no longer serving %s, version %s", entry.name, entry.version)
        for line in told:
            if line not in self._told:
                _LOGGER.warning("not served: %s", line)
        self._told = told
