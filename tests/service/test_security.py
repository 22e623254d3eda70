"""The service as somebody hostile meets it, over real sockets: tokens, TLS, limits, slow and lying requests, pages of other sites."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import os
import re
import socket
import ssl
import stat
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientError, ClientSession, TCPConnector, web
from prometheus_client.parser import text_string_to_metric_families

from maas_rt._cli import main
from maas_rt.service import Repository, create_app
from maas_rt.service import _connection as connection_module
from maas_rt.service import _server as server_module
from maas_rt.service._access import Access
from maas_rt.service._app import add_route
from maas_rt.service._audit import Audit
from maas_rt.service._connection import Bounds
from maas_rt.service._gate import Gatekeeper
from maas_rt.service._grants import read_grants
from maas_rt.service._keys import new_key, revoke_key
from maas_rt.service._limiter import Limiter, Limits
from maas_rt.service._listen import Listen, open_sockets
from maas_rt.service._server import running
from maas_rt.service._tls import TlsFiles, server_context
from tests import _tiny
from tests.service import _certificates
from tests.service._certificates import Authority, jwk, key_set

SECOND = 1_000_000_000
ROW = {"inputs": [{"name": "x", "shape": [1, 16], "datatype": "FP32", "data": [0.0] * 16}]}
INFER = "/v2/models/mlp/infer"


@pytest.fixture
def models(tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "mlp.mrt").write_bytes(_tiny.mlp())
    (tmp_path / "models" / "sum.mrt").write_bytes(_tiny.accumulator())
    return tmp_path / "models"


class Clock:
    """A clock that tests set; it starts well after the files of the test were written."""

    def __init__(self) -> None:
        self.now = time.time_ns() + 100 * SECOND

    def __call__(self) -> int:
        return self.now

    def go(self, seconds: float) -> None:
        self.now += int(seconds * SECOND)


@asynccontextmanager
async def served(
    app: web.Application,
    bounds: Bounds | None = None,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[int]:
    """Serves an application as the command does; gives the port."""
    sockets = open_sockets(Listen(("127.0.0.1",), 0), False, False)
    async with running(app, sockets, tls, bounds or Bounds(linger_seconds=0.1)):
        yield sockets[0].getsockname()[1]


async def collect(reader: asyncio.StreamReader) -> bytes:
    """All that comes until the connection ends, however it ends."""
    found = b""
    try:
        while chunk := await reader.read(1 << 16):
            found += chunk
    except ConnectionError:  # it was closed while we still sent
        pass
    return found


async def send(port: int, data: bytes, seconds: float = 10) -> bytes:
    """What comes back until the server closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        return await asyncio.wait_for(collect(reader), seconds)
    finally:
        writer.close()


async def ask(port: int, path: str, token: str | None = None, method: str = "GET", **more: Any) -> tuple[int, Any, Any]:
    """Status, JSON and headers."""
    headers = {**({} if token is None else {"Authorization": f"Bearer {token}"}), **more.pop("headers", {})}
    async with (
        ClientSession() as session,
        session.request(method, f"http://127.0.0.1:{port}{path}", headers=headers, **more) as response,
    ):
        text = await response.text()
        return response.status, json.loads(text) if text.startswith("{") else text, response.headers


def request(*lines: str, body: bytes = b"") -> bytes:
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


# ---- tokens


async def test_tokens(models: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    file = tmp_path / "keys.json"
    token = new_key(file, "shop", read_grants(["infer:m*"]), clock.now, clock.now // SECOND + 600)
    (tmp_path / "keys.jwks").write_bytes(key_set(jwk("ES256")))
    issuers = tmp_path / "issuers.toml"
    issuers.write_text('[[issuer]]\nissuer = "https://i"\naudience = "a"\njwks = "keys.jwks"\n')
    gate = Gatekeeper(Access(file, issuers), now=clock)

    def claims(**changes: Any) -> dict[str, Any]:
        return {
            "iss": "https://i",
            "aud": "a",
            "sub": "b",
            "exp": clock.now // SECOND + 600,
            "scope": "infer",
            **changes,
        }

    async with served(create_app(Repository(models), gate=gate)) as port:

        async def infer(given: str | None, path: str = INFER) -> int:
            status, body, headers = await ask(port, path, given, "POST", json=ROW)
            if status >= 400:
                assert list(body) == ["error"] and "\n" not in body["error"]
                assert not given or given not in str(body)
            if status in (401, 403):
                assert headers["WWW-Authenticate"].startswith('Bearer realm="maas-rt"')
            return status

        assert await infer(token) == 200
        signed = _certificates.token("ES256", claims())
        assert await infer(signed) == 200
        head, payload, signature = signed.split(".")
        none = _certificates.jwt.encode(claims(), None, "none")
        expired = _certificates.token("ES256", claims(exp=clock.now // SECOND - 61))
        for wrong in (
            None,
            "",
            "x",
            token[:-1],
            signed[:-8],
            f"{head}.{payload}.",
            f"{payload}.{head}.{signature}",
            none,
            expired,
        ):
            assert await infer(wrong) == 401, wrong
        assert await infer(token, "/v2/models/sum/infer") == 403
        assert await infer(token, "/v2/models/nobody/infer") == 403  # not told from one that is there
        assert await infer(token, "/v2/models/m/infer") == 404  # it may see those
        for path, wanted in (
            ("/v2", 403),
            ("/metrics", 403),
            ("/v2/models/mlp", 403),
            ("/v2/health/ready", 200),
            ("/no", 404),
        ):
            assert (await ask(port, path, token))[0] == wanted, path
        for path, wanted in (("/v2", 401), ("/metrics", 401), ("/v2/health/live", 200), ("/no", 404), (INFER, 405)):
            assert (await ask(port, path))[0] == wanted, path
        assert (await ask(port, "/v2/models/mlp?token=" + token))[0] == 401  # where logs and histories would have it
        assert (await ask(port, "/v2", headers={"Authorization": "Basic " + token}))[0] == 401

        revoke_key(file, "shop", clock.now)
        clock.go(1)
        assert await infer(token) == 401
        clock.go(700)
        assert await infer(signed) == 401
    assert token not in caplog.text and signed not in caplog.text


async def test_a_refused_request_costs_no_body(models: Path, tmp_path: Path) -> None:
    """The token is looked at before the body is read, and before a client that waits for 100 Continue may send it."""
    file = tmp_path / "keys.json"
    new_key(file, "shop", read_grants(["infer"]), time.time_ns())
    async with served(create_app(Repository(models), gate=Gatekeeper(Access(file)))) as port:
        lines = [
            f"POST {INFER} HTTP/1.1",
            "Host: 127.0.0.1",
            "Content-Length: 1000",
            "Expect: 100-continue",
            "Connection: close",
        ]
        answer = await send(port, request(*lines))
        assert answer.startswith(b"HTTP/1.1 401 ")


async def test_a_sequence_is_its_clients_own(models: Path, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    one, two = (new_key(file, name, read_grants(["infer"]), time.time_ns()) for name in ("one", "two"))
    async with served(create_app(Repository(models), gate=Gatekeeper(Access(file)))) as port:

        async def step(token: str, **parameters: Any) -> Any:
            tensor = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1.0] * 4}
            body = {"inputs": [tensor], "parameters": {"sequence_id": 7, **parameters}}
            status, answer, _ = await ask(port, "/v2/models/sum/infer", token, "POST", json=body)
            return answer["outputs"][0]["data"][0] if status == 200 else status

        first = await step(one, sequence_start=True)
        assert await step(two) == 400
        assert await step(two, sequence_start=True) == first
        assert await step(one) == first + 1


async def test_limits_of_a_client(models: Path, tmp_path: Path) -> None:
    clock = Clock()
    file = tmp_path / "keys.json"
    slow = new_key(file, "slow", read_grants(["infer"]), clock.now, limits=Limits(rate=1, burst=2))
    quick = new_key(file, "quick", read_grants(["infer"]), clock.now)
    gate = Gatekeeper(Access(file), Limiter(Limits()), now=clock)
    async with served(create_app(Repository(models), gate=gate)) as port:
        found = [await ask(port, INFER, slow, "POST", json=ROW) for _ in range(3)]
        assert [status for status, _, _ in found] == [200, 200, 429]
        assert found[2][2]["Retry-After"] == "1" and "1 requests a second" in found[2][1]["error"]
        assert (await ask(port, INFER, quick, "POST", json=ROW))[0] == 200
        assert (await ask(port, "/v2/health/live"))[0] == 200
        clock.go(1)
        assert (await ask(port, INFER, slow, "POST", json=ROW))[0] == 200


async def test_limits_of_all_clients(models: Path) -> None:
    gate = Gatekeeper(limiter=Limiter(Limits(rate=1e-3, burst=2)))
    async with served(create_app(Repository(models), gate=gate)) as port:
        assert [(await ask(port, "/v2"))[0] for _ in range(3)] == [200, 200, 429]


async def test_request_ids(models: Path) -> None:
    async with served(create_app(Repository(models))) as port:
        for path in ("/v2", "/no", "/v2/models/nobody"):
            _, _, headers = await ask(port, path, headers={"X-Request-Id": "abc-1.2:3"})
            assert headers["X-Request-Id"] == "abc-1.2:3" and headers["Server"] == "maas-rt"
            for bad in ("", "a b", "x" * 200, 'a"b', "é"):
                _, _, headers = await ask(port, path, headers={"X-Request-Id": bad})
                assert re.fullmatch("[0-9a-f]{16}", headers["X-Request-Id"])


# ---- metrics and the audit log


async def test_metrics(models: Path) -> None:
    async with served(create_app(Repository(models))) as port:
        await ask(port, INFER, method="POST", json=ROW)
        await ask(port, INFER, method="POST", data=b"{")
        for number in range(5):
            await ask(port, f"/v2/models/nobody{number}/infer", method="POST", json=ROW)
        _, text, headers = await ask(port, "/metrics")
        assert headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        assert {sample.labels["model"] for sample in samples if "model" in sample.labels} == {"mlp"}
        values = {(s.name, s.labels.get("kind"), s.labels.get("le")): s.value for s in samples}
        assert values["maas_rt_requests_total", None, None] == 2
        assert values["maas_rt_errors_total", "bad_request", None] == 1
        assert values["maas_rt_refused_total", "not_found", None] == 5
        assert values["maas_rt_requests_in_flight", None, None] == 0
        assert values["maas_rt_compute_seconds_count", None, None] == 1
        assert (
            values["maas_rt_request_seconds_sum", None, None] >= values["maas_rt_compute_seconds_sum", None, None] > 0
        )
        _, text, headers = await ask(
            port, "/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"}
        )
        assert headers["Content-Type"].startswith("application/openmetrics-text") and text.endswith("# EOF\n")


async def test_administrative_calls_are_noted(models: Path, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    admin, reader = (new_key(file, verb, read_grants([verb]), time.time_ns()) for verb in ("admin", "read"))
    noted = io.StringIO()
    gate = Gatekeeper(Access(file), audit=Audit(stream=noted))
    async with served(create_app(Repository(models), gate=gate)) as port:
        path = "/v2/repository/models/%s/%s"
        assert (await ask(port, "/v2/repository/index", reader))[0] == 200
        assert (await ask(port, path % ("mlp", "unload"), admin, "POST", headers={"X-Request-Id": "r1"}))[0] == 200
        assert (await ask(port, path % ("m%0A%22x", "load"), admin, "POST"))[0] == 404
        assert (await ask(port, path % ("mlp", "load"), reader, "POST"))[0] == 403
        assert (await ask(port, path % ("mlp", "load"), None, "POST"))[0] == 401
        assert (await ask(port, path % ("mlp", "labels/x"), admin, "POST", data=b"{"))[0] == 400
        assert (await ask(port, "/v2/logging", admin, "POST", json={}))[0] == 200
        assert (await ask(port, path % ("x" * 1000, "load"), admin, "POST"))[0] == 404
    lines = [json.loads(line) for line in noted.getvalue().splitlines()]
    outcomes = ["ok", "not_found", "forbidden", "unauthenticated", "bad_request", "ok", "not_found"]
    assert [line["outcome"] for line in lines] == outcomes
    assert lines[0]["event"] == "POST /v2/repository/models/mlp/unload" and lines[0]["request_id"] == "r1"
    assert lines[1]["event"] == 'POST /v2/repository/models/m\n"x/load' and lines[0]["remote"] == "127.0.0.1"
    assert lines[0]["client"] == "key:" + admin.split("_")[1] and "client" not in lines[3]
    assert len(lines[6]["event"]) == len("POST ") + 256
    assert lines[2]["client"] == "key:" + reader.split("_")[1]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"]) for line in lines)
    assert admin not in noted.getvalue() and reader not in noted.getvalue()


def test_the_audit_log_is_its_owners_and_follows_a_rotation(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    audit = Audit(path)
    audit.tell(0, "load", model="100%s", version=None)
    path.rename(tmp_path / "audit.log.1")
    audit.tell(1, "unload", status=200)
    audit.close()
    assert json.loads((tmp_path / "audit.log.1").read_text()) == {
        "time": "1970-01-01T00:00:00.000Z",
        "event": "load",
        "model": "100%s",
    }
    assert json.loads(path.read_text())["event"] == "unload"
    assert path.stat().st_mode & 0o777 == 0o600


def test_an_audit_log_that_cannot_be_opened_again_fails_no_change(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    audit = Audit(folder / "audit.log")
    folder.rename(tmp_path / "moved")
    for event in ("load", "unload"):
        audit.tell(0, event)
    assert [event in record.getMessage() for event, record in zip(('"load"', '"unload"'), caplog.records)] == [True] * 2
    folder.mkdir()
    audit.tell(1, "again")
    audit.close()
    assert json.loads((folder / "audit.log").read_text())["event"] == "again"


async def test_a_route_that_nobody_gave_a_verb_is_refused(models: Path) -> None:
    app = create_app(Repository(models))

    async def forgotten(request: web.Request) -> web.Response:
        return web.json_response({})

    app.router.add_get("/forgotten", forgotten)
    async with served(app) as port:
        assert (await ask(port, "/forgotten"))[0] == 500


# ---- pages of other sites


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost:8000"}, 200),
        ({"Host": "[::1]:8000"}, 200),
        ({"Host": "LOCALHOST"}, 200),
        ({"Host": "evil.example"}, 403),  # whose name server said 127.0.0.1
        ({"Host": "localhost.evil.example"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://localhost:1", "Host": "localhost:8000"}, 403),
        ({"Origin": "http://localhost:8000", "Host": "localhost:8000"}, 200),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "https://behind.a.proxy"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, 200),
    ],
)
async def test_pages_of_other_sites_do_not_reach_an_open_server(
    models: Path, headers: dict[str, str], status: int
) -> None:
    async with served(create_app(Repository(models), local_only=True)) as port:
        found = await ask(port, "/v2", headers=headers)
        assert found[0] == status
        assert "Access-Control-Allow-Origin" not in found[2]
        if headers.get("Sec-Fetch-Mode") == "navigate":
            assert (await ask(port, INFER, None, "POST", headers=headers, json=ROW))[0] == 403


# ---- lying and huge requests


@pytest.mark.parametrize(
    "lines",
    [
        ["Content-Length: 5", "Content-Length: 6"],
        ["Content-Length: 5, 6"],
        ["Content-Length: 5", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: chunked", "Content-Length: 5"],
        ["Content-Length: -5"],
        ["Content-Length: +5"],
        ["Content-Length: 0x5"],
        ["Content-Length: 5 5"],
        ["Content-Length: 99999999999999999999999999"],
        ["Content-Length: five"],
        ["Content-Length:"],
        ["Transfer-Encoding: chunked, chunked"],
        ["Transfer-Encoding: gzip"],
        ["Transfer-Encoding: chunked", "Transfer-Encoding: identity"],
        ["Content-Length : 5"],
        [" Content-Length: 5"],
        ["X: a\0b"],
        ["X: " + "a" * 9000],
        ["\x01: 5"],
        ["X: 1"] * 200,
    ],
)
async def test_what_says_two_things_about_its_length_is_refused_once(models: Path, lines: list[str]) -> None:
    """One answer, JSON, and the connection is closed: what follows is nobody's second request."""
    async with served(create_app(Repository(models))) as port:
        second = request("GET /v2 HTTP/1.1", "Host: 127.0.0.1")
        answer = await send(port, request(f"POST {INFER} HTTP/1.1", "Host: 127.0.0.1", *lines, body=b"hello" + second))
        head, _, body = answer.partition(b"\r\n\r\n")
        assert re.match(rb"HTTP/1.[01] (400|413) ", head), answer
        assert b"application/json" in head and b"aiohttp" not in head
        error = json.loads(body)["error"]
        assert error and "\n" not in error and len(error) < 400
        assert (await ask(port, "/v2"))[0] == 200


@pytest.mark.parametrize("start", ["GET", "GET /v2 HTTP/9.9", "\x16\x03\x01\x02", "G\0T /v2 HTTP/1.1", ""])
async def test_what_is_no_http(models: Path, start: str) -> None:
    async with served(create_app(Repository(models)), Bounds(header_seconds=0.2)) as port:
        answer = await send(port, request(start, "Host: x"))
        assert answer.startswith((b"HTTP/1.0 400 ", b"HTTP/1.1 400 ", b"HTTP/1.1 408 ")), answer
        assert "error" in json.loads(answer.partition(b"\r\n\r\n")[2])


@pytest.mark.parametrize("length", [4097, 1 << 40, (1 << 63) - 1])
@pytest.mark.parametrize("expect", [[], ["Expect: 100-continue"]])
async def test_a_huge_length_is_413_before_anything_is_read(models: Path, length: int, expect: list[str]) -> None:
    async with served(create_app(Repository(models), max_body=4096)) as port:
        started = time.monotonic()
        answer = await send(
            port, request(f"POST {INFER} HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {length}", *expect)
        )
        assert answer.startswith(b"HTTP/1.1 413 ") and b"100 Continue" not in answer
        assert "4096" in json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
        assert time.monotonic() - started < 5


async def test_a_client_that_waits_for_100_continue(models: Path) -> None:
    body = json.dumps(ROW).encode()
    async with served(create_app(Repository(models))) as port:
        lines = [f"POST {INFER} HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(body)}"]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request(*lines, "Expect: 100-continue", "Connection: close"))
        assert await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5) == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(body)
        assert (await asyncio.wait_for(reader.read(), 5)).startswith(b"HTTP/1.1 200 ")
        writer.close()
        answer = await send(port, request(*lines, "Expect: a miracle", "Connection: close", body=body))
        assert answer.startswith(b"HTTP/1.1 417 ") and b'{"error"' in answer


async def test_bodies_that_grow_beyond_the_limit(models: Path) -> None:
    """In chunks, which say no length, and unpacked."""
    async with served(create_app(Repository(models), max_body=4096)) as port:
        lines = [f"POST {INFER} HTTP/1.1", "Host: 127.0.0.1"]
        answer = await send(port, request(*lines, "Transfer-Encoding: chunked", body=b"6\r\n[[[[[[\r\n" * 50_000))
        assert answer.startswith(b"HTTP/1.1 413 ")
        bomb = gzip.compress(bytes(64 << 20))[:60_000]
        packed = [*lines, "Content-Encoding: gzip", "Content-Length: 4000", "Connection: close"]
        assert (await send(port, request(*packed, body=bomb[:4000]))).startswith(b"HTTP/1.1 413 ")
        assert (await ask(port, INFER, method="POST", json=ROW))[0] == 200


async def test_the_memory_of_all_bodies_is_bounded(models: Path) -> None:
    async with served(create_app(Repository(models)), Bounds(all_bodies=1000)) as port:
        head = request(f"POST {INFER} HTTP/1.1", "Host: 127.0.0.1", "Content-Length: 900")
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head + b" " * 800)
        await asyncio.sleep(0.1)
        status, body, headers = await ask(port, INFER, method="POST", data=b" " * 300)
        assert (status, headers["Retry-After"]) == (503, "1") and "as many bytes" in body["error"]
        assert (await ask(port, "/v2/health/live"))[0] == 200
        writer.close()
        await asyncio.sleep(0.1)
        assert (await ask(port, INFER, method="POST", json=ROW))[0] == 200


async def test_fifty_requests_at_once_on_one_connection(models: Path) -> None:
    body = json.dumps(ROW).encode()
    one = request(f"POST {INFER} HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(body)}", body=body)
    last = request("GET /v2 HTTP/1.1", "Host: 127.0.0.1", "Connection: close")
    async with served(create_app(Repository(models))) as port:
        assert (await send(port, one * 50 + last)).count(b"HTTP/1.1 200 OK") == 51


@pytest.mark.parametrize(
    "path",
    [
        "/v2/models/%00/infer",
        "/v2/models/..%2f..%2fetc/infer",
        "/v2/models/a%0d%0aX-Evil:1/infer",
        "/v2/models/%2522/infer",
        "/v2/models/%ff/infer",
        "http://evil.example/v2/models/x/infer",
        "//evil/v2",
    ],
)
async def test_names_that_are_none(models: Path, path: str) -> None:
    async with served(create_app(Repository(models))) as port:
        answer = await send(
            port,
            request(f"POST {path} HTTP/1.1", "Host: 127.0.0.1", "Content-Length: 2", "Connection: close", body=b"{}"),
        )
        head, _, body = answer.partition(b"\r\n\r\n")
        assert re.match(rb"HTTP/1.1 (400|404) ", head), answer
        assert b"X-Evil:1" not in head.replace(b"%0d%0a", b"") and "\n" not in json.loads(body)["error"]


# ---- slow clients


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Bounds:
    monkeypatch.setattr(connection_module, "_LOOK", 0.05)
    return Bounds(header_seconds=0.3, idle_seconds=0.5, linger_seconds=0.1, grace_seconds=0.3, rate=1e9)


async def drip(port: int, head: bytes, drop: bytes = b"") -> tuple[bytes, float]:
    """Sends the head, and then a drop at a time, until the server has had enough; the answer, and the seconds."""
    started = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head)
    answer = asyncio.ensure_future(collect(reader))
    while not answer.done() and time.monotonic() - started < 10:
        if drop:
            writer.write(drop)
        await asyncio.wait([answer], timeout=0.05)
    writer.close()
    return await answer, time.monotonic() - started


@pytest.mark.parametrize(
    ("head", "drop"),
    [
        (b"", b""),
        (b"", b"\r\n"),
        (b"POST /v2", b""),
        (b"POST /v2", b"X"),
        (b"GET /v2 HTTP/1.1\r\nHost: 127.0.0.1\r\nX: ", b"X"),
    ],
)
async def test_a_slow_header(models: Path, impatient: Bounds, head: bytes, drop: bytes) -> None:
    async with served(create_app(Repository(models)), impatient) as port:
        answer, seconds = await drip(port, head, drop)
        assert seconds < 2
        if head or drop:
            assert answer.startswith(b"HTTP/1.1 408 ") and b'{"error": "the headers' in answer
        else:
            assert answer == b""


async def test_a_slow_header_after_a_request(models: Path, impatient: Bounds) -> None:
    async with served(create_app(Repository(models)), impatient) as port:
        first = request("GET /v2 HTTP/1.1", "Host: 127.0.0.1")
        for rest in (b"", b"GET /v"):
            answer, seconds = await drip(port, first + rest)
            assert seconds < 2 and answer.startswith(b"HTTP/1.1 200 ")
        answer, seconds = await drip(port, first, b"\r\n")
        assert seconds < 2 and b"HTTP/1.1 408 " in answer


@pytest.mark.parametrize("lines", [["Content-Length: 60000"], ["Transfer-Encoding: chunked"]])
@pytest.mark.parametrize("drop", [b"", b"1\r\n \r\n"])
async def test_a_slow_body_harms_nobody(models: Path, lines: list[str], drop: bytes) -> None:
    async with served(create_app(Repository(models), body_seconds=0.3)) as port:
        slow = [
            asyncio.ensure_future(drip(port, request(f"POST {INFER} HTTP/1.1", "Host: 127.0.0.1", *lines), drop))
            for _ in range(20)
        ]
        await asyncio.sleep(0.1)
        assert (await ask(port, INFER, method="POST", json=ROW))[0] == 200
        for answer, seconds in await asyncio.gather(*slow):
            assert answer.startswith(b"HTTP/1.1 408 ") and b'{"error": ' in answer and seconds < 5


async def test_a_client_that_does_not_read_its_answer(models: Path, impatient: Bounds) -> None:
    app = create_app(Repository(models))

    async def much(request: web.Request) -> web.Response:
        return web.Response(body=bytes(32 << 20))

    add_route(app, "GET", "/much", much, None)
    async with served(app, impatient) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        writer.write(request("GET /much HTTP/1.1", "Host: 127.0.0.1"))
        await asyncio.sleep(1)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(32 << 20)
        writer.close()
        assert (await ask(port, "/v2/health/live"))[0] == 200


async def test_a_client_that_reads_slowly_but_steadily(models: Path, impatient: Bounds) -> None:
    """Though bytes wait for it all the time, for longer than it may leave an answer alone."""
    app = create_app(Repository(models))

    async def much(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(32 << 20)})
        await response.prepare(request)
        for _ in range(512):
            await response.write(bytes(1 << 16))
        return response

    add_route(app, "GET", "/much", much, None)
    async with served(app, replace(impatient, rate=1e6)) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 16)
        writer.write(request("GET /much HTTP/1.1", "Host: 127.0.0.1"))
        await reader.readuntil(b"\r\n\r\n")
        for _ in range(16):
            await reader.readexactly(2 << 20)
            await asyncio.sleep(0.05)
        writer.close()


async def test_more_connections_than_there_may_be(models: Path) -> None:
    async with served(create_app(Repository(models)), Bounds(connections=2)) as port:
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        await asyncio.sleep(0.05)
        answer = await send(port, b"")
        assert answer.startswith(b"HTTP/1.1 503 ") and b"Retry-After: 1" in answer and b'{"error"' in answer
        for _, writer in held:
            writer.close()
        await asyncio.sleep(0.1)
        assert (await ask(port, "/v2"))[0] == 200


# ---- TLS


async def test_tls_over_http_with_a_certificate_that_changes(models: Path, tmp_path: Path) -> None:
    clock = Clock()
    files = TlsFiles(tmp_path / "cert.pem", tmp_path / "key.pem")
    one, two = Authority("one"), Authority("two")
    one.issue("server", files.certificate, files.key)
    trusts = {}
    for name, authority in (("one", one), ("two", two)):
        trusts[name] = ssl.create_default_context(cafile=str(authority.write(tmp_path / f"{name}.pem")))

    async with served(create_app(Repository(models)), tls=server_context(files, clock)) as port:

        async def works(name: str) -> bool:
            try:
                async with ClientSession(connector=TCPConnector(ssl=trusts[name])) as session:
                    async with session.get(f"https://127.0.0.1:{port}/v2") as response:
                        return response.status == 200
            except (OSError, ClientError):
                return False

        async with ClientSession(connector=TCPConnector(ssl=trusts["one"])) as session:
            url = f"https://127.0.0.1:{port}/v2"
            assert (await session.get(url)).status == 200
            two.issue("server", files.certificate, files.key)
            clock.go(1)
            assert (await works("one"), await works("two")) == (False, True)
            assert (await session.get(url)).status == 200  # the connection that stood goes on
        plain = await send(port, request("GET /v2 HTTP/1.1", "Host: 127.0.0.1"))
        assert b"200" not in plain


async def test_connections_that_never_shake_hands_are_bounded(models: Path, tmp_path: Path) -> None:
    """They count as those that do: what is beyond the bound is closed at once, and there is room when one has gone."""
    authority, files = Authority("all"), TlsFiles(tmp_path / "cert.pem", tmp_path / "key.pem")
    authority.issue("server", files.certificate, files.key)
    trust = ssl.create_default_context(cafile=str(authority.write(tmp_path / "ca.pem")))

    async def closed(silent: socket.socket) -> None:
        with suppress(ConnectionError):
            assert await asyncio.wait_for(asyncio.get_running_loop().sock_recv(silent, 1), 30) == b""

    app = create_app(Repository(models))
    async with served(app, Bounds(connections=3), server_context(files)) as port:
        async with ClientSession(connector=TCPConnector(ssl=trust)) as session:
            url = f"https://127.0.0.1:{port}/v2"
            assert (await session.get(url)).status == 200  # which stays open
            silent = []
            for _ in range(40):
                silent.append(socket.create_connection(("127.0.0.1", port)))
                silent[-1].setblocking(False)
            await asyncio.gather(*map(closed, silent[2:]))
            for each in silent[:2]:
                with pytest.raises(BlockingIOError):
                    each.recv(1)
            assert (
                _sockets_at(port) == 1 + 1 + 2
            )  # the one that listens, the one that is answered, those that are silent
            assert (await session.get(url)).status == 200
            async with ClientSession(connector=TCPConnector(ssl=trust)) as another:
                with pytest.raises(ClientError):
                    await another.get(url)
                silent[0].send(b"GET / HTTP/1.1\r\n\r\n")  # no handshake: it ends
                silent[1].close()
                end = time.monotonic() + 30
                while time.monotonic() < end:
                    try:
                        assert (await another.get(url)).status == 200
                        break
                    except ClientError:
                        await asyncio.sleep(0.01)
                assert time.monotonic() < end
        for each in silent:
            each.close()


def _sockets_at(port: int) -> int:
    """How many sockets of this process are a server's at a port."""
    count = 0
    for each in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # others are opened and closed meanwhile
            if stat.S_ISSOCK(os.fstat(int(each)).st_mode):
                with socket.socket(fileno=os.dup(int(each))) as found:
                    count += found.getsockname()[1:2] == (port,)
    return count


async def test_a_handshake_that_takes_too_long_ends(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "_HANDSHAKE", 0.2)
    authority, files = Authority("all"), TlsFiles(tmp_path / "cert.pem", tmp_path / "key.pem")
    authority.issue("server", files.certificate, files.key)
    async with served(create_app(Repository(models)), tls=server_context(files)) as port:
        assert await send(port, b"") == b""  # closed, by the server
        assert await send(port, b"\x16\x03\x01\x02\x00") == b""  # the begin of a hello


async def test_a_server_that_ends_waits_for_no_handshake(models: Path, tmp_path: Path) -> None:
    authority, files = Authority("all"), TlsFiles(tmp_path / "cert.pem", tmp_path / "key.pem")
    authority.issue("server", files.certificate, files.key)
    async with served(create_app(Repository(models)), tls=server_context(files)) as port:
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(5)]
        begun = time.monotonic()
    assert time.monotonic() - begun < 9  # a handshake may take ten seconds
    for reader, writer in held:
        assert await collect(reader) == b""
        writer.close()


async def test_mutual_tls_over_http(models: Path, tmp_path: Path) -> None:
    authority = Authority("all")
    ca = authority.write(tmp_path / "ca.pem")
    files = TlsFiles(tmp_path / "cert.pem", tmp_path / "key.pem", ca)
    authority.issue("server", files.certificate, files.key)
    authority.issue("client", tmp_path / "c.pem", tmp_path / "k.pem")
    async with served(create_app(Repository(models)), tls=server_context(files)) as port:
        for known in (False, True):
            context = ssl.create_default_context(cafile=str(ca))
            if known:
                context.load_cert_chain(tmp_path / "c.pem", tmp_path / "k.pem")
            async with ClientSession(connector=TCPConnector(ssl=context)) as session:
                try:
                    status = (await session.get(f"https://127.0.0.1:{port}/v2")).status
                except (OSError, ClientError):
                    status = 0
            assert status == (200 if known else 0)


# ---- the command


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--host", "0.0.0.0"], "is reached from other machines, which needs tokens"),
        (["--host", "0.0.0.0", "--keys", "keys.json"], "which needs TLS"),
        (["--host", "0.0.0.0", "--tls-cert", "cert.pem", "--tls-key", "key.pem"], "which needs tokens"),
        (["--host", "no.such.host.invalid"], "is no address"),
        (["--keys", "missing.json"], "cannot be read"),
        (["--jwt", "missing.toml"], "cannot be read"),
        (["--tls-cert", "cert.pem"], "needs both"),
        (["--tls-client-ca", "ca.pem"], "of no use without"),
        (["--tls-cert", "missing.pem", "--tls-key", "key.pem"], "cannot be read"),
        (["--rate", "-1"], "the rate of a client"),
        (["--rate", "nan"], "the rate of a client"),
        (["--audit-log", "no/such/folder"], "cannot be written"),
        (["--unix", "no/such/folder"], "cannot listen on"),
    ],
)
def test_what_the_command_refuses(
    models: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    new_key(tmp_path / "keys.json", "a", read_grants(["read"]), time.time_ns())
    Authority("x").issue("server", tmp_path / "cert.pem", tmp_path / "key.pem")
    assert main(["serve", str(models), "--port", "0", *arguments]) == 1
    err = capsys.readouterr().err
    assert sentence in err and err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["--port", "99999"],
        ["--port", "-1"],
        ["--port", "http"],
        ["--port", "9" * 5000],
        ["--max-body", "-5"],
        ["--max-body", "0"],
        ["--max-body", "1.5"],
        ["--threads", "-1"],
        ["--burst", "0"],
        ["--in-flight", "-1"],
        ["--rate", "fast"],
    ],
)
def test_arguments_that_are_none(models: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["serve", str(models), *arguments])
    assert caught.value.code == 2
    assert arguments[0] in capsys.readouterr().err.splitlines()[-1]


def test_a_server_on_a_unix_socket(models: Path, tmp_path: Path) -> None:
    import os
    import signal
    import socket
    import subprocess
    import sys

    path = tmp_path / "s"
    command = [sys.executable, "-m", "maas_rt", "serve", str(models), "--unix", str(path)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ})
    try:
        assert process.stderr is not None
        assert any(f"listening on http+unix://{path}" in line for line in process.stderr)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.sendall(request("GET /v2/models/mlp HTTP/1.1", "Host: x", "Connection: close"))
            assert client.recv(100).startswith(b"HTTP/1.1 200 ")
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0 and not path.exists()
    finally:
        process.kill()
