"""Functions of torch that make a number of a dynamic size when torch.export traces them, and pools: any size that was asked for runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from maas_rt.compiler import compile
from torch import nn

import maas_rt
from tests.compiler._imported_oracle import Functions

SIZES = (1, 2, 3, 5, 6, 8, 13)


class Lengths(Functions):
    def forward(self, x: torch.Tensor) -> dict[str, Any]:  # type: ignore[override]
        return super().forward(x)


def check(module: nn.Module, drawn: Callable[[int], torch.Tensor], axis: int, name: str = "x") -> None:
    model = maas_rt.load(compile(module, (drawn(3),), dynamic={name: {axis: (1, 16)}}, verify=False))
    for size in SIZES:
        found = model.run({name: drawn(size).numpy()})
        wanted = torch.utils._pytree.tree_leaves(module(drawn(size)))
        for (output, got), want in zip(found.items(), wanted, strict=True):
            assert got.shape == want.shape, (output, size)
            np.testing.assert_allclose(got, want.detach().numpy(), rtol=1e-5, atol=1e-6, err_msg=f"{output} at {size}")


def padded(x: torch.Tensor) -> torch.Tensor:
    return F.pad(x.transpose(1, 2), (0, 5))


def test_pools() -> None:
    def ceil(kernel: int, stride: int, padding: int) -> Callable[[torch.Tensor], Any]:
        return lambda x: (
            F.max_pool1d(padded(x), kernel, stride, padding, ceil_mode=True),
            F.max_pool2d(padded(x)[:, None], (2, kernel), (1, stride), (0, padding), ceil_mode=True),
            F.avg_pool1d(padded(x), kernel, stride, padding, True, True),
            F.avg_pool2d(padded(x)[:, None], (1, kernel), (1, stride), (0, padding), True, False),
            F.avg_pool2d(padded(x)[:, None], (1, kernel), (1, stride), (0, padding), True, True, 3),
        )

    cases: dict[str, Callable[..., Any]] = {
        "ceil_321": ceil(3, 2, 1),
        "ceil_220": ceil(2, 2, 0),
        "ceil_231": ceil(2, 3, 1),  # the last window is left out where it would begin behind the input
        "plain": lambda x: F.max_pool1d(padded(x), 3, 2, 1, 2),
        "positions": lambda x: F.max_pool1d(padded(x), 3, 2, 1, ceil_mode=True, return_indices=True),
        "adaptive": lambda x: (F.adaptive_avg_pool1d(padded(x), 4), F.adaptive_max_pool1d(padded(x), 3)),
        "adaptive_2d": lambda x: (F.adaptive_avg_pool2d(x, (2, 3)), F.adaptive_max_pool2d(x, (7, 2)), F.adaptive_avg_pool2d(x, (3, None))),
    }  # fmt: skip
    check(Lengths(cases), lambda n: torch.randn(2, n, 4, generator=torch.Generator().manual_seed(n)), 1)


def test_made_of_sizes() -> None:
    cases: dict[str, Callable[..., Any]] = {
        "linspace": lambda x: (
            torch.linspace(0.5, x.shape[1] - 0.5, x.shape[1]),
            torch.linspace(-1, 1, steps=2 * x.shape[1], dtype=torch.float64),
            torch.linspace(0, 1, 7),
        ),
        "eye": lambda x: (torch.eye(x.shape[1]), torch.eye(3, x.shape[1], dtype=torch.int64)),
        "diagonal": lambda x: (x @ x.mT).diagonal(dim1=1, dim2=2),
        "trace": lambda x: torch.einsum("bii->b", x @ x.mT),
    }
    check(Lengths(cases), lambda n: torch.randn(2, n, 4, generator=torch.Generator().manual_seed(n)), 1)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_recurrent_layers_over_any_number_of_steps(kind: Any) -> None:
    torch.manual_seed(0)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))

    layer = kind(5, 4, num_layers=2, bidirectional=True, batch_first=True).eval()
    check(layer, lambda n: drawn(2, n, 5), 1, "input")
    layer = kind(5, 4, bias=False).eval()
    check(layer, lambda n: drawn(n, 2, 5), 0, "input")
    check(layer, lambda n: drawn(n, 5), 0, "input")

    class Carried(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: torch.Tensor) -> Any:
            h = x[0].unsqueeze(0)[..., :4]
            return self.layer(x, (h, h * 2) if kind is nn.LSTM else h)

    check(Carried().eval(), lambda n: drawn(n, 2, 5), 0)
