"""Transposed convolutions as convolutions of sub-pixels: the same numbers, whatever stride, padding and groups; on 8 bits in recipes and in
models that arrive quantized."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from maas_rt.compiler import Int8, Recipe
from maas_rt.compiler import compile as compile_model
from maas_rt.compiler.passes._rewrite import array_of
from maas_rt.compiler.passes.sub_pixels import SubPixels, as_sub_pixels
from torch import nn
from tvm import relax

import maas_rt
from tests.compiler._interpret import run_lowered
from tests.compiler._lowering import build, const, lower, symbol
from tests.compiler.test_quantized import RNG, Qdq, runs

_TORCH = {1: nn.functional.conv_transpose1d, 2: nn.functional.conv_transpose2d, 3: nn.functional.conv_transpose3d}
_RELAX = {1: relax.op.nn.conv1d_transpose, 2: relax.op.nn.conv2d_transpose, 3: relax.op.nn.conv3d_transpose}


def numbers(*shape: int, seed: int = 0) -> Any:
    array = array_of(const(*shape, seed=seed))
    assert array is not None
    return array


def transposed(x: relax.Expr, weight: relax.Expr, axes: int, **attrs: Any) -> relax.Expr:
    return _RELAX[axes](x, weight, **attrs)


@settings(deadline=None, max_examples=15)
@given(st.data())
def test_the_convolution_of_sub_pixels_is_the_transposed_one(data: st.DataObject) -> None:
    axes = data.draw(st.integers(1, 3))

    def draw(low: int, high: int) -> list[int]:
        return data.draw(st.lists(st.integers(low, high), min_size=axes, max_size=axes))

    kernel, strides, size = draw(1, 5 if axes < 3 else 3), draw(1, 3), draw(1, 5)
    padding = [data.draw(st.integers(0, k - 1)) for k in kernel]
    extra = [data.draw(st.integers(0, s - 1)) for s in strides]
    extents = [(n - 1) * s - 2 * p + k + e for n, s, p, k, e in zip(size, strides, padding, kernel, extra)]
    assume(min(extents) > 0)
    groups, inner, outer = (data.draw(st.integers(1, 3)) for _ in range(3))
    attrs = {"strides": strides, "padding": [*padding, *padding], "output_padding": extra, "groups": groups}

    def body(emit: Any, x: relax.Expr) -> relax.Expr:
        y = emit(transposed(x, const(groups * inner, outer, *kernel), axes, **attrs))
        bias = const(1, groups * outer, *[1] * axes, seed=1)
        return emit(relax.op.nn.relu(emit(relax.op.add(y, bias))))

    mod = build(body, [2, groups * inner, *size])
    variables = {b.var for block in mod["main"].body.blocks for b in block.bindings}
    changed = as_sub_pixels(mod, variables)
    assume(math.prod(strides) * math.prod(-(-k // s) for k, s in zip(kernel, strides)) <= 4 * math.prod(kernel))
    assert "transpose(" not in str(changed) and "_transpose" not in str(changed)
    x = np.random.default_rng(2).standard_normal((2, groups * inner, *size)).astype(np.float32)
    (got,) = run_lowered(lower(changed), [x])
    weight = torch.from_numpy(numbers(groups * inner, outer, *kernel))
    want = _TORCH[axes](torch.from_numpy(x), weight, None, strides, padding, extra, groups)
    bias = torch.from_numpy(numbers(1, groups * outer, *[1] * axes, seed=1))
    np.testing.assert_allclose(got, (want + bias).relu().numpy(), rtol=0, atol=2e-5)


def test_each_sub_pixel_has_its_own_taps() -> None:
    """By hand: y[2 m + r] = x[m] w[r] + x[m - 1] w[r + 2], the filter of three taps filled up with a 0."""
    x = relax.Var("x", relax.TensorType([1, 1, 4], "float32"))
    taps = np.array([[[1, 2, 3]]], np.float32)
    call = relax.BlockBuilder().normalize(relax.op.nn.conv1d_transpose(x, relax.const(taps), 2))
    way = SubPixels.of(call)
    assert isinstance(way, SubPixels)
    assert (way.taps, way.before, way.after, way.crop) == ((2,), (1,), (1,), (0,))
    assert way.filters(taps).tolist() == [[[3, 1]], [[0, 2]]]
    assert way.channels(np.array([[7.0]])).tolist() == [7, 7]


@pytest.mark.parametrize(
    ("attrs", "kernel", "reason"),
    [
        ({"dilation": [2, 2]}, 3, "its taps are dilated"),
        ({"strides": [5, 5]}, 2, "its stride leaves most of the result without a tap"),
        ({"padding": [2, 2]}, 2, "its padding is wider than its filter"),
    ],
)
def test_what_is_none_says_why(attrs: dict[str, Any], kernel: int, reason: str) -> None:
    x = relax.Var("x", relax.TensorType([1, 4, 9, 9], "float32"))
    call = relax.op.nn.conv2d_transpose(x, const(4, 4, kernel, kernel), **attrs)
    assert SubPixels.of(relax.BlockBuilder().normalize(call)) == reason


class Up(nn.Module):
    """From few pixels to many, as decoders do."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.twice = nn.ConvTranspose2d(16, 16, 4, 2, 1, bias=False)
        self.again = nn.ConvTranspose2d(16, 12, 2, 2)
        self.groups = nn.ConvTranspose2d(12, 12, 3, 2, 1, 1, groups=2)
        self.last = nn.Conv2d(12, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.twice(self.first(x).relu())).relu()
        return self.last(self.groups(self.again(x)).relu())


def result(session: Any, x: torch.Tensor) -> Any:
    (value,) = session.run({session.inputs[0].name: x.numpy()}).values()
    return value


def counts(artifact: Any) -> Counter[str]:
    return Counter(s.target for block in artifact.linear.plan.blocks for s in block.steps)


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_recipe_has_them_on_8_bits(dynamic: bool) -> None:
    torch.manual_seed(0)
    net, x = Up().eval(), torch.randn(8, 1, 3, 6, 7)
    sizes = {"x": {2: (2, 32), 3: (2, 32)}} if dynamic else None
    artifact = compile_model(net, [x[0]], recipe=Recipe(quantize=Int8(x.numpy())), dynamic=sizes)
    quantize = artifact.manifest["recipe"]["quantize"]
    assert (quantize["layers"], quantize["float_layers"]) == (5, [])
    kernels = counts(artifact)
    assert kernels["conv2d_u8s8"] + kernels["gemm_u8s8"] == 5 and "conv_transpose2d_f32" not in kernels
    session = maas_rt.load(artifact.to_bytes())
    with torch.no_grad():
        want = net(x[:, 0]).numpy()
    got = np.concatenate([result(session, each) for each in x])
    assert 10 * np.log10((want**2).sum() / ((want - got) ** 2).sum()) > 35


@pytest.mark.parametrize("axes", [1, 3])
def test_over_other_numbers_of_axes(axes: int) -> None:
    torch.manual_seed(0)
    kind = {1: nn.ConvTranspose1d, 3: nn.ConvTranspose3d}[axes]
    net, x = (
        nn.Sequential(kind(6, 8, 4, 2, 1), nn.ReLU(), kind(8, 5, 3, 1, 1)).eval(),
        torch.randn(6, 1, 6, *[4] * axes),
    )
    artifact = compile_model(net, [x[0]], recipe=Recipe(quantize=Int8(x.numpy())))
    assert artifact.manifest["recipe"]["quantize"]["layers"] == 2
    with torch.no_grad():
        want = net(x[:, 0]).numpy()
    session = maas_rt.load(artifact.to_bytes())
    got = np.concatenate([result(session, each) for each in x])
    assert 10 * np.log10((want**2).sum() / ((want - got) ** 2).sum()) > 35


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
@pytest.mark.parametrize("per_channel", [True, False])
def test_quantized_models_have_them_on_8_bits(dtype: type, per_channel: bool) -> None:
    zero = 128 if dtype is np.uint8 else 0
    q = Qdq(dtype, per_channel)
    x = q.quantized("x", 0.02, zero)
    y = q.add("ConvTranspose", f"{x} {q.weight(8, 12, 4, 4, axis=1)} {q.bias(12)}", strides=[2, 2], pads=[1, 1, 1, 1])
    y = q.quantized(q.add("Relu", y), 0.05, zero)
    y = q.add("ConvTranspose", f"{y} {q.weight(12, 5, 3, 3, axis=1)}", strides=[2, 1], pads=[1, 0, 0, 1], group=2)
    y = q.quantized(y, 0.05, zero)
    y = q.quantized(q.add("Conv", f"{y} {q.weight(16, 10, 1, 1)}"), 0.05, zero)
    image = RNG.standard_normal((2, 8, 7, 9)).astype(np.float32)
    runs(q.proto([2, 8, 7, 9], y), image, 0.05, {"conv2d_u8s8": 2, "gemm_u8s8": 1, "conv_transpose2d_f32": 0})


def test_of_any_size() -> None:
    """Extents that a run decides."""
    h, w = symbol("h"), symbol("w")

    def body(emit: Any, x: relax.Expr) -> relax.Expr:
        return emit(transposed(x, const(4, 4, 4, 4), 2, strides=[2, 2], padding=[1, 1, 1, 1]))

    mod = build(body, [1, 4, h, w])
    changed = as_sub_pixels(mod, {b.var for block in mod["main"].body.blocks for b in block.bindings})
    assert "conv2d_transpose" not in str(changed)
    x = np.random.default_rng(0).standard_normal((1, 4, 5, 3)).astype(np.float32)
    (got,) = run_lowered(lower(changed), [x])
    weight = torch.from_numpy(numbers(4, 4, 4, 4))
    want = nn.functional.conv_transpose2d(torch.from_numpy(x), weight, None, 2, 1)
    np.testing.assert_allclose(got, want.numpy(), rtol=0, atol=2e-5)
