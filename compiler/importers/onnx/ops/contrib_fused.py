"""What ONNX Runtime's optimizer fuses: an activation, a bias, a residual and a factor with the product or convolution before them.

They are taken apart here; the passes fuse them again, as they do where nothing was fused.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from tvm import relax, tirx

from .._exprs import constant, dims_of, dtype_of
from .._node import Node
from .._registry import op
from ._te import elementwise, imm
from .nn import conv, gemm, product

__all__ = ["activated", "added", "behind_conv", "in_float32"]

_MS = "com.microsoft"
_HALF = ("float16", "bfloat16")


def in_float32(n: Node, x: Any) -> Any:
    """x, of a half type as float32."""
    return n.cast(x, "float32") if dtype_of(x) in _HALF else x


def added(n: Node, x: Any, *terms: Any) -> Any:
    """x + terms, where they broadcast; None adds nothing."""
    for term in terms:
        if term is not None:
            x = n.emit(relax.op.add(*n.align(x, n.cast(term, dtype_of(x)))))
    return x


# ---- activations


@op("Gelu", domain=_MS)
def gelu(n: Node) -> Any:
    n.float_only()
    return n.cast(n.emit(relax.op.nn.gelu(in_float32(n, n.x(0)))), n.dtype(0))


@op("BiasGelu", domain=_MS)
def bias_gelu(n: Node) -> Any:
    n.float_only()
    return n.cast(n.emit(relax.op.nn.gelu(added(n, in_float32(n, n.x(0)), n.x(1)))), n.dtype(0))


@op("FastGelu", domain=_MS)
def fast_gelu(n: Node) -> Any:
    n.float_only()
    x = added(n, in_float32(n, n.x(0)), n.x(1) if n.has(1) else None)
    return n.cast(n.emit(relax.op.nn.gelu_tanh(x)), n.dtype(0))


@op("GemmFastGelu", domain=_MS)
def gemm_fast_gelu(n: Node) -> Any:
    n.float_only()
    y = added(n, product(n, in_float32(n, n.x(0)), in_float32(n, n.x(1))), n.x(2) if n.has(2) else None)
    return n.cast(n.emit(relax.op.nn.gelu_tanh(y)), n.dtype(0))


@op("QuickGelu", domain=_MS)
def quick_gelu(n: Node) -> Any:
    """x sigmoid(alpha x)."""
    n.float_only()
    x, alpha = in_float32(n, n.x(0)), n.float_attr("alpha", 1.702)
    return n.cast(_swish(n, x, alpha), n.dtype(0))


def _swish(n: Node, x: Any, alpha: float) -> Any:
    if alpha == 1.0:
        return n.emit(relax.op.nn.silu(x))
    inner = n.emit(relax.op.multiply(x, n.scalar_const(alpha, dtype_of(x))))
    return n.emit(relax.op.multiply(x, n.emit(relax.op.sigmoid(inner))))


@op("BiasSplitGelu", domain=_MS)
def bias_split_gelu(n: Node) -> Any:
    """[N, S, D] -> [N, S, D/2]: the left half of x + bias times gelu of the right one."""
    n.float_only()
    x = added(n, in_float32(n, n.x(0)), n.x(1))
    last = n.rank(0) - 1
    left, right = (n.emit(part) for part in _halves(n, x, last))
    return n.cast(n.emit(relax.op.multiply(left, n.emit(relax.op.nn.gelu(right)))), n.dtype(0))


def _halves(n: Node, x: Any, axis: int) -> list[Any]:
    extent = dims_of(x)[axis]
    if not isinstance(extent, int) or extent % 2:
        raise n.broken(f"splits an axis of extent {extent} into halves")
    half = extent // 2
    return [relax.op.strided_slice(x, [axis], [k * half], [(k + 1) * half]) for k in range(2)]


@op("BiasAdd", domain=_MS)
def bias_add(n: Node) -> Any:
    return added(n, n.x(0), n.x(1), n.x(2))


@op("BiasDropout", domain=_MS)
def bias_dropout(n: Node) -> Any:
    """data + bias (+ residual): a model that is run does not drop."""
    if n.has(4) and (n.value(4).const is None or bool(n.scalar(4))):
        raise n.refuse("in training mode")
    y = added(n, n.x(0), n.x(1), n.x(2) if n.has(2) else None)
    if len(n.proto.output) < 2 or not n.proto.output[1]:
        return y
    return [y, elementwise(n, lambda v: imm(True, "bool"), y, name="mask")]


@op("BiasSoftmax", domain=_MS)
def bias_softmax(n: Node) -> Any:
    """softmax(data + bias) over the axes from `axis` on; the bias lacks, or has as 1, the inner or the outer batch axes."""
    n.float_only()
    x, bias = in_float32(n, n.x(0)), in_float32(n, n.x(1))
    dims, rank = dims_of(x), n.rank(0)
    axis = n.axis(n.int_attr("axis", 1), rank)
    if not n.flag("is_inner_broadcast") or len(dims_of(bias)) == rank:
        summed = added(n, x, bias)
    else:  # [outer batch, ..., softmax axes]: what is missing lies between them
        have = dims_of(bias)
        behind = rank - axis
        front = len(have) - behind
        summed = added(n, x, n.reshape(bias, [*have[:front], *[1] * (axis - front), *have[front:]]))
    if axis == rank - 1:
        return n.cast(n.emit(relax.op.nn.softmax(summed, -1)), n.dtype(0))
    flat = n.reshape(summed, [n.math.product(dims[:axis]), n.math.product(dims[axis:])])
    return n.cast(n.reshape(n.emit(relax.op.nn.softmax(flat, -1)), list(dims)), n.dtype(0))


# ---- what is fused behind a product


def activated(n: Node, x: Any, name: str, numbers: dict[str, float]) -> Any:
    """An activation by the name that ONNX Runtime's fused operators give it; `numbers` may hold alpha, beta and gamma."""
    dtype = dtype_of(x)

    def number(key: str, default: float) -> Any:
        return n.scalar_const(numbers.get(key, default), dtype)

    def clipped(value: Any, low: float, high: float) -> Any:
        return n.emit(relax.op.clip(value, low, high))

    def line(alpha: float, beta: float) -> Any:
        scaled = n.emit(relax.op.multiply(x, number("alpha", alpha)))
        return n.emit(relax.op.add(scaled, number("beta", beta)))

    def element(function: Any) -> Any:
        return elementwise(n, function, x, name=name.lower())

    def of(key: str, default: float) -> Any:
        return imm(numbers.get(key, default), dtype)

    zero, one = imm(0, dtype), imm(1, dtype)
    if name == "Relu":
        return n.emit(relax.op.nn.relu(x))
    if name == "Tanh":
        return n.emit(relax.op.tanh(x))
    if name == "Sigmoid":
        return n.emit(relax.op.sigmoid(x))
    if name == "LeakyRelu":
        return n.emit(relax.op.nn.leakyrelu(x, numbers.get("alpha", 0.01)))
    if name == "Clip":
        return clipped(x, numbers.get("alpha", -math.inf), numbers.get("beta", math.inf))
    if name == "HardSigmoid":
        return clipped(line(0.2, 0.5), 0.0, 1.0)
    if name == "HardSwish":
        return n.emit(relax.op.multiply(x, clipped(line(1 / 6, 0.5), 0.0, 1.0)))
    if name == "Gelu":
        return n.emit(relax.op.nn.gelu(x))
    if name == "QuickGelu":
        return _swish(n, x, numbers.get("alpha", 1.702))
    if name == "Elu":
        return element(lambda v: tirx.Select(v < zero, of("alpha", 1.0) * (tirx.exp(v) - one), v))
    if name == "Selu":
        inner = "alpha", 1.67326319217681884765625
        outer = "gamma", 1.05070102214813232421875
        return element(
            lambda v: of(*outer) * tirx.Select(v <= zero, of(*inner) * tirx.exp(v) - of(*inner), v),
        )
    if name == "Celu":
        return element(
            lambda v: tirx.max(v, zero) + tirx.min(zero, of("alpha", 1.0) * (tirx.exp(v / of("alpha", 1.0)) - one))
        )
    if name == "Softplus":
        return element(lambda v: tirx.max(v, zero) + tirx.log1p(tirx.exp(zero - tirx.abs(v))))
    if name == "Softsign":
        return element(lambda v: v / (one + tirx.abs(v)))
    if name == "ThresholdedRelu":
        return element(lambda v: tirx.Select(v > of("alpha", 1.0), v, zero))
    raise n.refuse(f"with the activation '{name}'")


def _fused_activation(n: Node, y: Any) -> Any:
    """The activation that attributes `activation` and `activation_alpha`, ... ask for, if any."""
    name = n.str_attr("activation", "")
    if not name:
        return y
    keys = [k for k in ("alpha", "beta", "gamma") if n.has_attr(f"activation_{k}")]
    return activated(n, y, name, {k: n.float_attr(f"activation_{k}") for k in keys})


@op("FusedGemm", domain=_MS)
def fused_gemm(n: Node) -> Any:
    y = gemm(n)
    return _fused_activation(n, y if isinstance(y, relax.Var) else n.emit(y))


@op("FusedMatMul", "TransposeMatMul", domain=_MS)
def fused_matmul(n: Node) -> Any:
    """alpha op(A) op(B); transBatch first moves the first axis to the place before the last."""
    n.float_only()
    a = _transposed(n, 0, batch=n.flag("transBatchA"), last=n.flag("transA"))
    b = _transposed(n, 1, batch=n.flag("transBatchB"), last=n.flag("transB"))
    y = product(n, in_float32(n, a), in_float32(n, b))
    alpha = n.float_attr("alpha", 1.0)
    if alpha != 1.0:
        y = n.emit(relax.op.multiply(y, n.scalar_const(alpha, dtype_of(y))))
    return n.cast(y, n.dtype(0))


@op("FusedMatMulActivation", domain=_MS)
def fused_matmul_activation(n: Node) -> Any:
    return n.cast(_fused_activation(n, in_float32(n, fused_matmul(n))), n.dtype(0))


def _transposed(n: Node, i: int, *, batch: bool, last: bool) -> Any:
    rank = n.rank(i)
    order = list(range(rank))
    if batch and rank > 2:
        order = [*order[1:-1], 0, order[-1]]
    if last and rank > 1:
        order[-1], order[-2] = order[-2], order[-1]
    if order == list(range(rank)):
        return n.x(i)
    known = n.value(i).const
    if known is not None:
        return constant(np.ascontiguousarray(known.transpose(order)))
    return n.emit(relax.op.permute_dims(n.x(i), order))


@op("FusedConv", domain=_MS)
def fused_conv(n: Node) -> Any:
    """activation(conv(X, W) + B + Z)."""
    return behind_conv(n, conv(n))


def behind_conv(n: Node, y: Any) -> Any:
    """A convolution's result, what a fused one adds to it (input 3), and its activation."""
    name, numbers = n.str_attr("activation", ""), list(n.attr("activation_params", []))
    y = added(n, y, n.x(3) if n.has(3) else None)
    return activated(n, y, name, dict(zip(("alpha", "beta"), numbers, strict=False))) if name else y


@op("NhwcConv", domain=_MS)
def nhwc_conv(n: Node) -> Any:
    """Conv with data, result and, as the transformers optimizer writes them, the weights with channels last: [M, kH, kW, C/group]."""
    order = [0, n.rank(1) - 1, *range(1, n.rank(1) - 1)]
    known = n.value(1).const
    w = (
        n.emit(relax.op.permute_dims(n.x(1), order))
        if known is None
        else constant(np.ascontiguousarray(known.transpose(order)))
    )
    return nhwc_fused_conv(n.with_inputs([n.value(0), n.graph.wrap(w, f"{n.place}_W"), *n.inputs[2:]]))


@op("NhwcFusedConv", domain=_MS)
def nhwc_fused_conv(n: Node) -> Any:
    """FusedConv with data, Z and result as [N, H, W, C]; the weights stay [M, C/group, kH, kW]."""
    rank = n.rank(0)
    first, last = [0, rank - 1, *range(1, rank - 1)], [0, *range(2, rank), 1]
    names = ("X", "W", "B", "Z")
    turned = [
        n.graph.wrap(n.emit(relax.op.permute_dims(n.x(i), first)), f"{n.place}_{names[i]}") for i in (0, 3) if n.has(i)
    ]
    inner = n.with_inputs([turned[0], *n.inputs[1:3], *turned[1:]])
    return relax.op.permute_dims(behind_conv(inner, conv(inner)), last)
