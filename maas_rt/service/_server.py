"""A process that serves: what it is made of, signals, and the end in two phases."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._accept import Acceptor, Connections, take_rest
from ._access import Access
from ._aiohttp import web
from ._app import create_app
from ._audit import Audit
from ._calls import Peers
from ._connection import Bounds, Runner, Server
from ._gate import Admits, Gatekeeper
from ._guard import CORE
from ._handshakes import Handshakes
from ._limiter import Limiter, Limits
from ._listen import Listen, remove, shown, unix_paths
from ._logs import logging_as
from ._metrics import Metrics
from ._mirror import Mirror, is_url, shown_url
from ._repository import Repository
from ._sequences import Sequences
from ._tls import TlsFiles, server_context
from ._tracing import Tracer

if TYPE_CHECKING:
    from ._grpc_server import GrpcServer

_LOGGER = logging.getLogger(__name__)
_HANDSHAKE = 10.0  # seconds for TLS's
_ON_THEIR_WAY = 1.0  # seconds for requests that were sent before their clients could know of the end


@dataclass(frozen=True)
class Settings:
    """What serve is told that each process of a server has to know; the names are serve's."""

    directory: str
    listen: Listen
    threads: int
    max_body: int
    drain_delay: float
    watch: float
    memory: int
    idle_unload: float
    cache: Path | None
    keys: Path | None
    issuers: Path | None
    tls: TlsFiles | None
    limits: Limits
    audit: Path | None
    console: bool
    shared_memory: bool
    log_format: str
    log_requests: bool
    otlp: str | None
    opening: dict[str, Any]


@dataclass(frozen=True)
class Prepared:
    """What a process needs beside models. `tls` is None where there is no TLS."""

    access: Access
    tls: ssl.SSLContext | None
    audit: Audit
    tracer: Tracer | None


@contextmanager
def prepare(settings: Settings, traced: bool = True) -> Iterator[Prepared]:
    """Reads all files but the models, and logs as it is told, while the block runs.

    Raises:
        InvalidArgumentError: one of them cannot be used.
        MissingExtraError: traces need an extra.
    """
    with ExitStack() as ends:
        ends.enter_context(logging_as(settings.log_format, settings.log_requests))
        access = Access(settings.keys, settings.issuers)
        context = None if settings.tls is None else server_context(settings.tls)
        audit = Audit(settings.audit)
        ends.callback(audit.close)
        tracer = None if settings.otlp is None or not traced else _tracer(settings.otlp)
        if tracer is not None:
            ends.callback(tracer.close)
        yield Prepared(access, context, audit, tracer)


def open_repository(settings: Settings, ends: ExitStack, **shared: Any) -> Repository:
    """The models, of a directory or of a copy of what a URL leads to. `shared`: arguments of a Repository that shares its files with others."""
    where, options = Path(settings.directory), repository_options(settings)
    if is_url(settings.directory):
        mirror = open_mirror(settings, ends)
        where, options["refresh"] = mirror.folder, mirror.refresh
    return Repository(where, **options, **shared)


def repository_options(settings: Settings) -> dict[str, Any]:
    """Arguments of the Repository."""
    options = {
        "threads": settings.threads,
        "memory": settings.memory,
        "idle": int(settings.idle_unload * 1e9),
        **settings.opening,
    }
    if is_url(settings.directory):
        options["unwritable"] = f"it is a copy of {shown_url(settings.directory)}"
    return options


def open_mirror(settings: Settings, ends: ExitStack) -> Mirror:
    """The copy of what a URL leads to, which is looked at from now on."""
    mirror = Mirror(settings.directory, settings.cache)
    ends.callback(mirror.close)
    mirror.start(settings.watch)
    return mirror


def tell_of(repository: Repository) -> tuple[str, ...]:
    """Logs what is served, and what is not, which it returns."""
    for name in repository.names():
        _LOGGER.info("serving %s, versions %s", name, ", ".join(repository.versions(name)))
    refused = repository.told + tuple(
        entry.reason
        for entry in repository.index()
        if entry.reason and entry.version not in repository.versions(entry.name)
    )
    for line in refused:
        _LOGGER.warning("not served: %s", line)
    return refused


def make_app(
    settings: Settings,
    repository: Repository,
    prepared: Prepared,
    metrics: Metrics,
    limiter: Admits | None = None,
    peers: Peers | None = None,
    sequences: Sequences | None = None,
) -> web.Application:
    """The application; tokens are looked at from now on. `limiter`, `sequences`: those that count with others."""
    prepared.access.start(time.time_ns())
    return create_app(
        repository,
        settings.max_body,
        gate=Gatekeeper(prepared.access, limiter or Limiter(settings.limits), prepared.audit),
        metrics=metrics,
        local_only=prepared.access.is_open and not settings.listen.insecure,
        console=settings.console,
        shared_memory=settings.shared_memory,
        tracer=prepared.tracer,
        peers=peers,
        sequences=sequences,
    )


def _tracer(endpoint: str) -> Tracer:
    from ._otel import otel_tracer  # nobody pays for it who does not ask for it

    return otel_tracer(endpoint)


def run(main: Coroutine[Any, Any, None]) -> None:
    """In uvloop's loop where it is installed: a small request takes about a tenth less of CPU there."""
    try:
        import uvloop
    except ModuleNotFoundError:
        asyncio.run(main)
    else:
        uvloop.run(main)


async def serve_until_told(
    app: web.Application,
    answering: AbstractAsyncContextManager[None],
    grpc: GrpcServer | None,
    drain_delay: Callable[[], float],
    listening: Callable[[], None],
    closing: Callable[[], None] = lambda: None,
) -> None:
    """Serves until SIGINT or SIGTERM, and ends in two phases: it says that it goes and answers as before; then it takes nothing new.

    Args:
        answering: the block in which HTTP is answered.
        drain_delay: seconds between the two, asked when the first begins; another signal ends it.
        listening: called when it answers.
        closing: called when the second phase begins.
    """
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with answering:
        if grpc is not None:
            await grpc.start()
        listening()
        await stop.wait()
        app[CORE].drain()
        delay = drain_delay()
        if delay:
            stop.clear()
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(stop.wait(), delay)
        closing()
        ending = app[CORE].answering = None if grpc is None else asyncio.create_task(grpc.stop())
    if ending is not None:
        await ending


def url(listening: socket.socket, has_tls: bool) -> str:
    """Where a socket that listens is reached."""
    return shown(listening, "https" if has_tls and listening.family != socket.AF_UNIX else "http")


@asynccontextmanager
async def running(
    app: web.Application,
    sockets: Sequence[socket.socket],
    tls: ssl.SSLContext | None,
    bounds: Bounds | None = None,
    is_ahead: Callable[[int], bool] | None = None,
) -> AsyncIterator[None]:
    """Answers on sockets that listen, by TLS on those that are no Unix sockets if there is a context, while the block runs; then closes them.
    Requests that were begun are answered. `is_ahead`: other processes listen on them, too, and this says whether one of them has fewer than so many
    connections; their paths stay."""
    loop = asyncio.get_running_loop()
    runner = Runner(app, bounds)
    await runner.setup()
    server = runner.server
    assert isinstance(server, Server)
    handshakes = None if tls is None else Handshakes(server, tls, _HANDSHAKE)
    plain = Connections(server)
    opened: list[Acceptor | asyncio.Server] = []
    paths = [] if is_ahead is not None else unix_paths(sockets)

    def taking(listening: socket.socket) -> Callable[[socket.socket], None]:
        return plain.take if handshakes is None or listening.family == socket.AF_UNIX else handshakes.take

    def connections() -> int:
        return len(server.open) + server.handshakes + len(plain)

    try:
        for each in sockets:
            if is_ahead is not None:
                opened.append(Acceptor(each, taking(each), lambda: is_ahead(connections())))
            elif each.family == socket.AF_UNIX:
                opened.append(await loop.create_unix_server(server, sock=each))
            elif handshakes is not None:
                handshakes.listen(each)
            else:
                opened.append(await loop.create_server(server, sock=each))
        yield
    finally:
        # A client may have connected whom nobody has met yet, and who has sent its request.
        rest = [each.dup() for each in sockets]
        for one in opened:
            one.close()
        if handshakes is not None:
            handshakes.stop()
        if is_ahead is not None:
            for each in sockets:
                each.close()
        remove(paths)
        # Nothing is waited for between the last one that is taken and the close: who comes then is told so at once.
        for each in rest:
            take_rest(each, taking(each))
        await plain.settle()
        await server.settle(_ON_THEIR_WAY)
        if handshakes is not None:
            handshakes.cancel()
        await runner.cleanup()
