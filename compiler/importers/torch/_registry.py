"""The table of ATen converters: one operator overload is one short function, found by its name.

A converter takes the `Context` and those arguments of the operator's schema that it declares, by their schema names (`self` is
`x`). An argument that it does not declare must hold its default: the operator is refused otherwise, so that nothing is
ignored in silence. Tensors arrive as Relax expressions, symbolic integers as TIR expressions, numbers as they are.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

__all__ = [
    "CONVERTERS",
    "Converter",
    "NotConvertible",
    "argument_name",
    "bind_arguments",
    "converts",
    "described",
    "find_converter",
]

# Arguments that say where or how a tensor lies in memory, or that only matter for gradients: no effect on values.
_WITHOUT_EFFECT = frozenset(
    {
        "device",
        "layout",
        "pin_memory",
        "memory_format",
        "non_blocking",
        "copy",
        "implicit",
        "cudnn_enabled",
        "cudnn_enable",
    }
    | {"scale_grad_by_freq", "sparse", "generator", "enable_gqa_hint", "requires_grad"}
)


class NotConvertible(Exception):
    """This use of an operator cannot be expressed; the text says which part of it."""


@dataclass(frozen=True)
class Converter:
    name: str
    function: Callable[..., Any]
    parameters: tuple[str, ...]
    bounds: bool = False  # it says for which sizes the program is the model, whether there are elements or not


CONVERTERS: dict[str, Converter] = {}

F = TypeVar("F", bound=Callable[..., Any])


def converts(*names: str, bounds: bool = False) -> Callable[[F], F]:
    """Register the function for operator overloads, as "aten.add.Tensor". With `bounds` it is called for tensors without elements, too."""

    def register(function: F) -> F:
        for name in names:
            if name in CONVERTERS:
                raise ValueError(f"two converters for {name}")
            CONVERTERS[name] = described(name, function, bounds)
        return function

    return register


def described(name: str, function: Callable[..., Any], bounds: bool = False) -> Converter:
    """The table's entry for a function."""
    return Converter(name, function, tuple(inspect.signature(function).parameters)[1:], bounds)


def argument_name(name: str) -> str:
    """What a converter calls an argument of the schema: two have names that mean something in Python."""
    return {"self": "x", "from": "from_"}.get(name, name)


def find_converter(target: Any) -> Converter | None:
    """The converter of a graph node's target; None where there is none."""
    if isinstance(target, torch._ops.OpOverload):
        return CONVERTERS.get(str(target))
    if isinstance(target, torch._ops.HigherOrderOperator):
        return CONVERTERS.get(f"higher_order.{target.name()}")
    return None


def bind_arguments(converter: Converter, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments that the converter declares, by name, defaults of the schema filled in.

    Raises NotConvertible where an undeclared argument matters.
    """
    bound: dict[str, Any] = {}
    for position, spec in enumerate(target._schema.arguments):
        name = argument_name(spec.name)
        if position < len(args):
            value, given = args[position], True
        elif spec.name in kwargs:
            value, given = kwargs[spec.name], True
        else:
            value, given = (spec.default_value if spec.has_default_value() else None), False
        if name in converter.parameters:
            bound[name] = value
        elif given and name not in _WITHOUT_EFFECT and not _is_default(value, spec):
            raise NotConvertible(f"argument {spec.name}")
    return bound


def _is_default(value: Any, spec: Any) -> bool:
    if not spec.has_default_value():
        return value is None
    return bool(type(value) is type(spec.default_value) and value == spec.default_value)
