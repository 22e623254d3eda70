"""What may take part in a run beside the loss: pruning, distillation, and what a user wants to be told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from ._workers import Workers

__all__ = ["Callback", "Run"]


@dataclass
class Run:
    """A run as a callback sees it, the same in every process but for `workers` and what is sharded.

    `module` is the user's, whose parameters are DTensors where they are sharded. `parameters`: those that this process trains; in a
    pipeline they are its stage's, the module has tensors of the device "meta" in place of the others, and its layers are not called.
    `steps`: how many there will be, None where nobody knows; `average`: the moving average of parameters by name, if there is one;
    `step`, `epoch` and `position` (batches read of the epoch) count what is done.
    """

    module: nn.Module
    parameters: dict[str, nn.Parameter]
    workers: Workers
    steps: int | None
    average: Mapping[str, Tensor] = field(default_factory=dict)
    step: int = 0
    epoch: int = 0
    position: int = 0


class Callback:
    """Does nothing; override what is needed. Every process calls each method at the same time."""

    name = ""  # of what it keeps in a checkpoint; callbacks that keep something have different ones

    def begin(self, run: Run) -> None:
        """Before the first step, the module laid out and, if the run goes on from a checkpoint, before that is read."""

    def parameters(self) -> Mapping[str, nn.Parameter]:
        """Weights of its own that are trained with the module's, alike in every process."""
        return {}

    def state(self) -> Mapping[str, Tensor]:
        """What a checkpoint keeps of it, as tensors that reading fills."""
        return {}

    def restored(self, run: Run) -> None:
        """The module and `state` were read from a checkpoint."""

    def loss(self, run: Run, batch: Any, output: Any, target: Any, loss: Tensor) -> Tensor:
        """What is minimised; `loss` is what the user's function, and the callbacks before, made it. A pipeline's last process alone calls
        it, with each micro-batch."""
        return loss

    def stepped(self, run: Run) -> None:
        """Behind an update of the weights; `run.step` counts it."""

    def told(self, run: Run) -> Mapping[str, Any]:
        """What a line of the log says of it."""
        return {}
