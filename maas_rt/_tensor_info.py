"""TensorInfo: how a model describes an input, an output or a state."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class TensorInfo:
    """An input, output or state of a model.

    `dtype` is a name ("float32"); an extent of `shape` is an int, or the text of its expression ("batch", "2*s+1");
    `bounds` holds the smallest and largest extent of each dimension, the latter None where there is no bound; `multiples` what each
    extent is a multiple of, and is empty where that is 1 everywhere.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    bounds: tuple[tuple[int, int | None], ...]
    multiples: tuple[int, ...] = ()


def with_multiples(infos: Iterable[TensorInfo], symbols: Mapping[str, Any]) -> tuple[TensorInfo, ...]:
    """The same with what a manifest's `symbols` say of their extents."""
    found = []
    for info in infos:
        multiples = tuple(int(symbols.get(str(extent), {}).get("multiple", 1)) for extent in info.shape)
        found.append(replace(info, multiples=multiples) if any(each > 1 for each in multiples) else info)
    return tuple(found)
