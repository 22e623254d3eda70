"""Samples that could be read once, kept in a file that has no name: who reads them again gets them from there."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Spool"]


class Spool:
    """Sets of inputs [names are those of the first]; the file is gone with the object."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="maas_rt_samples_")  # noqa: SIM115 (as long as the object)
        self._names: list[str] = []
        self._count = 0

    def add(self, sample: Mapping[str, npt.NDArray[Any]]) -> None:
        self._names = list(sample)
        self._file.seek(0, 2)
        for array in sample.values():
            np.save(self._file, array, allow_pickle=False)
        self._count += 1

    def __iter__(self) -> Iterator[dict[str, npt.NDArray[Any]]]:
        at = 0
        for _ in range(self._count):
            self._file.seek(at)
            sample = {name: np.load(self._file, allow_pickle=False) for name in self._names}
            at = self._file.tell()
            yield sample
