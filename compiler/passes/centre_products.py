"""Products of activations that a run quantizes, dequantized again before the product, as products of integers.

What arrives is torch's form: `matmul((float(q) - zero) * scale, decode(w))`, where a run computes scale and zero point, for all of the
tensor (PT2E's choose_qparams) or for each row (of tokens). The sums of (q - zero) * w are integers, and exact; the scales are multiplied
behind them. What this leaves is `lower_integer_products`' input.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tvm
from tvm import relax

from ._dims import Dim, extents, same, same_shape, shape_of, static_shape
from ._encoded import encoded
from ._integers import split_weights
from ._ops import constant, dtype_of, is_f32, reshape
from ._rewrite import Array, Rewriter, array_of, is_call, rewrite, scalar_of
from .lower_quantized import MAX_DEPTH

__all__ = ["centre_products"]

_FLOATS = ("float32", "float64")
_WIDE = ("int16", "int32", "int64", *_FLOATS)
_BOUNDED = ("relax.clip", "relax.minimum", "relax.maximum")
_RANGES = {"uint8": (0, 255), "int8": (-128, 127)}


def centre_products(mod: tvm.IRModule) -> tvm.IRModule:
    return rewrite(mod, _lower)


@dataclass(frozen=True)
class _Activations:
    """Numbers of 8 bits; their zero point (a number, or an int32 tensor) and scale, each one for all or, [..., 1], one for each row."""

    q: relax.Expr
    zero: int | relax.Expr
    scale: relax.Expr

    def by_rows(self) -> bool:
        return not all(isinstance(p, int) or _is_one(p) for p in (self.zero, self.scale))


def _lower(rw: Rewriter, var: relax.Var, value: relax.Expr) -> relax.Expr | None:
    if not is_call(value, "relax.matmul") or not is_f32(value, *value.args) or value.args[0].ty.ndim < 2:
        return None
    weights = _weights(rw, value.args[1])
    x = _activations(rw, value.args[0]) if weights is not None else None
    if x is None or weights is None:
        return None
    centred, weight_scale = weights
    centre: relax.Expr | None = None  # of all rows, taken before the product
    q, zero = _unsigned(rw, x.q, x.zero)
    if isinstance(zero, int):
        centre = constant(np.asarray(zero, np.int32))
    elif not x.by_rows():
        byte = rw.emit(relax.op.astype(rw.emit(reshape(zero, [])), "uint8"))
        centre = rw.emit(relax.op.astype(byte, "int32"))
    wide = rw.emit(relax.op.astype(q, "int32"))
    if centre is not None:
        wide = rw.emit(relax.op.subtract(wide, centre))
    known = rw.emit(relax.op.astype(constant(centred), "int32"))
    sums = rw.emit(relax.op.matmul(wide, known, "int32"), str(var.name))
    if centre is None:
        columns = constant(centred.sum(axis=0, dtype=np.int32))
        sums = rw.emit(relax.op.subtract(sums, rw.emit(relax.op.multiply(zero, columns))))
    floats = rw.emit(relax.op.astype(sums, "float32"))
    scaled = rw.emit(relax.op.multiply(floats, x.scale))
    return relax.op.multiply(scaled, constant(weight_scale))


def _weights(rw: Rewriter, expr: relax.Expr) -> tuple[Array, Array] | None:
    """Weights [K, N] less their zero points, and the scale of each column or of all, where a kernel takes them."""
    known = encoded(rw, expr)
    columns = known.at(1) if known is not None and known.values.ndim == 2 else None
    if known is None or columns is None:
        return None
    scale, zero = columns
    centred = known.values.astype(np.int16) - zero.astype(np.int16)
    split = split_weights(centred.astype(np.int32), 1)
    if split is None or len(centred) > (MAX_DEPTH if split.zeros is None else MAX_DEPTH // 2):
        return None
    return centred, scale


def _unsigned(rw: Rewriter, q: relax.Expr, zero: int | relax.Expr) -> tuple[relax.Expr, int | relax.Expr]:
    """int8 as uint8: 128 more, and so is the zero point."""
    if dtype_of(q) == "uint8":
        return q, zero
    wide = rw.emit(relax.op.add(rw.emit(relax.op.astype(q, "int16")), constant(np.asarray(128, np.int16))))
    q = rw.emit(relax.op.astype(wide, "uint8"))
    if isinstance(zero, int):
        return q, zero + 128
    return q, rw.emit(relax.op.add(zero, constant(np.asarray(128, np.int32))))


def _activations(rw: Rewriter, expr: relax.Expr) -> _Activations | None:
    shape: list[Dim] | None = None  # that rows are given at last
    while (move := rw.call(expr, "relax.reshape", "relax.astype")) is not None and dtype_of(move.args[0]) in _FLOATS:
        shape = extents(move) if shape is None and is_call(move, "relax.reshape") else shape
        expr = move.args[0]
    product = rw.call(expr, "relax.multiply")
    if product is None:
        return None
    for centred, scale in (product.args, reversed(list(product.args))):
        found = _dequantized(rw, centred, scale)
        if found is not None:
            return found if shape is None else _reshaped(rw, found, shape)
    return None


def _dequantized(rw: Rewriter, centred: relax.Expr, scale: relax.Expr) -> _Activations | None:
    """(q - zero) * scale, or without a zero point; the difference in integers or in floats."""
    inner = _behind_casts(rw, centred)
    difference = rw.call(inner, "relax.subtract", "relax.add")  # of a constant: canonicalise adds the negative
    q = inner if difference is None else _behind_casts(rw, difference.args[0])
    if dtype_of(q) not in _RANGES or array_of(q) is not None or not same_shape(shape_of(centred), shape_of(q)):
        return None
    zero: int | relax.Expr | None = 0
    if difference is not None:
        zero = _zero_point(rw, difference.args[1], *_RANGES[dtype_of(q)], negative=is_call(difference, "relax.add"))
    parts = [scale] if isinstance(zero, int) else [scale, zero]
    if zero is None or not all(_is_one(p) or _of_rows(p, q) for p in parts):
        return None
    return _Activations(q, zero, scale if is_f32(scale) else rw.emit(relax.op.astype(scale, "float32")))


def _behind_casts(rw: Rewriter, expr: relax.Expr) -> relax.Expr:
    """What was cast to wider types, which hold all numbers of 8 bits."""
    while dtype_of(expr) in _WIDE and (cast := rw.call(expr, "relax.astype")) is not None:
        if dtype_of(cast.args[0]) not in (*_WIDE, *_RANGES):
            break
        expr = cast.args[0]
    return expr


def _zero_point(
    rw: Rewriter, expr: relax.Expr, low: int, high: int, *, negative: bool = False
) -> int | relax.Expr | None:
    """A zero point that numbers of the same type hold: of such a type, or cut off to it. As int32. Its negative has to be known."""
    is_whole, lower_bound, upper_bound = (
        False,
        -np.inf,
        np.inf,
    )  # whether it is a whole number; the bounds that it was given
    source = expr
    while not (is_whole and low <= lower_bound and upper_bound <= high):
        number = scalar_of(source)
        if number is not None:
            number = -number if negative else number
            return int(number) if number == np.rint(number) and low <= number <= high else None
        if negative:
            return None
        is_whole = is_whole or dtype_of(source).startswith(("int", "uint"))
        if _RANGES.get(dtype_of(source)) == (low, high):
            break
        call = rw.call(source, "relax.astype", "relax.reshape", "relax.round", *_BOUNDED)
        if call is None:
            return None
        if is_call(call, *_BOUNDED):
            clips = is_call(call, "relax.clip")
            bounds = [float(arg.value) for arg in call.args[1:]] if clips else [_number(call.args[1])]
            if not is_whole and any(bound != np.rint(bound) for bound in bounds):
                return None
            lower_bound = lower_bound if is_call(call, "relax.minimum") else max(lower_bound, bounds[0])
            upper_bound = upper_bound if is_call(call, "relax.maximum") else min(upper_bound, bounds[-1])
        is_whole = is_whole or is_call(call, "relax.round")
        source = call.args[0]
    return rw.emit(relax.op.astype(expr, "int32"))


def _number(expr: relax.Expr) -> float:
    number = scalar_of(expr)
    return float("nan") if number is None else number  # bounds nothing: no comparison with it holds


def _is_one(p: relax.Expr) -> bool:
    shape = static_shape(p)
    return shape is not None and all(extent == 1 for extent in shape)


def _of_rows(p: relax.Expr, q: relax.Expr) -> bool:
    """Whether p has one number for each row of q: q's shape with a 1 at its end."""
    shape, own = shape_of(p), shape_of(q)
    return shape is not None and own is not None and same_shape(shape, [*own[:-1], 1])


def _reshaped(rw: Rewriter, x: _Activations, shape: list[Dim]) -> _Activations | None:
    """The same where rows stay rows."""
    if not same(shape[-1], extents(x.q)[-1]):
        return None

    def rows(p: relax.Expr) -> relax.Expr:
        return p if _is_one(p) else rw.emit(reshape(p, [*shape[:-1], 1]))

    q = rw.emit(reshape(x.q, shape))
    return _Activations(q, x.zero if isinstance(x.zero, int) else rows(x.zero), rows(x.scale))
