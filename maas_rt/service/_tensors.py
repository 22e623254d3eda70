"""Tensors: their shapes, their bytes, and the highest entries of one as text.

Source: the binary tensor data and classification extensions, https://github.com/triton-inference-server/server/tree/main/docs/protocol.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from ._datatypes import Array, Datatype, bfloat16_values
from ._errors import bad_request

_MAX_RANK = 64  # of numpy's arrays
_MAX_BYTES = 2**63 - 1
_LENGTH = struct.Struct("<I")


def read_shape(shape: Any, what: str) -> tuple[int, ...]:
    """A `shape` of a document. `what` names the tensor in errors, as "input 'x'"."""
    if not isinstance(shape, list) or not all(type(extent) is int and extent >= 0 for extent in shape):
        raise bad_request(f'{what}: "shape" must be a list of integers of 0 or more')
    return tuple(shape)


def check_shape(shape: Sequence[int], datatype: Datatype, what: str) -> None:
    """Refuses what no tensor of this datatype can have."""
    if len(shape) > _MAX_RANK:
        raise bad_request(f"{what} has {len(shape)} dimensions, and a tensor has at most {_MAX_RANK}")
    # An extent of 0 does not excuse the others: arrays are laid out by all of them.
    if math.prod(max(extent, 1) for extent in shape) * datatype.itemsize > _MAX_BYTES:
        raise bad_request(f"{what} has shape {shown_shape(shape)}, which is beyond any tensor's")


def shown_shape(shape: Sequence[int]) -> str:
    """A client's shape in an error, however long it or a number in it is."""
    text = ", ".join(str(extent) if extent < 2**70 else "..." for extent in shape[:16])
    return f"[{text}{', ...' if len(shape) > 16 else ''}]"


def read_binary(data: memoryview, datatype: Datatype, shape: Sequence[int], what: str) -> Array:
    """A tensor's binary data to an array: a view of it, or objects for BYTES. The shape is one that check_shape lets pass."""
    count = math.prod(shape)
    if datatype.name == "BYTES":
        return _read_elements(data, count, what).reshape(shape)
    if len(data) != count * datatype.itemsize:
        raise bad_request(
            f"{what} has {len(data)} bytes of data, and {datatype.name} of shape {shown_shape(shape)} takes "
            f"{count * datatype.itemsize}"
        )
    if datatype.name == "BOOL":
        bytes_ = np.frombuffer(data, np.uint8)
        if bytes_.size and bytes_.max() > 1:
            at = int(np.argmax(bytes_ > 1))
            raise bad_request(f"{what}: byte {at} of its data is {bytes_[at]}, and a BOOL is 0 or 1")
    return np.frombuffer(data, datatype.dtype).reshape(shape)


def write_binary(array: Array, datatype: Datatype) -> memoryview:
    """The inverse: the bytes, those of the array itself where its layout allows."""
    if datatype.name == "BYTES":
        return memoryview(b"".join(part for each in array.flat for part in (_LENGTH.pack(len(each)), each)))
    dense = np.ascontiguousarray(array, datatype.dtype)
    return dense.reshape(-1).view(np.uint8).data


def _read_elements(data: memoryview, count: int, what: str) -> Array:
    """BYTES: a length in four bytes before each element."""
    if len(data) < 4 * count:  # before anything is made of that size
        raise bad_request(f"{what} has {len(data)} bytes of data, too few for {count} elements with their lengths")
    elements = np.empty(count, object)
    at = 0
    for index in range(count):
        begin = at + 4
        end = begin + (_LENGTH.unpack_from(data, at)[0] if begin <= len(data) else 0)
        if begin > len(data) or end > len(data):
            raise bad_request(f"{what}: element {index} of its data ends at byte {max(begin, end)} of {len(data)}")
        elements[index] = bytes(data[begin:end])
        at = end
    if at != len(data):
        raise bad_request(f"{what} has {len(data)} bytes of data, and its {count} elements end at byte {at}")
    return elements


def classify(array: Array, datatype: Datatype, count: int, labels: Sequence[str] = ()) -> Array:
    """The `count` highest entries of each row, highest first, as BYTES "value:index" or "value:index:label".

    A row is all that belongs to one index of the first dimension; a tensor of one dimension is one row. Of equal entries the first
    comes first, NaN after all else. The result has shape [rows, n], [n] for one dimension; n is `count` or the entries of a row.
    """
    values = bfloat16_values(array) if datatype.name == "BF16" else array
    lines = values.shape[0] if values.ndim > 1 else 1
    rows = values.reshape(lines, math.prod(values.shape[1:]) if values.ndim > 1 else values.size)
    kept = min(count, rows.shape[1])
    # Ascending and stable on the rows turned round: turned back they are descending, and equals are in their order.
    turned = rows[:, ::-1]
    numbers = ~np.isnan(turned) if rows.dtype.kind == "f" else np.ones(rows.shape, bool)
    order = (rows.shape[1] - 1 - np.lexsort((turned, numbers), axis=1))[:, ::-1][:, :kept]
    found = np.empty(order.shape, object)
    for row, indices in enumerate(order):
        for place, index in enumerate(indices):
            label = f":{labels[index]}" if index < len(labels) else ""
            found[row, place] = f"{_value_text(rows[row, index])}:{index}{label}".encode()
    return found if values.ndim > 1 else found.reshape(kept)


def _value_text(value: Any) -> str:
    if value.dtype.kind == "b":
        return str(int(value))
    if value.dtype.kind != "f" or math.isfinite(value):
        return str(value)
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
