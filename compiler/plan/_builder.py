"""Reads a linear plan off a Relax function in A-normal form: one binding is one step, a view, or a name for what exists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tvm
from tvm import relax, tirx
from tvm.tirx.analysis import undefined_vars

from maas_rt._errors import CompileError
from maas_rt._plan import (
    Arg,
    ArgKind,
    Attr,
    Block,
    Check,
    Entry,
    Plan,
    State,
    Step,
    StepKind,
    Storage,
    Symbol,
)

from .._contracts import contract_of
from .._deep import heed
from ..importers._imported import SEED, ImportedModel
from ..ir import check, read_operator
from ..ir._loops import LoopMark, read_loop_mark
from ..passes._dims import static_shape
from ..passes._kernel_call import KernelCall, kernel_outputs, read_kernel_call
from ._sizes import Sizes
from ._symbols import bind_input_symbols
from ._values import LoopResultSlot, LoopSlot, NumberSlot, ShapeSlot, Slot, flatten, is_prim
from ._weights import NMPlace

__all__ = ["PlanBuilder"]

# Bindings that only give another shape, or another type of elements of the same size, to what their first argument holds.
_VIEWS = frozenset({"relax.reshape", "relax.flatten", "relax.expand_dims", "relax.squeeze", "relax.memory.view"})


class PlanBuilder(Sizes):
    """Builds the plan of one entry. `functions` maps the module's function names to those of the code section."""

    def __init__(self, model: ImportedModel, functions: Mapping[str, str], name: str) -> None:
        super().__init__(model, name)
        self.functions = functions

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
        operation = read_operator(value)
        if operation is not None and operation.operator is check:
            return self._check(var, operation)
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
        name = f"{var.name}.{kernel.packing}"
        if isinstance(place, NMPlace):
            return self._stored_sparse(place, expr.ty, name, kernel.packing)
        return self._stored(place, expr.ty, name)

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
            flat = flatten(self._body(branch))
            self._block.results = [self._tensor(slot, self._block.name) for slot in flat]
            self._block = outer
            blocks.append(number)
        outs, slot = self._define(var.name, var.ty)
        self._block.steps.append(
            Step(StepKind.BRANCH, var.name, args=[Arg(ArgKind.VALUE, condition)], outs=outs, blocks=blocks)
        )
        return slot


def _attr(key: str, value: Any) -> Attr:
    if isinstance(value, str):
        return Attr(key, text=value)
    if value and isinstance(value[0], float):
        return Attr(key, floats=[float(item) for item in value])
    return Attr(key, ints=[int(item) for item in value])
