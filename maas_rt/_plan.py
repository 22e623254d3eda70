"""The plan section's codec: `encode(plan)` gives the section's bytes, `decode(data)` reads them back.

The records and enumerators are those of csrc/artifact/plan.inc, from which `_plan_records.py` is written when the library is
built; FORMAT.md says what the fields mean. Both directions check every field against its stored type. A plan of an older
version is read as it was then, and what it lacks gets the initial value that plan.inc gives it.
"""

from __future__ import annotations

import operator
import struct
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from enum import IntEnum
from typing import Any, get_args, get_origin, get_type_hints

from maas_rt._errors import FormatError, InvalidArgumentError
from maas_rt._plan_records import (
    PLAN_VERSION,
    SINCE,
    Arg,
    ArgKind,
    Attr,
    Block,
    Check,
    DeviceKind,
    Encoding,
    Entry,
    Expr,
    ExprOp,
    MemorySpace,
    Plan,
    State,
    Step,
    StepKind,
    Storage,
    Symbol,
    Value,
    ValueKind,
)

__all__ = [
    "MAX_RANK",
    "PLAN_VERSION",
    "Arg",
    "ArgKind",
    "Attr",
    "Block",
    "Check",
    "DTypeCode",
    "DeviceKind",
    "Encoding",
    "Entry",
    "Expr",
    "ExprOp",
    "MemorySpace",
    "Plan",
    "State",
    "Step",
    "StepKind",
    "Storage",
    "Symbol",
    "Value",
    "ValueKind",
    "decode",
    "encode",
]

MAX_RANK = 12  # MRT_MAX_RANK of maas_rt.h


class DTypeCode(IntEnum):
    """DLPack's type codes."""

    INT = 0
    UINT = 1
    FLOAT = 2
    BFLOAT = 4
    COMPLEX = 5
    BOOL = 6
    FLOAT8_E4M3FN = 10
    FLOAT8_E4M3FNUZ = 11
    FLOAT8_E5M2 = 12
    FLOAT8_E5M2FNUZ = 13
    FLOAT8_E8M0FNU = 14
    FLOAT4_E2M1FN = 17


def encode(plan: Plan) -> bytes:
    """The bytes of the plan section.

    Raises:
        InvalidArgumentError: a field does not fit its stored type; the message names it.
    """
    out = bytearray()
    _codec(Plan).write(plan, out, "plan")
    return bytes(out)


def decode(data: bytes | bytearray | memoryview) -> Plan:
    """The plan that `data` holds.

    Raises:
        FormatError: truncated, damaged, surplus bytes, an unknown enumerator, or a newer plan version.
    """
    plan: Plan = decode_as(Plan, bytes(data), PLAN_VERSION, SINCE)
    return plan


def decode_as(cls: type[Any], data: bytes, newest: int, since: dict[IntEnum, int]) -> Any:
    """The record `cls`, whose first field is a version up to `newest`, that `data` holds; `since`: of the enumerators."""
    version = struct.unpack_from("<I", data)[0] if len(data) >= 4 else newest
    if version > newest:
        raise FormatError(f"the plan has version {version} and this runtime reads up to {newest}: update maas-rt")
    if version == 0:
        raise FormatError("the plan is damaged: its version is 0")
    cursor = _Cursor(data, version, since)
    plan = _codec(cls).read(cursor, "plan")
    if cursor.left():
        raise FormatError(f"the plan is damaged: {cursor.left()} bytes follow its end at byte {cursor.at}")
    return plan


class _Cursor:
    """Reads from the bytes of a plan of some version and never past their end."""

    def __init__(self, data: bytes, version: int, since: dict[IntEnum, int]) -> None:
        self.data = data
        self.version = version
        self.since = since
        self.at = 0

    def left(self) -> int:
        return len(self.data) - self.at

    def take(self, size: int, place: str) -> bytes:
        if size > self.left():
            raise FormatError(
                f"the plan is damaged: {place} at byte {self.at} needs {size} bytes and {self.left()} are left"
            )
        begin = self.at
        self.at += size
        return self.data[begin : self.at]


@dataclass
class _Codec:
    """How one type is stored: the smallest size of it in a plan of some version, its writer and its reader."""

    smallest: Callable[[int], int]
    write: Callable[[Any, bytearray, str], None]
    read: Callable[[_Cursor, str], Any]


def _integer(code: str, low: int, high: int, enum: type[IntEnum] | None = None) -> _Codec:
    packer = struct.Struct("<" + code)
    members = {} if enum is None else {member.value: member for member in enum}

    def write(value: Any, out: bytearray, place: str) -> None:
        try:
            if isinstance(value, bool):
                raise TypeError
            number = operator.index(value)
            if enum is not None:
                enum(number)
        except (TypeError, ValueError):
            expected = f"a {enum.__name__}" if enum else "an integer"
            raise InvalidArgumentError(f"{place} is {value!r} and must be {expected}") from None
        if not low <= number <= high:
            raise InvalidArgumentError(f"{place} is {number} and must be between {low} and {high}")
        out += packer.pack(number)

    def read(cursor: _Cursor, place: str) -> Any:
        number = packer.unpack(cursor.take(packer.size, place))[0]
        if enum is None:
            return number
        known = members.get(number)
        if known is None or cursor.since.get(known, 1) > cursor.version:
            raise FormatError(
                f"the plan is damaged: {place} is {number}, which is no {enum.__name__} of plan version {cursor.version}"
            )
        return known

    return _Codec(lambda version: packer.size, write, read)


def _real() -> _Codec:
    packer = struct.Struct("<d")

    def write(value: Any, out: bytearray, place: str) -> None:
        try:
            out += packer.pack(value)
        except struct.error:
            raise InvalidArgumentError(f"{place} is {value!r} and must be a number") from None

    return _Codec(lambda version: 8, write, lambda cursor, place: packer.unpack(cursor.take(8, place))[0])


def _text() -> _Codec:
    count = _integer("I", 0, 2**32 - 1)

    def write(value: Any, out: bytearray, place: str) -> None:
        if not isinstance(value, str):
            raise InvalidArgumentError(f"{place} is {value!r} and must be text")
        try:
            data = value.encode("utf-8")
        except UnicodeEncodeError:
            raise InvalidArgumentError(f"{place} is {value!r}, which UTF-8 cannot hold") from None
        if b"\0" in data:
            raise InvalidArgumentError(f"{place} is {value!r} and must not hold a NUL")
        count.write(len(data), out, place)
        out += data

    def read(cursor: _Cursor, place: str) -> str:
        try:
            text = cursor.take(count.read(cursor, place), place).decode("utf-8")
        except UnicodeDecodeError:
            raise FormatError(f"the plan is damaged: {place} is not UTF-8") from None
        if "\0" in text:
            raise FormatError(f"the plan is damaged: {place} holds a NUL")
        return text

    return _Codec(lambda version: 4, write, read)


def _list(element: _Codec) -> _Codec:
    count = _integer("I", 0, 2**32 - 1)

    def write(value: Any, out: bytearray, place: str) -> None:
        if not isinstance(value, (list, tuple)):
            raise InvalidArgumentError(f"{place} is a {type(value).__name__} and must be a list")
        count.write(len(value), out, place)
        for i, each in enumerate(value):
            element.write(each, out, f"{place}[{i}]")

    def read(cursor: _Cursor, place: str) -> list[Any]:
        n = count.read(cursor, place)
        if n * element.smallest(cursor.version) > cursor.left():
            raise FormatError(
                f"the plan is damaged: {place} counts {n} elements at byte {cursor.at}, more than its "
                f"{cursor.left()} bytes hold"
            )
        return [element.read(cursor, f"{place}[{i}]") for i in range(n)]

    return _Codec(lambda version: 4, write, read)


def _record(cls: type[Any]) -> _Codec:
    hints = get_type_hints(cls, include_extras=True)
    members = [(each.name, _codec(hints[each.name]), each.metadata.get("since", 1)) for each in fields(cls)]

    def write(value: Any, out: bytearray, place: str) -> None:
        if type(value) is not cls:
            raise InvalidArgumentError(f"{place} is a {type(value).__name__} and must be a {cls.__name__}")
        for name, codec, _ in members:
            codec.write(getattr(value, name), out, f"{place}.{name}")

    def read(cursor: _Cursor, place: str) -> Any:
        version = cursor.version
        return cls(
            **{name: codec.read(cursor, f"{place}.{name}") for name, codec, since in members if since <= version}
        )

    return _Codec(
        lambda version: sum(codec.smallest(version) for _, codec, since in members if since <= version), write, read
    )


_codecs: dict[Any, _Codec] = {}


def _codec(hint: Any) -> _Codec:
    """The codec of a field's annotation."""
    if hint in _codecs:
        return _codecs[hint]
    if get_origin(hint) is list:
        codec = _list(_codec(get_args(hint)[0]))
    elif is_dataclass(hint):
        codec = _record(hint)  # type: ignore[arg-type]
    elif get_origin(hint) is None:
        codec = _integer("B", 0, 2**8 - 1, hint)
    else:
        stored = get_args(hint)[1]
        if stored == "u8":
            codec = _integer("B", 0, 2**8 - 1)
        elif stored == "u32":
            codec = _integer("I", 0, 2**32 - 1)
        elif stored == "i64":
            codec = _integer("q", -(2**63), 2**63 - 1)
        elif stored == "f64":
            codec = _real()
        else:
            codec = _text()
    _codecs[hint] = codec
    return codec
