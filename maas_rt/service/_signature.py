"""What a model takes and gives in the protocol's terms: a request to the model's arrays, its results to output tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from .._errors import MissingExtraError
from .._model import Model, TensorInfo
from .._strings import decode_strings, encode_strings
from ._datatypes import BYTES, OF_RUNTIME, Array, Datatype
from ._errors import Kind, ServiceError, bad_request, shown
from ._regions import OFF
from ._requests import InferRequest, InputTensor, OutputTensor, RequestedOutput
from ._tensors import classify

# Bytes of a tensor of strings as the model takes it: at most so many, and above the second number no more than so many times what was sent.
_MAX_PADDED = 1 << 28
_FREELY_PADDED = 1 << 20
_PADDING = 64


@dataclass(frozen=True)
class TensorSpec:
    """An input or output. `datatype` is None where the protocol has none for `runtime`, the model's name of it.

    A tensor of strings is BYTES here; the model's has one more axis, of their bytes, which `shape` is without.
    """

    name: str
    datatype: Datatype | None
    runtime: str
    shape: tuple[int | str, ...]

    @classmethod
    def of(cls, info: TensorInfo, texts: Sequence[str] = ()) -> TensorSpec:
        """texts: names of the tensors that are strings."""
        if info.name in texts and info.dtype == "uint8" and info.shape:
            return cls(info.name, BYTES, info.dtype, info.shape[:-1])
        return cls(info.name, OF_RUNTIME.get(info.dtype), info.dtype, info.shape)

    def metadata(self) -> dict[str, Any]:
        """A tensor of the metadata response; dynamic dimensions are -1."""
        return {
            "name": self.name,
            "datatype": self.datatype.name if self.datatype else self.runtime.upper(),
            "shape": [extent if isinstance(extent, int) else -1 for extent in self.shape],
        }


@dataclass(frozen=True)
class Signature:
    """A model's inputs and outputs. `labels`: the names of an output's classes, by the output's name."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    labels: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, model: Model) -> Signature:
        """A loaded model's."""
        texts = (model.manifest.get("source") or {}).get("strings", ())
        return cls(
            tuple(TensorSpec.of(info, texts) for info in model.inputs),
            tuple(TensorSpec.of(info, texts) for info in model.outputs),
        )

    @cached_property
    def _inputs(self) -> dict[str, TensorSpec]:
        return {spec.name: spec for spec in self.inputs}

    @cached_property
    def _outputs(self) -> dict[str, TensorSpec]:
        return {spec.name: spec for spec in self.outputs}

    @cached_property
    def _all_outputs(self) -> tuple[RequestedOutput, ...]:
        return tuple(RequestedOutput(spec.name) for spec in self.outputs)

    def arrays(self, request: InferRequest) -> dict[str, Array]:
        """The arrays that the model takes, by name. Nothing of a tensor's data is read before its name and type were found right."""
        tensors = request.inputs if request.raw is None else (self._raw_input(request.raw),)
        specs = self._inputs
        for tensor in tensors:
            if tensor.name not in specs:
                raise bad_request(f"the model has no input {shown(tensor.name)}; its inputs are {', '.join(specs)}")
            _check_tensor(tensor, specs[tensor.name])
        if len(tensors) < len(specs):
            given = {tensor.name for tensor in tensors}
            missing = [repr(name) for name in specs if name not in given]
            raise bad_request(f"missing input{'s' if len(missing) > 1 else ''} {', '.join(missing)}")
        return {tensor.name: _to_runtime(tensor.array(), tensor) for tensor in tensors}

    def requested(self, request: InferRequest) -> tuple[RequestedOutput, ...]:
        """The outputs that are asked for, all if none is named, each with `binary` decided.

        Raises BAD_REQUEST for what the model or this server does not give: called before a run, not after it.
        """
        wanted = []
        for output in request.outputs or self._all_outputs:
            spec = self._outputs.get(output.name)
            if spec is None:
                known = ", ".join(self._outputs)
                raise bad_request(f"the model has no output {shown(output.name)}; its outputs are {known}")
            what = f"output {shown(output.name)}"
            if spec.datatype is None:
                raise bad_request(f"{what} is {spec.runtime}, which the protocol cannot carry: ask for other outputs")
            if output.classification and spec.datatype is BYTES:
                raise bad_request(
                    f"{what} holds strings, of which none is the highest: ask for it without classification"
                )
            if output.shared_memory is not None and output.span is None:
                raise bad_request(f"{what} is to go to shared memory, and {OFF}")
            if output.span is not None:
                output.span.check_room(_least_bytes(spec.shape, spec.datatype))
            wanted.append(
                RequestedOutput(
                    output.name, request.binary(output), output.classification, output.shared_memory, output.span
                )
            )
        return tuple(wanted)

    def answer(self, results: Mapping[str, Array], wanted: Sequence[RequestedOutput]) -> tuple[OutputTensor, ...]:
        """The model's results as `requested` says."""
        tensors = []
        for output in wanted:
            datatype = self._outputs[output.name].datatype
            assert datatype is not None  # requested refuses it
            array = _from_runtime(results[output.name], datatype)
            if output.classification:
                labels = self.labels.get(output.name, ())
                array, datatype = classify(array, datatype, output.classification, labels), BYTES
            tensors.append(OutputTensor(output.name, datatype, array, bool(output.binary)))
        return tuple(tensors)

    def _raw_input(self, data: memoryview) -> InputTensor:
        """A body without a document: the data of the one input, whose shape is the one that fits."""
        if len(self.inputs) != 1:
            raise bad_request(
                f"a body without a JSON document is for models with one input, and this one has {len(self.inputs)}"
            )
        spec = self.inputs[0]
        what = f"input {shown(spec.name)}"
        if spec.datatype is None:
            raise bad_request(f"{what} is {spec.runtime}, which the protocol cannot carry")
        if spec.datatype is BYTES:
            one = np.array([bytes(data)], object).reshape([1] * len(spec.shape))
            return InputTensor(spec.name, BYTES, one.shape, one)
        free = [axis for axis, extent in enumerate(spec.shape) if not isinstance(extent, int)]
        shape = [extent if isinstance(extent, int) else 1 for extent in spec.shape]
        if len(free) == 2 and free[0] == 0:
            free = free[1:]  # one request of a model that takes batches of them
        if len(free) > 1:
            raise bad_request(
                f"{what} has {len(free)} dynamic dimensions, which a body without a JSON document leaves open"
            )
        unit = math.prod(shape) * spec.datatype.itemsize
        if free and unit and len(data) % unit == 0:
            shape[free[0]] = len(data) // unit
        return InputTensor(spec.name, spec.datatype, tuple(shape), data)


def _check_tensor(tensor: InputTensor, spec: TensorSpec) -> None:
    what = f"input {shown(tensor.name)}"
    if spec.datatype is None:
        raise bad_request(f"{what} is {spec.runtime}, which the protocol cannot carry")
    if tensor.datatype is not spec.datatype:
        raise bad_request(
            f"{what} has datatype {shown(tensor.datatype.name)}, the model takes {shown(spec.datatype.name)}"
        )
    if len(tensor.shape) != len(spec.shape):
        raise bad_request(f"{what} has {len(tensor.shape)} dimensions, the model takes {len(spec.shape)} dimensions")
    # Before anything is made of the shape: an extent of 0 in a fixed one's place would let all others be of any size.
    for axis, (given, wanted) in enumerate(zip(tensor.shape, spec.shape)):
        if isinstance(wanted, int) and given != wanted:
            raise bad_request(f"{what} has {given} in dimension {axis}, the model takes {wanted}")


def _least_bytes(shape: Sequence[int | str], datatype: Datatype) -> int:
    """Those that a tensor takes for certain: all of them where its extents are fixed, and its elements' size is."""
    fixed = [extent for extent in shape if isinstance(extent, int)]
    return math.prod(fixed) * datatype.itemsize if len(fixed) == len(shape) and datatype is not BYTES else 0


def _to_runtime(array: Array, tensor: InputTensor) -> Array:
    if tensor.datatype.name == "BF16":
        return array.view(_bfloat16(f"input {shown(tensor.name)}"))
    if tensor.datatype is not BYTES:
        return array
    # One long string makes all of them long: a small request could ask for any amount of memory.
    lengths = [len(element) for element in array.flat]
    padded = array.size * max(lengths, default=0)
    most = min(_MAX_PADDED, max(_FREELY_PADDED, _PADDING * (sum(lengths) + BYTES.itemsize * array.size)))
    if padded > most:
        raise ServiceError(
            Kind.TOO_LARGE,
            f"input {shown(tensor.name)} takes {padded} bytes, each of its {array.size} strings padded to the longest, and "
            f"{most} are the most for them: send fewer at once, or long ones apart from short ones",
        )
    for index, element in enumerate(array.flat):
        try:
            element.decode()
        except UnicodeDecodeError:
            raise bad_request(
                f"input {shown(tensor.name)}: element {index} is no UTF-8, and the model takes strings"
            ) from None
        if b"\0" in element:
            raise bad_request(
                f"input {shown(tensor.name)}: element {index} has a zero byte, at which a model's string ends"
            )
    return encode_strings(array)


def _from_runtime(result: Array, datatype: Datatype) -> Array:
    if datatype.name == "BF16":
        return result.view(np.uint16)
    if datatype is not BYTES:
        return result
    texts = decode_strings(result)
    elements = np.empty(texts.shape, object)
    for index, text in np.ndenumerate(texts):
        elements[index] = text.encode()
    return elements


def _bfloat16(what: str) -> np.dtype[Any]:
    try:
        import ml_dtypes
    except ModuleNotFoundError:
        raise MissingExtraError(what + ", a bfloat16,", "serve", "ml_dtypes") from None
    dtype: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return dtype
