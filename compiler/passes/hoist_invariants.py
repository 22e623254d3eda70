"""What a loop computes anew in each iteration though nothing of it changes is computed once, in front of the loop.

A decoder that attends to an encoder's output projects the same output in every step. Only expensive operators move, with what they
need, and what follows from them at no larger size: a filled or broadcast tensor is cheaper where it is used, since there it is fused.
An operator that can fail (a gather checks its indices) stays where it may not run.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import relax, tirx
from tvm.tirx.analysis import undefined_vars

from ..ir._loops import is_loop, read_loop_mark
from ._dims import same_shape, shape_of
from ._kernel_call import read_kernel_call
from ._ops import names
from ._rewrite import is_call

__all__ = ["hoist_invariants"]

_EXPENSIVE = names(
    "matmul permute_dims nn.conv1d nn.conv2d nn.conv3d nn.conv1d_transpose nn.conv2d_transpose nn.conv3d_transpose nn.attention "
    "nn.attention_bias nn.softmax nn.layer_norm sum mean max min variance"
)
_CHEAP = names(
    "add subtract multiply divide maximum minimum negative abs exp log sqrt rsqrt tanh sigmoid erf clip astype reshape expand_dims "
    "squeeze nn.relu nn.gelu nn.silu dequantize"
) | {"maas.decode", "maas.round_to_bytes", "maas.widen"}


def hoist_invariants(mod: tvm.IRModule) -> tvm.IRModule:
    """Behind canonicalise: a function with loops has one block of plain bindings in each sequence."""
    out = mod.clone()
    for gvar, func in mod.functions_items():
        if isinstance(func, relax.Function):
            outer = _symbols([param.ty for param in func.params])
            body, moved = _sequence(func.body, outer)
            if moved:
                out.update_func(
                    gvar, relax.Function(func.params, body, func.ret_ty, func.is_pure, func.attrs, func.span)
                )
    return out


def _sequence(seq: relax.SeqExpr, outer: set[tirx.Var]) -> tuple[relax.SeqExpr, int]:
    """The sequence with what moves out of its loops in front of them, and how much that is; `outer` symbols have values before it."""
    known, bindings, count = set(outer), [], 0
    loop_aliases: dict[
        relax.Var, set[relax.Var]
    ] = {}  # what stands for a loop, by each of the names for what its body takes
    for block in seq.blocks:
        for binding in block.bindings:
            value = binding.value
            if read_loop_mark(value) is not None:
                loop_aliases[binding.var] = {binding.var}
            elif isinstance(value, relax.TupleGetItem) and value.tuple_value in loop_aliases:
                loop_aliases[binding.var] = loop_aliases[value.tuple_value]
                loop_aliases[binding.var].add(binding.var)
            if isinstance(binding, relax.MatchCast):
                known |= _symbols([binding.ty])
            elif isinstance(value, relax.If):
                first, in_first = _sequence(value.true_branch, known)
                second, in_second = _sequence(value.false_branch, known)
                moved: list[relax.Binding] = []
                if is_loop(value):
                    first, moved = _split_invariants(first, known, loop_aliases[value.cond])
                if moved or in_first or in_second:
                    rebuilt_if = relax.If(value.cond, first, second)
                    relax.expr._update_type(rebuilt_if, value.ty)
                    bindings += moved
                    binding = relax.VarBinding(binding.var, rebuilt_if)
                    count += len(moved) + in_first + in_second
            bindings.append(binding)
    return (_new_sequence(bindings, seq.body), count) if count else (seq, 0)


def _new_sequence(bindings: list[relax.Binding], body: relax.Expr) -> relax.SeqExpr:
    seq = relax.SeqExpr([relax.BindingBlock(bindings)], body)
    relax.expr._update_type(seq, body.ty)
    return seq


def _split_invariants(
    body: relax.SeqExpr, known: set[tirx.Var], carried: set[relax.Var]
) -> tuple[relax.SeqExpr, list[relax.Binding]]:
    """A loop's body without what may stand in front of the loop, and that, in order; `carried`: what the body takes."""
    bindings = [binding for block in body.blocks for binding in block.bindings]
    if any(isinstance(binding.var, relax.DataflowVar) for binding in bindings):
        return body, []
    inside = {binding.var for binding in bindings} | carried
    steady: dict[relax.Var, relax.Binding] = {}
    late: set[relax.Var] = set()  # steady, and made of what is expensive
    for binding in bindings:
        var, value = binding.var, binding.value
        if isinstance(binding, relax.MatchCast) or not _may_move(value):
            continue
        needs = relax.analysis.free_vars(value)
        if any(each in inside and each not in steady for each in needs) or not _symbols_of(value, var.ty) <= known:
            continue
        steady[var] = binding
        if _is_expensive(value) or (any(each in late for each in needs) and _no_larger(value, var)):
            late.add(var)
    wanted = set(late)
    for binding in reversed(bindings):
        if binding.var in wanted:
            wanted.update(each for each in relax.analysis.free_vars(binding.value) if each in steady)
    if not wanted:
        return body, []
    moved = [binding for binding in bindings if binding.var in wanted]
    return _new_sequence([binding for binding in bindings if binding.var not in wanted], body.body), moved


def _may_move(value: relax.Expr) -> bool:
    return _is_expensive(value) or is_call(value, *_CHEAP) or isinstance(value, relax.TupleGetItem)


def _is_expensive(value: relax.Expr) -> bool:
    call = read_kernel_call(value)
    return is_call(value, *_EXPENSIVE) or (call is not None and call.contract != "gather")


def _no_larger(value: relax.Expr, var: relax.Var) -> bool:
    if isinstance(value, relax.TupleGetItem) or is_call(value, "relax.reshape", "relax.expand_dims", "relax.squeeze"):
        return True
    return any(same_shape(shape_of(arg), shape_of(var)) for arg in value.args if isinstance(arg.ty, relax.TensorType))


def _symbols_of(value: relax.Expr, ty: Any) -> set[tirx.Var]:
    shapes = [arg.ty for arg in value.args if isinstance(arg, relax.ShapeExpr)] if isinstance(value, relax.Call) else []
    return _symbols([ty, *shapes])


def _symbols(types: list[Any]) -> set[tirx.Var]:
    """The symbols that the extents of these types name."""
    found: set[tirx.Var] = set()
    for ty in types:
        if isinstance(ty, tvm.ir.TupleType):
            found |= _symbols(list(ty.fields))
            continue
        shape = ty.shape if isinstance(ty, relax.TensorType) else ty
        for extent in (
            getattr(shape, "values", None) or [] if isinstance(shape, (relax.ShapeExpr, relax.ShapeType)) else []
        ):
            found.update(undefined_vars(extent))
    return found
