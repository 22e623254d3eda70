"""The layers that are timed: products and convolutions of ResNet-18, MobileNetV2, BERT and ViT, and a few odd ones."""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maas_rt import _kernels, _native

Array = NDArray[np.float32]

HUGE_PAGE = 2 << 20  # bytes


@dataclass(frozen=True)
class Case:
    """A layer: ours as a contract with its operands, the peer's as an ONNX operator with its own."""

    name: str
    contract: str
    inputs: list[Any]
    output: Array  # written again by each run
    attrs: dict[str, Any]
    flops: float
    onnx_op: str
    onnx_attrs: dict[str, Any]
    onnx_input: Array
    onnx_weights: list[Array]

    def run(self) -> Array:
        _native.kernel_run(self.contract, None, self.inputs, [self.output], self.attrs, 1)
        return self.output

    def like_peer(self, result: Array) -> Array:
        """Our result in the peer's layout."""
        return np.ascontiguousarray(result.transpose(0, 3, 1, 2)) if result.ndim == 4 else result


def placed(data: bytes | NDArray[Any]) -> NDArray[Any]:
    """A copy where a session would have it: on a cache line, and what is large on huge pages."""
    array = np.frombuffer(data, np.uint8) if isinstance(data, bytes) else data
    large = array.nbytes >= HUGE_PAGE and hasattr(mmap, "MADV_HUGEPAGE")
    alignment = HUGE_PAGE if large else 64
    memory = mmap.mmap(-1, array.nbytes + alignment)
    if large:
        memory.madvise(mmap.MADV_HUGEPAGE)
    room = np.frombuffer(memory, np.uint8)
    start = -room.ctypes.data % alignment
    copy = room[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def gemm(m: int, n: int, k: int, act: str = "none") -> Case:
    rng = np.random.default_rng(1)
    a, w, b = (rng.standard_normal(shape, np.float32) for shape in ((m, k), (k, n), (n,)))
    attrs = {"n": n, "k": k, "act": act}
    packed = placed(_kernels.pack("gemm_f32", "gemm_f32_nr16_v1", w, attrs))
    name = f"gemm {m} x {n} x {k}" + (f" {act}" if act != "none" else "")
    return Case(
        name,
        "gemm_f32",
        [placed(a), packed, b],
        placed(np.zeros((m, n), np.float32)),
        attrs,
        2.0 * m * n * k,
        "Gemm",
        {"act": act},
        a,
        [w, b],
    )


def conv(size: int, c: int, o: int, kernel: int, stride: int = 1, groups: int = 1, act: str = "relu") -> Case:
    rng = np.random.default_rng(1)
    pad = (kernel - 1) // 2 if stride < kernel or kernel == 1 else 0
    out = (size + 2 * pad - kernel) // stride + 1
    x = rng.standard_normal((1, size, size, c), np.float32)
    w, b = rng.standard_normal((o, c // groups, kernel, kernel), np.float32), rng.standard_normal(o, np.float32)
    attrs = {
        "strides": [stride] * 2,
        "pads": [pad] * 4,
        "kernel": [kernel] * 2,
        "channels": [c, o],
        "groups": groups,
        "act": act,
    }
    depthwise = groups == c == o and groups > 1
    contract, packing = (
        ("depthwise_conv2d_f32", "depthwise_f32_c8_v1") if depthwise else ("conv2d_f32", "conv2d_f32_nr16_v1")
    )
    packed = placed(_kernels.pack(contract, packing, w, attrs))
    kind = "dw" if depthwise else f"g{groups}" if groups > 1 else ""
    name = f"conv {kernel}x{kernel} s{stride} {c}>{o} @{size} {kind}".strip()
    flops = 2.0 * out * out * o * (c // groups) * kernel * kernel
    onnx = {"strides": [stride] * 2, "pads": [pad] * 4, "kernel_shape": [kernel] * 2, "group": groups, "act": act}
    y = np.zeros((1, out, out, o), np.float32)
    nchw = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    return Case(name, contract, [placed(x), packed, b], placed(y), attrs, flops, "Conv", onnx, nchw, [w, b])


def square() -> list[Case]:
    return [gemm(n, n, n) for n in (384, 768, 1024, 1536)]


def transformers() -> list[Case]:
    bert = [gemm(128, 384, 384), gemm(128, 1536, 384, "gelu"), gemm(128, 384, 1536)]
    vit = [gemm(197, 576, 192), gemm(197, 192, 192), gemm(197, 768, 192, "gelu"), gemm(197, 192, 768)]
    return [*bert, *vit]


def vectors() -> list[Case]:
    return [gemm(1, 1000, 512), gemm(1, 1000, 1280), gemm(1, 4096, 4096), gemm(4, 1000, 1280)]


def resnet() -> list[Case]:
    first = [conv(224, 3, 64, 7, 2)]
    same = [conv(56, 64, 64, 3), conv(28, 128, 128, 3), conv(14, 256, 256, 3), conv(7, 512, 512, 3)]
    down = [conv(56, 64, 128, 3, 2), conv(28, 128, 256, 3, 2), conv(14, 256, 512, 3, 2)]
    skip = [
        conv(56, 64, 128, 1, 2, act="none"),
        conv(28, 128, 256, 1, 2, act="none"),
        conv(14, 256, 512, 1, 2, act="none"),
    ]
    return [*first, *same, *down, *skip, conv(224, 3, 192, 16, 16, act="none")]


def mobilenet() -> list[Case]:
    shapes = [(112, 16, 96), (56, 24, 144), (28, 32, 192), (14, 64, 384), (14, 96, 576), (7, 160, 960), (7, 320, 1280)]
    expand = [conv(size, c, o, 1) for size, c, o in shapes]
    shapes = [(112, 32, 16), (56, 144, 24), (28, 192, 32), (14, 384, 64), (14, 576, 96), (7, 960, 160), (7, 960, 320)]
    project = [conv(size, c, o, 1, act="none") for size, c, o in shapes]
    one = [conv(size, c, c, 3, 1, c) for size, c in [(112, 32), (56, 144), (28, 192), (14, 384), (14, 576), (7, 960)]]
    two = [conv(size, c, c, 3, 2, c) for size, c in [(112, 96), (56, 144), (28, 192), (14, 576)]]
    return [conv(224, 3, 32, 3, 2), *expand, *project, *one, *two]


def odd() -> list[Case]:
    grouped = [conv(56, 128, 128, 3, 1, 32), conv(28, 256, 256, 3, 1, 32), conv(28, 240, 240, 1, 1, 3)]
    wide = [conv(14, 672, 672, 5, 1, 672), conv(14, 384, 384, 7, 1, 384), conv(27, 50, 70, 3), conv(31, 17, 29, 5, 2)]
    return [*grouped, *wide, gemm(61, 333, 517), gemm(100, 77, 1000)]


GROUPS = {
    "square": square,
    "transformers": transformers,
    "vectors": vectors,
    "resnet": resnet,
    "mobilenet": mobilenet,
    "odd": odd,
}
