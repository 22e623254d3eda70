"""What was compressed, held to its source: by the recipe's tolerance, and by what its outputs say at all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from maas_rt._errors import VerificationError

from .._configs import CompileOptions, VerifyOptions
from .._deep import heed
from .._recipes import Int8, Recipe, WeightOnly
from ..importers import ImportedModel
from ..verify import Reference, Report, compare, run_compiled, scales_of
from ._spool import Spool

__all__ = ["verify_compressed"]

Array = npt.NDArray[Any]


def verify_compressed(
    program: Any,
    model: ImportedModel,
    options: CompileOptions,
    kept: Iterable[Mapping[str, Array]],
    examples: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """What the manifest says of the compiled model `program`; raises VerificationError where an output's error is above the recipe's tolerance, against the scale that it has
    over all inputs, or as large as what it says. Of labels, indices and other whole numbers the tolerance is the share that may differ."""
    assert options.recipe is not None
    tolerance, verify = options.recipe.tolerance, options.verify or VerifyOptions()
    report = Report(reference=str(model.provenance.get("framework", "source")), noise=model.source.noise)
    reference = Reference(model.source, verify.seconds)
    given = [] if examples is None or set(examples) != set(model.input_names) else [dict(examples)]
    signals = {name: _Signal() for name in model.output_names}
    choices = {name: _Choices() for name in model.output_names}
    every = [*given, *kept]
    wanted = Spool()
    scales = scales_of(wanted.added(reference.run(inputs) for inputs in every))
    for inputs, expected in zip(every, wanted):
        heed()
        actual = run_compiled(program, inputs, verify)
        report.runs += 1
        for name in model.output_names:
            want = np.asarray(expected[name])
            if choices[name].add(actual[name], want):
                continue
            difference = compare(name, actual[name], want, verify, scales.get(name, 0.0))
            report.note(name, difference, want)
            if difference.error > tolerance:
                raise VerificationError(
                    f"the compressed model's output {name} is off by {difference.error:.3g} of its scale, and the recipe admits "
                    f"{tolerance:g}: {_remedies(options.recipe)}, or admit more; nothing was written"
                )
            signals[name].add(actual[name], want)
    if not report.runs:
        raise VerificationError("there are no inputs to hold the quantized model to its source on; nothing was written")
    for name, chosen in choices.items():
        if chosen.differing > chosen.admitted(tolerance):
            raise VerificationError(
                f"the compressed model's output {name} differs in {chosen.differing} of {chosen.count} numbers, and the recipe admits "
                f"{tolerance:.3g} of them: {_remedies(options.recipe)}, or admit more; nothing was written"
            )
    for name, signal in signals.items():
        if signal.is_lost:
            raise VerificationError(
                f"the compressed model's output {name} is as far from the source's as a constant would be: {_remedies(options.recipe)}; "
                "nothing was written"
            )
    measured = float(f"{report.max_relative_error:.3g}")
    agreement = {name: round(each.agreement, 4) for name, each in choices.items() if each.count}
    decibels = {name: round(signal.decibels, 1) for name, signal in signals.items() if np.isfinite(signal.decibels)}
    return {
        **report.to_manifest(model),
        "max_relative_error": measured,
        "tolerance": tolerance,
        "signal_to_error_db": decibels,
        **({"agreement": agreement} if agreement else {}),
    }


def _remedies(recipe: Recipe) -> str:
    """What makes errors smaller, of the recipe's methods."""
    kinds = {type(method) for method in recipe.methods}
    found = ["prune less, or by more samples"] if recipe.prunings else []
    if Int8 in kinds:
        found.append(
            "calibrate on more inputs, by the method percentile where one is an outlier, with 8 activation bits"
        )
    if WeightOnly in kinds:
        found.append("take 8 bits or smaller groups")
    if recipe.methods:
        found.append("leave layers in float by layers={name: None}")
    if recipe.prunings:
        found.append("leave layers dense by prune_layers={name: None}")
    return ", ".join(found)


class _Choices:
    """Of one output of whole numbers, truth values or strings over all runs: how many there are, and how many are others than the source's."""

    def __init__(self) -> None:
        self.count = self.differing = 0

    def add(self, actual: Array, expected: Array) -> bool:
        """Whether that is what the output has, in the source's shape."""
        if expected.dtype.kind in "fcV" or actual.shape != expected.shape:
            return False
        self.count += expected.size
        self.differing += int(np.count_nonzero(actual != expected))
        return True

    def admitted(self, tolerance: float) -> float:
        """One at least where there are several: it may have been a tie."""
        return max(tolerance * self.count, float(self.count > 4))

    @property
    def agreement(self) -> float:
        return 1 - self.differing / self.count


class _Signal:
    """Of one output over all runs: what varies in it, and the error."""

    def __init__(self) -> None:
        self._count = 0
        self._sum = self._squares = self._error = 0.0

    def add(self, actual: Array, expected: Array) -> None:
        if expected.dtype.kind != "f":
            return
        want = expected.astype(np.float64)
        self._count += want.size
        self._sum += float(want.sum())
        self._squares += float((want**2).sum())
        self._error += float(((actual.astype(np.float64) - want) ** 2).sum())

    @property
    def is_lost(self) -> bool:
        """Whether its mean alone would be as good."""
        varying = self._squares - self._sum**2 / self._count if self._count else 0.0
        return self._count > 1 and varying > 1e-12 * self._squares and self._error >= varying

    @property
    def decibels(self) -> float:
        """Signal to error."""
        if not self._error or not self._squares:
            return np.inf
        return float(10 * np.log10(self._squares / self._error))
