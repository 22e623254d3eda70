"""Weights that become zero while a network learns to do without them, and stay zero.

M. Zhu and S. Gupta, "To Prune, or Not to Prune" (2017): the share of zeros rises from s_i to s_f by s_f + (s_i - s_f) (1 - t)^3, t from 0 at
the first step of the schedule to 1 at its last, and each time the weights of least magnitude go. A weight that is gone stays so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from maas_rt._errors import InvalidArgumentError

from ._callbacks import Callback, Run
from ._workers import like, local, whole

__all__ = ["GradualPruning", "least"]


class GradualPruning(Callback):
    """A callback of `train`: prunes the weights of linear layers and convolutions, each layer to the same share of zeros.

    Args:
        sparsity: the share of zeros at the end, 0 to below 1.
        pattern: "unstructured"; "block", in blocks of `block`; or "N:M", as "2:4": of each M neighbouring inputs of an output N stay.
        block: outputs × inputs of a block: 4 × 1 for layers that stay in float, 4 × 4 for those on 8 bits.
        initial: the share at the beginning.
        begin, end: the schedule's first and last step; None: the end of the first tenth, and of the first two thirds of the run.
        every: steps from one pruning to the next.
        layers: patterns (fnmatch) of the names of layers that are pruned; `skip`, of those that are not.

    Masks are alike in every process, are kept in checkpoints, hold for a moving average of the weights too, and reach the compiler as zeros.
    Under "N:M" the schedule says how many of the M go, so that `sparsity` is 1 - N/M.
    """

    name = "pruning"

    def __init__(
        self, sparsity: float | None = None, pattern: str = "unstructured", *, block: tuple[int, int] = (4, 1), initial: float = 0.0,
        begin: int | None = None, end: int | None = None, every: int = 10, layers: tuple[str, ...] = ("*",), skip: tuple[str, ...] = (),
    ) -> None:  # fmt: skip
        kept_of = re.fullmatch(r"([1-9]\d?):([1-9]\d?)", pattern)
        if pattern not in ("unstructured", "block") and (kept_of is None or int(kept_of[1]) >= int(kept_of[2])):
            raise InvalidArgumentError(
                f"GradualPruning: pattern is {pattern!r}, expected unstructured, block or N:M with N below M, as 2:4"
            )
        exact = 1 - int(kept_of[1]) / int(kept_of[2]) if kept_of else None
        share = exact if sparsity is None and exact is not None else sparsity
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share < 1:
            raise InvalidArgumentError(
                f"GradualPruning: sparsity is {share!r}, expected a share of 0 or more and below 1"
            )
        if exact is not None and abs(share - exact) > 1e-6:
            raise InvalidArgumentError(
                f"GradualPruning: sparsity is {share!r}, and {pattern} is one of {exact:g}: give that, or another pattern"
            )
        if not 0 <= initial <= share:
            raise InvalidArgumentError(
                f"GradualPruning: initial is {initial!r}, expected a share of 0 to the sparsity, {share:g}"
            )
        if every < 1 or min(block) < 1:
            raise InvalidArgumentError(
                f"GradualPruning: every is {every!r} and block {block!r}, expected numbers of at least 1"
            )
        self.sparsity, self.initial, self.every = float(share), float(initial), every
        self._begin, self._end, self._names, self._skip = begin, end, layers, skip
        if kept_of:
            self._group, self._kept = (1, int(kept_of[2])), int(kept_of[1])
        else:
            self._group, self._kept = block if pattern == "block" else (1, 1), 0
        self._masks: dict[str, Tensor] = {}  # 1 where a weight stays, laid out as the weight

    def at(self, step: int) -> float:
        """The share of zeros behind `step` steps."""
        first, last = self._range
        if step < first:
            return 0.0
        done = min(1.0, (step - first) / max(last - first, 1))
        return self.sparsity + (self.initial - self.sparsity) * (1 - done) ** 3

    def begin(self, run: Run) -> None:
        if (self._begin is None or self._end is None) and run.steps is None:
            raise InvalidArgumentError("GradualPruning: nobody knows how many steps the run has: give begin and end")
        steps = run.steps or 0
        first = self._begin if self._begin is not None else steps // 10
        last = self._end if self._end is not None else max(2 * steps // 3, first, 1)
        if not 0 <= first <= last or last < 1 or (run.steps is not None and last > run.steps):
            raise InvalidArgumentError(
                f"GradualPruning: begin is {first} and end {last}, expected steps in this order in a run of {run.steps}, the last at least 1"
            )
        self._range = (first, last)
        self._masks = {name: torch.ones_like(run.parameters[name].detach()) for name in self._chosen(run)}
        if not run.workers.over_stages(torch.tensor(len(self._masks))):
            raise InvalidArgumentError(
                "GradualPruning: no layer is pruned, expected linear layers or convolutions that `layers` names and `skip` does not"
            )

    def _chosen(self, run: Run) -> list[str]:
        found = []
        for name, layer in run.module.named_modules():
            if not isinstance(layer, nn.Linear | nn.modules.conv._ConvNd) or f"{name}.weight" not in run.parameters:
                continue
            named = any(fnmatchcase(name, each) for each in self._names)
            if named and not any(fnmatchcase(name, each) for each in self._skip):
                self._check_width(name, run.parameters[f"{name}.weight"])
                found.append(f"{name}.weight")
        return found

    def _check_width(self, name: str, weight: Tensor) -> None:
        if self._kept and weight[0].numel() % self._group[1]:
            raise InvalidArgumentError(
                f"GradualPruning: {name} has {weight[0].numel()} inputs for each output, no multiple of {self._group[1]}: skip it, or take another pattern"
            )

    def state(self) -> Mapping[str, Tensor]:
        return self._masks

    def restored(self, run: Run) -> None:
        self._hold(run)

    @torch.no_grad()
    def stepped(self, run: Run) -> None:
        first, last = self._range
        if first <= run.step <= last and ((run.step - first) % self.every == 0 or run.step == last):
            for name, mask in self._masks.items():
                self._prune(run.parameters[name], mask, self.at(run.step))
        self._hold(run)

    def _prune(self, weight: Tensor, mask: Tensor, share: float) -> None:
        """Makes `mask` one with that share of zeros, of which those that it has are a part."""
        magnitude = whole(weight).detach().abs() * whole(mask)
        kept = least(magnitude, share, self._group, self._kept)
        local(mask).copy_(local(like(kept.to(mask.dtype), mask)))

    @torch.no_grad()
    def _hold(self, run: Run) -> None:
        for name, mask in self._masks.items():
            local(run.parameters[name]).mul_(local(mask))
            if name in run.average:
                local(run.average[name]).mul_(local(mask))

    @torch.no_grad()
    def told(self, run: Run) -> Mapping[str, Any]:
        zeros = sum(float((whole(mask) == 0).sum()) for mask in self._masks.values())
        weights = sum(mask.numel() for mask in self._masks.values())
        zeros, weights = run.workers.over_stages(torch.tensor([zeros, weights], dtype=torch.float64)).tolist()
        return {"sparsity": zeros / weights}


def least(magnitude: Tensor, share: float, group: tuple[int, int], kept: int = 0) -> Tensor:
    """Where weights stay, as bools of the shape of `magnitude` [outputs, ...], when those of least magnitude go.

    In groups of outputs × inputs (the other axes together, as they lie in memory), which go by the sum of their squares; a group at an
    edge may be smaller, and counts by its mean. With `kept`, of a group's weights, N:M, at least that many stay and `share` of them go,
    rounded.
    """
    matrix = magnitude.flatten(1)
    outputs, inputs = matrix.shape
    high, wide = group
    if kept:
        rows = matrix.reshape(outputs, inputs // wide, wide)
        gone = min(round(share * wide), wide - kept)
        order = rows.argsort(dim=-1, stable=True)
        return torch.ones_like(rows, dtype=torch.bool).scatter_(-1, order[..., :gone], False).reshape(magnitude.shape)
    down, across = -(-outputs // high), -(-inputs // wide)
    padded = nn.functional.pad(matrix.square(), (0, across * wide - inputs, 0, down * high - outputs))
    sums = padded.reshape(down, high, across, wide).sum((1, 3))
    sizes = nn.functional.pad(torch.ones_like(matrix), (0, across * wide - inputs, 0, down * high - outputs))
    scores = sums / sizes.reshape(down, high, across, wide).sum((1, 3))
    order = scores.flatten().argsort(stable=True)
    stay = torch.ones(order.numel(), dtype=torch.bool, device=order.device)
    stay[order[: round(share * order.numel())]] = False
    blocks = stay.reshape(down, 1, across, 1).expand(down, high, across, wide)
    return blocks.reshape(down * high, across * wide)[:outputs, :inputs].reshape(magnitude.shape)
