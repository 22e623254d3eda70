"""The short way of small inferences: which requests take it, and that nobody sees by what way an answer came."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maas_rt.service import _scheduler
from maas_rt.service._access import Access
from maas_rt.service._connection import SHORT_WAY, Bounds
from maas_rt.service._direct import Direct
from maas_rt.service._gate import Gatekeeper
from maas_rt.service._grants import read_grants
from maas_rt.service._keys import new_key
from maas_rt.service._limiter import Limiter, Limits
from maas_rt.service._metrics import Metrics
from tests import _tiny
from tests.service._serving import Served, serving

X = {"name": "x", "shape": [1, 16], "datatype": "FP32", "data": [0.5] * 16}
USUAL = b"X-Other: 1\r\n"  # a header that the short way leaves to the other


def _request(body: bytes, *headers: bytes, path: str = "/v2/models/mlp/infer") -> bytes:
    lines = [
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\n".encode(),
        *headers,
        b"Content-Length: %d\r\n\r\n" % len(body),
    ]
    return b"".join(lines) + body


def _json(**fields: Any) -> bytes:
    return json.dumps({"inputs": [X], **fields}).encode()


def _binary(size: int = 64, **parameters: Any) -> tuple[bytes, bytes]:
    tensor = {"name": "x", "shape": [1, 16], "datatype": "FP32", "parameters": {"binary_data_size": size}}
    text = json.dumps({"inputs": [tensor], "parameters": parameters}).encode()
    return text + np.full(16, 0.5, np.float32).tobytes(), b"Inference-Header-Content-Length: %d\r\n" % len(text)


class Client:
    """One connection, and whether each of its requests took the short way."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def of(cls, server: Served) -> Client:
        return cls(*await asyncio.open_connection("127.0.0.1", server.port))

    async def ask(
        self, *parts: bytes, answers: int = 1, pause: float = 0.02
    ) -> list[tuple[int, dict[str, str], bytes]]:
        for number, part in enumerate(parts):
            if number:
                await asyncio.sleep(pause)
            self._writer.write(part)
        found = []
        for _ in range(answers):
            head = (await asyncio.wait_for(self._reader.readuntil(b"\r\n\r\n"), 20)).decode()
            status = int(head.split()[1])
            headers = dict(re.findall(r"([^:\r\n]+): ([^\r\n]*)\r\n", head))
            found.append((status, headers, await self._reader.readexactly(int(headers["Content-Length"]))))
        return found

    def close(self) -> None:
        self._writer.close()

    async def closed(self) -> bool:
        return await asyncio.wait_for(self._reader.read(1), 20) == b""


@pytest.fixture
def ways(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each request that `answer` was asked for, whether it gave one. Every run is quick here but the first of its size, be the machine
    as busy as it may."""
    monkeypatch.setattr(_scheduler, "_HOP", 10**12)
    monkeypatch.setattr(_scheduler, "_IN_PLACE", 10**12)
    taken: list[bool] = []
    answer = Direct.answer

    def noted(*args: Any) -> bytes | None:
        found = answer(*args)
        taken.append(found is not None)
        return found

    monkeypatch.setattr(Direct, "answer", noted)
    return taken


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Served]:
    for name, data in (("mlp", _tiny.mlp()), ("sum", _tiny.accumulator())):
        (tmp_path / f"{name}.mrt").write_bytes(data)
    async with serving(tmp_path, Bounds(header_seconds=0.5), metrics=Metrics(), max_body=100_000) as server:
        yield server


@pytest.fixture
async def client(server: Served, ways: list[bool]) -> AsyncIterator[Client]:
    """Whose requests are known to be quick."""
    client = await Client.of(server)
    for body in (_json(), _json(id="a" * 100)):
        for _ in range(3):
            await client.ask(_request(body, USUAL))
    body, header = _binary()
    await client.ask(_request(body, header, USUAL))
    ways.clear()
    yield client
    client.close()


BODY, HEADER = _binary()
DOCUMENT = b"Content-Type: application/json\r\n"
CASES = {
    "plain": [_json()],
    "a type": [_json(), DOCUMENT],
    "a version": [_json(), b"/versions/1"],
    "an id": [_json(id="7")],
    "a seed and more": [_json(parameters={"seed": 3, "priority": 2, "mine": [1]})],
    "one output": [_json(outputs=[{"name": "y", "parameters": {"classification": 2}}])],
    "binary": [BODY, HEADER],
    "binary both ways": [*_binary(binary_data_output=True)],
    "raw": [BODY[-64:], b"Inference-Header-Content-Length: 0\r\n"],
    "packed": [_json(), b"Accept-Encoding: gzip\r\n"],
    "packed if it is large": [_json(), b"Accept-Encoding: gzip, deflate\r\n"],
    "an id of the client": [_json(), b"X-Request-Id: mine-7\r\n"],
    "a bad id": [_json(), b"X-Request-Id: mine 7\r\n"],
    "a token that nobody asked for": [_json(), b"Authorization: Bearer x\r\n"],
    "time enough": [_json(), b"X-Request-Timeout-Ms: 100000\r\n"],
    "no time": [_json(), b"X-Request-Timeout-Ms: 0\r\n"],
    "a time that is none": [_json(), b"X-Request-Timeout-Ms: soon\r\n"],
    "no JSON": [_json()[:-1]],
    "another thing": [b"[" * 1 + b"1]" + b" " * 200],
    "a state": [_json(), b"", "/v2/models/sum/infer"],
    "no such input": [_json(inputs=[{**X, "name": "z"}])],
    "a wrong shape": [_json(inputs=[{**X, "shape": [2, 16]}])],
    "no such output": [_json(outputs=[{"name": "z"}])],
    "a wrong type of data": [_json(inputs=[{**X, "data": ["a"] * 16}])],
    "lying binary": [*_binary(63)],
    "a lying header": [BODY, b"Inference-Header-Content-Length: 9999\r\n"],
    "a header that is no number": [BODY, b"Inference-Header-Content-Length: +5\r\n"],
    "no such model": [_json(), b"", "/v2/models/none/infer"],
    "no such version": [_json(), b"", "/v2/models/mlp/versions/9/infer"],
    "no such type": [_json(), b"Content-Type: text/plain\r\n"],
    "an encoding that is none": [_json(), b"Content-Encoding: br\r\n"],
    "another site": [_json(), b"Origin: http://elsewhere\r\n"],
}


@pytest.mark.parametrize("case", CASES)
async def test_both_ways_say_the_same(client: Client, case: str) -> None:
    body, header, *rest = [*CASES[case], b""][:3]
    path = str(rest[0]) if rest and rest[0] else "/v2/models/mlp/infer"
    if header == b"/versions/1":
        header, path = b"", "/v2/models/mlp/versions/1/infer"
    ((usual_status, usual_headers, usual_text),) = await client.ask(_request(body, header, USUAL, path=path))
    for _ in range(4):  # the third of its like is prepared
        ((status, headers, text),) = await client.ask(_request(body, header, path=path))
        assert (status, text) == (usual_status, usual_text)
        for one in (headers, usual_headers):
            one.pop("Date", None)
            if one["X-Request-Id"] != "mine-7":
                one["X-Request-Id"] = "drawn"
        assert headers == usual_headers


async def test_small_inferences_take_the_short_way(client: Client, ways: list[bool]) -> None:
    for request in (_request(_json()), _request(_json(), DOCUMENT), _request(BODY, HEADER), _request(_json()[:-1])):
        await client.ask(request)
    assert ways == [True] * 4
    await client.ask(_request(_json(), USUAL))
    await client.ask(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
    assert ways == [True] * 4
    await client.ask(_request(_json()))  # and after those again
    assert ways == [True] * 5


async def test_what_is_no_whole_request_goes_the_usual_way(server: Served, client: Client, ways: list[bool]) -> None:
    whole = _request(_json())
    for parts, answers in (
        ([whole[:-5], whole[-5:]], 1),
        ([whole + whole], 2),
        ([whole + whole[:20], whole[20:]], 2),
        ([_request(b"%x\r\n%b\r\n0\r\n\r\n" % (len(_json()), _json()), b"Transfer-Encoding: chunked\r\n").replace(b"Content-Length", b"X-Length")], 1),
    ):  # fmt: skip
        other = await Client.of(server)
        found = await other.ask(*parts, answers=answers)
        assert [status for status, *_ in found] == [200] * answers
        assert [status for status, *_ in await other.ask(whole)] == [200]
        other.close()
    assert ways == []
    # The end of a request that looks like a whole one is none.
    other = await Client.of(server)
    found = await other.ask(whole + b"POST /v2/models/none/infer HTTP/1.1\r\nX: ", whole, answers=2)
    assert [status for status, *_ in found] == [200, 404] and ways == []
    other.close()


async def test_both_ways_are_counted(server: Served, client: Client, ways: list[bool]) -> None:
    metrics = server.core.observe._metrics  # type: ignore[union-attr]

    def counts() -> list[Any]:
        (version,), server_ = metrics.collect().values(), metrics.collect_server()
        told = server.core.repository.lease("mlp").value.statistics.told("mlp", "1")
        stats = told["inference_stats"]
        return [
            version.requests, sum(version.errors.values()), version.rows, version.in_flight, sum(server_.errors.values()),
            stats["success"]["count"], stats["fail"]["count"], told["inference_count"],
        ]  # fmt: skip

    for request in (
        _request(_json()),
        _request(_json()[:-1]),
        _request(_json(), path="/v2/models/mlp/versions/1/infer"),
    ):
        before = counts()
        await client.ask(request)
        between = counts()
        await client.ask(request.replace(b"Host", USUAL + b"Host"))
        assert np.array_equal(np.subtract(between, before), np.subtract(counts(), between))
    assert ways[:2] == [True, True]


async def test_a_run_that_takes_long_goes_the_usual_way(
    client: Client, ways: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = await client.ask(_request(_json(), USUAL))
    monkeypatch.setattr(_scheduler, "_IN_PLACE", -1)  # every run in place takes too long
    found = await client.ask(_request(_json()))
    assert ways == [False] and found[0][2] == wanted[0][2]
    await client.ask(_request(_json()))
    assert ways == [False, False]  # without another try


async def test_too_many_are_refused_where_their_bytes_arrive(
    server: Served, ways: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a model that is not quick, too: a refusal costs no more than to say it."""
    client, scheduler = await Client.of(server), server.core.repository.lease("mlp").value.scheduler
    await client.ask(_request(_json()))
    assert ways == [False]
    monkeypatch.setattr(scheduler, "_waiting", 10**6)
    ((status, headers, text),) = await client.ask(_request(_json()))
    ((usual, usual_headers, usual_text),) = await client.ask(_request(_json(), USUAL))
    assert status == usual == 503 and text == usual_text
    assert headers["Retry-After"] == usual_headers["Retry-After"]
    assert ways == [False, True]
    told = server.core.repository.lease("mlp").value.statistics.told("mlp", "1")["inference_stats"]
    assert told["fail"]["count"] == 2 and told["success"]["count"] == 1
    client.close()


async def test_a_request_that_is_withdrawn_is_asked_once(
    tmp_path: Path, ways: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mlp.mrt").write_bytes(_tiny.mlp())
    gate = Gatekeeper(Access(), Limiter(Limits(rate=0.001, burst=1, in_flight=1)))
    async with serving(tmp_path, gate=gate) as server:
        client = await Client.of(server)
        way = server.app[SHORT_WAY]
        assert isinstance(way, Direct)
        way.quick.note("mlp", None, len(_json()), 0)
        assert [status for status, *_ in await client.ask(_request(_json()))] == [200]
        assert ways == [False]
        ((status, headers, _),) = await client.ask(_request(_json()))
        assert status == 429 and int(headers["Retry-After"]) > 100
        client.close()


async def test_tokens_are_asked_for(tmp_path: Path, ways: list[bool]) -> None:
    (tmp_path / "mlp.mrt").write_bytes(_tiny.mlp())
    file, now = tmp_path / "keys.json", time.time_ns()
    good, other = (
        new_key(file, name, read_grants([grant]), now, None) for name, grant in (("a", "infer:m*"), ("b", "read"))
    )
    async with serving(tmp_path, gate=Gatekeeper(Access(file))) as server:
        client = await Client.of(server)
        bearer = b"Authorization: Bearer %b\r\n"
        for _ in range(3):
            await client.ask(_request(_json(), bearer % good.encode(), USUAL))
        statuses = []
        for token in (good, other, good[:-1], good):
            ((status, headers, text),) = await client.ask(_request(_json(), bearer % token.encode()))
            statuses.append(status)
            assert (status > 400) == ("WWW-Authenticate" in headers and "error" in json.loads(text))
        ((status, *_),) = await client.ask(_request(_json()))
        assert [*statuses, status] == [200, 403, 401, 200, 401] and ways == [True] * 5
        file.write_text(file.read_text().replace('"a"', '"c"').replace(good[4:20], "0" * 16))
        statuses = []
        while 401 not in statuses:  # the file is looked at again after a while
            statuses.append((await client.ask(_request(_json(), bearer % good.encode())))[0][0])
            await asyncio.sleep(0.05)
        client.close()


async def test_idle_connections_are_closed(tmp_path: Path, ways: list[bool]) -> None:
    (tmp_path / "mlp.mrt").write_bytes(_tiny.mlp())
    async with serving(tmp_path, Bounds(idle_seconds=0.2)) as server:
        silent, client = await Client.of(server), await Client.of(server)
        for _ in range(3):
            await client.ask(_request(_json(), USUAL))
        short = await Client.of(server)
        await short.ask(_request(_json()))
        assert ways == [True]
        assert await silent.closed() and await short.closed() and await client.closed()


def test_of_heads_only_the_plainest_are_read() -> None:
    way = Direct(None, None, 100_000, False)  # type: ignore[arg-type]
    whole = _request(_json())
    head = way.read(whole)
    assert head is not None and head.ask is not None and head.ask.model == "mlp"
    for old, new in (
        (b"HTTP/1.1", b"HTTP/1.0"),
        (b"POST ", b"POST  "),
        (b"POST /", b"PUT /"),
        (b"POST /", b"POST http://x/"),
        (b"Host:", b"Host :"),
        (b"Host:", b" Host:"),
        (b"\r\nHost", b"\nHost"),
        (b"Host: localhost", b"Host: local\rhost"),
        (b"Host: localhost", b"Host: local\x00host"),
        (b"Host: localhost", b"Host: localhost\r\nHost: localhost"),
        (b"Host: localhost", b"Host: localhost\r\n folded"),
        (b"Host:", b"Content-Length: 5\r\nHost:"),
        (b"Host:", b"Transfer-Encoding: chunked\r\nHost:"),
        (b"Host:", b"Connection: close\r\nHost:"),
        (b"Host:", b"Upgrade: h2c\r\nHost:"),
        (b"Content-Length: ", b"Content-Length: +"),
        (b"Content-Length: ", b"Content-Length: 1"),
        (b"Host:", b"X: " + b"a" * 3000 + b"\r\nHost:"),
    ):
        changed = whole.replace(old, new, 1)
        assert changed != whole and way.read(changed) is None, changed
    for path in ("/v2/models/../infer", "/v2/models/m%6cp/infer", "/v2/models/mlp/infer?x=1", "/v2/models/mlp"):
        found = way.read(_request(_json(), path=path))
        assert found is not None and found.ask is None, path
    for size in (0, 100_001):
        found = way.read(_request(bytes(size)))
        assert found is not None and found.ask is None
