"""gRPC's server beside the loop that serves HTTP: where it listens, with what bounds and certificates, and its end."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from .._errors import InvalidArgumentError
from ._connection import Bounds
from ._core import Core
from ._grpc import Service
from ._grpc_calls import Messages
from ._grpc_engine import Engine
from ._grpc_health import Health
from ._grpcio import grpc
from ._listen import place
from ._metrics import Metrics
from ._tls import Pem, TlsFiles, read_pem
from ._watched import Watched

_STREAMS = 1024  # calls at once of one connection
_CALLS = 8192  # of all
_HEADERS = 16 << 10  # bytes
_ALIVE_MS = 60_000  # after which a client that says nothing is asked whether it is there


class GrpcServer:
    """To be made, started and stopped on one loop.

    Args:
        addresses: hosts and ports.
        largest: bytes of a message, unpacked.
        shared: other processes listen at the same addresses.
        seconds: in which a message has to be there.

    Raises:
        InvalidArgumentError: an address is taken, or the certificates cannot be used.
    """

    def __init__(
        self,
        core: Core,
        metrics: Metrics,
        addresses: Sequence[tuple[str, int]],
        tls: TlsFiles | None = None,
        *,
        bounds: Bounds | None = None,
        largest: int = 64 << 20,
        seconds: float = 120,
        shared: bool = False,
    ) -> None:
        bounds = bounds or Bounds()
        messages = Messages(bounds, largest, seconds)
        self._service = Service(core, metrics, messages)
        self._health = Health(core, metrics, messages)
        methods = {**self._service.methods(), **self._health.methods()}
        self._engine = Engine(_options(bounds, largest, shared), methods, _CALLS)
        pem = None if tls is None else _watched(tls)
        # gRPC's "::" is IPv4's wildcard, too.
        both = {port for host, port in addresses if host == "::"}
        self.places = [
            self._listen(host, port, pem) for host, port in addresses if host != "0.0.0.0" or port not in both
        ]

    def _listen(self, host: str, port: int, pem: Watched[Pem] | None) -> str:
        where = place(host, port)
        with _ipv4_alone(port) if host == "0.0.0.0" else nullcontext():
            port = self._engine.listen(where, None if pem is None else _credentials(pem))
        if not port:
            raise InvalidArgumentError(f"gRPC cannot listen on {where}; choose another --grpc-port")
        return f"{'grpc' if pem is None else 'grpcs'}://{place(host, port)}"

    async def start(self) -> None:
        """Answers from now on."""
        self._engine.start()

    async def stop(self, grace: float = 60) -> None:
        """Takes no more calls, and returns when those that are under way have ended, or after so many seconds."""
        self._service.stop()
        self._health.stop()
        await self._engine.stop(grace)


@contextmanager
def _ipv4_alone(port: int) -> Iterator[None]:
    """Holds a port of IPv6, which gRPC would take along with IPv4's wildcard, where nobody asked for it."""
    with ExitStack() as held:
        with suppress(OSError):  # there is no IPv6, or somebody else has it
            other = held.enter_context(socket.socket(socket.AF_INET6, socket.SOCK_STREAM))
            other.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            other.bind(("::", port))
        yield


def _options(bounds: Bounds, largest: int, shared: bool) -> list[tuple[str, int]]:
    return [
        ("grpc.so_reuseport", int(shared)),  # a port that is taken is an error
        ("grpc.max_receive_message_length", largest),
        ("grpc.max_send_message_length", -1),
        ("grpc.per_message_decompression", 0),  # which knows no bounds: Messages unpacks
        ("grpc.max_allowed_incoming_connections", bounds.connections),
        ("grpc.max_concurrent_streams", _STREAMS),
        ("grpc.max_metadata_size", _HEADERS),
        ("grpc.absolute_max_metadata_size", _HEADERS),
        ("grpc.server_handshake_timeout_ms", int(bounds.header_seconds * 1000)),
        ("grpc.max_connection_idle_ms", int(bounds.idle_seconds * 1000)),
        ("grpc.keepalive_time_ms", _ALIVE_MS),
        ("grpc.keepalive_timeout_ms", int(bounds.grace_seconds * 1000)),
    ]


def _watched(files: TlsFiles) -> Watched[Pem]:
    paths: list[Path] = [path for path in (files.certificate, files.key, files.clients) if path is not None]
    return Watched(paths, lambda: read_pem(files), "the TLS certificate for gRPC")


def _credentials(pem: Watched[Pem], now: Callable[[], int] = time.time_ns) -> Any:
    """Of one port. Each handshake uses what the files held when they were last good."""
    used = [pem.get(now())]

    def fetch() -> Any:
        found = pem.get(now())
        if found is used[0]:
            return None  # as it was
        used[0] = found
        return _configuration(found)

    return grpc.dynamic_ssl_server_credentials(_configuration(used[0]), fetch, used[0].clients is not None)


def _configuration(pem: Pem) -> Any:
    return grpc.ssl_server_certificate_configuration([(pem.key, pem.certificate)], pem.clients)
