"""Objects of a pickle that are not plain containers, by what they were made with and their state: arrays of numpy as tensors, and
objects that hold weights (a namespace, a dict of a class of its own, a named tuple, a trainer) as mappings."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ._contents import StoredTensor
from ._safe_pickle import Inert, RefusedPickleError

__all__ = ["array_of", "nest_of"]

_RECONSTRUCT = {f"numpy.{core}.multiarray._reconstruct" for core in ("core", "_core")}
_FROM_BUFFER = {f"numpy.{core}.numeric._frombuffer" for core in ("core", "_core")}
# By the code that numpy's dtypes have in pickles.
_DTYPES = {
    **{f"f{n}": f"float{8 * n}" for n in (2, 4, 8)},
    **{f"i{n}": f"int{8 * n}" for n in (1, 2, 4, 8)},
    **{f"u{n}": f"uint{8 * n}" for n in (1, 2, 4, 8)},
    **{f"c{n}": f"complex{8 * n}" for n in (8, 16)},
    "b1": "bool",
}
_MOST_DIMENSIONS = 64
_MOST_PARTS = 16  # of a named tuple
# Tensors and what belongs to them, and libraries' own objects: these are no nests, whatever they hold.
_NO_NESTS = ("torch.", "torchao.", "numpy.", "collections.", "builtins.", "__builtin__.", "datetime.", "bitsandbytes.")


def array_of(value: Inert) -> StoredTensor | None:
    """The tensor that a pickled array of numpy is, of numbers that torch has; None for anything else."""
    if value.kind in _RECONSTRUCT and isinstance(value.state, tuple) and len(value.state) == 5:
        _, shape, dtype, columns_first, data = value.state
    elif value.kind in _FROM_BUFFER and len(value.args) == 4:
        data, dtype, shape, order = value.args
        columns_first = order == "F"
    else:
        return None
    code = dtype.args[0] if isinstance(dtype, Inert) and dtype.kind == "numpy.dtype" and dtype.args else None
    if code not in _DTYPES or not isinstance(data, (bytes, bytearray)):
        return None
    order = dtype.state[1] if isinstance(dtype.state, tuple) and len(dtype.state) > 1 else "|"
    if not isinstance(shape, tuple) or not all(type(n) is int and 0 <= n < 2**48 for n in shape):
        raise RefusedPickleError("an array in it has an impossible shape")
    kind = np.dtype(_DTYPES[code])
    if len(shape) > _MOST_DIMENSIONS or math.prod(shape) * kind.itemsize != len(data):
        raise RefusedPickleError("an array in it is not of the size that its shape says")
    swapped = order == (">" if sys.byteorder == "little" else "<")

    def read() -> torch.Tensor:
        flat = np.frombuffer(data, kind.newbyteorder("S") if swapped else kind)
        array = flat.reshape(shape, order="F" if columns_first else "C")
        return torch.from_numpy(np.array(array, kind, order="C"))

    return StoredTensor(shape, getattr(torch, _DTYPES[code]), read)


def nest_of(value: Inert) -> Mapping[Any, Any] | None:
    """What an object holds by name: its items, its attributes, or the parts that a named tuple was made of; None for one that holds
    nothing of use."""
    if value.tensor or value.kind.startswith(_NO_NESTS):
        return None
    attributes = value.state
    if isinstance(attributes, tuple) and len(attributes) == 2 and isinstance(attributes[1], Mapping):
        attributes = {**(attributes[0] if isinstance(attributes[0], Mapping) else {}), **attributes[1]}  # of slots
    parts: Mapping[Any, Any] = {}
    if value.items:
        parts = value.items
    elif isinstance(attributes, Mapping):
        parts = {name: item for name, item in attributes.items() if isinstance(name, str)}
    elif value.args:
        parts = dict(enumerate(value.args[:_MOST_PARTS]))
    return parts if any(isinstance(item, (StoredTensor, Mapping, Inert)) for item in parts.values()) else None
