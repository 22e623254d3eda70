"""The process that watches over workers, without workers: what it tells those whom it takes for them."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from maas_rt.service import _supervisor, serve
from maas_rt.service._channel import Channel, Message
from maas_rt.service._limiter import Limits
from maas_rt.service._listen import Listen
from maas_rt.service._sealed import is_offered
from maas_rt.service._server import Settings
from maas_rt.service._supervisor import Patience, _Supervisor
from tests.service._versions import times

pytestmark = pytest.mark.skipif(
    not is_offered(), reason="workers share files in memory, which this system does not have"
)
SETTINGS = Settings(
    "models", Listen(), 1, 1 << 20, 0.0, 0.0, 0, 0.0, None, None, None, None, Limits(), None, False, False, "text", False, None, {}
)  # fmt: skip


@dataclass
class Process:
    """One that lives until it is ended."""

    returncode: int | None = None
    pid: int = 0
    signals: list[int] = field(default_factory=list)

    def poll(self) -> int | None:
        return self.returncode

    def wait(self) -> None:
        pass

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def send_signal(self, number: int) -> None:
        self.signals.append(number)


class World:
    """A supervisor, and the other ends of its channels: `say` is a worker's, `told` what it is told then."""

    def __init__(self, ends: ExitStack, workers: int = 3) -> None:
        self.supervisor = _Supervisor(SETTINGS, workers, [], [], Patience(), ends)
        self.ends: list[Channel] = []
        for each in self.supervisor._workers:
            each.channel, there = Channel.pair()
            ends.callback(there.close)
            self.ends.append(Channel(there))
            each.process = Process()  # type: ignore[assignment]
        self.supervisor._leader = 0

    def say(self, worker: int, name: str, *values: Any) -> None:
        self.ends[worker].send(name, *values)
        self.supervisor._read(self.supervisor._workers[worker])

    def told(self, worker: int) -> list[Message]:
        found = []
        while True:
            try:
                message = self.ends[worker].receive(wait=False)
            except BlockingIOError:
                return found
            assert message is not None
            found.append(message)

    def die(self, worker: int, status: int = -signal.SIGKILL) -> None:
        process: Any = self.supervisor._workers[worker].process
        process.returncode = status
        self.supervisor._bury()

    def signals(self, worker: int) -> list[int]:
        process: Any = self.supervisor._workers[worker].process
        return list(process.signals)


@pytest.fixture
def world() -> Iterator[World]:
    with ExitStack() as ends:
        yield World(ends)


def test_a_way_is_made_to_a_worker_that_is_there_and_to_no_other(world: World) -> None:
    world.say(0, "dial", 7, 1)
    (answer,) = world.told(0)
    assert (answer.name, answer.values, answer.files) == ("answer", (7,), ()) and not world.told(1)
    world.say(1, "up")
    world.say(0, "dial", 8, 1)
    (answer,), (called,) = world.told(0), world.told(1)
    assert answer.values == (8,) and called.name == "called"
    (here,), (there,) = answer.files, called.files
    os.write(here, b"hello")
    assert os.read(there, 9) == b"hello"
    os.close(here), os.close(there)


def test_a_way_that_cannot_be_made_ends_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    world.say(1, "up")
    monkeypatch.setattr(_supervisor.socket, "socketpair", fail)
    world.say(0, "dial", 7, 1)
    monkeypatch.undo()
    (answer,) = world.told(0)
    assert (answer.values, answer.files) == ((7,), ()) and not world.signals(1)


def test_a_worker_that_ends_waits_for_those_that_may_ask_it_and_no_longer(world: World) -> None:
    world.say(1, "finished", 3)  # it goes alone, for it cannot follow
    assert [each.values for each in world.told(1)] == [(3,)]
    world.supervisor._workers[1].has_finished = False
    world.supervisor._end()
    world.say(0, "finished", 4)
    world.say(1, "finished", 5)
    assert not world.told(0) and not world.told(1)
    world.die(2)
    assert [each.values for each in world.told(0)] == [(4,)] and [each.values for each in world.told(1)] == [(5,)]


def test_who_joins_when_there_is_no_leader_is_one(world: World) -> None:
    world.say(0, "state", 1, "what is served", frozenset())
    world.told(0)
    world.die(0)  # nobody has followed it yet
    assert world.supervisor._leader is None
    world.say(1, "join", 1, 0)
    assert [each.values for each in world.told(1)] == [(1, ("what is served", 1))]
    world.say(1, "change", 2, "load", ("m",))
    (answer,) = world.told(1)
    assert "is being started" in answer.values[1].text
    world.say(1, "join", 3, 1)
    assert [each.name for each in world.told(1)] == ["answer", "lead"]
    world.say(2, "join", 1, 1)
    assert [each.name for each in world.told(2)] == ["answer"]
    world.say(2, "change", 2, "load", ("m",))
    assert [(each.name, each.values[1:]) for each in world.told(1)] == [("make", ("load", ("m",)))]


def test_a_worker_that_cannot_be_told_is_ended(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Or who waits for it would wait for ever."""
    for worker in range(3):
        world.say(worker, "state" if worker == 0 else "join", 1, *(("s", frozenset()) if worker == 0 else (1,)))
    send = Channel.send

    def fails(channel: Channel, name: str, *values: Any, **more: Any) -> None:
        if name == "state" and channel is world.supervisor._workers[1].channel:
            raise OSError(errno.EMFILE, "Too many open files")
        send(channel, name, *values, **more)

    monkeypatch.setattr(Channel, "send", fails)
    world.say(0, "state", 2, "t", frozenset())
    assert world.signals(1) == [signal.SIGKILL] and not world.signals(2)
    assert "worker 1 cannot be told (Too many open files): it is ended" in caplog.text


def test_a_worker_that_does_nothing_is_ended_and_no_other(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(_supervisor.time, "monotonic", lambda: now[0])
    supervisor, page = world.supervisor, world.supervisor._page
    supervisor._next_look = now[0]
    for worker in (0, 1):  # the third has yet to load
        world.say(worker, "up")
    for _ in range(10):
        page.beat(0)
        supervisor._end_what_hangs()
        now[0] += 5
    page.beat(0)
    now[0] += 3600  # all of them were stopped
    for _ in range(10):
        supervisor._end_what_hangs()
    assert not world.signals(1)
    page.beat(0)
    now[0] += 5
    supervisor._end_what_hangs()
    assert world.signals(1) == [signal.SIGKILL] and not world.signals(0) and not world.signals(2)


def test_places_of_a_worker_that_has_died_are_free(world: World) -> None:
    from maas_rt.service._places import SharedPlaces

    own = world.supervisor._sequences
    of_worker = SharedPlaces(worker=2, descriptor=os.dup(own.descriptor))
    held = [of_worker.take("a") for _ in range(128)]
    world.die(2)
    assert [of_worker.take("a") for _ in range(128)] == held


# ---- what does not start


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(_supervisor, "Patience", lambda: Patience(3, 0.01))
    (tmp_path / "m.mrt").write_bytes(times(1))
    return tmp_path


def test_a_process_that_cannot_be_made_is_tried_again(
    models: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", fail)
    assert serve(str(models), listen=Listen(port=0), workers=2) == 1
    assert "worker 0 cannot be started (Resource temporarily unavailable), which is tried again" in caplog.text
    assert "has failed 3 times before it could answer: the server ends" in caplog.text


def test_a_worker_that_cannot_be_told_its_task_does_not_wait_for_it(
    models: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(Channel, "send", fail)
    assert serve(str(models), listen=Listen(port=0), workers=2) == 1
    assert "cannot be told (Too many open files): it is ended" in caplog.text


def test_an_end_before_a_worker_answers_is_no_fault(
    models: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_supervisor, "_PROGRAM", "import time; time.sleep(600)")
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
    before = len(children.read_text().split())

    def end() -> None:
        limit = time.monotonic() + 60
        while len(children.read_text().split()) < before + 2 and time.monotonic() < limit:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    ending = threading.Thread(target=end)
    ending.start()
    assert serve(str(models), listen=Listen(port=0), workers=2) == 0
    ending.join()
    assert "has ended with status" not in caplog.text
