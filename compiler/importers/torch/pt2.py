"""Reads a .pt2 archive without torch's own reader, which unpickles: the members are read here, and checked before torch sees them.

The program itself is JSON. torch turns parts of its text into Python (node names into generated code, size expressions through
sympy's parser), so `_pt2_check` holds every string to what a real program has before anything is built from it.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch._export.serde import schema
from torch._export.serde.serialize import ExportedProgramDeserializer, _dict_to_dataclass
from torch.export import ExportedProgram

from maas_rt._errors import CheckpointError, ImportModelError

from .._imported import ImportedModel
from .._safe_pickle import RefusedPickleError
from .._torch_file import read_torch_bytes, strided, tensor_bytes
from ._decompose import quiet
from ._pt2_check import RefusedProgramError, checked_program
from .export import import_exported_program
from .module import import_module

__all__ = ["import_pt2", "read_pt2"]

_DTYPES = {
    1: torch.uint8,
    2: torch.int8,
    3: torch.int16,
    4: torch.int32,
    5: torch.int64,
    6: torch.float16,
    7: torch.float32,
    8: torch.float64,
    12: torch.bool,
    13: torch.bfloat16,
    28: torch.uint16,
    34: torch.uint32,
    35: torch.uint64,
}


def import_pt2(
    path: Path, *, dynamic: Any = None, input_shapes: Mapping[str, Sequence[int]] | None = None
) -> ImportedModel:
    """Import what torch.export.save wrote."""
    program, guards = _read(path)
    return import_exported_program(
        program, import_module, dynamic=dynamic, input_shapes=input_shapes, kind="pt2", guards=guards
    )


def read_pt2(path: Path) -> ExportedProgram:
    """The exported program in a .pt2 file. Raises ImportModelError, in one sentence, for anything else."""
    return _read(path)[0]


def _read(path: Path) -> tuple[ExportedProgram, list[str]]:
    """The program, and what it asks of its inputs' sizes, as torch.export.save wrote it down; nothing in files of older releases."""
    path = Path(path)
    try:
        if path.is_dir():
            raise RefusedPickleError("it is a directory")
        return _Archive.read(path)
    except (RefusedPickleError, RefusedProgramError, CheckpointError) as reason:
        raise ImportModelError(f"{path.name} is refused: {reason}") from reason
    except OSError as error:
        raise ImportModelError(f"{path.name} cannot be read: {error.strerror or error}") from error


class _Archive:
    """The members of one .pt2, by their names below the archive's folder."""

    @staticmethod
    def read(path: Path) -> tuple[ExportedProgram, list[str]]:
        size = path.stat().st_size
        if size == 0:
            raise RefusedPickleError("it is empty")
        if not zipfile.is_zipfile(path):
            raise RefusedPickleError("it is not a .pt2 archive (a zip file), or it was cut short")
        try:
            with zipfile.ZipFile(path) as archive:
                return _Archive(archive, size).program()
        except (zipfile.BadZipFile, EOFError, NotImplementedError, KeyError, UnicodeDecodeError) as error:
            raise RefusedPickleError(f"it is damaged ({_first_line(error)})") from error

    def __init__(self, archive: zipfile.ZipFile, size: int) -> None:
        members = archive.infolist()
        if sum(m.file_size for m in members) > size or any(m.compress_type != zipfile.ZIP_STORED for m in members):
            raise RefusedPickleError("its members are compressed, or claim to be larger than the file")
        tops = {m.filename.split("/", 1)[0] for m in members}
        if len(tops) != 1:
            raise RefusedPickleError("its members lie in more than one folder")
        self._zip = archive
        self._top = tops.pop() + "/"
        self._names = {m.filename.removeprefix(self._top) for m in members}

    def program(self) -> tuple[ExportedProgram, list[str]]:
        models = sorted(n for n in self._names if n.startswith("models/") and n.endswith(".json"))
        if len(models) != 1:
            found = "no program" if not models else f"{len(models)} programs"
            raise RefusedPickleError(
                f"it holds {found}: expected one that torch.export.save wrote (torch 2.8 or newer)"
            )
        name = models[0].removeprefix("models/").removesuffix(".json")
        stored = self._json(models[0])
        checked = checked_program(stored)
        state = self._tensors(f"data/weights/{name}_weights_config.json", "data/weights/")
        constants = self._tensors(f"data/constants/{name}_constants_config.json", "data/constants/")
        examples = self._examples(f"data/sample_inputs/{name}.pt")
        try:
            with quiet():
                dataclass = _dict_to_dataclass(schema.ExportedProgram, checked)
                program = ExportedProgramDeserializer().deserialize(dataclass, state, constants, examples)
            return program, list(map(str, stored.get("guards_code") or ()))
        except Exception as error:  # torch's deserializer raises whatever a malformed program makes of it
            raise RefusedPickleError(f"torch cannot build the program in it ({_first_line(error)})") from error

    def _json(self, name: str) -> Any:
        try:
            return json.loads(self._zip.read(self._top + name))
        except (ValueError, RecursionError) as error:
            raise RefusedPickleError(f"{name} is not valid JSON ({_first_line(error)})") from error

    def _tensors(self, config: str, folder: str) -> dict[str, torch.Tensor]:
        """Weights or constants, by name; those that share a member share memory."""
        if config not in self._names:
            raise RefusedPickleError(f"it lacks {config}")
        entries = self._json(config)
        entries = entries.get("config") if isinstance(entries, dict) else None
        if not isinstance(entries, dict):
            raise RefusedPickleError(f"{config} is malformed")
        flat: dict[tuple[str, torch.dtype], torch.Tensor] = {}
        return {str(name): self._tensor(str(name), entry, folder, flat) for name, entry in entries.items()}

    def _tensor(
        self, name: str, entry: Any, folder: str, flat: dict[tuple[str, torch.dtype], torch.Tensor]
    ) -> torch.Tensor:
        member = entry.get("path_name") if isinstance(entry, dict) else None
        if not isinstance(member, str) or folder + member not in self._names:
            raise RefusedPickleError(f"{name} is stored in a member that is not there")
        if not member.startswith(("weight_", "tensor_")):
            raise RefusedPickleError(f"{name} is an object, not a tensor: custom objects are not supported")
        if entry.get("use_pickle"):
            value = read_torch_bytes(self._zip.read(self._top + folder + member))
            if not isinstance(value, torch.Tensor):
                raise RefusedPickleError(f"{name} is pickled, and is no tensor")
        else:
            value = self._strided(name, entry.get("tensor_meta"), folder + member, flat)
        return torch.nn.Parameter(value, requires_grad=False) if entry.get("is_param") else value

    def _strided(
        self, name: str, meta: Any, member: str, flat: dict[tuple[str, torch.dtype], torch.Tensor]
    ) -> torch.Tensor:
        dtype = _DTYPES.get(cast(int, meta.get("dtype"))) if isinstance(meta, dict) else None
        if dtype is None:
            raise RefusedPickleError(f"{name} has a dtype that is not supported")
        if (member, dtype) not in flat:
            data = tensor_bytes(self._zip.read(self._top + member))
            if data.numel() % dtype.itemsize:
                raise RefusedPickleError(f"{name} does not fill whole elements")
            flat[member, dtype] = data.view(dtype)
        size, stride = _integers(meta.get("sizes")), _integers(meta.get("strides"))
        offset = _integers([meta.get("storage_offset")])[0]
        return strided(flat[member, dtype], offset, size, stride)

    def _examples(self, member: str) -> Any:
        """The inputs that the program was exported with, (args, kwargs); None if there are none."""
        if member not in self._names:
            return None
        data = self._zip.read(self._top + member)
        if not data:
            return None
        try:
            value = read_torch_bytes(data)
        except RefusedPickleError as reason:
            raise RefusedPickleError(f"its sample inputs: {reason}") from reason
        if not (
            isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], tuple) and isinstance(value[1], dict)
        ):
            raise RefusedPickleError("its sample inputs are not the arguments of a call")
        return value


def _integers(values: Any) -> list[int]:
    """[{"as_int": 3}, ...] -> [3, ...]"""
    if not isinstance(values, list) or not all(
        isinstance(v, dict) and isinstance(v.get("as_int"), int) for v in values
    ):
        raise RefusedPickleError("a stored tensor has no fixed shape")
    return [v["as_int"] for v in values]


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
