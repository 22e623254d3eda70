"""Quantized models, whose outputs a tie may move: inputs far from all ties, and comparison from tensor to tensor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from maas_rt._errors import VerificationError

from .._configs import VerifyOptions
from ..importers._imported import Array, ImportedModel, IsolatedOperators
from ._between import first_unexplained
from ._blame import CompileModel, own_error, statistics
from ._compare import EPSILON, NEAR, TIES, compare, run_compiled
from ._deadline import within
from ._inputs import small_inputs
from ._reference import Reference
from ._report import Difference, Report

__all__ = ["check_between_ties", "far_from_ties"]

_MISSES = 5


def far_from_ties(
    program: Any, model: ImportedModel, reference: Reference, options: VerifyOptions, report: Report
) -> Iterator[tuple[dict[str, Array], Difference]]:
    """What a quantized model's outputs differ by where no tie explains it, if they have agreed on no input yet."""
    pending = report.unsteady - set(report.outputs)
    missed = dict.fromkeys(pending, 0)
    for trial, inputs in enumerate(small_inputs(model, options) if pending else ()):
        try:
            source_results, compiled_results = (
                reference.run(inputs, insist=False),
                run_compiled(program, inputs, options),
            )
            near = reference.source.with_moved_scales(NEAR * EPSILON, trial)
            if near is None:  # nothing is quantized
                return
            moved = within(options.seconds, partial(near.run, inputs), near.interrupt)
        except Exception:  # sizes that are not for one of them
            continue
        for name in sorted(pending):
            expected = np.asarray(source_results[name])
            tolerance = options.tolerance(str(expected.dtype))
            difference = compare(name, compiled_results[name], expected, options)
            if difference.error <= tolerance and not difference.detail:
                report.note(name, difference, expected)
                pending.discard(name)
                continue
            missed[name] += compare(name, np.asarray(moved[name]), expected, options).error <= tolerance
            if missed[name] >= _MISSES:
                yield inputs, difference
                return
        if not pending or (trial >= _MISSES and not any(missed.values())):  # of this size no input is far from all ties
            return


def check_between_ties(
    model: ImportedModel, inputs: Mapping[str, Array], options: VerifyOptions, compile_model: CompileModel
) -> None:
    """Where ties decide what a quantized model gives, whatever its input: it is compiled once more, cut at its quantized tensors, and each of
    these compared by itself. VerificationError that names the operators before the first that differs."""

    def run(isolated: IsolatedOperators) -> Mapping[str, Array]:
        return run_compiled(compile_model(isolated.model).loaded(), isolated.inputs, options)

    def move(isolated: IsolatedOperators, trial: int) -> Mapping[str, Array]:
        source = isolated.model.source.with_moved_scales(TIES * EPSILON, trial) or isolated.model.source
        return within(options.seconds, partial(source.run, isolated.inputs), source.interrupt)

    try:
        difference = first_unexplained(model.source.between(inputs), run, move, options.tolerance)
    except Exception:  # a source that cannot be cut, or not be compiled where it is
        return
    if difference is None:
        return
    own = own_error(model, model.source.operators(), inputs, options, compile_model, difference.operators)
    named = difference.operators if own is None or own.error <= options.tolerance(own.dtype) else [own.operator]
    operator, kind = ", ".join(named), "operator" if len(named) == 1 else "operators"
    raise VerificationError(
        f"the compiled model differs from {model.provenance.get('framework', 'its source')}: the first difference is at {kind} {operator}, on what the source "
        f"gives them: {difference.what}, on {statistics(inputs)}; nothing was written",
        operator,
        difference.error,
    )
