"""Sorting, picking and running sums along an axis, against torch; NaN, ties and sizes around a power of two."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from maas_rt.compiler import compile

import maas_rt


class Ordered(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> Any:
        largest, where = torch.topk(x, 4, 1)
        values, order = torch.sort(x, stable=True, dim=-1)
        return (
            largest,
            where,
            values,
            order,
            torch.argsort(x, dim=1, descending=True, stable=True),
            torch.cumsum(x, 1),
            torch.cumprod(x, -1),
            torch.topk(x, 2, -1, largest=False)[0],
        )


@pytest.fixture(scope="module")
def program() -> Any:
    return maas_rt.load(compile(Ordered(), (torch.randn(3, 17, 9),), dynamic={"x": {0: (1, 9), 1: (4, 70)}}))


@pytest.mark.parametrize("length", [4, 15, 16, 17, 64, 65])
def test_against_torch(program: Any, length: int) -> None:
    x = torch.randn(2, length, 9, generator=torch.Generator().manual_seed(length))
    for got, want in zip(program.run({"x": x.numpy()}).values(), Ordered()(x)):
        np.testing.assert_allclose(got, want.numpy(), rtol=1e-4, atol=1e-5)


def test_nan_is_the_largest_and_equal_values_keep_their_order(program: Any) -> None:
    x = torch.randn(1, 20, 9)
    x[0, 3, :4] = torch.nan
    x[0, :, 2] = x[0, 0, 2]
    got = list(program.run({"x": x.numpy()}).values())
    want = [each.numpy() for each in Ordered()(x)]
    for index in (0, 2, 3, 4, 7):
        np.testing.assert_array_equal(got[index], want[index])
