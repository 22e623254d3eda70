"""Arrays of numpy, tensors of torch and strings to the protocol's tensors, and back."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from .._errors import InvalidArgumentError
from ..service._datatypes import BYTES, DATATYPES, Array, Datatype, bfloat16_values
from ..service._requests import InputTensor

_BF16 = DATATYPES["BF16"]
_OF_DTYPE = {each.dtype: each for each in DATATYPES.values() if each not in (_BF16, BYTES)}


def as_read(array: Array, datatype: Datatype) -> Array:
    """An array of the protocol's layer as its reader is to have it: BF16 as ml_dtypes.bfloat16 where ml_dtypes is installed, else as float32."""
    return _bfloat16(array) if datatype is _BF16 else array


def _bfloat16(bits: Array) -> Array:
    try:
        import ml_dtypes
    except ModuleNotFoundError:
        return bfloat16_values(bits)
    return bits.view(ml_dtypes.bfloat16)


def input_tensor(name: str, value: object) -> InputTensor:
    """A tensor of a request; the dtype of what is given says its datatype. Nothing is copied that need not be.

    Raises:
        InvalidArgumentError: it is no array, or of a dtype that the protocol has not.
    """
    what = f"input {name!r}"
    array, datatype = as_array(value, what)
    return InputTensor(name, datatype, array.shape, array)


def as_array(value: object, what: str) -> tuple[Array, Datatype]:
    """What is given as an array of the dtype that _datatypes has for its datatype. Raises InvalidArgumentError."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        return _of_torch(torch, value, what)
    if not isinstance(value, np.ndarray | np.generic):
        value = _foreign(value, what)
    array = np.asarray(value)
    if array.dtype.kind in "USOT":
        return _elements(array, what), BYTES
    if array.dtype.name == "bfloat16":
        return array.view(np.uint16), _BF16
    datatype = _OF_DTYPE.get(array.dtype.newbyteorder("<"))
    if datatype is None:
        raise InvalidArgumentError(
            f"{what} is an array of {array.dtype}, which the protocol cannot carry: convert it first"
        )
    return array, datatype


def _foreign(value: Any, what: str) -> Array:
    """Arrays of other packages, and lists of strings."""
    try:
        if hasattr(value, "__array_interface__") or hasattr(value, "__array__"):
            return np.asarray(value)
        if hasattr(value, "__dlpack__"):
            return np.from_dlpack(value)
        array = np.array(value, dtype=object)
    except (ValueError, TypeError, BufferError, RuntimeError) as error:
        raise InvalidArgumentError(f"{what} is a {type(value).__name__} that numpy cannot read: {error}") from None
    if not all(isinstance(each, str | bytes) for each in array.flat):
        raise InvalidArgumentError(
            f"{what} is a {type(value).__name__}: give an array of numpy or torch, whose dtype says the datatype; strings may be a list"
        )
    return array


def _elements(array: Array, what: str) -> Array:
    """Strings as the protocol's layer holds them: an object of `bytes` each."""
    elements = []
    for each in array.flat:
        if not isinstance(each, str | bytes):
            raise InvalidArgumentError(
                f"{what} has an element that is a {type(each).__name__}: strings are str or bytes"
            )
        try:
            elements.append(each.encode() if isinstance(each, str) else bytes(each))
        except UnicodeEncodeError as error:
            raise InvalidArgumentError(f"{what} has a string that UTF-8 cannot hold: {error.reason}") from None
    found = np.empty(len(elements), object)
    found[:] = elements
    return found.reshape(array.shape)


def _of_torch(torch: Any, tensor: Any, what: str) -> tuple[Array, Datatype]:
    if tensor.layout is not torch.strided or tensor.is_quantized:
        raise InvalidArgumentError(f"{what} is a sparse or quantized tensor: give a dense one")
    tensor = tensor.detach().cpu().resolve_conj().resolve_neg()
    if tensor.dtype is torch.bfloat16:
        return tensor.contiguous().view(torch.int16).numpy().view(np.uint16), _BF16
    try:
        array = tensor.numpy()
    except TypeError:
        raise InvalidArgumentError(
            f"{what} is a tensor of {tensor.dtype}, which the protocol cannot carry: convert it first"
        ) from None
    return as_array(array, what)
