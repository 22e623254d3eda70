"""Quantization by a tensor's own range, which only the run knows."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax

from ._operator import Array, extents, operator

__all__ = ["dynamic_quantize"]


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
