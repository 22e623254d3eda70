"""Matrix products and convolutions: the reference against torch in double, every ISA against the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from maas_rt import Error, InvalidArgumentError, _kernels
from tests.kernels._support import activate, assert_close, epilogues, isas_of, uniform

Array = NDArray[np.float32]

# Sizes around the tile (6 x 16, 3 x 16), the vector (8, 4) and zero.
SIZES = st.one_of(st.integers(0, 20), st.sampled_from([31, 32, 33, 47, 48, 49, 97, 128]))
DEPTHS = st.one_of(st.integers(0, 20), st.sampled_from([63, 64, 65, 383, 384, 385, 577, 1153]))
SEEDS = st.integers(0, 2**32 - 1)
quick = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


def attributes(attrs: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in attrs.items() if not key.startswith("_")}


def double(array: Array | None) -> torch.Tensor | None:
    return None if array is None else torch.from_numpy(array).double()


def check_all(
    contract: str, inputs: list[Any], want: NDArray[Any], attrs: dict[str, Any], depth: int, threads: int = 1
) -> None:
    """The reference is `want`, and every instruction set is the reference."""
    (reference,) = _kernels.run(contract, inputs, [want.shape], attrs, isa="reference")
    assert_close(reference, want, 1)
    for isa in isas_of(contract):
        (got,) = _kernels.run(contract, inputs, [want.shape], attrs, isa=isa, threads=threads)
        assert_close(got, reference.astype(np.float64), depth)


# ---- gemm_f32 ----


@quick
@given(
    m=SIZES,
    n=SIZES,
    k=DEPTHS,
    trans=st.booleans(),
    bias=st.booleans(),
    ep=epilogues(),
    threads=st.integers(1, 2),
    seed=SEEDS,
)
def test_gemm(m: int, n: int, k: int, trans: bool, bias: bool, ep: dict[str, Any], threads: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, w = uniform(rng, m, k), uniform(rng, k, n) / np.float32(max(k, 1) ** 0.5)
    b = uniform(rng, n) if bias else None
    r = uniform(rng, m, n) if ep["_residual"] else None
    attrs = {**attributes(ep), "n": n, "k": k, "w_trans": int(trans)}
    packed = _kernels.pack("gemm_f32", "gemm_f32_nr16_v1", np.ascontiguousarray(w.T) if trans else w, attrs)
    acc = torch.from_numpy(a).double() @ torch.from_numpy(w).double()
    if b is not None:
        acc = acc + torch.from_numpy(b).double()
    want = activate(acc, attrs, double(r)).numpy()
    check_all("gemm_f32", [a, packed, b, r], want, attrs, k, threads)


def test_gemm_keeps_leading_dimensions() -> None:
    rng = np.random.default_rng(0)
    a, w = uniform(rng, 2, 3, 5, 7), uniform(rng, 7, 9)
    attrs = {"n": 9, "k": 7}
    packed = _kernels.pack("gemm_f32", "gemm_f32_nr16_v1", w, attrs)
    check_all("gemm_f32", [a, packed], (a.astype(np.float64) @ w), attrs, 7)


@pytest.mark.parametrize("isa", ["reference", *isas_of("gemm_f32")])
@pytest.mark.parametrize("act", ["none", "relu", "clip"])
@pytest.mark.parametrize("m", [1, 2, 6, 13])
def test_not_a_number_and_infinity_come_through(isa: str, act: str, m: int) -> None:
    a = np.ones((m, 4), np.float32)
    a[0, 1] = np.nan
    a[-1, 2] = np.inf if m > 1 else np.nan
    attrs: dict[str, Any] = {"n": 17, "k": 4, "act": act}
    if act == "clip":
        attrs["act_args"] = [-1.0, 1.0]
    packed = _kernels.pack("gemm_f32", "gemm_f32_nr16_v1", np.ones((4, 17), np.float32), attrs)
    (got,) = _kernels.run("gemm_f32", [a, packed], [(m, 17)], attrs, isa=isa)
    want = activate(torch.from_numpy(a).double() @ torch.ones(4, 17).double(), attrs).numpy()
    np.testing.assert_array_equal(got, want.astype(np.float32))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"n": 16}, "extent"),
        ({"k": 7}, "extent"),
        ({"n": -1}, "'n'"),
        ({"act": "cosine"}, "act"),
        ({"act": "clip"}, "act_args"),
        ({"act": "clip", "act_args": [0.0, float("nan")]}, "NaN"),
        ({"residual_after": 2}, "residual_after"),
    ],
)
def test_gemm_refuses(change: dict[str, Any], words: str) -> None:
    attrs = {"n": 17, "k": 8}
    packed = _kernels.pack("gemm_f32", "gemm_f32_nr16_v1", np.ones((8, 17), np.float32), attrs)
    with pytest.raises(Error, match=words):
        _kernels.run("gemm_f32", [np.ones((3, 8), np.float32), packed], [(3, 17)], {**attrs, **change})


def test_a_packed_weight_that_is_too_short_is_refused() -> None:
    attrs = {"n": 17, "k": 8}
    packed = _kernels.pack("gemm_f32", "gemm_f32_nr16_v1", np.ones((8, 17), np.float32), attrs)
    with pytest.raises(Error, match="packed weight"):
        _kernels.run("gemm_f32", [np.ones((3, 8), np.float32), packed[:-4]], [(3, 17)], attrs)
    with pytest.raises(InvalidArgumentError, match="packing"):
        _kernels.pack("gemm_f32", "gemm_f32_nr99_v1", np.ones((8, 17), np.float32), attrs)


def test_extents_that_overflow_are_refused() -> None:
    packed = b"\0" * 1024
    for n, k in [(2**39, 2**39), (2**40, 0), (1, 2**40)]:
        with pytest.raises(Error):
            _kernels.run("gemm_f32", [np.ones((1, 8), np.float32), packed], [(1, 8)], {"n": n, "k": k})


# ---- matmul_f32 ----


@st.composite
def batches(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Two batch shapes that broadcast."""
    a, b = [], []
    for extent in draw(st.lists(st.integers(1, 3), max_size=3)):
        one = draw(st.integers(0, 3))
        a.append(1 if one == 1 else extent)
        b.append(1 if one == 2 else extent)
    cut = draw(st.integers(0, 2))
    return tuple(a[1:] if cut == 1 else a), tuple(b[1:] if cut == 2 else b)


@quick
@given(
    batch=batches(),
    m=SIZES,
    n=SIZES,
    k=DEPTHS,
    ta=st.booleans(),
    tb=st.booleans(),
    bias=st.booleans(),
    alpha=st.sampled_from([1.0, 0.125, -0.7]),
    ep=epilogues(residual=False),
    threads=st.integers(1, 2),
    seed=SEEDS,
)
def test_matmul(
    batch: tuple[tuple[int, ...], tuple[int, ...]],
    m: int,
    n: int,
    k: int,
    ta: bool,
    tb: bool,
    bias: bool,
    alpha: float,
    ep: dict[str, Any],
    threads: int,
    seed: int,
) -> None:
    assume(m * n * k < 10**6)
    rng = np.random.default_rng(seed)
    a, b = uniform(rng, *batch[0], m, k), uniform(rng, *batch[1], k, n) / np.float32(max(k, 1) ** 0.5)
    c = uniform(rng, n) if bias else None
    attrs = {**attributes(ep), "trans_a": int(ta), "trans_b": int(tb), "alpha": alpha}
    acc = float(np.float32(alpha)) * (torch.from_numpy(a).double() @ torch.from_numpy(b).double())
    want = activate(acc + (0 if c is None else torch.from_numpy(c).double()), attrs).numpy()
    left = np.ascontiguousarray(a.swapaxes(-1, -2)) if ta else a
    right = np.ascontiguousarray(b.swapaxes(-1, -2)) if tb else b
    check_all("matmul_f32", [left, right, c], want, attrs, k, threads)


@pytest.mark.parametrize(
    ("a", "b", "y"),
    [((2, 3), (4, 5), (2, 5)), ((2, 2, 3), (3, 3, 5), (2, 2, 5)), ((3,), (3, 5), (5,)), ((2, 3), (3, 5), (2, 4))],
)
def test_matmul_refuses(a: tuple[int, ...], b: tuple[int, ...], y: tuple[int, ...]) -> None:
    with pytest.raises(Error, match="matmul_f32"):
        _kernels.run("matmul_f32", [np.ones(a, np.float32), np.ones(b, np.float32)], [y])


# ---- conv2d_f32, depthwise_conv2d_f32 ----


@st.composite
def geometries(draw: st.DrawFn, depthwise: bool = False) -> dict[str, Any]:
    """An image, a filter and how it moves; pads may differ on every side."""
    extent = st.integers(1, 15)
    kernel = draw(st.sampled_from([(1, 1), (3, 3), (3, 3), (5, 5), (2, 3), (7, 1), (1, 4)]))
    groups = 1 if depthwise else draw(st.sampled_from([1, 1, 2, 3]))
    channels = st.one_of(st.integers(1, 20), st.sampled_from([24, 33, 64]))
    filters = st.sampled_from([1, 1, 2, 3, 4, 9])  # of a channel, where each has its own
    c = draw(channels)
    return {
        "x": (draw(st.integers(1, 2)), draw(extent), draw(extent)),
        "strides": draw(st.sampled_from([[1, 1], [1, 1], [2, 2], [1, 3]])),
        "pads": draw(st.sampled_from([[0, 0, 0, 0], [1, 1, 1, 1], [2, 2, 2, 2], [0, 1, 2, 3], [3, 0, 1, 0]])),
        "dilations": draw(st.sampled_from([[1, 1], [1, 1], [2, 1], [1, 2], [3, 3]])),
        "kernel": list(kernel),
        "groups": c if depthwise else groups,
        "channels": [c, c * draw(filters)] if depthwise else [c * groups, draw(channels) * groups],
    }


def convolve(g: dict[str, Any], x: Array, w: Array, b: Array | None) -> torch.Tensor:
    top, left, bottom, right = g["pads"]
    image = F.pad(torch.from_numpy(x).double().permute(0, 3, 1, 2), (left, right, top, bottom))
    return F.conv2d(image, torch.from_numpy(w).double(), double(b), g["strides"], 0, g["dilations"], g["groups"])


def fits(g: dict[str, Any]) -> bool:
    top, left, bottom, right = g["pads"]
    (kh, kw), (dh, dw), (_, h, w) = g["kernel"], g["dilations"], g["x"]
    return h + top + bottom > dh * (kh - 1) and w + left + right > dw * (kw - 1)


def check_conv(
    contract: str, packing: str, g: dict[str, Any], bias: bool, ep: dict[str, Any], threads: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    n, h, width = g["x"]
    (c, o), (kh, kw) = g["channels"], g["kernel"]
    depth = c // g["groups"] * kh * kw
    x, w = uniform(rng, n, h, width, c), uniform(rng, o, c // g["groups"], kh, kw) / np.float32(depth**0.5)
    b = uniform(rng, o) if bias else None
    acc = convolve(g, x, w, b).permute(0, 2, 3, 1)
    r = uniform(rng, *acc.shape) if ep["_residual"] else None
    attrs = {**attributes(ep), **{key: value for key, value in g.items() if key != "x"}}
    packed = _kernels.pack(contract, packing, w, attrs)
    check_all(contract, [x, packed, b, r], activate(acc, attrs, double(r)).numpy(), attrs, depth, threads)


@quick
@given(g=geometries(), bias=st.booleans(), ep=epilogues(), threads=st.integers(1, 2), seed=SEEDS)
def test_conv2d(g: dict[str, Any], bias: bool, ep: dict[str, Any], threads: int, seed: int) -> None:
    assume(fits(g))
    check_conv("conv2d_f32", "conv2d_f32_nr16_v1", g, bias, ep, threads, seed)


@st.composite
def winograd_geometries(draw: st.DrawFn) -> dict[str, Any]:
    extent, channels = st.integers(1, 15), st.one_of(st.integers(1, 20), st.sampled_from([24, 33, 64]))
    pads = draw(st.sampled_from([[0, 0, 0, 0], [1, 1, 1, 1], [2, 2, 2, 2], [0, 1, 2, 3], [3, 0, 1, 0]]))
    return {
        "x": (draw(st.integers(1, 2)), draw(extent), draw(extent)),
        "pads": pads,
        "kernel": [3, 3],
        "channels": [draw(channels), draw(channels)],
        "tile": draw(st.sampled_from([2, 4])),
    }


PLAIN = {"strides": [1, 1], "dilations": [1, 1], "groups": 1}


@quick
@given(g=winograd_geometries(), bias=st.booleans(), ep=epilogues(), threads=st.integers(1, 2), seed=SEEDS)
def test_conv2d_winograd(g: dict[str, Any], bias: bool, ep: dict[str, Any], threads: int, seed: int) -> None:
    g = {**PLAIN, **g}
    assume(fits(g))
    check_conv("conv2d_winograd_f32", "conv2d_winograd_f32_nr16_v1", g, bias, ep, threads, seed)


@pytest.mark.parametrize("tile", [2, 4])
@pytest.mark.parametrize(
    ("x", "o"), [((1, 56, 56, 24), 40), ((1, 7, 7, 200), 70), ((1, 14, 14, 128), 96), ((3, 30, 29, 16), 16)]
)
def test_conv2d_winograd_at_shapes_of_real_layers(x: tuple[int, ...], o: int, tile: int) -> None:
    g = {**PLAIN, "x": x[:3], "pads": [1] * 4, "kernel": [3, 3], "channels": [x[3], o], "tile": tile}
    check_conv("conv2d_winograd_f32", "conv2d_winograd_f32_nr16_v1", g, True, {"act": "relu", "_residual": True}, 2, 1)


@pytest.mark.parametrize("tile", [2, 4])
@pytest.mark.parametrize("isa", isas_of("conv2d_winograd_f32"))
def test_conv2d_winograd_keeps_what_is_not_finite_where_it_belongs(isa: str, tile: int) -> None:
    rng = np.random.default_rng(3)
    x, w = uniform(rng, 1, 17, 19, 9), uniform(rng, 5, 9, 3, 3)
    x[0, 3, 4, 2], x[0, 12, 12, 0], x[0, 0, 0, 8] = np.inf, np.nan, -np.inf
    g = {**PLAIN, "x": (1, 17, 19), "pads": [1] * 4, "kernel": [3, 3], "channels": [9, 5], "tile": tile}
    attrs = {**{key: value for key, value in g.items() if key != "x"}, "act": "relu"}
    packed = _kernels.pack("conv2d_winograd_f32", "conv2d_winograd_f32_nr16_v1", w, attrs)
    got = _kernels.run("conv2d_winograd_f32", [x, packed], [(1, 17, 19, 5)], attrs, isa=isa)[0]
    image, filters = torch.from_numpy(x).permute(0, 3, 1, 2), torch.from_numpy(w)
    want = F.relu(F.conv2d(image, filters, padding=1)).permute(0, 2, 3, 1).numpy()
    assert (np.isnan(got) == np.isnan(want)).all() and (np.isposinf(got) == np.isposinf(want)).all()
    finite = np.isfinite(want)
    assert 0 < finite.sum() < want.size
    np.testing.assert_allclose(got[finite], want[finite], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    "change", [{"tile": 3}, {"tile": 6}, {"strides": [2, 1]}, {"dilations": [1, 2]}, {"groups": 2}, {"kernel": [3, 1]}]
)
def test_conv2d_winograd_refuses(change: dict[str, Any]) -> None:
    attrs: dict[str, Any] = {"kernel": [3, 3], "channels": [8, 16]}
    packing = "conv2d_winograd_f32_nr16_v1"
    packed = _kernels.pack("conv2d_winograd_f32", packing, np.ones((16, 8, 3, 3), np.float32), attrs)
    with pytest.raises(Error, match="conv2d_winograd_f32"):
        x = np.ones((1, 8, 8, 8), np.float32)
        _kernels.run("conv2d_winograd_f32", [x, packed], [(1, 6, 6, 16)], {**attrs, **change})


@quick
@given(g=geometries(depthwise=True), bias=st.booleans(), ep=epilogues(), threads=st.integers(1, 2), seed=SEEDS)
def test_depthwise_conv2d(g: dict[str, Any], bias: bool, ep: dict[str, Any], threads: int, seed: int) -> None:
    assume(fits(g))
    check_conv("depthwise_conv2d_f32", "depthwise_f32_c8_v1", g, bias, ep, threads, seed)


@pytest.mark.parametrize("channels", [[2, 3], [5, 7], [4, 2], [3, 0]])
@pytest.mark.parametrize("groups", [{}, {"groups": 1}, {"groups": 5}])
def test_depthwise_conv2d_refuses(channels: list[int], groups: dict[str, int]) -> None:
    attrs = {"kernel": [1, 1], "channels": channels, **groups}
    with pytest.raises(Error, match="depthwise_conv2d_f32"):
        filters = np.ones((channels[1], 1, 1, 1), np.float32)
        _kernels.pack("depthwise_conv2d_f32", "depthwise_f32_c8_v1", filters, attrs)
    with pytest.raises(Error, match="depthwise_conv2d_f32"):
        x = np.ones((1, 2, 2, channels[0]), np.float32)
        _kernels.run("depthwise_conv2d_f32", [x, bytes(1 << 12)], [(1, 2, 2, channels[1])], attrs)


@pytest.mark.parametrize("dilation", [[5, 5], [9, 3], [30, 30]])
@pytest.mark.parametrize(("c", "o"), [(20, 33), (130, 17), (600, 20)])
def test_dilations_that_reach_beyond_the_image(dilation: list[int], c: int, o: int) -> None:
    """Tiles leave out positions of the filter that see padding alone."""
    h, w = dilation
    g = {**PLAIN, "x": (2, 13, 11), "pads": [h, w, h, w], "dilations": dilation, "kernel": [3, 3], "channels": [c, o]}
    check_conv("conv2d_f32", "conv2d_f32_nr16_v1", g, True, {"act": "relu", "_residual": True}, 2, 1)


@pytest.mark.parametrize(
    ("x", "o", "kernel", "stride", "pad"),
    [
        ((1, 32, 32, 3), 33, 7, 2, 3),
        ((2, 32, 32, 3), 24, 16, 16, 0),
        ((1, 7, 7, 200), 70, 3, 1, 1),
        ((1, 14, 14, 700), 20, 1, 2, 0),
    ],
)
def test_conv2d_at_shapes_of_real_layers(x: tuple[int, ...], o: int, kernel: int, stride: int, pad: int) -> None:
    g = {
        "x": x[:3],
        "strides": [stride] * 2,
        "pads": [pad] * 4,
        "dilations": [1, 1],
        "kernel": [kernel] * 2,
        "groups": 1,
        "channels": [x[3], o],
    }
    check_conv("conv2d_f32", "conv2d_f32_nr16_v1", g, True, {"act": "relu", "_residual": True}, 2, 1)


@pytest.mark.parametrize(
    ("change", "shape"),
    [
        ({"kernel": [0, 3]}, None),
        ({"kernel": [2**19, 1]}, None),
        ({"strides": [0, 1]}, None),
        ({"strides": [1]}, None),
        ({"pads": [0, 0, -1, 0]}, None),
        ({"groups": 3}, None),
        ({"channels": [8, 17]}, None),
        ({"channels": [8, 2**40]}, None),
        ({"dilations": [2**30, 1]}, None),
        ({"kernel": [5, 5]}, (1, 4, 4, 16)),  # more weights than there are
        ({}, (1, 7, 6, 16)),
        ({}, (2, 6, 6, 16)),
    ],
)
def test_conv2d_refuses(change: dict[str, Any], shape: tuple[int, ...] | None) -> None:
    attrs: dict[str, Any] = {"kernel": [3, 3], "channels": [8, 16]}
    packed = _kernels.pack("conv2d_f32", "conv2d_f32_nr16_v1", np.ones((16, 8, 3, 3), np.float32), attrs)
    with pytest.raises(Error, match="conv2d_f32"):
        x = np.ones((1, 8, 8, 8), np.float32)
        _kernels.run("conv2d_f32", [x, packed], [shape or (1, 6, 6, 16)], {**attrs, **change})


# ---- conv_transpose2d_f32 ----


@quick
@given(g=geometries(), extra=st.integers(0, 1), bias=st.booleans(), ep=epilogues(residual=False), seed=SEEDS)
def test_conv_transpose2d(g: dict[str, Any], extra: int, bias: bool, ep: dict[str, Any], seed: int) -> None:
    n, h, width = g["x"]
    (c, o), (kh, kw), groups = g["channels"], g["kernel"], g["groups"]
    top, left, bottom, right = g["pads"]
    output_padding = [extra if stride > 1 else 0 for stride in g["strides"]]
    rng = np.random.default_rng(seed)
    depth = c // groups * kh * kw
    x, w = uniform(rng, n, h, width, c), uniform(rng, c, o // groups, kh, kw) / np.float32(depth**0.5)
    b = uniform(rng, o) if bias else None
    whole = F.conv_transpose2d(
        torch.from_numpy(x).double().permute(0, 3, 1, 2),
        torch.from_numpy(w).double(),
        double(b),
        g["strides"],
        0,
        output_padding,
        groups,
        g["dilations"],
    )
    assume(whole.shape[2] > top + bottom and whole.shape[3] > left + right)
    acc = whole[:, :, top : whole.shape[2] - bottom, left : whole.shape[3] - right]
    attrs = {**attributes(ep), **g, "output_padding": output_padding}
    del attrs["x"]
    packed = _kernels.pack("conv_transpose2d_f32", "conv_transpose2d_f32_v1", w, attrs)
    check_all("conv_transpose2d_f32", [x, packed, b], activate(acc.permute(0, 2, 3, 1), attrs).numpy(), attrs, depth)


# ---- hints: other blockings, the same results ----

PRODUCT_HINTS = [
    "depth=64",
    "depth=4096 rows_kib=16",
    "rows_kib=4096",
    "depth=100 rows_kib=17",
    "colour=blue depth=256",
]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("hint", PRODUCT_HINTS)
def test_products_cut_otherwise_are_the_same(hint: str, threads: int) -> None:
    rng = np.random.default_rng(5)
    for m, n, k in [(1, 17, 700), (50, 160, 1000), (401, 40, 90), (97, 150, 65), (60, 160, 6151), (401, 160, 1009)]:
        a, w = uniform(rng, m, k), uniform(rng, k, n) / np.float32(k**0.5)
        packed = _kernels.pack("gemm_f32", "gemm_f32_nr16_v1", w)
        want = (torch.from_numpy(a).double() @ torch.from_numpy(w).double()).numpy()
        check_all("gemm_f32", [a, packed], want, {"n": n, "k": k, "hint": hint}, k, threads)
    g = {**PLAIN, "x": (2, 13, 14), "pads": [1] * 4, "kernel": [3, 3], "channels": [70, 36], "hint": hint}
    check_conv("conv2d_f32", "conv2d_f32_nr16_v1", g, True, {"act": "relu", "_residual": True}, threads, 1)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("tile", [2, 4])
@pytest.mark.parametrize("hint", ["block_kib=64", "block_kib=16384"])
def test_winograd_in_other_blocks_is_the_same(hint: str, tile: int, threads: int) -> None:
    g = {**PLAIN, "x": (2, 33, 30), "pads": [1] * 4, "kernel": [3, 3], "channels": [24, 40], "tile": tile, "hint": hint}
    check_conv("conv2d_winograd_f32", "conv2d_winograd_f32_nr16_v1", g, True, {"_residual": False}, threads, 1)


@pytest.mark.parametrize(
    "hint",
    ["depth=63", "depth=4097", "depth=", "depth=1e3", "depth=99999999999999999999", "rows_kib=-1", "rows_kib=16x"],
)
def test_a_hint_that_cannot_be_is_refused(hint: str) -> None:
    x = np.ones((1, 8, 8, 8), np.float32)
    g = {"kernel": [3, 3], "channels": [8, 8], "pads": [1] * 4}
    for contract, packing, own in [
        ("conv2d_f32", "conv2d_f32_nr16_v1", hint),
        ("conv2d_winograd_f32", "conv2d_winograd_f32_nr16_v1", "block_kib=63"),
    ]:
        w = _kernels.pack(contract, packing, np.ones((8, 8, 3, 3), np.float32), g)
        with pytest.raises(Error, match=f"{contract}: the hint says .*, expected a number from"):
            _kernels.run(contract, [x, w], [(1, 8, 8, 8)], {**g, "hint": own})
    packed = _kernels.pack("gemm_f32", "gemm_f32_nr16_v1", np.ones((8, 8), np.float32))
    with pytest.raises(Error, match=r"gemm_f32: the hint says .*, expected a number from"):
        _kernels.run("gemm_f32", [np.ones((1, 8), np.float32), packed], [(1, 8)], {"n": 8, "k": 8, "hint": hint})
