"""Arrays as Relax constants, without a copy of what is large."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import tvm
import tvm_ffi
from tvm import relax

__all__ = ["array_of", "constant_of"]

_LARGE = 1 << 16  # bytes


def constant_of(array: npt.NDArray[Any]) -> Any:
    """A Relax constant of exactly the array's type and shape, rank 0 included (relax.const alone narrows int64 and float64). A large
    one stays where it is: nobody may write to the array any more."""
    dense = np.ascontiguousarray(array).reshape(array.shape)
    if dense.nbytes >= _LARGE and dense.flags.writeable and dense.flags.aligned:
        try:
            return relax.const(tvm_ffi.from_dlpack(dense))
        except (BufferError, TypeError, RuntimeError):  # a type that numpy's DLPack does not know, such as bfloat16
            pass
    return relax.const(tvm.runtime.tensor(dense))


def array_of(expr: Any) -> npt.NDArray[Any] | None:
    """The value of a constant, None of anything else."""
    if not isinstance(expr, tvm.ir.GenericConst) or not isinstance(expr.ty, relax.TensorType):
        return None
    try:
        array: npt.NDArray[Any] = np.from_dlpack(expr.value)  # without a copy, read-only
        return array
    except (TypeError, RuntimeError, BufferError):  # what DLPack of numpy does not know: bool in old ones
        copied: npt.NDArray[Any] = expr.value.numpy()
        return copied
