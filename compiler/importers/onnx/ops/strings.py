"""Operators on strings: comparing, concatenating, normalising, splitting, matching, looking up."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm import relax, te, tirx
from tvm.script.ir_builder import tirx as T

from maas_rt._strings import encode_strings

from .._dims import Dim
from .._exprs import constant, dims_of, shape_expr
from .._node import Node
from .._regex import PatternError, automaton
from .._registry import op, string_op
from .._strings import bytes_of, string_value, width_of
from .._values import Value
from ._loops import imperative, variable
from ._te import imm
from .symbolic import shape_of, size

_WHITE = b" \t\n\v\f\r"


def _byte(value: int) -> Any:
    return imm(value, "uint8")


def _at(x: Any, index: Sequence[Any], dims: Sequence[Dim], k: Any, width: Any) -> Any:
    """Byte k of a string of a broadcast tensor; 0 behind its end."""
    own = list(index)[len(index) - len(dims) :]
    place = [imm(0, "int64") if isinstance(d, int) and d == 1 else i for i, d in zip(own, dims, strict=True)]
    return tirx.Select(k < width, x(*place, tirx.max(tirx.min(k, width - 1), 0)), _byte(0))


def equal_strings(n: Node, a: Any, b: Any) -> Any:
    """Whether two tensors of strings are equal, element by element, broadcast: bool."""
    dims = n.math.broadcast(dims_of(a)[:-1], dims_of(b)[:-1])
    dims_a, dims_b = dims_of(a)[:-1], dims_of(b)[:-1]

    def body(x: Any, y: Any, extents: Any) -> Any:
        wide_x, wide_y = x.shape[-1], y.shape[-1]
        k = te.reduce_axis((0, tirx.max(wide_x, wide_y)), name="k")

        def same(*i: Any) -> Any:
            at = tirx.Cast("int64", k.var)
            equal = _at(x, i, dims_a, at, wide_x) == _at(y, i, dims_b, at, wide_y)
            return te.min(tirx.Cast("int32", equal), axis=k)

        return te.compute(extents, same, name="same_bytes")

    return n.cast(n.te(body, a, b, shape_expr(dims), name="equal_strings"), "bool")


@string_op("Equal")
def equal(n: Node) -> Any:
    return equal_strings(n, bytes_of(n.value(0)), bytes_of(n.value(1)))


@string_op("Concat")
def concat(n: Node) -> Any:
    values = [n.value(i) for i in range(len(n.inputs))]
    axis = n.axis(n.int_attr("axis"), values[0].rank)
    width: Dim = 1
    for v in values:
        width = n.math.max(width, width_of(bytes_of(v)))
    return string_value(n.emit(relax.op.concat([_padded_to(n, bytes_of(v), width) for v in values], axis)), n.place)


def _padded_to(n: Node, x: Any, width: Dim) -> Any:
    dims = dims_of(x)[:-1]

    def body(x: Any, extents: Any) -> Any:
        return te.compute(extents, lambda *i: _at(x, i[:-1], dims, i[-1], x.shape[-1]), name="widened")

    return n.te(body, x, shape_expr([*dims, width]), name="widened")


@string_op("Where")
def where(n: Node) -> Any:
    given = [bytes_of(n.value(i)) for i in (1, 2)]
    dims = n.math.broadcast(n.shape(0), *(dims_of(x)[:-1] for x in given))
    width = n.math.max(*(width_of(x) for x in given))
    own = [n.shape(0), *(dims_of(x)[:-1] for x in given)]

    def body(condition: Any, x: Any, y: Any, extents: Any) -> Any:
        def element(*i: Any) -> Any:
            place = [
                imm(0, "int64") if isinstance(d, int) and d == 1 else k
                for k, d in zip(i[-1 - len(own[0]) : -1], own[0])
            ]
            either = [_at(t, i[:-1], has, i[-1], t.shape[-1]) for t, has in zip((x, y), own[1:])]
            return tirx.Select(condition(*place), *either)

        return te.compute(extents, element, name="where_strings")

    return string_value(n.te(body, n.x(0), *given, shape_expr([*dims, width]), name="where_strings"), n.place)


@string_op("Shape")
@string_op("Size")
def extents(n: Node) -> Any:
    """Those of the strings, whatever bytes they have."""
    return Value.of_symbols(shape_of(n) if n.op == "Shape" else size(n), "int64", n.place)


@string_op("Cast")
@string_op("CastLike")
def cast(n: Node) -> Any:
    raise n.refuse("of strings to numbers: convert them before, and give the model numbers")


@op("StringConcat", since=20)
def string_concat(n: Node) -> Any:
    given = [bytes_of(n.value(i)) for i in range(2)]
    dims = n.math.broadcast(*(dims_of(x)[:-1] for x in given))
    count = n.math.product(dims)
    rows = [n.reshape(n.broadcast_to(x, [*dims, width_of(x)]), [count, width_of(x)]) for x in given]
    width = n.math.add(*(width_of(x) for x in given))

    def body(x: Any, y: Any) -> Any:
        rows, wide = x.shape[0], x.shape[1] + y.shape[1]

        def write(x_bytes: Any, y_bytes: Any, out: Any) -> None:
            end = variable("int64")
            with T.serial(0, rows) as row:
                with T.serial(0, wide) as k:
                    out[row * wide + k] = _byte(0)
                end[0] = imm(0, "int64")
                for part, of in ((x_bytes, x.shape[1]), (y_bytes, y.shape[1])):
                    with T.serial(0, of) as k:
                        with T.If(part[row * of + k] != _byte(0)):
                            with T.Then():
                                out[row * wide + end[0]] = part[row * of + k]
                                end[0] = end[0] + 1

        return imperative([[rows, wide]], ["uint8"], [x, y], write, "string_concat")[0]

    return string_value(n.reshape(n.te(body, *rows, name="string_concat"), [*dims, width]), n.place)


# ---- normalising


@op("StringNormalizer", since=10)
def string_normalizer(n: Node) -> Any:
    """[C] or [1, C]: without the stop words, in another case, each character by itself. A run refuses strings with a character whose other
    case has another number of bytes, or is not in `case_table`."""
    change = n.str_attr("case_change_action", "NONE")
    sensitive = n.flag("is_case_sensitive")
    stop = list(n.attr("stopwords", []) or [])
    value = n.value(0)
    if change not in ("NONE", "LOWER", "UPPER") or value.rank not in (1, 2):
        raise n.broken(f"has case_change_action '{change}' and an input of rank {value.rank}")
    x = bytes_of(value)
    if value.rank == 2:
        n.math.require_same(value.shape[0], 1)
        x = n.reshape(x, [value.shape[1], width_of(x)])
    ascii = n.str_attr("locale", "en_US") in ("C", "POSIX")
    for each in {change} - {"NONE"} | ({"LOWER"} if stop and not sensitive else set()):
        if not ascii:
            _check_cased(n, x, each)
    if stop and not sensitive:
        stop = [word.lower() for word in stop]
    if stop:
        words = n.reshape(constant(encode_strings(stop)), [1, len(stop), encode_strings(stop).shape[-1]])
        compared = x if sensitive else _cased(n, x, "LOWER", ascii)
        each = n.reshape(compared, [dims_of(x)[0], 1, width_of(x)])
        x = _without_dropped(n, x, n.emit(relax.op.max(n.cast(equal_strings(n, each, words), "int32"), axis=[1])))
    if change != "NONE":
        x = _cased(n, x, change, ascii)
    if value.rank == 2:
        x = n.reshape(x, [1, *dims_of(x)])
    return string_value(x, n.place)


def _check_cased(n: Node, x: Any, change: str) -> None:
    table, blocks = (constant(t) for t in case_table(change))

    def unknown(x: Any, table: Any, blocks: Any) -> Any:
        i = te.reduce_axis((0, x.shape[0]), name="i")
        k = te.reduce_axis((0, x.shape[1]), name="k")
        lead, low, last = (_byte_at(x, i.var, k.var + j) for j in range(3))
        two, three = ((lead & 31) << 6) | (low & 63), ((lead & 15) << 12) | ((low & 63) << 6) | (last & 63)
        in_table = tirx.Cast("int32", table(tirx.Select(lead < 0xE0, two, tirx.min(three, _CASED - 1))) == _UNKNOWN)
        in_block = tirx.Cast("int32", blocks(tirx.min(three >> 6, 1023)))
        beyond = tirx.all(lead == 0xF0, tirx.any(low == 0x90, low == 0x91, low == 0x96, low == 0x9E))
        found = tirx.Select(
            lead < 0xF0,
            tirx.Select(tirx.all(lead >= 0xE0, three >= _CASED), in_block, in_table),
            tirx.Cast("int32", beyond),
        )
        return te.compute(
            (), lambda: te.max(tirx.Select(lead >= 0xC0, found, tirx.IntImm("int32", 0)), axis=[i, k]), name="unknown"
        )

    says = "is given a letter whose other case it does not know"
    n.check(lambda m: m() == 0, n.te(unknown, x, table, blocks, name="unknown"), says=says)


def _byte_at(x: Any, row: Any, k: Any) -> Any:
    """Byte k of a row as int32; 0 outside of it."""
    inside = tirx.all(k >= 0, k < x.shape[1])
    return tirx.Select(
        inside, tirx.Cast("int32", x(row, tirx.max(tirx.min(k, x.shape[1] - 1), 0))), tirx.IntImm("int32", 0)
    )


def _cased(n: Node, x: Any, change: str, ascii: bool) -> Any:
    """Strings [C, bytes] in another case, of as many bytes; with `ascii` that of A to Z alone."""
    table = case_table(change)[0]
    if ascii:
        table = np.where(np.arange(_CASED) < 128, table, np.arange(_CASED)).astype(np.uint16)

    def body(x: Any, table: Any) -> Any:
        def element(c: Any, k: Any) -> Any:
            here, before, second = (_byte_at(x, c, k - j) for j in range(3))
            after, third = _byte_at(x, c, k + 1), _byte_at(x, c, k + 2)
            follows = here & 63
            of_two = table(tirx.Select(here >= 0xC0, ((here & 31) << 6) | (after & 63), ((before & 31) << 6) | follows))
            front = ((here & 15) << 12) | ((after & 63) << 6) | (third & 63)
            middle = ((before & 15) << 12) | (follows << 6) | (after & 63)
            end = ((second & 15) << 12) | ((before & 63) << 6) | follows
            letter = tirx.Select(here >= 0xE0, front, tirx.Select(before >= 0xE0, middle, end))
            of_three = tirx.Select(letter < _CASED, tirx.Cast("int32", table(tirx.min(letter, _CASED - 1))), letter)
            of_two, of_one = tirx.Cast("int32", of_two), tirx.Cast("int32", table(tirx.min(here, 127)))
            tail = tirx.Select(
                before >= 0xF0, here,
                tirx.Select(before >= 0xE0, 0x80 | ((of_three >> 6) & 63),
                tirx.Select(before >= 0xC0, 0x80 | (of_two & 63),
                tirx.Select(tirx.all(second >= 0xE0, second < 0xF0), 0x80 | (of_three & 63), here))),
            )  # fmt: skip
            lead = tirx.Select(
                here >= 0xF0, here, tirx.Select(here >= 0xE0, 0xE0 | (of_three >> 12), 0xC0 | (of_two >> 6))
            )
            return tirx.Cast("uint8", tirx.Select(here < 0x80, of_one, tirx.Select(here < 0xC0, tail, lead)))

        return te.compute(x.shape, element, name=change.lower())

    return n.te(body, x, constant(table), name=change.lower())


_CASED = 0x2000  # characters below are in the table
_UNKNOWN = 0xFFFF


@functools.cache
def case_table(change: str) -> tuple[Any, Any]:
    """The other case of each character below _CASED, uint16, _UNKNOWN where that takes another number of bytes; and which blocks of 64
    characters of the basic plane beyond it have a case at all, uint8."""

    def other(number: int) -> int:
        text = chr(number)
        found = text.lower() if change == "LOWER" else text.upper()
        if len(found) != 1:
            return number if text == "\u00df" else _UNKNOWN
        return ord(found) if len(found.encode()) == len(text.encode()) else _UNKNOWN

    table = np.array([other(k) for k in range(_CASED)], np.uint16)
    cased = [chr(k).lower() != chr(k) or chr(k).upper() != chr(k) for k in range(1 << 16)]
    blocks = np.array(cased).reshape(1024, 64).any(1).astype(np.uint8)
    return table, blocks


def _without_dropped(n: Node, x: Any, dropped: Any) -> Any:
    """The rows of [C, bytes] where `dropped` is 0; one empty string if there is none."""

    def count(flags: Any) -> Any:
        def write(flags: Any, out: Any) -> None:
            out[0] = imm(0, "int64")
            with T.serial(0, total) as c:
                out[0] = out[0] + tirx.Cast("int64", flags[c] == 0)
            out[0] = tirx.max(out[0], 1)

        total = flags.shape[0]
        return imperative([[1]], ["int64"], [flags], write, "kept_rows")[0]

    rows = n.graph.bind_tensor(n.te(count, dropped, name="kept_rows"), 1, n.place)[0]

    def copy(x: Any, flags: Any, extents: Any) -> Any:
        total, wide = x.shape

        def write(x: Any, flags: Any, out: Any) -> None:
            row = variable("int64")
            row[0] = imm(0, "int64")
            with T.serial(0, extents[0]) as r, T.serial(0, wide) as k:
                out[r * wide + k] = _byte(0)
            with T.serial(0, total) as c:
                with T.If(flags[c] == 0):
                    with T.Then():
                        with T.serial(0, wide) as k:
                            out[row[0] * wide + k] = x[c * wide + k]
                        row[0] = row[0] + 1

        return imperative([extents], ["uint8"], [x, flags], write, "kept")[0]

    return n.te(copy, x, dropped, shape_expr([rows, width_of(x)]), name="kept")


# ---- splitting


@op("StringSplit", since=20)
def string_split(n: Node) -> Any:
    """[...] -> ([..., most pieces], how many each has): at a delimiter, or at runs of ASCII's white space."""
    delimiter = n.str_attr("delimiter", "").encode()
    max_splits = n.int_attr("maxsplit", -1)
    value = n.value(0)
    x = bytes_of(value)
    count, width = n.math.product(value.shape), width_of(x)
    flat = n.reshape(x, [count, width])

    def find(x: Any) -> list[Any]:
        rows, wide = x.shape
        slots = wide + 1

        def write(x: Any, starts: Any, ends: Any, numbers: Any) -> None:
            pieces, start, free = variable("int64"), variable("int64"), variable("int64")

            def add(row: Any, end: Any) -> None:
                starts[row * slots + pieces[0]] = start[0]
                ends[row * slots + pieces[0]] = end
                pieces[0] = pieces[0] + 1

            may = (lambda: pieces[0] < max_splits) if max_splits >= 0 else (lambda: imm(True, "bool"))
            with T.serial(0, rows) as row:
                base = row * wide
                length = variable("int64")
                length[0] = imm(0, "int64")
                with T.serial(0, wide) as k:
                    length[0] = length[0] + tirx.Cast("int64", x[base + k] != _byte(0))
                pieces[0], start[0], free[0] = imm(0, "int64"), imm(0, "int64"), imm(0, "int64")
                if delimiter:
                    _at_delimiter(
                        x, base, wide, length, delimiter, start, free, may, lambda end, row=row: add(row, end)
                    )
                    add(row, length[0])
                else:
                    _at_white(x, base, wide, length, start, free, may, lambda end, row=row: add(row, end))
                    with T.If(free[0] == 1):
                        with T.Then():
                            add(row, length[0])
                numbers[row] = pieces[0]

        return imperative([[rows, slots], [rows, slots], [rows]], ["int64"] * 3, [x], write, "string_split")

    parts = n.te(find, flat, name="string_split")
    starts, ends, numbers = (n.emit(parts[k]) for k in range(3))

    pieces = piece_count(n, numbers)
    y = cut_pieces(n, flat, starts, ends, numbers, [count, pieces, width])
    return [string_value(n.reshape(y, [*value.shape, pieces, width]), n.place), n.reshape(numbers, value.shape)]


def piece_count(n: Node, numbers: Any) -> Dim:
    """The largest of the numbers of pieces that a run finds in each string."""

    def largest(numbers: Any) -> Any:
        i = te.reduce_axis((0, numbers.shape[0]), name="i")
        top = te.compute((), lambda: te.max(numbers(i), axis=i), name="top")
        return te.compute((1,), lambda _: tirx.max(top(), 0), name="piece_count")

    return n.graph.bind_tensor(n.te(largest, numbers, name="piece_count"), 1, n.place)[0]


def cut_pieces(
    n: Node, flat: Any, starts: Any, ends: Any, numbers: Any, dims: Sequence[Dim], filling: bytes = b""
) -> Any:
    """[strings, pieces, bytes] of flat [strings, bytes]: each string's pieces from `starts` to `ends`, then the filling."""

    def cut(x: Any, starts: Any, ends: Any, numbers: Any, extents: Any) -> Any:
        wide = x.shape[1]

        def element(row: Any, piece: Any, k: Any) -> Any:
            at = starts(row, piece) + k
            inside = tirx.all(piece < numbers(row), at < ends(row, piece))
            out = _byte(0)
            for place, byte in enumerate(filling):
                out = tirx.Select(tirx.all(piece >= numbers(row), k == place), _byte(byte), out)
            return tirx.Select(inside, x(row, tirx.max(tirx.min(at, wide - 1), 0)), out)

        return te.compute(extents, element, name="pieces")

    return n.te(cut, flat, starts, ends, numbers, shape_expr(dims), name="pieces")


def _at_delimiter(
    x: Any, base: Any, wide: Any, length: Any, delimiter: bytes, start: Any, free: Any, may: Any, add: Any
) -> None:
    """add(end) for each piece that a delimiter ends; `free` is the first byte that no delimiter has taken."""
    with T.serial(0, wide) as k:
        match = tirx.all(k >= free[0], k + len(delimiter) <= length[0], may())
        for t, byte in enumerate(delimiter):
            match = tirx.all(match, x[base + tirx.min(k + t, wide - 1)] == _byte(byte))
        with T.If(match):
            with T.Then():
                add(tirx.Cast("int64", k))
                start[0] = tirx.Cast("int64", k) + len(delimiter)
                free[0] = tirx.Cast("int64", k) + len(delimiter)


def _at_white(x: Any, base: Any, wide: Any, length: Any, start: Any, inside: Any, may: Any, add: Any) -> None:
    """add(end) for each piece that white space ends; `inside` says whether a piece is open."""
    with T.serial(0, wide) as k:
        white = tirx.any(*[x[base + k] == _byte(c) for c in _WHITE])
        with T.If(k < length[0]):
            with T.Then():
                with T.If(tirx.all(inside[0] == 0, tirx.Not(white))):
                    with T.Then():
                        start[0] = tirx.Cast("int64", k)
                        inside[0] = imm(1, "int64")
                    with T.Else():
                        with T.If(tirx.all(inside[0] == 1, white, may())):
                            with T.Then():
                                add(tirx.Cast("int64", k))
                                inside[0] = imm(0, "int64")


# ---- matching and looking up


@op("RegexFullMatch", since=20)
def regex_full_match(n: Node) -> Any:
    """Whether all of a string matches: one step of an automaton a byte."""
    try:
        table, accepts = automaton(n.str_attr("pattern"))
    except PatternError as why:
        raise n.refuse(f"whose pattern {why}") from None
    value = n.value(0)
    x = n.reshape(bytes_of(value), [n.math.product(value.shape), width_of(bytes_of(value))])

    def body(x: Any, table: Any, accepts: Any) -> Any:
        rows, wide = x.shape

        def write(x: Any, table: Any, accepts: Any, y: Any) -> None:
            state = variable("int64")
            with T.serial(0, rows) as row:
                state[0] = imm(0, "int64")
                with T.serial(0, wide) as k:
                    with T.If(x[row * wide + k] != _byte(0)):
                        with T.Then():
                            byte = tirx.Cast("int64", x[row * wide + k])
                            state[0] = tirx.Cast("int64", table[state[0] * 256 + byte])
                y[row] = accepts[state[0]]

        return imperative([[rows]], ["bool"], [x, table, accepts], write, "regex")[0]

    y = n.te(body, x, constant(table.reshape(-1)), constant(accepts), name="regex")
    return n.reshape(y, value.shape)


def places_of(n: Node, value: Value, keys: Sequence[str]) -> Any:
    """int64: where each string stands among the keys, the first of equal ones; how many keys there are, if it is none of them."""
    if not keys:
        return n.broadcast_to(n.scalar_const(0, "int64"), value.shape)
    codes = encode_strings(list(keys))
    each = n.reshape(bytes_of(value), [*value.shape, 1, width_of(bytes_of(value))])
    hits = n.cast(equal_strings(n, each, constant(codes)), "int32")
    found = n.emit(relax.op.argmax(hits, axis=-1))
    missing = n.emit(relax.op.equal(relax.op.max(hits, axis=[-1]), n.scalar_const(0, "int32")))
    return n.emit(relax.op.where(missing, n.scalar_const(len(keys), "int64"), found))


@string_op("LabelEncoder", domain="ai.onnx.ml")
def label_encoder(n: Node) -> Any:
    """Strings to what stands for them; the first of equal keys counts."""
    if n.version == 1:
        keys = list(n.attr("classes_strings"))
        values = np.arange(len(keys))
    else:
        keys, values = list(_table(n, "keys_")), np.asarray(_table(n, "values_"))
    if len(keys) != len(values) or not all(isinstance(key, str) for key in keys):
        raise n.broken(f"has {len(keys)} keys and {len(values)} values")
    value = n.value(0)
    found = places_of(n, value, keys)
    default = _default(n, values)
    flat = n.reshape(found, [n.math.product(value.shape)])
    if values.dtype.kind in "OUS":
        rows = constant(encode_strings([*values.tolist(), default]))
        out = n.emit(relax.op.take(rows, flat, axis=0))
        return string_value(n.reshape(out, [*value.shape, int(dims_of(rows)[-1])]), n.place)
    table = constant(np.concatenate([values.reshape(-1), np.array([default], values.dtype)]))
    return n.reshape(n.emit(relax.op.take(table, flat, axis=0)), value.shape)


def _table(n: Node, prefix: str) -> Any:
    for suffix in ("strings", "int64s", "floats"):
        if n.has_attr(prefix + suffix):
            kind = {"strings": object, "int64s": np.int64, "floats": np.float32}[suffix]
            return np.array(n.attr(prefix + suffix), dtype=kind)
    if n.has_attr(f"{prefix}tensor"):
        found: Value = n.graph.tensor(n.attr(f"{prefix}tensor"), n.place)
        return found.elements.reshape(-1)
    raise n.broken(f"has no {prefix}*")


def _default(n: Node, values: Any) -> Any:
    if n.has_attr("default_tensor"):
        found: Value = n.graph.tensor(n.attr("default_tensor"), n.place)
        return found.elements.reshape(-1)[0]
    if values.dtype.kind in "OUS":
        return n.str_attr("default_string", "_Unused")
    return n.int_attr("default_int64", -1) if values.dtype.kind == "i" else n.float_attr("default_float", -0.0)
