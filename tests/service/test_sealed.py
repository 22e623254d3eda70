"""Model files in memory that several processes map, and the messages by which they get them."""

from __future__ import annotations

import os
import pickle
import tempfile
from pathlib import Path

import numpy as np
import pytest

from maas_rt import Error, FormatError, InvalidArgumentError
from maas_rt._model import load_sealed
from maas_rt.service._channel import Channel
from maas_rt.service._sealed import is_offered, sealed_copy
from tests import _tiny

pytestmark = pytest.mark.skipif(not is_offered(), reason="this system has no files in memory that can be sealed")
X = np.ones((2, 16), np.float32)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "m.mrt"
    path.write_bytes(_tiny.mlp("batch"))
    return path


def test_a_copy_is_what_the_file_was_and_nobody_changes_it(file: Path) -> None:
    data = file.read_bytes()
    descriptor = sealed_copy(file)
    file.write_bytes(b"junk")
    assert os.pread(descriptor, len(data) + 1, 0) == data
    for change in (
        lambda: os.pwrite(descriptor, b"x", 0),
        lambda: os.ftruncate(descriptor, 10),
        lambda: os.ftruncate(descriptor, len(data) + 10),
    ):
        with pytest.raises(PermissionError):
            change()
    model = load_sealed(descriptor, "m.mrt", verify="full", threads=1)
    os.close(descriptor)
    np.testing.assert_allclose(model(X), _tiny.reference_mlp(X), rtol=1e-5)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model))(X), model(X))


def test_what_is_no_sealed_file_is_refused(file: Path) -> None:
    here, there = os.pipe()
    unsealed = os.memfd_create("x", os.MFD_ALLOW_SEALING)
    os.write(unsealed, file.read_bytes())
    with open(file, "rb") as plain, tempfile.TemporaryFile() as empty:
        for descriptor in (here, unsealed, plain.fileno(), empty.fileno(), 10**6, -1):
            with pytest.raises(InvalidArgumentError, match="is no file in memory that is sealed"):
                load_sealed(descriptor, "m.mrt")
    for each in (here, there, unsealed):
        os.close(each)


def test_errors_name_the_file(file: Path, tmp_path: Path) -> None:
    good = file.read_bytes()
    for name, data in (("junk", b"junk" * 100), ("short", good[:-1]), ("flipped", good[:-70] + b"x" + good[-69:])):
        file.write_bytes(data)
        descriptor = sealed_copy(file)
        with pytest.raises(FormatError, match=f"'{name}.mrt'"):
            load_sealed(descriptor, f"{name}.mrt", verify="full")
        os.close(descriptor)
    with pytest.raises(FileNotFoundError):
        sealed_copy(tmp_path / "none.mrt")
    file.write_bytes(b"")
    with pytest.raises(Error):
        load_sealed(sealed_copy(file), "empty.mrt")


def test_messages_come_whole_with_their_files() -> None:
    here, end = Channel.pair()
    there = Channel(end)
    for values in ((), (1, "two", None), (b"x" * (1 << 16),), ("y" * (5 << 20), {"z": [1]})):
        here.send("name", *values)
        message = there.receive()
        assert message is not None and (message.name, message.values, message.files) == ("name", values, ())
    files = [os.memfd_create(str(number)) for number in range(100)]
    for number, each in enumerate(files):
        os.write(each, bytes([number]))
    for size in (1, 1 << 20):
        here.send("files", "x" * size, files=files)
        message = there.receive()
        assert message is not None and [os.pread(each, 1, 0)[0] for each in message.files] == list(range(100))
        assert not any(os.get_inheritable(each) for each in message.files)
        message.close()
    for each in files:
        os.close(each)
    with pytest.raises(BlockingIOError):
        there.receive(wait=False)
    with pytest.raises(BlockingIOError):
        for _ in range(100_000):  # nobody reads
            here.send("name", "x" * 1000, wait=False)
    there.close()
    with pytest.raises(OSError):
        here.send("name")
    assert here.receive() is None
