"""The values of a plan while it is built: what the IR's variables stand for, new values for steps' results, constants, copies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Union

import tvm
from tvm import relax

from maas_rt._errors import CompileError
from maas_rt._plan import (
    MAX_RANK,
    Arg,
    ArgKind,
    Block,
    DTypeCode,
    Encoding,
    Plan,
    Step,
    StepKind,
    Storage,
    Value,
)

from .._dtypes import constant_bytes, dtype_code
from ..passes._rewrite import array_of
from ._exprs import ExprPool
from ._weights import NMPlace, Place, WeightsSection

__all__ = ["LoopResultSlot", "LoopSlot", "NumberSlot", "ShapeSlot", "Slot", "Values", "flatten", "is_prim"]


@dataclass(frozen=True)
class ShapeSlot:
    """A shape that the plan knows as expressions; where a match_cast compares it, "" for the place of that, and whether it is a volume."""

    exprs: tuple[int, ...]
    place: str = ""
    volume: bool = False


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


class Values:
    """The plan's values, weights and expressions, and the block whose steps are made."""

    def __init__(self, name: str) -> None:
        self.plan = Plan(name=name)
        self.weights = WeightsSection()
        self.pool = ExprPool()
        self._env: dict[Any, Slot] = {}
        self._constants: dict[tuple[Any, ...], int] = {}
        self._block = Block()

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

    def _stored(self, place: Place, ty: Any, name: str) -> int:
        key = (place, str(ty.dtype), tuple(int(extent) for extent in ty.shape.values))
        if key not in self._constants:
            index = self._value(name, ty, Storage.CONSTANT)
            self.plan.values[index].offset, self.plan.values[index].bytes = place
            self._constants[key] = index
        return self._constants[key]

    def _stored_sparse(self, place: NMPlace, ty: Any, name: str, packing: str) -> int:
        """A value of its own for each packing that a runtime makes of it."""
        key = (place, packing)
        if key not in self._constants:
            index = self._constants[key] = self._value(name, ty, Storage.CONSTANT)
            value = self.plan.values[index]
            value.encoding, value.base = Encoding.N_M, index + 1
            value.offset, value.bytes = place.values
            indices = Value(
                f"{name}.indices", dtype_code=DTypeCode.UINT, dtype_bits=place.bits, storage=Storage.CONSTANT
            )
            indices.dims = [self.pool.const(extent) for extent in place.shape]
            indices.offset, indices.bytes = place.indices
            self.plan.values.append(indices)
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

    def _like(self, index: int, name: str) -> int:
        """A new value of another's type."""
        other = self.plan.values[index]
        value = Value(name, dtype_code=other.dtype_code, dtype_bits=other.dtype_bits, dims=list(other.dims))
        self.plan.values.append(value)
        return len(self.plan.values) - 1

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


def is_prim(expr: Any) -> bool:
    """Whether `expr` is an integer or bool scalar expression (what shapes are made of)."""
    return isinstance(expr, tvm.ir.Expr) and bool(tvm.ir.is_prim_expr(expr))


def flatten(slot: Slot) -> list[Slot]:
    return [leaf for field in slot for leaf in flatten(field)] if isinstance(slot, tuple) else [slot]
