"""ONNX Runtime's OrtValue, and what its users name element types and memory by."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np

from maas_rt._errors import InvalidArgumentError

__all__ = ["OrtValue", "array_over", "check_device", "check_value", "type_name"]

_TYPES = {"float32": "float", "float64": "double"}  # the others are called alike
# onnx.TensorProto.DataType, from 1 on.
_ONNX_TYPES = (
    "float32 uint8 int8 uint16 int16 int32 int64 string bool float16 float64 uint32 uint64 complex64 complex128 bfloat16"
).split()


def type_name(dtype: str) -> str:
    """ONNX Runtime's word for an element type."""
    return _TYPES.get(dtype, dtype)


class OrtValue:
    """A tensor, over a numpy array."""

    def __init__(self, array: Any) -> None:
        self._array = array

    @staticmethod
    def ortvalue_from_numpy(numpy_obj: Any, device_type: str = "cpu", device_id: int = 0) -> OrtValue:
        """A tensor over this array, which must stay as it is meanwhile."""
        check_device(device_type)
        return OrtValue(np.asarray(numpy_obj))

    @staticmethod
    def ortvalue_from_numpy_with_onnx_type(data: Any, onnx_element_type: int) -> OrtValue:
        """A tensor over this array, whose elements are those of the number in ONNX, if in other clothes."""
        array, dtype = np.asarray(data), _dtype_of(onnx_element_type)
        if array.dtype.itemsize != dtype.itemsize:
            raise InvalidArgumentError(f"elements of {array.dtype} are not of the size of ONNX's {dtype}")
        return OrtValue(array.view(dtype))

    @staticmethod
    def ortvalue_from_shape_and_type(
        shape: Sequence[int], element_type: Any, device_type: str = "cpu", device_id: int = 0
    ) -> OrtValue:
        """A tensor of this shape and numpy element type, of any contents."""
        check_device(device_type)
        dtype = _dtype_of(element_type)
        try:
            return OrtValue(np.empty(tuple(shape), dtype))
        except (TypeError, ValueError, MemoryError) as error:
            raise InvalidArgumentError(f"shape {shape!r} is no tensor's: {error}") from None

    def numpy(self) -> Any:
        """The array."""
        return self._array

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        return np.array(self._array, dtype, copy=True) if copy else np.asarray(self._array, dtype)

    def __dlpack__(self, **options: Any) -> Any:
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self._array.__dlpack_device__()

    def shape(self) -> list[int]:
        """Its extents."""
        return list(self._array.shape)

    def data_type(self) -> str:
        """As "tensor(float)"."""
        return f"tensor({'string' if self._array.dtype.kind in 'OSU' else type_name(self._array.dtype.name)})"

    def element_type(self) -> int:
        """ONNX's number of its element type."""
        name = "string" if self._array.dtype.kind in "OSU" else self._array.dtype.name
        if name not in _ONNX_TYPES:
            raise InvalidArgumentError(f"ONNX has no number for elements of {name}")
        return _ONNX_TYPES.index(name) + 1

    def device_name(self) -> str:
        """ "cpu"."""
        return "cpu"

    def is_tensor(self) -> bool:
        """True: there is nothing else."""
        return True

    def is_tensor_sequence(self) -> bool:
        """False."""
        return False

    def is_sparse_tensor(self) -> bool:
        """False."""
        return False

    def has_value(self) -> bool:
        """True."""
        return True

    def data_ptr(self) -> int:
        """The address of its first element."""
        return int(self._array.ctypes.data)

    def tensor_size_in_bytes(self) -> int:
        """Bytes of its elements."""
        return int(self._array.nbytes)

    def update_inplace(self, numpy_obj: Any) -> None:
        """Writes other elements over its own."""
        numpy_obj = np.asarray(numpy_obj)
        if numpy_obj.shape != self._array.shape or numpy_obj.dtype != self._array.dtype:
            raise InvalidArgumentError(
                f"a value of {numpy_obj.dtype}{list(numpy_obj.shape)} cannot replace one of "
                f"{self._array.dtype}{list(self._array.shape)}"
            )
        self._array[...] = numpy_obj


def check_value(name: str, value: Any) -> OrtValue:
    """The tensor that a name is bound to."""
    if not isinstance(value, OrtValue):
        raise InvalidArgumentError(
            f"{name!r} is bound to a {type(value).__name__} and must be an OrtValue, as OrtValue.ortvalue_from_numpy(array)"
        )
    return value


def check_device(device: str) -> None:
    """There is one."""
    if device.lower() != "cpu":
        raise InvalidArgumentError(f"there is no device {device!r}; this runtime has 'cpu'")


def _dtype_of(element_type: Any) -> np.dtype[Any]:
    """numpy's, of its own or of ONNX's number."""
    try:
        if not isinstance(element_type, int):
            dtype: np.dtype[Any] = np.dtype(element_type)
            return dtype
        if 1 <= element_type <= len(_ONNX_TYPES):
            name = _ONNX_TYPES[element_type - 1]
            return np.dtype(object if name == "string" else name)
    except TypeError:
        pass  # of a name that numpy does not know, or knows with ml_dtypes alone
    raise InvalidArgumentError(
        f"element_type is {element_type!r} and must be an element type of numpy, or its number in ONNX"
    )


def array_over(pointer: int, shape: Sequence[int], element_type: Any) -> Any:
    """An array over memory of the caller's."""
    dtype = _dtype_of(element_type)
    if dtype.hasobject:
        raise InvalidArgumentError("strings have no address: bind an array of them by bind_cpu_input")
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    memory: Any = (ctypes.c_byte * size).from_address(pointer)
    return np.frombuffer(memory, dtype).reshape(tuple(shape))
