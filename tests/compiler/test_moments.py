"""What layers read, seen from inside of the compiled model: against torch's own unfold."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from maas_rt.compiler._configs import CompileOptions, VerifyOptions
from maas_rt.compiler._pipeline import _build_here
from maas_rt.compiler.compression import _moments
from maas_rt.compiler.compression._layers import layers
from maas_rt.compiler.compression._moments import second_moments, square_sums, weight_as_matrix, weight_from_matrix
from maas_rt.compiler.compression._observe import Observer
from maas_rt.compiler.compression._samples import Samples, input_types
from maas_rt.compiler.importers import import_model
from maas_rt.compiler.passes import FOLDING
from maas_rt.compiler.passes._rewrite import array_of
from torch import nn

NAMES = ("point", "strided", "grouped", "line", "head")


class Layers(nn.Module):
    """One of each kind of layer."""

    def __init__(self) -> None:
        super().__init__()
        self.point = nn.Conv2d(6, 6, 1)
        self.strided = nn.Conv2d(6, 8, 3, 2, 1)
        self.grouped = nn.Conv2d(8, 12, 3, 1, (1, 2), dilation=(1, 2), groups=2)
        self.line = nn.Conv1d(12, 6, 5, padding=2)
        self.head = nn.Linear(6, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.grouped(self.strided(self.point(x).relu()).relu()).relu()
        return self.head(self.line(x.flatten(2)).transpose(1, 2))


def columns(layer: nn.Module, x: torch.Tensor) -> np.ndarray:
    """[groups, depth, columns] of what a layer reads."""
    if isinstance(layer, nn.Linear):
        return x.reshape(1, -1, x.shape[-1]).transpose(1, 2).numpy()
    if isinstance(layer, nn.Conv1d):
        x, size, pad = x[:, :, None], (1, layer.kernel_size[0]), (0, int(layer.padding[0]))
        patches = nn.functional.unfold(x, size, padding=pad)
    else:
        assert isinstance(layer, nn.Conv2d)
        patches = nn.functional.unfold(x, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
    groups = int(layer.groups)
    batch, depth, places = patches.shape
    split = patches.reshape(batch, groups, depth // groups, places).permute(1, 2, 0, 3)
    return split.reshape(groups, depth // groups, -1).numpy()


@pytest.mark.parametrize("most_bytes", [1 << 30, 1])
def test_moments_are_those_of_the_columns(most_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of batches of different sizes; whether all are gathered at once or one after the other."""
    monkeypatch.setattr(_moments, "_most_bytes", lambda _: most_bytes)
    torch.manual_seed(0)
    net = Layers().eval()
    batch = torch.export.Dim("batch", min=1, max=8)
    model = import_model(torch.export.export(net, (torch.zeros(2, 6, 9, 9),), dynamic_shapes=({0: batch},)))
    mod = model.mod
    for _, stage in FOLDING:
        mod = stage(mod)
    data = [np.random.default_rng(i).standard_normal((1 + i % 2, 6, 9, 9)).astype(np.float32) for i in range(3)]
    samples = Samples([(x,) for x in data], input_types(model))
    observer = Observer(model, samples, lambda m: _build_here(m, m.mod, CompileOptions()), VerifyOptions())
    chosen = [layer.var for layer in layers(mod)]
    found, squares = dict(second_moments(mod, chosen, observer)), square_sums(mod, chosen, observer)
    read: dict[str, list[np.ndarray]] = {name: [] for name in NAMES}
    for name in NAMES:
        layer = getattr(net, name)
        layer.register_forward_pre_hook(
            lambda layer, given, name=name: read[name].append(columns(layer, given[0].detach()))
        )
    for x in data:
        net(torch.from_numpy(x))
    for var, name in zip(chosen, NAMES, strict=True):
        x = np.concatenate(read[name], -1).astype(np.float64)
        want = x @ x.transpose(0, 2, 1)
        assert found[var].columns == squares[var].columns == x.shape[-1]
        np.testing.assert_allclose(found[var].sums, want, rtol=1e-5, atol=1e-5 * np.abs(want).max())
        np.testing.assert_allclose(squares[var].sums, np.einsum("gii->gi", want), rtol=1e-5)
        np.testing.assert_allclose(found[var].magnitudes, np.abs(x).sum(2), rtol=1e-5)
        scale = np.random.default_rng(1).uniform(0.5, 2, x.shape[1])
        for moments, of in ((found[var], lambda x: x @ x.transpose(0, 2, 1)), (squares[var], lambda x: (x**2).sum(2))):
            scaled, y = moments.scaled(scale), x * scale[:, None]
            np.testing.assert_allclose(scaled.sums, of(y), rtol=1e-4, atol=1e-4 * np.abs(of(y)).max())
            np.testing.assert_allclose(scaled.totals, y.sum(2), atol=1e-4 * np.abs(y).sum())
            np.testing.assert_allclose(scaled.magnitudes, np.abs(y).sum(2), rtol=1e-4)


def test_a_weight_is_what_its_products_say() -> None:
    """Weights times columns are the layer's results; and the weight comes back from the matrix."""
    torch.manual_seed(0)
    net = Layers().eval()
    x = torch.randn(1, 6, 9, 9)
    mod = import_model(net, [x]).mod
    for _, stage in FOLDING:
        mod = stage(mod)
    values = {b.var: b.value for block in mod["main"].body.blocks for b in block.bindings}
    for layer, name in zip(layers(mod), NAMES, strict=True):
        value, torch_layer = values[layer.var], getattr(net, name)
        matrix = weight_as_matrix(value)
        given = torch.randn(1, 6, 4 if name == "head" else 9, 9)
        if name in ("line", "head"):
            given = torch.randn(1, 12, 9) if name == "line" else torch.randn(4, 6)
        elif name == "grouped":
            given = torch.randn(1, 8, 9, 9)
        with torch.no_grad():
            want = torch_layer(given).numpy() - _bias(torch_layer, given)
        got = matrix @ columns(torch_layer, given)
        got = got[0].T if name == "head" else got.reshape(want.shape)
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(weight_from_matrix(value, matrix), array_of(value.args[1]))


def _bias(layer: nn.Module, given: torch.Tensor) -> np.ndarray:
    return np.asarray(layer(torch.zeros_like(given)).detach().numpy())
