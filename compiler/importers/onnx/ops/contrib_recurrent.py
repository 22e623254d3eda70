"""What hybrid language models have beside attention (com.microsoft, as onnxruntime-genai writes it): gated norms, a causal convolution and
a linear attention, both of which carry a state from step to step."""

from __future__ import annotations

import math
from typing import Any

from tvm import relax, tirx
from tvm.script.ir_builder import tirx as T

from .._exprs import dims_of, shape_expr
from .._node import Node
from .._registry import op
from ._loops import imperative, variable
from ._te import elementwise, imm
from .contrib_fused import added, in_float32
from .indexing import take_slice
from .nn import add_channel_bias, convolution
from .norm import rms_norm

_MS = "com.microsoft"
_F = "float32"


def _activated(n: Node, x: Any, default: str) -> Any:
    name = n.str_attr("activation", default)
    if name in ("silu", "swish"):
        return n.emit(relax.op.nn.silu(x))
    if name == "sigmoid":
        return n.emit(relax.op.sigmoid(x))
    if name == "none":
        return x
    raise n.broken(f"has the unknown activation '{name}'")


@op("GatedRMSNorm", domain=_MS)
def gated_rms_norm(n: Node) -> Any:
    """X [..., H C], scale [C], gate as X: the RMS norm of each C numbers, times an activation of the gate."""
    n.float_only()
    dims, size = n.shape(0), n.shape(1)[0]
    if not isinstance(size, int) or size < 1 or not isinstance(dims[-1], int) or dims[-1] % size:
        raise n.broken(f"norms {size} of {dims[-1]} numbers at a time")
    x = n.reshape(in_float32(n, n.x(0)), [*dims[:-1], dims[-1] // size, size])
    y = rms_norm(n, x, in_float32(n, n.x(1)), len(dims), n.float_attr("epsilon", 1e-5))
    y = n.reshape(y if isinstance(y, relax.Var) else n.emit(y), list(dims))
    return n.cast(n.emit(relax.op.multiply(y, _activated(n, in_float32(n, n.x(2)), "silu"))), n.dtype(0))


@op("GatedAdd", domain=_MS)
def gated_add(n: Node) -> Any:
    """X + Y gate, the gate one number a row."""
    n.float_only()
    return added(n, n.x(0), n.emit(relax.op.multiply(*n.align(n.x(1), n.x(2)))))


@op("LinearAttentionGate", domain=_MS)
def linear_attention_gate(n: Node) -> Any:
    """a [B, T, H], dt_bias [H], decay_scale [H], b? -> decay_scale softplus(a + dt_bias), sigmoid(b)."""
    n.float_only()
    zero = imm(0, _F)
    a = added(n, in_float32(n, n.x(0)), n.x(1))
    soft = elementwise(n, lambda v: tirx.max(v, zero) + tirx.log1p(tirx.exp(zero - tirx.abs(v))), a, name="softplus")
    decay = n.cast(n.emit(relax.op.multiply(*n.align(soft, n.x(2)))), n.dtype(0))
    if len(n.proto.output) < 2 or not n.proto.output[1]:
        return decay
    return [decay, n.cast(n.emit(relax.op.sigmoid(in_float32(n, n.x(3)))), n.dtype(3))]


@op("CausalConvWithState", domain=_MS)
def causal_conv_with_state(n: Node) -> Any:
    """input [B, C, L], weight [C, 1, K], bias?, past [B, C, S]? -> y, the last S positions; S = (K - 1) dilation. With channels_last
    [B, L, ...] and [B, S, ...]."""
    n.float_only()
    if n.int_attr("ndim", 1) != 1 or n.int_attr("state_window", 0):
        raise n.refuse("over images or with a window of states")
    channels, one, taps = n.shape(1) if n.rank(1) == 3 else (0, 0, 0)
    dilation = n.int_attr("dilation", 1)
    if not isinstance(channels, int) or not isinstance(taps, int) or one != 1 or taps < 2 or dilation < 1:
        raise n.broken(f"has filters of shape {list(n.shape(1))} and dilation {dilation}")
    last, shape = n.flag("channels_last"), n.shape(0)
    batch, length, size = shape[0], shape[1] if last else shape[2], (taps - 1) * dilation
    x = _channels_first(n, in_float32(n, n.x(0)), channels, length, last=last)
    if n.has(3):
        past = _channels_first(n, in_float32(n, n.x(3)), channels, size, last=last)
        n.math.require_same(n.shape(3)[0], batch)
        past = n.graph.with_extents(past, [batch, channels, size])
    else:
        past = n.emit(relax.op.zeros(shape_expr([batch, channels, size]), _F))
    both = n.emit(relax.op.concat([past, x], 2))
    y = convolution(n, both, in_float32(n, n.x(1)), [1], [0], [0], [dilation], channels)
    y = add_channel_bias(n, y, in_float32(n, n.x(2))) if n.has(2) else y
    results = [(_activated(n, y, "none"), length), (take_slice(n, both, 2, length, size), size)]
    out = []
    for result, extent in results[: len(n.proto.output)]:
        if last:
            result = n.emit(relax.op.permute_dims(result, [0, 2, 1]))
        out.append(
            n.cast(n.reshape(result, [batch, extent, *shape[2:]] if last else [batch, channels, extent]), n.dtype(0))
        )
    return out


def _channels_first(n: Node, x: Any, channels: int, extent: Any, *, last: bool) -> Any:
    """[B, L, ...] or [B, C, L] as [B, C, L]."""
    have = dims_of(x)
    n.math.require_same(n.math.product(have[2:]) if last else have[1], channels)
    n.math.require_same(have[1] if last else have[2], extent)
    if not last:
        return x
    return n.emit(relax.op.permute_dims(n.reshape(x, [have[0], extent, channels]), [0, 2, 1]))


@op("LinearAttention", domain=_MS)
def linear_attention(n: Node) -> Any:
    """query [B, T, Hq K], key [B, T, H K], value [B, T, H V], past [B, H, K, V]?, decay [B, T, H or H K]?, beta [B, T, H or 1]? -> y, state.

    Of each token, S = e^decay S, then S + k beta (v - S' k), or S + k v without the delta rule; y = scale q' S.
    """
    n.float_only()
    rule = n.str_attr("update_rule", "gated_delta")
    if rule not in ("linear", "gated", "delta", "gated_delta"):
        raise n.broken(f"has the unknown update rule '{rule}'")
    if n.int_attr("state_window", 0):
        raise n.refuse("with a window of states")
    queries, heads = n.int_attr("q_num_heads"), n.int_attr("kv_num_heads")
    batch, _, columns = n.shape(0)
    if min(queries, heads) < 1 or max(queries, heads) % min(queries, heads):
        raise n.broken(f"has {queries} heads of queries for {heads} of keys")
    wide, deep = (n.shape(i)[2] for i in (1, 2))
    if not all(isinstance(d, int) for d in (columns, wide, deep)) or columns % queries or wide % heads or deep % heads:
        raise n.broken(f"splits {columns}, {wide} and {deep} columns into {queries} and {heads} heads")
    depth, width = wide // heads, deep // heads
    n.math.require_same(columns // queries, depth)
    gated, delta = "gated" in rule, "delta" in rule
    decay = in_float32(n, n.x(4)) if gated else None
    each = dims_of(decay)[2] // heads if decay is not None else 1
    if each not in (1, depth):
        raise n.broken(f"has {each} decays a head of {depth}")
    beta = in_float32(n, n.x(5)) if delta else None
    betas = dims_of(beta)[2] if beta is not None else 1
    if betas not in (1, heads):
        raise n.broken(f"has {betas} update rates for {heads} heads")
    scale = n.float_attr("scale", 0.0) or 1 / math.sqrt(depth)
    shape = [batch, heads, depth, width]
    if n.has(3):
        for have, want in zip(n.shape(3), shape, strict=True):
            n.math.require_same(have, want)
        past = in_float32(n, n.x(3))
    else:
        past = n.emit(relax.op.zeros(shape_expr(shape), _F))
    given = [in_float32(n, n.x(i)) for i in range(3)] + [past] + [x for x in (decay, beta) if x is not None]
    outs = max(queries, heads)

    def body(*tensors: Any) -> list[Any]:
        rows, tokens = tensors[0].shape[0], tensors[0].shape[1]

        def write(q: Any, k: Any, v: Any, old: Any, *rest: Any) -> None:
            gates, (y, state) = rest[:-2], rest[-2:]
            got, kept, answer = variable(_F), variable(_F), variable(_F)
            with T.serial(0, rows) as b, T.serial(0, heads) as h:
                base = (b * heads + h) * depth * width
                with T.serial(0, depth * width) as i:
                    state[base + i] = old[base + i]
                with T.serial(0, tokens) as t, T.serial(0, width) as j:
                    row = b * tokens + t
                    at = (row * heads + h) * depth
                    got[0] = imm(0, _F)
                    with T.serial(0, depth) as i:
                        kept[0] = state[base + i * width + j]
                        if gated:
                            kept[0] = kept[0] * tirx.exp(gates[0][(row * heads + h) * each + (i if each > 1 else 0)])
                            state[base + i * width + j] = kept[0]
                        got[0] = got[0] + kept[0] * k[at + i]
                    got[0] = v[(row * heads + h) * width + j] - (got[0] if delta else imm(0, _F))
                    if delta:
                        got[0] = got[0] * gates[-1][row * betas + (h if betas > 1 else 0)]
                    with T.serial(0, depth) as i:
                        place = base + i * width + j
                        state[place] = state[place] + k[at + i] * got[0]
                    with T.serial(0, outs // heads) as g:
                        out = h * (outs // heads) + g
                        query = out if queries == outs else tirx.floordiv(out, outs // queries)
                        answer[0] = imm(0, _F)
                        with T.serial(0, depth) as i:
                            answer[0] = answer[0] + q[(row * queries + query) * depth + i] * state[base + i * width + j]
                        y[(row * outs + out) * width + j] = answer[0] * imm(scale, _F)

        return imperative(
            [[rows, tokens, outs * width], tensors[3].shape], [_F, _F], list(tensors), write, "linear_attention"
        )

    parts = n.te(body, *given, name="linear_attention")
    y, state = (n.emit(parts[k]) for k in range(2))
    return [n.cast(y, n.dtype(0)), n.cast(state, n.dtype(3) if n.has(3) else n.dtype(0))][: len(n.proto.output)]
