"""`maas-rt serve`: a process that serves, or one that watches over several."""

from __future__ import annotations

import logging
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._errors import InvalidArgumentError, MissingExtraError
from .._native import cpu_count
from ._aiohttp import web
from ._guard import CORE, METRICS
from ._limiter import Limits
from ._listen import Listen, close_all, open_sockets, place
from ._metrics import Metrics
from ._server import Settings, make_app, open_repository, prepare, run, running, serve_until_told, tell_of, url
from ._tls import TlsFiles
from ._watch import Watch

if TYPE_CHECKING:
    from ._grpc_server import GrpcServer

_LOGGER = logging.getLogger(__name__)


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
    workers: int = 1,
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
        memory: bytes of models' files that may be loaded at once, by all workers together; 0: any.
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
        workers: processes that answer; 0: as many as there are CPUs. More than one share what they load, and are started again when they die.
        check: end before the first request; the status is 0 if all that lies in the directory would be served, else 1.
        opening: further arguments of the Repository: whose signature a file must have, the key of encrypted ones.

    Raises:
        InvalidArgumentError: an argument, or a file that one names.
        MissingExtraError: gRPC is needed, and grpcio is not installed.
    """
    if workers < 0:
        raise InvalidArgumentError(f"workers is {workers} and must be 1 or more, or 0: as many as there are CPUs")
    settings = Settings(
        directory,
        listen or Listen(),
        threads,
        max_body,
        drain_delay,
        watch,
        memory,
        idle_unload,
        cache,
        keys,
        issuers,
        tls,
        limits or Limits(),
        audit,
        console,
        shared_memory,
        log_format,
        log_requests,
        otlp,
        opening,
    )
    workers = workers or cpu_count()
    is_alone = check or workers == 1
    with prepare(settings, is_alone) as prepared, ExitStack() as ends:
        has_tokens, has_tls = not prepared.access.is_open, prepared.tls is not None
        sockets = open_sockets(settings.listen, has_tokens, has_tls)
        ends.callback(close_all, sockets)
        grpc_sockets: list[socket.socket] = []
        if grpc_port is not None:
            grpc_sockets = _grpc_sockets(settings.listen, grpc_port, grpc_needed, has_tokens, has_tls, not is_alone)
            ends.callback(close_all, grpc_sockets)
        if not is_alone:
            from ._supervisor import supervise  # nobody pays for it who does not ask for it

            return supervise(settings, workers, sockets, grpc_sockets)
        repository = open_repository(settings, ends)
        refused = tell_of(repository)
        if check:
            for each in sockets:
                _LOGGER.info("would listen on %s/v2", url(each, has_tls))
            for each in grpc_sockets:
                _LOGGER.info("would listen on %s (gRPC)", place(*each.getsockname()[:2]))
            if workers > 1:
                _LOGGER.info("would start %d workers", workers)
            return 1 if refused else 0
        app = make_app(settings, repository, prepared, Metrics(now=time.time_ns()))
        if watch:
            ends.callback(Watch(repository, watch).close)
        make_grpc = partial(_grpc_server, app, grpc_sockets, tls, max_body) if grpc_sockets else None
        run(_serve_alone(app, sockets, prepared.tls, drain_delay, make_grpc))
    return 0


def _grpc_sockets(
    listen: Listen, port: int, needed: bool, has_tokens: bool, has_tls: bool, shared: bool = False
) -> list[socket.socket]:
    """They hold the addresses until gRPC, which opens its own, takes them; `shared`: as long as several processes do."""
    try:
        from . import _grpc_server  # noqa: F401
    except MissingExtraError:
        if needed:
            raise
        return []
    try:
        return open_sockets(replace(listen, port=port, unix=None), has_tokens, has_tls, "--grpc-port", shared)
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


async def _serve_alone(
    app: web.Application,
    sockets: Sequence[socket.socket],
    tls: ssl.SSLContext | None,
    drain_delay: float,
    make_grpc: Callable[[], GrpcServer] | None,
) -> None:
    grpc = None if make_grpc is None else make_grpc()

    def listening() -> None:
        for each in sockets:
            _LOGGER.info("listening on %s/v2 (stop with Ctrl-C)", url(each, tls is not None))
        for where in () if grpc is None else grpc.places:
            _LOGGER.info("listening on %s (gRPC)", where)

    await serve_until_told(app, running(app, sockets, tls), grpc, lambda: drain_delay, listening)
