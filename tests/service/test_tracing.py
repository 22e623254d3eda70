"""Logs and traces: one line and one id for each request, the caller's trace goes on, and no token is told to anybody."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from maas_rt._cli import main
from maas_rt._errors import InvalidArgumentError
from maas_rt.service._access import Access
from maas_rt.service._gate import Gatekeeper
from maas_rt.service._grants import read_grants
from maas_rt.service._keys import new_key
from maas_rt.service._logs import logging_as, without_secrets
from maas_rt.service._tracing import Parent, read
from tests import _tiny
from tests.service._serving import serving

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
GIVEN = f"00-{TRACE}-{SPAN}-01"
ROW = {"inputs": [{"name": "x", "shape": [1, 16], "datatype": "FP32", "data": [0.5] * 16}]}
JWT = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl"


@pytest.fixture
def models(tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "mlp.mrt").write_bytes(_tiny.mlp("batch"))
    return tmp_path / "models"


@pytest.mark.parametrize(
    ("header", "parent"),
    [
        (GIVEN, Parent(TRACE, SPAN, 1)),
        (f"00-{TRACE}-{SPAN}-00", Parent(TRACE, SPAN, 0)),
        (f"cc-{TRACE}-{SPAN}-01-what-comes-later", Parent(TRACE, SPAN, 1)),
        (f"ff-{TRACE}-{SPAN}-01", None),
        (f"{GIVEN}-more", None),
        (f"00-{'0' * 32}-{SPAN}-01", None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        (f"00-{TRACE.upper()}-{SPAN}-01", None),
        (f"{GIVEN}\n", None),
        ("", None),
    ],
)
def test_a_caller_s_place_in_a_trace(header: str, parent: Parent | None) -> None:
    assert read(header) == parent


async def test_an_answer_goes_on_with_the_caller_s_trace(models: Path) -> None:
    async with serving(models) as server:
        for path, status in (("/v2", 200), ("/v2/models/none", 404), ("/nowhere", 404)):
            found, _, headers = await server.ask("GET", path, headers={"traceparent": GIVEN, "X-Request-Id": "r1"})
            version, trace, span, flags = headers["traceparent"].split("-")
            assert (found, version, trace, flags, headers["X-Request-Id"]) == (status, "00", TRACE, "01", "r1")
            assert len(span) == 16 and span != SPAN
        for wrong in ("00-x", f"ff-{TRACE}-{SPAN}-01"):
            _, _, headers = await server.ask("GET", "/v2", headers={"traceparent": wrong})
            assert "traceparent" not in headers


async def _logged(models: Path, monkeypatch: pytest.MonkeyPatch, form: str, tmp_path: Path) -> tuple[str, str]:
    """What a server writes while it is asked this and that, and the token that it was given."""
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    keys = tmp_path / "keys.json"
    token = new_key(keys, "shop", read_grants(["infer", "read"]), time.time_ns())
    with logging_as(form, requests=True):
        async with serving(models, gate=Gatekeeper(Access(keys))) as server:
            given = {"Authorization": f"Bearer {token}", "traceparent": GIVEN, "X-Request-Id": "one"}
            assert (await server.ask("POST", "/v2/models/mlp/infer", json=ROW, headers=given))[0] == 200
            for bad in (f"/v2/models/{token}?token={token}", f"/v2/models/{JWT}", "/v2/models/a%0Ab"):
                assert (await server.ask("GET", bad, headers=given))[0] == 404
            assert (await server.ask("GET", "/v2", headers={"Authorization": f"Bearer {JWT}"}))[0] == 401
            monkeypatch.setattr(server.core, "server_metadata", _fail(f"Authorization: Bearer {token}"))
            assert (await server.ask("GET", "/v2", headers=given))[0] == 500
    return stream.getvalue(), token


def _fail(message: str) -> Any:
    def fail(*_: object) -> None:
        raise RuntimeError(message)

    return fail


async def test_json_logs_are_a_line_each_with_the_request_s_ids(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, token = await _logged(models, monkeypatch, "json", tmp_path)
    lines = [json.loads(line) for line in text.splitlines()]
    first = next(each for each in lines if each.get("path") == "/v2/models/mlp/infer")
    assert (first["method"], first["status"], first["request_id"], first["trace_id"]) == ("POST", 200, "one", TRACE)
    assert first["client"].startswith("key:") and first["duration_ms"] > 0 and first["level"] == "info"
    failed = next(each for each in lines if "traceback" in each)
    assert failed["level"] == "error" and failed["request_id"] == "one" and "RuntimeError" in failed["traceback"]
    assert sorted(each["status"] for each in lines if "status" in each) == [200, 401, 404, 404, 404, 500]
    assert token not in text and JWT not in text and "[a token]" in text


async def test_text_logs_keep_to_their_lines_and_secrets(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, token = await _logged(models, monkeypatch, "text", tmp_path)
    assert "POST /v2/models/mlp/infer 200 " in text and "(request one)" in text
    assert r"/v2/models/a\nb 404" in text
    assert token not in text and JWT not in text


def test_whoever_logs_a_token_does_not_get_it_into_a_line() -> None:
    for secret in ("mrt_0123abcDEF-_x", JWT, f"bearer {'x' * 20}", f'"Authorization": "Bearer {JWT}"'):
        hidden = without_secrets(f"before {secret} after")
        assert secret.split()[-1].strip('"') not in hidden and hidden.startswith("before ") and "after" in hidden
    assert without_secrets("eyJust a word, mrt_ and bearer") == "eyJust a word, mrt_ and bearer"


def test_without_a_line_for_each_request_there_is_none(monkeypatch: pytest.MonkeyPatch, models: Path) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)

    async def ask() -> None:
        async with serving(models) as server:
            assert (await server.ask("GET", "/v2"))[0] == 200

    with logging_as("json"):
        asyncio.run(ask())
    assert stream.getvalue() == "" and logging.getLogger().handlers.count(logging.lastResort) == 0  # type: ignore[arg-type]


# ---- traces


async def test_spans_of_a_request_its_queue_and_its_run(models: Path) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="needs the extra otel")
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    from maas_rt.service._otel import OtelTracer

    exporter = InMemorySpanExporter()
    tracer = OtelTracer(exporter)
    async with serving(models, tracer=tracer) as server:
        given = {"traceparent": GIVEN, "tracestate": "vendor=1", "X-Request-Id": "one"}
        _, _, headers = await server.ask("POST", "/v2/models/mlp/infer", json=ROW, headers=given)
        _, _, own = await server.ask("GET", "/v2/models/none")
        _, _, unsampled = await server.ask("GET", "/v2", headers={"traceparent": GIVEN[:-1] + "0"})
    tracer.close()
    spans = {span.name: span for span in exporter.get_finished_spans()}
    assert set(spans) == {
        "POST /v2/models/{model}/infer",
        *("parse", "queue", "compute", "serialise"),
        "GET /v2/models/{model}",
    }
    request = spans["POST /v2/models/{model}/infer"]
    assert (f"{request.context.trace_id:032x}", f"{request.parent.span_id:016x}") == (TRACE, SPAN)
    assert headers["traceparent"] == f"00-{TRACE}-{request.context.span_id:016x}-01"
    assert request.context.trace_state.get("vendor") == "1"
    assert request.attributes["maas_rt.model"] == "mlp" and request.attributes["http.response.status_code"] == 200
    assert request.attributes["maas_rt.request_id"] == "one"
    for name in ("parse", "queue", "compute", "serialise"):
        assert spans[name].parent.span_id == request.context.span_id
    assert spans["compute"].end_time > spans["compute"].start_time >= spans["queue"].end_time
    other = spans["GET /v2/models/{model}"]
    assert other.parent is None and own["traceparent"].split("-")[1] == f"{other.context.trace_id:032x}" != TRACE
    assert unsampled["traceparent"].endswith("-00")


async def test_the_trace_settings_say_whether_there_are_traces(models: Path) -> None:
    """Before a client has said something else."""
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="needs the extra otel")
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    from maas_rt.service._otel import OtelTracer

    tracer = OtelTracer(InMemorySpanExporter())
    async with serving(models, tracer=tracer) as server:
        for path in ("/v2/trace/setting", "/v2/models/mlp/trace/setting"):
            _, told, _ = await server.ask("GET", path)
            assert (told["trace_level"], told["trace_rate"]) == (["TIMESTAMPS"], "1")
        for level, wanted in (("OFF", ["OFF"]), (None, ["TIMESTAMPS"])):
            _, told, _ = await server.ask("POST", "/v2/trace/setting", json={"trace_level": level})
            assert told["trace_level"] == wanted
    tracer.close()


def test_nothing_of_opentelemetry_is_imported_unasked(models: Path) -> None:
    program = f"""
import sys
from maas_rt.service import Repository, create_app
create_app(Repository({str(models)!r}))
assert not [name for name in sys.modules if name.startswith("opentelemetry")]
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_collector_that_is_none_is_refused(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="needs the extra otel")
    from maas_rt.service._otel import otel_tracer

    for endpoint in ("localhost:4318", "", "file:///etc/passwd", "http://"):
        with pytest.raises(InvalidArgumentError, match="must be the http or https URL"):
            otel_tracer(endpoint)
    assert main(["serve", str(models), "--port", "0", "--otlp-endpoint", "nowhere"]) == 1
    assert "--otlp-endpoint is 'nowhere'" in capsys.readouterr().err
