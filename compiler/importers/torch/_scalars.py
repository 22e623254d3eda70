"""Numbers that a graph computes from sizes: symbolic integers stay TIR expressions, floats and bools become tensors of rank 0."""

from __future__ import annotations

from typing import Any

import sympy
import torch
from torch.utils._sympy import functions as tf
from tvm import relax

from ._context import Context, Expr
from ._registry import NotConvertible

__all__ = ["is_scalar", "value"]


def is_scalar(result: Any) -> bool:
    return isinstance(result, (int, float, bool, torch.SymInt, torch.SymFloat, torch.SymBool))


def value(c: Context, result: Any) -> Any:
    """The value of a node whose result is a number: a number, a TIR expression, or a tensor of rank 0 (float64 or bool)."""
    if isinstance(result, (bool, int, float)):
        return result
    if isinstance(result, torch.SymInt):
        number = _truth_as_number(c, result.node.expr)
        return c.dim(result) if number is None else number
    expression = result.node.expr
    return _real(c, expression) if isinstance(result, torch.SymFloat) else _truth(c, expression)


def _truth_as_number(c: Context, expression: Any) -> Any:
    """1 or 0 for a truth that `item` read, as torch writes int(truth); None for anything else."""
    if not isinstance(expression, sympy.Piecewise) or len(expression.args) != 2:
        return None
    (one, holds), (zero, _) = expression.args
    read = c.scalar_tensors.get(str(holds))
    if (one, zero) != (1, 0) or read is None or len(holds.free_symbols) != 1:
        return None
    number = c.bind_symbol(next(iter(holds.free_symbols)), read, c.node.name if c.node is not None else "truth")
    c.symbols.define_as(expression, number)
    return number


def _real(c: Context, expression: Any) -> Expr:
    """A float64 tensor of rank 0."""
    if isinstance(expression, (sympy.Number, sympy.NumberSymbol)):
        return c.const(float(expression), "float64")
    if str(expression) in c.scalar_tensors:
        return c.cast(c.scalar_tensors[str(expression)], "float64")
    if expression.is_integer and not isinstance(expression, _REAL_OF_INTEGERS):
        return c.tensor(c.symbols.convert(expression), "float64")
    if isinstance(expression, tf.ToFloat):
        return _real(c, expression.args[0])
    handler = next((h for kind, h in _HANDLERS.items() if isinstance(expression, kind)), None)
    if handler is None:
        raise NotConvertible(f"the number {expression}")
    arguments = [_real(c, argument) for argument in expression.args]
    total = arguments[0] if len(arguments) > 1 else handler(arguments[0])
    for argument in arguments[1:]:
        total = c.emit(handler(total, argument))
    return total if len(arguments) > 1 else c.emit(total)


def _truth(c: Context, expression: Any) -> Expr:
    """A bool tensor of rank 0."""
    if expression in (sympy.true, sympy.false):
        return c.const(bool(expression), "bool")
    if str(expression) in c.scalar_tensors:
        return c.cast(c.scalar_tensors[str(expression)], "bool")
    if isinstance(expression, sympy.Not):
        return c.emit(relax.op.logical_not(_truth(c, expression.args[0])))
    if isinstance(expression, (sympy.And, sympy.Or)):
        combine = relax.op.logical_and if isinstance(expression, sympy.And) else relax.op.logical_or
        total = _truth(c, expression.args[0])
        for argument in expression.args[1:]:
            total = c.emit(combine(total, _truth(c, argument)))
        return total
    compare = next((h for kind, h in _COMPARISONS.items() if isinstance(expression, kind)), None)
    if compare is None:
        raise NotConvertible(f"the condition {expression}")
    sides = expression.args
    if all(side.is_integer for side in sides):
        return c.emit(compare(*[c.tensor(_within(c.symbols.convert(side)), "int64") for side in sides]))
    return c.emit(compare(*[_real(c, side) for side in sides]))


def _within(side: Any) -> Any:
    """A bound that torch multiplied beyond 64 bits as the nearest number that a size can be compared with."""
    return min(max(side, -(2**63)), 2**63 - 1) if isinstance(side, int) else side


_REAL_OF_INTEGERS = (tf.ToFloat, tf.IntTrueDiv)
_HANDLERS: dict[Any, Any] = {
    sympy.Add: relax.op.add,
    sympy.Mul: relax.op.multiply,
    sympy.Pow: relax.op.power,
    tf.FloatPow: relax.op.power,
    tf.IntTrueDiv: relax.op.divide,
    tf.FloatTrueDiv: relax.op.divide,
    tf.OpaqueUnaryFn_sqrt: relax.op.sqrt,
    tf.OpaqueUnaryFn_exp: relax.op.exp,
    tf.OpaqueUnaryFn_log: relax.op.log,
    tf.Max: relax.op.maximum,
    tf.Min: relax.op.minimum,
}
_COMPARISONS: dict[Any, Any] = {
    sympy.Eq: relax.op.equal,
    sympy.Ne: relax.op.not_equal,
    sympy.StrictLessThan: relax.op.less,
    sympy.LessThan: relax.op.less_equal,
    sympy.StrictGreaterThan: relax.op.greater,
    sympy.GreaterThan: relax.op.greater_equal,
}
