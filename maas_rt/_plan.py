"""The plan section's records and their codec: dataclasses that mirror csrc/artifact/plan.inc field by field.

FORMAT.md says what the fields mean; a test holds the two files together. `encode(plan)` gives the section's bytes,
`decode(data)` reads them back; both check every field against its stored type.
"""

from __future__ import annotations

import operator
import struct
from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass
from enum import IntEnum
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from maas_rt._errors import FormatError, InvalidArgumentError

PLAN_VERSION = 1
MAX_RANK = 12  # MRT_MAX_RANK of maas_rt.h


class ExprOp(IntEnum):
    """Operators of shape expressions: signed 64-bit; overflow and division by zero are errors of the run."""

    CONST = 0
    SYMBOL = 1
    ADD = 2
    SUB = 3
    MUL = 4
    FLOORDIV = 5
    FLOORMOD = 6
    MIN = 7
    MAX = 8
    EQ = 9
    LT = 10
    LE = 11
    AND = 12
    OR = 13
    NOT = 14
    CEILDIV = 15


class ValueKind(IntEnum):
    TENSOR = 0
    OPTIONAL = 1
    SEQUENCE = 2
    STRING = 3
    STATE = 4


class Encoding(IntEnum):
    DENSE = 0
    BLOCK_QUANTIZED = 1
    N_M = 2
    BLOCK_SPARSE = 3
    CSR = 4


class DeviceKind(IntEnum):
    CPU = 0
    OPENCL = 1
    CUDA = 2


class MemorySpace(IntEnum):
    DEFAULT = 0
    HOST = 1


class Storage(IntEnum):
    ARENA = 0
    INPUT = 1
    CONSTANT = 2
    VIEW = 3
    STATE = 4
    SEED = 5


class ArgKind(IntEnum):
    VALUE = 0
    EXPR = 1
    ABSENT = 2


class StepKind(IntEnum):
    KERNEL = 0
    CODE = 1
    COPY = 2
    BIND = 3
    IF = 4
    LOOP = 5
    LAUNCH = 6
    SHAPE = 7


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


# What a field is stored as. The annotation of a dataclass field is one of these, a list of one, a record, or an
# enumerator stored in a u8.
U8 = Annotated[int, "u8"]
U32 = Annotated[int, "u32"]
I64 = Annotated[int, "i64"]
F64 = Annotated[float, "f64"]
Str = Annotated[str, "str"]


@dataclass
class Symbol:
    """A dimension known only at run time. max -1: no bound."""

    name: Str
    min: I64 = 0
    max: I64 = -1
    multiple: I64 = 1


@dataclass
class Expr:
    """const: a is the value; symbol: a is its index; else a and b are earlier expressions."""

    op: Annotated[ExprOp, "u8"]
    a: I64 = 0
    b: I64 = 0


@dataclass
class Value:
    """A tensor (or state) of the plan; dims are indices of expressions."""

    name: Str
    kind: Annotated[ValueKind, "u8"] = ValueKind.TENSOR
    dtype_code: U8 = DTypeCode.FLOAT
    dtype_bits: U8 = 32
    encoding: Annotated[Encoding, "u8"] = Encoding.DENSE
    device: Annotated[DeviceKind, "u8"] = DeviceKind.CPU
    space: Annotated[MemorySpace, "u8"] = MemorySpace.DEFAULT
    storage: Annotated[Storage, "u8"] = Storage.ARENA
    dims: list[U32] = field(default_factory=list)
    base: U32 = 0
    offset: I64 = 0
    bytes: I64 = 0


@dataclass
class Attr:
    """One attribute of a kernel step: ints, floats or text."""

    key: Str
    ints: list[I64] = field(default_factory=list)
    floats: list[F64] = field(default_factory=list)
    text: Str = ""


@dataclass
class Arg:
    """An argument of a step: a value, an expression, or absent."""

    kind: Annotated[ArgKind, "u8"]
    index: U32 = 0


@dataclass
class Step:
    """What a block does, one after the other."""

    kind: Annotated[StepKind, "u8"]
    name: Str = ""
    target: Str = ""
    packing: Str = ""
    hint: Str = ""
    queue: U8 = 0
    args: list[Arg] = field(default_factory=list)
    outs: list[U32] = field(default_factory=list)
    attrs: list[Attr] = field(default_factory=list)
    binds: list[U32] = field(default_factory=list)
    blocks: list[U32] = field(default_factory=list)


@dataclass
class Block:
    """A list of steps with parameters and results."""

    name: Str = ""
    params: list[U32] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    results: list[U32] = field(default_factory=list)


@dataclass
class State:
    """What the model remembers between runs. init: the constant that it starts from; -1: zeros."""

    name: Str
    value: U32
    init: I64 = -1


@dataclass
class Check:
    """lhs must equal rhs once the inputs have bound the symbols."""

    lhs: U32
    rhs: U32
    message: Str = ""


@dataclass
class Entry:
    """An entry point: a block with named inputs and outputs."""

    name: Str
    inputs: list[U32] = field(default_factory=list)
    outputs: list[U32] = field(default_factory=list)
    block: U32 = 0
    reads: list[U32] = field(default_factory=list)
    writes: list[U32] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)


@dataclass
class Plan:
    """The whole section."""

    version: U32 = PLAN_VERSION
    name: Str = ""
    symbols: list[Symbol] = field(default_factory=list)
    exprs: list[Expr] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    states: list[State] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)


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
    cursor = _Cursor(bytes(data))
    version = struct.unpack_from("<I", cursor.data)[0] if len(cursor.data) >= 4 else None
    if version is not None and version > PLAN_VERSION:
        raise FormatError(f"the plan has version {version} and this runtime reads up to {PLAN_VERSION}: update maas-rt")
    plan: Plan = _codec(Plan).read(cursor, "plan")
    if cursor.left():
        raise FormatError(f"the plan is damaged: {cursor.left()} bytes follow its end at byte {cursor.at}")
    return plan


class _Cursor:
    """Reads from a byte string and never past its end."""

    def __init__(self, data: bytes) -> None:
        self.data = data
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
    """How one type is stored: its smallest size, writer and reader."""

    smallest: int
    write: Callable[[Any, bytearray, str], None]
    read: Callable[[_Cursor, str], Any]


def _integer(code: str, low: int, high: int, enum: type[IntEnum] | None = None) -> _Codec:
    packer = struct.Struct("<" + code)

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
        try:
            return enum(number)
        except ValueError:
            raise FormatError(f"the plan is damaged: {place} is {number}, which is no {enum.__name__}") from None

    return _Codec(packer.size, write, read)


def _real() -> _Codec:
    packer = struct.Struct("<d")

    def write(value: Any, out: bytearray, place: str) -> None:
        try:
            out += packer.pack(value)
        except struct.error:
            raise InvalidArgumentError(f"{place} is {value!r} and must be a number") from None

    return _Codec(8, write, lambda cursor, place: packer.unpack(cursor.take(8, place))[0])


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

    return _Codec(4, write, read)


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
        if n * element.smallest > cursor.left():
            raise FormatError(
                f"the plan is damaged: {place} counts {n} elements at byte {cursor.at}, more than its "
                f"{cursor.left()} bytes hold"
            )
        return [element.read(cursor, f"{place}[{i}]") for i in range(n)]

    return _Codec(4, write, read)


def _record(cls: type[Any]) -> _Codec:
    hints = get_type_hints(cls, include_extras=True)
    members = [(each.name, _codec(hints[each.name])) for each in fields(cls)]

    def write(value: Any, out: bytearray, place: str) -> None:
        if type(value) is not cls:
            raise InvalidArgumentError(f"{place} is a {type(value).__name__} and must be a {cls.__name__}")
        for name, codec in members:
            codec.write(getattr(value, name), out, f"{place}.{name}")

    def read(cursor: _Cursor, place: str) -> Any:
        return cls(**{name: codec.read(cursor, f"{place}.{name}") for name, codec in members})

    return _Codec(sum(codec.smallest for _, codec in members), write, read)


_codecs: dict[Any, _Codec] = {}


def stored_type(hint: Any) -> str:
    """The name that plan.inc has for an annotation: "u32", "list u32", "Step", "list Step"."""
    if get_origin(hint) is list:
        return "list " + stored_type(get_args(hint)[0])
    if get_origin(hint) is Annotated:
        return str(get_args(hint)[1])
    return str(hint.__name__)


def _codec(hint: Any) -> _Codec:
    """The codec of a field's annotation."""
    if hint in _codecs:
        return _codecs[hint]
    if get_origin(hint) is list:
        codec = _list(_codec(get_args(hint)[0]))
    elif is_dataclass(hint):
        codec = _record(hint)  # type: ignore[arg-type]
    else:
        base, stored = get_args(hint)
        enum = base if issubclass(base, IntEnum) else None
        if stored == "u8":
            codec = _integer("B", 0, 2**8 - 1, enum)
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
