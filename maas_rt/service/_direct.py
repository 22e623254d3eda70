"""Small inferences, answered where their bytes arrive.

Most requests of a busy server are alike: a POST of some kilobytes to …/infer, here whole, for a model that runs in less time than aiohttp takes to
make a request of the bytes, a task and a response. Those are read, run and answered at once, while all else waits as it would for any
other callback of the loop. Whatever is out of the ordinary - a header that is not among the plain ones, a body in pieces, a batch, a state,
a run that takes longer - goes the usual way, and nothing has come of it before. Both ways ask the same functions in the same order.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Mapping, Sequence
from email.utils import formatdate
from typing import NamedTuple

from ._answers import SERVER, refusal
from ._bodies import packed_as
from ._callers import request_id
from ._calls import Context, Withdrawn
from ._core import Core
from ._errors import ServiceError, kind_of
from ._guard import is_literal, read_timeout
from ._headers import REQUEST_ID, TIMEOUT
from ._inference import Inference
from ._logs import REQUESTS
from ._metrics import Metrics
from ._prepared import Document
from ._quick import MOST_BYTES, Quick
from ._requests import HEADER_LENGTH, Body, decode_request, encode_response, header_length

_MOST_HEAD = 2048
_KNOWN = 512  # heads that are remembered: a client sends the same again and again
# The plainest form alone (RFC 9112): whatever else aiohttp's parser takes, or refuses, is its to say.
_HEAD = re.compile(rb"(GET|POST) (/[!-~]*) HTTP/1\.1\r\n((?:[A-Za-z0-9-]+:[ -~]*\r\n)+)\r\n")
_INFER = re.compile(r"/v2/models/([A-Za-z0-9_][A-Za-z0-9_.-]*)(?:/versions/([A-Za-z0-9_][A-Za-z0-9_.-]*))?/infer")
_LENGTH = re.compile(r"[0-9]{1,9}")
_PLAIN = frozenset(
    ("accept", "accept-encoding", "authorization", "connection", "content-length", "content-type", "host", "user-agent")
    + tuple(name.lower() for name in (HEADER_LENGTH, REQUEST_ID, TIMEOUT))
)
_NO_FRAMING = frozenset(("transfer-encoding", "upgrade", "expect", "trailer", "te"))
_TYPES = frozenset((None, "application/json", "application/octet-stream", "application/x-www-form-urlencoded"))


class Ask(NamedTuple):
    """An inference that a head asks for. `timeout` is in milliseconds."""

    model: str
    version: str | None
    begin: int  # of the body
    credential: str | None
    identifier: str | None
    timeout: int | None
    header_length: str | None
    accepted: str | None
    call: str


class Head(NamedTuple):
    """`size`: of the whole request. `ask`: None for what goes the usual way."""

    size: int
    ask: Ask | None


class Direct:
    """The short way of an application.

    Args:
        max_body, local_only: as create_app's.
    """

    def __init__(self, core: Core, metrics: Metrics, max_body: int, local_only: bool) -> None:
        self._core = core
        self._metrics = metrics
        self._max_body = max_body
        self._local_only = local_only
        self._heads: dict[bytes, Head] = {}
        self.quick = Quick()
        self._second = 0
        self._date = ""  # two header lines

    def read(self, data: bytes) -> Head | None:
        """The head of what has arrived on a connection; None if that is anything but one whole request of the plainest form."""
        end = data.find(b"\r\n\r\n", 0, _MOST_HEAD) + 4
        if end < 4:
            return None
        text = data[:end]
        head = self._heads.get(text)
        if head is None:
            head = self._read(text)
            if head is None:
                return None
            if len(self._heads) >= _KNOWN:
                self._heads.clear()
            self._heads[text] = head
        return head if head.size == len(data) else None

    def answer(self, ask: Ask, data: bytes, address: str) -> bytes | None:
        """The answer to a request that `read` has read, as it goes out; None if it is to go the usual way.

        Args:
            address: the client's, as network_of gives it; "" for that of a Unix socket.
        """
        kind = ask.model, ask.version, len(data) - ask.begin
        core = self._core
        if core.draining or REQUESTS.isEnabledFor(logging.INFO):
            return None
        began = time.monotonic_ns()
        deadline = None if ask.timeout is None else began + ask.timeout * 1_000_000
        identifier = request_id(ask.identifier)
        context = Context(ask.credential, deadline, address, identifier, ask.call)
        is_counted = False
        try:
            with core.begin(ask.model, ask.version, context) as call:
                is_counted = True
                if not self.quick.has(*kind):
                    # What it is refused for now costs no more than this, however many ask.
                    call.check_load()
                    raise Withdrawn
                parts, headers = self._exchange(call, memoryview(data)[ask.begin :], ask)
        except Withdrawn:
            self.quick.forget(*kind)
            return None
        except Exception as error:
            if not is_counted:
                self._metrics.server.refuse(kind_of(error))
            return self._refusal(error, ask, identifier)
        return self._written(200, "OK", headers, parts, identifier)

    def _exchange(
        self, call: Inference, body: memoryview, ask: Ask
    ) -> tuple[tuple[bytes | memoryview, ...], dict[str, str]]:
        """The parts of the answer's body, and its headers."""
        began = time.monotonic_ns()
        length = header_length(ask.header_length, len(body))
        prepared = call.served.prepared
        document = None if prepared is None else Document(body, length)
        if prepared is not None and document is not None:
            exchange = prepared.read(document)
            if exchange is not None:
                call.parsed(time.monotonic_ns() - began)
                answer, length = call.exchange_in_place(exchange)
                return packed_as(Body((answer,), length), ask.accepted)
        request = decode_request(body, length) if document is None else document.request()
        call.parsed(time.monotonic_ns() - began)
        response = call.infer_in_place(request)
        began = time.monotonic_ns()
        if response.size > MOST_BYTES:
            raise Withdrawn
        if prepared is not None and document is not None:
            prepared.learn(document, request, response)
        encoded = packed_as(encode_response(response), ask.accepted)
        call.encoded(time.monotonic_ns() - began)
        return encoded

    def _read(self, text: bytes) -> Head | None:
        found = _HEAD.fullmatch(text)
        if found is None:
            return None
        method, path = found[1], found[2].decode()
        lines = [line.partition(":") for line in found[3].decode().split("\r\n")[:-1]]
        headers = {name.lower(): value.strip(" ") for name, _, value in lines}
        if len(headers) < len(lines) or not _NO_FRAMING.isdisjoint(headers):
            return None
        length = headers.get("content-length", "0")
        if headers.get("connection", "keep-alive").lower() != "keep-alive" or not _LENGTH.fullmatch(length):
            return None
        size = len(text) + int(length)
        if method == b"GET":
            return Head(size, None) if int(length) == 0 else None
        return Head(size, self._ask(path, headers, len(text), int(length)))

    def _ask(self, path: str, headers: dict[str, str], begin: int, length: int) -> Ask | None:
        names = _INFER.fullmatch(path)
        host = headers.get("host")
        if names is None or not host or not _PLAIN.issuperset(headers):
            return None
        if not 0 < length <= min(MOST_BYTES, self._max_body) or headers.get("content-type") not in _TYPES:
            return None
        if self._local_only and not is_literal(host):
            return None
        timeout = headers.get(TIMEOUT.lower())
        try:
            milliseconds = None if timeout is None else read_timeout(timeout)
        except ServiceError:
            return None
        return Ask(
            names[1],
            names[2],
            begin,
            headers.get("authorization"),
            headers.get(REQUEST_ID.lower()),
            milliseconds,
            headers.get(HEADER_LENGTH.lower()),
            headers.get("accept-encoding"),
            f"POST {path}",
        )

    def _refusal(self, error: Exception, ask: Ask, identifier: str) -> bytes:
        response = refusal(error, ask.credential, ask.call)
        assert isinstance(response.body, bytes)
        headers = {name: value for name, value in response.headers.items() if name not in ("Server", "Content-Length")}
        return self._written(response.status, response.reason, headers, (response.body,), identifier)

    def _written(
        self,
        status: int,
        reason: str,
        headers: Mapping[str, str],
        parts: Sequence[bytes | memoryview],
        identifier: str,
    ) -> bytes:
        second = int(time.time())
        if second != self._second:
            self._second, self._date = second, f"Server: {SERVER}\r\nDate: {formatdate(second, usegmt=True)}\r\n"
        lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        length = sum(map(len, parts))
        head = f"HTTP/1.1 {status} {reason}\r\n{lines}{self._date}{REQUEST_ID}: {identifier}\r\nContent-Length: {length}\r\n\r\n"
        return b"".join((head.encode(), *parts))
