"""What the caller says about dynamic dimensions, in the words of torch.export."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.export import Dim
from torch.utils import _pytree as pytree

from maas_rt._errors import InvalidArgumentError

from .._dynamic import span

__all__ = ["dynamic_shapes", "widened"]


def dynamic_shapes(
    dynamic: Mapping[str, Any], arguments: Mapping[str, Any], rest: str | None = None
) -> dict[str, Any] | None:
    """torch's dynamic_shapes, one entry for each of forward's arguments; None where nothing is dynamic.

    `dynamic` is {"x": {0: (1, 32)}} or {"x": {0: Dim("batch", max=32)}}; for an argument that is a list or a dict, the same nested.
    The arguments that `**rest` takes are named like the others. Dimensions of different inputs may turn out to be one: torch finds out.
    """
    if not dynamic:
        return None
    dynamic = dict(dynamic)
    if rest is not None and rest in arguments:
        inner = {name: spec for name, spec in dynamic.items() if name in arguments[rest] and name not in arguments}
        dynamic = {
            **{name: spec for name, spec in dynamic.items() if name not in inner},
            **({rest: inner} if inner else {}),
        }
    unknown = [name for name in dynamic if name not in arguments]
    if unknown:
        raise InvalidArgumentError(
            f"there is no input named {unknown[0]!r} to be dynamic: the inputs are {', '.join(arguments)}"
        )
    return {name: _nested(dynamic.get(name), name, value) for name, value in arguments.items()}


def _nested(spec: Any, name: str, value: Any) -> Any:
    if spec is None:  # nothing below is dynamic; torch wants to see the structure all the same
        return pytree.tree_map(lambda _: None, value)
    if isinstance(spec, Mapping) and isinstance(value, torch.Tensor):
        return {_axis_from_front(axis, value): _dim(dim, name, axis, value) for axis, dim in spec.items()}
    if isinstance(spec, Mapping) and isinstance(value, Mapping):
        return {key: _nested(spec.get(key), f"{name}.{key}", item) for key, item in value.items()}
    if isinstance(spec, (tuple, list)) and isinstance(value, (tuple, list)) and len(spec) == len(value):
        return type(value)(_nested(part, f"{name}.{i}", item) for i, (part, item) in enumerate(zip(spec, value)))
    raise InvalidArgumentError(
        f"the dynamic dimensions of {name!r}, a {type(value).__name__}, are a {type(spec).__name__}: expected {{dim: (min, max)}}"
    )


def _axis_from_front(axis: Any, tensor: torch.Tensor) -> Any:
    """An axis from the front: torch.export takes no notice of those from the end."""
    return axis + tensor.ndim if isinstance(axis, int) and -tensor.ndim <= axis < 0 else axis


def _dim(value: Any, name: str, axis: Any, tensor: torch.Tensor) -> Any:
    if not isinstance(axis, int):
        raise InvalidArgumentError(f"{axis!r} is no dimension of {name!r}: expected its number, as in {{0: (1, 32)}}")
    if value is None or isinstance(value, type(Dim.DYNAMIC)) or hasattr(value, "__name__"):
        return value
    if value is True or value == ():
        return Dim.DYNAMIC
    if isinstance(value, str) and not value.isidentifier():
        raise InvalidArgumentError(
            f"dimension {axis} of {name!r} is called {value!r}: expected a name as batch, or bounds as (1, 32)"
        )
    if isinstance(value, str):
        return Dim(value)
    if isinstance(value, (tuple, list)) and len(value) == 2 and all(v is None or isinstance(v, int) for v in value):
        low, high = value
        if (low or 0) < 0 or (high is not None and high < max(low or 1, 1)):
            raise InvalidArgumentError(f"dimension {axis} of {name!r} is to be in {low}..{high}, which is empty")
        extent = tensor.shape[axis] if -tensor.ndim <= axis < tensor.ndim else 0
        if extent > 1 and not (low or 0) <= extent <= (extent if high is None else high):
            raise InvalidArgumentError(
                f"dimension {axis} of {name!r} is to be in {span(low or 0, high)}, and the example input has {extent} there: give one "
                "that lies within (example_inputs, input_shapes)"
            )
        if low == high and extent == low:
            return None
        return Dim.DYNAMIC(min=low, max=high)
    raise InvalidArgumentError(f"dimension {axis} of {name!r} has the bounds {value!r}: expected (min, max)")


def widened(arguments: Mapping[str, Any], shapes: Any) -> dict[str, Any]:
    """The example inputs with dynamic dimensions of size 0 or 1 repeated: torch takes such a size for a constant."""
    if shapes is None:
        return {}
    return {name: _widened(value, shapes[name], name) for name, value in arguments.items()}


def _widened(value: Any, spec: Any, name: str) -> Any:
    if spec is None:
        return value
    if isinstance(value, torch.Tensor):
        if not isinstance(spec, Mapping):
            raise InvalidArgumentError(f"the dynamic dimensions of {name!r} are nested, and the input is one tensor")
        for axis, dim in spec.items():
            value = _wide(value, axis, dim, name)
        return value
    if isinstance(value, (tuple, list)) and isinstance(spec, (tuple, list)):
        return type(value)(_widened(v, s, f"{name}.{i}") for i, (v, s) in enumerate(zip(value, spec)))
    if isinstance(value, Mapping) and isinstance(spec, Mapping):
        return {key: _widened(v, spec.get(key), f"{name}.{key}") for key, v in value.items()}
    return value


def _wide(value: torch.Tensor, axis: int, dim: Any, name: str) -> torch.Tensor:
    if not -value.ndim <= axis < value.ndim:
        raise InvalidArgumentError(f"input {name!r} has {value.ndim} dimensions, and dimension {axis} is to be dynamic")
    if dim is None or value.shape[axis] > 1:
        return value
    low, high = getattr(dim, "min", None), getattr(dim, "max", None)
    size = max(2, int(low) if low is not None else 2)
    if high is not None and int(high) < size:
        return value
    return (
        torch.cat([value.narrow(axis, 0, 1)] * size, dim=axis)
        if value.shape[axis]
        else value.new_zeros([size if i == axis % value.ndim else s for i, s in enumerate(value.shape)])
    )
