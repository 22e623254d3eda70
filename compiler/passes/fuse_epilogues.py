"""Bias, residual and activation into the kernel call whose result they change."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tvm
from tvm import relax

from ._activations import recognise
from ._dims import Dim, same_shape, shape_of
from ._kernel_call import KernelCall, make_kernel_call, read_kernel_call
from ._ops import constant, is_f32
from ._rewrite import Array, Rewriter, array_of, is_call, rewrite, scalar_of

__all__ = ["fuse_epilogues"]

# contract -> (position of the bias, position of the residual or None)
_SLOTS: dict[str, tuple[int, int | None]] = {
    "gemm_f32": (2, 3),
    "matmul_f32": (2, None),
    "conv2d_f32": (2, 3),
    "depthwise_conv2d_f32": (2, 3),
    "conv_transpose2d_f32": (2, None),
}


def fuse_epilogues(mod: tvm.IRModule) -> tvm.IRModule:
    return rewrite(mod, _fuse)


def _fuse(rw: Rewriter, var: relax.Var, value: relax.Expr) -> relax.Expr | None:
    if not is_call(value) or not is_f32(value):
        return None
    if is_call(value, "relax.add"):
        return _add(rw, var, value)
    if is_call(value, "relax.multiply", "relax.divide"):
        scaled = _alpha(rw, value)
        if scaled is not None:
            return scaled
    found = recognise(rw, value)
    if found is None or not same_shape(shape_of(found.source), shape_of(var)):
        return None
    call = _kernel(rw, found.source, found.occurrences)
    if call is None:
        return None
    before = call.attrs.get("act", "none")
    if before == "relu" and found.act == "clip" and found.args[0] <= 0.0 < found.args[1]:  # min(relu(x), c)
        return _again(call, var, act="clip", act_args=[0.0, found.args[1]])
    if before != "none" or call.attrs.get("residual_after") == [1]:
        return None
    if found.act == "clip" and not all(map(math.isfinite, found.args)):
        return None
    if found.args:
        return _again(call, var, act=found.act, act_args=found.args)
    return _again(call, var, act=found.act)


def _kernel(rw: Rewriter, expr: relax.Expr, uses: int = 1) -> KernelCall | None:
    """The kernel call that defines `expr`, if it has an epilogue and `expr` is used so often at most."""
    call = read_kernel_call(rw.definition(expr)) if isinstance(expr, tvm.ir.Var) else None
    return call if call is not None and call.contract in _SLOTS and rw.use_count(expr) <= uses else None


def _again(call: KernelCall, var: relax.Var, args: list[relax.Expr | None] | None = None, **attrs: Any) -> relax.Call:
    """The same call with other arguments or attributes, as the value of `var`."""
    return make_kernel_call(
        call.contract,
        call.args if args is None else args,
        var.ty,
        {**call.attrs, **attrs},
        packing=call.packing,
        name=call.name,
    )


def _slot(call: KernelCall, place: int) -> list[relax.Expr | None] | None:
    """The call's arguments, long enough for an argument at `place` if that is free."""
    args = list(call.args) + [None] * (place + 1 - len(call.args))
    return args if args[place] is None else None


def _add(rw: Rewriter, var: relax.Var, value: relax.Call) -> relax.Expr | None:
    for source, other in ((value.args[0], value.args[1]), (value.args[1], value.args[0])):
        call = _kernel(rw, source)
        if call is None or not same_shape(shape_of(source), shape_of(var)):
            continue
        fused = _bias(call, var, other) if array_of(other) is not None else _residual(rw, call, var, source, other)
        if fused is not None:
            return fused
    return None


def _bias(call: KernelCall, var: relax.Var, other: relax.Expr) -> relax.Expr | None:
    shape, vector = shape_of(var), array_of(other)
    bias, residual = _SLOTS[call.contract]
    args = _slot(call, bias)
    if args is None or vector is None or call.attrs.get("act", "none") != "none":
        return None
    if residual is not None and _slot(call, residual) is None:
        return None
    row = _row(vector, shape)
    if row is None:
        return None
    args[bias] = constant(row)
    return _again(call, var, args)


def _row(vector: Array, shape: list[Dim] | None) -> Array | None:
    """A constant that broadcasts along the last axis only, as a vector of it."""
    if shape is None or not isinstance(shape[-1], int) or vector.ndim > len(shape) or vector.dtype != np.float32:
        return None
    if vector.size not in (1, shape[-1]) or (vector.size > 1 and vector.shape[-1] != vector.size):
        return None
    return np.ascontiguousarray(np.broadcast_to(vector.reshape(-1), (shape[-1],)))


def _residual(
    rw: Rewriter, call: KernelCall, var: relax.Var, source: relax.Expr, other: relax.Expr
) -> relax.Expr | None:
    place = _SLOTS[call.contract][1]
    args = None if place is None else _slot(call, place)
    if (
        place is None
        or args is None
        or not same_shape(shape_of(other), shape_of(var))
        or other.same_as(source)
        or not is_f32(other)
    ):
        return None
    if _feeds_norm_only(rw, var):
        return None
    args[place] = other
    return _again(call, var, args, residual_after=int(call.attrs.get("act", "none") != "none"))


def _feeds_norm_only(rw: Rewriter, var: relax.Var) -> bool:
    """Whether a sum goes into a norm and nowhere else: then the norm adds, while it reads the row anyway."""
    users = rw.users(var)
    if len(users) != 1:
        return False
    call = read_kernel_call(users[0][1])
    return (
        call is not None
        and call.contract in ("layer_norm_f32", "rms_norm_f32")
        and (len(call.args) < 4 or call.args[3] is None)
    )


def _alpha(rw: Rewriter, value: relax.Call) -> relax.Expr | None:
    """A number times a product of two tensors."""
    source, factor = value.args[0], scalar_of(value.args[1])
    if factor is None and is_call(value, "relax.multiply"):
        source, factor = value.args[1], scalar_of(value.args[0])
    call = _kernel(rw, source) if factor else None
    if call is None or call.contract != "matmul_f32" or len(call.args) > 2 or "act" in call.attrs or not factor:
        return None
    before = call.attrs.get("alpha", [1.0])
    alpha = float(before[0]) * (factor if is_call(value, "relax.multiply") else 1.0 / factor)
    return make_kernel_call(call.contract, call.args, source.ty, {**call.attrs, "alpha": alpha}, name=call.name)
