"""Runs training in several processes: `python _train_ranks.py FOLDER WORLD CASE...`, each of which leaves FOLDER/CASE.json.

The processes are forks of one that has imported torch, which takes longer than the training. Under torchrun `main` is the worker.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from maas_rt.compiler import train as t
from maas_rt.compiler.train._workers import workers_of
from torch import nn
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel

ROOT = Path(__file__).parents[2]
LOSS = nn.functional.cross_entropy


def data(samples: int = 203) -> tuple[torch.Tensor, torch.Tensor]:
    """Eight numbers, three classes that they tell apart."""
    drawn = torch.Generator().manual_seed(5)
    x = torch.randn(samples, 8, generator=drawn)
    return x, (x @ torch.randn(8, 3, generator=drawn)).argmax(1)


def net(seed: int = 3) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))


def rank() -> int:
    return int(os.environ.get("RANK", "0"))


def options(folder: Path | None = None, **changed: Any) -> t.TrainOptions:
    given = {"epochs": 2, "batch": 16, "lr": 1e-2, "accumulate": 2, "clip": 1.0, "ema": 0.9, "schedule": "one-cycle"}
    return t.TrainOptions(**{**given, "checkpoint": folder, **changed})


def told(result: t.TrainResult) -> dict[str, Any]:
    """What a test compares, of the first process."""
    return {
        "step": result.step,
        "loss": result.loss,
        "validation": dict(result.validation),
        "state": {name: value.tolist() for name, value in result.state.items()},
    }


def plain(folder: Path | None, **changed: Any) -> dict[str, Any]:
    # Other weights in each process: those of the first count.
    return told(t.train(net(3 + rank()), data(), LOSS, options(folder, **changed), validation=data()))


def disk(folder: Path) -> dict[str, Any]:
    """One process of two meets the end of its disk in the second checkpoint."""
    import resource

    class Full(t.Callback):
        def stepped(self, run: t.Run) -> None:
            if run.step == 9 and rank() == 1:
                while not (folder / "latest").exists():  # the first is being written still
                    time.sleep(0.01)
                resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))

    try:
        t.train(net(), data(), LOSS, options(folder, every=5, parallel="fsdp"), callbacks=[Full()])
    except RuntimeError as error:
        return {"kind": type(error).__name__, "error": str(error)}
    raise AssertionError("it did not fail")


def lost(folder: Path) -> dict[str, Any]:
    class Ends(t.Callback):
        def stepped(self, run: t.Run) -> None:
            if run.step == 7 and rank() == 1:
                os.kill(os.getpid(), signal.SIGKILL)

    try:
        t.train(net(), data(), LOSS, options(folder, every=5), callbacks=[Ends()])
    except RuntimeError as error:
        return {"kind": type(error).__name__, "error": str(error)}
    raise AssertionError("it did not fail")


class FreedLate(torch.Tensor):
    """Whichever thread frees it lets go of the GIL meanwhile."""

    def __del__(self) -> None:
        time.sleep(1)


def freed_late(folder: Path) -> dict[str, Any]:
    """A thread of gloo's is still freeing a tensor when the group is taken apart."""

    with workers_of(options()) as workers:
        placed = workers.place(net())
        time.sleep(0.3 * rank())  # so that the first process lets go of its tensor before it has the sum
        torch.distributed.all_reduce(torch.ones(4).as_subclass(FreedLate), async_op=True)
    return {"kind": type(placed).__name__}


def alone(folder: Path) -> dict[str, Any]:
    try:
        plain(folder, parallel="none")
    except ValueError as error:
        return {"error": str(error)}
    raise AssertionError("it did not fail")


def sparse(folder: Path, **changed: Any) -> dict[str, Any]:
    """Pruned to 75 %, the masks of each process beside the weights."""
    pruning = t.GradualPruning(0.75, begin=2, end=16, every=2)
    result = t.train(net(), data(), LOSS, options(None, **changed), callbacks=[pruning], validation=data())
    return told(result)


def combined(parallel: str = "ddp") -> t.TrainResult:
    """A quantized, pruned student with narrower layers than its teacher's."""
    torch.manual_seed(8)
    teacher = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))
    student = t.prepare_qat(net(), data()[0])
    callbacks = [
        t.Distillation(teacher, temperature=2.0, hidden={"0": "0"}),
        t.GradualPruning(0.5, "block", block=(4, 1), begin=2, end=16, every=2, skip=("2",)),
    ]
    given = options(parallel=parallel, lr=1e-3)
    return t.train(student, data(), LOSS, given, callbacks=callbacks, validation=data())


PLAN = {"0": ColwiseParallel(), "2": RowwiseParallel()}
CASES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "ddp": lambda folder: plain(folder),
    "fsdp": lambda folder: plain(folder, parallel="fsdp"),
    "tensor": lambda folder: plain(folder, parallel=PLAN),
    "few": lambda folder: plain(None, batch=101),  # the last batch of an epoch has one sample
    "half": lambda folder: plain(folder, steps=13, epochs=None, schedule="constant", parallel="fsdp"),
    "disk": disk,
    "lost": lost,
    "freed_late": freed_late,
    "alone": alone,
    "sparse": sparse,
    "sparse_fsdp": lambda folder: sparse(folder, parallel="fsdp"),
    "combined": lambda folder: told(combined()),
    "combined_fsdp": lambda folder: told(combined("fsdp")),
}


def main(folder: Path, case: str) -> None:
    torch.set_num_threads(1)
    found = CASES[case](folder / case)
    if rank() == 0:
        (folder / f"{case}.json").write_text(json.dumps(found))


def forked(folder: Path, world: int, case: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for number in range(world):
        process = os.fork()
        if not process:
            place = {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}  # fmt: skip
            os.environ.update({name: str(value) for name, value in place.items()})
            faulthandler.dump_traceback_later(100, exit=True)
            status = 1
            try:
                main(folder, case)
                status = 0
            except BaseException:
                traceback.print_exc()
            sys.stderr.flush()
            os._exit(status)
        processes.append(process)
    for process in processes:
        os.waitpid(process, 0)


def processes(*command: Any) -> str:
    """What it says, run by this Python with a thread a process."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)  # fmt: skip
    return done.stdout + done.stderr


def by_two_processes(folder: Path, *cases: str) -> Callable[[str], dict[str, Any]]:
    """Runs the cases; the function gives what each came to."""
    said = processes(__file__, folder, 2, *cases)

    def found(case: str) -> dict[str, Any]:
        file = folder / f"{case}.json"
        assert file.exists(), said
        return {**json.loads(file.read_text()), "folder": folder / case}

    return found


if __name__ == "__main__":
    for name in sys.argv[3:]:
        forked(Path(sys.argv[1]), int(sys.argv[2]), name)
