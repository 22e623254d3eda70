"""Run under torchrun: python -m torch.distributed.run ... -m tests.conformance.checkpoint_ranks FOLDER; writes what several processes leave.

Each leftover is a folder FOLDER/NAME; `expected.pt` beside them has the whole weights of all.
"""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, get_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, StateDictType, fully_shard
from torch.distributed.fsdp.wrap import ModuleWrapPolicy
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

__all__ = ["NAMES", "plain"]

# By the number of processes.
NAMES: dict[int, list[str]] = {
    2: [
        "DDP", "FSDP2, a file of each rank", "FSDP2, a full state dict", "FSDP2, DCP", "FSDP2, DCP, with its optimizer", "FSDP2, async_save", "FSDP2, HuggingFaceStorageWriter",
        "FSDP1, full state dict", "FSDP1, sharded state dict, a file of each rank", "FSDP1, sharded state dict, DCP",
        "FSDP1, local state dict, a file of each rank", "tensor parallel, a file of each rank", "tensor parallel, DCP",
        "tensor parallel, local slices of each rank", "pipeline stages, a file of each rank",
    ],
    4: ["HSDP, a file of each rank", "FSDP2 with tensor parallel, a file of each rank", "FSDP2 with tensor parallel, DCP"],
}  # fmt: skip
ZERO = {"DeepSpeed, ZeRO 0": 0, "DeepSpeed, ZeRO 1": 1, "DeepSpeed, ZeRO 2": 2, "DeepSpeed, ZeRO 3": 3}


def plain() -> nn.Module:
    """Odd sizes, so that shards differ; values that bfloat16 has, to which DeepSpeed rounds what it begins with."""
    torch.manual_seed(11)
    module = nn.Sequential(nn.Linear(6, 13), nn.ReLU(), nn.Linear(13, 7), nn.Linear(7, 5, bias=False))
    return module.bfloat16().float()


def tensor_parallel(mesh: Any) -> nn.Module:
    return parallelize_module(plain(), mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})  # type: ignore[no-any-return]


def sharded(mesh: Any, module: nn.Module) -> nn.Module:
    for layer in (0, 2, 3):
        fully_shard(module[layer], mesh=mesh)  # type: ignore[index]
    fully_shard(module, mesh=mesh)
    return module


class Writer:
    """Writes leftovers of this process."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._rank = dist.get_rank()

    def at(self, name: str) -> Path:
        (self._folder / name).mkdir(exist_ok=True)
        return self._folder / name

    def each(self, name: str, state: Any) -> None:
        torch.save(state, self.at(name) / f"rank{self._rank}.pt")

    def first(self, name: str, state: Any) -> None:
        if self._rank == 0:
            torch.save(state, self.at(name) / "checkpoint.pt")

    def together(self, name: str, state: Any, **options: Any) -> None:
        dcp.save(state, checkpoint_id=str(self.at(name)), **options)


def of_two(write: Writer) -> None:
    mesh = init_device_mesh("cpu", (2,))
    ddp = nn.parallel.DistributedDataParallel(plain())
    write.first("DDP", {"model": ddp.state_dict(), "epoch": 1})
    fsdp = sharded(mesh, plain())
    write.each("FSDP2, a file of each rank", {"model": fsdp.state_dict()})
    whole = get_model_state_dict(fsdp, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    write.first("FSDP2, a full state dict", whole)
    state = get_model_state_dict(fsdp)
    write.together("FSDP2, DCP", {"app": {"model": state}})
    optimizer = torch.optim.AdamW(fsdp.parameters())
    both = get_state_dict(fsdp, optimizer)
    write.together(
        "FSDP2, DCP, with its optimizer", {"app": {"model": both[0], "optim": both[1]}, "train_state": {"step": 3}}
    )
    dcp.async_save(state, checkpoint_id=str(write.at("FSDP2, async_save"))).result()  # type: ignore[union-attr]
    hub = dcp.HuggingFaceStorageWriter(path=str(write.at("FSDP2, HuggingFaceStorageWriter")), save_distributed=True)
    dcp.save(state, storage_writer=hub)
    old = FullyShardedDataParallel(
        plain(), auto_wrap_policy=ModuleWrapPolicy({nn.Linear}), device_id=torch.device("cpu")
    )
    with FullyShardedDataParallel.state_dict_type(old, StateDictType.FULL_STATE_DICT):
        write.first("FSDP1, full state dict", old.state_dict())
    with FullyShardedDataParallel.state_dict_type(old, StateDictType.SHARDED_STATE_DICT):
        parts = old.state_dict()
        write.each("FSDP1, sharded state dict, a file of each rank", parts)
        write.together("FSDP1, sharded state dict, DCP", {"model": parts})
    with FullyShardedDataParallel.state_dict_type(old, StateDictType.LOCAL_STATE_DICT):
        write.each("FSDP1, local state dict, a file of each rank", old.state_dict())
    parallel = tensor_parallel(mesh).state_dict()
    write.each("tensor parallel, a file of each rank", parallel)
    write.together("tensor parallel, DCP", parallel)
    local = {n: v.to_local() if isinstance(v, DTensor) else v for n, v in parallel.items()}
    write.each("tensor parallel, local slices of each rank", local)
    layers = ("0.", "2.") if dist.get_rank() == 0 else ("3.",)
    write.each(
        "pipeline stages, a file of each rank", {n: v for n, v in plain().state_dict().items() if n.startswith(layers)}
    )


def of_four(write: Writer) -> None:
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    write.each("HSDP, a file of each rank", sharded(mesh, plain()).state_dict())
    both = sharded(mesh["dp"], tensor_parallel(mesh["tp"]))
    write.each("FSDP2 with tensor parallel, a file of each rank", both.state_dict())
    write.together("FSDP2 with tensor parallel, DCP", get_model_state_dict(both))


def by_deepspeed(write: Writer) -> None:
    import deepspeed

    for name, stage in ZERO.items():
        module = plain()
        config = {
            "train_micro_batch_size_per_gpu": 1,
            "zero_optimization": {"stage": stage},
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "bf16": {"enabled": stage > 0},
        }
        optimizer = torch.optim.AdamW(module.parameters(), lr=0.0, weight_decay=0.0)
        engine = deepspeed.initialize(model=module, optimizer=optimizer, config=config)[0]
        engine.save_checkpoint(str(write.at(name)))


def main(folder: Path) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    write = Writer(folder)
    if dist.get_rank() == 0:
        torch.save(plain().state_dict(), folder / "expected.pt")
    if os.environ.get("MAKERS") == "deepspeed":
        by_deepspeed(write)
    else:
        {2: of_two, 4: of_four}[dist.get_world_size()](write)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    # Not by way of the interpreter's end, where a thread of gloo's that lets go of its last tensor aborts the process.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
