"""Connections of the client that blocks, and the pool that keeps them.

On sockets and http.client's parser, which are the standard library's: of its peers only they let one deadline hold for all of a call, where
others bound each read alone, and there is nothing to install.
"""

from __future__ import annotations

import http.client
import io
import os
import select
import socket
import ssl
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from ._calls import Answer, Part
from ._errors import ConnectionFailedError, InvalidAnswerError, TlsError
from ._retry import Deadline
from ._target import Target

_TOGETHER = 1 << 16  # bytes of a body that go out with the headers
_PIECE = 1 << 20
_KEPT = 30.0  # seconds: less than servers keep a connection that nobody uses


class Connection:
    """A connection to a server, for one call after the other."""

    def __init__(self, target: Target, deadline: Deadline) -> None:
        self.used = 0.0  # when the last call ended; 0: there was none
        self._deadline = deadline
        self._ended = False  # the server has closed it
        where = target.socket if target.socket is not None else target.authority
        try:
            self._socket = _connected(target, deadline)
        except ssl.SSLCertVerificationError as error:
            raise TlsError(f"the certificate of {where} is not believed: {error.verify_message}") from None
        except ssl.SSLError as error:
            raise TlsError(f"there is no TLS with {where}: {_why(error)}") from None
        except TimeoutError:
            deadline.check()
            raise ConnectionFailedError(f"{where} does not take a connection") from None
        except OSError as error:
            raise ConnectionFailedError(f"there is no connection to {where}: {_why(error)}") from None

    def is_usable(self) -> bool:
        """Nothing has come since the last call: neither an end nor what nobody asked for."""
        if time.monotonic() - self.used > _KEPT:
            return False
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return not poll.poll(0)

    def close(self) -> None:
        """Ends it."""
        self._socket.close()

    def exchange(self, head: bytes, parts: Sequence[Part], deadline: Deadline, limit: int) -> tuple[Answer, bool]:
        """Sends a request and reads its answer, of at most `limit` bytes; and whether another may follow.

        Raises:
            ConnectionFailedError, InvalidAnswerError, DeadlineError; after any the connection is of no use.
        """
        self._deadline = deadline
        try:
            broken = self._send(head, parts)
            return self._receive(limit, broken)
        except TimeoutError as error:
            if error.errno is not None:  # the system's own, of a peer that is silent
                raise _broken(f"the connection broke: {_why(error)}") from None
            raise deadline.over() from None
        except http.client.RemoteDisconnected:
            raise _broken("the server closed the connection before its answer") from None
        except http.client.IncompleteRead:
            raise _broken("the answer broke off") from None
        except (http.client.HTTPException, ValueError) as error:  # ValueError: of a length or a size
            raise InvalidAnswerError(f"what came is no HTTP answer: {_why(error)}") from None
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError) as error:
            raise _broken(f"the connection broke: {_why(error)}") from None
        except ssl.SSLError as error:  # TLS 1.3 tells only now that it wants a certificate
            raise TlsError(f"the server ended TLS: {_why(error)}") from None
        except OSError as error:
            raise _broken(f"the connection broke: {_why(error)}") from None

    def _send(self, head: bytes, parts: Sequence[Part]) -> OSError | None:
        """None, or what it broke at: the server may have answered before it had all, as it does to a body that is too large."""
        if sum(map(len, parts)) <= _TOGETHER:
            head, parts = b"".join((head, *parts)), ()
        try:
            for part in (head, *parts):
                view = memoryview(part)
                for at in range(0, len(view), _PIECE):
                    self._socket.settimeout(self._deadline.check())
                    self._socket.sendall(view[at : at + _PIECE])
        except (BrokenPipeError, ConnectionResetError, ssl.SSLEOFError) as error:
            return error
        return None

    def _receive(self, limit: int, broken: OSError | None) -> tuple[Answer, bool]:
        response = http.client.HTTPResponse(self)  # type: ignore[arg-type]  # it wants makefile and no more
        try:
            response.begin()
            if self._ended:  # within the headers, which http.client takes for all of them
                raise http.client.RemoteDisconnected("")
            if broken is not None and response.status < 400:
                raise broken
            headers: dict[str, str] = {}
            for name, value in response.getheaders():
                name = name.lower()
                headers[name] = f"{headers[name]}, {value}" if name in headers else value
            body = _body(response, limit)
            return Answer(response.status, response.reason, headers, body), not response.will_close and broken is None
        finally:
            response.close()

    def makefile(self, mode: str) -> io.BufferedReader:
        """For HTTPResponse."""
        return io.BufferedReader(_Reader(self), _TOGETHER)

    def receive_into(self, buffer: Any) -> int:
        """As a socket's recv_into, within the deadline of the call."""
        self._socket.settimeout(self._deadline.check())
        count = self._socket.recv_into(buffer)
        self._ended = count == 0
        return count


class _Reader(io.RawIOBase):
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._connection.receive_into(buffer)


def _connected(target: Target, deadline: Deadline) -> socket.socket:
    if target.socket is not None:
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            made.settimeout(deadline.check())
            made.connect(target.socket)
        except BaseException:
            made.close()
            raise
        return made
    made = socket.create_connection((target.host, target.port), deadline.check())
    try:
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if target.tls is None:
            return made
        made.settimeout(deadline.check())
        return target.tls.wrap_socket(made, server_hostname=target.host)
    except BaseException:
        made.close()
        raise


def _body(response: http.client.HTTPResponse, limit: int) -> bytearray | memoryview:
    length = response.length
    if length is not None:
        if length > limit:
            raise InvalidAnswerError(f"the answer has {length} bytes, and {limit} are the most that this client takes")
        # Not yet memory: a length that lies costs nothing.
        found = np.empty(length, np.uint8).data
        at = 0
        while at < length:
            taken = response.readinto(found[at:])
            if not taken:
                raise http.client.IncompleteRead(b"", length - at)
            at += taken
        return found
    body = bytearray()
    while chunk := response.read(_PIECE):
        body += chunk
        if len(body) > limit:
            raise InvalidAnswerError(f"the answer has more than the {limit} bytes that this client takes")
    return body


def _broken(message: str) -> ConnectionFailedError:
    error = ConnectionFailedError(message)
    error.reached = True
    return error


def _why(error: Exception) -> str:
    """An error's words, on one line."""
    text = getattr(error, "strerror", None) or str(error)
    return " ".join(text.split())[:200] or type(error).__name__


class Pool:
    """Connections to one server, at most so many at once, those that are idle kept for the next call. Any thread may call anything."""

    def __init__(self, target: Target, size: int) -> None:
        self._target = target
        self._size = size
        self._closed = False
        self._begin()

    def _begin(self) -> None:
        self._owner = os.getpid()
        self._room = threading.BoundedSemaphore(self._size)
        self._lock = threading.Lock()
        self._idle: list[Connection] = []

    def exchange(self, head: bytes, parts: Sequence[Part], deadline: Deadline, limit: int, again: bool) -> Answer:
        """A request on a connection that is kept, or on a new one.

        `again`: where one that was kept turns out to be closed, the request is sent once more on a new one.
        """
        if self._owner != os.getpid():  # after a fork: what there was is the parent's, who goes on with it
            self._begin()
        left = deadline.check()
        if not self._room.acquire(timeout=left):
            raise deadline.over()
        try:
            kept = self._take()
            if kept is not None:
                try:
                    return self._exchanged(kept, head, parts, deadline, limit)
                except ConnectionFailedError as error:
                    if not again or isinstance(error, TlsError):
                        raise
            return self._exchanged(Connection(self._target, deadline), head, parts, deadline, limit)
        finally:
            self._room.release()

    def _exchanged(
        self, connection: Connection, head: bytes, parts: Sequence[Part], deadline: Deadline, limit: int
    ) -> Answer:
        keep = False
        try:
            answer, keep = connection.exchange(head, parts, deadline, limit)
        finally:
            connection.used = time.monotonic()
            with self._lock:
                keep = keep and not self._closed
                if keep:
                    self._idle.append(connection)
            if not keep:
                connection.close()
        return answer

    def _take(self) -> Connection | None:
        """The one that was used last, if it can be used again."""
        while True:
            with self._lock:
                if not self._idle:
                    return None
                connection = self._idle.pop()
            if connection.is_usable():
                return connection
            connection.close()

    def close(self) -> None:
        """Ends those that are idle, and the others once their calls have ended."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed
