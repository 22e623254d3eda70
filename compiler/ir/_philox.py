"""The random numbers of a run in numpy: Philox4x32-10 as csrc/kernels/random has it, so that a source framework is given the same noise.

J. Salmon, M. Moraes, R. Dror, D. Shaw: Parallel random numbers: as easy as 1, 2, 3 (SC 2011). An element is a function of the seed, the
operator's number in the model, the draw (which iteration of which loops) and its own place, and of nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["MODULUS", "MULTIPLIER", "SHARED_SEED", "bits", "combined", "drawn", "normal", "uniform"]

Array = npt.NDArray[Any]

SHARED_SEED = 0  # of the runs that verification compares

# Loops in each other: the iteration n of a loop inside of draw d is draw (d * MULTIPLIER + n) mod MODULUS. The multiplier is the golden
# section of the modulus, by which no two of up to about 2^29 iterations, of all loops together, share a draw.
MODULUS = 1 << 31
MULTIPLIER = 1327217885


def combined(iterations: Sequence[int]) -> int:
    """The draw of an operator in these iterations, of the outermost loop first; 0 outside of loops."""
    draw = 0
    for depth, number in enumerate(iterations):
        draw = number if depth == 0 else (draw * MULTIPLIER + number) % MODULUS
    return draw


def bits(count: int, *, key: int, number: int, draw: int = 0) -> Array:
    """uint64 [count]."""
    return _words(-(-count // 2), key, number, draw).reshape(-1, 2).view(np.uint64).reshape(-1)[:count]


def uniform(count: int, dtype: str, *, key: int, number: int, draw: int = 0) -> Array:
    """float32 or float64 [count] in [0, 1): multiples of 2^-24 or 2^-53."""
    if dtype == "float64":
        upper = bits(count, key=key, number=number, draw=draw) >> np.uint64(11)
        wide: Array = upper.astype(np.float64) * 2.0**-53
        return wide
    words = _words(-(-count // 4), key, number, draw).reshape(-1)[:count]
    out: Array = (words >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)
    return out


def normal(count: int, dtype: str, *, key: int, number: int, draw: int = 0) -> Array:
    """Standard normal float32 or float64 [count], by Box and Muller's method: two numbers of a radius and an angle."""
    if dtype == "float64":
        words = _words(-(-count // 2), key, number, draw)
        u = ((words.view(np.uint64)[:, 0] >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
        low = (words[:, 2] >> np.uint32(1)).astype(np.float64) * 2.0**-29
        turn = words[:, 3]
    else:
        words = _words(-(-count // 4), key, number, draw).reshape(-1, 2)
        upper = (words[:, 0] >> np.uint32(16)).astype(np.float32) * np.float32(65536)
        word = upper + (words[:, 0] & np.uint32(0xFFFF)).astype(np.float32)  # rounded to float32, as there
        u = ((word + np.float32(0.5)) * np.float32(2.0**-32)).astype(np.float64)
        low, turn = np.float64(0), words[:, 1]
    radius = np.sqrt(-2.0 * np.log(u))
    eighths = (turn << np.uint32(2)).view(np.int32).astype(np.float64) + low  # of a half circle, times 2^31
    angle = (turn >> np.uint32(30)).astype(np.float64) * (np.pi / 2) + eighths * (np.pi / 4 * 2.0**-31)
    pairs = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    return pairs.reshape(-1)[:count].astype(dtype)


def drawn(kind: str, count: int, dtype: str, **place: int) -> Array:
    """What a kernel gives: `kind` "uniform" or "normal" of a dtype, or "bits"."""
    made: dict[str, Callable[[], Array]] = {
        "uniform": lambda: uniform(count, dtype, **place),
        "normal": lambda: normal(count, dtype, **place),
        "bits": lambda: bits(count, **place),
    }
    return made[kind]()


def _words(blocks: int, key: int, number: int, draw: int) -> Array:
    """uint32 [blocks, 4]."""
    at = np.arange(blocks, dtype=np.uint64)
    low, shift = np.uint64(0xFFFFFFFF), np.uint64(32)
    c = [at & low, at >> shift, np.full(blocks, draw & 0xFFFFFFFF, np.uint64), np.full(blocks, number, np.uint64)]
    k = [key & 0xFFFFFFFF, key >> 32 & 0xFFFFFFFF]
    for _ in range(10):
        a, b = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        c = [b >> shift ^ c[1] ^ np.uint64(k[0]), b & low, a >> shift ^ c[3] ^ np.uint64(k[1]), a & low]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return np.stack(c, axis=1).astype(np.uint32)
