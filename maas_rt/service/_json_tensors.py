"""JSON tensors of the Open Inference Protocol v2: bytes to arrays and back, in C++ and without the GIL.

A request's body is read in two steps. `scan` finds the data of its inputs and leaves a small document for a JSON
library; `read` and `read_strings` turn each of the data into an array. Both together accept what RFC 8259 calls JSON, in
UTF-8, and nothing else. `write` and `write_strings` make the lists of a response.

A float that JSON's numbers lack is text in both directions, "NaN", "Infinity" or "-Infinity", as in protobuf's JSON.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import _native
from .._errors import InvalidArgumentError

__all__ = ["BadRequest", "Scan", "Strings", "read", "read_strings", "scan", "write", "write_strings"]

Body = bytes | bytearray | memoryview

MAX_DEPTH = 64
MAX_REST = 1 << 20


class BadRequest(Exception):
    """The request is wrong; the text says what and where."""


class Scan(NamedTuple):
    """A request without its inputs' data."""

    rest: bytes
    """The body as JSON, with an index into `data` for each `data` of an input."""
    data: list[tuple[int, int]]
    """The ranges of bytes that were cut out."""


class Strings(NamedTuple):
    """Strings one behind the other, without an object for each."""

    text: bytes
    offsets: NDArray[np.int64]
    """The i-th string is text[offsets[i]:offsets[i + 1]]."""

    @classmethod
    def of(cls, strings: Sequence[bytes]) -> Strings:
        lengths = np.fromiter((len(each) for each in strings), np.int64, len(strings))
        return cls(b"".join(strings), np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]))

    def tolist(self) -> list[bytes]:
        bounds = self.offsets.tolist()
        return [self.text[begin:end] for begin, end in pairwise(bounds)]


def scan(body: Body, *, max_depth: int = MAX_DEPTH, max_rest: int = MAX_REST) -> Scan:
    """Split a request's body into the document and its inputs' data.

    What is inside a list of data is checked when it is read, its brackets and strings excepted; all else is checked
    here, so that a JSON library takes `rest` as it is.

    Args:
        body: one JSON value.
        max_depth: levels of lists and objects that it may open, those of the data included.
        max_rest: `rest` is shorter than that.

    Raises:
        BadRequest: the body is not JSON, too deep, has too much beside the data, or gives a key twice that decides what
            is read: of the request, or of an input.
    """
    try:
        return Scan(*_native.json_scan(body, max_depth, max_rest))
    except InvalidArgumentError as error:
        raise BadRequest(str(error)) from None


def read(body: Body, where: tuple[int, int], dtype: str, shape: Sequence[int], what: str) -> NDArray[Any]:
    """The data in a range of a body as an array.

    Integers are exact; floats are rounded once, to `dtype` itself.

    Args:
        where: of `Scan.data`.
        dtype: numpy's name of it; "bfloat16" needs the package ml_dtypes.
        shape: extents of 0 or more. The list is flat in row-major order or nested as the shape is.
        what: names the tensor in messages, as "input 'x'".

    Raises:
        BadRequest: the list is not JSON, is nested otherwise, has other elements or another number of them.
    """
    check_shape(shape, what)
    try:
        return _native.json_read(body, *where, dtype, list(shape), what)
    except InvalidArgumentError as error:
        raise BadRequest(str(error)) from None
    except ValueError:  # numpy's
        raise BadRequest(beyond(shape, what)) from None


def read_strings(body: Body, where: tuple[int, int], shape: Sequence[int], what: str) -> Strings:
    """The same for strings (datatype BYTES): their UTF-8, in row-major order."""
    check_shape(shape, what)
    try:
        return Strings(*_native.json_read_strings(body, *where, list(shape), what))
    except InvalidArgumentError as error:
        raise BadRequest(str(error)) from None


def write(array: NDArray[Any], what: str) -> bytes:
    """An array as a flat JSON list in row-major order.

    Floats are the shortest text that reads back to the same bits in the array's own type, and keep a point or an
    exponent.

    Raises:
        BadRequest: JSON tensors cannot carry its dtype.
    """
    try:
        return _native.json_write(np.ascontiguousarray(array), what)
    except InvalidArgumentError as error:
        raise BadRequest(str(error)) from None


def write_strings(strings: Strings, what: str) -> bytes:
    """Strings as a JSON list.

    Raises:
        BadRequest: one of them is not UTF-8.
    """
    try:
        return _native.json_write_strings(strings.text, strings.offsets, what)
    except InvalidArgumentError as error:
        raise BadRequest(str(error)) from None


def check_shape(shape: Sequence[int], what: str) -> None:
    """Refuse a shape whose extents, those beside a 0 too, no array has."""
    if math.prod(max(extent, 1) for extent in shape) >= 2**59:
        raise BadRequest(beyond(shape, what))


def beyond(shape: Sequence[int], what: str) -> str:
    return f"{what} has shape {list(shape)}, which is beyond any tensor's"
