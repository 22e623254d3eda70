"""Requests of different lengths, run together: padded to the smallest of some lengths that all of them fit into, and cut back in the results.

A model's dimensions have names. Where an input is padded along one, so is every other input that has it, and where an output has it, each request
gets its own length of it. Whether what is padded changes the rest, shapes do not tell: a model is padded where its config says so, and this allows it.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from .._errors import InvalidArgumentError
from .._tensor_info import TensorInfo
from ._batcher import batch_key, shared_out, stacked
from ._datatypes import Array

Arrays = dict[str, Array]
Rows = tuple[Arrays, int, int]  # a request's arrays, and which of its rows: the first, and how many
_LARGEST = {"float16": 65504.0, "bfloat16": 3.3895313892515355e38, "float32": 3.4028234663852886e38}


@dataclass(frozen=True)
class Pad:
    """How an input is padded: along which axis, with what, and to which lengths, lowest first."""

    axis: int
    value: int | float | bool
    to: tuple[int, ...]


@dataclass(frozen=True)
class _Length:
    """A dimension in which requests may differ: the inputs and outputs that have it, each with the axis; what it may be; what it is padded to."""

    inputs: tuple[tuple[str, int], ...]
    outputs: tuple[tuple[str, int], ...]
    least: int
    multiple: int
    to: tuple[int, ...]

    def of(self, arrays: Arrays) -> int | None:
        """A request's; None where it is not to be padded: it is none that the model takes, or longer than all that there is to pad to."""
        found: set[int] = {arrays[name].shape[axis] for name, axis in self.inputs}
        length = found.pop()
        if found or not self.least <= length <= self.to[-1] or length % self.multiple:
            return None
        return length

    def padded(self, length: int) -> int:
        """The smallest that it fits into."""
        return self.to[bisect_left(self.to, length)]


@dataclass(frozen=True)
class Padding:
    """What of a model's inputs is padded; by default nothing: then only requests of equal shapes run together."""

    lengths: tuple[_Length, ...] = ()
    values: Mapping[str, int | float | bool] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        inputs: Sequence[TensorInfo],
        outputs: Sequence[TensorInfo],
        pads: Mapping[str, Pad],
        strings: Collection[str] = (),
    ) -> Padding:
        """A model's, which takes batches. `strings`: the names of the tensors that are strings.

        Raises InvalidArgumentError for what cannot be padded, or not be cut back.
        """
        if not pads:
            return cls()
        known = {info.name: info for info in inputs}
        for name, pad in pads.items():
            if name not in known:
                raise InvalidArgumentError(f"pad: the model has no input {name!r}; its inputs are {', '.join(known)}")
            if name in strings:
                raise InvalidArgumentError(f"pad: input {name!r} holds strings, which are not padded")
            _check_pad(known[name], pad)
        names = dict.fromkeys(str(known[name].shape[pad.axis]) for name, pad in pads.items())
        taken = {word for info in inputs for extent in info.shape for word in _words(extent)}
        _check_outputs(outputs, names, taken)
        lengths = tuple(_length(name, inputs, outputs, pads) for name in names)
        return cls(lengths, {name: pad.value for name, pad in pads.items()})

    def key(self, arrays: Arrays) -> tuple[object, ...]:
        """Requests of equal keys can be put together."""
        shapes = {name: list(array.shape) for name, array in arrays.items()}
        for each in self.lengths:
            length = each.of(arrays)
            if length is None:
                return batch_key(arrays)
            for name, axis in each.inputs:
                shapes[name][axis] = each.padded(length)
        return tuple((name, array.dtype.str, tuple(shapes[name][1:])) for name, array in sorted(arrays.items()))

    def stacked(self, parts: Sequence[Rows]) -> Arrays:
        """The arrays of a batch. Nothing is padded where all are of one length."""
        padded: Arrays = {}
        for each, lengths in self._mixed(parts):
            for name, axis in each.inputs:
                padded[name] = self._padded(name, axis, each.padded(max(lengths)), parts)
        rest = [({n: a for n, a in arrays.items() if n not in padded}, first, rows) for arrays, first, rows in parts]
        return {**stacked(rest), **padded}

    def shared_out(self, results: Arrays, parts: Sequence[Rows]) -> list[Arrays]:
        """A batch's results for each part: views of them, and copies of what is cut back."""
        shares = shared_out(results, [rows for _, _, rows in parts])
        for each, lengths in self._mixed(parts):
            for name, axis in each.outputs:
                for share, length in zip(shares, lengths):
                    share[name] = np.ascontiguousarray(share[name][(slice(None),) * axis + (slice(length),)])
        return shares

    def _mixed(self, parts: Sequence[Rows]) -> Iterator[tuple[_Length, list[int]]]:
        """What differs among the parts of a batch, and each one's."""
        for each in self.lengths:
            lengths = [length for arrays, _, _ in parts if (length := each.of(arrays)) is not None]
            if len(lengths) == len(parts) and len(set(lengths)) > 1:
                yield each, lengths

    def _padded(self, name: str, axis: int, extent: int, parts: Sequence[Rows]) -> Array:
        first = parts[0][0][name]
        shape = [sum(rows for _, _, rows in parts), *first.shape[1:]]
        shape[axis] = extent
        whole = np.full(shape, self.values[name], first.dtype)
        at = 0
        for arrays, begin, rows in parts:
            array = arrays[name][begin : begin + rows]
            place = tuple(slice(extent) for extent in array.shape[1:])
            whole[at : at + rows][(slice(None),) + place] = array
            at += rows
        return whole


def _words(extent: int | str) -> list[str]:
    return re.findall(r"[^\W\d]\w*", str(extent))


def _check_pad(info: TensorInfo, pad: Pad) -> None:
    what = f"pad: dimension {pad.axis} of input {info.name!r}"
    if pad.axis >= len(info.shape):
        raise InvalidArgumentError(f"{what} is none of its {len(info.shape)}, from 0 on")
    extent = info.shape[pad.axis]
    if not isinstance(extent, str) or not extent.isidentifier():
        raise InvalidArgumentError(
            f"{what} is {extent}, and what is padded must have an extent of its own that is open"
        )
    least, most = info.bounds[pad.axis]
    multiple = info.multiples[pad.axis] if info.multiples else 1
    for length in pad.to:
        if length < least or (most is not None and length > most) or length % multiple:
            bounds = f"{least} or more" if most is None else f"{least} to {most}"
            only = f", a multiple of {multiple}" if multiple > 1 else ""
            raise InvalidArgumentError(f"{what} is to be padded to {length}, and the model takes {bounds}{only}")
    if not _fits(info.dtype, pad.value):
        raise InvalidArgumentError(f"pad: input {info.name!r} is {info.dtype}, and {pad.value!r} is no value of that")


def _fits(dtype: str, value: int | float | bool) -> bool:
    if dtype == "bool":
        return isinstance(value, bool)
    if isinstance(value, bool):
        return False
    if dtype.startswith(("int", "uint")):
        bounds = np.iinfo(dtype)
        return isinstance(value, int) and bounds.min <= value <= bounds.max
    try:
        number = float(value)
    except OverflowError:  # a config's integers have any number of digits
        return False
    return not math.isfinite(number) or abs(number) <= _LARGEST.get(dtype, math.inf)


def _check_outputs(outputs: Iterable[TensorInfo], padded: Collection[str], taken: Collection[str]) -> None:
    """Of each extent it is known whether padding changes it, and how it is cut back."""
    for info in outputs:
        for axis, extent in enumerate(info.shape):
            what = f"pad: dimension {axis} of output {info.name!r} is {extent}"
            words = _words(extent)
            if any(word in padded for word in words) and extent not in padded:
                raise InvalidArgumentError(f"{what}, which cannot be cut back to a request's own")
            if any(word not in taken for word in words):
                raise InvalidArgumentError(f"{what}, of which nothing says whether padding changes it")


def _length(name: str, inputs: Iterable[TensorInfo], outputs: Iterable[TensorInfo], pads: Mapping[str, Pad]) -> _Length:
    """The dimension of this name, all of whose places are padded alike."""
    places: list[tuple[str, int]] = []
    found: list[Pad] = []
    for info in inputs:
        pad = pads.get(info.name)
        for axis, extent in enumerate(info.shape):
            if name not in _words(extent):
                continue
            what = f"pad: dimension {axis} of input {info.name!r} is {extent}"
            if pad is None or extent != name or axis != pad.axis:
                raise InvalidArgumentError(f"{what}, and would have to be padded with the others that have {name}")
            if found and found[0].to != pad.to:
                raise InvalidArgumentError(
                    f"{what} and that of {places[0][0]!r}, which is the same, are padded to other lengths"
                )
            places.append((info.name, axis))
            found.append(pad)
    first, axis = places[0]
    info = next(each for each in inputs if each.name == first)
    multiple = info.multiples[axis] if info.multiples else 1
    cut = tuple((each.name, n) for each in outputs for n, extent in enumerate(each.shape) if extent == name)
    return _Length(tuple(places), cut, info.bounds[axis][0], multiple, found[0].to)
