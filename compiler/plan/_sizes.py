"""Sizes in a plan: shapes that tensors hold, symbols that a step binds, and what a run must find equal."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from tvm import relax, tirx
from tvm.sym import Analyzer
from tvm.tirx.analysis import undefined_vars

from maas_rt._errors import CompileError
from maas_rt._plan import Arg, ArgKind, Attr, Check, ExprOp, Step, StepKind, Symbol, Value

from ..importers._imported import ImportedModel
from ..importers._run_checks import readable
from ..ir import OperatorCall
from ._values import LoopResultSlot, LoopSlot, ShapeSlot, Slot, Values

__all__ = ["Sizes"]

_UNEVEN = "what is reshaped must have as many elements as its new shape"


class Sizes(Values):
    """Bindings that read, bind or compare sizes."""

    def __init__(self, model: ImportedModel, name: str) -> None:
        super().__init__(name)
        self.model = model
        self._checks: list[Check] = []
        self._of_inputs: set[str] = set()  # variables that the inputs' shapes give

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

    def _check(self, var: relax.Var, call: OperatorCall) -> ShapeSlot:
        """What `ir.check` says of sizes goes where they are looked at: to the match_cast behind that compares them, or to the step that binds them."""
        (sizes,), kind, text = call.args, str(call.attrs["kind"]), str(call.attrs["text"])
        if kind in ("extent", "volume"):
            slot = self._slot(sizes)
            assert isinstance(slot, ShapeSlot)
            return replace(slot, place=text, volume=kind == "volume")
        return self._tensor_to_shape(var, sizes, Attr(kind, text=text))

    def _tensor_to_shape(self, var: relax.Var, tensor: Any, says: Attr | None = None) -> ShapeSlot:
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
        numbers = list(range(len(self.plan.symbols), len(self.plan.symbols) + count))
        self.plan.symbols += [Symbol(f"{var.name}.{position}") for position in range(count)]
        step = Step(StepKind.BIND, var.name, args=[Arg(ArgKind.VALUE, source)], binds=numbers)
        if says is not None:
            step.attrs.append(says)
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
                place = (slot.place if isinstance(slot, ShapeSlot) else "") or binding.var.name
                volume = isinstance(slot, ShapeSlot) and slot.volume
                message = _UNEVEN if volume else f"the extent must equal {readable(wanted)}"
                self._checks.append(Check(expr, lowered, f"{place}: {message}"))
        return slot

    def _iterations(self, var: relax.Var, loop: LoopSlot) -> ShapeSlot:
        extents = sum(len(attr.ints) for attr in loop.step.attrs) // 2
        if len(loop.step.binds) == extents:
            loop.step.binds.append(len(self.plan.symbols))
            self.plan.symbols.append(Symbol(f"{var.name}.0"))
        return ShapeSlot((self.pool.symbol(loop.step.binds[-1]),))

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
