"""Runs an artifact beside the framework that its model came from; what differs is refused, with the operator that began it.

Rules. The error of a float output is its worst element's against the output's scale: max |got - want| / max |want|, within the
tolerance of its element type (VerifyOptions). NaNs must stand in the same places, infinities must be equal, integers and bools must be
equal. An output that moves by more than that in the source itself, when its float inputs move by a few roundings (a sigmoid whose
largest result is 1e-6, a network that rounds to 8 bits between its layers), may differ by as much as _STEADY such movements: no
implementation can do better; the manifest lists it. So may a float32 output by one rounding of 1, for a sigmoid or softmax is no more
exact than that in most frameworks. Of a model that is quantized, which swallows such movements of its inputs whole and now and then
rounds a tie the other way, the scales (or what is quantized) are moved as well, by _TIES roundings; numbers of 8 bits may be off by one step, as few of
them as there. Since one tie may move such an output by a hundredth, there must be inputs, drawn small so that no tie is near, on which it
agrees by its tolerance: where the source stands still under _NEAR roundings and the two differ _MISSES times, the model is refused. If there
are none, or the sizes are fixed, it is compiled once more, cut at its quantized tensors, and each of these compared by itself (_between.py): an element may be off by as many
steps as it moves there. An output that is constant or NaN throughout, for every input that was tried, is
no evidence: the manifest lists it too. A model that draws random numbers is run with one seed, and its source is given the same
numbers, computed apart from the kernels (importers/_philox.py). Either side has VerifyOptions.seconds for a run: a loop whose end the data decides may have
none on inputs that were drawn.
"""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Set
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from maas_rt._errors import CompileError, DeadlineExceededError, Error, InvalidArgumentError, VerificationError

from ._alone import Own, largest_alone
from ._between import first_off
from ._boundary import first_line
from ._configs import VerifyOptions
from ._deadline import OverdueError, within
from ._reference import Reference
from .artifact import Artifact
from .importers._imported import Apart, ImportedModel, Source, SymbolSpec
from .importers._philox import SHARED_SEED
from .oracle import OracleError
from .passes._dims import evaluated

__all__ = ["Difference", "Report", "compare", "differences", "run_compiled", "sample_inputs", "verify"]

_USUAL_SIZES = (64, 256, 32, 16, 512, 128, 1024, 4096, 16_000)  # images, sequences, sound
_MAX_DRAWN = 1 << 23  # elements of one run's inputs at a usual size
_STEADY = 4.0
_EPSILON = float(np.finfo(np.float32).eps)
_TIES = 64  # enough for some of a thousand numbers to be rounded to 8 bits the other way
_NEAR = 2
_MISSES = 5
_TIED = 0.01  # of the numbers of a tensor at most, at a tie
_EXPLAINED = 0.25  # of a difference, that the operators' own errors come to where they add up
_SMALL_SIZES = (8, 6, 4, 3, 2, 5, 7)
_ROUNDINGS = 8  # by as much, relatively, two ways to add up a layer's products differ; in half precision, where sums are float32, by one

Array = npt.NDArray[Any]
CompileModel = Callable[[ImportedModel], Artifact]


@dataclass(frozen=True)
class Difference:
    """How one output differs: `error` against its scale (infinite where NaNs, infinities, shapes or integers differ)."""

    output: str
    error: float
    detail: str


@dataclass
class Report:
    """What verification found: the largest error over all outputs and inputs, and the outputs that told nothing."""

    max_relative_error: float = 0.0
    runs: int = 0
    refused: int = 0  # drawn inputs that the source, or the compiled model, refused
    unfinished: int = 0  # inputs on which the source did not come to an end in its time
    telling: set[str] = field(default_factory=set)
    unsteady: set[str] = field(
        default_factory=set
    )  # outputs that one rounding of the inputs moves by more than the tolerance
    unsteady_on: Mapping[str, Array] | None = None  # the first inputs of which that was so
    outputs: dict[str, float] = field(default_factory=dict)  # each output's largest error
    reference: str = "source"
    because: str = ""  # why it is not the source's first implementation
    noise: str = ""  # how the random numbers that the model draws reached the source

    @property
    def cases(self) -> int:
        """On how many inputs both sides ran."""
        return self.runs

    def note(self, name: str, difference: Difference, reference: Array) -> None:
        """Count one output's comparison in."""
        self.outputs[name] = max(self.outputs.get(name, 0.0), difference.error)
        self.max_relative_error = max(self.max_relative_error, difference.error)
        if _telling(reference):
            self.telling.add(name)

    def to_manifest(self, model: ImportedModel) -> dict[str, Any]:
        """The manifest's `verified`; the error as the power of ten that bounds it, so that equal compiles stay equal bytes."""
        silent = [name for name in model.output_names if name not in self.telling]
        bound = 0.0 if self.max_relative_error == 0 else float(f"1e{int(np.ceil(np.log10(self.max_relative_error)))}")
        result: dict[str, Any] = {
            "status": "passed",
            "max_relative_error": bound,
            "reference": self.reference,
            "runs": self.runs,
        }
        if self.because:
            result["reference_because"] = self.because
        if self.noise:
            result["noise"] = self.noise
        if silent:
            result["constant_outputs"] = silent
        if self.unsteady:
            result["ill_conditioned_outputs"] = sorted(self.unsteady)
        if self.unfinished:
            result["unfinished"] = self.unfinished
        return result


def verify(
    artifact: Artifact,
    model: ImportedModel,
    options: VerifyOptions,
    compile_model: CompileModel,
    examples: Mapping[str, Array] | None = None,
) -> Report:
    """Compare the artifact with `model.source` on drawn inputs and on `examples`.

    Raises VerificationError that names the first operator whose result differs (found by compiling prefixes of the model with
    `compile_model`) and by how much; CompileError if the source runs on none of the inputs.
    """
    report = Report(reference=str(model.provenance.get("framework", "source")), noise=model.source.noise)
    program = artifact.loaded()
    for inputs, difference in differences(program, model, options, examples, report):
        raise _blame(model, inputs, difference, options, compile_model)
    if report.unsteady_on is not None and (not model.symbols or report.unsteady - set(report.outputs)):
        _check_between_ties(model, report.unsteady_on, options, compile_model)
    return report


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
            report.because = _short(refusal)
            # An implementation may be right to refuse drawn inputs: the next is asked of all where this one ran on none.
            reference = reference.following() if error.refused else None
    raise CompileError(
        f"the source framework ran on none of the inputs drawn for verification ({_short(refusal)}): give real ones "
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
    given = _given(model, examples) is not None
    drawn = sample_inputs(model, options, examples, enough=lambda: report.runs > 0)
    for number, inputs in enumerate(_in_memory(drawn, model)):
        example = given and number == 0
        try:
            wanted = reference.run(inputs, insist=example)
        except OverdueError:
            report.unfinished += 1
            refusal = f"it did not finish within {options.seconds:g} s, as where a loop has no end on random numbers"
            refused = False
            break
        except OracleError as error:
            if error.opening:
                raise CompileError(
                    f"the source framework does not take the model, so that there is nothing to verify against ({_short(str(error))}): "
                    "leave it out (--no-verify, verify=False)"
                ) from None
            refusal = refusal or first_line(error)
            report.refused += 1
            continue
        except Exception as error:  # the framework's own complaint about these values, of whatever class
            refusal = refusal or first_line(error)
            report.refused += 1
            continue
        try:
            difference = _judged(program, reference, inputs, wanted, options, report, drawn=not example)
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
            report.because = report.because or _short(reference.because)
        if difference is not None:
            yield inputs, difference
    if report.runs == 0:
        raise _NothingRanError(refusal, refused)
    yield from _far_from_ties(program, model, reference, options, report)
    if model.asked and (report.refused or 0 in model.asked.values()):
        yield from _at_asked_minimum(program, model, reference, options, report)


def _judged(
    program: Any,
    reference: Reference,
    inputs: Mapping[str, Array],
    wanted: Mapping[str, Array],
    options: VerifyOptions,
    report: Report,
    *,
    drawn: bool,
) -> Difference | None:
    """What `_check_run` finds; where the artifact differs, the next implementation of the source is asked too, and if the artifact
    agrees with that one, the first is wrong."""
    counted = deepcopy(report)
    unrepeated: _UnrepeatedError | None = None
    difference: Difference | None = None
    try:
        difference = _check_run(program, reference.source, inputs, wanted, options, counted, drawn=drawn)
    except _UnrepeatedError as error:
        unrepeated = error
    following = reference.following() if (difference or unrepeated) and reference.is_first else None
    if following is not None:
        other = deepcopy(report)
        with suppress(Exception):  # whatever it cannot do, it is no witness
            results = following.run(inputs, insist=False)
            differs = _check_run(program, following.source, inputs, results, options, other, drawn=drawn)
            if differs is None and other.unsteady <= report.unsteady:
                other.reference = following.source.reference
                other.because = _short(f"{reference.source.reference} differs: {_said(difference)}")
                counted, difference, unrepeated = other, None, None
    if unrepeated is not None:
        raise unrepeated
    vars(report).update(vars(counted))
    return difference


def _said(difference: Difference | None) -> str:
    if difference is None:
        return "another output each time"
    return f"output {difference.output}, {difference.detail or f'a relative error of {difference.error:.2g}'}"


def _far_from_ties(
    program: Any, model: ImportedModel, reference: Reference, options: VerifyOptions, report: Report
) -> Iterator[tuple[dict[str, Array], Difference]]:
    """What a quantized model's outputs differ by where no tie explains it, if they have agreed on no input yet."""
    pending = report.unsteady - set(report.outputs)
    missed = dict.fromkeys(pending, 0)
    for trial, inputs in enumerate(_small_inputs(model, options) if pending else ()):
        try:
            wanted, got = reference.run(inputs, insist=False), run_compiled(program, inputs, options)
            near = reference.source.moved(_NEAR * _EPSILON, trial)
            if near is None:  # nothing is quantized
                return
            moved = within(options.seconds, partial(near.run, inputs), near.interrupt)
        except Exception:  # sizes that are not for one of them
            continue
        for name in sorted(pending):
            expected = np.asarray(wanted[name])
            tolerance = options.tolerance(str(expected.dtype))
            difference = compare(name, got[name], expected, options)
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


def _small_inputs(model: ImportedModel, options: VerifyOptions) -> Iterator[dict[str, Array]]:
    """A few dozen, at extents from _SMALL_SIZES where they vary; a batch of one."""
    inner = _inner_symbols(model)
    for number in range(4 * len(_SMALL_SIZES)):
        size = _SMALL_SIZES[number % len(_SMALL_SIZES)]
        yield _drawn(
            model,
            options,
            {n: spec.nearest(size if n in inner else 1) for n, spec in model.symbols.items()},
            2 * number,
        )


def _at_asked_minimum(
    program: Any, model: ImportedModel, reference: Reference, options: VerifyOptions, report: Report
) -> Iterator[tuple[dict[str, Array], Difference]]:
    """As `differences`, where every extent has the least value that the caller asked for. What torch itself refuses there cannot be
    kept; of other frameworks' runtimes a refusal of so small a tensor is no evidence."""
    inputs = _drawn(model, options, _bindings(model.symbols)[0] | model.asked, 0)
    sizes = ", ".join(f"{name} {list(array.shape)}" for name, array in inputs.items())
    decisive = model.provenance.get("framework") == "torch"
    asked = f"the smallest sizes that were asked for ({sizes}) are none that"
    advice = "ask for a larger minimum (--dynamic, dynamic)"
    try:
        wanted = reference.run(inputs, insist=False)
    except Exception as error:
        if decisive:
            raise InvalidArgumentError(
                f"{asked} torch runs this model on ({_short(first_line(error))}): {advice}"
            ) from error
        return
    try:
        difference = _check_run(program, reference.source, inputs, wanted, options, report, drawn=True)
    except InvalidArgumentError as error:
        if decisive:
            raise InvalidArgumentError(f"{asked} the compiled model takes ({error}): {advice}") from None
        return
    if difference is not None:
        yield inputs, difference


def _check_between_ties(
    model: ImportedModel, inputs: Mapping[str, Array], options: VerifyOptions, compile_model: CompileModel
) -> None:
    """Where ties decide what a quantized model gives, whatever its input: it is compiled once more, cut at its quantized tensors, and each of
    these compared by itself. VerificationError that names the operators before the first that differs."""

    def run(apart: Apart) -> Mapping[str, Array]:
        return run_compiled(compile_model(apart.model).loaded(), apart.inputs, options)

    def move(apart: Apart, trial: int) -> Mapping[str, Array]:
        source = apart.model.source.moved(_TIES * _EPSILON, trial) or apart.model.source
        return within(options.seconds, partial(source.run, apart.inputs), source.interrupt)

    try:
        off = first_off(model.source.between(inputs), run, move, options.tolerance)
    except Exception:  # a source that cannot be cut, or not be compiled where it is
        return
    if off is None:
        return
    own = _own_error(model, model.source.operators(), inputs, options, compile_model, off.operators)
    named = off.operators if own is None or own.error <= options.tolerance(own.dtype) else [own.operator]
    operator, kind = ", ".join(named), "operator" if len(named) == 1 else "operators"
    raise VerificationError(
        f"the compiled model differs from {model.provenance.get('framework', 'its source')}: the first difference is at {kind} {operator}, on what the source "
        f"gives them: {off.what}, on {_statistics(inputs)}; nothing was written",
        operator,
        off.error,
    )


def _check_run(
    program: Any,
    source: Source,
    inputs: Mapping[str, Array],
    wanted: Mapping[str, Array],
    options: VerifyOptions,
    report: Report,
    *,
    drawn: bool = False,
) -> Difference | None:
    """The first output that differs. Raises InvalidArgumentError for drawn inputs that the model does not take, or that leave nothing
    of an output (a window larger than the image, for which frameworks round the extent differently)."""
    try:
        got = run_compiled(program, inputs, options)
    except DeadlineExceededError:
        raise VerificationError(
            f"the compiled model did not finish within {options.seconds:g} s on inputs on which its source did; nothing was written"
        ) from None
    for name, reference in wanted.items():
        if drawn and np.size(reference) and not np.size(got[name]):
            raise InvalidArgumentError(f"they leave nothing of output '{name}', whose shape is {np.shape(got[name])}")
    report.runs += 1
    movement: dict[str, float] | None = None
    for name, reference in wanted.items():
        reference = np.asarray(reference)
        difference = compare(name, got[name], reference, options)
        steps = _steps(got[name], reference)
        if difference.error > options.tolerance(str(reference.dtype)) and (steps is not None or not difference.detail):
            if movement is None:
                _check_repeats(source, inputs, wanted, options)
                movement = _movement(source, inputs, wanted, options)
            if (
                _is_noise(difference, reference)
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
    source: Source, inputs: Mapping[str, Array], wanted: Mapping[str, Array], options: VerifyOptions
) -> None:
    """_UnrepeatedError where the source gives something else for the same inputs: it draws numbers that it was not given, or reads memory
    that nobody wrote."""
    again = within(options.seconds, partial(source.run, inputs), source.interrupt)
    for name, reference in wanted.items():
        if compare(name, np.asarray(again[name]), np.asarray(reference), options).error > 0:
            raise _UnrepeatedError(
                f"{source.reference} gives another output {name} each time that it runs the model on the same inputs, and the compiled "
                "model does not follow: it draws random numbers in a way that is not supported; nothing was written"
            )


class _UnrepeatedError(VerificationError):
    """The source is none."""


def _is_noise(difference: Difference, reference: Array) -> bool:
    """Whether an output is saturated: all of it near 0, and the difference less than one rounding of 1."""
    return reference.dtype == np.float32 and difference.error * float(np.abs(reference).max()) <= _EPSILON


def _steps(got: Array, wanted: Array, most: int = 1) -> float | None:
    """Of numbers of 8 bits, none of them off by more than `most`, the share that is off; else None."""
    got, wanted = np.asarray(got), np.asarray(wanted)
    if (
        wanted.dtype not in (np.int8, np.uint8)
        or got.dtype != wanted.dtype
        or got.shape != wanted.shape
        or not got.size
    ):
        return None
    apart = np.abs(got.astype(np.int16) - wanted.astype(np.int16))
    return float(np.count_nonzero(apart)) / apart.size if apart.max() <= most else None


def _movement(
    source: Source, inputs: Mapping[str, Array], wanted: Mapping[str, Array], options: VerifyOptions
) -> dict[str, float]:
    """How much each of the source's own outputs moves, against its scale, where each float input moves by _ROUNDINGS of its type, by one of float16 (and
    scales of quantizations by _TIES)."""
    rng = np.random.default_rng(options.seed)
    most = dict.fromkeys(wanted, 0.0)
    for again in (source, source.moved(_TIES * _EPSILON) or source):
        moved: dict[str, Array] = {}
        for name, x in inputs.items():
            if x.dtype in (np.float16, np.float32, np.float64):  # of 8 bits, every value is another number
                roundings = 1 if x.dtype == np.float16 else _ROUNDINGS
                step = np.finfo(x.dtype).eps * roundings * rng.choice([-1, 1], x.shape)
                x = (x * (1 + step)).astype(x.dtype)
            moved[name] = x
        try:
            results = within(options.seconds, partial(again.run, moved), again.interrupt)
        except Exception:  # it ran on the inputs as they were; this is no evidence of anything
            continue
        for name, reference in wanted.items():
            difference = compare(name, np.asarray(results[name]), np.asarray(reference), options)
            steps = _steps(results[name], reference, 255)
            most[name] = max(most[name], steps if steps is not None else 0.0 if difference.detail else difference.error)
    return most


def _telling(reference: Array) -> bool:
    """Whether agreement on this output means something: it has two different numbers, or is a single one."""
    values = reference[~np.isnan(reference)] if reference.dtype.kind in "fc" else reference
    return bool(values.size) and (reference.size == 1 or bool((values != values.flat[0]).any()))


def compare(name: str, got: Array, wanted: Array, options: VerifyOptions) -> Difference:
    """The difference of one output; `detail` says what no tolerance covers."""
    got, wanted = np.asarray(got), np.asarray(wanted)
    if got.shape != wanted.shape:
        return Difference(name, np.inf, f"its shape is {got.shape} and must be {wanted.shape}")
    if str(got.dtype) != str(wanted.dtype):
        return Difference(name, np.inf, f"its element type is {got.dtype} and must be {wanted.dtype}")
    if options.tolerance(str(wanted.dtype)) == 0.0 and wanted.dtype.kind != "c":
        wrong = int((got != wanted).sum())
        return Difference(name, np.inf if wrong else 0.0, f"{wrong} of {wanted.size} elements differ" if wrong else "")
    wide = np.complex128 if wanted.dtype.kind == "c" else np.float64
    g, w = got.astype(wide), wanted.astype(wide)
    if (np.isnan(g) != np.isnan(w)).any():
        count = int((np.isnan(g) != np.isnan(w)).sum())
        return Difference(name, np.inf, f"{count} of {w.size} elements are NaN on one side only")
    infinite = np.isinf(w) | np.isinf(g)
    if (g[infinite] != w[infinite]).any():
        return Difference(name, np.inf, "infinities differ")
    finite = ~(np.isnan(w) | infinite)
    if not finite.any():
        return Difference(name, 0.0, "")
    worst = float(np.abs(g[finite] - w[finite]).max())
    scale = float(np.abs(w[finite]).max())
    return Difference(name, worst / scale if scale > 0 else worst, "")


# ---- inputs --------------------------------------------------------------------------------------------------------------


def _in_memory(inputs: Iterator[dict[str, Array]], model: ImportedModel) -> Iterator[dict[str, Array]]:
    """The same; CompileError where they are beyond this machine's memory."""
    try:
        yield from inputs
    except MemoryError:
        shapes = ", ".join(f"{n} {p.ty.shape}" for n, p in zip(model.input_names, model.mod["main"].params))
        raise CompileError(
            f"this machine's memory does not hold the inputs that verification would draw ({shapes}): fix smaller ones with input_shapes, "
            "or leave it out (--no-verify, verify=False)"
        ) from None


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
    given = _given(model, examples)
    if given is not None:
        yield {name: np.asarray(array) for name, array in given.items()}
    inner = _inner_symbols(model)
    common = _bindings(model.symbols, inner)
    for order, binding in enumerate([*common, *_usual_bindings(model, inner)]):
        if order >= len(common) and enough():
            return
        for number in range(options.runs if order == 0 else 1):
            yield _drawn(model, options, binding, number)


def _drawn(model: ImportedModel, options: VerifyOptions, binding: Mapping[str, int], number: int) -> dict[str, Array]:
    """The random inputs of this number for a binding of the symbols, as far as the model does not say that their sizes belong together."""
    binding = dict(binding)
    for name, extent in model.sizes.items():
        if name in binding:
            binding[name] = model.symbols[name].nearest(evaluated(extent, lambda other: binding.get(other, 2)))
    ranges = model.source.input_ranges()
    text = f"{options.seed}/{number}/{sorted(binding.items())}"
    rng = np.random.default_rng(zlib.crc32(text.encode()))
    return {
        name: _draw(rng, _shape(param, binding), str(param.ty.dtype), ranges.get(name), number)
        for name, param in zip(model.input_names, model.mod["main"].params)
    }


def _given(model: ImportedModel, examples: Mapping[str, Array] | None) -> Mapping[str, Array] | None:
    given = examples if examples is not None else model.example_inputs
    return given if given is not None and set(given) == set(model.input_names) else None


def _bindings(symbols: Mapping[str, SymbolSpec], inner: Set[str] = frozenset()) -> list[dict[str, int]]:
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


def _inner_symbols(model: ImportedModel) -> set[str]:
    """Symbols that are not only some input's first extent."""
    shapes = [list(param.ty.shape.values) for param in model.mod["main"].params]
    return {var.name for shape in shapes for d in shape[1:] for var in _symbols_of(d)}


def _short(text: str) -> str:
    return text if len(text) <= 160 else text[:160].rstrip() + " ..."


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
    out += reversed(_bindings(model.symbols))
    params = model.mod["main"].params
    return [b for b in out if sum(math.prod(_shape(param, b)) for param in params) <= _MAX_DRAWN]


def _shape(param: Any, binding: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(evaluated(extent, lambda name: binding.get(name, 2)) for extent in param.ty.shape.values)


def _symbols_of(extent: Any) -> list[Any]:
    from tvm.tirx.analysis import undefined_vars

    return [] if isinstance(extent, int) else list(undefined_vars(extent))


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


# ---- blame ---------------------------------------------------------------------------------------------------------------


def _blame(
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
        what += f", {_worst_element(culprit)}, on {_statistics(inputs)}"
    total = difference.detail or f"{difference.error:.2g}"
    framework = model.provenance.get("framework", "its source")
    own = _own_error(model, differ, inputs, options, compile_model) if operator and not worst.detail else None
    kept = ""
    if options.keep_intermediates is not None and culprit is not None:
        kept = f"; its arrays are in {_keep(options.keep_intermediates, inputs, culprit)}"
    if own is not None and own.operator != operator and own.total >= _EXPLAINED * worst.error:
        begin = f"the errors of its operators add up; operator {own.operator} has the largest of its own,"
        if own.error > options.tolerance(own.dtype):  # it does not show where the model was cut
            begin = f"the first difference is at operator {own.operator}, a relative error of"
        return VerificationError(
            f"the compiled model differs from {framework}: {begin} {own.error:.2g} on what the source gives it; behind operator {place_of} the error "
            f"is {worst.error:.2g}, on {_statistics(inputs)}; output {difference.output} differs by {total}; nothing was written{kept}",
            own.operator,
            own.error,
        )
    return VerificationError(
        f"the compiled model differs from {framework}: the first difference is at {place}, {what}; "
        f"output {difference.output} differs by {total}; nothing was written{kept}",
        operator,
        worst.error,
    )


@dataclass(frozen=True)
class _Culprit:
    """The last operator of a prefix of the model whose results differ: the worst of them, and all from both sides."""

    operator: str
    difference: Difference
    wanted: dict[str, Array]
    got: dict[str, Array]


def _compare_prefix(
    model: ImportedModel, count: int, inputs: Mapping[str, Array], options: VerifyOptions, compile_model: CompileModel
) -> _Culprit | None:
    """What differs behind the model's first `count` operators; None if they agree or cannot be compared."""
    try:
        prefix, operator = model.source.prefix(count)
        results = Reference(prefix.source, options.seconds).run(inputs)
        wanted = {name: np.asarray(value) for name, value in results.items()}
        got = run_compiled(compile_model(prefix).loaded(), inputs, options)
    except Error:
        return None
    except Exception:  # a source that cannot be cut here
        return None
    worst: Difference | None = None
    for name, reference in wanted.items():
        difference = compare(name, got[name], reference, options)
        steps = _steps(got[name], reference)
        if steps is not None and 0 < steps <= _TIED and model.source.moved(_NEAR * _EPSILON) is not None:
            continue  # ties: what is wrong shows elsewhere
        wrong = difference.detail or difference.error > options.tolerance(str(reference.dtype))
        if wrong and (worst is None or difference.error > worst.error):
            worst = difference
    return None if worst is None else _Culprit(operator, worst, wanted, got)


def _own_error(
    model: ImportedModel,
    count: int,
    inputs: Mapping[str, Array],
    options: VerifyOptions,
    compile_model: CompileModel,
    among: Collection[str] = (),
) -> Own | None:
    """Of the model's first `count` operators (of those that `among` names) the one whose own error is the largest; None where they cannot
    be taken apart."""
    try:
        return largest_alone(
            model.source.apart(count, inputs),
            lambda apart: run_compiled(compile_model(apart.model).loaded(), apart.inputs, options),
            lambda name, got, wanted: compare(name, got, wanted, options).error,
            among,
        )
    except Exception:  # operators that are none by themselves
        return None


def _worst_element(culprit: _Culprit) -> str:
    """Where the two results are furthest apart, and what they are there."""
    wanted, got = (np.asarray(side[culprit.difference.output]) for side in (culprit.wanted, culprit.got))
    if wanted.shape != got.shape or wanted.size == 0:
        return f"{got.dtype}{list(got.shape)} instead of {wanted.dtype}{list(wanted.shape)}"
    wide = np.complex128 if wanted.dtype.kind == "c" else np.float64
    apart = np.abs(got.astype(wide) - wanted.astype(wide))
    at = np.unravel_index(int(np.argmax(np.where(np.isnan(apart), np.inf, apart))), wanted.shape)
    return f"{got[at]} instead of {wanted[at]} at {list(map(int, at))}"


def _statistics(inputs: Mapping[str, Array]) -> str:
    """The inputs in a few words: element type, shape, smallest and largest value."""
    parts = []
    for name, array in inputs.items():
        span = f" from {array.min():.3g} to {array.max():.3g}" if array.size and array.dtype.kind in "iuf" else ""
        parts.append(f"{name} {array.dtype}{list(array.shape)}{span}")
    return ", ".join(parts)


def _keep(folder: str, inputs: Mapping[str, Array], culprit: _Culprit) -> str:
    """Write what was compared: inputs.npz, and the operator's results as source.npz and compiled.npz."""
    os.makedirs(folder, exist_ok=True)
    for name, arrays in (("inputs", inputs), ("source", culprit.wanted), ("compiled", culprit.got)):
        np.savez(os.path.join(folder, f"{name}.npz"), **{key: np.asarray(value) for key, value in arrays.items()})  # type: ignore[arg-type]
    return folder


def run_compiled(program: Any, inputs: Mapping[str, Array], options: VerifyOptions) -> dict[str, Array]:
    """Outputs by name, states (if any) at their initial values, random numbers those that the source is given."""
    wanted = {info.name for info in program.inputs}
    given = {name: array for name, array in inputs.items() if name in wanted}
    state = program.state() if program.manifest["states"] else None
    seed = {"seed": SHARED_SEED} if program.manifest.get("draws") else {}
    result: dict[str, Array] = program.run(given, state=state, deadline=options.seconds, **seed)
    return result
