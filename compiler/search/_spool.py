"""Data that can be read once, kept in files so that every trial can read it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from ..compression import Samples

__all__ = ["Spooled"]


class Spooled:
    """The samples of `samples`, read once; a context manager, at whose end the files are gone."""

    def __init__(self, samples: Samples) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="maas_rt_samples_")
        self._count = 0
        for sample in samples:
            with (Path(self._folder.name) / f"{self._count}.npz").open("wb") as file:
                np.savez(file, *sample.values())
            self._names = list(sample)
            self._count += 1

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        for i in range(self._count):
            with np.load(Path(self._folder.name) / f"{i}.npz") as arrays:
                yield {name: arrays[f"arr_{j}"] for j, name in enumerate(self._names)}

    def __enter__(self) -> Spooled:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._folder.cleanup()
