"""Weights of 8 bits that a model turns into floats by itself, `(float(q) - zero) * scale`, as `decode` of the constant.

The same numbers: float32 holds q, zero and their difference exactly, and there is one product. `float(q)` alone is decoded by 1,
where what reads it may go on so: a product whose result is scaled behind it. Other readers get floats.
"""

from __future__ import annotations

import numpy as np
import tvm
from tvm import relax

from ..ir import Encoded
from ._dims import static_shape
from ._encoded import MOVES, encoded
from ._ops import constant, dtype_of, is_f32
from ._rewrite import Array, Rewriter, array_of, is_call, rewrite
from .fold_constants import evaluate

__all__ = ["recognise_weights"]

_MIN_ELEMENTS = 1024  # elements of what is worth it
_FACTORS = ("relax.add", "relax.subtract", "relax.multiply")
_READERS = (*_FACTORS, *MOVES, "relax.matmul", "relax.take")


def recognise_weights(mod: tvm.IRModule) -> tvm.IRModule:
    return rewrite(rewrite(rewrite(mod, _converted), _scaled), _otherwise)


def _converted(rw: Rewriter, var: relax.Var, value: relax.Expr) -> relax.Expr | None:
    if not is_call(value, "relax.astype") or not is_f32(value) or dtype_of(value.args[0]) not in ("int8", "uint8"):
        return None
    array, users = _moved_constant(rw, value.args[0]), rw.users(var)
    if array is None:
        return None
    goes_on = len(users) == rw.original_use_count(var) and all(is_call(use, *_READERS) for _, use in users)
    if array.ndim < 2 or array.size < _MIN_ELEMENTS or not goes_on:
        return constant(array.astype(np.float32))
    return Encoded(array, np.ones([1] * array.ndim, np.float32)).call()


def _moved_constant(rw: Rewriter, expr: relax.Expr) -> Array | None:
    """A constant, perhaps behind moves."""
    move = rw.call(expr, *MOVES)
    if move is None:
        return array_of(expr)
    array, shape = _moved_constant(rw, move.args[0]), static_shape(move)
    if array is None or shape is None:
        return None
    if is_call(move, "relax.reshape"):
        return array.reshape(shape)
    axes = move.attrs.axes
    return np.ascontiguousarray(array.transpose(None if axes is None else [int(axis) for axis in axes]))


def _scaled(rw: Rewriter, var: relax.Var, value: relax.Expr) -> relax.Expr | None:
    if not is_call(value, *_FACTORS) or not is_f32(value):
        return None
    for operand, other in ((value.args[0], value.args[1]), (value.args[1], value.args[0])):
        found, factor = _weights(rw, operand), _factor(rw, other)
        if found is None or factor is None or factor.size == 0 or not np.isfinite(factor).all():
            continue
        values, zero = found
        if np.broadcast_shapes(values.shape, factor.shape) != values.shape:
            continue
        factor = factor.reshape([1] * (values.ndim - factor.ndim) + list(factor.shape))
        if is_call(value, "relax.multiply"):
            return Encoded(values, factor.astype(np.float32), zero.astype(values.dtype)).call()
        info = np.iinfo(values.dtype)
        factor = -factor if is_call(value, "relax.add") else factor
        first = is_call(value, "relax.add") or operand.same_as(value.args[0])
        if not zero.any() and first and _integers(factor, info.min, info.max):
            return Encoded(values, np.ones([1] * values.ndim, np.float32), factor.astype(values.dtype)).call()
    return None


def _factor(rw: Rewriter, expr: relax.Expr) -> Array | None:
    """A constant, perhaps moved; or whole numbers of 8 bits as floats, as zero points of many groups may be."""
    array = _moved_constant(rw, expr)
    weights = _weights(rw, expr) if array is None else None
    if weights is None:
        return array
    values, zero = weights
    return np.asarray(values.astype(np.float32) - zero.astype(np.float32))


def _otherwise(rw: Rewriter, var: relax.Var, value: relax.Expr) -> relax.Expr | None:
    """What else is computed of such weights and constants alone (a zero point that is no whole number) as floats, not by every run."""
    if not is_call(value, *_FACTORS, "relax.divide") or not is_f32(value):
        return None
    known = [_factor(rw, arg) for arg in value.args]
    if any(array is None for array in known):
        return None
    folded = evaluate(
        tvm.ir.Call(value.op, [constant(np.ascontiguousarray(array)) for array in known], value.attrs, []), var
    )
    return None if folded is None else constant(folded)


def _integers(array: Array, low: int, high: int) -> bool:
    return bool((array == np.rint(array)).all() and low <= array.min() and array.max() <= high)


def _weights(rw: Rewriter, expr: relax.Expr) -> tuple[Array, Array] | None:
    """The numbers and zero points (of as many axes) of weights that are decoded by 1, perhaps moved."""
    moves = []
    while (move := rw.call(expr, *MOVES)) is not None:
        moves.append(move)
        expr = move.args[0]
    known = encoded(rw, expr)
    if known is None or known.values.ndim < 2 or not (known.scale == 1).all():
        return None
    values, zero = known.values, known.spread(known.zeros)
    if moves and zero.any():
        zero = np.ascontiguousarray(np.broadcast_to(zero, values.shape))
    for move in reversed(moves):
        if is_call(move, "relax.reshape"):
            shape = [int(d) for d in move.ty.shape.values]
            zero = zero.reshape(shape) if zero.size > 1 else zero.reshape([1] * len(shape))
            values = values.reshape(shape)
        else:
            axes = None if move.attrs.axes is None else [int(axis) for axis in move.attrs.axes]
            values, zero = values.transpose(axes), zero.transpose(axes)
    return values, _narrow(zero)


def _narrow(zero: Array) -> Array:
    """Without the axes along which it is the same."""
    for axis in range(zero.ndim):
        first = zero.take([0], axis)
        if zero.shape[axis] > 1 and (zero == first).all():
            zero = first
    return zero
