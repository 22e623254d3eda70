"""Where a module may be cut into stages of about the same work, each for a process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from maas_rt._errors import InvalidArgumentError

__all__ = ["balanced_split", "cut"]


@dataclass
class _Layer:
    name: str
    module: nn.Module
    trained: int = 0  # parameters of its own that are trained; those of layers inside of it, which may begin a stage, too, are theirs
    calls: int = 0
    before: int = 0  # operations of the module up to its call


def balanced_split(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], stages: int) -> tuple[str, ...]:
    """The layers that begin the second to the last stage, so that the stage with the most work has as little as can be.

    Work is floating-point operations of products and convolutions on the example, as torch counts them, and one more for each trained
    parameter, which the optimizer moves. Stages begin with layers that are called once, none of them inside of an item of a chain.
    """
    layers, operations = _called(module, args, kwargs)
    behind = [*(layer.before for layer in layers[1:]), operations]
    work = [after - layer.before + layer.trained for layer, after in zip(layers, behind, strict=True)]
    if sum(each > 0 for each in work) < stages:
        names = ", ".join(layer.name for layer, each in zip(layers, work, strict=True) if each > 0)
        raise InvalidArgumentError(
            f"Pipeline: {stages} processes are a stage each, but the module has no more layers to divide among them than {names or 'itself'}: start fewer, or name in `split` where stages begin"
        )
    return tuple(layers[first].name for first in cut(work, stages)[1:])


def cut(work: Sequence[float], stages: int) -> tuple[int, ...]:
    """The first items of `stages` groups of neighbours, all with some work, whose largest sum is the least that there is; the earlier
    cuts where several do as well. At least `stages` items have work."""
    sums = [0.0, *accumulate(work)]

    @cache
    def best(end: int, groups: int) -> tuple[float, tuple[int, ...]]:
        """Of the items before `end`: the largest sum, and where the groups begin."""
        if groups == 1:
            return sums[end] or float("inf"), (0,)
        ways = []
        for first in range(1, end):
            most, begins = best(first, groups - 1)
            ways.append((max(most, sums[end] - sums[first] or float("inf")), (*begins, first)))
        return min(ways, default=(float("inf"), (0,) * groups))

    return best(len(work), stages)[1]


def _called(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[list[_Layer], int]:
    """The layers that may begin a stage, in the order of their calls, and the operations of the whole module."""
    layers = {place: _Layer(name, place) for name, place in _places(module, "", item=False)}
    counted: set[nn.Parameter] = set()
    for layer in reversed(layers.values()):
        own = {each for each in layer.module.parameters() if each.requires_grad} - counted
        layer.trained, counted = sum(each.numel() for each in own), counted | own
    counter, order = FlopCounterMode(display=False), list[_Layer]()

    def seen(place: nn.Module, _: Any) -> None:
        layer = layers[place]
        layer.calls, layer.before = layer.calls + 1, counter.get_total_flops()
        order.append(layer)

    hooks = [place.register_forward_pre_hook(seen) for place in layers]
    was_training = module.training
    try:
        module.eval()  # statistics stay, and nothing is drawn
        with torch.no_grad(), counter:
            module(*args, **kwargs)
    finally:
        module.train(was_training)
        for hook in hooks:
            hook.remove()
    return [layer for layer in order if layer.calls == 1], counter.get_total_flops()


def _places(module: nn.Module, prefix: str, *, item: bool) -> Iterator[tuple[str, nn.Module]]:
    """Layers between which a stage may begin: not those inside of an item of a chain, which is a block of its own."""
    chain = isinstance(module, nn.Sequential | nn.ModuleList)
    if item and not chain:
        return
    for name, child in module.named_children():
        yield prefix + name, child
        yield from _places(child, f"{prefix}{name}.", item=chain)
