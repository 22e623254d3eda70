"""Products and convolutions of integers as kernels on bytes: what ONNX's dynamically quantized models are made of.

What arrives is `matmul(q - zero, w - w_zero)` or `nn.conv2d` of the same in int32, in which q is bytes that a run quantized by their
range, mostly by `dynamic_quantize_u8`. The kernel takes the zero points in, then a cast to float32 behind it, then factors: numbers
for all, numbers for each output, and numbers that only a run knows, such as the scale of the activations. Bias and activation follow
as for every kernel (`fuse_epilogues`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import tvm
from tvm import relax

from ._dims import extent, extents, same, same_shape, shape_of, static_shape
from ._integers import Bytes, Weights, centred_bytes, known_integers, split_weights
from ._kernel_call import AttrValue, KernelCall, make_kernel_call, read_kernel_call, remake_kernel_call
from ._ops import constant, dtype_of, is_f32, reshape
from ._rewrite import Array, Rewriter, array_of, is_call, rewrite
from .lower_quantized import (
    MAX_DEPTH,
    QCONV_PACKING,
    QDEPTHWISE_PACKING,
    QGEMM_PACKING,
    conv_contract,
    groups_together,
    merge_groups,
)

__all__ = ["lower_integer_products"]

MAX_WIDE_TAPS = 256  # of a depthwise filter of bytes less a zero point: sums of so many products are exact in float32
_SCALE, _A_SCALE, _A_ZERO, _W_ZERO = 2, 5, 6, 7  # operands of products with weights
_PRODUCT_SCALE = 2  # of matmul_u8: scale, then a_zero and b_zero


def lower_integer_products(mod: tvm.IRModule) -> tvm.IRModule:
    return rewrite(mod, _lower)


def _lower(rw: Rewriter, var: relax.Var, value: relax.Expr) -> relax.Expr | None:
    if is_call(value, "relax.matmul") and dtype_of(value) == "int32":
        return _matmul(rw, var, value)
    if is_call(value, "relax.nn.conv2d") and dtype_of(value) == "int32":
        return _conv2d(rw, var, value)
    if is_call(value, "relax.astype") and is_f32(value):
        return _cast(rw, var, value)
    if is_call(value, "relax.multiply") and is_f32(value):
        return _multiply(rw, var, value)
    return None


# ---- the products


def _with_weights(
    contract: str,
    packing: str,
    var: relax.Var,
    x: Bytes,
    w: Weights,
    outputs: int,
    attrs: Mapping[str, AttrValue | int],
) -> relax.Call:
    zeros = None if w.zeros is None else constant(w.zeros)
    scale = constant(np.ones(outputs, np.float32))
    args = [x.q, constant(w.values), scale, None, None, None, x.operand, zeros]
    return make_kernel_call(contract, args, var.ty, {**attrs, "a_zero": x.attr}, packing=packing, name=str(var.name))


def _deepest(w: Weights) -> int:
    return MAX_DEPTH if w.zeros is None else MAX_DEPTH // 2


def _matmul(rw: Rewriter, var: relax.Var, value: relax.Call) -> relax.Expr | None:
    a, b = value.args
    if a.ty.ndim < 2 or b.ty.ndim < 2:
        return None
    x, known = centred_bytes(rw, a), known_integers(rw, b)
    if x is None:
        return None
    if known is None:
        return _product(rw, var, x, centred_bytes(rw, b))
    if known.ndim > a.ty.ndim or known.size != known.shape[-1] * known.shape[-2]:
        return None
    w = split_weights(known.reshape(known.shape[-2:]), 1)
    if w is None or known.shape[-2] > _deepest(w):
        return None
    k, n = w.values.shape
    return _with_weights("gemm_u8s8", QGEMM_PACKING, var, x, w, n, {"n": n, "k": k})


def _product(rw: Rewriter, var: relax.Var, a: Bytes, b: Bytes | None) -> relax.Expr | None:
    """Of two tensors that only a run knows."""
    if b is None:
        return None
    attrs = {"a_zero": a.attr, "b_zero": b.attr}
    return make_kernel_call("matmul_u8", [a.q, b.q, None, a.operand, b.operand], var.ty, attrs, name=str(var.name))


def _conv2d(rw: Rewriter, var: relax.Var, value: relax.Call) -> relax.Expr | None:
    attrs = value.attrs
    if str(attrs.data_layout) != "NHWC" or str(attrs.kernel_layout) != "OIHW":
        return None
    x, known = centred_bytes(rw, value.args[0]), known_integers(rw, value.args[1])
    w = None if known is None else split_weights(known, 0)
    if x is None or known is None or w is None:
        return None
    groups, contract = int(attrs.groups), conv_contract(known.shape, int(attrs.groups))
    wide = contract == "depthwise_conv2d_u8s8" and w.zeros is not None
    if wide and known[0].size <= MAX_WIDE_TAPS:
        w = Weights(known.astype(np.int16), None)
    elif wide:
        contract, wide = "conv2d_u8s8", False
    if contract is None or known[0].size * groups_together(known.shape, groups) > _deepest(w):
        return None
    if contract == "conv2d_u8s8":
        values, groups = merge_groups(w.values, groups, w.zeros)
        w = replace(w, values=values)
    out, depth, *kernel = w.values.shape
    strides, pads = [int(s) for s in attrs.strides], [int(p) for p in attrs.padding]
    if groups == 1 and kernel == [1, 1] and strides == [1, 1] and not any(pads):
        w = replace(w, values=w.values.reshape(out, depth))
        return _with_weights("gemm_u8s8", QGEMM_PACKING, var, x, w, out, {"n": out, "k": depth, "w_trans": 1})
    geometry: dict[str, AttrValue | int] = {
        "strides": strides,
        "pads": pads,
        "dilations": [int(d) for d in attrs.dilation],
    }
    geometry |= {"groups": groups, "kernel": kernel, "channels": [depth * groups, out]}
    if wide:
        geometry["w_wide"] = 1
    packing = QCONV_PACKING if contract == "conv2d_u8s8" else QDEPTHWISE_PACKING
    return _with_weights(contract, packing, var, x, w, out, geometry)


# ---- what follows them


@dataclass(frozen=True)
class _Product:
    """A product whose result an operator reads, perhaps through views, and nobody else; `shape`: of its own result."""

    call: KernelCall
    shape: relax.Expr

    def replaced(self, rw: Rewriter, var: relax.Var, call: KernelCall) -> relax.Expr:
        """`call`, which gives floats, in its place, as the value of `var`."""
        made = remake_kernel_call(call, relax.TensorType(self.shape, "float32"))
        return reshape(rw.emit(made, str(var.name)), extents(var))


def _product_behind(rw: Rewriter, expr: relax.Expr, dtype: str) -> _Product | None:
    """The product whose result of that type `expr` is, if nothing was fused behind it."""
    if not rw.single_use(expr) or dtype_of(expr) != dtype:
        return None
    while (view := rw.call(expr, "relax.reshape")) is not None:
        expr = view.args[0]
        if not rw.single_use(expr):
            return None
    call = read_kernel_call(rw.definition(expr))
    if call is None or "act" in call.attrs:
        return None
    weighted = call.contract in ("gemm_u8s8", "conv2d_u8s8", "depthwise_conv2d_u8s8")
    if call.contract != "matmul_u8" and not (weighted and all(arg is None for arg in call.args[3:5])):
        return None
    return _Product(call, expr.ty.shape)


def _cast(rw: Rewriter, var: relax.Var, value: relax.Call) -> relax.Expr | None:
    """The sums as float32."""
    product = _product_behind(rw, value.args[0], "int32")
    return None if product is None else product.replaced(rw, var, product.call)


@dataclass
class _Factors:
    """What a product is multiplied by: constants that broadcast, and numbers of a run."""

    constants: list[Array] = field(default_factory=list)
    numbers: list[relax.Expr] = field(default_factory=list)

    def add(self, rw: Rewriter, expr: relax.Expr) -> bool:
        """Whether `expr` is made of such."""
        array = array_of(expr)
        if array is not None:
            self.constants.append(array)
            return array.dtype == np.float32
        product = rw.call(expr, "relax.multiply")
        if product is not None:
            return all(self.add(rw, arg) for arg in product.args)
        view = rw.call(expr, "relax.reshape")
        if view is not None and shape_of(view.args[0]) == []:
            expr = view.args[0]
        shape = static_shape(expr)
        if shape is None or any(extent != 1 for extent in shape) or not is_f32(expr):
            return False
        self.numbers.append(expr)
        return True

    def number(self, rw: Rewriter, *others: relax.Expr | None) -> relax.Expr | None:
        """The product of a run's numbers, of rank 0."""
        result = None
        for expr in (*others, *self.numbers):
            if expr is not None:
                flat = rw.emit(reshape(expr, []))
                result = flat if result is None else rw.emit(relax.op.multiply(result, flat))
        return result


def _multiply(rw: Rewriter, var: relax.Var, value: relax.Call) -> relax.Expr | None:
    for operand, other in ((value.args[0], value.args[1]), (value.args[1], value.args[0])):
        product = _product_behind(rw, operand, "float32")
        if product is None or not same_shape(shape_of(operand), shape_of(var)):
            continue
        factors = _Factors()
        if not factors.add(rw, other):
            continue
        outputs = product.shape.values[-1]
        by_output = any(array.size != 1 for array in factors.constants)
        if by_output and not same(extents(operand)[-1], extent(outputs)):
            continue
        scaled = _scaled_product if product.call.contract == "matmul_u8" else _scaled_weights
        fused = scaled(rw, product.call, factors)
        if fused is not None:
            return product.replaced(rw, var, fused)
    return None


def _scaled_product(rw: Rewriter, call: KernelCall, factors: _Factors) -> KernelCall | None:
    if any(array.size != 1 for array in factors.constants):
        return None
    args = list(call.args) + [None] * (_PRODUCT_SCALE + 1 - len(call.args))
    attrs = dict(call.attrs)
    fixed = np.float32(1)
    for array in factors.constants:
        fixed = np.float32(fixed * array.reshape(-1)[0])
    if factors.numbers or args[_PRODUCT_SCALE] is not None:
        known = [constant(np.asarray(fixed))] if factors.constants else []
        args[_PRODUCT_SCALE] = factors.number(rw, args[_PRODUCT_SCALE], *known)
    else:
        before = call.attrs.get("scale", [1.0])
        attrs["scale"] = [float(np.float32(np.float32(before[0]) * fixed))]
    return replace(call, args=args, attrs=attrs)


def _scaled_weights(rw: Rewriter, call: KernelCall, factors: _Factors) -> KernelCall | None:
    args = list(call.args) + [None] * (_A_SCALE + 1 - len(call.args))
    scale = array_of(args[_SCALE])
    if scale is None:
        return None
    for array in factors.constants:
        if array.size != 1 and (array.size != scale.size or array.shape[-1] != scale.size):
            return None
        scale = (scale * array.reshape(-1)).astype(np.float32)
    args[_SCALE] = constant(np.ascontiguousarray(scale))
    if factors.numbers:
        args[_A_SCALE] = factors.number(rw, args[_A_SCALE])
    return replace(call, args=args)
