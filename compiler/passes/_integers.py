"""Integer operands as importers leave them: bytes less their zero point, in int32."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from tvm import relax

from ._dims import static_shape
from ._ops import constant, dtype_of, reshape, same_move
from ._rewrite import Array, Rewriter, array_of, is_call, scalar_of

__all__ = ["Bytes", "Weights", "centred_bytes", "known_integers", "split_weights"]

_MOVES = ("relax.reshape", "relax.permute_dims")


@dataclass(frozen=True)
class Bytes:
    """A uint8 tensor and its zero point: a number, or a uint8 tensor of rank 0 that only a run knows."""

    q: relax.Expr
    zero: int | relax.Expr

    @property
    def attr(self) -> int:
        """The zero point as an attribute, 0 where it is an operand."""
        return self.zero if isinstance(self.zero, int) else 0

    @property
    def operand(self) -> relax.Expr | None:
        return None if isinstance(self.zero, int) else self.zero


@dataclass(frozen=True)
class Weights:
    """int8 weights, and the zero point of each output where they have one."""

    values: Array
    zeros: Array | None


def known_integers(rw: Rewriter, expr: relax.Expr) -> Array | None:
    """The int32 value of integer constants that were cast, centred or moved; None of anything that a run decides."""
    array = array_of(expr)
    if array is not None:
        return array.astype(np.int32) if array.dtype.kind in "iu" and array.dtype.itemsize <= 4 else None
    call = rw.call(expr, "relax.astype", "relax.subtract", *_MOVES)
    if call is None or (is_call(call, "relax.astype", "relax.subtract") and dtype_of(call) not in ("int16", "int32")):
        return None
    first = known_integers(rw, call.args[0])
    if first is None or is_call(call, "relax.astype"):
        return first
    result: Array
    if is_call(call, "relax.subtract"):
        second = known_integers(rw, call.args[1])
        if second is None:
            return None
        result = first - second
    elif is_call(call, "relax.permute_dims"):
        axes = call.attrs.axes
        result = first.transpose(None if axes is None else [int(axis) for axis in axes])
    else:
        shape = static_shape(call)
        if shape is None:
            return None
        result = first.reshape(shape)
    return result


def split_weights(values: Array, axis: int) -> Weights | None:
    """Whole numbers as int8 and zero points along `axis`; None where the numbers of one index span more than 8 bits."""
    if values.size == 0:
        return None
    others = tuple(i for i in range(values.ndim) if i != axis)
    low, high = values.min(axis=others), values.max(axis=others)
    if low.min() >= -128 and high.max() <= 127:
        return Weights(values.astype(np.int8), None)
    lowest_shift, highest_shift = (
        -128 - low,
        127 - high,
    )  # of what is added to an index's numbers, so that int8 holds them
    zeros = np.clip(0, lowest_shift, highest_shift)
    if (lowest_shift > highest_shift).any() or zeros.min() < -128 or zeros.max() > 127:
        return None
    dims = [-1 if i == axis else 1 for i in range(values.ndim)]
    return Weights((values + zeros.reshape(dims)).astype(np.int8), zeros.astype(np.int8))


def centred_bytes(rw: Rewriter, expr: relax.Expr) -> Bytes | None:
    """The bytes behind `astype(q)`, `astype(q) - zero`, or that moved (then q is moved instead)."""
    moves: list[Callable[[relax.Expr], relax.Expr]] = []
    while (move := rw.call(expr, *_MOVES)) is not None:
        moves.append(same_move(move))
        expr = move.args[0]
    zero: int | relax.Expr = 0
    difference = rw.call(expr, "relax.subtract")
    if difference is not None:
        found = _zero_point(rw, difference.args[1])
        if found is None:
            return None
        expr, zero = difference.args[0], found
    cast = rw.call(expr, "relax.astype")
    if cast is None or dtype_of(cast) != "int32":
        return None
    q = cast.args[0]
    if dtype_of(q) == "int8" and isinstance(zero, int):
        wide = rw.emit(relax.op.add(rw.emit(relax.op.astype(q, "int16")), constant(np.asarray(128, np.int16))))
        q, zero = rw.emit(relax.op.astype(wide, "uint8")), zero + 128
    if dtype_of(q) != "uint8" or (isinstance(zero, int) and not 0 <= zero <= 255):
        return None
    for move_too in reversed(moves):
        q = rw.emit(move_too(q))
    return Bytes(q, zero)


def _zero_point(rw: Rewriter, expr: relax.Expr) -> int | relax.Expr | None:
    number = scalar_of(expr)
    if number is not None:
        return int(number)
    while (view := rw.call(expr, "relax.reshape", "relax.astype")) is not None and dtype_of(expr) != "uint8":
        expr = view.args[0]
    shape = static_shape(expr)
    if dtype_of(expr) != "uint8" or shape is None or any(extent != 1 for extent in shape):
        return None
    return expr if not shape else rw.emit(reshape(expr, []))
