"""GPTQ against the paper's own steps, worked out with inverses; and what it gains on a model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from maas_rt.compiler import Recipe, WeightOnly
from maas_rt.compiler import compile as compile_model
from maas_rt.compiler.compression._gptq import gptq
from maas_rt.compiler.compression._grids import Grid, blocks_of, fitted_grid, grouped
from torch import nn

import maas_rt


def correlated(depth: int, count: int, seed: int = 0) -> np.ndarray:
    """X X^T of inputs that go together, some of them large."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((depth, depth // 2)) @ rng.standard_normal((depth // 2, count))
    x = (x + rng.standard_normal((depth, count))) * np.exp(rng.standard_normal((depth, 1)))
    return np.asarray(x @ x.T)


def step_by_step(rows: np.ndarray, hessian: np.ndarray, bits: int, block: int, order: np.ndarray) -> np.ndarray:
    """Equations 2 and 3 of the paper (OBQ's): H_F^-1 of the weights that are left, by elimination."""
    inverse = np.linalg.inv(hessian + 0.01 * np.diag(hessian).mean() * np.eye(len(hessian)))
    weights, done = rows.astype(np.float64).copy(), np.zeros(rows.shape)
    fixed = fitted_grid(grouped(rows, block), bits, True, "mse")
    in_order = np.array_equal(order, np.arange(len(order)))
    for at, k in enumerate(order):
        if in_order and k % block == 0:
            grid = fitted_grid(weights[:, k : k + block].astype(np.float32)[:, None], bits, True, "mse")
            own = Grid(grid.scale[:, 0], grid.zero[:, 0], grid.levels)
        elif not in_order:
            own = Grid(fixed.scale[:, k // block], fixed.zero[:, k // block], fixed.levels)
        done[:, k] = own.dequantize(own.quantize(weights[:, k, None]))[:, 0]
        left = order[at:]
        weights[:, left] -= np.outer((weights[:, k] - done[:, k]) / inverse[k, k], inverse[k, left])
        inverse = inverse - np.outer(inverse[:, k], inverse[k]) / inverse[k, k]
    return done


@pytest.mark.parametrize(("depth", "group"), [(48, None), (48, 16), (300, 40), (50, 16)])
@pytest.mark.parametrize("act_order", [False, True])
def test_it_is_the_papers_steps(depth: int, group: int | None, act_order: bool) -> None:
    rows = np.random.default_rng(1).standard_normal((6, depth)).astype(np.float32)
    hessian = correlated(depth, 4 * depth)
    found, damping = gptq(rows, hessian, 4, group, True, act_order)
    order = np.argsort(-np.diag(hessian), kind="stable") if act_order else np.arange(depth)
    want = step_by_step(rows, hessian, 4, group or depth, order)
    assert damping == 0.01
    # A number that lies between two steps may be rounded the other way, which all behind it then answer to.
    same = np.isclose(found.floats(), want, atol=1e-5).all(axis=1)
    assert same.sum() >= 5, np.abs(found.floats() - want).max(axis=1)


def loss(found: Any, rows: np.ndarray, hessian: np.ndarray) -> float:
    difference = found.floats() - rows
    return float(np.einsum("nk,kj,nj->", difference, hessian, difference))


@pytest.mark.parametrize("symmetric", [True, False])
def test_outputs_lose_at_most_a_third_of_what_rounding_loses(symmetric: bool) -> None:
    rows = np.random.default_rng(2).standard_normal((32, 192)).astype(np.float32)
    hessian = correlated(192, 1000, 3)
    rounded = loss(blocks_of(rows, 4, 32, symmetric, "rtn"), rows, hessian)
    for act_order in (False, True):
        assert loss(gptq(rows, hessian, 4, 32, symmetric, act_order)[0], rows, hessian) < rounded / 3


def test_damping_rises_until_the_hessian_can_be_factored() -> None:
    rows = np.random.default_rng(4).standard_normal((3, 16)).astype(np.float32)
    x = np.random.default_rng(5).standard_normal((16, 2))
    found, damping = gptq(rows, x @ x.T - 0.05 * np.trace(x @ x.T) / 16 * np.eye(16), 4, None, True, False)
    assert damping == pytest.approx(0.1) and np.isfinite(found.floats()).all()
    assert gptq(rows, x @ x.T, 4, None, True, False)[1] == 0.01  # of few samples: singular, but not indefinite


def test_inputs_that_are_always_0_are_rounded_to_nearest() -> None:
    rows = np.random.default_rng(6).standard_normal((4, 32)).astype(np.float32)
    hessian = correlated(32, 100)
    hessian[5] = hessian[:, 5] = 0
    found = gptq(rows, hessian, 4, None, True, False)[0].floats()
    grid = fitted_grid(grouped(rows, None), 4, True, "mse")
    np.testing.assert_allclose(found[:, 5], grid.dequantize(grid.quantize(rows[:, None]))[:, 0, 5], atol=1e-6)
    nothing = gptq(rows, np.zeros((32, 32)), 4, 16, True, False)[0]
    np.testing.assert_allclose(nothing.floats(), blocks_of(rows, 4, 16, True, "mse").floats(), atol=1e-6)


@pytest.mark.parametrize("symmetric", [True, False])
def test_pruned_weights_stay_0_and_the_others_make_up_for_them(symmetric: bool) -> None:
    rows = np.random.default_rng(8).standard_normal((16, 96)).astype(np.float32)
    rows[:, 1::2] = 0
    hessian = correlated(96, 400)
    found = gptq(rows, hessian, 4, 32, symmetric, False)[0]
    assert (found.floats()[:, 1::2] == 0).all()
    assert loss(found, rows, hessian) < loss(blocks_of(rows, 4, 32, symmetric, "mse"), rows, hessian)


# ---- on a model


class Net(nn.Module):
    """Two products that read the same, one behind them, and a head that is tied to the table."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(60, 64)
        self.gate, self.up, self.down = nn.Linear(64, 128), nn.Linear(64, 128), nn.Linear(128, 64)
        self.head = nn.Linear(64, 60, bias=False)
        self.head.weight = self.table.weight
        with torch.no_grad():  # directions that go together, as those of trained tables do
            self.table.weight.copy_(torch.randn(60, 12) @ torch.randn(12, 64) + 0.3 * torch.randn(60, 64))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.table(ids)
        return self.head(x + self.down(torch.relu(self.gate(x)) * self.up(x)))


DATA = np.random.default_rng(7).integers(0, 60, (24, 1, 16))


def compiled(method: WeightOnly, data: Any = DATA) -> Any:
    recipe = Recipe(quantize=method, calibration=data)
    return compile_model(Net().eval(), [torch.from_numpy(DATA[0])], recipe=recipe)


def test_a_model_loses_less_and_says_what_it_is() -> None:
    found = {m: compiled(WeightOnly(method=m)) for m in ("rtn", "gptq")}
    lost = {m: 10 ** (-a.manifest["verified"]["signal_to_error_db"]["output_0"] / 10) for m, a in found.items()}
    assert lost["gptq"] < 0.7 * lost["rtn"]
    (told,) = found["gptq"].manifest["recipe"]["quantize"]["methods"]
    assert (told["method"], len(told["names"])) == ("gptq", 5)
    assert found["gptq"].manifest["recipe"]["quantize"]["calibration_inputs"] == 24
    assert found["gptq"].manifest["recipe"]["quantize"]["notes"] == []


def test_fewer_rows_than_inputs_are_told() -> None:
    (note,) = compiled(WeightOnly(method="gptq", act_order=True), DATA[:5]).manifest["recipe"]["quantize"]["notes"]
    assert "than they have inputs: 1, most of all linear" in note
    assert "80 rows, 128 inputs" in note and "give more samples" in note


def test_what_it_needs_is_asked_for() -> None:
    with pytest.raises(maas_rt.InvalidArgumentError, match="the recipe has no calibration data"):
        compiled(WeightOnly(method="gptq"), None)
    with pytest.raises(maas_rt.InvalidArgumentError, match="act_order is for the method gptq"):
        WeightOnly(method="mse", act_order=True)
