"""Train the demo's classifier with torch.distributed and write a distributed checkpoint (DCP).

    torchrun --nproc-per-node 2 -m maas_rt.compiler.demo.train CHECKPOINT_DIR [EPOCHS]

Each process holds a shard of the weights (FSDP2) and sees its part of the images.
"""

from __future__ import annotations

import os
import sys

import torch
import torch.distributed as dist
from maas_rt.compiler.demo.data import load_digits
from maas_rt.compiler.demo.model import build
from torch.distributed.checkpoint.state_dict import get_model_state_dict
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard


def train(directory: str, epochs: int) -> None:
    """Train for `epochs`, then write `directory`; rank 0 reports on stderr."""
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = build()
    fully_shard(model, mesh=init_device_mesh("cpu", (world,)))
    (images, labels), _ = load_digits()
    x, y = torch.from_numpy(images[rank::world]), torch.from_numpy(labels[rank::world])
    batch = 32
    steps = min(len(labels) // world // batch, len(x) // batch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, total_steps=steps * epochs)
    for epoch in range(epochs):
        total = 0.0
        for indices in torch.randperm(len(x))[: steps * batch].split(batch):
            loss = torch.nn.functional.cross_entropy(model(x[indices]), y[indices], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        if rank == 0:
            print(f"epoch {epoch + 1}/{epochs}: loss {total / steps:.3f}", file=sys.stderr, flush=True)
    save({"model": get_model_state_dict(model)}, checkpoint_id=directory)
    dist.destroy_process_group()


if __name__ == "__main__":
    train(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 12)
    # Not by way of the interpreter's end, where a thread of gloo's that lets go of its last tensor aborts the process.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
