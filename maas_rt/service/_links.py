"""From worker to worker: inferences of a sequence are handed to the one that holds its state, and their answers come back.

Two workers have a pair of sockets that only they have, which the supervisor has made for them: there is nothing in a folder or on a network that
somebody else could open. All of this belongs to the loop of the worker.

    message:  what it is | the number of the question | a parcel (_parcel), or nothing and a file with one
"""

from __future__ import annotations

import array
import asyncio
import itertools
import logging
import socket
import struct
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple
from weakref import WeakValueDictionary

from .._errors import Error
from ._calls import Answered, Handed, Key, NotBegun, NotHeld
from ._errors import Kind, ServiceError, Told
from ._offload import beside_the_loop
from ._parcel import MOST_INLINE, Packed, mapped, pack, unpack
from ._requests import InferRequest
from ._tracing import CURRENT

_LOGGER = logging.getLogger(__name__)
_ASK, _TELL, _STOP = range(3)
_HEAD = struct.Struct("<BQ")
_AT_ONCE = 64  # messages that are read before others have their turn
_INT = array.array("i").itemsize
Serve = Callable[[Handed, list[InferRequest]], Awaitable[Answered]]


class _Letter(NamedTuple):
    """A message; `data` is None where its file could not be opened here."""

    what: int
    number: int
    data: memoryview | None


@dataclass(eq=False)
class _Link:
    """One end of a way: `asked` here, and `serving` for the other end."""

    end: socket.socket
    loop: asyncio.AbstractEventLoop
    asked: dict[int, asyncio.Future[memoryview]] = field(default_factory=dict)
    serving: dict[int, asyncio.Task[None]] = field(default_factory=dict)
    is_gone: bool = False
    _left: deque[Packed] = field(default_factory=deque)  # to be sent when the other end has read

    def send(self, what: int, number: int, packed: Packed | None = None) -> None:
        """Soon, if the other end is there."""
        if self.is_gone:
            return
        data, file = (b"", None) if packed is None else packed
        self._left.append(Packed(_HEAD.pack(what, number) + data, file))
        if len(self._left) == 1:
            self._flush()

    def _flush(self) -> None:
        while self._left:
            data, file = self._left[0]
            files = [] if file is None else [file.descriptor]
            extras = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))] if files else []
            try:
                self.end.sendmsg([data], extras, socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT)
            except BlockingIOError:
                self.loop.add_writer(self.end.fileno(), self._flush)
                return
            except OSError as error:  # the other end has gone, which is seen where it is read
                _LOGGER.debug("nothing can be sent to another worker: %s", error)
                with suppress(OSError):
                    self.end.shutdown(socket.SHUT_RDWR)
                self._left.clear()
                break
            self._left.popleft()
        self.loop.remove_writer(self.end.fileno())

    def receive(self) -> _Letter | None:
        """The next message; None if the other end has gone. Raises BlockingIOError if there is none."""
        flags = socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT
        try:
            data, extras, received, _ = self.end.recvmsg(_HEAD.size + MOST_INLINE, socket.CMSG_LEN(_INT), flags)
        except ConnectionError:
            return None
        if not data:
            return None
        what, number = _HEAD.unpack_from(data)
        files = array.array("i")
        for _, _, extra in extras:
            files.frombytes(extra)
        if received & socket.MSG_CTRUNC:
            return _Letter(what, number, None)
        if not files:
            return _Letter(what, number, memoryview(data)[_HEAD.size :])
        try:
            return _Letter(what, number, mapped(files[0]))
        except OSError:
            return _Letter(what, number, None)

    def close(self) -> None:
        """What is under way for the other end is stopped, and what was asked of it has no answer."""
        self.is_gone = True
        self.loop.remove_reader(self.end.fileno())
        self.loop.remove_writer(self.end.fileno())
        self.end.close()
        self._left.clear()
        for task in list(self.serving.values()):
            task.cancel()
        for ended in self.asked.values():
            if not ended.done():
                ended.set_exception(NotHeld())


class Links:
    """The ways of one worker to the others, made when they are needed. To be made on its loop.

    Args:
        dial: has the supervisor make a way to a worker; None comes of it where that is not there.
        serve: makes an inference that was handed to this worker.
    """

    def __init__(self, dial: Callable[[int], Future[socket.socket | None]], serve: Serve) -> None:
        self._loop = asyncio.get_running_loop()
        self._dial = dial
        self._serve = serve
        self._ways: dict[int, asyncio.Task[_Link]] = {}  # to workers, by their numbers
        self._links: set[_Link] = set()
        # Of each sequence of which something is handed over now, whether the last one is on its way.
        self._orders: WeakValueDictionary[Key, asyncio.Future[None]] = WeakValueDictionary()
        self._numbers = itertools.count()

    def hand_over(self, worker: int, key: Key, handed: Handed, asked: list[InferRequest]) -> asyncio.Task[Answered]:
        """Has another worker make an inference. What is handed over for one sequence comes there in the order of the calls.

        Args:
            asked: the request, which is let go of when it was sent.

        Raises:
            NotHeld: the worker is not there, or has died before it has answered.
            NotBegun: the worker has refused it before it was an inference there.
            ServiceError: what the inference has failed of; OVERLOADED where there is no room to hand it over, and nothing was sent.
        """
        before, sent = self._orders.get(key), self._loop.create_future()
        self._orders[key] = sent
        task = self._loop.create_task(self._handed_over(worker, before, sent, handed, asked))
        task.add_done_callback(lambda _: _set(sent))
        return task

    async def _handed_over(
        self,
        worker: int,
        before: asyncio.Future[None] | None,
        sent: asyncio.Future[None],
        handed: Handed,
        asked: list[InferRequest],
    ) -> Answered:
        if before is not None:
            await asyncio.wait([before])
        link = await self._way(worker)
        try:
            packed = await beside_the_loop(asked[0].size, pack, (handed, asked))
        except OSError as error:
            text = f"there is no room to hand the request to the worker that holds its sequence: {error.strerror}"
            raise ServiceError(Kind.OVERLOADED, text, 1) from None
        asked.clear()
        if link.is_gone:
            raise NotHeld
        number, ended = next(self._numbers), self._loop.create_future()
        link.asked[number] = ended
        link.send(_ASK, number, packed)
        del packed
        _set(sent)
        try:
            data = await ended
        except asyncio.CancelledError:
            link.send(_STOP, number)
            raise
        finally:
            del link.asked[number]
        told = await beside_the_loop(len(data), unpack, data)
        if isinstance(told, NotBegun):
            raise told
        if isinstance(told, Told):
            raise told.error()
        assert isinstance(told, Answered)
        return told

    def take(self, end: socket.socket) -> None:
        """A way that another worker asks by."""
        self._open(end)

    def close(self) -> None:
        """Cuts all ways."""
        for each in list(self._links):
            self._end(each)

    async def _way(self, worker: int) -> _Link:
        task = self._ways.get(worker)
        if task is None or (task.done() and (task.cancelled() or task.exception() or task.result().is_gone)):
            task = self._ways[worker] = self._loop.create_task(self._connect(worker))
        return await asyncio.shield(task)  # who goes away takes it from nobody else

    async def _connect(self, worker: int) -> _Link:
        end = await asyncio.wrap_future(self._dial(worker))
        if end is None:
            raise NotHeld
        return self._open(end)

    def _open(self, end: socket.socket) -> _Link:
        link = _Link(end, self._loop)
        self._links.add(link)
        self._loop.add_reader(end.fileno(), self._read, link)
        return link

    def _end(self, link: _Link) -> None:
        self._links.discard(link)
        if not link.is_gone:
            link.close()

    def _read(self, link: _Link) -> None:
        for _ in range(_AT_ONCE):
            try:
                letter = link.receive()
            except BlockingIOError:
                return
            if letter is None:
                self._end(link)
                return
            if letter.what == _ASK:
                task = self._loop.create_task(self._answer(link, letter.number, [letter.data]))
                link.serving[letter.number] = task
                task.add_done_callback(partial(_ended, link.serving, letter.number))
            elif letter.what == _STOP:
                if letter.number in link.serving:
                    link.serving[letter.number].cancel()
            elif (ended := link.asked.get(letter.number)) is not None and not ended.done():
                if letter.data is None:  # it was made, and asked again it would be made twice
                    text = "the answer of the worker that holds the sequence could not be opened: the process has no room left"
                    ended.set_exception(ServiceError(Kind.INTERNAL, text))
                else:
                    ended.set_result(letter.data)

    async def _answer(self, link: _Link, number: int, data: list[memoryview | None]) -> None:
        told = await self._made(data.pop())  # which lets go of it when it was read
        size = told.response.size if isinstance(told, Answered) else 0
        try:
            packed = await beside_the_loop(size, pack, told)
        except OSError as error:
            text = f"there is no room for the answer of the worker that holds the sequence: {error.strerror}"
            packed = pack(Told.of(ServiceError(Kind.INTERNAL, text)))
        link.send(_TELL, number, packed)

    async def _made(self, data: memoryview | None) -> Answered | Told | NotBegun:
        if data is None:
            text = "the worker that holds the sequence has no room for the request"
            return NotBegun(Told.of(ServiceError(Kind.OVERLOADED, text, 1)))
        # In place, for what comes first is to be first: beside its buffers, which are not touched, it is small.
        handed, asked = unpack(data)
        del data
        CURRENT.set(handed.trail)
        try:
            return await self._serve(handed, asked)
        except NotBegun as refused:
            return refused
        except Exception as error:
            if not isinstance(error, Error | ServiceError):
                _LOGGER.error("%s", handed.call, exc_info=error)
            return Told.of(error)


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _ended(serving: dict[int, asyncio.Task[None]], number: int, task: asyncio.Task[None]) -> None:
    del serving[number]
    if not task.cancelled() and task.exception() is not None:
        _LOGGER.error("an inference that was handed over has no answer", exc_info=task.exception())
