"""Words of texts, as pipelines of scikit-learn take them: Tokenizer."""

from __future__ import annotations

import importlib
import re
from typing import Any

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from .._exprs import constant
from .._node import Node
from .._registry import op, string_op
from .._strings import bytes_of, string_value, width_of
from ._loops import imperative, variable
from ._te import imm
from .strings import cut_pieces, piece_count

_MS = "com.microsoft"
_PARSER: Any = getattr(re, "_parser", None) or importlib.import_module("sre_parse")  # until Python 3.10
_CLASSES = {
    "DIGIT": b"0123456789",
    "SPACE": b"\t\n\f\r ",  # RE2's
    "WORD": b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_",
}


@op("Tokenizer", domain=_MS)
def tokenizer(n: Node) -> Any:
    raise n.broken("takes strings")


@string_op("Tokenizer", domain=_MS)
def string_tokenizer(n: Node) -> Any:
    """[C] or [N, C] -> [..., most tokens]: runs of what `tokenexp` admits, or of what no separator does, of mincharnum characters at least."""
    if n.flag("mark"):
        raise n.refuse("with marks of beginnings and ends")
    shortest, filling = n.int_attr("mincharnum"), n.str_attr("pad_value").encode()
    member = _members(n)
    value = n.value(0)
    x = bytes_of(value)
    count, width = n.math.product(value.shape), width_of(x)
    flat = n.reshape(x, [count, width])

    def find(x: Any, member: Any) -> list[Any]:
        rows, wide = x.shape
        slots = wide + 1

        def write(x: Any, member: Any, starts: Any, ends: Any, numbers: Any) -> None:
            found, start, characters = variable("int64"), variable("int64"), variable("int64")
            zero, one = imm(0, "int64"), imm(1, "int64")
            with T.serial(0, rows) as row:
                found[0], start[0], characters[0] = zero, zero, zero
                with T.serial(0, slots) as k:
                    byte = tirx.if_then_else(k < wide, x[row * wide + tirx.min(k, wide - 1)], imm(0, "uint8"))
                    with T.If(member[tirx.Cast("int64", byte)] != imm(0, "uint8")):
                        with T.Then():
                            first = tirx.any(byte < imm(0x80, "uint8"), byte >= imm(0xC0, "uint8"))
                            characters[0] = characters[0] + tirx.Select(first, one, zero)
                        with T.Else():
                            with T.If(tirx.all(characters[0] >= shortest, characters[0] > 0)):
                                with T.Then():
                                    starts[row * slots + found[0]] = start[0]
                                    ends[row * slots + found[0]] = tirx.Cast("int64", k)
                                    found[0] = found[0] + one
                            start[0] = tirx.Cast("int64", k) + one
                            characters[0] = zero
                numbers[row] = found[0]

        return imperative([[rows, slots], [rows, slots], [rows]], ["int64"] * 3, [x, member], write, "tokens")

    parts = n.te(find, flat, constant(member), name="tokens")
    starts, ends, numbers = (n.emit(parts[k]) for k in range(3))
    tokens = piece_count(n, numbers)
    room = n.math.max(width, max(len(filling), 1))
    y = cut_pieces(n, flat, starts, ends, numbers, [count, tokens, room], filling)
    return string_value(n.reshape(y, [*value.shape, tokens, room]), n.place)


def _members(n: Node) -> Any:
    """uint8 [256]: 1 for each byte that may stand in a token; 0, which ends a string, may not."""
    separators, pattern = list(n.attr("separators", [])), n.str_attr("tokenexp", "")
    if bool(separators) == bool(pattern):
        raise n.broken("needs separators or a pattern of tokens, and not both")
    member = np.zeros(256, np.uint8)
    if pattern:
        member[list(_bytes(n, pattern, run=True))] = 1
    else:
        member[:] = 1
        for separator in separators:
            member[list(_bytes(n, separator, run=False))] = 0
    member[0] = 0
    return member


def _bytes(n: Node, pattern: str, *, run: bool) -> set[int]:
    """The bytes of a pattern that is one character of a class, and with `run` one or more of them."""
    refusal = n.refuse(f"with the pattern '{pattern}', which is not a class of characters")
    try:
        items = list(_PARSER.parse(pattern))
    except re.error as why:
        raise n.broken(f"has the pattern '{pattern}': {why}") from None
    if len(items) == 1 and str(items[0][0]) == "MAX_REPEAT" and items[0][1][0] == 1 and items[0][1][1] > 1 << 30:
        items, run = list(items[0][1][2]), False
    if run or len(items) != 1:
        raise refusal
    kind, what = str(items[0][0]), items[0][1]
    parts = what if kind == "IN" else [items[0]]
    out: set[int] = set()
    negated = False
    for part_kind, part in parts:
        name = str(part_kind)
        if name == "NEGATE":
            negated = True
        elif name == "LITERAL" and part < 0x80:
            out.add(part)
        elif name == "RANGE" and part[1] < 0x80:
            out.update(range(part[0], part[1] + 1))
        elif name == "CATEGORY" and str(part).removeprefix("CATEGORY_") in _CLASSES:
            out.update(_CLASSES[str(part).removeprefix("CATEGORY_")])
        else:
            raise refusal
    return set(range(1, 256)) - out if negated else out
