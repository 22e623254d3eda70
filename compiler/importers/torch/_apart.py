"""A program's operators each by itself: what one reads comes from a run of the whole program, not from the operator before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

__all__ = ["IsolatedGraph", "Recorder"]


class Recorder(fx.Interpreter):
    """Runs a graph and keeps each node's value, in `values`."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.values: dict[fx.Node, Any] = {}
        self.extra_traceback = False

    def run_node(self, n: fx.Node) -> Any:
        self.values[n] = super().run_node(n)
        return self.values[n]


class IsolatedGraph(torch.nn.Module):
    """The operators, one beside the other; `read` are the nodes whose tensors it is given, everything else that they read is as
    recorded."""

    def __init__(self, nodes: Sequence[fx.Node], values: Mapping[fx.Node, Any], constant: set[fx.Node]) -> None:
        super().__init__()
        self._nodes = list(nodes)
        self._values = dict(values)
        sources = dict.fromkeys(source for node in nodes for source in node.all_input_nodes)
        self.read = [n for n in sources if n not in constant and isinstance(values[n], torch.Tensor)]

    def __deepcopy__(self, memo: dict[int, Any]) -> IsolatedGraph:
        return self  # nothing of it changes, and a graph's nodes cannot be copied

    def forward(self, *given: torch.Tensor) -> tuple[torch.Tensor, ...]:
        env = {**self._values, **dict(zip(self.read, given))}
        results: list[torch.Tensor] = []
        for node in self._nodes:
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), env.__getitem__)
            assert callable(node.target)
            results += tensors_of(node.target(*args, **kwargs))
        return tuple(results)


def tensors_of(value: Any) -> list[torch.Tensor]:
    """The tensors of an operator's result."""
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, torch.Tensor)]
