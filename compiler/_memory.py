"""What a compile of a large model no longer needs, given back."""

from __future__ import annotations

import contextlib
import ctypes
import gc

__all__ = ["return_memory"]


def return_memory() -> None:
    """What is free goes back to the system; the C library keeps it otherwise."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
