"""What an operator is: a Relax operator `maas.<name>`, declared by the function that computes it.

    @operator(lambda q, k, v, mask, **attrs: [...])
    def attention(q, k, v, mask=None, *, scale, causal=0): ...

The function takes and gives numpy arrays: it is the reference. Its positional parameters are the inputs, those with the default None optional
ones (`R.tuple()` in the call where absent); a parameter that is a shape takes a `relax.ShapeExpr`, and in the reference a list of
integers. Those by keyword are the attributes, named constants: an attribute that a call does not give has the default.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy.typing as npt
import tvm
from tvm import relax

__all__ = ["OPERATORS", "Array", "Attr", "Operator", "OperatorCall", "extents", "operator", "read_operator"]

PREFIX = "maas."
Array = npt.NDArray[Any]
Attr = int | float | str
Types = Callable[..., Sequence[tvm.ir.Type]]
_PLACE = "place"  # of the operators of the source that a call stands for; for profiles

OPERATORS: dict[str, Operator] = {}


@dataclass(frozen=True)
class Operator:
    """Calling it makes the call expression, as `relax.op`'s functions do; one result is a tensor, several are a tuple."""

    name: str
    signature: inspect.Signature
    types: Types
    reference: Callable[..., Sequence[Any]]

    def __call__(self, *args: relax.Expr | None, place: str = "", **attrs: Attr) -> relax.Call:
        given = self.signature.bind(*args, **attrs)  # TypeError for what the operator does not have, or needs
        absent = [None] * (len(self.inputs) - len(given.args))
        exprs = [relax.Tuple([]) if arg is None else arg for arg in (*given.args, *absent)]
        node = tvm.ir.make_node("ir.DictAttrs", **{_PLACE: place}, **given.kwargs)
        return relax.Call(tvm.ir.Op.get(PREFIX + self.name), exprs, node)

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        return tuple(name for name, each in self.signature.parameters.items() if each.kind is not each.KEYWORD_ONLY)

    def infer(self, call: relax.Call) -> tvm.ir.Type:
        """The type of a call's result."""
        args, attrs, _ = _parts(call)
        given = self.signature.bind(*args, **attrs)
        given.apply_defaults()
        types = list(self.types(*given.args, **given.kwargs))
        return types[0] if len(types) == 1 else tvm.ir.TupleType(types)

    def run(self, args: Sequence[Any], attrs: Mapping[str, Attr]) -> list[Any]:
        """The results of arrays, shapes (lists of integers) and None."""
        return list(self.reference(*args, **attrs))


@dataclass(frozen=True)
class OperatorCall:
    """One call: `args` are all inputs, None where an optional one is absent; `attrs` are those that were given."""

    operator: Operator
    args: list[relax.Expr | None]
    attrs: dict[str, Attr]
    place: str


def operator(types: Types) -> Callable[[Callable[..., Sequence[Any]]], Operator]:
    """Declares the operator of a reference. `types` takes the inputs as expressions and all attributes, and gives the results' types."""

    def declare(reference: Callable[..., Sequence[Any]]) -> Operator:
        made = Operator(reference.__name__, inspect.signature(reference), types, reference)
        tvm.ir.register_op_attr(PREFIX + made.name, "FInferType", lambda call, _builder: made.infer(call))
        tvm.ir.register_op_attr(PREFIX + made.name, "FPurity", True)
        OPERATORS[made.name] = made
        return made

    return declare


def read_operator(expr: relax.Expr | None) -> OperatorCall | None:
    """The call of an operator of this project's; None if it is anything else."""
    if not isinstance(expr, relax.Call) or not isinstance(expr.op, tvm.ir.Op):
        return None
    prefix, _, name = str(expr.op.name).rpartition(".")
    if prefix + "." != PREFIX:
        return None
    args, attrs, place = _parts(expr)
    return OperatorCall(OPERATORS[name], args, attrs, place)


def extents(expr: relax.Expr) -> list[Any]:
    """The extents of a tensor, or those that a shape says."""
    shape = expr.ty.shape if isinstance(expr.ty, relax.TensorType) else expr.ty
    return list(shape.values)


def _parts(call: relax.Call) -> tuple[list[relax.Expr | None], dict[str, Attr], str]:
    args = [None if isinstance(arg, relax.Tuple) else arg for arg in call.args]
    attrs = {str(key): value for key, value in call.attrs.items()}
    return args, attrs, attrs.pop(_PLACE)
