"""The wire format of protobuf, as far as tensors need it: their data are cut out of a request without a copy, read to arrays and written.

A request is read in two steps, as a JSON body is (_json). `cut` takes the data of its tensors out and leaves the small rest to protobuf;
parse_contents turns data into an array, once it is known what it should be.

Source: https://protobuf.dev/programming-guides/encoding; the numbers of the fields are those of ModelInferRequest and InferTensorContents.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ._datatypes import Array, Datatype
from ._errors import bad_request
from ._tensors import shown_shape

MAX_REST = 1 << 20  # a message has fewer bytes beside its data
_MAX_PIECES = 1 << 16  # in which the elements of one tensor may come
_PIECE = 1 << 20  # bytes of numbers that are read at a time
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_INPUTS, _RAW = 5, 7  # of ModelInferRequest
_CONTENTS = 5  # of its InferInputTensor
_CONTENTS_TAG = bytes([_CONTENTS << 3 | _BYTES])
_SMALL = 256  # bytes
# Of InferTensorContents: by datatype the number of its field; by number the field's name, and how one element is written.
_FIELD_OF = {
    "BOOL": 1,
    **dict.fromkeys(("INT8", "INT16", "INT32"), 2),
    "INT64": 3,
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), 4),
    "UINT64": 5,
    "FP32": 6,
    "FP64": 7,
    "BYTES": 8,
}
_FIELDS = {
    1: ("bool_contents", _VARINT),
    2: ("int_contents", _VARINT),
    3: ("int64_contents", _VARINT),
    4: ("uint_contents", _VARINT),
    5: ("uint64_contents", _VARINT),
    6: ("fp32_contents", _FIXED32),
    7: ("fp64_contents", _FIXED64),
    8: ("bytes_contents", _BYTES),
}


class Contents(NamedTuple):
    """The `contents` of an input: the bytes of an InferTensorContents, in parts, of which nothing was looked at yet."""

    parts: tuple[memoryview, ...]

    @property
    def nbytes(self) -> int:
        """Bytes in all."""
        return sum(map(len, self.parts))


class Cut(NamedTuple):
    """A ModelInferRequest: what protobuf reads, the contents of each of its inputs, and raw_input_contents."""

    rest: bytes
    contents: list[Contents]
    raw: list[memoryview]


def cut(message: memoryview) -> Cut:
    """Takes the data out of a ModelInferRequest.

    Raises:
        ServiceError: BAD_REQUEST: it is no message, or has too much beside its data.
    """
    pieces: list[bytes | memoryview] = []
    contents: list[Contents] = []
    raw: list[memoryview] = []
    kept = done = 0
    for number, kind, begin, value, end in _fields(message):
        if kind == _BYTES and number == _RAW:
            raw.append(message[value:end])
            pieces.append(message[done:begin])
            kept, done = kept + value - begin, end
        elif kind == _BYTES and number == _INPUTS:
            inner, parts, size = _cut_input(message[value:end], MAX_REST - kept)
            contents.append(Contents(parts))
            kept += size + value - begin
            if parts:
                pieces += [message[done:begin], *field(_INPUTS, inner)]
                done = end
        else:
            kept += end - begin
        _check_rest(kept, MAX_REST)
    pieces.append(message[done:])
    return Cut(b"".join(pieces), contents, raw)


def _cut_input(message: memoryview, most: int) -> tuple[list[memoryview], tuple[memoryview, ...], int]:
    """Of an input: what is left without its contents, these, and how many bytes were not theirs."""
    if len(message) < _SMALL and _CONTENTS_TAG not in message.tobytes():  # as most are
        return [message], (), len(message)
    left: list[memoryview] = []
    parts: list[memoryview] = []
    kept = done = 0
    for number, kind, begin, value, end in _fields(message):
        if kind == _BYTES and number == _CONTENTS:
            parts.append(message[value:end])
            left.append(message[done:begin])
            kept, done = kept + value - begin, end
        else:
            kept += end - begin
        _check_rest(kept, most)
    left.append(message[done:])
    return left, tuple(parts), kept


def _check_rest(size: int, most: int) -> None:
    if size > most:
        raise bad_request(f"the message has more than {MAX_REST} bytes beside the data of its tensors")


def _fields(message: memoryview) -> Iterator[tuple[int, int, int, int, int]]:
    """Of each field: its number, how it is written, where it begins, where its value does, and where both end."""
    at, length = 0, len(message)
    while at < length:
        begin = at
        tag = message[at]
        at += 1
        if tag > 127:
            tag, at = _varint(message, begin)
        number, kind = tag >> 3, tag & 7
        value = at
        if kind == _BYTES:
            size = message[at] if at < length else 128
            value += 1
            if size > 127:
                size, value = _varint(message, at)
            at = value + size
        elif kind == _VARINT:
            _, at = _varint(message, at)
        elif kind == _FIXED32:
            at += 4
        elif kind == _FIXED64:
            at += 8
        else:
            raise _no_message(begin)
        if at > length or not 0 < number < 1 << 29:
            raise _no_message(begin)
        yield number, kind, begin, value, at


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A number, and where it ends."""
    found = shift = 0
    for index in range(at, min(at + 10, len(message))):
        byte = message[index]
        found |= (byte & 127) << shift
        if byte < 128:
            return found & (1 << 64) - 1, index + 1
        shift += 7
    raise _no_message(at)


def _no_message(at: int) -> Exception:
    return bad_request(f"the message cannot be read: it is no protobuf at byte {at} or in what begins there")


# ---- arrays ---------------------------------------------------------------------------------------------------------


def parse_contents(contents: Contents, datatype: Datatype, shape: Sequence[int], what: str) -> Array:
    """The contents of a tensor to an array of that shape, which is one that check_shape lets pass. `what` names it, as "input 'x'".

    Raises:
        ServiceError: BAD_REQUEST: they are of another datatype, are broken, or have another number of elements.
    """
    if datatype.name not in _FIELD_OF:
        raise bad_request(f"{what} is {datatype.name}, which has no contents: send it in raw_input_contents")
    number = _FIELD_OF[datatype.name]
    count = math.prod(shape)
    if datatype.name == "BYTES":
        elements = np.empty(count, object)
        found = 0
        for element in _pieces(contents, number, datatype, what, count + 1):
            if found < count:
                elements[found] = bytes(element)
            found += 1
        _check_count(found, count, shape, what)
        return elements.reshape(shape)
    data = _packed(contents, number, datatype, what)
    if _FIELDS[number][1] != _VARINT:
        _check_count(len(data) // datatype.itemsize, count, shape, what)
        if len(data) % datatype.itemsize:
            raise bad_request(f"{what}: its {_FIELDS[number][0]} end within a number")
        return np.frombuffer(data, datatype.dtype).reshape(shape)
    raw = np.frombuffer(data, np.uint8)
    if raw.size and raw[-1] > 127:
        raise bad_request(f"{what}: its {_FIELDS[number][0]} end within a number")
    _check_count(int(np.count_nonzero(raw < 128)), count, shape, what)  # before anything is made of that size
    array = np.empty(count, datatype.dtype)
    done = 0
    for values in _numbers(raw, what):
        array[done : done + values.size] = _converted(values, datatype, done, what)
        done += values.size
    return array.reshape(shape)


def _check_count(found: int, count: int, shape: Sequence[int], what: str) -> None:
    if found != count:
        told = f"more than {count}" if found > count else found
        raise bad_request(f"{what} has {told} elements, its shape {shown_shape(shape)} needs {count}")


def _pieces(contents: Contents, number: int, datatype: Datatype, what: str, most: int) -> Iterator[memoryview]:
    """What stands in the one field that a datatype has: packed numbers, single ones, strings. After `most` of them no more."""
    name, single = _FIELDS[number]
    left = most
    for part in contents.parts:
        for found, kind, _, value, end in _fields(part):
            if found not in _FIELDS:
                continue
            if found != number or kind not in (single, _BYTES):
                wrong = _FIELDS[found][0] if found != number else f"{name} of another type"
                raise bad_request(f"{what} is {datatype.name}, whose elements are its {name}, and has {wrong}")
            if left == 0:
                return
            left -= 1
            yield part[value:end]


def _packed(contents: Contents, number: int, datatype: Datatype, what: str) -> bytes | memoryview | NDArray[np.uint8]:
    """The numbers of a tensor one after the other, whichever way they were sent."""
    single = _FIELDS[number][1]
    if len(contents.parts) == 1 and contents.parts[0][:1] == bytes([number << 3 | single]):
        alike = _singles(contents.parts[0], number << 3 | single)
        if alike is not None:
            return alike
    pieces = list(_pieces(contents, number, datatype, what, _MAX_PIECES + 1))
    if len(pieces) > _MAX_PIECES:
        raise bad_request(f"{what} has its elements in more than {_MAX_PIECES} pieces: send them packed")
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _singles(part: memoryview, tag: int) -> NDArray[np.uint8] | None:
    """Numbers with a tag before each, as proto2 wrote them, without the tags; None if there is anything else between them."""
    raw = np.frombuffer(part, np.uint8)
    if tag & 7 != _VARINT:
        size = 5 if tag & 7 == _FIXED32 else 9
        if raw.size % size or (raw[::size] != tag).any():
            return None
        return np.ascontiguousarray(raw.reshape(-1, size)[:, 1:]).reshape(-1)
    # A tag is a number of one byte itself: every other one is one.
    before = np.concatenate([np.zeros(1, np.uint32), np.cumsum(raw[:-1] < 128, dtype=np.uint32)])  # numbers that ended
    tags = before % 2 == 0
    if raw[-1] > 127 or before[-1] % 2 == 0 or (raw[tags] != tag).any():
        return None
    numbers: NDArray[np.uint8] = raw[~tags]
    return numbers


def _numbers(raw: NDArray[np.uint8], what: str) -> Iterator[NDArray[np.uint64]]:
    """Numbers of seven bits a byte, lowest first, of which the last byte is below 128; so many at a time as a piece has."""
    at = 0
    while at < raw.size:
        piece = raw[at : at + _PIECE]
        ends = np.flatnonzero(piece < 128) + 1
        begins = np.concatenate([np.zeros(1, np.int64), ends[:-1]])
        lengths = ends - begins
        longest = int(lengths.max(initial=0)) or piece.size
        if longest > 10:
            raise bad_request(f"{what}: a number in its contents has more than 10 bytes")
        values = (piece[begins] & 127).astype(np.uint64)
        for index in range(1, longest):
            longer = np.flatnonzero(lengths > index)
            bits = (piece[begins[longer] + index] & 127).astype(np.uint64)
            values[longer] |= bits << np.uint64(7 * index)
        at += int(ends[-1])
        yield values


def _converted(values: NDArray[np.uint64], datatype: Datatype, first: int, what: str) -> Array:
    if datatype.dtype.kind == "b":
        return np.not_equal(values, 0)
    if datatype.itemsize == 8:
        return values.view(datatype.dtype)
    wide = values.astype(np.uint32).view(np.int32 if datatype.dtype.kind == "i" else np.uint32)
    if datatype.itemsize < 4:
        limits = np.iinfo(datatype.dtype)
        wrong = np.flatnonzero((wide < limits.min) | (wide > limits.max))
        if wrong.size:
            raise bad_request(
                f"{what}: element {first + int(wrong[0])} is {wide[wrong[0]]}, and {datatype.name} is from "
                f"{limits.min} to {limits.max}"
            )
    return wide


# ---- writing --------------------------------------------------------------------------------------------------------


def has_contents(datatype: Datatype) -> bool:
    """Whether tensors of it can be sent as contents."""
    return datatype.name in _FIELD_OF


def field(number: int, parts: Sequence[bytes | memoryview]) -> list[bytes | memoryview]:
    """A field of bytes, in parts."""
    return [bytes([number << 3 | _BYTES]) + _size(sum(map(len, parts))), *parts]


def write_contents(array: Array, datatype: Datatype) -> list[bytes | memoryview]:
    """The inverse of parse_contents, in parts; the bytes of the array itself where they can be."""
    number = _FIELD_OF[datatype.name]
    if datatype.name == "BYTES":
        return [part for element in array.flat for part in field(number, [element])]
    dense = np.ascontiguousarray(array).reshape(-1)
    if not dense.size:
        return []
    if _FIELDS[number][1] != _VARINT or datatype.dtype.kind == "b":
        return field(number, [np.ascontiguousarray(dense, datatype.dtype).view(np.uint8).data])
    wide = dense.astype(np.int64).view(np.uint64) if datatype.dtype.kind == "i" else dense.astype(np.uint64)
    return field(number, [_varints(wide[at : at + _PIECE // 8]) for at in range(0, wide.size, _PIECE // 8)])


def _varints(values: NDArray[np.uint64]) -> bytes:
    lengths = np.ones(values.size, np.int64)
    for index in range(1, 10):
        lengths += values >= np.uint64(1 << 7 * index)
    width = int(lengths.max())
    shifts = np.arange(width, dtype=np.uint64) * np.uint64(7)
    table = (values[:, None] >> shifts & np.uint64(127)).astype(np.uint8)
    places = np.arange(width)
    table |= np.where(places < lengths[:, None] - 1, 128, 0).astype(np.uint8)
    found: bytes = table[places < lengths[:, None]].tobytes()
    return found


def _size(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    found.append(value)
    return bytes(found)
