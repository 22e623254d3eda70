"""torch's quantization: fake_quantize of training and PT2E's operators, as the kernels on weights and activations of 8 bits."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.ao.quantization.fx._decomposed
import torch.nn.functional as F
from maas_rt.compiler import compile as compile_model
from torch import nn

import maas_rt

fake, fake_channels = torch.fake_quantize_per_tensor_affine, torch.fake_quantize_per_channel_affine
pt2e = torch.ops.quantized_decomposed
K, N = 96, 80


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


class Layer(nn.Module):
    """function(x, buffers by name)"""

    def __init__(self, function: Callable[..., Any], **buffers: torch.Tensor) -> None:
        super().__init__()
        self.function = function
        for name, value in buffers.items():
            self.register_buffer(name, value)

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(x, **dict(self.named_buffers()))


def steps(module: nn.Module, x: torch.Tensor) -> tuple[Counter[str], int]:
    """What it is compiled to (and verified), and the bytes of its weights."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        artifact = compile_model(module.eval(), (x,))
    program = maas_rt.load(artifact.to_bytes(), threads=1)
    got = program.run({program.inputs[0].name: x.numpy()})
    want = module(x).detach().numpy()
    (y,) = got.values()
    assert np.abs(y - want).max() <= 1e-5 * np.abs(want).max()
    targets = Counter(s.target for block in artifact.linear.plan.blocks for s in block.steps)
    return targets, artifact.linear.weights.size


SCALES = torch.rand(N, generator=torch.Generator().manual_seed(2)) * 0.01 + 0.01
ZEROS = torch.zeros(N, dtype=torch.int32)
W = draw(N, K)
INT8 = torch.randint(-127, 128, (N, K), dtype=torch.int8, generator=torch.Generator().manual_seed(3))


def _weights_only(x: torch.Tensor, w: torch.Tensor, s: torch.Tensor, z: torch.Tensor) -> Any:
    return F.linear(x, fake_channels(w, s, z, 0, -127, 127))


def _static(x: torch.Tensor, w: torch.Tensor, s: torch.Tensor, z: torch.Tensor, b: torch.Tensor) -> Any:
    w = pt2e.dequantize_per_channel(w, s, z, 0, -127, 127, torch.int8)
    b = pt2e.dequantize_per_tensor(b, 1e-4, 0, -(2**31), 2**31 - 1, torch.int32)
    x = pt2e.dequantize_per_tensor(
        pt2e.quantize_per_tensor(x, 0.03, 3, -128, 127, torch.int8), 0.03, 3, -128, 127, torch.int8
    )
    y = pt2e.quantize_per_tensor(torch.relu(F.linear(x, w, b)), 0.5, -128, -128, 127, torch.int8)
    return pt2e.dequantize_per_tensor(y, 0.5, -128, -128, 127, torch.int8)


def _dynamic(x: torch.Tensor, w: torch.Tensor, s: torch.Tensor, z: torch.Tensor) -> Any:
    scale, zero = pt2e.choose_qparams(x, 0, 255, torch.finfo(torch.float32).eps, torch.uint8)
    q = pt2e.quantize_per_tensor(x, scale, zero, 0, 255, torch.uint8)
    x = pt2e.dequantize_per_tensor(q, scale, zero, 0, 255, torch.uint8)
    return F.linear(x, pt2e.dequantize_per_channel(w, s, z, 0, -127, 127, torch.int8))


def _tokens(x: torch.Tensor, w: torch.Tensor, s: torch.Tensor, z: torch.Tensor) -> Any:
    scale, zero = pt2e.choose_qparams_per_token_asymmetric(x, torch.int8)
    q = pt2e.quantize_per_token(x, scale, zero, -128, 127, torch.int8)
    x = pt2e.dequantize_per_token(q, scale, zero, -128, 127, torch.int8, torch.float32)
    return F.linear(x, pt2e.dequantize_per_channel(w, s, z, 0, -127, 127, torch.int8))


def _symmetric(x: torch.Tensor, w: torch.Tensor, s: torch.Tensor, z: torch.Tensor) -> Any:
    scale, zero = pt2e.choose_qparams_symmetric(x, -127, 127, torch.finfo(torch.float32).eps, torch.int8)
    q = pt2e.quantize_per_tensor(x, scale, zero, -127, 127, torch.int8)
    x = pt2e.dequantize_per_tensor(q, scale, zero, -127, 127, torch.int8)
    return F.linear(x, pt2e.dequantize_per_channel(w, s, z, 0, -127, 127, torch.int8))


def _rows(x: torch.Tensor, w: torch.Tensor, s: torch.Tensor, z: torch.Tensor) -> Any:
    """Int8DynamicActivationInt8Weight as torchao exports it for a CPU."""
    scale = (x.abs().amax(-1, keepdim=True) / 127.5).clamp(min=1e-7)
    q = torch.clamp(torch.round(x / scale), -128, 127).to(torch.int8)
    acc = torch._int_mm((q.to(torch.int32) + 128).to(torch.uint8), w.t())
    acc = acc - w.t().sum(0, keepdim=True, dtype=torch.int32) * 128
    return acc.to(torch.float32) * scale * s


def _float_zero(x: torch.Tensor, w: torch.Tensor, s: torch.Tensor, z: torch.Tensor) -> Any:
    """A zero point for each row that stays a float, and weights that int8 does not hold less theirs."""
    low, high = x.amin(-1, keepdim=True).clamp(max=0), x.amax(-1, keepdim=True).clamp(min=0)
    scale = (high - low) / 255
    zero = torch.round(-low / scale).clamp(0, 255)
    q = torch.clamp(torch.round(x / scale) + zero, 0, 255).to(torch.uint8)
    return F.linear(scale * (q.float() - zero), pt2e.dequantize_per_channel(w, s, z + 5, 0, -127, 127, torch.int8))


def _unbounded(x: torch.Tensor, w: torch.Tensor, s: torch.Tensor, z: torch.Tensor) -> Any:
    """Right, if slowly: a zero point of 300 or more would not be what a byte says."""
    zero = (x[:, :1] * 200).round().to(torch.int32)
    q = (x * 20).round().clamp(0, 255).to(torch.uint8)
    return F.linear(
        (q.to(torch.float32) - zero.float()) * 0.05, pt2e.dequantize_per_channel(w, s, z, 0, -127, 127, torch.int8)
    )


GROUPS = {"w": INT8 % 8, "s": torch.rand(N, 3), "z": torch.zeros(N, 3)}
STORED = {"w": INT8, "s": SCALES, "z": ZEROS}
FLOATS = {"w": W, "s": SCALES, "z": ZEROS}

# name -> function, buffers, the product, bits of a weight
PRODUCTS: dict[str, tuple[Callable[..., Any], dict[str, torch.Tensor], str, int]] = {
    "weights": (_weights_only, FLOATS, "gemm_f32q", 8),
    "weights of 4 bits, scales computed": (
        lambda x, w, s, z: F.linear(x, fake_channels(w * 2, s * 10, z, 0, -8, 7)), FLOATS, "gemm_f32q", 4,
    ),
    "both": (lambda x, w, s, z: _weights_only(fake(x, 0.03, 120, 0, 255), w, s, z), FLOATS, "gemm_u8s8", 8),
    "both, 7 bits": (lambda x, w: F.linear(fake(x, 0.05, 60, 0, 127), fake(w, 0.02, 0, -128, 127)), {"w": W}, "gemm_u8s8", 8),
    "parameters in tensors": (
        lambda x, w, t, i: F.linear(fake(x, t, i, 0, 255), fake(w, t, i * 0, -128, 127)),
        {"w": W, "t": torch.tensor(0.03), "i": torch.tensor(120, dtype=torch.int32)}, "gemm_u8s8", 8,
    ),
    "learned": (
        lambda x, w, t, z, s: F.linear(
            torch._fake_quantize_learnable_per_tensor_affine(x, t, z, 0, 255, 1.0),
            torch._fake_quantize_learnable_per_channel_affine(w, s, s * 30, 0, -127, 127, 1.0),
        ),
        {"w": W, "t": torch.tensor([0.03]), "z": torch.tensor([120.3]), "s": SCALES}, "gemm_u8s8", 8,
    ),
    "16 bits stay floats": (lambda x, w: F.linear(fake(x, 1e-4, 0, -32768, 32767), w), {"w": W}, "gemm_f32", 32),
    "pt2e": (_static, {**STORED, "b": torch.arange(N, dtype=torch.int32) * 9 - 300}, "gemm_u8s8", 8),
    "pt2e, dynamic": (_dynamic, STORED, "gemm_u8s8", 8),
    "pt2e, dynamic and symmetric": (_symmetric, STORED, "gemm_u8s8", 8),
    "pt2e, tokens": (_tokens, STORED, "gemm_u8s8", 8),
    "torchao, rows": (_rows, STORED, "gemm_u8s8", 8),
    "by hand, zero points in floats": (_float_zero, STORED, "gemm_u8s8", 8),
    "torchao, weights": (lambda x, w, s, z: (x @ w.t().to(x.dtype)) * s, STORED, "gemm_f32q", 8),
    "torchao, zero points": (
        lambda x, w, s, z: F.linear(x, (w.float() - z.float()[:, None]) * s[:, None]), {**STORED, "z": INT8[:, 0] // 2}, "gemm_f32q", 8,
    ),
    "no whole zero point": (lambda x, w, s, z: F.linear(x, (w.float() - 0.5) * s[:, None]), STORED, "gemm_f32", 32),
    "a zero point that 8 bits may not hold": (_unbounded, STORED, "gemm_f32q", 8),
    "pt2e, groups": (
        lambda x, w, s, z: F.linear(x, pt2e.dequantize_per_channel_group(w, s, z, -8, 7, torch.int8, 32, torch.float32)),
        GROUPS, "gemm_f32q", 4,
    ),
    "by hand": (lambda x, w, s, z: F.linear(x, w.to(x.dtype)) * s, STORED, "gemm_f32q", 8),
}  # fmt: skip


@pytest.mark.parametrize("name", PRODUCTS)
def test_products(name: str) -> None:
    function, buffers, kernel, bits = PRODUCTS[name]
    found, size = steps(Layer(function, **buffers), draw(4, K))
    assert found[kernel] == 1, found
    assert size < K * N * bits // 8 + 3000


def test_groups_with_so_many_zero_points_that_these_could_be_weights() -> None:
    """dequantize_affine, as torchao's IntxWeightOnly exports it."""
    w, zero = (torch.randint(-8, 8, shape, dtype=torch.int8) for shape in ((512, 3, 32), (512, 3, 1)))
    scale = torch.rand(512, 3, 1) * 0.01 + 0.01
    layer = Layer(lambda x, w, s, z: F.linear(x, ((w.float() - z.float()) * s).reshape(512, 96)), w=w, s=scale, z=zero)
    found, size = steps(layer, draw(4, 96))
    assert found["gemm_f32q"] == 1 and size < 512 * (96 // 2 + 3 * 5) + 3000


def test_sums_of_large_weights_are_no_step_of_a_run() -> None:
    """Int8DynamicActivationInt8Weight subtracts the columns' sums, which a run would need the weights once more for."""
    w = torch.randint(-127, 128, (320, 256), dtype=torch.int8)
    found, size = steps(Layer(_rows, w=w, s=torch.rand(320) * 0.01 + 0.01, z=torch.zeros(320)), draw(4, 256))
    assert found["gemm_u8s8"] == 1 and size < 1.5 * 320 * 256


def test_activations_by_channels() -> None:
    steps(Layer(lambda x, s, z: fake_channels(x, s, z, 1, -127, 127), s=torch.rand(K) * 0.01 + 0.01, z=torch.zeros(K, dtype=torch.int32)), draw(4, K))  # fmt: skip


def test_a_layer_of_quantization_aware_training() -> None:
    """Convolution, batch norm and relu as torch's own QAT module; observers switched off as for an export."""
    from torch.ao import quantization as q

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.c, self.b, self.r, self.d = q.QuantStub(), nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), q.DeQuantStub()  # fmt: skip

        def forward(self, x: torch.Tensor) -> Any:
            return self.d(self.r(self.b(self.c(self.q(x)))))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = Net().train()
        net.qconfig = q.get_default_qat_qconfig("fbgemm")
        net = q.prepare_qat(q.fuse_modules_qat(net, [["c", "b", "r"]]))
    net(draw(2, 3, 12, 12))
    with pytest.raises(maas_rt.UnsupportedOperatorError, match="disable_observer"):
        compile_model(net.eval(), (draw(2, 3, 12, 12),))
    net.apply(q.disable_observer)
    found, _ = steps(net, draw(2, 3, 12, 12))
    assert found["conv2d_u8s8"] == 1
    net.apply(q.disable_fake_quant)
    found, _ = steps(net, draw(2, 3, 12, 12))
    assert found["conv2d_f32"] == 1


@pytest.mark.parametrize("kind", ["Linear", "LSTM", "GRU"])
def test_weights_that_torch_packed_are_refused_by_name(kind: str) -> None:
    """torch.ao.quantization.quantize_dynamic: torch.export cannot read them."""
    part = nn.Linear(8, 8) if kind == "Linear" else getattr(nn, kind)(8, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = torch.ao.quantization.quantize_dynamic(nn.Sequential(part), {type(part)}, dtype=torch.qint8)
        with pytest.raises(maas_rt.Error, match=rf"^0 \(torch.ao.nn.quantized.dynamic.{kind}\) .* PT2E"):
            compile_model(model, (draw(3, 2, 8),))
