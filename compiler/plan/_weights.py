"""The weights section: constants as they are, and packed for the kernels that use them or as less from which a runtime packs them, each stored once.

A small section is in memory; a large one goes to a temporary file, piece by piece as it is made, so that packed weights are never
in memory beside those that they were made of. That file has room for what comes before the weights of a model.mrt, so that it can be
loaded as one.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from maas_rt import _kernels
from maas_rt._errors import CompileError

from .._dtypes import constant_bytes
from ..ir import SparseNM

__all__ = ["ALIGNMENT", "ROOM", "NMPlace", "Place", "WeightsSection"]

ALIGNMENT = 64  # of each constant in the section: a cache line, and the widest vector
ROOM = 1 << 23  # bytes of the temporary file before the section
_IN_MEMORY = 1 << 25
_PIECE = 1 << 22
_LARGEST_SHARE = (
    0.8  # of what kernels read: what is stored N:M is packed whenever a file is loaded, and in memory of its own
)

Buffer = bytes | memoryview
Place = tuple[int, int]  # offset and size in the section


@dataclass(frozen=True)
class NMPlace:
    """Where a weight is that is stored N:M: its numbers and their indices, the extents and the bits of these."""

    values: Place
    indices: Place
    shape: tuple[int, ...]
    bits: int
    packed: bytes  # a digest of what a runtime makes of it


class WeightsSection:
    """Bytes and where they are. Equal content (and packing) is stored once, whatever constant it came from."""

    def __init__(self) -> None:
        self.size = 0
        self.is_mapped = False  # the temporary file is mapped, as a model
        self._chunks: list[bytes] = []  # while it is small
        self._file: Any = None  # then
        self._digest = hashlib.sha256()
        self._stored: dict[bytes, Place] = {}
        self._packed: dict[tuple[Any, ...], Place | NMPlace] = {}

    @property
    def sha256(self) -> bytes:
        """Of the whole section."""
        return self._digest.digest()

    @property
    def file(self) -> int | None:
        """The temporary file, where the section is at ROOM; None while it is in memory."""
        return None if self._file is None else self._file.fileno()

    def add(self, data: Buffer) -> Place:
        """(offset, size) of `data` in the section."""
        digest = hashlib.sha256(data).digest()
        place = self._stored.get(digest)
        if place is None:
            self._append(bytes(-self.size % ALIGNMENT))
            place = (self.size, len(data))
            self._append(data)
            self._stored[digest] = place
        return place

    def add_packed(
        self, contract: str, packing: str, array: npt.NDArray[Any], attrs: Mapping[str, Any]
    ) -> Place | NMPlace:
        """Where `array` is in `packing` of `contract`, packed by the library, or where it is stored N:M, if that is smaller."""
        dense = np.ascontiguousarray(array)
        content = hashlib.sha256(constant_bytes(dense)).digest()
        cache = (contract, packing, content, dense.shape, repr(sorted(attrs.items())))
        place = self._packed.get(cache)
        if place is None:
            try:
                data = _kernels.pack(contract, packing, dense, dict(attrs))
            except Exception as error:
                raise CompileError(f"the weight of {contract} could not be packed as {packing}: {error}") from error
            place = self._packed[cache] = self._add_sparse(dense, data) or self.add(data)
        return place

    def _add_sparse(self, dense: npt.NDArray[Any], packed: bytes) -> NMPlace | None:
        sparse = SparseNM.of(dense, min(1.0, _LARGEST_SHARE * len(packed) / max(dense.nbytes, 1)))
        if sparse is None or sparse.nbytes + ALIGNMENT > _LARGEST_SHARE * len(packed):
            return None
        values, indices = self.add(constant_bytes(sparse.values)), self.add(sparse.packed_indices())
        return NMPlace(values, indices, sparse.indices.shape, sparse.bits, hashlib.sha256(packed).digest())

    def pieces(self) -> Iterator[Buffer]:
        """The bytes in order."""
        yield from self._chunks
        if self._file is not None:
            for at in range(0, self.size, _PIECE):
                yield os.pread(self._file.fileno(), min(_PIECE, self.size - at), ROOM + at)

    def _append(self, data: Buffer) -> None:
        if self._file is None and self.size + len(data) > _IN_MEMORY:
            self._file = _temporary()
            at = 0
            for chunk in self._chunks:
                self._write(chunk, at)
                at += len(chunk)
            self._chunks = []
        if self._file is not None:
            self._write(data, self.size)
        elif len(data):
            self._chunks.append(bytes(data))
        self._digest.update(data)
        self.size += len(data)

    def _write(self, data: Buffer, at: int) -> None:
        view = memoryview(data)
        try:
            while len(view):
                count = os.pwrite(self._file.fileno(), view[: 1 << 26], ROOM + at)
                view, at = view[count:], at + count
        except OSError as error:
            raise CompileError(
                f"{tempfile.gettempdir()} does not hold the packed weights ({error.strerror}): set TMPDIR to a folder that does"
            ) from None


def _temporary() -> Any:
    try:
        return tempfile.TemporaryFile(prefix="maas_rt.")
    except OSError as error:
        raise CompileError(
            f"no file can be made in {tempfile.gettempdir()} for the packed weights ({error.strerror}): set TMPDIR to a folder for it"
        ) from None
