"""Run under torchrun: writes the checkpoints that training leaves behind. python -m torch.distributed.run ... _make_checkpoints.py FOLDER"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module


def build() -> nn.Module:
    """Odd sizes, so that shards differ; a buffer and a half-precision weight beside the others."""
    torch.manual_seed(7)
    model = nn.Sequential(nn.Linear(6, 13), nn.ReLU(), nn.BatchNorm1d(13), nn.Linear(13, 5, bias=False))
    model[2].running_mean.uniform_(-1, 1)
    return model


def main(folder: Path) -> None:
    dist.init_process_group("gloo")
    world = dist.get_world_size()
    mesh = init_device_mesh("cpu", (world,))

    sharded = build()
    fully_shard(sharded[0], mesh=mesh)
    fully_shard(sharded, mesh=mesh)
    optimizer = torch.optim.Adam(sharded.parameters())
    sharded(torch.ones(4, 6)).sum().backward()
    optimizer.step()
    state = get_model_state_dict(sharded)
    dcp.save(
        {"model": state, "optimizer": optimizer.state_dict(), "step": 3}, checkpoint_id=str(folder / "fsdp2_nested")
    )
    dcp.save(state, checkpoint_id=str(folder / "fsdp2"))
    dcp.async_save(state, checkpoint_id=str(folder / "fsdp2_async")).result()
    writer = HuggingFaceStorageWriter(path=str(folder / "fsdp2_hf"), save_distributed=True)
    dcp.save(state, storage_writer=writer)
    full: dict[str, Any] = get_model_state_dict(
        sharded, options=StateDictOptions(full_state_dict=True, cpu_offload=True)
    )

    if world > 1:
        parallel = build()
        parallelize_module(parallel, mesh, {"0": ColwiseParallel(), "3": RowwiseParallel()})
        dcp.save(get_model_state_dict(parallel), checkpoint_id=str(folder / "tensor_parallel"))
        torch.save(parallel.state_dict(), folder / f"dtensor_rank{dist.get_rank()}.pt")
        local = {k: v.to_local() if isinstance(v, DTensor) else v for k, v in parallel.state_dict().items()}
        torch.save(local, folder / f"local_rank{dist.get_rank()}.pt")

    wrapped = nn.parallel.DistributedDataParallel(build())
    if dist.get_rank() == 0:
        torch.save(full, folder / "fsdp_full.pt")
        torch.save(wrapped.state_dict(), folder / "ddp.pt")
        torch.save(
            {"epoch": 3, "model_state_dict": {f"_orig_mod.{k}": v for k, v in build().state_dict().items()}},
            folder / "nested.pth",
        )
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    # Not by way of the interpreter's end, where a thread of gloo's that lets go of its last tensor aborts the process.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
