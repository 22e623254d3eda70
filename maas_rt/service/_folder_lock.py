"""A folder that one process changes at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .._errors import Error


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Waits until nobody else has the folder, and keeps it for the block. Nothing is written for it: a folder that may only be read can be
    locked, too.

    Raises:
        Error: there is no such folder, or its file system has no locks.
    """
    descriptor = _lock(folder)
    try:
        yield
    finally:
        os.close(descriptor)


def _lock(folder: Path) -> int:
    while True:
        descriptor = None
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.path.samestat(os.fstat(descriptor), os.stat(folder)):
                return descriptor
        except OSError as error:
            if descriptor is not None:
                os.close(descriptor)
            raise Error(f"{folder} cannot be written: {error.strerror or error}") from None
        except BaseException:
            if descriptor is not None:
                os.close(descriptor)
            raise
        os.close(descriptor)  # another one has taken its name while this waited
