"""Inputs that fit a model, drawn."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ._errors import InvalidArgumentError
from ._model import Model, TensorInfo


def draw_inputs(model: Model, shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> dict[str, NDArray[np.generic]]:
    """Random inputs that fit the model: dimensions from `shapes`, else their fixed extent, else their minimum (at least 1)."""
    unknown = sorted(set(shapes) - {info.name for info in model.inputs})
    if unknown:
        raise InvalidArgumentError(
            f"the model has no input {unknown[0]!r}; its inputs are {', '.join(info.name for info in model.inputs)}"
        )
    rng = np.random.default_rng(seed)
    return {info.name: _draw(info, shapes.get(info.name), rng) for info in model.inputs}


def _draw(info: TensorInfo, given: tuple[int, ...] | None, rng: np.random.Generator) -> NDArray[np.generic]:
    shape = given if given is not None else smallest_shape(info)
    try:
        dtype = np.dtype(info.dtype)
    except TypeError:
        raise InvalidArgumentError(
            f"input {info.name!r} is {info.dtype}, which numpy alone does not have: install ml_dtypes, and give --input"
        ) from None
    try:
        if dtype.kind == "f":
            return rng.standard_normal(shape).astype(dtype)
        if dtype.kind == "b":
            return rng.integers(0, 2, shape).astype(dtype)
        return np.zeros(shape, dtype)  # an index that every table has
    except (MemoryError, OverflowError, ValueError):
        raise InvalidArgumentError(
            f"--shape {info.name}:{','.join(map(str, shape))} is more than this machine's memory holds: choose less"
        ) from None


def smallest_shape(info: TensorInfo) -> tuple[int, ...]:
    """The shape with every dynamic dimension at its minimum, at least 1."""
    return tuple(d if isinstance(d, int) else max(1, low) for d, (low, _) in zip(info.shape, info.bounds))
