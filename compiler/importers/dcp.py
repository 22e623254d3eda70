"""A directory that torch.distributed.checkpoint wrote (FSDP2, tensor parallel, any world size), read in one process.

`.metadata` is a pickle of a few dataclasses: it is read into plain records by names on a list. Each tensor is put together
from its chunks: the metadata gives their offsets in the whole tensor, and their place in a `.distcp` file. No process group,
no DTensor: placements are already resolved into offsets. (torch 2.x, torch/distributed/checkpoint/metadata.py and
filesystem.py, describe the fields.)
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from maas_rt._errors import CheckpointError

from ._safe_pickle import RefusedPickleError, loads
from ._torch_file import read_torch_bytes

__all__ = ["read_dcp"]

_LARGEST_METADATA = 1 << 30


class _Record:
    """A dataclass of the metadata: its fields, nothing else."""

    takes_state = True

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) == 2 and isinstance(state[1], dict):
            state = {**(state[0] or {}), **state[1]}
        if not isinstance(state, dict):
            state = {"fields": state}
        for key, value in state.items():
            if isinstance(key, str) and key.isidentifier():
                self.__dict__[key] = value


class _Metadata(_Record): ...


class _TensorEntry(_Record): ...


class _BytesEntry(_Record): ...


class _Properties(_Record): ...


class _Chunk(_Record): ...


class _Index(_Record): ...


class _Place(_Record): ...


class _Other(_Record): ...


def _numbers(*parts: Any) -> tuple[Any, ...]:
    """torch.Size"""
    return tuple(parts[0]) if len(parts) == 1 and isinstance(parts[0], (tuple, list)) else tuple(parts)


def _nothing(*parts: Any) -> None:
    """A layout or a memory format, which a file's content does not depend on."""


def _member(owner: Any, name: Any) -> None:
    """getattr, with which Python 3.11.0 to 3.11.3 pickles a member of an enum (as Debian 12's does): of the listed enum alone."""
    if owner is not _nothing or not isinstance(name, str):
        raise RefusedPickleError("its pickle wants an attribute of something that is not a listed enum")


_METADATA = "torch.distributed.checkpoint.metadata"
_ALLOWED: Mapping[tuple[str, str], Any] = {
    (_METADATA, "Metadata"): _Metadata,
    (_METADATA, "TensorStorageMetadata"): _TensorEntry,
    (_METADATA, "BytesStorageMetadata"): _BytesEntry,
    (_METADATA, "TensorProperties"): _Properties,
    (_METADATA, "ChunkStorageMetadata"): _Chunk,
    (_METADATA, "MetadataIndex"): _Index,
    (_METADATA, "StorageMeta"): _Other,
    (_METADATA, "_MEM_FORMAT_ENCODING"): _nothing,
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"): _Place,
    ("builtins", "getattr"): _member,
    ("torch", "Size"): _numbers,
    ("torch.serialization", "_get_layout"): _nothing,
    ("pathlib", "PosixPath"): lambda *parts: "/".join(str(part) for part in parts),
    **{
        ("torch", name): getattr(torch, name)
        for name in "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 bool".split()
    },
}


def read_dcp(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of the checkpoint by name. Raises CheckpointError, in one sentence."""
    try:
        metadata = _read_metadata(folder)
        places = _places(metadata)
        reader = _Shards(folder)
        entries = _field(metadata, "state_dict_metadata", dict)
        return {
            str(name): _assembled(str(name), entry, places, reader)
            for name, entry in entries.items()
            if isinstance(entry, _TensorEntry)
        }
    except RefusedPickleError as reason:
        raise CheckpointError(f"the checkpoint directory {folder.name} is refused: {reason}") from reason
    except OSError as error:
        raise CheckpointError(
            f"the checkpoint directory {folder.name} cannot be read: {error.strerror or error}"
        ) from error


def _read_metadata(folder: Path) -> _Metadata:
    file = folder / ".metadata"
    if not file.is_file():
        raise RefusedPickleError("it has no file .metadata, so torch.distributed.checkpoint did not write or finish it")
    if file.stat().st_size > _LARGEST_METADATA:
        raise RefusedPickleError(".metadata is larger than 1 GiB")
    try:
        metadata = loads(file.read_bytes(), _ALLOWED)
    except RefusedPickleError as reason:
        raise RefusedPickleError(f".metadata: {reason}") from reason
    if not isinstance(metadata, _Metadata):
        raise RefusedPickleError(".metadata does not hold the metadata of a checkpoint")
    return metadata


def _field(record: Any, name: str, kind: type) -> Any:
    value = record.__dict__.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise RefusedPickleError(f".metadata has no usable {name}")
    return value


def _shape(record: Any, name: str) -> tuple[int, ...]:
    value = _field(record, name, tuple)
    if not all(isinstance(size, int) and 0 <= size < 2**48 for size in value):
        raise RefusedPickleError(f".metadata has an impossible {name}")
    return tuple(value)


def _places(metadata: _Metadata) -> dict[tuple[str, tuple[int, ...]], _Place]:
    """Where each chunk is stored, by the tensor's name and the chunk's offsets."""
    found: dict[tuple[str, tuple[int, ...]], _Place] = {}
    for index, place in _field(metadata, "storage_data", dict).items():
        if not isinstance(index, _Index) or not isinstance(place, _Place):
            raise RefusedPickleError(".metadata lists something that is no chunk")
        offset = index.__dict__.get("offset")
        if offset is not None:
            found[_field(index, "fqn", str), _shape(index, "offset")] = place
    return found


def _assembled(name: str, entry: _TensorEntry, places: dict[Any, _Place], reader: _Shards) -> torch.Tensor:
    """The whole tensor from its chunks, which must fill it."""
    size = _shape(entry, "size")
    chunks = [_extent(name, chunk, size) for chunk in _field(entry, "chunks", list)]
    filled = sum(math.prod(extents) for _, extents in chunks)
    if not chunks or filled != math.prod(size) or filled > reader.total:  # an element takes a byte at least
        raise RefusedPickleError(f"the chunks of {name} hold {filled} of {math.prod(size)} elements")
    whole: torch.Tensor | None = None
    for offsets, extents in chunks:
        if (name, offsets) not in places:
            raise RefusedPickleError(f".metadata does not say where the chunk of {name} at {offsets} is stored")
        part = reader.tensor(name, places[name, offsets])
        if tuple(part.shape) != extents:
            raise RefusedPickleError(f"the chunk of {name} at {offsets} has shape {tuple(part.shape)}, not {extents}")
        if len(chunks) == 1:
            return part
        if whole is None:
            whole = torch.zeros(size, dtype=part.dtype)
        if part.dtype != whole.dtype:
            raise RefusedPickleError(f"the chunks of {name} differ in dtype")
        whole[tuple(slice(o, o + e) for o, e in zip(offsets, extents))] = part
    assert whole is not None
    return whole


def _extent(name: str, chunk: Any, size: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Offsets and sizes of a chunk inside its tensor."""
    if not isinstance(chunk, _Chunk):
        raise RefusedPickleError(f".metadata lists something that is no chunk of {name}")
    offsets, extents = _shape(chunk, "offsets"), _shape(chunk, "sizes")
    if (
        len(offsets) != len(size)
        or len(extents) != len(size)
        or any(o + e > s for o, e, s in zip(offsets, extents, size))
    ):
        raise RefusedPickleError(f"a chunk of {name} lies outside of the tensor")
    return offsets, extents


class _Shards:
    """The `.distcp` files of the folder: one slice of one file is one saved tensor."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.total = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())

    def tensor(self, name: str, place: _Place) -> torch.Tensor:
        file = _field(place, "relative_path", str)
        offset, length = _field(place, "offset", int), _field(place, "length", int)
        if place.__dict__.get("transform_descriptors"):
            raise RefusedPickleError(f"{name} is stored through transforms (compression), which are not supported")
        if Path(file).name != file or file in ("", ".", ".."):
            raise RefusedPickleError(f"{name} is said to be stored in {file!r}, outside of the directory")
        try:
            value = read_torch_bytes(self._slice(file, offset, length))
        except RefusedPickleError as reason:
            raise RefusedPickleError(f"{name} in {file}: {reason}") from reason
        if not isinstance(value, torch.Tensor):
            raise RefusedPickleError(f"{name} in {file} is no tensor")
        return value

    def _slice(self, file: str, offset: int, length: int) -> bytes:
        """Bytes of a regular file of the folder; links are not followed."""
        try:
            descriptor = os.open(self._folder / file, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
        except OSError as error:
            raise RefusedPickleError(f"the shard cannot be opened: {error.strerror}") from error
        with os.fdopen(descriptor, "rb") as stream:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or offset < 0 or length <= 0 or offset + length > status.st_size:
                raise RefusedPickleError("the shard is shorter than .metadata says")
            stream.seek(offset)
            return stream.read(length)
