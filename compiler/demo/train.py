"""Train the demo's classifier under torchrun, each process with a shard of the weights (FSDP2) and its part of the images.

    torchrun --nproc-per-node 2 -m maas_rt.compiler.demo.train CHECKPOINT_DIR [EPOCHS]

CHECKPOINT_DIR/result is then the distributed checkpoint (DCP) of the weights.
"""

from __future__ import annotations

import os
import sys
from functools import partial

import torch
from maas_rt.compiler.demo.data import load_digits
from maas_rt.compiler.demo.model import build
from maas_rt.compiler.train import Callback, Run, TrainOptions
from maas_rt.compiler.train import train as run_training


class _Tells(Callback):
    """The loss of each epoch's last batch on stderr."""

    def __init__(self, epochs: int) -> None:
        self._epochs, self._loss = epochs, 0.0

    def loss(self, run: Run, batch: object, output: object, target: object, loss: torch.Tensor) -> torch.Tensor:
        self._loss = loss.item()
        return loss

    def stepped(self, run: Run) -> None:
        if run.workers.first and run.steps is not None and run.step * self._epochs % run.steps == 0:
            print(f"epoch {run.epoch + 1}/{self._epochs}: loss {self._loss:.3f}", file=sys.stderr, flush=True)


def train(directory: str, epochs: int) -> None:
    """Train for `epochs`, then write `directory`; the first process reports on stderr."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    (images, labels), _ = load_digits()
    options = TrainOptions(epochs=epochs, batch=64, lr=6e-3, weight_decay=0.05, schedule="one-cycle", parallel="fsdp", checkpoint=directory, every=10_000)  # fmt: skip
    loss = partial(torch.nn.functional.cross_entropy, label_smoothing=0.05)
    run_training(
        build(), (torch.from_numpy(images), torch.from_numpy(labels)), loss, options, callbacks=[_Tells(epochs)]
    )


if __name__ == "__main__":
    train(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 12)
    # Not by way of the interpreter's end, where a thread of gloo's that lets go of its last tensor aborts the process.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
