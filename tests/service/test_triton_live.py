"""NVIDIA's client against the service over HTTP: every call that it has for what this server offers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests import _tiny
from tests.service._serving import Served, fill, serving_beside

_HOW = "needs NVIDIA's client: pip install 'tritonclient[http]', as the extra dev does"
triton = pytest.importorskip("tritonclient.http", reason=_HOW)
aio = pytest.importorskip("tritonclient.http.aio", reason=_HOW)
InferenceServerException = pytest.importorskip("tritonclient.utils", reason=_HOW).InferenceServerException

ROWS = np.random.default_rng(0).standard_normal((2, 16)).astype(np.float32)
EXPECTED = _tiny.reference_mlp(ROWS)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = fill(tmp_path_factory.mktemp("models"))
    with serving_beside(root) as server:
        yield server


@pytest.fixture
def client(server: Served) -> Iterator[Any]:
    with triton.InferenceServerClient(f"127.0.0.1:{server.port}", concurrency=8) as client:
        yield client


def _input(name: str, kind: str, array: Any, binary: bool = True) -> Any:
    tensor = triton.InferInput(name, list(array.shape), kind)
    tensor.set_data_from_numpy(array, binary_data=binary)
    return tensor


def _check(result: Any) -> None:
    np.testing.assert_allclose(result.as_numpy("y"), EXPECTED, rtol=1e-4, atol=1e-5)


def test_health_and_readiness(client: Any) -> None:
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready("mlp") and client.is_model_ready("mlp", "1")
    assert not client.is_model_ready("nope") and not client.is_model_ready("mlp", "7")


def test_metadata_and_config(client: Any) -> None:
    told = client.get_server_metadata()
    assert told["name"] == "maas-rt" and "model_repository" in told["extensions"]
    told = client.get_model_metadata("mlp")
    assert told["versions"] == ["1", "2"] and told["platform"] == "maas_rt"
    assert told["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 16]}]
    assert client.get_model_metadata("mlp", "1") == told
    config = client.get_model_config("mlp", "1")
    assert config["name"] == "mlp" and config["input"][0]["data_type"] == "TYPE_FP32"


def test_statistics(client: Any) -> None:
    def count(name: str, version: str = "") -> int:
        told = client.get_inference_statistics(name, version)["model_stats"]
        return sum(each["inference_stats"]["success"]["count"] for each in told)

    before = count("mlp", "1")
    client.infer("mlp", [_input("x", "FP32", ROWS)], "1")
    assert count("mlp", "1") == before + 1 and count("mlp") >= before + 1
    assert {each["name"] for each in client.get_inference_statistics()["model_stats"]} == {"mlp", "sum", "strings"}


def test_the_index_load_and_unload(client: Any) -> None:
    index = client.get_model_repository_index()
    assert [(each["name"], each["version"], each["state"]) for each in index] == [
        ("mlp", "1", "READY"),
        ("mlp", "2", "READY"),
        ("strings", "1", "READY"),
        ("sum", "1", "READY"),
    ]
    client.unload_model("strings", unload_dependents=True)
    assert not client.is_model_ready("strings")
    client.load_model("strings")
    assert client.is_model_ready("strings")
    for call in (client.load_model, client.unload_model):
        with pytest.raises(InferenceServerException, match="no model 'nope'"):
            call("nope")
    with pytest.raises(InferenceServerException, match="loaded as it lies in the repository"):
        client.load_model("mlp", config=json.dumps({"max_batch_size": 4}))


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False, None])
def test_infer_in_json_and_binary(client: Any, binary_in: bool, binary_out: bool | None) -> None:
    outputs = None if binary_out is None else [triton.InferRequestedOutput("y", binary_data=binary_out)]
    result = client.infer("mlp", [_input("x", "FP32", ROWS, binary_in)], outputs=outputs, request_id="seven")
    _check(result)
    told = result.get_response()
    assert (told["id"], told["model_name"], told["model_version"]) == ("seven", "mlp", "2")
    assert ("data" in told["outputs"][0]) == (binary_out is False)


@pytest.mark.parametrize("request_", ["gzip", "deflate", None])
@pytest.mark.parametrize("response", ["gzip", "deflate", None])
def test_packed_requests_and_answers(client: Any, request_: str | None, response: str | None) -> None:
    result = client.infer(
        "mlp",
        [_input("x", "FP32", ROWS)],
        request_compression_algorithm=request_,
        response_compression_algorithm=response,
    )
    _check(result)


def test_parameters_classes_and_priorities(client: Any) -> None:
    outputs = [triton.InferRequestedOutput("y", class_count=2)]
    result = client.infer(
        "mlp", [_input("x", "FP32", ROWS)], outputs=outputs, priority=2, timeout=10**7, parameters={"mine": "x"}
    )
    classes = [[int(each.decode().split(":")[1]) for each in row] for row in result.as_numpy("y")]
    assert classes == np.argsort(-EXPECTED, axis=1)[:, :2].tolist()


@pytest.mark.parametrize(
    ("model", "tensors", "status", "message"),
    [
        ("nope", [("x", "FP32", ROWS)], "404", "no model 'nope'"),
        ("mlp", [("z", "FP32", ROWS)], "400", "the model has no input 'z'; its inputs are x"),
        ("mlp", [("x", "FP32", ROWS[:, :3])], "400", "x"),
        ("mlp", [("x", "FP64", ROWS.astype(np.float64))], "400", "'FP64', the model takes 'FP32'"),
        ("mlp", [], "400", "missing input 'x'"),
    ],
)
def test_what_is_refused(client: Any, model: str, tensors: list[Any], status: str, message: str) -> None:
    with pytest.raises(InferenceServerException) as caught:
        client.infer(model, [_input(*each) for each in tensors])
    assert caught.value.status() == status and message in caught.value.message()


def test_strings(client: Any) -> None:
    words = np.array([["é", "abcd"]], object)
    for binary in (True, False):
        result = client.infer("strings", [_input(name, "BYTES", words, binary) for name in "ab"])
        assert [each.decode() for each in result.as_numpy("y").ravel()] == ["é", "abcd"] * 2


def test_sequences(client: Any) -> None:
    one = _input("x", "FP32", np.ones((1, 4), np.float32))
    for identifier in (7, "seven"):
        totals = [
            client.infer(
                "sum", [one], sequence_id=identifier, sequence_start=step == 0, sequence_end=step == 2
            ).as_numpy("y")[0, 0]
            for step in range(3)
        ]
        assert totals == [11.0, 12.0, 13.0]
        with pytest.raises(InferenceServerException, match="has not begun"):
            client.infer("sum", [one], sequence_id=identifier)


def test_trace_and_log_settings(client: Any) -> None:
    assert client.get_trace_settings()["trace_level"] == ["OFF"]
    told = client.update_trace_settings("mlp", {"trace_level": ["TIMESTAMPS"], "trace_rate": "5"})
    assert told["trace_rate"] == "5" and client.get_trace_settings("mlp") == told
    assert client.update_trace_settings("mlp", {"trace_level": None, "trace_rate": None})["trace_rate"] == "1000"
    assert client.get_log_settings()["log_file"] == ""
    assert client.update_log_settings({"log_verbose_level": 0})["log_verbose_level"] == 0


def test_calls_that_do_not_wait(client: Any) -> None:
    calls = [client.async_infer("mlp", [_input("x", "FP32", ROWS)]) for _ in range(40)]
    for call in calls:
        _check(call.get_result())


async def test_load_from_the_asynchronous_client(server: Served) -> None:
    """As perf_analyzer does: many at once, on connections that are kept."""
    async with aio.InferenceServerClient(f"127.0.0.1:{server.port}", conn_limit=16) as client:
        assert await client.is_server_ready() and not await client.is_model_ready("nope")

        async def ask(number: int) -> None:
            rows = np.full((1, 16), number, np.float32)
            result = await client.infer("mlp", [_input("x", "FP32", rows)], request_id=str(number))
            assert result.get_response()["id"] == str(number)
            np.testing.assert_allclose(result.as_numpy("y"), _tiny.reference_mlp(rows), rtol=1e-4, atol=1e-4)

        await asyncio.gather(*(ask(number) for number in range(200)))
