"""Rotary positions, and attention over a cache of keys and values that sequences of other lengths share: GroupQueryAttention."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax, te, tirx

from .._dims import Dim
from .._exprs import constant, dims_of, shape_expr
from .._node import Node
from .._registry import op
from ._te import elementwise, imm
from .contrib_attention import (
    HEADS_FIRST,
    attend,
    attend_in_pieces,
    attention_bias,
    combined,
    key_mask,
    merged_heads,
    multi_head_attention,
    queries_keys_values,
    split_heads,
    with_bias,
)
from .contrib_fused import in_float32
from .indexing import take_slice
from .norm import rms_norm

_MS = "com.microsoft"
_F = "float32"

# Keys in the cache and behind it, in the inputs that verification draws, and the widest window that it fills.
_PAST, _NEW, _WINDOW = 3, 5, 512

# ---- rotary positions


@op("RotaryEmbedding", domain=_MS)
def rotary_embedding(n: Node) -> Any:
    """input [B, S, H D] or [B, H, S, D], position_ids [1] (of the first) or [B, S], cos and sin [rows, R / 2]."""
    n.float_only()
    x = in_float32(n, n.x(0))
    half = n.shape(2)[1]
    width = n.int_attr("rotary_embedding_dim", 0)
    if not isinstance(half, int) or (width and width != 2 * half):
        raise n.broken(f"rotates {width} elements of a head by {half} angles")
    if n.rank(0) == 4:
        x = n.emit(relax.op.permute_dims(x, HEADS_FIRST))
    else:
        heads = n.int_attr("num_heads", 0)
        columns = n.shape(0)[2]
        if not heads and (not isinstance(columns, int) or width or columns % (2 * half)):
            raise n.broken("does not say how many heads it has")
        x = split_heads(n, x, heads or columns // (2 * half))
    batch, length = dims_of(x)[:2]
    positions = n.cast(n.x(1), "int64")
    if n.rank(1) < 2:

        def count(t: Any, shape: Any) -> Any:
            return te.compute(shape, lambda b, s: t(*[0] * len(t.shape)) + s, name="positions")

        positions = n.te(count, positions, shape_expr([1, length]), name="positions")
    y = _rotated(n, x, positions, n.x(2), n.x(3), n.flag("interleaved"))
    y = n.emit(relax.op.permute_dims(y, HEADS_FIRST)) if n.rank(0) == 4 else merged_heads(n, y)
    del batch
    return n.cast(y, n.dtype(0))


@op("MRotaryEmbedding", domain=_MS)
def multimodal_rotary_embedding(n: Node) -> Any:
    """input [B, S, H D] or [B, H, S, D], position_ids [3, B, S] of time, height and width, cos and sin [rows, R / 2], whose columns
    `mrope_section` divides among the three."""
    n.float_only()
    if n.flag("is_packed_batching") or n.float_attr("scale", 1.0) != 1.0:
        raise n.refuse("of packed batches or with a scale")
    x, half = in_float32(n, n.x(0)), n.shape(2)[1]
    sections, layout = n.ints_attr("mrope_section"), n.int_attr("mrope_layout", 0)
    if len(sections) != 3 or sum(sections) != half or layout not in (0, 1):
        raise n.broken(f"divides {half} angles into {sections} by the layout {layout}")
    stream = np.repeat(np.arange(3), sections)
    if layout:
        column = np.arange(half)
        stream = np.where((column % 3 > 0) & (column < 3 * np.array(sections)[column % 3]), column % 3, 0)
    if n.rank(0) == 4:
        x = n.emit(relax.op.permute_dims(x, HEADS_FIRST))
    else:
        x = split_heads(n, x, n.int_attr("num_heads", 0) or n.shape(0)[2] // (2 * half))
    positions = n.emit(relax.op.permute_dims(n.cast(n.x(1), "int64"), [1, 2, 0]))

    def body(t: Any, p: Any, which: Any) -> Any:
        shape = (p.shape[0], p.shape[1], t.shape[1])
        return te.compute(shape, lambda b, s, c: t(p(b, s, which(c)), c), name="angles")

    which = constant(stream.astype(np.int64))
    cos, sin = (n.te(body, in_float32(n, n.x(i)), positions, which, name="angles") for i in (2, 3))
    y = _rotated_by(n, x, cos, sin, n.flag("interleaved"))
    y = n.emit(relax.op.permute_dims(y, HEADS_FIRST)) if n.rank(0) == 4 else merged_heads(n, y)
    return n.cast(y, n.dtype(0))


def _rotated(n: Node, x: Any, positions: Any, cos: Any, sin: Any, interleaved: bool) -> Any:
    """x [B, S, H, D] turned by the angles of positions [B or 1, S]. A run refuses a position that the tables have no row for."""
    cos, sin = (n.emit(relax.op.take(in_float32(n, t), positions, axis=0)) for t in (cos, sin))
    return _rotated_by(n, x, cos, sin, interleaved)


def _rotated_by(n: Node, x: Any, cos: Any, sin: Any, interleaved: bool) -> Any:
    """x [B, S, H, D] with its first elements turned by pairs, by the angles of cos and sin [B or 1, S or 1, R / 2]."""
    depth, dims = dims_of(x)[3], dims_of(cos)
    half = dims[2]
    if not isinstance(depth, int) or not isinstance(half, int) or 2 * half > depth:
        raise n.broken(f"rotates heads of {depth} elements by {half} angles")
    one = [isinstance(d, int) and d == 1 for d in dims[:2]]

    def body(t: Any, c: Any, s: Any) -> Any:
        def element(b: Any, i: Any, h: Any, d: Any) -> Any:
            at = [0 if one[0] else b, 0 if one[1] else i]
            pair = tirx.floordiv(d, 2) if interleaved else tirx.floormod(d, half)
            first = tirx.floormod(d, 2) == 0 if interleaved else d < half
            step = 1 if interleaved else half
            other = tirx.if_then_else(first, t(b, i, h, d + step), t(b, i, h, d - step))
            turned = t(b, i, h, d) * c(*at, pair) + tirx.Select(first, imm(-1, _F), imm(1, _F)) * other * s(*at, pair)
            return turned if 2 * half == depth else tirx.if_then_else(d < 2 * half, turned, t(b, i, h, d))

        return te.compute(t.shape, element, name="rotary")

    return n.te(body, x, cos, sin, name="rotary")


# ---- a cache


@op("GroupQueryAttention", domain=_MS)
def group_query_attention(n: Node) -> Any:
    """query, key?, value?, past_key?, past_value? [B, Hkv, P, D], seqlens_k [B] (keys of a sequence, less one), total_sequence_length (of the
    longest), cos?, sin?, position_ids?, attention_bias?, ..., q_norm?, k_norm? -> y, present key and value [B, Hkv, T, D].

    The new keys follow the past ones of their own sequence; what lies behind them in the cache is 0.
    """
    _refuse_rare(n)
    heads, groups = n.int_attr("num_heads"), n.int_attr("kv_num_heads")
    q, k, v = _group_query_inputs(n, heads, groups)
    batch, length = dims_of(q)[:2]
    total = n.dims(6, "total_sequence_length")[0]
    lengths = n.cast(n.reshape(n.x(5), [batch]), "int64")
    _suggest_inputs(n, batch, length, total)
    past = _past_lengths(n, lengths, length, total)
    sliding = n.flag("sliding_window_cache")
    if n.flag("do_rotary"):
        positions = _positions(n, past, length, total)
        q, k = (_rotated(n, x, positions, n.x(7), n.x(8), n.flag("rotary_interleaved")) for x in (q, k))
    if sliding:
        resident, room = _resident(n, past), n.math.add(n.shape(3)[2], length)
    else:
        resident, room = past, n.math.max(total, n.shape(3)[2]) if n.has(3) else total
    k, v = (_extended(n, n.x(i) if n.has(i) else None, x, resident, room) for i, x in ((3, k), (4, v)))
    mask = _window_mask(n, past, resident, lengths, length, room)
    keys, values = (n.emit(relax.op.permute_dims(x, HEADS_FIRST)) for x in (k, v))
    y, products = _attended(n, q, keys, values, mask)
    if sliding:
        k, v = (_slid(n, x, resident, lengths, length) for x in (k, v))
    present = [n.cast(x, n.dtype(0)) for x in (k, v)]
    return [n.cast(merged_heads(n, y), n.dtype(0)), *present, products][: len(n.proto.output)]


def _suggest_inputs(n: Node, batch: Dim, length: Dim, total: Dim) -> None:
    """Inputs that belong together: a sequence of some keys in the cache and some behind them, none of which is padding; a cache of the
    window alone is full."""
    past = _PAST if n.has(3) else 0
    window = n.int_attr("local_window_size", -1) if n.flag("sliding_window_cache") else 0
    if _NEW < window <= _WINDOW:
        past = window - _NEW
    n.graph.suggest_size(batch, 1)
    n.graph.suggest_size(length, _NEW)
    if n.has(3):
        n.graph.suggest_size(n.shape(3)[2], max(past + _NEW, window) if window else past)
    n.graph.suggest_size(total, past + _NEW)
    inputs = list(n.scope.root().values.values())
    if not n.value(5).known:
        itself = n.graph.bb.lookup_binding(n.x(5)) is None
        n.graph.suggest_values(n.x(5), past + _NEW - 1 if itself else 1, inputs)  # else it counts a mask's ones
    if not n.value(6).known:
        n.graph.suggest_values(n.x(6), past + _NEW, inputs)


def _refuse_rare(n: Node) -> None:
    n.float_only()
    for name in ("k_quant_type", "v_quant_type"):
        if n.str_attr(name, "NONE") not in ("NONE", ""):
            raise n.refuse("with a quantized cache")
    if n.has(12) or n.has(13):
        raise n.refuse("with a quantized cache")


def _attended(n: Node, q: Any, k: Any, v: Any, mask: Any) -> tuple[Any, Any]:
    """The result [B, S, H, D], and where asked for the products before or behind the softmax, 0 for keys that a query does not see."""
    softcap, which = n.float_attr("softcap", 0.0), n.int_attr("qk_output", 0)
    wanted = any(n.proto.output[3:])
    sink = in_float32(n, n.x(11)) if n.has(11) else None
    if sink is None and n.int_attr("smooth_softmax", 0) > 0:
        sink = constant(np.zeros(1, np.float32))
    if not softcap and sink is None and not wanted:
        return attend(n, q, k, v, mask, safe=True), None
    if wanted and which not in (1, 2):
        raise n.broken(f"gives products with qk_output {which}, expected 1 or 2")
    y, before, after = attend_in_pieces(n, q, k, v, mask, softcap=softcap, sink=sink)
    if which == 1 and wanted:
        low, zero = imm(float("-inf"), _F), imm(0, _F)
        seen = elementwise(n, lambda p, m: tirx.Select(m == low, zero, p), before, mask, name="products")
        return y, n.cast(seen, n.dtype(0))
    return y, n.cast(after, n.dtype(0)) if wanted else None


def _group_query_inputs(n: Node, heads: int, groups: int) -> list[Any]:
    """q [B, S, H, D], k and v [B, S, Hkv, D] in float32, normed where weights for that are given."""
    x = in_float32(n, n.x(0))
    if heads < 1 or groups < 1 or heads % groups:
        raise n.broken(f"has {heads} heads of queries for {groups} of keys")
    if n.has(1) and n.has(2):
        parts = [split_heads(n, x, heads), *(split_heads(n, in_float32(n, n.x(i)), groups) for i in (1, 2))]
        n.math.require_same(dims_of(parts[1])[1], dims_of(parts[0])[1])
    else:
        width = n.shape(0)[2]
        if not isinstance(width, int) or width % (heads + 2 * groups):
            raise n.broken(f"splits {width} columns into {heads} + 2 · {groups} heads")
        depth = width // (heads + 2 * groups)
        starts = (0, heads * depth, (heads + groups) * depth)
        counts = (heads, groups, groups)
        parts = [split_heads(n, take_slice(n, x, 2, s, c * depth), c) for s, c in zip(starts, counts, strict=True)]
    for j, i in ((0, 14), (1, 15)):
        if n.has(i):
            normed = rms_norm(n, parts[j], in_float32(n, n.x(i)), 3, n.float_attr("qk_norm_epsilon", 1e-6))
            parts[j] = normed if isinstance(normed, relax.Var) else n.emit(normed)
    return parts


def _past_lengths(n: Node, lengths: Any, length: Dim, total: Dim) -> Any:
    """int64 [B]: how many keys of each sequence are in the cache; none where all keys are new."""

    def body(t: Any, dims: Any) -> Any:
        zero = imm(0, "int64")
        return te.compute(
            t.shape, lambda b: tirx.Select(dims[0] == dims[1], zero, t(b) + 1 - dims[0]), name="past_lengths"
        )

    return n.te(body, lengths, shape_expr([length, total]), name="past_lengths")


def _positions(n: Node, past: Any, length: Dim, total: Dim) -> Any:
    """int64 [B, S]: those given, else behind the past ones. Where all keys are new, ONNX Runtime counts from the first that is given."""
    given = [n.cast(n.x(9), "int64")] if n.has(9) else []

    def body(t: Any, shape: Any, dims: Any, *each: Any) -> Any:
        def element(b: Any, s: Any) -> Any:
            if not each:
                return t(b) + s
            return tirx.if_then_else(shape[1] == dims[0], each[0](0, 0) + s, each[0](b, s))

        return te.compute(shape, element, name="positions")

    shape = shape_expr([dims_of(past)[0], length])
    return n.te(body, past, shape, shape_expr([total]), *given, name="positions")


def _extended(n: Node, old: Any, new: Any, past: Any, room: Dim, *, rest: bool = False) -> Any:
    """[B, H, room, D]: of each sequence the cached rows of old [B, H, P, D], then those of new [B, S, H, D], then zeros, or with `rest`
    what the cache holds there."""
    batch, length, heads, depth = dims_of(new)
    given = []
    if old is not None:
        for axis, size in ((0, batch), (1, heads), (3, depth)):
            n.math.require_same(dims_of(old)[axis], size)
        given = [in_float32(n, old)]

    def body(t: Any, lengths: Any, shape: Any, size: Any, *cache: Any) -> Any:
        def element(b: Any, h: Any, s: Any, d: Any) -> Any:
            at = s - lengths(b)
            inside = tirx.all(at >= 0, at < size[0])
            out = tirx.if_then_else(inside, t(b, tirx.if_then_else(inside, at, imm(0, "int64")), h, d), imm(0, _F))
            if cache:
                place = tirx.any(at < 0, at >= size[0]) if rest else at < 0
                kept = tirx.all(place, s < cache[0].shape[2])
                out = tirx.if_then_else(kept, cache[0](b, h, s, d), out)
            return out

        return te.compute(shape, element, name="cache")

    dims = shape_expr([batch, heads, room, depth])
    return n.te(body, new, past, dims, shape_expr([length]), *given, name="cache")


def _cached_count(count: Any, capacity: Any, window: int) -> Any:
    """How many of `count` keys a cache of the window alone holds; it makes room for some at once when it is full."""
    group = capacity - window + 1
    over = tirx.max(count - capacity, imm(0, "int64"))
    return count - group * tirx.floordiv(over + group - 1, group)


def _resident(n: Node, past: Any) -> Any:
    """int64 [B]: how many of the keys before are still in a cache [B, Hkv, C, D] of the window alone."""
    window = n.int_attr("local_window_size", -1)
    if window < 1 or not n.has(3):
        raise n.broken("has a cache of the window alone, but no window or no cache")
    capacity = n.shape(3)[2]
    enough = n.math.compare(">=", capacity, window)
    if enough is False:
        raise n.broken(f"has a cache of {capacity} keys for a window of {window}")
    if enough is None:
        n.assume(lambda d: d[0] >= window, shape_expr([capacity]), says="has a cache of its window")

    def body(t: Any, dims: Any) -> Any:
        return te.compute(t.shape, lambda b: _cached_count(t(b), dims[0], window), name="resident")

    return n.te(body, past, shape_expr([capacity]), name="resident")


def _slid(n: Node, x: Any, resident: Any, lengths: Any, length: Dim) -> Any:
    """The cache of the window alone after a step: the last rows of x [B, Hkv, C + S, D], of which resident + S count."""
    batch, heads, _, depth = dims_of(x)
    capacity, window = n.shape(3)[2], n.int_attr("local_window_size")

    def body(t: Any, before: Any, last: Any, shape: Any, size: Any) -> Any:
        def element(b: Any, h: Any, i: Any, d: Any) -> Any:
            kept = _cached_count(last(b) + 1, shape[2], window)
            at = i + before(b) + size[0] - kept
            inside = tirx.all(i < kept, at >= 0, at < t.shape[2])
            return tirx.if_then_else(inside, t(b, h, tirx.if_then_else(inside, at, imm(0, "int64")), d), imm(0, _F))

        return te.compute(shape, element, name="window")

    return n.te(
        body, x, resident, lengths, shape_expr([batch, heads, capacity, depth]), shape_expr([length]), name="window"
    )


def _window_mask(n: Node, past: Any, resident: Any, lengths: Any, length: Dim, room: Dim) -> Any:
    """[B, 1 or H, S, T]: the bias of keys that a query sees, -inf elsewhere. Row 0 of the keys is number past - resident."""
    window, causal = n.int_attr("local_window_size", -1), n.flag("causal", 1)
    bias = [in_float32(n, n.x(10))] if n.has(10) else []
    dims = n.shape(10) if bias else (1, 1, 1, 1)
    heads = dims[1]
    if len(dims) != 4:
        raise n.broken(f"has an attention bias of rank {len(dims)}")

    def body(before: Any, rows: Any, last: Any, shape: Any, *added: Any) -> Any:
        def element(b: Any, h: Any, s: Any, row: Any) -> Any:
            at, t = before(b) + s, row + before(b) - rows(b)
            sees = [t <= at] if causal else [t <= last(b)]
            if window > 0:
                sees.append(t > at - window)
            value = imm(0, _F)
            if added:
                sees.append(t < added[0].shape[3])
                index = [0 if isinstance(d, int) and d == 1 else i for d, i in zip(dims[:3], (b, h, s), strict=True)]
                return tirx.if_then_else(tirx.all(*sees), added[0](*index, t), imm(float("-inf"), _F))
            return tirx.Select(tirx.all(*sees), value, imm(float("-inf"), _F))

        return te.compute(shape, element, name="mask")

    shape = shape_expr([dims_of(past)[0], heads, length, room])
    return n.te(body, past, resident, lengths, shape, *bias, name="mask")


@op("DecoderMaskedMultiHeadAttention", domain=_MS)
def decoder_masked_multi_head_attention(n: Node) -> Any:
    """One query of each sequence: query, key, value [B, 1, H D] (or keys and values as a cache holds them), mask?, attention_bias?, past_key?,
    past_value?, past_sequence_length?, ..., bias? -> y, present key and value, the products.

    With past_present_share_buffer the cache [B, H, M, D] has room for what comes; its first past_sequence_length rows count.
    """
    n.float_only()
    if n.has(9) or (n.has(8) and (n.value(8).const is None or int(n.scalar(8, "beam width")) != 1)):
        raise n.refuse("with beams")
    heads = n.int_attr("num_heads")
    inputs = [n.inputs[i] if n.has(i) else None for i in range(len(n.inputs))] + [None] * 11
    shared = n.flag("past_present_share_buffer") and n.has(5)
    renamed = [*inputs[:3], inputs[10], inputs[3], inputs[4], *([None, None] if shared else inputs[5:7])]
    inner = n.with_inputs(renamed)
    if not shared:
        return multi_head_attention(inner)
    q, k, v, _ = queries_keys_values(inner, heads)
    if inner.has(3):
        q, k, v = with_bias(inner, q, k, v, only_query=False)
    batch, length = dims_of(q)[:2]
    count = n.dims(7, "past_sequence_length")[0]
    room = n.shape(5)[2]
    past = n.te(
        lambda shape, d: te.compute(shape, lambda b: d[0] + 0 * b, name="past"),
        shape_expr([batch]),
        shape_expr([count]),
    )
    k, v = (_extended(n, n.x(i), x, past, room, rest=True) for i, x in ((5, k), (6, v)))
    total = n.math.add(count, length)
    keys, values = (n.emit(relax.op.permute_dims(take_slice(n, x, 2, 0, total), HEADS_FIRST)) for x in (k, v))
    mask = combined(inner, key_mask(inner, 4, batch, total), attention_bias(inner, 5))
    if any(n.proto.output[3:]):
        raise n.refuse("that gives the products of queries and keys")
    present = [n.cast(x, n.dtype(0)) for x in (k, v)]
    return [n.cast(merged_heads(n, attend(n, q, keys, values, mask)), n.dtype(0)), *present][: len(n.proto.output)]
