"""The graph rewriter that the passes share: walks a function's bindings in order and rebuilds it through a rule.

A rule sees one binding at a time, its operands already rewritten, and may look back at what defines an operand and
how often it is used. It re-emits what it fuses; what nobody uses any more is dropped at the end. One walk is linear
in the number of bindings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt
import tvm
from tvm import relax

from ._loops import is_loop

__all__ = [
    "Rewriter",
    "Rule",
    "array_of",
    "call_of",
    "is_call",
    "rewrite",
    "rewrite_function",
    "scalar_of",
    "within_ulps",
]

Array = npt.NDArray[Any]
Rule = Callable[["Rewriter", relax.Var, relax.Expr], "relax.Expr | None"]
_IMPURE = {
    "relax.print",
    "relax.assert_op",
    "relax.call_inplace_packed",
    "relax.invoke_closure",
    "relax.call_builtin_with_ctx",
}


def rewrite(mod: tvm.IRModule, rule: Rule) -> tvm.IRModule:
    """`mod` with `rule` applied to every Relax function."""
    out = mod.clone()
    for gvar, func in mod.functions_items():
        if isinstance(func, relax.Function):
            out.update_func(gvar, rewrite_function(func, rule))
    return out


def rewrite_function(func: relax.Function, rule: Rule) -> relax.Function:
    return Rewriter(func, rule).run()


def is_call(expr: relax.Expr | None, *names: str) -> TypeGuard[relax.Call]:
    """Whether `expr` is a call of one of these Relax operators (with no name given: of any)."""
    if not isinstance(expr, relax.Call) or not isinstance(expr.op, tvm.ir.Op):
        return False
    return not names or str(expr.op.name) in names


def call_of(op: str, args: list[relax.Expr], attrs: Any = None) -> relax.Call:
    """A call by the operator's name, with the attributes of another call of it."""
    return tvm.ir.Call(tvm.ir.Op.get(op), args, attrs, [])


def array_of(expr: relax.Expr | None) -> Array | None:
    """The value of a constant, None of anything else."""
    if not isinstance(expr, tvm.ir.GenericConst) or not isinstance(expr.ty, relax.TensorType):
        return None
    try:
        array: Array = np.from_dlpack(expr.value)  # without a copy, read-only
        return array
    except (TypeError, RuntimeError, BufferError):  # what DLPack of numpy does not know: bool in old ones
        copied: Array = expr.value.numpy()
        return copied


def scalar_of(expr: relax.Expr | None) -> float | None:
    """The value of a constant with one element (of any rank), None of anything else."""
    value = array_of(expr) if _elements(expr) == 1 else None
    return float(value.reshape(-1)[0]) if value is not None and value.dtype.kind in "fiub" else None


def within_ulps(a: float, b: float, ulps: int, dtype: str) -> bool:
    """Whether a is b but for so many units in the last place of `dtype`. What a pattern wants of a constant: a near number is another
    function, which the pattern must leave alone."""
    return abs(a - b) <= ulps * float(np.spacing(np.asarray(abs(b), dtype)))


def _elements(expr: relax.Expr | None) -> int:
    """How many elements a constant has; 0 for anything else."""
    if not isinstance(expr, tvm.ir.GenericConst) or not isinstance(expr.ty, relax.TensorType):
        return 0
    return int(np.prod([int(dim.value) for dim in expr.ty.shape.values], dtype=np.int64))


class Rewriter:
    """One walk over one function."""

    def __init__(self, func: relax.Function, rule: Rule) -> None:
        self.func = func
        self._rule = rule
        self._builder = relax.BlockBuilder()
        self._bindings: list[relax.Binding] = []
        self._plain = self.branching = _has_control_flow(func.body)
        self._env: dict[relax.Var, relax.Expr] = {}
        self._defs: dict[relax.Var, relax.Expr] = {}
        self._uses: dict[relax.Var, int] = {}
        self._users: dict[relax.Var, list[tuple[relax.Var, relax.Expr]]] = {}
        self._scan(func.body)

    # ---- what a rule may ask
    # ------------------------------------------------------------------------------------------

    def definition(self, expr: relax.Expr | None) -> relax.Expr | None:
        """What defines a rewritten variable; None for parameters and constants."""
        return self._defs.get(expr) if isinstance(expr, tvm.ir.Var) else None

    def call(self, expr: relax.Expr | None, *names: str) -> relax.Call | None:
        """The definition of a rewritten variable if it is a call of one of these operators."""
        value = self.definition(expr)
        return value if is_call(value, *names) else None

    def single_use(self, expr: relax.Expr) -> bool:
        """Whether a rewritten variable has (at most) one use in the function that is being rewritten."""
        return not isinstance(expr, tvm.ir.Var) or self._uses.get(expr, 0) <= 1

    def use_count(self, expr: relax.Expr) -> int:
        return self._uses.get(expr, 0) if isinstance(expr, tvm.ir.Var) else 0

    def users(self, var: relax.Var) -> list[tuple[relax.Var, relax.Expr]]:
        """Bindings of the function being rewritten (not yet rewritten) that use one of its variables."""
        return self._users.get(var, [])

    def count_of(self, var: relax.Var) -> int:
        """How often a variable of the function being rewritten is used, by bindings and by the result."""
        return self._counts.get(var, 0)

    def mapped(self, expr: relax.Expr) -> relax.Expr | None:
        """The rewritten form of an operand of the original function; None if its binding has not been reached yet."""
        if isinstance(expr, tvm.ir.Var) and isinstance(expr.ty, (relax.TensorType, tvm.ir.TupleType)):
            return self._env.get(expr)
        return expr

    # ---- what a rule may do
    # -------------------------------------------------------------------------------------------

    def emit(self, expr: relax.Expr, name: str = "v") -> relax.Expr:
        """Bind an expression and return the variable; an atom is returned as it is."""
        if isinstance(expr, (tvm.ir.Var, tvm.ir.GenericConst, relax.Tuple, relax.ShapeExpr)):
            return expr
        if isinstance(expr, relax.TupleGetItem):
            picked = self._picked(expr)
            if picked is not None:
                return picked
        value = self._builder.normalize(expr)
        var = self._new_var(name, value.ty)
        self._bindings.append(relax.VarBinding(var, value))
        self._defs[var] = value
        return var

    def alias(self, original: relax.Var, replacement: relax.Expr) -> None:
        """Let a variable of the original function, whose binding is still to come, be `replacement`."""
        self._env[original] = replacement
        self._count(original, replacement)

    # ---- the walk
    # -------------------------------------------------------------------------------------------------------

    def run(self) -> relax.Function:
        for param in self.func.params:
            self._env[param] = param
            self._uses[param] = self._counts.get(param, 0)
        body = self._sequence(self.func.body)
        return relax.Function(self.func.params, body, None, self.func.is_pure, self.func.attrs, self.func.span)

    def _sequence(self, seq: relax.Expr) -> relax.SeqExpr:
        saved, self._bindings = self._bindings, []
        if isinstance(seq, relax.SeqExpr):
            for block in seq.blocks:
                for binding in block.bindings:
                    self._visit(binding)
            result = self._substitute(seq.body)
        else:
            result = self._substitute(seq)
        bindings = _drop_dead(self._bindings, result)
        out = relax.Var("gv", result.ty)
        bindings.append(relax.VarBinding(out, result))
        self._bindings = saved
        block = relax.BindingBlock(bindings) if self._plain else relax.DataflowBlock(bindings)
        seq = relax.SeqExpr([block], out)
        relax.expr._update_type(seq, out.ty)
        return seq

    def _visit(self, binding: relax.Binding) -> None:
        var = binding.var
        if var in self._env:  # an earlier rule has taken this binding's place
            return
        value = self._substitute(binding.value)
        if isinstance(binding, relax.MatchCast):
            new = self._new_var(str(var.name), binding.ty)
            self._bindings.append(relax.MatchCast(new, value, binding.ty))
            self._env[var] = new
            self._count(var, new)
            return
        if isinstance(value, relax.If):
            value = relax.If(value.cond, self._sequence(value.true_branch), self._sequence(value.false_branch))
            relax.expr._update_type(value, var.ty)
            result = self._bind_typed(value, str(var.name), var.ty)
        elif isinstance(value, (tvm.ir.Var, tvm.ir.GenericConst, relax.Tuple, relax.ShapeExpr)):
            result = value
        else:
            if not value.same_as(binding.value):
                value = self._builder.normalize(value)
            replaced = self._rule(self, var, value)
            result = self.emit(value if replaced is None else replaced, str(var.name))
        self._env[var] = result
        self._count(var, result)

    def _bind_typed(self, value: relax.Expr, name: str, ty: Any) -> relax.Var:
        new = self._new_var(name, ty)
        self._bindings.append(relax.VarBinding(new, value))
        self._defs[new] = value
        return new

    def _new_var(self, name: str, ty: Any) -> relax.Var:
        return relax.Var(name, ty) if self._plain else relax.DataflowVar(name, ty)

    def _picked(self, item: relax.TupleGetItem) -> relax.Expr | None:
        source = item.tuple_value
        if isinstance(source, tvm.ir.Var):
            source = self._defs.get(source, source)
        return source.fields[item.index] if isinstance(source, relax.Tuple) else None

    def _count(self, original: relax.Var, result: relax.Expr) -> None:
        if isinstance(result, tvm.ir.Var):
            self._uses[result] = self._uses.get(result, 0) + self._counts.get(original, 0)

    def _substitute(self, expr: relax.Expr) -> relax.Expr:
        """`expr` with rewritten operands; the same object where nothing changed, so that its type is kept."""
        if isinstance(expr, tvm.ir.Var):
            return self._env.get(expr, expr)
        if isinstance(expr, relax.Call):
            args = list(expr.args)
            fresh = [self._substitute(arg) for arg in args]
            if all(a.same_as(b) for a, b in zip(args, fresh, strict=True)):
                return expr
            return tvm.ir.Call(expr.op, fresh, expr.attrs, list(expr.ty_args), expr.span)
        if isinstance(expr, relax.Tuple):
            fields = list(expr.fields)
            fresh = [self._substitute(field) for field in fields]
            if all(a.same_as(b) for a, b in zip(fields, fresh, strict=True)):
                return expr
            return self._builder.normalize(relax.Tuple(fresh))
        if isinstance(expr, relax.TupleGetItem):
            source = self._substitute(expr.tuple_value)
            item = expr if source.same_as(expr.tuple_value) else relax.TupleGetItem(source, expr.index)
            picked = self._picked(item)
            return item if picked is None else picked
        if isinstance(expr, relax.If):
            return relax.If(self._substitute(expr.cond), expr.true_branch, expr.false_branch)
        return expr

    # ---- counting, over the original function
    # -------------------------------------------------------------------------

    def _scan(self, body: relax.Expr) -> None:
        """Count uses; tuples that are only taken apart again do not count."""
        self._counts: dict[relax.Var, int] = {}
        tuples: dict[relax.Var, relax.Tuple] = {}
        alias: dict[relax.Var, relax.Expr] = {}

        def resolve(expr: relax.Expr) -> relax.Expr:
            while isinstance(expr, tvm.ir.Var) and expr in alias:
                expr = alias[expr]
            return expr

        def used(expr: relax.Expr) -> Iterator[relax.Var]:
            expr = resolve(expr)
            if isinstance(expr, tvm.ir.Var):
                if expr in tuples:
                    for field in tuples[expr].fields:
                        yield from used(field)
                else:
                    yield expr
            elif isinstance(expr, relax.Call):
                for arg in expr.args:
                    yield from used(arg)
            elif isinstance(expr, relax.Tuple):
                for field in expr.fields:
                    yield from used(field)
            elif isinstance(expr, relax.TupleGetItem):
                yield from used(expr.tuple_value)
            elif isinstance(expr, relax.If):
                yield from used(expr.cond)

        def walk(seq: relax.Expr) -> None:
            if not isinstance(seq, relax.SeqExpr):
                for operand in used(seq):
                    self._counts[operand] = self._counts.get(operand, 0) + 1
                return
            for block in seq.blocks:
                for binding in block.bindings:
                    var, value = binding.var, binding.value
                    if isinstance(binding, relax.VarBinding):
                        if isinstance(value, relax.Tuple):
                            tuples[var] = value
                            continue
                        if isinstance(value, tvm.ir.Var):
                            alias[var] = value
                            continue
                        if isinstance(value, relax.TupleGetItem):
                            source = resolve(value.tuple_value)
                            if isinstance(source, tvm.ir.Var) and source in tuples:
                                alias[var] = tuples[source].fields[value.index]
                                continue
                        if isinstance(value, relax.If):
                            walk(value.true_branch)
                            walk(value.false_branch)
                            if is_loop(value):  # each iteration is a use: nothing is moved in from outside
                                for operand in relax.analysis.free_vars(value.true_branch):
                                    self._counts[operand] = self._counts.get(operand, 0) + 1
                    for operand in used(value):
                        self._counts[operand] = self._counts.get(operand, 0) + 1
                        self._users.setdefault(operand, []).append((var, value))
            walk(seq.body)

        walk(body)


def _has_control_flow(body: relax.Expr) -> bool:
    if not isinstance(body, relax.SeqExpr):
        return False
    for block in body.blocks:
        for binding in block.bindings:
            if isinstance(binding.value, relax.If) or _impure(binding.value):
                return True
    return False


def _impure(value: relax.Expr) -> bool:
    if not isinstance(value, relax.Call):
        return False
    return not isinstance(value.op, (tvm.ir.Op, tvm.ir.GlobalVar)) or (
        isinstance(value.op, tvm.ir.Op) and str(value.op.name) in _IMPURE
    )


def _drop_dead(bindings: list[relax.Binding], result: relax.Expr) -> list[relax.Binding]:
    """The bindings that `result` needs, in order."""
    live: set[relax.Var] = set()

    def mark(expr: relax.Expr) -> None:
        if isinstance(expr, tvm.ir.Var):
            live.add(expr)
        elif isinstance(expr, relax.Call):
            for arg in expr.args:
                mark(arg)
        elif isinstance(expr, relax.Tuple):
            for field in expr.fields:
                mark(field)
        elif isinstance(expr, relax.TupleGetItem):
            mark(expr.tuple_value)
        elif isinstance(expr, relax.If):
            mark(expr.cond)
            live.update(relax.analysis.free_vars(expr.true_branch))
            live.update(relax.analysis.free_vars(expr.false_branch))

    mark(result)
    kept = []
    for binding in reversed(bindings):
        if binding.var in live or isinstance(binding, relax.MatchCast) or _impure(binding.value):
            mark(binding.value)
            kept.append(binding)
    kept.reverse()
    return kept
