"""Quantization-aware training: the paper's gradients, and a compiled model that computes what was trained."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from maas_rt.compiler.train import TrainOptions, finish, left_in_float, prepare_qat, train
from torch import nn

import maas_rt
from maas_rt import compiler
from tests.compiler import _train_ranks as ranks


class Image(nn.Module):
    """Convolutions of each kind with batch norms, a residual, a product."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first, self.norm1 = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.depth, self.norm2 = nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.BatchNorm2d(16)
        self.point, self.out = nn.Conv2d(16, 24, 1), nn.Linear(24, 10)
        for norm in (self.norm1, self.norm2):
            norm.running_mean.uniform_(-0.3, 0.3), norm.running_var.uniform_(0.5, 2)
            nn.init.uniform_(norm.weight, 0.5, 2), nn.init.uniform_(norm.bias, -0.5, 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm1(self.first(x)).relu()
        x = x + self.norm2(self.depth(x)).relu()
        return self.out(self.point(x).relu().mean((2, 3)))


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def compiled(module: nn.Module, x: torch.Tensor) -> tuple[np.ndarray[Any, Any], Counter[str]]:
    artifact = compiler.compile(module, (x,), verify=False)  # the tests compare it themselves
    targets = Counter(step.target for block in artifact.linear.plan.blocks for step in block.steps)
    return maas_rt.load(artifact.to_bytes(), threads=1)(x.numpy()), targets


def lsq(v: np.ndarray[Any, Any], s: float, low: int, high: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]:  # fmt: skip
    """Esser et al. 2020, equations 1 to 3 and 5: the value, its derivative by s and that by v."""
    clipped = np.clip(v / s, low, high)
    inside = (v / s > low) & (v / s < high)
    by_scale = np.where(inside, np.rint(v / s) - v / s, np.where(v / s <= low, low, high))
    return np.rint(clipped) * s, by_scale, inside.astype(np.float64)


def test_scales_learn_by_the_formula_of_the_paper() -> None:
    layer = nn.Linear(6, 3, bias=False)
    layer.weight.data = draw(3, 6)
    model = prepare_qat(nn.Sequential(layer), draw(5, 6, seed=1), weight_bits=4)
    found = model[0]
    scales = found.weight_quantizer.scale.detach().numpy().astype(np.float64)
    w = layer.weight.detach().numpy().astype(np.float64)
    np.testing.assert_allclose(scales, np.minimum(2 * np.abs(w).mean(1) / np.sqrt(7), np.abs(w).max(1) / 7), rtol=1e-6)
    found.weight_quantizer.scale.data *= 0.8  # so that some are cut off
    gradient = draw(3, 6, seed=2)
    (found.weight_quantizer(layer.weight) * gradient).sum().backward()
    for row in range(3):
        value, by_scale, by_value = lsq(w[row], 0.8 * scales[row], -7, 7)
        g = gradient[row].numpy().astype(np.float64)
        np.testing.assert_allclose(found.weight_quantizer(layer.weight)[row].detach(), value, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found.weight_quantizer.scale.grad[row], (g * by_scale).sum() / np.sqrt(6 * 7), rtol=1e-4, atol=1e-5)  # fmt: skip
        np.testing.assert_allclose(layer.weight.grad[row], g * by_value, rtol=1e-6)


def test_activations_learn_scale_and_zero_point() -> None:
    model = prepare_qat(nn.Sequential(nn.Linear(6, 3)), draw(50, 6))
    q = model[0].input_quantizer
    s, z, high = q.scale.item(), round(q.zero.item()), 255
    v = torch.cat([draw(5, 6, seed=1), 20 * draw(1, 6, seed=2)]).requires_grad_()
    q(v).sum().backward()
    x = v.detach().numpy().astype(np.float64)
    _, by_scale, by_value = lsq(x, s, -z, high - z)
    np.testing.assert_allclose(q.scale.grad.item(), by_scale.sum() / np.sqrt(6 * 255), rtol=1e-4)
    np.testing.assert_allclose(v.grad, by_value)
    outside = (by_value == 0).sum()
    np.testing.assert_allclose(q.zero.grad.item(), -s * outside / np.sqrt(6 * 255), rtol=1e-4)
    relu = prepare_qat(nn.Sequential(nn.ReLU(), nn.Linear(6, 3)), draw(50, 6))[1].input_quantizer
    assert relu.zero.item() == 0 and not relu.zero.requires_grad


@pytest.mark.parametrize("bits", [7, 8])
def test_the_compiled_model_is_the_fake_quantized_one(bits: int) -> None:
    x, y = draw(64, 3, 12, 12), torch.arange(64) % 10
    model = prepare_qat(Image(), x, activation_bits=bits)
    options = TrainOptions(epochs=2, batch=16, lr=2e-3, optimizer="adam")
    begun = {n: p.detach().clone() for n, p in model.named_parameters() if "quantizer" in n}
    train(model, (x, y), nn.functional.cross_entropy, options)
    moved = [n for n, p in model.named_parameters() if n in begun and not torch.equal(p, begun[n])]
    assert len(moved) >= 8, moved
    learned = model.eval()(x[:8]).detach()
    finished = finish(model)
    torch.testing.assert_close(finished(x[:8]).detach(), learned, rtol=0, atol=0)
    assert not any("quantizer" in name for name, _ in finished.named_parameters())
    got, targets = compiled(finished, x[:8])
    assert targets["conv2d_u8s8"] == 1 and targets["depthwise_conv2d_u8s8"] == 1 and targets["gemm_u8s8"] == 2
    step = float(np.ptp(learned.numpy())) / 255
    assert np.abs(got - learned.numpy()).max() < step / 1000


def test_a_batch_that_varies() -> None:
    """torch has no rule for the shape of a fake quantization whose scale is a tensor."""
    x = draw(64, 3, 12, 12)
    finished = finish(prepare_qat(Image(), x))
    artifact = compiler.compile(finished, {"x": x[:2]}, dynamic={"x": {0: (1, 8)}})
    for batch in (1, 5):
        want = finished(x[:batch]).detach().numpy()
        (got,) = artifact.loaded().run({"x": x[:batch].numpy()}).values()
        assert np.abs(got - want).max() < np.ptp(want) / 255e3


def test_other_dimensions_and_a_skipped_layer() -> None:
    torch.manual_seed(2)
    one = nn.Sequential(
        nn.Conv1d(4, 8, 3, padding=1), nn.ReLU(), nn.Conv1d(8, 8, 3), nn.Flatten(), nn.Linear(8 * 14, 5)
    )
    x = draw(3, 4, 16)
    finished = finish(prepare_qat(one, x, skip=("4",)))
    assert left_in_float(finished) == {"4": "skipped, or the example inputs do not reach it"}
    got, targets = compiled(finished, x)
    assert targets["gemm_f32"] == 1
    np.testing.assert_allclose(got, finished(x).detach(), atol=2e-3)
    three = finish(prepare_qat(nn.Sequential(nn.Conv3d(2, 4, 3), nn.ReLU()), draw(1, 2, 5, 6, 6)))
    np.testing.assert_allclose(compiled(three, draw(1, 2, 5, 6, 6))[0], three(draw(1, 2, 5, 6, 6)).detach(), atol=1e-5)


class Decoder(nn.Module):
    """Transposed convolutions: with a batch norm that goes into one, in groups (whose batch norm stays), to a size that is asked for."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.first, self.norm = nn.ConvTranspose2d(6, 12, 4, 2, 1, bias=False), nn.BatchNorm2d(12)
        self.groups, self.stays = nn.ConvTranspose2d(12, 8, 3, 2, 1, 1, groups=2), nn.BatchNorm2d(8)
        self.last = nn.ConvTranspose2d(8, 5, 2, 2)
        for norm in (self.norm, self.stays):
            norm.running_mean.uniform_(-0.3, 0.3), norm.running_var.uniform_(0.5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.first(x)).relu()
        x = self.stays(self.groups(x)).relu()
        return self.last(x, output_size=[x.shape[2] * 2 + 1, x.shape[3] * 2])


def test_transposed_convolutions_learn_and_compile_as_they_are() -> None:
    x = draw(8, 6, 4, 5)
    model = prepare_qat(Decoder(), x)
    assert isinstance(model.norm, nn.Identity) and isinstance(model.stays, nn.BatchNorm2d)
    assert left_in_float(model) == {}
    target = draw(8, 5, 33, 40, seed=1)
    model.eval()  # batch norms as they are
    loss = nn.functional.mse_loss(model(x), target)
    loss.backward()
    quantizers = [p for n, p in model.named_parameters() if "quantizer.scale" in n]
    assert len(quantizers) == 6 and all(p.grad is not None and p.grad.abs().max() > 0 for p in quantizers)
    finished = finish(model)
    got, targets = compiled(finished, x)
    assert targets["conv2d_u8s8"] + targets["gemm_u8s8"] == 3 and "conv_transpose2d_f32" not in targets
    want = finished(x).detach().numpy()
    assert np.abs(got - want).max() < np.ptp(want) / 255e3


@pytest.mark.parametrize("kind", [nn.ConvTranspose1d, nn.ConvTranspose3d])
def test_transposed_convolutions_of_other_dimensions(kind: Any) -> None:
    torch.manual_seed(5)
    x = draw(2, 4, *[4] * (1 if kind is nn.ConvTranspose1d else 3))
    finished = finish(prepare_qat(nn.Sequential(kind(4, 6, 3, 2), nn.ReLU()), x))
    np.testing.assert_allclose(compiled(finished, x)[0], finished(x).detach(), atol=1e-5)


def test_batch_norms_are_folded_and_names_stay() -> None:
    x, plain = draw(4, 3, 12, 12), Image().eval()
    before = plain(x).detach()
    names = {name for name, _ in plain.named_parameters() if "norm" not in name}
    model = prepare_qat(plain, x)
    assert isinstance(model.norm1, nn.Identity) and isinstance(model.norm2, nn.Identity)
    assert names <= {name for name, _ in model.named_parameters()}
    signal = before.std()
    assert (model(x).detach() - before).std() < 0.03 * signal


def test_a_layer_read_by_others_than_its_batch_norm_is_refused() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
            self.norm.running_var.fill_(4.0)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.conv(x)
            return y + self.norm(y)

    with pytest.raises(maas_rt.InvalidArgumentError, match="read by others"):
        prepare_qat(Twice(), draw(1, 3, 4, 4))


def test_layers_without_a_quantizer_are_named() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.attend, self.out = nn.LSTM(4, 4), nn.MultiheadAttention(4, 2), nn.Linear(4, 2)
            self.unused = nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.lstm(x)[0]
            return self.out(self.attend(x, x, x)[0])

    model = prepare_qat(Mixed(), draw(3, 2, 4))
    assert set(left_in_float(model)) == {"lstm", "attend", "unused"}
    assert "LSTM has no fake quantization" in left_in_float(model)["lstm"]


@pytest.mark.parametrize("weight", [torch.zeros(4, 4), torch.eye(4) * 1e-30])
def test_weights_of_zeros_and_constant_inputs(weight: torch.Tensor) -> None:
    layer = nn.Linear(4, 4)
    layer.weight.data = weight.clone()
    model = prepare_qat(nn.Sequential(layer), torch.zeros(2, 4))
    model(draw(2, 4)).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    np.testing.assert_allclose(finish(model)(torch.zeros(1, 4)).detach()[0], layer.bias.detach())


def test_what_cannot_be_is_told() -> None:
    def bad(words: str, *arguments: Any, **named: Any) -> None:
        with pytest.raises(maas_rt.InvalidArgumentError, match=words):
            prepare_qat(*arguments, **named)

    bad("weight_bits is 9", nn.Linear(2, 2), draw(1, 2), weight_bits=9)
    bad("activation_bits 6", nn.Linear(2, 2), draw(1, 2), activation_bits=6)
    bad("no layer can be quantized", nn.Sequential(nn.ReLU()), draw(1, 2))
    bad("no layer can be quantized", nn.Sequential(nn.Linear(2, 2)), draw(1, 2), skip=("0",))
    bad("expected finite numbers", nn.Sequential(nn.Linear(2, 2)), torch.full((1, 2), float("nan")))
    bad("prepared already", prepare_qat(nn.Sequential(nn.Linear(2, 2)), draw(1, 2)), draw(1, 2))
    with pytest.raises(maas_rt.InvalidArgumentError, match="no quantized layers"):
        finish(nn.Linear(2, 2))


def test_scales_go_on_with_a_run(tmp_path: Any) -> None:
    def go(steps: int) -> dict[str, torch.Tensor]:
        model = prepare_qat(ranks.net(), ranks.data()[0])
        options = TrainOptions(steps=steps, batch=16, lr=1e-2, checkpoint=tmp_path / str(steps > 5), every=5)
        return dict(train(model, ranks.data(), ranks.LOSS, options).state)

    whole = go(10)
    (tmp_path / "True").rename(tmp_path / "kept")
    (tmp_path / "False").mkdir()
    go(5)
    (tmp_path / "False").rename(tmp_path / "True")
    again = go(10)
    assert all(torch.equal(again[name], value) for name, value in whole.items())
