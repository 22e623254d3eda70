"""A model.mrt for another CPU, run under the emulator, with as much of `maas_rt.Model` as verification uses."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from maas_rt._errors import InvalidArgumentError

from ._qemu import CPUS, Emulator
from ._remote import Remote

__all__ = ["EmulatedModel"]

_SLOWER = 50  # how much longer a run may take


class EmulatedModel:
    """The file at `path`, whose manifest is given, on a CPU that runs `target` and nothing better. Close it, or use it in a `with`.

    Raises what `maas_rt.load` would for the file on such a CPU.
    """

    def __init__(self, path: str, manifest: Mapping[str, Any], target: str, emulator: Emulator) -> None:
        self.manifest = dict(manifest)
        self.inputs = [SimpleNamespace(name=each["name"], dtype=each["dtype"]) for each in manifest["inputs"]]
        self._remote = Remote(emulator.command(CPUS[target]))
        try:
            self._remote.load(path)
        except BaseException:
            self._remote.close()
            raise

    def __enter__(self) -> EmulatedModel:
        return self

    def __exit__(self, *_: object) -> None:
        self._remote.close()

    def state(self) -> None:
        """Every run has the initial values."""

    def run(
        self, inputs: Mapping[str, Any], *, state: None = None, deadline: float | None = None, seed: int | None = None
    ) -> dict[str, npt.NDArray[Any]]:
        """As `maas_rt.Model.run`, with so many times its deadline as emulation is slower."""
        missing = [info.name for info in self.inputs if info.name not in inputs]
        if missing:
            raise InvalidArgumentError(f"input {missing[0]!r} is missing")
        arrays = [np.asarray(inputs[info.name]) for info in self.inputs]
        outputs = self.manifest["outputs"]
        results = self._remote.execute(
            arrays, [each["dtype"] for each in outputs], seconds=_SLOWER * (deadline or 0.0), seed=seed
        )
        return {each["name"]: result for each, result in zip(outputs, results)}
