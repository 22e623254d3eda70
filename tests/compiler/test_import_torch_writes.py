"""Activations that work in place: kept whole where nobody sees the write, and right where somebody does."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from maas_rt.compiler import compile
from maas_rt.compiler.importers.torch._decompose import decompose

import maas_rt
from tests.compiler._imported_oracle import compare, import_functions


def silu_of_what_is_seen(x: torch.Tensor) -> torch.Tensor:
    y = x * 2
    z = F.silu(y, inplace=True)
    return y + z  # (y is z)


def relu_through_a_view(x: torch.Tensor) -> torch.Tensor:
    y = x + 1
    flat = y.flatten()
    F.relu_(flat)
    return y


def several_in_a_row(x: torch.Tensor) -> torch.Tensor:
    y = F.hardtanh_(F.leaky_relu_(x - 0.5, 0.3), -1.0, 0.4)
    y.add_(x).mul_(y)
    return y


def views_in_place(x: torch.Tensor) -> torch.Tensor:
    y = x * 3
    y.transpose_(0, 1)
    return F.silu(y.unsqueeze_(0), inplace=True)


def test_writes() -> None:
    functions = (silu_of_what_is_seen, relu_through_a_view, several_in_a_row, views_in_place)
    model = import_functions(
        {f.__name__: f for f in functions}, (torch.linspace(-2, 2, 24).reshape(4, 6),), {"inputs": ({0: (1, 8)},)}
    )
    assert compare(model) == {}


def test_activations_in_place_stay_whole() -> None:
    class Chain(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.hardswish(F.silu(F.hardtanh(x + 1, inplace=True), inplace=True), inplace=True)

    program = torch.export.export(Chain(), (torch.randn(2, 3),), strict=False)
    before = [str(node.target) for node in program.graph.nodes]
    names = [str(node.target) for node in decompose(program).graph.nodes if node.op == "call_function"]
    assert names == ["aten.add.Tensor", "aten.hardtanh.default", "aten.silu.default", "aten.hardswish.default"]
    assert [str(node.target) for node in program.graph.nodes] == before
    assert "aten.silu_.default" in before


class Counting(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.tensor(0))
        self.register_buffer("mean", torch.zeros(3, dtype=torch.float16))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        self.seen += 1
        self.mean.mul_(0.5).add_(x.half())
        return x - self.mean, self.seen, self.mean[1:]


def test_a_buffer_that_is_given_back_is_as_the_run_leaves_it() -> None:
    model = maas_rt.load(compile(Counting(), torch.ones(3)))  # verified
    state, x = model.state(), np.ones(3, np.float32)
    for seen, mean in ((1, 1.0), (2, 1.5)):
        given = list(model.run({"x": x}, state=state).values())
        assert given[1] == seen and (given[2] == mean).all() and (given[0] == 1 - mean).all()
