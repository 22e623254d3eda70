"""Requests and responses without a server: bodies to arrays and back, and every lie that a body can tell."""

from __future__ import annotations

import json
import struct
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maas_rt.service import _signature as _signature_module
from maas_rt.service._datatypes import BYTES, DATATYPES, OF_RUNTIME, bfloat16_values
from maas_rt.service._errors import Kind, ServiceError
from maas_rt.service._requests import (
    InferRequest,
    InferResponse,
    InputTensor,
    Options,
    OutputTensor,
    RequestedOutput,
    decode_request,
    decode_response,
    encode_request,
    encode_response,
    header_length,
)
from maas_rt.service._signature import Signature, TensorSpec
from maas_rt.service._tensors import classify


def _signature(*inputs: tuple[str, str, tuple[int | str, ...]]) -> Signature:
    """Inputs as (name, the protocol's datatype, shape); the output is y, FP32 [n, 4]."""
    specs = [
        TensorSpec(name, DATATYPES[kind], DATATYPES[kind].runtime or "uint8", shape) for name, kind, shape in inputs
    ]
    return Signature(tuple(specs), (TensorSpec("y", DATATYPES["FP32"], "float32", ("n", 4)),))


X = _signature(("x", "FP32", ("n", 2)))


def _tensor(**changes: Any) -> dict[str, Any]:
    return {"name": "x", "shape": [1, 2], "datatype": "FP32", **changes}


def _binary(tensor: dict[str, Any], size: Any, data: bytes, **fields: Any) -> tuple[bytes, int]:
    text = json.dumps({"inputs": [{**tensor, "parameters": {"binary_data_size": size}}], **fields}).encode()
    return text + data, len(text)


def _bytes(*elements: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(each)) + each for each in elements)


def _refusal(signature: Signature, body: bytes, length: int | None = None) -> str:
    with pytest.raises(ServiceError) as caught:
        request = decode_request(body, length)
        signature.requested(request)
        assert request.options
        signature.arrays(request)
    assert caught.value.kind is Kind.BAD_REQUEST
    message = str(caught.value)
    assert "\n" not in message and len(message) < 400
    return message


# ---- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tensor", "sentence"),
    [
        (3, 'inputs[0] must be an object with "name", "shape", "datatype" and "data"'),
        ({"shape": [1]}, 'inputs[0] must be an object with "name", "shape", "datatype" and "data"'),
        (_tensor(name="../x\0\r\n", data=[1, 2]), "the model has no input '../x\\x00\\r\\n'; its inputs are x"),
        (_tensor(datatype="FLOAT"), "input 'x' has datatype 'FLOAT', which is none of BOOL, UINT8, "),
        (_tensor(datatype=None), "input 'x' has datatype None, which is none of BOOL, UINT8, "),
        (_tensor(datatype=["FP32"]), "input 'x' has datatype ['FP32'], which is none of"),
        (_tensor(datatype="FP64", data=[1, 2]), "input 'x' has datatype 'FP64', the model takes 'FP32'"),
        (_tensor(shape=None), "input 'x': \"shape\" must be a list of integers of 0 or more"),
        (_tensor(shape=[1, -1]), "input 'x': \"shape\" must be a list of integers of 0 or more"),
        (_tensor(shape=[True, 2]), "input 'x': \"shape\" must be a list of integers of 0 or more"),
        (_tensor(shape=[1.0, 2]), "input 'x': \"shape\" must be a list of integers of 0 or more"),
        (_tensor(shape=[2], data=[1, 2]), "input 'x' has 1 dimensions, the model takes 2 dimensions"),
        (_tensor(shape=[1 << 40, 0], data=[]), "input 'x' has 0 in dimension 1, the model takes 2"),
        (_tensor(shape=[1] * 65, data=[1]), "input 'x' has 65 dimensions, the model takes 2 dimensions"),
        (
            _tensor(shape=[2**64, 2], data=[]),
            "input 'x' has shape [18446744073709551616, 2], which is beyond any tensor's",
        ),
        (_tensor(shape=[2**62, 2], data=[]), "input 'x' has shape [4611686018427387904, 2], which is beyond any"),
        (_tensor(shape=[10**300, 2], data=[]), "input 'x' has shape [..., 2], which is beyond any tensor's"),
        (_tensor(), 'input \'x\' has no "data" and no "binary_data_size"'),
        (_tensor(data=[1, 2, 3]), "input 'x' has more than 2 elements, its shape [1, 2] needs 2"),
        (_tensor(data=7), "input 'x': \"data\" must be a list, flat or nested in row-major order"),
        (_tensor(data=None), "input 'x': \"data\" must be a list, flat or nested in row-major order"),
        (_tensor(data=[[1], 2]), "input 'x': \"data\" mixes values and lists at one level"),
        (
            _tensor(data=[[1], [2]]),
            "nor nested as its shape [1, 2] is: the list that ends before element 1 has 1 and must have 2",
        ),
        (_tensor(data=[[1, 2, 3]]), "input 'x' has more than 2 elements, its shape [1, 2] needs 2"),
        (_tensor(shape=[2, 2], data=[[1], [2, 3, 4]]), "the list that ends before element 1 has 1 and must have 2"),
        (_tensor(data=[[[1], [2]]]), "input 'x': \"data\" is neither flat nor nested as its shape [1, 2] is"),
        (_tensor(data=[1, "2"]), "input 'x': \"2\" is no float32 value (element 1)"),
        (_tensor(data=[1, True]), "input 'x': true is no float32 value (element 1)"),
        (_tensor(data=[1, None]), "input 'x': null is no float32 value (element 1)"),
        (_tensor(data=[1, "y" * 10**6]), "yyy... is no float32 value (element 1)"),
        (_tensor(name="n" * 10**6, data=[1, 2]), "the model has no input 'nnn"),
        (_tensor(datatype=[[[["FP32"] * 10**5]]]), "input 'x' has datatype [[[...]]], which is none of"),
        (_tensor(data=[1, -1e39]), "input 'x': -1e+39 does not fit into float32 (element 1)"),
        (_tensor(data=[1, 10**400]), "... does not fit into float32 (element 1)"),
        (_tensor(data=[1, 2], parameters=[]), "input 'x': \"parameters\" must be an object"),
        (
            _tensor(data=[1, 2], parameters={"binary_data_size": 8}),
            'has both "data" and "binary_data_size": give its data once',
        ),
        (
            _tensor(parameters={"binary_data_size": 8}),
            'has a "binary_data_size", and there is no header Inference-Header',
        ),
        (_tensor(parameters={"shared_memory_region": "r"}), "input 'x': shared memory is told by"),
        (_tensor(parameters={"shared_memory_byte_size": 8}), "input 'x': shared memory is told by"),
        (
            _tensor(parameters={"shared_memory_region": "r", "shared_memory_byte_size": 8}),
            "input 'x' lies in shared memory, and that is off: start the server with --shared-memory",
        ),
    ],
)
def test_tensors_that_lie(tensor: Any, sentence: str) -> None:
    assert sentence in _refusal(X, json.dumps({"inputs": [tensor]}).encode())


@pytest.mark.parametrize(
    ("kind", "data", "sentence"),
    [
        ("INT64", [1.0], "1.0 is no int64 value"),
        ("INT64", [True], "true is no int64 value"),
        ("INT64", [2**63], "9223372036854775808 does not fit into int64"),
        ("UINT64", [-1], "-1 does not fit into uint64"),
        ("INT8", [128], "128 does not fit into int8"),
        ("BOOL", [1], "1 is no bool value"),
        ("FP16", [65520.0], "65520.0 does not fit into float16"),
        ("BF16", [3.4e38], "3.4e+38 does not fit into bfloat16"),
        ("FP64", ["infinity"], '"infinity" is no float64 value'),
        ("BYTES", [1], "1 is no string value"),
        ("BYTES", ["\ud800"], "half of a surrogate pair"),
        ("BYTES", ["a\0b"], "element 0 has a zero byte, at which a model's string ends"),
    ],
)
def test_values_that_are_no_values_of_their_type(kind: str, data: list[Any], sentence: str) -> None:
    body = json.dumps({"inputs": [{"name": "x", "shape": [1], "datatype": kind, "data": data}]}).encode()
    assert sentence in _refusal(_signature(("x", kind, ("n",))), body)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"", "the body is not valid JSON in UTF-8"),
        (b"{", "the body is not valid JSON in UTF-8"),
        (b'"\xff"', "the body is not valid JSON in UTF-8"),
        (b'"\xed\xa0\x80"', "the body is not valid JSON in UTF-8"),
        ('{"inputs": []}'.encode("utf-16"), "the body is not valid JSON in UTF-8"),
        (b"[" * 100_000, "the body is not valid JSON in UTF-8"),
        (b'{"inputs": [' + b"9" * 5000 + b"]}", "the body has a number of more digits than are read"),
        (b"NaN", 'NaN is not JSON: send "NaN", "Infinity" and "-Infinity" as text'),
        (b"7", 'the body must be a JSON object with a list "inputs"'),
        (b'{"inputs": {}}', 'the body must be a JSON object with a list "inputs"'),
    ],
)
def test_documents_that_are_none(body: bytes, sentence: str) -> None:
    assert sentence in _refusal(X, body)
    assert sentence in _refusal(X, body + b"rest", len(body)) or not body


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"inputs": []}, "missing input 'x'"),
        ({"inputs": [_tensor(data=[1, 2])] * 2}, "input 'x' is given twice"),
        ({"id": 7}, '"id" must be a string'),
        ({"parameters": [1]}, '"parameters" must be an object'),
        ({"outputs": 7}, '"outputs" must be a list of objects with a "name"'),
        ({"outputs": [{"nome": "y"}]}, '"outputs" must be a list of objects with a "name"'),
        ({"outputs": [{"name": "z"}]}, "the model has no output 'z'; its outputs are y"),
        ({"outputs": [{"name": "y"}, {"name": "y"}]}, "output 'y' is given twice"),
        ({"outputs": [{"name": "y", "parameters": 7}]}, "output 'y': \"parameters\" must be an object"),
        (
            {"outputs": [{"name": "y", "parameters": {"binary_data": 1}}]},
            '"binary_data" is 1 and must be true or false',
        ),
        (
            {"outputs": [{"name": "y", "parameters": {"classification": True}}]},
            '"classification" is True and must be a',
        ),
        (
            {"outputs": [{"name": "y", "parameters": {"classification": -1}}]},
            '"classification" is -1 and must be a number',
        ),
        (
            {"outputs": [{"name": "y", "parameters": {"shared_memory_region": "r", "shared_memory_byte_size": 4}}]},
            "output 'y' is to go to shared memory, and that is off: start the server with --shared-memory",
        ),
        ({"parameters": {"seed": 2**64}}, 'the parameter "seed" is 18446744073709551616 and must be an integer from 0'),
        ({"parameters": {"priority": "high"}}, "the parameter \"priority\" is 'high' and must be an integer from 0"),
        ({"parameters": {"timeout": -5}}, 'the parameter "timeout" is -5 and must be an integer from 0 to 2**64 - 1'),
        ({"parameters": {"sequence_id": 1.5}}, 'the parameter "sequence_id" is 1.5 and must be a string of 256'),
        (
            {"parameters": {"sequence_id": "x" * 257}},
            "xxx' and must be a string of 256 characters at most or an integer",
        ),
        ({"parameters": {"sequence_start": 1, "sequence_id": 4}}, '"sequence_start" is 1 and must be true or false'),
        ({"parameters": {"sequence_end": True}}, '"sequence_start" and "sequence_end" need a "sequence_id"'),
        (
            {"parameters": {"sequence_start": True, "sequence_id": ""}},
            'need a "sequence_id" that is neither 0 nor empty',
        ),
        ({"parameters": {"binary_data_output": "yes"}}, "\"binary_data_output\" is 'yes' and must be true or false"),
    ],
)
def test_what_stands_beside_the_tensors(fields: dict[str, Any], sentence: str) -> None:
    assert sentence in _refusal(X, json.dumps({"inputs": [_tensor(data=[1, 2])], **fields}).encode())


@pytest.mark.parametrize(
    ("kind", "shape", "data", "sentence"),
    [
        ("FP32", [1, 2], bytes(7), "input 'x' has 7 bytes of data, and FP32 of shape [1, 2] takes 8"),
        ("FP32", [0, 2], bytes(8), "input 'x' has 8 bytes of data, and FP32 of shape [0, 2] takes 0"),
        ("BOOL", [1, 2], b"\1\2", "input 'x': byte 1 of its data is 2, and a BOOL is 0 or 1"),
        ("BYTES", [1, 2], bytes(7), "input 'x' has 7 bytes of data, too few for 2 elements with their lengths"),
        ("BYTES", [2**40, 2], bytes(7), "too few for 2199023255552 elements with their lengths"),
        ("BYTES", [1, 2], _bytes(b"a") + b"\xff\xff\xff\xff", "element 1 of its data ends at byte 4294967304 of 9"),
        ("BYTES", [1, 2], _bytes(b"a", b"b") + b"c", "has 11 bytes of data, and its 2 elements end at byte 10"),
        ("BYTES", [1, 2], _bytes(b"abcde") + b"\0\0", "element 1 of its data ends at byte 13 of 11"),
        ("BYTES", [1, 2], _bytes(b"a", b"\xff"), "input 'x': element 1 is no UTF-8, and the model takes strings"),
        ("BYTES", [0, 2], _bytes(b"a"), "input 'x' has 5 bytes of data, and its 0 elements end at byte 0"),
    ],
)
def test_binary_data_that_lies(kind: str, shape: list[int], data: bytes, sentence: str) -> None:
    body, length = _binary(_tensor(shape=shape, datatype=kind), len(data), data)
    assert sentence in _refusal(_signature(("x", kind, ("n", 2))), body, length)


@pytest.mark.parametrize(
    ("size", "given", "sentence"),
    [
        (8, 4, "input 'x': \"binary_data_size\" is 8, and 4 bytes of binary data are left"),
        (2**63, 4, '"binary_data_size" is 9223372036854775808, and 4 bytes of binary data are left'),
        (-8, 8, '"binary_data_size" is -8 and must be a number of bytes, 0 or more'),
        (8.0, 8, '"binary_data_size" is 8.0 and must be a number of bytes, 0 or more'),
        (True, 1, '"binary_data_size" is True and must be a number of bytes, 0 or more'),
        (8, 9, "1 bytes after the binary data of the inputs belong to none"),
    ],
)
def test_binary_sizes_that_lie(size: Any, given: int, sentence: str) -> None:
    assert sentence in _refusal(X, *_binary(_tensor(), size, bytes(given)))


@pytest.mark.parametrize("text", ["", "-1", "+1", "1.0", "0x10", "1_0", " 1", "\u0661", "9" * 5000])
def test_header_lengths_that_are_no_lengths(text: str) -> None:
    with pytest.raises(ServiceError, match="must be the length of the JSON document in bytes"):
        header_length(text, 100)


def test_header_lengths() -> None:
    assert header_length(None, 100) is None
    assert [header_length(text, 100) for text in ("0", "007", "100")] == [0, 7, 100]
    with pytest.raises(ServiceError, match="is 101, and the body has 100 bytes"):
        header_length("101", 100)


# ---- what is taken --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [[1, 2.5, 3, 4], [[1, 2.5], [3, 4]]])
def test_flat_and_nested_data(data: list[Any]) -> None:
    body = json.dumps({"inputs": [_tensor(shape=[2, 2], data=data)]}).encode()
    array = X.arrays(decode_request(body))["x"]
    assert array.dtype == np.float32 and array.tolist() == [[1.0, 2.5], [3.0, 4.0]]


@pytest.mark.parametrize("data", [[], [[], []]])
def test_tensors_without_elements(data: list[Any]) -> None:
    signature = _signature(("x", "FP32", ("n", "m")))
    body = json.dumps({"inputs": [_tensor(shape=[2, 0], data=data)]}).encode()
    assert signature.arrays(decode_request(body))["x"].shape == (2, 0)
    assert signature.arrays(decode_request(*_binary(_tensor(shape=[2, 0]), 0, b"")))["x"].shape == (2, 0)


def test_binary_data_is_a_view_of_the_body() -> None:
    body, length = _binary(_tensor(), 8, np.array([1, -0.0], "<f4").tobytes())
    array = X.arrays(decode_request(body, length))["x"]
    assert np.shares_memory(array, np.frombuffer(body, np.uint8))
    assert np.signbit(array).tolist() == [[False, True]]


def test_a_header_length_of_the_whole_body_is_all_json() -> None:
    body = json.dumps({"inputs": [_tensor(data=[1, 2])], "id": ""}).encode()
    request = decode_request(body, len(body))
    assert request.id == "" and X.arrays(request)["x"].tolist() == [[1.0, 2.0]]


def test_parameters() -> None:
    assert Options.read({"headers": {}, "seed": None, "custom": [1]}) == Options()
    given = {
        "seed": 1,
        "priority": 2,
        "timeout": 3,
        "sequence_id": "s",
        "sequence_start": True,
        "binary_data_output": True,
    }
    assert Options.read(given) == Options(1, 2, 3, "s", True, False, True)
    assert Options.read({"sequence_id": "x" * 256}).sequence_id == "x" * 256
    assert Options.read({"sequence_id": 2**64 - 1, "sequence_end": True}).sequence_id == 2**64 - 1


@pytest.mark.parametrize(
    ("outputs", "parameters", "binary"),
    [
        ((), {}, False),
        ((), {"binary_data_output": True}, True),
        ((RequestedOutput("y", False),), {"binary_data_output": True}, False),
        ((RequestedOutput("y", True),), {}, True),
        ((RequestedOutput("y"),), {"binary_data_output": True}, True),
    ],
)
def test_which_outputs_are_binary(
    outputs: tuple[RequestedOutput, ...], parameters: dict[str, Any], binary: bool
) -> None:
    request = InferRequest((), outputs, None, parameters)
    (tensor,) = X.answer({"y": np.zeros((1, 4), np.float32)}, X.requested(request))
    assert tensor.binary is binary


# ---- raw bodies -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "shape", "size", "expected"),
    [
        ("FP32", ("n", 2), 24, (3, 2)),
        ("FP32", (1, 2), 8, (1, 2)),
        ("FP32", ("n", 2), 0, (0, 2)),
        ("INT64", ("batch", "length"), 40, (1, 5)),
        ("FP16", (), 2, ()),
    ],
)
def test_raw_bodies(kind: str, shape: tuple[int | str, ...], size: int, expected: tuple[int, ...]) -> None:
    request = decode_request(bytes(size), 0)
    assert _signature(("in", kind, shape)).arrays(request)["in"].shape == expected
    (tensor,) = X.answer({"y": np.zeros((1, 4), np.float32)}, X.requested(request))
    assert tensor.binary  # as Triton answers them


def test_a_raw_body_for_a_string_is_the_string() -> None:
    signature = _signature(("x", "BYTES", ("n", 1)))
    array = signature.arrays(decode_request(b"caf\xc3\xa9", 0))["x"]
    assert array.shape == (1, 1, 5) and array.tobytes() == b"caf\xc3\xa9"


@pytest.mark.parametrize(
    ("count", "longest", "is_too_large"),
    [
        (100, 10_000, False),  # 1,000,000 bytes: below 1 MiB is free, however little was sent
        (105, 10_000, True),  # 1,050,000, and 64 times what was sent is less
        (62, 100_000, False),  # 6,200,000, less than 64 times what was sent
        (65, 100_000, True),
        (63, 4_200_000, False),  # below 256 MiB
        (64, 4_200_000, True),  # above it, though it is 64 times what was sent
    ],
)
def test_strings_that_would_be_padded_too_far(
    count: int, longest: int, is_too_large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One long string makes all of them long: what that may cost is said before anything of that size is made."""
    monkeypatch.setattr(_signature_module, "encode_strings", lambda array: array)
    data = _bytes(b"x" * longest, *[b""] * (count - 1))
    body, length = _binary(_tensor(shape=[count], datatype="BYTES"), len(data), data)
    signature, request = _signature(("x", "BYTES", ("n",))), decode_request(body, length)
    if not is_too_large:
        assert signature.arrays(request)["x"].shape == (count,)
        return
    with pytest.raises(
        ServiceError, match=f"takes {count * longest} bytes, each of its {count} strings padded"
    ) as caught:
        signature.arrays(request)
    assert caught.value.kind is Kind.TOO_LARGE and caught.value.kind.http == 413


@pytest.mark.parametrize(
    ("inputs", "size", "sentence"),
    [
        ([("a", "FP32", (1,)), ("b", "FP32", (1,))], 4, "is for models with one input, and this one has 2"),
        ([("x", "FP32", ("n", 2))], 7, "input 'x' has 7 bytes of data, and FP32 of shape [1, 2] takes 8"),
        ([("x", "FP32", (3, 2))], 8, "input 'x' has 8 bytes of data, and FP32 of shape [3, 2] takes 24"),
        ([("x", "FP32", (2, "h", "w"))], 8, "input 'x' has 2 dynamic dimensions, which a body without a JSON document"),
        ([("x", "FP32", ("n", 0))], 8, "input 'x' has 8 bytes of data, and FP32 of shape [1, 0] takes 0"),
    ],
)
def test_raw_bodies_that_do_not_fit(inputs: list[Any], size: int, sentence: str) -> None:
    assert sentence in _refusal(_signature(*inputs), bytes(size), 0)


# ---- both ways ------------------------------------------------------------------------------------------------------


def _sample(kind: str, shape: tuple[int, ...], seed: int) -> Any:
    """An array of any bits that the datatype has."""
    rng = np.random.default_rng(seed)
    if kind == "BYTES":
        flat = np.empty(int(np.prod(shape)), object)
        for index in range(flat.size):
            flat[index] = "".join(rng.choice(list('aé\U0001f600\0"\\\n'), rng.integers(0, 5))).encode()
        return flat.reshape(shape)
    datatype = DATATYPES[kind]
    if kind == "BOOL":
        return rng.integers(0, 2, shape).astype(bool)
    bits = rng.integers(0, 256, (*shape, datatype.itemsize), np.uint8)
    return np.ascontiguousarray(bits).view(datatype.dtype).reshape(shape)


def _same(kind: str, left: Any, right: Any, binary: bool) -> None:
    assert left.shape == right.shape and left.dtype == right.dtype
    if binary or kind == "BYTES" or (left.dtype.kind != "f" and kind != "BF16"):
        assert left.tolist() == right.tolist() or left.tobytes() == right.tobytes()
        return
    if kind == "BF16":
        left, right = bfloat16_values(left), bfloat16_values(right)
    np.testing.assert_array_equal(left, right)  # JSON has one NaN
    np.testing.assert_array_equal(np.signbit(left[~np.isnan(left)]), np.signbit(right[~np.isnan(right)]))


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(sorted(DATATYPES)),
    shape=st.lists(st.integers(0, 3), max_size=4).map(tuple),
    binary=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_what_is_written_reads_back(kind: str, shape: tuple[int, ...], binary: bool, seed: int) -> None:
    array = _sample(kind, shape, seed)
    tensor = InputTensor('a \u2028"', DATATYPES[kind], shape, array)
    asked = RequestedOutput("y", binary, 3)
    body = encode_request(InferRequest((tensor, tensor), (asked,), "id", {"p": 1}), binary=binary)
    assert (body.header_length is not None) == binary
    with pytest.raises(ServiceError, match="is given twice"):
        decode_request(body.joined(), body.header_length)
    body = encode_request(InferRequest((tensor,), (asked,), "id", {"p": 1}), binary=binary)
    read = decode_request(body.joined(), body.header_length)
    assert (read.id, read.parameters, read.outputs) == ("id", {"p": 1}, (asked,))
    _same(kind, read.inputs[0].array(), array, binary)

    outputs = (OutputTensor("b", DATATYPES[kind], array, binary), OutputTensor("c", BYTES, np.array([b"x"], object)))
    answer = encode_response(InferResponse("m", "10", outputs, "id", {"seed": 1}))
    back = decode_response(answer.joined(), answer.header_length)
    assert (back.model_name, back.model_version, back.id, back.parameters) == ("m", "10", "id", {"seed": 1})
    assert [each.binary for each in back.outputs] == [binary, False]
    _same(kind, back.outputs[0].array, array, binary)


def test_strides_and_byte_orders_are_nothing_to_the_reader() -> None:
    array = np.arange(6, dtype=">i4").reshape(2, 3).T
    answer = encode_response(InferResponse("m", "1", (OutputTensor("y", DATATYPES["INT32"], array, True),)))
    assert decode_response(answer.joined(), answer.header_length).outputs[0].array.tolist() == array.tolist()


def test_bytes_that_are_no_text_need_binary_data() -> None:
    output = OutputTensor("y", BYTES, np.array([b"\xff"], object))
    with pytest.raises(
        ServiceError,
        match="output 'y': element 0 is no UTF-8, which JSON strings have to be: ask for it in binary form",
    ):
        encode_response(InferResponse("m", "1", (output,)))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60), st.one_of(st.none(), st.integers(0, 60)))
def test_any_bytes_are_read_or_refused(body: bytes, length: int | None) -> None:
    for prefix in (
        b"",
        b'{"inputs":[{"name":"x","shape":[1,2],"datatype":"BYTES","parameters":{"binary_data_size":20}}]}',
    ):
        whole = prefix + body
        try:
            given_length = len(prefix) or length
            X.arrays(decode_request(whole, min(given_length, len(whole)) if given_length is not None else None))
        except ServiceError as error:
            assert error.kind is Kind.BAD_REQUEST


# ---- bfloat16, strings, classification ------------------------------------------------------------------------------


def test_a_model_takes_and_gives_bfloat16_as_ml_dtypes_has_it() -> None:
    signature = Signature(
        (TensorSpec("x", OF_RUNTIME["bfloat16"], "bfloat16", (2,)),),
        (TensorSpec("y", OF_RUNTIME["bfloat16"], "bfloat16", (2,)),),
    )
    body, length = _binary(_tensor(shape=[2], datatype="BF16"), 4, b"\x80\x3f\x00\xc0")
    array = signature.arrays(decode_request(body, length))["x"]
    assert array.dtype == ml_dtypes.bfloat16 and array.tolist() == [1.0, -2.0]
    answer = encode_response(
        InferResponse("m", "1", signature.answer({"y": array}, signature.requested(InferRequest())))
    )
    assert json.loads(answer.joined())["outputs"][0] == {
        "name": "y",
        "datatype": "BF16",
        "shape": [2],
        "data": [1.0, -2.0],
    }


def test_a_model_of_strings_takes_and_gives_strings() -> None:
    texts = TensorSpec("x", BYTES, "uint8", ("n",))
    signature = Signature((texts,), (texts,))
    assert texts.metadata() == {"name": "x", "datatype": "BYTES", "shape": [-1]}
    words = [b"", b"caf\xc3\xa9", b"\xf0\x9f\x98\x80!"]
    body, length = _binary(_tensor(shape=[3], datatype="BYTES"), len(_bytes(*words)), _bytes(*words))
    asked = decode_request(body, length)
    array = signature.arrays(asked)["x"]
    assert array.dtype == np.uint8 and array.shape == (3, 5)
    (tensor,) = signature.answer({"x": array}, signature.requested(asked))
    assert tensor.array.tolist() == words
    with pytest.raises(ServiceError, match="output 'x' holds strings, of which none is the highest"):
        signature.requested(InferRequest(outputs=(RequestedOutput("x", None, 1),)))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            [b"x" * 100_000, *[b""] * 9_999],
            "takes 1000000000 bytes, each of its 10000 strings padded .* and 8960000 are",
        ),
        ([b"x" * 15_000, *[b""] * 14_999], "takes 225000000 bytes, .* and 4800000 are the most for them"),
        ([b"x" * 30_000] * 10_000, "takes 300000000 bytes, .* and 268435456 are the most"),
        ([b"x" * 1000, *[b""] * 999], None),  # a small tensor is padded as it is
        ([b"x" * 6000, *[b"x" * 100] * 9_999], None),
    ],
)
def test_one_long_string_among_many_is_not_padded_without_end(words: list[bytes], sentence: str | None) -> None:
    signature = _signature(("x", "BYTES", ("n",)))
    body, length = _binary(_tensor(shape=[len(words)], datatype="BYTES"), len(_bytes(*words)), _bytes(*words))
    if sentence is None:
        assert signature.arrays(decode_request(body, length))["x"].shape == (len(words), len(words[0]))
        return
    with pytest.raises(ServiceError, match=sentence) as caught:
        signature.arrays(decode_request(body, length))
    assert caught.value.kind is Kind.TOO_LARGE


def test_an_array_of_a_client_has_the_shape_that_it_says() -> None:
    tensor = InputTensor("x", DATATYPES["FP32"], (1, 2), np.zeros(3, np.float32))
    with pytest.raises(ServiceError, match=r"input 'x' has 3 elements, its shape \[1, 2\] needs 2"):
        encode_request(InferRequest((tensor,)))


@pytest.mark.parametrize(
    ("array", "count", "expected"),
    [
        (np.array([1, 5, 10, 4], np.int32), 2, [b"10:2", b"5:1"]),
        (np.array([1.1, 3.3, 0.5, 2.4], np.float32), 2, [b"3.3:1", b"2.4:3"]),
        (np.array([[1, 2], [4, 3]], np.uint8), 1, [[b"2:1"], [b"4:0"]]),
        (np.array([[[1, 2], [9, 3]]], np.int64), 2, [[b"9:2", b"3:3"]]),
        (np.array([7, 7, 8, 7], np.float64), 9, [b"8.0:2", b"7.0:0", b"7.0:1", b"7.0:3"]),
        (np.array([np.nan, -np.inf, np.inf, 0], np.float16), 4, [b"Infinity:2", b"0.0:3", b"-Infinity:1", b"NaN:0"]),
        (np.array([-(2**63), 2**63 - 1]), 1, [b"9223372036854775807:1"]),
        (np.array([False, True]), 1, [b"1:1"]),
        (np.array(3.5), 1, [b"3.5:0"]),
        (np.zeros((2, 0), np.float32), 1, [[], []]),
        (np.zeros((0, 2), np.float32), 1, []),
    ],
)
def test_classification(array: Any, count: int, expected: list[Any]) -> None:
    datatype = OF_RUNTIME[array.dtype.name]
    assert classify(array, datatype, count).tolist() == expected


def test_classification_with_labels_and_bfloat16() -> None:
    signature = Signature((), X.outputs, {"y": ("cat", "dog")})
    request = InferRequest(outputs=(RequestedOutput("y", None, 2),))
    (tensor,) = signature.answer({"y": np.array([[0, 2, 3, 0.5]], np.float32)}, signature.requested(request))
    assert tensor.datatype is BYTES and tensor.array.tolist() == [[b"3.0:2", b"2.0:1:dog"]]
    assert classify(np.array([0x3F80, 0xC000], np.uint16), DATATYPES["BF16"], 1).tolist() == [b"1.0:0"]


def test_kinds_have_each_their_numbers() -> None:
    assert len({kind.label for kind in Kind}) == len(Kind) == 14
    assert {kind.http for kind in Kind} == {400, 401, 403, 404, 405, 413, 415, 429, 499, 500, 503, 504}
    assert all(1 <= kind.grpc <= 16 for kind in Kind)
