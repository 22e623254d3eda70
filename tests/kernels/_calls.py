"""One good call of every contract: what the hostile test bends, and what the files kept for each format hold."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maas_rt import _kernels

CONTRACTS: dict[str, Any] = _kernels.describe()["contracts"]
_RNG = np.random.default_rng(1)


@dataclass(frozen=True)
class Call:
    """`inputs` in the contract's order, weights dense; an output is a shape, or (shape, dtype) where that is not float32."""

    inputs: list[NDArray[Any]]
    outputs: list[Any]
    attrs: dict[str, Any] = field(default_factory=dict)
    hint: str = ""

    def shapes(self) -> list[tuple[tuple[int, ...], np.dtype[Any]]]:
        """Shape and dtype of each output."""
        given = [out if out and isinstance(out[0], tuple) else (out, np.float32) for out in self.outputs]
        return [(tuple(shape), np.dtype(dtype)) for shape, dtype in given]


def packed(contract: str, call: Call, i: int) -> bytes | None:
    """Input i as the contract's packing stores it; None where it is taken as it is."""
    if not CONTRACTS[contract]["inputs"][min(i, len(CONTRACTS[contract]["inputs"]) - 1)].get("packed"):
        return None
    return _kernels.pack(contract, CONTRACTS[contract]["packings"][0], call.inputs[i], call.attrs)


def some(*shape: int) -> NDArray[np.float32]:
    return _RNG.uniform(0.25, 1, shape).astype(np.float32)


def byte(*shape: int) -> NDArray[np.uint8]:
    return _RNG.integers(0, 256, shape).astype(np.uint8)


def signed(*shape: int) -> NDArray[np.int8]:
    return _RNG.integers(-127, 128, shape).astype(np.int8)


GEMM = {"n": 17, "k": 9}
CONV = {"strides": [2, 1], "pads": [1, 0, 1, 2], "dilations": [1, 1], "groups": 2, "kernel": [3, 2], "channels": [4, 6]}
WINOGRAD = {"pads": [1, 0, 1, 2], "kernel": [3, 3], "channels": [4, 6], "tile": 2}
DEPTHWISE = {**CONV, "groups": 5, "channels": [5, 5]}
REPEATED = {**DEPTHWISE, "channels": [5, 15]}
POOL = {"kernel": [3, 2], "strides": [1, 2], "pads": [1, 0, 1, 1], "dilations": [1, 1]}
LSTM = {"hidden": 5, "direction": "bidirectional"}
CLIP = {"act": "clip", "act_args": [0.0, 6.0], "residual_after": 1}
BYTES = {"y_scale": 0.5, "y_zero": 9}
LENGTHS = np.array([4, 0, 2], np.int32)
RANDOM = {"uniform_f32": "f4", "uniform_f64": "f8", "normal_f32": "f4", "normal_f64": "f8", "bits_u64": "u8"}


def scale() -> NDArray[np.float32]:
    return np.array(0.125, np.float32)


CALLS: dict[str, Call] = {
    "attention_f32": Call(
        [some(2, 5, 4, 8), some(2, 7, 2, 8), some(2, 7, 2, 3), some(1, 5, 7)],
        [(2, 5, 4, 3)],
        {"scale": 0.5, "causal": 2, "safe": 1, "layout": "bshd"},
    ),
    "concat": Call([some(3, 4), some(3, 2), some(3, 0)], [(3, 6)], {"axis": 1}),
    "conv2d_f32": Call([some(1, 5, 6, 4), some(6, 2, 3, 2), some(6)], [(1, 3, 7, 6)], CONV, hint="depth=4096"),
    "conv2d_f32_sparse": Call(
        [some(1, 5, 6, 40), some(6, 40, 3, 2) * (_RNG.random((6, 40, 3, 2)) < 0.2), some(6), some(1, 3, 7, 6)],
        [(1, 3, 7, 6)],
        {**{key: value for key, value in CONV.items() if key != "groups"}, "channels": [40, 6], **CLIP, "block": 4},
    ),
    "conv2d_u8s8": Call(
        [byte(1, 5, 6, 4), signed(6, 2, 3, 2), some(6), some(6), some(1, 3, 7, 6), scale(), byte(), signed(6)],
        [(1, 3, 7, 6)],
        {**CONV, **BYTES, "a_zero": 3},
    ),
    "conv2d_winograd_f32": Call(
        [some(1, 5, 6, 4), some(6, 4, 3, 3), some(6)], [(1, 5, 6, 6)], WINOGRAD, hint="block_kib=64"
    ),
    "conv_transpose2d_f32": Call(
        [some(1, 3, 4, 4), some(4, 3, 3, 2), some(6)], [(1, 6, 3, 6)], {**CONV, "output_padding": [1, 0]}
    ),
    "depthwise_conv2d_f32": Call([some(1, 5, 6, 5), some(15, 1, 3, 2), some(15)], [(1, 3, 7, 15)], REPEATED),
    "depthwise_conv2d_u8s8": Call(
        [byte(1, 5, 6, 5), signed(5, 1, 3, 2), some(5)], [(1, 3, 7, 5)], {**DEPTHWISE, **BYTES, "a_zero": 3}
    ),
    "dynamic_quantize_u8": Call([some(3, 17)], [((3, 17), np.uint8), (), ((), np.uint8)]),
    "gather": Call([some(5, 4, 3), np.array([[0, -4], [3, 1]], np.int64)], [(5, 2, 2, 3)], {"axis": 1}),
    "gather_f32q": Call(
        [np.array([[0, -17], [16, 3]], np.int64), (signed(9, 17) >> 4), some(3, 17), (signed(3, 17) >> 4)],
        [(2, 2, 9)],
        {"n": 17, "k": 9, "bits": 4, "group": 4},
    ),
    "gemm_f32": Call(
        [some(3, 9), some(9, 17), some(17), some(3, 17)], [(3, 17)], {**GEMM, **CLIP}, hint="depth=64 rows_kib=16"
    ),
    "gemm_f32_sparse": Call(
        [some(3, 300), some(300, 17) * (_RNG.random((300, 17)) < 0.2), some(17), some(3, 17)],
        [(3, 17)],
        {"n": 17, "k": 300, **CLIP, "block": 1},
    ),
    "gemm_f32h": Call([some(3, 9), some(9, 17).astype(np.float16), some(17), some(3, 17)], [(3, 17)], {**GEMM, **CLIP}),
    "gemm_f32q": Call(
        [some(3, 9), (signed(9, 17) >> 4), some(3, 17), (signed(3, 17) >> 4), some(17), some(3, 17)],
        [(3, 17)],
        {**GEMM, **CLIP, "bits": 4, "group": 4},
    ),
    "gemm_s8q4": Call(
        [some(3, 41), (signed(41, 17) >> 4), some(2, 17), (signed(2, 17) >> 4), some(17), some(3, 17)],
        [(3, 17)],
        {"n": 17, "k": 41, **CLIP, "group": 32},
    ),
    "gemm_u8s8": Call(
        [byte(3, 9), signed(9, 17), some(17), some(17), some(3, 17), scale(), byte(), signed(17)],
        [(3, 17)],
        {**GEMM, **CLIP, **BYTES, "a_zero": 3},
    ),
    "gemm_u8s8_sparse": Call(
        [
            byte(3, 1030),
            signed(1030, 17) * (_RNG.random((1030, 17)) < 0.1),
            some(17),
            some(17),
            some(3, 17),
            scale(),
            byte(),
        ],
        [(3, 17)],
        {"n": 17, "k": 1030, **CLIP, **BYTES, "a_zero": 3},
    ),
    "global_avg_pool_f32": Call([some(2, 3, 4, 9)], [(2, 9)]),
    "gru_f32": Call(
        [some(4, 3, 6), some(2, 15, 6), some(2, 15, 5), some(2, 30), some(2, 3, 5), LENGTHS],
        [(4, 3, 10), (2, 3, 5)],
        {**LSTM, "linear_before_reset": 0},
    ),
    "gru_u8s8": Call(
        [some(4, 3, 6), signed(2, 15, 6), signed(2, 15, 5), some(2, 30), some(2, 3, 5), LENGTHS]
        + [some(2, 15) / 128, some(2, 15) / 128, signed(2, 15), signed(2, 15)],
        [(4, 3, 10), (2, 3, 5)],
        {**LSTM, "linear_before_reset": 0},
    ),
    "layer_norm_f32": Call([some(3, 9), some(9), some(9), some(3, 9)], [(3, 9), (3, 9)], {"epsilon": 1e-5}),
    "lookup": Call([byte(3, 5), byte(256)], [((3, 5), np.uint8)]),
    "lstm_f32": Call(
        [some(4, 3, 6), some(2, 20, 6), some(2, 20, 5), some(2, 40), some(2, 3, 5), some(2, 3, 5), LENGTHS],
        [(4, 3, 10), (2, 3, 5), (2, 3, 5)],
        LSTM,
    ),
    "lstm_u8s8": Call(
        [some(4, 3, 6), signed(2, 20, 6), signed(2, 20, 5), some(2, 40), some(2, 3, 5), some(2, 3, 5), LENGTHS]
        + [some(2, 20) / 128, some(2, 20) / 128, signed(2, 20), signed(2, 20)],
        [(4, 3, 10), (2, 3, 5), (2, 3, 5)],
        LSTM,
    ),
    "matmul_f32": Call(
        [some(2, 3, 5), some(1, 5, 7), some(7)], [(2, 3, 7)], {"trans_a": 0, "trans_b": 0, "alpha": 0.5}
    ),
    "matmul_u8": Call(
        [byte(2, 5, 7), byte(2, 7, 18), scale(), byte(), byte()],
        [(2, 5, 18)],
        {**BYTES, "a_zero": 3, "b_zero": 250, "scale": 0.5},
    ),
    "max_pool2d_u8": Call([byte(1, 5, 6, 9)], [((1, 5, 3, 9), np.uint8)], POOL),
    "pad": Call([some(3, 4, 2)], [(5, 7, 2)], {"before": [1, 2, 0], "mode": "reflect", "value": 1.0}),
    "pool2d_f32": Call([some(1, 5, 6, 9)], [(1, 5, 3, 9)], {**POOL, "mode": "avg"}),
    "qkv_attention_f32": Call([some(2, 5, 3, 4, 8), some(5, 5)], [(2, 5, 4, 8)], {"scale": 0.5, "causal": 1}),
    **{
        f"random_{kind}": Call(
            [np.ones(1, np.uint64), np.ones(1, np.int64)], [((3, 100), np.dtype(dtype))], {"number": 3}
        )
        for kind, dtype in RANDOM.items()
    },
    "resize2d_f32": Call(
        [some(1, 4, 5, 3)], [(1, 7, 9, 3)], {"mode": "cubic", "coordinates": "half_pixel", "scales": [1.7, 1.9]}
    ),
    "rms_norm_f32": Call([some(3, 9), some(9), some(3, 9)], [(3, 9), (3, 9)], {"epsilon": 1e-5}),
    "slice": Call([some(6, 7, 3)], [(2, 3, 3)], {"starts": [4, 1, 0], "steps": [-3, 2, 1]}),
    "softmax_f32": Call([some(3, 9)], [(3, 9)], {"log": 1}),
    "top_k": Call(
        [some(3, 40, 2)], [(3, 7, 2), ((3, 7, 2), np.int64)], {"axis": 1, "largest": 1, "pick": "first", "k": 2}
    ),
    "transpose": Call([some(3, 4, 5)], [(5, 3, 4)], {"perm": [2, 0, 1]}),
}
