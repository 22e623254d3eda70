"""Resizing against torch's interpolate and, for what torch lacks, against ONNX's reference implementation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from maas_rt import Error, _kernels
from tests.kernels._checks import SEEDS, check_kernel, normal, quick

COORDINATES = ["half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel"]
ROUNDINGS = ["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"]


def positions(coordinates: str, size: int, out: int, scale: float | None) -> NDArray[np.float64]:
    """Where each output position lies on the input's axis (ONNX, Resize)."""
    i = np.arange(out, dtype=np.float64)
    if coordinates == "align_corners":
        return i * 0 if out == 1 else i * (size - 1) / (out - 1)

    def over(x: NDArray[np.float64]) -> NDArray[np.float64]:
        return x * size / out if scale is None else x / scale

    if coordinates == "asymmetric":
        return over(i)
    if coordinates == "pytorch_half_pixel" and out == 1:
        return i * 0
    return over(i + 0.5) - 0.5


def weights(attrs: dict[str, Any], size: int, out: int, scale: float | None) -> NDArray[np.float64]:
    """[out, size]: the matrix that resizes one axis."""
    matrix = np.zeros((out, size))
    x = positions(attrs["coordinates"], size, out, scale)
    at = np.arange(out)
    if attrs["mode"] == "nearest":
        half = {"floor": np.floor, "ceil": np.ceil}.get(attrs["nearest_rounding"])
        k = half(x) if half else np.ceil(x - 0.5) if attrs["nearest_rounding"].endswith("floor") else np.floor(x + 0.5)
        matrix[at, np.clip(k, 0, size - 1).astype(int)] = 1
        return matrix
    k = np.floor(x)
    f = x - k
    if attrs["mode"] == "linear":
        taps = [(0, 1 - f), (1, f)]
    else:
        a = attrs.get("cubic_a", -0.75)
        near = lambda t: ((a + 2) * t - (a + 3)) * t * t + 1  # noqa: E731
        far = lambda t: ((a * t - 5 * a) * t + 8 * a) * t - 4 * a  # noqa: E731
        taps = [(-1, far(f + 1)), (0, near(f)), (1, near(1 - f)), (2, far(2 - f))]
    for shift, weight in taps:
        np.add.at(matrix, (at, np.clip(k + shift, 0, size - 1).astype(int)), weight)
    return matrix


@quick
@given(
    n=st.integers(0, 2),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    out=st.tuples(st.integers(1, 13), st.integers(1, 13)),
    c=st.one_of(st.integers(0, 17), st.just(33)),
    mode=st.sampled_from(["nearest", "linear", "cubic"]),
    coordinates=st.sampled_from(COORDINATES),
    rounding=st.sampled_from(ROUNDINGS),
    a=st.sampled_from([-0.75, -0.5]),
    scaled=st.booleans(),
    threads=st.integers(1, 2),
    seed=SEEDS,
)
def test_resize(
    n: int,
    size: tuple[int, int],
    out: tuple[int, int],
    c: int,
    mode: str,
    coordinates: str,
    rounding: str,
    a: float,
    scaled: bool,
    threads: int,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    attrs: dict[str, Any] = {"mode": mode, "coordinates": coordinates, "nearest_rounding": rounding, "cubic_a": a}
    scales: list[float | None] = [None, None]
    if scaled:
        scales = [float(o / s * rng.uniform(0.9, 1.1)) for o, s in zip(out, size, strict=True)]
        attrs["scales"] = scales
    x = normal(rng, n, *size, c)
    rows, cols = (weights(attrs, s, o, k) for s, o, k in zip(size, out, scales, strict=True))
    want = np.einsum("ph,qw,nhwc->npqc", rows, cols, x.astype(np.float64))
    check_kernel("resize2d_f32", [x], [want], attrs, 1 if mode == "nearest" else 32, threads)


@pytest.mark.parametrize("out", [(14, 22), (13, 5), (7, 11), (30, 31)])
@pytest.mark.parametrize(
    ("mode", "corners", "attrs"),
    [
        ("nearest", None, {"mode": "nearest", "coordinates": "asymmetric", "nearest_rounding": "floor"}),
        ("bilinear", False, {"mode": "linear", "coordinates": "half_pixel"}),
        ("bilinear", True, {"mode": "linear", "coordinates": "align_corners"}),
        ("bicubic", False, {"mode": "cubic", "coordinates": "half_pixel"}),
        ("bicubic", True, {"mode": "cubic", "coordinates": "align_corners"}),
    ],
)
def test_as_torch(out: tuple[int, int], mode: str, corners: bool | None, attrs: dict[str, Any]) -> None:
    x = normal(np.random.default_rng(0), 2, 7, 11, 19)
    t = torch.from_numpy(x).permute(0, 3, 1, 2).double()
    want = F.interpolate(t, out, mode=mode, align_corners=corners).permute(0, 2, 3, 1).contiguous().numpy()
    check_kernel("resize2d_f32", [x], [want], attrs, 32, 2)


def test_a_large_image_on_two_threads() -> None:
    x = normal(np.random.default_rng(1), 1, 61, 64, 33)
    attrs = {"mode": "linear", "coordinates": "half_pixel"}
    want = np.einsum("ph,qw,nhwc->npqc", weights(attrs, 61, 123, None), weights(attrs, 64, 128, None), x.astype(float))
    check_kernel("resize2d_f32", [x], [want], attrs, 32, 2)


X = np.ones((1, 4, 4, 2), np.float32)


@pytest.mark.parametrize(
    ("x", "shape", "attrs", "words"),
    [
        (X, (1, 8, 8, 3), {}, "extent"),
        (X, (2, 8, 8, 2), {}, "extent"),
        (X, (8, 8, 2), {}, "dimensions"),
        (X, (1, 8, 8, 2), {"mode": "lanczos"}, "lanczos"),
        (X, (1, 8, 8, 2), {"coordinates": "tf_crop_and_resize"}, "coordinates"),
        (X, (1, 8, 8, 2), {"scales": [2.0]}, "'scales'"),
        (X, (1, 8, 8, 2), {"scales": [2.0, 0.0]}, "'scales'"),
        (X, (1, 8, 8, 2), {"scales": [2.0, float("nan")]}, "'scales'"),
        (X, (1, 8, 8, 2), {"cubic_a": float("inf")}, "'cubic_a'"),
        (np.ones((1, 0, 4, 2), np.float32), (1, 8, 8, 2), {}, "no elements"),
    ],
)
def test_refuses(x: NDArray[np.float32], shape: Any, attrs: dict[str, Any], words: str) -> None:
    with pytest.raises(Error, match=words):
        _kernels.run("resize2d_f32", [x], [shape], attrs)
