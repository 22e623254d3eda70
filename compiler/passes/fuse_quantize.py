"""quantize behind a kernel on 8-bit integers into the kernel: between such layers no float tensor is written."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import tvm
from tvm import relax

from ._dims import same_shape, shape_of, shape_of_type
from ._kernel_call import read_kernel_call, remake_kernel_call
from ._ops import dtype_of, reshape
from ._quantized_sums import summed
from ._rewrite import Rewriter, array_of, is_call, rewrite, scalar_of
from .lower_quantized import KERNELS

__all__ = ["fuse_quantize"]


def fuse_quantize(mod: tvm.IRModule) -> tvm.IRModule:
    return rewrite(mod, _fuse)


def _cap(rw: Rewriter, var: relax.Var, value: relax.Call) -> relax.Expr | None:
    """minimum(kernel's uint8, c): the kernel stops at c."""
    bound, source = scalar_of(value.args[1]), value.args[0]
    call = read_kernel_call(rw.definition(source)) if rw.single_use(source) else None
    if bound is None or call is None or call.contract not in KERNELS or "y_max" in call.attrs:
        return None
    return remake_kernel_call(replace(call, attrs={**call.attrs, "y_max": [int(bound)]}), source.ty)


def _fuse(rw: Rewriter, var: relax.Var, value: relax.Expr) -> relax.Expr | None:
    if is_call(value, "relax.minimum") and dtype_of(var) == "uint8":
        return _cap(rw, var, value)
    if not is_call(value, "relax.quantize") or dtype_of(var) not in ("uint8", "int8"):
        return None
    scale, zero, source = array_of(value.args[1]), array_of(value.args[2]), value.args[0]
    if scale is None or zero is None or scale.size != 1 or not rw.single_use(source):
        return None
    while (view := rw.call(source, "relax.reshape")) is not None:
        source = view.args[0]
        if not rw.single_use(source):
            return None
    number, zero_point = np.float32(scale.reshape(-1)[0]), int(zero.reshape(-1)[0])
    with np.errstate(all="ignore"):
        usable = number > 0 and np.isfinite(number) and np.isfinite(np.float32(1) / number)
    if not usable:
        return None
    call = read_kernel_call(rw.definition(source))
    if call is None:
        return summed(rw, var, source, float(number), zero_point)
    if call.contract not in KERNELS:
        return None
    attrs = {**call.attrs, "y_scale": [float(number)], "y_zero": [zero_point]}
    ty = relax.TensorType(source.ty.shape, dtype_of(var))
    fused = remake_kernel_call(replace(call, attrs=attrs), ty)
    if same_shape(shape_of_type(ty), shape_of(var)):
        return fused
    return reshape(rw.emit(fused, str(var.name)), shape_of(var) or [])
