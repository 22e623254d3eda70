"""Conversions between element types: Cast, CastLike, BitCast; also to and from those that are only stored."""

from __future__ import annotations

from typing import Any

import onnx
from tvm import relax, te, tirx

from ...._truncation import truncated
from .._exprs import constant, dims_of, dtype_of
from .._node import Node
from .._registry import op
from .._stored import STORED, decoded, encode_float8, encode_scale, formats, is_code, wrap_integer
from .._values import Value, bits_of, is_float, is_int
from ._te import elementwise, imm

_CAST = [6, 9, 13, 19, 21, 23, 24, 25, 28]


@op("Cast", since=_CAST)
def cast(n: Node) -> Any:
    if n.int_attr("to") == onnx.TensorProto.STRING:
        return _convert(n, "string")
    return _convert(n, n.dtype_attr("to", stored=True))


@op("CastLike", since=[15, 19, 21, 23, 24, 25, 28])
def cast_like(n: Node) -> Any:
    return _convert(n, n.dtype(1))


def _convert(n: Node, to: str) -> Any:
    have, saturate = n.dtype(0), n.flag("saturate", 1)
    if have == to:
        return n.value(0)
    if to == "string":
        raise n.refuse("of numbers to strings: write them as text behind the model")
    x = decode(n, n.x(0), have) if have in STORED else n.x(0)
    if to not in STORED:
        return convert_dtype(n, x, to)
    return encode(n, x, to, saturate=saturate, rounding=n.str_attr("round_mode", "up"))


def decode(n: Node, x: Any, have: str) -> Any:
    """The numbers of a tensor of a stored type, from what stands for it: float32, or int8 or uint8."""
    if not is_code(have):
        return x

    def body(codes: Any, table: Any) -> Any:
        return te.compute(codes.shape, lambda *i: table(tirx.Cast("int64", codes(*i))), name="decode")

    return n.te(body, x, constant(decoded(have)), name="decode")


def encode(n: Node, x: Any, to: str, *, saturate: bool = True, rounding: str = "up") -> Value:
    """A tensor as one of a stored type; integers keep their low bits."""
    have = dtype_of(x)
    if is_code(to):
        x = n.emit(convert_dtype(n, x, "float32"))  # float64 too, rounded twice as by the reference
        if to == "float8_e8m0fnu":
            if rounding not in ("up", "down", "nearest"):
                raise n.broken(f"has the unknown round_mode '{rounding}'")
            out = elementwise(n, lambda v: encode_scale(v, saturate, rounding), x, name="encode")
        else:
            out = elementwise(n, lambda v: encode_float8(v, formats[to], saturate), x, name="encode")
    else:

        def element(v: Any) -> Any:
            return wrap_integer(truncated(v, have, "int64") if is_float(have) else tirx.Cast("int64", v), to)

        out = elementwise(n, element, x, name="encode")
    return Value(to, dims_of(out), expr=out, origin=n.place)


def convert_dtype(n: Node, x: Any, to: str) -> Any:
    have = dtype_of(x)
    if have == to:
        return x
    if to == "bool":
        return elementwise(n, lambda v: v != imm(0, have), x)
    if to in ("float16", "bfloat16") and have != "float32" and (to, have) != ("float16", "float64"):
        return n.cast(n.emit(convert_dtype(n, x, "float32")), to)
    if is_float(have) and is_int(to):
        return elementwise(n, lambda v: truncated(v, have, to), x)
    if (
        to in ("float16", "bfloat16") and have == "float32"
    ):  # relax.astype would be an importer's own, which passes may drop
        return elementwise(n, lambda v: tirx.Cast(to, v), x)
    return relax.op.astype(x, to)


@op("BitCast", since=[26])
def bit_cast(n: Node) -> Any:
    to = n.dtype_attr("to")
    have = n.dtype(0)
    if bits_of(have) != bits_of(to):
        raise n.refuse(f"from {have} to {to}, which differ in size")
    if have == to:
        return n.value(0)
    if to == "bool":
        raise n.refuse("to bool, which not every byte is")
    if have == "bool":
        return n.cast(n.x(0), to)  # a byte that is 0 or 1
    return elementwise(n, lambda v: tirx.reinterpret(to, v), n.x(0))
