"""A pipeline whose steps are bound to versions of their models: whether these fit together, and what the whole takes and gives.

Extents are compared by what they may be. Within a step those of one name are one; where a step takes a tensor, its extents are those of the
tensor; so what is fixed or bounded anywhere is fixed or bounded wherever it is the same extent, and a contradiction is found before a request is.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from .._errors import InvalidArgumentError
from ._compatible import Extent, Interface, Tensor
from ._graph import Graph, Source, Step
from ._jobs import Member
from ._signature import Signature, TensorSpec


@dataclass(frozen=True)
class Pipeline:
    """A graph, and the version that each of its steps runs."""

    graph: Graph
    members: tuple[Member, ...]
    signature: Signature
    interface: Interface

    @classmethod
    def of(cls, graph: Graph, members: Sequence[Member]) -> Pipeline:
        """Raises InvalidArgumentError where they do not fit together."""
        for step, served in zip(graph.steps, members):
            _check_member(step, served)
        return cls(graph, tuple(members), *_joined(graph, members))

    @property
    def draws(self) -> bool:
        """Whether one of its models draws random numbers."""
        return any(served.draws for served in self.members)

    @cached_property
    def uses(self) -> Counter[Source]:
        """How often each tensor is taken, as an output of the pipeline among others."""
        return Counter(
            [*(source for step in self.graph.steps for source in step.inputs.values()), *self.graph.outputs.values()]
        )

    @cached_property
    def followers(self) -> tuple[tuple[int, ...], ...]:
        """Of each step the steps that need it, by number."""
        numbers = {step.name: number for number, step in enumerate(self.graph.steps)}
        found: list[list[int]] = [[] for _ in numbers]
        for number, step in enumerate(self.graph.steps):
            for name in step.needs():
                found[numbers[name]].append(number)
        return tuple(map(tuple, found))


def _check_member(step: Step, served: Member) -> None:
    what = f"step {step.name!r}"
    if served.is_pipeline:
        raise InvalidArgumentError(
            f"{what}: model {served.name!r} is a pipeline itself: write its steps here in its place"
        )
    if served.stateful:
        raise InvalidArgumentError(
            f"{what}: model {served.name!r} keeps states between runs, and a pipeline has no sequences for them"
        )
    known = [spec.name for spec in served.signature.inputs]
    for name in step.inputs:
        if name not in known:
            raise InvalidArgumentError(
                f"{what}: model {served.name!r} has no input {name!r}; its inputs are {', '.join(known)}"
            )
    for name in known:
        if name not in step.inputs:
            raise InvalidArgumentError(f"{what}: nothing is said of input {name!r} of model {served.name!r}")


# ---- what fits together ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Port:
    """An input or output of a step: how messages call it, and the places of its extents."""

    what: str
    spec: TensorSpec
    dtype: str
    places: tuple[int, ...]


@dataclass
class _Extents:
    """The extents of all steps, each with those that are the same as it."""

    _parents: list[int] = field(default_factory=list)
    _ranges: list[Extent] = field(default_factory=list)
    _names: list[str] = field(default_factory=list)
    _known: dict[tuple[str, str], int] = field(default_factory=dict)

    def place(self, step: str, extent: Extent) -> int:
        """That of an extent of a step: one for all of the same name in it."""
        key = (step, extent.text)
        if extent.fixed or key not in self._known:
            self._known[key] = len(self._parents)
            self._parents.append(len(self._parents))
            self._ranges.append(extent)
            self._names.append(f"{step}.{extent.text}")
        return self._known[key]

    def at(self, place: int) -> Extent:
        """What it may be."""
        return self._ranges[self._root(place)]

    def name(self, place: int) -> str:
        """A text that no other extent has."""
        return self._names[self._root(place)]

    def join(self, one: int, other: int) -> bool:
        """They are the same from now on; False if that cannot be."""
        one, other = self._root(one), self._root(other)
        if one == other:
            return True
        both = _common(self._ranges[one], self._ranges[other])
        if both is None:
            return False
        self._parents[other] = one
        self._ranges[one] = both
        return True

    def _root(self, place: int) -> int:
        while self._parents[place] != place:
            place = self._parents[place]
        return place


def _common(one: Extent, other: Extent) -> Extent | None:
    """What both may be; None if there is nothing."""
    multiple = math.lcm(one.multiple, other.multiple)
    least = -(-max(one.least, other.least) // multiple) * multiple
    bounds = [most for most in (one.most, other.most) if most is not None]
    most = min(bounds) // multiple * multiple if bounds else None
    if most is not None and most < least:
        return None
    return Extent(other.text if one.fixed else one.text, least, most, multiple)


def _joined(graph: Graph, members: Sequence[Member]) -> tuple[Signature, Interface]:
    """What the whole takes and gives."""
    extents = _Extents()
    given: dict[Source, _Port] = {}
    for step, served in zip(graph.steps, members):
        given |= {Source(step.name, port.spec.name): port for port in _ports(extents, step.name, "output", served)}
    for step, served in zip(graph.steps, members):
        for port in _ports(extents, step.name, "input", served):
            source = step.inputs[port.spec.name]
            if source.step is None:
                before = given.setdefault(source, replace(port, what=f"input {source.name!r} of the pipeline"))
            elif source not in given:
                raise _no_output(f"{port.what} is", source, given)
            else:
                before = given[source]
            _fit(extents, before, port)
    for name, source in graph.outputs.items():
        if source not in given:
            raise _no_output(f"output {name!r} of the pipeline is", source, given)
    inputs = [(name, given[Source(None, name)]) for name in graph.inputs]
    outputs = [(name, given[source]) for name, source in graph.outputs.items()]
    names = _names(extents, [port for _, port in (*inputs, *outputs)])
    (taken, said), (results, told) = (_described(extents, names, ports) for ports in (inputs, outputs))
    return Signature(taken, results), Interface(said, told)


def _ports(extents: _Extents, step: str, kind: str, served: Member) -> Iterator[_Port]:
    tensors, specs = served.interface.inputs, served.signature.inputs
    if kind == "output":
        tensors, specs = served.interface.outputs, served.signature.outputs
    for tensor, spec in zip(tensors, specs):
        places = tuple(extents.place(step, extent) for extent in tensor.shape)
        yield _Port(f"{kind} {spec.name!r} of step {step!r}", spec, tensor.dtype, places)


def _fit(extents: _Extents, given: _Port, taken: _Port) -> None:
    if given.dtype != taken.dtype:
        datatypes = [port.spec.metadata()["datatype"] for port in (taken, given)]
        raise InvalidArgumentError(
            f"{taken.what} is {datatypes[0]}, and {given.what}, which it takes, is {datatypes[1]}"
        )
    if len(given.places) != len(taken.places):
        raise InvalidArgumentError(
            f"{taken.what} has {len(taken.places)} dimensions, and {given.what}, which it takes, has {len(given.places)}"
        )
    for axis, (one, other) in enumerate(zip(given.places, taken.places)):
        if not extents.join(one, other):
            raise InvalidArgumentError(
                f"dimension {axis} of {taken.what} is {extents.at(other)}, and of {given.what}, which it takes, {extents.at(one)}"
            )


def _no_output(what: str, source: Source, given: Mapping[Source, _Port]) -> InvalidArgumentError:
    known = ", ".join(each.name for each in given if each.step == source.step)
    return InvalidArgumentError(
        f"{what} {str(source)!r}, and the model of step {source.step!r} has no output {source.name!r}; its outputs are {known}"
    )


def _names(extents: _Extents, ports: Sequence[_Port]) -> dict[str, str]:
    """What each open extent is called: as its model does, unless that calls another one so."""
    texts = {extents.name(place): extents.at(place).text for port in ports for place in port.places}
    often = Counter(texts.values())
    return {name: text if often[text] == 1 else name for name, text in texts.items()}


def _described(
    extents: _Extents, names: Mapping[str, str], ports: Sequence[tuple[str, _Port]]
) -> tuple[tuple[TensorSpec, ...], tuple[Tensor, ...]]:
    specs, tensors = [], []
    for name, port in ports:
        shape = tuple(replace(extents.at(place), text=names[extents.name(place)]) for place in port.places)
        specs.append(
            replace(port.spec, name=name, shape=tuple(each.least if each.fixed else each.text for each in shape))
        )
        tensors.append(Tensor(name, port.dtype, shape))
    return tuple(specs), tuple(tensors)
