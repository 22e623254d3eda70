"""What a run quantizes: dynamic_quantize_u8 as ONNX defines it, and 8-bit products whose zero points and scales only a run knows.

The references against numpy, every ISA against the reference, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from maas_rt import Error, _kernels
from tests.kernels._support import isas_of

Array = NDArray[Any]
F = np.float32


def onnx_formula(x: Array) -> tuple[Array, Any, Any]:
    """DynamicQuantizeLinear's definition in float32; a NaN anywhere makes the scale one."""
    low, high = F(min(0, x.min(initial=0))), F(max(0, x.max(initial=0)))
    scale = F((high - low) / F(255))
    by = scale if scale else F(1)
    zero = np.rint(np.clip(-low / by, F(0), F(255)))
    return np.clip(np.rint(x / by) + zero, 0, 255).astype(np.uint8), scale, np.uint8(zero)


def quantized(x: Array, isa: str, threads: int = 1) -> list[Array]:
    outputs = [(x.shape, np.uint8), ((), np.float32), ((), np.uint8)]
    return _kernels.run("dynamic_quantize_u8", [x], outputs, {}, isa=isa, threads=threads)


@pytest.mark.parametrize("n", [0, 1, 3, 4, 5, 8, 15, 16, 17, 31, 33, 63, 64, 65, 127, 200, 70001])
@pytest.mark.parametrize("kind", ["normal", "positive", "negative", "zeros", "ties", "wide"])
def test_is_the_formula(n: int, kind: str) -> None:
    rng = np.random.default_rng(n)
    x = rng.normal(0, 1, n).astype(F)
    if kind in ("positive", "negative"):
        x = np.abs(x) * (1 if kind == "positive" else -1)
    elif kind == "zeros":
        x[:] = 0
    elif kind == "ties":  # the range is 0 to 255: every half is a tie
        x = (rng.integers(0, 511, n) / 2).astype(F)
        x[:2] = [0, 255][:n]
    elif kind == "wide":
        x = (x * 10.0 ** rng.uniform(-38, 37, n)).astype(F)
    want = onnx_formula(x)
    for isa in ["reference", *isas_of("dynamic_quantize_u8")]:
        for threads in (1, 2):
            for got, expected in zip(quantized(x, isa, threads), want, strict=True):
                np.testing.assert_array_equal(got, expected, err_msg=isa)


def test_a_nan_is_not_lost() -> None:
    for place in (0, 5, 40, 99):
        x = np.ones(100, F)
        x[place] = np.nan
        for isa in ["reference", *isas_of("dynamic_quantize_u8")]:
            assert np.isnan(quantized(x, isa)[1]), isa


# ---- products


def product(
    contract: str, inputs: list[Any], shape: tuple[int, ...], dtype: type, attrs: dict[str, Any], want: Array
) -> None:
    for isa in ["reference", *isas_of(contract)]:
        for threads in (1, 2):
            (got,) = _kernels.run(contract, inputs, [(shape, dtype)], attrs, isa=isa, threads=threads)
            np.testing.assert_array_equal(got, want, err_msg=isa)


@pytest.mark.parametrize("k", [1, 3, 4, 7, 16, 33, 64, 260, 1541])
@pytest.mark.parametrize(("m", "n"), [(1, 16), (2, 5), (3, 33), (9, 17), (101, 48)])
@pytest.mark.parametrize("zeros", [False, True])
def test_gemm(k: int, m: int, n: int, zeros: bool) -> None:
    rng = np.random.default_rng(k + m)
    a, w = rng.integers(0, 256, (m, k)).astype(np.uint8), rng.integers(-128, 128, (k, n)).astype(np.int8)
    a_zero, a_scale = np.array(rng.integers(0, 256), np.uint8), np.array(0.0173, F)
    w_zero = rng.integers(-128, 128, n).astype(np.int8) if zeros else None
    scale, bias = rng.uniform(0.5, 1, n).astype(F), rng.normal(0, 1, n).astype(F)
    sums = (a.astype(np.int64) - int(a_zero)) @ (w.astype(np.int64) - (w_zero.astype(np.int64) if zeros else 0))
    attrs = {"n": n, "k": k}
    packed = _kernels.pack("gemm_u8s8", "gemm_u8s8_nr16_v2", w, attrs)
    x = sums.astype(F) * (scale * a_scale)
    product("gemm_u8s8", [a, packed, scale, bias, None, a_scale, a_zero, w_zero], (m, n), F, attrs, x + bias)
    product("gemm_u8s8", [a, packed, scale, None, None, None, a_zero, w_zero], (m, n), np.int32, attrs, sums)
    relu = {**attrs, "act": "relu", "y_scale": 0.37, "y_zero": 3}
    inverse = F(1) / F(0.37)
    folded = np.clip(sums.astype(F) * (scale * a_scale * inverse) + bias * inverse, 0, 252)
    want = (np.rint(folded) + 3).astype(np.uint8)
    product("gemm_u8s8", [a, packed, scale, bias, None, a_scale, a_zero, w_zero], (m, n), np.uint8, relu, want)


def convolved(x: Array, w: Array, pad: int, stride: int, groups: int) -> Array:
    """NHWC by OIHW in int64; padding is 0."""
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    kh, kw = w.shape[2:]
    rows, columns = (x.shape[1] - kh) // stride + 1, (x.shape[2] - kw) // stride + 1
    per_in, per_out = w.shape[1], w.shape[0] // groups
    y = np.zeros((x.shape[0], rows, columns, w.shape[0]), np.int64)
    for o in range(w.shape[0]):
        channels = x[..., o // per_out * per_in :][..., :per_in]
        for i in range(kh):
            for j in range(kw):
                seen = channels[:, i : i + rows * stride : stride, j : j + columns * stride : stride][
                    :, :rows, :columns
                ]
                y[..., o] += seen @ w[o, :, i, j]
    return y


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize(
    ("channels", "out", "kernel", "pad", "stride", "groups"),
    [(3, 20, 3, 1, 2, 1), (16, 17, 3, 1, 1, 1), (32, 16, 1, 0, 2, 1), (12, 40, 3, 1, 1, 2), (5, 16, 3, 0, 1, 1)],
)
def test_conv2d(channels: int, out: int, kernel: int, pad: int, stride: int, groups: int, zeros: bool) -> None:
    rng = np.random.default_rng(channels)
    x = rng.integers(0, 256, (2, 9, 11, channels)).astype(np.uint8)
    w = rng.integers(-128, 128, (out, channels // groups, kernel, kernel)).astype(np.int8)
    a_zero, a_scale = np.array(119, np.uint8), np.array(0.0173, F)
    w_zero = rng.integers(-128, 128, out).astype(np.int8) if zeros else None
    centred = w.astype(np.int64) - (w_zero.astype(np.int64).reshape(-1, 1, 1, 1) if zeros else 0)
    sums = convolved(x.astype(np.int64) - 119, centred, pad, stride, groups)
    attrs = {"kernel": [kernel] * 2, "channels": [channels, out], "groups": groups, "pads": [pad] * 4}
    attrs["strides"] = [stride] * 2
    packed = _kernels.pack("conv2d_u8s8", "conv2d_u8s8_nr16_v2", w, attrs)
    scale = rng.uniform(0.5, 1, out).astype(F)
    want = sums.astype(F) * (scale * a_scale)
    product("conv2d_u8s8", [x, packed, scale, None, None, a_scale, a_zero, w_zero], want.shape, F, attrs, want)
    product("conv2d_u8s8", [x, packed, scale, None, None, None, a_zero, w_zero], want.shape, np.int32, attrs, sums)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("wide", [False, True])
def test_depthwise(stride: int, wide: bool) -> None:
    """`wide`: bytes less their zero point."""
    rng = np.random.default_rng(stride)
    x = rng.integers(0, 256, (2, 9, 11, 19)).astype(np.uint8)
    x[1] = 255
    w = rng.integers(-255, 256, (19, 1, 3, 3)).astype(np.int16) if wide else rng.integers(-128, 128, (19, 1, 3, 3))
    w[0] = w.max()
    a_zero, a_scale = np.array(77, np.uint8), np.array(0.0173, F)
    sums = convolved(x.astype(np.int64) - 77, w.astype(np.int64), 1, stride, 19)
    attrs = {"kernel": [3, 3], "channels": [19, 19], "groups": 19, "pads": [1] * 4, "strides": [stride] * 2}
    attrs["w_wide"] = int(wide)
    stored = w if wide else w.astype(np.int8)
    packed = _kernels.pack("depthwise_conv2d_u8s8", "depthwise_u8s8_c8_v1", stored, attrs)
    scale = rng.uniform(0.5, 1, 19).astype(F)
    want = sums.astype(F) * (scale * a_scale)
    contract = "depthwise_conv2d_u8s8"
    product(contract, [x, packed, scale, None, None, a_scale, a_zero], want.shape, F, attrs, want)
    product(contract, [x, packed, scale, None, None, None, a_zero], want.shape, np.int32, attrs, sums)


def test_wide_filters_are_refused_where_sums_would_not_be_exact() -> None:
    attrs = {"kernel": [17, 17], "channels": [1, 1], "groups": 1, "w_wide": 1}
    for w, words in ((np.ones((1, 1, 17, 17), np.int16), "256"), (np.full((1, 1, 3, 3), 256, np.int16), "255")):
        with pytest.raises(Error, match=words):
            _kernels.pack("depthwise_conv2d_u8s8", "depthwise_u8s8_c8_v1", w, {**attrs, "kernel": list(w.shape[2:])})


def test_products_of_two_operands_of_a_run() -> None:
    rng = np.random.default_rng(1)
    a, b = (rng.integers(0, 256, shape).astype(np.uint8) for shape in ((3, 21, 33), (3, 33, 18)))
    sums = (a.astype(np.int64) - 131) @ (b.astype(np.int64) - 7)
    numbers = [np.array(0.002, F), np.array(131, np.uint8), np.array(7, np.uint8)]
    product("matmul_u8", [a, b, *numbers], sums.shape, F, {}, sums.astype(F) * F(0.002))
    product("matmul_u8", [a, b, None, *numbers[1:]], sums.shape, np.int32, {}, sums)


@pytest.mark.parametrize(
    ("change", "dtype", "words"),
    [
        ({5: np.ones(1, F)}, F, "a_scale"),
        ({6: np.array(1, np.int8)}, F, "a_zero"),
        ({7: np.ones(16, np.int8)}, F, "w_zero"),
        ({3: np.ones(17, F)}, np.int32, "sums alone"),
        ({5: np.array(1, F)}, np.int32, "sums alone"),
    ],
)
def test_refuses(change: dict[int, Any], dtype: type, words: str) -> None:
    attrs = {"n": 17, "k": 8}
    packed = _kernels.pack("gemm_u8s8", "gemm_u8s8_nr16_v2", np.ones((8, 17), np.int8), attrs)
    inputs: list[Any] = [np.ones((3, 8), np.uint8), packed, np.ones(17, F), *[None] * 5]
    for place, value in change.items():
        inputs[place] = value
    with pytest.raises(Error, match=words):
        _kernels.run("gemm_u8s8", inputs, [((3, 17), dtype)], attrs)


def test_with_zero_points_of_weights_sums_are_half_as_deep() -> None:
    attrs = {"n": 1, "k": 32769}
    packed = _kernels.pack("gemm_u8s8", "gemm_u8s8_nr16_v2", np.ones((32769, 1), np.int8), attrs)
    inputs = [np.ones((1, 32769), np.uint8), packed, np.ones(1, F), *[None] * 4, np.ones(1, np.int8)]
    with pytest.raises(Error, match="do not fit in 32 bits"):
        _kernels.run("gemm_u8s8", inputs, [((1, 1), F)], attrs)
