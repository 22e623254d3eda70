"""The recipe Int8: ranges of activations, scales of their channels and biases, chosen site by site, and the layers on 8 bits.

A site is an activation and the layers that read it. What is chosen is what makes the measured error of these layers' results least, each
quantized by itself, on rows that are kept of the calibration samples.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm
from tvm import relax

from .._recipes import Int8
from ..passes._rewrite import array_of, is_call
from ._absorb import Changes, Graph, Inserted, rescaled
from ._bias import correction
from ._grid import grid_of, levels_of
from ._layers import layers
from ._measure import Layer8, decibels, single_threaded
from ._mixed import Cost, Order, Return, candidates, returns
from ._observe import Observer
from ._ranges import HEADROOM, Range
from ._rounding import rounded_weights
from ._rows import matrix_from, matrix_of
from ._sites import Site, observed, outlier
from ._smooth import WAYS, Choice, choose
from ._static import quantize_static
from ._switched import Switched

__all__ = ["Quantized", "quantize_int8"]

Array = npt.NDArray[np.float32]

_GAIN = 0.9  # of the error: what makes it less than this is worth other constants
_DEAR = 0.5  # and this, a multiplication at run time
_AUTO = (*HEADROOM, "mse")


@dataclass(frozen=True)
class Quantized:
    """The module; what is to be said of the data; and for the manifest what was done besides rounding."""

    mod: tvm.IRModule
    notes: list[str]
    smoothed: list[dict[str, Any]] = field(default_factory=list)
    corrected: list[dict[str, Any]] = field(default_factory=list)
    rounded: list[dict[str, Any]] = field(default_factory=list)
    returned: list[dict[str, Any]] = field(default_factory=list)  # to float, with what that gains
    floats: dict[str, str] = field(default_factory=dict)  # the reasons of these layers, by name


def quantize_int8(
    mod: tvm.IRModule, chosen: Sequence[relax.Var], recipe: Int8, observer: Observer, fixed: Collection[relax.Var] = ()
) -> Quantized:
    """The layers `chosen` on 8 bits, but for those that cost the outputs too much; `fixed` are on 8 bits whatever they cost.

    Raises CompileError for an activation that is not finite.
    """
    measures, methods = recipe.measures, _AUTO if recipe.method == "auto" else (recipe.method,)
    sites = observed(mod, chosen, observer, measures, methods != ("minmax",))
    in_float = observer.latest()
    if not measures:
        levels = levels_of(recipe.activation_bits)
        ranges = {var: site.span(recipe.method, levels, None) for site in sites for var in site.readers}
        notes = outlier(sites) if recipe.method == "minmax" else []
        return Quantized(quantize_static(mod, ranges, recipe.activation_bits, {}, {}), notes)
    places = {layer.var: (i, layer.name) for i, layer in enumerate(layers(mod))}
    smoother = _Smoother(mod, recipe, methods)
    with single_threaded():
        choices = [smoother.choose(site) for site in sites]
    changed = rescaled(mod, smoother.changes, smoother.inserted)
    now = layers(changed)
    var_of = {var: now[place].var for var, (place, _) in places.items()}
    name_of = {var: name for var, (_, name) in places.items()}
    weights: dict[relax.Var, npt.NDArray[np.int8]] = {}
    rounded: list[dict[str, Any]] = []
    few: list[str] = []
    if recipe.rounding != "nearest":
        names = {var_of[var]: name_of[var] for var in chosen}
        weights, rounded, few = rounded_weights(changed, names, recipe.rounding, observer)
    with single_threaded():
        shifts, corrected = _corrections(changed, sites, choices, var_of, name_of, weights, recipe)
    spans = {var_of[var]: choice.span for site, choice in zip(sites, choices) for var in site.readers}
    rest: dict[str, Any] = {"bits": recipe.activation_bits, "shifts": shifts, "weights": weights}
    costs = {var_of[var]: cost for var, cost in _costs(sites, choices).items() if var not in fixed}
    found = _returns(
        changed, spans, costs, recipe.float_share, partial(Switched, observer=observer, in_float=in_float, **rest)
    )
    returned = [_told_of(each, {now: name_of[var] for var, now in var_of.items()}) for each in found]
    floats = {name: _reason(each, name) for each in returned for name in each["layers"]}
    back = {var for each in found for var in each.layers}
    smoothed = [
        _told(site, choice, name_of, inserted=site.value in smoother.at_run_time)
        for site, choice in zip(sites, choices)
        if choice.factor is not None
    ]
    whole = [site for site, choice in zip(sites, choices) if choice.method.startswith("minmax")]
    corrected, rounded = ([each for each in told if each["layer"] not in floats] for told in (corrected, rounded))
    quantized = quantize_static(changed, {var: span for var, span in spans.items() if var not in back}, **rest)
    return Quantized(quantized, [*outlier(whole), *few], smoothed, corrected, rounded, returned, floats)


def _costs(sites: Sequence[Site], choices: Sequence[Choice]) -> dict[relax.Var, Cost]:
    """Of each layer, by its variable."""
    weights = {var: m.weight.size for site in sites for var, m in zip(site.readers, site.matrices)}
    work = {var: weights[var] * site.seen(window) for site in sites for var, window in zip(site.readers, site.windows)}
    every, all_weights = max(sum(work.values()), 1), max(sum(weights.values()), 1)
    return {
        var: Cost(work[var] / every, weights[var] / all_weights, choice.after)
        for site, choice in zip(sites, choices)
        for var in site.readers
    }


def _returns(
    mod: tvm.IRModule,
    spans: Mapping[relax.Var, Range],
    costs: Mapping[relax.Var, Cost],
    share: float,
    switched: Callable[..., Switched],
) -> list[Return]:
    """Which layers of `spans` go back to float. Where none is small enough, nothing is built to find that out."""
    order = Order(Graph(mod), list(spans))
    tried = candidates(order, costs, share)
    return returns(order, tried, costs, share, switched(mod, tried, ranges=spans).errors) if tried else []


def _told_of(each: Return, name_of: Mapping[relax.Var, str]) -> dict[str, Any]:
    """For the manifest."""
    return {
        "layers": [name_of[var] for var in each.layers],
        "signal_to_error_db": [each.before, each.after],
        "share_of_work": round(each.work, 4),
        "share_of_weights": round(each.weights, 4),
    }


def _reason(returned: Mapping[str, Any], name: str) -> str:
    """Why a layer went back to float, in a clause."""
    before, after = returned["signal_to_error_db"]
    others = [each for each in returned["layers"] if each != name]
    together = f", with {' and '.join(others)}" if others else ""
    return (
        f"in float{together} it takes the outputs' signal to error from {before:g} to {after:g} dB, for "
        f"{100 * returned['share_of_work']:.2g} % of the multiply-adds"
    )


class _Smoother:
    """Chooses site by site, and gathers what is to be done to the module for it."""

    def __init__(self, mod: tvm.IRModule, recipe: Int8, methods: Sequence[str]) -> None:
        self.changes: Changes = {}
        self.inserted: Inserted = {}
        self.at_run_time: set[relax.Expr] = set()
        self._graph = Graph(mod)
        self._recipe = recipe
        self._methods = methods

    def choose(self, site: Site) -> Choice:
        bits, methods = self._recipe.activation_bits, self._methods
        before, readers = self._before(site, np.ones(site.channels))
        product = is_call(self._graph.definitions[site.readers[0]], "relax.matmul")
        nowhere = before is None and (not product or self._graph.ends_layer(site.value))
        if not self._recipe.smooth or site.is_empty or nowhere:
            return choose(site, None, (), methods, bits, _GAIN)
        producer = self._graph.producer(before) if before is not None else None
        made = self._made(producer) if producer is not None else None
        if made is not None and len(made) != site.channels:
            made = None
        tied = self._graph.tied(site.value, self._shape(site)) if before is not None else None
        choice = choose(site, made, WAYS, methods, bits, _GAIN if before is not None else _DEAR, tied)
        if choice.factor is not None:
            self._do(site, choice.factor, readers)
        return choice

    def _before(self, site: Site, channels: npt.NDArray[np.float64]) -> tuple[Changes | None, list[relax.Var]]:
        """What takes a scale in, and who reads the site then; None: nothing can."""
        readers = self._graph.layers_reading(site.value)
        shaped = channels.reshape(self._shape(site))
        changes = self._graph.absorbed(site.value, shaped) if readers is not None else None
        return changes, site.readers if changes is None or readers is None else readers

    @staticmethod
    def _shape(site: Site) -> list[int]:
        shape = [1] * site.value.ty.ndim
        shape[site.axis] = site.channels
        return shape

    def _made(self, producer: relax.Var) -> Array:
        """The largest weight of each channel that a layer makes, as it is by now."""
        call = self._graph.definitions[producer]
        weight = array_of(call.args[1])
        assert weight is not None
        scaled = np.abs(weight * self.changes.get((producer, 1), np.ones(1)))
        return np.asarray(
            scaled.max(axis=0) if is_call(call, "relax.matmul") else scaled.reshape(len(scaled), -1).max(axis=1)
        )

    def _do(self, site: Site, factor: npt.NDArray[np.float64], readers: Sequence[relax.Var]) -> None:
        before, _ = self._before(site, factor)
        for key, scale in {**(before or {}), **self._graph.unabsorbed(readers, factor)}.items():
            self.changes[key] = self.changes[key] * scale if key in self.changes else scale
        if before is None:
            self.at_run_time.add(site.value)
            self.inserted.update(dict.fromkeys(readers, factor))


def _corrections(
    mod: tvm.IRModule,
    sites: Sequence[Site],
    choices: Sequence[Choice],
    var_of: Mapping[relax.Var, relax.Var],
    name_of: Mapping[relax.Var, str],
    weights: Mapping[relax.Var, npt.NDArray[np.int8]],
    recipe: Int8,
) -> tuple[dict[relax.Var, Array], list[dict[str, Any]]]:
    """What is added to the channels of layers, by their variables in `mod`, and how much better they are for it."""
    shifts: dict[relax.Var, Array] = {}
    told: list[dict[str, Any]] = []
    definitions = Graph(mod).definitions
    for site, choice in zip(sites, choices) if recipe.bias_correction else ():
        grid = grid_of(choice.span, recipe.activation_bits)
        for reader, window in zip(site.readers, site.windows):
            rows = site.rows(window)
            if choice.factor is not None:
                rows = rows * choice.factor.astype(np.float32)[:, None]
            now, own = definitions[var_of[reader]], weights.get(var_of[reader])
            layer = Layer8(matrix_of(now), rows, own if own is None else matrix_from(now, own))
            shift, before, after = correction(next(layer.residuals([grid])))
            if shift is not None and layer.signal:
                shifts[var_of[reader]] = shift
                db = [decibels(before / layer.signal), decibels(after / layer.signal)]
                told.append({"layer": name_of[reader], "signal_to_error_db": db})
    return shifts, told


def _told(site: Site, choice: Choice, name_of: Mapping[relax.Var, str], inserted: bool) -> dict[str, Any]:
    """For the manifest."""
    return {
        "layers": [name_of[var] for var in site.readers],
        "by": choice.way,
        "at_run_time": inserted,
        "signal_to_error_db": [decibels(choice.before), decibels(choice.after)],
    }
