"""The recipe Int8: calibration in float, and the check of what comes out against the source, by the recipe's tolerance."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm

from maas_rt._errors import CompileError, InvalidArgumentError, VerificationError

from ._configs import CompileOptions, Int8, Recipe, VerifyOptions
from ._deep import heed
from .artifact import Artifact
from .importers import ImportedModel
from .passes import FOLDING
from .passes.quantize_static import Range, probed, quantize_static
from .verify import Reference, Report, compare, run_compiled

__all__ = ["quantized", "recipe_of", "verify_quantized"]

Array = npt.NDArray[Any]


def quantized(
    model: ImportedModel, options: CompileOptions, compile_float: Callable[[ImportedModel], Artifact]
) -> tvm.IRModule:
    """The model's module with its layers in QDQ form.

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
    wide, count = probed(mod)
    if count == 0:
        raise CompileError("the model has no convolution or matrix product with constant weights: leave out recipe")
    names = [f"calibration.{i}" for i in range(2 * count)]
    artifact = compile_float(replace(model, mod=wide, output_names=[*model.output_names, *names]))
    program = artifact.loaded()
    reference = Reference(model.source, (options.verify or VerifyOptions()).seconds)
    ranges: list[Range] = [(np.inf, -np.inf)] * count
    for number, inputs in enumerate(_inputs(model, recipe)):
        heed()
        results = run_compiled(program, inputs, options.verify or VerifyOptions())
        _check_float_build(results, reference, inputs, options.verify, number)
        for i in range(count):
            low, high = (float(results[names[2 * i + side]]) for side in (0, 1))
            if not np.isfinite([low, high]).all():
                raise CompileError(
                    f"calibration input {number} gives an activation that is not finite, which 8 bits do not hold"
                )
            ranges[i] = (min(ranges[i][0], low), max(ranges[i][1], high))
    return quantize_static(mod, ranges, recipe.activation_bits)


def verify_quantized(
    artifact: Artifact, model: ImportedModel, options: CompileOptions, examples: Mapping[str, Any] | None
) -> dict[str, Any]:
    """What the manifest says; raises VerificationError where an output's error is above the recipe's tolerance."""
    recipe = _int8(options)
    program = artifact.loaded()
    report = Report(reference=str(model.provenance.get("framework", "source")), noise=model.source.noise)
    reference = Reference(model.source, (options.verify or VerifyOptions()).seconds)
    given = [] if examples is None or set(examples) != set(model.input_names) else [dict(examples)]
    for inputs in [*given, *_inputs(model, recipe)]:
        heed()
        expected, actual = reference.run(inputs), run_compiled(program, inputs, options.verify or VerifyOptions())
        report.runs += 1
        for name in model.output_names:
            difference = compare(name, actual[name], np.asarray(expected[name]), options.verify or VerifyOptions())
            report.note(name, difference, np.asarray(expected[name]))
            if difference.error > recipe.tolerance:
                raise VerificationError(
                    f"the quantized model's output {name} is off by {difference.error:.3g} of its scale, and the recipe admits "
                    f"{recipe.tolerance:g}: calibrate on more inputs, take 8 activation bits, or admit more; nothing was written"
                )
    measured = float(f"{report.max_relative_error:.3g}")
    return {**report.to_manifest(model), "max_relative_error": measured, "tolerance": recipe.tolerance}


def recipe_of(recipe: Recipe) -> dict[str, Any]:
    """The recipe as the manifest keeps it: without its data."""
    assert recipe.quantize is not None
    q = recipe.quantize
    kind = {"kind": "int8", "version": q.version, "activation_bits": q.activation_bits, "tolerance": q.tolerance}
    return {"version": recipe.version, "quantize": {**kind, "calibration_inputs": len(q.calibration)}}


def _int8(options: CompileOptions) -> Int8:
    assert options.recipe is not None and options.recipe.quantize is not None
    return options.recipe.quantize


def _inputs(model: ImportedModel, recipe: Int8) -> list[dict[str, Array]]:
    out = []
    for number, given in enumerate(recipe.calibration):
        if set(given) != set(model.input_names):
            raise InvalidArgumentError(
                f"calibration input {number} has {sorted(given)}, expected the model's inputs {sorted(model.input_names)}"
            )
        out.append({name: np.asarray(value) for name, value in given.items()})
    return out


def _check_float_build(
    results: Mapping[str, Array],
    reference: Reference,
    inputs: Mapping[str, Array],
    options: VerifyOptions | None,
    number: int,
) -> None:
    """The build in float is the source's equal: what 8 bits change is measured against that."""
    if options is None:
        return
    for name, expected in reference.run(inputs).items():
        difference = compare(name, results[name], np.asarray(expected), options)
        if difference.error > options.tolerance(str(np.asarray(expected).dtype)) or difference.detail:
            raise VerificationError(
                f"the compiled model differs from its source before it is quantized: output {name} by {difference.error:.3g} of its "
                f"scale on calibration input {number}; nothing was written"
            )
