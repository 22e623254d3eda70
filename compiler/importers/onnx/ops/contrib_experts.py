"""Mixtures of experts (com.microsoft: MoE, QMoE). Every expert is computed for every token, and those that a token does not choose count 0."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import relax, te, tirx

from .... import ir
from .._exprs import dims_of
from .._node import Node
from .._packed import unpacked
from .._registry import op
from ._te import elementwise, imm
from .contrib_fused import added, in_float32
from .indexing import take_slice
from .nn import product

Array = npt.NDArray[Any]
_MS = "com.microsoft"
_F = "float32"


@op("MoE", domain=_MS)
def mixture_of_experts(n: Node) -> Any:
    """input [..., H], router_probs [N, E], then weights [E, rows, columns] and biases? of fc1, fc2 and, it may be, fc3."""
    n.float_only()
    weights = [in_float32(n, n.x(i)) if n.has(i) else None for i in (2, 4, 6)]
    biases = [in_float32(n, n.x(i)) if n.has(i) else None for i in (3, 5, 7)]
    return _mixed(n, weights, biases, None)


@op("QMoE", domain=_MS)
def quantized_mixture_of_experts(n: Node) -> Any:
    """input, router_probs, then weights of few bits, scales and biases? of fc1, fc2, fc3, their zero points, the weights of a sum."""
    n.float_only()
    if n.str_attr("quant_type", "int") != "int" or n.int_attr("weights_prepacked", -1) == 1:
        raise n.refuse("with weights of another form than rows of integers")
    weights = [_dequantized(n, k, i, i + 1, z) for k, (i, z) in enumerate(((2, 11), (5, 12), (8, 13)))]
    biases = [in_float32(n, n.x(i)) if n.has(i) else None for i in (4, 7, 10)]
    return _mixed(n, weights, biases, in_float32(n, n.x(14)) if n.has(14) else None)


def _dequantized(n: Node, number: int, weight: int, scales: int, zeros: int) -> Any:
    """Weights [E, rows, columns] as floats, in the scales of blocks of columns or of whole rows; None without them."""
    if not n.has(weight):
        return None
    bits = n.int_attr(f"fc{number + 1}_expert_weight_bits", n.int_attr("expert_weight_bits", 4))
    packed, scale = n.const(weight, "weights"), n.const(scales, "scales").astype(np.float32)
    if bits not in (2, 4, 8) or packed.ndim != 3 or scale.ndim not in (2, 3):
        raise n.refuse(f"of {bits} bits, weights of rank {packed.ndim} and scales of rank {scale.ndim}")
    experts, rows, columns = packed.shape[0], packed.shape[1], packed.shape[2] * 8 // bits
    blocks = scale.shape[2] if scale.ndim == 3 else 1
    if scale.shape[:2] != (experts, rows) or blocks < 1 or columns % blocks:
        raise n.broken(f"has scales of shape {list(scale.shape)} for weights of {[experts, rows, columns]}")
    zero: Array = np.full((experts, rows, blocks), 1 << (bits - 1), np.uint8)
    if n.has(zeros):
        given = n.const(zeros, "zero points")
        zero = unpacked(given, bits, blocks if scale.ndim == 3 else rows).reshape(zero.shape)
    values = unpacked(packed, bits, columns)
    return n.emit(ir.Encoded(values, scale.reshape(zero.shape), zero, axis=2, block=columns // blocks).call())


def _mixed(n: Node, weights: list[Any], biases: list[Any], shares: Any) -> Any:
    if n.flag("use_sparse_mixer"):
        raise n.refuse("with the sparse mixer")
    if weights[0] is None or weights[1] is None:
        raise n.broken("has no weights for both of its layers")
    shape = n.shape(0)
    tokens, width = n.math.product(shape[:-1]), shape[-1]
    x = n.reshape(in_float32(n, n.x(0)), [1, tokens, width])
    hidden = _layer(n, x, weights[0], biases[0])
    gate = _layer(n, x, weights[2], biases[2]) if weights[2] is not None else None
    out = _layer(n, _activated(n, hidden, gate), weights[1], biases[1])
    chosen = _expert_weights(n, in_float32(n, n.x(1)), shares)

    def total(o: Any, w: Any) -> Any:
        e = te.reduce_axis((0, o.shape[0]), name="e")

        def element(i: Any, j: Any) -> Any:
            share = tirx.if_then_else(w(i, e) == imm(0, _F), imm(0, _F), w(i, e) * o(e, i, j))
            return te.sum(share, axis=e)

        return te.compute((o.shape[1], o.shape[2]), element, name="mixture")

    return n.cast(n.reshape(n.te(total, out, chosen, name="mixture"), list(shape)), n.dtype(0))


def _layer(n: Node, x: Any, w: Any, bias: Any) -> Any:
    """x [1 or E, N, columns] times each expert's w [E, rows, columns]' -> [E, N, rows]."""
    y = product(n, x, n.emit(relax.op.permute_dims(w, [0, 2, 1])))
    if bias is None:
        return y
    experts, rows = dims_of(bias)
    return added(n, y, n.reshape(bias, [experts, 1, rows]))


def _activated(n: Node, x: Any, gate: Any) -> Any:
    name = n.str_attr("activation_type", "relu")
    plain = {"relu": relax.op.nn.relu, "gelu": relax.op.nn.gelu_tanh, "silu": relax.op.nn.silu}
    if name == "swiglu":
        return _swiglu(n, x, gate)
    if name not in (*plain, "identity"):
        raise n.broken(f"has the unknown activation '{name}'")
    y = n.emit(plain[name](x)) if name in plain else x
    return y if gate is None else n.emit(relax.op.multiply(y, gate))


def _swiglu(n: Node, x: Any, gate: Any) -> Any:
    """G sigmoid(alpha G) (L + beta), both clamped; G and L alternate, or stand side by side, or are two layers."""
    form = n.int_attr("swiglu_fusion", 0)
    if form not in (0, 1, 2) or (form == 0) != (gate is not None):
        raise n.broken(f"has swiglu_fusion {form} and {'no ' if gate is None else ''}third layer")
    alpha, beta = n.float_attr("activation_alpha", 1.0), n.float_attr("activation_beta", 0.0)
    limit = n.float_attr("swiglu_limit", math.inf)
    if form:
        rows = dims_of(x)[2]
        if not isinstance(rows, int) or rows % 2:
            raise n.broken(f"splits {rows} rows into halves")
        half = rows // 2
        first, step = ((0, 1), 2) if form == 1 else ((0, half), 1)
        x, gate = (take_slice(n, x, 2, start, half, step) for start in first)

    def element(g: Any, linear: Any) -> Any:
        if limit != math.inf:
            top = imm(limit, _F)
            g, linear = tirx.min(g, top), tirx.max(imm(-limit, _F), tirx.min(linear, top))
        return g * tirx.sigmoid(g * imm(alpha, _F)) * (linear + imm(beta, _F))

    return elementwise(n, element, x, gate, name="swiglu")


def _expert_weights(n: Node, logits: Any, shares: Any) -> Any:
    """[N, E]: the softmax's, or the given, weight of the k largest of each row, the first of equal ones; 0 elsewhere."""
    experts_per_row = n.int_attr("k", 1)
    if experts_per_row < 1:
        raise n.broken(f"chooses {experts_per_row} experts")
    probabilities = shares if shares is not None else n.emit(relax.op.nn.softmax(logits, -1))

    def body(r: Any, p: Any) -> Any:
        j = te.reduce_axis((0, r.shape[1]), name="j")

        def before(i: Any, e: Any) -> Any:
            ahead = tirx.any(r(i, j) > r(i, e), tirx.all(r(i, j) == r(i, e), j < e))
            return te.sum(tirx.Select(ahead, imm(1, "int32"), imm(0, "int32")), axis=j)

        rank = te.compute(r.shape, before, name="rank")
        return te.compute(
            r.shape, lambda i, e: tirx.Select(rank(i, e) < experts_per_row, p(i, e), imm(0, _F)), name="chosen"
        )

    chosen = n.te(body, logits, probabilities, name="chosen")
    if not n.flag("normalize_routing_weights"):
        return chosen
    return n.emit(relax.op.divide(chosen, n.emit(relax.op.sum(chosen, [1], True))))
