"""Convolutions and matrix products between quantized tensors, as kernels on 8-bit integers.

What arrives is ONNX's QDQ form: `op(dequantize(x), decode(w))`. A product of what both stand for is exact in the kernel, so
its result is at least as near to the formula as that of a float product. Weights stay `decode` calls of constants
until here; `lower_weights` sees those that no kernel took.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import tvm
from tvm import relax

from ..ir import read_encoded
from ._encoded import MOVES, encoded, moved_weights
from ._kernel_call import AttrValue, make_kernel_call, read_kernel_call
from ._ops import constant, dtype_of, is_f32, same_move
from ._rewrite import Array, Rewriter, array_of, is_call, rewrite, scalar_of
from .lower_convolutions import windows_of

__all__ = [
    "KERNELS",
    "MAX_DEPTH",
    "QCONV_PACKING",
    "QDEPTHWISE_PACKING",
    "QGEMM_PACKING",
    "conv_contract",
    "groups_together",
    "lower_quantized",
    "merge_groups",
    "unsigned_activations",
]

KERNELS = ("gemm_u8s8", "conv2d_u8s8", "depthwise_conv2d_u8s8", "matmul_u8")  # that give floats or 8 bits
QCONV_PACKING = "conv2d_u8s8_nr16_v2"
QGEMM_PACKING = "gemm_u8s8_nr16_v2"
QDEPTHWISE_PACKING = "depthwise_u8s8_c8_v1"
PANEL = 16  # outputs side by side in these packings
MAX_TAPS = 512  # of a depthwise filter: sums of so many products are exact in float32
MAX_DEPTH = 65536  # sums of so many products of 8 bits fit in 32


# ---- int8 activations as uint8
# ------------------------------------------------------------------------------------


def unsigned_activations(mod: tvm.IRModule) -> tvm.IRModule:
    """Activations of int8 that are only dequantized again as uint8: 128 more, and so is their zero point. And
    quantize(move(dequantize(q))) with the same scale and zero point as move(q), and moves of weights into them."""
    return rewrite(rewrite(mod, _unsigned), _move_before_dequantize)


def _unsigned(rw: Rewriter, var: relax.Var, value: relax.Expr) -> relax.Expr | None:
    if is_call(value, "relax.quantize") and dtype_of(var) == "int8" and scalar_of(value.args[1]) is not None:
        users = rw.users(var)
        if len(users) != rw.original_use_count(var) or not all(is_call(use, "relax.dequantize") for _, use in users):
            return None
        q = rw.emit(_requantized(value.args[0], value.args[1], value.args[2]), str(var.name))
        for user, use in users:
            if scalar_of(use.args[1]) is None:
                continue
            rw.alias(user, rw.emit(_dequantized(q, use.args[1], use.args[2]), str(user.name)))
        kept = [use for _, use in users if scalar_of(use.args[1]) is None]
        return None if kept else q
    return None


def _zero_plus_128(zero: relax.Expr) -> relax.Expr:
    value = array_of(zero)
    assert value is not None
    return constant((value.astype(np.int16) + 128).astype(np.uint8))


def _requantized(x: relax.Expr, scale: relax.Expr, zero: relax.Expr) -> relax.Expr:
    return relax.op.quantize(x, scale, _zero_plus_128(zero), axis=-1, out_dtype="uint8")


def _dequantized(q: relax.Expr, scale: relax.Expr, zero: relax.Expr) -> relax.Expr:
    return relax.op.dequantize(q, scale, _zero_plus_128(zero), axis=-1, out_dtype="float32")


def _move_before_dequantize(rw: Rewriter, var: relax.Var, value: relax.Expr) -> relax.Expr | None:
    if is_call(value, *MOVES):
        return moved_weights(rw, value)
    if not is_call(value, "relax.quantize") or scalar_of(value.args[1]) is None:
        return None
    moves: list[Callable[[relax.Expr], relax.Expr]] = []
    source = value.args[0]
    while (move := rw.call(source, *MOVES)) is not None:
        moves.append(same_move(move))
        source = move.args[0]
    inner = rw.definition(source)
    known = read_encoded(inner)
    if known is not None:
        q, parts = constant(known.values), [constant(known.scale), constant(known.zeros)]
    elif is_call(inner, "relax.dequantize"):
        q, *parts = inner.args
    else:
        return None
    if dtype_of(q) != dtype_of(var):
        return None
    if any(scalar_of(a) is None or scalar_of(a) != scalar_of(b) for a, b in zip(parts, value.args[1:])):
        return None
    if not _gives_back(np.float32(scalar_of(value.args[1]) or 0)):
        return None
    for move_too in reversed(moves):
        q = rw.emit(move_too(q), str(var.name))
    return q


def _gives_back(scale: np.float32) -> bool:
    """Whether quantizing what was dequantized by this scale gives the same number."""
    with np.errstate(over="ignore"):
        return bool(scale != 0 and np.isfinite(np.float32(255) * scale))


# ---- kernels
# -------------------------------------------------------------------------------------------------------


def lower_quantized(mod: tvm.IRModule) -> tvm.IRModule:
    return rewrite(mod, _lower)


@dataclass(frozen=True)
class _Weight:
    """int8 weights about 0, and the scale of each output channel (or one)."""

    values: Array
    scale: Array


def _weight(rw: Rewriter, expr: relax.Expr, axis: int) -> _Weight | None:
    """The weights behind `expr` if their scales run along `axis` (or are one) and int8 holds them without their zero point."""
    constant = encoded(rw, expr)
    own = None if constant is None else constant.at(axis % constant.values.ndim)
    if constant is None or own is None:
        return None
    scale, zero = own
    dims = [1] * constant.values.ndim
    if zero.ndim:
        dims[axis] = zero.size
    centred = constant.values.astype(np.int32) - zero.astype(np.int32).reshape(dims)
    if centred.size == 0 or centred.min() < -128 or centred.max() > 127:
        return None
    return _Weight(centred.astype(np.int8), scale)


@dataclass(frozen=True)
class _Activations:
    """A uint8 tensor, its scale, its zero point, and the largest value that it can hold."""

    q: relax.Expr
    scale: np.float32
    zero: int
    largest: int

    def attrs(self) -> dict[str, AttrValue | int]:
        return {"a_zero": self.zero, **({"a_max": self.largest} if self.largest < 255 else {})}


def _activations(rw: Rewriter, expr: relax.Expr) -> _Activations | None:
    """The tensor of 8 bits behind a float one: dequantized by one scale, and perhaps moved then (q is moved instead)."""
    moves: list[Callable[[relax.Expr], relax.Expr]] = []
    while (move := rw.call(expr, *MOVES)) is not None:
        moves.append(same_move(move))
        expr = move.args[0]
    call = rw.call(expr, "relax.dequantize")
    if call is None or dtype_of(call.args[0]) not in ("uint8", "int8") or array_of(call.args[0]) is not None:
        return None
    scale, zero = array_of(call.args[1]), array_of(call.args[2])
    if scale is None or zero is None or scale.size != 1:
        return None
    q, largest, offset = call.args[0], cap_of(rw, call.args[0]), int(zero.reshape(-1)[0])
    if dtype_of(q) == "int8":  # others read it, or it is an input: `unsigned_activations` left it
        wide = rw.emit(relax.op.add(rw.emit(relax.op.astype(q, "int16")), constant(np.asarray(128, np.int16))))
        q, largest, offset = rw.emit(relax.op.astype(wide, "uint8")), 255, offset + 128
    for move_too in reversed(moves):
        q = rw.emit(move_too(q))
    return _Activations(q, np.float32(scale.reshape(-1)[0]), offset, largest)


def cap_of(rw: Rewriter, q: relax.Expr) -> int:
    """The largest value of a uint8 tensor, as far as its definition says: minimum(q, c), perhaps moved or pooled."""
    while True:
        move, kernel = rw.call(q, *MOVES), read_kernel_call(rw.definition(q))
        if move is not None:
            q = move.args[0]
        elif kernel is not None and kernel.contract == "max_pool2d_u8":
            q = kernel.args[0]
        else:
            break
    capped = rw.call(q, "relax.minimum")
    bound = scalar_of(capped.args[1]) if capped is not None else None
    return 255 if bound is None else int(bound)


def _lower(rw: Rewriter, var: relax.Var, value: relax.Expr) -> relax.Expr | None:
    if is_call(value, "relax.nn.conv2d") and is_f32(value):
        return _conv2d(rw, var, value)
    if is_call(value, "relax.matmul") and is_f32(value):
        return _matmul(rw, var, value)
    if is_call(value, "relax.nn.max_pool2d") and is_f32(value):
        return _max_pool(rw, var, value)
    if is_call(value, "relax.quantize"):
        return _quantize(rw, var, value)
    if is_call(value, "relax.minimum") and dtype_of(var) == "uint8":
        return _capped_behind(rw, var, value)
    if is_call(value, *MOVES):
        return moved_weights(rw, value)
    return None


def _scales(x: np.float32, w: _Weight, n: int) -> relax.Expr:
    return constant(np.ascontiguousarray(np.broadcast_to(x * w.scale, (n,)).astype(np.float32)))


def conv_contract(shape: Sequence[int], groups: int) -> str | None:
    """The kernel for int8 filters [O, I, kernel...]; None where there is none. Planes of a volume become channels."""
    out, depth, *kernel = shape
    if len(kernel) == 3:
        depth, kernel = depth * kernel[0], kernel[1:]
    taps = math.prod(kernel)
    if depth == 1 and out == groups and taps <= MAX_TAPS:
        return "depthwise_conv2d_u8s8"
    together = groups_together([out, depth, *kernel], groups)
    # With few outputs a group, each would be a panel.
    return "conv2d_u8s8" if depth * together * taps <= MAX_DEPTH and out // groups * together >= 4 else None


def groups_together(shape: Sequence[int], groups: int) -> int:
    """How many groups make one whose outputs fill a panel of the packing as well as can be."""
    out, depth, *kernel = shape
    max_groups = min(PANEL // max(1, out // groups), MAX_DEPTH // max(1, depth * math.prod(kernel)))
    return max((n for n in range(1, max_groups + 1) if groups % n == 0), default=1)


def merge_groups(weights: Array, groups: int, zeros: Array | None = None) -> tuple[Array, int]:
    """Filters of a grouped convolution for fewer groups: zero points (`zeros` of each output, else 0) where a filter does not see a
    channel. The sums are the same, exactly, and a panel of 16 outputs that was a quarter full takes as long as a full one."""
    n = groups_together(weights.shape, groups)
    if n == 1:
        return weights, groups
    out, depth, *kernel = weights.shape
    per_group = out // groups
    own = weights.reshape(groups // n, n, per_group, depth, *kernel)
    wide = np.zeros((groups // n, n, per_group, n, depth, *kernel), weights.dtype)
    if zeros is not None:
        wide += zeros.reshape(groups // n, n, per_group, 1, 1, *[1] * len(kernel))
    for i in range(n):
        wide[:, i, :, i] = own[:, i]
    return wide.reshape(out, n * depth, *kernel), groups // n


def _conv2d(rw: Rewriter, var: relax.Var, value: relax.Call) -> relax.Expr | None:
    attrs = value.attrs
    x, weight = _activations(rw, value.args[0]), _weight(rw, value.args[1], 0)
    if x is None or weight is None or str(attrs.data_layout) != "NHWC" or str(attrs.kernel_layout) != "OIHW":
        return None
    q, scale, values, groups = x.q, x.scale, weight.values, int(attrs.groups)
    contract = conv_contract(values.shape, groups)
    if contract is None:
        return None
    if contract == "conv2d_u8s8":
        values, groups = merge_groups(values, groups)
    out, depth, *kernel = values.shape
    strides, pads = [int(s) for s in attrs.strides], [int(p) for p in attrs.padding]
    common = x.attrs()
    if groups == 1 and kernel == [1, 1] and strides == [1, 1] and not any(pads):
        matrix = constant(values.reshape(out, depth))
        args = [q, matrix, _scales(scale, weight, out)]
        common |= {"n": out, "k": depth, "w_trans": 1}
        return make_kernel_call("gemm_u8s8", args, var.ty, common, packing=QGEMM_PACKING, name=str(var.name))
    common |= {"strides": strides, "pads": pads, "dilations": [int(d) for d in attrs.dilation]}
    common |= {"groups": groups, "kernel": kernel, "channels": [depth * groups, out]}
    args = [q, constant(values), _scales(scale, weight, out)]
    packing = QCONV_PACKING if contract == "conv2d_u8s8" else QDEPTHWISE_PACKING
    return make_kernel_call(contract, args, var.ty, common, packing=packing, name=str(var.name))


def _matmul(rw: Rewriter, var: relax.Var, value: relax.Call) -> relax.Expr | None:
    if value.args[0].ty.ndim < 2:
        return None
    x, weight = _activations(rw, value.args[0]), _weight(rw, value.args[1], 1)
    if x is None:
        return None
    if weight is None and encoded(rw, value.args[1]) is None:
        return _product(rw, var, value, x)
    if weight is None or weight.values.ndim != 2:
        return None
    k, n = weight.values.shape
    if k > MAX_DEPTH:
        return None
    args = [x.q, constant(weight.values), _scales(x.scale, weight, n)]
    attrs = {"n": n, "k": k, **x.attrs()}
    return make_kernel_call("gemm_u8s8", args, var.ty, attrs, packing=QGEMM_PACKING, name=str(var.name))


def _product(rw: Rewriter, var: relax.Var, value: relax.Call, x: _Activations) -> relax.Expr | None:
    """A product of two tensors that only a run knows, as in attention."""
    other = _activations(rw, value.args[1]) if value.args[1].ty.ndim >= 2 else None
    if other is None:
        return None
    attrs = {"a_zero": x.zero, "b_zero": other.zero, "scale": float(x.scale * other.scale)}
    return make_kernel_call("matmul_u8", [x.q, other.q], var.ty, attrs, name=str(var.name))


def _max_pool(rw: Rewriter, var: relax.Var, value: relax.Call) -> relax.Expr | None:
    """max_pool(dequantize(q)) as dequantize(max_pool(q)): which element is the largest does not change."""
    x, attrs = _activations(rw, value.args[0]), value.attrs
    if x is None or not x.scale > 0 or str(attrs.layout) != "NHWC":
        return None
    if any(int(p) for p in attrs.padding) and any(int(d) != 1 for d in attrs.dilation):
        return None  # a window may see padding alone: then the largest is no number of 8 bits
    ty = relax.TensorType(var.ty.shape, "uint8")
    name = str(var.name)
    q = rw.emit(make_kernel_call("max_pool2d_u8", [x.q], ty, windows_of(value), name=name), name)
    zero = constant(np.asarray(x.zero, np.uint8))
    return relax.op.dequantize(q, constant(np.asarray(x.scale)), zero, axis=-1, out_dtype="float32")


def _quantize(rw: Rewriter, var: relax.Var, value: relax.Call) -> relax.Expr | None:
    """Before what only moves or selects, so that this happens to bytes."""
    for rule in (_move_before_dequantize, _moved_behind, _pooled_behind, _joined_behind):
        result = rule(rw, var, value)
        if result is not None:
            return result
    return None


def _moved_behind(rw: Rewriter, var: relax.Var, value: relax.Call) -> relax.Expr | None:
    """quantize(move(x)) as move(quantize(x)), where x comes from a kernel on 8 bits, which then quantizes: bytes are moved."""
    moves: list[Callable[[relax.Expr], relax.Expr]] = []
    x = value.args[0]
    while (move := rw.call(x, *MOVES, "relax.strided_slice")) is not None and rw.single_use(x):
        moves.append(same_move(move))
        x = move.args[0]
    if not moves or scalar_of(value.args[1]) is None or not _ends_in_kernel(rw, x):
        return None
    q = rw.emit(relax.op.quantize(x, *value.args[1:], axis=-1, out_dtype=dtype_of(var)), str(var.name))
    for move_too in reversed(moves):
        q = rw.emit(move_too(q), str(var.name))
    return q


def _joined_behind(rw: Rewriter, var: relax.Var, value: relax.Call) -> relax.Expr | None:
    """quantize(concat(x, ...)) as concat(quantize(x), ...), where one of them was quantized before."""
    join = rw.call(value.args[0], "relax.concat")
    if join is None or scalar_of(value.args[1]) is None or not rw.single_use(value.args[0]):
        return None
    parts = list(join.args[0].fields) if isinstance(join.args[0], relax.Tuple) else []
    if all(rw.call(part, "relax.dequantize") is None for part in parts):
        return None
    dtype, name = dtype_of(var), str(var.name)
    bytes_ = [rw.emit(relax.op.quantize(part, *value.args[1:], axis=-1, out_dtype=dtype), name) for part in parts]
    return relax.op.concat(bytes_, None if join.attrs.axis is None else int(join.attrs.axis))


def _pooled_behind(rw: Rewriter, var: relax.Var, value: relax.Call) -> relax.Expr | None:
    """quantize(max_pool(x)) as max_pool(quantize(x)), where x comes from a kernel on 8 bits, which then quantizes."""
    pool, scale = rw.call(value.args[0], "relax.nn.max_pool2d"), scalar_of(value.args[1])
    if pool is None or scale is None or not scale > 0 or dtype_of(var) != "uint8" or not rw.single_use(value.args[0]):
        return None
    if str(pool.attrs.layout) != "NHWC" or not _ends_in_kernel(rw, pool.args[0]):
        return None
    q = rw.emit(relax.op.quantize(pool.args[0], *value.args[1:], axis=-1, out_dtype="uint8"), str(var.name))
    return make_kernel_call("max_pool2d_u8", [q], var.ty, windows_of(pool), name=str(var.name))


def _capped_behind(rw: Rewriter, var: relax.Var, value: relax.Call) -> relax.Expr | None:
    """minimum(max_pool(q), c) as max_pool(minimum(q, c)): the kernel before takes the bound in."""
    pool, source = read_kernel_call(rw.definition(value.args[0])), value.args[0]
    if pool is None or pool.contract != "max_pool2d_u8" or not rw.single_use(source):
        return None
    if scalar_of(value.args[1]) is None:
        return None
    capped = rw.emit(relax.op.minimum(pool.args[0], value.args[1]), str(var.name))
    return make_kernel_call(pool.contract, [capped], var.ty, pool.attrs, name=pool.name)


def _ends_in_kernel(rw: Rewriter, x: relax.Expr) -> bool:
    """Whether nobody else reads `x`, and it is a product of 8 bits or that with operators of constants alone behind it (a bias, an
    activation): then the kernel probably quantizes."""
    while rw.single_use(x):
        kernel, step = read_kernel_call(rw.definition(x)), rw.call(x)
        if kernel is not None:
            return kernel.contract in KERNELS
        if step is None or not step.args:
            return False
        if any(array_of(arg) is None for arg in step.args[1:] if isinstance(arg.ty, relax.TensorType)):
            return False
        x = step.args[0]
    return False
