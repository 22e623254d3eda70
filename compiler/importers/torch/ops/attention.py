"""Scaled dot-product attention, kept whole: R.nn.attention where heads match, the attention of ir/ for grouped queries."""

from __future__ import annotations

import math
from typing import Any

from tvm import relax, tirx

from .... import ir
from .._context import Context, Expr
from .._registry import NotConvertible, converts
from .random import thinned

OP = relax.op


@converts("aten.scaled_dot_product_attention.default")
def attention(c: Context, query: Expr, key: Expr, value: Expr, attn_mask: Any = None, dropout_p: float = 0.0,
              is_causal: bool = False, scale: Any = None, enable_gqa: bool = False) -> Expr:  # fmt: skip
    """query [..., H, Sq, D], key [..., Hkv, Sk, D], value [..., Hkv, Sk, Dv] -> [..., H, Sq, Dv].

    torch counts the causal mask from the upper left corner. A mask of bools admits where it is true.
    """
    q, k, v = (_four(c, _broadcast_batch(c, x)) for x in (query, key, value))
    mask = None if attn_mask is None else _additive(c, attn_mask, q)
    factor = float(scale) if scale is not None else 1.0 / math.sqrt(c.static_shape_of(q, [3])[0])
    if c.dtype(q) != "float32" or dropout_p > 0:
        y = _by_formula(c, q, k, v, mask, is_causal, factor, dropout_p)
    elif not c.same_dims(c.shape(q)[:2], c.shape(k)[:2]):
        y = _grouped(c, q, k, v, mask, is_causal, factor)
    else:
        y = _as_one_operator(c, q, k, v, mask, is_causal, factor)
    return c.reshape(y, c.out_shape())


def _broadcast_batch(c: Context, x: Expr) -> Expr:
    """x with its axes before the heads broadcast to those of the result."""
    lead, shape = c.out_shape()[:-3], c.shape(x)
    if not lead or len(shape) < 3:
        return x
    whole = [*[1] * (len(lead) + 3 - len(shape)), *shape]
    return c.broadcast(c.reshape(x, whole), [*lead, *shape[-3:]])


def _four(c: Context, x: Expr) -> Expr:
    """x as [B, H, S, D]: leading axes are merged or added."""
    shape = c.shape(x)
    batch: Any = 1
    for size in shape[:-3]:
        batch = batch * size
    return c.reshape(x, [batch, *([1] if len(shape) < 3 else [shape[-3]]), *shape[-2:]])


def _additive(c: Context, mask: Expr, q: Expr) -> Expr:
    """The mask as numbers that are added, of rank 4."""
    dtype = "float32" if c.dtype(q) in ("float16", "bfloat16") else c.dtype(q)
    if c.dtype(mask) == "bool":
        mask = c.where(mask, c.const(0.0, dtype), c.const(-math.inf, dtype))
    mask = c.cast(mask, dtype)
    shape = c.shape(mask)
    if len(shape) > 4:
        raise NotConvertible(f"a mask of rank {len(shape)}")
    return c.reshape(mask, [*[1] * (4 - len(shape)), *shape])


def _as_one_operator(c: Context, q: Expr, k: Expr, v: Expr, mask: Expr | None, causal: bool, scale: float) -> Expr:
    q, k, v = (c.permute(x, [0, 2, 1, 3]) for x in (q, k, v))
    top = "TopLeft" if causal else None
    factor = tirx.FloatImm("float32", scale)
    if mask is None:
        y = c.emit(OP.nn.attention(q, k, v, scale=factor, causal_mask=top))
    else:
        full = [c.shape(q)[0], c.shape(q)[2], c.shape(q)[1], c.shape(k)[1]]
        mask = c.broadcast(mask, full)
        y = c.emit(OP.nn.attention(q, k, v, mask, scale=factor, causal_mask=top))
    return c.permute(y, [0, 2, 1, 3])


def _grouped(c: Context, q: Expr, k: Expr, v: Expr, mask: Expr | None, causal: bool, scale: float) -> Expr:
    assert c.node is not None
    call = ir.attention(q, k, v, mask, scale=scale, causal=int(causal), layout="bhsd", place=c.node.name)
    return c.emit(call)


def _by_formula(
    c: Context, q: Expr, k: Expr, v: Expr, mask: Expr | None, causal: bool, scale: float, dropout: float
) -> Expr:
    """softmax(q kT * scale + mask) v in pieces, for dtypes that the kernel does not take, and for dropout of the weights."""
    result = c.dtype(q)
    dtype = "float32" if result in ("float16", "bfloat16") else result
    groups = c.shape(q)[1] // c.shape(k)[1] if not c.same_dims([c.shape(q)[1]], [c.shape(k)[1]]) else 1
    q, k, v = (c.cast(x, dtype) for x in (q, k, v))
    if groups != 1:
        k, v = (c.emit(OP.repeat(x, groups, 1)) for x in (k, v))
    scores = c.emit(OP.multiply(c.emit(OP.matmul(q, c.swap(k, -1, -2))), c.const(scale, dtype)))
    if causal:
        ones = c.zeros([c.shape(q)[2], c.shape(k)[2]], "int8", 1)
        admitted = c.cast(c.emit(OP.tril(ones, 0)), "bool")
        scores = c.where(admitted, scores, c.const(-math.inf, dtype))
    if mask is not None:
        scores = c.emit(OP.add(scores, mask))
        # A row that admits nothing gives zeros in torch, not NaN.
        admitted = c.emit(OP.greater(scores, c.const(-math.inf, dtype)))
        some = c.cast(c.emit(OP.max(c.emit(OP.astype(admitted, "int8")), [-1], True)), "bool")
        weights = c.emit(OP.nn.softmax(c.where(some, scores, c.const(0.0, dtype)), -1))
        weights = c.where(some, weights, c.const(0.0, dtype))
    else:
        weights = c.emit(OP.nn.softmax(scores, -1))
    if dropout > 0:
        weights = thinned(c, weights, None, dropout)
    return c.cast(c.emit(OP.matmul(weights, v)), result)


@converts("aten._scaled_dot_product_flash_attention_for_cpu.default")
def flash_attention(c: Context, query: Expr, key: Expr, value: Expr, dropout_p: float = 0.0, is_causal: bool = False,
                    attn_mask: Any = None, scale: Any = None) -> list[Any]:  # fmt: skip
    result = c.result
    c.result = result[0]
    try:
        return [attention(c, query, key, value, attn_mask, dropout_p, is_causal, scale), None]
    finally:
        c.result = result
