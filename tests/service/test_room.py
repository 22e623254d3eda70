"""The memory for models where several processes serve the same: here they are repositories of one, whose leader decides for all."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from maas_rt import trust
from maas_rt.service import Repository
from maas_rt.service._errors import Kind, ServiceError
from maas_rt.service._picture import Picture
from maas_rt.service._record import State
from maas_rt.service._sealed import is_offered, sealed_copy
from maas_rt.service._shelf import Superseded
from maas_rt.service._uses import Uses
from tests.service._versions import times
from tests.service.test_memory import SIZE, _asked_again, _models, _refused
from tests.service.test_repository import _ask, _put, _states

pytestmark = pytest.mark.skipif(
    not is_offered(), reason="workers share files in memory, which this system does not have"
)
_SECOND = 1_000_000_000


class Fleet:
    """The repositories, and the files that they share: a Shelf and Others for each of them."""

    def __init__(self, root: Path, processes: int = 2, **options: Any) -> None:
        self.processes = processes
        self._files: dict[str, int] = {}
        self._last: Picture | None = None
        self._changing = threading.RLock()
        self.before_publish: Callable[[], object] = lambda: None
        self.all: list[Repository] = []
        self.all.append(Repository(root, shelf=self, others=self, **options))
        for _ in range(1, processes):
            self.all.append(Repository(root, shelf=self, others=self, begun=self.leader.picture(), **options))

    @property
    def leader(self) -> Repository:
        return self.all[0]

    def states(self) -> dict[str, State]:
        """Those of all, when the others have followed the leader."""
        end = time.monotonic() + 60
        while True:
            found = [_states(each) for each in self.all]
            if all(each == found[0] for each in found):
                return found[0]
            assert time.monotonic() < end, found
            time.sleep(0.005)

    def close(self) -> None:
        assert all(each.close(10) for each in self.all)
        for file in self._files.values():
            os.close(file)

    # ---- a Shelf

    def put(self, path: Path) -> tuple[str, int]:
        key = str(len(self._files))
        self._files[key] = sealed_copy(path)
        return key, self._files[key]

    def get(self, key: str) -> int:
        if key not in self._files:
            raise Superseded(key)
        return self._files[key]

    def share(self, descriptor: int) -> str:
        raise NotImplementedError

    def drop(self, key: str) -> None:
        pass

    # ---- Others, as the leader has them

    def uses(self) -> list[Uses]:
        return [each.uses() for each in self.all[1:]]

    def publish(self) -> None:
        self.before_publish()
        for each in self.all[1:]:
            each.follow(self.leader.picture())

    def wake(self, name: str, number: int) -> Future[Any]:
        made: Future[Any] = Future()

        def make() -> None:
            try:
                with self._changing:
                    self.leader.wake(name, number)
                    self.publish()
                made.set_result(None)
            except Exception as error:
                made.set_exception(error)

        threading.Thread(target=make).start()
        return made


@pytest.fixture
def fleet(tmp_path: Path) -> Any:
    made: list[Fleet] = []

    def make(root: Path = tmp_path, **options: Any) -> Fleet:
        made.append(Fleet(root, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_what_is_used_least_recently_in_any_process_goes_in_all(tmp_path: Path, fleet: Callable[..., Fleet]) -> None:
    _models(tmp_path, "a", "b", "c")
    found = fleet(processes=3, memory=2 * SIZE + 10)
    assert found.states() == {"a/1": State.READY, "b/1": State.READY, "c/1": State.UNAVAILABLE}
    _ask(found.all[0], name="a")
    _ask(found.all[0], name="b")
    _ask(found.all[2], name="a")  # elsewhere, and last
    with pytest.raises(ServiceError, match="version 1 of model 'c' is being loaded"):
        found.all[1].lease("c")
    assert _asked_again(found.all[1], "c") == ("1", 3.0)
    for each in found.all:
        assert _asked_again(each, "c") == ("1", 3.0)
    assert found.states() == {"a/1": State.READY, "b/1": State.UNAVAILABLE, "c/1": State.READY}
    assert [each.names() for each in found.all] == [["a", "b", "c"]] * 3
    _ask(found.all[1], name="c"), _ask(found.all[1], name="a")
    assert _asked_again(found.all[0], "b") == ("1", 2.0)  # as the leader is asked
    assert _asked_again(found.all[2], "b") == ("1", 2.0)
    assert found.states() == {"a/1": State.READY, "b/1": State.READY, "c/1": State.UNAVAILABLE}


def test_what_another_process_uses_does_not_go(tmp_path: Path, fleet: Callable[..., Fleet]) -> None:
    _models(tmp_path, "a", "b", "c")
    found = fleet(memory=2 * SIZE + 10)
    leases = [found.all[1].lease(name) for name in ("a", "b")]
    for asked in (found.all[1], found.leader):
        refused = _refused(asked, "c")
        assert "could not be loaded yet, and is tried again" in str(refused) and refused.kind is Kind.NOT_READY
    assert _states(found.leader)["a/1"] is _states(found.leader)["b/1"] is State.READY
    leases[1].end()
    assert _asked_again(found.all[1], "c") == ("1", 3.0)
    assert found.states() == {"a/1": State.READY, "b/1": State.UNAVAILABLE, "c/1": State.READY}
    leases[0].end()


def test_nothing_takes_the_room_of_what_a_process_began_to_use_while_it_went(
    tmp_path: Path, fleet: Callable[..., Fleet]
) -> None:
    _models(tmp_path, "a", "b", "c")
    found = fleet(memory=2 * SIZE + 10)
    held: list[Any] = []

    def begin() -> None:
        """A request comes when the leader has decided, and before the others know."""
        found.before_publish = lambda: None
        held.append(found.all[1].lease("a"))

    found.before_publish = begin
    _ask(found.leader, name="b")
    refused = _refused(found.all[1], "c")
    assert "could not be loaded yet" in str(refused)
    assert _states(found.leader)["c/1"] is State.UNAVAILABLE
    assert found.all[1].uses().used == {("a", 1)}
    assert held[0].value.rows({}) is None and _ask(found.all[1], name="b") == ("1", 2.0)
    held[0].end()
    assert _asked_again(found.all[1], "c") == ("1", 3.0)
    assert _asked_again(found.all[1], "a") == ("1", 1.0)


def test_what_is_idle_in_all_processes_is_unloaded_in_all(tmp_path: Path, fleet: Callable[..., Fleet]) -> None:
    _models(tmp_path, "a", "b", "c")
    found = fleet(idle=10 * _SECOND)
    begun = time.monotonic_ns()
    found.leader.unload_idle(begun + 9 * _SECOND)
    assert set(found.states().values()) == {State.READY}
    lease = found.all[1].lease("a")
    found.all[1].unload_idle(begun + 3600 * _SECOND)  # only the leader does
    assert set(found.states().values()) == {State.READY}
    time_of_use = time.monotonic_ns()
    _ask(found.all[1], name="b")
    found.leader.unload_idle(time_of_use + 10 * _SECOND - 1)
    assert found.states() == {"a/1": State.READY, "b/1": State.READY, "c/1": State.UNAVAILABLE}
    found.leader.unload_idle(begun + 3600 * _SECOND)
    assert found.states() == {"a/1": State.READY, "b/1": State.UNAVAILABLE, "c/1": State.UNAVAILABLE}
    lease.end()
    found.leader.unload_idle(time.monotonic_ns() + 10 * _SECOND)
    assert set(found.states().values()) == {State.UNAVAILABLE}
    assert _asked_again(found.all[1], "b") == ("1", 2.0) and _asked_again(found.leader, "c") == ("1", 3.0)
    assert found.states() == {"a/1": State.UNAVAILABLE, "b/1": State.READY, "c/1": State.READY}


def test_another_leader_goes_on(tmp_path: Path, fleet: Callable[..., Fleet]) -> None:
    _models(tmp_path, "a", "b", "c")
    found = fleet(memory=2 * SIZE + 10, idle=_SECOND)
    gone = found.all.pop(0)  # it has died
    assert gone.close(10)
    found.leader.lead()
    assert _asked_again(found.leader, "c") == ("1", 3.0)
    assert sum(state is State.READY for state in found.states().values()) == 2
    found.leader.unload_idle(2**62)
    assert set(found.states().values()) == {State.UNAVAILABLE}
    assert _asked_again(found.leader, "a") == ("1", 1.0)


def test_a_pipeline_sleeps_and_wakes_with_its_models_in_all_processes(
    tmp_path: Path, fleet: Callable[..., Fleet]
) -> None:
    _models(tmp_path, "a", "b")
    _put(
        tmp_path / "p" / "config.toml",
        b'[[pipeline.step]]\nname = "one"\nmodel = "a"\ninputs = {x = "x"}\n'
        b'[[pipeline.step]]\nname = "two"\nmodel = "b"\ninputs = {x = "one.y"}\n[pipeline.outputs]\ny = "two.y"\n',
    )
    found = fleet(idle=_SECOND)
    assert set(found.states().values()) == {State.READY}
    found.leader.unload_idle(2**62)
    assert set(found.states().values()) == {State.UNAVAILABLE}
    end = time.monotonic() + 60
    while True:
        try:
            found.all[1].lease("p").end()
            break
        except ServiceError as error:
            assert error.kind is Kind.NOT_READY and time.monotonic() < end
            time.sleep(0.01)
    assert set(found.states().values()) == {State.READY}


def test_an_encrypted_file_counts_for_what_each_process_decrypts(tmp_path: Path, fleet: Callable[..., Fleet]) -> None:
    x25519 = pytest.importorskip(
        "cryptography.hazmat.primitives.asymmetric.x25519", reason="the extra trust is not installed"
    )
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    private = x25519.X25519PrivateKey.generate()
    key = tmp_path / "key.pem"
    key.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    key.chmod(0o600)
    (tmp_path / "models").mkdir()
    for number, name in enumerate("ab", 1):
        (tmp_path / "plain.mrt").write_bytes(times(number))
        trust.encrypt(tmp_path / "plain.mrt", tmp_path / "models" / f"{name}.mrt", [private.public_key()])
    size = (tmp_path / "models" / "a.mrt").stat().st_size
    both = fleet(tmp_path / "models", memory=2 * 3 * size, key=str(key), lock=False)
    assert both.states() == {"a/1": State.READY, "b/1": State.READY}
    one = fleet(tmp_path / "models", memory=2 * 3 * size - 1, key=str(key), lock=False)
    assert one.states() == {"a/1": State.READY, "b/1": State.UNAVAILABLE}
