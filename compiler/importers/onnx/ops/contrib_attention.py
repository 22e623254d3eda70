"""Attention and MultiHeadAttention of com.microsoft: projections, masks in their forms and a cache of keys and values around the operator."""

from __future__ import annotations

import math
from typing import Any

from tvm import relax, te, tirx

from .... import ir
from .._dims import Dim
from .._exprs import dims_of, dtype_of, shape_expr
from .._node import Node
from .._registry import op
from ._te import elementwise, imm
from .contrib_fused import added, in_float32
from .indexing import take_slice
from .nn import product

__all__ = [
    "HEADS_FIRST",
    "attend",
    "attend_in_pieces",
    "attention_bias",
    "combined",
    "key_mask",
    "merged_heads",
    "multi_head_attention",
    "queries_keys_values",
    "split_heads",
    "with_bias",
]

_MS = "com.microsoft"
_F = "float32"
HEADS_FIRST = [0, 2, 1, 3]  # [B, S, H, D] <-> [B, H, S, D]


def split_heads(n: Node, x: Any, heads: int) -> Any:
    """[B, S, H D] -> [B, S, H, D]."""
    batch, length, width = dims_of(x)
    if not isinstance(width, int) or heads < 1 or width % heads:
        raise n.broken(f"splits {width} columns into {heads} heads")
    return n.reshape(x, [batch, length, heads, width // heads])


def merged_heads(n: Node, x: Any) -> Any:
    """[B, S, H, D] -> [B, S, H D]."""
    batch, length, heads, depth = dims_of(x)
    return n.reshape(x, [batch, length, n.math.mul(heads, depth)])


def attention_scale(n: Node, q: Any) -> float:
    """The factor of q k', by default from the depth of a head."""
    scale = n.float_attr("scale", 0.0)
    depth = dims_of(q)[3]
    if scale == 0.0 and not isinstance(depth, int):
        raise n.refuse("with heads whose depth is only known at run time")
    return scale if scale != 0.0 else 1 / math.sqrt(depth)


def combined(n: Node, *masks: Any) -> Any:
    """The sum of additive masks, None where there is none."""
    given = [m for m in masks if m is not None]
    return added(n, given[0], *given[1:]) if given else None


def attend(n: Node, q: Any, k: Any, v: Any, mask: Any, *, causal: bool = False, safe: bool = False) -> Any:
    """softmax(q k' scale + mask) v whole: q [B, S, H, D], k and v [B, T, Hkv, D], mask broadcastable to [B, H, S, T], all float32.
    A causal query sees as many keys as there are before it and itself, counted from the last."""
    attrs = {**({"causal": 2} if causal else {}), **({"safe": 1} if safe else {})}
    return n.emit(ir.attention(q, k, v, mask, scale=attention_scale(n, q), place=n.place, **attrs))


def attend_in_pieces(
    n: Node, q: Any, k: Any, v: Any, mask: Any, *, causal: bool = False, softcap: float = 0.0, sink: Any = None
) -> tuple[Any, Any, Any]:
    """What `attend` gives, with the products before the softmax and behind it, [B, H, S, T].

    `softcap` bounds the products by c tanh(x / c) before the mask is added; `sink` [H or 1] is a further product, which takes its share of
    the softmax.
    """
    scale = n.scalar_const(attention_scale(n, q), _F)
    groups = n.math.floordiv(dims_of(q)[2], dims_of(k)[2])
    q, k, v = (n.emit(relax.op.permute_dims(x, HEADS_FIRST)) for x in (q, k, v))
    if groups != 1:
        k, v = (n.emit(relax.op.repeat(x, groups, 1)) for x in (k, v))
    scores = n.emit(relax.op.matmul(q, n.emit(relax.op.permute_dims(k, [0, 1, 3, 2]))))
    scores = n.emit(relax.op.multiply(scores, scale))
    if softcap:
        scores = elementwise(
            n, lambda x: imm(softcap, _F) * tirx.tanh(x * imm(1 / softcap, _F)), scores, name="softcap"
        )
    if mask is not None:
        scores = added(n, scores, mask)
    if causal:
        scores = _without_later_keys(n, scores)
    weights = scores
    if sink is not None:
        batch, heads, length, total = dims_of(scores)
        column = n.broadcast_to(n.reshape(sink, [1, dims_of(sink)[0], 1, 1]), [batch, heads, length, 1])
        weights = n.emit(relax.op.nn.softmax(n.emit(relax.op.concat([weights, column], 3)), -1))
        weights = take_slice(n, weights, 3, 0, total)
    else:
        weights = n.emit(relax.op.nn.softmax(weights, -1))
    y = n.emit(relax.op.permute_dims(n.emit(relax.op.matmul(weights, v)), HEADS_FIRST))
    return y, scores, weights


def _without_later_keys(n: Node, scores: Any) -> Any:
    def body(t: Any) -> Any:
        past = t.shape[3] - t.shape[2]
        low = tirx.min_value(_F)
        return te.compute(t.shape, lambda b, h, s, k: tirx.Select(k > past + s, low, t(b, h, s, k)), name="causal")

    return n.te(body, scores, name="causal")


# ---- masks


def key_mask(n: Node, i: int, batch: Dim, total: Dim) -> Any:
    """Input i, which says what keys are padding, as numbers that are added, [B, 1, 1 or S, T]; None without it.

    [B, T] or [B, S, T]: 1 for a key that counts; [B]: how many keys count; [2 B]: behind the last, and the first, that count.
    """
    if not n.has(i):
        return None
    low = imm(n.float_attr("mask_filter_value", -10000.0), _F)
    x, dims = n.x(i), n.shape(i)
    zero = imm(0, _F)
    if len(dims) in (2, 3):
        n.math.require_same(dims[-1], total)
        n.math.broadcast_dim(dims[0], batch)
        spread = n.reshape(x, [dims[0], 1, *([1] if len(dims) == 2 else [dims[1]]), dims[-1]])
        return elementwise(n, lambda m: tirx.Select(m > imm(0, dtype_of(x)), zero, low), spread, name="mask")
    if len(dims) != 1:
        raise n.refuse(f"with a mask of rank {len(dims)}")
    both = n.math.same(dims[0], n.math.mul(batch, 2))
    if not both:
        n.math.require_same(dims[0], batch)

    def body(t: Any, shape: Any) -> Any:
        def element(b: Any, h: Any, s: Any, k: Any) -> Any:
            padding = k >= t(b)
            return tirx.Select(tirx.any(padding, k < t(b + shape[0])) if both else padding, low, zero)

        return te.compute(shape, element, name="mask")

    return n.te(body, n.cast(x, "int64"), shape_expr([batch, 1, 1, total]), name="mask")


def attention_bias(n: Node, i: int) -> Any:
    return in_float32(n, n.x(i)) if n.has(i) else None


# ---- Attention


@op("Attention", domain=_MS)
def attention(n: Node) -> Any:
    """input [B, S, I], weights [I, q + k + v], bias?, mask_index?, past? [2, B, H, P, D], attention_bias? -> y [B, S, v], present."""
    n.float_only()
    projected = product(n, in_float32(n, n.x(0)), in_float32(n, n.x(1)))
    return attention_of(n, added(n, projected, n.x(2) if n.has(2) else None), n.dtype(0))


def attention_of(n: Node, joint: Any, dtype: str) -> Any:
    """What an Attention node makes of its joint projection [B, S, q + k + v]; its inputs from the mask on are read."""
    if n.flag("do_rotary"):
        raise n.refuse("with do_rotary, whose angles it does not give")
    if n.flag("past_present_share_buffer") or n.has(6):
        raise n.refuse("with a cache that is shared with its result")
    heads = n.int_attr("num_heads")
    batch = dims_of(joint)[0]
    q, k, v = (split_heads(n, x, heads) for x in _three(n, joint))
    present = None
    if n.has(4):
        past = [n.reshape(take_slice(n, n.x(4), 0, j, 1), list(n.shape(4)[1:])) for j in range(2)]
        k, v = (_behind(n, old, new) for old, new in zip(past, (k, v), strict=True))
    if any(n.proto.output[1:]):
        parts = [n.emit(relax.op.permute_dims(x, HEADS_FIRST)) for x in (k, v)]
        stacked = n.emit(relax.op.concat([n.reshape(x, [1, *dims_of(x)]) for x in parts], 0))
        present = n.cast(stacked, dtype)
    total = dims_of(k)[1]
    mask = combined(n, key_mask(n, 3, batch, total), attention_bias(n, 5))
    y = n.cast(merged_heads(n, attend(n, q, k, v, mask, causal=n.flag("unidirectional"))), dtype)
    return [y, present] if present is not None else y


def _three(n: Node, joint: Any) -> list[Any]:
    """A joint projection [B, S, q + k + v] in its parts."""
    width = dims_of(joint)[2]
    if not isinstance(width, int):
        raise n.refuse("with weights whose columns are only known at run time")
    sizes = [int(s) for s in n.attr("qkv_hidden_sizes", [])] or [width // 3] * 3
    if len(sizes) != 3 or sum(sizes) != width:
        raise n.broken(f"splits {width} columns into {sizes}")
    starts = (0, sizes[0], sizes[0] + sizes[1])
    return [take_slice(n, joint, 2, start, size) for start, size in zip(starts, sizes, strict=True)]


def _behind(n: Node, past: Any, new: Any) -> Any:
    """Cached keys or values [B, H, P, D] and behind them new ones [B, S, H, D], as [B, P + S, H, D]."""
    turned = n.emit(relax.op.permute_dims(in_float32(n, past), HEADS_FIRST))
    want = dims_of(new)
    have = dims_of(turned)
    for axis in (0, 2, 3):
        n.math.require_same(have[axis], want[axis])
    turned = n.graph.with_extents(turned, [want[0], have[1], *want[2:]])
    return n.emit(relax.op.concat([turned, new], 1))


# ---- MultiHeadAttention


@op("MultiHeadAttention", domain=_MS)
def multi_head_attention(n: Node) -> Any:
    """query, key?, value?, bias?, key_padding_mask?, attention_bias?, past_key?, past_value? -> y, present key and value, the weights.

    query [B, S, H D], or with keys and values [B, S, H, 3, D]; key [B, T, H D], with values [B, T, H, 2, D], or both as a cache holds
    them [B, H, T, D], for which the bias has been added before.
    """
    n.float_only()
    if n.has(8) or n.has(9):
        raise n.refuse("with a cache that is shared with its result")
    heads = n.int_attr("num_heads")
    q, k, v, cached = queries_keys_values(n, heads)
    if n.has(3):
        q, k, v = with_bias(n, q, k, v, only_query=cached)
    batch = dims_of(q)[0]
    if n.has(6) != n.has(7):
        raise n.broken("has a cache of keys without one of values, or the reverse")
    if n.has(6):
        k, v = (_behind(n, n.x(i), new) for i, new in ((6, k), (7, v)))
    mask = combined(n, key_mask(n, 4, batch, dims_of(k)[1]), attention_bias(n, 5))
    causal = n.flag("unidirectional")
    wanted = [bool(o) for o in n.proto.output] + [False] * 3
    products = None
    if wanted[3]:
        y, products, _ = attend_in_pieces(n, q, k, v, mask, causal=causal)
    else:
        y = attend(n, q, k, v, mask, causal=causal)
    y = n.cast(merged_heads(n, y), n.dtype(0))
    present = [
        n.cast(n.emit(relax.op.permute_dims(x, HEADS_FIRST)), n.dtype(0)) if want else None
        for x, want in zip((k, v), wanted[1:3], strict=True)
    ]
    return [y, *present, products][: len(n.proto.output)]


def queries_keys_values(n: Node, heads: int) -> tuple[Any, Any, Any, bool]:
    """q, k, v as [B, S, H, D] in float32, and whether keys and values come from a cache."""
    x = in_float32(n, n.x(0))
    if n.rank(0) == 5:
        return (*(_part(n, x, j) for j in range(3)), False)
    q = split_heads(n, x, heads)
    if not n.has(1):
        raise n.broken("has neither keys nor queries, keys and values in one")
    key = in_float32(n, n.x(1))
    if n.rank(1) == 5:
        return q, _part(n, key, 0), _part(n, key, 1), False
    value = in_float32(n, n.x(2))
    if n.rank(1) == 4:
        return q, *(n.emit(relax.op.permute_dims(t, HEADS_FIRST)) for t in (key, value)), True
    return q, split_heads(n, key, heads), split_heads(n, value, heads), False


def _part(n: Node, packed: Any, j: int) -> Any:
    """[B, S, H, 2 or 3, D] -> [B, S, H, D]."""
    dims = dims_of(packed)
    return n.reshape(take_slice(n, packed, 3, j, 1), [*dims[:3], dims[4]])


def with_bias(n: Node, q: Any, k: Any, v: Any, *, only_query: bool) -> list[Any]:
    """q, k, v [B, S, H, D] and their parts of the bias, added where the product behind which they stand adds it itself."""
    out, start = [], 0
    for number, x in enumerate((q, k, v)):
        heads, depth = dims_of(x)[2:]
        if not isinstance(heads, int) or not isinstance(depth, int):
            raise n.refuse("with heads whose depth is only known at run time")
        if number == 0 or not only_query:
            part = take_slice(n, n.x(3), 0, start, heads * depth)
            x = split_heads(n, added(n, merged_heads(n, x), part), heads)
        start += heads * depth
        out.append(x)
    return out
