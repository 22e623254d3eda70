"""`compress`: from a model, data, a function that scores and a budget to the smallest or quickest artifact that keeps it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import tvm

from maas_rt._version import __version__

from .._boundary import boundary
from .._budget import Budget
from .._configs import CompileOptions, Progress, VerifyOptions, Weights
from .._pipeline import compile_imported
from ..artifact import Artifact
from ..compression import Layer, Samples, Spool, input_types, layers, prunable, reason_against, weight_count
from ..importers import ImportedModel, import_model
from ..importers._examples import named_examples
from ..passes import FOLDING
from ._figures import report, summary, worst_inputs
from ._journal import Journal
from ._methods import FLOAT, Method, methods_of, recipe_of
from ._score import Evaluate, Score, digests
from ._search import search
from ._trial import Trials

__all__ = ["compress"]


def compress(
    model: Any,
    data: Any,
    evaluate: Evaluate,
    budget: Budget | Mapping[str, Any],
    *,
    judge: Evaluate | None = None,
    example_inputs: Sequence[Any] | Mapping[str, Any] | None = None,
    target: str | Sequence[str] = "native",
    dynamic: Any = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    factory: str | None = None,
    weights: Weights | None = None,
    name: str | None = None,
    journal: str | os.PathLike[str] | None = None,
    keep_journal: bool = False,
    progress: Progress | None = None,
) -> Artifact:
    """See `maas_rt.compiler.compress`."""
    wanted = Budget.of(budget)
    score = Score(evaluate)
    judging = None if judge is None else Score(judge, "judge")
    imported = import_model(
        model, example_inputs, dynamic=dynamic, input_shapes=input_shapes, factory=factory, weights=weights
    )
    options = CompileOptions(
        targets=tuple(target.split(",")) if isinstance(target, str) else tuple(target), name=name, verify=None,
        dynamic=dynamic, input_shapes=input_shapes, factory=factory,
    )  # fmt: skip
    with boundary("options"):
        options.check()
    with boundary("read the example inputs"):
        own = factory is None and not hasattr(model, "forward")
        examples = named_examples(example_inputs, imported.input_names, own)
    data = _rereadable(data, imported)
    return _compressed(imported, options, examples, data, score, judging, wanted, journal, keep_journal, progress)


def _compressed(
    model: ImportedModel,
    options: CompileOptions,
    examples: Mapping[str, Any] | None,
    data: Any,
    score: Score,
    judge: Score | None,
    budget: Budget,
    journal: str | os.PathLike[str] | None,
    keep_journal: bool,
    progress: Progress | None,
) -> Artifact:
    folded = model.mod
    for _, stage in FOLDING:
        folded = stage(folded)
    found_layers = layers(folded)
    counts = {layer.name: weight_count(layer) for layer in found_layers}
    samples, seen = Samples(data, input_types(model)), set[bytes]()
    for sample in samples:
        seen |= digests(sample)
    checked = compile_imported(
        model, replace(options, verify=VerifyOptions())
    )  # of the float model, before anything is tried
    book = Journal(journal, _identity(checked, budget, seen))
    methods = methods_of(budget)
    able = _able(folded, found_layers, methods)
    trials = Trials(model, options, checked, compile_imported, methods, samples.kept, data, score, book)
    found = search(trials, able, counts, budget, progress)
    recipe = recipe_of(found.best.assignment, methods, data)
    chosen = replace(options, verify=VerifyOptions(), recipe=recipe)
    artifact = compile_imported(model, chosen, examples=examples)  # as `compile` has it with the same recipe
    program = artifact.loaded()
    judged = None
    if judge is not None:
        judged = judge.of(trials.float_program, "the float model"), judge.of(program, "the compressed model")
    notes = _notes(score, judge, seen)
    summed = summary(trials, found.best, budget, judged)
    worst = worst_inputs(trials.expected, [program.run(dict(sample)) for sample in samples.kept])
    kinds = [(layer.name, layer.kind, layer.reason) for layer in found_layers]
    whole = report(summed, trials, found, budget, kinds, counts, worst, notes)
    if not keep_journal:
        book.remove()
    return replace(artifact.with_manifest(compression=summed), report=whole, recipe=recipe)


def _able(mod: tvm.IRModule, found: Sequence[Layer], methods: Mapping[str, Method]) -> dict[str, list[str]]:
    """The methods by layer, of those layers that can have any."""
    may_lose = set(prunable(mod, found))

    def fits(layer: Layer, method: Method) -> bool:
        may_be_less = weight_count(layer) > 0 if method.together else layer.name in may_lose
        return (method.quantize is None or not reason_against(layer, method.quantize)) and (
            method.prune is None or may_be_less
        )

    named = {layer.name: [m.name for m in methods.values() if m.name != FLOAT and fits(layer, m)] for layer in found}
    return {layer: names for layer, names in named.items() if names}


def _rereadable(data: Any, model: ImportedModel) -> Any:
    """The data as something that every trial can read again."""
    if not isinstance(data, Iterator):
        return data
    spool = Spool()
    for sample in Samples(data, input_types(model)):
        spool.add(sample)
    return spool


def _identity(artifact: Artifact, budget: Budget, seen: set[bytes]) -> str:
    """Of a search: what it has measured is of no use to another one."""
    what = {**asdict(budget), "seconds": None, "version": __version__}
    digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode())
    digest.update(hashlib.sha256(artifact.to_bytes()).digest())
    for each in sorted(seen):
        digest.update(each)
    return digest.hexdigest()


def _notes(score: Score, judge: Score | None, calibration: set[bytes]) -> list[str]:
    """Where data that should have one role have two."""
    notes = []
    if score.seen & calibration:
        notes.append(
            f"{len(score.seen & calibration)} of the inputs that evaluate runs are calibration inputs, too: the score is kinder than that of others would be"
        )
    if judge is None:
        notes.append(
            "the score that chose the model is the one that is told: give judge other data for a figure that chose nothing"
        )
    elif judge.seen & (score.seen | calibration):
        notes.append(
            f"{len(judge.seen & (score.seen | calibration))} of the inputs that judge runs are those that calibrated or chose: its figure is kinder than that of "
            "others would be"
        )
    return notes
