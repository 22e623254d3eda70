"""Inference requests and responses as plain data, and their HTTP bodies, read and written.

A body is a JSON document, and after it, where the header Inference-Header-Content-Length says how long the document is, the binary data of its
tensors in their order. A length of 0 means that there is no document: the body is the data of the model's one input.

Source: the Open Inference Protocol's REST specification, https://github.com/kserve/open-inference-protocol, and the extensions at
https://github.com/triton-inference-server/server/tree/main/docs/protocol.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np

from ._datatypes import DATATYPES, Array, Datatype
from ._errors import bad_request, shown
from ._json import (
    JsonData,
    cut_document,
    dump_document,
    dump_members,
    parse_data,
    parse_document,
    read_rest,
    write_data,
)
from ._regions import OFF, Span
from ._tensors import check_shape, read_binary, read_shape, shown_shape, write_binary
from ._wire import Contents, parse_contents

HEADER_LENGTH = "Inference-Header-Content-Length"
Parameters = Mapping[str, Any]
_REMEMBERED = 1024  # bytes of a request's document beside its data, at most, for that it is read once only
_LONGEST_SEQUENCE_ID = 256  # characters: it is kept as long as the sequence


@dataclass(frozen=True)
class SharedMemory:
    """A place in a region of shared memory that was registered before."""

    region: str
    size: int
    offset: int = 0

    def parameters(self) -> dict[str, Any]:
        """Those of a tensor that say so."""
        return {
            "shared_memory_region": self.region,
            "shared_memory_byte_size": self.size,
            "shared_memory_offset": self.offset,
        }


@dataclass(slots=True)
class InputTensor:
    """An input as it was sent: a name and a shape that nobody has compared with a model's yet.

    `data` is a memoryview of the binary data, a JsonData, a Contents, an array, as a client has it, or a SharedMemory, which becomes a Span
    before anything is read (_shared_memory.attach).
    """

    name: str
    datatype: Datatype
    shape: tuple[int, ...]
    data: memoryview | JsonData | Contents | SharedMemory | Span | Array
    parameters: Parameters = field(default_factory=dict)

    def array(self) -> Array:
        """The data as an array (_datatypes says of which dtype). Reads all of it: a request is bound to a model first."""
        what = f"input {shown(self.name)}"
        check_shape(self.shape, self.datatype, what)
        if isinstance(self.data, SharedMemory):
            raise bad_request(f"{what} lies in shared memory, and {OFF}")
        if isinstance(self.data, Span):
            return read_binary(self.data.read(), self.datatype, self.shape, what)
        if isinstance(self.data, np.ndarray):
            if self.data.size != math.prod(self.shape):
                raise bad_request(
                    f"{what} has {self.data.size} elements, its shape {shown_shape(self.shape)} needs "
                    f"{math.prod(self.shape)}"
                )
            return self.data.reshape(self.shape)
        if isinstance(self.data, memoryview):
            return read_binary(self.data, self.datatype, self.shape, what)
        if isinstance(self.data, Contents):
            return parse_contents(self.data, self.datatype, self.shape, what)
        return parse_data(self.data, self.datatype, self.shape, what)


def _size(tensor: InputTensor) -> int:
    data = tensor.data
    if isinstance(data, SharedMemory | Span):
        return data.size
    return len(data.text) if isinstance(data, JsonData) else data.nbytes


@dataclass(slots=True)
class RequestedOutput:
    """An output that a request asks for.

    `binary`: as binary data, None: as the request's binary_data_output says. `classification`: as its so many highest entries, 0: as it is.
    `shared_memory`: where it is to be written, `span` when that was found.
    """

    name: str
    binary: bool | None = None
    classification: int = 0
    shared_memory: SharedMemory | None = None
    span: Span | None = None


@dataclass(frozen=True)
class InferRequest:
    """A request for an inference. Without `outputs` all are asked for; `raw` is a body that is the data of the one input. `shares`: a tensor of
    it lies in shared memory, or goes there."""

    inputs: tuple[InputTensor, ...] = ()
    outputs: tuple[RequestedOutput, ...] = ()
    id: str | None = None
    parameters: Parameters = field(default_factory=dict)
    raw: memoryview | None = None
    shares: bool = False

    def binary(self, output: RequestedOutput) -> bool:
        """Whether an output is answered as binary data; by default that of a raw request is, and no other."""
        if output.binary is not None:
            return output.binary
        return self.raw is not None or self.options.binary_data_output

    @property
    def size(self) -> int:
        """Bytes of the data that came with it."""
        return sum(map(_size, self.inputs)) if self.raw is None else len(self.raw)

    @cached_property
    def options(self) -> Options:
        """The parameters that the protocol knows, checked."""
        return Options.read(self.parameters)


@dataclass(slots=True)
class OutputTensor:
    """An output. `array` is as _datatypes says of its datatype; `binary`: it goes out as binary data; `shared_memory`: it lies there, and goes
    out without data."""

    name: str
    datatype: Datatype
    array: Array
    binary: bool = False
    shared_memory: SharedMemory | None = None


@dataclass(slots=True)
class InferResponse:
    """What a model answered; the version is always told, asked for or not."""

    model_name: str
    model_version: str
    outputs: tuple[OutputTensor, ...]
    id: str | None = None
    parameters: Parameters = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes of its arrays."""
        return sum(output.array.nbytes for output in self.outputs)


class Body(NamedTuple):
    """An HTTP body in parts, and what HEADER_LENGTH is to say; None: there is no binary data, and the header is left out."""

    parts: tuple[bytes | memoryview, ...]
    header_length: int | None

    def joined(self) -> bytes:
        """The parts as one."""
        return b"".join(self.parts)


@dataclass(frozen=True)
class Options:
    """The parameters of a request that the protocol or this server knows. All others are left alone.

    `timeout` is in microseconds, 0: none. `priority`: 1 is the highest, 0 the model's default. A `sequence_id` of 0 or "" is none.
    """

    seed: int | None = None
    priority: int = 0
    timeout: int = 0
    sequence_id: int | str = 0
    sequence_start: bool = False
    sequence_end: bool = False
    binary_data_output: bool = False

    @classmethod
    def read(cls, parameters: Parameters) -> Options:
        """Raises BAD_REQUEST for a parameter that is known and wrong."""
        given = {name: parameters[name] for name in OPTIONS if parameters.get(name) is not None}
        for name, value in given.items():
            option = OPTIONS[name]
            if not option.accepts(value):
                raise bad_request(f'the parameter "{name}" is {shown(value)} and must be {option.wanted}')
        if not given:
            return NO_OPTIONS
        options = cls(**given)
        if (options.sequence_start or options.sequence_end) and not options.sequence_id:
            raise bad_request('"sequence_start" and "sequence_end" need a "sequence_id" that is neither 0 nor empty')
        return options


NO_OPTIONS = Options()


def _is_uint64(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**64


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


class Option(NamedTuple):
    """A known parameter: what it may be, by a check, in words, and as a JSON schema."""

    accepts: Callable[[Any], bool]
    wanted: str
    schema: Mapping[str, Any]


def _is_sequence_id(value: Any) -> bool:
    return (isinstance(value, str) and len(value) <= _LONGEST_SEQUENCE_ID) or _is_uint64(value)


_NUMBER = {"type": "integer", "minimum": 0, "maximum": 2**64 - 1}
_UINT64 = Option(_is_uint64, "an integer from 0 to 2**64 - 1", _NUMBER)
_BOOL = Option(_is_bool, "true or false", {"type": "boolean"})
OPTIONS: dict[str, Option] = {
    "seed": _UINT64,
    "priority": _UINT64,
    "timeout": _UINT64,
    "sequence_id": Option(
        _is_sequence_id,
        f"a string of {_LONGEST_SEQUENCE_ID} characters at most or an integer from 0 to 2**64 - 1",
        {"anyOf": [{"type": "string", "maxLength": _LONGEST_SEQUENCE_ID}, _NUMBER]},
    ),
    "sequence_start": _BOOL,
    "sequence_end": _BOOL,
    "binary_data_output": _BOOL,
}


# ---- requests -------------------------------------------------------------------------------------------------------


def header_length(text: str | None, body_length: int) -> int | None:
    """What HEADER_LENGTH says of a body of that length; None without the header."""
    if text is None:
        return None
    # A number of more digits than the body's length has is refused before it is made.
    if not (text.isascii() and text.isdigit() and len(text) <= 20):
        raise bad_request(f"{HEADER_LENGTH} is {shown(text)} and must be the length of the JSON document in bytes")
    if int(text) > body_length:
        raise bad_request(f"{HEADER_LENGTH} is {int(text)}, and the body has {body_length} bytes")
    return int(text)


def decode_request(body: bytes | bytearray | memoryview, length: int | None = None) -> InferRequest:
    """A body, of which the first `length` bytes are the document (header_length); None: all of it. Binary data is not copied."""
    whole = memoryview(body)
    if length == 0:
        return InferRequest(raw=whole)
    return decode_cut(*cut_document(whole[:length]), whole[length:] if length is not None else None)


def decode_cut(rest: bytes, data: Sequence[JsonData], binary: memoryview | None = None) -> InferRequest:
    """The same for what cut_document has given of the document, and the binary data behind it."""
    outline = _remembered_outline(rest) if len(rest) <= _REMEMBERED else _read_outline(rest)
    return outline.filled(data, binary)


def read_request(document: Mapping[str, Any], data: memoryview | None = None) -> InferRequest:
    """A document, and the binary data that follow it, if any can. The `data` of an input are Contents or a memoryview, for transports that
    have them so."""
    return _outline(document).filled((), data)


class Place(NamedTuple):
    """An input in an outline: `data` is the number of its JSON data, a number of bytes, a place in shared memory, or the data themselves."""

    name: str
    datatype: Datatype
    shape: tuple[int, ...]
    data: int | SharedMemory | Contents | memoryview
    is_binary: bool
    parameters: Parameters

    def filled(self, data: Sequence[JsonData], binary: _Rest) -> InputTensor:
        found: memoryview | JsonData | SharedMemory | Contents
        if not isinstance(self.data, int):
            found = self.data
        elif self.is_binary:
            found = binary.take(self.data, f"input {shown(self.name)}")
        else:
            found = data[self.data]
        return InputTensor(self.name, self.datatype, self.shape, found, self.parameters)


class Outline(NamedTuple):
    """A request without its data."""

    inputs: tuple[Place, ...]
    outputs: tuple[RequestedOutput, ...]
    id: str | None
    parameters: Parameters
    shares: bool

    def filled(self, data: Sequence[JsonData], rest: memoryview | None) -> InferRequest:
        """With its data: those of the document by their numbers, and the binary ones in `rest`."""
        binary = _Rest(rest)
        inputs = [place.filled(data, binary) for place in self.inputs]
        binary.check_end("inputs")
        return InferRequest(tuple(inputs), self.outputs, self.id, self.parameters, None, self.shares)


def _read_outline(rest: bytes) -> Outline:
    """Of what cut_document leaves of a request. It may be shared by many: nobody changes it."""
    return _outline(read_rest(rest))


def outline_of(document: bytes) -> Outline:
    """Of a document as decode_request reads it: what cut_document leaves of one, or one that has all its data behind it."""
    return _remembered_outline(document)


def _outline(document: Any) -> Outline:
    if not isinstance(document, dict) or not isinstance(document.get("inputs"), list):
        raise bad_request('the body must be a JSON object with a list "inputs"')
    inputs = tuple(_read_input(tensor, f"inputs[{i}]") for i, tensor in enumerate(document["inputs"]))
    _check_unique("input", [each.name for each in inputs])
    requested = document.get("outputs")
    outputs = () if requested is None else _read_requested(requested)
    shares = any(isinstance(each.data, SharedMemory) for each in inputs) or any(each.shared_memory for each in outputs)
    return Outline(inputs, outputs, _read_id(document), _read_parameters(document, '"parameters"'), shares)


# A client asks for the same again and again, with other data.
_remembered_outline = lru_cache(256)(_read_outline)


def encode_request(request: InferRequest, *, binary: bool = True) -> Body:
    """The inverse, for requests whose inputs have arrays: their data as binary data, or else in the document."""
    members: dict[str, Any] = {}
    if request.id is not None:
        members["id"] = request.id
    if request.parameters:
        members["parameters"] = dict(request.parameters)
    if request.outputs:
        members["outputs"] = [_requested_entry(each) for each in request.outputs]
    return _body(members, "inputs", (_sent(each, binary) for each in request.inputs), "input")


def _sent(tensor: InputTensor, binary: bool) -> OutputTensor:
    if not isinstance(tensor.data, SharedMemory):
        return OutputTensor(tensor.name, tensor.datatype, tensor.array(), binary)
    check_shape(tensor.shape, tensor.datatype, f"input {shown(tensor.name)}")
    return OutputTensor(
        tensor.name, tensor.datatype, _no_data(tensor.datatype, tensor.shape), shared_memory=tensor.data
    )


def _no_data(datatype: Datatype, shape: tuple[int, ...]) -> Array:
    """An array that takes no memory, for a tensor whose data are elsewhere."""
    return np.broadcast_to(np.zeros((), datatype.dtype), shape)


def _read_id(document: dict[str, Any]) -> str | None:
    identifier = document.get("id")
    if identifier is not None and not isinstance(identifier, str):
        raise bad_request('"id" must be a string')
    return identifier


class _Rest:
    """The binary data after a document, given out in order; None: there is no HEADER_LENGTH, and so none."""

    def __init__(self, data: memoryview | None) -> None:
        self._data = data
        self._taken = 0

    def take(self, size: int, what: str) -> memoryview:
        if self._data is None:
            raise bad_request(f'{what} has a "binary_data_size", and there is no header {HEADER_LENGTH}')
        left = len(self._data) - self._taken
        if size > left:
            raise bad_request(f'{what}: "binary_data_size" is {size}, and {left} bytes of binary data are left')
        self._taken += size
        return self._data[self._taken - size : self._taken]

    def check_end(self, what: str) -> None:
        left = len(self._data) - self._taken if self._data is not None else 0
        if left:
            raise bad_request(
                f'{left} bytes after the binary data of the {what} belong to none: see "binary_data_size"'
            )


def _read_tensor(tensor: Any, place: str, role: str) -> tuple[str, Datatype, tuple[int, ...]]:
    if not isinstance(tensor, dict) or not isinstance(tensor.get("name"), str):
        raise bad_request(f'{place} must be an object with "name", "shape", "datatype" and "data"')
    what = f"{role} {shown(tensor['name'])}"
    datatype = tensor.get("datatype")
    if not isinstance(datatype, str) or datatype not in DATATYPES:
        raise bad_request(f"{what} has datatype {shown(datatype)}, which is none of {', '.join(DATATYPES)}")
    return tensor["name"], DATATYPES[datatype], read_shape(tensor.get("shape"), what)


def _read_input(tensor: Any, place: str) -> Place:
    name, datatype, shape = _read_tensor(tensor, place, "input")
    what = f"input {shown(name)}"
    parameters = _read_parameters(tensor, f'{what}: "parameters"')
    size = parameters.get("binary_data_size")
    shared = _read_shared_memory(parameters, what)
    ways = [
        word
        for word, given in (
            ('"data"', "data" in tensor),
            ('"binary_data_size"', size is not None),
            ("shared memory", shared),
        )
        if given
    ]
    if len(ways) > 1:
        raise bad_request(f"{what} has both {ways[0]} and {ways[1]}: give its data once")
    if not ways:
        raise bad_request(f'{what} has no "data" and no "binary_data_size"')
    if size is not None and (type(size) is not int or size < 0):
        raise bad_request(f'{what}: "binary_data_size" is {shown(size)} and must be a number of bytes, 0 or more')
    data = shared if shared is not None else tensor["data"] if size is None else size
    return Place(name, datatype, shape, data, size is not None, parameters)


def _read_parameters(owner: Mapping[str, Any], what: str) -> dict[str, Any]:
    parameters = owner.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise bad_request(f"{what} must be an object")
    return parameters


def _read_shared_memory(parameters: Parameters, what: str) -> SharedMemory | None:
    region: Any = parameters.get("shared_memory_region")
    size: Any = parameters.get("shared_memory_byte_size")
    offset = parameters.get("shared_memory_offset", 0)
    if region is None and size is None:
        return None
    if not isinstance(region, str) or not _is_uint64(size) or not _is_uint64(offset):
        raise bad_request(
            f'{what}: shared memory is told by "shared_memory_region", a string, "shared_memory_byte_size" and, if it is not 0, '
            '"shared_memory_offset", numbers of bytes'
        )
    return SharedMemory(region, size, offset)


def _read_requested(requested: Any) -> tuple[RequestedOutput, ...]:
    if not isinstance(requested, list) or not all(
        isinstance(output, dict) and isinstance(output.get("name"), str) for output in requested
    ):
        raise bad_request('"outputs" must be a list of objects with a "name"')
    outputs = []
    for output in requested:
        what = f"output {shown(output['name'])}"
        parameters = _read_parameters(output, f'{what}: "parameters"')
        binary = parameters.get("binary_data")
        if binary is not None and not isinstance(binary, bool):
            raise bad_request(f'{what}: "binary_data" is {shown(binary)} and must be true or false')
        classification = parameters.get("classification", 0)
        if type(classification) is not int or not 0 <= classification < 2**31:
            raise bad_request(f'{what}: "classification" is {shown(classification)} and must be a number of classes')
        shared = _read_shared_memory(parameters, what)
        if shared is not None and classification:
            raise bad_request(f"{what}: a classification cannot be put into shared memory")
        outputs.append(RequestedOutput(output["name"], binary, classification, shared))
    _check_unique("output", [each.name for each in outputs])
    return tuple(outputs)


def _check_unique(role: str, names: list[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise bad_request(f"{role} {shown(name)} is given twice")
        seen.add(name)


def _requested_entry(output: RequestedOutput) -> dict[str, Any]:
    parameters: dict[str, Any] = {}
    if output.binary is not None:
        parameters["binary_data"] = output.binary
    if output.classification:
        parameters["classification"] = output.classification
    if output.shared_memory is not None:
        parameters.update(output.shared_memory.parameters())
    return {"name": output.name, **({"parameters": parameters} if parameters else {})}


# ---- responses ------------------------------------------------------------------------------------------------------


def encode_response(response: InferResponse) -> Body:
    """The body of a response. Binary data is not copied: the arrays must stay as they are until it is sent."""
    members: dict[str, Any] = {"model_name": response.model_name, "model_version": response.model_version}
    if response.parameters:
        members["parameters"] = dict(response.parameters)
    if response.id is not None:
        members["id"] = response.id
    return _body(members, "outputs", response.outputs, "output")


def decode_response(body: bytes | bytearray | memoryview, length: int | None = None) -> InferResponse:
    """The inverse, for clients. Raises ServiceError for what is no response."""
    whole = memoryview(body)
    document = parse_document(whole[:length], response=True)
    if not isinstance(document, dict) or not isinstance(document.get("outputs"), list):
        raise bad_request('a response must be a JSON object with a list "outputs"')
    binary = _Rest(whole[length:] if length is not None else None)
    outputs = tuple(_read_output(tensor, f"outputs[{i}]", binary) for i, tensor in enumerate(document["outputs"]))
    binary.check_end("outputs")
    return InferResponse(
        str(document.get("model_name") or ""),
        str(document.get("model_version") or ""),  # some servers say null
        outputs,
        _read_id(document),
        _read_parameters(document, '"parameters"'),
    )


def _read_output(tensor: Any, place: str, binary: _Rest) -> OutputTensor:
    name, datatype, shape = _read_tensor(tensor, place, "output")
    what = f"output {shown(name)}"
    check_shape(shape, datatype, what)
    parameters = _read_parameters(tensor, f'{what}: "parameters"')
    size, shared = parameters.get("binary_data_size"), _read_shared_memory(parameters, what)
    if shared is not None:
        return OutputTensor(name, datatype, _no_data(datatype, shape), shared_memory=shared)
    if size is not None:
        array = read_binary(binary.take(size, what), datatype, shape, what)
    elif "data" in tensor:
        array = parse_data(tensor["data"], datatype, shape, what)
    else:
        raise bad_request(f'{what} has no "data" and no "binary_data_size"')
    return OutputTensor(name, datatype, array, size is not None)


def _body(members: dict[str, Any], name: str, tensors: Iterable[OutputTensor], role: str) -> Body:
    entries: list[tuple[bytes, bytes | None]] = []
    buffers: list[memoryview] = []
    for tensor in tensors:
        array, datatype = tensor.array, tensor.datatype
        if tensor.shared_memory is not None:
            entries.append((_entry(tensor.name, datatype.name, array.shape, None, tensor.shared_memory), None))
        elif tensor.binary:
            buffers.append(write_binary(array, datatype))
            entries.append((_entry(tensor.name, datatype.name, array.shape, len(buffers[-1])), None))
        else:
            data = write_data(array, datatype, f"{role} {shown(tensor.name)}")
            entries.append((_entry(tensor.name, datatype.name, array.shape, None), data))
    text = dump_document(members, name, entries)
    return Body((*text, *buffers), sum(map(len, text)) if buffers else None)


def entry_head(output: OutputTensor) -> bytes:
    """An output's members in the document of a response, up to the first number of its shape."""
    return _entry(output.name, output.datatype.name, (), None).removesuffix(b"]")


@lru_cache(1024)
def _entry(
    name: str, datatype: str, shape: tuple[int, ...], size: int | None, shared: SharedMemory | None = None
) -> bytes:
    """A tensor's members but for its data; `size` of that which is binary, `shared`: where it lies."""
    entry: dict[str, Any] = {"name": name, "datatype": datatype, "shape": list(shape)}
    if shared is not None:
        entry["parameters"] = shared.parameters()
    if size is not None:
        entry["parameters"] = {"binary_data_size": size}
    return dump_members(entry)
