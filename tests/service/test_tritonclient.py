"""NVIDIA's client encodes, we decode; we encode, it decodes. Without a server."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from maas_rt.service._datatypes import BYTES, DATATYPES
from maas_rt.service._requests import (
    InferRequest,
    InferResponse,
    InputTensor,
    OutputTensor,
    RequestedOutput,
    decode_request,
    encode_request,
    encode_response,
)

_HOW = "needs NVIDIA's client: pip install 'tritonclient[http]', as the extra dev does"
triton = pytest.importorskip("tritonclient.http", reason=_HOW)
_request_body = pytest.importorskip("tritonclient.http._utils", reason=_HOW)._get_inference_request

ml_dtypes = pytest.importorskip("ml_dtypes", reason="bfloat16 arrays are made by ml_dtypes")


def _encode(inputs: list[Any], outputs: list[Any] | None = None, **options: Any) -> InferRequest:
    given = {
        "request_id": "",
        "sequence_id": 0,
        "sequence_start": False,
        "sequence_end": False,
        "priority": 0,
        "timeout": None,
        "custom_parameters": None,
        **options,
    }
    body, length = _request_body(inputs=inputs, outputs=outputs, **given)
    return decode_request(body, length)


def _input(name: str, kind: str, array: Any, binary: bool) -> Any:
    tensor = triton.InferInput(name, list(array.shape), kind)
    tensor.set_data_from_numpy(array, binary_data=binary)
    return tensor


def _theirs(kind: str) -> Any:
    """An array as the client takes it."""
    if kind == "BYTES":
        return np.array([["", "é"], ["\U0001f600", 'a"\\']], object)
    if kind == "BF16":
        return np.array([[1, -0.0], [3.140625, 1e30]], ml_dtypes.bfloat16)
    dtype = DATATYPES[kind].dtype
    if dtype.kind == "f":
        return np.array([[0.1, -0.0], [5e-8, np.finfo(dtype).max]], dtype)
    if dtype.kind == "b":
        return np.array([[True, False], [False, True]])
    limits = np.iinfo(dtype)
    return np.array([[limits.min, limits.max], [0, 1]], dtype)


def _ours(kind: str, array: Any) -> Any:
    """The same as our arrays hold it."""
    if kind == "BYTES":
        return np.array([each.encode() for each in array.flat], object).reshape(array.shape)
    return array.view(np.uint16) if kind == "BF16" else array


@pytest.mark.parametrize("kind", sorted(DATATYPES))
@pytest.mark.parametrize("binary", [True, False])
def test_every_datatype_both_ways(kind: str, binary: bool) -> None:
    if kind == "BF16" and not binary:
        pytest.skip("tritonclient refuses BF16 as JSON: it takes binary data alone")
    theirs = _theirs(kind)
    ours = _ours(kind, theirs)
    first = np.arange(3, dtype=np.int32)
    request = _encode([_input("first", "INT32", first, True), _input("x", kind, theirs, binary)])
    assert [each.name for each in request.inputs] == ["first", "x"]
    assert request.inputs[0].array().tolist() == [0, 1, 2]
    assert request.inputs[1].array().tolist() == ours.tolist()

    answer = encode_response(
        InferResponse(
            "m",
            "10",
            (
                OutputTensor("first", DATATYPES["INT32"], first, True),
                OutputTensor("y", DATATYPES[kind], ours, binary),
                OutputTensor("none", DATATYPES[kind], ours[:0], True),
            ),
            "7",
        )
    )
    result = triton.InferenceServerClient.parse_response_body(answer.joined(), header_length=answer.header_length)
    assert result.get_response()["id"] == "7" and result.get_response()["model_version"] == "10"
    assert result.as_numpy("first").tolist() == [0, 1, 2]
    assert result.as_numpy("none").shape == (0, 2)
    got = result.as_numpy("y")
    assert got.shape == (2, 2)
    if kind == "BYTES":
        assert [each if isinstance(each, bytes) else each.encode() for each in got.flat] == list(ours.flat)
    else:
        assert got.dtype == theirs.dtype and got.tobytes() == theirs.tobytes()


def test_what_stands_beside_the_tensors() -> None:
    x = _input("x", "FP32", np.zeros((1, 2), np.float32), True)
    outputs = [triton.InferRequestedOutput("a"), triton.InferRequestedOutput("b", binary_data=False, class_count=3)]
    request = _encode(
        [x],
        outputs,
        request_id="seven",
        sequence_id="s",
        sequence_start=True,
        priority=2,
        timeout=1000,
        custom_parameters={"mine": 1},
    )
    assert request.id == "seven" and request.parameters["mine"] == 1
    assert request.outputs == (RequestedOutput("a", True), RequestedOutput("b", False, 3))
    options = request.options
    assert (options.sequence_id, options.sequence_start, options.sequence_end) == ("s", True, False)
    assert (options.priority, options.timeout) == (2, 1000)
    assert _encode([x]).options.binary_data_output  # where it names no outputs, it wants them in binary


def test_shared_memory() -> None:
    x = triton.InferInput("x", [1, 2], "FP32")
    x.set_shared_memory("region", 8, offset=64)
    y = triton.InferRequestedOutput("y")
    y.set_shared_memory("region", 16)
    request = _encode([x], [y])
    assert (request.inputs[0].data.region, request.inputs[0].data.size, request.inputs[0].data.offset) == (
        "region",
        8,
        64,
    )
    place = request.outputs[0].shared_memory
    assert place is not None and (place.region, place.size, place.offset) == ("region", 16, 0)


def test_a_classification_reads_as_bytes() -> None:
    found = np.array([[b"3.3:1:dog", b"2.4:3"]], object)
    answer = encode_response(InferResponse("m", "1", (OutputTensor("y", BYTES, found, True),)))
    result = triton.InferenceServerClient.parse_response_body(answer.joined(), header_length=answer.header_length)
    assert result.as_numpy("y").tolist() == found.tolist()


def test_our_bodies_are_the_clients() -> None:
    array = np.array([[1, 2]], np.float32)
    body, length = _request_body([_input("x", "FP32", array, True)], "7", None, 0, False, False, 0, None, None)
    parameters = {"binary_data_output": True}
    ours = encode_request(InferRequest((InputTensor("x", DATATYPES["FP32"], (1, 2), array),), (), "7", parameters))
    left, right = decode_request(body, length), decode_request(ours.joined(), ours.header_length)
    assert (left.id, left.parameters) == (right.id, right.parameters)
    assert left.inputs == right.inputs
