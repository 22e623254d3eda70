"""One worker's side of what all workers of a server do together: changes, and the files that they share.

One of them, the leader, looks at the folder and makes the changes that anybody is asked for; what it serves then it tells the supervisor (a State),
which tells the others. They follow, and only then the change is made.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import secrets
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from .._errors import Error
from ._calls import Answered, Handed, Key
from ._channel import MOST_FILES, Channel, Message
from ._core import Core
from ._errors import Kind, ServiceError, Told
from ._links import Links
from ._metrics import Page
from ._picture import Picture
from ._regions import KeptRegion
from ._requests import InferRequest
from ._sealed import sealed_copy
from ._shelf import Superseded
from ._uses import Uses

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class State:
    """What all workers are to be alike in."""

    picture: Picture
    logs: dict[str, Any]
    traces: dict[str | None, dict[str, Any]]
    regions: tuple[KeptRegion, ...]

    @property
    def keys(self) -> frozenset[str]:
        """The files that it names."""
        return self.picture.keys | {each.file for each in self.regions}


class Peers:
    """The way to the supervisor and, by it, to the other workers: a Core's Peers, and a Repository's Shelf and Others. Any thread may call anything.

    Args:
        page: which worker is there.
        worker: the number of this one.
        gone: called when the supervisor is gone, or wants another one in this one's place.
    """

    def __init__(self, channel: Channel, page: Page, worker: int, gone: Callable[[], None]) -> None:
        self._channel = channel
        self._page = page
        self._worker = worker
        self._links: Links | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._gone = gone
        self._lock = threading.Lock()  # of the tables
        self._telling = threading.Lock()  # one state at a time
        self._asked: dict[int, Future[Message]] = {}
        self._number = 0
        # Files that this worker has put, of which nobody was told yet, and those that it is about to map.
        self._kept: dict[str, int] = {}
        self._told: frozenset[str] = frozenset()  # files that the supervisor has
        self._last: State | None = None
        self._followed: Future[Message] | None = None  # the last one that this worker has told of
        self._core: Core | None = None
        self._lead: Callable[[], None] = lambda: None
        self._work: SimpleQueue[Callable[[], None]] = SimpleQueue()
        threading.Thread(target=self._receive, name="maas_rt_peers", daemon=True).start()

    # ---- a Core's

    @property
    def complete(self) -> bool:
        """Whether all workers answer."""
        return self._page.complete

    def change(self, what: str, values: tuple[Any, ...]) -> Future[Any]:
        """Has a change made by the leader, and followed by all."""
        made: Future[Any] = Future()
        made.set_running_or_notify_cancel()

        def ended(asked: Future[Message]) -> None:
            try:
                (outcome,) = asked.result().values
            except Exception as error:
                made.set_exception(error)
                return
            if outcome is None:
                made.set_result(None)
            else:
                made.set_exception(outcome.error())

        self._ask("change", what, values).add_done_callback(ended)
        return made

    def statistics(self) -> Future[list[dict[str, Any]]]:
        """Those of all other workers."""
        told: Future[list[dict[str, Any]]] = Future()

        def ended(asked: Future[Message]) -> None:
            try:
                told.set_result(asked.result().values[0])
            except Exception as error:
                told.set_exception(error)

        told.set_running_or_notify_cancel()
        self._ask("gather", "statistics").add_done_callback(ended)
        return told

    def holder(self, key: Key) -> int | None:
        """Which worker holds a sequence, by a hash of its key over all that there should be: while one is being started nobody else has its sequences,
        and so no sequence has two states. None: this one."""
        digest = hashlib.blake2b(ascii(key).encode(), digest_size=8).digest()
        number = int.from_bytes(digest, "little") % self._page.workers
        return None if number == self._worker else number

    def hand_over(self, holder: int, key: Key, handed: Handed, asked: list[InferRequest]) -> asyncio.Task[Answered]:
        """Has another worker make an inference, as Links.hand_over does; on the loop."""
        assert self._links is not None
        return self._links.hand_over(holder, key, handed, asked)

    async def finished(self) -> None:
        """This worker asks nothing any more. Returns when no worker does, or it goes alone."""
        with suppress(ServiceError):  # the supervisor is gone, and so are the others
            await asyncio.wrap_future(self._ask("finished"))
        if self._links is not None:
            self._links.close()

    # ---- a Repository's

    def put(self, path: Path) -> tuple[str, int]:
        """A file as it is now, its key and its descriptor."""
        key, descriptor = secrets.token_hex(8), sealed_copy(path)
        with self._lock:
            self._kept[key] = descriptor
        return key, descriptor

    def get(self, key: str) -> int:
        """The file of a key, from the supervisor."""
        with self._lock:
            if key in self._kept:
                return self._kept[key]
        files = self._ask("get", key).result().files
        if not files:
            raise Superseded(key)
        with self._lock:
            self._kept[key] = files[0]
        return files[0]

    def share(self, descriptor: int) -> str:
        """A file that is open here: its key."""
        key = secrets.token_hex(8)
        with self._lock:
            self._kept[key] = os.dup(descriptor)
        return key

    def drop(self, key: str) -> None:
        """It is mapped, or refused."""
        with self._lock:
            descriptor = self._kept.pop(key, None)
        if descriptor is not None:
            os.close(descriptor)

    @property
    def processes(self) -> int:
        """All workers."""
        return self._page.workers

    def uses(self) -> list[Uses]:
        """Of each other worker."""
        (told,) = self._ask("gather", "uses").result().values
        return list(told)

    def wake(self, name: str, number: int) -> Future[Any]:
        """Has the leader load a version."""
        return self.change("wake", (name, number))

    # ---- a worker's

    def join(self, state: tuple[State, int] | None) -> tuple[State, int] | None:
        """With what all serve, and its number: this worker is one of those that changes wait for, from now on. With less than that it gets what
        they serve, as soon as there is something, and asks again."""
        newer: tuple[State, int] | None
        (newer,) = self._ask("join", 0 if state is None else state[1]).result().values
        if newer is None and state is not None:
            self._last, self._told = state[0], state[0].keys
        return newer

    def serve(self, core: Core, lead: Callable[[], None]) -> None:
        """Makes and follows changes from now on; `lead` is called where this worker becomes the leader."""
        self._core, self._lead = core, lead
        threading.Thread(target=self._do, name="maas_rt_following", daemon=True).start()

    def link(self, core: Core) -> None:
        """Inferences are handed over, and taken over, from now on; on the loop."""
        self._loop, self._links = asyncio.get_running_loop(), Links(self._dial, core.take_over)

    def _dial(self, worker: int) -> Future[socket.socket | None]:
        made: Future[socket.socket | None] = Future()
        made.set_running_or_notify_cancel()

        def ended(asked: Future[Message]) -> None:
            files = () if asked.exception() is not None else asked.result().files
            made.set_result(socket.socket(fileno=files[0]) if files else None)

        self._ask("dial", worker).add_done_callback(ended)
        return made

    def _called(self, descriptor: int) -> None:
        end = socket.socket(fileno=descriptor)
        if self._loop is None or self._links is None:
            end.close()
            return
        try:
            self._loop.call_soon_threadsafe(self._links.take, end)
        except RuntimeError:  # the loop is closed
            end.close()

    def tell(self, name: str, *values: Any) -> None:
        """A message to the supervisor; one that is gone needs none."""
        try:
            self._channel.send(name, *values)
        except OSError:
            _LOGGER.debug("the supervisor is gone")

    def publish(self) -> None:
        """Tells all what this worker serves, and waits until they do, too; only the leader has something to tell.

        Raises:
            ServiceError: not all of them could.
        """
        assert self._core is not None
        with self._telling:
            core = self._core
            regions = () if core.regions is None else core.regions.kept()
            state = State(core.repository.picture(), core.logs.kept(), core.traces.kept(), regions)
            if state != self._last:
                self._send_files(sorted(state.keys - self._told))
                self._followed = self._ask("state", state, state.keys)
                self._last, self._told = state, state.keys
            followed = self._followed
        (text,) = ("",) if followed is None else followed.result().values
        if text:
            raise ServiceError(Kind.INTERNAL, text)

    def _send_files(self, keys: list[str]) -> None:
        """One that has gone meanwhile is missing, and in the next state, which will be told, nobody asks for it."""
        with self._lock:
            kept = [key for key in keys if key in self._kept]
            for begin in range(0, len(kept), MOST_FILES):
                some = kept[begin : begin + MOST_FILES]
                self._channel.send("files", some, files=[self._kept[key] for key in some])
        for key in kept:
            self.drop(key)

    # ---- messages

    def _ask(self, name: str, *values: Any) -> Future[Message]:
        answer: Future[Message] = Future()
        with self._lock:
            self._number += 1
            number = self._number
            self._asked[number] = answer
        try:
            self._channel.send(name, number, *values)
        except OSError:
            self._fail(number)
        return answer

    def _fail(self, number: int) -> None:
        with self._lock:
            answer = self._asked.pop(number, None)
        if answer is not None:
            answer.set_exception(ServiceError(Kind.NOT_READY, "the server goes away", 1))

    def _receive(self) -> None:
        while True:
            try:
                message = self._channel.receive()
            except OSError:
                message = None
            if message is None:
                break
            if message.name == "answer":
                number, *values = message.values
                with self._lock:
                    answer = self._asked.pop(number, None)
                if answer is None:  # it could not be asked, or so it seemed
                    message.close()
                else:
                    answer.set_result(Message("answer", tuple(values), message.files))
            elif message.name == "leave":
                self._gone()
            elif message.name == "called":
                self._called(message.files[0])
            elif message.name == "count":  # here: who waits for it waits for no load
                self.tell("counted", message.values[0], self._counted(message.values[1]))
            else:
                self._work.put(_bound(getattr(self, f"_on_{message.name}"), message.values))
        for number in list(self._asked):
            self._fail(number)
        self._gone()

    def _counted(self, what: str) -> list[Any]:
        if self._core is None:
            return []
        return self._core.all_statistics() if what == "statistics" else [self._core.repository.uses()]

    def _do(self) -> None:
        while True:
            self._work.get()()

    def _on_lead(self) -> None:
        self._lead()

    def _on_make(self, number: int, what: str, values: tuple[Any, ...]) -> None:
        """A change, of which somebody is asked in some worker."""
        assert self._core is not None
        try:
            made = self._core.make(what, values)
        except ServiceError as error:  # it goes away
            self.tell("made", number, _outcome(error))
            return
        made.add_done_callback(lambda _: threading.Thread(target=self._made, args=(number, made), daemon=True).start())

    def _made(self, number: int, made: Future[Any]) -> None:
        """Outside of the thread that makes changes: the next one may begin while others follow this one."""
        error = made.exception()
        try:
            self.publish()  # one that has failed may have changed something, too
        except (ServiceError, OSError) as untold:
            error = error or untold
        self.tell("made", number, None if error is None else _outcome(error))

    def _on_state(self, number: int, state: State) -> None:
        """The leader serves something else now."""
        assert self._core is not None
        text = ""
        try:
            follow(self._core, state)
            self._last, self._told = state, state.keys
        except Superseded:
            pass
        except Exception as error:
            if not isinstance(error, Error | OSError):
                _LOGGER.error("a change cannot be followed", exc_info=error)
            text = str(error) or type(error).__name__
        self.tell("followed", number, text)


def follow(core: Core, state: State) -> None:
    """Serves what another worker does. Raises what Repository.follow does."""
    core.repository.follow(state.picture)
    core.logs.keep(state.logs)
    core.traces.keep(state.traces)
    if core.regions is not None:
        core.regions.keep(state.regions)


def _bound(function: Callable[..., None], values: tuple[Any, ...]) -> Callable[[], None]:
    return lambda: function(*values)


def _outcome(error: BaseException) -> Told:
    """An error, for another process."""
    if not isinstance(error, Error | ServiceError):
        _LOGGER.error("a change has failed", exc_info=error)
    return Told.of(error)
