"""An existing model.mrt beside the model it came from: what `maas-rt verify` does."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

import maas_rt
from maas_rt._errors import CompileError, InvalidArgumentError, VerificationError

from ._configs import VerifyOptions
from .importers import ImportedModel, import_model
from .importers._imported import SymbolSpec
from .verify import compare, sample_inputs

__all__ = ["FileReport", "verify_file"]


@dataclass(frozen=True)
class FileReport:
    """The largest relative error of each output, over so many inputs."""

    outputs: dict[str, float]
    cases: int
    reference: str


def verify_file(
    path: str | os.PathLike[str],
    source: str | os.PathLike[str],
    *,
    inputs: Mapping[str, Any] | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    factory: str | None = None,
) -> FileReport:
    """Run the file and its source on drawn inputs and on `inputs`; raises VerificationError where an output differs by more than its
    element type allows, InvalidArgumentError if the two do not take and give the same names."""
    program = maas_rt.load(path)
    model = _import_as(program, source, inputs, input_shapes, factory)
    _same_names(path, program, source, model)
    options = VerifyOptions()
    worst: dict[str, float] = {}
    cases = 0
    for case in sample_inputs(model, options, inputs):
        wanted = model.source.run(case)
        got = program.run(case, state=program.state()) if program.manifest["states"] else program.run(case)
        cases += 1
        for name, reference in wanted.items():
            difference = compare(name, got[name], np.asarray(reference), options)
            if difference.detail or difference.error > options.tolerance(str(np.asarray(reference).dtype)):
                what = difference.detail or f"a relative error of {difference.error:.2g}"
                raise VerificationError(f"{path} and {source} differ: output {name!r}, {what}", "", difference.error)
            worst[name] = max(worst.get(name, 0.0), difference.error)
    if cases == 0:
        raise CompileError(f"no inputs could be drawn for {path}; give real ones with --input")
    return FileReport(worst, cases, str(model.provenance.get("framework", "source")))


def _import_as(
    program: maas_rt.Model,
    source: str | os.PathLike[str],
    inputs: Mapping[str, Any] | None,
    input_shapes: Mapping[str, Sequence[int]] | None,
    factory: str | None,
) -> ImportedModel:
    """The source with the shapes that the file has: fixed where it is fixed, within its bounds where it is dynamic."""
    examples, dynamic = inputs, None
    if factory is not None:
        dynamic = {
            info.name: {d: info.bounds[d] for d, extent in enumerate(info.shape) if isinstance(extent, str)}
            for info in program.inputs
        }
        dynamic = {name: dims for name, dims in dynamic.items() if dims} or None
        if examples is None:
            examples = {info.name: np.zeros(_typical_shape(info), info.dtype) for info in program.inputs}
    elif input_shapes is None and str(source).endswith(".onnx"):
        fixed = {info.name: info.shape for info in program.inputs if all(isinstance(d, int) for d in info.shape)}
        input_shapes = {name: [int(d) for d in shape] for name, shape in fixed.items()} or None
    model = import_model(source, examples, dynamic=dynamic, input_shapes=input_shapes, factory=factory)
    declared = program.manifest.get("symbols") or {}
    symbols = {name: _narrowed(spec, declared.get(name)) for name, spec in model.symbols.items()}
    return replace(model, symbols=symbols)


def _typical_shape(info: maas_rt.TensorInfo) -> tuple[int, ...]:
    """Dynamic extents at 2 where that is allowed: torch.export takes 0 and 1 for constants."""
    shape = []
    for extent, (low, high) in zip(info.shape, info.bounds):
        shape.append(extent if isinstance(extent, int) else max(low, 2 if high is None or high >= 2 else 1))
    return tuple(shape)


def _narrowed(spec: SymbolSpec, declared: Mapping[str, Any] | None) -> SymbolSpec:
    if declared is None:
        return spec
    top = declared.get("max")
    return replace(
        spec, min=declared["min"], max=None if top in (None, -1) else top, multiple=declared.get("multiple", 1)
    )


def _same_names(path: object, program: maas_rt.Model, source: object, model: ImportedModel) -> None:
    for what, ours, theirs in (
        ("inputs", [i.name for i in program.inputs], model.input_names),
        ("outputs", [o.name for o in program.outputs], model.output_names),
    ):
        if sorted(ours) != sorted(theirs):
            raise InvalidArgumentError(
                f"{path} was not made from {source}: its {what} are {', '.join(ours)}, those of the source {', '.join(theirs)}"
            )
