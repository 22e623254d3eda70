"""A repository behind a URL: what is copied, when, and what a URL that fails or hangs does to those who are served."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from maas_rt import Error
from maas_rt._cli import main
from maas_rt.service import Repository
from maas_rt.service._errors import Kind
from maas_rt.service._mirror import Mirror, is_url, shown_url
from tests.service._versions import times
from tests.service.test_repository import _ask, _kind, _put

fsspec = pytest.importorskip("fsspec", reason="repositories at URLs need fsspec: pip install maas_rt[remote]")

from fsspec.implementations.memory import MemoryFileSystem  # noqa: E402


@pytest.fixture
def memory() -> Iterator[MemoryFileSystem]:
    files = MemoryFileSystem()
    files.store.clear()
    yield files
    files.store.clear()


def _remote(files: Any, name: str, data: bytes | str) -> None:
    files.pipe_file(name, data if isinstance(data, bytes) else data.encode())


def _mirror(tmp_path: Path, url: str = "memory://bucket/models", **options: Any) -> Mirror:
    return Mirror(url, tmp_path / "cache", **options)


def _copied(mirror: Mirror) -> list[str]:
    return sorted(mirror._names())


def test_what_is_a_url() -> None:
    assert all(map(is_url, ("s3://bucket", "memory://x/y", "simplecache::s3://b/c", "file:///srv/models")))
    assert not any(map(is_url, ("models/", "/srv/a:b", "C:\\models", "a//b", "./s3:x")))
    assert shown_url("ftp://me:secret@host/models") == "ftp://host/models" and shown_url("s3://b/x") == "s3://b/x"


def test_what_changes_there_changes_here(tmp_path: Path, memory: MemoryFileSystem) -> None:
    root = "/bucket/models"
    _remote(memory, f"{root}/m/1/model.mrt", times(1))
    _remote(memory, f"{root}/m/config.toml", "versions = 'all'\n")
    for other in ("m/notes.txt", "m/.hidden/model.mrt", "a/b/c/d.mrt", ".git/x.mrt"):
        _remote(memory, f"{root}/{other}", "other")
    mirror = _mirror(tmp_path)
    mirror.start(0)
    assert _copied(mirror) == ["m/1/model.mrt", "m/config.toml"]
    repository = Repository(mirror.folder, unwritable=f"it is a copy of {mirror.url}", refresh=mirror.refresh)
    assert _ask(repository) == ("1", 1.0)
    before = (mirror.folder / "m/1/model.mrt").stat().st_ino
    _remote(memory, f"{root}/m/2/model.mrt", times(2))
    repository.load("m")  # which looks there
    assert _ask(repository) == ("2", 2.0) and (mirror.folder / "m/1/model.mrt").stat().st_ino == before
    _remote(memory, f"{root}/m/2/model.mrt", times(7))  # of the same size
    memory.rm(f"{root}/m/1", recursive=True)
    assert mirror.look() == "" and repository.reload() == []
    assert _copied(mirror) == ["m/2/model.mrt", "m/config.toml"] and not (mirror.folder / "m" / "1").exists()
    assert repository.versions("m") == ["2"] and _ask(repository) == ("2", 7.0)
    _remote(memory, f"{root}/m/labels.json", '{"labels": {"best": {"version": 2, "before": []}}, "config": {}}')
    repository.load("m")
    assert repository.labels("m") == {"best": "2"}
    repository.set_label("m", "mine", "2")
    assert repository.unkept("m") == "it is a copy of memory://bucket/models"
    for damage in (b"short", bytes(len(times(7)))):  # somebody was at the copy
        (mirror.folder / "m/2/model.mrt").write_bytes(damage)
        assert mirror.look() == "" and (mirror.folder / "m/2/model.mrt").read_bytes() == times(7)
    mirror.close()


def test_what_cannot_be_read_changes_nothing(
    tmp_path: Path, memory: MemoryFileSystem, caplog: pytest.LogCaptureFixture
) -> None:
    mirror = _mirror(tmp_path)
    with pytest.raises(Error, match="memory://bucket/models cannot be read: "):
        mirror.start(0)
    _remote(memory, "/bucket/models/m/1/model.mrt", times(1))
    mirror.start(0)
    repository = Repository(mirror.folder, refresh=mirror.refresh)
    memory.store.clear()
    memory.mkdirs("/bucket/models", exist_ok=True)
    assert mirror.look() == "it holds no model" and _copied(mirror) == ["m/1/model.mrt"]
    assert _kind(repository.load, "m") is Kind.NOT_READY and _ask(repository) == ("1", 1.0)
    mirror.close()
    again = _mirror(tmp_path)  # with what was copied before
    with caplog.at_level(logging.WARNING):
        again.start(0)
    assert "what was copied is served" in caplog.text
    assert again.folder == mirror.folder and _ask(Repository(again.folder)) == ("1", 1.0)
    other = _mirror(tmp_path)  # another process, while the first one has the folder
    assert other.folder != again.folder
    again.close(), other.close()


class _Waiting(MemoryFileSystem):
    """Lists and reads when it is let to."""

    protocol = "waiting"
    cachable = False
    listing, reading = threading.Event(), threading.Event()
    meanwhile: Any = None
    denied = ""

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(path.removeprefix("waiting://")))

    def find(self, *args: Any, **options: Any) -> Any:
        assert self.listing.wait(60)
        return super().find(*args, **options)

    def _open(self, *args: Any, **options: Any) -> Any:
        assert self.reading.wait(60)
        if args[0] == _Waiting.denied:
            raise PermissionError(13, "Permission denied", args[0])
        opened = super()._open(*args, **options)
        if _Waiting.meanwhile is not None:
            change, _Waiting.meanwhile = _Waiting.meanwhile, None
            change()
        return opened


@pytest.fixture
def waiting(memory: MemoryFileSystem) -> Iterator[type[_Waiting]]:
    fsspec.register_implementation("waiting", _Waiting, clobber=True)
    _Waiting.listing.set(), _Waiting.reading.set()
    _Waiting.denied = ""
    yield _Waiting
    _Waiting.listing.set(), _Waiting.reading.set()


@pytest.mark.parametrize("which", ["listing", "reading"])
def test_a_url_that_hangs(tmp_path: Path, memory: MemoryFileSystem, waiting: type[_Waiting], which: str) -> None:
    _remote(memory, "/models/m/1/model.mrt", times(1))
    mirror = _mirror(tmp_path, "waiting://models")
    mirror.start(0)
    mirror._patience = 0.2
    repository = Repository(mirror.folder, refresh=mirror.refresh)
    _remote(memory, "/models/m/1/model.mrt", times(5))
    event = getattr(waiting, which)
    event.clear()
    for _ in range(4):
        assert mirror.look() == "nothing came for 0.2 s"
    assert mirror.look() == "4 attempts hang"  # and no more threads
    assert _kind(repository.load, "m") is Kind.NOT_READY and _ask(repository) == ("1", 1.0)
    event.set()
    mirror._patience = 60
    for thread in mirror._left:
        thread.join(60)
    repository.reload()
    assert _ask(repository) == ("1", 1.0)  # what comes too late comes from nobody who is waited for
    repository.load("m")
    assert _ask(repository) == ("1", 5.0) and list(mirror.folder.glob(".*.part")) == []
    mirror.close()


def test_a_file_that_changes_while_it_is_read(
    tmp_path: Path, memory: MemoryFileSystem, waiting: type[_Waiting]
) -> None:
    _remote(memory, "/models/m/1/model.mrt", times(1))
    mirror = _mirror(tmp_path, "waiting://models")
    mirror.start(0)
    _remote(memory, "/models/m/1/model.mrt", times(2))
    waiting.meanwhile = lambda: _remote(memory, "/models/m/1/model.mrt", times(3))
    assert mirror.look() == "" and (mirror.folder / "m/1/model.mrt").read_bytes() == times(1)
    assert mirror.look() == "" and (mirror.folder / "m/1/model.mrt").read_bytes() == times(3)
    mirror.close()


def test_one_file_that_cannot_be_read(
    tmp_path: Path, memory: MemoryFileSystem, waiting: type[_Waiting], caplog: pytest.LogCaptureFixture
) -> None:
    for number in (1, 2, 3):
        _remote(memory, f"/models/m/{number}/model.mrt", times(number))
    waiting.denied = "/models/m/2/model.mrt"
    mirror = _mirror(tmp_path, "waiting://models")
    mirror.start(0)
    assert "m/2/model.mrt: Permission denied" in caplog.text
    assert _copied(mirror) == ["m/1/model.mrt", "m/3/model.mrt"]
    memory.rm("/models/m/1/model.mrt")
    assert mirror.look() == "m/2/model.mrt: Permission denied" and _copied(mirror) == ["m/3/model.mrt"]
    waiting.denied = ""
    assert mirror.look() == "" and _copied(mirror) == ["m/2/model.mrt", "m/3/model.mrt"]
    mirror.close()


def test_a_folder_by_its_url_looked_at_again_and_again(tmp_path: Path) -> None:
    _put(tmp_path / "there" / "m.mrt", times(1))
    mirror = _mirror(tmp_path, f"file://{tmp_path}/there")
    mirror.start(0.02)
    _put(tmp_path / "there" / "m.mrt", times(2))
    end = time.monotonic() + 60
    while (mirror.folder / "m.mrt").read_bytes() != times(2) and time.monotonic() < end:
        time.sleep(0.02)
    assert _ask(Repository(mirror.folder)) == ("1", 2.0)
    mirror.close()


def test_what_the_command_says_of_urls(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache = ["--cache", str(tmp_path)]
    for url, told in (("nonsense://x", "Protocol not known"), ("memory://none", "memory://none cannot be read: ")):
        assert main(["serve", url, *cache, "--port", "0"]) == 1
        assert told in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert main(["serve", "memory://none", "--cache", str(tmp_path / "file"), "--port", "0"]) == 1
    assert "give another folder with --cache" in capsys.readouterr().err


def test_s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    s3fs = pytest.importorskip("s3fs", reason="needs s3fs, to speak to S3")
    moto = pytest.importorskip("moto.server", reason="needs moto[server], which plays S3")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        options = {"endpoint_url": f"http://{host}:{port}"}
        files = s3fs.S3FileSystem(**options, skip_instance_cache=True)
        files.mkdir("bucket")
        files.pipe_file("bucket/models/m/1/model.mrt", times(1))
        mirror = _mirror(tmp_path, "s3://bucket/models", options=options)
        mirror.start(0)
        repository = Repository(mirror.folder, refresh=mirror.refresh)
        assert _ask(repository) == ("1", 1.0)
        files.pipe_file("bucket/models/m/1/model.mrt", times(4))
        files.pipe_file("bucket/models/m/2/model.mrt", times(2))
        repository.load("m")
        assert _ask(repository) == ("2", 2.0) and _ask(repository, "1") == ("1", 4.0)
        files.rm("bucket/models/m/2/model.mrt")
        assert mirror.look() == "" and repository.reload() == [] and _ask(repository) == ("1", 4.0)
        state = os.stat(mirror.folder / "m/1/model.mrt")
        assert mirror.look() == "" and os.stat(mirror.folder / "m/1/model.mrt").st_mtime_ns == state.st_mtime_ns
        mirror.close()
    finally:
        server.stop()
