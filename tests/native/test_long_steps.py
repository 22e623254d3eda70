"""One long step on one thread is left when the deadline comes, long before its end: every kernel, and what is not parallel in it.

Times are of the thread that runs, so that a busy machine changes little."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import maas_rt
from maas_rt import _kernels
from tests import _tiny


class One(_tiny.Builder):
    """A model of one kernel step."""

    def __init__(self) -> None:
        super().__init__("one long step")
        self.arrays: dict[str, np.ndarray[Any, Any]] = {}

    def given(self, name: str, array: np.ndarray[Any, Any]) -> int:
        self.arrays[name] = array
        return self.input(name, array.shape, array.dtype.name)

    def packed(self, contract: str, packing: str, weight: np.ndarray[Any, Any], **attrs: Any) -> int:
        return self.constant("w", weight, _kernels.pack(contract, packing, weight, attrs))

    def only(
        self, contract: str, args: list[int | None], dims: tuple[int, ...], packing: str = "", **attrs: Any
    ) -> Any:
        dtype = attrs.pop("dtype", "float32")
        out = self.value("y", dims, dtype)
        more = attrs.pop("more", [])
        outs = [out, *(self.value(f"more{i}", d, t) for i, (d, t) in enumerate(more))]
        self.step(_tiny.StepKind.KERNEL, args, outs, contract, attrs, packing)
        return maas_rt.load(self.file(*outs), threads=1), self.arrays


def floats(*dims: int) -> np.ndarray[Any, Any]:
    return np.ones(dims, np.float32)


def octets(*dims: int, dtype: Any = np.uint8) -> np.ndarray[Any, Any]:
    return np.ones(dims, dtype)


def gemm(rows: int, k: int, n: int) -> Any:
    b = One()
    w = b.packed("gemm_f32", "gemm_f32_nr16_v1", floats(k, n), k=k, n=n)
    return b.only("gemm_f32", [b.given("x", floats(rows, k)), w], (rows, n), "gemm_f32_nr16_v1", k=k, n=n)


def gemm_bytes(rows: int, k: int, n: int) -> Any:
    b = One()
    packing = "gemm_u8s8_nr16_v2"
    w = b.packed("gemm_u8s8", packing, octets(k, n, dtype=np.int8), k=k, n=n)
    scale = b.constant("scale", np.full(n, 1e-3, np.float32))
    return b.only("gemm_u8s8", [b.given("x", octets(rows, k)), w, scale], (rows, n), packing, k=k, n=n)


def gemm_of_few_bits(rows: int, k: int, n: int) -> Any:
    b = One()
    packing = "gemm_f32q_nr16_v1"
    w = b.packed("gemm_f32q", packing, octets(k, n, dtype=np.int8), k=k, n=n)
    scale = b.constant("scale", np.full((1, n), 1e-3, np.float32))
    return b.only("gemm_f32q", [b.given("x", floats(rows, k)), w, scale], (rows, n), packing, k=k, n=n)


def sparse_gemm(rows: int, k: int, n: int) -> Any:
    b = One()
    packing = "gemm_f32_sparse_v1"
    w = b.packed("gemm_f32_sparse", packing, floats(k, n), k=k, n=n)
    return b.only("gemm_f32_sparse", [b.given("x", floats(rows, k)), w], (rows, n), packing, k=k, n=n)


def conv(contract: str, packing: str, size: int, channels: int, filters: int, kernel: int, **attrs: Any) -> Any:
    b = One()
    bytes_ = contract.endswith("u8s8")
    per_group = channels // attrs.get("groups", 1)
    attrs |= {"kernel": [kernel, kernel], "channels": [channels, filters], "pads": [kernel // 2] * 4}
    shape = (filters, per_group, kernel, kernel)
    weight = octets(*shape, dtype=np.int8) if bytes_ else floats(*shape)
    x = b.given("x", octets(1, size, size, channels) if bytes_ else floats(1, size, size, channels))
    args: list[int | None] = [x, b.packed(contract, packing, weight, **attrs)]
    if bytes_:
        args.append(b.constant("scale", np.full(filters, 1e-3, np.float32)))
    return b.only(contract, args, (1, size, size, filters), packing, **attrs)


def conv_transpose(size: int, channels: int) -> Any:
    b = One()
    contract, packing = "conv_transpose2d_f32", "conv_transpose2d_f32_v1"
    attrs = {"kernel": [4, 4], "channels": [channels, channels], "pads": [1, 1, 1, 1], "strides": [2, 2]}
    w = b.packed(contract, packing, floats(channels, channels, 4, 4), **attrs)
    x = b.given("x", floats(1, size, size, channels))
    return b.only(contract, [x, w], (1, 2 * size, 2 * size, channels), packing, **attrs)


def lstm(steps: int, batch: int, hidden: int) -> Any:
    b = One()
    packing = "rnn_f32_nr16_v1"
    attrs = {"hidden": hidden}
    w = b.packed("lstm_f32", packing, floats(1, 4 * hidden, hidden) / 30, **attrs)
    r = b.packed("lstm_f32", packing, floats(1, 4 * hidden, hidden) / 30, **attrs)
    more = [((1, batch, hidden), "float32")] * 2
    args: list[int | None] = [b.given("x", floats(steps, batch, hidden)), w, r]
    return b.only("lstm_f32", args, (steps, batch, hidden), packing, more=more, **attrs)


def top_k(n: int, k: int, **attrs: Any) -> Any:
    b = One()
    more = [((1, k), "int64")]
    x = np.random.default_rng(0).random((1, n), np.float32)
    return b.only("top_k", [b.given("x", x)], (1, k), more=more, **attrs)


def attention(length: int, heads: int) -> Any:
    b = One()
    q, k, v = (b.given(name, floats(1, length, heads, 64)) for name in "qkv")
    return b.only("attention_f32", [q, k, v], (1, length, heads, 64))


def simple(contract: str, dims: tuple[int, ...], out: tuple[int, ...], **attrs: Any) -> Any:
    b = One()
    return b.only(contract, [b.given("x", floats(*dims))], out, **attrs)


def matmul(contract: str, m: int, k: int, n: int) -> Any:
    b = One()
    make = octets if contract == "matmul_u8" else floats
    return b.only(contract, [b.given("a", make(m, k)), b.given("b", make(k, n))], (m, n))


CASES: dict[str, Callable[[], Any]] = {
    "gemm": lambda: gemm(4096, 1024, 2048),
    "gemm of few rows": lambda: gemm(6, 2048, 24576),
    "gemm of bytes": lambda: gemm_bytes(8192, 1024, 4096),
    "gemm of bytes, few rows": lambda: gemm_bytes(8, 2048, 49152),
    "gemm of few bits": lambda: gemm_of_few_bits(4096, 1024, 2048),
    "gemm of few bits, few rows": lambda: gemm_of_few_bits(4, 2048, 49152),
    "sparse gemm": lambda: sparse_gemm(4096, 1024, 2048),
    "matmul": lambda: matmul("matmul_f32", 2048, 1024, 4096),
    "matmul of bytes": lambda: matmul("matmul_u8", 2048, 1024, 4096),
    "convolution": lambda: conv("conv2d_f32", "conv2d_f32_nr16_v1", 192, 128, 128, 3),
    "convolution, lines copied": lambda: conv("conv2d_f32", "conv2d_f32_nr16_v1", 1024, 3, 64, 7),
    "winograd": lambda: conv("conv2d_winograd_f32", "conv2d_winograd_f32_nr16_v1", 256, 128, 128, 3, tile=4),
    "convolution of bytes": lambda: conv("conv2d_u8s8", "conv2d_u8s8_nr16_v2", 256, 128, 256, 3),
    "convolution of bytes, gathered": lambda: conv("conv2d_u8s8", "conv2d_u8s8_nr16_v2", 1024, 3, 64, 7),
    "depthwise": lambda: conv("depthwise_conv2d_f32", "depthwise_f32_c8_v1", 384, 128, 128, 9, groups=128),
    "depthwise of bytes": lambda: conv("depthwise_conv2d_u8s8", "depthwise_u8s8_c8_v1", 384, 128, 128, 9, groups=128),
    "transposed convolution": lambda: conv_transpose(96, 128),
    "lstm": lambda: lstm(64, 64, 512),
    "top_k": lambda: top_k(40_000_000, 50),
    "sort": lambda: top_k(4_000_000, 4_000_000),
    "median": lambda: top_k(20_000_000, 1, pick="median", largest=0),
    "attention": lambda: attention(2048, 8),
    "resize": lambda: simple("resize2d_f32", (1, 512, 512, 8), (1, 2048, 2048, 8), mode="cubic"),
    "pool": lambda: simple("pool2d_f32", (1, 256, 256, 64), (1, 236, 236, 64), mode="avg", kernel=[21, 21]),
    "softmax": lambda: simple("softmax_f32", (2048, 16384), (2048, 16384)),
    "norm": lambda: simple("layer_norm_f32", (2048, 32768), (2048, 32768)),
}


@pytest.mark.parametrize("name", CASES)
def test_a_deadline_is_kept(name: str) -> None:
    model, arrays = CASES[name]()
    model.run(arrays)  # what the first run allocates
    began = time.thread_time()
    model.run(arrays)
    whole = time.thread_time() - began
    began = time.thread_time()
    with pytest.raises(maas_rt.DeadlineExceededError):
        model.run(arrays, deadline=whole / 20)
    took = time.thread_time() - began
    print(f"{name}: {whole:.3f} s, left after {took / whole:.3f}")
    assert took < whole / 2
