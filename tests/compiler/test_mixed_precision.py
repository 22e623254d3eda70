"""Layers that Int8 leaves in float by itself: which, what that gains against numpy, and when there are none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from maas_rt.compiler import Int8, Recipe
from maas_rt.compiler import compile as compile_model
from maas_rt.compiler.compression._absorb import Graph
from maas_rt.compiler.compression._grid import grid_of, quantized_weights, weight_scales
from maas_rt.compiler.compression._layers import layers
from maas_rt.compiler.compression._mixed import Cost, Order, candidates, returns
from maas_rt.compiler.importers import import_model
from torch import nn

from maas_rt import InvalidArgumentError

F32 = np.float32
WIDE = 60.0  # times the others: the range of the input's last channel
PLAIN: dict[str, Any] = {"method": "minmax", "smooth": False, "bias_correction": False, "tolerance": 10.0}


class Planted(nn.Module):
    """Four convolutions of 1 x 1, the first of which reads a channel that has nearly all of the range, and says little."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 8, 1, bias=False), nn.Conv2d(8, 64, 1, bias=False)
        self.third, self.last = nn.Conv2d(64, 64, 1, bias=False), nn.Conv2d(64, 8, 1, bias=False)
        with torch.no_grad():
            self.first.weight[:, 2] /= WIDE

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.last(torch.relu(self.third(torch.relu(self.second(torch.relu(self.first(x)))))))
        return y


def wide_images(count: int, batch: int = 1) -> np.ndarray:
    x = np.random.default_rng(3).standard_normal((count, batch, 3, 6, 6)).astype(F32)
    x[:, :, 2] *= WIDE
    return x


def quantized(net: nn.Module, recipe: Recipe, *example: torch.Tensor) -> Mapping[str, Any]:
    """What the manifest says."""
    artifact = compile_model(net.eval(), list(example), recipe=recipe)
    return {**artifact.manifest["recipe"]["quantize"], "verified": artifact.manifest["verified"]}


def planted(samples: np.ndarray, **options: Any) -> Mapping[str, Any]:
    recipe = Recipe(quantize=Int8(**{"tolerance": 10.0, **options}), calibration=[[x] for x in samples])
    return quantized(Planted(), recipe, torch.from_numpy(samples[0]))


def by_numpy(samples: np.ndarray, floats: int) -> float:
    """Signal to error of the outputs in dB where the first `floats` layers are in float, from scales, integers and sums."""
    net = Planted()
    weights = [each.weight.detach().numpy()[:, :, 0, 0] for each in (net.first, net.second, net.third, net.last)]
    rows = samples.transpose(0, 1, 3, 4, 2).reshape(-1, 3)
    exact, found = rows, rows
    for i, w in enumerate(weights):
        if i >= floats:
            grid, scale = grid_of((float(exact.min()), float(exact.max())), 8), weight_scales(w, 1)
            x = np.clip(np.rint(found / grid.step) + grid.zero, 0, 255) - grid.zero
            found = (x * grid.step) @ (quantized_weights(w, scale) * scale).T
        else:
            found = found @ w.T
        exact = exact @ w.T
        if i < 3:
            exact, found = np.maximum(exact, 0), np.maximum(found, 0)
    error = np.square(found - exact, dtype=np.float64).sum()
    return float(10 * np.log10(np.square(exact, dtype=np.float64).sum() / error))


def test_a_planted_layer_is_found_and_gains_what_numpy_says() -> None:
    samples = wide_images(12)
    told = planted(samples, **PLAIN)
    (left,) = told["float_layers"]
    (returned,) = told["returned_to_float"]
    assert returned["layers"] == [left["name"]] == ["conv2d"]
    want = [by_numpy(samples, 0), by_numpy(samples, 1)]
    assert want[1] > want[0] + 10
    np.testing.assert_allclose(returned["signal_to_error_db"], want, atol=0.15)
    work = np.array([3 * 8, 8 * 64, 64 * 64, 64 * 8])
    assert returned["share_of_work"] == pytest.approx(work[0] / work.sum(), abs=1e-4)
    assert f"{returned['signal_to_error_db'][1]:g} dB" in left["reason"] and "multiply-adds" in left["reason"]
    assert sum(len(each["names"]) for each in told["methods"]) == told["layers"] == 3
    assert planted(samples, **PLAIN) == told  # nothing hangs on the run


def test_it_is_a_default_and_can_be_switched_off() -> None:
    samples = wide_images(8)
    assert [each["name"] for each in planted(samples)["float_layers"]] == ["conv2d"]
    off = planted(samples, float_share=0.0)
    assert off["float_layers"] == off["returned_to_float"] == [] and off["layers"] == 4
    # Of one sample nothing is known of how it varies: it is taken at its word.
    assert len(planted(samples[:1])["float_layers"]) == 1


def test_the_share_is_kept() -> None:
    samples = wide_images(8)
    assert planted(samples, float_share=0.004)["float_layers"] == []  # the layer is 0.5 % of the work
    every = planted(samples, float_share=1.0)["returned_to_float"]
    assert every[0]["layers"] == ["conv2d"]
    assert sum(each["share_of_work"] for each in every) <= 1.0


def test_what_the_recipe_names_stays_as_it_says() -> None:
    samples = wide_images(8)
    eight = Int8(tolerance=10.0)
    for layers_ in ({"conv2d": eight}, {"conv2d": Int8(tolerance=9.0)}):
        recipe = Recipe(quantize=eight, layers=layers_, calibration=[[x] for x in samples])
        told = quantized(Planted(), recipe, torch.from_numpy(samples[0]))
        assert told["float_layers"] == [] and told["layers"] == 4
    named = Recipe(quantize=eight, layers={"conv2d_3": None}, calibration=[[x] for x in samples])
    reasons = {
        each["name"]: each["reason"]
        for each in quantized(Planted(), named, torch.from_numpy(samples[0]))["float_layers"]
    }
    assert len(reasons) == 2 and sum("recipe leaves it" in reason for reason in reasons.values()) == 1


def test_a_model_that_is_fine_keeps_all_layers() -> None:
    """The same net of an input whose channels have one range."""
    samples = wide_images(8)
    samples[:, :, 2] /= WIDE
    net = Planted()
    with torch.no_grad():
        net.first.weight[:, 2] *= WIDE
    recipe = Recipe(quantize=Int8(float_share=1.0), calibration=[[x] for x in samples])
    told = quantized(net, recipe, torch.from_numpy(samples[0]))
    assert told["verified"]["signal_to_error_db"]["output_0"] > 35
    assert told["float_layers"] == [] and told["layers"] == 4


class Several(nn.Module):
    """Tokens, and a signal with a wide channel, in a residual stream; two outputs of floats, one of which is small, and one of integers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.table, self.signal = nn.Embedding(50, 32), nn.Conv1d(4, 32, 1)
        self.up, self.down = (
            nn.ModuleList(nn.Linear(32, 64) for _ in range(2)),
            nn.ModuleList(nn.Linear(64, 32) for _ in range(2)),
        )
        self.norms, self.head, self.other = (
            nn.ModuleList(nn.LayerNorm(32) for _ in range(2)),
            nn.Linear(32, 6),
            nn.Linear(32, 3),
        )
        with torch.no_grad():
            self.signal.weight[:, 3] /= 1000

    def forward(self, tokens: torch.Tensor, signal: torch.Tensor) -> tuple[torch.Tensor, ...]:
        x = 0.1 * self.table(tokens) + self.signal(signal).transpose(1, 2)
        for norm, up, down in zip(self.norms, self.up, self.down):
            x = x + down(torch.relu(up(norm(x))))
        scores = self.head(x)
        return scores, 1e-3 * self.other(x.mean(1)), tokens + 1


def test_residuals_inputs_outputs_and_embeddings() -> None:
    rng = np.random.default_rng(0)
    tokens, signal = rng.integers(0, 50, (10, 1, 12)), rng.standard_normal((10, 1, 4, 12)).astype(F32)
    signal[:, :, 3] *= 1000
    recipe = Recipe(quantize=Int8(tolerance=10.0), calibration=[list(each) for each in zip(tokens, signal)])
    told = quantized(Several(), recipe, torch.from_numpy(tokens[0]), torch.from_numpy(signal[0]))
    first = told["returned_to_float"][0]
    assert first["layers"] == ["conv1d"]
    assert first["signal_to_error_db"][1] > first["signal_to_error_db"][0] + 6
    assert sum(each["share_of_work"] for each in told["returned_to_float"]) <= 0.06
    assert sum(len(each["names"]) for each in told["methods"]) == told["layers"]
    assert told["verified"]["signal_to_error_db"]["output_0"] > 25


def chain(count: int) -> Order:
    """Products one behind the other."""
    net = nn.Sequential(*(nn.Linear(4, 4) for _ in range(count))).eval()
    mod = import_model(net, [torch.zeros(2, 4)]).mod
    return Order(Graph(mod), [layer.var for layer in layers(mod)])


def test_layers_that_gain_together_alone_are_found() -> None:
    """The first two are worth 10 dB together and nothing by themselves; a small one is worth 2 dB; noise looks like more."""
    order = chain(12)
    every = list(order.before)
    costs = {var: Cost(0.02 if i != 7 else 0.01, 0.0, 1e-4) for i, var in enumerate(every)}
    costs[every[7]], costs[every[9]] = Cost(0.01, 0.0, 0.1), Cost(0.01, 0.0, 0.2)

    def errors(trials: Any) -> np.ndarray:
        found = np.zeros((8, len(trials)))
        for i, trial in enumerate(trials):
            power = 0.1 * (10**-1.0 if {*every[:2]} <= trial else 1) * (10**-0.2 if every[7] in trial else 1)
            found[:, i] = power
            if every[9] in trial:  # gains 3 dB in all, which one part alone has
                found[:, i] *= [0.02, 0.05, 1, 1, 1, 1, 1, 1]
        noise = np.ones(8) + np.array([3, 0, 0, 0, 0, 0, 0, 0.0])
        return found * noise[:, None]

    tried = candidates(order, costs, 0.06)
    assert every[0] in tried and every[1] in tried and every[7] in tried and every[9] in tried
    found = returns(order, tried, costs, 0.06, errors)
    assert [[every.index(var) for var in each.layers] for each in found] == [[0, 1], [7]] or [
        [every.index(var) for var in each.layers] for each in found
    ] == [[7], [0, 1]]
    assert sum(each.work for each in found) <= 0.06
    assert found[0].after == found[1].before


def test_where_all_layers_are_equally_bad_none_goes() -> None:
    order = chain(30)
    costs = {var: Cost(1 / 30, 1 / 30, 0.01) for var in order.before}

    def errors(trials: Any) -> np.ndarray:
        return np.array([[0.3 * (1 - len(trial) / 30) for trial in trials]] * 4)

    tried = candidates(order, costs, 0.06)
    assert len(tried) <= 5
    assert returns(order, tried, costs, 0.06, errors) == []


def test_a_gain_that_is_dear_is_left() -> None:
    """2 dB for 6 % of the work, where 1 % is worth half a dB; they are taken for 3 %."""
    order = chain(4)
    (first, *_) = order.before

    def errors(trials: Any) -> np.ndarray:
        return np.array([[0.1 * (10**-0.2 if first in trial else 1) for trial in trials]] * 4)

    for work, count in ((0.06, 0), (0.03, 1)):
        costs = {var: Cost(work if var == first else 0.3, 0.0, 0.01) for var in order.before}
        tried = candidates(order, costs, 0.1)
        assert tried == [first] and len(returns(order, tried, costs, 0.1, errors)) == count


@pytest.mark.parametrize("share", [-0.1, 1.5, True, "5 %", float("nan")])
def test_shares_that_are_none_are_refused(share: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="float_share is .* expected a share of the multiply-adds, 0 to 1"):
        Int8(float_share=share)


def test_the_option_is_kept_in_recipes() -> None:
    recipe = Recipe(quantize=Int8(float_share=0.1))
    assert "float_share = 0.1" in recipe.to_toml()
    assert Recipe.from_toml(recipe.to_toml()) == recipe


@pytest.mark.parametrize("given, result", [("float.0", "y"), ("observed.0", "float.1"), ("x", "observed.0")])
def test_inputs_and_outputs_may_have_any_names(given: str, result: str) -> None:
    rng = np.random.default_rng(0)
    shapes = {"w": (3, 8), "v": (8, 64), "u": (64, 8)}
    steps = [(given, "w", "a"), ("a", "v", "b"), ("b", "u", result)]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", [x, w], [y]) for x, w, y in steps],
        "graph",
        [onnx.helper.make_tensor_value_info(given, onnx.TensorProto.FLOAT, [4, 3])],
        [onnx.helper.make_tensor_value_info(result, onnx.TensorProto.FLOAT, [4, 8])],
        [onnx.numpy_helper.from_array(rng.standard_normal(of).astype(F32), name) for name, of in shapes.items()],
    )
    data = [[rng.standard_normal((4, 3)).astype(F32)] for _ in range(2)]
    artifact = compile_model(
        onnx.helper.make_model(graph), recipe=Recipe(quantize=Int8(tolerance=10.0), calibration=data)
    )
    assert artifact.manifest["verified"]["status"] == "passed"
