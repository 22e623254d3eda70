"""The data of large initializers: left where it lies, in a file, until it is wanted, and given to the reference by that file.

In the ModelProto such an initializer is an external one. Protobuf would hold it twice while it reads it, and cannot write it at all
from 2 GiB on.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from google.protobuf.message import Message
from onnx import TensorProto

from maas_rt._errors import ImportModelError

__all__ = ["LARGE", "LARGE_FILE", "Data", "is_kept", "skeleton", "without_data"]

LARGE = 1 << 16  # bytes of an initializer
LARGE_FILE = 1 << 24  # a smaller model stays as it is
_MAX_FILES = 32  # that are kept open
_ALIGNMENT = 64
_CHUNK = 1 << 26
# Types whose elements are stored as numpy has them.
_PLAIN = frozenset({
    TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.BOOL, TensorProto.INT8, TensorProto.INT16,
    TensorProto.INT32, TensorProto.INT64, TensorProto.UINT8, TensorProto.UINT16, TensorProto.UINT32, TensorProto.UINT64,
})  # fmt: skip


@dataclass(frozen=True)
class Place:
    """Bytes of one of the open files."""

    file: int
    offset: int
    size: int


class Data:
    """Open files, and the place in them of each initializer whose data is not in the model."""

    def __init__(self) -> None:
        self.files: list[int] = []
        self._places: dict[str, Place] = {}
        self._file_numbers: dict[tuple[int, int], int] = {}  # (device, inode) -> file
        self._as_opened: list[tuple[int, int]] = []
        self._own_file = -1  # the file that `keep` writes to
        weakref.finalize(self, _close, self.files)

    def __contains__(self, name: str) -> bool:
        return name in self._places

    @property
    def nbytes(self) -> int:
        return sum(place.size for place in self._places.values())

    def size(self, name: str) -> int:
        return self._places[name].size

    def place(self, tensor: TensorProto, fd: int, offset: int, size: int) -> bool:
        """Remember where a tensor's data is in an open file, which stays the caller's; False if there are too many files."""
        status = os.fstat(fd)
        key = (status.st_dev, status.st_ino)
        if key not in self._file_numbers:
            if len(self.files) >= _MAX_FILES:
                return False
            self._file_numbers[key] = self._add(os.dup(fd))
        self._mark(tensor, Place(self._file_numbers[key], offset, size))
        return True

    def keep(self, tensor: TensorProto, raw: bytes) -> None:
        """Write a tensor's data to a temporary file, and remember it there."""
        if self._own_file < 0:
            with tempfile.TemporaryFile(prefix="maas_rt.") as file:
                self._own_file = self._add(os.dup(file.fileno()))
        fd = self.files[self._own_file]
        at = -(-os.fstat(fd).st_size // _ALIGNMENT) * _ALIGNMENT
        try:
            for begin in range(0, len(raw), _CHUNK):
                os.pwrite(fd, memoryview(raw)[begin : begin + _CHUNK], at + begin)
        except OSError as why:
            raise ImportModelError(
                f"{tempfile.gettempdir()} does not hold the model's weights for its compilation ({why.strerror}): set TMPDIR to a folder that does"
            ) from None
        self._mark(tensor, Place(self._own_file, at, len(raw)))

    def array(self, tensor: TensorProto) -> npt.NDArray[Any]:
        """A new array of what is stored."""
        place = self._places[tensor.name]
        kind = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        out = np.empty(place.size // kind.itemsize, kind)
        _fill(self.files[place.file], out.view(np.uint8), place.offset)
        return out.reshape(list(tensor.dims))

    def listed(self, graph: onnx.GraphProto) -> Iterator[list[Any]]:
        """(name, element type, dimensions, file, offset, bytes) of the graph's initializers that are kept here."""
        for tensor in graph.initializer:
            if tensor.data_location == TensorProto.EXTERNAL:
                place = self._places[tensor.name]
                yield [tensor.name, tensor.data_type, list(tensor.dims), place.file, place.offset, place.size]

    def check_unchanged(self) -> None:
        """ImportModelError if one of the files was written to since it was opened."""
        for number, (fd, then) in enumerate(zip(self.files, self._as_opened, strict=True)):
            if number != self._own_file and _state(fd) != then:
                raise ImportModelError("a file of the model was changed while it was read: compile it again")

    def _add(self, fd: int) -> int:
        self.files.append(fd)
        self._as_opened.append(_state(fd))
        return len(self.files) - 1

    def _mark(self, tensor: TensorProto, place: Place) -> None:
        self._places[tensor.name] = place
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        del tensor.external_data[:]
        for key, value in (
            ("location", f"data{place.file}"),
            ("offset", str(place.offset)),
            ("length", str(place.size)),
        ):
            tensor.external_data.add(key=key, value=value)


def is_kept(tensor: TensorProto, size: int) -> bool:
    """Whether a tensor's data of this size is worth leaving where it is, and can be."""
    return size >= LARGE and tensor.data_type in _PLAIN


def without_data(model: onnx.ModelProto) -> tuple[onnx.ModelProto, Data]:
    """A copy of a model in memory, its large initializers in a temporary file; the model itself if it is small."""
    data = Data()
    sizes = [(tensor, _raw_size(tensor)) for tensor in model.graph.initializer]
    if sum(size for _, size in sizes) < LARGE_FILE:
        return model, data
    out = onnx.ModelProto()
    _copy_fields(model, out, "graph")
    _copy_fields(model.graph, out.graph, "initializer")
    for tensor, size in sizes:
        new = out.graph.initializer.add()
        if is_kept(tensor, size):
            _copy_fields(tensor, new, "raw_data")
            data.keep(new, tensor.raw_data)
        else:
            new.CopyFrom(tensor)
    return out, data


def _raw_size(tensor: TensorProto) -> int:
    """Of its raw data, without touching it; 0 of any other form."""
    if not tensor.HasField("raw_data") or tensor.data_type not in _PLAIN:
        return 0
    size: int = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    for extent in tensor.dims:
        size *= extent
    return size


def _copy_fields(source: Message, target: Message, leave_out: str) -> None:
    for field, value in source.ListFields():
        if field.name == leave_out:
            continue
        if hasattr(value, "extend"):  # repeated
            getattr(target, field.name).extend(value)
        elif field.message_type is not None:
            getattr(target, field.name).CopyFrom(value)
        else:
            setattr(target, field.name, value)


def _fill(fd: int, out: npt.NDArray[np.uint8], offset: int) -> None:
    at = 0
    while at < out.size:
        count = os.preadv(fd, [out[at : at + _CHUNK].data], offset + at)
        if not count:
            raise ImportModelError("a file of the model was cut off while it was read: compile it again")
        at += count


def _state(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_size, status.st_mtime_ns


def _close(files: list[int]) -> None:
    for fd in files:
        os.close(fd)


# ---- a file's protobuf without the data

_GRAPH, _INITIALIZER, _RAW_DATA = 7, 5, 9  # field numbers of ModelProto, GraphProto, TensorProto


def skeleton(view: memoryview) -> tuple[bytes, dict[int, tuple[int, int]]] | None:
    """A serialized ModelProto without the large raw data of its graph's initializers, and where that lies: (offset, size) by the
    initializer's number. None if it is none, or of a form that nobody writes."""
    pieces: list[memoryview | bytes] = []
    places: dict[int, tuple[int, int]] = {}
    number = 0
    try:
        for field, begin, body, end in _fields(view, 0, len(view)):
            if field != _GRAPH:
                pieces.append(view[begin:end])
                continue
            inner: list[memoryview | bytes] = []
            for each, first, start, last in _fields(view, body, end):
                if each == _INITIALIZER:
                    tensor = _tensor_skeleton(view, start, last) if last - start > LARGE else None
                    if tensor is not None:
                        inner += [bytes([_INITIALIZER << 3 | 2]), _varint(len(tensor[0])), tensor[0]]
                        places[number] = tensor[1]
                    else:
                        inner.append(view[first:last])
                    number += 1
                else:
                    inner.append(view[first:last])
            pieces += [bytes([_GRAPH << 3 | 2]), _varint(sum(map(len, inner))), *inner]
    except (IndexError, ValueError):
        return None
    return b"".join(pieces), places


def _tensor_skeleton(view: memoryview, begin: int, end: int) -> tuple[bytes, tuple[int, int]] | None:
    """Without its raw data, which becomes empty; None if that is small."""
    pieces: list[memoryview | bytes] = []
    place: tuple[int, int] | None = None
    for field, first, start, last in _fields(view, begin, end):
        if field == _RAW_DATA:
            place = (start, last - start)
        else:
            pieces.append(view[first:last])
    if place is None or place[1] < LARGE:
        return None
    return b"".join([*pieces, bytes([_RAW_DATA << 3 | 2, 0])]), place


def _fields(view: memoryview, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """(number, where it begins, where its content begins, where it ends) of each field. Raises ValueError or IndexError."""
    while at < end:
        begin = at
        tag, at = _read_varint(view, at)
        kind = tag & 7
        if kind == 0:
            body = at
            _, at = _read_varint(view, at)
        elif kind in (1, 5):
            body, at = at, at + (8 if kind == 1 else 4)
        elif kind == 2:
            size, body = _read_varint(view, at)
            at = body + size
        else:
            raise ValueError("groups")
        if at > end:
            raise ValueError("cut off")
        yield tag >> 3, begin, body, at


def _read_varint(view: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = view[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number of more than 64 bits")


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
