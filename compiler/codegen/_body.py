"""Straight-line bodies: a stage's value at one point of its loops, with the stages that it reads pulled into it.

An intermediate buffer that is pulled does not exist any more: where it is read, its producer's value is computed, once for
each index that is read. Every load is bound to a variable of its own, so that what a body touches in memory, and how that moves
with the loops, is known (Access) and can be rewritten when loops are collapsed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import tvm
import tvm_ffi
from tvm import tirx
from tvm.sym import Analyzer, detect_linear_equation

from . import _math
from ._stages import Stage, Store, as_int64, replace_vars, walk

__all__ = ["Access", "Body", "BodyBuilder", "TooBig", "dtype_of"]

_LIMIT = 3000  # bindings of one body


class TooBig(Exception):
    """A body grew beyond what pulling is worth."""


@dataclass(frozen=True)
class Access:
    """One load or store: the flat index and, where it is affine, its stride along each loop."""

    buffer: Any
    index: Any
    strides: tuple[Any, ...] | None
    base: Any
    is_store: bool


@dataclass
class Body:
    """Statements of one point, the accesses in the order of their making, and the loop variables that occur outside of affine
    indices (they keep their own loop)."""

    stmts: list[Any] = field(default_factory=list)
    accesses: list[Access] = field(default_factory=list)
    bound: list[Any] = field(default_factory=list)  # the variables of all bindings, in order
    results: list[Any] = field(default_factory=list)  # a reduction's: the flat index of each result
    pinned: set[Any] = field(default_factory=set)
    cost: float = 0.0
    branches: bool = False  # has a branch or a library call, which no vector form has


class _Scope:
    """Bindings visible from here on; a branch of an if has its own."""

    def __init__(self, parent: _Scope | None = None) -> None:
        self.parent = parent
        self.binds: list[tuple[Any, Any]] = []
        self.loads: dict[Any, Any] = {}

    def find(self, key: Any) -> Any | None:
        scope: _Scope | None = self
        while scope is not None:
            if key in scope.loads:
                return scope.loads[key]
            scope = scope.parent
        return None


class BodyBuilder:
    """Lowers stages to bodies. `pulled` are the producers of buffers that do not exist, `flat` the one-dimensional views of those
    that do. `loops` are the (variable, extent) pairs that the body stands in."""

    def __init__(
        self,
        pulled: Mapping[Any, Stage],
        flat: Mapping[Any, Any],
        loops: Sequence[tuple[Any, Any]],
        indices: Sequence[Any] | None = None,
        bound: Sequence[Any] = (),
    ) -> None:
        self.pulled = pulled
        self.flat = flat
        self.loops = list(loops)
        self.vars = [var for var, _ in loops]
        self.extents = dict(loops)
        # A second lowering takes its flat indices from the first, in the order of accesses, with that one's variables.
        self.indices = indices
        self.bound = bound
        self.body = Body()
        self.scope = _Scope()
        self.overrides: dict[Any, Any] = {}  # reductions: what their own element reads as
        self._count = 0
        self.analyzer = Analyzer()
        for var, extent in loops:
            self.analyzer.bind(var, tvm.ir.Range.from_min_extent(tirx.IntImm("int64", 0), extent))

    # ---- stages ----------------------------------------------------------------------------------------------------

    def values(self, stage: Stage, env: Mapping[Any, Any]) -> list[Any]:
        """The values that the stage's stores have where its loops' variables are as `env` says."""
        full = self.env_of(stage, env)
        for var, value in stage.binds:
            full[var] = self.let(self.expr(value, full))
        return [self.let(self.expr(store.value, full)) for store in stage.stores]

    def env_of(self, stage: Stage, env: Mapping[Any, Any]) -> dict[Any, Any]:
        """`env` and what the stage's own block variables are under it."""
        return {**env, **{var: self._index(value, env) for var, value in stage.env.items()}}

    def store_index(self, store: Store, stage: Stage, env: Mapping[Any, Any]) -> Any:
        """The flat index at which the stage stores."""
        full = self.env_of(stage, env)
        return self._access(store.buffer, [self._index(each, full) for each in store.indices], is_store=True)

    def store(self, store: Store, value: Any, stage: Stage, env: Mapping[Any, Any]) -> None:
        """Append the store of `value` where the stage puts it."""
        index = self.store_index(store, stage, env)
        self.flush()
        value = self.stored(value, str(store.buffer.dtype))
        self.flush()
        self.body.stmts.append(tirx.BufferStore(self.flat[store.buffer], value, [index]))

    def stored(self, value: Any, dtype: str) -> Any:
        """`value` as the element type of a buffer."""
        if dtype == "bfloat16":
            return _math.to_bfloat16(self.let(value), self.let)
        return value if dtype_of(value) == dtype else _math.cast(value, dtype, self.let)

    def flush(self) -> None:
        """Turn pending bindings of the outermost scope into statements."""
        self.body.stmts += [tirx.Bind(var, value) for var, value in self.scope.binds]
        self.scope.binds.clear()

    # ---- expressions -----------------------------------------------------------------------------------------------

    def let(self, value: Any) -> Any:
        """A variable (or constant) that holds `value`."""
        if isinstance(value, (tirx.Var, tirx.IntImm, tirx.FloatImm)):
            return value
        self._count += 1
        self.body.cost += 1
        if self._count > _LIMIT:
            raise TooBig
        var = tirx.Var(f"t{self._count}", value.ty)
        self.body.bound.append(var)
        self.scope.binds.append((var, value))
        return var

    def expr(self, node: Any, env: Mapping[Any, Any]) -> Any:
        """`node` with loads bound, producers pulled and intrinsics lowered."""
        if isinstance(node, (tirx.IntImm, tirx.FloatImm)):
            return tirx.FloatImm("float32", float(node.value)) if dtype_of(node) == "bfloat16" else node
        if isinstance(node, tirx.Var):
            value = env.get(node, node)
            if dtype_of(value) != dtype_of(node) and not _is_float(value):  # loops run in 64 bits
                value = tirx.Cast(dtype_of(node), value)
            self.body.pinned.update(var for var in walk(value) if isinstance(var, tirx.Var) and var in self.extents)
            return value
        if isinstance(node, tvm.ir.TensorLoad):
            return self._load(node.source, [self._index(index, env) for index in node.indices])
        if isinstance(node, tvm.ir.Call):
            return self._call(node, env)
        if isinstance(node, tirx.Cast):
            value = self.expr(node.value, env)
            if dtype_of(node) == "bfloat16":
                value = value if dtype_of(value) == "float32" else tirx.Cast("float32", value)
                return _math.round_to_bfloat16(self.let(value), self.let)
            return value if dtype_of(value) == dtype_of(node) else _math.cast(value, node.ty, self.let)
        if isinstance(node, (tirx.Not, tirx.BitwiseNot)):
            return type(node)(self.expr(node.a, env))
        if isinstance(node, tirx.Select):
            return self._select(node.condition, node.true_value, node.false_value, env)
        if isinstance(node, tirx.Let):
            return self.expr(node.body, {**env, node.var: self.let(self.expr(node.value, env))})
        a, b = self.expr(node.a, env), self.expr(node.b, env)
        if isinstance(node, (tirx.Max, tirx.Min)) and dtype_of(node).startswith(("float", "bfloat")):
            return (_math.nan_max if isinstance(node, tirx.Max) else _math.nan_min)(self.let(a), self.let(b), self.let)
        if isinstance(node, tirx.NE) and dtype_of(a).startswith(("float", "bfloat")):
            return tirx.Not(tirx.EQ(a, b))  # unordered: NaN differs from everything
        if isinstance(node, (tirx.Div, tirx.FloorDiv, tirx.FloorMod, tirx.Mod)):
            self.body.cost += 4
        self.body.cost += 1
        return type(node)(a, b)

    def _call(self, node: Any, env: Mapping[Any, Any]) -> Any:
        name = node.op.name
        if name == "prim.if_then_else":
            condition, yes, no = node.args
            return self._select(condition, yes, no, env, lazy=True)
        if name == "prim.likely":
            return self.expr(node.args[0], env)
        function = _math.function_name(node)
        operands = node.args if function == name else node.args[1:]  # a library function's name comes first
        args = [self.expr(arg, env) if isinstance(arg, tvm.ir.Expr) else arg for arg in operands]
        dtype = dtype_of(node)
        if len(args) == 1 and dtype_of(args[0]).startswith(("float", "bfloat")):
            test = _math.lower_float_test(function, self.let(args[0]))
            if test is not None:
                return test
        if dtype in ("float32", "float16", "bfloat16") and args and all(_is_float(arg) for arg in args):
            wide = [self.let(arg if dtype_of(arg) == "float32" else tirx.Cast("float32", arg)) for arg in args]
            value = _math.lower_float32(function, wide, self.let)
            if value is None and name.startswith("tirx."):
                value = self._library(node, function, wide, "float32")
            if value is not None:
                self.body.cost += 6
                return tirx.Cast(dtype, value) if dtype == "float16" else value
        if dtype == "float64":
            value = _math.lower_float64(function, [self.let(arg) for arg in args], self.let)
            if value is not None:
                self._mark_call(name)
                return value
        return self._library(node, function, args, dtype)

    def _library(self, node: Any, function: str, args: list[Any], dtype: str) -> Any:
        """A call that stays one."""
        self._mark_call(node.op.name)
        value = _math.library_call(function, args)
        if value is None and function != node.op.name:
            return tirx.call_pure_extern(dtype, node.args[0].value, *args)
        return tvm.ir.Call(node.op, args, ret_ty=tvm.ir.PrimType(dtype), attrs=node.attrs) if value is None else value

    def _mark_call(self, name: str) -> None:
        if _math.is_expensive(name) and name not in ("tirx.sqrt",):
            self.body.cost += 20
            self.body.branches = True

    def _select(self, cond: Any, yes: Any, no: Any, env: Mapping[Any, Any], lazy: bool = False) -> Any:
        """A Select evaluates both sides; an if_then_else (or a Select whose sides read memory where the condition does not
        hold) becomes a branch, in which bindings stay."""
        condition = self.let(self.expr(cond, env)) if not isinstance(cond, tirx.IntImm) else cond
        if not any(_may_fault(node, guarded=lazy) for side in (yes, no) for node in walk(side)):
            return tirx.Select(condition, self.expr(yes, env), self.expr(no, env))
        sides = [self._branch(side, env) for side in (yes, no)]
        self.body.branches = True
        return tirx.if_then_else(condition, *sides)

    def _branch(self, side: Any, env: Mapping[Any, Any]) -> Any:
        self.scope = _Scope(self.scope)
        value = self.expr(side, env)
        binds = self.scope.binds
        assert self.scope.parent is not None
        self.scope = self.scope.parent
        for var, bound in reversed(binds):
            value = tirx.Let(var, bound, value)
        return value

    # ---- memory ----------------------------------------------------------------------------------------------------

    def _load(self, buffer: Any, indices: list[Any]) -> Any:
        if buffer in self.overrides:
            return self.overrides[buffer]
        key = self._key(buffer, indices)
        found = self.scope.find(key)
        if found is not None:
            return found
        producer = self.pulled.get(buffer)
        if producer is not None:
            store = producer.stores[0]
            value = self.values(producer, self._inverse(producer, store, indices))[0]
        else:
            index = self._access(buffer, indices, is_store=False)
            load = tirx.BufferLoad(self.flat[buffer], [index])
            value = _math.from_bfloat16(load, self.let) if str(buffer.dtype) == "bfloat16" else self.let(load)
        self.scope.loads[key] = value
        return value

    def _inverse(self, producer: Stage, store: Store, indices: list[Any]) -> dict[Any, Any]:
        """The producer's loop variables at the point that writes `indices`; `is_pullable` saw to it that there is one."""
        env = {}
        for written, wanted in zip(store.indices, indices):
            loop_var = producer.env.get(written, written) if isinstance(written, tirx.Var) else None
            if isinstance(loop_var, tirx.Var):
                env[loop_var] = wanted
        return env

    def _index(self, node: Any, env: Mapping[Any, Any]) -> Any:
        """An index expression in terms of the loops, in 64 bits; loads inside of it (a gather) are bound."""
        if isinstance(node, tirx.Var):
            return as_int64(env.get(node, node))
        if isinstance(node, tirx.IntImm):
            return as_int64(node)
        if any(isinstance(each, (tvm.ir.TensorLoad, tvm.ir.Call, tirx.Select, tirx.Let)) for each in walk(node)):
            return self.let(as_int64(self.expr(node, env)))
        if isinstance(node, tirx.Cast):
            return self._index(node.value, env)
        a, b = self._index(node.a, env), self._index(node.b, env)
        if isinstance(node, (tirx.FloorMod, tirx.FloorDiv)) and isinstance(a, tirx.Var) and a in self.extents:
            if self.analyzer.can_prove_equal(self.extents[a], b):
                return a if isinstance(node, tirx.FloorMod) else tirx.IntImm("int64", 0)
        return self.analyzer.simplify(type(node)(a, b))

    def _access(self, buffer: Any, indices: list[Any], is_store: bool) -> Any:
        number = len(self.body.accesses)
        index: Any = tirx.IntImm("int64", 0)
        for extent, each in zip(buffer.shape, indices):
            index = index * as_int64(extent) + each
        index = self.analyzer.simplify(index)
        linear = detect_linear_equation(index, self.vars) if self.vars else [index]
        if len(linear):
            strides: tuple[Any, ...] | None = tuple(linear[:-1])
            base = linear[-1]
        else:
            strides, base = None, index
            self.body.pinned.update(var for var in walk(index) if isinstance(var, tirx.Var) and var in self.extents)
        self.body.accesses.append(Access(buffer, index, strides, base, is_store))
        if self.indices is None:
            return index
        return replace_vars(self.indices[number], dict(zip(self.bound, self.body.bound)))

    def _key(self, buffer: Any, indices: Sequence[Any]) -> Any:
        return (buffer, *(_expr_key(index) for index in indices))


def _may_fault(node: Any, guarded: bool) -> bool:
    """Whether evaluating `node` where its condition does not hold could fault: a load (of a Select: one whose index is more than
    the loops' own variables), or an integer division by what may be zero."""
    if isinstance(node, tvm.ir.TensorLoad):
        return guarded or not all(isinstance(index, (tirx.Var, tirx.IntImm)) for index in node.indices)
    if isinstance(node, (tirx.Div, tirx.Mod, tirx.FloorDiv, tirx.FloorMod)):
        return not _is_float(node) and dtype_of(node) != "float64" and not isinstance(node.b, tirx.IntImm)
    return False


def dtype_of(expr: Any) -> str:
    """The element type of an expression."""
    return str(expr.ty.dtype)


def _is_float(expr: Any) -> bool:
    return dtype_of(expr) in ("float32", "float16", "bfloat16")


def _expr_key(expr: Any) -> Any:
    """A hashable form of an index expression, equal for structurally equal ones over the same variables."""
    if isinstance(expr, tirx.Var):
        return expr
    if isinstance(expr, tirx.IntImm):
        return int(expr.value)
    if isinstance(expr, tirx.Cast):
        return ("cast", dtype_of(expr), _expr_key(expr.value))
    if hasattr(expr, "a") and hasattr(expr, "b"):
        return (type(expr).__name__, _expr_key(expr.a), _expr_key(expr.b))
    return ("node", tvm_ffi.structural_hash(expr, map_free_vars=False), str(expr))
