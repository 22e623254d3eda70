"""The repository without a server: leases, reloads under load, bad files, storage that goes away."""

from __future__ import annotations

import gc
import os
import shutil
import threading
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import maas_rt
from maas_rt.service import Repository
from maas_rt.service._errors import Kind, ServiceError
from maas_rt.service._layout import Contents
from maas_rt.service._record import State
from tests import _tiny
from tests.service._versions import times


def _times(factor: float) -> bytes:
    """x [1, 4] -> x * factor."""
    b = _tiny.Builder("times")
    x, y = b.input("x", [1, 4]), b.value("y", [1, 4])
    b.gemm(x, np.eye(4, dtype=np.float32) * np.float32(factor), y)
    return b.file(y)


def _put(path: Path, data: bytes) -> Path:
    """As a deployment does: written beside it, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name("." + path.name)
    beside.write_bytes(data)
    os.replace(beside, path)
    return path


def _version(root: Path, version: object, name: str = "m", factor: float | None = None) -> Path:
    """A model that multiplies by its version."""
    return _put(root / name / str(version) / "model.mrt", _times(float(str(version)) if factor is None else factor))


def _ask(repository: Repository, wanted: str | None = None, name: str = "m") -> tuple[str, float]:
    """The version that answered, and what it multiplied by."""
    with repository.lease(name, wanted) as served:
        return served.version, float(served.model.run({"x": np.ones((1, 4), np.float32)})["y"][0, 0])


def _states(repository: Repository) -> dict[str, State]:
    return {f"{entry.name}/{entry.version}": entry.state for entry in repository.index()}


def _kind(call: Any, *args: Any) -> Kind:
    with pytest.raises(ServiceError) as caught:
        call(*args)
    return caught.value.kind


def test_versions_labels_and_rollback(tmp_path: Path) -> None:
    for version in (2, 9, 10):
        _version(tmp_path, version)
    repository = Repository(tmp_path)
    assert repository.names() == ["m"] and repository.versions("m") == ["2", "9", "10"]
    assert _ask(repository) == ("10", 10.0) and _ask(repository, "2") == ("2", 2.0)
    repository.set_label("m", "production", "2")
    repository.set_label("m", "canary", "10")
    assert _ask(repository) == ("2", 2.0) and _ask(repository, "canary") == ("10", 10.0)
    repository.set_label("m", "production", "canary")
    assert _ask(repository) == ("10", 10.0)
    assert repository.rollback("m") == "2" and _ask(repository) == ("2", 2.0)
    assert _kind(repository.set_label, "m", "production", "3") is Kind.NOT_FOUND
    assert _kind(repository.rollback, "n") is Kind.NOT_FOUND
    assert _kind(repository.lease, "n") is _kind(repository.lease, "m", "3") is Kind.NOT_FOUND
    with pytest.raises(maas_rt.InvalidArgumentError, match="was on no other before"):
        repository.rollback("m")


def test_a_config_says_which_versions_and_labels(tmp_path: Path) -> None:
    for version in (1, 2, 3):
        _version(tmp_path, version)
    config = tmp_path / "m" / "config.toml"
    config.write_text("versions = {latest = 1}\n[labels]\nproduction = 1\n")
    repository = Repository(tmp_path)
    assert repository.versions("m") == ["1", "3"] and _ask(repository)[0] == "1"
    repository.set_label("m", "mine", "3")
    config.write_text("versions = [2]\n[labels]\nproduction = 2\n")
    assert repository.reload() == []
    assert repository.versions("m") == ["2", "3"] and _ask(repository)[0] == "2" and _ask(repository, "mine")[0] == "3"
    config.write_text("versions = [2\n")
    (error,) = repository.reload()
    assert "config.toml: it is not TOML: " in str(error)
    assert repository.versions("m") == ["2", "3"]
    with pytest.raises(maas_rt.InvalidArgumentError, match="config.toml: it is not TOML"):
        Repository(tmp_path)


def test_a_bad_file_keeps_nothing_else_from_starting(tmp_path: Path) -> None:
    _version(tmp_path, 1)
    _put(tmp_path / "m" / "2" / "model.mrt", b"junk")
    _put(tmp_path / "n.mrt", _times(3))
    (tmp_path / "m" / "latest").mkdir()
    repository = Repository(tmp_path)
    assert _ask(repository) == ("1", 1.0) and _ask(repository, name="n") == ("1", 3.0)
    assert _states(repository) == {"m/1": State.READY, "m/2": State.UNAVAILABLE, "n/1": State.READY}
    (reason,) = (entry.reason for entry in repository.index() if entry.reason)
    assert str(tmp_path / "m" / "2" / "model.mrt") in reason
    assert [entry.version for entry in repository.index(ready_only=True)] == ["1", "1"]
    assert repository.told == (
        f"{tmp_path}/m/latest: its name is no version, a number from 1 on without leading zeros",
    )
    assert _kind(repository.lease, "m", "2") is Kind.NOT_READY


def test_a_reload_takes_what_is_new_and_lets_go_of_what_is_gone(tmp_path: Path) -> None:
    _version(tmp_path, 1)
    repository = Repository(tmp_path)
    lease = repository.lease("m")
    model = weakref.ref(lease.value.model)
    _version(tmp_path, 2)
    (tmp_path / "m" / "1" / "model.mrt").unlink()
    assert repository.reload() == []
    assert _states(repository) == {"m/1": State.UNLOADING, "m/2": State.READY}
    assert _ask(repository) == ("2", 2.0) and _kind(repository.lease, "m", "1") is Kind.NOT_FOUND
    assert lease.value.model.run({"x": np.ones((1, 4), np.float32)})["y"][0, 0] == 1  # until it ends
    lease.end()
    del lease
    gc.collect()
    assert model() is None and _states(repository) == {"m/2": State.READY}


def test_a_file_that_is_the_same_is_not_loaded_again(tmp_path: Path) -> None:
    _version(tmp_path, 1)
    repository = Repository(tmp_path)
    with repository.lease("m") as before:
        repository.reload()
        with repository.lease("m") as after:
            assert before is after
        repository.load("m")
        with repository.lease("m") as after:
            assert before is not after


def test_a_bad_file_does_not_replace_a_good_one(tmp_path: Path) -> None:
    path = _version(tmp_path, 1)
    repository = Repository(tmp_path)
    for damage in (b"", b"junk", _times(7)[:-100]):
        _put(path, damage)
        (error,) = repository.reload()
        assert str(path) in str(error)
        assert _ask(repository) == ("1", 1.0)
        assert repository.reload() == []  # the same file is not read over and over
        assert _kind(repository.load, "m") is Kind.BAD_REQUEST
        (entry,) = repository.index()
        assert entry.state is State.READY and str(path) in entry.reason
    _version(tmp_path, 1, factor=7)
    assert repository.reload() == [] and _ask(repository) == ("1", 7.0)
    assert repository.index()[0].reason == ""


def test_what_nobody_foresaw_of_one_file_keeps_nothing_else_from_being_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _version(tmp_path, 1, "a"), _version(tmp_path, 1, "b"), _version(tmp_path, 1, "gone")
    repository = Repository(tmp_path)

    def load(path: Path) -> Any:
        if path.parts[-3] == "a":
            raise MemoryError
        return kept(path)

    kept = repository._files.load
    monkeypatch.setattr(repository._files, "load", load)
    bad = _version(tmp_path, 2, "a")
    _version(tmp_path, 2, "b")
    shutil.rmtree(tmp_path / "gone")
    assert [str(error) for error in repository.reload()] == [f"{bad}: it cannot be loaded (MemoryError)"]
    assert "MemoryError" in caplog.text
    assert (_ask(repository, name="a"), _ask(repository, name="b")) == (("1", 1.0), ("2", 2.0))
    assert _states(repository)["a/2"] is State.UNAVAILABLE and repository.names() == ["a", "b"]
    assert repository.close(0)


@pytest.mark.parametrize("is_file", [False, True])
def test_a_label_that_is_set_while_the_folder_is_looked_at_stays(tmp_path: Path, is_file: bool) -> None:
    """The look was before the first label of the model, and so without the file that holds it."""
    if is_file:
        _put(tmp_path / "m.mrt", times(1))
        (tmp_path / "m").write_text("no folder")
    _version(tmp_path, 2, "n" if is_file else "m"), _version(tmp_path, 3, "n" if is_file else "m")
    name, version = ("m", "1") if is_file else ("m", "2")
    repository = Repository(tmp_path)

    def labelled(contents: Contents) -> Contents:
        repository.set_label(name, "production", version)
        return contents

    assert repository.reload(labelled) == []
    assert repository.labels(name) == {"production": version}


def test_a_label_on_a_model_that_goes_away_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _version(tmp_path, 1), _version(tmp_path, 1, "other")
    repository = Repository(tmp_path)
    lease = repository.lease("m")
    shutil.rmtree(tmp_path / "m")
    assert repository.reload() == []
    monkeypatch.setattr(repository, "lease", lambda *_: lease)  # as it was before
    assert _kind(repository.set_label, "m", "best", "1") is Kind.NOT_FOUND
    assert repository.close(0)


def test_storage_that_goes_away_unloads_nothing(tmp_path: Path) -> None:
    root = tmp_path / "models"
    _version(root, 1)
    repository = Repository(root)
    root.rename(tmp_path / "away")
    assert _kind(repository.reload) is _kind(repository.load, "m") is Kind.NOT_READY
    root.mkdir()  # the mount point without its mount
    assert _kind(repository.reload) is Kind.NOT_READY
    assert _ask(repository) == ("1", 1.0)
    root.rmdir()
    (tmp_path / "away").rename(root)
    assert repository.reload() == [] and _ask(repository) == ("1", 1.0)


def test_load_and_unload(tmp_path: Path) -> None:
    _version(tmp_path, 1)
    _version(tmp_path, 1, "n")
    repository = Repository(tmp_path)
    repository.unload("m")
    assert repository.names() == ["n"] and _states(repository)["m/1"] is State.UNAVAILABLE
    assert _kind(repository.lease, "m") is _kind(repository.lease, "m", "1") is Kind.NOT_READY
    repository.reload()
    assert repository.names() == ["n"]  # only a request brings it back
    repository.load("m")
    assert _ask(repository) == ("1", 1.0)
    assert _kind(repository.load, "x") is _kind(repository.unload, "x") is Kind.NOT_FOUND


def test_reloads_under_load_fail_no_request(tmp_path: Path) -> None:
    """Every answer is of a version that was served between the request's begin and its end."""
    path = _version(tmp_path, 1, factor=1)
    repository = Repository(tmp_path)
    live, stop, wrong = [1.0], threading.Event(), []

    def ask() -> None:
        while not stop.is_set():
            before = live[-1]
            try:
                factor = _ask(repository)[1]
            except Exception as error:
                wrong.append(error)
                return
            if not before <= factor <= live[-1] + 1:
                wrong.append((before, factor, live[-1]))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for factor in range(2, 22):
        _put(path, _times(factor))
        assert repository.reload() == []
        live.append(float(factor))
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == [] and _ask(repository) == ("1", 21.0)
    assert _states(repository) == {"m/1": State.READY}


def test_close_waits_for_what_is_in_use(tmp_path: Path) -> None:
    _version(tmp_path, 1)
    repository = Repository(tmp_path)
    lease = repository.lease("m")
    assert not repository.close(0.01)
    assert _kind(repository.lease, "m") in (Kind.NOT_FOUND, Kind.NOT_READY)
    lease.end()
    assert repository.close(1)
