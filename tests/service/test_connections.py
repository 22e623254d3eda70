"""Connections that are slow, broken or many requests in one: raw bytes to the server and back."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import aiohttp
import pytest

from maas_rt.service._connection import Bounds
from tests import _tiny
from tests.service._serving import Served, serving

BODY = json.dumps(
    {"inputs": [{"name": "x", "shape": [1, 16], "datatype": "FP32", "data": [0.5] * 16}]}, separators=(",", ":")
).encode()
KEPT = b"POST /v2/models/mlp/infer HTTP/1.1\r\nHost: x\r\n"
HEAD = KEPT + b"Connection: close\r\n"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Served]:
    (tmp_path / "mlp.mrt").write_bytes(_tiny.mlp())
    async with serving(tmp_path, Bounds(header_seconds=0.3), max_body=10_000, body_seconds=0.3) as server:
        yield server


async def _send(server: Served, *parts: bytes, pause: float = 0.0) -> bytes:
    """All that comes back until the server closes, or is silent for a while."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        for part in parts:
            writer.write(part)
            await asyncio.sleep(pause)
        found = b""
        while True:
            try:
                data = await asyncio.wait_for(reader.read(1 << 16), 0.6)
            except asyncio.TimeoutError:
                return found
            if not data:
                return found + b"<closed>"
            found += data
    finally:
        writer.close()


def _statuses(found: bytes) -> list[int]:
    return [int(each) for each in re.findall(rb"HTTP/1.[01] (\d{3}) ", found)]


def _error(found: bytes) -> str:
    head, _, body = found.removesuffix(b"<closed>").partition(b"\r\n\r\n")
    assert b"application/json" in head, found
    return str(json.loads(body)["error"])


async def test_headers_that_come_slowly_are_408(server: Served) -> None:
    found = await _send(server, b"GET /v2 HTTP/1.1\r\n", b"X: 1\r\n", pause=0.2)
    assert _statuses(found) == [408] and found.endswith(b"<closed>")
    assert "headers of the request were not there" in _error(found)
    found = await _send(server, b"GET /v2 HTTP/1.1\r\nHo", b"st: x\r\n\r\n", pause=0.1)
    assert _statuses(found) == [200] and not found.endswith(b"<closed>")


async def test_a_body_that_comes_slowly_is_408(server: Served) -> None:
    found = await _send(server, HEAD + b"Content-Length: 1000\r\n\r\n{", b'"', b"a", pause=0.15)
    assert _statuses(found)[0] == 408 and "the body was not there after 0.3 seconds" in _error(found)


async def test_a_body_in_very_small_chunks(server: Served) -> None:
    chunks = b"".join(b"1\r\n%c\r\n" % each for each in BODY) + b"0\r\n\r\n"
    assert _statuses(await _send(server, HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunks)) == [200]
    many = b"1\r\n \r\n" * 20_000
    assert _statuses(await _send(server, HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + many))[0] == 413


@pytest.mark.parametrize(
    "request_",
    [
        HEAD + b"Content-Length: -5\r\n\r\n",
        HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n12345",
        HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"Content-Length: 99999999999999999999999\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\nHost: x\r\nBad\x00Name: 1\r\n\r\n",
        b"GET /v2 HTTP/9.9\r\nHost: x\r\n\r\n",
        b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
async def test_what_is_no_http_is_told_in_json(server: Served, request_: bytes) -> None:
    found = await _send(server, request_)
    (status,) = _statuses(found)
    assert status == 400 and "this is no HTTP request" in _error(found) and found.endswith(b"<closed>")
    assert b"aiohttp" not in found and b"Python" not in found  # whoever knocks is told no versions


async def test_what_is_too_large_is_refused_before_it_is_sent(server: Served) -> None:
    found = await _send(server, HEAD + b"Expect: 100-continue\r\nContent-Length: 1000000000\r\n\r\n")
    assert _statuses(found) == [413]
    found = await _send(
        server, HEAD + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(BODY), BODY, pause=0.05
    )
    assert _statuses(found) == [100, 200]
    assert _statuses(await _send(server, HEAD + b"Expect: magic\r\nContent-Length: 0\r\n\r\n"))[0] == 417


async def test_fifty_requests_in_one_go(server: Served) -> None:
    one = KEPT + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
    assert _statuses(await _send(server, one * 50)) == [200] * 50


async def test_an_absolute_url_is_the_path_in_it(server: Served) -> None:
    found = await _send(
        server, b"GET http://elsewhere.example/v2/health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    assert _statuses(found) == [200]


async def test_a_client_that_does_not_take_its_answer_is_left(tmp_path: Path) -> None:
    (tmp_path / "softmax.mrt").write_bytes(_tiny.softmax(("n", 4), 1 << 20))
    rows = 25_000
    tensor = {"name": "x", "shape": [rows, 4], "datatype": "FP32", "parameters": {"binary_data_size": 16 * rows}}
    head = json.dumps({"inputs": [tensor]}).encode()
    async with serving(tmp_path, body_seconds=1) as server:
        server.listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # which its connections inherit
        connection = socket.create_connection(("127.0.0.1", server.port))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        request = (
            b"POST /v2/models/softmax/infer HTTP/1.1\r\nHost: x\r\nInference-Header-Content-Length: %d\r\n"
            b"Content-Length: %d\r\n\r\n" % (len(head), len(head) + 16 * rows)
        )
        await asyncio.to_thread(connection.sendall, request + head + bytes(16 * rows))
        await asyncio.sleep(2)

        def received() -> bytes:
            found = b""
            with suppress(ConnectionResetError):
                while data := connection.recv(1 << 20):
                    found += data
            return found

        found = await asyncio.wait_for(asyncio.to_thread(received), 10)
        assert b" 200 OK" in found and len(found) < 300_000  # of 500,000
        connection.close()


async def test_an_end_in_two_phases_loses_no_request(tmp_path: Path) -> None:
    """While it says that it is not ready it still answers, and closes each connection after its answer."""
    (tmp_path / "mlp.mrt").write_bytes(_tiny.mlp())
    command = [sys.executable, "-m", "maas_rt", "serve", str(tmp_path), "--port", "0", "--drain-delay", "60"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        line = next(line for line in process.stderr if "listening on" in line)
        url = line.split()[2].removesuffix("/v2")
        statuses: list[int] = []
        seen: set[int] = set()

        async def ask(session: aiohttp.ClientSession) -> None:
            while 503 not in seen:
                async with session.post("/v2/models/mlp/infer", data=BODY) as response:
                    statuses.append(response.status)

        async def watch(session: aiohttp.ClientSession) -> None:
            while len(statuses) < 20:
                await asyncio.sleep(0.01)
            process.send_signal(signal.SIGTERM)
            while 503 not in seen:
                async with session.get("/v2/health/ready") as response:
                    seen.add(response.status)

        async with aiohttp.ClientSession(url) as session:
            await asyncio.gather(watch(session), *(ask(session) for _ in range(4)))
        assert set(statuses) == {200}
        process.send_signal(signal.SIGTERM)  # ends the delay
        assert await asyncio.to_thread(process.wait, 20) == 0
    finally:
        process.kill()
