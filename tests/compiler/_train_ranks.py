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

import maas_rt

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


def lost(folder: Path, parallel: Any = "ddp") -> dict[str, Any]:
    class Ends(t.Callback):
        def stepped(self, run: t.Run) -> None:
            if run.step == 7 and rank() == 1:
                os.kill(os.getpid(), signal.SIGKILL)

    try:
        t.train(net(), data(), LOSS, options(folder, every=5, parallel=parallel), callbacks=[Ends()])
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
        placed = workers.place(net(), lambda: None)
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


class Encodes(nn.Module):
    """torch's own layer, which asks its attention for no map, and takes a shorter way where it is not trained."""

    def __init__(self, width: int) -> None:
        super().__init__()
        torch.manual_seed(width)
        self.up, self.layer = nn.Linear(8, width), nn.TransformerEncoderLayer(width, 2, 16, 0.0, batch_first=True)
        self.out = nn.Linear(width, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.layer(self.up(x[:, None] * torch.linspace(0.5, 1.5, 4)[:, None])).mean(1))


def attends(parallel: str = "ddp") -> t.TrainResult:
    """A quantized, pruned encoder that learns scores, hidden states and attention of a wider one."""
    callbacks = [
        t.Distillation(Encodes(16), hidden={"layer": "layer"}, attention={"layer.self_attn": "layer.self_attn"}),
        t.GradualPruning(pattern="2:4", begin=2, end=16, every=2),
    ]
    given = options(parallel=parallel, lr=1e-3)
    return t.train(t.prepare_qat(Encodes(8), data()[0]), data(), LOSS, given, callbacks=callbacks, validation=data())


def deep() -> nn.Sequential:
    """Four products, with statistics and dropout between them."""
    torch.manual_seed(2)
    return nn.Sequential(
        nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 16), nn.Dropout(0.1), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3)
    )  # fmt: skip


def staged(folder: Path) -> dict[str, Any]:
    """Beside what the run came to: what each stage had, and in a file what its module has behind it."""
    seen: dict[str, Any] = {}

    class Sees(t.Callback):
        def stepped(self, run: t.Run) -> None:
            seen.update(own=list(run.parameters), empty=[n for n, p in run.module.named_parameters() if p.is_meta])

        def told(self, run: t.Run) -> dict[str, Any]:
            return {f"of_stage_{rank()}": len(run.parameters)}

    module = deep()
    plan = t.Pipeline(("3",), micro_batches=2)
    given = options(folder, parallel=plan, ema=None, bf16=True)
    result = t.train(module, data(), LOSS, given, validation=data(), callbacks=[Sees()])
    assert result.module is module
    whole = {name: value.tolist() for name, value in module.state_dict().items()}
    (folder / f"whole-{rank()}.json").write_text(json.dumps(whole))
    return {**told(result), **seen}


class Words(nn.Module):
    """A mask that every layer reads, and a weight that two layers share."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.words = nn.Embedding(20, 16)
        self.layers = nn.ModuleList(nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True) for _ in range(3))  # fmt: skip
        self.layers[1].linear1.weight = self.layers[0].linear1.weight
        self.head = nn.Linear(16, 3)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        x = self.words(ids)
        for layer in self.layers:
            x = layer(x, src_key_padding_mask=mask)
        return self.head(x.mean(1))


def text() -> list[Any]:
    """Batches of eight, by keyword."""
    drawn = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 20, (40, 5), generator=drawn)
    mask = torch.rand(40, 5, generator=drawn) > 0.6
    mask[:, 0] = False
    return [({"ids": ids[i : i + 8], "mask": mask[i : i + 8]}, ids[i : i + 8, 0] % 3) for i in range(0, 40, 8)]


def words(parallel: Any = "ddp") -> dict[str, Any]:
    return told(t.train(Words(), text(), LOSS, options(optimizer="sgd", accumulate=1, parallel=parallel), validation=text()))  # fmt: skip


def learned_in_stages(parallel: Any = "ddp") -> dict[str, Any]:
    """A quantized, pruned student, which has its teacher's scores alone."""
    torch.manual_seed(8)
    callbacks = [t.Distillation(nn.Linear(8, 3)), t.GradualPruning(0.5, begin=2, end=16, every=2, skip=("2",))]
    given = options(parallel=parallel, lr=1e-3)
    return told(t.train(t.prepare_qat(net(), data()[0]), data(), LOSS, given, callbacks=callbacks, validation=data()))


class Twice(nn.Module):
    """A result that two later layers read."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.a(x)
        return self.c(self.b(x)) + x[:, :3]


class Branches(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x if x.sum() > 0 else -x)


class Weighs(t.Callback):
    def parameters(self) -> dict[str, nn.Parameter]:
        return {"own": nn.Parameter(torch.ones(1))}


def refused(folder: Path) -> dict[str, Any]:
    """What a pipeline says of what it does not serve, in as many processes as there are."""
    tied = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3))
    tied[1].weight = tied[0].weight
    frozen = net()
    frozen[0].requires_grad_(False)
    plan = t.Pipeline(micro_batches=4)
    cases: dict[str, Callable[[], Any]] = {
        "layers": lambda: t.train(nn.Sequential(nn.Linear(8, 3), nn.ReLU()), data(), LOSS, options(parallel=plan)),
        "name": lambda: plain(None, parallel=t.Pipeline(("9", "2"))),
        "world": lambda: plain(None, parallel=t.Pipeline(("1", "2", "0"))),
        "first": lambda: plain(None, parallel=t.Pipeline(("0", "2"))),
        "micro": lambda: t.train(deep(), data(), LOSS, options(parallel=t.Pipeline(micro_batches=3), batch=16)),
        "few": lambda: plain(None, parallel=t.Pipeline(micro_batches=2)),
        "tied": lambda: t.train(tied, data(), LOSS, options(parallel=t.Pipeline(("1", "2")))),
        "frozen": lambda: t.train(frozen, data(), LOSS, options(parallel=t.Pipeline(("1", "2")))),
        "twice": lambda: t.train(Twice(), data(), LOSS, options(parallel=t.Pipeline(("b", "c")))),
        "branches": lambda: t.train(nn.Sequential(deep(), Branches(3, 3)), data(), LOSS, options(parallel=plan)),
        "forward": lambda: t.train(deep(), data(), LOSS, options(parallel=plan), forward=lambda m, b: (m(b[0]), b[1])),
        "hidden": lambda: t.train(deep(), data(), LOSS, options(parallel=plan), callbacks=[t.Distillation(deep(), hidden={"0": "0"})]),
        "weights": lambda: t.train(deep(), data(), LOSS, options(parallel=plan), callbacks=[Weighs()]),
        "unpruned": lambda: t.train(deep(), data(), LOSS, options(parallel=plan), callbacks=[t.GradualPruning(0.5, layers=("x",))]),
    }  # fmt: skip
    found = {}
    with workers_of(options()):  # one group for all of them
        for name, case in cases.items():
            try:
                case()
            except maas_rt.InvalidArgumentError as error:
                found[name] = str(error)
    return found


STAGES = t.Pipeline(micro_batches=2)
PLAN = {"0": ColwiseParallel(), "2": RowwiseParallel()}
CASES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "ddp": lambda folder: plain(folder),
    "fsdp": lambda folder: plain(folder, parallel="fsdp"),
    "tensor": lambda folder: plain(folder, parallel=PLAN),
    "few": lambda folder: plain(None, batch=101),  # the last batch of an epoch has one sample
    "half": lambda folder: plain(folder, steps=13, epochs=None, schedule="constant", parallel="fsdp"),
    "rest": lambda folder: plain(
        folder.with_name("begun"), steps=30, epochs=None, schedule="constant", parallel="fsdp"
    ),
    "disk": disk,
    "lost": lost,
    "freed_late": freed_late,
    "alone": alone,
    "sparse": sparse,
    "sparse_fsdp": lambda folder: sparse(folder, parallel="fsdp"),
    "combined": lambda folder: told(combined()),
    "combined_fsdp": lambda folder: told(combined("fsdp")),
    "attends": lambda folder: told(attends()),
    "attends_fsdp": lambda folder: told(attends("fsdp")),
    "stages": lambda folder: plain(folder, parallel=STAGES),
    "stages_lost": lambda folder: lost(folder, STAGES),
    "stages_gpipe": lambda folder: plain(None, parallel=t.Pipeline(("2",), micro_batches=4, schedule="gpipe")),
    "stages_half": lambda folder: plain(folder, steps=13, epochs=None, schedule="constant", parallel=STAGES),
    "stages_rest": lambda folder: plain(
        folder.with_name("begun"), steps=30, epochs=None, schedule="constant", parallel=STAGES
    ),
    "stages_sparse": lambda folder: sparse(folder, parallel=STAGES, log=folder.with_suffix(".jsonl")),
    "stages_learned": lambda folder: learned_in_stages(STAGES),
    "staged": staged,
    "words": lambda folder: words(t.Pipeline(("layers.2", "head"), micro_batches=4)),
    "refused": refused,
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


def by_two_processes(folder: Path, *cases: str, world: int = 2) -> Callable[[str], dict[str, Any]]:
    """Runs the cases; the function gives what each came to."""
    said = processes(__file__, folder, world, *cases)

    def found(case: str) -> dict[str, Any]:
        file = folder / f"{case}.json"
        assert file.exists(), said
        return {**json.loads(file.read_text()), "folder": folder / case}

    return found


if __name__ == "__main__":
    for name in sys.argv[3:]:
        forked(Path(sys.argv[1]), int(sys.argv[2]), name)
