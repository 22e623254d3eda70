"""A program cut at its quantized tensors: each is a result, and what reads it reads one that is given; and a program whose quantizations are
given something a little off."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx

from ._drawn import SharedRun

__all__ = ["Between", "Shaken", "cuts_of", "is_plain", "operators_behind", "quantizes"]

_BYTES = (torch.int8, torch.uint8)
_ROUNDS = ("quantized_decomposed.quantize_", "aten.round.", "aten.fake_quantize_", "aten._fake_quantize_")


def quantizes(graph: fx.Graph) -> bool:
    return any(_rounds(node) for node in graph.nodes)


def _rounds(node: fx.Node) -> bool:
    return node.op == "call_function" and str(node.target).startswith(_ROUNDS)


class Shaken(SharedRun):
    """Runs a graph; whatever is rounded in it is moved by up to this share before."""

    def __init__(self, module: fx.GraphModule, numbers: Mapping[fx.Node, int], share: float, trial: int) -> None:
        super().__init__(module, numbers)
        self._share = share
        self._generator = torch.Generator().manual_seed(trial)

    def run_node(self, n: fx.Node) -> Any:
        if not _rounds(n):
            return super().run_node(n)
        (x, *rest), kwargs = self.fetch_args_kwargs_from_env(n)
        noise = torch.rand(x.shape, generator=self._generator, dtype=torch.float64) * 2 - 1
        assert callable(n.target)
        return n.target((x * (1 + self._share * noise)).to(x.dtype), *rest, **kwargs)


def cuts_of(values: Mapping[fx.Node, Any], constant: set[fx.Node]) -> list[fx.Node]:
    """The nodes that make numbers of 8 bits of others, or round floats to as many values."""
    found, known = [], set(constant)
    for node, value in values.items():
        sources = node.all_input_nodes
        if node.op != "call_function":
            continue
        if all(source in known for source in sources):
            known.add(node)
        elif isinstance(value, torch.Tensor):
            new = value.dtype in _BYTES and not any(_is_bytes(values[source]) for source in sources)
            if new or (_rounds(node) and "fake_quantize" in str(node.target)):
                found.append(node)
    return found


def _is_bytes(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.dtype in _BYTES


def is_plain(graph: fx.Graph) -> bool:
    """Whether it consists of operators alone, without graphs in it."""
    calls = [node for node in graph.nodes if node.op == "call_function"]
    return not any(isinstance(node.target, torch._ops.HigherOrderOperator) for node in calls)


class Between(torch.nn.Module):
    """A graph that is given the values of `inputs` and, for whatever reads them, of `cuts`; its results are those of the cuts, then `outputs`."""

    def __init__(
        self,
        graph: fx.Graph,
        values: Mapping[fx.Node, Any],
        inputs: Sequence[fx.Node],
        cuts: Sequence[fx.Node],
        outputs: Sequence[fx.Node],
    ) -> None:
        super().__init__()
        self._nodes = [node for node in graph.nodes if node.op == "call_function"]
        self._values = {n: v for n, v in values.items() if n.op in ("placeholder", "get_attr")}
        self._inputs, self._cuts, self._outputs = list(inputs), list(cuts), list(outputs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Between:
        return self  # nothing of it changes, and a graph's nodes cannot be copied

    def forward(self, *given: torch.Tensor) -> tuple[torch.Tensor, ...]:
        env = {**self._values, **dict(zip(self._inputs, given))}
        after = dict(zip(self._cuts, given[len(self._inputs) :]))
        results: dict[fx.Node, torch.Tensor] = {}
        for node in self._nodes:
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), env.__getitem__)
            assert callable(node.target)
            results[node] = node.target(*args, **kwargs)
            env[node] = after.get(node, results[node])
        return tuple(results.get(node, env[node]) for node in (*self._cuts, *self._outputs))


def operators_behind(result: fx.Node, cuts: Sequence[fx.Node]) -> list[fx.Node]:
    """The operators between the nodes that are cut at and this result, in the program's order."""
    found, wanted = [], {result}
    for node in reversed(list(result.graph.nodes)):
        if node in wanted and node.op == "call_function":
            wanted.update(source for source in node.all_input_nodes if source not in cuts)
            found.append(node)
    return [node for node in reversed(found) if node.target is not operator.getitem]
