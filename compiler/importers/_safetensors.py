"""safetensors files: a JSON header that says where each tensor's bytes lie. Read here by that, and again by the safetensors library.

torch.distributed's HuggingFaceStorageWriter stores chunks of sharded tensors in such files, their offsets in the header's metadata.
(https://huggingface.co/docs/safetensors/index#format; torch/distributed/checkpoint/_hf_utils.py)
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeGuard

import torch

from ._contents import Location, StoredTensor, read_into
from ._files import open_regular
from ._foreign import HEAD, foreign
from ._safe_pickle import Inert, RefusedPickleError, inert_tensor
from ._tiles import check_tiling

__all__ = ["SafetensorsFile", "SafetensorsShards"]

_LARGEST_HEADER = 100_000_000  # the library's own limit
_MOST_DIMENSIONS = 64
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "C64": torch.complex64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "F8_E8M0": torch.float8_e8m0fnu,
}


class SafetensorsFile:
    """One file as Contents. Raises RefusedPickleError."""

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self._path = path
        with open_regular(path) as stream:
            self._size = stream.seek(0, 2)
            stream.seek(0)
            other = foreign(stream.read(HEAD))
            if other is not None:
                raise RefusedPickleError(f"it is {other}")
            stream.seek(0)
            length = int.from_bytes(stream.read(8), "little")
            if self._size < 10 or length > min(_LARGEST_HEADER, self._size - 8):
                raise RefusedPickleError("it is no safetensors file, or was cut short")
            self._begin = 8 + length
            header = _json(stream.read(length))
        metadata = header.pop("__metadata__", {})
        self.tree: dict[str, StoredTensor | Inert] = {name: self._entry(name, entry) for name, entry in header.items()}
        _check_apart([entry["data_offsets"] for entry in header.values()])
        self.offsets = _saved_offsets(metadata, self.tree)

    def _entry(self, name: str, entry: Any) -> StoredTensor | Inert:
        if not isinstance(entry, dict):
            raise RefusedPickleError(f"its header describes {name[:80]} in an unknown way")
        dtype, shape, place = _DTYPES.get(str(entry.get("dtype"))), entry.get("shape"), entry.get("data_offsets")
        if not _sizes(shape) or not _sizes(place) or len(shape) > _MOST_DIMENSIONS or len(place) != 2:
            raise RefusedPickleError(f"its header describes {name[:80]} in an unknown way")
        if dtype is None and isinstance(entry.get("dtype"), str):
            return inert_tensor(entry["dtype"])
        if dtype is None:
            raise RefusedPickleError(f"its header gives no dtype of {name[:80]}")
        begin, end = place
        count = math.prod(shape) * dtype.itemsize
        if end - begin != count or self._begin + end > self._size:
            raise RefusedPickleError(f"{name[:80]} does not lie within the file: it was cut short, or is damaged")

        def read() -> torch.Tensor:
            with open_regular(self._path) as stream:
                stream.seek(self._begin + begin)
                return read_into(stream, count).view(dtype).reshape(shape)

        return StoredTensor(tuple(shape), dtype, read)

    def read_by_library(self, locations: Sequence[Location]) -> list[Any]:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(self._path), framework="pt") as file:
                return [file.get_tensor(location[0]) for location in locations]
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            text = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise RefusedPickleError(f"the safetensors library cannot read it: {text}") from error


class SafetensorsShards:
    """Files of HuggingFaceStorageWriter that hold chunks of tensors each, put together."""

    def __init__(self, folder: Path, files: Sequence[SafetensorsFile]) -> None:
        self.name = folder.name
        self._folder = folder
        self._chunks: dict[str, list[tuple[tuple[int, ...], StoredTensor]]] = {}
        for file in files:
            for name, stored in file.tree.items():
                if isinstance(stored, Inert):
                    continue
                offsets = file.offsets.get(name, (0,) * len(stored.shape))
                self._chunks.setdefault(name, []).append((offsets, stored))
        self.tree = {name: self._joined_tensor(name) for name in self._chunks}

    def _joined_tensor(self, name: str) -> StoredTensor:
        chunks = self._chunks[name]
        rank, dtype = len(chunks[0][0]), chunks[0][1].dtype
        if any(len(offsets) != rank or stored.dtype != dtype for offsets, stored in chunks):
            raise RefusedPickleError(f"the chunks of {name[:80]} differ in rank or dtype")
        size = tuple(max(o[axis] + s.shape[axis] for o, s in chunks) for axis in range(rank))

        def read() -> torch.Tensor:
            check_tiling(name, size, [(offsets, stored.shape) for offsets, stored in chunks])
            if len(chunks) == 1:
                return chunks[0][1].read()
            whole = torch.empty(size, dtype=dtype)
            for offsets, stored in chunks:
                whole[tuple(slice(o, o + e) for o, e in zip(offsets, stored.shape))] = stored.read()
            return whole

        return StoredTensor(size, dtype, read)

    def read_by_library(self, locations: Sequence[Location]) -> list[Any]:
        from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
        from torch.distributed.checkpoint.state_dict_loader import _load_state_dict

        state: dict[str, Any] = {}
        for (name,) in locations:
            stored = self.tree[name]
            state[name] = torch.empty(stored.shape, dtype=stored.dtype)
        try:
            _load_state_dict(state, storage_reader=HuggingFaceStorageReader(str(self._folder)), no_dist=True)
        except Exception as error:
            text = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            raise RefusedPickleError(f"torch.distributed.checkpoint cannot load it: {text}") from error
        return [state[location[0]] for location in locations]


def _json(text: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise RefusedPickleError("its header has a name twice")
        return found

    try:
        header = json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise RefusedPickleError("it is no safetensors file, or was cut short: its header is no JSON") from error
    if not isinstance(header, dict):
        raise RefusedPickleError("it is no safetensors file: its header is no mapping")
    return header


def _check_apart(places: list[list[int]]) -> None:
    """No byte of the file belongs to two tensors: what many names share would take its size many times."""
    ordered = sorted(places)
    if any(before[1] > after[0] and before[0] < before[1] for before, after in itertools.pairwise(ordered)):
        raise RefusedPickleError("its tensors overlap")


def _sizes(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(size) is int and 0 <= size < 2**48 for size in value)


def _saved_offsets(metadata: Any, tree: dict[str, StoredTensor | Inert]) -> dict[str, tuple[int, ...]]:
    """Where in its whole each tensor belongs, which is told of sharded ones."""
    sharding_info = metadata.get("DCP_SHARDING_INFO") if isinstance(metadata, dict) else None
    if not isinstance(sharding_info, str):
        return {}
    found = {}
    for name, info in _json(sharding_info.encode()).items():
        offsets = info.get("saved_offsets") if isinstance(info, dict) else None
        stored = tree.get(name)
        if isinstance(stored, Inert):
            continue
        if stored is None or not _sizes(offsets) or len(offsets) != len(stored.shape):
            raise RefusedPickleError(f"its header tells of offsets of {name[:80]} that it cannot have")
        found[name] = tuple(offsets)
    return found
