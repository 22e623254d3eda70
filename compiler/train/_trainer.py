"""The loop: batches to gradients to weights, the same for one process and for many."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from maas_rt._errors import Error, InvalidArgumentError

from ._batches import Batches, Forward, Part, split_batch
from ._callbacks import Callback, Run
from ._checkpoints import Checkpoints, Kept, as_bytes, from_bytes
from ._log import Log
from ._optimizers import Average, clip_gradients, make_optimizer, make_schedule, settings, use_settings
from ._options import Pipeline, TrainOptions
from ._passes import Objective, Passes, Staged, Whole
from ._workers import Workers, workers_of

__all__ = ["TrainResult", "train"]

# Options that a run which goes on may have otherwise than the one that began; its length only where no schedule follows from it.
_MAY_CHANGE = ("parallel", "every", "keep", "resume", "log_every", "timeout", "version")


@dataclass(frozen=True)
class TrainResult:
    """What a run came to.

    `state`: the trained weights by name, whole, on the CPU, in the first process; empty in the others. With `ema` they are the average,
    as in `module`, the caller's own, whose parameters stay sharded where the run sharded them. `checkpoint`: a folder with these weights
    that `maas-rt compile` reads; None where options name none. `loss` is that of the last step; `validation` has `loss` and, of classes,
    `accuracy`.
    """

    module: nn.Module
    step: int
    epoch: int
    loss: float
    validation: Mapping[str, float] = field(default_factory=dict)
    state: Mapping[str, Tensor] = field(default_factory=dict)
    checkpoint: Path | None = None
    log: Path | None = None


def train(
    module: nn.Module,
    data: Any,
    loss: Callable[[Any, Any], Tensor],
    options: TrainOptions,
    *,
    validation: Any = None,
    forward: Forward = split_batch,
    callbacks: Sequence[Callback] = (),
) -> TrainResult:
    """Train `module`, in this process or in all that torchrun started.

    Args:
        module: its weights are changed in place; every process begins with the first one's.
        data: a DataLoader, whose batch size is that of a step over all processes; a dataset or tensors with samples along the first
            axis, which are shuffled; or any iterable of batches that begins anew for each epoch. A batch is (inputs..., target).
        loss: (output, target) -> a scalar, the mean over the samples.
        options: a TrainOptions.
        validation: data whose loss and accuracy are told after each epoch.
        forward: (module, batch) -> (output, target), for batches of another form.
        callbacks: what takes part in the run: pruning, distillation, what you want to be told.

    Raises:
        InvalidArgumentError: an option, the data or a batch is not as it should be.
        CheckpointError: the folder's last checkpoint is of another model, or damaged.
        Error: the loss is not finite, a checkpoint cannot be written, or another process was lost.
    """
    if not isinstance(module, nn.Module):
        raise InvalidArgumentError(f"the module is a {type(module).__name__}, expected a torch.nn.Module")
    if not isinstance(options, TrainOptions):
        raise InvalidArgumentError(f"the options are a {type(options).__name__}, expected a TrainOptions")
    if not callable(loss):
        raise InvalidArgumentError(f"the loss is a {type(loss).__name__}, expected a function (output, target) -> loss")
    for callback in callbacks:
        if not isinstance(callback, Callback):
            raise InvalidArgumentError(
                f"a callback is a {type(callback).__name__}, expected a Callback, whose methods are those of the run"
            )
    with workers_of(options) as workers:
        trainer = _Trainer(module, data, loss, options, validation, forward, callbacks, workers)
        try:
            result = trainer.run()
            workers.wait()  # no process takes its group apart while another is behind
            return result
        except BaseException as error:
            trainer.stop()
            if isinstance(error, RuntimeError) and not isinstance(error, Error) and _lost(error):
                raise Error(trainer.lost(error)) from error
            raise


class _Trainer:
    def __init__(
        self,
        module: nn.Module,
        data: Any,
        loss: Callable[[Any, Any], Tensor],
        options: TrainOptions,
        validation: Any,
        forward: Forward,
        callbacks: Sequence[Callback],
        workers: Workers,
    ) -> None:
        self._options, self._loss, self._callbacks, self._workers = options, loss, callbacks, workers
        self._batches = Batches(data, options.batch, options.seed)
        self._validation = Batches(validation, options.batch, options.seed, shuffle=False) if validation is not None else None  # fmt: skip
        self._placed = workers.place(module, lambda: self._batches.example(options.accumulate))
        _seed(options.seed + (workers.share if workers.stages is None else workers.rank))
        parameters = workers.parameters(module)
        self._run = Run(module, parameters, workers, self._steps_in_all())
        for callback in callbacks:
            callback.begin(self._run)
        self._passes = self._through(forward)
        self._extra = {f"{c.name}:{name}": p for c in callbacks for name, p in c.parameters().items()}
        if workers.stages is not None and self._extra:
            raise InvalidArgumentError(
                f"the callback {type(callbacks[0]).__name__} has weights of its own, which a pipeline does not train: train with 'ddp' or 'fsdp'"
            )
        self._check_names()
        self._trained = {**parameters, **self._extra}
        self._optimizer = make_optimizer(self._trained, options, module)
        self._schedule = make_schedule(self._optimizer, options, self._run.steps)
        self._average = Average(parameters, options.ema) if options.ema is not None else None
        if self._average is not None:
            self._run.average = self._average.values
        self._checkpoints = Checkpoints(options.checkpoint, options.keep, workers) if options.checkpoint is not None else None  # fmt: skip
        self._last_loss = float("nan")
        self._measured: dict[str, float] = {}
        self._saved: int | None = None

    def run(self) -> TrainResult:
        """Trains to the end."""
        self._resume()
        log = self._log_path()
        self._log = Log(log if self._workers.first else None, self._run.step)
        self._log.write(event="start", step=self._run.step, workers=self._workers.world, **self._options.described)
        self._since, self._samples = time.perf_counter(), 0
        while not self._done():
            self._epoch()
        if self._checkpoints is not None and self._saved != self._run.step:
            self._save()
        if self._checkpoints is not None:
            self._checkpoints.end()
        self._log.close()
        return self._result(log)

    def stop(self) -> None:
        """After an error or Ctrl-C: what one process was writing is still completed; of several, others may be lost."""
        if self._checkpoints is not None and self._workers.world == 1:
            with suppress(Exception):
                self._checkpoints.end()

    def lost(self, error: BaseException) -> str:
        """The sentence for a process that does not answer."""
        again = f"run it again, under `torchrun --max-restarts` it does so by itself, to go on from the last checkpoint in {self._options.checkpoint}"
        if self._options.checkpoint is None:
            again = "give TrainOptions a checkpoint folder, so that a run can go on where it was, and run it again"
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1].partition(". ")[0]
        return f"another of the {self._workers.world} processes was lost behind step {self._run.step} ({reason}): {again}"  # fmt: skip

    # ---- steps

    def _steps_in_all(self) -> int | None:
        if self._options.steps is not None:
            return self._options.steps
        assert self._options.epochs is not None
        try:
            length = len(self._batches)
        except TypeError:
            return None
        if not length:
            raise InvalidArgumentError("the data is empty, expected at least one batch to train on")
        return length * self._options.epochs

    def _done(self) -> bool:
        if self._options.steps is not None:
            return self._run.step >= self._options.steps
        return self._run.epoch >= (self._options.epochs or 0)

    def _epoch(self) -> None:
        run, workers = self._run, self._workers
        most = None if self._options.steps is None else self._options.steps - run.step
        begun = run.position
        self._placed.train()
        parts = self._batches.epoch(run.epoch, begun, most, workers.share, workers.shares, self._options.accumulate)
        for step in parts:
            self._step(step)
            if self._options.every is not None and run.step % self._options.every == 0:
                self._save()
        if run.position == 0:
            raise InvalidArgumentError("the data is empty, expected at least one batch to train on")
        if self._options.steps is None or not self._done():
            run.epoch, run.position = run.epoch + 1, 0
        if self._validation is not None:
            self._measured = self._evaluate(self._validation)
            told = {f"validation_{name}": value for name, value in self._measured.items()}
            self._log.write(event="validation", step=run.step, epoch=run.epoch, **told)
        if self._options.every is None and self._checkpoints is not None:
            self._save()

    def _check_names(self) -> None:
        """Two callbacks that keep something under one name would overwrite each other in a checkpoint."""
        taken: set[str] = set()
        for callback in self._callbacks:
            own = {f"{callback.name}: {name}" for name in (*callback.state(), *callback.parameters())}
            if own & taken:
                raise InvalidArgumentError(
                    f"two callbacks keep {min(own & taken).partition(': ')[2]} under the name {callback.name!r}: give them different names, or let each have its own layers"
                )
            taken |= own

    def _through(self, forward: Forward) -> Passes:
        """How batches go through the module."""
        objective, workers, bf16 = Objective(self._loss, self._callbacks, self._run), self._workers, self._options.bf16
        if workers.stages is None:
            return Whole(self._placed, forward, objective, workers, bf16=bf16)
        if forward is not split_batch:
            raise InvalidArgumentError(
                "forward is given, and a pipeline calls the module's stages itself: let a batch be (inputs..., target), or train with 'ddp' or 'fsdp'"
            )
        plan = self._options.parallel
        assert isinstance(plan, Pipeline)
        return Staged(workers.stages, plan, self._run, objective, workers, bf16=bf16)

    def _step(self, parts: Sequence[Part]) -> None:
        run = self._run
        self._optimizer.zero_grad()
        self._last_loss, accuracy = self._passes.learn(parts)
        if not np.isfinite(self._last_loss):
            raise Error(self._not_finite())
        self._workers.mean_gradients(list(self._extra.values()))
        if self._options.clip is not None:
            clip_gradients(self._trained.values(), self._options.clip, self._workers)
        rate = self._optimizer.param_groups[0]["lr"]
        self._optimizer.step()
        self._schedule.step()
        run.step, run.position = run.step + 1, run.position + 1
        if self._average is not None:
            self._average.update()
        for callback in self._callbacks:
            callback.stepped(run)
        self._samples += parts[0].samples
        if run.step % self._options.log_every == 0:
            self._tell(rate, accuracy)

    def _not_finite(self) -> str:
        run = self._run
        kept = self._checkpoints.latest() if self._checkpoints is not None else None
        last = f"; the last checkpoint, of step {kept}, is from before" if kept is not None else ""
        return (
            f"the loss is {self._last_loss} in step {run.step + 1} (batch {run.position + 1} of epoch {run.epoch + 1}), and the weights were not changed by it{last}: "
            "lower lr, give warmup or clip, or look for values in the data that are not finite"
        )

    def _tell(self, rate: float, accuracy: float | None) -> None:
        now = time.perf_counter()
        told: dict[str, Any] = {}
        for callback in self._callbacks:
            told.update(callback.told(self._run))
        told = self._workers.told_by_stages(told)
        self._log.write(
            step=self._run.step, epoch=self._run.epoch, loss=self._last_loss, accuracy=accuracy, lr=rate,
            samples_per_second=round(self._samples / (now - self._since), 3), **told,
        )  # fmt: skip
        self._since, self._samples = now, 0

    def _evaluate(self, batches: Batches) -> dict[str, float]:
        self._workers.average_statistics(self._run.module)
        self._placed.eval()
        measured = self._passes.judge(batches.epoch(0, 0, None, self._workers.share, self._workers.shares, 1))
        if not measured:
            raise InvalidArgumentError("the validation data is empty, expected at least one batch")
        return measured

    # ---- checkpoints

    def _weights(self) -> dict[str, Tensor]:
        found = self._workers.state(self._run.module)
        odd = [name for name, value in found.items() if not isinstance(value, Tensor)]
        if odd:
            raise InvalidArgumentError(
                f"{odd[0]} of the module's state is no tensor, and a checkpoint keeps tensors alone: make it a buffer"
            )
        return found

    def _state(self) -> dict[str, Tensor]:
        """All that a run needs to go on, but for the optimizer's and this process's random numbers."""
        state = {f"model.{name}": value for name, value in self._weights().items()}
        state |= {f"extra.{name}": value.detach() for name, value in self._extra.items()}
        state |= {f"callback.{c.name}.{name}": value for c in self._callbacks for name, value in c.state().items()}
        if self._average is not None:
            state |= {f"ema.{name}": value for name, value in self._average.values.items()}
        return state

    def _save(self) -> None:
        assert self._checkpoints is not None
        self._workers.average_statistics(self._run.module)
        state = self._state()
        for name, parameter in self._trained.items():
            for key, value in self._optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor):
                    state[f"optimizer.{name}.{key}"] = value
        run = self._run
        progress = {
            "step": run.step, "epoch": run.epoch, "position": run.position, "loss": self._last_loss,
            "settings": settings(self._optimizer, self._schedule), "options": self._options.described,
        }  # fmt: skip
        state["run.progress"] = as_bytes(progress)
        state[f"random.{self._workers.rank}"] = as_bytes(_random_state())
        self._checkpoints.begin(run.step, state)
        self._saved = run.step

    def _resume(self) -> None:
        last = self._checkpoints.latest() if self._checkpoints is not None else None
        if last is None or self._checkpoints is None:
            return
        if not self._options.resume:
            raise InvalidArgumentError(
                f"{self._checkpoints.folder} has a checkpoint of step {last} and resume is False: choose another folder, or remove what is in this one"
            )
        kept = self._checkpoints.read(last)
        progress = kept.value("run.progress")
        self._check_options(progress["options"])
        state = self._state()
        kept.check(self._shapes(state), ("model.", "ema.", "extra."))
        self._fill_optimizer(kept, state)
        kept.fill(state)
        use_settings(self._optimizer, self._schedule, progress["settings"])
        self._run.step, self._run.epoch, self._run.position = (progress[k] for k in ("step", "epoch", "position"))
        self._last_loss, self._saved = progress["loss"], self._run.step
        if f"random.{self._workers.rank}" in kept.tensors:
            _use_random_state(kept.value(f"random.{self._workers.rank}"))
        else:  # more processes than there were
            _seed(hash((self._options.seed, self._workers.rank, self._run.step)) % (1 << 31))
        for callback in self._callbacks:
            callback.restored(self._run)

    def _shapes(self, state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
        """Of what a checkpoint has, by name: `state`, and in a pipeline what other stages have of the same kinds."""
        shapes = {f"model.{name}": value.shape for name, value in self._run.module.state_dict().items()}
        if self._average is not None:
            shapes |= {f"ema.{name}": value.shape for name, value in self._run.module.named_parameters()}
        return shapes | {name: value.shape for name, value in state.items()}

    def _fill_optimizer(self, kept: Kept, state: dict[str, Tensor]) -> None:
        """Makes the optimizer's tensors as the checkpoint has them, to be read with `state`."""
        for full in kept.tensors:
            if not full.startswith("optimizer."):
                continue
            name, _, key = full.removeprefix("optimizer.").rpartition(".")
            if name not in self._trained:
                if name in dict(self._run.module.named_parameters()):  # another stage's
                    continue
                raise kept.misfit([full], [])
            parameter = self._trained[name]
            made = kept.filled_like(full, parameter.detach())
            self._optimizer.state[parameter][key] = made
            state[full] = made

    def _check_options(self, kept: Mapping[str, Any]) -> None:
        now = from_bytes(as_bytes(self._options.described))
        free = (*_MAY_CHANGE, "epochs", "steps") if self._options.schedule == "constant" else _MAY_CHANGE
        for name, value in kept.items():
            if name not in free and now.get(name) != value:
                raise InvalidArgumentError(
                    f"TrainOptions: {name} is {now.get(name)!r}, but the run in {self._options.checkpoint} that it goes on with has {value!r}: give the same, or another folder"
                )

    def _result(self, log: Path | None) -> TrainResult:
        if self._average is not None:
            self._average.put_in_place()
        self._workers.average_statistics(self._run.module)
        weights = self._weights()
        folder = self._checkpoints.save_result("result", weights) if self._checkpoints is not None else None
        state = self._workers.whole_state(weights)
        run = self._run
        return TrainResult(run.module, run.step, run.epoch, self._last_loss, self._measured, state, folder, log)

    def _log_path(self) -> Path | None:
        if self._options.log is not None:
            return Path(self._options.log)
        return self._checkpoints.folder / "log.jsonl" if self._checkpoints is not None else None


def _lost(error: RuntimeError) -> bool:
    """Whether a collective failed: gloo has no class of its own for that."""
    text = str(error).lower()
    return isinstance(error, dist.DistError) or "gloo" in text or "nccl" in text or "connection" in text


def _seed(seed: int) -> None:
    torch.manual_seed(seed)
    np.random.seed(seed % (1 << 32))
    random.seed(seed)


def _random_state() -> dict[str, Any]:
    name, keys, *rest = np.random.get_state()
    return {
        "torch": torch.get_rng_state().tolist(),
        "numpy": [name, np.asarray(keys).tolist(), *rest],
        "python": random.getstate(),
        "cuda": torch.cuda.get_rng_state().tolist() if torch.cuda.is_available() else None,
    }


def _use_random_state(state: Mapping[str, Any]) -> None:
    torch.set_rng_state(torch.tensor(state["torch"], dtype=torch.uint8))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, np.uint32), *rest))
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(torch.tensor(state["cuda"], dtype=torch.uint8))
