"""What a user chooses of a training run: one frozen, versioned dataclass."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from maas_rt._errors import InvalidArgumentError

__all__ = ["OPTIMIZERS", "PARALLEL", "PIPELINES", "SCHEDULES", "Pipeline", "TrainOptions"]

OPTIMIZERS = ("sgd", "adam", "adamw", "rmsprop", "adagrad")
SCHEDULES = ("constant", "linear", "cosine", "one-cycle")
PARALLEL = ("none", "ddp", "fsdp")
PIPELINES = ("1f1b", "gpipe")


@dataclass(frozen=True)
class Pipeline:
    """A stage of the module in each process, as torch.distributed.pipelining divides and runs it.

    Args:
        split: names of the layers that begin the second to the last stage; None: where the work divides evenly, by operations counted
            on the first batch and by parameters.
        micro_batches: parts of equal size that go through the stages one behind the other. They divide the batch (of a step, or of an
            accumulated part); a later, smaller batch of an epoch that they do not divide goes through at once.
        schedule: "1f1b" (PipeDream-flush: a stage keeps what as many micro-batches computed as stages follow) or "gpipe" (all of them;
            Huang et al. 2019).
    """

    split: tuple[str, ...] | None = None
    micro_batches: int = 4
    schedule: str = "1f1b"

    def __post_init__(self) -> None:
        if self.schedule not in PIPELINES:
            raise InvalidArgumentError(
                f"Pipeline: schedule is {self.schedule!r}, expected one of {', '.join(PIPELINES)}"
            )
        count = self.micro_batches
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise InvalidArgumentError(f"Pipeline: micro_batches is {count!r}, expected a whole number of at least 1")
        names = self.split
        if names is not None and (isinstance(names, str) or not all(isinstance(n, str) and n for n in names)):
            raise InvalidArgumentError(f"Pipeline: split is {names!r}, expected names of layers, as ('blocks.4',)")
        if names is not None and len(set(names)) < len(names):
            raise InvalidArgumentError(f"Pipeline: split is {names!r}, expected each name once")


@dataclass(frozen=True)
class TrainOptions:
    """How `train` trains.

    Args:
        optimizer: "sgd", "adam", "adamw", "rmsprop" or "adagrad", or a function of parameter groups that returns a torch.optim.Optimizer.
        lr: the learning rate; of "one-cycle", its peak.
        weight_decay: of weights with two axes or more; biases, norms and learned scales have none.
        momentum: of "sgd" and "rmsprop".
        betas: of "adam" and "adamw".
        schedule: "constant", "linear" (to zero), "cosine" (to zero) or "one-cycle" (Smith and Topin 2018), over all steps behind `warmup`.
        warmup: steps in which the rate rises linearly from a hundredth.
        epochs, steps: how long; one of them. A step is one update of the weights.
        batch: samples of a step where data is a dataset, over all processes and accumulated parts; a DataLoader's own batch size is that.
        accumulate: parts in which a process computes its share of a step, one after the other.
        clip: the largest norm of all gradients together.
        bf16: computes in bfloat16 where torch.autocast holds it to be safe; weights and their updates stay float32.
        ema: the decay of an exponential moving average of the weights, as 0.999; it is what the run results in.
        seed: every random number follows from it: order of the data, dropout, and what each process draws for itself.
        parallel: where torchrun started several processes: "ddp" (each holds the weights), "fsdp" (each holds a shard, FSDP2), a
            tensor-parallel plan as torch.distributed.tensor.parallel.parallelize_module takes it, {"blocks.*.up": ColwiseParallel()}, or
            a Pipeline (each holds some of the layers). "none" is for one process.
        checkpoint: a folder for checkpoints, the log and the result.
        every: steps from one checkpoint to the next; None: one at the end of each epoch.
        keep: how many of the last checkpoints stay.
        resume: goes on from the folder's last checkpoint if there is one; False: a folder with checkpoints is refused.
        log: a file of JSON lines; None: `log.jsonl` in the folder of checkpoints, where there is one.
        log_every: steps from one line of the log to the next.
        timeout: seconds after which a process that does not answer is given up.
    """

    optimizer: str | Callable[[Iterable[Any]], torch.optim.Optimizer] = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.01
    momentum: float = 0.9
    betas: tuple[float, float] = (0.9, 0.999)
    schedule: str = "constant"
    warmup: int = 0
    epochs: int | None = None
    steps: int | None = None
    batch: int = 32
    accumulate: int = 1
    clip: float | None = None
    bf16: bool = False
    ema: float | None = None
    seed: int = 0
    parallel: str | Mapping[str, Any] | Pipeline = "ddp"
    checkpoint: str | Path | None = None
    every: int | None = None
    keep: int = 2
    resume: bool = True
    log: str | Path | None = None
    log_every: int = 1
    timeout: float = 600.0
    version: int = 1

    def __post_init__(self) -> None:
        if self.version != 1:
            raise InvalidArgumentError(
                f"TrainOptions: version is {self.version!r}, expected 1: install a newer maas_rt for later ones"
            )
        if isinstance(self.optimizer, str):
            _one_of("optimizer", self.optimizer, OPTIMIZERS)
        _one_of("schedule", self.schedule, SCHEDULES)
        if not isinstance(self.parallel, Mapping | Pipeline):
            _one_of("parallel", self.parallel, PARALLEL)
        if (self.epochs is None) == (self.steps is None):
            raise InvalidArgumentError("TrainOptions: give either epochs or steps, to say how long to train")
        for name in ("epochs", "steps", "batch", "accumulate", "every", "keep", "log_every"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise InvalidArgumentError(f"TrainOptions: {name} is {value!r}, expected a whole number of at least 1")
        if isinstance(self.warmup, bool) or not isinstance(self.warmup, int) or self.warmup < 0:
            raise InvalidArgumentError(f"TrainOptions: warmup is {self.warmup!r}, expected a whole number of steps")
        if len(self.betas) != 2 or not all(0 <= each < 1 for each in self.betas):
            raise InvalidArgumentError(f"TrainOptions: betas is {self.betas!r}, expected two numbers of 0 to below 1")
        for name in ("lr", "weight_decay", "momentum"):
            _number(name, getattr(self, name), lambda v: v >= 0, "a number of at least 0")
        for name in ("clip", "timeout"):
            if getattr(self, name) is not None:
                _number(name, getattr(self, name), lambda v: v > 0, "a number above 0")
        if self.ema is not None:
            _number("ema", self.ema, lambda v: 0 < v < 1, "a decay between 0 and 1, as 0.999")
        if self.every is not None and self.checkpoint is None:
            raise InvalidArgumentError(
                f"TrainOptions: every is {self.every} but there is no checkpoint, the folder to write to"
            )

    @property
    def described(self) -> dict[str, Any]:
        """As JSON, for the log: without places on this machine."""
        found: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in ("checkpoint", "log"):
                continue
            if isinstance(value, Mapping):
                value = {key: type(style).__name__ for key, style in value.items()}
            elif isinstance(value, Pipeline):
                value = asdict(value)
            elif callable(value):
                value = getattr(value, "__name__", type(value).__name__)
            found[field.name] = value
        return found


def _one_of(name: str, value: object, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InvalidArgumentError(f"TrainOptions: {name} is {value!r}, expected one of {', '.join(known)}")


def _number(name: str, value: Any, fits: Callable[[float], bool], expected: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or not fits(value):
        raise InvalidArgumentError(f"TrainOptions: {name} is {value!r}, expected {expected}")
