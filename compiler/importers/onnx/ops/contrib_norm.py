"""Norms as ONNX Runtime's tools fuse them: with the residual before them, with the embeddings of a BERT, over groups of channels."""

from __future__ import annotations

from typing import Any

from tvm import relax

from .._dims import Dim
from .._exprs import dims_of, dtype_of, shape_expr
from .._node import Node
from .._registry import op
from .contrib_fused import added, in_float32
from .indexing import take_slice
from .norm import layer_norm, rms_norm

_MS = "com.microsoft"


@op("SimplifiedLayerNormalization")
@op("SimplifiedLayerNormalization", domain=_MS)
def simplified_layer_normalization(n: Node) -> Any:
    """RMS norm, which ONNX Runtime writes into the default domain: X, scale -> Y, 1 / root of the mean square."""
    n.float_only()
    axis = n.axis(n.int_attr("axis", -1), n.rank(0))
    extra = any(n.proto.output[1:])
    found = rms_norm(n, in_float32(n, n.x(0)), in_float32(n, n.x(1)), axis, n.float_attr("epsilon", 1e-5), extra)
    if not extra:
        return n.cast(n.emit(found) if not isinstance(found, relax.Var) else found, n.dtype(1))
    return [n.cast(found[0], n.dtype(1)), found[1]]


@op("SkipLayerNormalization", domain=_MS)
def skip_layer_normalization(n: Node) -> Any:
    """input, skip, gamma, beta?, bias? -> y, mean, 1 / deviation, input + skip + bias."""
    total = _residual_sum(n, bias=4)
    gamma, beta = in_float32(n, n.x(2)), in_float32(n, n.x(3)) if n.has(3) else None
    extra = any(n.proto.output[1:3])
    found = layer_norm(n, total, gamma, beta, n.rank(0) - 1, n.float_attr("epsilon", 1e-12), extra)
    y, mean, inverse = found if extra else (found, None, None)
    return _results(n, y, mean, inverse, total)


@op("SkipSimplifiedLayerNormalization", domain=_MS)
def skip_simplified_layer_normalization(n: Node) -> Any:
    """input, skip, gamma, bias? -> y, (mean,) 1 / root of the mean square, input + skip + bias."""
    total = _residual_sum(n, bias=3)
    extra = bool(any(n.proto.output[2:3]))
    found = rms_norm(n, total, in_float32(n, n.x(2)), n.rank(0) - 1, n.float_attr("epsilon", 1e-12), extra)
    y, inverse = found if extra else (found, None)
    if any(n.proto.output[1:2]):
        raise n.refuse("that gives the mean, which it does not compute")
    return _results(n, y, None, inverse, total)


def _residual_sum(n: Node, bias: int) -> Any:
    """input + skip + bias in float32. The bias goes to the side that is a product, whose kernel adds it."""
    n.float_only()
    x, skip = in_float32(n, n.x(0)), in_float32(n, n.x(1))
    if n.has(bias) and _is_product(n, skip) and not _is_product(n, x):
        x, skip = skip, x
    return added(n, added(n, x, n.x(bias) if n.has(bias) else None), skip)


def _is_product(n: Node, x: Any) -> bool:
    value = n.graph.bb.lookup_binding(x) if isinstance(x, relax.Var) else None
    return isinstance(value, relax.Call) and getattr(value.op, "name", "") == "relax.matmul"


def _results(n: Node, y: Any, mean: Any, inverse: Any, total: Any) -> Any:
    """[y, mean, inverse, sum], as many as the node has outputs; y and the sum in its own type."""
    y = n.cast(y if isinstance(y, relax.Var) else n.emit(y), n.dtype(0))
    if len(n.proto.output) < 4 or not n.proto.output[3]:
        return [y, mean, inverse][: len(n.proto.output)]
    return [y, mean, inverse, n.cast(total, n.dtype(0))]


@op("EmbedLayerNormalization", domain=_MS)
def embed_layer_normalization(n: Node) -> Any:
    """ids [B, S], segments?, word, position and segment? embeddings, gamma, beta, mask? [B, S], positions? -> the norm of the summed
    embeddings, how many words of each sequence the mask admits, the sum."""
    batch, length = n.shape(0)
    total = _embedding(n, 0, 2)
    if n.has(8):
        total = added(n, total, _embedding(n, 8, 3))
    else:
        rows = _first_rows(n, n.x(3), length)
        total = added(n, total, rows)
    if n.has(1) and n.has(4):
        total = added(n, total, _embedding(n, 1, 4))
    elif n.has(4):
        total = added(n, total, _first_rows(n, n.x(4), 1))
    wide = in_float32(n, total)
    y = layer_norm(n, wide, in_float32(n, n.x(5)), in_float32(n, n.x(6)), 2, n.float_attr("epsilon", 1e-12))
    y = n.cast(n.emit(y) if not isinstance(y, relax.Var) else y, n.dtype(2))
    if len(n.proto.output) < 2:
        return y
    index = None
    if n.proto.output[1] and n.has(7):
        admitted = n.cast(n.emit(relax.op.equal(n.x(7), n.scalar_const(1, n.dtype(7)))), "int32")
        index = n.emit(relax.op.sum(admitted, [1]))
    elif n.proto.output[1]:
        index = n.emit(relax.op.zeros(shape_expr([batch]), "int32"))
    return [y, index, total]


def _embedding(n: Node, ids: int, table: int) -> Any:
    """Rows of a table of embeddings."""
    n.graph.limit_index(n.value(ids), n.shape(table)[0])
    return n.emit(relax.op.take(n.x(table), n.x(ids), axis=0))


def _first_rows(n: Node, table: Any, count: Dim) -> Any:
    """[count, H]: the first rows of a table; a run that asks for more than it has is refused."""
    rows = dims_of(table)[0]
    enough = n.math.compare("<=", count, rows)
    if enough is False:
        raise n.broken(f"has {count} positions, and embeddings of {rows}")
    if enough is None:
        n.assume(lambda d: d[0] <= d[1], shape_expr([count, rows]), says="has a row for each position")
    return take_slice(n, table, 0, 0, count)


# ---- groups of channels


@op("GroupNorm", domain=_MS)
def group_norm(n: Node) -> Any:
    n.float_only()
    return _group_norm(n, in_float32(n, n.x(0)))


@op("SkipGroupNorm", domain=_MS)
def skip_group_norm(n: Node) -> Any:
    """x, gamma, beta, skip (of one number a channel, it may be), bias? -> y, x + skip + bias."""
    n.float_only()
    skip, last = n.x(3), n.flag("channels_last", 1)
    if n.rank(3) == 2:
        batch, channels = n.shape(3)
        skip = n.reshape(skip, [batch, 1, 1, channels] if last else [batch, channels, 1, 1])
    bias = n.x(4) if n.has(4) else None
    if bias is not None and not last:
        bias = n.reshape(bias, [*dims_of(bias), 1, 1])
    total = added(n, in_float32(n, n.x(0)), skip, bias)
    y = _group_norm(n, total)
    return [y, n.cast(total, n.dtype(0))] if len(n.proto.output) > 1 else y


def _group_norm(n: Node, x: Any) -> Any:
    """Over groups of channels, which are the last axis unless channels_last is 0; then SiLU if `activation` is 1."""
    rank, last = n.rank(0), n.flag("channels_last", 1)
    if last:
        x = n.emit(relax.op.permute_dims(x, [0, rank - 1, *range(1, rank - 1)]))
    scale, shift = (n.cast(n.x(i), dtype_of(x)) for i in (1, 2))
    y = n.emit(
        relax.op.nn.group_norm(
            x, scale, shift, n.int_attr("groups"), 1, list(range(2, rank)), n.float_attr("epsilon", 1e-5)
        )
    )
    if n.flag("activation"):
        y = n.emit(relax.op.nn.silu(y))
    if last:
        y = n.emit(relax.op.permute_dims(y, [0, *range(2, rank), 1]))
    return n.cast(y, n.dtype(0))
