"""Quantization by ranges that only the run knows: of a tensor, of blocks of its rows."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax

from ._operator import Array, extents, operator

__all__ = ["BYTE_BLOCK", "dynamic_quantize", "round_to_bytes"]

BYTE_BLOCK = 32  # numbers that `round_to_bytes` gives a scale; what kernels of weights of few bits multiply in one go


def _types(x: Any) -> list[relax.TensorType]:
    return [
        relax.TensorType(extents(x), "uint8"),
        relax.TensorType([], "float32"),
        relax.TensorType([], "uint8"),
    ]


@operator(_types)
def dynamic_quantize(x: Array) -> list[Array]:
    """ONNX's DynamicQuantizeLinear: x as uint8, the scale [], float32, and the zero point [], uint8. The range takes in 0; where it is 0 alone
    the scale is 0; with a NaN in x the scale is NaN, and so is all that is computed with it: y and the zero point are 0."""
    low, high = (np.float32(each) for each in (x.min(initial=0), x.max(initial=0)))
    scale = (high - low) / np.float32(255)
    zero = np.clip(np.rint(-low / scale), 0, 255) if scale > 0 else np.float32(0)
    y = np.clip(np.rint(x / (scale or np.float32(1))) + zero, 0, 255)
    return [np.nan_to_num(y, nan=0).astype(np.uint8), np.array(scale, np.float32), np.array(zero, np.uint8)]


@operator(lambda x: [relax.TensorType(extents(x), "float32")])
def round_to_bytes(x: Array) -> list[Array]:
    """x as what multiplies 8 bits sees it: whole multiples, rounded half to even, of max|x| / 127 of each 32 numbers along the last axis (the last
    ones fewer). Blocks of zeros stay so; one with a number that is not finite is NaN."""
    depth = x.shape[-1]
    blocks = np.zeros((*x.shape[:-1], -(-depth // BYTE_BLOCK), BYTE_BLOCK), np.float32)
    padded = blocks.reshape(*x.shape[:-1], blocks.shape[-2] * BYTE_BLOCK)
    padded[..., :depth] = x
    scale = np.abs(blocks).max(-1, keepdims=True) / np.float32(127)
    with np.errstate(divide="ignore", invalid="ignore"):
        q = np.where(scale > 0, np.rint(blocks / scale), np.float32(0))
        rounded = np.where(np.isfinite(scale), np.clip(q, -127, 127) * scale, np.float32(np.nan))
    return [rounded.reshape(padded.shape)[..., :depth].astype(np.float32)]
