"""Binary tensors, raw bodies, strings and classes over HTTP, on files written by hand."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiohttp.test_utils import TestClient, TestServer

from maas_rt.service import Repository, create_app
from tests import _tiny

HEADER = "Inference-Header-Content-Length"


@pytest.fixture
async def client(tmp_path: Path):
    (tmp_path / "mlp.mrt").write_bytes(_tiny.mlp("batch"))
    (tmp_path / "two.mrt").write_bytes(_tiny.two_outputs())
    (tmp_path / "strings.mrt").write_bytes(_tiny.strings())
    async with TestClient(TestServer(create_app(Repository(tmp_path)))) as client:
        yield client


async def _post(client: TestClient, model: str, body: bytes, length: int | None) -> tuple[int, Any, bytes]:
    """The status, the answer's document and its binary data."""
    headers = {} if length is None else {HEADER: str(length)}
    response = await client.post(f"/v2/models/{model}/infer", data=body, headers=headers)
    answer = await response.read()
    end = int(response.headers.get(HEADER, len(answer)))
    assert response.content_type == ("application/octet-stream" if HEADER in response.headers else "application/json")
    return response.status, json.loads(answer[:end]), answer[end:]


def _document(*inputs: dict[str, Any], **fields: Any) -> bytes:
    return json.dumps({"inputs": list(inputs), **fields}).encode()


def _binary_input(name: str, kind: str, array: np.ndarray) -> dict[str, Any]:
    parameters = {"binary_data_size": array.nbytes}
    return {"name": name, "datatype": kind, "shape": list(array.shape), "parameters": parameters}


async def test_binary_inputs_and_outputs_in_their_order(client: TestClient) -> None:
    a, b = np.arange(6, dtype=np.float32).reshape(2, 3), np.arange(6).reshape(2, 3)
    # The document's length is odd, so that the data is not aligned.
    text = _document(
        _binary_input("b", "INT64", b), _binary_input("a", "FP32", a), parameters={"binary_data_output": True}
    )
    text += b" " * (1 - len(text) % 2)
    status, answer, data = await _post(client, "two", text + b.tobytes() + a.tobytes(), len(text))
    assert status == 200, answer
    assert [(o["name"], o["datatype"], o["shape"], o["parameters"]) for o in answer["outputs"]] == [
        ("aa", "FP32", [4, 3], {"binary_data_size": 48}),
        ("bt", "INT64", [3, 2], {"binary_data_size": 48}),
    ]
    assert data == np.concatenate([a, a]).tobytes() + b.T.tobytes()


async def test_json_in_binary_out_and_the_other_way(client: TestClient) -> None:
    x = np.random.default_rng(0).standard_normal((2, 16)).astype(np.float32)
    expected = _tiny.reference_mlp(x)
    tensor = {"name": "x", "shape": [2, 16], "datatype": "FP32", "data": x.ravel().tolist()}
    binary = [{"name": "y", "parameters": {"binary_data": True}}]
    status, answer, data = await _post(client, "mlp", _document(tensor, outputs=binary), None)
    assert status == 200, answer
    np.testing.assert_allclose(np.frombuffer(data, np.float32).reshape(2, 8), expected, rtol=1e-4, atol=1e-5)

    text = _document(_binary_input("x", "FP32", x), id="7")
    status, answer, data = await _post(client, "mlp", text + x.tobytes(), len(text))
    assert (status, answer["id"], data) == (200, "7", b"")
    np.testing.assert_allclose(np.reshape(answer["outputs"][0]["data"], (2, 8)), expected, rtol=1e-4, atol=1e-5)


async def test_a_raw_body(client: TestClient) -> None:
    x = np.ones((3, 16), np.float32)
    status, answer, data = await _post(client, "mlp", x.tobytes(), 0)
    assert status == 200, answer
    assert answer["outputs"][0]["shape"] == [3, 8]
    np.testing.assert_allclose(
        np.frombuffer(data, np.float32).reshape(3, 8), _tiny.reference_mlp(x), rtol=1e-4, atol=1e-5
    )
    status, answer, _ = await _post(client, "two", b"", 0)
    assert (status, answer["error"]) == (
        400,
        "a body without a JSON document is for models with one input, and this one has 2",
    )


async def test_a_model_of_strings(client: TestClient) -> None:
    metadata = await (await client.get("/v2/models/strings")).json()
    assert metadata["inputs"][0] == {"name": "a", "datatype": "BYTES", "shape": [1, -1]}
    a = {"name": "a", "shape": [1, 2], "datatype": "BYTES", "data": ["é", "abcd"]}
    b = {"name": "b", "shape": [1, 2], "datatype": "BYTES", "data": [["wxyz", ""]]}
    status, answer, _ = await _post(client, "strings", _document(a, b), None)
    assert status == 200, answer
    assert answer["outputs"] == [{"name": "y", "datatype": "BYTES", "shape": [2, 2], "data": ["é", "abcd", "wxyz", ""]}]
    _, _, data = await _post(client, "strings", _document(a, b, parameters={"binary_data_output": True}), None)
    assert data == b"".join(struct.pack("<I", len(w)) + w for w in (b"\xc3\xa9", b"abcd", b"wxyz", b""))


async def test_the_highest_classes(client: TestClient) -> None:
    x = np.random.default_rng(1).standard_normal((2, 16)).astype(np.float32)
    tensor = {"name": "x", "shape": [2, 16], "datatype": "FP32", "data": x.ravel().tolist()}
    outputs = [{"name": "y", "parameters": {"classification": 3}}]
    status, answer, _ = await _post(client, "mlp", _document(tensor, outputs=outputs), None)
    assert status == 200, answer
    (output,) = answer["outputs"]
    assert (output["datatype"], output["shape"]) == ("BYTES", [2, 3])
    order = np.argsort(-_tiny.reference_mlp(x), axis=1)[:, :3]
    assert [int(each.split(":")[1]) for each in output["data"]] == order.ravel().tolist()


@pytest.mark.parametrize("length", ["-1", "abc", "1000000"])
async def test_a_header_length_that_lies(client: TestClient, length: str) -> None:
    response = await client.post("/v2/models/mlp/infer", data=b"{}", headers={HEADER: length})
    assert response.status == 400
    assert HEADER in (await response.json())["error"]
