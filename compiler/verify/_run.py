"""One run of the compiled model beside one of its source."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from maas_rt._errors import DeadlineExceededError, InvalidArgumentError, VerificationError

from .._configs import VerifyOptions
from ..importers._imported import Array, Source
from ._compare import EPSILON, TIES, compare, is_saturated, run_compiled, tied_share
from ._deadline import within
from ._report import Difference, Report

__all__ = ["UnrepeatedError", "compare_run", "movements"]

_STEADY = 4.0
_ROUNDINGS = 8  # by as much, relatively, two ways to add up a layer's products differ; in half precision, where sums are float32, by one
_TRIALS = 8  # a tie that only one of them would move is missed once in some hundred times


class UnrepeatedError(VerificationError):
    """The source is none."""


def compare_run(
    program: Any,
    source: Source,
    inputs: Mapping[str, Array],
    expected: Mapping[str, Array],
    options: VerifyOptions,
    report: Report,
    *,
    drawn: bool = False,
) -> Difference | None:
    """The first output that differs. Raises InvalidArgumentError for drawn inputs that the model does not take, or that leave nothing
    of an output (a window larger than the image, for which frameworks round the extent differently)."""
    try:
        actual = run_compiled(program, inputs, options)
    except DeadlineExceededError:
        raise VerificationError(
            f"the compiled model did not finish within {options.seconds:g} s on inputs on which its source did; nothing was written"
        ) from None
    for name, reference in expected.items():
        if drawn and np.size(reference) and not np.size(actual[name]):
            raise InvalidArgumentError(
                f"they leave nothing of output '{name}', whose shape is {np.shape(actual[name])}"
            )
    report.runs += 1
    movement: dict[str, float] | None = None
    for name, reference in expected.items():
        reference = np.asarray(reference)
        difference = compare(name, actual[name], reference, options)
        steps = tied_share(actual[name], reference)
        if difference.error > options.tolerance(str(reference.dtype)) and (steps is not None or not difference.detail):
            if movement is None:
                _check_repeats(source, inputs, expected, options)
                movement = movements(source, inputs, expected, options)
            if (
                is_saturated(difference, reference)
                or (difference.error if steps is None else steps) <= _STEADY * movement[name]
            ):
                report.unsteady.add(name)
                report.unsteady_on = inputs if report.unsteady_on is None else report.unsteady_on
                continue
        report.note(name, difference, reference)
        if difference.error > options.tolerance(str(reference.dtype)) or difference.detail:
            return difference
    return None


def _check_repeats(
    source: Source, inputs: Mapping[str, Array], expected: Mapping[str, Array], options: VerifyOptions
) -> None:
    """UnrepeatedError where the source gives something else for the same inputs: it draws numbers that it was not given, or reads memory
    that nobody wrote."""
    repeated = within(options.seconds, partial(source.run, inputs), source.interrupt)
    for name, reference in expected.items():
        if compare(name, np.asarray(repeated[name]), np.asarray(reference), options).error > 0:
            raise UnrepeatedError(
                f"{source.reference} gives another output {name} each time that it runs the model on the same inputs, and the compiled "
                "model does not follow: it draws random numbers in a way that is not supported, or keeps numbers in attributes that are no "
                "buffers (register_buffer); nothing was written"
            )


def movements(
    source: Source, inputs: Mapping[str, Array], expected: Mapping[str, Array], options: VerifyOptions
) -> dict[str, float]:
    """How much each of the source's own outputs moves, against its scale, where each float input moves by _ROUNDINGS of its type, by one of float16 (and
    what quantizations round by TIES; again where that moves an output by no more than roundings, since half of all ways leave a tie where it is)."""
    rng = np.random.default_rng(options.seed)
    largest_movement = dict.fromkeys(expected, 0.0)
    tolerances = {name: options.tolerance(str(np.asarray(value).dtype)) for name, value in expected.items()}
    for number, variant in enumerate(itertools.chain([source], _with_moved_scales(source))):
        if number > 1 and all(largest_movement[name] > tolerances[name] for name in expected):
            break
        moved_inputs: dict[str, Array] = {}
        for name, x in inputs.items():
            if x.dtype in (np.float16, np.float32, np.float64):  # of 8 bits, every value is another number
                roundings = 1 if x.dtype == np.float16 else _ROUNDINGS
                step = np.finfo(x.dtype).eps * roundings * rng.choice([-1, 1], x.shape)
                x = (x * (1 + step)).astype(x.dtype)
            moved_inputs[name] = x
        try:
            results = within(options.seconds, partial(variant.run, moved_inputs), variant.interrupt)
        except Exception:  # it ran on the inputs as they were; this is no evidence of anything
            continue
        for name, reference in expected.items():
            difference = compare(name, np.asarray(results[name]), np.asarray(reference), options)
            steps = tied_share(results[name], reference, 255)
            largest_movement[name] = max(
                largest_movement[name], steps if steps is not None else 0.0 if difference.detail else difference.error
            )
    return largest_movement


def _with_moved_scales(source: Source) -> Iterator[Source]:
    for trial in range(_TRIALS):
        moved = source.with_moved_scales(TIES * EPSILON, trial)
        yield moved or source
        if moved is None:  # nothing is quantized
            return
