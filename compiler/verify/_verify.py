"""An artifact beside the framework that its model came from, before it is written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from maas_rt._errors import VerificationError

from .._configs import VerifyOptions
from ..artifact import Artifact
from ..importers._imported import Array, ImportedModel
from ._blame import CompileModel, blame
from ._differences import differences
from ._report import Report
from ._ties import check_between_ties

__all__ = ["compare_with_source", "verify"]


def verify(
    artifact: Artifact,
    model: ImportedModel,
    options: VerifyOptions,
    compile_model: CompileModel,
    examples: Mapping[str, Array] | None = None,
) -> Report:
    """Compare the artifact with `model.source` on drawn inputs and on `examples`.

    Raises VerificationError that names the first operator whose result differs (found by compiling prefixes of the model with
    `compile_model`) and by how much; CompileError if the source runs on none of the inputs.
    """
    report = Report(reference=str(model.provenance.get("framework", "source")), noise=model.source.noise)
    program = artifact.loaded()
    for inputs, difference in differences(program, model, options, examples, report):
        raise blame(model, inputs, difference, options, compile_model)
    if report.unsteady_on is not None and (not model.symbols or report.unsteady - set(report.outputs)):
        check_between_ties(model, report.unsteady_on, options, compile_model)
    return report


def compare_with_source(
    program: Any, model: ImportedModel, options: VerifyOptions, examples: Mapping[str, Array] | None = None
) -> Report:
    """The same of a program that a build for this CPU was verified for, and that runs elsewhere: raises VerificationError for the first output
    that differs, without a search for the operator."""
    report = Report(reference=str(model.provenance.get("framework", "source")), noise=model.source.noise)
    for _, difference in differences(program, model, options, examples, report):
        what = difference.detail or f"a relative error of {difference.error:.2g}"
        raise VerificationError(f"output {difference.output!r} differs from the source's, {what}", "", difference.error)
    return report
