"""Weights of few bits in front of floats: products on them as they are stored (`gemm_f32q`, of 16 bits `gemm_f32h`; `gemm_s8q4` where the activations are rounded to 8 bits), and rows of tables that are dequantized when
they have been taken; of a table that is a product's weight, too, out of what the product reads (`gather_f32q`).

What such weights look like is `decode` of constants (`ir/_decode.py`), or that moved. As for the bits of numbers, what scales are stored in follows
from them: float16 where it holds each as it is, whoever made them. What no kernel and no table takes becomes floats at the end.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import tvm
from tvm import relax

from ..ir import BYTE_BLOCK, read_encoded, read_operator, read_widened, round_to_bytes
from ._dims import Dim, extents, static_shape
from ._encoded import encoded
from ._halves import halves
from ._indices import run_indices
from ._kernel_call import AttrValue, make_kernel_call
from ._ops import constant, is_f32, reshape, slice_of
from ._rewrite import Array, Rewriter, array_of, is_call, rewrite
from ._rounded import in_floats, unrounded
from .fold_constants import dequantized, evaluate

__all__ = ["GEMMQ_PACKING", "floats_are_better", "lower_weights", "meets_bytes"]

GEMMQ_PACKING = "gemm_f32q_nr16_v1"
HALVES_PACKING = "gemm_f32h_nr16_v1"
_MOVES = ("relax.reshape", "relax.permute_dims", "relax.strided_slice")
_SCALE_BITS = 40  # of a scale and a zero point
_FLOATS_FROM = 24  # bits of a number, from which on a float is read more quickly
_ENTRIES = 1 << 31  # scales that are told apart by 32 bits

_TakeRows = Callable[[Array], relax.Expr]  # rows of a constant


def lower_weights(mod: tvm.IRModule) -> tvm.IRModule:
    return rewrite(rewrite(mod, partial(_lower, _tied(mod))), _fold)


@dataclass(frozen=True)
class _ScaledNumbers:
    """Numbers of 8 bits, the scales and zero points that there are, and which of them belongs to each number."""

    values: Array
    scale: Array
    zero: Array
    scale_index: Array

    def after_move(self, call: relax.Call) -> _ScaledNumbers | None:
        """What a reshape, transpose or slice makes of it."""
        if is_call(call, "relax.reshape"):
            shape = static_shape(call)
            if shape is None:
                return None
            return _ScaledNumbers(self.values.reshape(shape), self.scale, self.zero, self.scale_index.reshape(shape))
        if is_call(call, "relax.permute_dims"):
            axes = None if call.attrs.axes is None else [int(axis) for axis in call.attrs.axes]
            return _ScaledNumbers(self.values.transpose(axes), self.scale, self.zero, self.scale_index.transpose(axes))
        index = [slice(None)] * self.values.ndim
        for axis, low, high, stride in slice_of(call):
            if low is None or high is None or stride is None or stride < 1:
                return None
            index[axis] = slice(low, high, stride)
        return _ScaledNumbers(self.values[tuple(index)], self.scale, self.zero, self.scale_index[tuple(index)])


def _weights_behind(rw: Rewriter, expr: relax.Expr) -> _ScaledNumbers | None:
    """The weights behind `expr`, a constant of few bits or that moved."""
    moves: list[relax.Call] = []
    while (move := rw.call(expr, *_MOVES)) is not None:
        moves.append(move)
        expr = move.args[0]
    known = encoded(rw, expr)
    if known is None or known.values.size == 0:
        return None
    parts = np.broadcast_arrays(known.scale, known.zeros)
    scale, zero = (part.reshape(-1) for part in parts)
    if scale.size >= _ENTRIES:
        return None
    numbered = np.arange(scale.size, dtype=np.int32).reshape(parts[0].shape)
    scale_index = np.broadcast_to(known.spread(numbered), known.values.shape)
    found: _ScaledNumbers | None = _ScaledNumbers(known.values, scale, zero, scale_index)
    for move in reversed(moves):
        found = found.after_move(move) if found is not None else None
    return found


def _block(scale_index: Array) -> int:
    """Rows in a row that share their scales, column by column; the last may be fewer."""
    changes = np.flatnonzero((scale_index[1:] != scale_index[:-1]).any(axis=1))
    block = int(changes[0]) + 1 if changes.size else len(scale_index)
    heads = scale_index[::block]
    for i in range(0, len(scale_index), block):
        if not (scale_index[i : i + block] == heads[i // block]).all():
            return 1
    return block


@dataclass(frozen=True)
class _Matrix:
    """int8 numbers [rows, columns] that `bits` hold, and the scale and the zero point (none: 0) of each block of rows and column."""

    values: Array
    scale: Array
    zero: Array | None
    bits: int
    block: int

    @property
    def meets_bytes(self) -> bool:
        """Whether `gemm_s8q4` reads it."""
        return self.bits == 4 and (self.block % BYTE_BLOCK == 0 or self.block >= len(self.values))

    def call_attrs(self) -> dict[str, AttrValue | int]:
        """Of a kernel that reads it."""
        k, n = self.values.shape
        group = {"group": self.block} if self.block < k else {}
        return {"n": n, "k": k, "bits": self.bits, **group}

    def operands(self) -> list[relax.Expr | None]:
        """Numbers, scales, and zero points."""
        zero, half = None if self.zero is None else constant(self.zero), halves(self.scale)
        return [constant(self.values), constant(self.scale if half is None else half), zero]

    def key(self) -> bytes:
        """The same for the same numbers."""
        digest = hashlib.blake2b(repr((self.values.shape, self.bits, self.block)).encode())
        for part in (self.values, self.scale, self.zero):
            digest.update(b"-" if part is None else np.ascontiguousarray(part).data)
        return digest.digest()


def _matrix(weights: _ScaledNumbers) -> _Matrix:
    """Of two axes."""
    values, block = weights.values.astype(np.int16), _block(weights.scale_index)
    heads = weights.scale_index[::block]
    scale, zero = weights.scale[heads], weights.zero[heads].astype(np.int16)
    low, high = int(values.min()), int(values.max())
    bits = 4 if high - low < 16 else 8
    lowest = -(1 << (bits - 1))
    common = int(zero.flat[0])
    symmetric = bool((zero == common).all()) and low - common >= lowest and high - common < -lowest
    middle = common if symmetric else low - lowest if bits == 4 else 128 if weights.values.dtype == np.uint8 else 0
    if not symmetric and bits == 4 and (zero.min() - middle < -128 or zero.max() - middle > 127):
        bits, middle = 8, 128 if weights.values.dtype == np.uint8 else 0
    moved = np.ascontiguousarray((values - middle).astype(np.int8))
    origin = None if symmetric else np.ascontiguousarray((zero - middle).astype(np.int8))
    return _Matrix(moved, np.ascontiguousarray(scale), origin, bits, block)


def _lower(tied: Set[bytes], rw: Rewriter, var: relax.Var, value: relax.Expr) -> relax.Expr | None:
    if is_call(value, "relax.matmul") and is_f32(value, *value.args):
        of_halves = _halves_product(rw, var, value)
        return _product(rw, var, value) if of_halves is None else of_halves
    if is_call(value, "relax.take") and is_f32(value):
        shared = _shared_rows(rw, var, value, tied) if tied else None
        return _take(rw, value) if shared is None else shared
    return None


def _product(rw: Rewriter, var: relax.Var, value: relax.Call) -> relax.Expr | None:
    matrix = _weight(rw, value)
    if matrix is None:
        return None
    contract, x = "gemm_f32q", value.args[0]
    rounded = unrounded(rw, x)
    if rounded is not None and matrix.meets_bytes:
        contract, x = "gemm_s8q4", rounded
    args = [x, *matrix.operands()]
    return make_kernel_call(contract, args, var.ty, matrix.call_attrs(), packing=GEMMQ_PACKING, name=str(var.name))


def meets_bytes(rw: Rewriter, value: relax.Expr) -> bool:
    """Whether it is a product of floats with weights that a kernel multiplies by activations of 8 bits."""
    if not is_call(value, "relax.matmul") or not is_f32(value, *value.args):
        return False
    matrix = _weight(rw, value)
    return matrix is not None and matrix.meets_bytes


def _halves_product(rw: Rewriter, var: relax.Var, value: relax.Call) -> relax.Expr | None:
    """With weights of 16 bits."""
    x, weight = value.args[0], read_widened(rw.definition(value.args[1]))
    if weight is None or weight.ndim != 2 or x.ty.ndim < 2 or any(isinstance(d, int) and d == 0 for d in extents(x)):
        return None
    k, n = weight.shape
    attrs: dict[str, AttrValue | int] = {"n": n, "k": k, "numbers": str(weight.dtype)}
    return make_kernel_call(
        "gemm_f32h", [x, constant(weight)], var.ty, attrs, packing=HALVES_PACKING, name=str(var.name)
    )


def _weight(rw: Rewriter, value: relax.Call) -> _Matrix | None:
    """What the kernel would read of a product's weight; None where floats are no larger, or it is no such product."""
    x, w = value.args
    if x.ty.ndim < 2 or w.ty.ndim != 2 or any(isinstance(d, int) and d == 0 for d in extents(x)):
        return None
    weights = _weights_behind(rw, w)
    if weights is None:
        return None
    matrix = _matrix(weights)
    return None if floats_are_better(matrix.values.size, matrix.bits, matrix.scale.size) else matrix


def floats_are_better(numbers: int, bits: int, scales: int) -> bool:
    """Whether weights of so many numbers and scales are floats in front of a product: with almost as many scales as numbers they are no larger."""
    return numbers * bits + scales * _SCALE_BITS > _FLOATS_FROM * numbers


# ---- tables


def _tied(mod: tvm.IRModule) -> set[bytes]:
    """Keys of the weights of products that have the shape of a table, transposed."""
    shapes: set[tuple[int, ...]] = set()
    keys: set[bytes] = set()

    def tables(rw: Rewriter, var: relax.Var, value: relax.Expr) -> None:
        if is_call(value, "relax.take") and rw.call(value.args[0], "maas.decode", *_MOVES) is not None:
            shape = static_shape(value.args[0])
            shapes.add(tuple(reversed(shape)) if shape is not None else ())

    def products(rw: Rewriter, var: relax.Var, value: relax.Expr) -> None:
        if is_call(value, "relax.matmul") and is_f32(value, *value.args):
            shape = static_shape(value.args[1])
            matrix = _weight(rw, value) if shape is not None and tuple(shape) in shapes else None
            if matrix is not None:
                keys.add(matrix.key())

    rewrite(mod, tables)
    if shapes:
        rewrite(mod, products)
    return keys


def _shared_rows(rw: Rewriter, var: relax.Var, value: relax.Call, tied: Set[bytes]) -> relax.Expr | None:
    """Rows of a table that is a product's weight, too, out of what the product reads."""
    weights, indices = _weights_behind(rw, value.args[0]), run_indices(rw, value.args[1])
    mode = str(value.attrs.mode)
    if weights is None or indices is None or mode not in ("fast", "nan") or weights.values.ndim != 2:
        return None
    if value.attrs.axis is None or int(value.attrs.axis) % 2:
        return None
    matrix = _matrix(replace(weights, values=weights.values.T, scale_index=weights.scale_index.T))
    if matrix.key() not in tied:
        return None
    attrs = {**matrix.call_attrs(), **({"wraps": 0} if mode == "nan" else {})}
    out = relax.TensorType([*extents(indices), matrix.values.shape[0]], "float32")
    args = [indices, *matrix.operands()]
    call = make_kernel_call("gather_f32q", args, out, attrs, packing=GEMMQ_PACKING, name=str(var.name))
    return reshape(rw.emit(call, str(var.name)), extents(var))


def _take(rw: Rewriter, value: relax.Call) -> relax.Expr | None:
    """Rows of a table: dequantize the rows, not the table."""
    weights = _weights_behind(rw, value.args[0])
    if weights is None or value.attrs.axis is None:
        return None
    axis = int(value.attrs.axis) % weights.values.ndim
    if weights.scale.size == 1:
        table, parts = (
            constant(np.ascontiguousarray(weights.values)),
            (weights.scale.reshape(()), weights.zero.reshape(())),
        )
        rows = rw.emit(relax.op.take(table, value.args[1], axis, str(value.attrs.mode)))
        return relax.op.dequantize(rows, *map(constant, parts), axis=-1, out_dtype="float32")
    if axis or weights.values.ndim < 2:
        return None
    shape, mode, index = weights.values.shape, str(value.attrs.mode), value.args[1]
    own, rest = extents(index), list(shape[1:])
    flat = _ScaledNumbers(
        weights.values.reshape(shape[0], -1), weights.scale, weights.zero, weights.scale_index.reshape(shape[0], -1)
    )
    block = _block(flat.scale_index.T)
    length = flat.values.shape[1]
    blocks = -(-length // block)
    heads = flat.scale_index[:, ::block]
    stored = np.pad(flat.values, [(0, 0), (0, blocks * block - length)])  # the last block may be shorter

    def taken(table: Array) -> relax.Expr:
        return rw.emit(relax.op.take(constant(np.ascontiguousarray(table)), index, 0, mode))

    rows = rw.emit(relax.op.astype(_rows(rw, taken, stored, own), "float32"))
    rows = rw.emit(reshape(rows, [*own, blocks, block]))
    scale = weights.scale[heads][..., None]
    zero = weights.zero[heads][..., None]
    if zero.any():
        origin = constant(zero[0]) if (zero == zero[0]).all() else taken(zero)
        rows = rw.emit(relax.op.subtract(rows, rw.emit(relax.op.astype(origin, "float32"))))
    rows = rw.emit(
        relax.op.multiply(rows, constant(scale[0]) if (scale == scale[0]).all() else _scales(rw, taken, scale))
    )
    if blocks * block > length:
        rows = rw.emit(reshape(rows, [*own, blocks * block]))
        rows = rw.emit(relax.op.strided_slice(rows, [len(own)], [0], [length], assume_inbound=True))
    return reshape(rows, [*own, *rest])


def _scales(rw: Rewriter, taken: _TakeRows, scale: Array) -> relax.Expr:
    half = halves(scale)
    return taken(scale) if half is None else rw.emit(relax.op.astype(taken(half), "float32"))


def _rows(rw: Rewriter, taken: _TakeRows, values: Array, own: Sequence[Dim]) -> relax.Expr:
    """Rows of the table; two numbers a byte where 4 bits hold them."""
    if values.dtype != np.uint8 or values.shape[1] % 2 or values.max() > 15:
        return taken(values)
    both = taken(values[:, ::2] | values[:, 1::2] << np.uint8(4))
    low = rw.emit(relax.op.bitwise_and(both, constant(np.asarray(15, np.uint8))))
    high = rw.emit(relax.op.right_shift(both, constant(np.asarray(4, np.uint8))))
    parts = [rw.emit(reshape(part, [*own, values.shape[1] // 2, 1])) for part in (low, high)]
    return rw.emit(reshape(rw.emit(relax.op.concat(parts, -1)), [*own, values.shape[1]]))


def _fold(rw: Rewriter, var: relax.Var, value: relax.Expr) -> relax.Expr | None:
    """What is left, as floats; and what moves them."""
    rounded = read_operator(value)
    if rounded is not None and rounded.operator is round_to_bytes:
        return in_floats(rw, rounded.args[0])
    if (known := read_encoded(value)) is not None:
        folded: Array | None = known.floats()
    elif (widened := read_widened(value)) is not None:
        folded = widened.astype(np.float32)
    elif is_call(value, "relax.dequantize") and array_of(value.args[0]) is not None:
        folded = dequantized(value)
    elif is_call(value, *_MOVES) and array_of(value.args[0]) is not None:
        folded = evaluate(value, var)
    else:
        return None
    return None if folded is None else constant(folded)
