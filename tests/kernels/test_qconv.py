"""Convolutions of 8-bit integers: the reference against torch's in double (exact), every ISA against the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from maas_rt import Error, _kernels
from tests.kernels._support import epilogues
from tests.kernels.test_qgemm import (
    ACTS,
    SEEDS,
    WEIGHTS,
    Array,
    activations,
    check_all,
    check_sum,
    output_attrs,
    summed_attrs,
    weights,
)

quick = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


@st.composite
def geometries(draw: st.DrawFn) -> dict[str, Any]:
    """An image, a filter and how it moves; few channels (lines are copied), odd ones, several groups."""
    groups = draw(st.sampled_from([1, 1, 1, 2, 3]))
    c = draw(st.one_of(st.integers(1, 20), st.sampled_from([33, 64, 260]))) * groups
    extent = st.integers(1, 12)
    return {
        "x": (draw(st.integers(1, 2)), draw(extent), draw(extent)),
        "strides": draw(st.sampled_from([[1, 1], [1, 1], [2, 2], [1, 3]])),
        "pads": draw(st.sampled_from([[0, 0, 0, 0], [1, 1, 1, 1], [2, 2, 2, 2], [0, 1, 2, 3], [3, 0, 1, 0]])),
        "dilations": draw(st.sampled_from([[1, 1], [1, 1], [2, 1], [1, 2]])),
        "kernel": list(draw(st.sampled_from([(1, 1), (3, 3), (3, 3), (5, 5), (2, 3), (7, 1), (1, 4), (7, 7)]))),
        "groups": groups,
        "channels": [c, draw(st.one_of(st.integers(1, 20), st.sampled_from([33, 64]))) * groups],
    }


def exact(x: Array, zero: int, w: Array, g: dict[str, Any]) -> Array:
    top, left, bottom, right = g["pads"]
    image = torch.from_numpy(x.astype(np.float64) - zero).permute(0, 3, 1, 2)
    padded = F.pad(image, (left, right, top, bottom))
    (h, width), (kh, kw), (dh, dw) = padded.shape[2:], g["kernel"], g["dilations"]
    if h < dh * (kh - 1) + 1 or width < dw * (kw - 1) + 1:  # the filter does not fit anywhere
        sizes = [(h - dh * (kh - 1) - 1) // g["strides"][0] + 1, (width - dw * (kw - 1) - 1) // g["strides"][1] + 1]
        return np.zeros((x.shape[0], *(max(0, size) for size in sizes), w.shape[0]))
    acc = F.conv2d(padded, torch.from_numpy(w.astype(np.float64)), None, g["strides"], 0, g["dilations"], g["groups"])
    return acc.permute(0, 2, 3, 1).numpy()


def check_layer(
    contract: str, packing: str, g: dict[str, Any], kind: str, worst: bool, zero: int, bias: bool, ep: dict[str, Any],
    dtype: type, threads: int, seed: int,
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    (c, o), (kh, kw) = g["channels"], g["kernel"]
    x, w = activations(rng, worst, *g["x"], c), weights(kind, rng, o, c // g["groups"], kh, kw)
    acc = exact(x, zero, w, g)
    scale = (rng.uniform(0.5, 1, o) * 2 / max(1, np.abs(acc).max(initial=1))).astype(np.float32)
    b = rng.uniform(-1, 1, o).astype(np.float32) if bias else None
    r = rng.uniform(-1, 1, acc.shape).astype(np.float32) if ep["_residual"] else None
    attrs = {key: value for key, value in {**g, **ep}.items() if not key.startswith("_") and key != "x"}
    attrs |= {"a_zero": zero} | output_attrs(rng, dtype, 0.013)
    packed = _kernels.pack(contract, packing, w, {key: value for key, value in g.items() if key != "x"})
    check_all(contract, [x, packed, scale, b, r], acc, attrs, dtype, threads)


@quick
@given(
    g=geometries(),
    kind=WEIGHTS,
    worst=st.booleans(),
    zero=st.sampled_from([0, 0, 128, 255, 37]),
    bias=st.booleans(),
    ep=epilogues(),
    dtype=st.sampled_from([np.float32, np.uint8, np.int8]),
    threads=st.integers(1, 2),
    seed=SEEDS,
)
def test_conv2d(
    g: dict[str, Any], kind: str, worst: bool, zero: int, bias: bool, ep: dict[str, Any], dtype: type, threads: int,
    seed: int,
) -> None:  # fmt: skip
    check_layer("conv2d_u8s8", "conv2d_u8s8_nr16_v2", g, kind, worst, zero, bias, ep, dtype, threads, seed)


@quick
@given(
    g=geometries(),
    kind=WEIGHTS,
    act=ACTS,
    dtype=st.sampled_from([np.uint8, np.int8]),
    threads=st.integers(1, 2),
    seed=SEEDS,
)
def test_a_residual_of_bytes(g: dict[str, Any], kind: str, act: str, dtype: type, threads: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    (c, o), (kh, kw) = g["channels"], g["kernel"]
    x, w = activations(rng, False, *g["x"], c), weights(kind, rng, o, c // g["groups"], kh, kw)
    acc = exact(x, 37, w, g)
    scale = (rng.uniform(0.5, 1, o) * 2 / max(1, np.abs(acc).max(initial=1))).astype(np.float32)
    attrs = {key: value for key, value in g.items() if key != "x"}
    packed = _kernels.pack("conv2d_u8s8", "conv2d_u8s8_nr16_v2", w, attrs)
    residual = activations(rng, False, *acc.shape)
    attrs = {**attrs, "a_zero": 37, **summed_attrs(rng, dtype, act)}
    check_sum("conv2d_u8s8", [x, packed, scale, None, residual], acc, attrs, dtype, threads)


@pytest.mark.parametrize(("c", "kernel"), [(16, (3, 3)), (23, (3, 3)), (150, (2, 2)), (1605, (1, 2))])
def test_rows_of_many_tiles(c: int, kernel: tuple[int, int]) -> None:
    """Where weights are put in order for them: of whole taps, of taps that end in a part of a group, and of parts of a tap."""
    g = {"x": (1, 11, 13), "strides": [1, 1], "pads": [1, 1, 1, 1], "dilations": [1, 1], "kernel": list(kernel), "groups": 1, "channels": [c, 20]}  # fmt: skip
    for dtype in (np.float32, np.uint8):
        ep = {"act": "relu", "_residual": False}
        check_layer("conv2d_u8s8", "conv2d_u8s8_nr16_v2", g, "normal", False, 37, True, ep, dtype, 1, c)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("strides", [[1, 1], [2, 2]])
@pytest.mark.parametrize("kernel", [(3, 3), (7, 7), (2, 10), (17, 2)])
@pytest.mark.parametrize("c", [1, 3, 4, 15])
def test_short_filters_of_images_wider_than_a_move(
    c: int, kernel: tuple[int, int], strides: list[int], threads: int
) -> None:
    """Lines of the filter are copied by moves of 16 or 32 bytes, at most 16 lines at a time, where none ends behind the image."""
    g = {"x": (2, 23, 37), "strides": strides, "pads": [1, 2, 3, 0], "dilations": [1, 1], "kernel": list(kernel), "groups": 1, "channels": [c, 20]}  # fmt: skip
    ep = {"act": "relu", "_residual": False}
    check_layer(
        "conv2d_u8s8", "conv2d_u8s8_nr16_v2", g, "any", False, 37, True, ep, np.uint8, threads, c + 100 * kernel[0]
    )


@quick
@given(
    g=geometries(),
    c=st.one_of(st.integers(1, 40), st.sampled_from([64, 100])),
    kind=WEIGHTS,
    worst=st.booleans(),
    zero=st.sampled_from([0, 128, 255, 37]),
    bias=st.booleans(),
    ep=epilogues(),
    dtype=st.sampled_from([np.float32, np.uint8, np.int8]),
    threads=st.integers(1, 2),
    seed=SEEDS,
)
def test_depthwise(
    g: dict[str, Any], c: int, kind: str, worst: bool, zero: int, bias: bool, ep: dict[str, Any], dtype: type,
    threads: int, seed: int,
) -> None:  # fmt: skip
    g = {**g, "groups": c, "channels": [c, c]}
    check_layer("depthwise_conv2d_u8s8", "depthwise_u8s8_c8_v1", g, kind, worst, zero, bias, ep, dtype, threads, seed)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize(("c", "size", "images"), [(200, 7, 1), (640, 7, 2), (40, 5, 1), (33, 40, 2), (260, 30, 1)])
def test_depthwise_in_pieces(c: int, size: int, images: int, kernel: int, stride: int, threads: int) -> None:
    """By channels where pixels are fewer, else by rows, of which a thread finds the lines of the piece before."""
    pad = kernel // 2
    g = {"x": (images, size, size), "channels": [c, c], "kernel": [kernel, kernel], "strides": [stride, stride],
         "pads": [pad, pad, pad, pad], "dilations": [1, 1], "groups": c}  # fmt: skip
    for dtype in (np.uint8, np.float32):
        check_layer(
            "depthwise_conv2d_u8s8", "depthwise_u8s8_c8_v1", g, "any", False, 37, True,
            {"act": "relu", "_residual": False}, dtype, threads, c,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("kernel", "stride", "image"),
    [((3, 3), 1, (2, 5, 7)), ((3, 3), 2, (1, 4, 120)), ((5, 5), 1, (1, 4, 50)), ((5, 5), 2, (1, 7, 8)), ((1, 9), 1, (1, 2, 41)), ((11, 2), 2, (1, 13, 5))],
)  # fmt: skip
@pytest.mark.parametrize("c", [16, 23, 50, 80, 96])
def test_depthwise_channels(c: int, kernel: tuple[int, int], stride: int, image: tuple[int, int, int]) -> None:
    """64, 32 and 16 channels at a time, the last of them in part; several rows at a time, and rows in several parts."""
    g = {"x": image, "strides": [stride] * 2, "pads": [k // 2 for k in kernel] * 2, "dilations": [1, 1], "kernel": list(kernel), "groups": c, "channels": [c, c]}  # fmt: skip
    for dtype, act in ((np.uint8, "relu"), (np.int8, "none"), (np.float32, "relu")):
        ep = {"act": act, "_residual": False}
        check_layer("depthwise_conv2d_u8s8", "depthwise_u8s8_c8_v1", g, "any", False, 37, True, ep, dtype, 1, c)


@pytest.mark.parametrize("scale", [1e-3, 300.0, 3e30])
@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_depthwise_sums_that_no_integer_holds(dtype: type, scale: float) -> None:
    """What is far above and below the bounds becomes these, also where it would be more than 31 bits."""
    rng = np.random.default_rng(3)
    g = {"strides": [1, 1], "pads": [1] * 4, "dilations": [1, 1], "kernel": [3, 3], "groups": 80, "channels": [80, 80]}
    x, w = activations(rng, True, 1, 6, 6, 80), weights("any", rng, 80, 1, 3, 3)
    scales = np.ones(80, np.float32)
    scales[37] = scale
    packed = _kernels.pack("depthwise_conv2d_u8s8", "depthwise_u8s8_c8_v1", w, g)
    attrs = {**g, "a_zero": 7, "y_scale": 1e-3, "y_zero": 100}
    check_all("depthwise_conv2d_u8s8", [x, packed, scales, None, None], exact(x, 7, w, g), attrs, dtype)


@pytest.mark.parametrize("change", [{"kernel": [513, 1]}, {"groups": 4}, {"channels": [8, 16]}, {"a_zero": 256}])
def test_depthwise_refuses(change: dict[str, Any]) -> None:
    attrs: dict[str, Any] = {"kernel": [3, 3], "channels": [8, 8]}
    packed = _kernels.pack("depthwise_conv2d_u8s8", "depthwise_u8s8_c8_v1", np.ones((8, 1, 3, 3), np.int8), attrs)
    with pytest.raises(Error, match="depthwise_conv2d_u8s8"):
        inputs = [np.ones((1, 8, 8, 8), np.uint8), packed, np.ones(8, np.float32)]
        _kernels.run("depthwise_conv2d_u8s8", inputs, [(1, 6, 6, 8)], {**attrs, **change})


@pytest.mark.parametrize(
    ("c", "kernel", "stride", "pad", "size"),
    [(3, 7, 2, 3, 61), (64, 3, 1, 1, 23), (256, 1, 2, 0, 15), (512, 3, 1, 1, 7), (4, 3, 2, 1, 40)],
)
def test_layers_as_they_are_in_models(c: int, kernel: int, stride: int, pad: int, size: int) -> None:
    """Several blocks of rows, several strips, several stretches of the depth; two threads."""
    rng = np.random.default_rng(c)
    g = {"kernel": [kernel] * 2, "strides": [stride] * 2, "pads": [pad] * 4, "dilations": [1, 1], "groups": 1}
    g |= {"channels": [c, 48]}
    x, w = activations(rng, False, 2, size, size, c), weights("normal", rng, 48, c, kernel, kernel)
    acc = exact(x, 7, w, g)
    scale = np.full(48, 1e-3, np.float32)
    packed = _kernels.pack("conv2d_u8s8", "conv2d_u8s8_nr16_v2", w, g)
    attrs = {**g, "a_zero": 7, "y_scale": 0.5, "y_zero": 100, "act": "relu"}
    for threads in (1, 2):
        check_all("conv2d_u8s8", [x, packed, scale, None, None], acc, attrs, np.uint8, threads)


@pytest.mark.parametrize(
    ("change", "shape"),
    [
        ({"kernel": [0, 3]}, None),
        ({"kernel": [2**17, 1]}, None),
        ({"groups": 3}, None),
        ({"channels": [8, 17]}, None),
        ({"channels": [8, 2**40]}, None),
        ({"dilations": [2**30, 1]}, None),
        ({"a_zero": -1}, None),
        ({"kernel": [5, 5]}, (1, 4, 4, 16)),  # more weights than there are
        ({}, (1, 7, 6, 16)),
        ({}, (2, 6, 6, 16)),
    ],
)
def test_conv2d_refuses(change: dict[str, Any], shape: tuple[int, ...] | None) -> None:
    attrs: dict[str, Any] = {"kernel": [3, 3], "channels": [8, 16]}
    packed = _kernels.pack("conv2d_u8s8", "conv2d_u8s8_nr16_v2", np.ones((16, 8, 3, 3), np.int8), attrs)
    with pytest.raises(Error, match="conv2d_u8s8"):
        x = np.ones((1, 8, 8, 8), np.uint8)
        inputs = [x, packed, np.ones(16, np.float32)]
        _kernels.run("conv2d_u8s8", inputs, [shape or (1, 6, 6, 16)], {**attrs, **change})
