"""Constants of few bits: how their numbers are encoded, and the operator that makes floats of them.

The one form in which importers, recipes and passes know quantized weights: of a tensor, of channels, of blocks of an axis. What computes
such a constant otherwise is brought here (`passes/recognise_weights.py`); kernels read it as it is, and what no kernel takes becomes floats
(`passes/lower_weights.py`). Numbers of fewer than 8 bits stand in a byte each here: packings alone put several into one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from tvm import relax

from .._constants import array_of, constant_of
from ._operator import Array, extents, operator, read_operator

__all__ = ["Encoded", "decode", "encoded_dequantize", "read_encoded", "read_widened", "widen"]


def _types(values: Any, scale: Any = None, zero: Any = None, **_: Any) -> list[relax.TensorType]:
    return [relax.TensorType(extents(values), "float32")]


@operator(_types)
def decode(values: Array, scale: Array, zero: Array | None = None, *, axis: int = 0, block: int = 1) -> list[Array]:
    """(values - zero) * scale in float32. `values` are int8 or uint8, `scale` is float32, `zero` of the values' type (None: 0); both have the
    values' axes, with the extent 1 where one is for all, and along `axis` it may be one for each `block` of numbers, the last ones fewer."""
    group = np.arange(values.shape[axis]) // block
    scale, zero = (
        part.take(group, axis, mode="clip") for part in (scale, np.zeros_like(values) if zero is None else zero)
    )
    return [(values.astype(np.int16) - zero).astype(np.float32) * scale]


@operator(_types)
def widen(values: Array) -> list[Array]:
    """float16 or bfloat16 numbers in float32."""
    return [values.astype(np.float32)]


def read_widened(expr: relax.Expr | None) -> Array | None:
    """What a call of `widen` on a constant widens; None of anything else."""
    call = read_operator(expr)
    return array_of(call.args[0]) if call is not None and call.operator is widen else None


@dataclass(frozen=True, eq=False)
class Encoded:
    """The inputs and attributes of a `decode`, as numpy has them. Of an input of the wrong type or shape the constructor raises ValueError."""

    values: Array
    scale: Array
    zero: Array | None = None
    axis: int = 0
    block: int = 1

    def __post_init__(self) -> None:
        if self.values.dtype not in (np.int8, np.uint8) or not 0 <= self.axis < self.values.ndim or self.block < 1:
            raise ValueError(f"values of {self.values.dtype} {self.values.shape}, axis {self.axis}, block {self.block}")
        for part, dtype in ((self.scale, np.float32), (self.zero, self.values.dtype)):
            if part is not None and not (part.dtype == dtype and self._fits(part)):
                raise ValueError(
                    f"a part of {part.dtype} {part.shape} for values of {self.values.dtype} {self.values.shape}"
                )

    def _fits(self, part: Array) -> bool:
        counts = [-(-n // self.block) if a == self.axis else n for a, n in enumerate(self.values.shape)]
        return part.ndim == len(counts) and all(have in (1, n) for have, n in zip(part.shape, counts))

    @classmethod
    def along(cls, values: Array, scale: Array, zero: Array, axis: int) -> Encoded:
        """With one scale and zero point each, or one for each index of `axis`."""
        axis %= values.ndim
        dims = [[part.size if a == axis else 1 for a in range(values.ndim)] for part in (scale, zero)]
        return cls(values, scale.astype(np.float32).reshape(dims[0]), zero.astype(values.dtype).reshape(dims[1]), axis)

    def call(self) -> relax.Call:
        """The operator's; without zero points that are all 0."""
        zero = self.zero if self.zero is not None and self.zero.any() else None
        parts = [None if part is None else constant_of(part) for part in (self.values, self.scale, zero)]
        return decode(*parts, axis=self.axis, block=self.block)

    def floats(self) -> Array:
        with np.errstate(all="ignore"):  # a scale that is no finite number
            (found,) = decode.run([self.values, self.scale, self.zero], {"axis": self.axis, "block": self.block})
        return np.asarray(found)

    @cached_property
    def zeros(self) -> Array:
        """Zero points, of the extent 1 where there are none."""
        return np.zeros([1] * self.values.ndim, self.values.dtype) if self.zero is None else self.zero

    def spread(self, part: Array) -> Array:
        """Of one number for each scale or zero point: along `axis` one for each number there."""
        found: Array = part.take(np.arange(self.values.shape[self.axis]) // self.block, self.axis, mode="clip")
        return found

    def own_axes(self) -> list[int]:
        """Those along which scales or zero points differ, as far as their extents say."""
        return [a for a in range(self.values.ndim) if max(self.scale.shape[a], self.zeros.shape[a]) > 1]

    def at(self, axis: int) -> tuple[Array, Array] | None:
        """The scales and the zero points of each index of `axis`, or one (of no axes) for all; None where they go by other axes, too."""
        if any(a != axis for a in self.own_axes()):
            return None
        parts = (part if axis != self.axis else self.spread(part) for part in (self.scale, self.zeros))
        scale, zero = (part.reshape(-1) if part.shape[axis] > 1 else part.reshape(-1)[:1].reshape(()) for part in parts)
        return scale, zero

    def transposed(self, axes: Sequence[int]) -> Encoded:
        zero = None if self.zero is None else self.zero.transpose(axes)
        axis = list(axes).index(self.axis)
        return Encoded(self.values.transpose(axes), self.scale.transpose(axes), zero, axis, self.block)

    def reshaped(self, shape: Sequence[int]) -> Encoded | None:
        """None where an axis that scales or zero points go by neither stays one nor becomes blocks, merged with the one behind it."""
        before, own, axis, block = self.values.shape, self.own_axes(), self.axis, self.block
        places = {a: _place(before, a, 1, shape) for a in own}
        merged = [a for a in own if places[a] is None and a + 1 < len(before) and a + 1 not in own]
        if len(merged) == 1 and (block == 1 or axis not in own):
            (axis,) = merged
            block = before[axis + 1]
            places[axis] = _place(before, axis, 2, shape)
        if None in places.values() or not len(shape):
            return None

        def moved(part: Array) -> Array:
            dims = [1] * len(shape)
            for a, place in places.items():
                dims[place] = part.shape[a]  # type: ignore[index]
            return part.reshape(dims)

        zero = None if self.zero is None else moved(self.zero)
        place, block = (0, 1) if axis not in places else (places[axis] or 0, block)
        return Encoded(self.values.reshape(shape), moved(self.scale), zero, place, block)


def read_encoded(expr: relax.Expr | None) -> Encoded | None:
    """What a call of `decode` on constants decodes; None of anything else."""
    call = read_operator(expr)
    if call is None or call.operator is not decode:
        return None
    values, scale, zero = (array_of(arg) for arg in call.args)
    if values is None or scale is None or (zero is None and call.args[2] is not None):
        return None
    return Encoded(values, scale, zero, int(call.attrs["axis"]), int(call.attrs["block"]))


def encoded_dequantize(call: relax.Call) -> relax.Call:
    """`relax.dequantize` of a constant of 8 bits by constants as an encoded constant; any other is given back."""
    values, scale, zero = (array_of(arg) for arg in call.args)
    if values is None or scale is None or zero is None or values.dtype not in (np.int8, np.uint8) or not values.ndim:
        return call
    if str(call.attrs.out_dtype) != "float32" or scale.dtype != np.float32 or zero.dtype != values.dtype:
        return call
    return Encoded.along(values, scale, zero, int(call.attrs.axis)).call()


def _place(before: Sequence[int], axis: int, count: int, after: Sequence[int]) -> int | None:
    """Where a reshape leaves an axis that it keeps as one, or makes one of `count`; None if it does not."""
    ahead, extent = math.prod(before[:axis]), math.prod(before[axis : axis + count])
    return next((i for i, n in enumerate(after) if n == extent and math.prod(after[:i]) == ahead), None)
