"""maas_rt.client against servers that refuse, go away, start anew and answer garbage; over TLS and Unix sockets."""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import maas_rt
from maas_rt import client as api
from maas_rt.client import Client, Retry
from maas_rt.client._errors import refusal
from tests import _tiny
from tests.service._serving import serving_beside
from tests.service.test_client import BOTH, EXPECTED, ROWS, Blocking

FAST = Retry(times=3, base=0.001, longest=30)
Answers = Callable[[bytes], bytes | None]


def answer(status: int, document: Any = None, *headers: str, body: bytes | None = None) -> bytes:
    body = json.dumps(document).encode() if body is None else body
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", "Content-Type: application/json", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


GOOD = answer(200, {"name": "a server"})
READY = answer(200, {"ready": True})


class Scripted:
    """A server whose answers are given: one a request, bytes as they go out; None: the connection is closed without one.
    The last one stands for all that follow. `requests` is what came."""

    def __init__(self, *script: bytes | None, close: bool = False) -> None:
        self._script = list(script)
        self._close = close
        self.requests: list[bytes] = []
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._stopped = False
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def __enter__(self) -> Scripted:
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped = True
        with contextlib.suppress(OSError), socket.create_connection(self._listener.getsockname()):
            pass
        self._thread.join()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            if self._stopped:
                connection.close()
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.settimeout(60)
            while (request := _request(connection)) is not None:
                self.requests.append(request)
                said = self._script.pop(0) if len(self._script) > 1 else self._script[0]
                if said is None:
                    return
                connection.sendall(said)
                if self._close:
                    return


def _request(connection: socket.socket) -> bytes | None:
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        if not piece:
            return None
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    length = next((int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0)
    while len(body) < length:
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body


def header(request: bytes, name: str) -> str | None:
    for line in request.partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:]:
        if line.lower().startswith(name.lower() + ":"):
            return line.partition(":")[2].strip()
    return None


@BOTH
def test_what_is_refused_for_now_is_asked_again(kind: Any) -> None:
    script = (answer(503, {"error": "full"}), answer(429, {"error": "slowly"}), answer(503, {"error": "full"}), GOOD)
    with Scripted(*script) as server, kind(server.url, retry=FAST) as client:
        assert client.server_metadata() == {"name": "a server"}
        assert len(server.requests) == 4 and server.connections == 1
    with Scripted(answer(503, {"error": "full"})) as server, kind(server.url, retry=FAST) as client:
        with pytest.raises(api.UnavailableError, match="^full$"):
            client.load("m")
        assert len(server.requests) == 4
    with Scripted(answer(503, {"error": "full"})) as server, kind(server.url, retry=None) as client:
        with pytest.raises(api.UnavailableError):
            client.metadata("m")
        assert len(server.requests) == 1
        assert not client.ready() and not client.ready("m")  # an answer, and no refusal
        assert len(server.requests) == 3


@BOTH
def test_what_is_wrong_is_not_asked_again(kind: Any) -> None:
    for status, error in (
        (400, api.BadRequestError),
        (401, api.UnauthenticatedError),
        (403, api.ForbiddenError),
        (404, api.NotFoundError),
        (405, api.BadRequestError),
        (413, api.TooLargeError),
        (415, api.BadRequestError),
        (499, api.RunCancelledError),
        (500, api.ServerFaultError),
        (502, api.ServerFaultError),
        (504, api.DeadlineError),
    ):
        script = answer(status, {"error": "the sentence"}, "X-Request-Id: abc")
        with Scripted(script) as server, kind(server.url, retry=FAST) as client:
            with pytest.raises(error, match="^the sentence$") as caught:
                client.metadata("m")
            assert (caught.value.http_status, caught.value.request_id) == (status, "abc")
            assert type(caught.value) is error and len(server.requests) == 1


@BOTH
def test_a_server_that_says_when_is_not_asked_before(kind: Any) -> None:
    later = answer(503, {"error": "full"}, "Retry-After: 1")
    with Scripted(later, GOOD) as server, kind(server.url, retry=FAST) as client:
        began = time.monotonic()
        client.server_metadata()
        assert time.monotonic() - began >= 1 and len(server.requests) == 2
    # Beyond the time of the call, or the longest wait, it is not waited for.
    for told, options in (("2", {"timeout": 1.5}), ("31", {}), ("9" * 30, {})):
        later = answer(429, {"error": "slowly"}, f"Retry-After: {told}")
        with Scripted(later) as server, kind(server.url, retry=FAST) as client:
            with pytest.raises(api.RateLimitedError) as caught:
                client.server_metadata(**options)
            assert caught.value.retry_after is not None and caught.value.retry_after >= 2 and len(server.requests) == 1


def test_what_retry_after_says() -> None:
    def told(text: str) -> float | None:
        return refusal(503, "", {"retry-after": text}, "").retry_after

    assert told("7") == 7
    for text in ("", "-1", "soon", "1.5", "٣"):
        assert told(text) is None
    found = told(formatdate(time.time() + 60, usegmt=True))
    assert found is not None and 50 < found <= 60 and told(formatdate(0, usegmt=True)) == 0
    waits = [Retry(base=1, longest=4).wait(n, api.UnavailableError(""), True) or 0 for n in range(3)]
    assert all(0.5 * most <= wait <= most for wait, most in zip(waits, (1, 2, 4), strict=True))


@BOTH
def test_a_connection_that_breaks(kind: Any) -> None:
    """Within the answer or before it: done again where that is as good as once."""
    for broken in (None, GOOD[:-3], b"HTTP/1.1 200 OK\r\nContent-Le"):
        close = broken is not None
        with Scripted(broken, GOOD, close=close) as server, kind(server.url, retry=FAST) as client:
            assert client.server_metadata() == {"name": "a server"}
            assert len(server.requests) == 2
        with Scripted(broken, GOOD, close=close) as server, kind(server.url, retry=FAST) as client:
            for call in (
                lambda: client.unload("m"),
                lambda: client.rollback("m", "l"),
                lambda: client.infer("m", {"x": ROWS}, parameters={"sequence_id": 7, "sequence_start": True}),
            ):
                with pytest.raises(api.ConnectionFailedError) as caught:
                    server._script.insert(0, broken)
                    call()
                assert caught.value.reached and isinstance(caught.value, ConnectionError)
            assert len(server.requests) == 3


@BOTH
def test_nobody_listens(kind: Any) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with kind(f"127.0.0.1:{port}", retry=FAST) as client:
            with pytest.raises(api.ConnectionFailedError, match="no connection") as caught:
                client.unload("m")
            assert not caught.value.reached
    with kind("unix:/no/such/socket", retry=None) as client:
        with pytest.raises(api.ConnectionFailedError, match="no connection"):
            client.live()


@BOTH
def test_what_did_not_reach_the_server_is_always_asked_again(kind: Any) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        with kind(f"127.0.0.1:{listener.getsockname()[1]}", retry=Retry(times=20, base=0.05, longest=0.5)) as client:
            threading.Timer(0.3, listener.listen).start()
            answering = threading.Thread(target=_answer_once, args=(listener, answer(200, {})))
            answering.start()
            client.unload("m")
            answering.join()


def _answer_once(listener: socket.socket, said: bytes) -> None:
    while True:
        try:
            connection, _ = listener.accept()
            break
        except OSError:  # it does not listen yet
            time.sleep(0.05)
    with connection:
        _request(connection)
        connection.sendall(said)


@BOTH
@pytest.mark.parametrize(
    ("said", "error"),
    [
        (b"hello\r\n\r\n", api.InvalidAnswerError),
        (b"HTTP/9.9 200 OK\r\n\r\n", api.InvalidAnswerError),
        (b"HTTP/1.1 abc OK\r\n\r\n", api.InvalidAnswerError),
        (b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 100_000 + b"\r\n", api.ClientError),
        (b"\0" * 200_000, api.ClientError),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n", api.ClientError),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999\r\n\r\n{}", api.InvalidAnswerError),
        (answer(200, body=b"{"), api.InvalidAnswerError),
        (answer(200, body=b""), api.InvalidAnswerError),
        (answer(200, body=b"\xff\xfe"), api.InvalidAnswerError),
        (answer(200, body=b"[" * 100_000), api.InvalidAnswerError),
        (answer(200, [1, 2]), api.InvalidAnswerError),
        (answer(204, body=b""), api.InvalidAnswerError),
        (answer(301, {}, "Location: http://127.0.0.1:1/v2"), api.InvalidAnswerError),
        (answer(502, body=b"<html>Bad\nGateway</html>"), api.ServerFaultError),
        (answer(404, {"detail": "another server's words"}), api.NotFoundError),
        (answer(400, body=b"[" * 100_000), api.BadRequestError),
        (answer(200, None, "Content-Encoding: br", body=b"x"), api.InvalidAnswerError),
        (answer(200, None, "Content-Encoding: gzip", body=b"no gzip"), api.InvalidAnswerError),
        (answer(200, None, "Content-Encoding: gzip", body=gzip.compress(b"{}")[:-4]), api.InvalidAnswerError),
        (answer(200, None, "Content-Encoding: gzip", body=gzip.compress(b" " * 2_000_000)), api.InvalidAnswerError),
    ],
    ids=range(21),
)
def test_garbage(kind: Any, said: bytes, error: Any) -> None:
    """One typed error with one sentence of bounded length, and the client goes on."""
    with (
        Scripted(said, GOOD, close=True) as server,
        kind(server.url, retry=None, max_answer=1 << 20, accept="gzip") as client,
    ):
        with pytest.raises(error) as caught:
            client.server_metadata()
        assert len(str(caught.value)) < 600 and "\n" not in str(caught.value)
        assert client.server_metadata() == {"name": "a server"}


def _inference(**changes: Any) -> dict[str, Any]:
    output = {"name": "y", "datatype": "FP32", "shape": [2], "data": [1, 2], **changes}
    return {"model_name": "m", "model_version": "1", "outputs": [{k: v for k, v in output.items() if v is not None}]}


@pytest.mark.parametrize(
    "said",
    [
        answer(200, {}),
        answer(200, {"outputs": [3]}),
        answer(200, {**_inference(), "id": 7}),
        answer(200, _inference(data=[1, 2, 3])),
        answer(200, _inference(data=["1", None])),
        answer(200, _inference(data=None)),
        answer(200, _inference(datatype="FP33")),
        answer(200, _inference(shape=[2**63, 0])),
        answer(200, _inference(shape=[-2])),
        answer(200, {"outputs": _inference()["outputs"] * 2}),
        answer(200, _inference(data=None, parameters={"binary_data_size": 8})),
        answer(200, _inference(), "Inference-Header-Content-Length: 999999"),
        answer(200, _inference(), "Inference-Header-Content-Length: x"),
        answer(200, _inference(), "Inference-Header-Content-Length: 0"),
        answer(200, _inference(), "Inference-Header-Content-Length: 5", "Inference-Header-Content-Length: 6"),
    ],
    ids=range(15),
)
def test_answers_that_are_no_inference(said: bytes) -> None:
    with Scripted(said) as server, Client(server.url) as client:
        with pytest.raises(api.InvalidAnswerError):
            client.infer("m", {"x": np.zeros(1, np.float32)})
        assert len(server.requests) == 1


def test_answers_of_other_servers() -> None:
    """Who say null for what they have not, add words of their own, and nest the data."""
    said = {
        **_inference(shape=[1, 2], data=[[1, 2.5]], parameters={"content_type": "np"}),
        "model_version": None,
        "id": None,
    }
    with Scripted(answer(200, {**said, "parameters": None, "more": {}})) as server, Client(server.url) as client:
        result = client.infer("m", {"x": np.zeros(1, np.float32)})
        assert (result.model_name, result.model_version, result.id) == ("m", "", None)
        assert result["y"].tolist() == [[1.0, 2.5]]


@BOTH
def test_a_server_that_is_silent(kind: Any) -> None:
    """Or says a byte now and then: one deadline holds for all of it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with kind(f"127.0.0.1:{listener.getsockname()[1]}", retry=FAST) as client:
            with pytest.raises(api.DeadlineError, match="within its 0.3 seconds"):
                client.server_metadata(timeout=0.3)
    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def drip() -> None:
            with contextlib.suppress(OSError):
                connection, _ = listener.accept()
                with connection:
                    connection.sendall(b"HTTP/1.1 200 OK\r\n")
                    while not ended.wait(0.02):
                        connection.sendall(b"a: b\r\n")

        dripping = threading.Thread(target=drip)
        dripping.start()
        with kind(f"127.0.0.1:{listener.getsockname()[1]}", retry=None) as client:
            with pytest.raises(api.DeadlineError):
                client.server_metadata(timeout=1)
        ended.set()
        listener.shutdown(socket.SHUT_RDWR)
        dripping.join()


@BOTH
def test_what_is_sent(kind: Any) -> None:
    with Scripted(READY) as server, kind(server.url + "/behind/", token=lambda: "key", timeout=5) as client:
        client.live()
        client.ready("a/b c", "é", timeout=1000)
        client.live(timeout=float("inf"))
        first, second, third = server.requests
        assert first.startswith(b"GET /behind/v2/health/live HTTP/1.1\r\n") and server.connections == 1
        assert second.startswith(b"GET /behind/v2/models/a%2Fb%20c/versions/%C3%A9/ready HTTP/1.1\r\n")
        assert (
            header(first, "Authorization") == "Bearer key"
            and header(
                first,
                "User-Agent",
            )
            == f"maas-rt/{maas_rt.__version__}"
        )
        assert (
            4000
            < int(header(first, "X-Request-Timeout-Ms") or 0)
            <= 5000
            < int(header(second, "X-Request-Timeout-Ms") or 0)
        )
        assert header(third, "X-Request-Timeout-Ms") is None and header(first, "Accept-Encoding") is None
    with Scripted(answer(200, _inference())) as server, kind(server.url, timeout=5) as client:
        np.testing.assert_array_equal(client.infer("m", {"x": ROWS}, outputs=["y"])["y"], [1, 2])
        (request,) = server.requests
        body = request.partition(b"\r\n\r\n")[2]
        document = json.loads(body[: int(header(request, "Inference-Header-Content-Length") or 0)])
        assert 4_000_000 < document["parameters"].pop("timeout") <= 5_000_000
        assert document == {
            "parameters": {"binary_data_output": True},
            "outputs": [{"name": "y"}],
            "inputs": [{"name": "x", "datatype": "FP32", "shape": [2, 16], "parameters": {"binary_data_size": 128}}],
        }
        assert body.endswith(ROWS.tobytes())


@pytest.fixture
def models(tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "mlp.mrt").write_bytes(_tiny.mlp("batch"))
    return tmp_path / "models"


def _check(client: Any) -> None:
    np.testing.assert_allclose(client.infer("mlp", {"x": ROWS})["y"], EXPECTED, rtol=1e-4, atol=1e-5)


@BOTH
def test_a_server_that_starts_anew(kind: Any, models: Path) -> None:
    """Between two requests on a connection that is kept: neither the client's program nor its calls notice."""
    with serving_beside(models) as server:
        port = server.port
        client = kind(f"http://127.0.0.1:{port}", retry=FAST)
        _check(client)
    with serving_beside(models, port=port), client:
        _check(client)
        client.load("mlp")


@contextlib.contextmanager
def _wrapped(models: Path, wrap: Callable[[socket.socket], socket.socket], listener: socket.socket) -> Iterator[None]:
    """What comes to a listener, handed on to a server."""
    with serving_beside(models) as server:

        def accept() -> None:
            while True:
                try:
                    connection = wrap(listener.accept()[0])
                except ssl.SSLError:
                    continue
                except OSError:
                    return
                behind = socket.create_connection(("127.0.0.1", server.port))
                for one, other in ((connection, behind), (behind, connection)):
                    threading.Thread(target=_pump, args=(one, other), daemon=True).start()

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
            thread.join()


def _pump(one: socket.socket, other: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := one.recv(65536):
            other.sendall(data)
    with contextlib.suppress(OSError):
        other.shutdown(socket.SHUT_WR)


@BOTH
def test_unix_sockets(kind: Any, models: Path, tmp_path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "s"))
    listener.listen()
    with _wrapped(models, lambda connection: connection, listener):
        for url in (f"unix:{tmp_path / 's'}", f"unix://{tmp_path / 's'}"):
            with kind(url, token="may-go-there-in-clear") as client:
                _check(client)
                _check(client)


@BOTH
def test_tls(kind: Any, models: Path, tmp_path: Path) -> None:
    certificates = pytest.importorskip(
        "tests.service._certificates", reason="needs cryptography and PyJWT, as the extra serve does"
    )
    ours, theirs = (certificates.Authority(name) for name in ("ours", "theirs"))
    ca, other = ours.write(tmp_path / "ca.pem"), theirs.write(tmp_path / "other.pem")
    for who, authority in (("server", ours), ("client", theirs)):
        authority.issue(who, tmp_path / f"{who}.pem", tmp_path / f"{who}.key")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(other))
    context.load_cert_chain(tmp_path / "server.pem", tmp_path / "server.key")
    context.verify_mode = ssl.CERT_REQUIRED
    mine = {"certificate": tmp_path / "client.pem", "key": tmp_path / "client.key"}
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"https://127.0.0.1:{listener.getsockname()[1]}"
    with _wrapped(models, lambda connection: context.wrap_socket(connection, server_side=True), listener):
        with kind(url, ca=ca, token="goes-by-TLS", **mine) as client:
            _check(client)
            _check(client)
        for wrong in ({**mine}, {"ca": other, **mine}):  # authorities that did not sign the server's
            with kind(url, retry=FAST, **wrong) as client:
                with pytest.raises(api.TlsError, match="certificate"):
                    client.live()
        with kind(url, retry=None, ca=ca) as client:  # nothing to show
            with pytest.raises(api.ConnectionFailedError):
                client.live()
        with kind(
            url.replace("127.0.0.1", "localhost"), ca=ca, **mine
        ) as client:  # another name than the certificate's
            with pytest.raises(api.TlsError):
                client.live()
    for wrong in ({"certificate": ca}, {"ca": tmp_path / "client.key"}):
        with pytest.raises(maas_rt.InvalidArgumentError):
            Client(url, **wrong)  # type: ignore[arg-type]


def test_a_refusal_before_all_was_sent_is_heard(models: Path) -> None:
    """A body that is too large: the server answers and closes, while the client still sends."""
    with serving_beside(models, max_body=1 << 20) as server:
        for kind in (Client, Blocking):
            with kind(f"http://127.0.0.1:{server.port}", retry=None) as client:
                with pytest.raises(api.TooLargeError):
                    client.infer("mlp", {"x": np.zeros((1 << 18, 16), np.float32)})
                _check(client)
