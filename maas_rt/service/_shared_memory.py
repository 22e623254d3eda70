"""Requests whose tensors lie in shared memory: their places found among a client's regions, and outputs written to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from ._errors import bad_request, shown
from ._regions import Regions, Span
from ._requests import InferRequest, OutputTensor, RequestedOutput, SharedMemory
from ._tensors import write_binary


def attach(request: InferRequest, regions: Regions, owner: str) -> tuple[InferRequest, int]:
    """The request with the places of its tensors in regions of a client's, and the bytes of those of its inputs. Nothing is read yet.

    Raises:
        ServiceError: NOT_FOUND, BAD_REQUEST.
    """

    def found(place: SharedMemory, what: str) -> Span:
        return regions.span(owner, place.region, place.offset, place.size, what)

    inputs = tuple(
        replace(each, data=found(each.data, f"input {shown(each.name)}"))
        if isinstance(each.data, SharedMemory)
        else each
        for each in request.inputs
    )
    outputs = tuple(
        each
        if each.shared_memory is None
        else replace(each, span=found(each.shared_memory, f"output {shown(each.name)}"))
        for each in request.outputs
    )
    _check_apart([each.span for each in outputs if each.span is not None])
    size = sum(each.data.size for each in inputs if isinstance(each.data, Span))
    return replace(request, inputs=inputs, outputs=outputs), size


def to_regions(outputs: tuple[OutputTensor, ...], wanted: Sequence[RequestedOutput]) -> tuple[OutputTensor, ...]:
    """Writes the outputs that go to shared memory there, all of them or, if one does not fit, none. They say where they are then.

    Raises:
        ServiceError: BAD_REQUEST; OVERLOADED where the machine's memory is at an end.
    """
    if all(each.span is None for each in wanted):
        return outputs
    found, writes = [], []
    for output, asked in zip(outputs, wanted):
        if asked.span is not None and asked.shared_memory is not None:
            data = write_binary(output.array, output.datatype)
            asked.span.check_room(len(data))
            writes.append((asked.span, data))
            output = replace(output, shared_memory=replace(asked.shared_memory, size=len(data)))
        found.append(output)
    for span, data in writes:
        span.write(data)
    return tuple(found)


def _check_apart(spans: Sequence[Span]) -> None:
    """That no output would be written over another one."""
    places = sorted(spans, key=lambda each: (each.region.object, each.begin))
    for one, other in pairwise(places):
        if one.region.object == other.region.object and one.begin + one.size > other.begin:
            raise bad_request(
                f"{one.what} and {other.what} share bytes of the shared memory {shown(one.region.key)}: give them places of their own"
            )
