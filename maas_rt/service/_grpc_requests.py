"""Inference requests and responses as the protocol has them in gRPC, read and written."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any, NamedTuple

from ._errors import bad_request
from ._grpc_messages import MESSAGES
from ._grpcio import DecodeError
from ._requests import InferRequest, InferResponse, OutputTensor, read_request
from ._tensors import write_binary
from ._wire import cut, field, has_contents, write_contents

_OUTPUTS, _RAW = 5, 6  # of ModelInferResponse
_CONTENTS = 5  # of its InferOutputTensor
_STREAMED = 2  # of ModelStreamInferResponse, what ModelInfer would have answered
_INT64 = 2**63


class Asked(NamedTuple):
    """A ModelInferRequest of so many bytes. `as_contents`: its data came so, and the answer's go so."""

    model: str
    version: str | None
    request: InferRequest
    as_contents: bool
    size: int


def parse(name: str, message: bytes | bytearray) -> Any:
    """A message of the protocol. Raises BAD_REQUEST for what is none."""
    try:
        return MESSAGES[name].FromString(bytes(message))
    except DecodeError:
        raise bad_request(f"the message cannot be read: it is no {name}, or has text in it that is no UTF-8") from None


def decode_message(message: bytes | bytearray) -> Asked:
    """A ModelInferRequest; the data of its tensors are not copied, and not read yet.

    Raises:
        ServiceError: BAD_REQUEST.
    """
    rest, contents, raw = cut(memoryview(message))
    found = parse("ModelInferRequest", rest)
    inputs: list[dict[str, Any]] = []
    for tensor in found.inputs:
        parameters = _parameters(tensor.parameters)
        parameters.pop("binary_data_size", None)  # HTTP's
        inputs.append(
            {
                "name": tensor.name,
                "datatype": tensor.datatype,
                "shape": list(tensor.shape),
                "parameters": parameters,
            }
        )
    as_contents = any(each.parts for each in contents)
    if raw and as_contents:
        raise bad_request("the request has both raw_input_contents and contents: give the data of its inputs once")
    sent = [
        (tensor, its)
        for tensor, its in zip(inputs, contents)
        if its.parts or "shared_memory_region" not in tensor["parameters"]
    ]
    if raw and len(raw) != len(sent):
        raise bad_request(f"raw_input_contents has {len(raw)} entries, and the request has {len(sent)} inputs for them")
    for index, (tensor, its) in enumerate(sent):
        tensor["data"] = raw[index] if raw else its
    outputs = [{"name": each.name, "parameters": _parameters(each.parameters)} for each in found.outputs]
    request = read_request(
        {
            "id": found.id or None,
            "parameters": _parameters(found.parameters),
            "inputs": inputs,
            "outputs": outputs or None,
        }
    )
    return Asked(found.model_name, found.model_version or None, request, as_contents, len(message))


def encode_message(response: InferResponse, as_contents: bool, streamed: bool = False) -> bytes:
    """A ModelInferResponse, `streamed` in a ModelStreamInferResponse. Tensors of a type that has no contents make all of them raw."""
    message = MESSAGES["ModelInferResponse"](
        model_name=response.model_name, model_version=response.model_version, id=response.id or ""
    )
    _set_parameters(message.parameters, response.parameters)
    as_contents = as_contents and all(has_contents(each.datatype) for each in response.outputs)
    parts: list[bytes | memoryview] = []
    for output in response.outputs:
        entry = MESSAGES["ModelInferResponse.InferOutputTensor"](
            name=output.name, datatype=output.datatype.name, shape=output.array.shape
        )
        if output.shared_memory is not None:
            _set_parameters(entry.parameters, output.shared_memory.parameters())
            # Clients find the raw contents of an output at its place among all outputs.
            parts += field(_OUTPUTS, [entry.SerializeToString()]) + ([] if as_contents else field(_RAW, [b""]))
        elif as_contents:
            contents = field(_CONTENTS, write_contents(output.array, output.datatype))
            parts += field(_OUTPUTS, [entry.SerializeToString(), *contents])
        else:
            parts += chain(field(_OUTPUTS, [entry.SerializeToString()]), field(_RAW, [_raw(output)]))
    parts.insert(0, message.SerializeToString())
    return b"".join(field(_STREAMED, parts) if streamed else parts)


def encode_refusal(message: str, identifier: str | None) -> bytes:
    """A ModelStreamInferResponse for a request that was refused."""
    refusal = MESSAGES["ModelStreamInferResponse"](error_message=message)
    refusal.infer_response.id = identifier or ""
    found: bytes = refusal.SerializeToString()
    return found


def _raw(output: OutputTensor) -> memoryview:
    return write_binary(output.array, output.datatype)


def _parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {name: chosen(value) for name, value in parameters.items()} if parameters else {}


def chosen(value: Any) -> Any:
    """The one field of a message with a choice that is set, or None."""
    which = value.WhichOneof("parameter_choice")
    return None if which is None else getattr(value, which)


def _set_parameters(place: Any, parameters: Mapping[str, Any]) -> None:
    for name, value in parameters.items():
        if isinstance(value, bool):
            place[name].bool_param = value
        elif isinstance(value, int):
            setattr(place[name], "int64_param" if -_INT64 <= value < _INT64 else "uint64_param", value)
        elif isinstance(value, float):
            place[name].double_param = value
        else:
            place[name].string_param = str(value)
