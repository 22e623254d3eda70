"""Reads what torch.save wrote (the zip form, since torch 1.6) without torch.load: tensors, numbers, and containers of them."""

from __future__ import annotations

import io
import math
import zipfile
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from maas_rt._errors import CheckpointError

from ._safe_pickle import RefusedPickleError, loads

__all__ = ["read_torch_bytes", "read_torch_file", "strided", "tensor_bytes"]

_STORAGES: dict[str, torch.dtype] = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "UntypedStorage": torch.uint8,
}
_DTYPES = [
    "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 bool complex64 complex128 uint16 uint32 uint64".split(),
    "float8_e4m3fn float8_e5m2".split(),
]
_MOST_MEMBERS = 1_000_000
_LARGEST_EXPANSION = 1 << 28  # elements of a tensor that repeats a smaller storage


class _StorageType:
    """Stands for torch.FloatStorage and its kin while unpickling."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype


def read_torch_file(path: Path) -> Any:
    """The object that torch.save wrote to `path`. Raises CheckpointError, in one sentence, for anything that is not that."""
    try:
        with open(path, "rb") as file:
            return _read_zip(file, path.stat().st_size)
    except RefusedPickleError as reason:
        raise CheckpointError(f"{path.name} is refused: {reason}") from reason
    except OSError as error:
        raise CheckpointError(f"{path.name} cannot be read: {error.strerror or error}") from error


def read_torch_bytes(data: bytes) -> Any:
    """The object in the bytes of such a file; raises RefusedPickleError."""
    return _read_zip(io.BytesIO(data), len(data))


def _read_zip(file: Any, size: int) -> Any:
    if size == 0:
        raise RefusedPickleError("it is empty")
    if not zipfile.is_zipfile(file):
        raise RefusedPickleError(
            "it is not a file that torch.save writes since torch 1.6 (a zip archive), or it was cut short"
        )
    try:
        with zipfile.ZipFile(file) as archive:
            return _Reader(archive, size).load()
    except (zipfile.BadZipFile, EOFError, ValueError, KeyError, NotImplementedError, RuntimeError) as error:
        raise RefusedPickleError(f"it is damaged ({(str(error).splitlines() or [type(error).__name__])[0]})") from error


class _Reader:
    """One archive: `data.pkl` and a member for each storage."""

    def __init__(self, archive: zipfile.ZipFile, size: int) -> None:
        members = archive.infolist()
        if len(members) > _MOST_MEMBERS or sum(m.file_size for m in members) > size:
            raise RefusedPickleError("its members claim to be larger than the file")
        if any(m.compress_type != zipfile.ZIP_STORED for m in members):
            raise RefusedPickleError("it has compressed members, which torch.save does not write")
        pickles = [m.filename for m in members if m.filename.endswith("/data.pkl") and m.filename.count("/") == 1]
        if len(pickles) != 1:
            raise RefusedPickleError(
                "it has no data.pkl, so it is no archive of torch.save (TorchScript is not supported)"
            )
        self._archive = archive
        self._prefix = pickles[0].removesuffix("data.pkl")
        if f"{self._prefix}constants.pkl" in archive.namelist():
            raise RefusedPickleError("it is a TorchScript archive: save the state dict instead")
        order = f"{self._prefix}byteorder"
        if order in archive.namelist() and archive.read(order) != b"little":
            raise RefusedPickleError("it was written on a big-endian machine")
        self._storages: dict[str, torch.Tensor] = {}

    def load(self) -> Any:
        return loads(self._archive.read(f"{self._prefix}data.pkl"), _GLOBALS, self._storage)

    def _storage(self, pid: Any) -> torch.Tensor:
        """('storage', type, key, location, elements) -> the elements as a flat tensor."""
        if not (isinstance(pid, tuple) and len(pid) == 5 and pid[0] == "storage" and isinstance(pid[1], _StorageType)):
            raise RefusedPickleError("its pickle refers to something that is not a storage")
        _, kind, key, _, count = pid
        if not isinstance(key, str) or not key.isalnum() or not isinstance(count, int) or count < 0:
            raise RefusedPickleError("its pickle names a storage in an unknown way")
        if key not in self._storages:
            self._storages[key] = tensor_bytes(self._archive.read(f"{self._prefix}data/{key}"))
        flat = self._storages[key]
        if count * kind.dtype.itemsize > flat.numel():
            raise RefusedPickleError(f"storage {key} is shorter than its pickle says")
        return flat[: count * kind.dtype.itemsize].view(kind.dtype)


def tensor_bytes(data: bytes) -> torch.Tensor:
    """The bytes as a flat uint8 tensor of its own memory."""
    return torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)


def strided(flat: torch.Tensor, offset: Any, size: Any, stride: Any) -> torch.Tensor:
    """A view of a flat tensor, after checking that it stays inside; raises RefusedPickleError."""
    numbers = [offset, *size, *stride] if isinstance(size, Sequence) and isinstance(stride, Sequence) else [None]
    if not all(isinstance(n, int) and 0 <= n < 2**48 for n in numbers) or len(size) != len(stride):
        raise RefusedPickleError("a tensor in it has an impossible shape")
    if 0 in size:
        return flat.new_empty(list(size))
    if math.prod(size) > max(flat.numel(), _LARGEST_EXPANSION):
        raise RefusedPickleError("a tensor in it repeats its storage to an enormous size")
    if offset + sum((n - 1) * s for n, s in zip(size, stride)) >= flat.numel():
        raise RefusedPickleError("a tensor in it reaches beyond its storage")
    return torch.as_strided(flat, list(size), list(stride), offset)


def _rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> torch.Tensor:
    if not isinstance(storage, torch.Tensor):
        raise RefusedPickleError("a tensor in it has no storage")
    return strided(storage, offset, size, stride)


def _rebuild_tensor_v3(
    storage: Any, offset: Any, size: Any, stride: Any, grad: Any, hooks: Any, dtype: Any, *rest: Any
) -> Any:
    if not isinstance(dtype, torch.dtype) or not isinstance(storage, torch.Tensor):
        raise RefusedPickleError("a tensor in it has no dtype")
    return strided(storage.view(torch.uint8).view(dtype), offset, size, stride)


def _rebuild_parameter(data: Any, *rest: Any) -> Any:
    return data


def _rebuild_from_type(function: Any, kind: Any, arguments: Any, state: Any) -> Any:
    """torch._tensor._rebuild_from_type_v2: a tensor with Python attributes, which are left out."""
    if function not in (_rebuild_tensor, _rebuild_tensor_v3, _rebuild_parameter):
        raise RefusedPickleError("a tensor in it is rebuilt in an unknown way")
    return function(*arguments)


def _size(*parts: Any) -> tuple[int, ...]:
    values = parts[0] if len(parts) == 1 and isinstance(parts[0], (tuple, list)) else parts
    return tuple(int(value) for value in values)


class _Ignored:
    """Stands for an object whose content does not matter (a hook dict, a device)."""

    takes_state = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        return

    def __setstate__(self, state: Any) -> None:
        return


def _encode(text: Any, encoding: Any = "utf-8", *rest: Any) -> bytes:
    """_codecs.encode, which older pickle protocols write for bytes."""
    return str(text).encode("latin1" if encoding == "latin1" else "utf-8")


_GLOBALS: Mapping[tuple[str, str], Any] = {
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _rebuild_tensor_v3,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _rebuild_parameter,
    ("torch._tensor", "_rebuild_from_type_v2"): _rebuild_from_type,
    ("torch", "Tensor"): _Ignored,
    ("torch.nn.parameter", "Parameter"): _Ignored,
    ("torch.nn.parameter", "Buffer"): _Ignored,
    ("torch", "Size"): _size,
    ("torch", "device"): _Ignored,
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): OrderedDict,
    **{("torch", name): _StorageType(dtype) for name, dtype in _STORAGES.items()},
    **{("torch.storage", name): _StorageType(dtype) for name, dtype in _STORAGES.items()},
    **{("torch", name): getattr(torch, name) for group in _DTYPES for name in group if hasattr(torch, name)},
}
