"""The process that watches over workers: it opens the sockets, starts the workers and starts them again, passes signals and messages on, and ends
when they have. It has no models, no loop and no threads, and does nothing that takes time: nothing that a request or a file holds can end it.
"""

from __future__ import annotations

import logging
import os
import resource
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace

from .._errors import Error, InvalidArgumentError
from .._native import cpu_count
from ._channel import Channel, Message
from ._errors import Kind, Told
from ._listen import place, remove, unix_paths
from ._metrics import Page
from ._peers import State
from ._places import SharedPlaces
from ._sealed import is_offered
from ._server import Settings, url
from ._shared_limiter import ClientTable
from ._worker import Task

_LOGGER = logging.getLogger(__name__)
_PROGRAM = "import sys; number, *sys.path[:] = sys.argv[1:]; sys.argv[1:] = [number]; from maas_rt.service._worker import main; sys.exit(main())"


@dataclass(frozen=True)
class Patience:
    """With workers that die. Times are seconds.

    Args:
        failures: a worker may die so often in a row before it answers; then all ends.
        pause: before it is started again, after the second such death; twice that after each further one.
        lived: one that has answered for so long has not died at once.
        longest: pause.
        look: between two looks whether workers do anything.
        silent: a worker whose loop has not come round for so long hangs, and is ended.
    """

    failures: int = 8
    pause: float = 0.1
    lived: float = 10.0
    longest: float = 8.0
    look: float = 5.0
    silent: float = 60.0


def supervise(
    settings: Settings,
    workers: int,
    sockets: Sequence[socket.socket],
    grpc: Sequence[socket.socket],
    patience: Patience | None = None,
) -> int:
    """Serves with so many workers until SIGINT or SIGTERM, and until all of them have ended. Returns the exit status: 1 if it has ended because a
    worker could not be started.

    Args:
        sockets: that listen; they are closed.
        grpc: that are bound where gRPC is to be answered.

    Raises:
        InvalidArgumentError: this system, or an option, goes with one worker alone.
        Error: a worker says why it cannot serve, before all have served.
    """
    if not is_offered():
        raise InvalidArgumentError(
            "more than one worker needs Linux, whose files in memory they share; say --workers 1"
        )
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # each version's file is open here
    with ExitStack() as ends:
        return _Supervisor(settings, workers, sockets, grpc, patience or Patience(), ends).run()


@dataclass
class _Worker:
    """A place for a worker, and the process that has it."""

    number: int
    process: subprocess.Popen[bytes] | None = None
    channel: Channel | None = None
    is_up: bool = False
    has_joined: bool = False  # changes wait for it
    has_finished: bool = False  # it asks nothing any more
    beat: int = 0  # the last that was seen of it
    missed: int = 0  # looks since
    since: float = 0.0  # it is up, or is to be started
    failures: int = 0  # deaths in a row at once, or before it was up
    said: str = ""  # why it could not serve


@dataclass
class _Change:
    """A change that is told to the workers."""

    leader: int
    number: int  # of the leader's question
    left: set[int]  # those that are yet to follow
    told: list[str] = field(default_factory=list)  # why some could not


@dataclass
class _Gathering:
    """What a worker asks of all others."""

    asking: _Worker
    number: int  # of its question
    left: set[int]
    told: list[object] = field(default_factory=list)


class _Supervisor:
    def __init__(
        self,
        settings: Settings,
        workers: int,
        sockets: Sequence[socket.socket],
        grpc: Sequence[socket.socket],
        patience: Patience,
        ends: ExitStack,
    ) -> None:
        cpus = max(1, cpu_count() // workers)
        if settings.threads * workers > cpu_count():
            _LOGGER.warning(
                "%d workers of %d threads are more than the %d CPUs that there are: each run is slower for it",
                workers,
                settings.threads,
                cpu_count(),
            )
        self._settings = replace(settings, threads=settings.threads or cpus)
        self._cpus = cpus
        self._patience = patience
        self._page = Page(workers)
        self._table = ClientTable(workers)
        self._sequences = SharedPlaces()
        self._workers = [_Worker(number) for number in range(workers)]
        self._sockets = sockets
        self._paths = unix_paths(sockets)
        self._places = [url(each, settings.tls is not None) for each in sockets]
        self._grpc = tuple(each.getsockname()[:2] for each in grpc)
        self._signals: list[int] = []
        self._selector = ends.enter_context(selectors.DefaultSelector())
        self._wake_up(ends)
        self._is_ending = False
        self._has_served = False
        self._status = 0
        self._leader: int | None = None
        self._state: State | None = None
        self._generation = 0
        self._files: dict[str, int] = {}
        self._waiting: list[tuple[_Worker, int]] = []  # who has joined before there is a state
        self._changes: dict[int, _Change] = {}  # by their generation
        # Changes that the leader makes: who has asked, under which number.
        self._asked: dict[int, tuple[_Worker, int]] = {}
        self._gatherings: dict[int, _Gathering] = {}
        self._number = 0
        self._finished: list[tuple[_Worker, int]] = []  # those who wait for the others' end
        self._next_look = time.monotonic() + patience.look
        ends.callback(self._close)

    def run(self) -> int:
        """Until all have ended."""
        while not self._is_ending or any(each.process for each in self._workers):
            self._start_due()
            for key, _ in self._selector.select(self._until_due()):
                if key.data is None:
                    os.read(key.fd, 4096)
                else:
                    self._read(key.data)
            while self._signals:
                self._on_signal(self._signals.pop(0))
            self._end_what_hangs()
            self._bury()
        return self._status

    # ---- processes

    def _wake_up(self, ends: ExitStack) -> None:
        """Signals are noted, and wake the loop up."""
        here, there = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        ends.callback(os.close, here)
        ends.callback(os.close, there)
        self._selector.register(here, selectors.EVENT_READ, None)
        ends.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(there, warn_on_full_buffer=False))
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
            before = signal.signal(number, lambda received, _: self._signals.append(received))
            ends.callback(signal.signal, number, before)

    def _on_signal(self, number: int) -> None:
        if number == signal.SIGCHLD:
            return
        if not self._is_ending:
            self._end()
        else:  # their delay is over
            self._forward(signal.SIGTERM)

    def _end(self) -> None:
        self._is_ending = True
        self._forward(signal.SIGTERM)
        for each in self._sockets:
            each.close()  # the workers', which still take who comes, are the last ones now

    def _forward(self, number: int) -> None:
        for each in self._workers:
            if each.process is not None:
                each.process.send_signal(number)

    def _start_due(self) -> None:
        if self._is_ending:
            return
        for each in self._workers:
            if each.process is None and time.monotonic() >= each.since:
                self._start(each)

    def _until_due(self) -> float | None:
        due = [each.since for each in self._workers if each.process is None and not self._is_ending]
        return max(0.0, min([*due, self._next_look]) - time.monotonic())

    def _end_what_hangs(self) -> None:
        """A worker that does nothing any more, its loop stopped or waiting for ever, is as good as dead. Looks are counted, and not seconds: where all
        processes were stopped for a while nobody has hung."""
        now, patience = time.monotonic(), self._patience
        if now < self._next_look:
            return
        self._next_look = now + patience.look
        for each in self._workers:
            if each.process is None or not each.is_up or each.has_finished:
                continue
            beat = self._page.beat_of(each.number)
            each.missed = each.missed + 1 if beat == each.beat else 0
            each.beat = beat
            if each.missed * patience.look >= patience.silent:
                _LOGGER.error("worker %d has done nothing for %g seconds: it is ended", each.number, patience.silent)
                each.process.kill()

    def _start(self, worker: _Worker) -> None:
        if self._leader is None:
            self._leader = worker.number
        try:
            worker.channel, worker.process = _begun()
        except OSError as error:  # no memory, no process, no descriptor: there may be later
            text = "worker %d cannot be started (%s), which is tried again"
            _LOGGER.error(text, worker.number, error.strerror or error)
            self._fail(worker, False)
            return
        state = None if self._state is None else (self._state, self._generation)
        leads = worker.number == self._leader
        task = Task(self._settings, worker.number, len(self._workers), self._cpus, leads, state, self._grpc)
        shared = [self._page.descriptor, self._table.descriptor, self._sequences.descriptor]
        self._tell(worker, "task", task, files=[*shared, *(each.fileno() for each in self._sockets)])
        self._selector.register(worker.channel, selectors.EVENT_READ, worker)

    def _bury(self) -> None:
        """Those that have died; as PID 1 those, too, that were left to it."""
        for each in self._workers:
            if each.process is not None and each.process.poll() is not None:
                self._on_death(each, each.process.returncode)
        own = {each.process.pid for each in self._workers if each.process is not None}
        while os.getpid() == 1:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if found is None or found.si_pid in own:
                return
            os.waitpid(found.si_pid, 0)

    def _on_death(self, worker: _Worker, status: int) -> None:
        self._read(worker)  # its last words
        assert worker.channel is not None
        with suppress(KeyError):
            self._selector.unregister(worker.channel)
        worker.channel.close()
        was_up, lived = worker.is_up, time.monotonic() - worker.since
        worker.process, worker.channel, worker.is_up, worker.has_joined = None, None, False, False
        worker.has_finished, worker.missed = False, 0
        self._page.end(worker.number)
        self._table.end(worker.number)
        self._sequences.end(worker.number)
        self._forget(worker)
        if self._is_ending:
            if status and (was_up or status != -signal.SIGTERM):  # until it answers it has nothing to finish
                _LOGGER.error("worker %d has ended with status %d", worker.number, status)
            return
        why = worker.said or (f"signal {-status}" if status < 0 else f"status {status}")
        _LOGGER.error("worker %d has died (%s) and is started again", worker.number, why)
        if worker.said and not self._has_served:
            raise Error(worker.said)
        worker.said = ""
        self._fail(worker, was_up, lived)

    def _fail(self, worker: _Worker, was_up: bool, lived: float = 0.0) -> None:
        """A worker is gone, and is started again, soon or later."""
        is_at_once = not was_up or lived < self._patience.lived
        worker.failures = worker.failures + 1 if is_at_once else 0
        if not was_up and worker.failures >= self._patience.failures:
            _LOGGER.error(
                "worker %d has failed %d times before it could answer: the server ends", worker.number, worker.failures
            )
            self._status = 1
            self._end()
            return
        pause = self._patience.pause * 2 ** (worker.failures - 2) if worker.failures > 1 else 0.0
        worker.since = time.monotonic() + min(pause, self._patience.longest)
        self._page.restart(worker.number)

    def _close(self) -> None:
        """Where this ends before they have, they see it: their channels are closed."""
        for each in self._workers:
            if each.channel is not None:
                each.channel.close()
            if each.process is not None:
                each.process.terminate()
                each.process.wait()
        for descriptor in self._files.values():
            os.close(descriptor)
        remove(self._paths)

    # ---- messages

    def _read(self, worker: _Worker) -> None:
        while worker.channel is not None:
            try:
                message = worker.channel.receive(wait=False)
            except BlockingIOError:
                return
            except OSError as error:
                _LOGGER.error("worker %d is ended, for what it tells cannot be taken: %s", worker.number, error)
                assert worker.process is not None
                worker.process.kill()
                return
            if message is None:
                with suppress(KeyError):
                    self._selector.unregister(worker.channel)
                return
            getattr(self, f"_on_{message.name}")(worker, message)

    def _tell(self, worker: _Worker, name: str, *values: object, files: Sequence[int] = ()) -> None:
        if worker.channel is None:
            return
        try:
            worker.channel.send(name, *values, files=files, wait=False)
        except BlockingIOError:  # it has read nothing for a long time
            _LOGGER.error("worker %d does not read what it is told: it is ended", worker.number)
            assert worker.process is not None
            worker.process.kill()
        except ConnectionError:
            pass  # it has died, which will be seen
        except OSError as error:  # this process has no descriptors or no memory left
            _LOGGER.error("worker %d cannot be told (%s): it is ended", worker.number, error.strerror or error)
            assert worker.process is not None
            worker.process.kill()

    def _answer(self, worker: _Worker, number: int, *values: object, files: Sequence[int] = ()) -> None:
        self._tell(worker, "answer", number, *values, files=files)

    def _on_failed(self, worker: _Worker, message: Message) -> None:
        (worker.said,) = message.values

    def _on_up(self, worker: _Worker, message: Message) -> None:
        worker.is_up, worker.since = True, time.monotonic()
        self._page.begin(worker.number)
        if not self._has_served and all(each.is_up for each in self._workers):
            self._has_served = True
            for where in self._places:
                _LOGGER.info("listening on %s/v2 with %d workers (stop with Ctrl-C)", where, len(self._workers))
            for host, port in self._grpc:
                scheme = "grpc" if self._settings.tls is None else "grpcs"
                _LOGGER.info("listening on %s://%s (gRPC)", scheme, place(host, port))

    def _on_closing(self, worker: _Worker, message: Message) -> None:
        """It takes nobody who comes any more: a new server may take the place."""
        if self._is_ending:
            remove(self._paths)
            self._paths = []

    def _on_dial(self, worker: _Worker, message: Message) -> None:
        """A way to another worker, if that is there."""
        number, other = message.values
        if not self._workers[other].is_up:
            self._answer(worker, number)
            return
        try:
            here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError as error:  # this process has no room: it goes on nevertheless
            _LOGGER.error("worker %d cannot be reached from worker %d: %s", other, worker.number, error.strerror)
            self._answer(worker, number)
            return
        with here, there:
            self._tell(self._workers[other], "called", files=[there.fileno()])
            self._answer(worker, number, files=[here.fileno()])

    def _on_finished(self, worker: _Worker, message: Message) -> None:
        """It waits for the others, which may have something to ask of it; one that goes alone does not."""
        (number,) = message.values
        worker.has_finished = True
        if not self._is_ending:
            self._answer(worker, number)
            return
        self._finished.append((worker, number))
        self._let_go()

    def _let_go(self) -> None:
        if any(each.process is not None and not each.has_finished for each in self._workers):
            return
        for each, number in self._finished:
            self._answer(each, number)
        self._finished.clear()

    def _on_get(self, worker: _Worker, message: Message) -> None:
        number, key = message.values
        self._answer(worker, number, files=[self._files[key]] if key in self._files else ())

    def _on_files(self, worker: _Worker, message: Message) -> None:
        (keys,) = message.values
        self._files.update(zip(keys, message.files))

    def _on_join(self, worker: _Worker, message: Message) -> None:
        number, generation = message.values
        if self._state is None:
            self._waiting.append((worker, number))
        elif generation == self._generation:
            worker.has_joined = True
            self._answer(worker, number, None)
            if self._leader is None:  # the last one has died before another could follow it
                self._leader = worker.number
                self._tell(worker, "lead")
        else:
            self._answer(worker, number, (self._state, self._generation))

    def _on_state(self, worker: _Worker, message: Message) -> None:
        """What the leader serves now."""
        number, self._state, keys = message.values
        worker.has_joined = True
        self._generation += 1
        for key in self._files.keys() - keys:
            os.close(self._files.pop(key))
        others = [each for each in self._workers if each.has_joined and each is not worker]
        change = _Change(worker.number, number, {each.number for each in others})
        self._changes[self._generation] = change
        for each in others:
            self._tell(each, "state", self._generation, self._state)
        for each, asked in self._waiting:
            self._answer(each, asked, (self._state, self._generation))
        self._waiting.clear()
        self._settle(self._generation)

    def _on_followed(self, worker: _Worker, message: Message) -> None:
        generation, text = message.values
        change = self._changes.get(generation)
        if text:
            _LOGGER.error("worker %d cannot follow a change (%s) and is started again", worker.number, text)
            if change is not None:
                change.told.append(f"worker {worker.number} could not follow, and is started again: {text}")
            self._tell(worker, "leave")
            worker.has_joined = False
        if change is not None:
            change.left.discard(worker.number)
            self._settle(generation)

    def _settle(self, generation: int) -> None:
        change = self._changes[generation]
        if not change.left:
            del self._changes[generation]
            self._answer(self._workers[change.leader], change.number, "; ".join(change.told))

    def _on_change(self, worker: _Worker, message: Message) -> None:
        number, what, values = message.values
        leader = None if self._leader is None else self._workers[self._leader]
        if leader is None or not leader.has_joined:
            self._answer(worker, number, _unmade("the worker that makes changes is being started"))
            return
        self._number += 1
        self._asked[self._number] = worker, number
        self._tell(leader, "make", self._number, what, values)

    def _on_made(self, worker: _Worker, message: Message) -> None:
        number, outcome = message.values
        asked = self._asked.pop(number, None)
        if asked is not None:
            self._answer(*asked, outcome)

    def _on_gather(self, worker: _Worker, message: Message) -> None:
        asked, what = message.values
        others = [each for each in self._workers if each.has_joined and each is not worker]
        self._number += 1
        self._gatherings[self._number] = _Gathering(worker, asked, {each.number for each in others})
        for each in others:
            self._tell(each, "count", self._number, what)
        self._gathered(self._number)

    def _on_counted(self, worker: _Worker, message: Message) -> None:
        number, entries = message.values
        gathering = self._gatherings.get(number)
        if gathering is not None:
            gathering.told += entries
            gathering.left.discard(worker.number)
            self._gathered(number)

    def _gathered(self, number: int) -> None:
        gathering = self._gatherings[number]
        if not gathering.left:
            del self._gatherings[number]
            self._answer(gathering.asking, gathering.number, gathering.told)

    def _forget(self, worker: _Worker) -> None:
        """Nobody waits for a worker that has died; if it was the leader, another one is."""
        self._waiting = [each for each in self._waiting if each[0] is not worker]
        self._finished = [each for each in self._finished if each[0] is not worker]
        self._let_go()
        for number, asked in list(self._asked.items()):
            if asked[0] is worker:
                del self._asked[number]
        for generation, change in list(self._changes.items()):
            if change.leader == worker.number:
                del self._changes[generation]
                continue
            change.left.discard(worker.number)
            self._settle(generation)
        for number, gathering in list(self._gatherings.items()):
            gathering.left.discard(worker.number)
            if gathering.asking is worker:
                del self._gatherings[number]
            else:
                self._gathered(number)
        if self._leader != worker.number:
            return
        for each, number in self._asked.values():
            self._answer(each, number, _unmade("the worker that was making the change has died"))
        self._asked.clear()
        self._leader = next((each.number for each in self._workers if each.has_joined), None)
        if self._leader is not None:
            self._tell(self._workers[self._leader], "lead")


def _begun() -> tuple[Channel, subprocess.Popen[bytes]]:
    """A worker's process, and the way to it. Raises OSError."""
    channel, there = Channel.pair()
    with there:
        command = [sys.executable, "-c", _PROGRAM, str(there.fileno()), *sys.path]
        try:
            # In a session of its own: Ctrl-C is for this process, which tells the others.
            return channel, subprocess.Popen(command, pass_fds=[there.fileno()], start_new_session=True)
        except BaseException:
            channel.close()
            raise


def _unmade(text: str) -> Told:
    return Told(Kind.NOT_READY.name, f"{text}: the change may not have been made; look, and ask again", 1)
