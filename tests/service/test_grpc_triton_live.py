"""NVIDIA's client against the service over gRPC: every call that it has for what this server offers."""

from __future__ import annotations

import asyncio
import json
import queue
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests import _tiny
from tests.service._serving import Served, fill, serving_beside

_HOW = "needs NVIDIA's client and grpcio: pip install tritonclient grpcio protobuf packaging, as the extra dev does"
pytest.importorskip("grpc", reason=_HOW)
triton = pytest.importorskip("tritonclient.grpc", reason=_HOW)
aio = pytest.importorskip("tritonclient.grpc.aio", reason=_HOW)
InferenceServerException = pytest.importorskip("tritonclient.utils", reason=_HOW).InferenceServerException

ROWS = np.random.default_rng(0).standard_normal((2, 16)).astype(np.float32)
EXPECTED = _tiny.reference_mlp(ROWS)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = fill(tmp_path_factory.mktemp("models"))
    (root / "sum" / "config.toml").write_text("[queue]\ntimeout_ms = 60000\n")
    with serving_beside(root, grpc={}) as server:
        yield server


def _target(server: Served) -> str:
    return str(server.grpc.places[0].removeprefix("grpc://"))


@pytest.fixture
def client(server: Served) -> Iterator[Any]:
    with triton.InferenceServerClient(_target(server)) as client:
        yield client


def _input(name: str, kind: str, array: Any) -> Any:
    tensor = triton.InferInput(name, list(array.shape), kind)
    tensor.set_data_from_numpy(array)
    return tensor


def _check(result: Any) -> None:
    np.testing.assert_allclose(result.as_numpy("y"), EXPECTED, rtol=1e-4, atol=1e-5)


def test_health_and_readiness(client: Any) -> None:
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready("mlp") and client.is_model_ready("mlp", "1")
    assert not client.is_model_ready("nope") and not client.is_model_ready("mlp", "7")


def test_metadata_and_config(client: Any) -> None:
    told = client.get_server_metadata()
    assert told.name == "maas-rt" and "model_repository" in told.extensions
    told = client.get_model_metadata("mlp", as_json=True)
    assert told["versions"] == ["1", "2"] and told["platform"] == "maas_rt"
    assert told["inputs"] == [{"name": "x", "datatype": "FP32", "shape": ["-1", "16"]}]
    assert client.get_model_metadata("mlp", "1", as_json=True) == told
    config = client.get_model_config("mlp", "1").config
    assert config.name == "mlp" and config.version_policy.WhichOneof("policy_choice") == "all"
    assert config.input[0].data_type == triton.model_config_pb2.TYPE_FP32 and list(config.input[0].dims) == [-1, 16]
    assert config.instance_group[0].kind == triton.model_config_pb2.ModelInstanceGroup.KIND_CPU
    config = client.get_model_config("sum").config
    assert config.sequence_batching.max_sequence_idle_microseconds == 60_000_000


def test_statistics(client: Any) -> None:
    def count(name: str, version: str = "") -> int:
        told = client.get_inference_statistics(name, version).model_stats
        return sum(each.inference_stats.success.count for each in told)

    before = count("mlp", "1")
    client.infer("mlp", [_input("x", "FP32", ROWS)], "1")
    assert count("mlp", "1") == before + 1 and count("mlp") >= before + 1
    assert {each.name for each in client.get_inference_statistics().model_stats} == {"mlp", "sum", "strings"}


def test_the_index_load_and_unload(client: Any) -> None:
    index = client.get_model_repository_index().models
    assert [(each.name, each.version, each.state) for each in index] == [
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


@pytest.mark.parametrize("packed", [None, "gzip", "deflate"])
def test_infer(client: Any, packed: str | None) -> None:
    outputs = [triton.InferRequestedOutput("y")]
    result = client.infer(
        "mlp", [_input("x", "FP32", ROWS)], outputs=outputs, request_id="seven", compression_algorithm=packed
    )
    _check(result)
    told = result.get_response()
    assert (told.id, told.model_name, told.model_version) == ("seven", "mlp", "2")
    _check(client.infer("mlp", [_input("x", "FP32", ROWS)], "1"))


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
        ("nope", [("x", "FP32", ROWS)], "NOT_FOUND", "no model 'nope'"),
        ("mlp", [("z", "FP32", ROWS)], "INVALID_ARGUMENT", "the model has no input 'z'; its inputs are x"),
        ("mlp", [("x", "FP32", ROWS[:, :3])], "INVALID_ARGUMENT", "x"),
        (
            "mlp",
            [("x", "FP64", ROWS.astype(np.float64))],
            "INVALID_ARGUMENT",
            "'FP64', the model takes 'FP32'",
        ),
        ("mlp", [], "INVALID_ARGUMENT", "missing input 'x'"),
    ],
)
def test_what_is_refused(client: Any, model: str, tensors: list[Any], status: str, message: str) -> None:
    with pytest.raises(InferenceServerException) as caught:
        client.infer(model, [_input(*each) for each in tensors])
    assert caught.value.status() == f"StatusCode.{status}" and message in caught.value.message()


def test_strings(client: Any) -> None:
    words = np.array([["é", "abcd"]], object)
    result = client.infer("strings", [_input(name, "BYTES", words) for name in "ab"])
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


def test_a_stream(client: Any) -> None:
    """Answers in the order of the requests, sequences too; a request that is refused ends nothing."""
    got: queue.Queue[Any] = queue.Queue()
    client.start_stream(lambda result, error: got.put((result, error)))
    one = _input("x", "FP32", np.ones((1, 4), np.float32))
    for step in range(40):
        client.async_stream_infer("sum", [one], sequence_id=9, sequence_start=step == 0, request_id=f"s{step}")
        client.async_stream_infer("mlp", [_input("x", "FP32", ROWS)], request_id=f"m{step}")
        client.async_stream_infer("mlp", [_input("z", "FP32", ROWS)], request_id=f"z{step}")
    for step in range(40):
        (total, no), (rows, none), (missing, error) = (got.get(timeout=60) for _ in range(3))
        assert no is None and none is None and missing is None
        assert total.get_response().id == f"s{step}" and total.as_numpy("y")[0, 0] == 11 + step
        assert rows.get_response().id == f"m{step}"
        _check(rows)
        assert "no input 'z'" in error.message()
    client.stop_stream()


def test_trace_and_log_settings(client: Any) -> None:
    def trace(told: Any) -> dict[str, list[str]]:
        return {name: list(each.value) for name, each in told.settings.items()}

    assert trace(client.get_trace_settings())["trace_level"] == ["OFF"]
    told = client.update_trace_settings("mlp", {"trace_level": ["TIMESTAMPS"], "trace_rate": "5"})
    assert trace(told)["trace_rate"] == ["5"] and trace(client.get_trace_settings("mlp")) == trace(told)
    told = client.update_trace_settings("mlp", {"trace_level": None, "trace_rate": None})
    assert trace(told)["trace_rate"] == ["1000"]
    assert client.get_log_settings().settings["log_file"].string_param == ""
    assert client.update_log_settings({"log_verbose_level": 0}).settings["log_verbose_level"].uint32_param == 0
    with pytest.raises(InferenceServerException, match="log_file"):
        client.update_log_settings({"log_file": "/tmp/x"})


def test_shared_memory_is_off_by_default(client: Any) -> None:
    for call in (client.get_system_shared_memory_status, client.unregister_cuda_shared_memory):
        with pytest.raises(InferenceServerException, match="start the server with --shared-memory") as caught:
            call()
        assert caught.value.status() == "StatusCode.UNIMPLEMENTED"
    tensor = triton.InferInput("x", [2, 16], "FP32")
    tensor.set_shared_memory("region", 128)
    with pytest.raises(InferenceServerException, match="lies in shared memory"):
        client.infer("mlp", [tensor])


async def test_load_from_the_asynchronous_client(server: Served) -> None:
    async with aio.InferenceServerClient(_target(server)) as client:
        assert await client.is_server_ready() and not await client.is_model_ready("nope")

        async def ask(number: int) -> None:
            rows = np.full((1, 16), number, np.float32)
            result = await client.infer("mlp", [_input("x", "FP32", rows)], request_id=str(number))
            assert result.get_response().id == str(number)
            np.testing.assert_allclose(result.as_numpy("y"), _tiny.reference_mlp(rows), rtol=1e-4, atol=1e-4)

        await asyncio.gather(*(ask(number) for number in range(200)))
