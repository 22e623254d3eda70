"""Connections by TLS, which count as connections from the moment when they are accepted.

asyncio's own servers tell of one when its handshake is over: whoever connects and says nothing would cost a descriptor and memory that no bound knows of.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl

from ._connection import Server

_LOGGER = logging.getLogger(__name__)
_AT_ONCE = 128  # connections that are accepted before others have their turn
_REST = 1.0  # seconds without accepting, where the process has no descriptors left
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Handshakes:
    """Accepts connections for a server, on its loop, and has them begin with a handshake; those for which there is no room are closed.

    Args:
        seconds: a handshake that takes longer ends.
    """

    def __init__(self, server: Server, context: ssl.SSLContext, seconds: float) -> None:
        self._server = server
        self._context = context
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._listening: set[socket.socket] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def listen(self, listening: socket.socket) -> None:
        """Accepts from now on what comes to a socket that listens, and does not block."""
        self._listening.add(listening)
        self._loop.add_reader(listening, self._accept, listening)

    def take(self, connection: socket.socket) -> None:
        """Begins the handshake of a connection that was accepted."""
        if self._server.is_full:
            connection.close()
            return
        self._server.handshakes += 1
        connection.setblocking(False)
        task = self._loop.create_task(self._shake(connection))
        self._tasks.add(task)
        task.add_done_callback(self._end)

    def stop(self) -> None:
        """Accepts nothing more. What was accepted goes on."""
        for each in self._listening:
            self._loop.remove_reader(each)
            each.close()
        self._listening.clear()

    def cancel(self) -> None:
        """Ends the handshakes that are not over."""
        for each in self._tasks:
            each.cancel()

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(_AT_ONCE):
            try:
                connection, _ = listening.accept()
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    _LOGGER.error("no connection can be accepted: %s", error.strerror)
                    self._loop.remove_reader(listening)
                    self._loop.call_later(_REST, self._go_on, listening)
                return  # or there is none, or its client has gone: others are told of again
            self.take(connection)

    def _go_on(self, listening: socket.socket) -> None:
        if listening in self._listening:
            self.listen(listening)

    async def _shake(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(
                self._server.connection, connection, ssl=self._context, ssl_handshake_timeout=self._seconds
            )
        except OSError:  # it has gone, speaks no TLS, or takes too long
            connection.close()
        except asyncio.CancelledError:
            connection.close()
            raise

    def _end(self, task: asyncio.Task[None]) -> None:
        self._server.handshakes -= 1
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            _LOGGER.error("a handshake has failed", exc_info=task.exception())
