"""Attention: softmax(scale q k' + mask) v."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from tvm import relax

from ._operator import Array, extents, operator

__all__ = ["attention"]


def _types(q: Any, k: Any, v: Any, mask: Any, **_: Any) -> list[relax.TensorType]:
    return [relax.TensorType([*extents(q)[:3], extents(v)[3]], "float32")]


@operator(_types)
def attention(
    q: Array,
    k: Array,
    v: Array,
    mask: Array | None = None,
    *,
    scale: float | None = None,
    causal: int = 0,
    safe: int = 0,
    layout: str = "bshd",
) -> list[Array]:
    """y [B, Sq, H, Dv] of q [B, Sq, H, D], k [B, Sk, Hkv, D] and v [B, Sk, Hkv, Dv], or with the layout "bhsd" of tensors whose heads stand
    before the sequence. H is a multiple of Hkv: so many heads of q share one of k and v.

    The mask, broadcast to [B, H, Sq, Sk], is added. `scale` is 1 / sqrt(D) where it is not given. `causal`: 1 counts the keys that a query
    sees from the first, 2 from the last. A query that sees no key gives NaN, or with `safe` zeros.
    """
    if layout == "bshd":
        q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
    groups = q.shape[1] // k.shape[1]
    k, v = (np.repeat(x, groups, axis=1) for x in (k, v))
    scores = q @ k.swapaxes(2, 3) * np.float32(1 / math.sqrt(q.shape[3]) if scale is None else scale)
    if causal:
        length, keys = q.shape[2], k.shape[2]
        seen = np.tri(length, keys, keys - length if causal == 2 else 0, dtype=bool)
        scores = np.where(seen, scores, np.float32(-np.inf))
    if mask is not None:
        scores = scores + mask
    with np.errstate(invalid="ignore"):  # -inf less -inf, where a query sees no key
        weights = np.exp(scores - scores.max(axis=3, keepdims=True, initial=-np.inf))
        weights = weights / weights.sum(axis=3, keepdims=True)
    y = (np.nan_to_num(weights, nan=0.0) if safe else weights) @ v
    return [y.swapaxes(1, 2) if layout == "bshd" else y]
