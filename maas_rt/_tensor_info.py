"""TensorInfo: how a model describes an input, an output or a state."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TensorInfo:
    """An input, output or state of a model.

    `dtype` is a name ("float32"); an extent of `shape` is an int, or the text of its expression ("batch", "2*s+1");
    `bounds` holds the smallest and largest extent of each dimension, the latter None where there is no bound.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    bounds: tuple[tuple[int, int | None], ...]
