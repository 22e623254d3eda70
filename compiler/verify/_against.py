"""An existing model.mrt beside the model it came from: what `maas-rt verify` does."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from maas_rt._errors import InvalidArgumentError, VerificationError
from maas_rt._model import Model, load
from maas_rt._tensor_info import TensorInfo

from .._boundary import boundary
from .._configs import VerifyOptions, Weights
from ..importers import ImportedModel, import_model
from ..importers._imported import SymbolSpec
from ._differences import differences
from ._report import Report

__all__ = ["verify_file"]


@boundary("verify")
def verify_file(
    path: str | os.PathLike[str],
    source: Any,
    *,
    inputs: Mapping[str, Any] | Sequence[Any] | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    factory: str | None = None,
    weights: Weights | None = None,
) -> Report:
    """Run the file and its source (a path, or what `compile` accepts) on drawn inputs and on `inputs`, by name or in their order.

    Raises VerificationError where an output differs by more than its element type allows, InvalidArgumentError if the two do not take
    and give the same names, CompileError if the source runs on none of the inputs.
    """
    program = load(path)
    inputs = _named(program, inputs)
    model = _import_as(program, source, inputs, input_shapes, factory, weights)
    _same_names(path, program, source, model)
    report = Report(reference=str(model.provenance.get("framework", "source")), noise=model.source.noise)
    for _, difference in differences(program, model, VerifyOptions(), inputs, report):
        what = difference.detail or f"a relative error of {difference.error:.2g}"
        raise VerificationError(
            f"{path} and {source} differ: output {difference.output!r}, {what}", "", difference.error
        )
    return report


def _named(program: Model, inputs: Mapping[str, Any] | Sequence[Any] | None) -> Mapping[str, Any] | None:
    if inputs is None:
        return None
    names = [info.name for info in program.inputs]
    given = inputs if isinstance(inputs, Mapping) else dict(zip(names, inputs))
    if set(given) != set(names) or len(inputs) != len(names):
        have = ", ".join(inputs) if isinstance(inputs, Mapping) else f"{len(inputs)} arrays"
        raise InvalidArgumentError(f"the given inputs are {have or 'none'}; the model's are {', '.join(names)}")
    return given


def _import_as(
    program: Model,
    source: Any,
    inputs: Mapping[str, Any] | None,
    input_shapes: Mapping[str, Sequence[int]] | None,
    factory: str | None,
    weights: Weights | None,
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
    model = import_model(source, examples, dynamic=dynamic, input_shapes=input_shapes, factory=factory, weights=weights)
    declared = program.manifest.get("symbols") or {}
    symbols = {name: _narrowed(spec, declared.get(name)) for name, spec in model.symbols.items()}
    return replace(model, symbols=symbols)


def _typical_shape(info: TensorInfo) -> tuple[int, ...]:
    """Extents that the file takes, where it can twice the least: torch.export takes 0 and 1 for constants, and what is 1 at the least
    extent (a tenth of it) for fixed."""
    shape = []
    for axis, (extent, (low, high)) in enumerate(zip(info.shape, info.bounds)):
        if isinstance(extent, int):
            shape.append(extent)
            continue
        spec = SymbolSpec(low, high, info.multiples[axis] if info.multiples else 1)
        shape.append(spec.nearest(max(2 * low, 2)))
    return tuple(shape)


def _narrowed(spec: SymbolSpec, declared: Mapping[str, Any] | None) -> SymbolSpec:
    if declared is None:
        return spec
    top = declared.get("max")
    return replace(
        spec, min=declared["min"], max=None if top in (None, -1) else top, multiple=declared.get("multiple", 1)
    )


def _same_names(path: object, program: Model, source: object, model: ImportedModel) -> None:
    for what, ours, theirs in (
        ("inputs", [i.name for i in program.inputs], model.input_names),
        ("outputs", [o.name for o in program.outputs], model.output_names),
    ):
        if sorted(ours) != sorted(theirs):
            raise InvalidArgumentError(
                f"{path} was not made from {source}: its {what} are {', '.join(ours)}, those of the source {', '.join(theirs)}"
            )
