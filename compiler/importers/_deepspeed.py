"""What DeepSpeed's save_checkpoint leaves: the float32 weights that ZeRO 1 to 3 split over ranks, put together.

A folder `global_step.../` (its name in a file `latest` above it) holds `*_model_states.pt`, with the names and shapes of the weights
and the buffers, and per rank a `*_optim_states.pt` with flat float32 partitions. The layout is that of DeepSpeed's own script
zero_to_fp32.py: ZeRO 1 and 2 cut the flat vector of each parameter group into equal parts, ZeRO 3 cuts each weight.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ._contents import Location, StoredTensor, agreed, same_bits
from ._safe_pickle import Inert, RefusedPickleError
from ._saved import SavedFile

__all__ = ["DeepSpeedCheckpoint"]


class DeepSpeedCheckpoint:
    """The folder as Contents. Raises RefusedPickleError."""

    def __init__(self, folder: Path) -> None:
        self.name = folder.name
        names = sorted((file.name for file in folder.iterdir()), key=_natural)
        models = [n for n in names if n.endswith("_model_states.pt") and not n.startswith("layer_")]
        shards = [n for n in names if n.endswith("_optim_states.pt") and "expert" not in n]
        if any(n.startswith("layer_") for n in names):
            raise RefusedPickleError(
                "it has a file per layer of a DeepSpeed pipeline or of experts, whose names are not the module's: load it in DeepSpeed, "
                "and save the module's state_dict()"
            )
        if not models:
            raise RefusedPickleError("it has no *_model_states.pt, so DeepSpeed did not write or finish it")
        if any(re.search(r"mp_rank_0*[1-9]", n) for n in models):
            raise RefusedPickleError(
                "it holds ranks of tensor parallelism, each with its slice of the weights: join them with DeepSpeed's ds_to_universal.py, "
                "or save the gathered state_dict()"
            )
        self._models = [SavedFile(folder / n) for n in models]
        state = self._models[0].tree
        self._module = state.get("module")
        if not isinstance(self._module, Mapping):
            raise RefusedPickleError(f"{models[0]} has no module: DeepSpeed did not write it")
        self.tree: dict[Any, Any] = dict(self._module)
        if shards:
            files = [SavedFile(folder / n) for n in shards]
            self._partitioned(state, files)
        elif len(models) > 1:
            raise RefusedPickleError(
                "it has no *_optim_states.pt, where ZeRO 3 keeps the weights: copy these files too"
            )

    def _partitioned(self, state: Mapping[Any, Any], files: Sequence[SavedFile]) -> None:
        """Replace the 16-bit weights by the float32 ones that the optimizer's files hold."""
        inner = [file.tree.get("optimizer_state_dict") for file in files]
        if not all(isinstance(part, Mapping) for part in inner):
            raise RefusedPickleError("its optimizer files have no optimizer_state_dict")
        first: Mapping[Any, Any] = inner[0]  # type: ignore[assignment]
        if "zero_stage" not in first:
            return  # without ZeRO the module is whole
        stage, world = first["zero_stage"], first.get("partition_count")
        if isinstance(stage, Inert):  # a member of DeepSpeed's ZeroStageEnum
            stage = stage.args[0] if len(stage.args) == 1 else None
        world = max(world) if isinstance(world, list) and world else world
        if world != len(files):
            raise RefusedPickleError(f"it has the files of {len(files)} ranks, and {str(world)[:20]} wrote it")
        key = "fp32_flat_groups" if stage == 3 else "single_partition_of_fp32_groups"
        flats = []
        for file, part in zip(files, inner):
            groups = part.get(key)  # type: ignore[union-attr]
            if not isinstance(groups, list) or not all(
                isinstance(g, StoredTensor) and len(g.shape) == 1 for g in groups
            ):
                raise RefusedPickleError(f"{file.name} has no {key}")
            location = ("optimizer_state_dict", key)
            flats.append([agreed(file, (*location, index), group) for index, group in enumerate(groups)])
        shapes = state.get("param_shapes")
        shapes = [shapes] if isinstance(shapes, Mapping) else shapes
        if not isinstance(shapes, list) or not all(isinstance(group, Mapping) for group in shapes):
            raise RefusedPickleError("its model states have no param_shapes")
        if any(len(groups) != len(flats[0]) for groups in flats):
            raise RefusedPickleError("its ranks have different groups of weights")
        buffers = state.get("buffer_names")
        kept = {str(name) for name in buffers} if isinstance(buffers, (list, tuple)) else set()
        self.tree = {
            name: leaf for name, leaf in self.tree.items() if name in kept or str(name).endswith("_extra_state")
        }
        if stage == 3:
            self._whole_3(shapes, flats)
        else:
            self._whole_2(shapes, flats, first.get("param_alignment_paddings"))
        self._frozen(state, stage)
        shared = state.get("shared_params")
        for name, other in shared.items() if isinstance(shared, Mapping) else ():
            if other in self.tree:
                self.tree[name] = self.tree[other]

    def _whole_2(
        self, shapes: Sequence[Mapping[Any, Any]], flats: Sequence[Sequence[StoredTensor]], paddings: Any
    ) -> None:
        """ZeRO 1 and 2: the ranks' parts of a group, one behind the other, are its weights, one behind the other."""
        world = len(flats)
        if len(shapes) != len(flats[0]):
            raise RefusedPickleError("its model states and its partitions have different groups of weights")
        for index, group in enumerate(shapes):
            parts = [rank[index] for rank in flats]
            total, offset = sum(part.shape[0] for part in parts), 0
            gaps = paddings[index] if isinstance(paddings, list) and index < len(paddings) else [0] * len(group)
            if not isinstance(gaps, (list, tuple)) or len(gaps) != len(group):
                raise RefusedPickleError("its partitions are aligned in an unknown way")
            for (name, shape), gap in zip(group.items(), gaps):
                count = _elements(name, shape)
                if offset + count > total:
                    raise RefusedPickleError(f"its partitions end before {name}")
                self.tree[name] = _spanning(parts, [(offset, count)], shape)
                offset += count + int(gap)
            align = 2 * world
            if -(-offset // align) != -(-total // align):
                raise RefusedPickleError(f"its weights take {offset} of the {total} elements in its partitions")

    def _whole_3(self, shapes: Sequence[Mapping[Any, Any]], flats: Sequence[Sequence[StoredTensor]]) -> None:
        """ZeRO 3: each rank has its part of each weight, rounded up, one behind the other through its groups."""
        world, offset = len(flats), 0
        sizes = [sum(part.shape[0] for part in rank) for rank in flats]
        for group in shapes:
            for name, shape in group.items():
                count = _elements(name, shape)
                part = -(-count // world)
                if offset + part > min(sizes):
                    raise RefusedPickleError(f"its partitions end before {name}")
                parts = [piece for rank in flats for piece in rank]
                starts = [sum(sizes[:rank]) + offset for rank in range(world)]
                self.tree[name] = _spanning(parts, [(start, part) for start in starts], shape)
                offset += part
        if any(size != offset for size in sizes):
            raise RefusedPickleError(f"its weights take {offset} of the {sizes[0]} elements in each rank's partition")

    def _frozen(self, state: Mapping[Any, Any], stage: Any) -> None:
        """Weights that were not trained: whole, or under ZeRO 3 cut by rank."""
        shapes = state.get("frozen_param_shapes")
        for name, shape in shapes.items() if isinstance(shapes, Mapping) else ():
            files = self._models if stage == 3 else self._models[:1]
            fragments = [file.tree.get("frozen_param_fragments") for file in files]
            parts = [part.get(name) if isinstance(part, Mapping) else None for part in fragments]
            if not all(isinstance(part, StoredTensor) for part in parts):
                raise RefusedPickleError(f"it lacks parts of {name}, which was frozen")
            flat = [_flattened(part) for part in parts]  # type: ignore[arg-type]
            total = sum(part.shape[0] for part in flat)
            if total < _elements(name, shape):
                raise RefusedPickleError(f"its parts of {name}, which was frozen, are too short")
            self.tree[name] = _spanning(flat, [(0, total)], shape)

    def read_by_library(self, locations: Sequence[Location]) -> list[Any]:
        """The 16-bit weights that were saved beside, by torch: where they are whole, the float32 ones must round to them."""
        others = self._models[0].read_by_library([("module", *location) for location in locations])
        found: list[Any] = []
        for location, other in zip(locations, others):
            mine = self.tree.get(location[0])
            if (
                not isinstance(other, torch.Tensor)
                or not isinstance(mine, StoredTensor)
                or tuple(other.shape) != mine.shape
            ):
                found.append(None)
                continue
            value = mine.read()
            found.append(value if same_bits(value.to(other.dtype), other) else other)
        return found


def _spanning(parts: Sequence[StoredTensor], spans: Sequence[tuple[int, int]], shape: Sequence[int]) -> StoredTensor:
    """The elements in `spans` (start, count) of the parts laid end to end, of which `shape` takes as many as it needs."""
    count = math.prod(shape)

    def read() -> torch.Tensor:
        pieces = []
        for start, length in spans:
            for part in parts:
                size = part.shape[0]
                if start < size and length > 0:
                    step = min(length, size - start)
                    pieces.append(part.read()[start : start + step])
                    start, length = 0, length - step
                else:
                    start = max(start - size, 0)
        flat = pieces[0] if len(pieces) == 1 else torch.cat(pieces) if pieces else parts[0].read()[:0]
        return flat[:count].reshape(list(shape))

    return StoredTensor(tuple(shape), parts[0].dtype, read)


def _flattened(part: StoredTensor) -> StoredTensor:
    return StoredTensor((math.prod(part.shape),), part.dtype, lambda: part.read().reshape(-1))


def _elements(name: Any, shape: Any) -> int:
    if not isinstance(shape, (tuple, list)) or not all(isinstance(size, int) and 0 <= size < 2**48 for size in shape):
        raise RefusedPickleError(f"its model states give {str(name)[:80]} an impossible shape")
    return math.prod(shape)


def _natural(name: str) -> list[Any]:
    """Rank 10 behind rank 9."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
