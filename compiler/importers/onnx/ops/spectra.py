"""What is multiplied with signals and their spectra: windows, and the weights of the mel scale."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm import te, tirx

from .._exprs import shape_expr
from .._node import Node
from .._registry import op
from .._values import numpy_dtype
from ._te import imm

_MAX_CONSTANT = 1 << 24  # elements that are made at import


@op("HannWindow", since=17)
def hann_window(n: Node) -> Any:
    return _cosines(n, [0.5, 0.5])


@op("HammingWindow", since=17)
def hamming_window(n: Node) -> Any:
    return _cosines(n, [25 / 46, 21 / 46])


@op("BlackmanWindow", since=17)
def blackman_window(n: Node) -> Any:
    return _cosines(n, [0.42, 0.5, 0.08])


def _cosines(n: Node, weights: Sequence[float]) -> Any:
    """Sum of (-1)^k weights[k] cos(2 pi k i / period) for each i below the size, in float64 whatever the result's type: the
    specification's body, which computes in float32, would leave float64 windows with errors of 1e-7."""
    size, dtype = n.extent(0, "size"), n.dtype_attr("output_datatype", 1)
    shift = 0 if n.flag("periodic", 1) else 1
    if isinstance(size, int) and size <= _MAX_CONSTANT:
        with np.errstate(all="ignore"):
            angle = 2 * np.pi * np.arange(max(size, 0)) / np.float64(size - shift)
            made: Any = sum((-1) ** k * w * np.cos(k * angle) for k, w in enumerate(weights))
            return made.astype(numpy_dtype(dtype))

    def body(extents: Any) -> Any:
        def element(i: Any) -> Any:
            period = tirx.Cast("float64", extents[0] - shift)
            angle = imm(2 * math.pi, "float64") * tirx.Cast("float64", i) / period
            out = imm(weights[0], "float64")
            for k, w in enumerate(weights[1:], 1):
                out = out + imm((-1) ** k * w, "float64") * tirx.cos(imm(k, "float64") * angle)
            return out

        return te.compute([extents[0]], element, name="window")

    return n.cast(n.te(body, shape_expr([size]), name="window"), dtype)


@op("MelWeightMatrix", since=17)
def mel_weight_matrix(n: Node) -> Any:
    """num_mel_bins, dft_length, sample_rate, lower_edge_hertz, upper_edge_hertz -> [dft_length / 2 + 1, num_mel_bins]: triangles, whose
    corners are rounded down to whole bins."""
    if any(n.value(i).const is None for i in range(5)):
        raise n.refuse("sizes that are computed at run time")
    bins, length, rate = (int(n.scalar(i)) for i in range(3))
    low, high = (float(n.scalar(i)) for i in (3, 4))
    rows = length // 2 + 1
    if not (bins > 0 and length > 0 and rate > 0 and bins * rows <= _MAX_CONSTANT and -700 < low <= high < math.inf):
        raise n.broken(f"has {bins} bins of {length} at a rate of {rate} from {low:g} to {high:g} Hz")
    first, last = (2595 * math.log10(1 + edge / 700) for edge in (low, high))
    mel = np.arange(bins + 2) * ((last - first) / (bins + 2)) + first
    corners = ((length + 1) * (700 * (np.power(10.0, mel / 2595) - 1)) // rate).astype(np.int64)
    if corners[0] < 0 or corners[-1] > rows:
        raise n.broken(f"has mel bins from {low:g} to {high:g} Hz, expected from 0 to half of the rate of {rate}")
    left, top, right = corners[:-2], corners[1:-1], corners[2:]
    at = np.arange(rows)[:, None]
    rising = np.where(left == top, 1.0, (at - left) / np.maximum(top - left, 1))
    falling = (right - at) / np.maximum(right - top, 1)
    out = np.where((left <= at) & (at <= top), rising, 0.0)
    out = np.where((top <= at) & (at < right), falling, out)
    return out.astype(numpy_dtype(n.dtype_attr("output_datatype", 1)))
