"""Reads what torch.save wrote (the zip form, since torch 1.6, and the one before) without torch.load: tensors, numbers, and
containers of them."""

from __future__ import annotations

import io
import math
import os
import re
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch

from ._contents import StoredTensor, read_into
from ._files import open_regular
from ._foreign import HEAD, foreign, foreign_archive
from ._safe_pickle import Inert, InertKind, RefusedPickleError, inert_tensor, load_from, loads

__all__ = ["Scripted", "empty_list", "empty_mapping", "open_torch_file", "read_torch_bytes", "strided", "tensor_bytes"]

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
    "float8_e4m3fn float8_e5m2 float8_e4m3fnuz float8_e5m2fnuz float8_e8m0fnu".split(),
]
_MOST_MEMBERS = 1_000_000
_LISTED = 10_000  # of them that tell what an archive is
_LARGEST_EXPANSION = 1 << 28  # elements of a tensor that repeats a smaller storage
_LARGEST_PICKLE = 1 << 28
_LARGEST_SOURCE = 1 << 26
# A class of TorchScript: its name, and the lists at its head.
_DECLARED = re.compile(r"^class (\w+)\(Module\):\n  __parameters__ = \[(.*)\]\n  __buffers__ = \[(.*)\]$", re.MULTILINE)
_DEEPEST = 100
_MOST_DIMENSIONS = 64  # torch's own limit
_MAGIC = 0x1950A86A20F9469CFC6C  # what the form before torch 1.6 begins with, pickled


class _StorageType:
    """Stands for torch.FloatStorage and its kin while unpickling."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype


@dataclass(frozen=True, eq=False)
class Scripted:
    """What torch.jit.save wrote: the module, and of each class the attributes that are parameters and buffers."""

    module: Any
    declared: Mapping[str, frozenset[str]]


@dataclass(frozen=True, eq=False)
class _Storage:
    """Elements of one type in the file, as a flat tensor when they are read."""

    dtype: torch.dtype
    count: int
    read: Callable[[], torch.Tensor]


def open_torch_file(path: Path, kinds: set[str]) -> Any:
    """The object that torch.save wrote to `path`, its tensors StoredTensor and what is not known of it Inert; the names of what these stand
    for are added to `kinds`. Raises RefusedPickleError."""
    file = open_regular(path)
    return _read(file, os.fstat(file.fileno()).st_size, kinds)


def read_torch_bytes(data: bytes | memoryview) -> Any:
    """The object in the bytes of such a file, of tensors and plain data alone; raises RefusedPickleError."""
    return _read_tensors(_read(io.BytesIO(data), len(data), None))


def _read_tensors(value: Any) -> Any:
    """The value with its tensors read; what it has twice is read once."""
    done: dict[int, Any] = {}

    def read(item: Any, depth: int) -> Any:
        if depth > _DEEPEST:
            raise RefusedPickleError("its pickle is nested too deeply")
        if id(item) not in done:
            kind = type(item)
            if isinstance(item, StoredTensor):
                done[id(item)] = item.read()
            elif kind in (dict, OrderedDict):
                done[id(item)] = kind((key, read(inner, depth + 1)) for key, inner in item.items())
            elif kind in (list, tuple):
                done[id(item)] = kind(read(inner, depth + 1) for inner in item)
            else:
                return item
        return done[id(item)]

    return read(value, 0)


def _read(file: IO[bytes], size: int, inert: set[str] | None) -> Any:
    if size == 0:
        raise RefusedPickleError("it is empty")
    try:
        file.seek(0)
        if file.read(2) == b"PK" and zipfile.is_zipfile(file):  # an archive of tar may end with one
            return _Archive(zipfile.ZipFile(file), size, inert).load()
        return _Legacy(file, size, inert).load()
    except (zipfile.BadZipFile, EOFError, ValueError, KeyError, NotImplementedError, RuntimeError) as error:
        raise RefusedPickleError(f"it is damaged ({_first_line(error)})") from error


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


class _Archive:
    """The zip form: `data.pkl` and a member for each storage."""

    def __init__(self, archive: zipfile.ZipFile, size: int, inert: set[str] | None) -> None:
        members = archive.infolist()
        pickles = [m for m in members if m.filename.endswith("/data.pkl") and m.filename.count("/") == 1]
        other = None if pickles else foreign_archive([m.filename for m in members[:_LISTED]])
        if other is not None:
            raise RefusedPickleError(f"it is {other}")
        sources: list[zipfile.ZipInfo] = []
        stored: list[zipfile.ZipInfo] = []
        for member in members:
            code = member.filename.partition("/")[2].startswith("code/")  # TorchScript compresses it
            (sources if code else stored).append(member)
        if len(members) > _MOST_MEMBERS or sum(m.file_size for m in stored) > size:
            raise RefusedPickleError("its members claim to be larger than the file")
        if any(m.compress_type != zipfile.ZIP_STORED for m in stored):
            raise RefusedPickleError("it has compressed members, which torch.save does not write")
        if len(pickles) != 1:
            raise RefusedPickleError(
                "it has no data.pkl, so it is no archive of torch.save: give what torch.save(module.state_dict(), path) wrote"
            )
        if pickles[0].file_size > _LARGEST_PICKLE:
            raise RefusedPickleError("its data.pkl is larger than 256 MiB")
        if not any(m.CRC for m in members):  # none was computed: torch.serialization.set_crc32_options(False)
            for member in members:
                del member.CRC
        self._archive = archive
        self._inert = inert
        self._prefix = pickles[0].filename.removesuffix("data.pkl")
        self._sizes = {m.filename: m.file_size for m in members}
        self._uses: Counter[str] = Counter()
        self._scripted = f"{self._prefix}constants.pkl" in self._sizes
        self._sources = [m for m in sources if m.filename.endswith(".py")]
        order = f"{self._prefix}byteorder"
        if self._sizes.get(order, 99) < 16 and archive.read(order) != b"little":
            raise RefusedPickleError("it was written on a big-endian machine")
        self._storages: dict[str, torch.Tensor] = {}

    def load(self) -> Any:
        value = loads(self._archive.read(f"{self._prefix}data.pkl"), _GLOBALS, self._storage, inert=self._inert)
        return Scripted(value, self._declared_attributes()) if self._scripted else value

    def _declared_attributes(self) -> dict[str, frozenset[str]]:
        """Of each class in the archive's sources, the attributes that are its parameters and buffers."""
        if sum(m.file_size for m in self._sources) > _LARGEST_SOURCE:
            raise RefusedPickleError("its code is larger than 64 MiB")
        found = {}
        for member in self._sources:
            where = member.filename.removeprefix(f"{self._prefix}code/").removesuffix(".py").replace("/", ".")
            text = self._archive.read(member).decode("utf-8", "replace")
            for name, parameters, buffers in _DECLARED.findall(text):
                found[f"{where}.{name}"] = frozenset(re.findall(r'"([^"]*)"', f"{parameters} {buffers}"))
        return found

    def _storage(self, pid: Any) -> _Storage | Inert:
        """('storage', type, key, location, elements)."""
        if isinstance(pid, tuple) and len(pid) == 5 and isinstance(pid[1], InertKind):
            return pid[1]()  # of a quantized tensor
        dtype, key, count = _storage_id(pid, 5)
        member = f"{self._prefix}data/{key}"
        if member not in self._sizes or count * dtype.itemsize > self._sizes[member]:
            raise RefusedPickleError(f"storage {key} is shorter than its pickle says")
        self._uses[member] += 1
        return _Storage(dtype, count, lambda: self._bytes(member)[: count * dtype.itemsize].view(dtype))

    def _bytes(self, member: str) -> torch.Tensor:
        """The storage; one that several tensors share is read once, and they still do."""
        if member in self._storages:
            return self._storages[member]
        try:
            with self._archive.open(member) as stream:
                storage = read_into(stream, self._sizes[member])
                stream.read(1)  # the end, where the checksum is compared
        except (zipfile.BadZipFile, EOFError, ValueError, OSError, NotImplementedError, RuntimeError) as error:
            raise RefusedPickleError(f"it is damaged ({_first_line(error)})") from error
        if self._uses[member] > 1:
            self._storages[member] = storage
        return storage


class _Legacy:
    """The form before torch 1.6: pickles (a number, a version, the machine, the object, the storages' keys), then the storages."""

    def __init__(self, file: IO[bytes], size: int, inert: set[str] | None) -> None:
        file.seek(0)
        self._file = file
        self._size = size
        self._inert = inert
        self._storage_ids: dict[str, tuple[torch.dtype, int]] = {}
        self._uses: Counter[str] = Counter()
        self._places: dict[str, int] = {}
        self._storages: dict[str, torch.Tensor] = {}

    def load(self) -> Any:
        start = self._file.read(HEAD)
        self._file.seek(0)
        other = foreign(start)
        if other is not None:
            raise RefusedPickleError(f"it is {other}")
        try:
            magic, version = self._pickle(), self._pickle()
        except RefusedPickleError:
            magic, version = None, None
        if magic != _MAGIC or version != 1001:
            return self._plain_pickle(start)
        machine = self._pickle()
        if not isinstance(machine, dict) or machine.get("little_endian") is not True:
            raise RefusedPickleError("it was written on a big-endian machine")
        value = load_from(self._file, self._size, _GLOBALS, self._storage, inert=self._inert)
        keys = self._pickle()
        if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
            raise RefusedPickleError("it does not list its storages")
        for key in keys:
            if key not in self._storage_ids or key in self._places:
                raise RefusedPickleError("it lists storages that it has no use for")
            count = int.from_bytes(self._file.read(8), "little", signed=True)
            dtype, needed = self._storage_ids[key]
            self._places[key] = self._file.tell()
            end = self._file.tell() + count * dtype.itemsize
            if count < needed or end > self._size:
                raise RefusedPickleError(f"storage {key} is shorter than its pickle says")
            self._file.seek(end)
        if set(self._storage_ids) != set(self._places):
            raise RefusedPickleError("it was cut short")
        return value

    def _plain_pickle(self, start: bytes) -> Any:
        """What pickle.dump wrote: a state dict of numpy's arrays, as detectron2's, or of tensors, each with a file of torch.save in it."""
        no_file = RefusedPickleError(
            "it is nothing that torch.save writes, or it was cut short: give what torch.save(module.state_dict(), path) wrote"
        )
        if self._inert is None or start[:1] != b"\x80" or start[1:2] not in (b"\2", b"\3", b"\4", b"\5"):
            raise no_file
        self._file.seek(0)
        inner = {("torch.storage", "_load_from_bytes"): _inner_storage}
        value = load_from(self._file, self._size, {**_GLOBALS, **inner}, inert=self._inert)
        if self._file.read(1) or not isinstance(value, (Mapping, Inert, list, tuple)):
            raise no_file
        return value

    def _pickle(self) -> Any:
        return load_from(self._file, min(self._size, 1 << 24), {})

    def _storage(self, pid: Any) -> _Storage:
        """('storage', type, key, location, elements, view); a module's source comes as ('module', class, file, source)."""
        if isinstance(pid, tuple) and len(pid) == 4 and pid[0] == "module" and isinstance(pid[1], InertKind):
            return pid[1]  # type: ignore[return-value]
        if not isinstance(pid, tuple) or len(pid) != 6 or pid[5] is not None:
            raise RefusedPickleError("its pickle refers to something that is not a storage")
        dtype, key, count = _storage_id(pid[:5], 5)
        if self._storage_ids.setdefault(key, (dtype, count)) != (dtype, count):
            raise RefusedPickleError(f"its pickle describes storage {key} twice")
        self._uses[key] += 1
        return _Storage(dtype, count, lambda: self._bytes(key, dtype, count))

    def _bytes(self, key: str, dtype: torch.dtype, count: int) -> torch.Tensor:
        if key in self._storages:
            return self._storages[key]
        self._file.seek(self._places[key])
        storage = read_into(self._file, count * dtype.itemsize).view(dtype)
        if self._uses[key] > 1:
            self._storages[key] = storage
        return storage


def _storage_id(pid: Any, length: int) -> tuple[torch.dtype, str, int]:
    if not (isinstance(pid, tuple) and len(pid) == length and pid[0] == "storage" and isinstance(pid[1], _StorageType)):
        raise RefusedPickleError("its pickle refers to something that is not a storage")
    _, kind, key, _, count = pid
    if not isinstance(key, str) or not key.isalnum() or not isinstance(count, int) or not 0 <= count < 2**48:
        raise RefusedPickleError("its pickle names a storage in an unknown way")
    return kind.dtype, key, count


def tensor_bytes(data: bytes) -> torch.Tensor:
    """The bytes as a flat uint8 tensor of its own memory."""
    return torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)


def strided(flat: torch.Tensor, offset: Any, size: Any, stride: Any) -> torch.Tensor:
    """A view of a flat tensor, after checking that it stays inside; raises RefusedPickleError."""
    _check_view(flat.numel(), offset, size, stride)
    if 0 in size:
        return flat.new_empty(list(size))
    return torch.as_strided(flat, list(size), list(stride), offset)


def _check_view(count: int, offset: Any, size: Any, stride: Any) -> None:
    """That a view of `count` elements stays inside, and is of a shape that torch could have."""
    if not isinstance(size, Sequence) or not isinstance(stride, Sequence) or len(size) > _MOST_DIMENSIONS:
        raise RefusedPickleError("a tensor in it has an impossible shape")
    numbers = [offset, *size, *stride] if len(size) == len(stride) else [None]
    if not all(isinstance(n, int) and 0 <= n < 2**48 for n in numbers):
        raise RefusedPickleError("a tensor in it has an impossible shape")
    if 0 in size:
        return
    if math.prod(size) > max(count, _LARGEST_EXPANSION):
        raise RefusedPickleError("a tensor in it repeats its storage to an enormous size")
    if offset + sum((n - 1) * s for n, s in zip(size, stride)) >= count:
        raise RefusedPickleError("a tensor in it reaches beyond its storage")


def _rebuild_tensor(
    storage: Any, offset: Any, size: Any, stride: Any, grad: Any = None, hooks: Any = None, metadata: Any = None
) -> StoredTensor | Inert:
    """torch._utils._rebuild_tensor_v2; `metadata` has the bits that make a view conjugate or negative."""
    if isinstance(storage, Inert):
        return inert_tensor(storage.kind)
    if not isinstance(storage, _Storage):
        raise RefusedPickleError("a tensor in it has no storage")
    return _view_of(storage, storage.dtype, storage.count, offset, size, stride, metadata)


def _rebuild_tensor_v3(
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    grad: Any,
    hooks: Any,
    dtype: Any,
    metadata: Any = None,
) -> StoredTensor | Inert:
    if isinstance(dtype, InertKind):
        return inert_tensor(dtype.name)
    if not isinstance(dtype, torch.dtype) or not isinstance(storage, _Storage):
        raise RefusedPickleError("a tensor in it has no dtype")
    count = storage.count * storage.dtype.itemsize // dtype.itemsize
    return _view_of(storage, dtype, count, offset, size, stride, metadata)


def _view_of(
    storage: _Storage, dtype: torch.dtype, count: int, offset: Any, size: Any, stride: Any, metadata: Any
) -> StoredTensor:
    _check_view(count, offset, size, stride)
    bits = metadata or {}
    if not isinstance(bits, dict) or not all(key in ("conj", "neg") and type(on) is bool for key, on in bits.items()):
        raise RefusedPickleError("a tensor in it has bits that are not known")
    conjugate, negative = bits.get("conj", False), bits.get("neg", False)
    if (conjugate and not dtype.is_complex) or (negative and not (dtype.is_complex or dtype.is_floating_point)):
        raise RefusedPickleError("a tensor in it has bits that its dtype cannot have")

    def read() -> torch.Tensor:
        flat = storage.read()
        flat = flat if dtype == storage.dtype else flat.view(torch.uint8)[: count * dtype.itemsize].view(dtype)
        tensor = strided(flat, offset, size, stride)
        tensor = tensor.conj().resolve_conj() if conjugate else tensor
        return -tensor if negative else tensor

    return StoredTensor(tuple(size), dtype, read)


def _rebuild_parameter(data: Any, *rest: Any) -> Any:
    return data


def _rebuild_from_type(function: Any, kind: Any, arguments: Any, state: Any) -> Any:
    """torch._tensor._rebuild_from_type_v2: a tensor with Python attributes, which are left out, or of a class of its own."""
    if isinstance(kind, InertKind):
        made = kind()
        made.state = state
        made.tensor = True
        return made
    if function not in (_rebuild_tensor, _rebuild_tensor_v3, _rebuild_parameter) or not isinstance(arguments, tuple):
        raise RefusedPickleError("a tensor in it is rebuilt in an unknown way")
    return function(*arguments)


def _member(owner: Any, name: Any) -> InertKind | Inert:
    """getattr, with which members of classes are pickled: those of an enum by Python 3.11.0 to 3.11.3, nested classes by protocol 2;
    and methods of objects."""
    if not isinstance(owner, (InertKind, Inert, dict)) or not isinstance(name, str):
        raise RefusedPickleError("its pickle wants an attribute of something that is no class")
    if not isinstance(owner, InertKind):
        return Inert("method")
    return InertKind(f"{owner.name}.{name[:80]}")


def _size(*parts: Any) -> tuple[int, ...]:
    values = parts[0] if len(parts) == 1 and isinstance(parts[0], (tuple, list)) else parts
    if len(values) > _MOST_DIMENSIONS:
        raise RefusedPickleError("a tensor in it has an impossible shape")
    return tuple(int(value) for value in values)


def _inner_storage(data: Any) -> Any:
    """torch.storage._load_from_bytes, of which each tensor has one that was pickled by pickle.dump."""
    if not isinstance(data, bytes):
        raise RefusedPickleError("a tensor in it has no storage")
    return _read(io.BytesIO(data), len(data), None)


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


def empty_mapping(*args: Any) -> OrderedDict[Any, Any]:
    """collections.defaultdict, whose items follow."""
    return OrderedDict()


def empty_list(*args: Any) -> list[Any]:
    """collections.deque, whose items follow."""
    return []


_GLOBALS: Mapping[tuple[str, str], Any] = {
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _rebuild_tensor_v3,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _rebuild_parameter,
    ("torch._utils", "_rebuild_device_tensor_from_cpu_tensor"): _rebuild_parameter,
    ("torch._tensor", "_rebuild_from_type_v2"): _rebuild_from_type,
    ("torch", "Tensor"): _Ignored,
    ("torch.nn.parameter", "Parameter"): _Ignored,
    ("torch.nn.parameter", "Buffer"): _Ignored,
    ("torch", "Size"): _size,
    ("torch", "device"): _Ignored,
    ("_codecs", "encode"): _encode,
    ("builtins", "getattr"): _member,
    ("__builtin__", "getattr"): _member,
    ("collections", "OrderedDict"): OrderedDict,
    ("collections", "defaultdict"): empty_mapping,
    ("collections", "deque"): empty_list,
    **{("torch", name): _StorageType(dtype) for name, dtype in _STORAGES.items()},
    **{("torch.storage", name): _StorageType(dtype) for name, dtype in _STORAGES.items()},
    **{("torch", name): getattr(torch, name) for group in _DTYPES for name in group if hasattr(torch, name)},
}
