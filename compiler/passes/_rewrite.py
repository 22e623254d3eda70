"""The graph rewriter that the passes share: walks a function's bindings in order and rebuilds it through a rule.

A rule sees one binding at a time, its operands already rewritten, and may look back at what defines an operand and
how often it is used. It re-emits what it fuses; what nobody uses any more is dropped at the end. One walk is linear
in the number of bindings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt
import tvm
from tvm import relax

from .._constants import array_of
from .._deep import heed
from ..ir._loops import is_loop

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
    """`mod` with `rule` applied to every Relax function; `mod` itself where that changes nothing."""
    changed = {}
    for gvar, func in mod.functions_items():
        if isinstance(func, relax.Function):
            rewritten = rewrite_function(func, rule)
            if not rewritten.same_as(func):
                changed[gvar] = rewritten
    if not changed:
        return mod
    out = mod.clone()
    for gvar, func in changed.items():
        out.update_func(gvar, func)
    return out


def rewrite_function(func: relax.Function, rule: Rule) -> relax.Function:
    """`func` rewritten; `func` itself where that changes nothing."""
    return Rewriter(func, rule).run()


def is_call(expr: relax.Expr | None, *names: str) -> TypeGuard[relax.Call]:
    """Whether `expr` is a call of one of these Relax operators (with no name given: of any)."""
    if not isinstance(expr, relax.Call) or not isinstance(expr.op, tvm.ir.Op):
        return False
    return not names or str(expr.op.name) in names


def call_of(op: str, args: list[relax.Expr], attrs: Any = None) -> relax.Call:
    """A call by the operator's name, with the attributes of another call of it."""
    return tvm.ir.Call(tvm.ir.Op.get(op), args, attrs, [])


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


@dataclass
class _Step:
    """A binding of the function that is rewritten, read once. `operands` are its value's (None: of another kind than has any), tuples among
    them still whole; `branches` are an If's."""

    binding: relax.Binding
    var: relax.Var
    value: relax.Expr
    operands: list[relax.Expr] | None
    branches: tuple[_Sequence, _Sequence] | None = None


@dataclass
class _Sequence:
    """What stands in a function's or a branch's body. `settled`: one block, which ends with the binding of the result."""

    expr: relax.Expr
    steps: list[_Step]
    result: relax.Expr
    settled: bool


class Rewriter:
    """One walk over one function. A binding that the rule leaves alone, and whose operands are what they were, stays the same object, and so
    does the function where that goes for all: most passes find nothing to do in most of a model."""

    def __init__(self, func: relax.Function, rule: Rule) -> None:
        self.func = func
        self._rule = rule
        self._builder = relax.BlockBuilder()
        self._bindings: list[relax.Binding] = []
        self._current: tuple[_Step, relax.Expr] | None = (
            None  # the binding that the rule sees, if its operands are unchanged
        )
        self._env: dict[int, relax.Expr] = {}  # this and the others: by variable
        self._defs: dict[int, relax.Expr] = {}
        self._uses: dict[int, int] = {}
        self._users: dict[int, list[tuple[relax.Var, relax.Expr]]] = {}
        self._original_uses: dict[int, int] = {}
        self._body = self._scan(func.body)
        self._has_plain_blocks = self.branching = _has_control_flow(self._body)

    # ---- what a rule may ask
    # ------------------------------------------------------------------------------------------

    def definition(self, expr: relax.Expr | None) -> relax.Expr | None:
        """What defines a rewritten variable; None for parameters and constants."""
        return self._defs.get(_id(expr)) if _is_var(expr) else None

    def call(self, expr: relax.Expr | None, *names: str) -> relax.Call | None:
        """The definition of a rewritten variable if it is a call of one of these operators."""
        value = self.definition(expr)
        return value if is_call(value, *names) else None

    def single_use(self, expr: relax.Expr) -> bool:
        """Whether a rewritten variable has (at most) one use in the function that is being rewritten."""
        return not _is_var(expr) or self._uses.get(_id(expr), 0) <= 1

    def use_count(self, expr: relax.Expr) -> int:
        """How often a rewritten variable is used: by what is rewritten already, and by what reads the originals that it stands for."""
        return self._uses.get(_id(expr), 0) if _is_var(expr) else 0

    def users(self, var: relax.Var) -> list[tuple[relax.Var, relax.Expr]]:
        """Bindings of the function being rewritten (not yet rewritten) that use one of its variables."""
        return self._users.get(_id(var), [])

    def original_use_count(self, var: relax.Var) -> int:
        """How often a variable of the function being rewritten is used, by bindings and by the result."""
        return self._original_uses.get(_id(var), 0)

    def mapped(self, expr: relax.Expr) -> relax.Expr | None:
        """The rewritten form of an operand of the original function; None if its binding has not been reached yet."""
        if _is_var(expr) and isinstance(expr.ty, (relax.TensorType, tvm.ir.TupleType)):
            return self._env.get(_id(expr))
        return expr

    # ---- what a rule may do
    # -------------------------------------------------------------------------------------------

    def emit(self, expr: relax.Expr, name: str = "v") -> relax.Expr:
        """Bind an expression and return the variable; an atom is returned as it is."""
        if _is_atom(expr):
            return expr
        if self._current is not None and expr is self._current[1]:
            return self._keep(self._current[0])
        if isinstance(expr, relax.TupleGetItem):
            picked = self._tuple_field(expr)
            if picked is not None:
                return picked
        value = self._builder.normalize(expr)
        return self._bind(value, name, value.ty)

    def alias(self, original: relax.Var, replacement: relax.Expr) -> None:
        """Let a variable of the original function, whose binding is still to come, be `replacement`."""
        self._env[_id(original)] = replacement
        self._count(original, replacement)

    # ---- the walk
    # -------------------------------------------------------------------------------------------------------

    def run(self) -> relax.Function:
        for param in self.func.params:
            self._env[_id(param)] = param
            self._uses[_id(param)] = self._original_uses.get(_id(param), 0)
        body = self._sequence(self._body)
        if body is self._body.expr:
            return self.func
        return relax.Function(self.func.params, body, None, self.func.is_pure, self.func.attrs, self.func.span)

    def _sequence(self, seq: _Sequence) -> relax.SeqExpr:
        saved, self._bindings = self._bindings, []
        for step in seq.steps:
            heed()
            self._visit(step)
        result = self._substitute(seq.result, None)
        bindings = self._live_bindings(self._bindings, result)
        self._bindings = saved
        if seq.settled and self._as_before(seq, bindings, result):
            return seq.expr
        out = relax.Var("gv", result.ty)
        bindings.append(relax.VarBinding(out, result))
        block = relax.BindingBlock(bindings) if self._has_plain_blocks else relax.DataflowBlock(bindings)
        body = relax.SeqExpr([block], out)
        relax.expr._update_type(body, out.ty)
        return body

    def _as_before(self, seq: _Sequence, bindings: list[relax.Binding], result: relax.Expr) -> bool:
        """Whether these bindings are those of a settled sequence, all but the last, which binds the result."""
        *before, last = seq.steps
        return (
            len(before) == len(bindings)
            and all(binding is step.binding for binding, step in zip(bindings, before))
            and result.same_as(last.value)
        )

    def _visit(self, step: _Step) -> None:
        var = step.var
        if _id(var) in self._env:  # an earlier rule has taken this binding's place
            return
        value = self._substitute(step.value, step.operands)
        same = value is step.value
        if isinstance(step.binding, relax.MatchCast):
            if same and self._fits(var):
                self._keep(step)
            else:
                new = self._new_var(str(var.name), step.binding.ty)
                self._bindings.append(relax.MatchCast(new, value, step.binding.ty))
                self._env[_id(var)] = new
            self._count(var, self._env[_id(var)])
            return
        if step.branches is not None:
            result = self._branch(step, value)
        elif _is_atom(value):
            result = value
        else:
            if not same:
                value = self._builder.normalize(value)
            self._current = (step, value) if same and self._fits(var) and var.ty.same_as(value.ty) else None
            replaced = self._rule(self, var, value)
            result = self.emit(value if replaced is None else replaced, str(var.name))
            self._current = None
        self._env[_id(var)] = result
        self._count(var, result)

    def _branch(self, step: _Step, value: relax.If) -> relax.Var:
        assert step.branches is not None
        first, second = step.branches
        branches = self._sequence(first), self._sequence(second)
        kept = branches[0] is first.expr and branches[1] is second.expr
        if kept and value is step.value and self._fits(step.var):
            return self._keep(step)
        value = relax.If(value.cond, *branches)
        relax.expr._update_type(value, step.var.ty)
        return self._bind(value, str(step.var.name), step.var.ty)

    def _keep(self, step: _Step) -> relax.Var:
        """The binding as it is; once: a rule may emit its value twice."""
        key = _id(step.var)
        if key not in self._defs and key not in self._env:
            self._bindings.append(step.binding)
            self._env[key] = step.var
            if not isinstance(step.binding, relax.MatchCast):
                self._defs[key] = step.value
        return step.var

    def _fits(self, var: relax.Var) -> bool:
        """Whether a variable is of the kind that the rewritten function's blocks hold."""
        return (type(var) is relax.DataflowVar) is not self._has_plain_blocks

    def _bind(self, value: relax.Expr, name: str, ty: Any) -> relax.Var:
        new = self._new_var(name, ty)
        self._bindings.append(relax.VarBinding(new, value))
        self._defs[_id(new)] = value
        return new

    def _new_var(self, name: str, ty: Any) -> relax.Var:
        return relax.Var(name, ty) if self._has_plain_blocks else relax.DataflowVar(name, ty)

    def _tuple_field(self, item: relax.TupleGetItem) -> relax.Expr | None:
        source = item.tuple_value
        if _is_var(source):
            source = self._defs.get(_id(source), source)
        return source.fields[item.index] if isinstance(source, relax.Tuple) else None

    def _count(self, original: relax.Var, result: relax.Expr) -> None:
        if _is_var(result):
            key = _id(result)
            self._uses[key] = self._uses.get(key, 0) + self._original_uses.get(_id(original), 0)

    def _substitute(self, expr: relax.Expr, operands: list[relax.Expr] | None) -> relax.Expr:
        """`expr` with rewritten operands (read already, or None); the same object where nothing changed, so that its type is kept."""
        kind = type(expr)
        if kind in _VARS:
            return self._env.get(_id(expr), expr)
        if kind is relax.Call or kind is relax.Tuple:
            before = _operands(expr) if operands is None else operands
            assert before is not None
            fresh = [self._substitute(each, None) if type(each) in _INNER else each for each in before]
            if all(a is b or a.same_as(b) for a, b in zip(before, fresh, strict=True)):
                return expr
            if kind is relax.Tuple:
                return self._builder.normalize(relax.Tuple(fresh))
            return tvm.ir.Call(expr.op, fresh, expr.attrs, list(expr.ty_args), expr.span)
        if kind is relax.TupleGetItem:
            tuple_value = expr.tuple_value if operands is None else operands[0]
            source = self._substitute(tuple_value, None)
            item = expr if source.same_as(tuple_value) else relax.TupleGetItem(source, expr.index)
            picked = self._tuple_field(item)
            return item if picked is None else picked
        if kind is relax.If:
            condition = expr.cond if operands is None else operands[0]
            fresh_condition = self._substitute(condition, None)
            if fresh_condition.same_as(condition):
                return expr
            return relax.If(fresh_condition, expr.true_branch, expr.false_branch)
        return expr

    def _live_bindings(self, bindings: list[relax.Binding], result: relax.Expr) -> list[relax.Binding]:
        """The bindings that `result` needs, in order."""
        live: set[int] = set()
        kept = []

        def mark(expr: relax.Expr) -> None:
            kind = type(expr)
            if kind in _VARS:
                live.add(_id(expr))
                return
            for each in _operands(expr) or ():
                mark(each)
            if kind is relax.If:
                for branch in (expr.true_branch, expr.false_branch):
                    live.update(map(_id, relax.analysis.free_vars(branch)))

        mark(result)
        for binding in reversed(bindings):
            key = _id(binding.var)
            cast = isinstance(binding, relax.MatchCast)
            value = self._defs.get(key)
            value = binding.value if value is None else value
            if key in live or cast or _impure(value):
                known = self._read.get(key)
                if known is not None and known[0] is value and type(value) is relax.Call:
                    for each in known[1]:
                        mark(each)
                else:
                    mark(value)
                kept.append(binding)
        kept.reverse()
        return kept

    # ---- counting, over the original function
    # -------------------------------------------------------------------------

    def _scan(self, body: relax.Expr) -> _Sequence:
        """Read the function and count uses; tuples that are only taken apart again do not count."""
        self._read: dict[int, tuple[relax.Expr, list[relax.Expr]]] = {}  # a variable's call and its operands
        tuples: dict[int, list[relax.Expr]] = {}
        alias: dict[int, relax.Expr] = {}
        counts, users = self._original_uses, self._users

        def resolve(expr: relax.Expr) -> relax.Expr:
            while type(expr) in _VARS and _id(expr) in alias:
                expr = alias[_id(expr)]
            return expr

        def used(expr: relax.Expr, operands: list[relax.Expr] | None) -> Iterator[int]:
            expr = resolve(expr)
            if type(expr) in _VARS:
                key = _id(expr)
                if key in tuples:
                    for field in tuples[key]:
                        yield from used(field, None)
                else:
                    yield key
                return
            for each in (_operands(expr) if operands is None else operands) or ():
                if type(each) in _INNER:
                    yield from used(each, None)

        def sequence(seq: relax.Expr) -> _Sequence:
            steps: list[_Step] = []
            blocks = seq.blocks[:] if isinstance(seq, relax.SeqExpr) else []
            result = seq.body if isinstance(seq, relax.SeqExpr) else seq
            for block in blocks:
                for binding in block.bindings[:]:
                    steps.append(step(binding))
            for operand in used(result, None):
                counts[operand] = counts.get(operand, 0) + 1
            settled = (
                len(blocks) == 1
                and bool(steps)
                and type(result) is relax.Var
                and _id(steps[-1].var) == _id(result)
                and _is_atom(steps[-1].value)
            )
            return _Sequence(seq, steps, result, settled)

        def step(binding: relax.Binding) -> _Step:
            var, value = binding.var, binding.value
            out = _Step(binding, var, value, _operands(value))
            if isinstance(binding, relax.VarBinding):
                if isinstance(value, relax.Tuple):
                    tuples[_id(var)] = out.operands or []
                    return out
                if _is_var(value):
                    alias[_id(var)] = value
                    return out
                if isinstance(value, relax.TupleGetItem):
                    source = resolve(value.tuple_value)
                    if _is_var(source) and _id(source) in tuples:
                        alias[_id(var)] = tuples[_id(source)][value.index]
                        return out
                if isinstance(value, relax.If):
                    out.branches = sequence(value.true_branch), sequence(value.false_branch)
                    if is_loop(value):  # each iteration is a use: nothing is moved in from outside
                        for operand in map(_id, relax.analysis.free_vars(value.true_branch)):
                            counts[operand] = counts.get(operand, 0) + 1
                if type(value) is relax.Call:
                    self._read[_id(var)] = (value, out.operands or [])
            for operand in used(value, out.operands):
                counts[operand] = counts.get(operand, 0) + 1
                users.setdefault(operand, []).append((var, value))
            return out

        return sequence(body)


_VARS = frozenset({relax.Var, relax.DataflowVar})
_INNER = frozenset({*_VARS, relax.Call, relax.Tuple, relax.TupleGetItem, relax.If})  # what may name a variable
_ATOMS = frozenset({*_VARS, relax.Tuple, relax.ShapeExpr})


def _is_var(expr: relax.Expr | None) -> bool:
    return type(expr) in _VARS


def _is_atom(expr: relax.Expr) -> bool:
    return type(expr) in _ATOMS or isinstance(expr, tvm.ir.GenericConst)


def _id(expr: relax.Expr) -> int:
    """Which object of TVM's it is, whichever Python object stands for it."""
    return expr.__chandle__()  # type: ignore[no-any-return]


def _operands(expr: relax.Expr) -> list[relax.Expr] | None:
    """The expressions that a value is made of; None of what is made of none."""
    kind = type(expr)
    if kind is relax.Call:
        return expr.args[:]  # type: ignore[no-any-return]  # a slice is a list, made at once
    if kind is relax.Tuple:
        return expr.fields[:]  # type: ignore[no-any-return]
    if kind is relax.TupleGetItem:
        return [expr.tuple_value]
    if kind is relax.If:
        return [expr.cond]
    return None


def _has_control_flow(seq: _Sequence) -> bool:
    return any(step.branches is not None or _impure(step.value) for step in seq.steps)


def _impure(value: relax.Expr) -> bool:
    if type(value) is not relax.Call:
        return False
    return _op_is_impure(value.op)


def _op_is_impure(op: relax.Expr) -> bool:
    if isinstance(op, tvm.ir.Op):
        key = _id(op)
        if key not in _PURE_OPS:
            if str(op.name) in _IMPURE:
                return True
            _PURE_OPS[key] = op
        return False
    return not isinstance(op, tvm.ir.GlobalVar)


_PURE_OPS: dict[int, tvm.ir.Op] = {}  # operators are never freed
