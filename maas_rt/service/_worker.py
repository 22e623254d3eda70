"""A worker: one of the processes that answer for a server. The supervisor starts it with the end of a channel, and tells it the rest."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._errors import Error
from ._channel import Channel
from ._core import Core
from ._guard import CORE, METRICS
from ._layout import Contents
from ._metrics import Metrics, Page
from ._mirror import is_url
from ._peers import Peers, State, follow
from ._places import SharedPlaces
from ._record import Entry
from ._repeated import Repeated
from ._repository import Repository
from ._sequences import Sequences
from ._server import (
    Settings,
    make_app,
    open_mirror,
    open_repository,
    prepare,
    repository_options,
    run,
    running,
    serve_until_told,
    tell_of,
)
from ._shared_limiter import ClientTable, SharedLimiter
from ._shelf import Superseded
from ._watch import Watch

if TYPE_CHECKING:
    from ._grpc_server import GrpcServer

_LOGGER = logging.getLogger(__name__)
_BEAT = 0.5  # seconds
_IDLE = 5.0  # seconds between two looks for what nobody asks for, at most


@dataclass(frozen=True)
class Task:
    """What a worker is told first. With it come the files of the page of metrics, of the clients' limits and of the places for sequences, and the
    sockets that listen.

    Args:
        number: of the worker, from 0 on.
        cpus: those that are meant for it.
        leads: it is the one that looks at the folder.
        state: what the others serve, and its number; None: nobody does yet.
        grpc: addresses at which all workers answer gRPC.
    """

    settings: Settings
    number: int
    workers: int
    cpus: int
    leads: bool
    state: tuple[State, int] | None
    grpc: tuple[tuple[str, int], ...]


def main() -> int:
    """The process. Its argument is the descriptor of its end of the channel."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the supervisor says when
    channel = Channel(socket.socket(fileno=int(sys.argv[1])))
    message = channel.receive()
    if message is None:
        return 1
    (task,), (page, table, places, *listening) = message.values, message.files
    try:
        with ExitStack() as ends:
            shared = Page(task.workers, descriptor=page), ClientTable(task.workers, descriptor=table)
            sequences = Sequences(places=SharedPlaces(worker=task.number, descriptor=places))
            worker = _Worker(task, channel, *shared, sequences, ends)
            worker.run([socket.socket(fileno=each) for each in listening])
    except (Error, OSError) as error:
        with suppress(OSError):  # nobody is there to be told
            channel.send("failed", str(error))
        return 1
    return 0


class _Worker:
    def __init__(
        self,
        task: Task,
        channel: Channel,
        page: Page,
        table: ClientTable,
        sequences: Sequences,
        ends: ExitStack,
    ) -> None:
        self._task = task
        self._settings = task.settings
        self._page = page
        self._ends = ends
        self._orphaned = False
        self._state = task.state
        self._prepared = ends.enter_context(prepare(task.settings))
        self._peers = Peers(channel, page, task.number, self._gone)
        metrics = Metrics(page, task.number, time.time_ns())
        limiter = SharedLimiter(task.settings.limits, table, task.number)
        repository = self._repository()
        self._app = make_app(task.settings, repository, self._prepared, metrics, limiter, self._peers, sequences)

    def run(self, sockets: list[socket.socket]) -> None:
        """Answers until it is told to end."""
        core = self._app[CORE]
        if self._state is None:
            self._peers.serve(core, self._lead)
            self._peers.publish()
            self._look()
        else:
            self._catch_up(core)
            self._peers.serve(core, self._lead)
            if self._task.leads:
                self._lead()
        run(self._answer(sockets))

    def _repository(self) -> Repository:
        shared: dict[str, Any] = {"shelf": self._peers, "others": self._peers, "cpus": self._task.cpus}
        while self._state is not None or not self._task.leads:
            if self._state is None:
                self._state = self._peers.join(None)
                assert self._state is not None
            begun, options = self._state[0].picture, repository_options(self._settings)
            try:
                return Repository(Path(self._settings.directory), **options, **shared, begun=begun)
            except Superseded:
                self._state = None
        repository = open_repository(self._settings, self._ends, **shared)
        tell_of(repository)
        return repository

    def _catch_up(self, core: Core) -> None:
        """Serves what the others do now: from then on they wait for this one."""
        assert self._state is not None
        follow(core, self._state[0])
        while (newer := self._peers.join(self._state)) is not None:
            self._state = newer
            with suppress(Superseded):
                follow(core, newer[0])

    async def _answer(self, sockets: list[socket.socket]) -> None:
        self._peers.link(self._app[CORE])
        beating = asyncio.create_task(self._beat())
        await serve_until_told(
            self._app,
            running(self._app, sockets, self._prepared.tls, is_ahead=partial(self._page.is_ahead, self._task.number)),
            self._grpc(),
            lambda: 0.0 if self._orphaned else self._settings.drain_delay,
            lambda: self._peers.tell("up"),
            lambda: self._peers.tell("closing"),
        )
        beating.cancel()

    async def _beat(self) -> None:
        """Shows the supervisor that the loop comes round."""
        while True:
            self._page.beat(self._task.number)
            await asyncio.sleep(_BEAT)

    def _grpc(self) -> GrpcServer | None:
        if not self._task.grpc:
            return None
        from ._grpc_server import GrpcServer

        settings, app = self._settings, self._app
        return GrpcServer(
            app[CORE], app[METRICS], self._task.grpc, settings.tls, largest=settings.max_body, shared=True
        )

    def _lead(self) -> None:
        """This worker looks at the folder from now on: the one that did is gone."""
        repository = self._app[CORE].repository
        repository.lead()
        try:
            if is_url(self._settings.directory):
                mirror = open_mirror(self._settings, self._ends)
                repository.look_in(mirror.folder, mirror.refresh)
        except Error as error:
            _LOGGER.error("what is served stays as it is: %s", error)
        self._look()

    def _look(self) -> None:
        if self._settings.watch:
            watch = Watch(_Led(self._app[CORE].repository, self._peers), self._settings.watch)
            self._ends.callback(watch.close)
        idle = self._settings.idle_unload
        if idle:
            looks = Repeated(self._app[CORE].repository.unload_idle, min(_IDLE, idle / 4), "maas_rt_idle")
            self._ends.callback(looks.close)

    def _gone(self) -> None:
        """The supervisor has died: its workers go at once, for a new one would find its ports taken. Or this worker has to go, for it serves what
        the others do no more."""
        self._orphaned = True
        os.kill(os.getpid(), signal.SIGTERM)


class _Led:
    """A repository whose changes all workers follow, for a Watch."""

    def __init__(self, repository: Repository, peers: Peers) -> None:
        self._repository = repository
        self._peers = peers

    def index(self, ready_only: bool = False) -> list[Entry]:
        return self._repository.index(ready_only)

    def reload(self, settle: Callable[[Contents], Contents]) -> list[Error]:
        errors = self._repository.reload(settle)
        self._peers.publish()
        return errors


if __name__ == "__main__":
    sys.exit(main())
