"""Calibration data: a model's inputs, one set after the other, from whatever a user has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from maas_rt._errors import InvalidArgumentError

from ..importers import ImportedModel
from ._spool import Spool

__all__ = ["InputType", "Samples", "input_types"]

Array = npt.NDArray[Any]
Sample = dict[str, Array]

# Of the sets of inputs so many are kept, to hold the result against its source on: evenly spread over all, wherever they end.
_KEPT = 32


@dataclass(frozen=True)
class InputType:
    """What an input of a model takes; an extent of None is one that a run decides, `least` of it or more."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]
    least: int = 1  # of the first extent


def input_types(model: ImportedModel) -> list[InputType]:
    """Of all inputs, in their order."""
    found = []
    for name, var in zip(model.input_names, model.mod["main"].params):
        dims = list(var.ty.shape)
        batch = model.symbols.get(getattr(dims[0], "name", "")) if dims else None
        shape = tuple(int(d) if hasattr(d, "value") else None for d in dims)
        found.append(InputType(name, str(var.ty.dtype), shape, batch.nearest(1) if batch is not None else 1))
    return found


class Samples:
    """Sets of inputs, checked, as arrays by name. Iterating reads the data once more (from a file, what can be read once); `kept` are some of
    those of the last time.

    `data` is an iterable of sets, each a mapping by name, a sequence by position, or the array of a model with one input; or one
    mapping or array that holds all of them stacked: samples along the first axis, which is the batch where the model has one.
    """

    def __init__(self, data: Any, inputs: Sequence[InputType]) -> None:
        self._data = data
        self._inputs = inputs
        self._spool: Spool | None = Spool() if isinstance(data, Iterator) else None
        self.kept: list[Sample] = []

    def __iter__(self) -> Iterator[Sample]:
        kept: list[Sample] = []
        step, number = 1, 0
        for given in self._sets():
            sample = self._checked(given, number)
            if self._spool is not None:
                self._spool.add(sample)
            if number % step == 0:
                if len(kept) == _KEPT:
                    kept = kept[::2]
                    step *= 2
                if number % step == 0:
                    kept.append(sample)
            self.kept = kept
            yield sample
            number += 1
        if self._spool is not None:
            self._data, self._spool = self._spool, None  # what can be read once is read once
        if number == 0:
            raise InvalidArgumentError(
                "the calibration data hold no sample, expected at least one set of the model's inputs"
            )

    def _sets(self) -> Iterator[Any]:
        data = self._data
        if isinstance(data, Mapping):
            yield from self._stacked(data)
        elif _is_array(data):
            if len(self._inputs) != 1:
                raise InvalidArgumentError(
                    f"the calibration data are one array, and the model has {len(self._inputs)} inputs: give a mapping by name"
                )
            yield from self._stacked({self._inputs[0].name: data})
        elif isinstance(data, Iterable) and not isinstance(data, str | bytes):
            yield from data
        else:
            raise InvalidArgumentError(
                f"the calibration data are {_a(data)}, expected an iterable of sets of inputs by name, or a mapping from names to "
                "arrays with samples along their first axis"
            )

    def _stacked(self, data: Mapping[str, Any]) -> Iterator[Sample]:
        self._require_names(data, "the calibration data have")
        arrays = {name: _array(data[name], f"the calibration data's {name!r}") for name in data}
        counts = {name: len(a) if a.ndim else -1 for name, a in arrays.items()}
        if len(set(counts.values())) != 1 or -1 in counts.values():
            told = ", ".join(f"{name!r}: {'none' if n < 0 else n}" for name, n in counts.items())
            raise InvalidArgumentError(
                f"the calibration data's arrays hold different numbers of samples along their first axis ({told})"
            )
        count = next(iter(counts.values()))
        batch = self._batch(arrays)
        if batch is None:
            yield from ({name: a[i] for name, a in arrays.items()} for i in range(count))
            return
        if 0 < count < batch:
            raise InvalidArgumentError(
                f"the calibration data hold {count} samples, and the model takes {batch} at a time: give as many or more"
            )
        for first in range(0, count, batch):
            rows = slice(first, first + batch) if first + batch <= count else slice(count - batch, count)
            yield {name: a[rows] for name, a in arrays.items()}

    def _batch(self, arrays: Mapping[str, Array]) -> int | None:
        """Samples of a run, where the first axis is the model's batch; None where each sample is a whole set of inputs."""
        batched = [t for t in self._inputs if arrays[t.name].ndim == len(t.shape)]
        if not batched:
            return None
        if len(batched) != len(self._inputs):
            names = ", ".join(repr(t.name) for t in self._inputs if t not in batched)
            raise InvalidArgumentError(
                f"the calibration data's arrays are stacked in two ways: {names} with an axis more than the model's, the others not"
            )
        extents = {t.shape[0] for t in batched if t.shape[0] is not None}
        if len(extents) > 1:
            raise InvalidArgumentError(
                f"the model's inputs begin with different extents ({sorted(extents)}): give an iterable of sets of inputs"
            )
        return extents.pop() if extents else max(t.least for t in batched)

    def _checked(self, given: Any, number: int) -> Sample:
        where = f"calibration sample {number}"
        if isinstance(given, Mapping):
            self._require_names(given, f"{where} has")
            named = dict(given)
        elif _is_array(given) and len(self._inputs) == 1:
            named = {self._inputs[0].name: given}
        elif isinstance(given, Sequence) and not isinstance(given, str | bytes) and len(given) == len(self._inputs):
            named = {t.name: value for t, value in zip(self._inputs, given)}
        else:
            count = f" of {len(given)}" if isinstance(given, Sequence) and not isinstance(given, str | bytes) else ""
            raise InvalidArgumentError(
                f"{where} is {_a(given)}{count}, expected a mapping with the model's inputs {[t.name for t in self._inputs]}"
            )
        return {t.name: _fitting(named[t.name], t, f"{where}: input {t.name!r}") for t in self._inputs}

    def _require_names(self, given: Mapping[str, Any], who: str) -> None:
        names = [t.name for t in self._inputs]
        if set(given) != set(names):
            raise InvalidArgumentError(f"{who} {sorted(map(str, given))}, expected the model's inputs {sorted(names)}")


def _fitting(value: Any, want: InputType, where: str) -> Array:
    array = _array(value, where)
    if len(array.shape) != len(want.shape) or any(w is not None and w != h for h, w in zip(array.shape, want.shape)):
        expected = [("any" if d is None else d) for d in want.shape]
        raise InvalidArgumentError(
            f"{where} has shape {list(array.shape)}, expected {expected}".replace("'any'", "any")
        )
    if str(array.dtype) != want.dtype:
        array = _converted(array, want.dtype, where)
    if array.dtype.kind in "fc" and not np.isfinite(array).all():
        at = np.argwhere(~np.isfinite(array))[0].tolist()
        raise InvalidArgumentError(
            f"{where} holds {array[tuple(at)]} at {at}, expected finite numbers: leave the sample out"
        )
    return array


def _converted(array: Array, dtype: str, where: str) -> Array:
    """Floats as floats and integers as integers of another width, where they fit."""
    wrong = InvalidArgumentError(f"{where} is {array.dtype}, expected {dtype}")
    try:
        target = np.dtype(dtype)
    except TypeError:  # numpy's own types do not have it
        raise wrong from None
    if (array.dtype.kind, target.kind) not in (("f", "f"), ("i", "i"), ("u", "u"), ("i", "u"), ("u", "i")):
        raise wrong
    with np.errstate(over="ignore"):
        out = array.astype(target)
    if target.kind in "iu" and (out != array).any():
        raise InvalidArgumentError(
            f"{where} is {array.dtype} and holds numbers that {dtype} does not, expected {dtype}"
        )
    return out


def _array(value: Any, where: str) -> Array:
    """A tensor of torch, too, wherever it lies; nested lists."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
    try:
        array = np.asarray(value)
    except ValueError:  # nested lists of unequal lengths
        array = np.asarray(None)
    if array.dtype == object:
        raise InvalidArgumentError(f"{where} is {_a(value)} of objects, expected an array of numbers")
    return array


def _is_array(value: Any) -> bool:
    return hasattr(value, "dtype") and hasattr(value, "shape")


def _a(value: Any) -> str:
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"
