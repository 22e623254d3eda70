"""Mixed precision: the few layers whose 8 bits cost the outputs most go back to float.

As in NNCF's accuracy-aware quantization and HAWQ (Z. Dong et al., "HAWQ: Hessian AWare Quantization of Neural Networks with Mixed-Precision",
2019) layers go by what they cost and by how much work they are; here the cost is measured whole: the error of the outputs of the quantized
model without a layer's 8 bits. Errors of layers do not simply add up: what the first ones round away, no later layer has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tvm import relax

from ._absorb import Graph
from ._measure import decibels

__all__ = ["Cost", "Return", "candidates", "returns"]

Array = npt.NDArray[np.float64]
Group = frozenset[relax.Var]
# By trial, the layers in float: the relative squared error of the outputs, [parts of the samples, trials], of which the mean is that of all.
Errors = Callable[[Sequence[Group]], Array]

ENOUGH = 35.0  # dB of the outputs: such a model is left as it is
_GAIN = 1.0  # dB that a return must bring,
_GAIN_OF_WORK = 50.0  # dB for all of the work: half of one for each percent,
_DEVIATIONS = 2.0  # and standard errors of it: a number that is rounded another way moves all that are behind it
_AT_INPUTS, _SENSITIVE = 8, 4  # layers that are tried
_LONGEST = 3  # layers behind one another, returned together


@dataclass(frozen=True)
class Cost:
    """Of a layer: shares of the multiply-adds and of the weights of all that 8 bits are for, and the relative squared error of its own results."""

    work: float
    weights: float
    error: float

    @property
    def share(self) -> float:
        return max(self.work, self.weights)


@dataclass(frozen=True)
class Return:
    """Layers that went back to float together; signal to error of the outputs in dB before and after; shares as of Cost."""

    layers: tuple[relax.Var, ...]
    before: float
    after: float
    work: float
    weights: float


class Order:
    """Which of the layers feed each of them, with none of them between."""

    def __init__(self, graph: Graph, layers: Sequence[relax.Var]) -> None:
        chosen, empty = set(layers), Group()
        nearest: dict[relax.Var, Group] = {}
        self.before: dict[relax.Var, Group] = {}
        for var in graph.definitions:
            behind = empty.union(*(nearest.get(each, empty) for each in graph.reads(var)))
            if var in chosen:
                self.before[var], behind = behind, frozenset([var])
            nearest[var] = behind

    def starts(self, floats: Group) -> list[relax.Var]:
        """Layers that read nothing but inputs and layers of `floats`."""
        return [var for var, before in self.before.items() if var not in floats and before <= floats]


def candidates(order: Order, costs: Mapping[relax.Var, Cost], share: float) -> list[relax.Var]:
    """The layers to try, in the model's order: those nearest to the inputs, as many as the share holds, and those of the largest errors."""
    fitting = [var for var in order.before if var in costs and costs[var].share <= share]
    near: list[relax.Var] = []
    for var in fitting:
        if len(near) < _AT_INPUTS and order.before[var] <= set(near) and _fits([*near, var], costs, share):
            near.append(var)
    worst = sorted(fitting, key=lambda var: -costs[var].error)[:_SENSITIVE]
    return [var for var in fitting if var in {*near, *worst}]


def returns(
    order: Order, tried: Sequence[relax.Var], costs: Mapping[relax.Var, Cost], share: float, errors: Errors
) -> list[Return]:
    """What goes back to float, one after the other: each time the layers that gain most for their share, until nothing gains or the outputs
    have ENOUGH."""
    floats = Group()
    now = errors([floats])[:, 0]
    found: list[Return] = []
    while np.isfinite(now).all() and _decibels(now.mean()) < ENOUGH:
        groups = [g for g in _groups(order, tried, floats) if _fits([*floats, *g], costs, share)]
        if not groups:
            break
        after = errors([floats | group for group in groups])
        gains, deviations = _gains(now, after)
        shares = [sum(costs[var].share for var in group) for group in groups]
        worth = [
            (gain / max(each, 1e-9), -i)
            for i, (gain, each) in enumerate(zip(gains, shares))
            if gain >= max(_GAIN, _GAIN_OF_WORK * each, _DEVIATIONS * deviations[i])
        ]
        if not worth:
            break
        best = -max(worth)[1]
        group = groups[best]
        layers = tuple(var for var in order.before if var in group)
        work, weights = (sum(getattr(costs[var], name) for var in layers) for name in ("work", "weights"))
        found.append(Return(layers, decibels(now.mean()), decibels(after[:, best].mean()), work, weights))
        floats, now = floats | group, after[:, best]
    return found


def _gains(before: Array, after: Array) -> tuple[Array, Array]:
    """In dB, of each trial, and their standard errors by the jackknife (B. Efron, 1982) over parts of the samples; one part is taken at its word."""

    def gains(without: int | None) -> Array:
        left = [i for i in range(len(before)) if i != without]
        return _decibels(after[left].mean(axis=0)) - _decibels(before[left].mean())

    count = len(before)
    if count == 1:
        return gains(None), np.zeros(after.shape[1])
    return gains(None), np.sqrt(count - 1) * np.std([gains(i) for i in range(count)], axis=0)


def _groups(order: Order, tried: Sequence[relax.Var], floats: Group) -> Iterator[Group]:
    """Layers by themselves; and from those on that read what is in float already, with what comes behind them."""
    left = [var for var in tried if var not in floats]
    yield from (frozenset([var]) for var in left)
    for start in order.starts(floats):
        group = frozenset([start])
        while start in left and len(group) < _LONGEST:
            behind = [
                var
                for var in left
                if var not in group and order.before[var] <= floats | group and order.before[var] & group
            ]
            if not behind:
                break
            group |= {behind[0]}
            yield group


def _fits(layers: Sequence[relax.Var], costs: Mapping[relax.Var, Cost], share: float) -> bool:
    return all(sum(getattr(costs[var], name) for var in layers) <= share for name in ("work", "weights"))


def _decibels(error: Array | float) -> Array:
    with np.errstate(invalid="ignore"):
        return np.asarray(-10 * np.log10(np.maximum(error, 1e-30)))
