"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from maas_rt._errors import Error

__all__ = ["whole_file", "write_npz"]


@contextlib.contextmanager
def whole_file(path: str | os.PathLike[str], mode: int = 0o666) -> Iterator[BinaryIO]:
    """Opens what becomes the file of this name when the block ends: it is written beside it, flushed to the disk and renamed, and
    whatever happens, no half file is left. A link is followed. A device or a pipe (/dev/null, /dev/stdout) stays what it is and is
    written to. The permissions are those of the file that is replaced, or `mode` less the process's umask.

    Raises:
        Error: the file could not be written (no such folder, no space left, ...).
    """
    name = os.fspath(path)
    try:
        was = _mode(name)
        if was is not None and stat.S_ISDIR(was):
            raise Error(f"{name} is a directory and must be the name of a file")
        if was is not None and not stat.S_ISREG(was):
            with open(name, "wb") as stream:
                yield stream
            return
        target = os.path.realpath(name)
        beside = os.path.join(os.path.dirname(target), f".maas-rt.{secrets.token_hex(8)}.part")
        try:
            with open(
                os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode if was is None else 0o600), "wb"
            ) as file:
                if was is not None:
                    os.fchmod(file.fileno(), stat.S_IMODE(was))
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, target)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(beside)
            raise
    except OSError as error:
        if isinstance(error, Error):
            raise
        raise Error(f"{name} could not be written: {error.strerror or error}") from error


def write_npz(path: str | os.PathLike[str], arrays: Mapping[str, NDArray[Any]]) -> None:
    """An .npz file, whole or not at all; as numpy.savez writes it, which has no room for arrays called "file"."""
    with whole_file(path) as file, zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)


def _mode(name: str) -> int | None:
    """Kind and permissions of what a name leads to; None if there is nothing."""
    try:
        return os.stat(name).st_mode
    except FileNotFoundError:
        return None
