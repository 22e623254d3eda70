"""Operators of com.microsoft for models whose residual is several streams (hyper-connections), and the gate of their memories of n-grams.

Streams are grouped, [..., C, H], or flattened, [..., C H], where `num_branches` says C. They are computed in float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax

from .._dims import Dim
from .._exprs import constant, dims_of
from .._node import Node
from .._registry import op
from .contrib_fused import in_float32
from .nn import product
from .norm import rms_norm

_MS = "com.microsoft"
_F = "float32"


def _emitted(n: Node, x: Any) -> Any:
    return x if isinstance(x, relax.Var) else n.emit(x)


def _grouped(n: Node, i: int, branches: int) -> Any:
    """Input i as [..., C, H]."""
    x, dims = in_float32(n, n.x(i)), list(n.shape(i))
    if not branches:
        return x
    width = dims[-1]
    if not isinstance(width, int) or width % branches:
        raise n.broken(f"splits {width} columns into {branches} branches")
    return n.reshape(x, [*dims[:-1], branches, width // branches])


def _gates(n: Node, i: int, streams: tuple[Dim, ...]) -> Any:
    """Gates [..., C], [..., C, 1], [..., C, H] or [..., C H] of streams [..., C, H], as they are broadcast to these."""
    x, rank = in_float32(n, n.x(i)), len(streams)
    if n.rank(i) == rank:
        return x
    branches, width = streams[-2:]
    last = n.shape(i)[-1]
    if n.math.same(last, branches):
        return n.reshape(x, [*n.shape(i), 1])
    n.math.require_same(last, n.math.mul(branches, width))
    return n.reshape(x, [*n.shape(i)[:-1], branches, width])


@op("HyperConnectionPreMix", domain=_MS)
def hyper_connection_pre_mix(n: Node) -> Any:
    """streams, pre_mix -> reduction_scale times the sum of the streams, each times its gate."""
    n.float_only()
    x = _grouped(n, 0, n.int_attr("num_branches", 0))
    dims = dims_of(x)
    weighed = n.emit(relax.op.multiply(*n.align(x, _gates(n, 1, dims))))
    total = n.emit(relax.op.sum(weighed, [len(dims) - 2]))
    scale = n.scalar_const(n.float_attr("reduction_scale", 1.0), _F)
    return n.cast(n.emit(relax.op.multiply(total, scale)), n.dtype(0))


@op("HyperConnectionPostMix", domain=_MS)
def hyper_connection_post_mix(n: Node) -> Any:
    """streams, block_output [..., H], post_mix, stream_mix [..., C, C]? -> the mixed streams and, on each, its gate times the output."""
    n.float_only()
    x = _grouped(n, 0, n.int_attr("num_branches", 0))
    dims = dims_of(x)
    given = list(n.shape(1))
    output = n.reshape(in_float32(n, n.x(1)), [*given[:-1], 1, given[-1]])
    injected = n.emit(relax.op.multiply(*n.align(output, _gates(n, 2, dims))))
    if n.has(3):
        turned = [*range(n.rank(3) - 2), n.rank(3) - 1, n.rank(3) - 2]
        x = _emitted(n, product(n, n.emit(relax.op.permute_dims(in_float32(n, n.x(3)), turned)), x))
    y = n.emit(relax.op.add(*n.align(x, injected)))
    return n.cast(n.reshape(y, n.shape(0)), n.dtype(0))


@op("BranchwiseRMSNorm", domain=_MS)
def branchwise_rms_norm(n: Node) -> Any:
    """X, scale [C H], [C, H] or [H]? -> the RMS norm of each branch."""
    n.float_only()
    x = _grouped(n, 0, n.int_attr("num_branches", 0))
    y = _norm(n, x, n.float_attr("epsilon", 1e-5))
    if n.has(1):
        scale, branch = in_float32(n, n.x(1)), dims_of(x)[-2:]
        if n.rank(1) == 1 and not n.math.same(n.shape(1)[0], branch[1]):
            scale = n.reshape(scale, branch)
        y = n.emit(relax.op.multiply(*n.align(y, scale)))
    return n.cast(n.reshape(y, n.shape(0)), n.dtype(0))


def _norm(n: Node, x: Any, epsilon: float) -> Any:
    width = dims_of(x)[-1]
    if not isinstance(width, int):
        raise n.refuse("of a width that is only known at run time")
    return _emitted(n, rms_norm(n, x, constant(np.ones(width, np.float32)), len(dims_of(x)) - 1, epsilon))


@op("ScaledSiLU", domain=_MS)
def scaled_silu(n: Node) -> Any:
    """X, scale? -> z sigmoid(z), where z is X times the scale, or `alpha`; each step is rounded to X's type."""
    n.float_only()
    scale = n.reshape(in_float32(n, n.x(1)), []) if n.has(1) else n.scalar_const(n.float_attr("alpha", 1.0), _F)
    dtype = n.dtype(0)
    z = n.cast(n.emit(relax.op.multiply(in_float32(n, n.x(0)), scale)), dtype)
    gate = n.cast(n.emit(relax.op.sigmoid(in_float32(n, z))), dtype)
    return n.cast(n.emit(relax.op.multiply(in_float32(n, z), in_float32(n, gate))), dtype)


@op("EngramGate", domain=_MS)
def engram_gate(n: Node) -> Any:
    """key and query [B, S, C, H], value [B, S, H], scales [C, H] of their norms, and of the result's? -> the value times the gate of each
    branch, and its norm."""
    n.float_only()
    epsilon, (batch, length, _, width) = n.float_attr("epsilon", 1e-5), n.shape(0)

    def scaled(x: Any, i: int) -> Any:
        return n.emit(relax.op.multiply(_norm(n, x, epsilon), in_float32(n, n.x(i))))

    both = n.emit(relax.op.multiply(*n.align(*(scaled(in_float32(n, n.x(i)), i + 3) for i in (0, 1)))))
    dot = n.emit(relax.op.divide(n.emit(relax.op.sum(both, [3], True)), n.scalar_const(float(width) ** 0.5, _F)))
    size = n.emit(relax.op.maximum(n.emit(relax.op.abs(dot)), n.scalar_const(1e-6, _F)))
    root = n.emit(relax.op.multiply(n.emit(relax.op.sign(dot)), n.emit(relax.op.sqrt(size))))
    value = n.reshape(in_float32(n, n.x(2)), [batch, length, 1, width])
    y = n.emit(relax.op.multiply(*n.align(value, n.emit(relax.op.sigmoid(root)))))
    out = [n.cast(y, n.dtype(0))]
    if any(n.proto.output[1:2]):
        out.append(n.cast(scaled(in_float32(n, out[0]), 5), n.dtype(0)))
    return out
