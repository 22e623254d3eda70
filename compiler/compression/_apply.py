"""A recipe, done to a model: its methods one after the other, each to the layers that it is for."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

import numpy.typing as npt
import tvm

from maas_rt._errors import CompileError, InvalidArgumentError

from .._configs import CompileOptions
from .._recipes import Half, Int8, Int8Dynamic, Quantize, Recipe, WeightOnly, described, needs_data
from ..importers import ImportedModel
from ..passes import FOLDING
from ..passes.sub_pixels import as_sub_pixels
from ._drawn import drawn_samples
from ._dynamic import quantize_dynamic
from ._half import store_half
from ._int8 import Quantized, quantize_int8
from ._layers import Layer, is_quantized, layers
from ._low_rank import FACTOR, factorise
from ._observe import CompileFloat, Observer
from ._prune import Pruned, prune
from ._reasons import INT8_RUN_TIME, INT8_TABLES, has_run_time_ranges, reason_against
from ._rounded_inputs import round_inputs
from ._samples import Samples, input_types
from ._structured import prune_structured
from ._weight_only import quantize_weights

__all__ = ["Compressed", "compressed"]

_AS_IT_CAME = "the model is quantized already, and it stays as it is"


@dataclass
class Compressed:
    """The module as the recipe wants it, and what is to be said of it. `kept`: inputs to hold the result against its source on; None where
    the recipe changed nothing."""

    mod: tvm.IRModule
    kept: list[dict[str, npt.NDArray[Any]]] | None
    samples: int
    methods: dict[str, Quantize]  # by layer
    floats: dict[str, tuple[str, str]]  # kind and reason by layer
    pruned: Pruned = field(default_factory=Pruned)
    done: Sequence[Quantized] = ()  # method by method

    def to_manifest(self, recipe: Recipe) -> dict[str, Any]:
        """The recipe without its data, and which layers have what: a record for each thing that it does."""
        found: dict[str, Any] = {"version": recipe.version}
        if recipe.prunings:
            found["prune"] = self.pruned.to_manifest(recipe, self.samples)
        if recipe.methods:
            found["quantize"] = self._quantize(recipe)
        return found

    def _quantize(self, recipe: Recipe) -> dict[str, Any]:
        used = [
            {**described(method), "names": [name for name, each in self.methods.items() if each is method]}
            for method in recipe.methods
        ]
        return {
            "methods": [each for each in used if each["names"]], "tolerance": recipe.tolerance,
            "calibration_inputs": self.samples, "layers": len(self.methods),
            "float_layers": [{"name": name, "kind": kind, "reason": reason} for name, (kind, reason) in self.floats.items()],
            "smoothed": [each for done in self.done for each in done.smoothed],
            "bias_corrected": [each for done in self.done for each in done.corrected],
            "rounded": [each for done in self.done for each in done.rounded],
            "returned_to_float": [each for done in self.done for each in done.returned],
            "notes": [each for done in self.done for each in done.notes],
        }  # fmt: skip


def compressed(model: ImportedModel, options: CompileOptions, compile_float: CompileFloat) -> Compressed:
    """A model as its recipe wants it. One that is quantized already stays as it is.

    Raises:
        InvalidArgumentError: calibration inputs that are not the model's, layers that it does not have. VerificationError: the model
            differs from its source in float already. CompileError: there is nothing to prune or to quantize, or an activation that is not finite.
    """
    recipe = options.recipe
    assert recipe is not None
    observing = [method for method in (*recipe.methods, *recipe.prunings) if needs_data(method)]
    if model.states and observing:
        raise CompileError("a model with states cannot be compressed by calibration yet: leave out recipe")
    mod = model.mod
    for _, stage in FOLDING:
        mod = stage(mod)
    folded = mod
    if recipe.data is None and observing:
        raise InvalidArgumentError(
            "the recipe has no calibration data: give Recipe(calibration=...), or --calibration, sets of the model's inputs"
        )
    found = layers(mod)
    _check_patterns(found, recipe)
    if is_quantized(mod):
        rounded = _rounded(model, mod, found, options, compile_float)
        if rounded is not None:
            return rounded
        count = sum(1 for _ in Samples(recipe.data, input_types(model))) if recipe.data is not None else 0
        own = "the model's own quantization leaves it in float"
        floats = {layer.name: (layer.kind, own) for layer in found if layer.reason}
        methods = {layer.name: method for layer in found if not layer.reason for method in recipe.methods[:1]}
        stays = ["the model is quantized already, and stays as it is"]
        return Compressed(model.mod, None, count, methods, floats, Pruned(notes=stays), [Quantized(model.mod, stays)])
    methods, floats = _assigned(found, recipe)
    if recipe.methods and not methods:
        told = _told(floats)
        raise CompileError(
            f"the model has no layer that the recipe could have{told or ' (no convolution or matrix product)'}: leave out recipe"
        )
    used = [method for method in recipe.methods if any(each is method for each in methods.values())]
    kept: list[dict[str, npt.NDArray[Any]]] = []
    observer: Observer | None = None
    if recipe.data is not None:
        observer = Observer(model, Samples(recipe.data, input_types(model)), compile_float, options.verify)
        if not all(needs_data(method) for method in recipe.prunings or used[:1]):
            _run_in_float(mod, observer)
    elif options.verify is not None:
        kept = drawn_samples(model, compile_float, options.verify)
    pruned = Pruned()
    if recipe.prunings:
        known = {layer.name for layer in found}
        eight = {name for name, method in methods.items() if isinstance(method, Int8)}
        if any(method.pattern == "structured" for method in recipe.prunings):
            mod = prune_structured(mod, found, recipe, observer, pruned)
        if any(method.pattern == "low_rank" for method in recipe.prunings):
            mod = factorise(mod, layers(mod), recipe, observer, pruned)
        mod = prune(mod, [layer for layer in layers(mod) if layer.name in known], recipe, eight, observer, pruned)
        if not pruned.layers:
            raise CompileError(f"the model has no layer to prune{_told(pruned.reasons)}: leave out prune")
        _assign_factors([layer for layer in layers(mod) if layer.name not in known], methods, floats)
    done: list[Quantized] = []
    eight = {name for name, method in methods.items() if isinstance(method, Int8)}
    mod = as_sub_pixels(mod, {layer.var for layer in layers(mod) if layer.name in eight})
    named = {layer.name for layer in found if _is_named(layer, recipe)}
    for method in used:
        names = {name for name, each in methods.items() if each is method}
        chosen = [layer for layer in layers(mod) if layer.name in names]
        done.append(_applied(mod, chosen, method, observer, named))
        mod = done[-1].mod
        for layer in chosen:
            if layer.name in done[-1].floats:
                del methods[layer.name]
                floats[layer.name] = (layer.kind, done[-1].floats[layer.name])
    if observer is not None:
        if not observer.count:  # there was nothing that a method could want to see
            _run_in_float(folded, observer)
        kept = observer.samples.kept
    count = observer.count if observer is not None else 0
    return Compressed(mod, kept, count, methods, floats, pruned, done)


def _rounded(
    model: ImportedModel,
    mod: tvm.IRModule,
    found: Sequence[Layer],
    options: CompileOptions,
    compile_float: CompileFloat,
) -> Compressed | None:
    """A quantized model with the inputs of those products rounded whose weights of 4 bits the recipe wants to meet 8; None where there are none."""
    recipe = options.recipe
    assert recipe is not None
    wanted = {layer.name: method for layer in found if _meets_bytes(method := _method(layer, recipe))}
    changed, names = round_inputs(mod, [layer for layer in found if layer.name in wanted])
    if not names:
        return None
    kept: list[dict[str, npt.NDArray[Any]]] = []
    count = 0
    if recipe.data is not None:
        observer = Observer(model, Samples(recipe.data, input_types(model)), compile_float, options.verify)
        _run_in_float(mod, observer)
        kept, count = observer.samples.kept, observer.count
    elif options.verify is not None:
        kept = drawn_samples(model, compile_float, options.verify)
    methods = {name: method for name in names if (method := wanted[name]) is not None}
    floats = {layer.name: (layer.kind, _AS_IT_CAME) for layer in found if layer.name not in methods}
    told = [
        f"the model is quantized already, and keeps its weights; what {len(names)} products read is rounded to 8 bits"
    ]
    return Compressed(changed, kept, count, methods, floats, Pruned(notes=told), [Quantized(changed, told)])


def _meets_bytes(method: Quantize | None) -> bool:
    return isinstance(method, WeightOnly) and method.activations == "int8"


def _run_in_float(mod: tvm.IRModule, observer: Observer) -> None:
    """Over all samples: it holds the build in float to the source, and keeps some of them."""
    observer.observe(mod, [], lambda _: [], lambda *_: None)


def _assign_factors(made: Sequence[Layer], methods: dict[str, Quantize], floats: dict[str, tuple[str, str]]) -> None:
    """Of a layer that was made two, the first is quantized as the layer was to be."""
    for layer in made:
        method = methods.get(layer.name.removesuffix(FACTOR))
        reason = reason_against(layer, method) if method is not None else "the layer that it is of stays in float"
        if method is not None and not reason:
            methods[layer.name] = method
        else:
            floats[layer.name] = (layer.kind, reason)


def _told(left: Mapping[str, tuple[str, str]]) -> str:
    """The first layers that are left as they are, with kind and reason."""
    return "".join(f"; {kind} {name}: {reason}" for name, (kind, reason) in list(left.items())[:3])


def _applied(
    mod: tvm.IRModule, chosen: Sequence[Layer], method: Quantize, observer: Observer | None, named: Collection[str]
) -> Quantized:
    """The layers `chosen` as the method has them; those that the recipe names itself, in any case."""
    if isinstance(method, WeightOnly):
        return Quantized(*quantize_weights(mod, chosen, method, observer))
    if isinstance(method, Int8Dynamic):
        return Quantized(quantize_dynamic(mod, chosen, method), [])
    if isinstance(method, Half):
        return Quantized(store_half(mod, [layer.var for layer in chosen], method), [])
    assert observer is not None
    return _static(mod, chosen, method, observer, named)


def _static(
    mod: tvm.IRModule, chosen: Sequence[Layer], method: Int8, observer: Observer, named: Collection[str]
) -> Quantized:
    """Layers on 8 bits: embeddings as tables with a scale for each row; recurrent layers, and what is within branches and loops, with ranges that each run
    finds."""
    tables = [layer.name for layer in chosen if layer.kind == "embedding"]
    at_run_time = [layer.name for layer in chosen if has_run_time_ranges(layer)]
    plain = [layer for layer in chosen if layer.name not in (*tables, *at_run_time)]
    fixed = [layer.var for layer in plain if layer.name in named]
    done = quantize_int8(mod, [layer.var for layer in plain], method, observer, fixed)
    mod = done.mod

    def those(names: Sequence[str]) -> list[Layer]:
        return [layer for layer in layers(mod) if layer.name in names]

    if tables:
        mod, _ = quantize_weights(mod, those(tables), INT8_TABLES, observer)
    if at_run_time:
        mod = quantize_dynamic(mod, those(at_run_time), INT8_RUN_TIME)
        done.notes.append(f"what {', '.join(at_run_time)} reads has ranges that each run finds")
    return replace(done, mod=mod)


def _assigned(found: Sequence[Layer], recipe: Recipe) -> tuple[dict[str, Quantize], dict[str, tuple[str, str]]]:
    """What each layer has; and of those that have nothing, kind and reason."""
    methods: dict[str, Quantize] = {}
    floats: dict[str, tuple[str, str]] = {}
    for layer in found:
        method = _method(layer, recipe)
        reason = reason_against(layer, method) if method is not None else "the recipe leaves it in float"
        if method is not None and not reason:
            methods[layer.name] = method
        else:
            floats[layer.name] = (layer.kind, reason)
    return methods, floats


def _check_patterns(found: Sequence[Layer], recipe: Recipe) -> None:
    """Raises InvalidArgumentError for one that no layer fits, with the names that come nearest."""
    names = [layer.name for layer in found]
    for pattern in (*recipe.layers, *recipe.prune_layers):
        if not any(fnmatchcase(name, pattern) for name in names):
            near = get_close_matches(pattern, names)
            told = f"the nearest is {near[0]}" if len(near) == 1 else f"the nearest are {', '.join(near)}"
            raise InvalidArgumentError(
                f"the recipe names the layer {pattern!r}, which the model does not have: "
                f"{told if near else 'it has ' + (', '.join(names[:8]) or 'none')}"
            )


def _method(layer: Layer, recipe: Recipe) -> Quantize | None:
    patterns: Mapping[str, Quantize | None] = recipe.layers
    for pattern, method in patterns.items():
        if fnmatchcase(layer.name, pattern):
            return method
    return recipe.quantize


def _is_named(layer: Layer, recipe: Recipe) -> bool:
    """Whether the recipe says itself what it has."""
    return any(fnmatchcase(layer.name, pattern) for pattern in recipe.layers)
