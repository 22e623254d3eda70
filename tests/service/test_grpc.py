"""gRPC: every kind of error in its place, who may do what, limits, health and the end. On files written by hand, with grpcio's own client."""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

_HOW = "needs grpcio and protobuf: pip install grpcio protobuf, as the extra grpc does"
grpc = pytest.importorskip("grpc", reason=_HOW)
pytest.importorskip("grpc.aio", reason=_HOW)
pytest.importorskip("google.protobuf", reason=_HOW)

from maas_rt._cli import _serve  # noqa: E402
from maas_rt._errors import InvalidArgumentError  # noqa: E402
from maas_rt.service._access import Access  # noqa: E402
from maas_rt.service._audit import Audit  # noqa: E402
from maas_rt.service._connection import Bounds  # noqa: E402
from maas_rt.service._gate import Gatekeeper  # noqa: E402
from maas_rt.service._grants import read_grants  # noqa: E402
from maas_rt.service._grpc_calls import _address  # noqa: E402
from maas_rt.service._grpc_messages import HEALTH, INFERENCE, MESSAGES  # noqa: E402
from maas_rt.service._grpc_server import GrpcServer  # noqa: E402
from maas_rt.service._keys import new_key  # noqa: E402
from maas_rt.service._limiter import Limiter, Limits  # noqa: E402
from maas_rt.service._listen import Listen  # noqa: E402
from maas_rt.service._serve import _grpc_sockets  # noqa: E402
from maas_rt.service._tls import TlsFiles  # noqa: E402
from tests import _tiny  # noqa: E402
from tests.service._certificates import Authority  # noqa: E402
from tests.service._serving import Served, serving  # noqa: E402
from tests.service.test_listen import has_ipv6, trusting  # noqa: E402

ROW = np.linspace(-1, 1, 16, dtype=np.float32).reshape(1, 16)


class Client:
    """A channel. Calls are answered with the message, or with the status and its sentence."""

    def __init__(self, server: Served, credentials: Any = None, at: int = 0) -> None:
        _, _, place = server.grpc.places[at].partition("://")
        options = [("grpc.enable_retries", 0)]
        if credentials is None:
            self.channel = grpc.aio.insecure_channel(place, options=options)
        else:
            self.channel = grpc.aio.secure_channel(place, credentials, options=options)

    async def ask(self, name: str, message: Any = None, service: str = INFERENCE, **options: Any) -> Any:
        if message is None or isinstance(message, dict):
            message = MESSAGES[f"{name}Request"](**(message or {}))
        data = message if isinstance(message, bytes) else message.SerializeToString()
        response = "HealthCheck" if name == "Check" else name
        call = self.channel.unary_unary(f"/{service}/{name}")(data, **{"timeout": 60, **options})
        self.call = call
        try:
            return MESSAGES[f"{response}Response"].FromString(await call)
        except grpc.aio.AioRpcError as error:
            self.trailers = dict(tuple(error.trailing_metadata() or ()))
            return error.code().name, error.details()


@asynccontextmanager
async def client_of(server: Served, credentials: Any = None, at: int = 0) -> AsyncIterator[Client]:
    client = Client(server, credentials, at)
    async with client.channel:
        yield client


def fill(directory: Path) -> Path:
    for name, data in (
        ("mlp", _tiny.mlp("batch")),
        ("sum", _tiny.accumulator()),
        ("strings", _tiny.strings()),
        ("endless", _tiny.endless()),
    ):
        (directory / f"{name}.mrt").write_bytes(data)
    return directory


def infer(
    model: str = "mlp",
    array: Any = ROW,
    name: str = "x",
    datatype: str = "FP32",
    shape: Iterable[int] | None = None,
    raw: Iterable[bytes] | None = None,
    **fields: Any,
) -> Any:
    message = MESSAGES["ModelInferRequest"](model_name=model, **fields)
    message.inputs.add(name=name, datatype=datatype, shape=array.shape if shape is None else shape)
    message.raw_input_contents.extend([array.tobytes()] if raw is None else raw)
    return message


def typed(model: str, name: str, datatype: str, shape: Iterable[int], **contents: Any) -> Any:
    message = MESSAGES["ModelInferRequest"](model_name=model)
    message.inputs.add(name=name, datatype=datatype, shape=shape, contents=contents)
    return message


async def test_data_as_contents_and_raw(tmp_path: Path) -> None:
    async with serving(fill(tmp_path), grpc={}) as server, client_of(server) as client:
        answer = await client.ask("ModelInfer", infer(id="seven"), metadata=(("x-request-id", "mine"),))
        assert (answer.model_name, answer.model_version, answer.id) == ("mlp", "1", "seven")
        y = np.frombuffer(answer.raw_output_contents[0], np.float32).reshape(answer.outputs[0].shape)
        np.testing.assert_allclose(y, _tiny.reference_mlp(ROW), rtol=1e-4, atol=1e-5)
        assert dict(tuple(await client.call.trailing_metadata()))["x-request-id"] == "mine"
        # What came as contents goes as contents, for clients that know no other.
        answer = await client.ask("ModelInfer", typed("mlp", "x", "FP32", [1, 16], fp32_contents=ROW.ravel()))
        assert np.array(answer.outputs[0].contents.fp32_contents, np.float32).tobytes() == y.tobytes()
        assert not answer.raw_output_contents
        words = MESSAGES["ModelInferRequest"](model_name="strings")
        for name in "ab":
            words.inputs.add(name=name, datatype="BYTES", shape=[1, 2], contents={"bytes_contents": [b"x", b"yz"]})
        answer = await client.ask("ModelInfer", words)
        assert list(answer.outputs[0].contents.bytes_contents) == [b"x", b"yz"] * 2
        # Nothing but rows of none: as HTTP.
        answer = await client.ask("ModelInfer", infer(raw=[gzip.compress(b"")], shape=[0, 16]))
        assert answer[0] == "INVALID_ARGUMENT"


REFUSED = [
    (infer("nope"), "NOT_FOUND", "no model 'nope'"),
    (infer("../mlp"), "NOT_FOUND", "no model '../mlp'"),
    (infer("m\0lp\r\n"), "NOT_FOUND", r"no model 'm\x00lp\r\n'"),
    (infer(model_version="7"), "NOT_FOUND", "no version '7'"),
    (infer(model_version="../1"), "NOT_FOUND", "no version '../1'"),
    (infer(name="z\0"), "INVALID_ARGUMENT", r"the model has no input 'z\x00'"),
    (infer(datatype="FP99"), "INVALID_ARGUMENT", "'FP99', which is none of"),
    (infer(datatype="FP64"), "INVALID_ARGUMENT", "'FP64', the model takes 'FP32'"),
    (infer(shape=[1, -16]), "INVALID_ARGUMENT", '"shape" must be a list of integers of 0 or more'),
    (infer(shape=[2, 16]), "INVALID_ARGUMENT", "has 64 bytes of data, and FP32 of shape [2, 16] takes 128"),
    (infer(shape=[0, 2**62]), "INVALID_ARGUMENT", "the model takes 16"),
    (infer(shape=[2**62, 16]), "INVALID_ARGUMENT", "beyond any tensor's"),
    (infer(shape=[1] * 65), "INVALID_ARGUMENT", "has 65 dimensions"),
    (infer(raw=[ROW.tobytes(), b""]), "INVALID_ARGUMENT", "raw_input_contents has 2 entries, and the request has 1"),
    (infer(raw=[ROW.tobytes()[:-1]]), "INVALID_ARGUMENT", "has 63 bytes of data"),
    (infer(raw=[]), "INVALID_ARGUMENT", "has 0 elements, its shape [1, 16] needs 16"),
    (typed("mlp", "x", "FP32", [1, 16], int_contents=[1] * 16), "INVALID_ARGUMENT", "and has int_contents"),
    (typed("mlp", "x", "FP32", [1, 16], fp32_contents=[1] * 15), "INVALID_ARGUMENT", "has 15 elements"),
    (typed("mlp", "x", "FP16", [1, 16], fp32_contents=[1] * 16), "INVALID_ARGUMENT", "'FP16', the model takes 'FP32'"),
    (typed("strings", "a", "BYTES", [1, 1], bytes_contents=[b"\xff"]), "INVALID_ARGUMENT", "missing input 'b'"),
    (b"\x0a\x02\xff\xfe", "INVALID_ARGUMENT", "no UTF-8"),
    (b"\x0a\x7f", "INVALID_ARGUMENT", "it is no protobuf at byte 0"),
    (b"", "NOT_FOUND", "no model ''"),
]


async def test_what_is_refused(tmp_path: Path) -> None:
    async with serving(fill(tmp_path), grpc={}) as server, client_of(server) as client:
        for message, code, told in REFUSED:
            found = await client.ask("ModelInfer", message)
            assert isinstance(found, tuple), found
            assert found[0] == code and told in found[1] and "\n" not in found[1], found
        both = infer()
        both.inputs[0].contents.fp32_contents.extend([1.0])
        twice = infer()
        twice.inputs.add(name="x", datatype="FP32", shape=[1, 16])
        twice.raw_input_contents.append(ROW.tobytes())
        priority, sequence = infer(), infer()
        priority.parameters["priority"].string_param = "high"
        sequence.parameters["sequence_start"].bool_param = True
        words = infer("strings", np.zeros(0), "a", "BYTES", [1, 2], [b"\x01\0\0\0a\x09\0\0\0b"])
        words.inputs.add(name="b", datatype="BYTES", shape=[1, 2])
        words.raw_input_contents.append(b"\x01\0\0\0\xff\x01\0\0\0b")
        for message, told in (
            (both, "has both raw_input_contents and contents"),
            (twice, "input 'x' is given twice"),
            (priority, "the parameter \"priority\" is 'high' and must be an integer"),
            (sequence, 'need a "sequence_id"'),
            (words, "element 1 of its data ends at byte"),
        ):
            assert (await client.ask("ModelInfer", message))[0] == "INVALID_ARGUMENT"
            assert told in (await client.ask("ModelInfer", message))[1]
        # A long sentence is cut: it travels as a header.
        found = await client.ask("ModelInfer", infer("é" * 5000))
        assert found[0] == "NOT_FOUND" and len(found[1].encode()) <= 1000
        for name, fields, code, told in (
            ("RepositoryModelLoad", {"model_name": "../x"}, "NOT_FOUND", "no model '../x'"),
            ("RepositoryIndex", {"repository_name": "/etc"}, "INVALID_ARGUMENT", "there is one repository"),
            ("ModelConfig", {"name": "nope"}, "NOT_FOUND", "no model 'nope'"),
            (
                "SystemSharedMemoryRegister",
                {"name": "x", "key": "/x"},
                "UNIMPLEMENTED",
                "start the server with --shared-memory",
            ),
        ):
            found = await client.ask(name, fields)
            assert found[0] == code and told in found[1]
        assert (await client.ask("Check", service=INFERENCE, message=b""))[0] == "UNIMPLEMENTED"


async def test_limits_of_size(tmp_path: Path) -> None:
    bounds = Bounds(all_bodies=60_000)
    async with (
        serving(fill(tmp_path), bounds, grpc={"largest": 50_000, "seconds": 1.5}) as server,
        client_of(server) as client,
    ):
        assert (await client.ask("ModelInfer", infer(raw=[bytes(60_000)])))[0] == "RESOURCE_EXHAUSTED"
        bomb = gzip.compress(infer(raw=[bytes(1 << 20)]).SerializeToString())
        assert await client.ask("ModelInfer", bomb) == (
            "RESOURCE_EXHAUSTED",
            "the body is larger than this server accepts: 50000 bytes are the most",
        )
        assert (await client.ask("ModelInfer", bomb[:100]))[0] == "INVALID_ARGUMENT"
        packed = await client.ask("ModelInfer", infer(), compression=grpc.Compression.Gzip)
        assert packed.model_name == "mlp"

        async def drip() -> AsyncIterator[bytes]:
            await asyncio.sleep(20)
            yield b""

        # A message that does not come, beside another one, has a place among what is held, and an end.
        calls = [client.channel.stream_unary(f"/{INFERENCE}/ModelInfer")(drip()) for _ in range(2)]
        found = {each.code().name async for each in _errors(calls)}
        assert found == {"DEADLINE_EXCEEDED", "UNAVAILABLE"}
        # So have the messages of a stream, which goes on.
        stream = client.channel.stream_stream(f"/{INFERENCE}/ModelStreamInfer")()
        for message in (bomb, infer().SerializeToString(), b"\x0a\x7f", infer("nope", id="n").SerializeToString()):
            await stream.write(message)
        await stream.done_writing()
        answers = [MESSAGES["ModelStreamInferResponse"].FromString(each) async for each in stream]
        told = ["50000 bytes are the most", "", "it is no protobuf", "no model 'nope'"]
        assert [each in answer.error_message for each, answer in zip(told, answers, strict=True)] == [True] * 4
        assert not answers[1].error_message and answers[3].infer_response.id == "n"
        assert server.grpc._service._messages._held == 0


async def _errors(calls: Iterable[Any]) -> AsyncIterator[Any]:
    for each in calls:
        try:
            raise AssertionError(await each)
        except grpc.aio.AioRpcError as error:
            yield error


async def test_connections_that_only_waste_time(tmp_path: Path) -> None:
    """Each is closed, whatever it drips."""
    preface, settings = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\0\0\0\x04\0\0\0\0\0"
    begun = preface + settings + b"\0\0\x04\x01\0\0\0\0\x01\x83\x86\x83\x86"  # headers that go on
    bounds = Bounds(idle_seconds=1, header_seconds=1)
    async with serving(fill(tmp_path), bounds, grpc={}) as server:
        port = int(server.grpc.places[0].rpartition(":")[2])

        async def waste(data: bytes, drip: bytes = b"") -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(data)
            reading = asyncio.create_task(reader.read())
            while not (await asyncio.wait([reading], timeout=0.2))[0]:
                writer.write(drip)
            with suppress(ConnectionError):
                await reading
            writer.close()

        some = [b"", preface[:9], preface, preface + settings, begun, b"GET / HTTP/1.1\r\n\r\n"]
        ping, more = b"\0\0\x08\x06\0\0\0\0\0" + bytes(8), b"\0\0\x01\x09\0\0\0\0\x01\x86"
        tasks = [*map(waste, some), waste(preface + settings, ping), waste(begun, more)]
        await asyncio.wait_for(asyncio.gather(*tasks), 60)


async def test_time_and_clients_that_go_away(tmp_path: Path) -> None:
    async with serving(fill(tmp_path), grpc={}) as server, client_of(server) as client:
        endless = infer("endless", np.ones((1, 4), np.float32))
        endless.parameters["timeout"].int64_param = 200_000  # microseconds
        found = await client.ask("ModelInfer", endless)
        assert found[0] == "DEADLINE_EXCEEDED", found
        endless.ClearField("parameters")
        assert (await client.ask("ModelInfer", endless, timeout=0.3))[0] == "DEADLINE_EXCEEDED"
        call = client.channel.unary_unary(f"/{INFERENCE}/ModelInfer")(endless.SerializeToString())
        scheduler = server.core.repository.ready("endless")[0].scheduler
        await _until(lambda: scheduler.stats().running > 0)
        call.cancel()
        await _until(lambda: scheduler.stats().running == 0)  # which else never ends
        assert (await client.ask("ModelInfer", infer())).model_name == "mlp"


async def _until(holds: Any) -> None:
    while not holds():
        await asyncio.sleep(0.01)


async def test_who_may_do_what(tmp_path: Path) -> None:
    keys, noted = tmp_path / "keys.json", tmp_path / "audit"
    tokens = {
        name: new_key(keys, name, read_grants(words), time.time_ns())
        for name, words in (
            ("user", ["infer:m*", "read:m*"]),
            ("owner", ["admin"]),
            ("team", ["admin:m*", "read"]),
        )
    }
    models = tmp_path / "models"
    models.mkdir()
    gate = Gatekeeper(Access(keys), Limiter(Limits(in_flight=2)), Audit(noted))
    async with serving(fill(models), grpc={}, gate=gate) as server, client_of(server) as client:

        async def ask(who: str | None, name: str, message: Any = None) -> str:
            token = tokens.get(who or "", who)
            metadata = () if who is None else (("authorization", f"Bearer {token}"),)
            found = await client.ask(name, message, metadata=metadata)
            return found[0] if isinstance(found, tuple) else "OK"

        for who, name, message, code in (
            (None, "ModelInfer", infer(), "UNAUTHENTICATED"),
            ("forged", "ModelInfer", infer(), "UNAUTHENTICATED"),
            (None, "ServerMetadata", None, "UNAUTHENTICATED"),
            (None, "ServerLive", None, "OK"),
            (None, "ServerReady", None, "OK"),
            ("user", "ModelInfer", infer(), "OK"),
            ("user", "ModelInfer", infer("sum"), "PERMISSION_DENIED"),
            ("user", "ModelInfer", infer("nope"), "PERMISSION_DENIED"),
            ("user", "ModelReady", {"name": "mlp"}, "OK"),
            ("user", "ModelReady", {"name": "sum"}, "PERMISSION_DENIED"),
            ("owner", "ModelInfer", infer(), "PERMISSION_DENIED"),
            ("owner", "TraceSetting", None, "PERMISSION_DENIED"),  # which reads
            ("team", "TraceSetting", None, "OK"),
            ("user", "LogSettings", {"settings": {"log_info": {"bool_param": True}}}, "PERMISSION_DENIED"),
            ("team", "RepositoryModelLoad", {"model_name": "mlp"}, "OK"),
            ("team", "RepositoryModelUnload", {"model_name": "sum"}, "PERMISSION_DENIED"),
            ("owner", "RepositoryModelLoad", {"model_name": "nope"}, "NOT_FOUND"),
            (None, "RepositoryModelLoad", {"model_name": "mlp"}, "UNAUTHENTICATED"),
        ):
            assert await ask(who, name, message) == code, (who, name, code)
        assert "retry-after" not in client.trailers and client.trailers["x-request-id"]
        # The index shows what a client may see.
        answer = await client.ask("RepositoryIndex", metadata=(("authorization", f"Bearer {tokens['user']}"),))
        assert [each.name for each in answer.models] == ["mlp"]
        two = (("authorization", f"Bearer {tokens['user']}"), ("authorization", f"Bearer {tokens['owner']}"))
        assert (await client.ask("ServerMetadata", metadata=two))[0] == "UNAUTHENTICATED"

        # Calls are counted from before their messages are read.
        async def drip() -> AsyncIterator[bytes]:
            await asyncio.sleep(20)
            yield b""

        metadata = (("authorization", f"Bearer {tokens['user']}"),)
        held = [client.channel.stream_unary(f"/{INFERENCE}/ModelInfer")(drip(), metadata=metadata) for _ in range(2)]
        bucket = server.core.gate._limiter._buckets  # type: ignore[attr-defined]
        await _until(lambda: any(each.in_flight == 2 for each in bucket.values()))
        assert await ask("user", "ModelInfer", infer()) == "RESOURCE_EXHAUSTED"
        assert client.trailers["retry-after"] == "1"
        for each in held:
            each.cancel()
        await _until(lambda: all(each.in_flight == 0 for each in bucket.values()))
        assert await ask("user", "ModelInfer", infer()) == "OK"
        # A stream asks for each of its requests.
        stream = client.channel.stream_stream(f"/{INFERENCE}/ModelStreamInfer")(metadata=metadata)
        for model in ("mlp", "sum"):
            await stream.write(infer(model, id=model).SerializeToString())
        await stream.done_writing()
        answers = [MESSAGES["ModelStreamInferResponse"].FromString(each) async for each in stream]
        assert [each.infer_response.id for each in answers] == ["mlp", "sum"]
        assert not answers[0].error_message and "does not grant infer" in answers[1].error_message
        stream = client.channel.stream_stream(f"/{INFERENCE}/ModelStreamInfer")()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stream.read()
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    lines = [json.loads(line) for line in noted.read_text().splitlines()]
    assert [(each["event"], each["outcome"]) for each in lines] == [
        ("LogSettings", "forbidden"),
        ("RepositoryModelLoad 'mlp'", "ok"),
        ("RepositoryModelUnload 'sum'", "forbidden"),
        ("RepositoryModelLoad 'nope'", "not_found"),
        ("RepositoryModelLoad", "unauthenticated"),
    ]
    assert not any(token in noted.read_text() for token in tokens.values())


async def test_health_and_the_end(tmp_path: Path) -> None:
    """Health tells at once that the server goes away, streams end once they are answered, and what runs is finished."""
    async with serving(fill(tmp_path), grpc={}) as server, client_of(server) as client:

        async def status(service: str) -> Any:
            found = await client.ask("Check", MESSAGES["HealthCheckRequest"](service=service), HEALTH)
            return found.status if not isinstance(found, tuple) else found[0]

        assert [await status(each) for each in ("", INFERENCE, "readiness", "liveness", "x")] == [1] * 4 + ["NOT_FOUND"]
        watch, unknown = (
            client.channel.unary_stream(f"/{HEALTH}/Watch")(
                MESSAGES["HealthCheckRequest"](service=service).SerializeToString()
            )
            for service in ("", "x")
        )

        async def told(stream: Any) -> int:
            return int(MESSAGES["HealthCheckResponse"].FromString(await stream.read()).status)

        assert (await told(watch), await told(unknown)) == (1, 3)
        for name in ("mlp", "sum", "strings", "endless"):
            await client.ask("RepositoryModelUnload", {"model_name": name})
        assert await told(watch) == 2 and await status("") == 2
        assert not (await client.ask("ServerReady")).ready and (await client.ask("ServerLive")).live
        found = await client.ask("ModelInfer", infer())
        assert found[0] in ("UNAVAILABLE", "NOT_FOUND"), found
        await client.ask("RepositoryModelLoad", {"model_name": "sum"})
        assert await told(watch) == 1

        stream = client.channel.stream_stream(f"/{INFERENCE}/ModelStreamInfer")()
        await stream.write(infer("sum", np.ones((1, 4), np.float32)).SerializeToString())
        assert await stream.read()
        server.core.drain()
        assert (await status(""), await status("liveness")) == (2, 1) and await told(watch) == 2
        await stream.write(infer("sum", np.ones((1, 4), np.float32)).SerializeToString())
        assert await stream.read()  # it still answers
        await server.grpc.stop(20)
        for each in (stream, watch):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await each.read()
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            assert caught.value.details() == "the server goes away"


async def test_tls_with_certificates_that_change(tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    fill(models)
    server_ca, client_ca, other = Authority("servers"), Authority("clients"), Authority("others")
    files = TlsFiles(tmp_path / "cert.pem", tmp_path / "key.pem", tmp_path / "clients.pem")
    server_ca.issue("server", files.certificate, files.key)
    assert files.clients is not None
    client_ca.write(files.clients)

    def credentials(roots: Authority, own: Authority | None) -> Any:
        pem = roots.write(tmp_path / "roots.pem").read_bytes()
        if own is None:
            return grpc.ssl_channel_credentials(pem)
        own.issue("client", tmp_path / "c.pem", tmp_path / "k.pem")
        return grpc.ssl_channel_credentials(pem, (tmp_path / "k.pem").read_bytes(), (tmp_path / "c.pem").read_bytes())

    async with serving(models, grpc={"tls": files, "addresses": [("127.0.0.1", 0)] * 2}) as server:
        assert server.grpc.places[0].startswith("grpcs://127.0.0.1:")

        async def ask(roots: Authority, own: Authority | None) -> str:
            found = set()
            for at in range(2):
                async with client_of(server, credentials(roots, own), at) as client:
                    told = await client.ask("ServerLive")
                found.add(told[0] if isinstance(told, tuple) else "OK")
            assert len(found) == 1  # every port has the same
            return found.pop()

        assert await ask(server_ca, client_ca) == "OK"
        assert await ask(server_ca, None) == "UNAVAILABLE"
        assert await ask(server_ca, other) == "UNAVAILABLE"
        assert await ask(other, client_ca) == "UNAVAILABLE"
        async with client_of(server) as plain:
            assert (await plain.ask("ServerLive"))[0] == "UNAVAILABLE"
        other.write(files.clients)
        server_ca.issue("again", files.certificate, files.key)
        await asyncio.sleep(0.6)  # half a second between two looks at the files
        assert await ask(server_ca, other) == "OK"
        assert await ask(server_ca, client_ca) == "UNAVAILABLE"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
async def test_tls_is_new_and_has_forward_secrecy(tmp_path: Path) -> None:
    files = TlsFiles(tmp_path / "cert.pem", tmp_path / "key.pem")
    Authority("servers").issue("server", files.certificate, files.key)
    async with serving(fill(tmp_path), grpc={"tls": files}) as server:
        port = int(server.grpc.places[0].rpartition(":")[2])

        def agreed(newest: ssl.TLSVersion, ciphers: str = "ALL:@SECLEVEL=0") -> str | None:
            context = trusting()
            context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, newest
            context.set_ciphers(ciphers)
            context.set_alpn_protocols(["h2"])
            with socket.create_connection(("127.0.0.1", port), 20) as plain, context.wrap_socket(plain) as wrapped:
                return wrapped.version()

        assert await asyncio.to_thread(agreed, ssl.TLSVersion.TLSv1_3) == "TLSv1.3"
        assert await asyncio.to_thread(agreed, ssl.TLSVersion.TLSv1_2) == "TLSv1.2"
        for wrong in ((ssl.TLSVersion.TLSv1_1,), (ssl.TLSVersion.TLSv1_2, "AES128-SHA256:ECDHE-ECDSA-AES128-SHA")):
            with pytest.raises(OSError):
                await asyncio.to_thread(agreed, *wrong)


def test_addresses_of_peers() -> None:
    assert [_address(each) for each in ("ipv4:127.0.0.1:5000", "ipv6:%5B::1%5D:5000", "unix:/x", "")] == [
        "127.0.0.1",
        "::1",
        "",
        "",
    ]


async def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(InvalidArgumentError, match="gRPC cannot listen on 127.0.0.1"):
            async with serving(fill(tmp_path)) as server:
                GrpcServer(server.core, None, [("127.0.0.1", taken.getsockname()[1])])  # type: ignore[arg-type]


@pytest.mark.parametrize("hosts", [("0.0.0.0",), ("0.0.0.0", "::")])
async def test_all_addresses_are_those_that_were_asked_for(tmp_path: Path, hosts: tuple[str, ...]) -> None:
    if not has_ipv6():
        pytest.skip("this machine has no IPv6")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    async with serving(fill(tmp_path), grpc={"addresses": [(host, port) for host in hosts]}) as server:
        assert len(server.grpc.places) == 1
        socket.create_connection(("127.0.0.1", port)).close()
        if "::" in hosts:
            socket.create_connection(("::1", port)).close()
        else:
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("::1", port))


def test_where_it_listens_if_nobody_says_so(caplog: pytest.LogCaptureFixture) -> None:
    parser = argparse.ArgumentParser()
    _serve.add_arguments(parser)

    def ports(*words: str) -> int | None:
        args = parser.parse_args(["models", *words])
        return _serve.grpc_port(args.layers.resolve(args, {}))

    assert [ports(), ports("--port", "9000"), ports("--port", "0"), ports("--port", "65535")] == [8001, 9001, 0, None]
    assert [ports("--unix", "s"), ports("--unix", "s", "--host", "::1")] == [None, 8001]
    assert [ports("--grpc-port", "7"), ports("--grpc-port", "off"), ports("--unix", "s", "--grpc-port", "7")] == [
        7,
        None,
        7,
    ]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        here = Listen(("127.0.0.1",))
        with pytest.raises(InvalidArgumentError, match=f"127.0.0.1:{port}.*choose another --host or --grpc-port"):
            _grpc_sockets(here, port, True, False, False)
        assert _grpc_sockets(here, port, False, False, False) == []
        assert "not listening for gRPC: cannot listen on 127.0.0.1" in caplog.text
    with pytest.raises(InvalidArgumentError, match="is reached from other machines, which needs tokens"):
        _grpc_sockets(Listen(("0.0.0.0",)), 0, True, False, True)


def test_without_grpcio() -> None:
    program = (
        "import sys; sys.modules['grpc'] = None\n"
        "from maas_rt.service._serve import _grpc_sockets, Listen\n"
        "print(_grpc_sockets(Listen(), 0, False, False, False))\n"
        "try:\n    _grpc_sockets(Listen(), 0, True, False, False)\n"
        "except Exception as error:\n    print(type(error).__name__, error)\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    first, second = run.stdout.splitlines()
    assert first == "[]" and second.startswith("MissingExtraError gRPC needs grpcio") and "maas-rt[grpc]" in second


async def test_an_end_in_two_phases_loses_no_request(tmp_path: Path) -> None:
    fill(tmp_path)
    command = [sys.executable, "-m", "maas_rt", "serve", str(tmp_path), "--port", "0", "--drain-delay", "60"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        line = next(line for line in process.stderr if "listening on grpc" in line)
        channel = grpc.aio.insecure_channel(line.split()[2].removeprefix("grpc://"))
        run = channel.unary_unary(f"/{INFERENCE}/ModelInfer")
        check = channel.unary_unary(f"/{HEALTH}/Check")
        answered, ready = 0, True

        async def ask() -> None:
            nonlocal answered
            while ready:
                await run(infer().SerializeToString(), timeout=60)  # raises what is not answered
                answered += 1

        async def watch() -> None:
            nonlocal ready
            while answered < 20:
                await asyncio.sleep(0.01)
            process.send_signal(signal.SIGTERM)
            while MESSAGES["HealthCheckResponse"].FromString(await check(b"")).status == 1:
                await asyncio.sleep(0.01)
            before = answered
            while answered < before + 20:  # which it still takes
                await asyncio.sleep(0.01)
            ready = False

        await asyncio.gather(watch(), *(ask() for _ in range(4)))
        await channel.close()
        process.send_signal(signal.SIGTERM)  # ends the delay
        assert await asyncio.to_thread(process.wait, 60) == 0
    finally:
        process.kill()
