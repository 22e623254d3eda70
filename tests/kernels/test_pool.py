"""Pooling against torch and, where torch has no such case (asymmetric pads, dilated averages), against plain loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from maas_rt import Error, _kernels
from tests.kernels._checks import SEEDS, check_kernel, normal, quick
from tests.kernels._support import isas_of

CHANNELS = st.one_of(st.integers(0, 17), st.sampled_from([31, 32, 33, 64, 67]))
PAIR = st.tuples(st.integers(1, 3), st.integers(1, 3))


def windows(x: NDArray[np.float32], out: tuple[int, int], attrs: dict[str, Any]) -> NDArray[np.float64]:
    """The definition, position by position."""
    n, h, w, c = x.shape
    (kh, kw), (sy, sx), (dy, dx) = attrs["kernel"], attrs["strides"], attrs["dilations"]
    top, left, bottom, right = attrs["pads"]
    y = np.empty((n, *out, c))
    for i in range(out[0]):
        for j in range(out[1]):
            rows = [i * sy - top + k * dy for k in range(kh)]
            cols = [j * sx - left + k * dx for k in range(kw)]
            inside = [(r, q) for r in rows for q in cols if 0 <= r < h and 0 <= q < w]
            padded = sum(r < h + bottom for r in rows) * sum(q < w + right for q in cols)
            taps = [x[:, r, q].astype(np.float64) for r, q in inside]
            if attrs["mode"] == "max":
                y[:, i, j] = np.max(taps, axis=0) if taps else -np.inf
            else:
                count = padded if attrs["count_include_pad"] else len(taps)
                with np.errstate(invalid="ignore"):
                    y[:, i, j] = np.float64(sum(taps) if taps else np.zeros((n, c))) / np.float64(count)
    return y


def extent(size: int, kernel: int, stride: int, pad: int, dilation: int, ceil: bool) -> int:
    rest = size + pad - dilation * (kernel - 1) - 1
    return (-(-rest // stride) if ceil else rest // stride) + 1 if rest >= 0 else 0


@quick
@given(
    n=st.integers(0, 2),
    h=st.integers(1, 9),
    w=st.integers(1, 9),
    c=CHANNELS,
    mode=st.sampled_from(["max", "avg"]),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    strides=PAIR,
    pads=st.tuples(*[st.integers(0, 2)] * 4),
    dilations=PAIR,
    include=st.integers(0, 1),
    ceil=st.booleans(),
    special=st.booleans(),
    seed=SEEDS,
)
def test_pool2d(
    n: int,
    h: int,
    w: int,
    c: int,
    mode: str,
    kernel: tuple[int, int],
    strides: tuple[int, int],
    pads: tuple[int, int, int, int],
    dilations: tuple[int, int],
    include: int,
    ceil: bool,
    special: bool,
    seed: int,
) -> None:
    attrs = {
        "mode": mode,
        "kernel": kernel,
        "strides": strides,
        "pads": pads,
        "dilations": dilations,
        "count_include_pad": include,
    }
    out = tuple(
        extent(size, kernel[i], strides[i], pads[i] + pads[i + 2], dilations[i], ceil) for i, size in enumerate((h, w))
    )
    assume(min(out) > 0)
    x = normal(np.random.default_rng(seed), n, h, w, c, special=special)
    with np.errstate(invalid="ignore"):
        want = windows(x, (out[0], out[1]), attrs)
    check_kernel("pool2d_f32", [x], [want], attrs, kernel[0] * kernel[1], 2)
    if mode == "max":
        q = np.random.default_rng(seed).integers(0, 256, x.shape, np.uint8)
        want = np.maximum(windows(q.astype(np.float32), (out[0], out[1]), attrs), 0).astype(np.uint8)
        attrs = {key: value for key, value in attrs.items() if key not in ("mode", "count_include_pad")}
        for isa in ["reference", *isas_of("max_pool2d_u8")]:
            (got,) = _kernels.run("max_pool2d_u8", [q], [(want.shape, np.uint8)], attrs, isa=isa, threads=2)
            np.testing.assert_array_equal(got, want, err_msg=isa)


@pytest.mark.parametrize("ceil", [False, True])
@pytest.mark.parametrize("include", [False, True])
def test_average_as_torch_counts(ceil: bool, include: bool) -> None:
    x = normal(np.random.default_rng(3), 2, 11, 13, 19)
    t = torch.from_numpy(x).permute(0, 3, 1, 2).double()
    want = F.avg_pool2d(t, 3, 2, 1, ceil, include).permute(0, 2, 3, 1).numpy()
    attrs = {"mode": "avg", "kernel": [3, 3], "strides": [2, 2], "pads": [1] * 4, "count_include_pad": int(include)}
    check_kernel("pool2d_f32", [x], [np.ascontiguousarray(want)], attrs, 9)


def test_maximum_as_torch_on_an_image() -> None:
    x = normal(np.random.default_rng(4), 1, 56, 57, 64)
    x[0, 5, 5, 7] = np.nan
    t = torch.from_numpy(x).permute(0, 3, 1, 2)
    want = np.ascontiguousarray(F.max_pool2d(t, 3, 2, 1).permute(0, 2, 3, 1).numpy())
    attrs = {"mode": "max", "kernel": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}
    check_kernel("pool2d_f32", [x], [want], attrs, 1, 2)


@quick
@given(n=st.integers(0, 3), h=st.integers(1, 9), w=st.integers(1, 9), c=CHANNELS, special=st.booleans(), seed=SEEDS)
def test_global_average(n: int, h: int, w: int, c: int, special: bool, seed: int) -> None:
    x = normal(np.random.default_rng(seed), n, h, w, c, special=special)
    with np.errstate(invalid="ignore"):
        want = x.astype(np.float64).mean((1, 2))
    check_kernel("global_avg_pool_f32", [x], [want], {}, h * w, 2)


def test_global_average_of_many_positions_and_of_none() -> None:
    x = normal(np.random.default_rng(5), 2, 70, 61, 131) + np.float32(3)
    check_kernel("global_avg_pool_f32", [x], [x.astype(np.float64).mean((1, 2))], {}, 8, 2)
    none = np.empty((2, 0, 3, 5), np.float32)
    check_kernel("global_avg_pool_f32", [none], [np.full((2, 5), np.nan)], {})


X = np.ones((1, 4, 4, 2), np.float32)
BASE: dict[str, Any] = {"mode": "max", "kernel": [2, 2]}


@pytest.mark.parametrize(
    ("attrs", "shape", "words"),
    [
        ({"mode": "max"}, (1, 3, 3, 2), "'kernel'"),
        ({"kernel": [2, 2]}, (1, 3, 3, 2), "'mode'"),
        ({**BASE, "mode": "median"}, (1, 3, 3, 2), "median"),
        ({**BASE, "kernel": [2]}, (1, 3, 3, 2), "has 1 numbers, expected 2"),
        ({**BASE, "kernel": [0, 2]}, (1, 3, 3, 2), "'kernel'"),
        ({**BASE, "strides": [0, 1]}, (1, 3, 3, 2), "'strides'"),
        ({**BASE, "pads": [-1, 0, 0, 0]}, (1, 3, 3, 2), "'pads'"),
        ({**BASE, "kernel": [2**62, 2]}, (1, 3, 3, 2), "'kernel'"),
        (BASE, (1, 4, 3, 2), "extent"),
        (BASE, (1, 3, 3, 3), "extent"),
        (BASE, (3, 3, 2), "dimensions"),
    ],
)
def test_refuses(attrs: dict[str, Any], shape: tuple[int, ...], words: str) -> None:
    with pytest.raises(Error, match=words):
        _kernels.run("pool2d_f32", [X], [shape], attrs)
