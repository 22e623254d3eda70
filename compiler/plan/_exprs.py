"""Shape expressions of the plan: a pool of records, each once, made from TVM's integer expressions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tvm
import tvm_ffi
from tvm import tirx
from tvm.sym import Analyzer

from maas_rt._errors import CompileError
from maas_rt._plan import Expr, ExprOp

__all__ = ["ExprPool", "computed"]

_BINARY: dict[type[Any], ExprOp] = {
    tirx.Add: ExprOp.ADD,
    tirx.Sub: ExprOp.SUB,
    tirx.Mul: ExprOp.MUL,
    tirx.FloorDiv: ExprOp.FLOORDIV,
    tirx.FloorMod: ExprOp.FLOORMOD,
    tirx.Min: ExprOp.MIN,
    tirx.Max: ExprOp.MAX,
    tirx.EQ: ExprOp.EQ,
    tirx.LT: ExprOp.LT,
    tirx.LE: ExprOp.LE,
    tirx.And: ExprOp.LOGICAL_AND,
    tirx.Or: ExprOp.LOGICAL_OR,
}
_I64 = (-(2**63), 2**63 - 1)


class ExprPool:
    """The plan's expressions. `bind` says what a symbolic variable stands for; `lower` makes the records of an expression."""

    def __init__(self) -> None:
        self.exprs: list[Expr] = []
        self._index: dict[tuple[int, int, int], int] = {}
        self._vars: dict[Any, int] = {}
        self._known: list[tuple[Any, int]] = []
        self._analyzer = Analyzer()

    def const(self, value: int) -> int:
        if not _I64[0] <= value <= _I64[1]:
            raise CompileError(f"a dimension of the model computes {value}, which does not fit 64 bits")
        return self._add(ExprOp.CONSTANT, value, 0)

    def symbol(self, index: int) -> int:
        return self._add(ExprOp.SYMBOL, index, 0)

    def product(self, factors: list[int]) -> int:
        result = self.const(1)
        for factor in factors:
            result = self._fold(ExprOp.MUL, result, factor)
        return result

    def bind(self, var: tirx.Var, expr: int, *, minimum: int = 0) -> None:
        """From here on `var` means the expression of index `expr`; `minimum` lets simplification use a lower bound."""
        self._vars[var] = expr
        if minimum >= 0:
            self._analyzer.bind(
                var, tvm.ir.Range.from_min_extent(tirx.IntImm("int64", minimum), tirx.IntImm("int64", 2**40))
            )

    def equate(self, expr: Any, index: int) -> None:
        """From here on the whole expression `expr` means the record `index` (the dimension of an input that it is)."""
        self._known.append((self._analyzer.simplify(expr), index))

    def knows(self, var: tirx.Var) -> bool:
        return var in self._vars

    def lower(self, expr: Any) -> int:
        """The index of `expr`'s record. Raises CompileError for an operation that the plan's expressions lack."""
        if isinstance(expr, int):
            return self.const(expr)
        simple = self._analyzer.simplify(expr)
        for known, index in self._known:
            if tvm_ffi.structural_equal(known, simple):
                return index
        return self._lower(simple)

    def constant_value(self, index: int) -> int | None:
        """The value of a record if it is a constant."""
        record = self.exprs[index]
        return record.a if record.op == ExprOp.CONSTANT else None

    def _lower(self, expr: Any) -> int:
        if isinstance(expr, tirx.IntImm):
            return self.const(int(expr.value))
        if isinstance(expr, tirx.Var):
            if expr not in self._vars:
                raise CompileError(
                    f"the dimension {expr.name} is not bound by any input: give the inputs that it belongs to"
                )
            return self._vars[expr]
        if isinstance(expr, tirx.Cast):
            return self._lower(expr.value)
        op = _BINARY.get(type(expr))
        if op is not None:
            return self._fold(op, self._lower(expr.a), self._lower(expr.b))
        if isinstance(expr, tirx.GT):
            return self._fold(ExprOp.LT, self._lower(expr.b), self._lower(expr.a))
        if isinstance(expr, tirx.GE):
            return self._fold(ExprOp.LE, self._lower(expr.b), self._lower(expr.a))
        if isinstance(expr, tirx.Not):
            return self._fold(ExprOp.LOGICAL_NOT, self._lower(expr.a), 0)
        if isinstance(expr, tirx.NE):
            return self._fold(ExprOp.LOGICAL_NOT, self._fold(ExprOp.EQ, self._lower(expr.a), self._lower(expr.b)), 0)
        if isinstance(expr, tirx.Div):  # C's division, used by TVM on what it knows to be non-negative
            return self._fold(ExprOp.FLOORDIV, self._lower(expr.a), self._lower(expr.b))
        if isinstance(expr, tirx.Select) or _is_if(expr):
            cond, yes, no = (
                (expr.condition, expr.true_value, expr.false_value) if isinstance(expr, tirx.Select) else expr.args
            )
            return self._select(self._lower(cond), self._lower(yes), self._lower(no))
        raise CompileError(f"the dimension {expr} uses an operation that a plan's shape expressions do not have")

    def _select(self, cond: int, yes: int, no: int) -> int:
        """no + (cond != 0) * (yes - no): expressions have no conditional."""
        flag = self._fold(ExprOp.LOGICAL_NOT, self._fold(ExprOp.LOGICAL_NOT, cond, 0), 0)
        return self._fold(ExprOp.ADD, no, self._fold(ExprOp.MUL, flag, self._fold(ExprOp.SUB, yes, no)))

    def _fold(self, op: ExprOp, a: int, b: int) -> int:
        left, right = self.constant_value(a), self.constant_value(b)
        if left is not None and (right is not None or op == ExprOp.LOGICAL_NOT):
            divisor_is_zero = right == 0 and op in (ExprOp.FLOORDIV, ExprOp.FLOORMOD, ExprOp.CEILDIV)
            if not divisor_is_zero:
                return self.const(_EVALUATE[op](left, right if right is not None else 0))
        if op == ExprOp.MUL and left == 1:
            return b
        if op in (ExprOp.MUL, ExprOp.FLOORDIV) and right == 1:
            return a
        if op == ExprOp.ADD and left == 0:
            return b
        if op in (ExprOp.ADD, ExprOp.SUB) and right == 0:
            return a
        return self._add(op, a, b)

    def _add(self, op: ExprOp, a: int, b: int) -> int:
        key = (int(op), a, b)
        if key not in self._index:
            self._index[key] = len(self.exprs)
            self.exprs.append(Expr(op, a, b))
        return self._index[key]


_EVALUATE: dict[ExprOp, Callable[[int, int], int]] = {
    ExprOp.ADD: lambda a, b: a + b,
    ExprOp.SUB: lambda a, b: a - b,
    ExprOp.MUL: lambda a, b: a * b,
    ExprOp.FLOORDIV: lambda a, b: a // b,
    ExprOp.FLOORMOD: lambda a, b: a % b,
    ExprOp.MIN: min,
    ExprOp.MAX: max,
    ExprOp.EQ: lambda a, b: int(a == b),
    ExprOp.LT: lambda a, b: int(a < b),
    ExprOp.LE: lambda a, b: int(a <= b),
    ExprOp.LOGICAL_AND: lambda a, b: int(bool(a) and bool(b)),
    ExprOp.LOGICAL_OR: lambda a, b: int(bool(a) or bool(b)),
    ExprOp.LOGICAL_NOT: lambda a, _: int(not a),
    ExprOp.CEILDIV: lambda a, b: -(-a // b),
}


def computed(op: ExprOp, a: int, b: int) -> int:
    """What an operator of two numbers gives; a quotient by 0, which a run refuses, is 0 here."""
    divides = op in (ExprOp.FLOORDIV, ExprOp.FLOORMOD, ExprOp.CEILDIV)
    return 0 if divides and b == 0 else _EVALUATE[op](a, b)


def _is_if(expr: Any) -> bool:
    return isinstance(expr, tvm.ir.Call) and getattr(expr.op, "name", "") == "prim.if_then_else"
