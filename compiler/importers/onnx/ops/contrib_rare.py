"""Operators of com.microsoft that converters write beside the fused ones: matrices, distances, ranges, buckets of positions."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from tvm import relax, te, tirx
from tvm.script.ir_builder import tirx as T

from .._exprs import constant, dims_of, shape_expr
from .._node import Node
from .._registry import op, same_as
from .._values import Value, numpy_dtype
from ._loops import imperative, variable
from ._te import elementwise, imm, is_nan
from .choose import unique
from .contrib_fused import added, in_float32
from .indexing import gather
from .making import range_
from .nn import conv_transpose, product

_MS = "com.microsoft"

# What was there before ONNX had it.
same_as(_MS, "GatherND", 12)
same_as(_MS, "GridSample", 16)
same_as(_MS, "Pad", 13)
same_as(_MS, "Trilu", 14)


@op("Inverse", domain=_MS)
def inverse(n: Node) -> Any:
    """Gauss-Jordan elimination with partial pivoting of each matrix [..., M, M]."""
    n.float_only()
    dims, dtype = n.shape(0), n.dtype(0)
    if len(dims) < 2:
        raise n.broken(f"inverts a tensor of rank {len(dims)}")
    n.math.require_same(dims[-1], dims[-2])
    wide = "float64" if dtype == "float64" else "float32"

    def body(t: Any) -> list[Any]:
        size = t.shape[len(dims) - 1]
        count: Any = imm(1, "int64")
        for d in list(t.shape)[:-2]:
            count = count * d

        def write(source: Any, out: Any, work: Any) -> None:
            best, factor, swap = variable("int64"), variable(wide), variable(wide)

            def exchange(values: Any, a: Any, b: Any) -> None:
                swap[0] = values[a]
                values[a] = values[b]
                values[b] = swap[0]

            with T.serial(0, count) as m:
                base = m * size * size
                with T.serial(0, size) as r:
                    with T.serial(0, size) as c:
                        work[base + r * size + c] = source[base + r * size + c]
                        out[base + r * size + c] = tirx.Select(r == c, imm(1, wide), imm(0, wide))
                with T.serial(0, size) as c:
                    best[0] = c
                    with T.serial(c, size) as r:
                        with T.If(tirx.abs(work[base + r * size + c]) > tirx.abs(work[base + best[0] * size + c])):
                            with T.Then():
                                best[0] = r
                    with T.serial(0, size) as k:
                        exchange(work, base + c * size + k, base + best[0] * size + k)
                        exchange(out, base + c * size + k, base + best[0] * size + k)
                    factor[0] = imm(1, wide) / work[base + c * size + c]
                    with T.serial(0, size) as k:
                        work[base + c * size + k] = work[base + c * size + k] * factor[0]
                        out[base + c * size + k] = out[base + c * size + k] * factor[0]
                    with T.serial(0, size) as r:
                        with T.If(r != c):
                            with T.Then():
                                factor[0] = work[base + r * size + c]
                                with T.serial(0, size) as k:
                                    at, pivot = base + r * size + k, base + c * size + k
                                    work[at] = work[at] - factor[0] * work[pivot]
                                    out[at] = out[at] - factor[0] * out[pivot]

        return imperative([t.shape, t.shape], [wide, wide], [t], write, "inverse")

    parts = n.te(body, n.cast(n.x(0), wide), name="inverse")
    return n.cast(n.emit(parts[0]), dtype)


@op("CDist", domain=_MS)
def cdist(n: Node) -> Any:
    """Rows [M, K] against rows [N, K] -> [M, N]: distances, or their squares."""
    n.float_only()
    metric = n.str_attr("metric", "sqeuclidean")
    if metric not in ("euclidean", "sqeuclidean"):
        raise n.refuse(f"with the metric '{metric}'")
    a, b = n.x(0), n.x(1)
    if len(dims_of(a)) != 2 or len(dims_of(b)) != 2:
        raise n.broken(f"compares rows of ranks {n.rank(0)} and {n.rank(1)}")
    n.math.require_same(dims_of(a)[1], dims_of(b)[1])

    def body(p: Any, q: Any) -> Any:
        k = te.reduce_axis((0, p.shape[1]), name="k")

        def squares(i: Any, j: Any) -> Any:
            return te.sum((p(i, k) - q(j, k)) * (p(i, k) - q(j, k)), axis=k)

        return te.compute((p.shape[0], q.shape[0]), squares, name="distance")

    squared = n.te(body, a, b, name="distance")
    return squared if metric == "sqeuclidean" else n.emit(relax.op.sqrt(squared))


@op("Range", domain=_MS)
def contrib_range(n: Node) -> Any:
    """start, limit, delta? -> the numbers from start on below limit."""
    inputs = n.inputs[:2] + [n.value(2) if n.has(2) else Value.of_array(np.ones((), numpy_dtype(n.dtype(0))))]
    return range_(n.with_inputs(inputs))


@op("ExpandDims", domain=_MS)
def expand_dims(n: Node) -> Any:
    dims = list(n.shape(0))
    dims.insert(n.axis(int(n.scalar(1, "axis")), len(dims) + 1), 1)
    return n.reshape(n.x(0), dims)


@op("TorchEmbedding", domain=_MS)
def torch_embedding(n: Node) -> Any:
    return gather(n.with_inputs(n.inputs[:2]))


@op("Unique", domain=_MS)
def contrib_unique(n: Node) -> Any:
    """x [N] -> its values in the order in which they first occur, the place of each element among them, how often each occurs."""
    proto = onnx.helper.make_node("Unique", ["x"], ["values", "first", "places", "counts"], sorted=0)
    found = unique(Node(n.graph, n.scope, proto, 11, 11, n.place, n.inputs))
    return [found[0], found[2], found[3]]


@op("ConvTransposeWithDynamicPads", domain=_MS)
def conv_transpose_with_dynamic_pads(n: Node) -> Any:
    """X, W, pads?, B?: a ConvTranspose whose pads are an input, which has to be known."""
    proto = onnx.NodeProto()
    proto.CopyFrom(n.proto)
    if n.has(2):
        proto.attribute.append(onnx.helper.make_attribute("pads", n.ints(2, "pads")))
    inputs = [*n.inputs[:2], *n.inputs[3:4]]
    return conv_transpose(Node(n.graph, n.scope, proto, 11, 11, n.place, inputs))


@op("RelativePositionBias", domain=_MS)
def relative_position_bias(n: Node) -> Any:
    """bias_table [buckets, H], query_length, key_length -> [1, H, Q, K]: T5's bias by the bucket of a distance (Raffel and others, 2020).

    The table's elements are stored column by column, one head after the other.
    """
    buckets, heads = n.shape(0)
    if not isinstance(buckets, int) or buckets < 4:
        raise n.broken(f"has a table of {buckets} buckets")
    both, furthest = n.flag("is_bidirectional"), n.int_attr("max_distance")
    if furthest < 1:
        raise n.broken(f"has a largest distance of {furthest}")
    index = constant(_buckets(buckets // 2 if both else buckets, furthest))
    lengths = [n.dims(i, "length")[0] for i in (1, 2)]
    table = n.reshape(n.x(0), [heads, buckets])

    def body(t: Any, place: Any, shape: Any) -> Any:
        def element(b: Any, h: Any, q: Any, k: Any) -> Any:
            ahead = k - q
            far = tirx.abs(ahead) if both else tirx.max(q - k, imm(0, "int64"))
            bucket = place(tirx.min(far, imm(furthest, "int64")))
            if both:
                bucket = bucket + tirx.Select(ahead > 0, imm(buckets // 2, "int64"), imm(0, "int64"))
            return t(h, bucket)

        return te.compute(shape, element, name="position_bias")

    return n.te(body, table, index, shape_expr([1, heads, *lengths]), name="position_bias")


def _buckets(count: int, furthest: int) -> Any:
    """The bucket of each distance from 0 to the furthest: one each below half of the buckets, then ever wider ones."""
    exact = count // 2
    far = np.arange(furthest + 1)
    with np.errstate(divide="ignore"):
        logs = np.log(far.astype(np.float32) / np.float32(exact)) / np.log(np.float32(furthest) / np.float32(exact))
    wide = exact + np.where(far > 0, logs * np.float32(count - exact), 0).astype(np.int64)
    return np.where(far < exact, far, np.minimum(wide, count - 1)).astype(np.int64)


@op("GatedRelativePositionBias", domain=_MS)
def gated_relative_position_bias(n: Node) -> Any:
    """query [B, S, H D], its bias [H D], rel_pos [1, H, S, S], weight [D, 2 R] and bias [2 R] of the gates, eco_a [1, H, 1, 1] -> rel_pos
    times a gate of each query (Chi and others, 2021: XLM-E)."""
    n.float_only()
    if n.has(6):
        raise n.refuse("of sequences without padding")
    heads = n.int_attr("num_heads")
    batch, length, width = n.shape(0)
    gates = n.shape(3)[1]
    if not isinstance(width, int) or heads < 1 or width % heads or not isinstance(gates, int) or gates % 2:
        raise n.broken(f"splits {width} columns into {heads} heads, and {gates} gates into halves")
    x = added(n, in_float32(n, n.x(0)), n.x(1))
    x = n.emit(relax.op.permute_dims(n.reshape(x, [batch, length, heads, width // heads]), [0, 2, 1, 3]))
    y = added(n, product(n, x, in_float32(n, n.x(3))), n.x(4))
    y = n.reshape(y, [batch, heads, length, 2, gates // 2])
    y = n.emit(relax.op.sigmoid(n.emit(relax.op.sum(y, [4]))))

    def body(g: Any, a: Any, p: Any) -> Any:
        def element(b: Any, h: Any, q: Any, k: Any) -> Any:
            inner = g(b, h, q, 1) * a(0, h, 0, 0) - imm(1, "float32")
            return (g(b, h, q, 0) * inner + imm(2, "float32")) * p(0, h, q, k)

        return te.compute((g.shape[0], g.shape[1], g.shape[2], p.shape[3]), element, name="gated_bias")

    return n.cast(n.te(body, y, in_float32(n, n.x(5)), in_float32(n, n.x(2)), name="gated_bias"), n.dtype(0))


@op("NGramRepeatBlock", domain=_MS)
def ngram_repeat_block(n: Node) -> Any:
    """input_ids [B, S], scores [B, V]: -inf for a token with which the last ones would repeat `ngram_size` tokens that came before."""
    size = n.int_attr("ngram_size")
    if size < 1:
        raise n.broken(f"has an ngram_size of {size}")
    n.float_only(1)
    dtype = n.dtype(1)
    n.math.require_same(n.shape(0)[0], n.shape(1)[0])

    def body(ids: Any, scores: Any) -> list[Any]:
        length, words = ids.shape[1], scores.shape[1]

        def write(ids: Any, scores: Any, out: Any) -> None:
            same = variable("int64")
            with T.serial(0, scores_rows) as b:
                with T.serial(0, words) as v:
                    out[b * words + v] = scores[b * words + v]
                with T.serial(0, tirx.max(length - (size - 1), imm(0, "int64"))) as i:
                    same[0] = imm(1, "int64")
                    with T.serial(0, imm(size - 1, "int64")) as k:
                        first, last = ids[b * length + i + k], ids[b * length + length - (size - 1) + k]
                        same[0] = tirx.Select(first == last, same[0], imm(0, "int64"))
                    token = ids[b * length + i + size - 1]
                    with T.If(tirx.all(same[0] == imm(1, "int64"), token >= 0, token < words)):
                        with T.Then():
                            out[b * words + token] = imm(float("-inf"), dtype)

        scores_rows = scores.shape[0]
        return imperative([scores.shape], [dtype], [ids, scores], write, "ngrams")

    return n.emit(n.te(body, n.cast(n.x(0), "int64"), n.x(1), name="ngrams"))


@op("UnfoldTensor", domain=_MS)
def unfold_tensor(n: Node) -> Any:
    """Slices of an axis, `step` apart, as a new last axis of extent `size`."""
    rank, size, step = n.rank(0), n.int_attr("size"), n.int_attr("step", 1)
    axis = n.axis(n.int_attr("dim", -1), rank)
    if size < 1 or step < 1:
        raise n.broken(f"takes slices of {size}, {step} apart")
    dims = list(n.shape(0))
    dims[axis] = n.math.add(n.math.floordiv(n.math.sub(dims[axis], size), step), 1)

    def body(t: Any, shape: Any) -> Any:
        def element(*i: Any) -> Any:
            at = list(i[:-1])
            at[axis] = at[axis] * step + i[-1]
            return t(*at)

        return te.compute(shape, element, name="unfold")

    return n.te(body, n.x(0), shape_expr([*dims, size]), name="unfold")


@op("IsAllFinite", domain=_MS)
def is_all_finite(n: Node) -> Any:
    """Whether no input holds an infinity or NaN (or only one of the two)."""
    nan, inf = not n.flag("isinf_only"), not n.flag("isnan_only")
    bad = None
    for x, value in zip(n.xs(), n.inputs, strict=True):
        dtype = value.dtype  # type: ignore[union-attr]

        def odd(v: Any, dtype: str = dtype) -> Any:
            hits = [is_nan(v)] if nan else []
            hits += [tirx.abs(v) == imm(float("inf"), dtype)] if inf else []
            return tirx.Cast("int8", tirx.any(*hits))

        any_odd = n.emit(relax.op.max(elementwise(n, odd, x, name="odd")))
        bad = any_odd if bad is None else n.emit(relax.op.maximum(bad, any_odd))
    return relax.op.equal(bad, n.scalar_const(0, "int8"))
