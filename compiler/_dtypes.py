"""Element types: TVM's and numpy's names, and DLPack's codes that the plan stores."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import numpy.typing as npt

from maas_rt._errors import CompileError
from maas_rt._plan import DTypeCode

__all__ = ["constant_bytes", "dtype_code"]

_CODES = {
    "int": DTypeCode.INT,
    "uint": DTypeCode.UINT,
    "float": DTypeCode.FLOAT,
    "bfloat": DTypeCode.BFLOAT,
    "complex": DTypeCode.COMPLEX,
}
_NAMED = {
    "bool": (DTypeCode.BOOL, 8),
    "float8_e4m3fn": (DTypeCode.FLOAT8_E4M3FN, 8),
    "float8_e4m3fnuz": (DTypeCode.FLOAT8_E4M3FNUZ, 8),
    "float8_e5m2": (DTypeCode.FLOAT8_E5M2, 8),
    "float8_e5m2fnuz": (DTypeCode.FLOAT8_E5M2FNUZ, 8),
    "float8_e8m0fnu": (DTypeCode.FLOAT8_E8M0FNU, 8),
    "float4_e2m1fn": (DTypeCode.FLOAT4_E2M1FN, 4),
}


def dtype_code(dtype: str) -> tuple[DTypeCode, int]:
    """(code, bits) of a dtype's name, as "float32". Raises CompileError for what a plan cannot hold."""
    if dtype in _NAMED:
        return _NAMED[dtype]
    match = re.fullmatch(r"(int|uint|float|bfloat|complex)(\d+)", dtype)
    if match is None:
        raise CompileError(f"the element type {dtype} cannot be stored in a plan")
    return _CODES[match.group(1)], int(match.group(2))


def constant_bytes(array: npt.NDArray[Any]) -> memoryview:
    """Row-major bytes of a constant, not copied where they are so already."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
