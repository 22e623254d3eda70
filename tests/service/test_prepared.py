"""Requests that are alike, prepared: the same answers, byte by byte, as those that Python makes."""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import maas_rt
from maas_rt import _native
from maas_rt._plan import DTypeCode
from maas_rt.service._config import Scheduling
from maas_rt.service._datatypes import DATATYPES
from maas_rt.service._errors import Kind, ServiceError
from maas_rt.service._prepared import Document, Preparations
from maas_rt.service._requests import InferResponse, decode_request, encode_response
from maas_rt.service._served import Served
from maas_rt.service._timer import Timer
from tests import _tiny

CASTS: dict[str, Any] = {name: each.dtype for name, each in DATATYPES.items()} | {"BF16": ml_dtypes.bfloat16}


def _copy(dtype: str) -> bytes:
    """x [n, 2] -> y, the same."""
    b = _tiny.Builder("copy")
    b.symbol("n", 0, 64)
    kind = "uint16" if dtype == "bfloat16" else dtype
    x, y = b.input("x", ["n", 2], kind), b.value("y", ["n", 2], kind)
    if dtype == "bfloat16":
        for value in b.plan.values:
            value.dtype_code = DTypeCode.BFLOAT
    b.copy(x, y)
    return b.file(y)


def _served(data: bytes) -> Served:
    return Served.of("m", "1", maas_rt.load(data), Scheduling(), Timer())


class Both:
    """Asks a version in Python, and as a prepared request once it is known."""

    def __init__(self, data: bytes) -> None:
        self.served = _served(data)
        assert self.served.prepared is not None
        self.known: Preparations = self.served.prepared
        self.prepared = 0

    def in_python(self, body: bytes, length: int | None) -> tuple[bytes, int | None, InferResponse, Any]:
        request = decode_request(body, length)
        arrays = self.served.signature.arrays(request)
        wanted = self.served.signature.requested(request)
        outputs = self.served.signature.answer(self.served.model.run(arrays), wanted)
        response = InferResponse("m", "1", outputs, request.id)
        made = encode_response(response)
        return made.joined(), made.header_length, response, request

    def ask(self, body: bytes, length: int | None = None) -> bytes:
        wanted, document_length, response, request = self.in_python(body, length)
        document = Document(memoryview(body), length)
        exchange = self.known.read(document)
        if exchange is None:
            self.known.learn(document, request, response)
        else:
            self.prepared += 1
            exchange.run(time.monotonic_ns() + 10**10)
            assert exchange.body() == (wanted, document_length)
            assert exchange.size == sum(each.array().nbytes for each in request.inputs)
        return wanted


def _json_body(name: str, array: np.ndarray, datatype: str, **fields: Any) -> bytes:
    tensor = {"name": name, "shape": list(array.shape), "datatype": datatype}
    data = array.astype(float) if array.dtype.kind not in "iub" else array
    return json.dumps({"inputs": [{**tensor, "data": data.reshape(-1).tolist()}], **fields}).encode()


def _binary_body(name: str, array: np.ndarray, datatype: str, **fields: Any) -> tuple[bytes, int]:
    tensor = {
        "name": name,
        "shape": list(array.shape),
        "datatype": datatype,
        "parameters": {"binary_data_size": array.nbytes},
    }
    text = json.dumps({"inputs": [tensor], **fields}).encode()
    return text + array.tobytes(), len(text)


@pytest.mark.parametrize("datatype", [name for name in DATATYPES if name != "BYTES"])
@pytest.mark.parametrize("rows", [3, 0])
def test_every_type_both_ways(datatype: str, rows: int) -> None:
    both = Both(_copy(DATATYPES[datatype].runtime))
    generator = np.random.default_rng(0)
    for number in range(4):
        array = generator.integers(0, 2 if datatype == "BOOL" else 100, (rows, 2)).astype(CASTS[datatype])
        first = both.ask(_json_body("x", array, datatype))
        outputs = {"parameters": {"binary_data_output": True}}
        text, length = _binary_body("x", array, datatype, **outputs)
        second = both.ask(text, length)
        both.ask(_json_body("x", array, datatype, **outputs))
        both.ask(*_binary_body("x", array, datatype))
        assert second.endswith(array.tobytes()) and json.loads(first)["outputs"][0]["shape"] == [rows, 2]
        assert both.prepared == 4 * max(0, number - 1)


def test_several_tensors_ids_and_outputs() -> None:
    both = Both(_tiny.two_outputs())
    a, b = np.arange(6, dtype=np.float32).reshape(2, 3), np.arange(6).reshape(2, 3)
    tensors = [
        {"name": "b", "shape": [2, 3], "datatype": "INT64", "data": b.tolist()},
        {"name": "a", "shape": [2, 3], "datatype": "FP32", "data": a.reshape(-1).tolist()},
    ]
    requests: list[dict[str, Any]] = [
        {},
        {"id": 'seven "quotes" and é'},
        {"outputs": [{"name": "bt"}, {"name": "aa", "parameters": {"binary_data": True}}]},
        {"outputs": [{"name": "bt", "parameters": {"binary_data": False}}], "parameters": {"binary_data_output": True}},
    ]
    for request in requests:
        for count in range(4):
            tensors[1]["data"] = [0.1 * count] * 6
            both.ask(json.dumps({"inputs": tensors, **request}, ensure_ascii=False).encode())
    assert both.prepared == 2 * len(requests)


NOT_PREPARED: dict[str, dict[str, Any]] = {
    "a classification": {"outputs": [{"name": "y", "parameters": {"classification": 2}}]},
    "a seed": {"parameters": {"seed": 3}},
    "a priority": {"parameters": {"priority": 3}},
    "a time": {"parameters": {"timeout": 10**9}},
    "long names": {"parameters": {"mine": "a" * 2000}},
    "something of the client's": {"parameters": {"mine": 1}},
}


@pytest.mark.parametrize("case", NOT_PREPARED)
def test_what_python_has_a_part_in_is_left_to_it(case: str) -> None:
    both = Both(_tiny.mlp())
    for _ in range(5):
        both.ask(_json_body("x", np.ones((1, 16), np.float32), "FP32", **NOT_PREPARED[case]))
    assert both.prepared == 0


@pytest.mark.parametrize("make", [_tiny.strings, _tiny.accumulator, _tiny.noise])
def test_so_is_what_a_model_does_beside_numbers(make: Callable[[], bytes]) -> None:
    served = _served(make())
    if make is not _tiny.strings:
        assert served.prepared is None
        return
    both = Both(make())
    tensors = [{"name": n, "shape": [1, 2], "datatype": "BYTES", "data": ["one", "two"]} for n in "ab"]
    for _ in range(5):
        both.ask(json.dumps({"inputs": tensors}).encode())
    assert both.prepared == 0


WRONG: dict[str, tuple[Any, str]] = {
    "too few": ([1.0] * 31, "has 31 elements"),
    "too many": ([1.0] * 33, "elements"),
    "a word": (["a"] * 32, "input 'x'"),
    "nested otherwise": ([[1.0] * 16, [1.0] * 15, [1.0]], "input 'x'"),
    "null": ([None] * 32, "input 'x'"),
    "beyond its type": ([1e39] * 32, "input 'x'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_data_are_told_in_the_same_words(case: str) -> None:
    both = Both(_copy("float32"))
    right = np.ones((16, 2), np.float32)
    for _ in range(3):
        both.ask(_json_body("x", right, "FP32"))
    data, part = WRONG[case]
    tensor = {"name": "x", "shape": [16, 2], "datatype": "FP32", "data": data}
    body = json.dumps({"inputs": [tensor]}).encode()
    with pytest.raises(ServiceError) as usual:
        both.in_python(body, None)
    document = Document(memoryview(body), None)
    with pytest.raises(ServiceError) as prepared:
        both.known.read(document)
    assert str(prepared.value) == str(usual.value) and part in str(usual.value)
    assert prepared.value.kind is usual.value.kind is Kind.BAD_REQUEST


def test_binary_data_that_lie_are_refused() -> None:
    both = Both(_copy("float32"))
    body, length = _binary_body("x", np.ones((16, 2), np.float32), "FP32")
    for _ in range(3):
        both.ask(body, length)
    assert both.prepared == 1
    for wrong in (body[:-1], body + b"\0", body[:length]):
        assert both.known.read(Document(memoryview(wrong), length)) is None  # Python says what is wrong


@pytest.mark.parametrize("byte", [2, 46, 128, 255])
def test_binary_data_are_held_to_their_type(byte: int) -> None:
    """As they are in Python: a BOOL is 0 or 1, of the third request as of the first."""
    both = Both(_copy("bool"))
    body, length = _binary_body("x", np.ones((3, 2), bool), "BOOL")
    for _ in range(3):
        both.ask(body, length)
    assert both.prepared == 1
    wrong = body[:-3] + bytes((byte, 1, byte))
    with pytest.raises(ServiceError) as usual:
        both.in_python(wrong, length)
    with pytest.raises(
        ServiceError, match=f"input 'x': byte 3 of its data is {byte}, and a BOOL is 0 or 1"
    ) as prepared:
        both.known.read(Document(memoryview(wrong), length))
    assert str(prepared.value) == str(usual.value) and prepared.value.kind is usual.value.kind is Kind.BAD_REQUEST


def test_what_is_not_known_yet_is_cut_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """And read as it is without being prepared, in all forms."""
    array, long = np.ones((2, 16), np.float32), {"mine": "a" * 2000}
    scans, scan = [], _native.json_scan

    def counted(*args: Any) -> Any:
        scans.append(args)
        return scan(*args)

    for parameters in ({}, long):
        binary, length = _binary_body("x", array, "FP32", parameters=parameters)
        for body, given in (
            (_json_body("x", array, "FP32", parameters=parameters), None),
            (binary, length),
            (array.tobytes(), 0),
        ):
            usual = decode_request(body, given)
            with monkeypatch.context() as patch:
                patch.setattr(_native, "json_scan", counted)
                found = Document(memoryview(body), given).request()
            assert found == usual and bool(found.raw) is bool(given == 0)
            assert len(scans) == (given != 0)
            scans.clear()
    with pytest.raises(ServiceError, match="is given twice"):
        Document(memoryview(b'{"inputs": [], "inputs": []}'), None)


def test_a_run_that_refuses_its_values_says_so() -> None:
    both = Both(_tiny.gather())
    table = {"name": "table", "shape": [5, 2], "datatype": "FP32", "data": [0.0] * 10}

    def body(index: int) -> bytes:
        return json.dumps(
            {"inputs": [table, {"name": "i", "shape": [3], "datatype": "INT64", "data": [0, 1, index]}]}
        ).encode()

    for _ in range(3):
        both.ask(body(2))
    exchange = both.known.read(Document(memoryview(body(7)), None))
    assert exchange is not None
    with pytest.raises(maas_rt.Error) as prepared:
        exchange.run(0)
    with pytest.raises(maas_rt.Error) as usual:
        both.in_python(body(7), None)
    assert str(prepared.value) == str(usual.value)
    with pytest.raises(ValueError, match="before a run"):
        exchange.body()
    both.ask(body(4))  # its session is whole


def test_a_run_stops_in_time() -> None:
    served = _served(_tiny.endless())
    prepared = _native.Prepared(served.model, b'{"outputs":[', [("x", "float32", [1, 4], "input 'x'", True, 16)], [])
    exchange = prepared.read(bytes(16), 0, [])
    with pytest.raises(maas_rt.DeadlineExceededError):
        exchange.run(time.monotonic_ns() + 10**7)


def test_an_exchange_outlives_all_that_it_came_from() -> None:
    served = _served(_tiny.mlp())
    inputs = [("x", "float32", [1, 16], "input 'x'", True, 64)]
    prepared = _native.Prepared(
        served.model, b'{"outputs":[', inputs, [("y", "float32", True, b'{"name":"y","shape":[')]
    )
    exchange, dropped = (prepared.read(bytes(64), 0, []) for _ in range(2))
    for each in (exchange, dropped):
        each.run(time.monotonic_ns() + 10**9)
    del served, prepared, each
    gc.collect()
    body, length = exchange.body()
    assert length is not None and len(body) - length == 32
    del exchange, dropped  # of which one has its results still


def test_what_was_met_and_known_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maas_rt.service._prepared._MOST", 4)
    both = Both(_tiny.mlp())
    for number in range(20):
        for _ in range(3):
            both.ask(_json_body("x", np.ones((1, 16), np.float32), "FP32", id=str(number)))
    assert both.prepared == 20
    assert len(both.known._known.ready) <= 4 and len(both.known._known.met) <= 4
