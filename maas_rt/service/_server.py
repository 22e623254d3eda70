"""The process that serves: sockets, signals, and the end in two phases."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._errors import InvalidArgumentError, MissingExtraError
from ._access import Access
from ._aiohttp import web
from ._app import create_app
from ._audit import Audit
from ._connection import Bounds, Runner, Server
from ._gate import Gatekeeper
from ._guard import CORE, METRICS
from ._handshakes import Handshakes
from ._limiter import Limiter, Limits
from ._listen import Listen, close_all, open_sockets, place, remove, shown, unix_paths
from ._logs import logging_as
from ._metrics import Metrics
from ._mirror import Mirror, is_url
from ._repository import Repository
from ._tls import TlsFiles, server_context
from ._tracing import Tracer
from ._watch import Watch

if TYPE_CHECKING:
    from ._grpc_server import GrpcServer

_LOGGER = logging.getLogger(__name__)
_HANDSHAKE = 10.0  # seconds for TLS's
_ON_THEIR_WAY = 1.0  # seconds for requests that were sent before their clients could know of the end


def serve(
    directory: str,
    *,
    listen: Listen | None = None,
    threads: int = 0,
    max_body: int = 64 << 20,
    drain_delay: float = 0.0,
    watch: float = 0.0,
    memory: int = 0,
    idle_unload: float = 0.0,
    cache: Path | None = None,
    keys: Path | None = None,
    issuers: Path | None = None,
    tls: TlsFiles | None = None,
    limits: Limits | None = None,
    audit: Path | None = None,
    grpc_port: int | None = None,
    grpc_needed: bool = True,
    console: bool = True,
    shared_memory: bool = False,
    log_format: str = "text",
    log_requests: bool = False,
    otlp: str | None = None,
    check: bool = False,
    **opening: Any,
) -> int:
    """Serve a directory, or a copy of what a URL leads to, until SIGINT or SIGTERM; running requests are finished first. Returns the exit status.

    Args:
        listen: where; what other machines reach needs tokens and TLS.
        threads: of one inference; 0: all.
        max_body: bytes of a request.
        drain_delay: seconds in which it says that it is not ready, and still answers, before it stops to listen.
        watch: seconds between two looks at the directory, and at the URL, for what is new; 0: it is looked at once.
        cache: the folder for copies of what URLs lead to; None: one of the user's.
        memory: bytes of models' files that may be loaded at once; 0: any.
        idle_unload: seconds after which a version that nobody asks for is unloaded, until somebody does; 0: never.
        keys: the file of the API keys.
        issuers: the file of the issuers of JWTs. With neither, nobody needs a token.
        limits: of each client.
        audit: the file for the audit log; None: standard error.
        grpc_port: where gRPC is answered, on the hosts of `listen`; 0: a free one; None: nowhere.
        grpc_needed: without it, where gRPC cannot be had, HTTP is served alone.
        console: there is a page for browsers at /.
        shared_memory: clients on this machine may have tensors in system shared memory.
        log_format: "text" or "json".
        log_requests: a line for each request.
        otlp: the URL of a collector of OpenTelemetry traces; None: there are none.
        check: end before the first request; the status is 0 if all that lies in the directory would be served, else 1.
        opening: further arguments of the Repository: whose signature a file must have, the key of encrypted ones.

    Raises:
        InvalidArgumentError: an argument, or a file that one names.
        MissingExtraError: gRPC is needed, and grpcio is not installed.
    """
    listen = listen or Listen()
    with ExitStack() as ends:
        ends.enter_context(logging_as(log_format, log_requests))
        access = Access(keys, issuers)
        context = None if tls is None else server_context(tls)
        log = Audit(audit)
        ends.callback(log.close)
        tracer = None if otlp is None else _tracer(otlp)
        if tracer is not None:
            ends.callback(tracer.close)
        sockets = open_sockets(listen, not access.is_open, context is not None)
        ends.callback(close_all, sockets)
        grpc_sockets: list[socket.socket] = []
        if grpc_port is not None:
            grpc_sockets = _grpc_sockets(listen, grpc_port, grpc_needed, not access.is_open, context is not None)
            ends.callback(close_all, grpc_sockets)
        folder = Path(directory)
        copied: dict[str, Any] = {}
        if is_url(directory):
            mirror = Mirror(directory, cache)
            ends.callback(mirror.close)
            mirror.start(watch)
            folder = mirror.folder
            copied = {"unwritable": f"it is a copy of {mirror.url}", "refresh": mirror.refresh}
        repository = Repository(folder, threads, memory=memory, idle=int(idle_unload * 1e9), **copied, **opening)
        for name in repository.names():
            _LOGGER.info("serving %s, versions %s", name, ", ".join(repository.versions(name)))
        refused = repository.told + tuple(
            entry.reason
            for entry in repository.index()
            if entry.reason and entry.version not in repository.versions(entry.name)
        )
        for line in refused:
            _LOGGER.warning("not served: %s", line)
        if check:
            for each in sockets:
                _LOGGER.info("would listen on %s/v2", _url(each, context))
            for each in grpc_sockets:
                _LOGGER.info("would listen on %s (gRPC)", place(*each.getsockname()[:2]))
            return 1 if refused else 0
        now = time.time_ns()
        access.start(now)
        app = create_app(
            repository,
            max_body,
            gate=Gatekeeper(access, Limiter(limits or Limits()), log),
            metrics=Metrics(now=now),
            local_only=access.is_open and not listen.insecure,
            console=console,
            shared_memory=shared_memory,
            tracer=tracer,
        )
        if watch:
            ends.callback(Watch(repository, watch).close)
        grpc = partial(_grpc_server, app, grpc_sockets, tls, max_body) if grpc_sockets else None
        _run(_serve(app, sockets, context, drain_delay, grpc))
    return 0


def _tracer(endpoint: str) -> Tracer:
    from ._otel import otel_tracer  # nobody pays for it who does not ask for it

    return otel_tracer(endpoint)


def _run(main: Coroutine[Any, Any, None]) -> None:
    """In uvloop's loop where it is installed: a small request takes about a tenth less of CPU there."""
    try:
        import uvloop
    except ModuleNotFoundError:
        asyncio.run(main)
    else:
        uvloop.run(main)


def _grpc_sockets(listen: Listen, port: int, needed: bool, has_tokens: bool, has_tls: bool) -> list[socket.socket]:
    """They hold the addresses until gRPC, which opens its own, takes them."""
    try:
        from . import _grpc_server  # noqa: F401
    except MissingExtraError:
        if needed:
            raise
        return []
    try:
        return open_sockets(replace(listen, port=port, unix=None), has_tokens, has_tls, "--grpc-port")
    except InvalidArgumentError as error:
        if needed:
            raise
        _LOGGER.warning("not listening for gRPC: %s", error)
        return []


def _grpc_server(
    app: web.Application, sockets: Sequence[socket.socket], tls: TlsFiles | None, largest: int
) -> GrpcServer:
    from ._grpc_server import GrpcServer

    addresses = [each.getsockname()[:2] for each in sockets]
    close_all(sockets)
    return GrpcServer(app[CORE], app[METRICS], addresses, tls, largest=largest)


async def _serve(
    app: web.Application,
    sockets: Sequence[socket.socket],
    tls: ssl.SSLContext | None,
    drain_delay: float,
    make_grpc: Callable[[], GrpcServer] | None,
) -> None:
    grpc = None if make_grpc is None else make_grpc()
    async with running(app, sockets, tls):
        if grpc is not None:
            await grpc.start()
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        for each in sockets:
            _LOGGER.info("listening on %s/v2 (stop with Ctrl-C)", _url(each, tls))
        for where in () if grpc is None else grpc.places:
            _LOGGER.info("listening on %s (gRPC)", where)
        await stop.wait()
        app[CORE].drain()
        if drain_delay:
            stop.clear()
            with suppress(asyncio.TimeoutError):  # a second signal ends the wait
                await asyncio.wait_for(stop.wait(), drain_delay)
        ending = None if grpc is None else asyncio.create_task(grpc.stop())
    if ending is not None:
        await ending


def _url(listening: socket.socket, tls: ssl.SSLContext | None) -> str:
    return shown(listening, "http" if tls is None or listening.family == socket.AF_UNIX else "https")


@asynccontextmanager
async def running(
    app: web.Application, sockets: Sequence[socket.socket], tls: ssl.SSLContext | None, bounds: Bounds | None = None
) -> AsyncIterator[None]:
    """Answers on sockets that listen, by TLS on those that are no Unix sockets if there is a context, while the block runs; then closes them.
    Requests that were begun are answered."""
    loop = asyncio.get_running_loop()
    runner = Runner(app, bounds)
    await runner.setup()
    assert isinstance(runner.server, Server)
    servers: list[asyncio.Server] = []
    handshakes = None if tls is None else Handshakes(runner.server, tls, _HANDSHAKE)
    paths = unix_paths(sockets)
    try:
        for each in sockets:
            if each.family == socket.AF_UNIX:
                servers.append(await loop.create_unix_server(runner.server, sock=each))
            elif handshakes is not None:
                handshakes.listen(each)
            else:
                servers.append(await loop.create_server(runner.server, sock=each))
        yield
    finally:
        # A client may have connected whom nobody has met yet, and who has sent its request.
        rest = [each.dup() for each in sockets]
        for server in servers:
            server.close()
        if handshakes is not None:
            handshakes.stop()
        remove(paths)
        for each in rest:
            await _take_rest(each, runner.server, None if each.family == socket.AF_UNIX else handshakes)
        await runner.server.settle(_ON_THEIR_WAY)
        if handshakes is not None:
            handshakes.cancel()
        await runner.cleanup()


async def _take_rest(listening: socket.socket, server: Server, handshakes: Handshakes | None) -> None:
    """Takes the connections that wait at a socket, and closes it."""
    loop = asyncio.get_running_loop()
    with listening:
        listening.setblocking(False)
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            if handshakes is not None:
                handshakes.take(connection)
            else:
                with suppress(OSError):  # it has gone
                    await loop.connect_accepted_socket(server, connection)
