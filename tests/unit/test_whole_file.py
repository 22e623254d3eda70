"""A file that is written appears whole or not at all, and what is no file stays what it is."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from maas_rt import Error
from maas_rt._whole_file import whole_file


def write(path: Path, content: bytes = b"new") -> None:
    with whole_file(path) as file:
        file.write(content)


def test_a_file_appears_with_the_usual_mode_and_keeps_its_own(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write(tmp_path / "a")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640
    (tmp_path / "a").chmod(0o604)
    write(tmp_path / "a", b"newer")
    assert (tmp_path / "a").read_bytes() == b"newer"
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o604
    write(tmp_path / ("n" * 250))
    assert {file.name for file in tmp_path.iterdir()} == {"a", "n" * 250}


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "links").mkdir()
    for target in ("there", "not yet"):
        link = tmp_path / "links" / target
        link.symlink_to(f"../{target}")
        write(tmp_path / "there", b"old")
        write(link)
        assert link.is_symlink()
        assert (tmp_path / target).read_bytes() == b"new"


def test_a_pipe_is_written_to_and_stays_a_pipe(tmp_path: Path) -> None:
    """As /dev/null and /dev/stdout, which a rename would replace."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    write(pipe)
    reader.join(10)
    assert read == [b"new"]
    assert pipe.is_fifo()


@pytest.mark.parametrize(("name", "part"), [("none/a", "none/a could not be written"), (".", "is a directory")])
def test_what_cannot_be_written(tmp_path: Path, name: str, part: str) -> None:
    with pytest.raises(Error, match=part):
        write(tmp_path / name)


def test_what_fails_half_way_leaves_what_was_there(tmp_path: Path) -> None:
    write(tmp_path / "a", b"old")
    for failure in (ValueError, KeyboardInterrupt):
        with pytest.raises(failure), whole_file(tmp_path / "a") as file:
            file.write(b"half")
            raise failure
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"old"]
