"""What a checkpoint holds, before anything large is read: a tree of names, with tensors that are read when asked for.

Each container (a torch file, safetensors, a DCP directory) gives a Contents, which can read a tensor in two ways: by this project's
own code, which runs nothing in the file, and `read_by_library`, by the code of the library that wrote it. Weights are used where both agree.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from ..ir import Encoded
from ._safe_pickle import Inert, RefusedPickleError

__all__ = [
    "Contents",
    "Location",
    "MergedFiles",
    "NotPlainError",
    "Sliced",
    "StoredList",
    "StoredTensor",
    "StoredValue",
    "agreed",
    "leaves",
    "materialised",
    "read_into",
    "same_bits",
]

Location = tuple[Any, ...]  # the keys that lead to a leaf
_DEEPEST = 24
_MOST_LEAVES = 1_000_000
_LONGEST_NAMES = 1 << 28  # characters of all names together


@dataclass(frozen=True, eq=False)
class StoredTensor:
    """A tensor in a file. `read` gives it, in floats where it has few bits, or raises RefusedPickleError."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], torch.Tensor]
    encoded: Callable[[], Encoded | None] | None = None  # of few bits: how; None where constants have no such form

    def bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, eq=False)
class StoredValue:
    """Something else in a file of its own: a number, a string, a container of them."""

    read: Callable[[], Any]


@dataclass(frozen=True, eq=False)
class Sliced:
    """A tensor of which several files have each a slice, or each the whole: `whole` joins them to the model's shape, or says why not."""

    whole: Callable[[tuple[int, ...]], StoredTensor | str]


class StoredList(dict[Any, Any]):
    """A list that was stored item by item, under its indices."""


class Contents(Protocol):
    """A checkpoint by name, with its tree of mappings; leaves are StoredTensor, StoredValue, Inert, or plain values."""

    name: str

    @property
    def tree(self) -> Mapping[Any, Any]: ...

    def read_by_library(self, locations: Sequence[Location]) -> list[Any]:
        """What is there, by the writing library's own code; None where that cannot read the file safely."""
        ...


@dataclass
class MergedFiles:
    """Several files that are one checkpoint: their trees laid over each other."""

    name: str
    tree: dict[Any, Any] = field(default_factory=dict)
    _owners: dict[Location, Contents] = field(default_factory=dict)

    def add(self, part: Contents) -> None:
        """Raises RefusedPickleError where a part has a tensor that is there already."""
        for location, leaf in leaves(part.tree):
            node = self.tree
            for key in location[:-1]:
                node = node.setdefault(key, {})
                if not isinstance(node, dict):
                    raise RefusedPickleError(f"{part.name} and another part disagree on what {key} is")
            if location[-1] in node:
                if isinstance(leaf, StoredTensor):
                    raise RefusedPickleError(
                        f"{'.'.join(map(str, location))} is in {self._owners[location].name} and in {part.name}: parts of one checkpoint "
                        "name each tensor once (what ranks of tensor parallelism wrote, each its slice, is joined by the tool that wrote it)"
                    )
                continue
            node[location[-1]] = leaf
            self._owners[location] = part

    def read_by_library(self, locations: Sequence[Location]) -> list[Any]:
        found: list[Any] = [None] * len(locations)
        parts: dict[int, list[int]] = {}
        for i, location in enumerate(locations):
            parts.setdefault(id(self._owners[location]), []).append(i)
        for indices in parts.values():
            owner = self._owners[locations[indices[0]]]
            for i, tensor in zip(indices, owner.read_by_library([locations[i] for i in indices])):
                found[i] = tensor
        return found


def agreed(file: Contents, location: Location, stored: StoredTensor) -> StoredTensor:
    """A tensor of a part, compared with its library's own reading when it is first read."""
    checked: list[bool] = []

    def read() -> torch.Tensor:
        value = stored.read()
        if not checked:
            other = file.read_by_library([location])[0]
            if other is not None and not (isinstance(other, torch.Tensor) and same_bits(value, other)):
                raise RefusedPickleError(
                    f"{file.name} is read in another way by the library that wrote it: please report this"
                )
            checked.append(True)
        return value

    return StoredTensor(stored.shape, stored.dtype, read)


def leaves(tree: Mapping[Any, Any]) -> Iterator[tuple[Location, Any]]:
    """Every leaf with the keys that lead to it; a module's extra state is a leaf, whatever it is. Nests of many levels are cut off."""
    count, length = 0, 0
    waiting: list[tuple[Location, Mapping[Any, Any], int]] = [((), tree, 0)]
    while waiting:
        location, node, characters = waiting.pop()
        inner = []
        for key, value in node.items():
            count += 1
            size = characters + (len(key) if isinstance(key, str) else 1)
            length += size
            if count > _MOST_LEAVES or length > _LONGEST_NAMES:
                raise RefusedPickleError("it nests more names than a checkpoint has")
            here = (*location, key)
            if isinstance(value, Mapping) and not str(key).endswith("_extra_state"):
                if len(here) < _DEEPEST:
                    inner.append((here, value, size))
            else:
                yield here, value
        waiting.extend(reversed(inner))


class NotPlainError(RefusedPickleError):
    """A value is or holds something that is no plain data; the text is what follows the value's name."""


def materialised(value: Any, depth: int = 0) -> Any:
    """Plain data with its tensors read. Raises NotPlainError."""
    if depth > _DEEPEST:
        raise NotPlainError("is nested too deeply")
    if isinstance(value, (StoredTensor, StoredValue)):
        return materialised(value.read(), depth + 1)
    if isinstance(value, Mapping):
        items = {key: materialised(item, depth + 1) for key, item in value.items()}
        if isinstance(value, StoredList):
            return [items[i] for i in sorted(items)]
        return items
    if isinstance(value, (list, tuple, set, frozenset)):
        return type(value)(materialised(item, depth + 1) for item in value)
    if isinstance(value, (bytes, bytearray)):
        return _without_pickle(bytes(value), value)
    if isinstance(value, torch.Tensor):
        flat = value.reshape(-1)
        return _without_pickle(bytes(flat[:4].tolist()), value) if value.dtype == torch.uint8 else value
    if value is None or isinstance(value, (bool, int, float, complex, str, torch.dtype)):
        return value
    kind = value.kind if isinstance(value, Inert) else type(value).__name__
    raise NotPlainError(f"is or holds a {kind}, which is no plain data")


def _without_pickle(start: bytes, value: Any) -> Any:
    """The value, unless its bytes are a pickle or an archive of one, which the module would load."""
    if start[:1] == b"\x80" or start[:2] == b"PK":
        raise NotPlainError("is itself a pickle in bytes, which the module may run")
    return value


def read_into(stream: Any, count: int) -> torch.Tensor:
    """The next bytes of a file as a flat uint8 tensor of its own memory."""
    if count == 0:
        return torch.empty(0, dtype=torch.uint8)
    whole = torch.empty(count, dtype=torch.uint8)
    view, done = memoryview(whole.numpy().data), 0
    while done < count:
        step = stream.readinto(view[done : done + (1 << 24)])
        if not step:
            raise RefusedPickleError("it is shorter than it says")
        done += step
    return whole


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors are the same, NaN payloads and the sign of zero included."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    flat = [t.detach().resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8) for t in (one, other)]
    return torch.equal(*flat)
