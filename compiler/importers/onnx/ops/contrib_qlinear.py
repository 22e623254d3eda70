"""ONNX Runtime's operators on 8-bit tensors (com.microsoft: QLinear*, QGemm, NhwcMaxPool), rounded where its CPU kernels round.

Where those quantize a float result by ONNX's formula, the operator is written as dequantize, float operator, quantize, the form that
the kernels are made from; where they fold the scales into one factor and round once, zero point included, so does what is written here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import relax, te, tirx

from .._dims import Dim
from .._exprs import constant, dims_of, dtype_of, shape_expr
from .._node import Node
from .._registry import op
from .._values import Value
from ._te import elementwise, imm
from .contrib_attention import attention_of
from .contrib_norm import embed_layer_normalization
from .nn import product
from .pool import average_pool, max_pool
from .quant import (
    centred,
    dequantize_linear,
    dynamic_quantize_linear,
    int_matmul,
    integer_range,
    matmul_integer,
    qlinear_conv,
    quantize_linear,
)
from .reduce import reduce_te

MS = "com.microsoft"
_BYTES = ("uint8", "int8")


# ---- parameters


def _bytes_only(n: Node, *inputs: int) -> None:
    for i in inputs:
        if n.dtype(i) not in _BYTES:
            raise n.broken(f"has input {i} of {n.dtype(i)}, expected uint8 or int8")


def _scalar(n: Node, i: int, absent: str = "") -> Any:
    """Input i, a scale or zero point of a whole tensor, as a scalar; where it is left out, 0 of the type `absent`."""
    if absent and not n.has(i):
        return constant(np.zeros((), absent))
    v = n.value(i)
    if v.rank > 1 or (v.rank == 1 and isinstance(v.shape[0], int) and v.shape[0] != 1):
        raise n.broken(f"has input {i} of shape {list(v.shape)}, expected one number")
    return constant(v.const.reshape(())) if v.const is not None else n.reshape(n.x(i), [])


def _as_float(n: Node, x: int, scale: int, zero: int) -> Any:
    """Input x as the floats that it stands for."""
    return n.expr_of(
        dequantize_linear(n.with_arguments(n.value(x), n.value(scale), n.inputs[zero] if n.has(zero) else None))
    )


def _as_bytes(n: Node, y: Any, scale: int, zero: int, dtype: str) -> Any:
    """Floats y, quantized by ONNX's formula."""
    origin = n.inputs[zero] if n.has(zero) else constant(np.zeros((), dtype))
    return quantize_linear(n.with_arguments(y, n.value(scale), origin))


def _divide(n: Node, a: Any, b: Any) -> Any:
    return n.emit(relax.op.divide(a, b))


def _multiply(n: Node, a: Any, b: Any) -> Any:
    return n.emit(relax.op.multiply(a, b))


def _rounded(v: Any, dtype: str) -> Any:
    """The nearest of the type's numbers, ties to even."""
    low, high = integer_range(dtype)
    f = "float32"
    return tirx.Cast(dtype, tirx.Cast("int32", tirx.max(imm(low, f), tirx.min(imm(high, f), tirx.nearbyint(v)))))


def _product_rounded(p: Any, ratio: Any, zero: Any, dtype: str) -> Any:
    """p · ratio + zero, rounded twice (product, sum) and then to the type; clamped between, which no fused multiply-add does."""
    low, high = (imm(v, "float32") for v in integer_range(dtype))
    return _rounded(tirx.max(low - zero, tirx.min(high - zero, p * ratio)) + zero, dtype)


def _float(v: Any) -> Any:
    return tirx.Cast("float32", v)


# ---- elementwise


@op("QLinearAdd", domain=MS)
def qlinear_add(n: Node) -> Any:
    """A, A_scale, A_zero_point, B, B_scale, B_zero_point, C_scale, C_zero_point"""
    _bytes_only(n, 0, 3)
    dtype = n.dtype(0)
    sa, sb, sc = _scalar(n, 1), _scalar(n, 4), _scalar(n, 6)
    za, zb, zc = (n.cast(_scalar(n, i, dtype), "float32") for i in (2, 5, 7))
    ra, rb = _divide(n, sa, sc), _divide(n, sb, sc)
    origin = n.emit(relax.op.add(_multiply(n, ra, za), _multiply(n, rb, zb)))
    fixed = n.emit(relax.op.subtract(zc, origin))
    return elementwise(
        n,
        lambda a, b, p, q, c: _rounded(_float(a) * p + (_float(b) * q + c), dtype),
        n.x(0), n.x(3), ra, rb, fixed,
    )  # fmt: skip


@op("QLinearMul", domain=MS)
def qlinear_mul(n: Node) -> Any:
    """As QLinearAdd. The product of the integers is exact."""
    _bytes_only(n, 0, 3)
    dtype = n.dtype(0)
    ratio = _divide(n, _multiply(n, _scalar(n, 1), _scalar(n, 4)), _scalar(n, 6))
    za, zb, zc = (_scalar(n, i, dtype) for i in (2, 5, 7))

    def element(a: Any, b: Any, r: Any, x: Any, y: Any, z: Any) -> Any:
        a, b, x, y = (tirx.Cast("int32", v) for v in (a, b, x, y))
        return _product_rounded(_float((a - x) * (b - y)), r, _float(z), dtype)

    return elementwise(n, element, n.x(0), n.x(3), ratio, za, zb, zc)


def _function(n: Node, function: Callable[[Any], Any]) -> Any:
    """X, X_scale, X_zero_point, Y_scale, Y_zero_point: a function of one tensor."""
    _bytes_only(n, 0)
    return _as_bytes(n, n.emit(function(_as_float(n, 0, 1, 2))), 3, 4, n.dtype(0))


@op("QLinearSigmoid", domain=MS)
def qlinear_sigmoid(n: Node) -> Any:
    return _function(n, relax.op.sigmoid)


@op("QLinearLeakyRelu", domain=MS)
def qlinear_leaky_relu(n: Node) -> Any:
    alpha = n.float_attr("alpha", 0.01)
    return _function(n, lambda x: relax.op.nn.leakyrelu(x, alpha))


@op("QLinearConcat", domain=MS)
def qlinear_concat(n: Node) -> Any:
    """Y_scale, Y_zero_point, then (tensor, scale, zero_point) for each part; a part of the result's scale and zero point is copied."""
    if len(n.inputs) < 5 or (len(n.inputs) - 2) % 3:
        raise n.broken(f"has {len(n.inputs)} inputs, expected two and three for each part")
    dtype = n.dtype(1)
    parts = []
    for i in range(2, len(n.inputs), 3):
        _bytes_only(n, i)
        same = all(_same_constant(n.value(i + k), n.value(k - 1)) for k in (1, 2))
        parts.append(n.x(i) if same else n.expr_of(_as_bytes(n, _as_float(n, i, i + 1, i + 2), 0, 1, dtype)))
    axis = n.axis(n.int_attr("axis"), len(dims_of(parts[0])))
    rest = [[d for a, d in enumerate(dims_of(p)) if a != axis] for p in parts]
    for other in rest[1:]:
        if len(other) != len(rest[0]):
            raise n.broken("joins tensors of several ranks")
        for a, b in zip(rest[0], other, strict=True):
            n.math.require_same(a, b)
    return relax.op.concat(parts, axis)


def _same_constant(a: Value, b: Value) -> bool:
    return a.const is not None and b.const is not None and a.const.size == b.const.size == 1 and bool(
        a.const.reshape(()) == b.const.reshape(())
    )  # fmt: skip


@op("QLinearWhere", domain=MS)
def qlinear_where(n: Node) -> Any:
    """condition, X, x_scale, x_zero_point, Y, y_scale, y_zero_point, z_scale, z_zero_point"""
    _bytes_only(n, 1, 4)
    dtype = n.dtype(1)
    x, y = (n.expr_of(_as_bytes(n, _as_float(n, i, i + 1, i + 2), 7, 8, dtype)) for i in (1, 4))
    return elementwise(n, tirx.Select, n.x(0), x, y)


# ---- along axes


@op("QLinearSoftmax", domain=MS)
def qlinear_softmax(n: Node) -> Any:
    """X, X_scale, x_zero_point, y_scale, y_zero_point. In integers throughout: exponentials from a table that is aligned to the row's
    largest number, as whole multiples of a step with which a row's sum fits 32 bits."""
    _bytes_only(n, 0)
    dtype, rank = n.dtype(0), n.rank(0)
    scale, out_scale = float(n.scalar(1, "X_scale")), float(n.scalar(3, "y_scale"))
    x, dims = n.x(0), list(n.shape(0))
    if n.int_attr("opset") < 13:
        axis = n.axis(n.int_attr("axis", 1), rank)
        rows, length = n.math.product(dims[:axis]), n.math.product(dims[axis:])
        x = n.reshape(x, [rows, length])
        order = None
    else:
        axis = n.axis(n.int_attr("axis", -1), rank)
        length = dims[axis]
        order = [*(a for a in range(rank) if a != axis), axis] if axis != rank - 1 else None
        x = n.emit(relax.op.permute_dims(x, order)) if order else x
    exponentials = constant(np.exp((np.arange(256) - 255.0) * np.float64(np.float32(scale))))

    def steps(t: Any, extents: Any) -> Any:
        max_step = imm(0xFFFFFFFF, "float64") / tirx.Cast("float64", tirx.max(extents[0], 1))
        step = tirx.min(max_step, imm(0x7FFFFF, "float64"))
        return te.compute(t.shape, lambda i: tirx.Cast("int64", step * t(i)), name="table")

    table = n.te(steps, exponentials, shape_expr([length]), name="table")
    levels = int(np.floor(np.float32(1.0) / np.float32(out_scale)))
    zero = _scalar(n, 4, dtype)
    last = len(dims_of(x)) - 1
    top = reduce_te(n, n.cast(x, "int32"), [last], True, tirx.max, imm(-128, "int32"), "largest")

    def body(v: Any, m: Any, t: Any) -> Any:
        def element(*i: Any) -> Any:
            head = [*i[:-1], 0]
            return t(tirx.Cast("int64", tirx.Cast("int32", v(*i)) - m(*head)) + imm(255, "int64"))

        return te.compute(v.shape, element, name="exponentials")

    weights = n.te(body, x, top, table, name="exponentials")
    total = reduce_te(n, weights, [last], True, lambda a, b: a + b, imm(0, "int64"), "total")
    low, high = integer_range(dtype)

    def share(w: Any, s: Any, z: Any) -> Any:
        whole = tirx.floordiv(
            w * imm(levels, "int64") + tirx.floordiv(s, imm(2, "int64")), tirx.max(s, imm(1, "int64"))
        )
        value = whole + tirx.Cast("int64", z)
        return tirx.Cast(dtype, tirx.max(imm(low, "int64"), tirx.min(imm(high, "int64"), value)))

    y = elementwise(n, share, weights, total, zero, name="shares")
    if n.int_attr("opset") < 13:
        return n.reshape(y, dims)
    return relax.op.permute_dims(y, [order.index(a) for a in range(rank)]) if order else y


def _channels_last(n: Node, convert: Callable[[Node], Any], x: int = 0) -> Any:
    """convert of the node with channels in front, where its input x has them last; and back."""
    rank = n.rank(x)
    if rank < 3:
        raise n.broken(f"has data of rank {rank}, expected at least 3")
    turned = n.emit(relax.op.permute_dims(n.x(x), [0, rank - 1, *range(1, rank - 1)]))
    inputs: list[Any] = list(n.inputs)
    inputs[x] = turned
    y = n.expr_of(convert(n.with_arguments(*inputs)))
    return relax.op.permute_dims(y, [0, *range(2, rank), 1])


@op("NhwcMaxPool", domain=MS)
def nhwc_max_pool(n: Node) -> Any:
    _bytes_only(n, 0)
    return _channels_last(n, max_pool)


@op("QLinearConv", domain=MS)
def contrib_qlinear_conv(n: Node) -> Any:
    """As ONNX's; with channels_last x and y are [N, ..., C], the weights are what they are."""
    return _channels_last(n, qlinear_conv) if n.flag("channels_last") else qlinear_conv(n)


@op("QLinearAveragePool", domain=MS)
def qlinear_average_pool(n: Node) -> Any:
    """X, x_scale, x_zero_point, y_scale, y_zero_point"""
    _bytes_only(n, 0)

    def convert(m: Node) -> Any:
        dtype = m.dtype(0)
        y = m.expr_of(average_pool(m.with_arguments(_as_float(m, 0, 1, 2))))
        return elementwise(
            m, lambda v, s, z: _rounded(v / s + _float(z), dtype), y, _scalar(m, 3), _scalar(m, 4, dtype)
        )

    return _channels_last(n, convert) if n.flag("channels_last") else convert(n)


def _mean(n: Node, x: Any, axes: list[int], keep: bool) -> Any:
    """Exact sums of the integers, one factor, one rounding. Scales and zero points are inputs 1 to 4."""
    dims = dims_of(x)
    count: Dim = n.math.product([dims[a] for a in axes])
    dtype = dtype_of(x)
    numbers = elementwise(n, lambda v, z: tirx.Cast("int32", v) - tirx.Cast("int32", z), x, _scalar(n, 2, dtype))
    total = reduce_te(n, numbers, axes, keep, lambda a, b: a + b, imm(0, "int32"), "total")
    si, so, zero = _scalar(n, 1), _scalar(n, 3), _scalar(n, 4, dtype)

    def body(t: Any, a: Any, b: Any, z: Any, extents: Any) -> Any:
        size = tirx.Cast("float32", extents[0])

        def element(*i: Any) -> Any:
            return _rounded(tirx.nearbyint(_float(t(*i)) * (a() / (b() * size))) + _float(z()), dtype)

        return te.compute(t.shape, element, name="mean")

    return n.te(body, total, si, so, zero, shape_expr([count]), name="mean")


@op("QLinearGlobalAveragePool", domain=MS)
def qlinear_global_average_pool(n: Node) -> Any:
    """X, x_scale, x_zero_point, y_scale, y_zero_point"""
    _bytes_only(n, 0)
    rank = n.rank(0)
    if rank < 3:
        raise n.broken(f"has data of rank {rank}, expected at least 3")
    first = 1 if n.flag("channels_last") else 2
    return _mean(n, n.x(0), list(range(first, first + rank - 2)), True)


@op("QLinearReduceMean", domain=MS)
def qlinear_reduce_mean(n: Node) -> Any:
    """data, data_scale, data_zero_point, reduced_scale, reduced_zero_point"""
    _bytes_only(n, 0)
    rank = n.rank(0)
    axes = n.axes(n.ints_attr("axes", None) or list(range(rank)), rank)
    return _mean(n, n.x(0), axes, n.flag("keepdims", 1))


# ---- products


@op("QGemm", domain=MS)
def qgemm(n: Node) -> Any:
    """A, a_scale, a_zero_point, B, b_scale, b_zero_point, C int32 (its scale is alpha · a_scale · b_scale), y_scale, y_zero_point.
    Without y_scale the result is float32."""
    _bytes_only(n, 0, 3)
    if n.rank(0) != 2 or n.rank(3) != 2:
        raise n.broken(f"multiplies ranks {n.rank(0)} and {n.rank(3)}")
    alpha = n.float_attr("alpha", 1.0)
    turned_a, turned_b = n.flag("transA"), n.flag("transB")
    a = n.with_arguments(_transposed(n, 0, turned_a), n.value(1), n.inputs[2] if n.has(2) else None)
    b = n.with_arguments(_transposed(n, 3, turned_b), n.value(4), n.inputs[5] if n.has(5) else None, axis=1)
    factor = _multiply(n, _multiply(n, _scalar(n, 1), n.x(4)), constant(np.float32(alpha)))
    if n.value(3).const is not None and n.value(4).const is not None:
        y = product(n, n.expr_of(dequantize_linear(a)), n.expr_of(dequantize_linear(b)))
        y = _multiply(n, y, constant(np.float32(alpha))) if alpha != 1.0 else y
        if n.has(6):
            scaled = _multiply(n, n.cast(n.x(6), "float32"), factor)
            y = n.emit(relax.op.add(*n.align(y, scaled)))
    else:
        total = n.expr_of(matmul_integer(n.with_arguments(a.inputs[0], b.inputs[0], a.inputs[2], b.inputs[2])))
        if n.has(6):
            total = n.emit(relax.op.add(*n.align(total, n.x(6))))
        y = n.emit(relax.op.multiply(*n.align(n.cast(total, "float32"), factor)))
    return _as_bytes(n, y, 7, 8, n.dtype(0)) if n.has(7) else y


def _transposed(n: Node, i: int, turn: bool) -> Any:
    v = n.value(i)
    if not turn:
        return v
    return Value.of_array(np.ascontiguousarray(v.const.T), n.place) if v.const is not None else n.emit(relax.op.permute_dims(n.x(i), [1, 0]))  # fmt: skip


def _scaled_product(n: Node, a: Any, b: int, scale: Any, zero_a: Any, zero_b: int, bias: int) -> Any:
    """What MatMulInteger, Cast, Mul and Add make of it: the form in which other tools write dynamically quantized products."""
    origin = n.inputs[zero_b] if n.has(zero_b) else None
    total = n.expr_of(matmul_integer(n.with_arguments(a, n.value(b), zero_a, origin)))
    y = n.emit(relax.op.multiply(*n.align(n.cast(total, "float32"), scale)))
    return relax.op.add(*n.align(y, n.x(bias))) if bias >= 0 and n.has(bias) else y


def _column_scale(n: Node, i: int) -> Any:
    """A scale of the whole matrix, as a scalar, or of each column."""
    v = n.value(i)
    one = v.rank == 0 or (v.rank == 1 and isinstance(v.shape[0], int) and v.shape[0] == 1)
    return _scalar(n, i) if one else n.x(i)


@op("DynamicQuantizeMatMul", domain=MS)
def dynamic_quantize_matmul(n: Node) -> Any:
    """A float32, B, b_scale, b_zero_point, bias"""
    q, scale, zero = dynamic_quantize_linear(n)
    factor = n.emit(relax.op.multiply(scale, _column_scale(n, 2)))
    return _scaled_product(n, q, 1, factor, zero, 3, 4)


@op("MatMulIntegerToFloat", domain=MS)
def matmul_integer_to_float(n: Node) -> Any:
    """A, B, a_scale, b_scale, a_zero_point, b_zero_point, bias"""
    factor = n.emit(relax.op.multiply(_scalar(n, 2), _column_scale(n, 3)))
    return _scaled_product(n, n.value(0), 1, factor, n.inputs[4] if n.has(4) else None, 5, 6)


@op("MatMulInteger16", domain=MS)
def matmul_integer16(n: Node) -> Any:
    """int16 × int16 with sums of int32, uint16 with uint32."""
    kind = "uint32" if n.dtype(0) == "uint16" and n.dtype(1) == "uint16" else "int32"
    return int_matmul(n, n.cast(n.x(0), kind), n.cast(n.x(1), kind))


@op("MulInteger", domain=MS)
def mul_integer(n: Node) -> Any:
    """A, A_zero_point, B, B_zero_point; int32"""
    _bytes_only(n, 0, 2)
    a, b = centred(n, 0, 1, -1), centred(n, 2, 3, -1)
    return relax.op.multiply(*n.align(a, b))


@op("ReduceSumInteger", domain=MS)
def reduce_sum_integer(n: Node) -> Any:
    _bytes_only(n, 0)
    kind = "uint32" if n.dtype(0) == "uint8" else "int32"
    rank = n.rank(0)
    axes = n.axes(n.ints_attr("axes", None) or list(range(rank)), rank)
    return reduce_te(n, n.cast(n.x(0), kind), axes, n.flag("keepdims", 1), lambda a, b: a + b, imm(0, kind), "total")


# ---- transformers


@op("QAttention", domain=MS)
def qattention(n: Node) -> Any:
    """input, weight [I, 3 H], bias, input_scale, weight_scale, mask_index, input_zero_point, weight_zero_point, past -> y, present: as
    Attention, its projection a product of integers."""
    _bytes_only(n, 0, 1)
    known = [n.value(i).const is not None for i in (1, 3, 4)]
    if all(known):
        x = _as_float(n, 0, 3, 6)
        w = n.expr_of(
            dequantize_linear(n.with_arguments(n.value(1), n.value(4), n.inputs[7] if n.has(7) else None, axis=1))
        )
        joint = product(n, x, w)
    else:
        factor = n.emit(relax.op.multiply(_scalar(n, 3), _column_scale(n, 4)))
        zero = n.inputs[6] if n.has(6) else None
        joint = n.expr_of(_scaled_product(n, n.value(0), 1, factor, zero, 7, -1))
    joint = n.emit(relax.op.add(*n.align(joint, n.x(2))))
    given = (n.inputs[i] if n.has(i) else None for i in (5, 8))
    return attention_of(n.with_arguments(None, None, None, *given), joint, "float32")


@op("QEmbedLayerNormalization", domain=MS)
def qembed_layer_normalization(n: Node) -> Any:
    """ids, segments?, five tables (word, position, segment?, gamma, beta), mask?, their scales, their zero points: as EmbedLayerNormalization"""
    _bytes_only(n, 2, 3, 5, 6)
    tables = [
        n.expr_of(dequantize_linear(n.with_arguments(n.value(i), n.value(i + 6), n.value(i + 11))))
        if n.has(i)
        else None
        for i in range(2, 7)
    ]
    segments, mask = (n.inputs[i] if n.has(i) else None for i in (1, 7))
    return embed_layer_normalization(n.with_arguments(n.value(0), segments, *tables, mask))
