"""maas_rt.client against a live server: both clients, every call, numpy and torch in and out."""

from __future__ import annotations

import asyncio
import inspect
import math
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import maas_rt
from maas_rt import client as api
from maas_rt.client import AsyncClient, Client, Retry
from maas_rt.client._arrays import input_tensor
from maas_rt.client._result import InferResult
from maas_rt.service._requests import InferResponse, OutputTensor
from tests import _tiny
from tests.service._serving import Served, fill, serving_beside

ROWS = np.random.default_rng(0).standard_normal((2, 16)).astype(np.float32)
EXPECTED = _tiny.reference_mlp(ROWS)
ROOT = Path(__file__).parents[2]


class Blocking:
    """An AsyncClient whose calls are awaited in a loop of its own, so that one test holds for both clients."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._client = AsyncClient(*args, **options)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)

        def call(*args: Any, **options: Any) -> Any:
            made = found(*args, **options)
            return self._loop.run_until_complete(made) if inspect.iscoroutine(made) else made

        return call if callable(found) else found

    def __enter__(self) -> Blocking:
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.run_until_complete(self._client.close())
        self._loop.close()

    @contextmanager
    def sequence(self, *args: Any, **options: Any) -> Iterator[Any]:
        sequence = self._client.sequence(*args, **options)
        try:
            yield _BlockingSequence(self._loop, sequence)
        finally:
            self._loop.run_until_complete(sequence.__aexit__(None, None, None))


class _BlockingSequence:
    def __init__(self, loop: asyncio.AbstractEventLoop, sequence: Any) -> None:
        self._loop, self._sequence, self.id = loop, sequence, sequence.id

    def infer(self, *args: Any, **options: Any) -> Any:
        return self._loop.run_until_complete(self._sequence.infer(*args, **options))


BOTH = pytest.mark.parametrize("kind", [Client, Blocking], ids=["blocking", "asyncio"])


def _wide() -> bytes:
    """x: [1, n] -> y: [2, n], x above x."""
    b = _tiny.Builder("wide")
    b.symbol("n", 1, 1 << 20)
    x = b.input("x", [1, "n"])
    y = b.value("y", [2, "n"])
    b.kernel("concat", [x, x], [y], axis=0)
    return b.file(y)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = fill(tmp_path_factory.mktemp("models"), noise=_tiny.noise(), endless=_tiny.endless(), wide=_wide())
    (root / "mlp/config.toml").write_text("[labels]\nproduction = 1\ncanary = 2\n")
    with serving_beside(root) as server:
        yield server


@pytest.fixture
def url(server: Served) -> str:
    return f"http://127.0.0.1:{server.port}"


def _check(result: InferResult) -> None:
    np.testing.assert_allclose(result["y"], EXPECTED, rtol=1e-4, atol=1e-5)


@BOTH
def test_health_metadata_and_statistics(kind: Any, url: str) -> None:
    with kind(url) as client:
        assert client.live() and client.ready() and client.ready("mlp") and client.ready("mlp", "canary")
        assert not client.ready("nope") and not client.ready("mlp", 7)
        assert client.server_metadata()["name"] == "maas-rt"
        told = client.metadata("mlp", 1)
        assert told["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 16]}]
        assert client.config("mlp")["input"][0]["data_type"] == "TYPE_FP32"
        client.infer("mlp", {"x": ROWS}, version=2)
        (stats,) = client.statistics("mlp", 2)
        assert stats["version"] == "2" and stats["inference_stats"]["success"]["count"] >= 1
        assert {each["name"] for each in client.statistics()} >= {"mlp", "sum"}


@BOTH
def test_the_repository(kind: Any, url: str) -> None:
    with kind(url) as client:
        assert {each["name"] for each in client.index(ready=True)} >= {"mlp", "noise"}
        client.unload("noise")
        assert not client.ready("noise") and [e["state"] for e in client.index() if e["name"] == "noise"] != ["READY"]
        client.load("noise")
        assert client.ready("noise")
        assert client.labels("mlp") == {"production": "1", "canary": "2"}
        assert client.set_label("mlp", "production", 2)["production"] == "2"
        assert client.infer("mlp", {"x": ROWS}).model_version == "2"
        assert client.rollback("mlp", "production")["production"] == "1"
        with pytest.raises(api.NotFoundError, match="no model 'nope'") as caught:
            client.load("nope")
        assert caught.value.http_status == 404 and caught.value.request_id


@BOTH
@pytest.mark.parametrize("json", [False, True])
@pytest.mark.parametrize("packing", [None, "gzip", "deflate"])
def test_infer(kind: Any, url: str, json: bool, packing: str | None) -> None:
    rows = np.tile(ROWS, (20, 1))  # above what is packed
    with kind(url, compress=packing, accept=packing) as client:
        result = client.infer("mlp", {"x": rows}, version="canary", id="seven", json=json)
        np.testing.assert_allclose(result["y"], np.tile(EXPECTED, (20, 1)), rtol=1e-4, atol=1e-5)
        assert (result.id, result.model_name, result.model_version) == ("seven", "mlp", "2")
        assert list(result) == ["y"] and result["y"].flags.writeable and result["y"].flags.aligned
        _check(client.infer("mlp", {"x": ROWS[:, ::1]}, outputs=["y"], json=json))
        _check(client.infer("mlp", {"x": np.asfortranarray(ROWS)}, json=json))  # its elements in another order
        _check(client.infer("mlp", {"x": ROWS.astype(">f4")}, json=json))  # and their bytes
        with pytest.raises(KeyError, match="there is no output 'z': there are y"):
            result["z"]


@BOTH
def test_classes_and_parameters(kind: Any, url: str) -> None:
    with kind(url) as client:
        result = client.infer("mlp", {"x": ROWS}, classes={"y": 2}, parameters={"priority": 1, "mine": "x"})
        rows = result.classes("y")
        assert [[each.index for each in row] for row in rows] == np.argsort(-EXPECTED, axis=1)[:, :2].tolist()
        assert rows[0][0].value == pytest.approx(EXPECTED[0].max(), rel=1e-4) and rows[0][0].label is None
        with pytest.raises(maas_rt.InvalidArgumentError, match="has strings, which torch's tensors do not"):
            result.tensors()
        first, again = (client.infer("noise", {"x": np.zeros((1, 4), np.float32)}) for _ in range(2))
        told = first.parameters["seed"]
        again = client.infer("noise", {"x": np.zeros((1, 4), np.float32)}, parameters={"seed": told})
        assert all(np.array_equal(first[name], again[name]) for name in first)


@BOTH
def test_strings(kind: Any, url: str) -> None:
    with kind(url) as client:
        for json in (False, True):
            for words in ([["é", "abcd"]], np.array([["é", "abcd"]]), np.array([["é".encode(), b"abcd"]], object)):
                result = client.infer("strings", {"a": words, "b": words}, json=json)
                assert result.strings("y").tolist() == [["é", "abcd"]] * 2 and result["y"][0, 1] == b"abcd"


@BOTH
def test_sequences(kind: Any, server: Served, url: str) -> None:
    one = np.ones((1, 4), np.float32)
    with kind(url) as client:
        for id in (None, 7, "seven"):
            with client.sequence("sum", id=id) as sequence:
                assert [sequence.infer({"x": one})["y"][0, 0] for _ in range(3)] == [11, 12, 13]
                with pytest.raises(maas_rt.InvalidArgumentError, match="x"):
                    sequence.infer({"x": one[:, :2]})
                assert sequence.infer({"x": one})["y"][0, 0] == 14  # what was refused changed nothing
            assert len(server.core.sequences) == 0  # the block has ended it
            with pytest.raises(maas_rt.InvalidArgumentError, match="has ended"):
                sequence.infer({"x": one})
        with client.sequence("sum") as sequence:
            sequence.infer({"x": one})
            assert sequence.infer({"x": one}, last=True)["y"][0, 0] == 12
            assert len(server.core.sequences) == 0
        with client.sequence("sum"):
            pass
    with pytest.raises(maas_rt.InvalidArgumentError, match="means none"):
        Client(url).sequence("sum", id=0)


@BOTH
@pytest.mark.parametrize(
    ("model", "inputs", "error", "sentence"),
    [
        ("nope", {"x": ROWS}, api.NotFoundError, "no model 'nope'"),
        ("mlp", {"z": ROWS}, api.BadRequestError, "no input 'z'; its inputs are x"),
        ("mlp", {"x": ROWS.astype(np.float64)}, api.BadRequestError, "'FP64', the model takes 'FP32'"),
        ("mlp", {"x": ROWS[:, :3]}, api.BadRequestError, "the model takes 16"),
        ("mlp", {}, api.BadRequestError, "missing input 'x'"),
        ("mlp", {"x": np.zeros((1 << 16, 300), np.float32)}, api.TooLargeError, "67108864 bytes are the most"),
    ],
)
def test_what_the_server_refuses(kind: Any, url: str, model: str, inputs: Any, error: Any, sentence: str) -> None:
    with kind(url, retry=None) as client:
        with pytest.raises(error, match=sentence) as caught:
            client.infer(model, inputs)
        _check(client.infer("mlp", {"x": ROWS}))
    assert isinstance(caught.value, maas_rt.Error)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (type(again), str(again), again.http_status) == (error, str(caught.value), caught.value.http_status)


@BOTH
def test_deadlines_reach_the_server(kind: Any, server: Served, url: str) -> None:
    x = {
        spec["name"]: np.zeros([1 if e < 0 else e for e in spec["shape"]], np.float32)
        for spec in Client(url).metadata("endless")["inputs"]
    }
    with kind(url) as client:
        for timeout in (0.2, 0.4):
            with pytest.raises(api.DeadlineError) as caught:
                client.infer("endless", x, timeout=timeout)
            assert isinstance(caught.value, maas_rt.DeadlineExceededError)
        _check(client.infer("mlp", {"x": ROWS}, timeout=math.inf))
    with server.core.repository.lease("endless", None) as served:
        assert served.model is not None  # its runs have ended: the lease is free
    with pytest.raises(maas_rt.InvalidArgumentError, match="above 0"):
        Client(url).live(timeout=math.nan)


def test_torch_in_and_out(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    with Client(url) as client:
        x = torch.from_numpy(ROWS).requires_grad_()
        y = client.infer("mlp", {"x": x}).tensors()["y"]
        torch.testing.assert_close(y, torch.from_numpy(EXPECTED), rtol=1e-4, atol=1e-5)
        y.add_(1)
        with pytest.raises(maas_rt.InvalidArgumentError, match="sparse or quantized"):
            client.infer("mlp", {"x": x.detach().to_sparse()})
        with pytest.raises(
            maas_rt.InvalidArgumentError, match=r"tensor of torch.float8_e5m2, which the protocol cannot"
        ):
            client.infer("mlp", {"x": x.detach().to(torch.float8_e5m2)})
    tensor = torch.tensor([[1.5, -2.0]], dtype=torch.bfloat16).T
    sent = input_tensor("x", tensor)
    assert (sent.datatype.name, sent.shape, sent.array().tolist()) == ("BF16", (2, 1), [[0x3FC0], [0xC000]])
    response = InferResponse("m", "1", (OutputTensor("y", sent.datatype, sent.array()),))
    assert torch.equal(InferResult(response).tensors()["y"], tensor)
    monkeypatch.delitem(sys.modules, "torch")  # as in a program that has not imported it
    with pytest.raises(maas_rt.InvalidArgumentError, match="import torch first"):
        InferResult(response).tensors()


def test_bfloat16_is_ml_dtypes_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="bfloat16 in numpy needs ml_dtypes")
    values = np.array([1.5, -0.0, np.inf], ml_dtypes.bfloat16)
    sent = input_tensor("x", values)
    assert sent.datatype.name == "BF16" and sent.array().dtype == np.uint16
    result = InferResult(InferResponse("m", "1", (OutputTensor("y", sent.datatype, sent.array()),)))
    assert result["y"].dtype == ml_dtypes.bfloat16 and result["y"].tobytes() == values.tobytes()
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    assert result["y"].dtype == np.float32 and result["y"].tolist() == [1.5, -0.0, np.inf]


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ([1.0, 2.0], "is a list: give an array of numpy or torch"),
        (3, "is a int: give an array"),
        (np.zeros(2, np.complex64), "array of complex64, which the protocol cannot carry"),
        (np.zeros(2, np.longdouble), "which the protocol cannot carry"),
        (np.zeros(2, "M8[s]"), "which the protocol cannot carry"),
        (np.array(["a", None], object), "an element that is a NoneType"),
        (["\ud800"], "UTF-8 cannot hold"),
    ],
)
def test_what_is_no_tensor(value: Any, sentence: str) -> None:
    with pytest.raises(maas_rt.InvalidArgumentError, match=f"input 'x' .*{sentence}"):
        input_tensor("x", value)


@pytest.mark.parametrize("code", ["?", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8"])
def test_every_dtype_is_the_datatype_of_its_name(code: str) -> None:
    array = np.ones(2, code)
    name = input_tensor("x", array).datatype.name
    assert name == array.dtype.name.upper().replace("FLOAT", "FP")
    assert input_tensor("x", np.dtype(code).type(1)).shape == ()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"url": "ftp://a"}, "no address of a server"),
        ({"url": "http://a:99999"}, "no address of a server"),
        ({"url": "http://"}, "names no host"),
        ({"url": "unix:"}, "names no path"),
        ({"url": "http://me:secret@a"}, "no name, password, query"),
        ({"url": "http://a b"}, "characters that no name"),
        ({"token": "a\r\nb"}, "without spaces and ends of lines"),
        ({"token": "a", "url": "http://models.example"}, "everybody on the way can read it"),
        ({"ca": "no/such.pem", "url": "https://a"}, "there is no file"),
        ({"ca": "x.pem"}, "which speaks no TLS"),
        ({"key": "x.pem", "url": "https://a"}, "without a `certificate`"),
        ({"compress": "br"}, "'gzip' or 'deflate'"),
        ({"timeout": 0}, "above 0"),
        ({"connections": 0}, "1 or more"),
    ],
)
def test_arguments_that_are_wrong(arguments: Any, sentence: str) -> None:
    for kind in (Client, AsyncClient):
        with pytest.raises(maas_rt.InvalidArgumentError, match=sentence) as caught:
            kind(**arguments)
        assert "secret" not in str(caught.value)
    Client("http://models.example", token="a", insecure=True)
    assert "secret" not in repr(Client(token="secret"))


@BOTH
def test_names_that_paths_give_a_meaning(kind: Any, url: str) -> None:
    with kind(url) as client:
        for name in ("", ".", "..", "\ud800"):
            with pytest.raises(maas_rt.InvalidArgumentError, match="the model"):
                client.metadata(name)
        for name in ("../health", "a/b", "a?b#c", "a b\r\nX: y", "%2e%2e", "é\0"):
            with pytest.raises(api.NotFoundError):
                client.metadata(name)


def test_many_threads_share_a_client(url: str) -> None:
    failures: list[BaseException] = []

    def ask(number: int) -> None:
        try:
            for _ in range(5):
                rows = np.full((1, 16), number, np.float32)
                result = client.infer("mlp", {"x": rows}, id=str(number))
                assert result.id == str(number)
                np.testing.assert_allclose(result["y"], _tiny.reference_mlp(rows), rtol=1e-4, atol=1e-4)
        except BaseException as error:
            failures.append(error)

    with Client(url, connections=4) as client:
        threads = [threading.Thread(target=ask, args=(number,)) for number in range(16)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        assert not failures and 1 <= len(client._pool._idle) <= 4


async def test_many_coroutines_share_a_client(url: str) -> None:
    async with AsyncClient(url, connections=16) as client:

        async def ask(number: int) -> None:
            rows = np.full((1, 16), number, np.float32)
            result = await client.infer("mlp", {"x": rows}, id=str(number))
            assert result.id == str(number)
            np.testing.assert_allclose(result["y"], _tiny.reference_mlp(rows), rtol=1e-4, atol=1e-4)

        await asyncio.gather(*(ask(number) for number in range(200)))


@BOTH
def test_large_tensors(kind: Any, url: str) -> None:
    """On the way to a worker thread, and in pieces."""
    x = np.random.default_rng(1).standard_normal((1, 300_000)).astype(np.float32)
    with kind(url) as client:
        for json in (False, True):
            y = client.infer("wide", {"x": x}, json=json)["y"]
            assert y.shape == (2, 300_000) and y.tobytes() == x.tobytes() * 2


def test_a_forked_child_makes_connections_of_its_own(url: str) -> None:
    with Client(url) as client:
        _check(client.infer("mlp", {"x": ROWS}))
        child = os.fork()
        if child == 0:
            code = 1
            try:
                code = 0 if client.live() else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        _check(client.infer("mlp", {"x": ROWS}))


async def test_a_client_belongs_to_its_loop_and_ends(url: str) -> None:
    client = AsyncClient(url)
    assert await client.live()
    with pytest.raises(maas_rt.InvalidArgumentError, match="belongs to the loop"):
        await asyncio.to_thread(asyncio.run, client.live())
    await client.close()
    with pytest.raises(maas_rt.InvalidArgumentError, match="is closed"):
        await client.live()
    with Client(url) as closed:
        pass
    with pytest.raises(maas_rt.InvalidArgumentError, match="is closed"):
        closed.live()


def test_a_client_without_waits_takes_no_others() -> None:
    for wrong in ({"times": -1}, {"base": -1.0}, {"base": 2.0, "longest": 1.0}):
        with pytest.raises(maas_rt.InvalidArgumentError):
            Retry(**wrong)  # type: ignore[arg-type]


def test_both_clients_have_the_same_calls() -> None:
    def calls(kind: type) -> dict[str, list[str]]:
        return {
            name: list(inspect.signature(value).parameters)
            for name, value in vars(kind).items()
            if inspect.isfunction(value) and not name.startswith("_")
        }

    assert calls(Client) == calls(AsyncClient)
    assert calls(api.Sequence) == calls(api.AsyncSequence)


def test_the_tree_of_errors_is_what_is_drawn() -> None:
    from maas_rt.client import _errors

    text = _errors.__doc__ or ""
    drawn = {word for word in text.replace("(", " ").replace(",", " ").split() if word.endswith("Error")}
    defined = {
        name
        for name, value in vars(_errors).items()
        if isinstance(value, type) and value.__module__ == _errors.__name__
    }
    assert defined <= drawn and defined <= set(api.__all__)


def test_what_the_client_imports() -> None:
    """The one that blocks: numpy alone; and `import maas_rt` no client at all."""
    program = (
        "import sys, maas_rt\nassert 'maas_rt.client' not in sys.modules and 'http.client' not in sys.modules\n"
        "sys.modules['aiohttp'] = None\nfrom maas_rt.client import Client\n"
        "print(*sorted({n.partition('.')[0] for n in sys.modules} & {'aiohttp', 'torch', 'ml_dtypes', 'requests'} - {'aiohttp'}))\n"
        "try:\n    from maas_rt.client import AsyncClient\nexcept maas_rt.MissingExtraError as error:\n    print(error)"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    first, second = run.stdout.splitlines()
    assert first == "" and second.startswith("maas_rt.client.AsyncClient needs aiohttp") and "maas-rt[client]" in second
