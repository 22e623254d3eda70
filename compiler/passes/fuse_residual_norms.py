"""A sum into the norm that follows it: the norm's residual input, and its second output where the sum is used again."""

from __future__ import annotations

from dataclasses import replace

import tvm
from tvm import relax

from .._contracts import contract_of
from ._dims import same_shape, shape_of
from ._kernel_call import KernelCall, read_kernel_call, remake_kernel_call
from ._ops import is_f32
from ._rewrite import Rewriter, array_of, is_call, rewrite

__all__ = ["fuse_residual_norms", "residual_of_norm"]


def residual_of_norm(call: KernelCall | None) -> int | None:
    """Where a kernel takes the other operand of a sum that it begins with, and can give the sum as well; None: it does not."""
    if call is None:
        return None
    contract = contract_of(call.contract)
    return None if contract.has_epilogue else contract.residual


def fuse_residual_norms(mod: tvm.IRModule) -> tvm.IRModule:
    return rewrite(mod, _fuse)


def _fuse(rw: Rewriter, var: relax.Var, value: relax.Expr) -> relax.Expr | None:
    """At the sum: look ahead to a norm of it whose vectors are known here, and put the norm in the sum's place."""
    if not is_call(value, "relax.add") or not is_f32(value) or rw.branching:
        return None
    a, b = value.args
    if not same_shape(shape_of(a), shape_of(var)) or not same_shape(shape_of(b), shape_of(var)):
        return None
    if array_of(a) is not None or array_of(b) is not None:
        return None
    for user, expr in rw.users(var):
        call = read_kernel_call(expr)
        place = residual_of_norm(call)
        if call is None or place is None or not isinstance(call.args[0], tvm.ir.Var) or not call.args[0].same_as(var):
            continue
        vectors = [None if arg is None else rw.mapped(arg) for arg in call.args[1:place]]
        if len(call.args) > place or any(
            new is None and arg is not None for new, arg in zip(vectors, call.args[1:], strict=True)
        ):
            continue
        args = [a, *vectors, *[None] * (place - 1 - len(vectors)), b]
        fused = replace(call, args=args)
        if len(rw.users(var)) == 1 and rw.original_use_count(var) == 1:
            out = rw.emit(remake_kernel_call(fused, user.ty), str(user.name))
            rw.alias(user, out)
            return out  # the sum itself has no other use
        both = rw.emit(remake_kernel_call(fused, [user.ty, var.ty]), str(user.name))
        rw.alias(user, rw.emit(relax.TupleGetItem(both, 0), str(user.name)))
        return relax.TupleGetItem(both, 1)
    return None
