"""Where a compiled program and its source disagree, on examples and on drawn inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from copy import deepcopy
from typing import Any

from maas_rt._errors import CompileError, Error, InvalidArgumentError, VerificationError

from .._boundary import first_line
from .._configs import VerifyOptions
from ..importers._imported import Array, ImportedModel
from ..oracle import OracleError
from ._deadline import OverdueError
from ._inputs import bindings, drawn_inputs, given_inputs, in_memory, sample_inputs
from ._reference import Reference
from ._report import Difference, Report
from ._run import UnrepeatedError, compare_run
from ._ties import far_from_ties

__all__ = ["differences"]


def differences(
    program: Any, model: ImportedModel, options: VerifyOptions, examples: Mapping[str, Array] | None, report: Report
) -> Iterator[tuple[dict[str, Array], Difference]]:
    """(inputs, difference) for each of the sampled inputs on which the two sides disagree. Where the source does not come to an end
    in its time, no more are drawn: what ran before counts, such as the examples, which come first."""
    reference: Reference | None = Reference(model.source, options.seconds)
    refusal = ""
    while reference is not None:
        try:
            yield from _differences(program, model, reference, options, examples, report)
            return
        except _NothingRanError as error:
            refusal = refusal or str(error)
            report.because = shortened(refusal)
            # An implementation may be right to refuse drawn inputs: the next is asked of all where this one ran on none.
            reference = reference.following() if error.refused else None
    raise CompileError(
        f"the source framework ran on none of the inputs drawn for verification ({shortened(refusal)}): give real ones "
        "(--input real.npz, example_inputs), or leave it out (--no-verify, verify=False)"
    )


class _NothingRanError(Exception):
    """The source ran on none of the inputs; what it said. `refused`: it said so itself, in its time."""

    def __init__(self, text: str, refused: bool) -> None:
        super().__init__(text)
        self.refused = refused


def _differences(
    program: Any,
    model: ImportedModel,
    reference: Reference,
    options: VerifyOptions,
    examples: Mapping[str, Array] | None,
    report: Report,
) -> Iterator[tuple[dict[str, Array], Difference]]:
    """The same of one implementation (and of the next, for inputs that were given). Raises _NothingRanError; CompileError where none
    takes the model at all."""
    refusal, refused = "", True
    given = given_inputs(model, examples) is not None
    drawn = sample_inputs(model, options, examples, enough=lambda: report.runs > 0)
    for number, inputs in enumerate(in_memory(drawn, model)):
        example = given and number == 0
        try:
            expected = reference.run(inputs, insist=example)
        except OverdueError:
            report.unfinished += 1
            refusal = f"it did not finish within {options.seconds:g} s, as where a loop has no end on random numbers"
            refused = False
            break
        except OracleError as error:
            if error.opening:
                raise CompileError(
                    f"the source framework does not take the model, so that there is nothing to verify against ({shortened(str(error))}): "
                    "leave it out (--no-verify, verify=False)"
                ) from None
            _insist(example and examples is not None, error)
            refusal = refusal or first_line(error)
            report.refused += 1
            continue
        except Exception as error:  # the framework's own complaint about these values, of whatever class
            _insist(example and examples is not None, error)
            refusal = refusal or first_line(error)
            report.refused += 1
            continue
        try:
            difference = _judged(program, reference, inputs, expected, options, report, drawn=not example)
        except VerificationError:
            raise
        except Error as error:  # sizes that the model is not for, or comes to, whatever the source makes of them
            if example:
                raise VerificationError(f"the compiled model refuses inputs that its source takes: {error}") from None
            refusal = refusal or f"the compiled model refuses them: {error}"
            report.refused += 1
            continue
        if reference.source is not model.source:
            report.reference = reference.source.reference
            report.because = report.because or shortened(reference.because)
        if difference is not None:
            yield inputs, difference
    if report.runs == 0:
        raise _NothingRanError(refusal, refused)
    yield from far_from_ties(program, model, reference, options, report)
    if model.asked_minimums and (report.refused or 0 in model.asked_minimums.values()):
        yield from _at_asked_minimum(program, model, reference, options, report)


def _insist(is_callers: bool, refusal: Exception) -> None:
    """What the caller gave is to be compared."""
    if is_callers:
        raise VerificationError(
            f"the source framework refuses the given inputs: {shortened(first_line(refusal))}"
        ) from None


def _judged(
    program: Any,
    reference: Reference,
    inputs: Mapping[str, Array],
    expected: Mapping[str, Array],
    options: VerifyOptions,
    report: Report,
    *,
    drawn: bool,
) -> Difference | None:
    """What `compare_run` finds; where the artifact differs, the next implementation of the source is asked too, and if the artifact
    agrees with that one, the first is wrong."""
    first_report = deepcopy(report)
    unrepeated: UnrepeatedError | None = None
    difference: Difference | None = None
    try:
        difference = compare_run(program, reference.source, inputs, expected, options, first_report, drawn=drawn)
    except UnrepeatedError as error:
        unrepeated = error
    following = reference.following() if (difference or unrepeated) and reference.is_first else None
    if following is not None:
        second_report = deepcopy(report)
        with suppress(Exception):  # whatever it cannot do, it is no witness
            results = following.run(inputs, insist=False)
            differs = compare_run(program, following.source, inputs, results, options, second_report, drawn=drawn)
            if differs is None and second_report.unsteady <= report.unsteady:
                second_report.reference = following.source.reference
                second_report.because = shortened(f"{reference.source.reference} differs: {_describe(difference)}")
                first_report, difference, unrepeated = second_report, None, None
    if unrepeated is not None:
        raise unrepeated
    vars(report).update(vars(first_report))
    return difference


def _describe(difference: Difference | None) -> str:
    if difference is None:
        return "another output each time"
    return f"output {difference.output}, {difference.detail or f'a relative error of {difference.error:.2g}'}"


def _at_asked_minimum(
    program: Any, model: ImportedModel, reference: Reference, options: VerifyOptions, report: Report
) -> Iterator[tuple[dict[str, Array], Difference]]:
    """As `differences`, where every extent has the least value that the caller asked for. What torch itself refuses there cannot be
    kept; of other frameworks' runtimes a refusal of so small a tensor is no evidence."""
    smallest_sizes = {name: model.symbols[name].nearest(size) for name, size in model.asked_minimums.items()}
    inputs = drawn_inputs(model, options, bindings(model.symbols)[0] | smallest_sizes, 0)
    sizes = ", ".join(f"{name} {list(array.shape)}" for name, array in inputs.items())
    decisive = model.provenance.get("framework") == "torch"
    complaint = f"the smallest sizes that were asked for ({sizes}) are none that"
    advice = "ask for a larger minimum (--dynamic, dynamic)"
    try:
        expected = reference.run(inputs, insist=False)
    except Exception as error:
        if decisive:
            raise InvalidArgumentError(
                f"{complaint} torch runs this model on ({shortened(first_line(error))}): {advice}"
            ) from error
        return
    try:
        difference = compare_run(program, reference.source, inputs, expected, options, report, drawn=True)
    except InvalidArgumentError as error:
        if decisive:
            raise InvalidArgumentError(f"{complaint} the compiled model takes ({error}): {advice}") from None
        return
    if difference is not None:
        yield inputs, difference


def shortened(text: str) -> str:
    return text if len(text) <= 160 else text[:160].rstrip() + " ..."
