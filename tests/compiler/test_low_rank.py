"""The pattern low_rank: one layer as two, by the least error of what it gives; against numpy's singular values."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from maas_rt.compiler import Int8, Prune, Recipe
from maas_rt.compiler import compile as compile_model
from maas_rt.compiler.compression._low_rank import factors
from torch import nn


def test_what_is_lost_is_what_the_least_singular_values_say() -> None:
    """Eckart and Young: of all matrices of a rank none is nearer to W X, and by magnitude none to W."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((10, 14))
    x = rng.standard_normal((14, 14)) @ rng.standard_normal((14, 200))
    for moments, seen in ((x @ x.T, x), (None, np.eye(14))):
        back, inner = factors(weight, moments, 4)
        assert back.shape == (10, 4) and inner.shape == (4, 14)
        lost = np.linalg.svd(weight @ seen, compute_uv=False)[4:]
        error = np.linalg.norm((weight - back @ inner) @ seen)
        assert error == pytest.approx(np.sqrt((lost**2).sum()), rel=1e-3)
    plain = factors(weight, None, 4)
    assert np.linalg.norm((weight - plain[0] @ plain[1]) @ x) > 1.2 * np.linalg.norm(
        (weight - np.matmul(*factors(weight, x @ x.T, 4))) @ x
    )


def test_inputs_that_are_never_there_are_no_trouble() -> None:
    back, inner = factors(np.random.default_rng(0).standard_normal((4, 6)), np.zeros((6, 6)), 2)
    assert np.isfinite(back).all() and np.isfinite(inner).all()


def network() -> nn.Module:
    """A convolution and a product of rank 16."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(32, 64, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 5)
    ).eval()  # fmt: skip
    with torch.no_grad():
        for layer in (net[0], net[4]):
            shape = layer.weight.shape
            layer.weight[:] = (torch.randn(shape[0], 16) @ torch.randn(16, shape[1:].numel()) / 40).reshape(shape)
    return net


DATA = np.random.default_rng(0).standard_normal((256, 32, 6, 6)).astype(np.float32)
EXAMPLE = torch.zeros(8, 32, 6, 6)


@pytest.mark.parametrize("method", ["magnitude", "sparsegpt"])
def test_layers_of_low_rank_become_two_without_loss(method: str) -> None:
    recipe = Recipe(prune=Prune(0.5, "low_rank", method, tolerance=1e-3), calibration=DATA)
    artifact = compile_model(network(), [EXAMPLE], recipe=recipe)
    found = artifact.manifest["recipe"]["prune"]
    assert [(each["rank"], each["weights"], each["zeros"]) for each in found["layers"]] == [
        (16, 64 * 288, 64 * 288 - 16 * (64 + 288)), (16, 64 * 64, 64 * 64 // 2)
    ]  # fmt: skip
    assert [each["reason"] for each in found["dense_layers"]] == [
        "its 5 outputs of 64 inputs have no rank of 16 that saves so much"
    ]
    assert artifact.manifest["verified"]["max_relative_error"] < 1e-3


def test_both_layers_are_quantized() -> None:
    recipe = Recipe(prune=Prune(0.5, "low_rank"), quantize=Int8(tolerance=0.5), calibration=DATA)
    quantize = compile_model(network(), [EXAMPLE], recipe=recipe).manifest["recipe"]["quantize"]
    names = quantize["methods"][0]["names"]
    assert len(names) == 5 and sum(name.endswith(".rank") for name in names) == 2 and not quantize["float_layers"]
