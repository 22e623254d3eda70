"""Strings at the boundary: a tensor of strings is one of uint8 with a last axis of bytes, UTF-8, padded with zeros."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["decode_strings", "encode_strings"]


def encode_strings(strings: Any) -> npt.NDArray[np.uint8]:
    """What a model takes for a tensor of strings.

    Args:
        strings: str or bytes, or an array or nested lists of them, of any shape.

    Returns:
        uint8 of that shape and one more axis, as long as the longest string is in UTF-8 (at least 1).

    Raises:
        TypeError: an element is neither str nor bytes.
        ValueError: a string has a zero byte inside, which is what it would end at.
    """
    given = np.asarray(strings, dtype=object)
    raw = []
    for each in given.flat:
        if not isinstance(each, str | bytes):
            raise TypeError(f"a string is expected, not {type(each).__name__}")
        raw.append(each.encode() if isinstance(each, str) else bytes(each))
        if b"\0" in raw[-1]:
            raise ValueError(f"{each!r} has a zero byte inside")
    width = max((len(each) for each in raw), default=1) or 1
    rows = np.array(raw, dtype=f"S{width}").view(np.uint8)
    return rows.reshape(*given.shape, width)


def decode_strings(encoded: npt.NDArray[np.uint8]) -> npt.NDArray[np.object_]:
    """The inverse: uint8 [..., bytes] to str [...], of dtype object; a string ends at its first zero byte.

    Raises:
        ValueError: the element type is not uint8, there is no axis, or the bytes are not UTF-8.
    """
    if encoded.dtype != np.uint8 or not encoded.ndim:
        raise ValueError(f"uint8 with a last axis of bytes is expected, not {encoded.dtype} of shape {encoded.shape}")
    out = np.empty(encoded.shape[:-1], dtype=object)
    rows = encoded.reshape(out.size, encoded.shape[-1])
    flat = [row.tobytes().partition(b"\0")[0].decode() for row in rows]
    for index, text in zip(np.ndindex(out.shape), flat, strict=True):
        out[index] = text
    return out
