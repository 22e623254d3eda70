"""Bodies without the data of their tensors: what is cut out, and every way in which a document can be wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maas_rt import InvalidArgumentError, _native
from maas_rt.service._datatypes import DATATYPES
from maas_rt.service._errors import ServiceError
from maas_rt.service._json import MAX_DEPTH, MAX_REST, JsonData, parse_data, parse_document

_SAMPLE = (
    b'{"id": "\\u00e9\xc3\xa9", "inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1.5, -2e3, "NaN"]},\n'
    b' {"data" :[[1],[2],[3]], "parameters": {"data": [7], "inputs": []}}], "outputs": [{"name": "y", "data": [8]}]}'
)


def _scan(body: bytes | bytearray | memoryview, depth: int = MAX_DEPTH, rest: int = MAX_REST) -> tuple[bytes, Any]:
    return _native.json_scan(body, False, depth, rest)


def test_the_data_of_inputs_are_cut_out_and_nothing_else() -> None:
    for kind in (bytes, bytearray, memoryview):
        assert parse_document(kind(_SAMPLE)) == {
            "id": "éé",
            "inputs": [
                {"name": "x", "shape": [1, 3], "datatype": "FP32", "data": JsonData(memoryview(b'[1.5, -2e3, "NaN"]'))},
                {"data": JsonData(memoryview(b"[[1],[2],[3]]")), "parameters": {"data": [7], "inputs": []}},
            ],
            "outputs": [{"name": "y", "data": [8]}],
        }


def test_of_a_response_the_data_of_outputs_are_cut_out() -> None:
    document = parse_document(_SAMPLE, response=True)
    assert document["outputs"] == [{"name": "y", "data": JsonData(memoryview(b"[8]"))}]
    assert document["inputs"][1]["data"] == [[1], [2], [3]]
    for body, sentence in (
        (b'{"outputs":[{},{"data":[1],"data":[2]}]}', r'"data" is given twice in outputs\[1\]'),
        (b'{"model_name":"a","model_name":"a"}', '"model_name" is given twice in the body'),
    ):
        with pytest.raises(ServiceError, match=sentence):
            parse_document(body, response=True)


@pytest.mark.parametrize(
    "body",
    [
        b'{"parameters":{"seed":1,"seed":2}}',
        b'{"inputs":[{"parameters":{"binary_data_size":8,"binary_data_size":0}}]}',
        b'{"outputs":[{"name":"a","n\\u0061me":"b"}]}',
        b'{"x":{"y":[{"z":1,"z":1}]}}',
    ],
)
def test_a_key_that_is_given_twice_is_refused_wherever_it_stands(body: bytes) -> None:
    with pytest.raises(ServiceError, match=r"the key '\w+' is given twice in one object"):
        parse_document(body)


def test_a_number_of_more_digits_than_python_reads_is_refused() -> None:
    with pytest.raises(ServiceError, match="a number of more digits than are read"):
        parse_document(b'{"x":' + b"9" * 5000 + b"}")
    assert parse_document(b'{"x":' + b"9" * 4000 + b"}") == {"x": 10**4000 - 1}


@pytest.mark.parametrize(
    ("body", "data"),
    [
        (b'[{"data": [1]}]', []),
        (b'{"inputs": {"data": [1]}}', []),
        (b'{"inputs": [[{"data": [1]}]]}', []),
        (b'{"x": {"inputs": [{"data": [1]}]}}', []),
        (b'{"\\u0069nputs": [{"d\\u0061ta": [1]}]}', [b"[1]"]),
        (b'{"inputs": [{"data": "a]\\"["}, {"data": 5}, {"data": {"a": [1]}}]}', [b'"a]\\"["', b"5", b'{"a": [1]}']),
        (b' {"inputs" : [ { "data" : [ "]", "\\\\" ] } ] } ', [b'[ "]", "\\\\" ]']),
    ],
)
def test_where_data_are(body: bytes, data: list[bytes]) -> None:
    rest, ranges = _scan(body)
    assert [body[a:b] for a, b in ranges] == data
    json.loads(rest)


def test_every_truncation_of_a_request_is_refused() -> None:
    for size in range(len(_SAMPLE)):
        with pytest.raises(ServiceError, match="not valid JSON"):
            parse_document(_SAMPLE[:size])


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"", "it ends where a value is expected"),
        (b"\xef\xbb\xbf{}", "byte order mark"),
        (b"\xff\xfe{\0}\0", "byte 0 begins"),
        (b"{} {}", "byte 3 begins { where nothing more"),
        (b"{}\0", r"begins \\x00 where nothing more"),
        (b"\x0b{}", "where a value"),
        (b"[1,]", "where a value is expected"),
        (b"[,1]", "where a value is expected"),
        (b"[1 2]", r"where ',' or '\]' is expected"),
        (b'{"a" 1}', "':' is expected"),
        (b'{"a":1,}', "a key is expected"),
        (b"{a:1}", "a key is expected"),
        (b"{'a':1}", "a key is expected"),
        (b"[1}", r"begins } where"),
        (b"nul", "begins nul where"),
        (b"nulll", "begins nulll where"),
        (b"True", "begins True where"),
        (b"[01]", "begins 01 where"),
        (b"[+1]", "begins"),
        (b"[.5]", "begins"),
        (b"[1.]", "begins"),
        (b"[1.e5]", "begins"),
        (b"[1e]", "begins"),
        (b"[-]", "begins"),
        (b"[0x10]", "begins"),
        (b"[1/*x*/]", "begins"),
        (b"[NaN]", "NaN is not JSON"),
        (b"[-Infinity]", "-Infinity is not JSON"),
        (b'["\x01"]', "a control character"),
        (b'["a\nb"]', "a control character"),
        (b'["\\x41"]', "an unknown escape"),
        (b'["\\u12g4"]', "an unknown escape"),
        (b'["\\ud800"]', "half of a surrogate pair"),
        (b'["\\ud800\\u0041"]', "half of a surrogate pair"),
        (b'["\\udc00\\ud800"]', "half of a surrogate pair"),
        (b'["\xff"]', "no UTF-8"),
        (b'["\xc0\xaf"]', "no UTF-8"),
        (b'["\xe0\x80\xaf"]', "no UTF-8"),
        (b'["\xed\xa0\x80"]', "no UTF-8"),
        (b'["\xf4\x90\x80\x80"]', "no UTF-8"),
        (b'["\xf0\x9f\x98"]', "no UTF-8"),
        (b'{"inputs":[{"data":[1}]}', "not valid JSON"),
        (b'{"inputs":[{"data":tru}]}', "begins tru"),
        (b'{"inputs":[{"data":["\\ud800"]}]}', "half of a surrogate pair"),
        (b'{"inputs":[{"data":' + b"[" * 100, "opens level 65, and at most 64"),
        (b"[" * 1_000_000, "byte 64 opens level 65"),
        (b'{"a":' * 200_000, "opens level 65"),
        (b'{"inputs":[],"inputs":[]}', '"inputs" is given twice in the body'),
        (b'{"id":"a","\\u0069d":"a"}', '"id" is given twice'),
        (b'{"inputs":[{},{"data":[1],"data":[2]}]}', r'"data" is given twice in inputs\[1\]'),
        (b'{"inputs":[{"data":[1],"d\\u0061ta":[2]}]}', r'"data" is given twice in inputs\[0\]'),
        (b'{"inputs":[{"name":"a","name":"a"}]}', '"name" is given twice'),
        (b'{"inputs":[{"shape":[1],"shape":[1]}]}', '"shape" is given twice'),
        (b'{"inputs":[{"datatype":1,"datatype":1}]}', '"datatype" is given twice'),
        (b'["' + b" " * (1 << 20) + b'"]', "bytes of JSON or more beside the data"),
    ],
)
def test_a_body_that_is_no_json(body: bytes, sentence: str) -> None:
    with pytest.raises(ServiceError, match=sentence) as caught:
        parse_document(body)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 250


def test_the_limits_are_the_callers() -> None:
    _scan(b"[" * 3 + b"]" * 3, depth=3)
    with pytest.raises(InvalidArgumentError, match="level 3"):
        _scan(b"[" * 3 + b"]" * 3, depth=2)
    body = b'{"inputs":[{"data":[' + b"1," * 500 + b"1]}]}"
    assert len(_scan(body, rest=100)[0]) < 100
    with pytest.raises(InvalidArgumentError, match="has 20 bytes of JSON or more"):
        _scan(body, rest=20)


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=100, deadline=None)
@given(_VALUES, st.booleans(), st.data())
def test_what_is_json_is_what_the_standard_library_says(value: Any, ascii_only: bool, draw: st.DataObject) -> None:
    """Random documents, whole and with a byte of them changed, taken out or put in."""
    body = json.dumps({"k": value}, ensure_ascii=ascii_only).encode()
    assert json.loads(_scan(body)[0]) == {"k": value}
    at = draw.draw(st.integers(0, len(body) - 1))
    byte = draw.draw(
        st.sampled_from([b"", b",", b"]", b"}", b'"', b"\\", b"0", b".", b"e", b" ", b"\n", b"\xff", b"\xc3"])
    )
    changed = body[:at] + byte + body[at + draw.draw(st.integers(0, 1)) :]
    assert _accepted(changed) == _is_json(changed), changed


def _accepted(body: bytes) -> bool:
    try:
        _scan(body)
    except InvalidArgumentError:
        return False
    return True


def _is_json(body: bytes) -> bool:
    def refuse(word: str) -> None:
        raise ValueError(word)

    try:
        json.dumps(json.loads(body.decode(), parse_constant=refuse), ensure_ascii=False).encode()  # no lone surrogate
    except ValueError:
        return False
    return True


def _whole(body: bytes) -> Any:
    """A request as the service reads it, all data as float32 of three elements."""
    document = parse_document(body)
    for tensor in document.get("inputs", ()):
        if "data" in tensor:
            parse_data(tensor["data"], DATATYPES["FP32"], [3], "input 'x'")
    return document


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False), min_size=3, max_size=3
    )
)
def test_a_request_with_a_byte_changed_is_read_or_refused(data: list[float]) -> None:
    body = json.dumps({"inputs": [{"name": "x", "data": data}]}).encode()
    for at in range(len(body)):
        for byte in b'],"':
            changed = body[:at] + bytes([byte]) + body[at + 1 :]
            try:
                _whole(changed)
            except ServiceError:
                continue
            assert _is_json(changed), changed
