"""Static quantization by the measured error of layers: scales of channels, ranges and biases, against the papers' formulas in numpy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from maas_rt.compiler import Int8, Recipe
from maas_rt.compiler import compile as compile_model
from maas_rt.compiler._configs import CompileOptions
from maas_rt.compiler._pipeline import compile_imported
from maas_rt.compiler.compression._absorb import Graph, rescaled
from maas_rt.compiler.compression._bias import correction
from maas_rt.compiler.compression._grid import grid_of
from maas_rt.compiler.compression._layers import layers
from maas_rt.compiler.compression._measure import Layer8
from maas_rt.compiler.compression._rows import Matrix, Rows, Window
from maas_rt.compiler.compression._smooth import equalising, smoothing
from maas_rt.compiler.importers import import_model
from maas_rt.compiler.passes import FOLDING
from torch import nn
from torch.nn import functional

import maas_rt

RNG = np.random.default_rng(0)


# ---- formulas


def test_smoothing_is_that_of_the_paper() -> None:
    """s_j = max|x_j|^a / max|w_j|^(1-a), up to a common factor; dead channels keep theirs."""
    x, w = np.array([8.0, 1.0, 0.5, 0.0, 3.0]), np.array([0.1, 0.4, 2.0, 1.0, 0.0])
    for alpha in (0.3, 0.5, 1.0):
        found, alive = smoothing(x, w, alpha), slice(0, 3)
        want = x[alive] ** alpha / w[alive] ** (1 - alpha)
        np.testing.assert_allclose(found[alive] / found[0], want / want[0])
        assert np.prod(found[alive]) == pytest.approx(1) and (found[3:] == 1).all()


def test_equalisation_makes_ranges_equal() -> None:
    """Nagel et al.: r1 / s = s r2 for each channel."""
    r1, r2 = RNG.uniform(0.01, 10, 6), RNG.uniform(0.01, 10, 6)
    s = equalising(r1, r2)
    ratio = (r1 / s) / (s * r2)
    np.testing.assert_allclose(ratio, ratio[0])
    assert (equalising(np.zeros(3), np.ones(3)) == 1).all()


def test_a_layers_error_is_that_of_integer_arithmetic() -> None:
    x, w = RNG.standard_normal((40, 6, 1)).astype(np.float32), RNG.standard_normal((1, 6, 4)).astype(np.float32)
    grid = grid_of((-2.0, 2.5), 8)
    (found,) = Layer8(Matrix(w, 1), x).residuals([grid])
    q = np.clip(np.rint(x[:, :, 0] / grid.step) + grid.zero, 0, 255).astype(np.int64)
    scale = np.abs(w[0]).max(0) / 127
    v = np.rint(w[0] / scale).astype(np.int64)
    y = ((q - grid.zero) @ v) * (float(grid.step) * scale)
    np.testing.assert_allclose(found[0], x[:, :, 0] @ w[0] - y, atol=1e-5)
    # A scale of channels changes what is rounded, not what is computed.
    s = RNG.uniform(0.5, 2, 6)
    (scaled,) = Layer8(Matrix(w, 1), x).residuals([grid_of((-9, 9), 8)], s)
    own = Layer8(Matrix(np.asarray(w / s[:, None], np.float32), 1), np.asarray(x * s[:, None], np.float32))
    np.testing.assert_allclose(scaled, next(own.residuals([grid_of((-9, 9), 8)])), atol=1e-5)


def test_bias_correction_adds_the_mean_where_that_helps() -> None:
    noise = RNG.standard_normal((1, 400, 3)).astype(np.float32)
    noise -= noise.mean(axis=1, keepdims=True)
    shift, before, after = correction(noise + np.array([2.0, 0.0, -1.0], np.float32))
    assert shift is not None
    np.testing.assert_allclose(shift, [2, 0, -1], atol=1e-5)
    assert before == pytest.approx(np.square(noise).sum() + 400 * 5, rel=1e-5) and after < before
    few = np.array([1.0, -1.0, 1.0, -1.0], np.float32).reshape(1, 4, 1)  # whose halves contradict each other
    assert correction(few) == (None, 4.0, 4.0)
    assert correction(np.ones((1, 1, 2), np.float32))[0] is None


# ---- rows

WINDOWS = [
    ((3, 3), (2, 1), (1, 0), (1, 2), (1, 2)),
    ((1, 1), (2, 2), (0, 0), (0, 0), (1, 1)),
    ((5,), (1,), (4,), (0,), (1,)),
    ((2, 3, 2), (1, 2, 1), (0, 1, 1), (1, 1, 0), (1, 1, 2)),
]


@pytest.mark.parametrize("parts", WINDOWS)
def test_rows_are_what_a_convolution_sees(parts: Any) -> None:
    window = Window(*parts)
    axes = len(window.kernel)
    x = RNG.standard_normal((2, 3, *[9, 8, 7][:axes])).astype(np.float32)
    w = RNG.standard_normal((4, 3, *window.kernel)).astype(np.float32)
    pads = [n for pair in zip(window.before[::-1], window.after[::-1]) for n in pair]
    convolve = [functional.conv1d, functional.conv2d, functional.conv3d][axes - 1]
    want = convolve(
        functional.pad(torch.from_numpy(x), pads), torch.from_numpy(w), None, window.strides, 0, window.dilations
    ).numpy()
    assert window.results(x.shape) == (want.shape[0], *want.shape[2:])
    rows = window.rows(x, np.arange(want[:, 0].size))
    got = rows.reshape(len(rows), -1) @ w.reshape(4, -1).T
    np.testing.assert_allclose(got, np.moveaxis(want, 1, -1).reshape(-1, 4), atol=1e-4)


def test_rows_are_a_uniform_sample_in_a_fixed_amount_of_memory() -> None:
    def sampled() -> np.ndarray:
        rows = Rows(Window(), 1)
        for sample in range(200):
            rows.add(sample, np.arange(100, dtype=np.float32).reshape(100, 1) + 100 * sample)
        assert rows.seen == 20_000
        return rows.array()[:, 0, 0]

    found = sampled()
    np.testing.assert_array_equal(found, sampled())
    assert len(np.unique(found)) == len(found) == 256
    assert abs(found.mean() - 10_000) < 4 * 20_000 / np.sqrt(12 * 256)
    large = Rows(Window(), 1 << 16)
    large.add(0, np.zeros((100, 1 << 16), np.float32))
    assert len(large.array()) == 32


# ---- where scales go


class Residual(nn.Module):
    """Norms before layers, or behind the residual sum."""

    def __init__(self, post: bool) -> None:
        super().__init__()
        self.post = post
        self.norm, self.up, self.down, self.head = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(x)
        y = (y if self.post else x) + self.down(functional.gelu(self.up(y)))
        return self.head(y)


class Gated(nn.Module):
    """RMSNorm and SwiGLU: the third product's scale goes into the second."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.gate, self.up, self.down = nn.RMSNorm(8), nn.Linear(8, 16), nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(x)
        return self.down(functional.silu(self.gate(y)) * self.up(y))


class Attention(nn.Module):
    """The output projection's scale goes through attention into the values."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(8, 8) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (f(x).reshape(2, 5, 2, 4).transpose(1, 2) for f in (self.q, self.k, self.v))
        y = functional.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(1, 2).reshape(2, 5, 8))


class SharedValues(nn.Module):
    """Attention of four heads of queries, of which two and two share keys and values."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = nn.Linear(8, 8), nn.Linear(8, 4), nn.Linear(8, 4), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (f(x).unflatten(2, (-1, 2)).transpose(1, 2) for f in (self.q, self.k, self.v))
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return self.out(y.transpose(1, 2).flatten(2))


def convolutions(*between: nn.Module, groups: int = 1) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), *between, nn.Conv2d(8, 8, 3, padding=1, groups=groups))


IMAGE, ROWS = (2, 3, 9, 9), (2, 5, 8)
PLACES: dict[str, tuple[nn.Module, tuple[int, ...], int, bool]] = {
    # a net, the shape of its input, the number of the layer whose activation is scaled, whether something takes the scale
    "pre-norm": (Residual(False), ROWS, 0, True),
    "post-norm": (Residual(True), ROWS, 0, False),
    "GELU": (Residual(False), ROWS, 1, False),
    "residual sum": (Residual(False), ROWS, 2, False),
    "RMSNorm of two": (Gated(), ROWS, 0, True),
    "SwiGLU": (Gated(), ROWS, 2, True),
    "attention": (Attention(), ROWS, 3, True),
    "attention of shared heads": (SharedValues(), ROWS, 4, True),
    "input": (Attention(), ROWS, 0, False),
    "nothing": (convolutions(), IMAGE, 1, True),
    "ReLU": (convolutions(nn.ReLU()), IMAGE, 1, True),
    "batch norm, leaky ReLU, pooling": (
        convolutions(nn.BatchNorm2d(8), nn.LeakyReLU(), nn.MaxPool2d(2), nn.AvgPool2d(2)), IMAGE, 1, True),
    "ReLU6": (convolutions(nn.ReLU6()), IMAGE, 1, False),
    "SiLU": (convolutions(nn.SiLU()), IMAGE, 1, False),
    "Hardswish": (convolutions(nn.Hardswish()), IMAGE, 1, False),
    "groups": (convolutions(nn.ReLU(), groups=2), IMAGE, 1, True),
    "depthwise": (convolutions(nn.ReLU(), groups=8), IMAGE, 1, True),
    "means": (
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)), IMAGE, 1, True),
    "flattened": (nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(392, 4)), IMAGE, 1, False),
}  # fmt: skip


@pytest.mark.parametrize("case", PLACES)
def test_scales_go_where_the_model_stays_what_it_was(case: str) -> None:
    net, shape, number, takes = PLACES[case]
    torch.manual_seed(1)
    x = torch.randn(shape)
    model = import_model(net.eval(), [x])
    mod = model.mod
    for _, stage in FOLDING:
        mod = stage(mod)
    graph = Graph(mod)
    value = graph.definitions[layers(mod)[number].var].args[0]
    axis = 1 if len(shape) == 4 and value.ty.ndim == 4 else value.ty.ndim - 1
    channels = np.exp2(RNG.uniform(-3, 3, int(value.ty.shape.values[axis])))
    wide = [channels.size if i == axis else 1 for i in range(value.ty.ndim)]
    channels = channels[graph.tied(value, wide)]
    factor = channels.reshape(wide)
    readers = graph.layers_reading(value)
    changes = graph.absorbed(value, factor) if readers is not None else None
    assert (changes is not None) == takes
    if changes is None or readers is None:
        return
    changed = rescaled(mod, {**changes, **graph.unabsorbed(readers, channels)}, {})
    artifact = compile_imported(replace(model, mod=changed), CompileOptions(verify=None))
    got = next(iter(maas_rt.load(artifact.to_bytes(), threads=1).run({model.input_names[0]: x.numpy()}).values()))
    with torch.no_grad():
        np.testing.assert_allclose(got, net(x).numpy(), rtol=1e-4, atol=1e-5)


def test_heads_that_share_values_share_their_scales() -> None:
    x = torch.randn(ROWS)
    mod = import_model(SharedValues().eval(), [x]).mod
    for _, stage in FOLDING:
        mod = stage(mod)
    graph = Graph(mod)
    value = graph.definitions[layers(mod)[-1].var].args[0]
    # [heads of values, heads of queries that share one, depth]
    np.testing.assert_array_equal(graph.tied(value, [1, 1, 8]), [0, 1, 0, 1, 4, 5, 4, 5])
    assert graph.absorbed(value, np.array([1.0, 2, 1, 2, 3, 4, 3, 4]).reshape(1, 1, 8)) is not None
    assert graph.absorbed(value, np.array([1.0, 2, 1, 2, 3, 4, 3, 5]).reshape(1, 1, 8)) is None


# ---- what it comes to


def decibels(net: nn.Module, x: np.ndarray, **options: Any) -> tuple[float, dict[str, Any]]:
    """Signal to error on inputs that calibration has not seen, and the manifest's recipe."""
    recipe = Recipe(quantize=Int8(tolerance=1e9, **options), calibration=x[:48])
    artifact = compile_model(net, [torch.from_numpy(x[:1])], recipe=recipe, dynamic=None)
    model = maas_rt.load(artifact.to_bytes(), threads=1)
    name = model.inputs[0].name
    got = np.concatenate([next(iter(model.run({name: row[None]}).values())) for row in x[48:]])
    with torch.no_grad():
        want = net(torch.from_numpy(x[48:])).numpy()
    return float(10 * np.log10(np.square(want).sum() / np.square(got - want).sum())), artifact.manifest["recipe"][
        "quantize"
    ]


def test_outliers_behind_a_norm_go_into_weights() -> None:
    torch.manual_seed(0)
    net = Residual(False).eval()
    with torch.no_grad():
        net.norm.weight[[1, 6]] *= 100
        net.up.weight[:, [1, 6]] /= 100
    x = np.random.default_rng(1).standard_normal((96, 6, 8)).astype(np.float32)
    plain, _ = decibels(net, x, smooth=False, bias_correction=False, method="minmax")
    smooth, told = decibels(net, x)
    assert smooth > plain + 6
    (entry,) = [each for each in told["smoothed"] if not each["at_run_time"]]
    assert entry["signal_to_error_db"][1] > entry["signal_to_error_db"][0] + 10 and len(entry["layers"]) == 1


def test_gains_of_channels_are_equalised() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3, groups=16), nn.ReLU(), nn.Conv2d(16, 8, 1), nn.Flatten(), nn.Linear(200, 5)
    ).eval()  # fmt: skip
    gains = torch.exp2(torch.empty(16).uniform_(-6, 6))
    with torch.no_grad():
        net[0].weight.mul_(gains.reshape(-1, 1, 1, 1)), net[0].bias.mul_(gains)
        net[2].weight.div_(gains.reshape(-1, 1, 1, 1))
    x = np.random.default_rng(1).standard_normal((96, 3, 9, 9)).astype(np.float32)
    plain, _ = decibels(net, x, smooth=False, bias_correction=False, method="minmax")
    smooth, told = decibels(net, x)
    assert smooth > plain + 10 and smooth > 30
    again, same = decibels(net, x)
    assert (again, same) == (smooth, told)  # nothing hangs on the run


def test_layers_without_a_bias_get_one_where_their_means_move() -> None:
    """Activations that are clipped have another mean."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(32, 16, bias=False), nn.ReLU(), nn.Linear(16, 4, bias=False)).eval()
    x = np.abs(np.random.default_rng(1).standard_cauchy((96, 32))).astype(np.float32)
    _, told = decibels(net, x, smooth=False, method="percentile")
    assert told["bias_corrected"]
    for each in told["bias_corrected"]:
        assert each["signal_to_error_db"][1] >= each["signal_to_error_db"][0]
    off, none = decibels(net, x, smooth=False, method="percentile", bias_correction=False)
    assert none["bias_corrected"] == [] and np.isfinite(off)
