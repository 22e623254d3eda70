"""Megatron-LM's ranks: iter_0001000/mp_rank_TT[_PPP]/model_optim_rng.pt, joined as if one process had trained.

Tensor parallelism cuts rows or columns (megatron/core/tensor_parallel/layers.py); queries, keys and values lie head by head, so that their
slices are one slice; a gated first layer (swiglu) has a slice of each half. A pipeline's stages count their layers from 0.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ._contents import Contents, Location, StoredTensor, agreed, leaves
from ._ranks import Ranks, matrices_by_name
from ._safe_pickle import RefusedPickleError
from ._sharded import fields

__all__ = ["Megatron", "megatron_ranks"]

_RANK = re.compile(r"mp_rank_(\d\d)(?:_(\d\d\d))?(?:_(\d\d\d))?$")
_LAYER = re.compile(r"((?:^|\.)layers\.)(\d+)(?=\.)")
_FIRST_LAYER = re.compile(r"(linear_fc1|dense_h_to_4h)\.(weight|bias)$")
_ATTENTION = re.compile(r"(query_key_value|linear_qkv)\.(weight|bias)$")
_FILES = ("model_optim_rng.pt", "model_rng.pt")
_CONVERT = "join them with Megatron's tools/checkpoint/convert.py (--target-tensor-parallel-size 1 --target-pipeline-parallel-size 1)"


def megatron_ranks(names: Sequence[str]) -> list[str]:
    return [name for name in names if _RANK.match(name)]


class Megatron:
    """The ranks of one iteration as Contents; `opened` opens a file."""

    def __init__(self, folder: Path, ranks: Sequence[str], opened: Callable[[Path], Contents]) -> None:
        self.name = folder.name
        stages: dict[int, dict[int, Contents]] = {}
        for rank in ranks:
            tensor, pipeline, expert = (int(part or 0) for part in _RANK.match(rank).groups())  # type: ignore[union-attr]
            file = next((folder / rank / name for name in _FILES if (folder / rank / name).exists()), None)
            if expert or file is None:
                what = "is of expert parallelism" if expert else f"has no {_FILES[0]}"
                raise RefusedPickleError(f"{rank} {what}: {_CONVERT}")
            stages.setdefault(pipeline, {})[tensor] = opened(file)
        if sorted(stages) != list(range(len(stages))) or any(
            sorted(s) != list(range(len(stages[0]))) for s in stages.values()
        ):
            raise RefusedPickleError(f"it lacks some of its ranks (it has {', '.join(ranks[:8])}): copy the others too")
        self.tree: dict[Any, Any] = {}
        passed = 0
        for index in range(len(stages)):
            files = [stages[index][rank] for rank in sorted(stages[index])]
            stage = Ranks(self.name, files, _matrices(files[0])) if len(files) > 1 else files[0]
            passed += self._add(stage, passed)

    def _add(self, stage: Contents, layers_before: int) -> int:
        """The stage's weights, its layers behind the `layers_before` ones; how many these are."""
        count = 0
        if "model0" in stage.tree:
            raise RefusedPickleError(
                f"it is of an interleaved pipeline, whose stages have several pieces of the model: {_CONVERT}"
            )
        for location, leaf in leaves(stage.tree):
            if (
                location[0] != "model" or "word_embeddings_for_head" in location
            ):  # the last stage's copy of tied embeddings
                continue
            renamed: list[Any] = []
            for key in location:
                found = _LAYER.search(key) if isinstance(key, str) else None
                count = max(count, int(found[2]) + 1) if found else count
                renamed.append(_LAYER.sub(lambda m: f"{m[1]}{int(m[2]) + layers_before}", key) if found else key)
            node = self.tree
            for key in renamed[:-1]:
                node = node.setdefault(key, {})
            if renamed[-1] in node:
                raise RefusedPickleError(f"{'.'.join(map(str, renamed))} is in two stages of its pipeline: {_CONVERT}")
            node[renamed[-1]] = agreed(stage, location, leaf) if isinstance(leaf, StoredTensor) else leaf
        return count

    def read_by_library(self, locations: Sequence[Location]) -> list[Any]:
        """Nothing: each part is compared with torch's reading when it is read."""
        return [None] * len(locations)


def _matrices(file: Contents) -> Callable[[str], int]:
    """How many matrices a weight holds: the arguments of the training, which are in the file, tell of its gates."""
    arguments = fields(file.tree.get("args"))
    version = file.tree.get("checkpoint_version", 0)
    gated = arguments.get("swiglu", arguments.get("gated_linear_unit"))

    def count(name: str) -> int:
        if _FIRST_LAYER.search(name) and isinstance(gated, bool):
            return 2 if gated else 1
        if _ATTENTION.search(name) and isinstance(version, (int, float)) and version >= 2:
            return 1
        return matrices_by_name(name)

    return count
