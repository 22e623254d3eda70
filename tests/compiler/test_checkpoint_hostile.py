"""Checkpoints made to mislead or to hold a reader up: refused in one sentence, in bounded time and memory."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from maas_rt.compiler.importers._safe_pickle import RefusedPickleError
from maas_rt.compiler.importers._tiles import check_tiling
from maas_rt.compiler.importers.checkpoint import read_checkpoint
from torch import nn
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

from tests.compiler._checkpoint_models import refusal

SECONDS = 15.0  # far above what any of these takes, far below what their authors wanted


def linear() -> nn.Module:
    return nn.Linear(2, 2)


def directory(folder: Path, chunks: Sequence[tuple[tuple[int, ...], torch.Tensor]], **changes: Any) -> Path:
    """A DCP directory with a tensor `weight` (2, 2) in these chunks, and `bias`."""
    folder.mkdir()
    data, places = b"", {}
    properties = TensorProperties(torch.float32)
    entries: dict[str, Any] = {}
    for name, size, parts in (("weight", (2, 2), chunks), ("bias", (2,), [((0,), torch.ones(2))])):
        listed = []
        for offsets, value in parts:
            stream = io.BytesIO()
            torch.save(value, stream)
            places[MetadataIndex(name, torch.Size(offsets))] = _StorageInfo(
                "__0_0.distcp", len(data), len(stream.getvalue())
            )
            listed.append(ChunkStorageMetadata(torch.Size(offsets), value.shape))
            data += stream.getvalue()
        entries[name] = TensorStorageMetadata(properties, torch.Size(size), listed)
    (folder / "__0_0.distcp").write_bytes(data)
    (folder / ".metadata").write_bytes(pickle.dumps(Metadata(entries, None, places)))
    return folder


def test_chunks_must_tile_the_tensor(tmp_path: Path) -> None:
    row = torch.ones(1, 2)
    good = directory(tmp_path / "good", [((0, 0), row), ((1, 0), row * 2)])
    assert torch.equal(read_checkpoint(good)["weight"], torch.tensor([[1.0, 1], [2, 2]]))
    assert "overlap" in refusal(directory(tmp_path / "hole", [((0, 0), row), ((0, 0), row)]), linear)
    assert "2 of 4" in refusal(directory(tmp_path / "short", [((0, 0), row)]), linear)
    outside = directory(tmp_path / "outside", [((0, 0), row), ((1, 1), row)])
    assert "outside" in refusal(outside, linear)
    other = directory(tmp_path / "dtype", [((0, 0), row), ((1, 0), row.double())])
    assert "float64" in refusal(other, linear)


@pytest.mark.parametrize(
    ("size", "boxes", "tiles"),
    [
        ((4, 4), [((0, 0), (2, 2)), ((0, 2), (2, 2)), ((2, 0), (2, 4))], True),
        ((4, 4), [((0, 0), (2, 2)), ((0, 2), (2, 2)), ((1, 0), (2, 4))], False),
        ((3, 3), [((0, 0), (1, 2)), ((0, 2), (2, 1)), ((2, 1), (1, 2)), ((1, 0), (2, 1)), ((1, 1), (1, 1))], True),
        ((3, 3), [((0, 0), (1, 2)), ((0, 1), (2, 1)), ((2, 1), (1, 2)), ((1, 0), (2, 1)), ((1, 1), (1, 1))], False),
        ((5,), [((0,), (3,)), ((3,), (2,)), ((5,), (0,))], True),
        ((5,), [((0,), (3,)), ((2,), (2,))], False),
        ((0, 3), [((0, 0), (0, 3))], True),
        ((), [((), ())], True),
        ((2,), [], False),
    ],
)
def test_tilings(size: Sequence[int], boxes: Any, tiles: bool) -> None:
    if tiles:
        check_tiling("w", size, boxes)
    else:
        with pytest.raises(RefusedPickleError):
            check_tiling("w", size, boxes)


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    folder = directory(tmp_path / "dcp", [((0, 0), torch.ones(2, 2))])
    data = (folder / "__0_0.distcp").read_bytes()
    (folder / "spare.distcp").write_bytes(data)  # so that the sizes still fit
    (folder / "__0_0.distcp").unlink()
    os.mkfifo(folder / "__0_0.distcp")
    assert "regular" in refusal(folder, linear)
    (folder / ".metadata").unlink()
    os.mkfifo(folder / ".metadata")
    assert "regular" in refusal(folder, linear)
    for name in ("w.pt", "w.safetensors", "w.bin.index.json"):
        os.mkfifo(tmp_path / name)
        assert "regular" in refusal(tmp_path / name, linear)
    parts = tmp_path / "parts"
    parts.mkdir()
    os.mkfifo(parts / "a.safetensors")
    (parts / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"weight": "a.safetensors"}}))
    assert "regular" in refusal(parts, linear)
    (parts / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"weight": "../w.pt"}}))
    assert "outside" in refusal(parts, linear)
    latest = tmp_path / "deepspeed"
    latest.mkdir()
    os.mkfifo(latest / "latest")
    assert "regular" in refusal(latest, linear)


PICKLES = {
    "a key whose hash is a walk of 2**60 steps": b"\x80\x02)q\x00"
    + b"".join(b"h%ch%c\x86q%c" % (i, i, i + 1) for i in range(60))
    + b"}h\x3cK\x01s.",
    "a mapping that nests itself 2**100 times": b"\x80\x02}q\x00"
    + b"".join(b"}(X\x01\x00\x00\x00ah%cX\x01\x00\x00\x00bh%cuq%c" % (i, i, i + 1) for i in range(100))
    + b".",
    "integers that fall on one place of a hash table": b"\x80\x02}("
    + b"".join(b"\x8a\x0a" + ((i + 1) * (2**61 - 1)).to_bytes(10, "little") + b"N" for i in range(40_000))
    + b"u.",
    "a long list, copied again and again": b"\x80\x02ccollections\nOrderedDict\nq\x01]("
    + b"K\x01K\x01\x86" * 20_000
    + b"eq\x020"
    + b"h\x01h\x02\x85R0" * 20_000
    + b"N.",
    "a long text, encoded again and again": b"\x80\x02c_codecs\nencode\nq\x01X\x40\x42\x0f\x00"
    + b"a" * 1_000_000
    + b"q\x020]("
    + b"h\x01h\x02\x85R" * 50_000
    + b"e.",
    "a shape of 400,000 dimensions": b"\x80\x02ctorch\nSize\n(" + b"K\x02" * 400_000 + b"t\x85R.",
    "lists 200,000 deep": b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".",
    "bytes of a terabyte": b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b".",
    "a number of a million digits": b"\x80\x02\x8b" + struct.pack("<i", 1 << 20) + b"\x7f" * (1 << 20) + b".",
    "state, given again and again": b"\x80\x02ctorch.distributed.checkpoint.metadata\nMetadata\n)\x81q\x01}("
    + b"".join(b"X\x06\x00\x00\x00%06dN" % i for i in range(20_000))
    + b"uq\x02b"
    + b"h\x01h\x02b0" * 20_000
    + b".",
}


@pytest.mark.parametrize("what", PICKLES)
def test_pickles_end_soon(tmp_path: Path, what: str) -> None:
    folder = directory(tmp_path / "dcp", [((0, 0), torch.ones(2, 2))])
    (folder / ".metadata").write_bytes(PICKLES[what])
    with zipfile.ZipFile(tmp_path / "w.pt", "w") as archive:
        archive.writestr("archive/data.pkl", PICKLES[what])
    began = time.monotonic()
    refusal(folder, linear)
    refusal(tmp_path / "w.pt", linear)
    assert time.monotonic() - began < SECONDS


class Storage:
    """Stands for a storage of 16 floats while pickling."""


class Repeated:
    """A tensor of many dimensions, all of them over the same element."""

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def __reduce__(self) -> Any:
        return torch._utils._rebuild_tensor_v2, (Storage(), 0, (2,) * self.rank, (0,) * self.rank, False, {})


class Pickler(pickle.Pickler):
    def persistent_id(self, obj: Any) -> Any:
        return ("storage", torch.FloatStorage, "0", "cpu", 16) if isinstance(obj, Storage) else None


@pytest.mark.parametrize("rank", [60, 65, 400_000])
def test_tensors_of_many_dimensions(tmp_path: Path, rank: int) -> None:
    stream = io.BytesIO()
    Pickler(stream, protocol=2).dump({"weight": Repeated(rank)})
    with zipfile.ZipFile(tmp_path / "w.pt", "w") as archive:
        archive.writestr("archive/data.pkl", stream.getvalue())
        archive.writestr("archive/data/0", b"\0" * 64)
    began = time.monotonic()
    refusal(tmp_path / "w.pt", linear)
    assert time.monotonic() - began < SECONDS


def test_many_names_of_the_same_bytes(tmp_path: Path) -> None:
    folder = directory(tmp_path / "dcp", [((0, 0), torch.ones(2, 2))])
    size = (folder / "__0_0.distcp").stat().st_size
    entry = TensorStorageMetadata(
        TensorProperties(torch.float32),
        torch.Size((2, 2)),
        [ChunkStorageMetadata(torch.Size((0, 0)), torch.Size((2, 2)))],
    )
    entries: dict[str, Any] = {f"w{i}": entry for i in range(3000)}
    places = {MetadataIndex(f"w{i}", torch.Size((0, 0))): _StorageInfo("__0_0.distcp", 0, size) for i in range(3000)}
    (folder / ".metadata").write_bytes(pickle.dumps(Metadata(entries, None, places)))
    assert "more bytes" in refusal(folder, linear)
    header = {f"w{i}": {"dtype": "F32", "shape": [1024], "data_offsets": [0, 4096]} for i in range(3000)}
    text = json.dumps(header).encode()
    (tmp_path / "w.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + b"\0" * 4096)
    assert "overlap" in refusal(tmp_path / "w.safetensors", linear)


@pytest.mark.parametrize(
    "header",
    [
        b"[]",
        b"{",
        b'{"w": 3}',
        b'{"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}',
        b'{"w": {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]}}',
        b'{"w": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}}',
        b'{"w": {"dtype": "F99", "shape": [2], "data_offsets": [0, 8]}}',
        b'{"w": {"dtype": "F32", "shape": [true], "data_offsets": [0, 4]}}',
        b'{"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, "w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}',
    ],
)
def test_headers_of_safetensors(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 8)
    refusal(path, linear)
    path.write_bytes(struct.pack("<Q", 1 << 60) + header)
    refusal(path, linear)


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (b"\x1f\x8b\x08", "gzip"),
        (b"\x28\xb5\x2f\xfd", "zstd"),
        (b"\x89HDF\r\n", "HDF5"),
        (b"GGUF\x03", "GGUF"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"<!DOCTYPE html>", "HTML"),
    ],
)
def test_files_of_other_kinds_are_named(tmp_path: Path, start: bytes, words: str) -> None:
    (tmp_path / "w.pt").write_bytes(start + b"\0" * 100)
    assert words in refusal(tmp_path / "w.pt", linear)


def test_an_archive_of_very_many_sources(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "w.pt", "w") as file:
        file.writestr("a/data.pkl", pickle.dumps({}, 2))
        for i in range(20_000):
            file.writestr(f"a/code/{i}.py", "")
            file.writestr(f"a/data/{i}", "")
    begun = time.monotonic()
    refusal(tmp_path / "w.pt", linear)
    assert time.monotonic() - begun < SECONDS
