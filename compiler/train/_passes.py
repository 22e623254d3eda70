"""How a batch goes through the module and back: whole in each process, or from stage to stage."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from maas_rt._errors import InvalidArgumentError

from ._batches import Forward, Part, inputs_and_target, rows, samples_of
from ._callbacks import Callback, Run
from ._options import Pipeline
from ._stages import Stages
from ._workers import Workers

__all__ = ["Objective", "Passes", "Staged", "Whole"]


class Objective:
    """What is minimised: the user's loss, as callbacks change it where there are gradients."""

    def __init__(self, loss: Callable[[Any, Any], Tensor], callbacks: Sequence[Callback], run: Run) -> None:
        self._loss, self._callbacks, self._run = loss, callbacks, run

    def __call__(self, batch: Any, output: Any, target: Any) -> tuple[Tensor, Tensor | None]:
        """The loss of a batch, and its accuracy where that means something."""
        value = self._loss(output, target)
        if not isinstance(value, Tensor) or value.numel() != 1:
            kind = f"a tensor of shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise InvalidArgumentError(f"loss returned {kind}, expected a scalar tensor: the mean over the samples")
        value = value.reshape(())
        for callback in self._callbacks if torch.is_grad_enabled() else ():
            value = callback.loss(self._run, batch, output, target, value)
        return value, _accuracy(output, target)


class Passes(ABC):
    """Of a run's batches. What is told is the mean over the samples of all processes."""

    def __init__(self, objective: Objective, workers: Workers, *, bf16: bool) -> None:
        self._objective, self._workers, self._bf16 = objective, workers, bf16
        self._sums = torch.zeros(3)  # loss, accuracy, and of how much of the batch that is

    def learn(self, parts: Sequence[Part]) -> tuple[float, float | None]:
        """Gradients of a step; its loss and accuracy."""
        self._sums = torch.zeros(3, dtype=torch.float64, device=self._workers.device)
        for number, part in enumerate(parts):
            self._learn(self._moved(part), last=number + 1 == len(parts))
        loss, accuracy, counted = self._workers.total(self._sums).tolist()
        return loss, accuracy if counted else None

    @torch.no_grad()
    def judge(self, batches: Iterable[list[Part]]) -> dict[str, float]:
        """Loss, and accuracy if there is one, of batches that are one part each; nothing of no batches."""
        self._sums = torch.zeros(3, dtype=torch.float64, device=self._workers.device)
        samples = 0
        for (part,) in batches:
            moved = self._moved(part)
            self._judge(Part(moved.batch, part.weight * part.samples, part.samples))
            samples += part.samples
        loss, accuracy, counted = self._workers.total(self._sums).tolist()
        if not samples:
            return {}
        return {"loss": loss / samples, **({"accuracy": accuracy / samples} if counted else {})}

    @abstractmethod
    def _learn(self, part: Part, *, last: bool) -> None: ...

    @abstractmethod
    def _judge(self, part: Part) -> None: ...

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self._workers.device.type, torch.bfloat16, enabled=self._bf16)

    def _add(self, value: Tensor, accuracy: Tensor | None, weight: float) -> None:
        one = value.detach().double()
        other = accuracy.double() if accuracy is not None else torch.zeros_like(one)
        self._sums += torch.stack([one, other, torch.full_like(one, accuracy is not None)]) * weight

    def _moved(self, part: Part) -> Part:
        device = self._workers.device
        batch = tree_map(lambda value: value.to(device) if isinstance(value, Tensor) else value, part.batch)
        return Part(batch, part.weight, part.samples)


class Whole(Passes):
    """Through a module that this process can call, wrapped or sharded as it may be."""

    def __init__(self, placed: nn.Module, forward: Forward, objective: Objective, workers: Workers, *, bf16: bool) -> None:  # fmt: skip
        super().__init__(objective, workers, bf16=bf16)
        self._placed, self._forward = placed, forward

    def _learn(self, part: Part, *, last: bool) -> None:
        with self._workers.part_of_step(self._placed, last):
            value = self._computed(part)
            (value * (part.weight * self._workers.shares)).backward()

    def _judge(self, part: Part) -> None:
        self._computed(part)

    def _computed(self, part: Part) -> Tensor:
        with self._autocast():
            output, target = self._forward(self._placed, part.batch)
            value, accuracy = self._objective(part.batch, output, target)
        self._add(value, accuracy, part.weight)
        return value


class Staged(Passes):
    """Through the stages of a pipeline, in micro-batches."""

    def __init__(self, stages: Stages, plan: Pipeline, run: Run, objective: Objective, workers: Workers, *, bf16: bool) -> None:  # fmt: skip
        super().__init__(objective, workers, bf16=bf16)
        self._stages, self._plan, self._run = stages, plan, run

    def _learn(self, part: Part, *, last: bool) -> None:
        samples = samples_of(part.batch)
        if samples % self._plan.micro_batches and self._run.position == 0:
            raise InvalidArgumentError(
                f"Pipeline: {samples} samples go through at a time, which {self._plan.micro_batches} micro_batches do not divide: choose a batch (over `accumulate`) that is a multiple"
            )
        self._through(part)

    def _judge(self, part: Part) -> None:
        self._through(part)

    def _through(self, part: Part) -> None:
        samples = samples_of(part.batch)
        parts = self._plan.micro_batches if samples % self._plan.micro_batches == 0 else 1
        args, kwargs, _ = inputs_and_target(part.batch)

        def loss(output: Any, number: int) -> Tensor:
            wide = samples // parts
            batch = rows(part.batch, slice(number * wide, (number + 1) * wide))
            with self._autocast():
                value, accuracy = self._objective(batch, output, inputs_and_target(batch)[2])
            self._add(value, accuracy, part.weight / parts)
            return value * (part.weight / parts)

        self._stages.run(args, kwargs, parts, loss)


def _accuracy(output: Any, target: Any) -> Tensor | None:
    """The share of classes [N, ...] that the scores [N, classes, ...] have highest."""
    if not (isinstance(output, Tensor) and isinstance(target, Tensor)) or target.dtype not in (
        torch.int64,
        torch.int32,
    ):
        return None
    if output.ndim != target.ndim + 1 or output.shape[:1] + output.shape[2:] != target.shape:
        return None
    return (output.detach().argmax(1) == target).float().mean()
