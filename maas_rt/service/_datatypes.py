"""The protocol's datatypes, a row each: what they are called there, what they are in this runtime, how arrays hold them.

Source: the Open Inference Protocol's table of tensor data types, https://github.com/kserve/open-inference-protocol.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class Datatype:
    """A row: the protocol's name, the runtime's ("" for BYTES, which a model takes as rows of uint8), the array's dtype.

    BF16 is held as the uint16 of its bits, for numpy has no such type; BYTES as objects, a `bytes` each.
    """

    name: str
    runtime: str
    dtype: np.dtype[Any]

    @property
    def itemsize(self) -> int:
        """Bytes of an element; of BYTES the fewest that one takes, its length."""
        return 4 if self.name == "BYTES" else self.dtype.itemsize

    def __reduce__(self) -> tuple[Any, ...]:
        """In another process it is that of the same name: there is one object of each."""
        return _named, (self.name,)


_ROWS = (
    ("BOOL", "bool", "?"),
    ("UINT8", "uint8", "u1"),
    ("UINT16", "uint16", "<u2"),
    ("UINT32", "uint32", "<u4"),
    ("UINT64", "uint64", "<u8"),
    ("INT8", "int8", "i1"),
    ("INT16", "int16", "<i2"),
    ("INT32", "int32", "<i4"),
    ("INT64", "int64", "<i8"),
    ("FP16", "float16", "<f2"),
    ("FP32", "float32", "<f4"),
    ("FP64", "float64", "<f8"),
    ("BF16", "bfloat16", "<u2"),
    ("BYTES", "", "O"),
)
DATATYPES: dict[str, Datatype] = {name: Datatype(name, runtime, np.dtype(code)) for name, runtime, code in _ROWS}
BYTES = DATATYPES["BYTES"]


def _named(name: str) -> Datatype:
    return DATATYPES[name]


OF_RUNTIME: dict[str, Datatype] = {each.runtime: each for each in DATATYPES.values() if each.runtime}


def bfloat16_values(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Their bits to their values; every bfloat16 is a float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)
