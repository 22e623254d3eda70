"""Files that a checkpoint names: regular ones alone, so that a pipe or a device in their place cannot hold the reader up."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import IO, Any

from ._safe_pickle import RefusedPickleError

__all__ = ["open_regular", "plain_name", "read_json"]

_LARGEST_JSON = 1 << 28


def open_regular(path: Path, *, links: bool = True) -> IO[bytes]:
    """The file, open for reading. Raises RefusedPickleError for what is no regular file, or a link where `links` is False."""
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | (0 if links else getattr(os, "O_NOFOLLOW", 0))
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        raise RefusedPickleError(f"{path.name} cannot be opened: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise RefusedPickleError(f"{path.name} is no regular file")
    return os.fdopen(descriptor, "rb")


def plain_name(name: Any) -> str:
    """A name without a folder in it, as an index may give for a file beside it."""
    if not isinstance(name, str) or Path(name).name != name or name in ("", ".", "..") or "\0" in name:
        raise RefusedPickleError(f"it names the file {str(name)[:80]!r}, outside of the directory")
    return name


def read_json(path: Path) -> Any:
    """The value in a small JSON file."""
    with open_regular(path) as stream:
        text = stream.read(_LARGEST_JSON + 1)
    if len(text) > _LARGEST_JSON:
        raise RefusedPickleError(f"{path.name} is larger than 256 MiB")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RefusedPickleError(f"{path.name} is no JSON") from error
