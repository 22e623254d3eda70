"""The pattern structured: what goes together goes together, what says nothing goes exactly, and what is left makes up for the rest."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from maas_rt.compiler import Int8, Prune, Recipe
from maas_rt.compiler import compile as compile_model
from maas_rt.compiler.compression._moments import Moments
from maas_rt.compiler.compression._structured import refit
from torch import nn

import maas_rt


def record(net: nn.Module, example: torch.Tensor, recipe: Recipe) -> tuple[Any, dict[str, list[int]], dict[str, str]]:
    """The artifact; [outputs left, outputs] by layer; reasons of the others."""
    artifact = compile_model(net, [example], recipe=recipe)
    found = artifact.manifest["recipe"]["prune"]
    return (
        artifact,
        {each["name"]: each["outputs"] for each in found["layers"]},
        {each["name"]: each["reason"] for each in found["dense_layers"]},
    )


class Joined(nn.Module):
    """Channels that hang together in every way: a residual sum, a depthwise and a grouped convolution, a concatenation of one branch twice,
    a flattened image, a weight that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 32, 3, 2, 1)
        self.residual = nn.Conv2d(32, 32, 3, padding=1)
        self.depthwise = nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.grouped = nn.Conv2d(32, 32, 1, groups=4)
        self.point = nn.Conv2d(96, 32, 1)
        self.wide = nn.Linear(32 * 4, 48)
        self.shared = nn.Linear(48, 48)
        self.head = nn.Linear(48, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x).relu()
        x = x + self.residual(x).relu()
        y = self.grouped(nn.functional.silu(self.depthwise(x))).relu()
        x = self.point(torch.cat([x, y, x], 1)).relu()
        x = self.wide(nn.functional.avg_pool2d(x, 2).flatten(1)).relu()
        return self.head(torch.tanh(self.shared(torch.tanh(self.shared(x)) * 2)))


IMAGES = np.random.default_rng(0).standard_normal((64, 3, 8, 8)).astype(np.float32)


def with_dead_channels() -> nn.Module:
    torch.manual_seed(0)
    net = Joined().eval()
    with torch.no_grad():
        for name, start in {
            "first": 16,
            "residual": 16,
            "depthwise": 16,
            "grouped": 16,
            "point": 16,
            "wide": 32,
            "shared": 32,
        }.items():
            layer = getattr(net, name)
            layer.weight[start:], layer.bias[start:] = 0, 0
    return net


@pytest.mark.parametrize("method", ["magnitude", "sparsegpt"])
def test_dead_channels_go_exactly_through_every_connection(method: str) -> None:
    """Half of the channels are zero: the model without them is the model. The tolerance is that of any float model."""
    net = with_dead_channels()
    recipe = Recipe(prune=Prune(0.5, "structured", method, tolerance=1e-4), calibration=IMAGES)
    artifact, layers, left = record(net, torch.zeros(2, 3, 8, 8), recipe)
    assert list(layers.values()) == [[16, 32]] * 5 + [[32, 48]] * 3 + [[5, 5]] and not left
    x = np.random.default_rng(1).standard_normal((2, 3, 8, 8)).astype(np.float32)
    model = maas_rt.load(artifact.to_bytes(), threads=1)
    with torch.no_grad():
        want = net(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(next(iter(model.run({model.inputs[0].name: x}).values())), want, rtol=1e-3, atol=1e-5)
    dense = compile_model(net, [torch.zeros(2, 3, 8, 8)])
    assert len(artifact.to_bytes()) < len(dense.to_bytes())


def test_constant_channels_go_into_the_bias_of_what_reads_them() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 32), nn.Sigmoid(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4)).eval()
    with torch.no_grad():
        net[0].weight[16:] = 0
        net[2].weight[16:] = 0
    data = np.random.default_rng(0).standard_normal((256, 8)).astype(np.float32)
    recipe = Recipe(prune=Prune(0.5, "structured", method="sparsegpt", tolerance=0.1), calibration=data)
    artifact, layers, _ = record(net, torch.zeros(4, 8), recipe)
    assert list(layers.values()) == [[16, 32], [16, 32], [4, 4]]
    assert min(artifact.manifest["verified"]["signal_to_error_db"].values()) > 25


class Attention(nn.Module):
    """Queries, keys and values of one product, or of three; the residual stream ends in a normalisation."""

    def __init__(self, packed: bool) -> None:
        super().__init__()
        self.packed = packed
        self.norm = nn.LayerNorm(32)
        self.project = nn.Linear(32, 96)
        self.parts = nn.ModuleList([nn.Linear(32, 32) for _ in range(3)])
        self.out = nn.Linear(32, 32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(x)
        if self.packed:
            q, k, v = self.project(y).reshape(*x.shape[:2], 3, 4, 8).permute(2, 0, 3, 1, 4).unbind(0)
        else:
            q, k, v = (part(y).reshape(*x.shape[:2], 4, 8).transpose(1, 2) for part in self.parts)
        y = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape)
        return self.norm(x + self.out(y))


@pytest.mark.parametrize("packed", [True, False])
def test_heads_go_whole(packed: bool) -> None:
    torch.manual_seed(0)
    net = Attention(packed).eval()
    with torch.no_grad():
        net.out.weight[:, 8:24] = 0  # what two of the heads say is not heard
    data = np.random.default_rng(0).standard_normal((32, 6, 32)).astype(np.float32)
    recipe = Recipe(prune=Prune(0.5, "structured", method="magnitude", tolerance=1e-4), calibration=data)
    _, layers, left = record(net, torch.zeros(2, 6, 32), recipe)
    assert list(layers.values()) == ([[48, 96], [32, 32]] if packed else [[16, 32]] * 3 + [[32, 32]])
    assert not left


def test_what_cannot_go_is_named_with_its_reason() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(8, 32), nn.LayerNorm(32), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 64)
    ).eval()  # fmt: skip
    data = np.random.default_rng(0).standard_normal((64, 8)).astype(np.float32)
    _, layers, left = record(
        net, torch.zeros(4, 8), Recipe(prune=Prune(0.5, "structured", tolerance=2), calibration=data)
    )
    assert list(layers.values()) == [[16, 32], [64, 64]]
    assert list(left.values()) == [
        "nn.layer_norm mixes them, or is not known to keep them apart",
        "its 16 channels or groups of them are too few to take away a panel of 16",
    ]
    names = [*left, *layers]
    recipe = Recipe(prune=Prune(0.5, "structured", tolerance=2), prune_layers={names[2]: None}, calibration=data)
    with pytest.raises(maas_rt.CompileError, match="the model has no layer to prune; .*: nn.layer_norm mixes them"):
        record(net, torch.zeros(4, 8), recipe)


def test_a_smaller_model_is_quantized_and_other_layers_get_zeros() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8)
    ).eval()
    data = np.random.default_rng(0).standard_normal((256, 8)).astype(np.float32)
    recipe = Recipe(
        prune=Prune(0.5, "structured", tolerance=2), prune_layers={"linear_21": Prune(0.5, "block", tolerance=2)}, quantize=Int8(),
        calibration=data,
    )  # fmt: skip
    artifact = compile_model(net, [torch.zeros(4, 8)], recipe=recipe)
    found = {each["name"]: each for each in artifact.manifest["recipe"]["prune"]["layers"]}
    patterns = {name: each["pattern"] for name, each in found.items()}
    assert patterns == {"linear1": "structured", "linear_11": "structured", "linear_21": "4x4"}
    assert found["linear_11"]["zeros"] == 64 * 32 and found["linear_21"]["zeros"] == 64 * 64 // 2
    assert artifact.manifest["recipe"]["quantize"]["layers"] == 4


def test_models_with_branches_are_refused() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 64)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cond(x.sum() > 0, lambda y: y + 1, lambda y: y - 1, (self.layer(x),))

    data = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)
    with pytest.raises(maas_rt.CompileError, match="structured is not for models with branches"):
        record(Branching().eval(), torch.zeros(1, 4), Recipe(prune=Prune(0.5, "structured"), calibration=data))


def test_the_refit_is_least_squares_with_a_bias() -> None:
    """Against numpy's, of what is lost; the damping is a thousandth."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((12, 12)) @ rng.standard_normal((12, 500)) + rng.standard_normal((12, 1))
    weight = rng.standard_normal((5, 12))
    kept = np.arange(12) % 3 != 0
    found, bias = refit(weight, Moments((x @ x.T)[None], x.sum(1)[None], np.abs(x).sum(1)[None], x.shape[1]), kept)
    assert (found[:, ~kept] == 0).all()
    rows = np.vstack([x[kept], np.ones(500)])
    best = np.linalg.lstsq(rows.T, (weight @ x).T, rcond=None)[0].T
    error = np.linalg.norm(weight @ x - found @ x - bias[:, None])
    assert error == pytest.approx(np.linalg.norm(weight @ x - best @ rows), rel=0.02)
    assert error < 0.8 * np.linalg.norm(weight[:, ~kept] @ x[~kept])
    mean = (weight @ x - found @ x).mean(1)
    np.testing.assert_allclose(bias, mean, rtol=1e-9)
