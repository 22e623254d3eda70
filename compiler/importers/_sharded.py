"""One rank's part of a DTensor or a ShardedTensor, as torch.save writes it of each process: what it says of the whole, and where it lies.

A DTensor has a mesh, this process's coordinate on it, and per dimension of the mesh a placement; which elements that is is defined by
torch/distributed/tensor/placement_types.py: chunks as torch.chunk cuts them, from the first dimension of the mesh to the last.
A ShardedTensor (FSDP1's SHARDED_STATE_DICT) lists offsets and sizes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ._contents import Location, StoredTensor
from ._safe_pickle import Inert, RefusedPickleError

__all__ = ["DTENSORS", "SHARDED_TENSORS", "Chunk", "Part", "fields", "part_of"]

DTENSORS = (
    "torch.distributed.tensor.DTensor",
    "torch.distributed.tensor._api.DTensor",
    "torch.distributed._tensor.api.DTensor",
)
SHARDED_TENSORS = ("torch.distributed._shard.sharded_tensor.api.ShardedTensor",)
_LARGEST_SPLIT = 1 << 12
_MOST_CHUNKS = 1 << 14
Run = tuple[int, int]  # where it begins, how long it is


@dataclass(frozen=True, eq=False)
class Chunk:
    """Elements of a whole tensor, at these offsets: a box of the tensor that a file holds there."""

    offsets: tuple[int, ...]
    extents: tuple[int, ...]
    inside: tuple[int, ...]  # where the box begins in the file's tensor
    stored: StoredTensor
    location: Location  # of the file's tensor, behind the name's


@dataclass(frozen=True, eq=False)
class Part:
    """What one file has of a tensor; `ranks` are those that have parts, `rank` is this one among them, if the file tells."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    chunks: tuple[Chunk, ...]
    ranks: int
    rank: int | None


def part_of(name: str, value: Any) -> Part | None:
    """The part that this stands for, or None if it is something else. Raises RefusedPickleError."""
    if not isinstance(value, Inert):
        return None
    if value.kind in DTENSORS:
        return _of_dtensor(name, value)
    if value.kind in SHARDED_TENSORS:
        return _of_sharded_tensor(name, value)
    return None


def fields(value: Any) -> Mapping[str, Any]:
    """The attributes of an object or in its state, as pickles have them: a mapping, or a pair of which the second has those in slots."""
    state = value.state if isinstance(value, Inert) else value
    if isinstance(state, tuple) and len(state) == 2 and isinstance(state[1], Mapping):
        return {**(state[0] if isinstance(state[0], Mapping) else {}), **state[1]}
    return state if isinstance(state, Mapping) else {}


def _of_dtensor(name: str, value: Inert) -> Part:
    whole = fields(value)
    spec, local = fields(whole.get("_spec")), whole.get("_local_tensor")
    meta = spec.get("tensor_meta")
    shape = _sizes(name, meta.args[0] if isinstance(meta, Inert) and meta.args else None)
    placements = spec.get("placements")
    mesh, coordinate = _mesh(name, spec.get("mesh"))
    if not isinstance(local, StoredTensor) or not isinstance(placements, tuple) or len(placements) != len(mesh):
        raise RefusedPickleError(
            f"{name} is a DTensor in a form that is not known: save with torch.distributed.checkpoint"
        )
    _check_order(name, spec.get("shard_order"))
    runs: list[list[Run]] = [[(0, size)] for size in shape]
    for placement, count, index in zip(placements, mesh, coordinate):
        kind = placement.kind.rpartition(".")[2] if isinstance(placement, Inert) else ""
        dim = fields(placement).get("dim")
        if kind == "Replicate":
            continue
        if kind not in ("Shard", "_StridedShard") or not isinstance(dim, int) or not 0 <= dim < len(shape):
            raise RefusedPickleError(
                f"{name} is a DTensor placed by {kind[:40] or 'something'}, whose parts are not slices of the whole"
            )
        split = fields(placement).get("split_factor", 1) if kind == "_StridedShard" else 1
        if type(split) is not int or not 1 <= split <= _LARGEST_SPLIT:
            raise RefusedPickleError(f"{name} is a DTensor that is cut into an impossible number of pieces")
        pieces = [_chunked(runs[dim], split, i) for i in range(split)]
        runs[dim] = [run for piece in pieces for run in _chunked(piece, count, index)]
    local_shape = tuple(sum(length for _, length in each) for each in runs)
    if local_shape != local.shape:
        raise RefusedPickleError(
            f"{name} says that its file has {local_shape} of {shape}, and the file has {local.shape}"
        )
    if math.prod(len(each) for each in runs) > _MOST_CHUNKS:
        raise RefusedPickleError(f"{name} is cut into too many pieces")
    starts = [_starts(each) for each in runs]
    chunks = [
        Chunk(
            tuple(run[0] for _, run in box),
            tuple(run[1] for _, run in box),
            tuple(at for at, _ in box),
            local,
            ("_local_tensor",),
        )
        for box in itertools.product(*starts)
    ]
    rank = 0
    for count, index in zip(mesh, coordinate):
        rank = rank * count + index
    return Part(shape, local.dtype, tuple(chunks), math.prod(mesh), rank)


def _check_order(name: str, order: Any) -> None:
    """That a dimension which several of the mesh cut is cut by the first of them first, as placements alone have it."""
    for entry in order if isinstance(order, tuple) else ():
        dims = entry.args[-1] if isinstance(entry, Inert) and entry.args else ()
        if not isinstance(dims, tuple) or list(dims) != sorted(d for d in dims if isinstance(d, int)):
            raise RefusedPickleError(
                f"{name} is a DTensor sharded in an order of its own: save with torch.distributed.checkpoint"
            )


def _mesh(name: str, value: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The extents of a DeviceMesh, and where on it the process was that saved it."""
    state = fields(value)
    layout = fields(state.get("_layout"))
    drawn = state.get("mesh")
    if isinstance(layout.get("axes"), (tuple, list)):
        extents: Any = tuple(_product(fields(axis).get("shape")) for axis in layout["axes"])
    elif isinstance(layout.get("shape"), (tuple, list)):
        extents = tuple(_product(size) for size in layout["shape"])
    else:
        extents = drawn.shape if isinstance(drawn, StoredTensor) else None
    coordinate = state.get("_coordinate_on_dim")
    if not isinstance(extents, tuple) or not isinstance(coordinate, (tuple, list)) or len(coordinate) != len(extents):
        raise RefusedPickleError(
            f"{name} is a DTensor of which the file does not say whose part it is: save with torch.distributed.checkpoint"
        )
    if not all(type(i) is int and type(n) is int and 0 <= i < n < 2**20 for i, n in zip(coordinate, extents)):
        raise RefusedPickleError(f"{name} is a DTensor on an impossible mesh")
    return extents, tuple(coordinate)


def _product(size: Any, depth: int = 0) -> int:
    """Of an extent, or of those that it is made of."""
    if isinstance(size, (tuple, list)) and depth < 8 and len(size) < 64:
        return math.prod(_product(part, depth + 1) for part in size)
    return size if type(size) is int and 0 < size < 2**20 else 0


def _chunked(runs: Sequence[Run], count: int, index: int) -> list[Run]:
    """The chunk `index` of `count`, each of as many elements but the last ones, of what the runs hold one behind the other."""
    total = sum(length for _, length in runs)
    step = -(-total // count)
    begin, end = min(index * step, total), min((index + 1) * step, total)
    found, at = [], 0
    for start, length in runs:
        low, high = max(begin, at), min(end, at + length)
        if low < high:
            found.append((start + low - at, high - low))
        at += length
    return found


def _starts(runs: Sequence[Run]) -> list[tuple[int, Run]]:
    """Each run with where it begins in the file's tensor."""
    found, at = [], 0
    for run in runs:
        found.append((at, run))
        at += run[1]
    return found


def _of_sharded_tensor(name: str, value: Inert) -> Part:
    state = value.state
    if not isinstance(state, tuple) or len(state) < 2 or not isinstance(state[0], list):
        raise RefusedPickleError(
            f"{name} is a ShardedTensor in a form that is not known: save with torch.distributed.checkpoint"
        )
    metadata = fields(state[1])
    shape = _sizes(name, metadata.get("size"))
    listed = metadata.get("shards_metadata")
    dtype = fields(metadata.get("tensor_properties")).get("dtype")
    chunks = []
    for index, shard in enumerate(state[0]):
        stored, place = fields(shard).get("tensor"), fields(fields(shard).get("metadata"))
        offsets, extents = _sizes(name, place.get("shard_offsets")), _sizes(name, place.get("shard_sizes"))
        if (
            not isinstance(stored, StoredTensor)
            or stored.shape != extents
            or len(offsets) != len(shape)
            or len(extents) != len(shape)
        ):
            raise RefusedPickleError(
                f"{name} says that its file has {extents} of {shape}, and the file has something else"
            )
        if any(o + e > s for o, e, s in zip(offsets, extents, shape)):
            raise RefusedPickleError(f"a shard of {name} lies outside of the tensor")
        chunks.append(Chunk(offsets, extents, (0,) * len(shape), stored, (0, index, "tensor")))
    if chunks:
        dtype = chunks[0].stored.dtype
    return Part(
        shape,
        dtype if isinstance(dtype, torch.dtype) else torch.float32,
        tuple(chunks),
        len(listed) if isinstance(listed, list) else 0,
        None,
    )


def _sizes(name: str, value: Any) -> tuple[int, ...]:
    if (
        not isinstance(value, (tuple, list))
        or len(value) > 64
        or not all(type(n) is int and 0 <= n < 2**48 for n in value)
    ):
        raise RefusedPickleError(f"{name} is sharded, and its file gives an impossible shape")
    return tuple(value)
