"""The numbers that generated functions take beside tensors, in an order that every compile gives them, and the functions' names.

TVM's legalization hands over the sizes that no tensor shows from a set, in the order of addresses; so the same operator became one function or
two, from one process to the next, and the file other bytes. Here they follow the first use in the function's shapes, equal functions become
one, and names count in order of use.
"""

from __future__ import annotations

import re
from typing import Any

import tvm
from tvm import relax, tirx
from tvm.tirx.analysis import undefined_vars

from ._rewrite import Rewriter, is_call, rewrite

__all__ = ["order_sizes"]


def order_sizes(mod: tvm.IRModule) -> tvm.IRModule:
    """`mod` itself where no function takes several numbers."""
    orders = {gvar: _order(func) for gvar, func in mod.functions_items() if isinstance(func, tirx.PrimFunc)}
    if all(len(order) < 2 for order in orders.values()):
        return mod
    bare = {gvar.name_hint for gvar in orders}
    builder = relax.BlockBuilder()  # makes equal functions one, and names that there are already end in a number
    renamed: dict[Any, tvm.ir.GlobalVar] = {}

    def named(gvar: tvm.ir.GlobalVar) -> tvm.ir.GlobalVar:
        """The function that stands for this one."""
        if gvar not in renamed:
            cut = re.sub(r"\d+$", "", gvar.name_hint)
            func = _permuted(mod[gvar], orders[gvar])
            renamed[gvar] = builder.add_func(func, cut if cut in bare else gvar.name_hint)
        return renamed[gvar]

    def rule(_: Rewriter, __: relax.Var, value: relax.Expr) -> relax.Expr | None:
        if not is_call(value, "relax.call_tir", "relax.call_tir_inplace"):
            return None
        gvar, fields = value.args[0], list(value.args[1].fields)
        order = orders[gvar]
        if order:
            numbers = fields[-len(order) :]
            fields[-len(order) :] = [numbers[i] for i in order]
        args = [named(gvar), relax.Tuple(fields), *value.args[2:]]
        return tvm.ir.Call(value.op, args, value.attrs, list(value.ty_args), value.span)

    called = rewrite(mod, rule)
    out = builder.get()
    for gvar, func in called.functions_items():
        if gvar not in orders:
            out[gvar] = func
    return out.with_attrs(mod.attrs) if mod.attrs else out


def _numbers(func: tirx.PrimFunc) -> list[Any]:
    """The parameters that are no tensors. They stand behind the inputs, before the outputs."""
    return [param for param in func.params if not tirx.is_buffer_var(param)]


def _order(func: tirx.PrimFunc) -> list[int]:
    """Which of the function's numbers comes at each place: in the order in which its shapes and then its body use them first."""
    numbers = _numbers(func)
    if len(numbers) < 2:
        return list(range(len(numbers)))
    places: dict[Any, int] = {}
    shapes = [extent for param in func.params if tirx.is_buffer_var(param) for extent in param.ty.shape]
    for node in (*shapes, func.body):
        for var in undefined_vars(node):
            places.setdefault(var, len(places))
    return sorted(range(len(numbers)), key=lambda i: places.get(numbers[i], len(places)))


def _permuted(func: tirx.PrimFunc, order: list[int]) -> tirx.PrimFunc:
    if order == sorted(order):
        return func
    numbers = _numbers(func)
    moved = iter([numbers[i] for i in order])
    params = [param if tirx.is_buffer_var(param) else next(moved) for param in func.params]
    return tirx.PrimFunc(params, func.body, func.ret_type, func.attrs, func.span)
