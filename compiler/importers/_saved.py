"""One file that torch.save wrote, as Contents: read here without torch, and again by torch.load(weights_only=True)."""

from __future__ import annotations

import _compat_pickle
import contextlib
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ._contents import Location, StoredTensor
from ._modules import scripted_state, unfolded
from ._safe_pickle import WITH_ITEMS, Inert, RefusedPickleError
from ._sharded import DTENSORS, SHARDED_TENSORS, fields
from ._torch_file import Scripted, empty_list, empty_mapping, open_torch_file

__all__ = ["SavedFile", "described"]

# What is not a state dict, by the name of what was pickled, and what to do instead.
_INSTEAD = (
    ("torch.distributed.tensor.", "one rank's part of a DTensor"),
    ("torch.distributed._tensor.", "one rank's part of a DTensor"),
    ("torch.distributed._shard.", "one rank's part of a ShardedTensor"),
    ("torch.distributed.device_mesh.", "one rank's part of a DTensor"),
)
_QUANTIZED = "save the float weights that it was made from, or export the quantized model to .pt2"
_WHOLE = (
    "save the whole with torch.distributed.checkpoint.save, or with get_model_state_dict(model, "
    "options=StateDictOptions(full_state_dict=True)) and torch.save"
)


_REOPENED = 8  # times at most: a file with many names takes a while to open


class SavedFile:
    """The file; raises RefusedPickleError where it holds no names with tensors, with what to do instead."""

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self._path = path
        self._loaded: Any = None
        self._mapped = False
        self._read = 0  # bytes of the mapped file that are in memory
        self._kinds: set[str] = set()
        value = open_torch_file(path, self._kinds)
        self._scripted = isinstance(value, Scripted)
        value = scripted_state(value.module, value.declared) if isinstance(value, Scripted) else unfolded(value)
        if isinstance(value, Inert):
            raise RefusedPickleError(f"it holds {described(value)}")
        if not isinstance(value, Mapping):
            what = "tensor without a name" if isinstance(value, StoredTensor) else type(value).__name__
            raise RefusedPickleError(
                f"it holds a {what}: expected a state dict, names with tensors, as torch.save(module.state_dict(), path) writes"
            )
        self.tree: Mapping[Any, Any] = value

    def read_by_library(self, locations: Sequence[Location]) -> list[Any]:
        if self._loaded is None:
            self._loaded, self._read = self._by_torch(), 0
        found = [_at(self._loaded, location) for location in locations]
        found = [value.read() if isinstance(value, StoredTensor) else value for value in found]  # an array of numpy
        self._read += sum(value.nbytes for value in found if isinstance(value, torch.Tensor))
        if self._mapped and self._read * _REOPENED > self._path.stat().st_size:
            self._loaded = None  # what was read of a mapping stays in memory as long as it does
        return found

    def _by_torch(self) -> Any:
        """The file by torch's restricted unpickler, which gets the same inert stand-ins for classes that it does not know."""
        stand_ins: list[Any] = []
        for kind in sorted(self._kinds):
            if kind.endswith(WITH_ITEMS):
                continue
            made: Any = _stand_in_tensor() if kind in (*DTENSORS, *SHARDED_TENSORS) else _stand_in(kind)
            made = _Items if kind + WITH_ITEMS in self._kinds else made
            stand_ins += [(made, name) for name in {kind, _today(kind)}]
        stand_ins += [(empty_mapping, "collections.defaultdict"), (empty_list, "collections.deque")]
        member = _stand_in("a member of a class")
        stand_ins += [(lambda owner, name: member, "builtins.getattr"), (member, "maas_rt.member")]
        for mapped in (False,) if self._scripted else (True, False):  # the form before torch 1.6 cannot be mapped
            try:
                with _only_safe(stand_ins), warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    self._mapped = mapped
                    return self._loaded_by_torch(mapped)
            except Exception:
                continue
        return {}

    def _loaded_by_torch(self, mapped: bool) -> Any:
        if not self._scripted:
            return unfolded(torch.load(self._path, map_location="cpu", weights_only=True, mmap=mapped))
        # torch.load knows TorchScript by its constants.pkl and refuses; the rest of the archive is as torch.save's.
        reader = torch._C.PyTorchFileReader(str(self._path))
        loaded = torch.serialization._load(reader, "cpu", torch._weights_only_unpickler, encoding="utf-8")
        return scripted_state(loaded, None)


@contextlib.contextmanager
def _only_safe(stand_ins: list[Any]) -> Iterator[None]:
    """These classes for torch's restricted unpickler, in the place of those that libraries have listed for it."""
    before = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    try:
        torch.serialization.add_safe_globals(stand_ins)
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def _today(kind: str) -> str:
    """A name of Python 2, which pickles up to protocol 2 use, as Python 3 has it; torch looks some up by the one, some by the other."""
    module, _, name = kind.rpartition(".")
    module, name = _compat_pickle.NAME_MAPPING.get(
        (module, name), (_compat_pickle.IMPORT_MAPPING.get(module, module), name)
    )
    return f"{module}.{name}"


def _stand_in(kind: str) -> type[Inert]:
    """A class of its own for each name: torch's unpickler gives state to objects of a listed class alone."""

    class StandIn(Inert):
        def __new__(cls, *args: Any, **kwargs: Any) -> StandIn:  # a pickle makes some objects without __init__
            made = object.__new__(cls)
            Inert.__init__(made, kind, args)
            return made

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            return

    return StandIn


class _Items:
    """Stands for a class of mappings: torch's unpickler gives items to its own containers alone."""

    def __new__(cls, *args: Any) -> OrderedDict[Any, Any]:  # type: ignore[misc]
        return OrderedDict()


def _stand_in_tensor() -> type[torch.Tensor]:
    """The same for a tensor that wraps others, which torch rebuilds as a tensor."""

    class StandIn(torch.Tensor):
        def __setstate__(self, state: Any) -> None:
            self.saved = state

        @classmethod
        def __torch_dispatch__(cls, *args: Any, **kwargs: Any) -> Any:
            raise NotImplementedError

    return StandIn


def described(value: Any) -> str:
    """An object that is not read, in words, with what to do instead of saving it."""
    kind = value.kind if isinstance(value, Inert) else type(value).__name__
    part = next((what for prefix, what in _INSTEAD if kind.startswith(prefix)), None)
    if part is not None:
        return f"{part}: {_WHOLE}"
    if kind == "torch._utils._rebuild_sparse_tensor":
        return "a sparse tensor: save it as to_dense()"
    if kind == "torch._utils._rebuild_qtensor":
        return f"a quantized tensor: {_QUANTIZED}"
    if kind == "torch._utils._rebuild_meta_tensor_no_storage":
        return "a tensor of the meta device, which has no values: save after the weights are loaded"
    if kind.startswith(("torchao.", "torch.ao.", "torch._C.")) or "_quantized" in kind:
        return f"a {kind}, a weight that was quantized: {_QUANTIZED}"
    return f"a {kind}, which is not read: save tensors alone, as torch.save(module.state_dict(), path) does"


def _at(value: Any, location: Location) -> Any:
    for key in location:
        if isinstance(value, Inert) or hasattr(value, "saved"):
            state = value.state if isinstance(value, Inert) else value.saved
            value = fields(state) or state
        if (isinstance(value, (list, tuple)) and isinstance(key, int) and key < len(value)) or (
            isinstance(value, Mapping) and key in value
        ):
            value = value[key]
        else:
            return None
    return value
