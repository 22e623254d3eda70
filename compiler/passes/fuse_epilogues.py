"""Bias, residual and activation into the kernel call whose result they change."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import tvm
from tvm import relax

from .._contracts import contract_of
from ._activations import recognise
from ._dims import extents, same, same_shape, shape_of, shape_of_type
from ._kernel_call import AttrValue, KernelCall, read_kernel_call, remake_kernel_call
from ._ops import constant, finite_f32, is_f32, reshape, row_of
from ._rewrite import Rewriter, array_of, is_call, rewrite, scalar_of
from .fuse_residual_norms import residual_of_norm

__all__ = ["fuse_epilogues"]


def fuse_epilogues(mod: tvm.IRModule) -> tvm.IRModule:
    return rewrite(mod, _fuse)


@dataclass(frozen=True)
class _Source:
    """A kernel call whose result an operator reads, perhaps through views; `ty`: of the kernel's own result."""

    call: KernelCall
    ty: relax.TensorType

    @property
    def act(self) -> AttrValue:
        return self.call.attrs.get("act", "none")

    def slot(self, place: int | None) -> list[relax.Expr | None] | None:
        """The call's arguments, long enough for an argument at `place`, if there is that place and it is free."""
        if place is None:
            return None
        args = list(self.call.args) + [None] * (place + 1 - len(self.call.args))
        return args if args[place] is None else None

    def with_changes(
        self, rw: Rewriter, var: relax.Var, args: list[relax.Expr | None] | None = None, **attrs: Any
    ) -> relax.Expr:
        """The same call with other arguments or attributes, as the value of `var`."""
        call = replace(self.call, attrs={**self.call.attrs, **attrs})
        fused = remake_kernel_call(call if args is None else replace(call, args=args), self.ty)
        if same_shape(shape_of_type(self.ty), shape_of(var)):
            return fused
        return reshape(rw.emit(fused, str(var.name)), extents(var))


def _source(rw: Rewriter, expr: relax.Expr, uses: int = 1) -> _Source | None:
    """The kernel call that defines `expr`, if it has an epilogue and `expr` is used so often at most."""
    if not isinstance(expr, tvm.ir.Var) or rw.use_count(expr) > uses:
        return None
    while (view := rw.call(expr, "relax.reshape")) is not None:
        expr = view.args[0]
        if not rw.single_use(expr):
            return None
    call = read_kernel_call(rw.definition(expr))
    return _Source(call, expr.ty) if call is not None and contract_of(call.contract).has_epilogue else None


def _fuse(rw: Rewriter, var: relax.Var, value: relax.Expr) -> relax.Expr | None:
    if not is_call(value) or not is_f32(value):
        return None
    if is_call(value, "relax.add"):
        return _add(rw, var, value)
    if is_call(value, "relax.multiply", "relax.divide"):
        scaled = _alpha(rw, var, value)
        if scaled is not None:
            return scaled
    found = recognise(rw, value)
    if found is None or not same_shape(shape_of(found.source), shape_of(var)):
        return None
    source = _source(rw, found.source, found.occurrences)
    if source is None:
        return None
    if source.act == "relu" and found.act == "clip" and found.args[0] <= 0.0 < found.args[1]:  # min(relu(x), c)
        return source.with_changes(rw, var, act="clip", act_args=[0.0, found.args[1]])
    if source.act != "none" or source.call.attrs.get("residual_after") == [1]:
        return None
    if found.act == "clip" and not all(map(math.isfinite, found.args)):
        return None
    if found.args:
        return source.with_changes(rw, var, act=found.act, act_args=found.args)
    return source.with_changes(rw, var, act=found.act)


def _add(rw: Rewriter, var: relax.Var, value: relax.Call) -> relax.Expr | None:
    for operand, other in ((value.args[0], value.args[1]), (value.args[1], value.args[0])):
        source = _source(rw, operand)
        if source is None or not same_shape(shape_of(operand), shape_of(var)):
            continue
        if array_of(other) is not None:
            fused = _bias(rw, source, var, other)
        else:
            fused = None if other.same_as(operand) else _residual(rw, source, var, other)
        if fused is not None:
            return fused
    return None


def _bias(rw: Rewriter, source: _Source, var: relax.Var, other: relax.Expr) -> relax.Expr | None:
    """A constant per column; of a view only if its last axis is the kernel's."""
    place = contract_of(source.call.contract).bias
    shape, args = shape_of(var), source.slot(place)
    row = row_of(other, shape)
    if place is None or args is None or row is None or source.act != "none":
        return None
    if not same(len(row), shape_of_type(source.ty)[-1]):
        return None
    args[place] = constant(row)
    return source.with_changes(rw, var, args)


def _residual(rw: Rewriter, source: _Source, var: relax.Var, other: relax.Expr) -> relax.Expr | None:
    place = contract_of(source.call.contract).residual
    args = source.slot(place)
    if place is None or args is None or not same_shape(shape_of(other), shape_of(var)) or not is_f32(other):
        return None
    if _feeds_norm_only(rw, var):
        return None
    args[place] = rw.emit(reshape(other, shape_of_type(source.ty)))
    return source.with_changes(rw, var, args, residual_after=int(source.act != "none"))


def _feeds_norm_only(rw: Rewriter, var: relax.Var) -> bool:
    """Whether a sum goes into a norm and nowhere else: then the norm adds, while it reads the row anyway."""
    users = rw.users(var)
    if len(users) != 1:
        return False
    call = read_kernel_call(users[0][1])
    place = residual_of_norm(call)
    return call is not None and place is not None and len(call.args) <= place


def _alpha(rw: Rewriter, var: relax.Var, value: relax.Call) -> relax.Expr | None:
    """A number times a product of two tensors."""
    operand, factor = value.args[0], scalar_of(value.args[1])
    if factor is None and is_call(value, "relax.multiply"):
        operand, factor = value.args[1], scalar_of(value.args[0])
    source = _source(rw, operand) if factor else None
    if source is None or not factor or not same_shape(shape_of(operand), shape_of(var)):
        return None
    if source.call.contract != "matmul_f32" or len(source.call.args) > 2 or source.act != "none":
        return None
    before = source.call.attrs.get("alpha", [1.0])
    alpha = float(before[0]) * (factor if is_call(value, "relax.multiply") else 1.0 / factor)
    return source.with_changes(rw, var, alpha=alpha) if finite_f32(alpha) else None
