"""JSON: documents, and the `data` of their tensors to arrays and back.

What JSON's numbers lack, "NaN", "Infinity" and "-Infinity", is text in both directions, as in protobuf's JSON; as bare words it would be
no JSON.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ._datatypes import Array, Datatype, bfloat16_of, bfloat16_values
from ._errors import bad_request, shown

_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_ALLOWED: dict[str, frozenset[type]] = {  # by the kind of numpy's dtype
    "b": frozenset({bool}),
    "i": frozenset({int}),
    "u": frozenset({int}),
    "f": frozenset({int, float}),
}


def _refuse(word: str) -> float:
    raise bad_request(f'{word} is not JSON: send "NaN", "Infinity" and "-Infinity" as text')


# json.loads and json.dumps would make one for each document.
_DECODER = json.JSONDecoder(parse_constant=_refuse)
_ENCODER = json.JSONEncoder(allow_nan=False, check_circular=False, separators=(",", ":"))


def parse_document(text: bytes | bytearray | memoryview) -> Any:
    """A request's or response's JSON. The `data` of a tensor in it is for parse_data alone to read."""
    try:
        return _DECODER.decode(str(text, "utf-8").removeprefix("\ufeff"))
    except (ValueError, RecursionError):
        raise bad_request("the body is not valid JSON in UTF-8") from None


def dump_document(document: Any) -> bytes:
    """The inverse; `data` is what write_data gave."""
    return _ENCODER.encode(document).encode()


def parse_data(data: Any, datatype: Datatype, shape: Sequence[int], what: str) -> Array:
    """A tensor's `data`, flat in row-major order or nested as `shape` says, to an array of that shape.

    The shape is one that check_shape lets pass; `what` names the tensor in errors, as "input 'x'".
    """
    flat = _flatten(data, shape, what)
    count = math.prod(shape)
    if len(flat) != count:
        raise bad_request(f"{what} has {len(flat)} elements, its shape {list(shape)} needs {count}")
    if datatype.name == "BYTES":
        return _strings(flat, what).reshape(shape)
    return _numbers(flat, datatype, what).reshape(shape)


def write_data(array: Array, datatype: Datatype, what: str) -> Any:
    """The inverse: what dump_document takes for `data`, flat in row-major order."""
    flat = array.reshape(-1)
    if datatype.name == "BYTES":
        try:
            return [element.decode() for element in flat]
        except UnicodeDecodeError:
            raise bad_request(f"{what} holds bytes that are no UTF-8: ask for it as binary data") from None
    if datatype.name == "BF16":
        flat = bfloat16_values(flat)
    values: list[Any] = flat.tolist()
    if flat.dtype.kind != "f" or np.isfinite(flat).all():
        return values
    return [v if math.isfinite(v) else "NaN" if math.isnan(v) else "Infinity" if v > 0 else "-Infinity" for v in values]


def _flatten(data: Any, shape: Sequence[int], what: str) -> list[Any]:
    if not isinstance(data, list):
        raise bad_request(f'{what}: "data" must be a list, flat or nested in row-major order')
    items = data
    if not _nested(items, what):
        return items
    for dimension, extent in enumerate(shape):
        lists = items if dimension else [data]
        uneven = next((each for each in lists if len(each) != extent), None)
        if uneven is not None:
            raise bad_request(
                f'{what}: "data" has a list of {len(uneven)} entries where its shape {list(shape)} has {extent}'
            )
        items = [item for each in lists for item in each]
        if items and _nested(items, what) == (dimension == len(shape) - 1):
            break
    else:
        if shape:
            return items
    raise bad_request(
        f'{what}: "data" is nested, but not as deep as its shape {list(shape)}: nest it so, or not at all'
    )


def _nested(items: list[Any], what: str) -> bool:
    """Whether the entries are lists, all of them."""
    lists = sum(type(item) is list for item in items)
    if 0 < lists < len(items):
        raise bad_request(f'{what}: "data" mixes numbers and lists at one level')
    return lists > 0


def _numbers(flat: list[Any], datatype: Datatype, what: str) -> Array:
    dtype = np.dtype(np.float64) if datatype.name == "BF16" else datatype.dtype
    allowed = _ALLOWED[dtype.kind]
    infinities = 0
    if not allowed.issuperset(map(type, flat)):
        for value in flat:
            named = dtype.kind == "f" and type(value) is str and value in _NON_FINITE
            if not named and type(value) not in allowed:
                raise bad_request(f"{what}: {shown(value)} is no {datatype.runtime} value")
        infinities = sum(value in ("Infinity", "-Infinity") for value in flat)
        flat = [_NON_FINITE.get(value, value) for value in flat]
    array = _fitting(flat, dtype)
    if array is not None and datatype.name == "BF16":
        array = bfloat16_of(array)
    if array is None or (dtype.kind == "f" and _count_infinite(array) != infinities):
        raise bad_request(f"{what}: a value does not fit into {datatype.runtime}")
    return array


def _fitting(flat: list[Any], dtype: np.dtype[Any]) -> Array | None:
    """None if a value is none of the type's; a float that is too large becomes infinite."""
    if dtype.kind in "iu" and flat:
        limits = np.iinfo(dtype)
        if min(flat) < limits.min or max(flat) > limits.max:
            return None
    try:
        with np.errstate(over="ignore"):
            return np.asarray(flat, dtype)
    except OverflowError:  # an integer beyond float64
        return None


def _count_infinite(array: Array) -> int:
    if array.dtype.kind == "u":  # bfloat16
        return int(np.count_nonzero((array & 0x7FFF) == 0x7F80))
    return int(np.count_nonzero(np.isinf(array)))


def _strings(flat: list[Any], what: str) -> Array:
    array = np.empty(len(flat), object)
    for index, value in enumerate(flat):
        if isinstance(value, bytes):
            array[index] = value
            continue
        if not isinstance(value, str):
            raise bad_request(f"{what}: {shown(value)} is no string")
        try:
            array[index] = value.encode()
        except UnicodeEncodeError:
            raise bad_request(f"{what}: a string holds half of a surrogate pair, which is no character") from None
    return array
