"""What the routes beside inference say, and every status in its place: over HTTP, on files written by hand."""

from __future__ import annotations

import asyncio
import gzip
import json
import random
import time
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maas_rt.service._bodies import encoding_for
from maas_rt.service._errors import Kind, ServiceError
from maas_rt.service._packing import unpacked
from tests import _tiny
from tests.service._serving import Served, serving

X = {"name": "x", "shape": [1, 16], "datatype": "FP32", "data": [0.5] * 16}
FOUR = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1.0] * 4}
MLP = "/v2/models/mlp/infer"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Served]:
    for name, data in (("mlp", _tiny.mlp("batch")), ("sum", _tiny.accumulator()), ("endless", _tiny.endless())):
        (tmp_path / name / "3").mkdir(parents=True)
        (tmp_path / name / "3" / "model.mrt").write_bytes(data)
    (tmp_path / "mlp" / "config.toml").write_text(
        "max_batch_size = 4\n[dynamic_batching]\npreferred_batch_size = [2]\nmax_queue_delay_microseconds = 100\n"
    )
    (tmp_path / "endless" / "config.toml").write_text(
        "instances = 1\nversions = {latest = 1}\n[queue]\nsize = 0\n[warmup]\ntimeout_ms = 0\n"
    )
    async with serving(tmp_path, max_body=100_000) as server:
        yield server


async def _infer(server: Served, model: str = "mlp", tensor: Any = X, **fields: Any) -> tuple[int, Any, Any]:
    return await server.ask("POST", f"/v2/models/{model}/infer", json={"inputs": [tensor], **fields})


# ---- what is told ---------------------------------------------------------------------------------------------------


async def test_the_server(server: Served) -> None:
    for path in ("/v2", "/v2/"):
        status, found, _ = await server.ask("GET", path)
        assert status == 200 and {"binary_tensor_data", "model_repository", "sequence"} <= set(found["extensions"])
    assert (await server.ask("GET", "/v2/health/live"))[:2] == (200, {"live": True})
    assert (await server.ask("GET", "/v2/health/ready"))[:2] == (200, {"ready": True})
    status, found, _ = await server.ask("GET", "/v2/models/mlp/versions/3/ready")
    assert (status, found) == (200, {"name": "mlp", "version": "3", "ready": True})


async def test_the_configuration(server: Served) -> None:
    for path in ("/v2/models/mlp/config", "/v2/models/mlp/versions/3/config"):
        status, found, _ = await server.ask("GET", path)
        assert status == 200 and (found["name"], found["max_batch_size"]) == ("mlp", 4)
        assert found["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": [16]}]
        assert found["output"] == [{"name": "y", "data_type": "TYPE_FP32", "dims": [8]}]
        assert found["version_policy"] == {"all": {}}
        assert found["dynamic_batching"]["preferred_batch_size"] == [2]
        assert found["dynamic_batching"]["max_queue_delay_microseconds"] == 100
    _, found, _ = await server.ask("GET", "/v2/models/sum/config")
    assert found["max_batch_size"] == 0 and found["input"][0]["dims"] == [1, 4]
    assert found["sequence_batching"] == {"max_sequence_idle_microseconds": 60_000_000}
    _, found, _ = await server.ask("GET", "/v2/models/endless/config")
    assert found["version_policy"] == {"latest": {"num_versions": 1}} and found["instance_group"][0]["count"] == 1


async def test_statistics(server: Served) -> None:
    assert {(await _infer(server))[0] for _ in range(3)} == {200}
    rows = {**X, "shape": [6, 16], "data": [0.5] * 96}  # more than a batch
    assert (await _infer(server, tensor=rows))[0] == 200
    assert (await _infer(server, tensor={**X, "shape": [1, 15]}))[0] == 400
    for path in ("/v2/models/mlp/stats", "/v2/models/mlp/versions/3/stats"):
        _, found, _ = await server.ask("GET", path)
        (entry,) = found["model_stats"]
        assert (entry["name"], entry["version"]) == ("mlp", "3")
        assert (entry["inference_count"], entry["execution_count"]) == (9, 5) and entry["last_inference"] > 1.7e12
        told = entry["inference_stats"]
        assert (told["success"]["count"], told["fail"]["count"], told["queue"]["count"]) == (4, 1, 4)
        assert 0 < told["compute_infer"]["ns"] < told["success"]["ns"]
        assert [(each["batch_size"], each["compute_infer"]["count"]) for each in entry["batch_stats"]] == [
            (1, 3),
            (2, 1),
            (4, 1),
        ]
    _, found, _ = await server.ask("GET", "/v2/models/stats")
    assert [each["name"] for each in found["model_stats"]] == ["endless", "mlp", "sum"]


async def test_requests_that_wait_together_run_together(server: Served) -> None:
    answers = await asyncio.gather(*(_infer(server, tensor={**X, "data": [float(i)] * 16}) for i in range(8)))
    for i, (status, found, _) in enumerate(answers):
        assert status == 200
        expected = _tiny.reference_mlp(np.full((1, 16), i, np.float32)).ravel()
        np.testing.assert_allclose(found["outputs"][0]["data"], expected, rtol=1e-4, atol=1e-5)
    _, found, _ = await server.ask("GET", "/v2/models/mlp/stats")
    assert found["model_stats"][0]["execution_count"] < 8 == found["model_stats"][0]["inference_count"]


async def test_the_index_and_load_and_unload(server: Served) -> None:
    def lines(found: Any) -> list[tuple[str, str, str]]:
        return [(each["name"], each["version"], each["state"]) for each in found]

    everything = [(name, "3", "READY") for name in ("endless", "mlp", "sum")]
    for method, body in (("GET", b""), ("POST", b""), ("POST", b"{}"), ("POST", b'{"ready": true}')):
        status, found, _ = await server.ask(method, "/v2/repository/index", data=body)
        assert (status, lines(found)) == (200, everything)

    assert (await server.ask("POST", "/v2/repository/models/sum/unload"))[:2] == (200, {})
    status, found, headers = await _infer(server, "sum", FOUR)
    assert (status, headers["Retry-After"]) == (503, "1") and "is not ready" in found["error"] + "is not ready"
    status, found, headers = await server.ask("GET", "/v2/models/sum/ready")
    assert status == 503 and "error" in found and headers["Retry-After"] == "1"
    _, found, _ = await server.ask("POST", "/v2/repository/index")
    assert lines(found)[2] == ("sum", "3", "UNAVAILABLE") and found[2]["reason"] == "it was unloaded"
    _, found, _ = await server.ask("POST", "/v2/repository/index", json={"ready": True})
    assert lines(found) == everything[:2]

    assert (await server.ask("POST", "/v2/repository/models/sum/load"))[:2] == (200, {})
    assert (await _infer(server, "sum", FOUR))[0] == 200
    for change in ("load", "unload"):
        status, found, _ = await server.ask("POST", f"/v2/repository/models/nope/{change}")
        assert status == 404 and "no model 'nope'" in found["error"]
    for parameters in ({"config": "{}"}, {"file:1/model.mrt": "AAAA"}):
        status, found, _ = await server.ask("POST", "/v2/repository/models/sum/load", json={"parameters": parameters})
        assert status == 400 and "is loaded as it lies in the repository" in found["error"]
    for parameters in ([1], 7, "file:x"):
        for change in ("load", "unload"):
            path = f"/v2/repository/models/sum/{change}"
            status, found, _ = await server.ask("POST", path, json={"parameters": parameters})
            assert (status, found["error"]) == (400, '"parameters" must be an object')
    body = {"parameters": {"unload_dependents": False}}
    assert (await server.ask("POST", "/v2/repository/models/mlp/unload", json=body))[0] == 200


async def test_labels(server: Served) -> None:
    path = "/v2/repository/models/mlp/labels"
    assert (await server.ask("GET", path))[:2] == (200, {})
    status, found, _ = await server.ask("POST", path + "/canary", json={"version": "3"})
    assert (status, found) == (200, {"canary": "3"})
    status, found, _ = await server.ask("POST", "/v2/models/mlp/versions/canary/infer", json={"inputs": [X]})
    assert (status, found["model_version"]) == (200, "3")
    status, found, _ = await server.ask("POST", path + "/canary/rollback")
    assert status == 400 and "was on no other before" in found["error"]
    for label, version, expected in (("canary", "4", 404), ("7", "3", 400), ("canary", 3, 400)):
        assert (await server.ask("POST", f"{path}/{label}", json={"version": version}))[0] == expected
    for method, other in (("GET", ""), ("POST", "/x/rollback")):
        assert (await server.ask(method, f"/v2/repository/models/nope/labels{other}"))[0] == 404


async def test_a_server_without_a_model_or_on_its_way_out_is_not_ready(server: Served) -> None:
    server.core.drain()
    status, found, headers = await server.ask("GET", "/v2/health/ready")
    assert (status, found["ready"], headers["Retry-After"]) == (503, False, "1") and "error" in found
    status, _, headers = await _infer(server)
    assert (status, headers["Connection"]) == (200, "close")  # it still answers
    assert (await server.ask("GET", "/v2/health/live"))[0] == 200
    server.core._draining = False
    assert (await server.ask("GET", "/v2/health/ready"))[0] == 200
    for name in ("endless", "mlp", "sum"):
        await server.ask("POST", f"/v2/repository/models/{name}/unload")
    assert (await server.ask("GET", "/v2/health/ready"))[0] == 503


async def test_trace_settings(server: Served) -> None:
    _, found, _ = await server.ask("GET", "/v2/trace/setting")
    assert found["trace_level"] == ["OFF"] and found["trace_rate"] == "1000" and found["trace_file"] == ""
    changes = {"trace_level": ["TIMESTAMPS"], "trace_rate": "5", "trace_count": -1}
    status, found, _ = await server.ask("POST", "/v2/models/mlp/trace/setting", json=changes)
    assert status == 200 and (found["trace_level"], found["trace_rate"], found["trace_count"]) == (
        ["TIMESTAMPS"],
        "5",
        "-1",
    )
    assert (await server.ask("GET", "/v2/models/sum/trace/setting"))[1]["trace_rate"] == "1000"
    await server.ask("POST", "/v2/trace/setting", json={"trace_rate": 7})
    rates = [(await server.ask("GET", f"/v2/models/{name}/trace/setting"))[1]["trace_rate"] for name in ("mlp", "sum")]
    assert rates == ["5", "7"]
    _, found, _ = await server.ask("POST", "/v2/models/mlp/trace/setting", json={"trace_rate": None})
    assert found["trace_rate"] == "7" and found["trace_level"] == ["TIMESTAMPS"]
    assert (await server.ask("GET", "/v2/models/nope/trace/setting"))[0] == 404


async def test_logging_settings(server: Served) -> None:
    import logging

    logger = logging.getLogger("maas_rt.service")
    before = logger.level
    try:
        _, found, _ = await server.ask("GET", "/v2/logging")
        assert found["log_file"] == "" and found["log_info"] is True
        _, found, _ = await server.ask("POST", "/v2/logging", json={"log_info": False, "log_file": ""})
        assert found["log_info"] is False and logger.level == logging.WARNING
        _, found, _ = await server.ask("POST", "/v2/logging", json={"log_verbose_level": 1})
        assert found["log_verbose_level"] == 1 and logger.level == logging.DEBUG
        _, found, _ = await server.ask("POST", "/v2/logging", json={"log_verbose_level": 2.0})  # JSON's 2.0 is 2
        assert found["log_verbose_level"] == 2 and isinstance(found["log_verbose_level"], int)
        _, found, _ = await server.ask("POST", "/v2/trace/setting", json={"trace_rate": 7.0})
        assert found["trace_rate"] == "7"
    finally:
        logger.setLevel(before)


@pytest.mark.parametrize(
    ("path", "changes", "sentence"),
    [
        ("trace/setting", {"trace_file": "/tmp/x"}, "no request makes this server write a file"),
        (
            "trace/setting",
            {"trace_level": ["LOUD"]},
            "the trace setting \"trace_level\" is ['LOUD'] and must be a list",
        ),
        ("trace/setting", {"trace_rate": 0}, '"trace_rate" is 0 and must be an integer of 1 or more'),
        ("trace/setting", {"trace_rate": "x"}, "\"trace_rate\" is 'x' and must be an integer of 1 or more"),
        ("trace/setting", {"trace_count": -2}, '"trace_count" is -2 and must be an integer of -1 or more'),
        ("trace/setting", {"nope": 1}, "'nope' is no trace setting; they are trace_file, trace_level"),
        ("logging", {"log_file": "/etc/passwd"}, "no request makes this server write a file"),
        ("logging", {"log_info": 1}, '"log_info" is 1 and must be true or false'),
        ("logging", {"log_verbose_level": True}, '"log_verbose_level" is True and must be an integer'),
        ("logging", {"log_verbose_level": 1e300}, "must be an integer of 0 or more"),
        ("trace/setting", {"trace_rate": 1.5}, '"trace_rate" is 1.5 and must be an integer of 1 or more'),
        ("trace/setting", {"trace_rate": 1e300}, "must be an integer of 1 or more"),
        ("logging", {"log_format": "own"}, "\"log_format\" is 'own' and must be default"),
        ("logging", [], "the body must be a JSON object"),
        ("repository/index", {"ready": 1}, '"ready" is 1 and must be true or false'),
    ],
)
async def test_settings_that_are_wrong(server: Served, path: str, changes: Any, sentence: str) -> None:
    status, found, _ = await server.ask("POST", f"/v2/{path}", json=changes)
    assert status == 400 and sentence in found["error"]


# ---- statuses -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("GET", MLP, 405, "POST"),
        ("DELETE", MLP, 405, "POST"),
        ("POST", "/v2", 405, "GET,HEAD"),
        ("POST", "/v2/health/ready", 405, "GET,HEAD"),
        ("GET", "/v2/repository/models/mlp/load", 405, "POST"),
        ("PUT", "/v2/repository/index", 405, "GET,HEAD,POST"),
        ("GET", "/", 404, None),
        ("POST", "/v2/models/mlp/versions/x/y/infer", 404, None),
        ("GET", "/v2/models/..%2f..%2fetc", 404, None),
        ("GET", "/v2/models/a%00b", 404, None),
        ("GET", "/v2/models/mlp/versions/03", 404, None),
        ("GET", "/v2/systemsharedmemory/status", 404, None),
    ],
)
async def test_paths_and_methods(server: Served, method: str, path: str, status: int, allow: str | None) -> None:
    from yarl import URL

    url = URL(f"http://127.0.0.1:{server.port}{path}", encoded=True)
    got, found, headers = await server.ask(method, url)  # type: ignore[arg-type]
    assert (got, headers.get("Allow")) == (status, allow)
    assert list(found) == ["error"] and len(found["error"]) < 300


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (None, 200),
        ("application/json", 200),
        ("Application/JSON; charset=utf-8", 200),
        ("application/vnd.oip+json", 200),
        ("application/octet-stream", 200),
        ("application/x-www-form-urlencoded", 200),  # curl -d
        ("text/plain", 415),
        ("multipart/form-data; boundary=x", 415),
        ("image/png", 415),
        ("", 415),
    ],
)
async def test_content_types(server: Served, kind: str | None, status: int) -> None:
    headers = {} if kind is None else {"Content-Type": kind}
    body = json.dumps({"inputs": [X]}).encode()
    got, found, _ = await server.ask("POST", MLP, data=body, headers=headers, skip_auto_headers=["Content-Type"])
    assert got == status and (status == 200 or "Content-Type" in found["error"])


async def test_packed_requests(server: Served) -> None:
    body = json.dumps({"inputs": [X], "id": "é" * 3000}).encode()
    plain = (await server.ask("POST", MLP, data=body))[1]
    for encoding, data in (
        ("gzip", gzip.compress(body)),
        ("GZIP", gzip.compress(body)),
        ("gzip", gzip.compress(body[:99]) + gzip.compress(body[99:])),
        ("deflate", zlib.compress(body)),
        ("deflate", zlib.compress(body)[2:-4]),  # without zlib's head and sum
        ("identity", body),
    ):
        status, found, _ = await server.ask("POST", MLP, data=data, headers={"Content-Encoding": encoding})
        assert (status, found) == (200, plain), encoding
    for encoding in ("br", "zstd", "gzip, gzip", "x", "compress"):
        status, found, headers = await server.ask("POST", MLP, data=body, headers={"Content-Encoding": encoding})
        assert (status, headers["Accept-Encoding"]) == (415, "gzip, deflate") and "Content-Encoding" in found["error"]
    for encoding, data, part in (
        ("gzip", gzip.compress(body)[:-9], "its gzip has no end"),
        ("gzip", b"\x1f\x8b00", "it is no gzip"),
        ("gzip", b"", "its gzip has no end"),
        ("gzip", zlib.compress(body), "it is no gzip"),
        ("gzip", gzip.compress(body) + b"xx", "it is no gzip"),
        ("deflate", zlib.compress(body)[:-1], "its deflate has no end"),
        ("deflate", zlib.compress(body) + b"x", "1 bytes follow its deflate"),
        ("deflate", b"", "its deflate has no end"),
    ):
        status, found, _ = await server.ask("POST", MLP, data=data, headers={"Content-Encoding": encoding})
        assert status == 400 and "cannot be read: " + part in found["error"], (encoding, part, found)


@pytest.mark.parametrize(
    ("name", "values", "status"),
    [
        ("Inference-Header-Content-Length", ("0", "2"), 400),
        ("Content-Encoding", ("identity", "gzip"), 415),
        ("X-Request-Timeout-Ms", ("5000", "5000"), 400),
    ],
)
async def test_headers_that_are_given_twice(server: Served, name: str, values: tuple[str, str], status: int) -> None:
    headers = [(name, value) for value in values]
    assert (await server.ask("POST", MLP, json={"inputs": [X]}, headers=headers))[0] == status


async def test_what_unpacks_to_too_much_is_413(server: Served) -> None:
    bomb = gzip.compress(b" " * 50_000_000)
    assert len(bomb) < 100_000
    status, found, _ = await server.ask("POST", MLP, data=bomb, headers={"Content-Encoding": "gzip"})
    assert (status, found["error"]) == (413, "the body is larger than this server accepts: 100000 bytes are the most")


def test_a_gzip_of_many_members_costs_no_more_than_its_bytes() -> None:
    began = time.process_time()
    packed = gzip.compress(b"x") * 500_000  # 10 MB, of which each end would copy the rest: 2.6 TB
    assert unpacked(packed, "gzip", 1 << 20) == b"x" * 500_000
    assert time.process_time() - began < 10
    for size in (0, 1, 4095, 4096, 4097, 100_000):
        data = random.Random(size).randbytes(size)
        assert unpacked(gzip.compress(data[:99]) + gzip.compress(data[99:]), "gzip", size) == data
        assert unpacked(zlib.compress(data), "deflate", size) == data
        if size:
            with pytest.raises(ServiceError) as caught:
                unpacked(zlib.compress(data), "deflate", size - 1)
            assert caught.value.kind is Kind.TOO_LARGE


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_packed_answers(server: Served, encoding: str) -> None:
    plain = (await _infer(server))[1]
    async with server.session.post(MLP, json={"inputs": [X]}, headers={"Accept-Encoding": encoding}) as response:
        assert response.headers["Content-Encoding"] == encoding and await response.json() == plain


@pytest.mark.parametrize(
    ("accepted", "size", "encoding"),
    [
        (None, 10_000, None),
        ("", 10_000, None),
        ("gzip", 10, "gzip"),
        ("deflate", 10, "deflate"),
        ("gzip, deflate", 1000, None),
        ("gzip, deflate", 10_000, "gzip"),
        ("gzip;q=0.5, deflate;q=0.8", 10_000, "deflate"),
        ("gzip;q=0, deflate; q=0.1", 10_000, "deflate"),
        ("gzip;q=0, *", 10_000, "deflate"),
        ("*", 10_000, "gzip"),
        ("identity, gzip;q=0.5", 10_000, None),
        ("br, zstd", 10_000, None),
        ("gzip;q=x", 10_000, None),
        (", ,", 10_000, None),
    ],
)
def test_which_encoding_an_answer_gets(accepted: str | None, size: int, encoding: str | None) -> None:
    assert encoding_for(accepted, size) == encoding


async def test_a_time_that_is_over_is_504(server: Served) -> None:
    for options in (
        {"headers": {"X-Request-Timeout-Ms": "50"}, "json": {"inputs": [FOUR]}},
        {"json": {"inputs": [FOUR], "parameters": {"timeout": 50_000}}},
    ):
        status, found, _ = await asyncio.wait_for(server.ask("POST", "/v2/models/endless/infer", **options), 10)
        assert status == 504 and ("time was over" in found["error"] or "deadline" in found["error"])
        await _idle(server)
    for wrong in ("-1", "1.5", "", "9" * 30):
        status, found, _ = await server.ask("POST", MLP, json={"inputs": [X]}, headers={"X-Request-Timeout-Ms": wrong})
        assert status == 400 and "X-Request-Timeout-Ms" in found["error"]


async def _idle(server: Served) -> None:
    """Waits until no run of `endless` is under way: they stop when nobody waits for them."""
    (endless,) = server.core.repository.ready("endless")
    for _ in range(500):
        if endless.scheduler.stats().running == 0:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("the run goes on")


async def test_a_client_that_goes_away_stops_its_run_and_a_full_queue_is_503(server: Served) -> None:
    (endless,) = server.core.repository.ready("endless")
    first = asyncio.create_task(_infer(server, "endless", FOUR))
    while endless.scheduler.stats().running == 0:
        await asyncio.sleep(0.01)
    status, found, headers = await _infer(server, "endless", FOUR)
    assert status == 503 and int(headers["Retry-After"]) >= 1 and "the most that may" in found["error"]
    assert (await _infer(server))[0] == 200  # another model is as it was
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    await _idle(server)
    fail = endless.statistics.told("endless", "3")["inference_stats"]["fail"]
    assert fail["count"] == 2


async def test_a_sequence_waits_for_its_turn_no_longer_than_its_time(server: Served) -> None:
    def asked(**parameters: Any) -> Any:
        return _infer(server, "sum", FOUR, parameters={"sequence_id": 5, **parameters})

    assert (await asked(sequence_start=True))[1]["outputs"][0]["data"] == [11.0] * 4
    sequence = server.core.sequences._sequences["", "sum", 5]
    sequence.busy = True
    assert (await asked(timeout=20_000))[0] == 504
    server.core.sequences.give_back(sequence)
    assert (await asked(sequence_end=True))[1]["outputs"][0]["data"] == [12.0] * 4
    assert (await asked())[0] == 400
