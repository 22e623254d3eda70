"""The process that serves: sockets, signals, and connections that waste nobody's time."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from contextlib import suppress
from typing import Any

from .._errors import InvalidArgumentError
from ._aiohttp import web
from ._app import CORE, create_app, error_response
from ._errors import shown
from ._repository import Repository
from ._watch import Watch

_HEADER_SECONDS = 10.0  # from the first byte of a request to the last of its headers
_IDLE_SECONDS = 75.0  # of a connection without a request
_LOGGER = logging.getLogger(__name__)


def serve(
    directory: str,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    threads: int = 0,
    max_body: int = 64 << 20,
    drain_delay: float = 0.0,
    watch: float = 0.0,
) -> int:
    """Serve a directory until SIGINT or SIGTERM; running requests are finished first. Returns the exit status.

    Args:
        drain_delay: seconds in which it says that it is not ready, and still answers, before it stops to listen.
        watch: seconds between two looks at the directory for what is new; 0: it is looked at once.
    """
    if not 0 <= port <= 65535:
        raise InvalidArgumentError(f"port is {port} and must be 0 to 65535; 0 picks a free one")
    repository = Repository(directory, threads)
    for name in repository.names():
        print(f"serving {name}, versions {', '.join(repository.versions(name))}", file=sys.stderr)
    for line in repository.told + tuple(entry.reason for entry in repository.index() if entry.reason):
        print(f"not served: {line}", file=sys.stderr)
    watching = Watch(repository, watch) if watch else None
    try:
        asyncio.run(_serve(create_app(repository, max_body), host, port, drain_delay))
    finally:
        if watching is not None:
            watching.close()
    return 0


async def _serve(app: web.Application, host: str, port: int, drain_delay: float) -> None:
    runner = Runner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        try:
            await site.start()
        except OSError as error:
            raise InvalidArgumentError(
                f"cannot listen on {host}:{port}: {error.strerror or error}; choose another --port"
            ) from None
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        bound = runner.addresses[0]
        address = f"[{bound[0]}]" if ":" in bound[0] else bound[0]
        print(f"listening on http://{address}:{bound[1]}/v2 (stop with Ctrl-C)", file=sys.stderr, flush=True)
        await stop.wait()
        app[CORE].drain()
        if drain_delay:
            stop.clear()
            with suppress(asyncio.TimeoutError):  # a second signal ends the wait
                await asyncio.wait_for(stop.wait(), drain_delay)
    finally:
        await runner.cleanup()


class Runner(web.AppRunner):
    """An application's, whose connections are _Connection, and whose handlers end when their clients go away."""

    def __init__(self, app: web.Application, **options: Any) -> None:
        super().__init__(app, access_log=None, keepalive_timeout=_IDLE_SECONDS, handler_cancellation=True, **options)

    async def _make_server(self) -> web.Server:
        server = await super()._make_server()
        options = {**server._kwargs, "handler_cancellation": server.handler_cancellation}
        return _Server(server.request_handler, request_factory=server.request_factory, **options)


class _Server(web.Server):
    def __call__(self) -> web.RequestHandler:
        return _Connection(self, loop=self._loop, **self._kwargs)


class _Connection(web.RequestHandler):
    """Closes a connection whose headers do not come to an end, and tells of what is no HTTP in JSON."""

    __slots__ = ("_head_late",)

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._head_late: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        """Bytes of the client."""
        before = self._request_count
        super().data_received(data)
        if self._request_count > before:
            self._stop()
        elif self._head_late is None and self._waiter is not None and not self._waiter.done():
            self._head_late = self._loop.call_later(_HEADER_SECONDS, self._late)

    def connection_lost(self, exc: BaseException | None) -> None:
        """The client has gone."""
        self._stop()
        super().connection_lost(exc)

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
            body = b'{"error": "the headers of the request were not there after %d seconds"}' % _HEADER_SECONDS
            self.transport.write(
                b"HTTP/1.1 408 Request Timeout\r\nContent-Type: application/json; charset=utf-8\r\n"
                b"Connection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
            )
        self.force_close()

    def _stop(self) -> None:
        if self._head_late is not None:
            self._head_late.cancel()
            self._head_late = None
