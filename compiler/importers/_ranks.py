"""Files that the processes of one training run wrote, each its own: joined to whole tensors.

Parts of DTensors and ShardedTensors say where they belong. Slices of tensor parallelism do not: the model's shape tells along which
dimension they were cut, as it is the one in which slice and whole differ. What every file has whole must be the same in all.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from ._contents import Contents, Location, Sliced, StoredTensor, agreed, leaves, same_bits
from ._safe_pickle import RefusedPickleError
from ._sharded import Chunk, Part, part_of
from ._tiles import check_tiling

__all__ = ["Ranks", "has_parts", "matrices_by_name", "numbered"]

_MOST_RANKS = 4096
# Weights that hold several matrices: a rank's slice of each, and so not one slice of the whole.
_FUSED = re.compile(
    r"(qkv|query_key_value|key_value|kv_proj|kv_b_proj|gate_up|up_gate|gate_and_up|w13|w1_w3|in_proj|c_attn|fused|glu|linear_fc1|"
    r"dense_h_to_4h|(^|\.)wi(\.|$))",
    re.IGNORECASE,
)


def has_parts(contents: Contents) -> bool:
    """Whether the file has a part of a sharded tensor."""
    return any(part_of(_joined(location), leaf) is not None for location, leaf in leaves(contents.tree))


def numbered(paths: Sequence[Path]) -> list[Path] | None:
    """The paths by the ranks in their names, 0 to n - 1 (or 1 to n); None if their names do not tell."""
    split = [re.split(r"(\d+)", str(path)) for path in paths]
    if len({len(pieces) for pieces in split}) != 1:
        return None
    differing = [at for at, pieces in enumerate(zip(*split)) if len(set(pieces)) > 1]
    if len(differing) != 1 or differing[0] % 2 == 0:
        return None
    ranks = [int(pieces[differing[0]]) for pieces in split]
    if sorted(ranks) not in (list(range(len(paths))), list(range(1, len(paths) + 1))):
        return None
    return [path for _, path in sorted(zip(ranks, paths))]


def matrices_by_name(name: str) -> int:
    """One, unless its name is of those that several matrices are kept under."""
    return 0 if _FUSED.search(name) else 1


class Ranks:
    """Those files as one Contents, in the order of their ranks.

    `matrices` gives how many a weight of that name holds one behind the other, of each of which a rank has a slice; 0 if it is not known.
    """

    def __init__(self, name: str, files: Sequence[Contents], matrices: Callable[[str], int] | None = None) -> None:
        if len(files) > _MOST_RANKS:
            raise RefusedPickleError(f"it has {len(files)} files of ranks, more than are read")
        self.name = name
        self._matrices = matrices if matrices is not None else matrices_by_name
        self.tree: dict[Any, Any] = {}
        found: dict[Location, list[tuple[Contents, Any]]] = {}
        for file in files:
            for location, leaf in leaves(file.tree):
                found.setdefault(location, []).append((file, leaf))
        for location, entries in found.items():
            node = self.tree
            for key in location[:-1]:
                node = node.setdefault(key, {})
                if not isinstance(node, dict):
                    raise RefusedPickleError(f"its files disagree on what {key} is")
            if not isinstance(node.get(location[-1]), dict):
                node[location[-1]] = self._leaf(location, entries)

    def _leaf(self, location: Location, entries: Sequence[tuple[Contents, Any]]) -> Any:
        name = _joined(location)
        parts = [(file, part_of(name, leaf)) for file, leaf in entries]
        known = [(file, part) for file, part in parts if part is not None]
        if known:
            if len(known) < len(parts):
                raise RefusedPickleError(f"{name} is whole in one file and a part in another")
            return self._assembled(name, location, known)
        tensors = [agreed(file, location, leaf) for file, leaf in entries if isinstance(leaf, StoredTensor)]
        if len(tensors) < len(entries):
            return entries[0][1]
        return tensors[0] if len(tensors) == 1 else Sliced(lambda shape: self._by_shape(name, tensors, shape))

    def _assembled(self, name: str, location: Location, parts: Sequence[tuple[Contents, Part]]) -> StoredTensor:
        """The whole of parts that say where they belong; what several files have must be the same."""
        first = parts[0][1]
        shape, dtype = first.shape, first.dtype
        if any(part.shape != shape or part.dtype != dtype for _, part in parts):
            raise RefusedPickleError(f"its files disagree on the shape of {name}")
        boxes: dict[tuple[tuple[int, ...], tuple[int, ...]], list[tuple[Chunk, StoredTensor]]] = {}
        for file, part in parts:
            for chunk in part.chunks:
                source = agreed(file, (*location, *chunk.location), chunk.stored)
                boxes.setdefault((chunk.offsets, chunk.extents), []).append((chunk, source))

        def read() -> torch.Tensor:
            try:
                check_tiling(name, shape, list(boxes))
            except RefusedPickleError as reason:
                raise RefusedPickleError(self._incomplete(name, [part for _, part in parts]) or str(reason)) from reason
            whole = torch.empty(shape, dtype=dtype)
            for (offsets, extents), copies in boxes.items():
                values = [_box(source.read(), chunk.inside, extents) for chunk, source in copies]
                if not all(same_bits(values[0], other) for other in values[1:]):
                    raise RefusedPickleError(f"its files have different values for the same part of {name}: {_DIFFER}")
                whole[tuple(slice(o, o + e) for o, e in zip(offsets, extents))] = values[0]
            return whole

        return StoredTensor(shape, dtype, read)

    def _incomplete(self, name: str, parts: Sequence[Part]) -> str | None:
        """What is missing, if that is why the parts are not the whole."""
        count = max(part.ranks for part in parts)
        if count <= len(parts):
            return None
        there = {part.rank for part in parts}
        missing = [rank for rank in range(count) if rank not in there] if None not in there else []
        which = f" (not {', '.join(map(str, missing[:16]))})" if missing else ""
        return (
            f"{name} is cut into parts of {count} ranks, of which {len(parts)} {'is' if len(parts) == 1 else 'are'} here{which}: give the file of "
            "each rank, or save with torch.distributed.checkpoint"
        )

    def _by_shape(self, name: str, tensors: Sequence[StoredTensor], shape: tuple[int, ...]) -> StoredTensor | str:
        """The whole of that shape, or why it cannot be made of these."""
        if len({tensor.dtype for tensor in tensors}) > 1 or any(len(tensor.shape) != len(shape) for tensor in tensors):
            return f"files {_shapes(tensors)}, model {shape}"
        if all(tensor.shape == shape for tensor in tensors):
            return StoredTensor(shape, tensors[0].dtype, lambda: _same_in_all(name, tensors))
        cut = [a for a, size in enumerate(shape) if any(tensor.shape[a] != size for tensor in tensors)]
        if len(cut) != 1 or sum(tensor.shape[cut[0]] for tensor in tensors) != shape[cut[0]]:
            return f"files {_shapes(tensors)}, model {shape}"
        (axis,) = cut
        count = self._matrices(name) if axis == 0 else 1
        if count == 0 or any(tensor.shape[axis] % count for tensor in tensors):
            return (
                f"files {_shapes(tensors)}, model {shape}; by its name it may hold several matrices, of which each file has a slice: join it with "
                "the tool that wrote it"
            )

        def read() -> torch.Tensor:
            slices = [tensor.read().chunk(count, axis) for tensor in tensors]
            return torch.cat([rank[index] for index in range(count) for rank in slices], axis)

        return StoredTensor(shape, tensors[0].dtype, read)

    def read_by_library(self, locations: Sequence[Location]) -> list[Any]:
        """Nothing: each part is compared with its library's reading when it is read."""
        return [None] * len(locations)


_DIFFER = (
    "under FSDP2 each rank keeps its own running statistics (docs/checkpoints.md), other weights should be equal: save with "
    "torch.distributed.checkpoint, or average them before"
)


def _same_in_all(name: str, tensors: Sequence[StoredTensor]) -> torch.Tensor:
    value = tensors[0].read()
    if not all(same_bits(value, other.read()) for other in tensors[1:]):
        raise RefusedPickleError(f"its files have different values of {name}: {_DIFFER}")
    return value


def _box(value: torch.Tensor, inside: Sequence[int], extents: Sequence[int]) -> torch.Tensor:
    return value[tuple(slice(i, i + e) for i, e in zip(inside, extents))]


def _shapes(tensors: Sequence[StoredTensor]) -> str:
    shapes = list(dict.fromkeys(tensor.shape for tensor in tensors))
    return " and ".join(map(str, itertools.islice(shapes, 3)))


def _joined(location: Location) -> str:
    return ".".join(map(str, location))
