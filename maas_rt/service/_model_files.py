"""The files of a repository, as they are opened. What is wrong with one is an Error that names it."""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from .. import _container
from .._errors import Error
from .._model import Model, load, load_sealed
from ._picture import Stamp, Taken
from ._shelf import Shelf

T = TypeVar("T")


class ModelFiles:
    """Loads models from their files, which lie on the shelf from then on, if there is one. `key` and `options` are load's; the key is for
    those of the files that are encrypted."""

    def __init__(self, shelf: Shelf | None, key: Any, **options: Any) -> None:
        self._shelf = shelf
        self._key = key
        self._options = options

    @property
    def are_shared(self) -> bool:
        """Whether there is a shelf."""
        return self._shelf is not None

    def footprint(self, path: Path, size: int, processes: int) -> int:
        """Bytes of memory that a file of a size counts for where so many processes serve it: they share it, but for what each of them decrypts."""
        if self._shelf is None:
            return size
        with suppress(Error, OSError):  # what cannot be read is refused when it is loaded
            return size if self._key_of(path) is None else size * (1 + processes)
        return size

    def load(self, path: Path) -> tuple[str, Model]:
        """A file's key on the shelf, empty without one, and its model."""
        if self._shelf is not None:
            key, descriptor = self._shelf.put(path)
            try:
                model = self._map(descriptor, path, "full")
            except BaseException:
                self._shelf.drop(key)
                raise
            weakref.finalize(model, self._shelf.drop, key)  # if nobody was told of it until then
            return key, model
        return "", load(path, verify="full", copy=True, key=self._key_of(path), **self._options)

    def load_shared(self, taken: Taken) -> Model:
        """The model of a file that another process has put on the shelf. Raises Superseded if nobody serves it any more."""
        assert self._shelf is not None
        try:
            return self._map(self._shelf.get(taken.key), taken.path, "default")
        finally:
            self._shelf.drop(taken.key)

    def _map(self, descriptor: int, path: Path, verify: str) -> Model:
        key = self._key_of(f"/proc/self/fd/{descriptor}")
        return load_sealed(descriptor, str(path), verify=verify, key=key, **self._options)

    def _key_of(self, path: Path | str) -> Any:
        return self._key if self._key is not None and _container.is_encrypted(path) else None


def stamp_of(path: Path) -> Stamp:
    """Another one when the file has changed. Raises OSError."""
    status = os.stat(path)
    return status.st_mtime_ns, status.st_size, status.st_ino


def read_file(read: Callable[[Path], T], path: Path | None) -> T | None:
    """What `read` makes of a file, if there is one. Whatever goes wrong with it is an Error, so that other models do not stay as they were
    for it."""
    if path is None:
        return None
    try:
        return read(path)
    except Exception as error:
        raise about_file(path, error) from None


def about_file(path: Path, error: Exception) -> Error:
    """The error with the file's name in its sentence; one that nobody foresaw is told to the log as well."""
    if not isinstance(error, Error | OSError):
        logging.getLogger(__name__).error("%s cannot be loaded", path, exc_info=error)
        return Error(f"{path}: it cannot be loaded ({type(error).__name__})")
    if not isinstance(error, Error):
        return Error(f"{path} cannot be read: {error.strerror or error}")
    if str(path) in str(error):
        return error
    named = type(error)(f"{path}: {error}")
    named.status = error.status
    return named
