"""Attention, whole or in pieces, to kernel calls: softmax(q k' * scale + mask) v, and its packed form where q, k, v
are one tensor.

Kernels want [batch, sequence, heads, depth], which is how projections come out; the transposes that exporters write
around attention are emitted as they are needed here, and cancel against theirs when the module is canonicalised next.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import tvm
from tvm import relax

from ._dims import Dim, extents, product, same_shape, shape_of, shape_of_type
from ._kernel_call import AttrValue, KernelCall, make_kernel_call, read_kernel_call
from ._ops import constant, is_f32, permute, reshape, slice_of
from ._pattern import Number, Rows, kernel, op, scaled, tensor
from ._rewrite import Array, Rewriter, array_of, is_call, rewrite

__all__ = ["match_attention", "pack_attention"]

_SWAP = [0, 2, 1, 3]  # [B, S, H, D] <-> [B, H, S, D]
_PRODUCT = tensor("product", op("matmul", scaled(Number("q"), tensor("q")), scaled(Number("k"), tensor("k"))))
_SCORES = scaled(Number("product"), _PRODUCT)  # the scale may be anywhere
_PIECES = Rows(
    (op("matmul", kernel("softmax_f32", _SCORES), tensor("v")), None),
    (op("matmul", kernel("softmax_f32", _SCORES + tensor("mask")), tensor("v")), None),
    shared=True,
)
_CAUSAL = {"TopLeft": 1, "BottomRight": 2}


def match_attention(mod: tvm.IRModule) -> tvm.IRModule:
    """Operators and pieces -> attention_f32."""
    return rewrite(mod, _match)


def pack_attention(mod: tvm.IRModule) -> tvm.IRModule:
    """attention_f32 of three parts, or three projections, of one tensor -> qkv_attention_f32.

    Where q, k, v are [B, H, S, D] by nature: that layout.
    """
    return rewrite(mod, _pack)


# ---- attention_f32
# ------------------------------------------------------------------------------------------------------------


def _match(rw: Rewriter, var: relax.Var, value: relax.Expr) -> relax.Expr | None:
    if is_call(value, "relax.nn.attention", "relax.nn.attention_bias") and is_f32(*value.args):
        return _one_operator(var, value)
    if is_call(value, "relax.matmul") and is_f32(value):
        return _pieces(rw, var, value)
    return None


def _one_operator(var: relax.Var, value: relax.Call) -> relax.Expr | None:
    if value.attrs.window_size is not None:
        return None
    attrs: dict[str, AttrValue | int | float] = {}
    if value.attrs.scale is not None:
        attrs["scale"] = float(value.attrs.scale)
    if value.attrs.causal_mask is not None:
        attrs["causal"] = _CAUSAL[str(value.attrs.causal_mask)]
    if len(value.args) > 3 or attrs.get("causal") == 2:  # a row may be masked whole: zeros, as torch gives
        attrs["safe"] = 1
    return make_kernel_call("attention_f32", list(value.args), var.ty, attrs, name=str(var.name))


def _pieces(rw: Rewriter, var: relax.Var, value: relax.Call) -> relax.Expr | None:
    row = _PIECES.find(rw, value)
    if row is None:
        return None
    found = row[1]
    if not rw.single_use(value.args[0]) or not rw.single_use(found.tensors["product"]):
        return None
    q, k, v = (found.tensors[name] for name in "qkv")
    mask = found.tensors.get("mask")
    scale = math.prod(found.numbers.values())
    ndim = v.ty.ndim
    if ndim not in (3, 4) or (mask is not None and not is_f32(mask)):
        return None
    if not same_shape(shape_of(value.args[0]), shape_of(found.tensors["product"])):  # a mask may not spread it
        return None
    if any(shape_of(x) is None for x in (q, k, v)):
        return None
    shapes = [extents(x) for x in (q, k, v)]
    if any(len(shape) != ndim for shape in shapes) or not all(
        same_shape(shape[: ndim - 2], shapes[0][: ndim - 2]) for shape in shapes[1:]
    ):
        return None
    if ndim == 3:  # every row of the batch is one head
        q, k, v = (rw.emit(reshape(x, [shape[0], 1, *shape[1:]])) for x, shape in zip((q, k, v), shapes, strict=False))
    if mask is not None:
        mask = _four(rw, mask, ndim)
    q, v = (rw.emit(permute(x, _SWAP)) for x in (q, v))
    k = rw.emit(permute(k, [0, 3, 1, 2]))
    batch, length, heads, _ = extents(q)
    out_ty = relax.TensorType([batch, length, heads, extents(v)[3]], "float32")
    call = make_kernel_call("attention_f32", [q, k, v, mask], out_ty, {"scale": scale}, name=str(var.name))
    out = permute(rw.emit(call, str(var.name)), _SWAP)
    return reshape(rw.emit(out), extents(var)) if ndim == 3 else out


def _four(rw: Rewriter, mask: relax.Expr, ndim: int) -> relax.Expr:
    """The mask with four axes: [B, H, Sq, Sk], any of them 1."""
    shape = extents(mask)
    if ndim == 3:
        return rw.emit(reshape(mask, [shape[0], 1, *shape[1:]] if len(shape) == 3 else [1] * (4 - len(shape)) + shape))
    return rw.emit(reshape(mask, [1] * (4 - len(shape)) + shape))


# ---- qkv_attention_f32
# ----------------------------------------------------------------------------------------------------------


def _pack(rw: Rewriter, var: relax.Var, value: relax.Expr) -> relax.Expr | None:
    call = read_kernel_call(value)
    if call is None or call.contract != "attention_f32" or "layout" in call.attrs:
        return None
    q, k, v = call.args[:3]
    mask = call.args[3] if len(call.args) > 3 else None
    shape = shape_of(q)
    if shape is not None and same_shape(shape, shape_of(k)) and same_shape(shape, shape_of(v)):
        packed = _one_tensor(rw, [q, k, v], shape)
        if packed is None:
            packed = _one_projection(rw, [q, k, v], shape)
        if packed is not None:
            return make_kernel_call("qkv_attention_f32", [packed, mask], var.ty, call.attrs, name=call.name)
    return _heads_first(rw, var, call)


def _heads_first(rw: Rewriter, var: relax.Var, call: KernelCall) -> relax.Expr | None:
    """Where at least two of q, k, v are transposed from [B, H, S, D] only for the kernel: that layout, and one
    transpose behind."""
    sources = []
    for x in call.args[:3]:
        turned = rw.call(x, "relax.permute_dims")
        axes = None if turned is None or turned.attrs.axes is None else [int(axis) for axis in turned.attrs.axes]
        sources.append(turned.args[0] if turned is not None and axes == _SWAP else None)
    if sum(source is not None for source in sources) < 2:
        return None
    args = [
        rw.emit(permute(x, _SWAP)) if source is None else source for x, source in zip(call.args, sources, strict=False)
    ]
    batch, length, heads, depth = extents(var)
    out_ty = relax.TensorType([batch, heads, length, depth], "float32")
    attrs = {**call.attrs, "layout": "bhsd"}
    out = rw.emit(
        make_kernel_call("attention_f32", [*args, *call.args[3:]], out_ty, attrs, name=call.name), str(var.name)
    )
    return permute(out, _SWAP)


def _one_tensor(rw: Rewriter, parts: Sequence[relax.Expr], shape: list[Dim]) -> relax.Expr | None:
    """[B, S, 3, H, D] whose three parts q, k, v are, in this order."""
    found = [part for part in (_part(rw, part) for part in parts) if part is not None]
    if len(found) != len(parts):
        return None
    (source, axis, _, size), *_ = found
    whole = extents(source)
    if [(part[1], part[2], part[3]) for part in found] != [(axis, i * size, size) for i in range(3)] or whole[
        axis
    ] != 3 * size:
        return None
    if not all(part[0].same_as(source) for part in found) or product(whole[:axis]) != product(shape[:2]):
        return None
    if product([size, *whole[axis + 1 :]]) != product(shape[2:]):
        return None
    return rw.emit(reshape(source, [*shape[:2], 3, *shape[2:]]))


def _part(rw: Rewriter, expr: relax.Expr) -> tuple[relax.Expr, int, int, int] | None:
    """(whole, axis, start, extent) of a tensor that is a contiguous part of another along one axis, up to a reshape."""
    while (view := rw.call(expr, "relax.reshape")) is not None:
        expr = view.args[0]
    value = rw.definition(expr)
    if isinstance(value, relax.TupleGetItem):
        split = rw.call(value.tuple_value, "relax.split")
        extents = [shape_of_type(ty) for ty in value.tuple_value.ty.fields]
        if split is None:
            return None
        axis = int(split.attrs.axis) % split.args[0].ty.ndim
        sizes = [extent[axis] for extent in extents]
        if not all(isinstance(size, int) for size in sizes):
            return None
        return split.args[0], axis, sum(sizes[: value.index]), sizes[value.index]
    if is_call(value, "relax.strided_slice"):
        whole, cuts = shape_of(value.args[0]), slice_of(value)
        if len(cuts) != 1 or whole is None:
            return None
        axis, begin, end, stride = cuts[0]
        extent = whole[axis]
        if stride != 1 or begin is None or end is None or not isinstance(extent, int) or not 0 <= begin < end <= extent:
            return None
        return value.args[0], axis, begin, end - begin
    return None


def _one_projection(rw: Rewriter, parts: Sequence[relax.Expr], shape: list[Dim]) -> relax.Expr | None:
    """x @ [Wq Wk Wv] + [bq bk bv] as [B, S, 3, H, D], where q, k, v are a projection each of the same x."""
    if not all(isinstance(extent, int) for extent in shape[2:]):
        return None
    linears = [linear for linear in (_linear(rw, part) for part in parts) if linear is not None]
    if len(linears) != len(parts):
        return None
    x = linears[0][0]
    width = math.prod(shape[2:])
    if not all(linear[0].same_as(x) and linear[1].shape == (linears[0][1].shape[0], width) for linear in linears):
        return None
    joined = rw.emit(relax.op.matmul(x, constant(np.concatenate([linear[1] for linear in linears], axis=1))), "qkv")
    biases = [linear[2] for linear in linears]
    if any(bias is not None for bias in biases):
        zeros = np.zeros(width, np.float32)
        joined = rw.emit(
            relax.op.add(joined, constant(np.concatenate([zeros if b is None else b for b in biases]))), "qkv"
        )
    return rw.emit(reshape(joined, [*shape[:2], 3, *shape[2:]]))


def _linear(rw: Rewriter, expr: relax.Expr) -> tuple[relax.Expr, Array, Array | None] | None:
    """(x, W [K, N], b [N] or None) of reshape(x @ W + b), used once each."""
    if not rw.single_use(expr):
        return None
    while (view := rw.call(expr, "relax.reshape")) is not None and rw.single_use(view.args[0]):
        expr = view.args[0]
    bias = None
    added = rw.call(expr, "relax.add")
    if added is not None:
        vector, expr = added.args[1], added.args[0]
        if isinstance(expr, tvm.ir.GenericConst):
            vector, expr = expr, vector
        bias = array_of(vector)
        if bias is None or bias.ndim == 0 or bias.size != bias.shape[-1] or not rw.single_use(expr):
            return None
        bias = bias.reshape(-1)
    matmul = rw.call(expr, "relax.matmul")
    weight = array_of(matmul.args[1]) if matmul is not None else None
    if matmul is None or weight is None or weight.ndim != 2 or weight.dtype != np.float32:
        return None
    if bias is not None and bias.size != weight.shape[1]:
        return None
    return matmul.args[0], weight, bias
