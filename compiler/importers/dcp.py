"""A directory that torch.distributed.checkpoint wrote (FSDP2, tensor parallel, any world size), read in one process.

`.metadata` is a pickle of a few dataclasses: it is read into plain records by names on a list. Each tensor is put together
from its chunks: the metadata gives their offsets in the whole tensor, and their place in a `.distcp` file. No process group,
no DTensor: placements are already resolved into offsets. (torch 2.x, torch/distributed/checkpoint/metadata.py and
filesystem.py, describe the fields.)

The second reading is torch's own planner and loader, on metadata that is made here from the checked records: torch never sees the
pickle, and reads the shards with weights_only=True.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ._contents import Location, StoredList, StoredTensor, StoredValue
from ._files import open_regular, plain_name
from ._safe_pickle import Inert, InertKind, RefusedPickleError, inert_tensor, loads
from ._tiles import check_tiling
from ._torch_file import read_torch_bytes

__all__ = ["DistributedCheckpoint"]

_LARGEST_METADATA = 1 << 28
_MOST_DIMENSIONS = 64
_AROUND_A_CHUNK = 1 << 20  # bytes of torch.save around a chunk's elements


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
    values = parts[0] if len(parts) == 1 and isinstance(parts[0], (tuple, list)) else parts
    if len(values) > _MOST_DIMENSIONS:
        raise RefusedPickleError("its pickle has a shape of too many dimensions")
    return tuple(values)


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
    ("torch.distributed._shard.sharded_tensor.metadata", "TensorProperties"): _Properties,  # torch 2.0 to 2.2
    ("torch.distributed._shard.sharded_tensor.metadata", "MEM_FORMAT_ENCODING"): _nothing,
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"): _Place,
    ("builtins", "getattr"): _member,
    ("__builtin__", "getattr"): _member,
    ("torch", "Size"): _numbers,
    ("torch.serialization", "_get_layout"): _nothing,
    **{
        ("torch", name): getattr(torch, name)
        for name in (
            "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 uint16 uint32 uint64 bool complex64 complex128 "
            "float8_e4m3fn float8_e5m2 float8_e4m3fnuz float8_e5m2fnuz float8_e8m0fnu"
        ).split()
    },
}


class DistributedCheckpoint:
    """The directory as Contents. Raises RefusedPickleError."""

    def __init__(self, folder: Path) -> None:
        self.name = folder.name
        self._folder = folder
        self._metadata = _read_metadata(folder)
        self._places = _places(self._metadata)
        self._shards = _Shards(folder)
        lengths = [_field(place, "length", int) for place in self._places.values()]
        if min(lengths, default=0) < 0 or sum(lengths) > self._shards.total:
            raise RefusedPickleError(
                "its tensors are said to take more bytes than its files have: one of its .distcp files is missing, or was cut short"
            )
        self._entries = {str(k): v for k, v in _field(self._metadata, "state_dict_metadata", dict).items()}
        self._names: dict[Location, str] = {}
        self.tree = self._tree()

    def _tree(self) -> dict[Any, Any]:
        """The names as they were nested when they were saved, which the metadata tells."""
        nesting = self._metadata.__dict__.get("planner_data")
        nesting = nesting if isinstance(nesting, dict) else {}
        tree: dict[Any, Any] = {}
        for name, entry in self._entries.items():
            path = nesting.get(name)
            usable = isinstance(path, tuple) and path and all(isinstance(key, (str, int)) for key in path)
            location: Location = path if usable else (name,)  # type: ignore[assignment]
            node = tree
            for key, following in itertools.pairwise(location):
                node = node.setdefault(key, StoredList() if isinstance(following, int) else {})
                if not isinstance(node, dict):
                    raise RefusedPickleError(f".metadata nests {name} within a tensor")
            if location[-1] in node:
                raise RefusedPickleError(f".metadata has {name} twice")
            node[location[-1]] = self._leaf(name, entry)
            self._names[location] = name
        return tree

    def _leaf(self, name: str, entry: Any) -> Any:
        if isinstance(entry, _TensorEntry):
            dtype = _dtype(name, entry)
            if isinstance(dtype, InertKind):
                return inert_tensor(dtype.name)
            size = _shape(entry, "size")
            return StoredTensor(size, dtype, lambda: self._assembled(name, entry))
        if isinstance(entry, _BytesEntry):
            return StoredValue(lambda: self._shards.value(name, self._place(name, None), _AROUND_A_CHUNK * 64))
        return Inert("value of an unknown kind")

    def _place(self, name: str, offsets: tuple[int, ...] | None) -> _Place:
        if (name, offsets) not in self._places:
            raise RefusedPickleError(f".metadata does not say where {name} (at {offsets}) is stored")
        return self._places[name, offsets]

    def _assembled(self, name: str, entry: _TensorEntry) -> torch.Tensor:
        """The whole tensor from its chunks, which must cover it without a gap and without an overlap."""
        size, dtype = _shape(entry, "size"), _dtype(name, entry)
        chunks = [_extent(name, chunk, size) for chunk in _field(entry, "chunks", list)]
        check_tiling(name, size, chunks)
        if math.prod(size) > self._shards.total:  # an element takes a byte at least
            raise RefusedPickleError(f"{name} is larger than the files")
        whole: torch.Tensor | None = None
        for offsets, extents in chunks:
            if 0 in extents and len(chunks) > 1:
                continue
            limit = 4 * math.prod(extents) * dtype.itemsize + _AROUND_A_CHUNK
            part = self._shards.value(name, self._place(name, offsets), limit)
            if not isinstance(part, torch.Tensor):
                raise RefusedPickleError(f"{name} at {offsets} is no tensor")
            if tuple(part.shape) != extents or part.dtype != dtype:
                raise RefusedPickleError(
                    f"the chunk of {name} at {offsets} is {tuple(part.shape)} of {part.dtype}, not {extents} of {dtype}"
                )
            if len(chunks) == 1:
                return part
            if whole is None:
                whole = torch.empty(size, dtype=dtype)
            whole[tuple(slice(o, o + e) for o, e in zip(offsets, extents))] = part
        return whole if whole is not None else torch.empty(size, dtype=dtype)

    def read_by_library(self, locations: Sequence[Location]) -> list[Any]:
        names = [self._names.get(location) for location in locations]
        tensors = [n for n in names if n is not None and isinstance(self._entries[n], _TensorEntry)]
        found = self._by_torch(tensors) if tensors else {}
        return [found.get(name) if name is not None else None for name in names]

    def reader(self, names: Sequence[str] | None = None) -> Any:
        """torch's reader of the folder for the tensors `names` (None: all), with metadata made from the checked records instead of the
        pickle: for torch.distributed.checkpoint.load, in any number of processes."""
        from torch.distributed.checkpoint import metadata
        from torch.distributed.checkpoint.filesystem import FileSystemReader, _StorageInfo

        tensors: dict[str, metadata.TensorStorageMetadata | metadata.BytesStorageMetadata] = {}
        storage: dict[metadata.MetadataIndex, _StorageInfo] = {}
        for name, (size, dtype) in self.tensors(names).items():
            chunks = []
            for chunk in _field(self._entries[name], "chunks", list):
                offsets, extents = _extent(name, chunk, tuple(size))
                place = self._place(name, offsets)
                chunks.append(metadata.ChunkStorageMetadata(torch.Size(offsets), torch.Size(extents)))
                storage[metadata.MetadataIndex(name, offsets)] = _StorageInfo(
                    plain_name(_field(place, "relative_path", str)),
                    _field(place, "offset", int),
                    _field(place, "length", int),
                )
            tensors[name] = metadata.TensorStorageMetadata(metadata.TensorProperties(dtype), size, chunks)
        checked = metadata.Metadata(tensors, storage_data=storage)

        class Reader(FileSystemReader):
            def read_metadata(self, *args: Any, **kwargs: Any) -> metadata.Metadata:
                return checked

        return Reader(self._folder)

    def tensors(self, names: Sequence[str] | None = None) -> dict[str, tuple[torch.Size, torch.dtype]]:
        """Shape and dtype by the names that the checkpoint has for its tensors."""
        wanted = self._entries if names is None else names
        found = {name: self._entries[name] for name in wanted if isinstance(self._entries[name], _TensorEntry)}
        return {name: (torch.Size(_shape(entry, "size")), _dtype(name, entry)) for name, entry in found.items()}

    def _by_torch(self, names: Sequence[str]) -> dict[str, torch.Tensor]:
        from torch.distributed.checkpoint.state_dict_loader import _load_state_dict

        state: dict[str, Any] = {
            name: torch.empty(size, dtype=dtype) for name, (size, dtype) in self.tensors(names).items()
        }
        try:
            _load_state_dict(state, storage_reader=self.reader(names), no_dist=True)
        except Exception as error:
            text = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            raise RefusedPickleError(f"torch.distributed.checkpoint cannot load it: {text}") from error
        return state


def _read_metadata(folder: Path) -> _Metadata:
    try:
        with open_regular(folder / ".metadata") as stream:
            data = stream.read(_LARGEST_METADATA + 1)
        if len(data) > _LARGEST_METADATA:
            raise RefusedPickleError("it is larger than 256 MiB")
        metadata = loads(data, _ALLOWED, inert=set())
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
    if len(value) > _MOST_DIMENSIONS or not all(isinstance(size, int) and 0 <= size < 2**48 for size in value):
        raise RefusedPickleError(f".metadata has an impossible {name}")
    return tuple(value)


def _dtype(name: str, entry: _TensorEntry) -> Any:
    """A torch.dtype, or the stand-in of one that is not read."""
    properties = _field(_field(entry, "properties", _Properties), "fields", tuple)
    if not properties or not isinstance(properties[0], (torch.dtype, InertKind)):
        raise RefusedPickleError(f".metadata gives no dtype of {name}")
    return properties[0]


def _places(metadata: _Metadata) -> dict[tuple[str, tuple[int, ...] | None], _Place]:
    """Where each chunk is stored, by the tensor's name and the chunk's offsets (None of what is no tensor)."""
    found: dict[tuple[str, tuple[int, ...] | None], _Place] = {}
    for index, place in _field(metadata, "storage_data", dict).items():
        if not isinstance(index, _Index) or not isinstance(place, _Place):
            raise RefusedPickleError(".metadata lists something that is no chunk")
        offset = index.__dict__.get("offset")
        found[_field(index, "fqn", str), None if offset is None else _shape(index, "offset")] = place
    return found


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
    """The `.distcp` files of the folder: one slice of one file is one saved object."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.total = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())

    def value(self, name: str, place: _Place, limit: int) -> Any:
        """What is stored there, in at most `limit` bytes."""
        file = _field(place, "relative_path", str)
        offset, length = _field(place, "offset", int), _field(place, "length", int)
        if place.__dict__.get("transform_descriptors"):
            raise RefusedPickleError(
                f"{name} is stored through transforms (compression): load it with torch.distributed.checkpoint, and save it without"
            )
        if length > limit:
            raise RefusedPickleError(f"{name} takes {length} bytes, far more than its elements need")
        try:
            return read_torch_bytes(self._slice(plain_name(file), offset, length))
        except RefusedPickleError as reason:
            raise RefusedPickleError(f"{name} in {file[:80]}: {reason}") from reason

    def _slice(self, file: str, offset: int, length: int) -> bytes:
        """Bytes of a regular file of the folder; links are not followed."""
        with open_regular(self._folder / file, links=False) as stream:
            if offset < 0 or length <= 0 or offset + length > stream.seek(0, 2):
                raise RefusedPickleError("the shard is shorter than .metadata says")
            stream.seek(offset)
            return stream.read(length)
