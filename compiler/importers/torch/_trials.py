"""A module beside its own trace, at sizes for which the module's Python would have taken another branch: both are torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from .._imported import Array
from ._conditions import Binding, Verdict
from ._decisions import value_at
from ._signature import Signature
from .source import TorchSource

__all__ = ["trials"]

_CLOSE = 1e-3  # of an output's largest element: whatever else another branch computes, it is no rounding
_DRAWN = (None, 10.0)  # the values of the example inputs, and normal ones that are far from 0
_MAX_ELEMENTS = 1 << 24  # elements of an input


def trials(source: TorchSource, signature: Signature, examples: Mapping[str, Array] | None) -> Verdict | None:
    """Whether the module and the trace agree at some sizes, by running both; None where that tells nothing: there are no inputs to take
    values from, or random numbers are drawn."""
    if examples is None or source.noise:
        return None

    def agree(sizes: Binding) -> bool | None:
        try:
            with torch.no_grad():
                for scale in _DRAWN:
                    inputs = _resized(signature, examples, sizes, scale)
                    if not _equal(source.traced(inputs), source.run(inputs)):
                        return False
        except Exception:  # whatever either of the two says of such sizes
            return None
        return True

    return agree


def _resized(
    signature: Signature, examples: Mapping[str, Array], sizes: Binding, scale: float | None
) -> dict[str, Array]:
    """The example inputs at other sizes, with their own values over and over; with a scale floats are drawn instead."""
    draw = np.random.default_rng(0)
    found = dict(examples)
    for entry in signature.user_inputs:
        if entry.kind == "size":
            found[entry.name] = np.asarray(_size(entry.fake, sizes), "int64")
        elif entry.kind == "input":
            shape = [_size(extent, sizes) for extent in entry.fake.shape]
            if np.prod(shape) > _MAX_ELEMENTS:
                raise ValueError("too large to be tried")
            found[entry.name] = _of_shape(examples[entry.name], shape, draw, scale)
    return found


def _of_shape(array: Array, shape: list[int], draw: np.random.Generator, scale: float | None) -> Array:
    if array.dtype.kind == "f" and scale is not None:
        return (draw.standard_normal([*shape, *array.shape[len(shape) :]]) * scale).astype(array.dtype)
    for axis, extent in enumerate(shape):
        array = np.take(array, np.arange(extent) % max(array.shape[axis], 1), axis)
    return array


def _size(extent: Any, sizes: Binding) -> int:
    return int(value_at(extent.node.expr, sizes) if isinstance(extent, torch.SymInt) else extent)


def _equal(traced: Mapping[str, Array], wanted: Mapping[str, Array]) -> bool:
    for name, right in wanted.items():
        left = traced[name]
        if left.shape != right.shape or left.dtype != right.dtype:
            return False
        if left.dtype.kind in "biu":
            if not np.array_equal(left, right):
                return False
            continue
        a, b = (torch.from_numpy(np.asarray(side, "complex128")) for side in (left, right))
        scale = float(torch.nan_to_num(b.abs(), 0.0, 0.0, 0.0).max()) if b.numel() else 0.0
        if not torch.allclose(a, b, rtol=0.0, atol=_CLOSE * scale, equal_nan=True):
            return False
    return True
