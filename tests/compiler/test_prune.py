"""The recipe Prune: which weights go, by the papers' formulas, in which patterns, and what is left dense."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from maas_rt.compiler import Int8, Prune, Recipe
from maas_rt.compiler import compile as compile_model
from maas_rt.compiler._configs import CompileOptions
from maas_rt.compiler._pipeline import _build_here
from maas_rt.compiler.compression import compressed
from maas_rt.compiler.compression._layers import layers
from maas_rt.compiler.compression._masks import Pattern, least
from maas_rt.compiler.compression._sparsegpt import sparsegpt
from maas_rt.compiler.importers import import_model
from maas_rt.compiler.passes._rewrite import array_of, is_call
from torch import nn

import maas_rt

# ---- masks


def test_the_least_go_and_of_equals_the_first() -> None:
    scores = np.array([[3.0, 1, 1, 1], [2, 2, 9, 0]])
    np.testing.assert_array_equal(least(scores, Pattern(), 0.5), [[0, 1, 1, 1], [0, 0, 0, 1]])
    np.testing.assert_array_equal(least(scores, Pattern(), 0.5, by_row=True), [[0, 1, 1, 0], [1, 0, 0, 1]])
    assert not least(scores, Pattern(), 0).any()


def test_blocks_go_whole_and_the_last_ones_may_be_smaller() -> None:
    scores = np.arange(1.0, 31).reshape(6, 5)
    scores[:4, 1] = 0  # one whole block of 4 x 1
    scores[4:, 3] = 0  # and a short one
    gone = least(scores, Pattern(4, 1), 0.2)
    assert gone.sum() == 6 and gone[:4, 1].all() and gone[4:, 3].all()
    wide = least(scores, Pattern(4, 4), 0.25)
    assert wide.sum() == 16 and wide[:4, :4].all()


def test_of_each_m_inputs_n_stay() -> None:
    scores = np.array([[1.0, 4, 3, 2, 8, 7, 6, 5]])
    np.testing.assert_array_equal(least(scores, Pattern(kept=2, of=4), 0.5), [[1, 0, 0, 1, 0, 0, 1, 1]])
    assert str(Pattern(kept=2, of=4)) == "2:4" and str(Pattern(4, 1)) == "4x1" and str(Pattern()) == "unstructured"


# ---- SparseGPT


def by_brain_surgeon(weight: np.ndarray, moments: np.ndarray, gone: np.ndarray, damping: float) -> np.ndarray:
    """Column by column, each removal by the optimal brain surgeon's formula with the inverse of what is left of the Hessian."""
    w, depth = weight.copy(), len(moments)
    h = moments + damping * np.diagonal(moments).mean() * np.eye(depth)
    for i in range(depth):
        inverse = np.linalg.inv(h[i:, i:])
        w[gone[:, i], i:] -= w[gone[:, i], i, None] / inverse[0, 0] * inverse[0]
    return np.where(gone, 0, w)


@pytest.mark.parametrize("depth", [24, 140])
def test_sparsegpt_is_the_brain_surgeon_column_by_column(depth: int) -> None:
    """Beyond one block of columns, too."""
    rng = np.random.default_rng(0)
    weight, x = rng.standard_normal((5, depth)), rng.standard_normal((depth, 3 * depth))
    x = rng.standard_normal((depth, depth)) @ x
    found, damping = sparsegpt(weight, x @ x.T, Pattern(), 0.5)
    gone = found == 0
    assert gone.sum() == round(0.5 * gone.size) and damping == 0.01
    np.testing.assert_allclose(found, by_brain_surgeon(weight, x @ x.T, gone, 0.01), rtol=1e-6, atol=1e-8)
    plain = np.where(least(np.abs(weight), Pattern(), 0.5), 0, weight)
    assert np.linalg.norm((found - weight) @ x) < 0.95 * np.linalg.norm((plain - weight) @ x)


def test_the_first_mask_is_by_the_loss_of_each_weight() -> None:
    """w^2 / [H^-1]_ii of what is left from column i on; the ones of least loss go."""
    rng = np.random.default_rng(1)
    weight, x = rng.standard_normal((4, 12)), rng.standard_normal((12, 40))
    found, _ = sparsegpt(weight, x @ x.T, Pattern(), 0.25)
    h = x @ x.T
    h += 0.01 * np.diagonal(h).mean() * np.eye(12)
    loss = weight**2 / [np.linalg.inv(h[i:, i:])[0, 0] for i in range(12)]
    np.testing.assert_array_equal(found == 0, loss <= np.sort(loss, None)[11])


def test_sparsegpt_of_patterns_and_inputs_that_are_never_there() -> None:
    rng = np.random.default_rng(2)
    weight, x = rng.standard_normal((8, 16)), rng.standard_normal((16, 64))
    x[3] = 0
    for pattern in (Pattern(kept=2, of=4), Pattern(4, 4)):
        found, _ = sparsegpt(weight, x @ x.T, pattern, 0.5)
        assert (found[:, 3] == 0).all()
        if pattern.of:
            assert ((found.reshape(8, 4, 4) != 0).sum(-1) <= 2).all()
        else:
            whole = (found == 0).reshape(2, 4, 4, 4).all((1, 3))
            assert whole.sum() == 4


def test_what_samples_say_nothing_of_is_damped_until_it_can_be_inverted() -> None:
    x = np.zeros((6, 1))
    x[:, 0] = 1e-200  # squares that are no numbers of their own
    weight = np.random.default_rng(3).standard_normal((2, 6))
    found, damping = sparsegpt(weight, np.outer(np.ones(6), np.ones(6)), Pattern(), 0.5)
    assert np.isfinite(found).all() and damping >= 0.01
    found, _ = sparsegpt(weight, x @ x.T, Pattern(), 0.5)
    assert (found == 0).all()


# ---- on models


class Net(nn.Module):
    """Layers of many kinds, two of which share a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.grouped = nn.Conv2d(16, 24, 3, padding=1, groups=2)
        self.depthwise = nn.Conv2d(24, 24, 3, padding=1, groups=24)
        self.point = nn.Conv2d(24, 16, 1)
        self.up = nn.ConvTranspose2d(16, 16, 2, 2)
        self.shared = nn.Linear(16, 16)
        self.head = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.grouped(self.first(x).relu()).relu()
        x = self.up(self.point(self.depthwise(x).relu()).relu()).relu().mean((2, 3))
        return self.head(self.shared(torch.tanh(self.shared(x)) * 2))


EXAMPLE = torch.zeros(2, 3, 8, 8)
DATA = np.random.default_rng(0).standard_normal((64, 3, 8, 8)).astype(np.float32)


def network() -> nn.Module:
    torch.manual_seed(0)
    return Net().eval()


def pruned(net: nn.Module, recipe: Recipe, example: Any = EXAMPLE) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Weights by layer, and the manifest's record."""
    model = import_model(net, [example])
    options = CompileOptions(recipe=recipe)
    found = compressed(model, options, lambda m: _build_here(m, m.mod, options))
    values = {b.var: b.value for block in found.mod["main"].body.blocks for b in block.bindings}
    arrays = {layer.name: array_of(values[layer.var].args[1]) for layer in layers(found.mod)}
    known = {name: array for name, array in arrays.items() if array is not None}
    return known, found.to_manifest(recipe)["prune"]


def test_magnitude_takes_the_least_of_each_layer_and_shared_weights_once() -> None:
    net = network()
    arrays, record = pruned(net, Recipe(prune=Prune(0.75, method="magnitude"), calibration=DATA))
    by_name = {each["name"]: each for each in record["layers"]}
    assert set(by_name) == {"conv2d_1", "conv2d_3", "linear1", "linear_11"}
    for name, layer in (("conv2d_1", net.grouped), ("conv2d_3", net.point), ("linear1", net.shared)):
        weight = layer.weight.detach().numpy()
        weight = weight.T if name == "linear1" else weight
        edge = np.sort(np.abs(weight), None)[round(0.75 * weight.size) - 1]
        if name != "conv2d_1":  # whose groups are matrices of their own
            np.testing.assert_array_equal(arrays[name], np.where(np.abs(weight) <= edge, 0, weight))
        assert by_name[name]["zeros"] == (arrays[name] == 0).sum() == round(0.75 * weight.size)
        assert by_name[name]["weights"] == weight.size
    np.testing.assert_array_equal(arrays["linear1"], arrays["linear_11"])
    reasons = {each["name"]: each["reason"] for each in record["dense_layers"]}
    assert reasons == {
        "conv2d": "it is the first layer of an input",
        "conv2d_2": "it is depthwise: few weights, and no kernel gains by their zeros",
        "conv_transpose2d": "only products and convolutions are pruned",
        "linear_21": "it is the last layer of an output",
    }


def test_wanda_takes_the_least_beside_the_norm_of_the_input_in_each_output() -> None:
    net = network()
    arrays, record = pruned(net, Recipe(prune=Prune(0.5, method="wanda"), calibration=DATA))
    read: list[np.ndarray] = []
    net.point.register_forward_pre_hook(lambda _, given: read.append(given[0].detach().numpy()))
    net(torch.from_numpy(DATA))
    weight = net.point.weight.detach().numpy()[:, :, 0, 0]
    scores = np.abs(weight) * np.sqrt((read[0].astype(np.float64) ** 2).sum((0, 2, 3)))
    keep = scores > np.sort(scores, 1)[:, 11:12]
    np.testing.assert_array_equal(arrays["conv2d_3"][:, :, 0, 0], np.where(keep, weight, 0))
    assert record["calibration_inputs"] == 32 and not record["notes"]  # batches of two


@pytest.mark.parametrize("pattern", ["block", "2:4"])
@pytest.mark.parametrize("method", ["magnitude", "wanda", "sparsegpt"])
def test_patterns_are_those_of_neighbouring_input_channels(pattern: str, method: str) -> None:
    arrays, record = pruned(network(), Recipe(prune=Prune(0.5, pattern, method), calibration=DATA))
    point, grouped = arrays["conv2d_3"][:, :, 0, 0], arrays["conv2d_1"]
    if pattern == "2:4":
        assert ((point.reshape(16, 6, 4) != 0).sum(-1) <= 2).all()
        assert ((grouped.reshape(24, 2, 4, 9) != 0).sum(2) <= 2).all()
    else:
        for matrix in (point, grouped[:12].reshape(12, 72), grouped[12:].reshape(12, 72), arrays["linear1"].T):
            zeros = (matrix == 0).reshape(len(matrix) // 4, 4, -1)
            assert (zeros.all(1) == zeros.any(1)).all()
    assert {each["pattern"] for each in record["layers"]} == {"4x1" if pattern == "block" else "2:4"}
    assert all(0.4 < each["zeros"] / each["weights"] < 0.6 for each in record["layers"])


def test_layers_on_eight_bits_have_blocks_of_four_by_four_and_zeros_stay_zeros() -> None:
    recipe = Recipe(prune=Prune(0.5, "block"), quantize=Int8(tolerance=1.0), calibration=DATA, layers={"linear1": None})
    _, record = pruned(network(), recipe)
    patterns = {each["name"]: each["pattern"] for each in record["layers"]}
    assert patterns["conv2d_3"] == "4x4" and patterns["linear1"] == "4x1"
    model = import_model(network(), [EXAMPLE])
    options = CompileOptions(recipe=recipe)
    found = compressed(model, options, lambda m: _build_here(m, m.mod, options))
    values = {b.var: b.value for block in found.mod["main"].body.blocks for b in block.bindings}
    integers = {
        layer.name: array_of(values[values[layer.var].args[1]].args[0])
        for layer in layers(found.mod)
        if is_call(values.get(values[layer.var].args[1]) if layer.var in values else None, "maas.decode")
    }
    zeros = (integers["conv2d_3"][:, :, 0, 0] == 0).reshape(4, 4, 6, 4).all((1, 3))
    assert zeros.sum() == 12
    assert (integers["conv2d_1"] == 0).mean() >= 0.5


def test_a_recipe_names_layers() -> None:
    net = network()
    names = [
        each["name"]
        for each in pruned(net, Recipe(prune=Prune(method="magnitude"), calibration=DATA))[1]["dense_layers"]
    ]
    head = names[-1]
    recipe = Recipe(
        prune=Prune(0.5, method="magnitude"), prune_layers={head: Prune(0.2, method="magnitude"), "conv*": None},
        calibration=DATA,
    )  # fmt: skip
    arrays, record = pruned(net, recipe)
    assert (arrays[head] == 0).sum() == round(0.2 * arrays[head].size)
    assert {each["reason"] for each in record["dense_layers"]} == {"the recipe leaves it dense"}
    with pytest.raises(maas_rt.Error, match="the layer 'nothing', which the model does not have"):
        pruned(net, Recipe(prune=Prune(), prune_layers={"nothing": None}, calibration=DATA))


def test_few_samples_are_told_and_so_are_layers_that_do_not_fit() -> None:
    net = nn.Sequential(nn.Linear(6, 30), nn.ReLU(), nn.Linear(30, 30), nn.ReLU(), nn.Linear(30, 4)).eval()
    data = np.random.default_rng(0).standard_normal((5, 6)).astype(np.float32)
    example = torch.zeros(1, 6)
    _, record = pruned(net, Recipe(prune=Prune(0.5), calibration=data), example)
    assert "saw 5 columns of 30 inputs" in record["notes"][0] and "calibrate on more samples" in record["notes"][0]
    with pytest.raises(
        maas_rt.CompileError, match="no layer to prune; .*; product linear_11: its 30 inputs are no multiple of 4"
    ):
        pruned(net, Recipe(prune=Prune(0.5, "2:4"), calibration=data), example)


def test_what_is_sparse_already_stays_as_it_is() -> None:
    net = network()
    with torch.no_grad():
        net.point.weight *= torch.rand(net.point.weight.shape) > 0.7
    arrays, record = pruned(net, Recipe(prune=Prune(0.5), calibration=DATA))
    np.testing.assert_array_equal(arrays["conv2d_3"], net.point.weight.detach().numpy())
    assert {each["name"]: each["zeros"] for each in record["layers"]}["conv2d_3"] == (arrays["conv2d_3"] == 0).sum()


def test_inputs_whose_squares_are_no_numbers_are_told() -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 4)).eval()
    data = np.full((8, 4), 1e30, np.float32)
    with pytest.raises(
        maas_rt.CompileError, match="layer linear_11 reads numbers that are not finite, or whose squares are not"
    ):
        pruned(net, Recipe(prune=Prune(0.5), calibration=data), torch.zeros(1, 4))


def test_the_result_is_held_to_the_source() -> None:
    recipe = Recipe(prune=Prune(0.5, tolerance=1e-6), calibration=DATA)
    with pytest.raises(maas_rt.VerificationError, match="the recipe admits 1e-06: prune less, or by more samples"):
        compile_model(network(), [EXAMPLE], recipe=recipe)
    artifact = compile_model(network(), [EXAMPLE], recipe=Recipe(prune=Prune(0.5, tolerance=1.0), calibration=DATA))
    assert artifact.manifest["verified"]["tolerance"] == 1.0
    assert set(artifact.manifest["recipe"]) == {"version", "prune"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sparsity": 1.0}, "sparsity is 1.0, expected a share of 0 or more and below 1"),
        ({"sparsity": -0.1}, "expected a share"),
        ({"sparsity": float("nan")}, "expected a share"),
        ({"sparsity": "half"}, "expected a share"),
        ({"pattern": "4:2"}, "expected unstructured, block, structured, low_rank or N:M with N below M"),
        ({"pattern": "diagonal"}, "expected unstructured, block, structured, low_rank or N:M"),
        ({"pattern": "1:4"}, "sparsity is 0.5, and 1:4 is one of 0.75"),
        ({"method": "random"}, "expected one of magnitude, wanda, sparsegpt"),
        ({"tolerance": 0}, "above 0"),
        ({"calibration": []}, "empty"),
        ({"version": 2}, "version is 2, and this compiler knows 1: take a newer maas_rt"),
    ],
)
def test_options_are_checked(change: dict[str, Any], words: str) -> None:
    with pytest.raises(maas_rt.InvalidArgumentError, match=words):
        Prune(**change)


def test_data_are_asked_for() -> None:
    with pytest.raises(maas_rt.InvalidArgumentError, match="no calibration data"):
        pruned(network(), Recipe(prune=Prune()))
    with pytest.raises(maas_rt.InvalidArgumentError, match="expected a Prune or None"):
        Recipe(prune=0.5)  # type: ignore[arg-type]
    net = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 4)).eval()
    artifact = compile_model(
        net, [torch.zeros(1, 4)], recipe=Recipe(prune=Prune(0.25, method="magnitude", tolerance=1.0))
    )
    record = artifact.manifest["recipe"]["prune"]
    assert (record["calibration_inputs"], record["layers"][0]["zeros"]) == (0, 16)
    with pytest.raises(maas_rt.CompileError, match="no layer to prune"):
        pruned(network(), Recipe(prune=Prune(0.0), calibration=DATA))
