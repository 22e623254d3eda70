"""Reads a linear plan off a Relax function in A-normal form: one binding is one step, a view, or a name for what exists."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Union

import numpy as np
import tvm
from tvm import relax, tirx
from tvm.sym import Analyzer
from tvm.tirx.analysis import undefined_vars

from maas_rt._errors import CompileError
from maas_rt._plan import (
    MAX_RANK,
    Arg,
    ArgKind,
    Attr,
    Block,
    Check,
    Entry,
    ExprOp,
    Plan,
    State,
    Step,
    StepKind,
    Storage,
    Symbol,
    Value,
)

from .._contracts import contract_of
from .._deep import heed
from ..importers._imported import SEED, VOLUME, ImportedModel
from ..importers._told import readable, told
from ..passes._dims import static_shape
from ..passes._kernel_call import KernelCall, kernel_outputs, read_kernel_call
from ..passes._loops import LoopMark, read_loop_mark
from ..passes._rewrite import array_of
from ._dtypes import constant_bytes, dtype_code
from ._exprs import ExprPool
from ._symbols import bind_input_symbols
from ._weights import WeightsSection

__all__ = ["PlanBuilder"]

# Bindings that only give another shape, or another type of elements of the same size, to what their first argument holds.
_VIEWS = frozenset({"relax.reshape", "relax.flatten", "relax.expand_dims", "relax.squeeze", "relax.memory.view"})
_UNEVEN = "what is reshaped must have as many elements as its new shape"


@dataclass(frozen=True)
class ShapeSlot:
    """A shape that the plan knows as expressions."""

    exprs: tuple[int, ...]


@dataclass(frozen=True)
class NumberSlot:
    """A scalar integer that the plan knows as an expression."""

    expr: int


@dataclass(frozen=True, eq=False)
class LoopSlot:
    """A loop: the step, which its If completes, and the block that it runs. As a slot: the flag that makes the If."""

    step: Step
    body: Block
    home: Block


@dataclass(frozen=True)
class LoopResultSlot:
    """A result of a loop's body that is no carried value: its slices, by the value that the body gives, or (None) their number."""

    loop: LoopSlot
    value: int | None


# What a Relax variable stands for: a value's index, a tuple of such, a shape, a number, or a part of a loop.
Slot = Union[int, "tuple[Slot, ...]", ShapeSlot, NumberSlot, LoopSlot, LoopResultSlot]


class PlanBuilder:
    """Builds the plan of one entry. `symbols_of` maps the module's function names to those of the code section."""

    def __init__(self, model: ImportedModel, functions: Mapping[str, str], name: str) -> None:
        self.model = model
        self.functions = functions
        self.plan = Plan(name=name)
        self.weights = WeightsSection()
        self.pool = ExprPool()
        self._env: dict[Any, Slot] = {}
        self._constants: dict[tuple[Any, ...], int] = {}
        self._block = Block()
        self._checks: list[Check] = []
        self._of_inputs: set[str] = set()  # variables that the inputs' shapes give

    # ---- the whole function ----------------------------------------------------------------------------------------

    def build(self, function: relax.Function) -> Plan:
        plan, model = self.plan, self.model
        names = [*model.input_names, *(state.name for state in model.states), *([SEED] if model.draws else [])]
        if len(names) != len(function.params):
            raise CompileError(f"main has {len(function.params)} parameters, and the importer named {len(names)}")
        bind_input_symbols(function.params, model.symbols, plan, self.pool, self._checks)
        dims = [dim for param in function.params for dim in param.ty.shape.values]
        self._of_inputs = {symbol.name for dim in dims for symbol in undefined_vars(dim)}
        self._conditions({var.name: var for dim in dims for var in undefined_vars(dim)})
        inputs = [self._parameter(param, name) for param, name in zip(function.params, model.input_names)]
        states = [
            self._state(param, spec, index)
            for index, (param, spec) in enumerate(zip(function.params[len(inputs) :], model.states))
        ]
        if model.draws:
            self._seed(function.params[-1], function.body)
        plan.blocks.append(self._block)
        self._block.name = "main"
        results = self._body(function.body)
        results = results if isinstance(results, tuple) else (results,)
        wanted = len(model.output_names) + len(model.states)
        if len(results) != wanted:
            raise CompileError(f"main returns {len(results)} values, and the importer named {wanted}")
        outputs = self._outputs(results[: len(model.output_names)])
        self._next_states(results[len(model.output_names) :], states)
        self._block.results = outputs
        numbers = list(range(len(states)))
        plan.entries.append(Entry("main", inputs, outputs, 0, numbers, list(numbers), self._checks))
        plan.exprs = self.pool.exprs
        return plan

    def _conditions(self, variables: Mapping[str, tirx.Var]) -> None:
        """Checks that every run makes of its sizes before it begins."""
        for condition in self.model.conditions:
            for var in undefined_vars(condition.holds):
                if not self.pool.knows(var):  # a pass gave main others of the same names
                    self.pool.bind(var, self.pool.lower(variables[var.name]))
            truth = self.pool.lower(condition.holds)
            if self.pool.constant_value(truth) == 0:
                raise CompileError(f"no sizes are left for the model: {condition.text}")
            if self.pool.constant_value(truth) is None:
                self._checks.append(Check(truth, self.pool.const(1), condition.text))

    def _parameter(self, param: relax.Var, name: str) -> int:
        index = self._value(name, param.ty, Storage.INPUT)
        self._env[param] = index
        return index

    def _state(self, param: relax.Var, spec: Any, number: int) -> int:
        index = self._value(spec.name, param.ty, Storage.STATE)
        self.plan.values[index].base = number
        initial = np.asarray(spec.initial)
        init = self._array(initial, param.ty, f"{spec.name}.initial") if initial.any() else -1
        self.plan.states.append(State(spec.name, index, init))
        self._env[param] = index
        return index

    def _seed(self, param: relax.Var, body: relax.Expr) -> None:
        """The run's seed, if anything is left that draws from it."""
        type_ = param.ty
        if not isinstance(type_, relax.TensorType) or str(type_.dtype) != "uint64" or static_shape(param) != [1]:
            raise CompileError(f"the seed {param.name} of main is {type_}, expected uint64 of shape [1]")
        if any(each.same_as(param) for each in relax.analysis.free_vars(body)):
            self._env[param] = self._value(param.name, type_, Storage.SEED)

    def _outputs(self, slots: Sequence[Slot]) -> list[int]:
        """Each output a value of its own that a step defines: what is an input, a constant, a view or given twice is copied."""
        seen: set[int] = set()
        outputs = []
        for slot, name in zip(slots, self.model.output_names):
            index = self._tensor(slot, f"the output {name}")
            if self.plan.values[index].storage != Storage.ARENA or index in seen:
                index = self._copy(index, name)
            seen.add(index)
            self.plan.values[index].name = name
            outputs.append(index)
        return outputs

    def _next_states(self, slots: Sequence[Slot], states: Sequence[int]) -> None:
        """Copies at the end of the block, after every read of the old values; what is another state goes through a copy."""
        pending = []
        for slot, state in zip(slots, states):
            index = self._tensor(slot, f"the state {self.plan.values[state].name}")
            root = self._root(index)
            if root == state and self.plan.values[index].dims == self.plan.values[state].dims:
                continue
            if self.plan.values[root].storage == Storage.STATE:
                index = self._copy(index, self.plan.values[index].name)
            pending.append((index, state))
        for index, state in pending:
            self._step(StepKind.COPY, f"{self.plan.values[state].name} (state)", [index], [state])

    # ---- bindings --------------------------------------------------------------------------------------------------

    def _body(self, body: Any) -> Slot:
        if not isinstance(body, relax.SeqExpr):
            return self._slot(body)
        for block in body.blocks:
            for binding in block.bindings:
                heed()
                if isinstance(binding, relax.MatchCast):
                    self._env[binding.var] = self._match_cast(binding)
                else:
                    self._env[binding.var] = self._binding(binding.var, binding.value)
        return self._slot(body.body)

    def _binding(self, var: relax.Var, value: Any) -> Slot:
        if isinstance(value, relax.If):
            return self._if(var, value)
        if not isinstance(value, tvm.ir.Call):
            return self._slot(value)
        kernel = read_kernel_call(value)
        if kernel is not None:
            return self._kernel(var, value, kernel)
        mark = read_loop_mark(value)
        if mark is not None:
            return self._loop_mark(var, value, mark)
        op = getattr(value.op, "name", None)
        if op == "relax.call_tir":
            return self._code(var, value)
        if op in _VIEWS:
            self._check_volume(var, value)
            return self._view(var, self._tensor(self._slot(value.args[0]), var.name))
        if op == "relax.shape_of":
            return ShapeSlot(tuple(self.plan.values[self._tensor(self._slot(value.args[0]), var.name)].dims))
        if op == "relax.shape_to_tensor":
            return self._shape_to_tensor(var, value)
        if op == "relax.tensor_to_shape":
            return self._tensor_to_shape(var, value.args[0])
        if (
            op == "relax.call_pure_packed" and value.args[0].global_symbol == "vm.builtin.tensor_to_shape"
        ):  # the same, lowered
            return self._tensor_to_shape(var, value.args[1])
        if is_prim(value):
            return NumberSlot(self.pool.lower(value))
        what = (
            op
            or getattr(value.op, "global_symbol", None)
            or getattr(value.op, "name_hint", None)
            or type(value.op).__name__
        )
        if op == "relax.call_dps_packed" or op == "relax.call_pure_packed":
            what = f"{op} of {value.args[0].global_symbol}"
        raise CompileError(
            f"the compiler has no step for {what} (binding {var.name}): this operator is not supported yet"
        )

    def _slot(self, expr: Any) -> Slot:
        if isinstance(expr, relax.Var) and expr in self._env:
            return self._env[expr]
        if isinstance(expr, relax.Tuple):
            return tuple(self._slot(field) for field in expr.fields)
        if isinstance(expr, relax.TupleGetItem):
            fields = self._slot(expr.tuple_value)
            if not isinstance(fields, tuple):
                raise CompileError(f"{expr} takes an element of what is not a tuple")
            return fields[int(expr.index)]
        if isinstance(expr, tvm.ir.GenericConst):
            return self._constant(expr)
        if isinstance(expr, relax.ShapeExpr):
            return ShapeSlot(tuple(self.pool.lower(value) for value in expr.values))
        if is_prim(expr):
            return NumberSlot(self.pool.lower(expr))
        raise CompileError(f"the compiler cannot place {type(expr).__name__} in a plan: {str(expr)[:80]}")

    def _code(self, var: relax.Var, call: Any) -> Slot:
        slots = [self._slot(arg) for arg in call.args[1]]
        if len(call.args) > 2:
            slots += [self._slot(arg) for arg in call.args[2:]]
        values = [slot for slot in slots if isinstance(slot, int)]
        numbers = [slot for slot in slots if not isinstance(slot, int)]
        args = [Arg(ArgKind.VALUE, index) for index in values]
        for number in numbers:
            if isinstance(number, NumberSlot):
                args.append(Arg(ArgKind.EXPRESSION, number.expr))
            elif isinstance(number, ShapeSlot):
                args.extend(Arg(ArgKind.EXPRESSION, expr) for expr in number.exprs)
            else:
                raise CompileError(f"the generated function of {var.name} takes a tuple")
        outs, slot = self._define(var.name, call.ty_args[0])
        target = self.functions[call.args[0].name_hint]
        self._block.steps.append(Step(StepKind.CODE, var.name, target, args=args, outs=outs))
        return slot

    def _kernel(self, var: relax.Var, call: Any, kernel: KernelCall) -> Slot:
        contract, types = contract_of(kernel.contract), kernel_outputs(call)
        given = [expr is not None for expr in kernel.args]
        refusal = contract.refusal(given, len(types), kernel.attrs, kernel.packing)
        if refusal:
            raise CompileError(f"{kernel.contract} ({var.name}) {refusal}, says the installed library")
        args = []
        for position, expr in enumerate(kernel.args):
            if expr is None:
                args.append(Arg(ArgKind.ABSENT))
            elif position in contract.packed:
                args.append(Arg(ArgKind.VALUE, self._packed(var, kernel, expr)))
            else:
                args.append(Arg(ArgKind.VALUE, self._tensor(self._slot(expr), var.name)))
        outs, slot = self._define(var.name, types[0] if len(types) == 1 else types)
        attrs = [_attr(key, value) for key, value in sorted(kernel.attrs.items())]
        self._block.steps.append(
            Step(
                StepKind.KERNEL,
                kernel.name or var.name,
                kernel.contract,
                kernel.packing,
                kernel.hint,
                args=args,
                outs=outs,
                attrs=attrs,
            )
        )
        return slot

    def _packed(self, var: relax.Var, kernel: KernelCall, expr: Any) -> int:
        if not isinstance(expr, tvm.ir.GenericConst):
            raise CompileError(f"{kernel.contract} ({var.name}) packs its weight, which is not a constant")
        array = self._value_of(expr)
        place = self.weights.add_packed(kernel.contract, kernel.packing, array, kernel.attrs)
        return self._stored(place, expr.ty, f"{var.name}.{kernel.packing}")

    def _check_volume(self, var: relax.Var, call: Any) -> None:
        """A shape that is computed by division fits some sizes of the inputs alone."""
        shapes = call.args[0].ty.shape, var.ty.shape
        if (
            call.op.name == "relax.memory.view"
            or self._block.name != "main"
            or not all(hasattr(s, "values") for s in shapes)
        ):
            return
        given, made = (math.prod(list(shape.values), start=tirx.IntImm("int64", 1)) for shape in shapes)
        if Analyzer().can_prove_equal(given, made):
            return
        if {symbol.name for symbol in undefined_vars(given - made)} <= self._of_inputs:
            self._checks.append(Check(self.pool.lower(given), self.pool.lower(made), f"{var.name}: {_UNEVEN}"))

    def _view(self, var: relax.Var, base: int) -> int:
        dims = self._dims(var.ty, var.name)
        source = self.plan.values[base]
        code, bits = dtype_code(str(var.ty.dtype))
        if dims == source.dims and (code, bits) == (source.dtype_code, source.dtype_bits):
            return base
        index = self._value(var.name, var.ty, Storage.VIEW)
        self.plan.values[index].base = base
        self.plan.values[index].offset = self.pool.const(0)
        return index

    # ---- control flow ----------------------------------------------------------------------------------------------

    def _loop_mark(self, var: relax.Var, call: Any, mark: LoopMark) -> Slot:
        if mark.kind == "open":
            return self._open_loop(var, call, mark)
        if mark.kind == "stack":
            return self._stack(var, mark)
        if mark.kind in ("value", "carry"):  # the plan's types name every extent, so that these change nothing
            return self._tensor(self._slot(mark.args[0]), var.name)
        raise CompileError(f"{var.name} is a part of a loop in a place of its own")

    def _open_loop(self, var: relax.Var, call: Any, mark: LoopMark) -> Slot:
        given = [Arg(ArgKind.VALUE, self._tensor(self._slot(arg), var.name)) for arg in mark.args]
        leading = [given.pop(0) if present else Arg(ArgKind.ABSENT) for present in (mark.condition, mark.trips)]
        step = Step(StepKind.LOOP, mark.name, args=[*leading, *given])
        extents = []
        for k, axis in mark.axes:
            step.binds.append(len(self.plan.symbols))
            self.plan.symbols.append(Symbol(f"{var.name}.{k}.{axis}"))
            extents.append(self.pool.symbol(step.binds[-1]))
        if mark.axes:
            step.attrs.append(Attr("extents", ints=[each for pair in mark.axes for each in pair]))
        body = Block(f"{mark.name}.body")
        body.params = [self._value(f"{mark.name}.number", kernel_outputs(call)[1], Storage.ARENA)]
        for k, arg in enumerate(given):
            body.params.append(self._like(arg.index, f"{mark.name}.{k}"))
            for (value, axis), extent in zip(mark.axes, extents):
                if value == k:
                    self.plan.values[-1].dims[axis] = extent
        shape = [ShapeSlot(tuple(extents))] if mark.axes else []
        return LoopSlot(step, body, self._block), body.params[0], *shape, *body.params[1:]

    def _like(self, index: int, name: str) -> int:
        """A new value of another's type."""
        other = self.plan.values[index]
        value = Value(name, dtype_code=other.dtype_code, dtype_bits=other.dtype_bits, dims=list(other.dims))
        self.plan.values.append(value)
        return len(self.plan.values) - 1

    def _loop(self, var: relax.Var, expr: relax.If, loop: LoopSlot) -> Slot:
        """The step, without the slices: each is added where it is stacked, so that those that nobody wants cost nothing."""
        loop.step.blocks.append(len(self.plan.blocks))
        self.plan.blocks.append(loop.body)
        outer, self._block = self._block, loop.body
        flat = list(self._results(expr.true_branch))
        iterations = LoopResultSlot(loop, None)
        shape = [flat.pop(-2)] if loop.step.attrs else []
        results = [self._tensor(slot, loop.body.name) for slot in flat[:-1]]
        self._block = outer
        carried = len(loop.body.params) - 1
        loop.body.results = results[: 1 + carried]
        outs = [self._like(param, f"{var.name}.{k}") for k, param in enumerate(loop.body.params[1:])]
        loop.step.outs = list(outs)
        outer.steps.append(loop.step)
        slices = [LoopResultSlot(loop, value) for value in results[1 + carried :]]
        return LoopResultSlot(loop, results[0]), *outs, *slices, *shape, iterations

    def _results(self, branch: Any) -> tuple[Slot, ...]:
        slot = self._body(branch)
        assert isinstance(slot, tuple)
        return slot

    def _stack(self, var: relax.Var, mark: LoopMark) -> int:
        slot = self._slot(mark.args[0])
        if not isinstance(slot, LoopResultSlot) or slot.value is None or slot.loop.home is not self._block:
            raise CompileError(f"{var.name} stacks what is no slice of a loop beside it")
        index = self._value(var.name, var.ty, Storage.ARENA)
        slot.loop.body.results.append(slot.value)
        slot.loop.step.outs.append(index)
        return index

    def _iterations(self, var: relax.Var, loop: LoopSlot) -> ShapeSlot:
        extents = sum(len(attr.ints) for attr in loop.step.attrs) // 2
        if len(loop.step.binds) == extents:
            loop.step.binds.append(len(self.plan.symbols))
            self.plan.symbols.append(Symbol(f"{var.name}.0"))
        return ShapeSlot((self.pool.symbol(loop.step.binds[-1]),))

    def _if(self, var: relax.Var, expr: relax.If) -> Slot:
        flag = self._slot(expr.cond)
        if isinstance(flag, LoopSlot):
            return self._loop(var, expr, flag)
        condition = self._tensor(flag, var.name)
        blocks = []
        for branch, label in ((expr.true_branch, "then"), (expr.false_branch, "else")):
            number = len(self.plan.blocks)
            outer, self._block = self._block, Block(f"{var.name}.{label}")
            self.plan.blocks.append(self._block)
            flat = _flatten(self._body(branch))
            self._block.results = [self._tensor(slot, self._block.name) for slot in flat]
            self._block = outer
            blocks.append(number)
        outs, slot = self._define(var.name, var.ty)
        self._block.steps.append(
            Step(StepKind.BRANCH, var.name, args=[Arg(ArgKind.VALUE, condition)], outs=outs, blocks=blocks)
        )
        return slot

    def _shape_to_tensor(self, var: relax.Var, call: Any) -> int:
        shape = self._slot(call.args[0])
        if not isinstance(shape, ShapeSlot):
            raise CompileError(f"the shape of {var.name} is not known")
        index = len(self.plan.values)
        value = Value(var.name, dtype_code=0, dtype_bits=64, dims=[self.pool.const(len(shape.exprs))])
        self.plan.values.append(value)
        args = [Arg(ArgKind.EXPRESSION, expr) for expr in shape.exprs]
        self._block.steps.append(Step(StepKind.SHAPE, var.name, args=args, outs=[index]))
        return index

    def _tensor_to_shape(self, var: relax.Var, tensor: Any) -> ShapeSlot:
        slot = self._slot(tensor)
        if isinstance(slot, LoopResultSlot) and slot.value is None:
            return self._iterations(var, slot.loop)
        if isinstance(slot, ShapeSlot):  # what a loop says of the values that it carries
            return slot
        source = self._tensor(slot, var.name)
        dims = [self.pool.constant_value(dim) for dim in self.plan.values[source].dims]
        count = dims[0] if dims else 1
        if len(dims) > 1 or count is None:
            raise CompileError(f"the shape {var.name} has a rank that only the data decides, which is not supported")
        says, name = told(var.name, self.model.said)
        if f"{name}.0" in {symbol.name for symbol in self.plan.symbols}:
            name = var.name  # no two of which are the same
        numbers = list(range(len(self.plan.symbols), len(self.plan.symbols) + count))
        self.plan.symbols += [Symbol(f"{name}.{position}") for position in range(count)]
        step = Step(StepKind.BIND, name, args=[Arg(ArgKind.VALUE, source)], binds=numbers)
        if says is not None:
            step.attrs.append(Attr(says.kind, text=says.text))
        self._block.steps.append(step)
        return ShapeSlot(tuple(self.pool.symbol(number) for number in numbers))

    def _bounded(self, expr: int, name: str) -> int:
        """Give a symbol that a step binds the bounds that the importer knows; returns the least value of `expr`."""
        spec, record = self.model.symbols.get(name), self.pool.exprs[expr]
        if spec is None or record.op != ExprOp.SYMBOL:
            return 0
        self.plan.symbols[record.a] = Symbol(name, spec.min, -1 if spec.max is None else spec.max, spec.multiple)
        return spec.min

    def _match_cast(self, binding: relax.MatchCast) -> Slot:
        """Names dimensions that are known already (a new variable stands for the extent), or checks what both sides know."""
        slot = self._slot(binding.value)
        if isinstance(slot, ShapeSlot):
            known, pattern = list(slot.exprs), list(binding.ty.values)
        elif isinstance(slot, int) and isinstance(binding.ty, relax.TensorType):
            known, pattern = self.plan.values[slot].dims, list(binding.ty.shape.values) if binding.ty.shape else []
        else:
            return slot
        for expr, wanted in zip(known, pattern):
            if isinstance(wanted, tirx.Var) and not self.pool.knows(wanted):
                self.pool.bind(wanted, expr, minimum=self._bounded(expr, wanted.name))
                continue
            lowered = self.pool.lower(wanted)
            if lowered != expr:
                where, name = told(binding.var.name, self.model.said)
                place, of_volumes, _ = name.partition(VOLUME)
                place = place if where is None else where.text
                message = _UNEVEN if of_volumes else f"the extent must equal {readable(wanted)}"
                self._checks.append(Check(expr, lowered, f"{place}: {message}"))
        return slot

    # ---- values ----------------------------------------------------------------------------------------------------

    def _define(self, name: str, types: Any) -> tuple[list[int], Slot]:
        """New values for a step's results; (their indices, the slot of the whole)."""
        if isinstance(types, (list, tuple, tvm.ir.TupleType)):
            fields = list(types.fields) if isinstance(types, tvm.ir.TupleType) else list(types)
            outs: list[int] = []
            slots: list[Slot] = []
            for number, each in enumerate(fields):
                inner, slot = self._define(f"{name}.{number}", each)
                outs += inner
                slots.append(slot)
            return outs, tuple(slots)
        index = self._value(name, types, Storage.ARENA)
        return [index], index

    def _value(self, name: str, ty: Any, storage: Storage) -> int:
        if not isinstance(ty, relax.TensorType) or not ty.dtype:
            raise CompileError(f"{name} is {ty}, and a plan holds tensors of a known element type")
        code, bits = dtype_code(str(ty.dtype))
        self.plan.values.append(
            Value(name, dtype_code=code, dtype_bits=bits, storage=storage, dims=self._dims(ty, name))
        )
        return len(self.plan.values) - 1

    def _dims(self, ty: Any, name: str) -> list[int]:
        if not isinstance(ty.shape, relax.ShapeExpr):
            raise CompileError(f"the shape of {name} is not known at compile time, not even by symbols")
        if len(ty.shape.values) > MAX_RANK:
            raise CompileError(
                f"the result of operator {name} has {len(ty.shape.values)} dimensions, and a tensor of the runtime has at most {MAX_RANK}: "
                "merge neighbouring ones with a reshape before it"
            )
        return [self.pool.lower(extent) for extent in ty.shape.values]

    def _constant(self, constant: Any) -> int:
        return self._array(self._value_of(constant), constant.ty, f"constant{len(self._constants)}")

    def _value_of(self, constant: Any) -> Any:
        array = array_of(constant)
        assert array is not None
        return array

    def _array(self, array: Any, ty: Any, name: str) -> int:
        return self._stored(self.weights.add(constant_bytes(array)), ty, name)

    def _stored(self, place: tuple[int, int], ty: Any, name: str) -> int:
        key = (place, str(ty.dtype), tuple(int(extent) for extent in ty.shape.values))
        if key not in self._constants:
            index = self._value(name, ty, Storage.CONSTANT)
            self.plan.values[index].offset, self.plan.values[index].bytes = place
            self._constants[key] = index
        return self._constants[key]

    def _tensor(self, slot: Slot, place: str) -> int:
        if isinstance(slot, int):
            return slot
        if isinstance(slot, tuple) and len(slot) == 1:
            return self._tensor(slot[0], place)
        raise CompileError(
            f"{place} is a {type(slot).__name__.removesuffix('Slot').lower()}, where a tensor was expected"
        )

    def _root(self, index: int) -> int:
        while self.plan.values[index].storage == Storage.VIEW:
            index = self.plan.values[index].base
        return index

    def _copy(self, source: int, name: str) -> int:
        value = self.plan.values[source]
        index = len(self.plan.values)
        self.plan.values.append(
            Value(name, dtype_code=value.dtype_code, dtype_bits=value.dtype_bits, dims=list(value.dims))
        )
        self._step(StepKind.COPY, name, [source], [index])
        return index

    def _step(self, kind: StepKind, name: str, args: Sequence[int], outs: Sequence[int]) -> None:
        self._block.steps.append(Step(kind, name, args=[Arg(ArgKind.VALUE, each) for each in args], outs=list(outs)))


def is_prim(expr: Any) -> bool:
    """Whether `expr` is an integer or bool scalar expression (what shapes are made of)."""
    return isinstance(expr, tvm.ir.Expr) and bool(tvm.ir.is_prim_expr(expr))


def _attr(key: str, value: Any) -> Attr:
    if isinstance(value, str):
        return Attr(key, text=value)
    if value and isinstance(value[0], float):
        return Attr(key, floats=[float(item) for item in value])
    return Attr(key, ints=[int(item) for item in value])


def _flatten(slot: Slot) -> list[Slot]:
    return [leaf for field in slot for leaf in _flatten(field)] if isinstance(slot, tuple) else [slot]
