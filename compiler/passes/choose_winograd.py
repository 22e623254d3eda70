"""3 x 3 convolutions to Winograd's algorithm, where an estimate from past measurements says that it is faster.

The estimate adds up, for the direct way and for tiles of 2 x 2 and 4 x 4 outputs, what the products take at the rate that
the kernels reach, what reading the weights once from memory takes, and what the transforms move through the caches. Its
constants were fitted to layers of 4 to 224 pixels and 3 to 512 channels, with cold caches (one core of Zen 3 at 100
GFLOP/s and 20 GB/s); what counts is their ratio.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import tvm
from tvm import relax

from ._dims import extents
from ._kernel_call import KernelCall, read_kernel_call, remake_kernel_call
from ._rewrite import Rewriter, array_of, rewrite
from .lower_convolutions import CONV_PACKING

__all__ = ["TILES", "UNKNOWN", "choose_winograd", "direct_of", "is_winograd_able", "winograd_of", "winograd_share"]

PACKING = "conv2d_winograd_f32_nr16_v1"

_DIRECT, _PRODUCT = 1 / 90e9, 1 / 80e9  # seconds a floating-point operation
_WEIGHT, _MOVED = 1 / 20e9, 1 / 10e9  # seconds a byte: of weights, and into and out of transformed tiles
_GAIN = 0.9  # of the direct way's time: less is needed
TILES = (2, 4)  # outputs along a side
UNKNOWN = 32  # an image's extent that only a run knows; of a batch 1 is taken


def choose_winograd(mod: tvm.IRModule) -> tvm.IRModule:
    return rewrite(mod, _choose)


def _choose(rw: Rewriter, var: relax.Var, value: relax.Expr) -> relax.Expr | None:
    call = read_kernel_call(value)
    if call is None or not is_winograd_able(call):
        return None
    weight = array_of(call.args[1])
    assert weight is not None
    n, height, width, _ = (extent if isinstance(extent, int) else None for extent in extents(var))
    tile = _best_tile(n or 1, height or UNKNOWN, width or UNKNOWN, weight.shape[1], weight.shape[0])
    return None if tile is None else remake_kernel_call(winograd_of(call, tile), var.ty)


def is_winograd_able(call: KernelCall) -> bool:
    """Whether it is a direct convolution that Winograd's algorithm can do: 3 x 3, stride 1, one group, finite weights."""
    if call.contract != "conv2d_f32":
        return False
    wanted = {"kernel": [3, 3], "strides": [1, 1], "dilations": [1, 1], "groups": [1]}
    if any(call.attrs.get(key, value) != value for key, value in wanted.items()):
        return False
    weight = array_of(call.args[1])
    return weight is not None and bool(np.isfinite(weight).all())


def winograd_of(call: KernelCall, tile: int) -> KernelCall:
    """A direct convolution by tiles of so many outputs along a side."""
    return replace(call, contract="conv2d_winograd_f32", attrs={**call.attrs, "tile": [tile]}, packing=PACKING)


def direct_of(call: KernelCall) -> KernelCall:
    """The reverse; other calls are returned as they are."""
    if call.contract != "conv2d_winograd_f32":
        return call
    attrs = {key: value for key, value in call.attrs.items() if key != "tile"}
    return replace(call, contract="conv2d_f32", attrs=attrs, packing=CONV_PACKING)


def winograd_share(n: int, height: int, width: int, channels: int, out: int) -> float:
    """Of the direct way's time, what Winograd's takes with its better tile, by the estimate."""
    return min(_shares(n, height, width, channels, out).values())


def _best_tile(n: int, height: int, width: int, channels: int, out: int) -> int | None:
    """2 or 4, or None for the direct way."""
    shares = _shares(n, height, width, channels, out)
    best = min(shares, key=lambda tile: shares[tile])
    return best if shares[best] < _GAIN else None


def _shares(n: int, height: int, width: int, channels: int, out: int) -> dict[int, float]:
    """Of the direct way's time, by tile."""
    pairs = channels * out
    direct = n * height * width * 18 * pairs * _DIRECT + 36 * pairs * _WEIGHT
    times = {}
    for tile in TILES:
        tiles, positions = n * -(-height // tile) * -(-width // tile), (tile + 2) ** 2
        moved = 4 * tiles * positions * (channels + out)
        times[tile] = tiles * positions * 2 * pairs * _PRODUCT + 4 * positions * pairs * _WEIGHT + moved * _MOVED
    return {tile: time / direct for tile, time in times.items()}
