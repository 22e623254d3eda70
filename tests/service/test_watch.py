"""A folder that changes while it is served: what is taken, and when. Without a server."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import numpy as np

from maas_rt.service import Repository
from maas_rt.service._record import State
from maas_rt.service._watch import Settling, Watch
from tests.service.test_repository import _ask, _put, _states, _times, _version


def test_what_has_stood_still_is_taken(tmp_path: Path) -> None:
    _version(tmp_path, 1)
    repository, settle = Repository(tmp_path), Settling()

    def look() -> list[str]:
        return [str(error) for error in repository.reload(settle)]

    look()
    path = tmp_path / "m" / "2" / "model.mrt"
    path.parent.mkdir()
    data = _times(2)
    for size in (100, len(data) // 2, len(data) - 1):  # a copy under way
        path.write_bytes(data[:size])
        assert look() == [] and repository.versions("m") == ["1"]
    path.write_bytes(data)
    assert look() == [] and repository.versions("m") == ["1"]
    assert look() == [] and repository.versions("m") == ["1", "2"] and _ask(repository) == ("2", 2.0)
    before = repository.ready("m")
    assert look() == [] and repository.ready("m") == before


def test_a_copy_that_stands_still_too_early_is_refused_and_taken_when_it_is_whole(tmp_path: Path) -> None:
    """A file of its full size, in which weights are missing yet: all hashes are checked."""
    path = _version(tmp_path, 1)
    repository, settle = Repository(tmp_path), Settling()
    good = path.read_bytes()
    newer = bytearray(_times(5))
    weights = np.float32(5).tobytes()
    at = newer.rindex(weights)
    assert len(newer) == len(good)
    broken = bytes(newer[:at]) + bytes(4) + bytes(newer[at + 4 :])
    path.write_bytes(broken)
    repository.reload(settle)
    (error,) = repository.reload(settle)
    assert "SHA-256" in str(error) and _ask(repository) == ("1", 1.0)
    assert repository.reload(settle) == []  # not looked at again
    path.write_bytes(newer)
    repository.reload(settle), repository.reload(settle)
    assert _ask(repository) == ("1", 5.0)


def test_an_older_version_does_not_come_up_while_a_newer_one_is_replaced(tmp_path: Path) -> None:
    _version(tmp_path, 1), _version(tmp_path, 2)
    (tmp_path / "m" / "config.toml").write_text("versions = {latest = 1}\n")
    repository, settle = Repository(tmp_path), Settling()
    repository.reload(settle), repository.reload(settle)
    shutil.rmtree(tmp_path / "m" / "2")
    repository.reload(settle)
    assert repository.versions("m") == ["2"]  # it may be on its way
    _version(tmp_path, 2, factor=7)
    repository.reload(settle), repository.reload(settle)
    assert repository.versions("m") == ["2"] and _ask(repository) == ("2", 7.0)
    shutil.rmtree(tmp_path / "m" / "2")
    repository.reload(settle), repository.reload(settle)
    assert repository.versions("m") == ["1"]


def test_a_model_that_goes_away_and_one_that_comes(tmp_path: Path) -> None:
    _version(tmp_path, 1)
    _version(tmp_path, 3, "other")
    repository, settle = Repository(tmp_path), Settling()
    repository.reload(settle), repository.reload(settle)
    shutil.rmtree(tmp_path / "other")
    repository.reload(settle)
    assert repository.names() == ["m", "other"]
    repository.reload(settle)
    assert repository.names() == ["m"]
    _version(tmp_path, 3, "new")
    repository.reload(settle), repository.reload(settle)
    assert repository.names() == ["m", "new"]


def test_a_config_map(tmp_path: Path) -> None:
    """Kubernetes swaps a link under the links that one sees."""
    for number in (1, 2):
        _put(tmp_path / f"..{number}" / "model.mrt", _times(number))
    os.symlink("..1", tmp_path / "..data")
    (tmp_path / "m" / "1").mkdir(parents=True)
    os.symlink("../../..data/model.mrt", tmp_path / "m" / "1" / "model.mrt")
    repository, settle = Repository(tmp_path), Settling()
    repository.reload(settle)
    assert _ask(repository) == ("1", 1.0)
    os.symlink("..2", tmp_path / ".next")
    os.replace(tmp_path / ".next", tmp_path / "..data")
    repository.reload(settle), repository.reload(settle)
    assert _ask(repository) == ("1", 2.0)


def test_a_version_whose_config_was_at_fault_is_taken_when_that_is_mended(tmp_path: Path) -> None:
    path = _version(tmp_path, 1)
    config = path.parents[1] / "config.toml"
    repository = Repository(tmp_path)
    config.write_text("max_batch_size = 4\n")
    (error,) = repository.reload()
    assert "the model takes no batches" in str(error) and _ask(repository) == ("1", 1.0)
    before = repository.ready("m")[0]
    config.write_text("instances = 1\n")
    assert repository.reload() == []
    after = repository.ready("m")[0]
    assert after.scheduling.instances == 1 and repository.index()[0].reason == ""
    config.write_text("instances = 2\n")
    assert repository.reload() == []
    assert (
        repository.ready("m")[0].model is after.model is not before.model
    )  # the file is the same: it is not read again


def test_a_thread_that_watches(tmp_path: Path) -> None:
    _version(tmp_path, 1)
    repository = Repository(tmp_path)
    watch = Watch(repository, 0.01)
    try:
        for number in (2, 3):
            _version(tmp_path, number)
            end = time.monotonic() + 10
            while repository.versions("m")[-1] != str(number) and time.monotonic() < end:
                time.sleep(0.01)
            assert _ask(repository) == (str(number), float(number))
        moved = tmp_path.with_name(tmp_path.name + "-away")
        tmp_path.rename(moved)  # the storage is away for a while
        time.sleep(0.1)
        assert _states(repository)["m/3"] is State.READY
        moved.rename(tmp_path)
        _version(tmp_path, 4)
        end = time.monotonic() + 10
        while repository.versions("m")[-1] != "4" and time.monotonic() < end:
            time.sleep(0.01)
        assert _ask(repository) == ("4", 4.0)
    finally:
        watch.close()
