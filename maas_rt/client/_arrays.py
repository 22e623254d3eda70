"""Arrays of numpy, tensors of torch and strings to the protocol's tensors, and back."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._errors import InvalidArgumentError
from ..service._datatypes import BYTES, DATATYPES, Array, Datatype, bfloat16_values
from ..service._requests import InferResponse, InputTensor, OutputTensor, Parameters

_BF16 = DATATYPES["BF16"]
_OF_DTYPE = {each.dtype: each for each in DATATYPES.values() if each not in (_BF16, BYTES)}


@dataclass(frozen=True)
class ClassScore:
    """One of an output's highest entries: its value, its index in the row, and its label if the model has labels."""

    value: float | int
    index: int
    label: str | None


class InferResult(Mapping[str, Array]):
    """What a model answered: arrays by the names of its outputs, in the model's order.

    The arrays are their reader's own, and may be written to. BYTES are an array of `bytes` objects. BF16 is ml_dtypes.bfloat16 where ml_dtypes is
    installed, else float32, which holds each of its values.

    Attributes:
        model_name, model_version: what answered, as text.
        id: the request's, if it had one.
        parameters: of the answer, as the seed that a model has drawn from.
    """

    def __init__(self, response: InferResponse) -> None:
        self.model_name = response.model_name
        self.model_version = response.model_version
        self.id = response.id
        self.parameters: Parameters = response.parameters
        # A copy: binary data lie in the answer at any address, beside each other.
        self._outputs = {each.name: _own(each) for each in response.outputs}

    def __getitem__(self, name: str) -> Array:
        output = self._output(name)
        return _bfloat16(output.array) if output.datatype is _BF16 else output.array

    def __iter__(self) -> Iterator[str]:
        return iter(self._outputs)

    def __len__(self) -> int:
        return len(self._outputs)

    def __repr__(self) -> str:
        tensors = ", ".join(
            f"{each.name}: {each.datatype.name}{list(each.array.shape)}" for each in self._outputs.values()
        )
        return f"<InferResult of {self.model_name}, version {self.model_version}: {tensors}>"

    def strings(self, name: str) -> Array:
        """An output of strings (BYTES) as `str` objects, in its shape.

        Raises:
            KeyError: there is no such output.
            InvalidArgumentError: it has another datatype, or bytes that are no UTF-8.
        """
        array = self._bytes(name)
        try:
            texts = [each.decode() for each in array.flat]
        except UnicodeDecodeError as error:
            raise InvalidArgumentError(
                f"output {name!r} has bytes that are no UTF-8 ({error.reason}): read {name!r} itself"
            ) from None
        return np.fromiter(texts, object, len(texts)).reshape(array.shape)

    def classes(self, name: str) -> list[list[ClassScore]]:
        """The highest entries of each row of an output that was asked for in `classes`, the highest first.

        Raises:
            KeyError: there is no such output.
            InvalidArgumentError: it is no such list.
        """
        rows = self._bytes(name)
        try:
            return [[_score(each) for each in row] for row in rows.reshape(-1, rows.shape[-1])]
        except (ValueError, IndexError):
            raise InvalidArgumentError(f"output {name!r} has no highest entries: ask for it in `classes`") from None

    def tensors(self) -> dict[str, Any]:
        """All outputs as torch's tensors on the CPU, which share the arrays' memory. The program has imported torch: nothing here does.

        Raises:
            InvalidArgumentError: it has not; or an output has strings, which torch has not.
        """
        for name, output in self._outputs.items():
            if output.datatype is BYTES:
                raise InvalidArgumentError(
                    f"output {name!r} has strings, which torch's tensors do not: read {name!r} itself"
                )
        torch = sys.modules.get("torch")
        if torch is None:
            raise InvalidArgumentError("tensors of torch are asked for, and nobody has imported it: import torch first")
        found = {}
        for name, output in self._outputs.items():
            if output.datatype is _BF16:
                found[name] = torch.from_numpy(output.array.view(np.int16)).view(torch.bfloat16)
            else:
                found[name] = torch.from_numpy(output.array)
        return found

    def _output(self, name: str) -> OutputTensor:
        if name not in self._outputs:
            raise KeyError(f"there is no output {name!r}: there are {', '.join(self._outputs) or 'none'}")
        return self._outputs[name]

    def _bytes(self, name: str) -> Array:
        output = self._output(name)
        if output.datatype is not BYTES:
            raise InvalidArgumentError(f"output {name!r} is {output.datatype.name} and not BYTES")
        return output.array


def _own(output: OutputTensor) -> OutputTensor:
    array = output.array
    dense = array if array.flags.owndata and array.flags.writeable else np.array(array)
    return OutputTensor(output.name, output.datatype, dense)


def _score(entry: bytes) -> ClassScore:
    value, index, *label = entry.decode().split(":", 2)
    try:
        number: float | int = int(value)
    except ValueError:
        number = float(value)
    return ClassScore(number, int(index), label[0] if label else None)


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
    array, datatype = _array(value, what)
    return InputTensor(name, datatype, array.shape, array)


def _array(value: object, what: str) -> tuple[Array, Datatype]:
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
    return _array(array, what)
