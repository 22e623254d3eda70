"""Model files in memory that nobody can change: what one process has read, others map, and all together have one copy of it."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from .._errors import Error

_PIECE = 1 << 20
_SEALS = "F_SEAL_WRITE", "F_SEAL_SHRINK", "F_SEAL_GROW", "F_SEAL_SEAL"


def is_offered() -> bool:
    """Whether this system has such files."""
    return hasattr(os, "memfd_create") and hasattr(fcntl, "F_ADD_SEALS")


def sealed_copy(path: Path) -> int:
    """The descriptor of a copy of a file as it is now: what happens to the file later does not matter.

    Raises:
        OSError: it cannot be read.
        Error: there is no memory for it.
    """
    with open(path, "rb", buffering=0) as file:
        descriptor = os.memfd_create("maas-rt model", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            while piece := file.read(_PIECE):
                _write(descriptor, piece, path)
            seals = 0
            for name in _SEALS:
                seals |= getattr(fcntl, name)
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
        except BaseException:
            os.close(descriptor)
            raise
    return descriptor


def _write(descriptor: int, piece: bytes, path: Path) -> None:
    try:
        while piece:
            piece = piece[os.write(descriptor, piece) :]
    except OSError as error:
        raise Error(f"no memory for a copy of {path}: {error.strerror or error}") from None
