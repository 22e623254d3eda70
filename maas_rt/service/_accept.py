"""Takes the connections of a socket on which several processes listen."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable
from contextlib import suppress

_LOGGER = logging.getLogger(__name__)
_REST = 1.0  # seconds without accepting, where there is no room for another connection
_MOMENT = 0.001  # seconds in which another process may take one
_NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Acceptor:
    """One connection each time round the loop, and a moment later where another process has fewer: connections stay, and a loop's own server would
    take all that wait. A socket that all processes inherit, and not one for each of them at the same port (SO_REUSEPORT), for what waits at it is
    nobody's: a process that dies takes none of it along.

    Args:
        take: is given each connection.
        is_ahead: whether another process has fewer.
    """

    def __init__(
        self, listening: socket.socket, take: Callable[[socket.socket], None], is_ahead: Callable[[], bool]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._listening = listening
        self._take = take
        self._is_ahead = is_ahead
        self._waited = False
        self._closed = False
        listening.setblocking(False)
        self._open()

    def close(self) -> None:
        """Takes no more. Who waits is for somebody else."""
        self._closed = True
        self._loop.remove_reader(self._listening)

    def _open(self) -> None:
        if not self._closed:
            self._loop.add_reader(self._listening, self._take_one)

    def _take_one(self) -> None:
        if not self._waited and self._is_ahead():
            self._waited = True  # once: the other one may be busy
            self._pause(_MOMENT)
            return
        self._waited = False
        try:
            connection = _accept(self._listening)
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            _LOGGER.error("no connection can be accepted: %s", error.strerror)
            self._pause(_REST)
            return
        if connection is not None:
            self._take(connection)

    def _pause(self, seconds: float) -> None:
        self._loop.remove_reader(self._listening)
        self._loop.call_later(seconds, self._open)


class Connections:
    """Makes connections of sockets that were accepted, by `make`, without TLS."""

    def __init__(self, make: Callable[[], asyncio.BaseProtocol]) -> None:
        self._make = make
        self._begun: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        """Those that are none yet."""
        return len(self._begun)

    def take(self, connection: socket.socket) -> None:
        """Soon it is one."""
        task = asyncio.get_running_loop().create_task(self._connect(connection))
        self._begun.add(task)
        task.add_done_callback(self._begun.discard)

    async def settle(self) -> None:
        """Until all are."""
        if self._begun:
            await asyncio.wait(self._begun)

    async def _connect(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(self._make, connection)
        except OSError:  # it has gone
            connection.close()


def take_rest(listening: socket.socket, take: Callable[[socket.socket], None]) -> None:
    """Takes all who wait at a socket, and closes it."""
    with listening:
        listening.setblocking(False)
        with suppress(OSError):  # there is no room, and they are refused
            while (connection := _accept(listening)) is not None:
                take(connection)


def _accept(listening: socket.socket) -> socket.socket | None:
    """Who waits; None if there is nobody, for another process has him."""
    while True:
        try:
            return listening.accept()[0]
        except ConnectionAbortedError:
            continue
        except BlockingIOError:
            return None
