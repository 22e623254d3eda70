"""A pipeline as its owner writes it, in a config.toml: which models run, and which of their outputs each takes.

[[pipeline.step]]
name = "embed"                        # default: the model's
model = "encoder"
version = "canary"                    # a number or a label; default: as a request that names none
inputs = {ids = "text"}               # the model's input: an input of the pipeline
[[pipeline.step]]
model = "head"
inputs = {h = "embed.y"}              # or STEP.OUTPUT
[pipeline.outputs]
probs = "head.p"
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import Any, NamedTuple

from .._errors import InvalidArgumentError
from ._tables import check_names


class Source(NamedTuple):
    """An output of a step; without a step an input of the pipeline."""

    step: str | None
    name: str

    def __str__(self) -> str:
        return self.name if self.step is None else f"{self.step}.{self.name}"


@dataclass(frozen=True)
class Step:
    """A model that runs, and what each of its inputs is. `version`: as a request names it, by number or label."""

    name: str
    model: str
    version: str | None
    inputs: Mapping[str, Source]

    def needs(self) -> tuple[str, ...]:
        """The steps whose outputs it takes, each once."""
        return tuple(dict.fromkeys(source.step for source in self.inputs.values() if source.step is not None))


@dataclass(frozen=True)
class Graph:
    """A pipeline. Each step stands behind those that it needs; `inputs` are in the order in which they are told."""

    inputs: tuple[str, ...]
    steps: tuple[Step, ...]
    outputs: Mapping[str, Source]

    @classmethod
    def read(cls, table: object) -> Graph:
        """A config's `pipeline`. Raises InvalidArgumentError for what is not known or makes no graph."""
        if not isinstance(table, dict):
            raise InvalidArgumentError(
                f"pipeline is {table!r} and must be a table with a list of steps, [[pipeline.step]]"
            )
        check_names(table, "pipeline", {"inputs", "step", "outputs"})
        steps = _read_steps(table.get("step"))
        outputs = _sources(table.get("outputs"), "pipeline.outputs")
        inputs = _inputs(table.get("inputs"), steps)
        _check_sources(inputs, steps, outputs)
        _check_outputs(inputs, outputs)
        ordered = _ordered(steps)
        _check_used(ordered, outputs)
        return cls(inputs, ordered, outputs)


def _read_steps(value: object) -> dict[str, Step]:
    if not isinstance(value, list) or not value:
        raise InvalidArgumentError(
            "a pipeline has one step or more, each a table [[pipeline.step]] with model and inputs"
        )
    steps: dict[str, Step] = {}
    for number, table in enumerate(value, 1):
        step = _read_step(table, f"step {number} of the pipeline")
        if step.name in steps:
            raise InvalidArgumentError(f"two steps of the pipeline are named {step.name!r}: give one another name")
        steps[step.name] = step
    return steps


def _read_step(table: object, what: str) -> Step:
    if not isinstance(table, dict):
        raise InvalidArgumentError(f"{what} is {table!r} and must be a table with model and inputs")
    check_names(table, what, {"name", "model", "version", "inputs"})
    model = table.get("model")
    if not isinstance(model, str) or not model:
        raise InvalidArgumentError(f"{what}: model is {model!r} and must be the name of a model")
    name = table.get("name", model)
    if not _is_name(name):
        raise InvalidArgumentError(f"{what}: name is {name!r} (the model's by default) and must be a text without dots")
    version = table.get("version")
    if not (version is None or type(version) is int or (isinstance(version, str) and version)):
        raise InvalidArgumentError(f"step {name!r}: version is {version!r} and must be a number or a label")
    inputs = _sources(table.get("inputs"), f"inputs of step {name!r}")
    return Step(name, model, None if version is None else str(version), inputs)


def _sources(value: object, what: str) -> dict[str, Source]:
    if not isinstance(value, dict) or not value:
        raise InvalidArgumentError(
            f'{what}: they are {value!r} and must be a table of one entry or more, as {{x = "embed.y"}}'
        )
    found = {}
    for name, text in value.items():
        step, dot, output = text.partition(".") if isinstance(text, str) else ("", "", "")
        if not step or bool(dot) != bool(output):
            raise InvalidArgumentError(
                f'{what}: {name} is {text!r} and must be an input of the pipeline or "STEP.OUTPUT"'
            )
        found[name] = Source(step, output) if dot else Source(None, step)
    return found


def _inputs(value: object, steps: Mapping[str, Step]) -> tuple[str, ...]:
    """The pipeline's inputs: those that the steps take, in the order of the list if there is one, which then names no others."""
    taken = dict.fromkeys(s.name for step in steps.values() for s in step.inputs.values() if s.step is None)
    if value is None:
        return tuple(taken)
    if not isinstance(value, list) or not all(map(_is_name, value)) or len(set(value)) < len(value):
        raise InvalidArgumentError(f"pipeline.inputs is {value!r} and must be a list of different names without dots")
    for name in value:
        if name not in taken:
            raise InvalidArgumentError(f"no step takes input {name!r} of the pipeline")
    return tuple(value)


def _check_sources(inputs: Sequence[str], steps: Mapping[str, Step], outputs: Mapping[str, Source]) -> None:
    """What is taken is there. What outputs a model has is for _pipeline to see."""
    for what, source in _uses(steps, outputs):
        if source.step is not None and source.step not in steps:
            raise InvalidArgumentError(
                f"{what} is {str(source)!r}, and there is no step {source.step!r}; there is {', '.join(steps)}"
            )
        if source.step is None and source.name not in inputs:
            raise InvalidArgumentError(
                f"{what} is {str(source)!r}, which is neither an input of the pipeline ({', '.join(inputs)}) nor STEP.OUTPUT"
            )


def _uses(steps: Mapping[str, Step], outputs: Mapping[str, Source]) -> Iterator[tuple[str, Source]]:
    for step in steps.values():
        for name, source in step.inputs.items():
            yield f"input {name!r} of step {step.name!r}", source
    for name, source in outputs.items():
        yield f"output {name!r} of the pipeline", source


def _check_outputs(inputs: Sequence[str], outputs: Mapping[str, Source]) -> None:
    told: dict[Source, str] = {}
    for name, source in outputs.items():
        if not _is_name(name) or name in inputs:
            raise InvalidArgumentError(
                f"output {name!r} of the pipeline must have a name without dots that is none of its inputs'"
            )
        if source.step is None:
            raise InvalidArgumentError(
                f"output {name!r} of the pipeline is its input {source.name!r}, which no step has touched"
            )
        if source in told:
            raise InvalidArgumentError(
                f"outputs {told[source]!r} and {name!r} of the pipeline are both {str(source)!r}: name it once"
            )
        told[source] = name


def _ordered(steps: Mapping[str, Step]) -> tuple[Step, ...]:
    """Each behind those that it needs."""
    try:
        return tuple(
            steps[name] for name in TopologicalSorter({s.name: s.needs() for s in steps.values()}).static_order()
        )
    except CycleError as error:
        path = " → ".join(error.args[1])
        raise InvalidArgumentError(f"the pipeline has a cycle: {path}") from None


def _check_used(steps: Sequence[Step], outputs: Mapping[str, Source]) -> None:
    used = {source.step for source in outputs.values()}
    for step in reversed(steps):
        if step.name not in used:
            raise InvalidArgumentError(f"step {step.name!r} of the pipeline leads to none of its outputs: take it out")
        used.update(step.needs())


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value) and value.isprintable() and "." not in value
