"""Weights that ONNX Runtime stores in blocks of few bits (com.microsoft: MatMulNBits, MatMulBnb4, GatherBlockQuantized).

A product's activations are never quantized, whatever its accuracy_level allows: it is the least accuracy that a model asks for. A recipe may
(compression/_rounded_inputs.py).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import relax, tirx

from .... import ir
from .._exprs import constant, dims_of, dtype_of
from .._node import Node
from .._packed import unpacked
from .._registry import op
from .._values import bits_of
from ._te import elementwise, imm
from .contrib_gather import gathered_by_run
from .contrib_qlinear import MS
from .nn import product

Array = npt.NDArray[Any]
_BITS = (2, 4, 8)

# The numbers of a 4-bit code, of bitsandbytes.
_FP4 = [0.0, 0.00520833, 0.66666667, 1.0, 0.33333333, 0.5, 0.16666667, 0.25]
_FP4 += [-v for v in _FP4]
_NF4 = [
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
]  # fmt: skip


def _block(n: Node, default: Any) -> int:
    block = n.int_attr("block_size", default)
    if block < 16 or block & (block - 1):
        raise n.broken(f"has blocks of {block}, expected a power of two from 16 on")
    return block


def _bits(n: Node) -> int:
    bits = n.int_attr("bits", 4)
    if bits not in _BITS:
        raise n.refuse(f"of {bits} bits")
    return bits


def _shaped(n: Node, i: int, shape: tuple[int, ...], what: str) -> Array:
    """The constant input i as this shape, which files also write flat."""
    array = n.const(i, what)
    if array.size != np.prod(shape, dtype=np.int64):
        raise n.broken(f"has {what} of shape {list(array.shape)}, expected {list(shape)}")
    return array.reshape(shape)


@op("MatMulNBits", domain=MS)
def matmul_nbits(n: Node) -> Any:
    """A [..., K], B uint8 [N, blocks, block · bits / 8], scales [N, blocks], zero_points, g_idx [K], bias [N]: A · dequantized(B)ᵀ"""
    k, columns, bits, block = n.int_attr("K"), n.int_attr("N"), _bits(n), _block(n, 0)
    if n.int_attr("weight_prepacked", 0):
        raise n.refuse("with weights that are packed for one kind of device")
    if k < 1 or columns < 1:
        raise n.broken(f"has K {k} and N {columns}")
    blocks = -(-k // block)
    q = unpacked(_shaped(n, 1, (columns, blocks, block * bits // 8), "weights"), bits, block)
    q = q.reshape(columns, blocks * block)[:, :k]
    scale = _shaped(n, 2, (columns, blocks), "scales").astype(np.float32)
    zero = np.full((columns, blocks), 1 << (bits - 1), np.float32)
    if n.has(3) and n.dtype(3) == "uint8":
        packed = _shaped(n, 3, (columns, -(-blocks * bits // 8)), "zero points")
        zero = unpacked(packed, bits, blocks).astype(np.float32)
    elif n.has(3):
        zero = _shaped(n, 3, (columns, blocks), "zero points").astype(np.float32)
    group = _shaped(n, 4, (k,), "g_idx") if n.has(4) else np.arange(k) // block
    if group.min() < 0 or group.max() >= blocks:
        raise n.broken(f"has a g_idx beyond its {blocks} blocks")
    a, dtype = n.x(0), n.dtype(0)
    order = np.argsort(
        group, kind="stable"
    )  # of the k's by their groups: where these are blocks, the weights stay as they are
    blocked = bool((group[order] == np.arange(k) // block).all())
    if blocked and (zero == np.rint(zero)).all() and zero.min() >= 0 and zero.max() <= 255:
        if (order != np.arange(k)).any():
            q, a = q[:, order], n.emit(relax.op.take(a, constant(order.astype(np.int32)), n.rank(0) - 1))
        w = n.emit(ir.Encoded(q, scale, zero.astype(np.uint8), 1, block).call())
    else:
        w = constant((q.astype(np.float32) - zero[:, group]) * scale[:, group])
    return _half_product(n, a, n.emit(relax.op.permute_dims(w, [1, 0])), dtype, 5)


def _half_product(n: Node, a: Any, w: Any, dtype: str, bias: int = -1) -> Any:
    """a · w [+ bias] in float32, as a's type."""
    y = product(n, n.cast(a, "float32"), w)
    if bias >= 0 and n.has(bias):
        y = n.emit(relax.op.add(*n.align(y, n.cast(n.x(bias), "float32"))))
    return n.cast(y, dtype)


@op("MatMulBnb4", domain=MS)
def matmul_bnb4(n: Node) -> Any:
    """A [..., K], B: the numbers of a matrix [N, K] one after the other, two a byte, the first in the high bits; absmax of each block"""
    k, columns, block = n.int_attr("K"), n.int_attr("N"), _block(n, None)
    kind = n.int_attr("quant_type")
    if kind not in (0, 1):
        raise n.broken(f"has quant_type {kind}, expected 0 (FP4) or 1 (NF4)")
    if not n.flag("transB", 1):
        raise n.refuse("with transB 0")
    count = k * columns
    packed = _shaped(n, 1, (-(-count // 2),), "weights")
    codes = np.stack([packed >> np.uint8(4), packed & np.uint8(15)], axis=-1).reshape(-1)[:count]
    largest = _shaped(n, 2, (-(-count // block),), "absmax").astype(np.float32)
    table = np.array(_NF4 if kind else _FP4, np.float32)
    w = (table[codes] * np.repeat(largest, block)[:count]).reshape(columns, k)
    return _half_product(n, n.x(0), constant(np.ascontiguousarray(w.T)), n.dtype(0))


@op("GatherBlockQuantized", domain=MS)
def gather_block_quantized(n: Node) -> Any:
    """data, indices, scales, zero_points: slices of dequantized data along gather_axis; zeros for an index out of range"""
    bits, block = _bits(n), _block(n, 128)
    kind, rank = n.dtype(0), n.rank(0)
    if kind not in ("uint8", "int4", "uint4", "int8") or rank < 1:
        raise n.refuse(f"of {kind} with {rank} dimensions")
    if kind != "uint8" and bits_of(kind) != bits:
        raise n.broken(f"has data of {kind} and {bits} bits")
    gather, along = n.axis(n.int_attr("gather_axis", 0), rank), n.axis(n.int_attr("quantize_axis", 1), rank)
    if any(n.has(i) and n.value(i).const is None for i in (0, 2, 3)):
        return n.cast(gathered_by_run(n, bits, block, gather, along), n.dtype(2))
    data = n.const(0, "data")
    signed = data.dtype.name.startswith("int")
    zero = n.const(3, "zero points") if n.has(3) else None
    if data.dtype.name == "uint8":  # several numbers a byte, and so are the zero points
        data = unpacked(data, bits, data.shape[-1] * 8 // bits)
        middle = 1 << (bits - 1)
    else:
        middle = 0
    inside = np.int8 if signed else np.uint8
    scale = n.const(2, "scales").astype(np.float32)
    shape = tuple(-(-d // block) if a == along else d for a, d in enumerate(data.shape))
    if scale.shape != shape:
        raise n.broken(f"has scales of shape {list(scale.shape)}, expected {list(shape)}")
    if zero is None:
        zero = np.full(shape, middle, inside)
    elif zero.dtype == np.uint8:
        zero = unpacked(zero, bits, shape[-1])
    if zero.shape != shape:
        raise n.broken(f"has zero points of shape {list(zero.shape)}, expected {list(shape)}")
    table = n.emit(ir.Encoded(data.astype(inside), scale, zero.astype(inside), along, block).call())
    return n.cast(_take_or_zero(n, table, data.shape[gather], gather), n.dtype(2))


def _take_or_zero(n: Node, table: Any, extent: int, axis: int) -> Any:
    """take, with zeros where an index is none of the table's."""
    indices = n.value(1)
    n.graph.limit_index(indices, extent)
    index = n.cast(n.x(1), "int64")
    if indices.const is not None and ((indices.const >= -extent) & (indices.const < extent)).all():
        return n.emit(relax.op.take(table, constant(indices.const.astype(np.int64) % extent), axis))
    end = imm(extent, "int64")

    def within(i: Any) -> Any:
        return tirx.all(i >= -end, i < end)

    near = elementwise(n, lambda i: tirx.Select(within(i), i, imm(0, "int64")), index, name="near")
    rows = n.emit(relax.op.take(table, near, axis))
    rank, own = len(dims_of(rows)), dims_of(index)
    spread = n.reshape(index, [*([1] * axis), *own, *([1] * (rank - axis - len(own)))])
    zero = imm(0, dtype_of(rows))
    return elementwise(n, lambda r, i: tirx.Select(within(i), r, zero), rows, spread, name="gathered")
