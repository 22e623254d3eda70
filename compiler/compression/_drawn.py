"""Inputs for recipes without data: drawn as verification draws them, those that the model's source and its build in float both take."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from .._configs import VerifyOptions
from .._deep import heed
from ..importers import ImportedModel
from ..verify import Reference, run_compiled, sample_inputs, verify
from ._observe import CompileFloat

__all__ = ["drawn_samples"]


def drawn_samples(
    model: ImportedModel, compile_float: CompileFloat, options: VerifyOptions
) -> list[dict[str, npt.NDArray[Any]]]:
    """Sets of inputs, at least one; the model's own examples first. The build in float is held to the source on all of them.

    Raises VerificationError where it differs, CompileError where the source runs on none.
    """
    built = compile_float(model)
    verify(built, model, options, compile_float)
    program, reference = built.loaded(), Reference(model.source, options.seconds)
    taken: list[dict[str, npt.NDArray[Any]]] = []
    for inputs in sample_inputs(model, options, None, enough=lambda: bool(taken)):
        heed()
        try:
            reference.run(inputs, insist=False)
            run_compiled(program, inputs, options)
        except Exception:  # either may refuse what was drawn, as `verify` has found and counted
            continue
        taken.append(inputs)
    return taken
