"""Sets of arrays in a file that has no name, read again as often as one likes: samples that could be read once, and results that would fill memory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Spool"]

Array = npt.NDArray[Any]


class Spool:
    """Arrays by name, of any dtype but objects; the file is gone with the object."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="maas_rt_samples_")  # noqa: SIM115 (as long as the object)
        self._sets: list[dict[str, tuple[np.dtype[Any], tuple[int, ...], int]]] = []  # dtype, shape, where it begins

    def add(self, arrays: Mapping[str, Any]) -> None:
        self._file.seek(0, 2)
        kept = {}
        for name, value in arrays.items():
            array = np.asarray(value, order="C")
            kept[name] = array.dtype, array.shape, self._file.tell()
            self._file.write(_bytes_of(array))
        self._sets.append(kept)

    def added(self, sets: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
        """The same sets, each kept when its turn comes."""
        for arrays in sets:
            self.add(arrays)
            yield arrays

    def __iter__(self) -> Iterator[dict[str, Array]]:
        for kept in self._sets:
            found: dict[str, Array] = {}
            for name, (dtype, shape, begin) in kept.items():
                found[name] = np.empty(shape, dtype)
                self._file.seek(begin)
                self._file.readinto(_bytes_of(found[name]))
            yield found


def _bytes_of(array: Array) -> memoryview:
    return array.reshape(-1).view(np.uint8).data
