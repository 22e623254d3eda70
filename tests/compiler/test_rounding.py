"""Rounding of 8-bit weights by what a layer reads: GPTQ and AdaRound against their definitions, and what they are worth."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from maas_rt.compiler import Int8, Recipe
from maas_rt.compiler.compression._grid import quantized_weights, weight_scales
from maas_rt.compiler.compression._observe import Observer
from maas_rt.compiler.compression._rounding import adaround, gptq8, squared_error
from torch import nn

import maas_rt
from maas_rt import compiler

F32 = np.float32


def layer(outputs: int, depth: int, rank: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights, the Hessian of inputs that mostly lie in `rank` directions, and scales."""
    rng = np.random.default_rng(depth)
    x = rng.standard_normal((depth, rank)) @ rng.standard_normal((rank, 40 * depth))
    x += 0.3 * rng.standard_normal(x.shape)
    weights = rng.standard_normal((outputs, depth)).astype(F32)
    return weights, x @ x.T, weight_scales(weights, 1)


def test_adaptive_rounding_finds_the_best_of_all_ways() -> None:
    """Of 2^8 for each output; by M. Nagel et al., equation 21, each weight goes up or down."""
    weights, hessian, scale = layer(16, 8, 3)
    q = adaround(weights, hessian, scale)
    floor = np.floor(weights / scale)
    assert set(np.unique(q - floor)) <= {0, 1}
    ways = np.array(list(itertools.product((0, 1), repeat=8)))
    best = np.array(
        [squared_error(np.tile(w, (len(ways), 1)), hessian, np.clip(f + ways, -127, 127).astype(np.int8), s[None]).min()
         for w, f, s in zip(weights, floor, scale)]
    )  # fmt: skip
    nearest = squared_error(weights, hessian, quantized_weights(weights, scale), scale)
    found = squared_error(weights, hessian, q, scale)
    assert (found >= best * (1 - 1e-9)).all()
    assert best.sum() < nearest.sum() / 4 and nearest.sum() - found.sum() > 0.8 * (nearest.sum() - best.sum())


def test_gptq_on_given_steps_is_that_of_the_paper() -> None:
    """One input after the other, the inverse Hessian of those that are left by Gaussian elimination (E. Frantar et al., equation 3)."""
    weights, hessian, scale = layer(5, 12, 4)
    inverse = np.linalg.inv(hessian + 0.01 * np.diag(hessian).mean() * np.eye(12))
    left, want = weights.astype(np.float64), np.zeros((5, 12))
    for k in range(12):
        want[:, k] = np.clip(np.rint(left[:, k] / scale[:, 0]), -127, 127)
        error = (left[:, k] - want[:, k] * scale[:, 0]) / inverse[k, k]
        left -= np.outer(error, inverse[k])
        inverse = inverse - np.outer(inverse[:, k], inverse[k]) / inverse[k, k]
    np.testing.assert_array_equal(gptq8(weights, hessian, scale), want)


@pytest.mark.parametrize("method", [adaround, gptq8])
def test_weights_without_a_say(method: object) -> None:
    """Inputs that are always 0, outputs of zeros, and weights at the ends of the range."""
    weights, hessian, scale = layer(6, 20, 5)
    weights[2] = 0
    hessian[4] = hessian[:, 4] = 0
    scale = weight_scales(weights, 1)
    q = method(weights, hessian, scale)  # type: ignore[operator]
    assert q.dtype == np.int8 and not q[2].any() and np.abs(q.astype(int)).max() == 127
    np.testing.assert_array_equal(q[:, 4], quantized_weights(weights, scale)[:, 4])


class Net(nn.Module):
    """A convolution in groups, one over a line, one that is depthwise, and products, one behind a norm whose scales are smoothed."""

    def __init__(self) -> None:
        super().__init__()
        self.grouped, self.depthwise = nn.Conv2d(8, 16, 3, groups=2, padding=1), nn.Conv2d(16, 16, 3, groups=16)
        self.line, self.norm, self.head = nn.Conv1d(16, 12, 3), nn.LayerNorm(12), nn.Linear(12, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.depthwise(self.grouped(x).relu()).relu()
        return self.head(self.norm(self.line(y.flatten(2)).relu().transpose(1, 2)))


@pytest.mark.parametrize("rounding", ["gptq", "adaround"])
def test_layers_gain_and_the_model_does_not_lose_on_other_inputs(rounding: str) -> None:
    torch.manual_seed(0)
    net = Net().eval()
    rng = np.random.default_rng(0)
    mixed = rng.standard_normal((2, 8)).astype(F32)  # channels that go together, as a trained model's do
    x = np.einsum("nrhw,rc->nchw", rng.standard_normal((96, 2, 7, 7)), mixed).astype(F32)

    def decibels(how: str) -> tuple[float, list[dict[str, object]]]:
        recipe = Recipe(quantize=Int8(rounding=how), calibration=x[:64])
        artifact = compiler.compile(net, [torch.from_numpy(x[:1])], recipe=recipe)
        model = maas_rt.load(artifact.to_bytes(), threads=1)
        got = np.concatenate([next(iter(model.run({model.inputs[0].name: row[None]}).values())) for row in x[64:]])
        want = net(torch.from_numpy(x[64:])).detach().numpy()
        error = np.square(got - want).sum() / np.square(want).sum()
        return float(-10 * np.log10(error)), artifact.manifest["recipe"]["quantize"]["rounded"]

    plain, nothing = decibels("nearest")
    adapted, told = decibels(rounding)
    assert nothing == [] and len(told) == 4
    for each in told:
        before, after = each["signal_to_error_db"]  # type: ignore[misc]
        assert after >= before  # type: ignore[has-type]
    assert sum(each["signal_to_error_db"][1] - each["signal_to_error_db"][0] for each in told) > 12  # type: ignore[index]
    assert adapted > plain - 0.2  # rounding of activations outweighs that of weights by far
    assert decibels(rounding) == (adapted, told)


@pytest.mark.parametrize(("rounding", "title"), [("gptq", "GPTQ"), ("adaround", "AdaRound")])
def test_samples_that_are_too_few_are_told(rounding: str, title: str) -> None:
    """12 rows of products with 8 and 16 inputs are enough for the first alone."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).eval()

    def notes(count: int) -> list[str]:
        x = np.random.default_rng(0).standard_normal((count, 1, 8)).astype(F32)
        recipe = Recipe(quantize=Int8(rounding=rounding, tolerance=1.0), calibration=list(x))
        artifact = compiler.compile(net, [torch.from_numpy(x[0])], recipe=recipe)
        return list(artifact.manifest["recipe"]["quantize"]["notes"])

    assert notes(16) == []
    (note,) = notes(12)
    assert note.startswith(f"layers of which {title} sees fewer rows of calibration data than they have inputs: 1,")
    assert "(12 rows, 16 inputs)" in note


def test_a_rounding_that_there_is_not() -> None:
    with pytest.raises(maas_rt.InvalidArgumentError, match="rounding is 'up', expected one of nearest, gptq, adaround"):
        Int8(rounding="up")


def test_of_layers_that_read_the_same_moments_are_gathered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query, self.key, self.value = (nn.Linear(12, 5) for _ in range(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([self.query(x), self.key(x), self.value(x)], 1)

    watched: list[int] = []
    observe = Observer.observe

    def counted(self: Observer, mod: Any, values: Any, *more: Any) -> None:
        watched.append(len(values))
        observe(self, mod, values, *more)

    monkeypatch.setattr(Observer, "observe", counted)
    torch.manual_seed(0)
    x = torch.randn(64, 12)
    artifact = compiler.compile(Heads().eval(), (x[:1],), recipe=Recipe(quantize=Int8(rounding="gptq"), calibration={"x": x.numpy()}))  # fmt: skip
    assert len(artifact.manifest["recipe"]["quantize"]["rounded"]) == 3 and watched == [1, 1]
