"""Products of 8-bit integers: the reference against numpy's integers, every ISA against the reference, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from maas_rt import Error, _kernels
from tests.kernels._support import activate, assert_close, epilogues, isas_of

Array = NDArray[Any]

# Around the tile (4 x 16), the group of four k's, a segment of masks (256 k's) and a stretch of the depth (1536 k's).
SIZES = st.one_of(st.integers(0, 20), st.sampled_from([31, 32, 33, 47, 97, 100]))
DEPTHS = st.one_of(st.integers(0, 20), st.sampled_from([63, 64, 65, 255, 256, 257, 260, 513, 1535, 1536, 1541, 3201]))
SEEDS = st.integers(0, 2**32 - 1)
# What the weights are like: any, small enough for every kind of group, mixed, or the worst there is.
WEIGHTS = st.sampled_from(["any", "normal", "small", "spiky", "127", "-128", "alternating"])
quick = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


def weights(kind: str, rng: np.random.Generator, *shape: int) -> NDArray[np.int8]:
    if kind == "any":
        return rng.integers(-128, 128, shape).astype(np.int8)
    if kind == "normal":
        return np.clip(np.rint(rng.standard_normal(shape) * 36), -127, 127).astype(np.int8)
    if kind == "small":
        return rng.integers(-30, 31, shape).astype(np.int8)
    if kind == "spiky":
        spikes = rng.random(shape) < 0.02
        return np.where(spikes, rng.integers(-128, 128, shape), rng.integers(-20, 21, shape)).astype(np.int8)
    if kind == "alternating":
        return np.where(np.arange(int(np.prod(shape))).reshape(shape) % 2, 127, -128).astype(np.int8)
    return np.full(shape, int(kind), np.int8)


def activations(rng: np.random.Generator, worst: bool, *shape: int) -> NDArray[np.uint8]:
    return np.full(shape, 255, np.uint8) if worst else rng.integers(0, 256, shape).astype(np.uint8)


def finish(acc: Array, scale: Array, bias: Array | None, residual: Array | None, attrs: dict[str, Any]) -> Array:
    """Float32 where the contract says float32; the activation in double precision."""
    x = acc.astype(np.float32) * scale
    if bias is not None:
        x = x + bias
    r = None if residual is None else torch.from_numpy(residual)
    after = attrs.get("residual_after", 0)
    if r is not None and not after:
        x = x + r.numpy()
    x = activate(torch.from_numpy(x).double(), {**attrs, "residual_after": 0}).float().numpy()
    return x + r.numpy() if r is not None and after else x


def quantize(x: Array, attrs: dict[str, Any], dtype: type) -> Array:
    info = np.iinfo(dtype)
    inverse, zero = np.float32(1) / np.float32(attrs["y_scale"]), attrs["y_zero"]
    most = min(info.max, attrs.get("y_max", info.max))
    return (np.rint(np.clip(x * inverse, info.min - zero, most - zero)) + zero).astype(dtype)


def folded(acc: Array, scale: Array, bias: Array | None, attrs: dict[str, Any], dtype: type) -> Array:
    """Bytes where no more than a clamp stands between: the inverse of y_scale is multiplied into scale, bias and bounds."""
    info, zero = np.iinfo(dtype), attrs["y_zero"]
    inverse = np.float32(1) / np.float32(attrs["y_scale"])
    lowest, highest = np.float32(info.min - zero), np.float32(min(info.max, attrs.get("y_max", info.max)) - zero)
    bounds = {"none": [-np.inf, np.inf], "relu": [0.0, np.inf]}.get(attrs.get("act", "none")) or attrs["act_args"]
    lo, hi = (np.clip(np.float32(bound) * inverse, lowest, highest) for bound in bounds)
    x = acc.astype(np.float32) * (scale * inverse) + (0 if bias is None else bias * inverse)
    return (np.rint(np.minimum(np.maximum(x, lo), hi)) + zero).astype(dtype)


def check_all(
    contract: str, inputs: list[Any], acc: Array, attrs: dict[str, Any], dtype: type, threads: int = 1
) -> None:
    """The reference is numpy's; ISAs equal the reference, but for roundings of activations that are not clamps."""
    scale, bias, residual = inputs[2:5]
    exact = attrs.get("act", "none") in ("none", "relu", "clip")
    want = finish(acc, scale, bias, residual, attrs)
    if dtype is not np.float32 and exact and residual is None:
        want = folded(acc, scale, bias, attrs, dtype)
    elif dtype is not np.float32:
        want = quantize(want, attrs, dtype)
    (reference,) = _kernels.run(contract, inputs, [(want.shape, dtype)], attrs, isa="reference")
    results = {"reference": want, **dict.fromkeys(isas_of(contract), reference)}
    for isa, expected in results.items():
        (got,) = _kernels.run(contract, inputs, [(want.shape, dtype)], attrs, isa=isa, threads=threads)
        if exact:
            np.testing.assert_array_equal(got, expected, err_msg=isa)
        elif dtype is np.float32:
            assert_close(got, expected.astype(np.float64), 1)
        else:
            assert int(np.abs(got.astype(np.int32) - expected.astype(np.int32)).max(initial=0)) <= 1, isa


def output_attrs(rng: np.random.Generator, dtype: type, scale: float) -> dict[str, Any]:
    if dtype is np.float32:
        return {}
    info = np.iinfo(dtype)
    attrs: dict[str, Any] = {"y_scale": float(np.float32(scale)), "y_zero": int(rng.integers(info.min, info.max + 1))}
    if rng.random() < 0.3:
        attrs["y_max"] = 127
    return attrs


def summed(acc: Array, scale: Array, bias: Array | None, residual: Array, attrs: dict[str, Any], dtype: type) -> Array:
    """QDQ's own formula: bytes of the product, dequantized, plus a dequantized residual, quantized again."""
    term = folded(acc, scale, bias, {**attrs, **{f"y_{key}": attrs[f"x_{key}"] for key in ("scale", "zero", "max")}}, np.uint8)  # fmt: skip
    total = (term.astype(np.float32) - attrs["x_zero"]) * np.float32(attrs["x_scale"])
    total = total + (residual.astype(np.float32) - attrs["r_zero"]) * np.float32(attrs["r_scale"])
    info, zero = np.iinfo(dtype), attrs["y_zero"]
    q = np.clip(
        total / np.float32(attrs["y_scale"]), info.min - zero, min(info.max, attrs.get("y_max", info.max)) - zero
    )
    return (np.rint(q) + zero).astype(dtype)


def summed_attrs(rng: np.random.Generator, dtype: type, act: str) -> dict[str, Any]:
    scales = rng.choice([rng.uniform(0.005, 0.02), 0.01, 0.02], 2).astype(np.float32)  # sums that are halves of a step
    attrs = {"x_scale": float(scales[0]), "x_zero": int(rng.integers(0, 256)), "x_max": int(rng.choice([255, 127]))}
    attrs |= {"r_scale": float(scales[1]), "r_zero": int(rng.choice([0, 128, 255]))}
    attrs |= {"none": {}, "relu": {"act": "relu"}, "clip": {"act": "clip", "act_args": [-0.3, 0.4]}}[act]
    return attrs | output_attrs(rng, dtype, rng.choice([rng.uniform(0.005, 0.04), 0.02]))


def check_sum(contract: str, inputs: list[Any], acc: Array, attrs: dict[str, Any], dtype: type, threads: int) -> None:
    """The reference is numpy's, and so is every instruction set."""
    want = summed(acc, *inputs[2:5], attrs, dtype)
    for isa in ("reference", *isas_of(contract)):
        (got,) = _kernels.run(contract, inputs, [(want.shape, dtype)], attrs, isa=isa, threads=threads)
        np.testing.assert_array_equal(got, want, err_msg=isa)


ACTS = st.sampled_from(["none", "none", "relu", "clip"])


@quick
@given(
    m=SIZES,
    n=SIZES,
    k=DEPTHS,
    kind=WEIGHTS,
    bias=st.booleans(),
    act=ACTS,
    dtype=st.sampled_from([np.uint8, np.int8]),
    threads=st.integers(1, 2),
    seed=SEEDS,
)
def test_a_residual_of_bytes(
    m: int, n: int, k: int, kind: str, bias: bool, act: str, dtype: type, threads: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    a, w = activations(rng, False, m, k), weights(kind, rng, k, n)
    acc = (a.astype(np.int64) - 37) @ w.astype(np.int64)
    scale = (rng.uniform(0.5, 1, n) * 2 / max(1, np.abs(acc).max(initial=1))).astype(np.float32)
    b = rng.uniform(-1, 1, n).astype(np.float32) if bias else None
    packed = _kernels.pack("gemm_u8s8", "gemm_u8s8_nr16_v2", w, {"n": n, "k": k})
    attrs = {"n": n, "k": k, "a_zero": 37, **summed_attrs(rng, dtype, act)}
    check_sum("gemm_u8s8", [a, packed, scale, b, activations(rng, False, m, n)], acc, attrs, dtype, threads)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
@pytest.mark.parametrize(
    ("x_scale", "r_scale", "y_scale"),
    [
        (0.7, 0.9, 1.0),
        (0.1, 0.1, 0.2),
        (0.05, 0.1, 0.1),
        (0.0169, 0.0182, 0.0105),
        (0.0306, 0.0105, 0.0163),
        (3, 1e-3, 2),
    ],
)
def test_every_term_with_every_byte_of_a_residual(x_scale: float, r_scale: float, y_scale: float, dtype: type) -> None:
    """All 65,536 pairs, where many sums are halves of a step to within a rounding and where few are."""
    a = np.zeros((256, 4), np.uint8)
    a[:, 0] = np.arange(256)
    w = np.ones((4, 256), np.int8)
    packed = _kernels.pack("gemm_u8s8", "gemm_u8s8_nr16_v2", w, {"n": 256, "k": 4})
    residual = np.broadcast_to(np.arange(256, dtype=np.uint8), (256, 256)).copy()
    for zero, y_zero in ((137, 0), (0, 120), (120, 3)):
        acc = np.broadcast_to(np.arange(256)[:, None] - zero, (256, 256))
        attrs = {"n": 256, "k": 4, "a_zero": zero, "x_zero": zero, "x_max": 255, "x_scale": x_scale}
        acc = acc - 3 * zero  # the k's that are 0
        attrs |= {
            "r_scale": r_scale,
            "r_zero": 255 - zero,
            "y_scale": y_scale,
            "y_zero": y_zero - 128 * (dtype is np.int8),
        }
        scale, bias = np.full(256, x_scale, np.float32), np.full(256, 3 * zero * x_scale, np.float32)
        check_sum("gemm_u8s8", [a, packed, scale, bias, residual], acc, attrs, dtype, 1)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
@pytest.mark.parametrize("summed", [False, True])
def test_results_beyond_32_bits_meet_the_bounds(summed: bool, dtype: type) -> None:
    rng = np.random.default_rng(1)
    m, n, k = 33, 50, 40
    a, w = activations(rng, False, m, k), weights("normal", rng, k, n)
    acc = (a.astype(np.int64) - 37) @ w.astype(np.int64)
    scale = rng.choice([1e6, -1e6, 0.6, 1e-3], n).astype(np.float32)
    bias = rng.choice([3e9, -3e9, 1e20, np.inf, -np.inf, 0], n).astype(np.float32)
    packed = _kernels.pack("gemm_u8s8", "gemm_u8s8_nr16_v2", w, {"n": n, "k": k})
    attrs = {"n": n, "k": k, "a_zero": 37, "y_scale": 0.5, "y_zero": 7}
    if summed:
        attrs |= {"x_scale": 0.3, "x_zero": 50, "x_max": 255, "r_scale": 0.2, "r_zero": 9}
        check_sum("gemm_u8s8", [a, packed, scale, bias, activations(rng, False, m, n)], acc, attrs, dtype, 1)
    else:
        check_all("gemm_u8s8", [a, packed, scale, bias, None], acc, attrs, dtype)


@quick
@given(
    m=SIZES,
    n=SIZES,
    k=DEPTHS,
    kind=WEIGHTS,
    worst=st.booleans(),
    zero=st.sampled_from([0, 0, 128, 255, 37]),
    trans=st.booleans(),
    bias=st.booleans(),
    ep=epilogues(),
    dtype=st.sampled_from([np.float32, np.uint8, np.int8]),
    threads=st.integers(1, 2),
    seed=SEEDS,
)
def test_gemm(
    m: int, n: int, k: int, kind: str, worst: bool, zero: int, trans: bool, bias: bool, ep: dict[str, Any],
    dtype: type, threads: int, seed: int,
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    a, w = activations(rng, worst, m, k), weights(kind, rng, k, n)
    acc = (a.astype(np.int64) - zero) @ w.astype(np.int64)
    scale = (rng.uniform(0.5, 1, n) * 2 / max(1, np.abs(acc).max(initial=1))).astype(np.float32)
    b = rng.uniform(-1, 1, n).astype(np.float32) if bias else None
    r = rng.uniform(-1, 1, (m, n)).astype(np.float32) if ep["_residual"] else None
    attrs = {key: value for key, value in ep.items() if not key.startswith("_")}
    attrs |= {"n": n, "k": k, "w_trans": int(trans), "a_zero": zero} | output_attrs(rng, dtype, 0.013)
    packed = _kernels.pack("gemm_u8s8", "gemm_u8s8_nr16_v2", np.ascontiguousarray(w.T) if trans else w, attrs)
    check_all("gemm_u8s8", [a, packed, scale, b, r], acc, attrs, dtype, threads)


@pytest.mark.parametrize("threads", [2, 3, 5])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize(
    ("m", "n", "k"),
    [(1, 1000, 640), (13, 119, 700), (49, 160, 576), (196, 64, 192), (196, 384, 64), (197, 192, 192), (1300, 90, 64)],
)
def test_gemm_in_shares(m: int, n: int, k: int, dtype: type, threads: int) -> None:
    """By columns of which not all threads have as many, by rows, and by both."""
    rng = np.random.default_rng(m)
    a, w = activations(rng, False, m, k), weights("normal", rng, k, n)
    acc = (a.astype(np.float64) - 37) @ w.astype(np.float64)
    scale = (rng.uniform(0.5, 1, n) * 2 / np.abs(acc).max()).astype(np.float32)
    packed = _kernels.pack("gemm_u8s8", "gemm_u8s8_nr16_v2", w, {"n": n, "k": k})
    attrs = {"n": n, "k": k, "a_zero": 37} | output_attrs(rng, dtype, 0.013)
    check_all("gemm_u8s8", [a, packed, scale, None, None], acc, attrs, dtype, threads)


@pytest.mark.parametrize("kind", ["any", "normal", "127", "-128", "alternating"])
@pytest.mark.parametrize("k", [3, 4, 7, 256, 2049, 65536])
def test_sums_are_exact_at_the_worst(kind: str, k: int) -> None:
    """Sums as they are: scale 1 and small enough, or their low bits through a zero point that cancels the rest."""
    rng = np.random.default_rng(k)
    w = weights(kind, rng, k, 17)
    for a in (activations(rng, True, 5, k), activations(rng, False, 5, k)):
        for zero in (0, 255):
            attrs = {"n": 17, "k": k, "a_zero": zero}
            packed = _kernels.pack("gemm_u8s8", "gemm_u8s8_nr16_v2", w, attrs)
            acc = (a.astype(np.int64) - zero) @ w.astype(np.int64)
            for low in (0.0, -1.0):  # the low 12 bits: float32 of a sum below 2^31 keeps 24 of its bits
                scale = np.full(17, 1.0, np.float32)
                bias = np.full(17, low, np.float32)
                check_all("gemm_u8s8", [a, packed, scale, bias, None], acc, attrs, np.float32)


@pytest.mark.parametrize("a_max", [1, 63, 127, 128, 254])
@pytest.mark.parametrize("kind", ["any", "normal", "127", "-128", "alternating"])
def test_activations_up_to_a_bound(a_max: int, kind: str) -> None:
    rng = np.random.default_rng(a_max)
    k, n = 519, 33
    w, a = weights(kind, rng, k, n), np.full((6, k), a_max, np.uint8)
    a[3:] = rng.integers(0, a_max + 1, (3, k))
    attrs = {"n": n, "k": k, "a_max": a_max, "a_zero": 1}
    packed = _kernels.pack("gemm_u8s8", "gemm_u8s8_nr16_v2", w, attrs)
    acc = (a.astype(np.int64) - 1) @ w.astype(np.int64)
    check_all("gemm_u8s8", [a, packed, np.ones(n, np.float32), None, None], acc, attrs, np.float32)


def test_rounds_half_to_even_and_saturates() -> None:
    a = np.arange(1, 9, dtype=np.uint8).reshape(8, 1)
    attrs = {"n": 1, "k": 1, "y_scale": 2.0, "y_zero": 0}
    packed = _kernels.pack("gemm_u8s8", "gemm_u8s8_nr16_v2", np.ones((1, 1), np.int8), attrs)
    for isa in ["reference", *isas_of("gemm_u8s8")]:
        (got,) = _kernels.run("gemm_u8s8", [a, packed, np.ones(1, np.float32)], [((8, 1), np.uint8)], attrs, isa=isa)
        assert got.ravel().tolist() == [0, 1, 2, 2, 2, 3, 4, 4], isa
        huge = [a, packed, np.full(1, 3e38, np.float32)]
        (got,) = _kernels.run("gemm_u8s8", huge, [((8, 1), np.uint8)], attrs, isa=isa)
        assert got.ravel().tolist() == [255] * 8, isa
        (got,) = _kernels.run("gemm_u8s8", [a, packed, -huge[2]], [((8, 1), np.int8)], attrs, isa=isa)
        assert got.ravel().tolist() == [-128] * 8, isa
        (got,) = _kernels.run(
            "gemm_u8s8", [a, packed, np.full(1, np.nan, np.float32)], [((8, 1), np.int8)], attrs, isa=isa
        )
        assert got.ravel().tolist() == [-128] * 8, isa


def test_a_damaged_packing_stays_within_its_bytes() -> None:
    """Whatever the masks and sums say, every ISA runs and reads no further (seen by the address sanitizer)."""
    rng = np.random.default_rng(0)
    attrs = {"n": 17, "k": 263}
    packed = _kernels.pack("gemm_u8s8", "gemm_u8s8_nr16_v2", weights("any", rng, 263, 17), attrs)
    for _ in range(5):
        for isa in ["reference", *isas_of("gemm_u8s8")]:
            noise = rng.integers(0, 256, len(packed)).astype(np.uint8).tobytes()
            a = activations(rng, False, 5, 263)
            _kernels.run("gemm_u8s8", [a, noise, np.ones(17, np.float32)], [(5, 17)], attrs, isa=isa)


@pytest.mark.parametrize(
    ("change", "dtype", "words"),
    [
        ({}, np.float32, "a residual of 8 bits"),
        ({}, np.int32, "y of int32"),
        ({"act": "gelu"}, np.uint8, "a residual of 8 bits"),
        ({"x_scale": 0.0}, np.uint8, "x_scale"),
        ({"x_scale": 1e-13}, np.uint8, "x_scale"),
        ({"r_scale": 1e13}, np.uint8, "r_scale"),
        ({"y_scale": 1e-13}, np.uint8, "y_scale"),
        ({"r_zero": 256}, np.uint8, "r_zero"),
        ({"x_max": -1}, np.uint8, "x_max"),
    ],
)
def test_a_residual_of_bytes_is_refused(change: dict[str, Any], dtype: type, words: str) -> None:
    attrs = {"n": 17, "k": 8}
    packed = _kernels.pack("gemm_u8s8", "gemm_u8s8_nr16_v2", np.ones((8, 17), np.int8), attrs)
    inputs = [np.ones((3, 8), np.uint8), packed, np.ones(17, np.float32), None, np.ones((3, 17), np.uint8)]
    with pytest.raises(Error, match=words):
        _kernels.run("gemm_u8s8", inputs, [((3, 17), dtype)], {**attrs, **change})


@pytest.mark.parametrize(
    ("change", "dtype", "words"),
    [
        ({"n": 16}, np.float32, "extent"),
        ({"k": 7}, np.float32, "extent"),
        ({"k": 65537}, np.float32, "'k'"),
        ({"a_zero": 256}, np.float32, "a_zero"),
        ({"y_zero": 200}, np.int8, "y_zero"),
        ({"y_zero": -1}, np.uint8, "y_zero"),
        ({"y_scale": 0.0}, np.uint8, "y_scale"),
        ({"y_scale": 1e-46}, np.uint8, "y_scale"),
        ({"y_scale": -1.0}, np.uint8, "y_scale"),
        ({"y_max": 256}, np.uint8, "y_max"),
        ({}, np.int16, "y is int16, expected float32"),
    ],
)
def test_gemm_refuses(change: dict[str, Any], dtype: type, words: str) -> None:
    attrs = {"n": 17, "k": 8}
    packed = _kernels.pack("gemm_u8s8", "gemm_u8s8_nr16_v2", np.ones((8, 17), np.int8), attrs)
    inputs = [np.ones((3, 8), np.uint8), packed, np.ones(17, np.float32)]
    with pytest.raises(Error, match=words):
        _kernels.run("gemm_u8s8", inputs, [((3, 17), dtype)], {**attrs, **change})


def test_other_types_are_refused() -> None:
    attrs = {"n": 4, "k": 4}
    packed = _kernels.pack("gemm_u8s8", "gemm_u8s8_nr16_v2", np.ones((4, 4), np.int8), attrs)
    for inputs in (
        [np.ones((3, 4), np.int8), packed, np.ones(4, np.float32)],
        [np.ones((3, 4), np.uint8), packed, np.ones(4, np.float64)],
        [np.ones((3, 4), np.uint8), packed[:-1], np.ones(4, np.float32)],
        [np.ones((3, 4), np.uint8), packed, np.ones(3, np.float32)],
    ):
        with pytest.raises(Error, match="gemm_u8s8"):
            _kernels.run("gemm_u8s8", inputs, [(3, 4)], attrs)
    with pytest.raises(Error, match="int8"):
        _kernels.pack("gemm_u8s8", "gemm_u8s8_nr16_v2", np.ones((4, 4), np.float32), attrs)


def by_windows(rng: np.random.Generator, k: int, n: int) -> NDArray[np.int8]:
    """Windows of 16 k's in turn: doubled as they stand; doubled in an order only (large weights side by side); mixed; any."""
    w = rng.integers(-30, 31, (k, n)).astype(np.int8)
    for begin in range(0, k, 16):
        kind = begin // 16 % 4
        if kind == 1:
            w[begin : begin + 4] = 100
            w[begin + 4 : begin + 16] = rng.integers(-9, 10, w[begin + 4 : begin + 16].shape)
        if kind == 2:
            w[begin : begin + 16 : 5] = -128
        if kind == 3:
            w[begin : begin + 16] = rng.integers(-128, 128, w[begin : begin + 16].shape)
    return w


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
@pytest.mark.parametrize("zero", [0, 128])
@pytest.mark.parametrize("k", [12, 16, 20, 24, 28, 32, 60, 64, 68, 232, 252, 256, 1540, 3072])
@pytest.mark.parametrize("windows", [1, 2, 4])
def test_gemm_of_one_and_of_several_kinds_of_windows(windows: int, k: int, zero: int, dtype: type) -> None:
    rng = np.random.default_rng(k)
    kinds = by_windows(rng, 64 * windows, 33)[: 16 * windows]
    w = np.ascontiguousarray(np.tile(kinds, (-(-k // len(kinds)), 1))[:k])
    for m, n in [(4, 16), (9, 33), (13, 16), (530, 16)]:
        a, part = activations(rng, False, m, k), np.ascontiguousarray(w[:, :n])
        acc = (a.astype(np.int64) - zero) @ part.astype(np.int64)
        scale = (rng.uniform(0.5, 1, n) * 2 / max(1, np.abs(acc).max())).astype(np.float32)
        bias = rng.uniform(-1, 1, n).astype(np.float32)
        attrs = {"n": n, "k": k, "a_zero": zero} | output_attrs(rng, dtype, 0.013)
        packed = _kernels.pack("gemm_u8s8", "gemm_u8s8_nr16_v2", part, attrs)
        check_all("gemm_u8s8", [a, packed, scale, bias, None], acc, attrs, dtype)
