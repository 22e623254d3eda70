"""torch's optimizers and schedules by the names that options have for them, clipping, and an average of the weights."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import lr_scheduler
from torch.optim.swa_utils import get_ema_multi_avg_fn

from maas_rt._errors import InvalidArgumentError

from ._options import TrainOptions
from ._workers import Workers, local

__all__ = ["Average", "clip_gradients", "make_optimizer", "make_schedule", "settings", "use_settings"]


def make_optimizer(
    parameters: dict[str, nn.Parameter], options: TrainOptions, module: nn.Module
) -> torch.optim.Optimizer:
    """Two groups: weights, and what has no weight decay. One that would be empty is left out, unless other stages of `module` have it."""
    trained = [each for each in parameters.values() if each.requires_grad]
    if not trained:
        raise InvalidArgumentError(
            "the module has no parameter that is trained: set requires_grad of those that are to be"
        )
    groups: list[dict[str, Any]] = [
        {"params": [each for each in trained if each.ndim > 1], "weight_decay": options.weight_decay},
        {"params": [each for each in trained if each.ndim <= 1], "weight_decay": 0.0},
    ]
    anywhere = {each.ndim > 1 for each in (*trained, *module.parameters()) if each.requires_grad}
    groups = [group for group, wide in zip(groups, (True, False), strict=True) if wide in anywhere]
    if not isinstance(options.optimizer, str):
        return options.optimizer(groups)
    lr = options.lr
    if options.optimizer == "sgd":
        return torch.optim.SGD(groups, lr, momentum=options.momentum)
    if options.optimizer == "rmsprop":
        return torch.optim.RMSprop(groups, lr, momentum=options.momentum)
    if options.optimizer == "adagrad":
        return torch.optim.Adagrad(groups, lr)
    # Tensor-parallel plans leave some weights plain: torch's operators over lists take no mixture.
    mixed = len({isinstance(each, DTensor) for each in trained}) > 1
    kind = torch.optim.Adam if options.optimizer == "adam" else torch.optim.AdamW
    return kind(groups, lr, betas=options.betas, foreach=False if mixed else None)


def make_schedule(
    optimizer: torch.optim.Optimizer, options: TrainOptions, steps: int | None
) -> lr_scheduler.LRScheduler:
    """Over `steps` in all; None: nobody knows how many, which only a constant rate allows."""
    if options.schedule == "constant":
        behind: lr_scheduler.LRScheduler = lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    elif steps is None:
        raise InvalidArgumentError(
            f"TrainOptions: the schedule {options.schedule!r} needs to know how long the run is, and the data has no length: give steps"
        )
    else:
        left = max(steps - options.warmup, 1)
        if options.schedule == "linear":
            behind = lr_scheduler.LinearLR(optimizer, 1.0, 0.0, left)
        elif options.schedule == "cosine":
            behind = lr_scheduler.CosineAnnealingLR(optimizer, left)
        else:
            behind = lr_scheduler.OneCycleLR(optimizer, options.lr, total_steps=left)
    if not options.warmup:
        return behind
    rising = lr_scheduler.LinearLR(optimizer, 0.01, 1.0, options.warmup)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own use of a deprecated argument
        return lr_scheduler.SequentialLR(optimizer, [rising, behind], [options.warmup])


def settings(optimizer: torch.optim.Optimizer, schedule: lr_scheduler.LRScheduler) -> str:
    """The numbers of both that change while they run, as JSON."""
    groups = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    try:
        return json.dumps({"groups": groups, "schedule": schedule.state_dict()}, sort_keys=True)
    except TypeError as error:
        raise InvalidArgumentError(f"the optimizer's settings cannot be kept in a checkpoint: {error}") from None


def use_settings(optimizer: torch.optim.Optimizer, schedule: lr_scheduler.LRScheduler, kept: str) -> None:
    found = json.loads(kept)
    for group, values in zip(optimizer.param_groups, found["groups"], strict=True):
        group.update({key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})
    schedule.load_state_dict(found["schedule"])


def clip_gradients(parameters: Iterable[nn.Parameter], largest: float, workers: Workers) -> None:
    """Scales all gradients, of all stages, so that their norm together is at most `largest`; sharded and whole ones may be mixed."""
    gradients = [each.grad for each in parameters if each.grad is not None]
    norms = [torch.linalg.vector_norm(each) for each in gradients]
    squares = [(norm.full_tensor() if isinstance(norm, DTensor) else norm).square() for norm in norms]
    norm = workers.over_stages(torch.stack(squares).sum()).sqrt()
    factor = (largest / (norm + 1e-6)).clamp(max=1.0)
    torch._foreach_mul_([local(each) for each in gradients], factor)


class Average:
    """An exponential moving average of parameters: torch.optim.swa_utils' update, on each process's own shards."""

    def __init__(self, parameters: dict[str, nn.Parameter], decay: float) -> None:
        self.values: dict[str, Tensor] = {name: each.detach().clone() for name, each in parameters.items()}
        self._of = parameters
        self._update = get_ema_multi_avg_fn(decay)

    @torch.no_grad()
    def update(self) -> None:
        kept = [local(each) for each in self.values.values()]
        self._update(kept, [local(self._of[name]) for name in self.values], 1)

    @torch.no_grad()
    def put_in_place(self) -> None:
        """The parameters become the average."""
        for name, value in self.values.items():
            local(self._of[name]).copy_(local(value))
