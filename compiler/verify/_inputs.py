"""The inputs that a model is verified on: examples, and random ones at extents that its symbols admit."""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Set
from typing import Any

import numpy as np
from tvm.tirx.analysis import undefined_vars

from maas_rt._errors import CompileError

from .._configs import VerifyOptions
from ..importers._imported import Array, ImportedModel, SymbolSpec
from ..passes._dims import evaluated

__all__ = ["bindings", "drawn_inputs", "given_inputs", "in_memory", "sample_inputs", "small_inputs"]

_USUAL_SIZES = (64, 256, 32, 16, 512, 128, 1024, 4096, 16_000)  # images, sequences, sound
_MAX_DRAWN = 1 << 23  # elements of one run's inputs at a usual size
_SMALL_SIZES = (8, 6, 4, 3, 2, 5, 7)
_STEPS = 9  # by so many are drawn extents moved to meet a model's conditions


def sample_inputs(
    model: ImportedModel,
    options: VerifyOptions,
    examples: Mapping[str, Array] | None,
    *,
    enough: Callable[[], bool] = lambda: True,
) -> Iterator[dict[str, Array]]:
    """Inputs by name: the examples, then `options.runs` random ones for the smallest binding of the symbols, and one for the
    medium one; as long as these are not `enough` (a network may want an image's sides to be round, and not say so), one for each
    of the usual sizes."""
    given = given_inputs(model, examples)
    if given is not None:
        yield {name: np.asarray(array) for name, array in given.items()}
    inner = inner_symbols(model)
    common = bindings(model.symbols, inner)
    for order, binding in enumerate([*common, *_usual_bindings(model, inner)]):
        if order >= len(common) and enough():
            return
        for number in range(options.runs if order == 0 else 1):
            yield drawn_inputs(model, options, binding, number)


def small_inputs(model: ImportedModel, options: VerifyOptions) -> Iterator[dict[str, Array]]:
    """A few dozen, at extents from _SMALL_SIZES where they vary; a batch of one."""
    inner = inner_symbols(model)
    for number in range(4 * len(_SMALL_SIZES)):
        size = _SMALL_SIZES[number % len(_SMALL_SIZES)]
        yield drawn_inputs(
            model,
            options,
            {n: spec.nearest(size if n in inner else 1) for n, spec in model.symbols.items()},
            2 * number,
        )


def drawn_inputs(
    model: ImportedModel, options: VerifyOptions, binding: Mapping[str, int], number: int
) -> dict[str, Array]:
    """The random inputs of this number for a binding of the symbols, as far as the model does not say that their sizes belong together."""
    binding = dict(binding)
    for name, extent in model.sizes.items():
        if name in binding:
            binding[name] = model.symbols[name].nearest(evaluated(extent, lambda other: binding.get(other, 2)))
    binding = _fitted(model, binding)
    ranges = model.source.input_ranges()
    text = f"{options.seed}/{number}/{sorted(binding.items())}"
    rng = np.random.default_rng(zlib.crc32(text.encode()))
    return {
        name: _draw(rng, _shape(param, binding), str(param.ty.dtype), ranges.get(name), number)
        for name, param in zip(model.input_names, model.mod["main"].params)
    }


def _fitted(model: ImportedModel, binding: Mapping[str, int]) -> dict[str, int]:
    """The nearest extents, none smaller, that meet the model's conditions; the same where none are found."""
    names = sorted({var.name for condition in model.conditions for var in _symbols_of(condition.holds)})
    steps = itertools.product(range(_STEPS if len(names) < 4 else 2), repeat=len(names))
    for step in sorted(steps, key=sum):
        moved = {name: model.symbols[name].nearest(binding[name] + by) for name, by in zip(names, step)}
        if all(evaluated(each.holds, {**binding, **moved}.__getitem__) for each in model.conditions):
            return {**binding, **moved}
    return dict(binding)


def given_inputs(model: ImportedModel, examples: Mapping[str, Array] | None) -> Mapping[str, Array] | None:
    given = examples if examples is not None else model.example_inputs
    return given if given is not None and set(given) == set(model.input_names) else None


def in_memory(inputs: Iterator[dict[str, Array]], model: ImportedModel) -> Iterator[dict[str, Array]]:
    """The same; CompileError where they are beyond this machine's memory."""
    try:
        yield from inputs
    except MemoryError:
        shapes = ", ".join(f"{n} {p.ty.shape}" for n, p in zip(model.input_names, model.mod["main"].params))
        raise CompileError(
            f"this machine's memory does not hold the inputs that verification would draw ({shapes}): fix smaller ones with input_shapes, "
            "or leave it out (--no-verify, verify=False)"
        ) from None


def bindings(symbols: Mapping[str, SymbolSpec], inner: Set[str] = frozenset()) -> list[dict[str, int]]:
    """Extents for the symbols: all at their smallest (at least 1), then all at medium sizes that differ from each other. The `inner`
    ones, sides of images and lengths of sequences, are of a usual size where nothing bounds them: a network that halves its input
    five times is not made for an extent of 1, and what frameworks make of it is no evidence."""
    if not symbols:
        return [{}]
    smallest, medium = {}, {}
    for number, (name, spec) in enumerate(sorted(symbols.items())):
        if name in inner and spec.max is None and spec.min <= 2:
            smallest[name], medium[name] = spec.nearest(_USUAL_SIZES[0]), spec.nearest(96 + 32 * number)
        else:
            smallest[name] = spec.nearest(max(spec.min, 1))
            medium[name] = spec.nearest(max(spec.min + 2 * spec.multiple, spec.multiple * (3 + 2 * number)))
    return [smallest, medium] if medium != smallest else [smallest]


def _usual_bindings(model: ImportedModel, inner: Set[str]) -> list[dict[str, int]]:
    """All inner symbols at one of the usual sizes, the others 2; one at a usual size, the others 1 (batches in places of their own, next
    to a length); then sizes that differ from each other, and the smallest."""
    if not model.symbols:
        return []
    out = [
        {name: spec.nearest(size if name in inner else 2) for name, spec in model.symbols.items()}
        for size in _USUAL_SIZES
    ]
    for long in sorted(inner) if 1 < len(model.symbols) <= 4 else ():
        out += [
            {name: spec.nearest(size if name == long else 1) for name, spec in model.symbols.items()}
            for size in _USUAL_SIZES
        ]
    out += reversed(bindings(model.symbols))
    params = model.mod["main"].params
    return [b for b in out if sum(math.prod(_shape(param, b)) for param in params) <= _MAX_DRAWN]


def inner_symbols(model: ImportedModel) -> set[str]:
    """Symbols that are not only some input's first extent."""
    shapes = [list(param.ty.shape.values) for param in model.mod["main"].params]
    return {var.name for shape in shapes for d in shape[1:] for var in _symbols_of(d)}


def _symbols_of(extent: Any) -> list[Any]:

    return [] if isinstance(extent, int) else list(undefined_vars(extent))


def _shape(param: Any, binding: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(evaluated(extent, lambda name: binding.get(name, 2)) for extent in param.ty.shape.values)


def _draw(
    rng: np.random.Generator, shape: tuple[int, ...], dtype: str, bounds: tuple[float, float] | None, number: int
) -> Array:
    """Random values: normal floats (odd runs: positive and larger), small integers, coins; inside `bounds` where given."""
    if dtype == "bool":
        return rng.integers(0, 2, shape).astype(bool)
    if dtype.startswith(("int", "uint")):
        low, high = bounds if bounds is not None else (0, 3)
        return rng.integers(int(low), int(high), shape, endpoint=True).astype(_numpy_dtype(dtype))
    if bounds is not None:
        values = rng.uniform(bounds[0], bounds[1], shape)
    else:
        values = rng.standard_normal(shape) if number % 2 == 0 else rng.uniform(0.1, 2.0, shape)
    return values.astype(_numpy_dtype(dtype))


def _numpy_dtype(name: str) -> np.dtype[Any]:
    """bfloat16, float8, int4 and their like are ml_dtypes' own."""
    import ml_dtypes

    return np.dtype(getattr(ml_dtypes, name, name))
