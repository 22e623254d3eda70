"""Messages between the process that watches over the workers and each of them: a name, a few values, and open files."""

from __future__ import annotations

import array
import errno
import os
import pickle
import socket
from collections.abc import Sequence
from typing import Any, NamedTuple

_MOST = 1 << 12  # bytes of a message; what is longer goes as a file in memory, that many fit into the way
MOST_FILES = 250  # that one message may carry: Linux takes 253
_INT = array.array("i").itemsize
_SHORT, _LONG = b"\0", b"\1"


class Message(NamedTuple):
    """What came. `files` are open, and belong to whoever has the message."""

    name: str
    values: tuple[Any, ...]
    files: tuple[int, ...]

    def close(self) -> None:
        """Closes the files, where nobody wants them."""
        for each in self.files:
            os.close(each)


class Channel:
    """One end. Each message comes whole or not at all (SOCK_SEQPACKET). Any thread may send; one receives."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end

    @classmethod
    def pair(cls) -> tuple[Channel, socket.socket]:
        """An end, and the other one for a process that is to be started."""
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(here), there

    def fileno(self) -> int:
        """For selectors."""
        return self._socket.fileno()

    def send(self, name: str, *values: Any, files: Sequence[int] = (), wait: bool = True) -> None:
        """Raises OSError if nobody receives any more; without `wait` BlockingIOError if nobody has for long."""
        data = pickle.dumps((name, values))
        if len(data) < _MOST:
            self._send(_SHORT + data, files, wait)
            return
        descriptor = os.memfd_create("maas-rt message", os.MFD_CLOEXEC)
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            self._send(_LONG, (descriptor, *files), wait)

    def receive(self, wait: bool = True) -> Message | None:
        """The next one; None if the other process is gone. Without `wait` it raises BlockingIOError if there is none; OSError if its files cannot be
        opened."""
        flags = socket.MSG_CMSG_CLOEXEC | (0 if wait else socket.MSG_DONTWAIT)
        try:
            data, extras, received, _ = self._socket.recvmsg(_MOST + 1, socket.CMSG_LEN((MOST_FILES + 1) * _INT), flags)
        except ConnectionError:
            return None
        if not data:
            return None
        if received & socket.MSG_CTRUNC:
            raise OSError(errno.EMFILE, "a message's files cannot be opened: the process has no descriptors left")
        found = array.array("i")
        for _, _, extra in extras:  # files, and nothing else
            found.frombytes(extra)
        files = found.tolist()
        if data[:1] == _LONG:
            with open(files.pop(0), "rb") as file:
                file.seek(0)
                name, values = pickle.load(file)
        else:
            name, values = pickle.loads(data[1:])
        return Message(name, values, tuple(files))

    def close(self) -> None:
        """The other process is told that this one is gone."""
        self._socket.close()

    def _send(self, data: bytes, files: Sequence[int], wait: bool) -> None:
        extras = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))] if files else []
        self._socket.sendmsg([data], extras, socket.MSG_NOSIGNAL | (0 if wait else socket.MSG_DONTWAIT))
