"""The short way of small inferences over gRPC: which messages take it, and that nobody sees by what way an answer came."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

_HOW = "needs grpcio and protobuf: pip install grpcio protobuf, as the extra grpc does"
grpc = pytest.importorskip("grpc", reason=_HOW)
pytest.importorskip("google.protobuf", reason=_HOW)

import maas_rt  # noqa: E402
from maas_rt import _native  # noqa: E402
from maas_rt.service._access import Access  # noqa: E402
from maas_rt.service._config import Scheduling  # noqa: E402
from maas_rt.service._datatypes import DATATYPES  # noqa: E402
from maas_rt.service._errors import ServiceError  # noqa: E402
from maas_rt.service._gate import Gatekeeper  # noqa: E402
from maas_rt.service._grants import read_grants  # noqa: E402
from maas_rt.service._grpc_direct import Direct  # noqa: E402
from maas_rt.service._grpc_messages import INFERENCE, MESSAGES  # noqa: E402
from maas_rt.service._grpc_requests import decode_message, encode_message  # noqa: E402
from maas_rt.service._keys import new_key  # noqa: E402
from maas_rt.service._limiter import Limiter, Limits  # noqa: E402
from maas_rt.service._requests import InferResponse  # noqa: E402
from maas_rt.service._served import Served as Version  # noqa: E402
from maas_rt.service._timer import Timer  # noqa: E402
from tests import _tiny  # noqa: E402
from tests.service._serving import serving  # noqa: E402
from tests.service.test_grpc import ROW, Client, client_of, infer, typed  # noqa: E402
from tests.service.test_prepared import _copy  # noqa: E402

REQUEST = MESSAGES["ModelInferRequest"]
CASTS: dict[str, Any] = {name: each.dtype for name, each in DATATYPES.items()} | {"BF16": ml_dtypes.bfloat16}


@pytest.fixture
def ways(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each call was answered the short way."""
    found: list[bool] = []
    usual = Direct._answer

    def answer(self: Direct, call: Any, data: bytes) -> bytes | None:
        found.append(False)
        answered = usual(self, call, data)
        found[-1] = answered is not None
        return answered

    monkeypatch.setattr(Direct, "_answer", answer)
    return found


async def _settled(client: Client, ways: list[bool]) -> Any:
    """The answer to infer() when it is one of the short way's: the first runs of a model are measured."""
    answer = None
    for _ in range(100):
        answer = await client.ask("ModelInfer", infer())
        if ways[-1]:
            break
    assert ways[-1]
    return answer


async def test_both_ways_give_the_same(tmp_path: Path, ways: list[bool]) -> None:
    (tmp_path / "mlp.mrt").write_bytes(_tiny.mlp("batch"))
    async with serving(tmp_path, grpc={}) as server, client_of(server) as client:
        await _settled(client, ways)
        named, contents = infer(), typed("mlp", "x", "FP32", [1, 16], fp32_contents=ROW.ravel())
        named.outputs.add(name="y")
        for message, short in (
            (infer(), True),
            (infer(model_version="1"), True),
            (infer(id="an id"), True),
            (infer(id="é"), False),  # it is left to protobuf whether this is text
            (named, True),
            (contents, True),
        ):
            await client.ask("ModelInfer", message)  # one of its size may not have been met
            usual = await client.ask("ModelInfer", message, compression=grpc.Compression.Gzip)
            assert usual.id == message.id and bool(usual.raw_output_contents) is (message is not contents)
            del ways[:]
            for number in range(4):
                assert await client.ask("ModelInfer", message, metadata=(("x-request-id", f"n{number}"),)) == usual
                assert dict(tuple(await client.call.trailing_metadata())) == {"x-request-id": f"n{number}"}
            assert ways[1:] == [short] * 3


async def test_what_was_right_once_may_be_wrong_now(tmp_path: Path, ways: list[bool]) -> None:
    (tmp_path / "mlp.mrt").write_bytes(_tiny.mlp("batch"))
    async with serving(tmp_path, grpc={}) as server, client_of(server) as client:
        for _ in range(3):
            await _settled(client, ways)
        answered = len(ways)
        two = infer(shape=[2, 16], raw=[ROW.tobytes()])
        for message, told in (
            (infer(raw=[ROW.tobytes()[:-4]]), "has 60 bytes of data"),
            (infer(raw=[ROW.tobytes()] * 2), "raw_input_contents has 2 entries"),
            (infer(raw=[]), "has 0 elements"),
            (two, "takes 128"),
            (infer(name="z"), "the model has no input 'z'"),
        ):
            for _ in range(3):
                found = await client.ask("ModelInfer", message)
                assert found[0] == "INVALID_ARGUMENT" and told in found[1], found
                assert client.trailers["x-request-id"]
        assert (await client.ask("ModelInfer", infer(model_version="7")))[0] == "NOT_FOUND"
        assert (await client.ask("ModelInfer", infer(), timeout=60)).model_name == "mlp"
        statistics = await client.ask("ModelStatistics", {"name": "mlp"})
        counted = statistics.model_stats[0].inference_stats
        # Three could not be read, and came to no version.
        assert counted.success.count == answered + 1 and counted.fail.count == 12
        await client.ask("RepositoryModelUnload", {"model_name": "mlp"})
        assert (await client.ask("ModelInfer", infer()))[0] in ("NOT_FOUND", "UNAVAILABLE")
        assert server.grpc._service._messages._held == 0


async def test_tokens_and_limits_hold(tmp_path: Path, ways: list[bool]) -> None:
    (tmp_path / "mlp.mrt").write_bytes(_tiny.mlp("batch"))
    keys, now = tmp_path / "keys.json", time.time_ns()
    good, other = (
        new_key(keys, name, read_grants([grant]), now, None) for name, grant in (("a", "infer"), ("b", "read"))
    )
    gate = Gatekeeper(Access(keys), Limiter(Limits(rate=0.001, burst=8, in_flight=2)))
    async with serving(tmp_path, gate=gate, grpc={}) as server, client_of(server) as client:

        async def ask(token: str) -> Any:
            found = await client.ask("ModelInfer", infer(), metadata=(("authorization", f"Bearer {token}"),))
            return found[0] if isinstance(found, tuple) else "OK"

        assert [await ask(good) for _ in range(6)] == ["OK"] * 6  # each counts once
        assert ways[-1]
        assert await ask("forged") == "UNAUTHENTICATED"
        assert await ask(other) == "PERMISSION_DENIED"
        assert [await ask(good) for _ in range(3)] == ["OK", "OK", "RESOURCE_EXHAUSTED"]
        assert int(client.trailers["retry-after"]) > 100
        assert all(each.in_flight == 0 for each in gate._limiter._buckets.values())  # type: ignore[attr-defined]


async def test_calls_beside_each_other(tmp_path: Path, ways: list[bool]) -> None:
    """Short ones are answered while a long one and streams are under way; who goes away leaves nothing behind."""
    for name, data in (("mlp", _tiny.mlp("batch")), ("endless", _tiny.endless())):
        (tmp_path / f"{name}.mrt").write_bytes(data)
    async with serving(tmp_path, grpc={}) as server, client_of(server) as client:
        endless = infer("endless", np.ones((1, 4), np.float32)).SerializeToString()
        run = client.channel.unary_unary(f"/{INFERENCE}/ModelInfer")
        stream = client.channel.stream_stream(f"/{INFERENCE}/ModelStreamInfer")()
        long = run(endless)
        scheduler = server.core.repository.ready("endless")[0].scheduler
        while not scheduler.stats().running:
            await asyncio.sleep(0.01)
        message = infer().SerializeToString()
        await _settled(client, ways)
        answers = await asyncio.gather(*(run(message) for _ in range(200)))
        assert len(set(answers)) == 1  # by whichever way: on a busy machine few of them may be quick
        await stream.write(message)
        assert MESSAGES["ModelStreamInferResponse"].FromString(await stream.read()).infer_response.model_name == "mlp"
        calls = [run(message) for _ in range(50)]
        for each in calls:
            each.cancel()
        long.cancel()
        stream.cancel()
        while scheduler.stats().running or server.grpc._engine._calls or server.grpc._service._messages._held:
            await asyncio.sleep(0.01)


async def test_an_end_with_calls_under_way(tmp_path: Path) -> None:
    (tmp_path / "endless.mrt").write_bytes(_tiny.endless())
    async with serving(tmp_path, grpc={}) as server, client_of(server) as client:
        endless = infer("endless", np.ones((1, 4), np.float32)).SerializeToString()
        call = client.channel.unary_unary(f"/{INFERENCE}/ModelInfer")(endless)
        scheduler = server.core.repository.ready("endless")[0].scheduler
        while not scheduler.stats().running:
            await asyncio.sleep(0.01)
        await server.grpc.stop(0.1)
        with pytest.raises(grpc.aio.AioRpcError):
            await call
        assert not server.grpc._engine._thread.is_alive()
        while scheduler.stats().running:  # else for ever
            await asyncio.sleep(0.01)
        await server.grpc.stop(0.1)  # again


async def test_more_calls_than_may_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maas_rt.service._grpc_server._CALLS", 1)
    (tmp_path / "endless.mrt").write_bytes(_tiny.endless())
    async with serving(tmp_path, grpc={}) as server, client_of(server) as client:
        endless = infer("endless", np.ones((1, 4), np.float32)).SerializeToString()
        call = client.channel.unary_unary(f"/{INFERENCE}/ModelInfer")(endless)
        scheduler = server.core.repository.ready("endless")[0].scheduler
        while not scheduler.stats().running:
            await asyncio.sleep(0.01)
        found = await client.ask("ServerLive")
        assert found == ("RESOURCE_EXHAUSTED", "the server answers 1 calls at once, the most it may")
        call.cancel()
        while server.grpc._engine._calls:
            await asyncio.sleep(0.01)
        assert (await client.ask("ServerLive")).live


# ---- the messages in C++, against protobuf and Python ---------------------------------------------------------------


def _version(data: bytes) -> Version:
    return Version.of("m", "1", maas_rt.load(data), Scheduling(), Timer())


def _usual(version: Version, data: bytes) -> tuple[Any, InferResponse]:
    asked = decode_message(data)
    arrays = version.signature.arrays(asked.request)
    outputs = version.signature.answer(version.model.run(arrays), version.signature.requested(asked.request))
    return asked, InferResponse("m", "1", outputs, asked.request.id)


@pytest.mark.parametrize("name", [name for name in DATATYPES if name != "BYTES"])
def test_all_types_are_answered_byte_by_byte(name: str) -> None:
    version = _version(_copy(DATATYPES[name].runtime))
    assert version.messages is not None
    values = (np.arange(14).reshape(7, 2) % 2).astype(CASTS[name])
    prepared = 0
    for rows in (7, 7, 7, 0, 0, 0):
        for identifier in ("", "a", "b" * 300):
            array = values[:rows]
            data = infer("m", array, datatype=name, id=identifier).SerializeToString()
            message = _native.Message.read(data)
            assert message is not None and (message.model, message.version) == ("m", None)
            asked, response = _usual(version, data)
            exchange = version.messages.read(message)
            if exchange is None:
                version.messages.learn(message, asked.request, response)
                continue
            prepared += 1
            with pytest.raises(ValueError, match="before a run"):
                exchange.body()
            exchange.run(time.monotonic_ns() + 10**9)
            assert exchange.size == array.nbytes
            assert exchange.body() == encode_message(response, False)
    assert prepared == 18 - 2 * 2


def test_a_bool_is_0_or_1() -> None:
    version = _version(_copy("bool"))
    assert version.messages is not None
    good = infer("m", np.ones((1, 2), bool), datatype="BOOL").SerializeToString()
    for _ in range(2):
        message = _native.Message.read(good)
        asked, response = _usual(version, good)
        assert message is not None
        version.messages.learn(message, asked.request, response)
    wrong = _native.Message.read(infer("m", np.ones((1, 2), bool), datatype="BOOL", raw=[b"\1\2"]).SerializeToString())
    assert wrong is not None
    with pytest.raises(ServiceError, match="input 'x': byte 1 of its data is 2, and a BOOL is 0 or 1"):
        version.messages.read(wrong)


def test_what_is_not_prepared() -> None:
    """More is to be done than to read, run and write numbers: Python answers, however often it is asked."""
    version = _version(_tiny.mlp("batch"))
    assert version.messages is not None
    classes, late = infer("m"), infer("m")
    classes.outputs.add(name="y").parameters["classification"].int64_param = 2
    late.parameters["priority"].int64_param = 1
    contents = typed("m", "x", "FP32", [1, 16], fp32_contents=ROW.ravel())
    for each in (classes, late, contents):
        data = each.SerializeToString()
        for _ in range(4):
            message = _native.Message.read(data)
            assert message is not None and version.messages.read(message) is None
            version.messages.learn(message, *_learned(version, data))
    for data in (b"", infer("m").SerializeToString() + b"\x18\x01"):  # no model; a field of its own
        assert _native.Message.read(data) is not None
    for data in (b"\x0a\x7f", b"\x0b", b"\x00", b"\x0a", b"\xff" * 11, infer("é").SerializeToString()):
        assert _native.Message.read(data) is None
    assert _native.Message.read(infer("m", name="x" * 2000).SerializeToString()) is None
    for data in (b"\x1a\x01\xff\x1a\x01a", b"\x1a\x01a\x1a\x02\xc3\xa9"):  # two ids, of which protobuf reads both
        assert _native.Message.read(infer("m").SerializeToString() + data) is None


def _learned(version: Version, data: bytes) -> tuple[Any, InferResponse]:
    asked, response = _usual(version, data)
    return asked.request, response


def test_outlines_are_what_protobuf_reads() -> None:
    """Of drawn messages, and of such in which bytes were changed: whatever has an outline is a message of the same names and fields, and of one outline
    are those alone that differ in their data and ids."""
    seed = random.randrange(1 << 30)
    draw = random.Random(seed)
    met: dict[bytes, bytes] = {}
    outlined = 0
    for data in _drawn(draw, 4000):
        message = _native.Message.read(data)
        if message is None or message.outline is None:
            continue
        try:
            found = REQUEST.FromString(data)
        except Exception:  # of text in an inner message that is no UTF-8, which a first request is refused for
            continue
        outlined += 1
        rest = REQUEST.FromString(message.outline)
        assert (message.model, message.version) == (found.model_name, found.model_version or None), seed
        found.ClearField("raw_input_contents")
        found.ClearField("id")
        assert rest == found, seed
        same = found.SerializeToString(deterministic=True)
        assert met.setdefault(message.outline, same) == same, seed
    assert outlined > 1000, seed


def _drawn(draw: random.Random, count: int) -> Iterator[bytes]:
    for _ in range(count):
        message = infer(
            draw.choice(("m", "mlp", "")),
            name=draw.choice(("x", "input")),
            shape=[draw.randrange(1 << draw.randrange(40)) for _ in range(draw.randrange(4))],
            raw=[draw.randbytes(draw.randrange(200)) for _ in range(draw.randrange(3))],
            id=draw.choice(("", "id", "x" * 200)),
            model_version=draw.choice(("", "1")),
        )
        if draw.random() < 0.3:
            message.outputs.add(name="y").parameters["binary_data"].bool_param = True
        data = bytearray(message.SerializeToString())
        if data and draw.random() < 0.6:
            for _ in range(draw.randrange(1, 4)):
                data[draw.randrange(len(data))] = draw.randrange(256)
        if draw.random() < 0.2:
            data = data[: draw.randrange(len(data) + 1)]
        yield bytes(data)
