"""A recipe, done to a model: its methods one after the other, each to the layers that it is for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import numpy.typing as npt
import tvm

from maas_rt._errors import CompileError, InvalidArgumentError

from .._configs import CompileOptions
from .._recipes import Quantize, Recipe
from ..importers import ImportedModel
from ..passes import FOLDING
from ._int8 import quantize_int8
from ._layers import Layer, is_quantized, layers
from ._observe import CompileFloat, Observer
from ._samples import Samples, input_types

__all__ = ["Compressed", "compressed"]


@dataclass
class Compressed:
    """The module as the recipe wants it, and what is to be said of it. `kept`: inputs to hold the result against its source on; None where
    the recipe changed nothing."""

    mod: tvm.IRModule
    kept: list[dict[str, npt.NDArray[Any]]] | None
    samples: int
    methods: dict[str, Quantize]  # by layer
    floats: dict[str, tuple[str, str]]  # kind and reason by layer
    notes: list[str] = field(default_factory=list)

    def to_manifest(self, recipe: Recipe) -> dict[str, Any]:
        """The recipe without its data, and which layers have what."""
        first = recipe.methods[0]
        return {
            "kind": "int8", "version": first.version, "method": first.method, "activation_bits": first.activation_bits,
            "tolerance": recipe.tolerance, "calibration_inputs": self.samples, "layers": len(self.methods),
            "float_layers": [{"name": name, "kind": kind, "reason": reason} for name, (kind, reason) in self.floats.items()],
            "notes": self.notes,
        }  # fmt: skip


def compressed(model: ImportedModel, options: CompileOptions, compile_float: CompileFloat) -> Compressed:
    """A model as its recipe wants it. One that is quantized already stays as it is.

    Raises:
        InvalidArgumentError: calibration inputs that are not the model's, layers that it does not have. VerificationError: the model
            differs from its source in float already. CompileError: there is nothing to quantize, or an activation that is not finite.
    """
    recipe = options.recipe
    assert recipe is not None
    if model.states:
        raise CompileError("a model with states cannot be quantized by calibration yet: leave out recipe")
    mod = model.mod
    for _, stage in FOLDING:
        mod = stage(mod)
    if recipe.data is None:
        raise InvalidArgumentError(
            "the recipe has no calibration data: give Recipe(calibration=...) sets of the model's inputs"
        )
    samples, found = Samples(recipe.data, input_types(model)), layers(mod)
    observer = Observer(model, samples, compile_float, options.verify)
    if is_quantized(mod):
        count = sum(1 for _ in samples)
        own = "the model's own quantization leaves it in float"
        floats = {layer.name: (layer.kind, own) for layer in found if layer.reason}
        methods = {layer.name: recipe.methods[0] for layer in found if not layer.reason}
        return Compressed(
            model.mod, None, count, methods, floats, ["the model is quantized already, and stays as it is"]
        )
    methods, floats = _assigned(found, recipe)
    if not methods:
        told = "".join(f"; {kind} {name}: {reason}" for name, (kind, reason) in list(floats.items())[:3])
        raise CompileError(
            f"the model has no layer that 8 bits could have{told or ' (no convolution or matrix product)'}: leave out recipe"
        )
    notes: list[str] = []
    for method in recipe.methods:
        names = {name for name, each in methods.items() if each is method}
        if names:
            chosen = [layer.var for layer in layers(mod) if layer.name in names]
            mod, told_of_data = quantize_int8(mod, chosen, method, observer)
            notes += told_of_data
    return Compressed(mod, samples.kept, observer.count, methods, floats, notes)


def _assigned(found: Sequence[Layer], recipe: Recipe) -> tuple[dict[str, Quantize], dict[str, tuple[str, str]]]:
    """What each layer has; and of those that have nothing, kind and reason."""
    methods: dict[str, Quantize] = {}
    floats: dict[str, tuple[str, str]] = {}
    for layer in found:
        method = _method(layer, recipe)
        if method is not None and not layer.reason:
            methods[layer.name] = method
        else:
            floats[layer.name] = (layer.kind, layer.reason if method is not None else "the recipe leaves it in float")
    for pattern in recipe.layers:
        if not any(fnmatchcase(layer.name, pattern) for layer in found):
            names = ", ".join(layer.name for layer in found[:8])
            raise InvalidArgumentError(
                f"the recipe names the layer {pattern!r}, which the model does not have: it has {names}"
            )
    return methods, floats


def _method(layer: Layer, recipe: Recipe) -> Quantize | None:
    patterns: Mapping[str, Quantize | None] = recipe.layers
    for pattern, method in patterns.items():
        if fnmatchcase(layer.name, pattern):
            return method
    return recipe.quantize
