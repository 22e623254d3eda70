"""One of the processes that train for workers.py: `torchrun ... -m bench.compression._worker FOLDER NAME SEED KILLED`."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch
from maas_rt.compiler.train import Callback, Run, TrainOptions, train
from torch import nn

BATCH, EPOCHS, LR, EVERY = 128, 2, 4e-3, 20


def net(seed: int) -> nn.Module:
    """Convolutions with statistics, and dropout: what differs between processes if anything does."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Flatten(), nn.Dropout(0.1), nn.Linear(32 * 7 * 7, 10),
    )  # fmt: skip


class _Dies(Callback):
    """The second worker, once, behind a step."""

    def __init__(self, step: int, mark: Path) -> None:
        self._step, self._mark = step, mark

    def stepped(self, run: Run) -> None:
        if run.step == self._step and os.environ.get("RANK") == "1" and not self._mark.exists():
            self._mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)


def trained_by(folder: Path, name: str, seed: int, killed: int = 0) -> dict[str, float]:
    """Loss and accuracy on the test images. `folder` has data.pt; 0: nobody is killed."""
    images, labels, *test = torch.load(folder / "data.pt", weights_only=True)
    options = TrainOptions(
        lr=LR, epochs=EPOCHS, batch=BATCH, schedule="one-cycle", clip=1.0, seed=seed, checkpoint=folder / name, every=EVERY,
    )  # fmt: skip
    callbacks = [_Dies(killed, folder / name / "killed")] if killed else []
    result = train(net(seed), (images, labels), nn.functional.cross_entropy, options, validation=tuple(test), callbacks=callbacks)  # fmt: skip
    return dict(result.validation)


if __name__ == "__main__":
    trained_by(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
