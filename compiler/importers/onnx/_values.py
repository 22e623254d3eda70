"""What the importer knows of an ONNX value while it goes through the graph: a constant, extents, an expression, a list."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto

from ._dims import Dim
from ._stored import STORED

__all__ = ["DTYPES", "STRING", "Value", "bits_of", "is_float", "is_int", "is_signed", "numpy_dtype", "onnx_dtype"]

STRING = "string"

# ONNX element type -> the name that TVM and this package use.
DTYPES: dict[int, str] = {
    TensorProto.FLOAT: "float32",
    TensorProto.DOUBLE: "float64",
    TensorProto.FLOAT16: "float16",
    TensorProto.BFLOAT16: "bfloat16",
    TensorProto.INT8: "int8",
    TensorProto.INT16: "int16",
    TensorProto.INT32: "int32",
    TensorProto.INT64: "int64",
    TensorProto.UINT8: "uint8",
    TensorProto.UINT16: "uint16",
    TensorProto.UINT32: "uint32",
    TensorProto.UINT64: "uint64",
    TensorProto.BOOL: "bool",
    TensorProto.FLOAT8E4M3FN: "float8_e4m3fn",
    TensorProto.FLOAT8E4M3FNUZ: "float8_e4m3fnuz",
    TensorProto.FLOAT8E5M2: "float8_e5m2",
    TensorProto.FLOAT8E5M2FNUZ: "float8_e5m2fnuz",
    TensorProto.FLOAT8E8M0: "float8_e8m0fnu",
    TensorProto.FLOAT4E2M1: "float4_e2m1fn",
    TensorProto.INT4: "int4",
    TensorProto.UINT4: "uint4",
    TensorProto.INT2: "int2",
    TensorProto.UINT2: "uint2",
}
_TO_ONNX = {name: number for number, name in DTYPES.items()}


def onnx_dtype(name: str) -> int:
    return TensorProto.STRING if name == STRING else _TO_ONNX[name]


def numpy_dtype(name: str) -> np.dtype[Any]:
    if name == "bfloat16" or name in STORED:
        extra: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
        return extra
    return np.dtype(object) if name == STRING else np.dtype(name)


def dtype_name(array: npt.NDArray[Any]) -> str:
    """The name of a numpy array's element type."""
    if array.dtype.kind in "OUS":
        return STRING
    return str(array.dtype.name)


def is_float(dtype: str) -> bool:
    return dtype in ("float16", "bfloat16", "float32", "float64")


def is_int(dtype: str) -> bool:
    return dtype.startswith(("int", "uint"))


def is_signed(dtype: str) -> bool:
    return dtype.startswith("int")


def bits_of(dtype: str) -> int:
    return 8 if dtype == "bool" else int(dtype.lstrip("abcdefghijklmnopqrstuvwxyz").partition("_")[0])


@dataclass(slots=True)
class Value:
    """One ONNX value. At least one of the forms is set:

    const   the value itself, known now
    sym     an object array of Dim: a tensor of integers that are expressions of the symbols (a shape, an axis length)
    expr    a Relax expression, for what only a run knows (also filled in when a const or sym is first used as a tensor); its element
            type is `dtype`, or what stands for that in `_stored.STORED`
    items   a sequence, whose length is known, of other values
    absent  an optional without a value
    """

    dtype: str
    shape: tuple[Dim, ...]
    const: npt.NDArray[Any] | None = None
    sym: npt.NDArray[Any] | None = None
    expr: Any = None
    items: list[Value] | None = None
    absent: bool = False
    poison: bool = False  # the result of a node that was refused; only kept to look at the rest of the model
    origin: str = field(default="", compare=False)

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def known(self) -> bool:
        """Whether elements are known as constants or as expressions of symbols."""
        return self.const is not None or self.sym is not None

    @property
    def elements(self) -> npt.NDArray[Any]:
        """The elements of a known value; object dtype if some are expressions."""
        out = self.const if self.const is not None else self.sym
        assert out is not None
        return out

    @staticmethod
    def of_array(array: npt.NDArray[Any], origin: str = "") -> Value:
        return Value(dtype_name(array), tuple(array.shape), const=array, origin=origin)

    @staticmethod
    def of_symbols(array: npt.NDArray[Any], dtype: str, origin: str = "") -> Value:
        """A shape-like value; becomes a constant when no element depends on a symbol."""
        if all(isinstance(e, int | np.integer) for e in array.flat):
            plain = np.array([int(e) for e in array.flat], dtype=np.int64).reshape(array.shape)
            return Value.of_array(plain.astype(numpy_dtype(dtype)), origin)
        return Value(dtype, tuple(array.shape), sym=array, origin=origin)

    def type_proto(self) -> onnx.TypeProto:
        """The ONNX type of this value, for context-dependent function bodies; unknown extents stay unknown."""
        if self.items is not None:
            inner = (
                self.items[0].type_proto()
                if self.items
                else onnx.helper.make_tensor_type_proto(TensorProto.FLOAT, None)
            )
            return onnx.helper.make_sequence_type_proto(inner)
        dims = [d if isinstance(d, int) else None for d in self.shape]
        return onnx.helper.make_tensor_type_proto(onnx_dtype(self.dtype), dims)
