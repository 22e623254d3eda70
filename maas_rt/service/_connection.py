"""Connections that waste nobody's time: headers come to an end, answers are read, and there are not too many."""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ._aiohttp import web
from ._answers import SERVER, error_response
from ._callers import network_of
from ._errors import Kind, ServiceError, shown

if TYPE_CHECKING:
    from aiohttp.abc import AbstractStreamWriter

_LOOK_AT_ACTIVE = 0.01  # seconds between two looks, at the end
_LOOK = 1.0  # seconds between two looks at answers that wait for their clients
_LOGGER = logging.getLogger(__name__)


class ShortWay(Protocol):
    """What answers some requests without a handler (_direct)."""

    def read(self, data: bytes) -> Any:
        """What is asked for, if the data are one whole request, in `ask`; None if they are not."""
        ...

    def answer(self, ask: Any, data: bytes, address: str) -> bytes | None:
        """The answer to what was asked for; None if there is none of this way."""
        ...


SHORT_WAY = web.AppKey("short_way", ShortWay)


@dataclass(frozen=True)
class Bounds:
    """What clients can hold.

    Args:
        connections: of all clients.
        header_seconds: from the first byte of a request to the end of its headers.
        idle_seconds: of a connection without a request.
        linger_seconds: in which the rest of a refused body is read and dropped, so that the client gets to read the refusal.
        grace_seconds, rate: the client may take so long to read an answer, and a second more for each `rate` bytes.
        all_bodies: bytes of the bodies of all requests that are not answered yet.
    """

    connections: int = 4096
    header_seconds: float = 10.0
    idle_seconds: float = 75.0
    linger_seconds: float = 3.0
    grace_seconds: float = 20.0
    rate: float = 65536.0
    all_bodies: int = 1 << 30


class Runner(web.AppRunner):
    """An application's, whose connections are Connection, and whose handlers end when their clients go away."""

    def __init__(self, app: web.Application, bounds: Bounds | None = None, **options: Any) -> None:
        self._bounds = bounds or Bounds()
        idle, linger = self._bounds.idle_seconds, self._bounds.linger_seconds
        super().__init__(
            app, access_log=None, keepalive_timeout=idle, lingering_time=linger, handler_cancellation=True, **options
        )

    async def _make_server(self) -> web.Server:
        server = await super()._make_server()
        options = {**server._kwargs, "handler_cancellation": server.handler_cancellation}
        way = self.app.get(SHORT_WAY)
        return Server(server.request_handler, self._bounds, way, request_factory=server.request_factory, **options)


class Server(web.Server):
    """Makes the connections, and closes those whose clients do not read."""

    def __init__(self, handler: Any, bounds: Bounds, short_way: ShortWay | None = None, **options: Any) -> None:
        super().__init__(handler, **options)
        self.bounds = bounds
        self.short_way = short_way
        self.held = 0  # bytes of bodies
        self.open: set[Connection] = set()
        self.handshakes = 0  # connections that are not among these yet
        self._looking = self._loop.call_later(_LOOK, self._look)

    def __call__(self) -> web.RequestHandler:
        """A protocol for a connection that was accepted."""
        return _Full() if self.is_full else self.connection()  # type: ignore[return-value]

    def connection(self) -> Connection:
        """The same for one that there was room for when it was accepted."""
        return Connection(self, loop=self._loop, **self._kwargs)

    @property
    def is_full(self) -> bool:
        """Whether there are as many connections as there may be."""
        return len(self.open) + self.handshakes >= self.bounds.connections

    async def settle(self, seconds: float) -> None:
        """Waits, for so many seconds at most, for the next requests of clients that have just come or asked: they are on their way, perhaps, and
        their answers say that there is to be no other."""
        begun = self._loop.time()
        while self._loop.time() < begun + seconds and (
            self.handshakes or any(each.active > begun - seconds for each in self.open)
        ):
            await asyncio.sleep(_LOOK_AT_ACTIVE)

    async def shutdown(self, timeout: float | None = None) -> None:
        """Ends all connections."""
        self._looking.cancel()
        await super().shutdown(timeout)

    def _look(self) -> None:
        now = self._loop.time()
        for connection in tuple(self.open):
            connection.look(now)
        self._looking = self._loop.call_later(_LOOK, self._look)


class Connection(web.RequestHandler):
    """Closes itself when headers do not come to an end or answers are not read, and tells of what is no HTTP in JSON.

    `begin` and `end` stand around the handling of each request.
    """

    __slots__ = ("_address", "_at_boundary", "_head_late", "_held", "_of", "_unread", "_writer", "active")

    def __init__(self, server: Server, **options: Any) -> None:
        super().__init__(server, **options)
        self._of = server
        self._head_late: asyncio.TimerHandle | None = None
        # Since when bytes of the answer wait for the client, and how many it had taken then.
        self._unread: tuple[float, int] | None = None
        self._writer: AbstractStreamWriter | None = None
        self._held = 0
        self.active = 0.0  # when the client came or sent something last
        self._address: str | None = None
        self._at_boundary = True  # of requests: aiohttp's parser has nothing of one that has not come to its end

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has come."""
        super().connection_made(transport)
        self.active = self._loop.time()
        self._of.open.add(self)

    def data_received(self, data: bytes) -> None:
        """Bytes of the client."""
        self.active = self._loop.time()
        # Of no bytes aiohttp asks itself, to go on with what it has.
        if data and self._at_boundary and self._take_short_way(data):
            return
        before = self._request_count
        super().data_received(data)
        if self._request_count > before:
            self._stop()
        elif self._head_late is None and self._is_waiting:
            self._head_late = self._loop.call_later(self._of.bounds.header_seconds, self._late)

    def _take_short_way(self, data: bytes) -> bool:
        way = self._of.short_way
        found = None if way is None else way.read(data)
        if way is None or found is None:
            self._at_boundary = False
            return False
        transport = self.transport
        if (
            found.ask is None
            or transport is None
            or not self._is_waiting
            or self._paused
            or self._close
            or self._force_close
        ):
            return False
        if self._address is None:
            peer = transport.get_extra_info("peername")
            self._address = network_of(str(peer[0]) if isinstance(peer, tuple) else None)
        answer = way.answer(found.ask, data, self._address)
        if answer is None:
            return False
        self._next_keepalive_close_time = self.active + self._of.bounds.idle_seconds
        transport.write(answer)
        return True

    @property
    def _is_waiting(self) -> bool:
        """Whether it has answered all that was asked for."""
        return self._waiter is not None and not self._waiter.done() and not self._messages

    def connection_lost(self, exc: BaseException | None) -> None:
        """The client has gone."""
        self._of.open.discard(self)
        self._stop()
        super().connection_lost(exc)

    def begin(self, request: web.Request) -> None:
        """A request is handled from now on."""
        self._unread, self._writer = None, request.writer

    def hold(self, size: int) -> None:
        """Bytes of its body have come, and are held until `end`.

        Raises:
            ServiceError: OVERLOADED.
        """
        if self._of.held + size > self._of.bounds.all_bodies:
            raise ServiceError(Kind.OVERLOADED, "the server holds as many bytes of requests as it may", 1)
        self._of.held += size
        self._held += size

    def end(self) -> None:
        """It is answered, but for the bytes on their way."""
        self._of.held -= self._held
        self._held = 0

    def look(self, now: float) -> None:
        """Ends itself if the client does not read what it has asked for."""
        transport, bounds = self.transport, self._of.bounds
        waiting = 0 if transport is None else transport.get_write_buffer_size()
        if transport is None or waiting == 0:
            self._unread = None
            return
        taken = (0 if self._writer is None else self._writer.output_size) - waiting
        if self._unread is None:
            self._unread = now, taken
        since, first = self._unread
        if now - since > bounds.grace_seconds + (taken - first) / bounds.rate:
            transport.abort()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to what aiohttp's parser refuses, after which the connection is closed."""
        if request.writer.output_size > 0:
            raise ConnectionError("a part of the response was sent already")
        if status >= 500:
            _LOGGER.error("a request failed outside of the application", exc_info=exc)
            text = "the server failed on this request: its log says more"
        else:
            why = (message or "Bad Request").splitlines()[0].rstrip(":")
            text = f"this is no HTTP request that this server reads: {shown(why)}"
        response = error_response(status, text)
        response.force_close()
        return response

    def log_exception(self, *args: Any, **options: Any) -> None:
        """A fault that aiohttp has met; a body that nobody reads any more and that is wrong is none."""
        if not isinstance(options.get("exc_info"), web.RequestPayloadError):
            super().log_exception(*args, **options)

    def _late(self) -> None:
        self._head_late = None
        if self.transport is not None:
            seconds = self._of.bounds.header_seconds
            text = f"the headers of the request were not there after {seconds:g} seconds"
            self.transport.write(_plain(408, "Request Timeout", text))
        self.force_close()

    def _stop(self) -> None:
        if self._head_late is not None:
            self._head_late.cancel()
            self._head_late = None


class _Full(asyncio.Protocol):
    """A connection for which there is no room."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        text = "the server has as many connections as it may"
        transport.write(_plain(503, "Service Unavailable", text, "Retry-After: 1"))
        transport.close()


def _plain(status: int, reason: str, message: str, *headers: str) -> bytes:
    """An answer without a request."""
    body = json.dumps({"error": message}).encode()
    lines = [
        f"HTTP/1.1 {status} {reason}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    ]
    return "\r\n".join([*lines, *headers, f"Server: {SERVER}", "Connection: close", "", ""]).encode() + body
