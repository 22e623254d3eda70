"""Quantized models as they come: QDQ, QLinear*, ConvInteger, MatMulInteger, DynamicQuantizeLinear. Exact in integers first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import relax, te, tirx

from .... import ir
from .._exprs import constant, dims_of, dtype_of, shape_expr
from .._node import Node
from .._registry import op
from .._stored import STORED, from_storage, is_code
from .._values import Value, bits_of, is_float, is_int, is_signed, numpy_dtype
from ._te import elementwise, imm, is_nan
from .cast import decode, encode
from .nn import convolution, product, window_attrs, window_pads

_VERSIONS = [10, 13, 19, 21, 23, 24, 25, 28]


def integer_range(dtype: str) -> tuple[int, int]:
    bits = bits_of(dtype)
    return (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if is_signed(dtype) else (0, (1 << bits) - 1)


def _parameter(n: Node, x: Any, p: Any, axis: int, block: int) -> Any:
    """A scale or zero point as a tensor that broadcasts against x: per tensor, per axis, or per block of an axis."""
    dims, have = dims_of(x), dims_of(p)
    if not have or (have == (1,) and not block):
        return n.reshape(p, []) if have else p
    if len(have) == 1 and not block:
        axis = n.axis(axis, len(dims))
        n.math.require_same(have[0], dims[axis])
        return n.reshape(p, [d if i == axis else 1 for i, d in enumerate(dims)])
    if not block or len(have) != len(dims):
        raise n.broken(f"has a scale of shape {list(have)} for data of rank {len(dims)}")
    axis = n.axis(axis, len(dims))

    def body(t: Any, out: Any) -> Any:
        def element(*i: Any) -> Any:
            return t(*[tirx.floordiv(k, block) if a == axis else k for a, k in enumerate(i)])

        return te.compute(out, element, name="blocks")

    return n.te(body, p, shape_expr(dims), name="blocks")


def _check_parameters(n: Node) -> None:
    """A scale for the tensor, or one for each index of the axis, or one for each block of it; and as many zero points."""
    scale, block = n.shape(1), n.int_attr("block_size", 0)
    axis = n.axis(n.int_attr("axis", 1), n.rank(0)) if len(scale) > 1 or block else 0
    if len(scale) > (n.rank(0) if block else 1):
        raise n.broken(f"has a scale of shape {list(scale)} for data of rank {n.rank(0)}")
    if block and len(scale) == n.rank(0):
        for a, (have, extent) in enumerate(zip(scale, n.shape(0), strict=True)):
            n.math.require_same(have, n.math.ceildiv(extent, block) if a == axis else extent)
    if n.has(2) and not (n.shape(2) in ((), (1,)) and scale in ((), (1,))):
        if len(n.shape(2)) != len(scale):
            raise n.broken(f"has a zero point of shape {list(n.shape(2))} for a scale of shape {list(scale)}")
        for a, b in zip(n.shape(2), scale, strict=True):
            n.math.require_same(a, b)


def _constants(n: Node, dtype: str, axis: int) -> tuple[Any, Any] | None:
    """Scale (float32) and zero point where the passes can read them: known, one or one for each index of an axis."""
    scale = n.value(1).const
    zero = n.value(2).const if n.has(2) else np.zeros((), numpy_dtype(dtype))
    if scale is None or zero is None or scale.dtype.itemsize > 4 or str(zero.dtype) != dtype:
        return None
    scale, zero = scale.astype(np.float32), zero.astype(STORED.get(dtype, dtype))
    if scale.size == 1 and zero.size == 1:
        return constant(scale.reshape(())), constant(zero.reshape(()))
    extent = n.shape(0)[n.axis(axis, n.rank(0))] if scale.ndim == 1 and n.rank(0) else None
    if extent != scale.size or zero.shape not in ((), scale.shape):
        return None
    return constant(scale), constant(np.ascontiguousarray(np.broadcast_to(zero, scale.shape)))


def _known_dequantized(n: Node) -> Any | None:
    """Input 0 by scales and zero points that are known, as the passes can read it."""
    axis, block = n.int_attr("axis", 1), n.int_attr("block_size", 0)
    out = n.dtype_attr("output_dtype") if n.int_attr("output_dtype", 0) else n.dtype(1)
    if out not in ("float32", "float16", "bfloat16"):
        return None
    if block:
        y = _known_blocks(n, axis, block)
        return None if y is None else n.cast(y, out)
    known = _constants(n, n.dtype(0), axis)
    if known is None:
        return None
    axis = n.axis(axis, n.rank(0)) if known[0].ty.ndim else -1
    return n.cast(_dequantized(n, 0, known, axis), out)


def _dequantized(n: Node, i: int, parameters: tuple[Any, Any], axis: int) -> Any:
    """Input i by a scale and a zero point, or those of each index of `axis`."""
    return n.emit(ir.encoded_dequantize(relax.op.dequantize(n.x(i), *parameters, axis=axis, out_dtype="float32")))


def _known_blocks(n: Node, axis: int, block: int) -> Any | None:
    """A constant that is quantized in blocks."""
    x, scale = n.value(0).const, n.value(1).const
    zero = n.value(2).const if n.has(2) else np.zeros(n.shape(1), numpy_dtype(n.dtype(0)))
    if x is None or scale is None or zero is None or x.dtype.itemsize != 1 or not is_float(n.dtype(1)):
        return None
    axis = n.axis(axis, x.ndim)
    wanted = tuple(-(-d // block) if a == axis else d for a, d in enumerate(x.shape))
    if scale.shape != wanted or zero.shape != wanted or n.dtype(1) == "float64":
        return None
    kind = STORED.get(n.dtype(0), n.dtype(0))
    return n.emit(ir.Encoded(x.astype(kind), scale.astype(np.float32), zero.astype(kind), axis, block).call())


@op("DequantizeLinear", since=_VERSIONS)
@op("DequantizeLinear", domain="com.microsoft")
def dequantize_linear(n: Node) -> Any:
    _check_parameters(n)
    if n.dtype(0) in ("int8", "uint8", "int32", "int4", "uint4", "int2", "uint2"):
        known = _known_dequantized(n)
        if known is not None:
            return known
    x = decode(n, n.x(0), n.dtype(0))
    axis, block = n.int_attr("axis", 1), n.int_attr("block_size", 0)
    scale = _parameter(n, x, decode(n, n.x(1), n.dtype(1)), axis, block)
    out = n.dtype_attr("output_dtype") if n.int_attr("output_dtype", 0) else n.dtype(1)
    if out in STORED:
        raise n.refuse(f"to {out}")
    exact = is_code(n.dtype(0)) or dtype_of(x) == "int32" or (is_int(dtype_of(x)) and bits_of(dtype_of(x)) <= 16)
    wide = "float32" if exact else "float64"
    if n.has(2):
        zero = _parameter(n, x, decode(n, n.x(2), n.dtype(2)), axis, block)
        if is_code(n.dtype(0)):
            return elementwise(n, lambda v, s, z: tirx.Cast(out, (v - z) * tirx.Cast("float32", s)), x, scale, zero)
        return elementwise(
            n,
            lambda v, s, z: tirx.Cast(out, tirx.Cast(wide, tirx.Cast("int64", v) - tirx.Cast("int64", z)) * tirx.Cast(wide, s)),
            x, scale, zero,
        )  # fmt: skip
    return elementwise(n, lambda v, s: tirx.Cast(out, tirx.Cast(wide, v) * tirx.Cast(wide, s)), x, scale)


@op("QuantizeLinear", since=_VERSIONS)
@op("QuantizeLinear", domain="com.microsoft")
def quantize_linear(n: Node) -> Any:
    _check_parameters(n)
    x = n.x(0)
    if n.int_attr("output_dtype", 0):
        dtype = n.dtype_attr("output_dtype", stored=True)
    else:
        dtype = n.dtype(2) if n.has(2) else "uint8"
    if not is_int(dtype) and not is_code(dtype):
        raise n.refuse(f"to {dtype}")
    axis, block = n.int_attr("axis", 1), n.int_attr("block_size", 0)
    folded = _quantized_constant(n, dtype, axis, block)
    if folded is not None:
        return folded
    known = None
    f32 = dtype_of(x) == "float32" and n.dtype(1) == "float32"
    # A constant that was not folded has numbers that are none.
    constant_x = n.value(0).const is not None
    if dtype in ("int8", "uint8") and f32 and not constant_x and not block and not n.int_attr("precision", 0):
        known = _constants(n, dtype, axis)
    if known is not None and known[0].ty.ndim == 0:
        return n.emit(relax.op.quantize(x, *known, axis=-1, out_dtype=dtype))
    scale = _parameter(n, x, decode(n, n.x(1), n.dtype(1)), axis, block)
    precision = n.dtype_attr("precision") if n.int_attr("precision", 0) else ""
    if precision not in ("", "float64", "float32", "float16", "bfloat16"):
        raise n.broken(f"divides in precision {precision}, expected a floating-point type")
    if is_code(dtype):
        return _quantize_float(n, x, scale, axis, block, precision, dtype)
    zero = constant(np.zeros((), STORED.get(dtype, dtype)))
    if n.has(2):
        zero = _parameter(n, x, n.x(2), axis, block)
    out = _quantize(n, x, scale, zero, dtype, precision)
    return Value(dtype, dims_of(out), expr=out, origin=n.place) if dtype in STORED else out


def _quantized_constant(n: Node, dtype: str, axis: int, block: int) -> Any | None:
    """Weights that a model quantizes at every run, as models from quantization-aware training do, quantized here."""
    x, scale = n.value(0).const, n.value(1).const
    zero = n.value(2).const if n.has(2) else np.zeros((), numpy_dtype(dtype))
    if x is None or scale is None or zero is None or is_code(dtype) or n.int_attr("precision", 0):
        return None
    if x.dtype != np.float32 or scale.dtype != np.float32 or bits_of(dtype) > 16:
        return None
    low, high = integer_range(dtype)
    with np.errstate(all="ignore"):
        q = np.rint(x / _broadcast_constant(n, scale, x.shape, axis, block)) + _broadcast_constant(
            n, zero, x.shape, axis, block
        ).astype(np.float32)
    if np.isnan(q).any():
        return None
    kind = STORED.get(dtype, dtype)
    out = np.clip(q, low, high).astype(kind)
    return Value.of_array(from_storage(out, dtype) if dtype in STORED else out, n.place)


def _broadcast_constant(
    n: Node, p: npt.NDArray[Any], shape: tuple[int, ...], axis: int, block: int
) -> npt.NDArray[Any]:
    """A constant scale or zero point so that it broadcasts against data of this shape."""
    if p.size == 1 and not (block and p.ndim == len(shape)):
        return p.reshape(())
    axis = n.axis(axis, len(shape))
    if not block:
        if p.shape != (shape[axis],):
            raise n.broken(f"has a scale of shape {list(p.shape)} for data of shape {list(shape)}")
        return p.reshape([d if a == axis else 1 for a, d in enumerate(shape)])
    if p.shape != tuple(-(-d // block) if a == axis else d for a, d in enumerate(shape)):
        raise n.broken(f"has a scale of shape {list(p.shape)} for blocks of {block} in data of shape {list(shape)}")
    out: npt.NDArray[Any] = np.take(p, np.arange(shape[axis]) // block, axis=axis)
    return out


def _quotient(x: Any, scale: Any, precision: str) -> Callable[[Any, Any], Any]:
    """Their division in the wider of their types, at least float32; rounded to `precision` where the node asks for one."""
    wide = "float64" if dtype_of(x) in ("float64", "int32") or dtype_of(scale) == "float64" else "float32"
    if precision in ("", wide):
        return lambda v, s: tirx.Cast(wide, v) / tirx.Cast(wide, s)
    via = "float64" if precision == "float64" else "float32"

    def quotient(v: Any, s: Any) -> Any:
        v, s = (tirx.Cast(via, tirx.Cast(precision, t)) for t in (v, s))
        return tirx.Cast(wide, tirx.Cast(precision, v / s))

    return quotient


def _quantize(n: Node, x: Any, scale: Any, zero: Any, dtype: str, precision: str = "") -> Any:
    low, high = integer_range(dtype)
    quotient = _quotient(x, scale, precision)

    def element(v: Any, s: Any, z: Any) -> Any:
        divided = quotient(v, s)
        wide = str(divided.ty.dtype)
        q = tirx.nearbyint(divided) + tirx.Cast(wide, z)
        clipped = tirx.max(imm(low, wide), tirx.min(imm(high, wide), q))
        # ONNX's text says nothing of NaN; its reference and ONNX Runtime have the lowest.
        clipped = tirx.Select(is_nan(q), imm(low, wide), clipped)
        return tirx.Cast(STORED.get(dtype, dtype), tirx.Cast("int64", clipped))

    return elementwise(n, element, x, scale, zero)


def _quantize_float(n: Node, x: Any, scale: Any, axis: int, block: int, precision: str, dtype: str) -> Value:
    """To float8 or float4: the quotient, plus the zero point if it is not 0, rounded once."""
    y = elementwise(n, _quotient(x, scale, precision), x, scale, name="scaled")
    if n.has(2):
        zero = _parameter(n, x, decode(n, n.x(2), n.dtype(2)), axis, block)
        kind = dtype_of(y)
        y = elementwise(n, lambda v, z: tirx.Select(z == imm(0, "float32"), v, v + tirx.Cast(kind, z)), y, zero)
    return encode(n, y, dtype, saturate=n.flag("saturate", 1))


@op("DynamicQuantizeLinear", since=11)
def dynamic_quantize_linear(n: Node) -> Any:
    return dynamic_quantized(n, n.x(0))


def dynamic_quantized(n: Node, x: Any) -> list[Any]:
    """x as uint8 by its own range, the scale and the zero point."""
    call = n.emit(ir.dynamic_quantize(x, place=n.place))
    return [n.emit(relax.TupleGetItem(call, k)) for k in range(3)]


# ---- integer products


def centred(n: Node, i: int, zero: int, axis: int, kind: str = "int32") -> Any:
    """Input i minus its zero point, in int32. A zero point of rank 1 runs along `axis`."""
    x = n.x(i)
    if not n.has(zero) or _all_zero(n.value(zero).const):
        return n.cast(x, kind)
    z = n.x(zero)
    dims, have = dims_of(x), dims_of(z)
    if len(have) == 1 and not (isinstance(have[0], int) and have[0] == 1):
        z = n.reshape(z, [d if a == axis % len(dims) else 1 for a, d in enumerate(dims)])
    elif len(have) == 1:
        z = n.reshape(z, [])
    return n.emit(relax.op.subtract(n.cast(x, kind), n.cast(z, kind)))


def _all_zero(value: Any) -> bool:
    return value is not None and not value.any()


def int_matmul(n: Node, a: Any, b: Any) -> Any:
    """numpy.matmul of integer tensors: the form in which lower_integer_products knows a product of two `centred` operands."""
    return product(n, a, b)


@op("MatMulInteger", since=10)
def matmul_integer(n: Node) -> Any:
    return int_matmul(n, centred(n, 0, 2, -2), centred(n, 1, 3, -1))


def _operand(n: Node, i: int, axis: int) -> tuple[Any, Any] | None:
    """Scale and zero point of the quantized input i, which are the inputs behind it: constants, one or one for each index of `axis`."""
    scale, zero = n.value(i + 1).const, n.value(i + 2).const
    if scale is None or zero is None or scale.dtype != np.float32 or n.dtype(i) not in ("uint8", "int8"):
        return None
    extent = n.shape(i)[axis] if axis >= 0 else 1
    if scale.size not in (1, extent) or zero.size not in (1, scale.size):
        return None
    if scale.size == 1:
        return constant(scale.reshape(())), constant(zero.reshape(()))
    return constant(scale.reshape(-1)), constant(np.broadcast_to(zero.reshape(-1), (scale.size,)))


def _held_by_int8(n: Node, i: int) -> bool:
    """Whether the weights at input i are constants that int8 holds when their zero point is taken from them."""
    w, zero = n.value(i).const, n.value(i + 2).const
    if w is None or zero is None or w.size == 0 or w.dtype.itemsize != 1:
        return False
    low, high = int(w.min()) - int(zero.max()), int(w.max()) - int(zero.min())
    return low >= -128 and high <= 127


def _as_qdq(n: Node, weight_axis: int, y: tuple[int, int], layer: Callable[[Any, Any, Any], Any]) -> Any | None:
    """layer(x, w, scales) between dequantize and quantize, the form that the kernels on 8-bit integers are made from; None where a
    scale comes at run time, or where they do not hold the weights. `y`: the inputs with the result's scale and zero point."""
    x, w = _operand(n, 0, -1), _operand(n, 3, weight_axis)
    scale, zero = n.value(y[0]).const, n.value(y[1]).const
    if x is None or w is None or not _held_by_int8(n, 3) or scale is None or zero is None:
        return None
    if scale.size != 1 or zero.size != 1 or scale.dtype != np.float32:
        return None
    a = n.emit(relax.op.dequantize(n.x(0), *x, axis=-1, out_dtype="float32"))
    b = _dequantized(n, 3, w, weight_axis if w[0].ty.ndim else -1)
    out = layer(a, b, n.value(1).const.reshape(()) * n.value(4).const.reshape(-1))  # type: ignore[union-attr]
    parameters = constant(scale.reshape(())), constant(zero.reshape(()))
    return n.emit(relax.op.quantize(out, *parameters, axis=-1, out_dtype=n.dtype(y[1])))


@op("QLinearMatMul", since=[10, 21])
def qlinear_matmul(n: Node) -> Any:
    """a, a_scale, a_zero_point, b, b_scale, b_zero_point, y_scale, y_zero_point"""
    if n.rank(0) >= 2 and n.rank(3) == 2:
        known = _as_qdq(n, 1, (6, 7), lambda a, b, _: n.emit(relax.op.matmul(a, b)))
        if known is not None:
            return known
    a = centred(n, 0, 2, -2)
    b = centred(n, 3, 5, -1)
    y = int_matmul(n, a, b)
    sa, sb, sy = (_row_scale(n, i, axis, len(dims_of(y))) for i, axis in ((1, -2), (4, -1), (6, -2)))
    zy = _row_scale(n, 7, -2, len(dims_of(y)))
    return _requantize(n, y, sa, sb, sy, zy, n.dtype(7))


def _row_scale(n: Node, i: int, axis: int, rank: int) -> Any:
    s = n.x(i)
    dims = dims_of(s)
    if len(dims) != 1 or (isinstance(dims[0], int) and dims[0] == 1):
        return n.reshape(s, []) if len(dims) == 1 else s
    return n.reshape(s, [dims[0] if a == axis % rank else 1 for a in range(rank)])


def _requantize(n: Node, y: Any, sa: Any, sb: Any, sy: Any, zy: Any, dtype: str) -> Any:
    low, high = integer_range(dtype)
    f = "float32" if is_float(dtype_of(sa)) else dtype_of(sa)

    def element(v: Any, a: Any, b: Any, s: Any, z: Any) -> Any:
        scaled = tirx.Cast(f, v) * (tirx.Cast(f, a) * tirx.Cast(f, b) / tirx.Cast(f, s))
        q = tirx.nearbyint(scaled) + tirx.Cast(f, z)
        return tirx.Cast(dtype, tirx.Cast("int64", tirx.max(imm(low, f), tirx.min(imm(high, f), q))))

    return elementwise(n, element, y, sa, sb, sy, zy, name="requantize")


def _int_conv(n: Node, x: Any, w: Any) -> Any:
    weight = dims_of(w)
    rank = len(weight) - 2
    kernel = n.ints_attr("kernel_shape", list(weight[2:]))
    strides, dilations = window_attrs(n, rank, kernel)
    before, after = window_pads(n, dims_of(x)[2:], kernel, strides, dilations)
    groups = n.int_attr("group", 1)
    n.math.require_same(dims_of(x)[1], weight[1] * groups)
    return convolution(n, x, w, strides, before, after, dilations, groups)


def _qdq_conv(n: Node, x: Any, w: Any, scales: Any, groups: int) -> Any:
    """The float convolution of dequantized operands, and its bias, whose scale is the product of theirs."""
    weight = dims_of(w)
    kernel = n.ints_attr("kernel_shape", list(weight[2:]))
    strides, dilations = window_attrs(n, 2, kernel)
    before, after = window_pads(n, dims_of(x)[2:], kernel, strides, dilations)
    n.math.require_same(dims_of(x)[1], weight[1] * groups)
    y = convolution(n, x, w, strides, before, after, dilations, groups)
    if not n.has(8):
        return y
    scale = constant(np.ascontiguousarray(np.broadcast_to(scales, (weight[0],)).astype(np.float32)))
    zeros = constant(np.zeros(weight[0], np.int32))
    bias = n.emit(relax.op.dequantize(n.x(8), scale, zeros, axis=0, out_dtype="float32"))
    return n.emit(relax.op.add(y, n.reshape(bias, [1, weight[0], 1, 1])))


@op("ConvInteger", since=10)
def conv_integer(n: Node) -> Any:
    return _int_conv(n, centred(n, 0, 2, 1), centred(n, 1, 3, 0))


@op("QLinearConv", since=10)
def qlinear_conv(n: Node) -> Any:
    """x, x_scale, x_zero_point, w, w_scale, w_zero_point, y_scale, y_zero_point, B"""
    groups = n.int_attr("group", 1)
    if (
        n.rank(0) == 4
        and n.rank(3) == 4
        and groups > 0
        and n.value(3).const is not None
        and n.shape(3)[0] // groups >= 4
    ):
        known = _as_qdq(n, 0, (6, 7), lambda x, w, scales: _qdq_conv(n, x, w, scales, groups))
        if known is not None:
            return known
    y = _int_conv(n, centred(n, 0, 2, 1), centred(n, 3, 5, 0))
    rank = len(dims_of(y))
    if n.has(8):
        bias = n.reshape(n.x(8), [1, dims_of(n.x(8))[0], *([1] * (rank - 2))])
        y = elementwise(n, lambda v, b: v + tirx.Cast("int32", b), y, bias, name="bias")
    sx, sw, sy, zy = (_row_scale(n, i, 1, rank) for i in (1, 4, 6, 7))
    return _requantize(n, y, sx, sw, sy, zy, n.dtype(7))
