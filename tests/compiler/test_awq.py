"""AWQ against the paper's search with the inputs themselves; where its scales go, and what it says where they cannot."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from maas_rt.compiler import Recipe, WeightOnly
from maas_rt.compiler import compile as compile_model
from maas_rt.compiler.compression._awq import best_scales
from maas_rt.compiler.compression._gptq import gptq
from onnx import TensorProto
from torch import nn

import maas_rt
from tests.compiler.test_import_onnx import model, node


def rounded(rows: np.ndarray, group: int) -> np.ndarray:
    """4 bits, symmetric, to nearest."""
    x = rows.reshape(len(rows), -1, group)
    scale = np.abs(x).max(-1, keepdims=True) / np.float32(7.5)
    q = np.clip(np.rint(x / scale) + 8, 0, 15) - 8
    return np.asarray(q * scale).reshape(rows.shape)


def uneven(depth: int, count: int) -> np.ndarray:
    """Inputs [depth, count] of which a few are large."""
    x = np.random.default_rng(1).standard_normal((depth, count)) * 0.3
    x[::11] *= 12
    return x


def test_the_search_is_the_papers() -> None:
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal((8, 64)).astype(np.float32), rng.standard_normal((5, 64)).astype(np.float32)]
    x = uneven(64, 200)
    magnitude = np.abs(x).mean(1)
    found = best_scales(weights, x @ x.T, magnitude, 4, 32, True)
    errors = []
    for alpha in np.arange(20) / 20:
        s = magnitude**alpha
        s = (s / np.sqrt(s.max() * s.min())).astype(np.float32)
        errors.append(sum(float((((rounded(w * s, 32) / s - w) @ x) ** 2).sum()) for w in weights))
    best = int(np.argmin(errors))
    assert found.alpha == pytest.approx(best / 20) and best > 0
    assert found.error == pytest.approx(errors[best], rel=1e-3) and found.before == pytest.approx(errors[0], rel=1e-3)
    s = magnitude ** (best / 20)
    np.testing.assert_allclose(found.scales, s / np.sqrt(s.max() * s.min()), rtol=1e-5)


def test_inputs_that_are_always_0_have_finite_scales() -> None:
    weights = [np.ones((2, 32), np.float32)]
    x = uneven(32, 50)
    x[3] = 0
    assert np.isfinite(best_scales(weights, x @ x.T, np.abs(x).mean(1), 4, 32, True).scales).all()
    nothing = best_scales(weights, np.zeros((32, 32)), np.zeros(32), 4, 32, True)
    assert nothing.alpha == 0 and (nothing.scales == 1).all()


class Net(nn.Module):
    """Products behind a norm with large channels, behind a product of two, behind an activation that takes no scales, and in a residual."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm = nn.LayerNorm(64)
        self.gate, self.up, self.down = nn.Linear(64, 128), nn.Linear(64, 128), nn.Linear(128, 64)
        self.first, self.second = nn.Linear(64, 64), nn.Linear(64, 64)
        with torch.no_grad():
            self.norm.weight[::9] = 40.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(x)
        x = x + self.down(torch.sigmoid(self.gate(y)) * self.up(y))
        return self.second(torch.tanh(self.first(x))) + x


DATA = np.random.default_rng(3).standard_normal((16, 1, 20, 64)).astype(np.float32)


def test_scales_go_into_what_stands_before_and_the_rest_is_told() -> None:
    def compiled(method: str) -> Any:
        recipe = Recipe(quantize=WeightOnly(method=method, symmetric=False), calibration=DATA)
        return compile_model(Net().eval(), [torch.from_numpy(DATA[0])], recipe=recipe)

    found = {method: compiled(method) for method in ("mse", "awq", "awq+gptq")}
    decibels = {m: a.manifest["verified"]["signal_to_error_db"]["output_0"] for m, a in found.items()}
    assert decibels["awq"] > decibels["mse"] + 0.5 and decibels["awq+gptq"] > decibels["awq"] + 0.5
    quantize = found["awq"].manifest["recipe"]["quantize"]
    names = quantize["methods"][0]["names"]
    assert len(names) == 5 and set(quantize["notes"]) == {
        f"AWQ scales no inputs of {names[3]}: something else reads what they read",
        f"AWQ scales no inputs of {names[4]}: what computes their input cannot take scales in",
    }
    counts = [[s.target for b in a.linear.plan.blocks for s in b.steps] for a in found.values()]
    assert sorted(counts[0]) == sorted(counts[1]) == sorted(counts[2])  # a run does nothing more


def test_both_are_gptq_of_the_scaled_weights() -> None:
    """W diag(s) rounded by the Hessian of diag(s)^-1 x."""
    torch.manual_seed(2)
    net = nn.Sequential(nn.LayerNorm(64), nn.Linear(64, 16)).eval()
    with torch.no_grad():
        net[0].weight[::7] = 20.0
        x = net[0](torch.from_numpy(DATA)).reshape(-1, 64).double().numpy()
    weight, bias = (each.detach().numpy() for each in (net[1].weight, net[1].bias))
    hessian = x.T @ x
    s = best_scales([weight], hessian, np.abs(x).mean(0), 4, 32, True).scales
    rows = gptq(weight * s, hessian / np.outer(s, s), 4, 32, True, False, "float16")[0].floats()
    want = (x / s) @ rows.T + bias
    recipe = Recipe(quantize=WeightOnly(method="awq+gptq", tolerance=1.0), calibration=DATA)
    program = compile_model(net, [torch.from_numpy(DATA[0])], recipe=recipe).loaded()
    got = np.concatenate([next(iter(program.run({"input": each}).values())).reshape(-1, 16) for each in DATA])
    # A number that lies between two steps may be rounded the other way, which all behind it then answer to.
    assert np.isclose(got, want, atol=1e-4).all(axis=0).sum() >= 14


def test_a_tied_head_keeps_the_tables_numbers() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(1)
            self.table, self.norm, self.head = nn.Embedding(50, 64), nn.LayerNorm(64), nn.Linear(64, 50, bias=False)
            self.head.weight = self.table.weight

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.head(self.norm(self.table(ids)))

    ids = np.random.default_rng(4).integers(0, 50, (8, 1, 9))
    recipe = Recipe(quantize=WeightOnly(method="awq"), calibration=ids)
    quantize = compile_model(Tied().eval(), [torch.from_numpy(ids[0])], recipe=recipe).manifest["recipe"]["quantize"]
    assert "a table has the same weights" in quantize["notes"][0] and quantize["layers"] == 2


def test_a_model_in_which_nothing_can_be_scaled_is_held_to_its_source() -> None:
    """On the calibration data, which no method has asked for then; nor GPTQ for embeddings alone."""
    rng = np.random.default_rng(5)
    weight = rng.standard_normal((64, 40)).astype(np.float32)
    proto = model([node("MatMul", "x w", "y")], {"x": (TensorProto.FLOAT, [3, 64])}, ["y"], {"w": weight})
    data = [{"x": rng.standard_normal((3, 64)).astype(np.float32)} for _ in range(4)]

    def verified(proto: Any, method: WeightOnly, data: Any) -> Any:
        return compile_model(proto, recipe=Recipe(quantize=method, calibration=data)).manifest["verified"]

    assert verified(proto, WeightOnly(method="awq"), data)["runs"] == 4
    with pytest.raises(maas_rt.VerificationError, match=r"the recipe admits 0\.001"):
        verified(proto, WeightOnly(method="awq", tolerance=1e-3), data)
    table = model([node("Gather", "w i", "y")], {"i": (TensorProto.INT64, [3])}, ["y"], {"w": weight})
    found = verified(table, WeightOnly(method="gptq"), [{"i": np.array([1, i, 5])} for i in range(6)])
    assert found["runs"] == 6 and found["signal_to_error_db"]["y"] < 40
