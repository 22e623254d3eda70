"""Training by two workers against one with the same batches, and by two of which one is killed on the way."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from maas_rt.compiler.train import read_log

from .._environments import ROOT
from ._rows import Goal, Measured, row
from ._trained import save, tensors
from ._worker import trained_by

SEEDS = range(8)
IMAGES, TEST = 8192, 4000
KILLED = 85  # the step behind which the worker dies: between two checkpoints, in the second epoch


@row("workers", "Training on Fashion-MNIST, 2 workers against 1, the same global batch",
     Goal("mean final losses apart, over their deviation by seed", 1, 1, least=False),
     Goal("a worker killed, resumed: a step's loss, largest difference", 1e-6, 0, least=False))  # fmt: skip
def _workers() -> Measured:
    with TemporaryDirectory() as made:
        folder = Path(made)
        parts = [part[:count] for kind, count in (("train", IMAGES), ("t10k", TEST)) for part in tensors(kind)]
        save(folder / "data.pt", parts)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # as the workers have
        one = [trained_by(folder, f"one-{seed}", seed)["loss"] for seed in SEEDS]
        torch.set_num_threads(threads)
        two = [_by_two(folder, f"two-{seed}", seed) for seed in SEEDS]
        again = _by_two(folder, "killed", SEEDS[0], KILLED)
        whole, killed = (_curve(folder / name) for name in (f"two-{SEEDS[0]}", "killed"))
        starts = [line["step"] for line in read_log(folder / "killed" / "log.jsonl") if line.get("event") == "start"]
    if list(whole) != list(killed) or len(starts) != 2:
        raise RuntimeError(f"the killed run has {len(killed)} steps and began at {starts}, the other {len(whole)} steps")  # fmt: skip
    deviation = float(np.std(one, ddof=1))
    ours = {
        "mean final losses apart, over their deviation by seed": abs(float(np.mean(two)) - float(np.mean(one))) / deviation,
        "a worker killed, resumed: a step's loss, largest difference": max(abs(whole[step] - killed[step]) for step in whole),
    }  # fmt: skip
    more = {
        "test losses of 1 worker, by seed": one, "test losses of 2 workers": two, "steps": len(whole),
        "killed behind step": KILLED, "went on from step": starts[-1], "test loss of the killed run": again,
    }  # fmt: skip
    return Measured(ours, more=more)


def _by_two(folder: Path, name: str, seed: int, killed: int = 0) -> float:
    """The test loss that two workers under torchrun come to."""
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "1",
        "-m", f"{__package__}._worker", folder, name, seed, killed,
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*map(str, command)], cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode or (folder / name / "killed").exists() != bool(killed):
        raise RuntimeError(f"two workers did not train: {done.stderr[-2000:]}")
    (told,) = [line for line in read_log(folder / name / "log.jsonl") if line.get("event") == "validation"][-1:]
    return float(told["validation_loss"])


def _curve(folder: Path) -> dict[int, Any]:
    return {line["step"]: line["loss"] for line in read_log(folder / "log.jsonl") if "loss" in line}
