"""The random operators in numpy: the oracle, to which every instruction set is equal bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def philox(counter: Array, key: tuple[int, int]) -> Array:
    """Philox4x32-10 of counters [4, blocks]: words [4, blocks]."""
    c0, c1, c2, c3 = counter.astype(np.uint64)
    for step in range(10):
        k0, k1 = ((each + step * weyl) % 2**32 for each, weyl in zip(key, (0x9E3779B9, 0xBB67AE85)))
        a, b = c0 * np.uint64(0xD2511F53), c2 * np.uint64(0xCD9E8D57)
        low = np.uint64(2**32 - 1)
        c0, c1, c2, c3 = (b >> 32) ^ c1 ^ np.uint64(k0), b & low, (a >> 32) ^ c3 ^ np.uint64(k1), a & low
    return np.stack([c0, c1, c2, c3]).astype(np.uint32)


def words(count: int, seed: int, number: int = 0, draw: int = 0) -> Array:
    """The words of as many blocks as hold `count` words, one after the other."""
    blocks = np.arange(-(-count // 4), dtype=np.uint64)
    same = np.ones_like(blocks)
    counter = np.stack([blocks & 0xFFFFFFFF, blocks >> 32, same * (draw % 2**32), same * number])
    return philox(counter, (seed % 2**32, seed >> 32)).T.reshape(-1)[:count]


def bits_u64(n: int, *stream: int) -> Array:
    return words(4 * -(-n // 2), *stream).view("<u8")[:n]


def uniform_f32(n: int, *stream: int) -> Array:
    return (words(n, *stream) >> 8).astype(np.float32) * np.float32(2.0**-24)


def uniform_f64(n: int, *stream: int) -> Array:
    return (bits_u64(n, *stream) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def normal_f64(n: int, *stream: int) -> Array:
    """Box and Muller's numbers by numpy's functions: equal to the kernels' but for rounding."""
    size, turn = words(4 * -(-n // 2), *stream).view("<u8").reshape(-1, 2).T
    return _turned(((size >> np.uint64(11)) + 0.5) * 2.0**-53, turn, 64)[:n]


def normal_f32(n: int, *stream: int) -> Array:
    """The same in double precision."""
    size, turn = words(4 * -(-n // 4), *stream).reshape(-1, 2).T
    return _turned((size + 0.5) * 2.0**-32, turn, 32)[:n]


def _turned(u: Array, turn: Array, bits: int) -> Array:
    """sqrt(-2 ln u) times cosine and sine: quarter turns by the two upper bits, and a signed angle by the others."""
    radius = np.sqrt(-2 * np.log(u))
    signed = (turn << turn.dtype.type(2)).view(f"<i{bits // 8}").astype(np.float64) * 2.0 ** -(bits - 1)
    angle = ((turn >> turn.dtype.type(bits - 2)) + signed / 2) * (np.pi / 2)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).reshape(-1)
