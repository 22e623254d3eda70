"""JSON: documents, and the `data` of their tensors to arrays and back, in C++ and without the GIL.

A body is read in two steps. parse_document cuts the data of its tensors out and reads the small rest; parse_data turns each of the data into
an array, once it is known what it should be. Both together take what RFC 8259 calls JSON, in UTF-8, and nothing else; of one object no
key is taken twice. Integers never go by way of a double, and floats are rounded once, to their own type.

What JSON's numbers lack, "NaN", "Infinity" and "-Infinity", is text in both directions, as in protobuf's JSON; as bare words it would be
no JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from .. import _native
from .._errors import InvalidArgumentError
from ._datatypes import BYTES, Array, Datatype
from ._errors import bad_request, shown
from ._tensors import shown_shape

MAX_DEPTH = 64  # levels of lists and objects that a body may open, those of its data included
MAX_REST = 1 << 20  # a body has fewer bytes beside its data


class JsonData(NamedTuple):
    """The `data` of a tensor in a body. Its brackets and quotes were looked at, and nothing else yet."""

    text: memoryview


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in members if names.count(name) > 1)
        raise bad_request(f"the key {shown(twice)} is given twice in one object")
    return members


# json.loads and json.dumps would make one for each document.
_DECODER = json.JSONDecoder(object_pairs_hook=_members)
_ENCODER = json.JSONEncoder(allow_nan=False, check_circular=False, separators=(",", ":"))


def parse_document(body: bytes | bytearray | memoryview, *, response: bool = False) -> Any:
    """A request's JSON or a `response`'s, with JsonData for each `data` of its inputs or outputs.

    Raises:
        ServiceError: BAD_REQUEST: it is no JSON, is too deep, has too much beside the data or a key twice.
    """
    rest, data = cut_document(body, response=response)
    document = read_rest(rest)
    if data:
        for tensor in document["outputs" if response else "inputs"]:
            if isinstance(tensor, dict) and "data" in tensor:
                tensor["data"] = data[tensor["data"]]
    return document


def cut_document(body: bytes | bytearray | memoryview, *, response: bool = False) -> tuple[bytes, list[JsonData]]:
    """The document with a number for each `data` of its tensors, and those data by their numbers.

    Raises:
        ServiceError: as parse_document.
    """
    rest, places = scan_document(body, response=response)
    whole = memoryview(body)
    return rest, [JsonData(whole[begin:end]) for begin, end in places]


def scan_document(
    body: bytes | bytearray | memoryview, *, response: bool = False
) -> tuple[bytes, list[tuple[int, int]]]:
    """cut_document, with the data as places in the body."""
    try:
        return _native.json_scan(body, response, MAX_DEPTH, MAX_REST)
    except InvalidArgumentError as error:
        raise bad_request(str(error)) from None


def read_rest(rest: bytes) -> Any:
    """The first that cut_document gives, read. Raises ServiceError as parse_document."""
    try:
        return _DECODER.decode(rest.decode())
    except ValueError:  # Python bounds the digits of an integer, and all else was checked
        raise bad_request("the body has a number of more digits than are read") from None


def dump_document(members: Mapping[str, Any], name: str, tensors: Iterable[tuple[bytes, bytes | None]]) -> list[bytes]:
    """The inverse, in parts, so that large data are not copied: an object with these members and, as `name`, a list of tensors.

    Of each tensor: its members as `dump_members` gives them, and `data` as write_data does, if any.
    """
    text = dump_members(members)
    parts = [text, b',"%b":[' % name.encode() if members else b'"%b":[' % name.encode()]
    for index, (tensor, data) in enumerate(tensors):
        if index:
            parts.append(b",")
        parts += [tensor, b"}"] if data is None else [tensor, b',"data":', data, b"}"]
    parts.append(b"]}")
    return parts


def dump_members(members: Mapping[str, Any]) -> bytes:
    """An object that is to go on: without its last brace."""
    return _ENCODER.encode(members)[:-1].encode()


def parse_data(data: JsonData, datatype: Datatype, shape: Sequence[int], what: str) -> Array:
    """A tensor's `data`, flat in row-major order or nested as `shape` says, to an array of that shape.

    The shape is one that check_shape lets pass; `what` names the tensor in errors, as "input 'x'".

    Raises:
        ServiceError: BAD_REQUEST: the list is not JSON, is nested otherwise, has other elements or another number of them.
    """
    try:
        if datatype is not BYTES:
            return _native.json_read(data.text, datatype.runtime, list(shape), what)
        text, offsets = _native.json_read_strings(data.text, list(shape), what)
    except InvalidArgumentError as error:
        raise bad_request(str(error)) from None
    except ValueError:  # numpy's: there is no such array
        raise bad_request(f"{what} has shape {shown_shape(shape)}, which is beyond any tensor's") from None
    elements = (text[begin:end] for begin, end in pairwise(offsets.tolist()))
    return np.fromiter(elements, object, len(offsets) - 1).reshape(shape)


def write_data(array: Array, datatype: Datatype, what: str) -> bytes:
    """The inverse: a flat list in row-major order.

    A float is the shortest text that reads back to the same bits in its own type, and keeps a point or an exponent.

    Raises:
        ServiceError: BAD_REQUEST: an element of BYTES is no UTF-8.
    """
    if datatype is not BYTES:
        return _native.json_write(np.ascontiguousarray(array.reshape(-1), datatype.dtype), datatype.runtime)
    elements = array.reshape(-1).tolist()
    lengths = np.fromiter(map(len, elements), np.int64, len(elements))
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    try:
        return _native.json_write_strings(b"".join(elements), offsets, what)
    except InvalidArgumentError as error:
        raise bad_request(str(error)) from None
