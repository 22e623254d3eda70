"""Requests that are alike but for their data, prepared: what was found right of one holds for the next.

A client asks a model for the same again and again, with other numbers. What a document, or a message over gRPC, says beside them - names, types,
shapes, outputs - is checked in Python, the first times; from then on numbers go from its bytes to the model, and from its results to an
answer's bytes, in C++ (_native.Prepared, _native.PreparedMessage). Nobody sees by which way an answer came.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import Generic, TypeVar

from .._errors import InvalidArgumentError
from .._model import Model
from .._native import Exchange, Message, MessageExchange, Prepared, PreparedMessage
from ._datatypes import BYTES
from ._errors import bad_request, shown
from ._json import JsonData, scan_document
from ._requests import (
    InferRequest,
    InferResponse,
    decode_cut,
    decode_request,
    encode_response,
    entry_head,
    outline_of,
)
from ._wire import field

K = TypeVar("K", bound=Hashable)
P = TypeVar("P")
_MOST = 256  # documents that are known of a version
_MOST_BYTES = 1024  # of one, beside its data
_KNOWN_OPTIONS = frozenset(("binary_data_output",))


class Document:
    """A request's body, its document cut off its data. `outline`: what is the same in requests that are alike; None: it has nothing of that.

    Args:
        length: of the document, if binary data follow it.
    """

    __slots__ = ("_header_length", "_rest", "body", "length", "outline", "places")

    def __init__(self, body: memoryview, length: int | None) -> None:
        self.body = body
        self.length = len(body) if length is None else length
        self.places: list[tuple[int, int]] = []  # of the data in it
        self._header_length = length
        self._rest: bytes | None = None  # what is left of it without them, if they were cut
        self.outline: tuple[bool, bytes] | None = None  # whether all data follow it, and what it says
        if length is None:
            self._rest, self.places = scan_document(body)
            if len(self._rest) <= _MOST_BYTES:
                self.outline = False, self._rest
        elif 0 < length <= _MOST_BYTES:
            self.outline = True, bytes(body[:length])

    def request(self) -> InferRequest:
        """As decode_request reads it; the document is scanned once. Raises ServiceError BAD_REQUEST."""
        if self._rest is None:
            return decode_request(self.body, self._header_length)
        return decode_cut(self._rest, [JsonData(self.body[begin:end]) for begin, end in self.places])


class _Known(Generic[K, P]):
    """What was prepared for requests of one version, by their outlines."""

    def __init__(self) -> None:
        self.ready: dict[K, P] = {}
        self.met: set[K] = set()

    def get(self, outline: K) -> P | None:
        return self.ready.get(outline)

    def learn(self, outline: K, prepare: Callable[[], P | None]) -> None:
        """Takes notice of a request that was answered. When it was met twice, the next one like it is known."""
        if outline not in self.met:
            if len(self.met) >= _MOST:
                self.met.clear()
            self.met.add(outline)
            return
        prepared = prepare()
        if prepared is not None:
            if len(self.ready) >= _MOST:
                self.ready.clear()
            self.ready[outline] = prepared


class Preparations:
    """The documents of requests to one version that were met. One thread's: the event loop's.

    Args:
        model: it keeps no states, and draws no random numbers.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._known: _Known[tuple[bool, bytes], Prepared] = _Known()

    def read(self, document: Document) -> Exchange | None:
        """A request that is like one before, with its data; None if it is not.

        Raises:
            ServiceError: BAD_REQUEST: its data are not as they must be.
        """
        prepared = None if document.outline is None else self._known.get(document.outline)
        if prepared is None:
            return None
        try:
            return prepared.read(document.body, document.length, document.places)
        except InvalidArgumentError as error:
            raise bad_request(str(error)) from None

    def learn(self, document: Document, request: InferRequest, response: InferResponse) -> None:
        """Takes notice of a request and its answer."""
        outline = document.outline
        if outline is not None:
            self._known.learn(outline, lambda: self._prepare(*outline, request, response))

    def _prepare(self, binary: bool, text: bytes, request: InferRequest, response: InferResponse) -> Prepared | None:
        """None if there is more to be done than to read, run and write numbers."""
        if not _KNOWN_OPTIONS.issuperset(request.parameters) or not _is_of_numbers(request, response):
            return None
        inputs = []
        for name, datatype, shape, data, is_binary, _ in outline_of(text).inputs:
            if datatype is BYTES or is_binary is not binary or not isinstance(data, int):
                return None
            inputs.append((name, datatype.runtime, list(shape), _what(name), binary, data))
        outputs = [(each.name, each.datatype.runtime, each.binary, entry_head(each)) for each in response.outputs]
        head = encode_response(replace(response, outputs=())).joined().removesuffix(b"]}")
        return Prepared(self._model, head, inputs, outputs)


class MessagePreparations:
    """The messages of requests over gRPC to one version that were met. One thread's: that which takes calls.

    Args:
        model: it keeps no states, and draws no random numbers.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._known: _Known[bytes, PreparedMessage] = _Known()

    def read(self, message: Message) -> MessageExchange | None:
        """As Preparations.read."""
        prepared = None if message.outline is None else self._known.get(message.outline)
        if prepared is None:
            return None
        try:
            return prepared.read(message)
        except InvalidArgumentError as error:
            raise bad_request(str(error)) from None

    def learn(self, message: Message, request: InferRequest, response: InferResponse) -> None:
        """Takes notice of a request and its answer."""
        if message.outline is not None:
            self._known.learn(message.outline, lambda: self._prepare(request, response))

    def _prepare(self, request: InferRequest, response: InferResponse) -> PreparedMessage | None:
        if request.parameters or not _is_of_numbers(request, response):
            return None
        inputs = [(each.name, each.datatype.runtime, list(each.shape), _what(each.name)) for each in request.inputs]
        outputs = [
            (each.name, each.datatype.runtime, _fields(each.name, each.datatype.name)) for each in response.outputs
        ]
        return PreparedMessage(self._model, _fields(response.model_name, response.model_version), inputs, outputs)


def _is_of_numbers(request: InferRequest, response: InferResponse) -> bool:
    """Whether there is no more to be done than to read, run and write numbers."""
    if request.shares or any(each.classification for each in request.outputs):
        return False
    return all(each.datatype is not BYTES for each in request.inputs) and all(
        each.datatype is not BYTES for each in response.outputs
    )


def _what(name: str) -> str:
    return f"input {shown(name)}"


def _fields(*texts: str) -> bytes:
    """A message's first fields, in order."""
    return b"".join(part for number, text in enumerate(texts, 1) for part in field(number, [text.encode()]))
