"""What JSON cannot say, what a client gets wrong, and models that keep states: on files written by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiohttp.test_utils import TestClient, TestServer

from maas_rt.service import Repository, create_app
from tests import _tiny


@pytest.fixture
async def client(tmp_path: Path):
    (tmp_path / "mlp.mrt").write_bytes(_tiny.mlp("batch"))
    (tmp_path / "sum.mrt").write_bytes(_tiny.accumulator())
    (tmp_path / "gather.mrt").write_bytes(_tiny.gather())
    async with TestClient(TestServer(create_app(Repository(tmp_path)))) as client:
        client.directory = tmp_path  # type: ignore[attr-defined]
        yield client


def _tensor(name: str, shape: list[Any], data: list[Any], datatype: str = "FP32") -> dict[str, Any]:
    return {"name": name, "shape": shape, "datatype": datatype, "data": data}


async def _infer(client: TestClient, model: str, *inputs: dict[str, Any]) -> tuple[int, Any]:
    response = await client.post(f"/v2/models/{model}/infer", data=json.dumps({"inputs": list(inputs)}).encode())
    body = await response.text()

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    return response.status, json.loads(body, parse_constant=refuse)


async def test_values_that_are_no_json_numbers_are_text_in_both_directions(client: TestClient) -> None:
    status, answer = await _infer(client, "sum", _tensor("x", [1, 4], ["NaN", "Infinity", "-Infinity", 1.5]))
    assert status == 200
    # The sum is a product with the identity: whatever is not finite makes every element NaN.
    assert answer["outputs"][0]["data"] == ["NaN"] * 4
    table = _tensor("table", [5, 2], [*["Infinity", "-Infinity", "NaN", 0.5], *[1.0] * 6])
    status, answer = await _infer(client, "gather", table, _tensor("i", [3], [0, 1, 0], "INT64"))
    assert status == 200
    assert answer["outputs"][0]["data"] == ["Infinity", "-Infinity", "NaN", 0.5, "Infinity", "-Infinity"]


async def test_a_large_request_is_read_and_answered_beside_the_loop(client: TestClient) -> None:
    x = np.random.default_rng(0).standard_normal((1000, 16)).astype(np.float32)
    tensor = _tensor("x", [1000, 16], x.tolist())
    status, answer = await _infer(client, "mlp", tensor)
    assert status == 200
    np.testing.assert_allclose(
        np.array(answer["outputs"][0]["data"]).reshape(1000, 8), _tiny.reference_mlp(x), rtol=1e-5, atol=1e-5
    )
    tensor["data"][999][15] = None
    status, answer = await _infer(client, "mlp", tensor)
    assert (status, answer["error"]) == (400, "input 'x': null is no float32 value (element 15999)")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
async def test_bare_nan_and_infinity_are_refused(client: TestClient, value: float) -> None:
    status, answer = await _infer(client, "sum", _tensor("x", [1, 4], [value, 0.0, 0.0, 0.0]))
    assert status == 400
    assert "is not JSON" in answer["error"]


@pytest.mark.parametrize(
    ("shape", "data", "part"),
    [
        ([1, 4], [1e39, 0.0, 0.0, 0.0], "does not fit into float32"),
        ([1, 4], ["nan", 0.0, 0.0, 0.0], '"nan" is no float32'),
        ([1] * 100 + [4], [0.0] * 4, "the model takes 2 dimensions"),
        ([0, 10**30], [], "has 0 in dimension 0, the model takes 1"),
        ([4, 1], [0.0] * 4, "has 4 in dimension 0, the model takes 1"),
    ],
)
async def test_what_a_client_gets_wrong_is_400(
    client: TestClient, shape: list[Any], data: list[Any], part: str
) -> None:
    status, answer = await _infer(client, "sum", _tensor("x", shape, data))
    assert status == 400
    assert part in answer["error"]


@pytest.mark.parametrize("index", [5, -6, 2**62])
async def test_an_index_out_of_range_is_400(client: TestClient, index: int) -> None:
    table = _tensor("table", [5, 2], [1.0] * 10)
    status, answer = await _infer(client, "gather", table, _tensor("i", [3], [0, index, 0], "INT64"))
    assert status == 400
    assert "gather" in answer["error"]


async def test_every_request_begins_with_the_initial_state(client: TestClient) -> None:
    for _ in range(3):
        status, answer = await _infer(client, "sum", _tensor("x", [1, 4], [1.0] * 4))
        assert (status, answer["outputs"][0]["data"]) == (200, [11.0] * 4)


async def test_a_file_that_is_overwritten_is_served_as_it_was(client: TestClient) -> None:
    path = client.directory / "sum.mrt"  # type: ignore[attr-defined]
    for damage in (_tiny.mlp(), b""):
        path.write_bytes(damage)
        status, answer = await _infer(client, "sum", _tensor("x", [1, 4], [1.0] * 4))
        assert (status, answer["outputs"][0]["data"]) == (200, [11.0] * 4)


async def test_what_nobody_foresaw_is_json_too(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise IndexError("of our own")

    monkeypatch.setattr("maas_rt.service._core.Core.begin", broken)
    status, answer = await _infer(client, "sum", _tensor("x", [1, 4], [1.0, 0.0, 0.0, 0.0]))
    assert (status, answer) == (500, {"error": "the server failed on this request (IndexError): its log says more"})
