"""The first operator whose result differs, found by compiling parts of the model."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np

from maas_rt._errors import Error, VerificationError
from maas_rt._whole_file import write_npz

from .._configs import VerifyOptions
from ..artifact import Artifact
from ..importers._imported import Array, ImportedModel
from ._alone import OwnError, largest_own_error
from ._compare import EPSILON, NEAR, TIED, compare, run_compiled, tied_share
from ._reference import Reference
from ._report import Difference

__all__ = ["CompileModel", "blame", "own_error", "statistics"]

_EXPLAINED = 0.25  # of a difference, that the operators' own errors come to where they add up

CompileModel = Callable[[ImportedModel], Artifact]


def blame(
    model: ImportedModel,
    inputs: Mapping[str, Array],
    difference: Difference,
    options: VerifyOptions,
    compile_model: CompileModel,
) -> VerificationError:
    """The error that names the first operator whose result differs, found by halving the model."""
    agree, differ = 0, model.source.operators()
    culprit: _Culprit | None = None
    while differ - agree > 1:
        middle = (agree + differ) // 2
        found = _compare_prefix(model, middle, inputs, options, compile_model)
        if found is None:
            agree = middle
        else:
            differ, culprit = middle, found
    if culprit is None:  # no shorter part differs
        culprit = _compare_prefix(model, differ, inputs, options, compile_model)
    worst = culprit.difference if culprit is not None else difference
    operator = culprit.operator if culprit is not None else ""
    what = worst.detail or f"a relative error of {worst.error:.2g}"
    place_of = f"{operator} (number {differ} of {model.source.operators()})"
    place = f"operator {place_of}" if operator else f"output {worst.output}"
    if culprit is not None:
        what += f", {_worst_element(culprit)}, on {statistics(inputs)}"
    total = difference.detail or f"{difference.error:.2g}"
    framework = model.provenance.get("framework", "its source")
    own = own_error(model, differ, inputs, options, compile_model) if operator and not worst.detail else None
    saved_note = ""
    if options.keep_intermediates is not None and culprit is not None:
        saved_note = _keep(options.keep_intermediates, inputs, culprit)
    if own is not None and own.operator != operator and own.total >= _EXPLAINED * worst.error:
        begin = f"the errors of its operators add up; operator {own.operator} has the largest of its own,"
        if own.error > options.tolerance(own.dtype):  # it does not show where the model was cut
            begin = f"the first difference is at operator {own.operator}, a relative error of"
        return VerificationError(
            f"the compiled model differs from {framework}: {begin} {own.error:.2g} on what the source gives it; behind operator {place_of} the error "
            f"is {worst.error:.2g}, on {statistics(inputs)}; output {difference.output} differs by {total}; nothing was written{saved_note}",
            own.operator,
            own.error,
        )
    return VerificationError(
        f"the compiled model differs from {framework}: the first difference is at {place}, {what}; "
        f"output {difference.output} differs by {total}; nothing was written{saved_note}",
        operator,
        worst.error,
    )


@dataclass(frozen=True)
class _Culprit:
    """The last operator of a prefix of the model whose results differ: the worst of them, and all from both sides."""

    operator: str
    difference: Difference
    expected: dict[str, Array]
    actual: dict[str, Array]


def _compare_prefix(
    model: ImportedModel, count: int, inputs: Mapping[str, Array], options: VerifyOptions, compile_model: CompileModel
) -> _Culprit | None:
    """What differs behind the model's first `count` operators; None if they agree or cannot be compared."""
    try:
        prefix, operator = model.source.prefix(count)
        results = Reference(prefix.source, options.seconds).run(inputs)
        expected = {name: np.asarray(value) for name, value in results.items()}
        actual = run_compiled(compile_model(prefix).loaded(), inputs, options)
    except Error:
        return None
    except Exception:  # a source that cannot be cut here
        return None
    worst: Difference | None = None
    for name, reference in expected.items():
        difference = compare(name, actual[name], reference, options)
        steps = tied_share(actual[name], reference)
        if steps is not None and 0 < steps <= TIED and model.source.with_moved_scales(NEAR * EPSILON) is not None:
            continue  # ties: what is wrong shows elsewhere
        wrong = difference.detail or difference.error > options.tolerance(str(reference.dtype))
        if wrong and (worst is None or difference.error > worst.error):
            worst = difference
    return None if worst is None else _Culprit(operator, worst, expected, actual)


def own_error(
    model: ImportedModel,
    count: int,
    inputs: Mapping[str, Array],
    options: VerifyOptions,
    compile_model: CompileModel,
    among: Collection[str] = (),
) -> OwnError | None:
    """Of the model's first `count` operators (of those that `among` names) the one whose own error is the largest; None where they cannot
    be taken apart."""
    try:
        return largest_own_error(
            model.source.isolated(count, inputs),
            lambda isolated: run_compiled(compile_model(isolated.model).loaded(), isolated.inputs, options),
            lambda name, actual, expected: compare(name, actual, expected, options).error,
            among,
        )
    except Exception:  # operators that are none by themselves
        return None


def _worst_element(culprit: _Culprit) -> str:
    """Where the two results are furthest apart, and what they are there."""
    expected, actual = (np.asarray(side[culprit.difference.output]) for side in (culprit.expected, culprit.actual))
    if expected.shape != actual.shape or expected.size == 0:
        return f"{actual.dtype}{list(actual.shape)} instead of {expected.dtype}{list(expected.shape)}"
    wide = np.complex128 if expected.dtype.kind == "c" else np.float64
    with np.errstate(invalid="ignore"):  # infinities
        distance = np.abs(actual.astype(wide) - expected.astype(wide))
    at = np.unravel_index(int(np.argmax(np.where(np.isnan(distance), np.inf, distance))), expected.shape)
    return f"{actual[at]} instead of {expected[at]} at {list(map(int, at))}"


def statistics(inputs: Mapping[str, Array]) -> str:
    """The inputs in a few words: element type, shape, smallest and largest value."""
    parts = []
    for name, array in inputs.items():
        span = f" from {array.min():.3g} to {array.max():.3g}" if array.size and array.dtype.kind in "iuf" else ""
        parts.append(f"{name} {array.dtype}{list(array.shape)}{span}")
    return ", ".join(parts)


def _keep(folder: str, inputs: Mapping[str, Array], culprit: _Culprit) -> str:
    """Write what was compared: inputs.npz, and the operator's results as source.npz and compiled.npz. Says where they are."""
    try:
        os.makedirs(folder, exist_ok=True)
        for name, arrays in (("inputs", inputs), ("source", culprit.expected), ("compiled", culprit.actual)):
            write_npz(os.path.join(folder, f"{name}.npz"), arrays)
    except (OSError, Error) as error:
        return f"; its arrays could not be kept ({error})"
    return f"; its arrays are in {folder}"
