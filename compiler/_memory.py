"""What a compile of a large model no longer needs, given back."""

from __future__ import annotations

import contextlib
import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["gc_frozen", "return_memory"]


def return_memory() -> None:
    """What is free goes back to the system; the C library keeps it otherwise."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


@contextmanager
def gc_frozen() -> Iterator[None]:
    """What is there when it begins is not searched for garbage before it ends. A search of all that torch and TVM keep takes 0.2 s,
    and passes over thousands of operators make enough new objects to begin one each. What is garbage already is not searched for either:
    that would be one more of these searches for each small model, and the models that need the room call `return_memory`."""
    if gc.get_freeze_count():  # by whoever called, or by a compile that goes on in another thread
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
