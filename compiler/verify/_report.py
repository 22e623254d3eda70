"""What verification found: differences of single outputs, and the report that the manifest keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..importers._imported import Array, ImportedModel

__all__ = ["Difference", "Report"]


@dataclass(frozen=True)
class Difference:
    """How one output differs: `error` against its scale (infinite where NaNs, infinities, shapes or integers differ)."""

    output: str
    error: float
    detail: str


@dataclass
class Report:
    """What verification found: the largest error over all outputs and inputs, and the outputs that told nothing."""

    max_relative_error: float = 0.0
    runs: int = 0
    refused: int = 0  # drawn inputs that the source, or the compiled model, refused
    unfinished: int = 0  # inputs on which the source did not come to an end in its time
    telling: set[str] = field(default_factory=set)
    unsteady: set[str] = field(
        default_factory=set
    )  # outputs that one rounding of the inputs moves by more than the tolerance
    unsteady_on: Mapping[str, Array] | None = None  # the first inputs of which that was so
    outputs: dict[str, float] = field(default_factory=dict)  # each output's largest error
    reference: str = "source"
    because: str = ""  # why it is not the source's first implementation
    noise: str = ""  # how the random numbers that the model draws reached the source

    @property
    def cases(self) -> int:
        """On how many inputs both sides ran."""
        return self.runs

    def note(self, name: str, difference: Difference, reference: Array) -> None:
        """Count one output's comparison in."""
        self.outputs[name] = max(self.outputs.get(name, 0.0), difference.error)
        self.max_relative_error = max(self.max_relative_error, difference.error)
        if is_telling(reference):
            self.telling.add(name)

    def to_manifest(self, model: ImportedModel) -> dict[str, Any]:
        """The manifest's `verified`; the error as the power of ten that bounds it, so that equal compiles stay equal bytes."""
        silent = [name for name in model.output_names if name not in self.telling]
        bound = 0.0 if self.max_relative_error == 0 else float(f"1e{int(np.ceil(np.log10(self.max_relative_error)))}")
        result: dict[str, Any] = {
            "status": "passed",
            "max_relative_error": bound,
            "reference": self.reference,
            "runs": self.runs,
        }
        if self.because:
            result["reference_because"] = self.because
        if self.noise:
            result["noise"] = self.noise
        if silent:
            result["constant_outputs"] = silent
        if self.unsteady:
            result["ill_conditioned_outputs"] = sorted(self.unsteady)
        if self.unfinished:
            result["unfinished"] = self.unfinished
        return result


def is_telling(reference: Array) -> bool:
    """Whether agreement on this output means something: it has two different numbers, or is a single one."""
    values = reference[~np.isnan(reference)] if reference.dtype.kind in "fc" else reference
    return bool(values.size) and (reference.size == 1 or bool((values != values.flat[0]).any()))
