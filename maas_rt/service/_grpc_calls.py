"""What every call over gRPC goes through: who calls, its message within limits of size and time, and what becomes of errors."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from types import TracebackType
from typing import Any
from urllib.parse import unquote

from .._errors import Error
from ._callers import network_of, request_id
from ._calls import Context
from ._connection import Bounds
from ._errors import Kind, ServiceError, bad_request, kind_of
from ._grpc_engine import SLOW, Rpc
from ._metrics import Metrics
from ._offload import beside_the_loop
from ._packing import is_zlib, unpacked

REQUEST_ID = "x-request-id"
_LONGEST_MESSAGE = 1000  # bytes of an error: they travel as a header, of which clients take few
_PEERS = 1024  # connections whose networks are remembered
_UNPACKED = 4  # times as large as what comes in, about
_RETRIED = (Kind.OVERLOADED, Kind.NOT_READY, Kind.RATE_LIMITED)
_LOGGER = logging.getLogger(__name__)


@dataclass(slots=True)
class Call:
    """One call. `counted`: it has come to a version, which counts it."""

    rpc: Rpc
    context: Context
    counted: bool = False

    def answer(self, message: bytes) -> None:
        """Ends it well."""
        self.rpc.finish(message, ((REQUEST_ID, self.context.request_id),))


def context_of(rpc: Rpc, method: str) -> Context:
    """What Core is told of a call beside its message."""
    credentials, identifier = [], None
    for key, value in rpc.metadata:
        if key == "authorization":
            credentials.append(value if isinstance(value, str) else "")
        elif key == REQUEST_ID and isinstance(value, str):
            identifier = value
    credential = ", ".join(credentials) if credentials else None
    return Context(credential, rpc.deadline, _network(rpc.peer), request_id(identifier), method)


@lru_cache(_PEERS)
def _network(peer: str) -> str:
    return network_of(_address(peer))


def _address(peer: str) -> str:
    """Of gRPC's name for a peer, as "ipv4:127.0.0.1:5000" and "ipv6:%5B::1%5D:5000"."""
    kind, _, place = peer.partition(":")
    if kind not in ("ipv4", "ipv6"):
        return ""
    return unquote(place).rpartition(":")[0].strip("[]")


class Messages:
    """Reads the messages of clients. What it holds may be counted on any thread.

    Args:
        largest: bytes of a message, unpacked.
    """

    def __init__(self, bounds: Bounds, largest: int, seconds: float) -> None:
        self._bounds = bounds
        self._largest = largest
        self._seconds = seconds
        self._lock = threading.Lock()
        self._held = 0  # bytes of all messages that are not answered yet

    def reading(self) -> Held:
        """What one call holds in memory, from before its message is read until its answer is there."""
        return Held(self)

    async def read(self, rpc: Rpc, held: Held, idle: bool = False, late: bool = False) -> bytes | bytearray | None:
        """The next message; None: there is none. `idle`: it may be long in coming; `late`: it has been.

        Raises:
            ServiceError: BAD_REQUEST, TOO_LARGE; DEADLINE for one that does not come, OVERLOADED where the server holds as many as it may.
        """
        with nullcontext() if idle else _Waiting(self, held, late):
            message = await rpc.read()
        if message is None:
            return None
        self.hold(held, len(message))
        return await self.opened(message, held)

    async def only(self, rpc: Rpc, held: Held, late: bool = False) -> bytes | bytearray:
        """The message of a call that has one."""
        message = await self.read(rpc, held, late=late)
        if message is None:
            raise no_message()
        return message

    async def opened(self, message: bytes, held: Held) -> bytes | bytearray:
        """A message that is held, unpacked."""
        encoding = packing_of(message)
        if encoding is None:
            return message
        found = await beside_the_loop(_UNPACKED * len(message), unpacked, message, encoding, self._largest)
        self.hold(held, len(found))
        return found

    def hold(self, held: Held, size: int) -> None:
        """Raises OVERLOADED if it is too much with all others."""
        with self._lock:
            if self._held + size > self._bounds.all_bodies:
                raise ServiceError(Kind.OVERLOADED, "the server holds as many bytes of requests as it may", 1)
            self._held += size
        held.size += size

    def release(self, held: Held, size: int) -> None:
        """It holds so much less."""
        with self._lock:
            self._held -= size
        held.size -= size


def packing_of(message: bytes) -> str | None:
    """In what a message is packed: no field of the protocol begins as gzip and zlib do."""
    return "gzip" if message[:2] == b"\x1f\x8b" else "deflate" if is_zlib(message) else None


def no_message() -> ServiceError:
    """The refusal of a call without one."""
    return bad_request("the call has no message")


class Held:
    """Bytes that a call holds, until `end`, or the end of a with block."""

    __slots__ = ("_of", "size")

    def __init__(self, of: Messages) -> None:
        self._of = of
        self.size = 0

    def __enter__(self) -> Held:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """It is answered."""
        self._of.release(self, self.size)


class _Waiting:
    """Waits for a message of which nobody knows how large it is: gRPC hands it over whole. One that is not there soon counts as one of the
    largest, and has its time."""

    def __init__(self, of: Messages, held: Held, late: bool) -> None:
        self._of = of
        self._held = held
        self._patience = 0.0 if late else SLOW
        self._error: ServiceError | None = None
        self._reserved = 0

    def __enter__(self) -> None:
        self._task = asyncio.current_task()
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(self._patience, self._slow)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        self._of.release(self._held, self._reserved)
        if self._error is not None:
            uncancel(self._task)
            raise self._error from None

    def _slow(self) -> None:
        self._timer = self._loop.call_later(max(0.0, self._of._seconds - SLOW), self._late)
        try:
            self._of.hold(self._held, self._of._largest)
        except ServiceError as error:
            self._fail(error)
        else:
            self._reserved = self._of._largest

    def _late(self) -> None:
        text = f"the message was not there after {self._of._seconds:g} seconds"
        self._fail(ServiceError(Kind.DEADLINE, text))

    def _fail(self, error: ServiceError) -> None:
        assert self._task is not None
        self._error = error
        self._task.cancel()


def uncancel(task: Any) -> None:
    """A task was cancelled to stop its waiting, and goes on. (Python 3.10 does not count.)"""
    if hasattr(task, "uncancel"):
        task.uncancel()


# ---- errors ---------------------------------------------------------------------------------------------------------


def message_of(error: Exception, method: str) -> str:
    """What a client is told of an error; the log is told of what nobody foresaw."""
    if isinstance(error, ServiceError | Error):
        return str(error)
    _LOGGER.error("%s", method, exc_info=error)
    return f"the server failed on this request ({type(error).__name__}): its log says more"


def refuse(call: Call, error: Exception, metrics: Metrics) -> None:
    """Ends a call with the status of an error."""
    kind = kind_of(error)
    if not call.counted:
        metrics.server.refuse(kind)
    headers = [(REQUEST_ID, call.context.request_id)]
    retry = error.retry_after if isinstance(error, ServiceError) else None
    if retry is not None or kind in _RETRIED:
        headers.append(("retry-after", str(max(1, math.ceil(retry or 1)))))
    text = message_of(error, call.context.call).encode("utf-8", "backslashreplace")
    if len(text) > _LONGEST_MESSAGE:
        text = text[: _LONGEST_MESSAGE - 3] + b"..."
    call.rpc.finish(None, tuple(headers), kind.grpc, text.decode("utf-8", "ignore"))
