"""Tensors in protobuf's wire format, against protobuf itself."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maas_rt.service._datatypes import DATATYPES
from maas_rt.service._errors import Kind, ServiceError
from maas_rt.service._requests import InferResponse, OutputTensor
from maas_rt.service._wire import _FIELD_OF, _FIELDS, MAX_REST, Contents, cut, field, parse_contents, write_contents

_HOW = "needs protobuf: pip install protobuf, as the extra grpc does"
pytest.importorskip("google.protobuf", reason=_HOW)
from google.protobuf.message import DecodeError  # noqa: E402

from maas_rt.service._grpc_messages import MESSAGES  # noqa: E402
from maas_rt.service._grpc_requests import decode_message, encode_message  # noqa: E402

TYPED = sorted(_FIELD_OF)


def _array(kind: str) -> Any:
    """Elements of all lengths that its numbers can have."""
    dtype, rng = DATATYPES[kind].dtype, np.random.default_rng(0)
    if kind == "BYTES":
        return np.array([b"", b"a", b"\xff" * 300, "é".encode()], object)
    if dtype.kind == "f":
        return np.array([0.1, -0.0, np.inf, np.nan, np.finfo(dtype).max, np.finfo(dtype).tiny], dtype)
    if dtype.kind == "b":
        return np.array([True, False, True])
    limits = np.iinfo(dtype)
    shifts = rng.integers(0, 8 * dtype.itemsize, 500).astype(dtype)
    some = rng.integers(limits.min, limits.max, 500, dtype=dtype, endpoint=True) >> shifts
    return np.concatenate([np.array([limits.min, limits.max, 0, 1, 127], dtype), some])


def _request(kind: str, array: Any) -> Any:
    message = MESSAGES["ModelInferRequest"](model_name="m", id="7")
    tensor = message.inputs.add(name="x", datatype=kind, shape=array.shape)
    getattr(tensor.contents, _FIELDS[_FIELD_OF[kind]][0]).extend(array.tolist())
    return message


def _read(kind: str, *parts: bytes, shape: tuple[int, ...]) -> Any:
    return parse_contents(Contents(tuple(map(memoryview, parts))), DATATYPES[kind], shape, "input 'x'")


def _same(left: Any, right: Any) -> bool:
    if left.dtype.kind == "O":
        return left.tolist() == right.tolist()
    return left.dtype == right.dtype and left.tobytes() == right.tobytes()


@pytest.mark.parametrize("kind", TYPED)
def test_every_datatype_both_ways(kind: str) -> None:
    array = _array(kind)
    asked = decode_message(_request(kind, array).SerializeToString())
    assert (asked.model, asked.version, asked.as_contents) == ("m", None, True) and asked.request.id == "7"
    assert _same(asked.request.inputs[0].array(), array)
    shaped = array[:2].reshape(1, 2)
    tensors = (OutputTensor("y", DATATYPES[kind], shaped), OutputTensor("none", DATATYPES[kind], shaped[:0]))
    response = InferResponse("m", "3", tensors, "7")
    for as_contents in (True, False):
        answer = MESSAGES["ModelInferResponse"].FromString(encode_message(response, as_contents))
        assert [list(each.shape) for each in answer.outputs] == [[1, 2], [0, 2]] and answer.id == "7"
        if as_contents:
            name = _FIELDS[_FIELD_OF[kind]][0]
            back = np.array(list(getattr(answer.outputs[0].contents, name)), array.dtype)
            assert _same(back, array[:2]) and not answer.raw_output_contents
        else:
            assert len(answer.raw_output_contents) == 2 and answer.raw_output_contents[1] == b""
            if kind != "BYTES":
                assert answer.raw_output_contents[0] == shaped.tobytes()


@pytest.mark.parametrize("kind", sorted(set(TYPED) - {"BYTES"}))
def test_numbers_in_every_form_that_protobuf_takes(kind: str) -> None:
    """Packed, each on its own, both, and contents in several parts."""
    array, datatype = _array(kind), DATATYPES[kind]
    number = _FIELD_OF[kind]
    packed = b"".join(write_contents(array, datatype))
    assert packed == _request(kind, array).inputs[0].contents.SerializeToString()
    alone = b"".join(write_contents(array[:1], datatype))  # a tag, the length of one number, and it
    tag = bytes([number << 3 | _FIELDS[number][1]])
    single = b"".join(tag + b"".join(write_contents(array[at : at + 1], datatype))[2:] for at in range(array.size))
    assert len(alone) > 2
    for parts, times in (([single], 1), ([packed, packed], 2), ([single + packed], 2), ([packed + single, single], 3)):
        assert _same(_read(kind, *parts, shape=(times * array.size,)), np.concatenate([array] * times))
    # One number of another kind between those that are alike.
    assert _same(_read(kind, single + alone, shape=(array.size + 1,)), np.concatenate([array, array[:1]]))


@pytest.mark.parametrize(
    ("kind", "parts", "shape", "message"),
    [
        ("INT8", [b"\x12\x02\x80\x01"], (1,), "element 0 is 128, and INT8 is from -128 to 127"),
        ("UINT16", [b"\x22\x04\x05\x80\x80\x04"], (2,), "element 1 is 65536, and UINT16 is from 0 to 65535"),
        ("INT64", [b"\x1a\x01\x80"], (1,), "end within a number"),
        ("INT64", [b"\x1a\x0b" + b"\x80" * 10 + b"\x01"], (1,), "more than 10 bytes"),
        ("FP32", [b"\x32\x05" + bytes(5)], (1,), "end within a number"),
        ("FP32", [b"\x32\x08" + bytes(8)], (1,), "has more than 1 elements"),
        ("FP32", [], (2, 16), "has 0 elements, its shape [2, 16] needs 32"),
        ("FP32", [b"\x12\x01\x01"], (1,), "is FP32, whose elements are its fp32_contents, and has int_contents"),
        ("FP32", [b"\x30\x01"], (1,), "fp32_contents of another type"),
        ("INT32", [b"\x12\x04\x00"], (1,), "it is no protobuf at byte 0"),
        ("INT32", [b"\x13\x04\x00"], (1,), "it is no protobuf at byte 0"),
        ("BYTES", [b"\x42\x01a\x42\x00"], (1,), "has more than 1 elements"),
        ("BYTES", [b"\x42\x01a"], (2,), "has 1 elements"),
        ("FP16", [b"\x32\x04" + bytes(4)], (1,), "is FP16, which has no contents: send it in raw_input_contents"),
        ("BF16", [], (1,), "is BF16, which has no contents"),
        ("INT32", [b"\x10\x01\x12\x01\x02" * 40_000], (80_000,), "in more than 65536 pieces: send them packed"),
    ],
)
def test_contents_that_are_refused(kind: str, parts: list[bytes], shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ServiceError) as caught:
        _read(kind, *parts, shape=shape)
    assert message in str(caught.value) and caught.value.kind is Kind.BAD_REQUEST and "\n" not in str(caught.value)


def test_large_contents_are_read_in_pieces() -> None:
    array = np.random.default_rng(1).integers(-(2**63), 2**63 - 1, 400_000)
    assert _same(_read("INT64", b"".join(write_contents(array, DATATYPES["INT64"])), shape=array.shape), array)


@pytest.mark.parametrize(
    ("message", "told"),
    [
        (b"\x2a\x00" * (MAX_REST // 2 + 1), "more than 1048576 bytes beside the data"),  # inputs of two bytes
        (b"\x3a\x00" * (MAX_REST // 2 + 1), "more than 1048576 bytes beside the data"),  # raw contents of none
        (b"\x2a\x84\x80\x40" + b"\x2a\x00" * (MAX_REST // 2 + 2), "more than 1048576 bytes beside the data"),
        (field(5, [b"\x0a\x01\xff"]), "has text in it that is no UTF-8"),
        (b"\x0a", "it is no protobuf at byte"),
        (b"\x0a\x05a", "it is no protobuf at byte 0"),
        (b"\xff" * 20, "it is no protobuf at byte 0"),
        (b"\x03", "it is no protobuf at byte 0"),
        (b"\x02\x00", "it is no protobuf at byte 0"),
    ],
)
def test_messages_that_are_refused(message: Any, told: str) -> None:
    with pytest.raises(ServiceError, match=told) as caught:
        decode_message(message if isinstance(message, bytes) else b"".join(message))
    assert caught.value.kind is Kind.BAD_REQUEST


def _whole(message: bytes) -> Any:
    """What protobuf reads, with the data taken out."""
    found = MESSAGES["ModelInferRequest"].FromString(message)
    raw = list(found.raw_input_contents)
    contents = [each.contents.SerializeToString() for each in found.inputs]
    found.ClearField("raw_input_contents")
    for each in found.inputs:
        each.ClearField("contents")
    return found, raw, contents


@settings(max_examples=300, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(0, 4))
def test_broken_messages_mean_what_they_mean_to_protobuf(rng: random.Random, changes: int) -> None:
    message = bytearray(_request("INT32", np.arange(-3, 300, 60, dtype=np.int32)).SerializeToString())
    message += b"".join(field(7, [b"raw", b"data"])) + b"".join(field(5, [b"\x0a\x01z", *field(5, [b"\x32\x04abcd"])]))
    for _ in range(changes):
        message[rng.randrange(len(message))] = rng.randrange(256)
    data = bytes(message)
    try:
        found = cut(memoryview(data))
        rest = MESSAGES["ModelInferRequest"].FromString(found.rest)
        theirs = [
            MESSAGES["InferTensorContents"].FromString(b"".join(each.parts)).SerializeToString()
            for each in found.contents
        ]
    except (ServiceError, DecodeError):
        return  # refused; protobuf skips groups, and knows no limits
    try:
        whole, raw, contents = _whole(data)
    except DecodeError:
        raise AssertionError(f"protobuf refuses {data!r}") from None
    assert rest == whole and [bytes(each) for each in found.raw] == raw and theirs == contents
