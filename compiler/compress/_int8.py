"""The recipe Int8: calibration in float, and the check of what comes out against the source, by the recipe's tolerance."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm

from maas_rt._errors import CompileError, VerificationError

from .._configs import CompileOptions, Int8, VerifyOptions
from .._deep import heed
from ..artifact import Artifact
from ..importers import ImportedModel
from ..passes import FOLDING
from ..verify import Reference, Report, compare, run_compiled
from ._layers import Layer, is_quantized, layers
from ._ranges import Numbers, find_range
from ._samples import Samples, input_types
from ._static import probed, quantize_static

__all__ = ["Quantized", "quantized", "verify_quantized"]

Array = npt.NDArray[Any]
Sample = dict[str, Array]

_OUTLIER = 16.0  # times the median of the samples' largest numbers
_FEW = 4  # samples, of which none can be called an outlier


@dataclass
class Quantized:
    """The module with its layers in QDQ form, and what is to be said of them. `kept`: inputs to hold the result against its source on."""

    mod: tvm.IRModule
    kept: list[Sample]
    samples: int
    layers: list[Layer]
    notes: list[str] = field(default_factory=list)

    def to_manifest(self, recipe: Int8) -> dict[str, Any]:
        """The recipe without its data, and which layers run on 8 bits."""
        floats = [layer for layer in self.layers if layer.reason]
        return {
            "kind": "int8", "version": recipe.version, "method": recipe.method, "activation_bits": recipe.activation_bits,
            "tolerance": recipe.tolerance, "calibration_inputs": self.samples, "layers": len(self.layers) - len(floats),
            "float_layers": [{"name": each.name, "kind": each.kind, "reason": each.reason} for each in floats],
            "notes": self.notes,
        }  # fmt: skip


def quantized(
    model: ImportedModel, options: CompileOptions, compile_float: Callable[[ImportedModel], Artifact]
) -> Quantized:
    """The layers of a model on 8 bits. A model that is quantized already stays as it is.

    Raises:
        InvalidArgumentError: calibration inputs that are not the model's. VerificationError: the model differs from its source
            in float already. CompileError: there is nothing to quantize, or an activation that is not finite.
    """
    recipe = _int8(options)
    if model.states:
        raise CompileError("a model with states cannot be quantized by calibration yet: leave out recipe")
    mod = model.mod
    for _, stage in FOLDING:
        mod = stage(mod)
    samples, found = Samples(recipe.calibration, input_types(model)), layers(mod)
    if is_quantized(mod):
        count = sum(1 for _ in samples)
        kept = [_own(layer) for layer in found if layer.reason]
        return Quantized(model.mod, samples.kept, count, kept, ["the model is quantized already, and stays as it is"])
    wide, sites = probed(mod, recipe.method != "minmax")
    if sites == 0:
        told = "".join(f"; {layer.kind} {layer.name}: {layer.reason}" for layer in found[:3])
        raise CompileError(
            f"the model has no layer that 8 bits could have{told or ' (no convolution or matrix product)'}: leave out recipe"
        )
    names = [f"calibration.{i}" for i in range(sites * (1 if recipe.method != "minmax" else 2))]
    artifact = compile_float(replace(model, mod=wide, output_names=[*model.output_names, *names]))
    calibration = _Calibration(artifact.loaded(), sites, recipe, options.verify or VerifyOptions())
    for sample in samples:
        heed()
        calibration.add(sample)
    _check_float_build(model, calibration, samples.kept, options.verify)
    levels = 127 if recipe.activation_bits == 7 else 255
    ranges = [find_range(numbers, recipe.method, levels) for numbers in calibration.numbers]
    quantized_mod = quantize_static(mod, ranges, recipe.activation_bits)
    return Quantized(quantized_mod, samples.kept, calibration.count, found, calibration.notes())


class _Calibration:
    """The numbers of all activations, from runs of a build in float that gives them beside its outputs."""

    def __init__(self, program: Any, sites: int, recipe: Int8, options: VerifyOptions) -> None:
        self.program = program
        self.numbers = [Numbers() for _ in range(sites)]
        self.count = 0
        self._whole = recipe.method != "minmax"
        self._options = options
        self._peaks = [array("f") for _ in range(sites)]  # the largest magnitude of each sample

    def add(self, sample: Mapping[str, Array]) -> None:
        results = run_compiled(self.program, sample, self._options)
        for i, (numbers, peaks) in enumerate(zip(self.numbers, self._peaks)):
            if self._whole:
                x = results[f"calibration.{i}"]
            else:
                x = np.array([results[f"calibration.{2 * i + side}"] for side in (0, 1)], np.float32)
            low, high = numbers.add(x)
            if not np.isfinite([low, high]).all():
                raise CompileError(
                    f"calibration sample {self.count} gives an activation that is not finite, which 8 bits do not hold"
                )
            peaks.append(max(-low, high))
        self.count += 1

    def notes(self) -> list[str]:
        """What the ranges owe to one sample alone: the largest such case."""
        if self._whole or self.count < _FEW:
            return []
        worst = (_OUTLIER, 0, 0.0, 0.0)
        for peaks in self._peaks:
            largest, usual = float(max(peaks)), float(np.median(peaks))
            if usual > 0 and largest / usual > worst[0]:
                worst = (largest / usual, peaks.index(max(peaks)), largest, usual)
        factor, sample, largest, usual = worst
        if not largest:
            return []
        return [
            f"calibration sample {sample} reaches {largest:.3g} in a layer in which the others reach {usual:.3g}, and the others' numbers "
            f"have {factor:.0f} times fewer of the steps: leave it out, or take the method percentile"
        ]


def verify_quantized(
    artifact: Artifact,
    model: ImportedModel,
    options: CompileOptions,
    kept: Iterable[Sample],
    examples: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """What the manifest says; raises VerificationError where an output's error is above the recipe's tolerance, or as large as what it
    says."""
    recipe, verify = _int8(options), options.verify or VerifyOptions()
    program = artifact.loaded()
    report = Report(reference=str(model.provenance.get("framework", "source")), noise=model.source.noise)
    reference = Reference(model.source, verify.seconds)
    given = [] if examples is None or set(examples) != set(model.input_names) else [dict(examples)]
    signals = {name: _Signal() for name in model.output_names}
    for inputs in [*given, *kept]:
        heed()
        expected, actual = reference.run(inputs), run_compiled(program, inputs, verify)
        report.runs += 1
        for name in model.output_names:
            want = np.asarray(expected[name])
            difference = compare(name, actual[name], want, verify)
            report.note(name, difference, want)
            if difference.error > recipe.tolerance:
                raise VerificationError(
                    f"the quantized model's output {name} is off by {difference.error:.3g} of its scale, and the recipe admits "
                    f"{recipe.tolerance:g}: calibrate on more inputs, take 8 activation bits, or admit more; nothing was written"
                )
            signals[name].add(actual[name], want)
    for name, signal in signals.items():
        if signal.is_lost:
            raise VerificationError(
                f"the quantized model's output {name} is as far from the source's as a constant would be: calibrate on more inputs, or "
                "by the method percentile where one of them is an outlier; nothing was written"
            )
    measured = float(f"{report.max_relative_error:.3g}")
    decibels = {name: round(signal.decibels, 1) for name, signal in signals.items() if np.isfinite(signal.decibels)}
    return {
        **report.to_manifest(model),
        "max_relative_error": measured,
        "tolerance": recipe.tolerance,
        "signal_to_error_db": decibels,
    }


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


def _int8(options: CompileOptions) -> Int8:
    assert options.recipe is not None and options.recipe.quantize is not None
    return options.recipe.quantize


def _own(layer: Layer) -> Layer:
    """Of a model whose own quantization stays."""
    return replace(layer, reason="the model's own quantization leaves it in float")


def _check_float_build(
    model: ImportedModel, calibration: _Calibration, kept: Iterable[Sample], options: VerifyOptions | None
) -> None:
    """The build in float is the source's equal: what 8 bits change is measured against that."""
    if options is None:
        return
    reference = Reference(model.source, options.seconds)
    for inputs in kept:
        heed()
        results = run_compiled(calibration.program, inputs, options)
        for name, expected in reference.run(inputs).items():
            difference = compare(name, results[name], np.asarray(expected), options)
            if difference.error > options.tolerance(str(np.asarray(expected).dtype)) or difference.detail:
                raise VerificationError(
                    f"the compiled model differs from its source before it is quantized: output {name} by {difference.error:.3g} of its "
                    "scale on a calibration sample; nothing was written"
                )
