"""Compressed files: unpacked into a temporary file, within bounds, since readers need to go back and forth in what they read."""

from __future__ import annotations

import bz2
import gzip
import importlib
import lzma
import shutil
import tempfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from ._contents import Contents, Location
from ._files import open_regular
from ._safe_pickle import RefusedPickleError

__all__ = ["Unpacked", "compression"]

_MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_SUFFIXES = (".gz", ".gzip", ".bz2", ".xz", ".zst", ".zstd")
_MAX_RATIO = 64  # weights are seldom a tenth when compressed
_ALWAYS = 1 << 26
_STEP = 1 << 20
_MOST_MEMORY = 1 << 28


def compression(start: bytes) -> str | None:
    """How a file is compressed that begins with these bytes."""
    return next((kind for magic, kind in _MAGIC.items() if start.startswith(magic)), None)


class Unpacked:
    """The Contents of a compressed file; the unpacked one is there as long as this is."""

    def __init__(self, path: Path, kind: str, opened: Callable[[Path], Contents]) -> None:
        self.name = path.name
        inner = path.stem if path.suffix.lower() in _SUFFIXES else path.name
        self._file = tempfile.NamedTemporaryFile(prefix="maas-rt-", suffix=Path(inner).suffix)  # noqa: SIM115 (lives as long as this)
        with open_regular(path) as packed:
            size = packed.seek(0, 2)
            packed.seek(0)
            try:
                self._unpack(_stream(packed, kind), _MAX_RATIO * size + _ALWAYS)
            except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
                if isinstance(error, OSError) and error.errno is not None:
                    raise
                raise RefusedPickleError(f"it is compressed with {kind}, and damaged or cut short") from error
            except Exception as error:
                if type(error).__module__.partition(".")[0] not in ("zstandard", "compression"):
                    raise
                raise RefusedPickleError(f"it is compressed with {kind}, and damaged or cut short") from error
        self._contents = opened(Path(self._file.name))
        self.tree: Mapping[Any, Any] = self._contents.tree

    def _unpack(self, stream: IO[bytes], limit: int) -> None:
        written = 0
        room = shutil.disk_usage(tempfile.gettempdir()).free
        while piece := stream.read(_STEP):
            written += len(piece)
            if written > limit:
                raise RefusedPickleError(
                    f"it unpacks to more than {_MAX_RATIO} times its size, which no weights do: decompress it first, if you trust it"
                )
            if written > room - _ALWAYS:
                raise RefusedPickleError(
                    f"it unpacks to more than there is room for in {tempfile.gettempdir()}: decompress it elsewhere, or set TMPDIR"
                )
            self._file.write(piece)
        self._file.flush()
        self._file.seek(257)
        if self._file.read(5) == b"ustar":
            raise RefusedPickleError("it is a compressed archive of tar: unpack it (tar -xf), and give what is in it")

    def read_by_library(self, locations: Sequence[Location]) -> list[Any]:
        return self._contents.read_by_library(locations)


class _Xz:
    """lzma.LZMAFile, with a bound on the memory that a file may ask for."""

    def __init__(self, packed: IO[bytes]) -> None:
        self._packed = packed
        self._decoder = lzma.LZMADecompressor(memlimit=_MOST_MEMORY)

    def read(self, count: int) -> bytes:
        while True:
            if self._decoder.eof:  # another stream may follow
                rest = self._decoder.unused_data or self._packed.read(_STEP)
                if not rest.strip(b"\0"):
                    return b""
                self._decoder = lzma.LZMADecompressor(memlimit=_MOST_MEMORY)
                piece = self._decoder.decompress(rest, count)
            else:
                given = self._packed.read(_STEP) if self._decoder.needs_input else b""
                if self._decoder.needs_input and not given:
                    raise EOFError
                piece = self._decoder.decompress(given, count)
            if piece:
                return piece


def _stream(packed: IO[bytes], kind: str) -> IO[bytes]:
    if kind == "gzip":
        return gzip.GzipFile(fileobj=packed)  # type: ignore[return-value]
    if kind == "bzip2":
        return bz2.BZ2File(packed)
    if kind == "xz":
        return _Xz(packed)  # type: ignore[return-value]
    for name in ("compression.zstd", "zstandard"):  # of Python 3.14; a package
        try:
            module: Any = importlib.import_module(name)
        except ImportError:
            continue
        if name == "zstandard":
            decoder = module.ZstdDecompressor(max_window_size=_MOST_MEMORY // 2)
            return decoder.stream_reader(packed, read_across_frames=True)  # type: ignore[no-any-return]
        return module.ZstdFile(packed)  # type: ignore[no-any-return]
    raise RefusedPickleError(
        "it is compressed with zstd: decompress it first (zstd -d), or install the package zstandard"
    )
