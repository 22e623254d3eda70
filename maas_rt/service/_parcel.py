"""An inference on its way to another process, and its answer on the way back. What is large of it goes in memory that both have: it is copied once, and
read where it lies.

    parcel:  number of parts | their lengths | parts, each at a multiple of 64 bytes: first the pickle, then the buffers in it
"""

from __future__ import annotations

import io
import mmap
import os
import pickle
import struct
import weakref
from typing import Any, NamedTuple

import numpy as np

from ._datatypes import Datatype
from ._requests import OutputTensor, SharedMemory

MOST_INLINE = 1 << 14  # bytes of a parcel that needs no file
_ALIGNMENT = 64
_NUMBER = struct.Struct("<Q")


class MemoryFile:
    """A file in memory, without a name; it is open as long as somebody refers to it."""

    def __init__(self) -> None:
        self.descriptor = os.memfd_create("maas-rt request", os.MFD_CLOEXEC)
        weakref.finalize(self, os.close, self.descriptor)

    def write(self, piece: memoryview) -> None:
        """Appends bytes. Raises OSError where there is no room."""
        while len(piece):
            piece = piece[os.write(self.descriptor, piece) :]


class Packed(NamedTuple):
    """A parcel: its bytes, or else a file with them."""

    data: bytes
    file: MemoryFile | None = None


def pack(value: Any) -> Packed:
    """Packs a value. Reads all of the memory that it refers to. Raises OSError where there is no room."""
    buffers: list[pickle.PickleBuffer] = []
    stream = io.BytesIO()
    _Pickler(stream, 5, buffer_callback=buffers.append).dump(value)
    parts = [stream.getbuffer(), *(each.raw() for each in buffers)]
    pieces: list[bytes | memoryview] = [b"".join(map(_NUMBER.pack, (len(parts), *map(len, parts))))]
    for part in parts:
        pieces += [bytes(-len(pieces[-1]) % _ALIGNMENT), part]
    if sum(map(len, pieces)) <= MOST_INLINE:
        return Packed(b"".join(pieces))
    file = MemoryFile()
    for piece in pieces:
        file.write(memoryview(piece))
    return Packed(b"", file)


def unpack(data: memoryview) -> Any:
    """The value of a parcel. Arrays and buffers in it are views of the memory, and cannot be written to."""
    count = _NUMBER.unpack_from(data)[0]
    at, parts = _NUMBER.size * (1 + count), []
    for length in struct.unpack_from(f"<{count}Q", data, _NUMBER.size):
        at += -at % _ALIGNMENT
        parts.append(data[at : at + length])
        at += length
    return pickle.loads(parts[0], buffers=parts[1:])


def mapped(descriptor: int) -> memoryview:
    """The bytes of a file in memory, which stay as long as anybody refers to them; the descriptor is closed. Raises OSError where there is no room."""
    try:
        return memoryview(mmap.mmap(descriptor, os.fstat(descriptor).st_size, prot=mmap.PROT_READ))
    finally:
        os.close(descriptor)


class _Pickler(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, memoryview):
            return memoryview, (pickle.PickleBuffer(value),)
        if isinstance(value, OutputTensor) and value.shared_memory is not None:  # the client has its data already
            return _without_data, (value.name, value.datatype, value.array.shape, value.binary, value.shared_memory)
        return NotImplemented


def _without_data(
    name: str, datatype: Datatype, shape: tuple[int, ...], binary: bool, shared_memory: SharedMemory
) -> OutputTensor:
    return OutputTensor(name, datatype, np.broadcast_to(np.zeros((), datatype.dtype), shape), binary, shared_memory)
