"""A file of each process: parts that say where they belong, and slices of tensor parallelism, which the model's shapes tell."""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from maas_rt.compiler.importers._layouts import open_contents
from maas_rt.compiler.importers._ranks import numbered
from maas_rt.compiler.importers._saved import SavedFile
from torch import nn
from torch.distributed._shard.metadata import ShardMetadata
from torch.distributed._shard.sharded_tensor import Shard as LocalShard
from torch.distributed._shard.sharded_tensor import ShardedTensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.placement_types import _StridedShard
from torch.testing._internal.distributed.fake_pg import FakeStore

from tests.compiler._checkpoint_models import filled, filled_with, net, refusal

SECONDS = 15.0


def processes(count: int) -> Iterator[int]:
    """This process as each of a group's in turn, with nobody to talk to."""
    for rank in range(count):
        dist.init_process_group("fake", rank=rank, world_size=count, store=FakeStore())
        try:
            yield rank
        finally:
            dist.destroy_process_group()


def odd() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 3))


PLACEMENTS: list[tuple[tuple[int, ...], Sequence[Placement]]] = [
    ((2,), [Shard(0)]),
    ((4,), [Shard(0)]),
    ((9,), [Shard(0)]),
    ((3,), [Replicate()]),
    ((2, 2), [Replicate(), Shard(0)]),
    ((2, 2), [Shard(0), Shard(0)]),
    ((2, 2), [_StridedShard(0, split_factor=2), Shard(0)]),
    ((2, 3), [_StridedShard(0, split_factor=3), Shard(0)]),
    ((2, 2, 2), [Replicate(), _StridedShard(0, split_factor=2), Shard(0)]),
]


@pytest.mark.parametrize(("mesh", "placements"), PLACEMENTS)
def test_dtensors(tmp_path: Path, mesh: tuple[int, ...], placements: Sequence[Placement]) -> None:
    state = filled(odd())
    for rank in processes(torch.Size(mesh).numel()):
        device = init_device_mesh("cpu", mesh)
        parts = {n: distribute_tensor(v, device, placements, src_data_rank=None) for n, v in state.items()}
        torch.save({"model": parts, "step": 3}, tmp_path / f"rank{rank}.pt")
    files = sorted(tmp_path.iterdir())
    filled_with(files[::-1], state, odd)
    filled_with(tmp_path, state, odd)
    if any(not isinstance(placement, Replicate) for placement in placements):
        assert "of which 1 is here" in refusal(files[0], odd)
        files[-1].unlink()
        if mesh not in ((9,), (2, 3)) and not isinstance(placements[0], Replicate):  # there the last rank has nothing
            assert f"not {len(files) - 1}" in refusal(files[:-1], odd)


def test_dtensors_are_read_by_torch_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = filled(odd())
    for rank in processes(2):
        device = init_device_mesh("cpu", (2,))
        torch.save(
            {n: distribute_tensor(v, device, [Shard(0)], src_data_rank=None) for n, v in state.items()},
            tmp_path / f"r{rank}.pt",
        )
    found = SavedFile(tmp_path / "r1.pt").read_by_library([("0.weight", "_local_tensor")])[0]
    assert torch.equal(found, state["0.weight"].chunk(2)[1])
    monkeypatch.setattr(SavedFile, "read_by_library", lambda self, locations: [torch.zeros(1) for _ in locations])
    assert "another way" in refusal(sorted(tmp_path.iterdir()), odd)


def test_one_dimension_of_a_mesh(tmp_path: Path) -> None:
    """Tensor parallelism in each of two replicas, and columns."""
    state = filled(odd())
    for rank in processes(4):
        device = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))["tp"]
        parts = {n: distribute_tensor(v, device, [Shard(v.ndim - 1)], src_data_rank=None) for n, v in state.items()}
        torch.save(parts, tmp_path / f"rank{rank}.pt")
    filled_with(tmp_path, state, odd)
    saved = torch.load(tmp_path / "rank3.pt", weights_only=True)
    saved["0.weight"]._local_tensor.add_(1)
    torch.save(saved, tmp_path / "rank3.pt")
    assert "different values" in refusal(tmp_path, odd)


def sharded(rank: int, world: int, value: torch.Tensor, changes: Mapping[str, Any]) -> ShardedTensor:
    """As FSDP1 saves it under SHARDED_STATE_DICT: rows, in chunks."""
    offsets = [0]
    for piece in value.chunk(world):
        offsets.append(offsets[-1] + piece.shape[0])
    pieces = value.chunk(world)
    places = [
        ShardMetadata([offsets[i], *[0] * (value.ndim - 1)], list(pieces[i].shape), f"rank:{i}/cpu")
        for i in range(len(pieces))
    ]
    local = [LocalShard(pieces[rank], places[rank])] if rank < len(pieces) else []
    made = ShardedTensor._init_from_local_shards_and_global_metadata(
        local,
        torch.distributed._shard.sharded_tensor.ShardedTensorMetadata(places, value.shape),
        process_group=dist.group.WORLD,
    )
    for name, change in changes.items():
        setattr(local[0].metadata, name, change) if local else None
    return made


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_sharded_tensors(tmp_path: Path) -> None:
    state = filled(odd())
    for changes in (
        {},
        {"shard_offsets": [1, 0]},
        {"shard_offsets": [9, 0]},
        {"shard_sizes": [1, 1]},
        {"shard_offsets": [-1, 0]},
    ):
        for rank in processes(3):
            parts = {n: sharded(rank, 3, v, changes if n == "0.weight" and rank == 1 else {}) for n, v in state.items()}
            torch.save(parts, tmp_path / f"rank{rank}.pt")
        if changes:
            refusal(tmp_path, odd)
        else:
            filled_with(tmp_path, state, odd)
            assert "of which 1 is here" in refusal(tmp_path / "rank1.pt", odd)


def lying(tmp_path: Path, change: Any) -> str:
    """A directory of two ranks of which the second was changed after it was made."""
    state = filled(odd())
    for rank in processes(2):
        device = init_device_mesh("cpu", (2,))
        parts = {n: distribute_tensor(v, device, [Shard(0)], src_data_rank=None) for n, v in state.items()}
        if rank:
            change(parts["0.weight"])
        torch.save(parts, tmp_path / f"rank{rank}.pt")
    return refusal(tmp_path, odd)


def placed(*placements: Placement) -> Any:
    def change(tensor: DTensor) -> None:
        tensor._spec.placements = placements

    return change


def attribute(name: str, value: Any) -> Any:
    return lambda tensor: setattr(tensor._spec.mesh, name, value)


def local(value: torch.Tensor) -> Any:
    return lambda tensor: setattr(tensor, "_local_tensor", value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (placed(Shard(1)), "and the file has"),
        (placed(Shard(7)), "placed by"),
        (placed(Partial()), "Partial"),
        (placed(Replicate()), "and the file has"),
        (placed(), "form that is not known"),
        (placed(_StridedShard(0, split_factor=1 << 30)), "impossible number"),
        (attribute("_coordinate_on_dim", (0,)), "and the file has"),
        (attribute("_coordinate_on_dim", (2,)), "impossible mesh"),
        (attribute("_coordinate_on_dim", None), "whose part"),
        (local(torch.ones(2, 5)), "and the file has"),
        (local(torch.ones(3, 5, dtype=torch.float64)), "disagree"),
    ],
)
def test_parts_that_lie(tmp_path: Path, change: Any, words: str) -> None:
    began = time.monotonic()
    assert words in lying(tmp_path, change)
    assert time.monotonic() - began < SECONDS


# Slices without a word about the whole.


def cut(
    folder: Path, name: str, state: Mapping[str, torch.Tensor], axes: Mapping[str, int], count: int = 2
) -> list[Path]:
    """Each rank's slices, as rows (0) or columns (1) of those weights; the others whole."""
    files = [folder / name.format(rank) for rank in range(count)]
    for rank, file in enumerate(files):
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save({n: v.chunk(count, axes[n])[rank].clone() if n in axes else v for n, v in state.items()}, file)
    return files


AXES = {"0.weight": 0, "0.bias": 0, "2.weight": 1}


@pytest.mark.parametrize("name", ["consolidated.{:02d}.pth", "model_rank_{}.pt", "tp-rank{}.pt", "rank{}/model.pt"])
def test_slices_by_rank(tmp_path: Path, name: str) -> None:
    state = filled(net())
    files = cut(tmp_path, name, state, AXES)
    filled_with(files[::-1], state)
    if "/" not in name:
        filled_with(tmp_path, state)


def test_slices_of_different_lengths_and_many_ranks(tmp_path: Path) -> None:
    def tall() -> nn.Module:
        return nn.Sequential(nn.Linear(3, 23), nn.Linear(23, 5))

    state = filled(tall())
    files = cut(tmp_path, "rank_{}.pt", state, {"0.weight": 0, "0.bias": 0, "1.weight": 1}, 12)
    filled_with(sorted(files), state, tall)  # by name, 10 lies before 2
    assert "12" in refusal(files[:11], tall) or "files" in refusal(files[:11], tall)


def test_slices_that_are_told(tmp_path: Path) -> None:
    state = filled(net())
    files = cut(tmp_path, "rank{}.pt", state, AXES)
    saved = torch.load(files[1])
    saved["1.running_mean"] += 1
    torch.save(saved, files[1])
    assert "different values of 1.running_mean" in refusal(files)

    def fused() -> nn.Module:
        return nn.ModuleDict({"qkv_proj": nn.Linear(4, 12), "mlp": nn.ModuleDict({"gate_up": nn.Linear(4, 8)})})

    whole = filled(fused())
    files = cut(tmp_path / "fused", "rank{}.pt", whole, dict.fromkeys(whole, 0))
    assert "several matrices" in refusal(files, fused, longest=900)


def test_ranks_in_names() -> None:
    paths = [Path(f"run/step10/rank{i}.pt") for i in range(12)]
    assert numbered(paths[::-1]) == paths
    assert numbered([Path("a.pt"), Path("b.pt")]) is None
    assert numbered([Path("rank0.pt"), Path("rank2.pt")]) is None
    assert numbered([Path("step1_rank0.pt"), Path("step2_rank1.pt")]) is None
    assert numbered([Path("mp_rank_01/m.pt"), Path("mp_rank_00/m.pt")]) == [
        Path("mp_rank_00/m.pt"),
        Path("mp_rank_01/m.pt"),
    ]


def test_a_whole_dtensor_in_one_file(tmp_path: Path) -> None:
    state = filled(odd())
    for _ in processes(1):
        device = init_device_mesh("cpu", (1,))
        torch.save(
            {n: distribute_tensor(v, device, [Shard(0)], src_data_rank=None) for n, v in state.items()},
            tmp_path / "w.pt",
        )
    filled_with(tmp_path / "w.pt", state, odd)
    assert open_contents(tmp_path / "w.pt").name == "w.pt"


# Megatron-LM, by hand: its layout is documented in megatron/training/checkpointing.py and megatron/core/tensor_parallel/layers.py.


class Gated(nn.Module):
    """A decoder's names, two layers of them."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.ModuleDict({"word_embeddings": nn.Embedding(8, 4)})
        layer = {"linear_qkv": (12, 4), "linear_proj": (4, 4), "linear_fc1": (16, 4), "linear_fc2": (4, 8)}
        self.decoder = nn.ModuleDict(
            {
                "layers": nn.ModuleList(
                    [nn.ModuleDict({n: nn.Linear(i, o) for n, (o, i) in layer.items()}) for _ in range(3)]
                )
            }
        )
        self.final = nn.LayerNorm(4)


def megatron(
    folder: Path, state: Mapping[str, torch.Tensor], stages: Sequence[int], *, gated: bool, version: float = 3.0
) -> Path:
    """Two ranks of tensor parallelism, and a pipeline of stages with so many layers."""
    (folder / "iter_0000007").mkdir(parents=True)
    (folder / "latest_checkpointed_iteration.txt").write_text("7")
    start = 0
    for stage, layers in enumerate(stages):
        for rank in range(2):
            part = {}
            for name, value in state.items():
                words = name.split(".")
                number = (
                    int(words[2]) if words[0] == "decoder" else {"embedding": 0, "final": sum(stages) - 1}[words[0]]
                )
                if not start <= number < start + layers:
                    continue
                if words[0] == "decoder":
                    words[2] = str(number - start)
                kind = words[-2]
                if kind == "linear_fc1" and gated:
                    value = torch.cat([half.chunk(2)[rank] for half in value.chunk(2)])
                elif kind in ("linear_qkv", "word_embeddings", "linear_fc1"):
                    value = value.chunk(2)[rank].clone()
                elif kind in ("linear_proj", "linear_fc2") and value.ndim == 2:
                    value = value.chunk(2, 1)[rank].clone()
                part[".".join(words)] = value
            inner = folder / "iter_0000007" / (f"mp_rank_{rank:02d}" + (f"_{stage:03d}" if len(stages) > 1 else ""))
            inner.mkdir()
            saved = {
                "args": argparse.Namespace(swiglu=gated),
                "checkpoint_version": version,
                "iteration": 7,
                "model": part,
            }
            torch.save(
                {**saved, "optimizer": {"a": torch.ones(rank + 1)}, "rng_state": [rank]}, inner / "model_optim_rng.pt"
            )
        start += layers
    return folder


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("stages", [(3,), (1, 2), (1, 1, 1)])
def test_megatron(tmp_path: Path, stages: Sequence[int], gated: bool) -> None:
    state = filled(Gated())
    filled_with(megatron(tmp_path, state, stages, gated=gated), state, Gated)


def test_megatron_that_is_told(tmp_path: Path) -> None:
    state = filled(Gated())
    assert "several matrices" in refusal(
        megatron(tmp_path / "old", state, (3,), gated=True, version=1.0), Gated, longest=1500
    )
    folder = megatron(tmp_path / "short", state, (1, 2), gated=True)
    shutil.rmtree(folder / "iter_0000007/mp_rank_01_001")
    assert "lacks some of its ranks" in refusal(folder, Gated)
    folder = megatron(tmp_path / "experts", state, (3,), gated=True)
    (folder / "iter_0000007/mp_rank_01").rename(folder / "iter_0000007/mp_rank_00_000_001")
    assert "convert.py" in refusal(folder, Gated)
