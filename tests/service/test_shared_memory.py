"""Tensors in system shared memory: NVIDIA's clients with their own utilities for it, over both transports, and everything that may be wrong."""

from __future__ import annotations

import errno
import io
import json
import os
import secrets
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest

from maas_rt.service import create_app
from maas_rt.service._access import Access
from maas_rt.service._audit import Audit
from maas_rt.service._callers import is_local, network_of
from maas_rt.service._calls import Context
from maas_rt.service._core import Core
from maas_rt.service._errors import Kind, ServiceError
from maas_rt.service._gate import Gatekeeper
from maas_rt.service._grants import Client, read_grants
from maas_rt.service._guard import CORE
from maas_rt.service._keys import new_key
from maas_rt.service._limiter import Limiter, Limits
from maas_rt.service._regions import Regions
from maas_rt.service._repository import Repository
from maas_rt.service._requests import decode_request
from tests import _tiny
from tests.service._serving import Served, fill, serving, serving_beside

_HOW = "needs NVIDIA's client and grpcio: pip install 'tritonclient[http]' grpcio protobuf packaging, as the extra dev does"
pytest.importorskip("grpc", reason=_HOW)
http = pytest.importorskip("tritonclient.http", reason=_HOW)
rpc = pytest.importorskip("tritonclient.grpc", reason=_HOW)
utils = pytest.importorskip("tritonclient.utils", reason=_HOW)
shm = pytest.importorskip("tritonclient.utils.shared_memory", reason=_HOW)
if not os.access("/dev/shm", os.W_OK):
    pytest.skip("needs /dev/shm, where Linux keeps POSIX shared memory", allow_module_level=True)

ROWS = np.random.default_rng(0).standard_normal((2, 16)).astype(np.float32)
EXPECTED = _tiny.reference_mlp(ROWS)
Outline = tuple[Any, Any]  # a module of NVIDIA's, and a client of it


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill(tmp_path_factory.mktemp("models"), two=_tiny.two_outputs())


@pytest.fixture(scope="module")
def server(models: Path) -> Iterator[Served]:
    with serving_beside(models, grpc={}, shared_memory=True) as server:
        yield server


@pytest.fixture(params=["http", "grpc"])
def outline(request: pytest.FixtureRequest, server: Served) -> Iterator[Outline]:
    if request.param == "http":
        module, where = http, f"127.0.0.1:{server.port}"
    else:
        module, where = rpc, server.grpc.places[0].removeprefix("grpc://")
    with module.InferenceServerClient(where) as client:
        yield module, client
        client.unregister_system_shared_memory()


@pytest.fixture
def make() -> Iterator[Callable[..., Any]]:
    """Makes objects of shared memory, which are gone at the end."""
    made = []

    def make(size: int) -> Any:
        key = f"/maas-rt-test-{secrets.token_hex(8)}"
        made.append(shm.create_shared_memory_region("a name", key, size, create_only=True))
        return made[-1]

    yield make
    for each in made:
        shm.destroy_shared_memory_region(each)


@pytest.fixture
def path() -> Iterator[Path]:
    """A place in /dev/shm for a file of another kind."""
    path = Path(f"/dev/shm/maas-rt-test-{secrets.token_hex(8)}")
    yield path
    with suppress(FileNotFoundError):
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


def _told(outline: Outline, name: str = "") -> list[dict[str, Any]]:
    module, client = outline
    if module is http:
        return list(client.get_system_shared_memory_status(name))
    regions = client.get_system_shared_memory_status(name).regions
    fields = ("name", "key", "offset", "byte_size")
    assert all(each.name == at for at, each in regions.items())
    return [{field: getattr(each, field) for field in fields} for _, each in sorted(regions.items())]


def _tensors(module: Any, shape: list[int] | None = None, size: int = 128, at: int = 0) -> tuple[Any, Any]:
    x = module.InferInput("x", shape or [2, 16], "FP32")
    x.set_shared_memory("in", size, offset=at)
    return x, module.InferRequestedOutput("y")


def _two(module: Any) -> list[Any]:
    """The inputs of the model "two", sent along."""
    tensors = [module.InferInput("a", [2, 3], "FP32"), module.InferInput("b", [2, 3], "INT64")]
    tensors[0].set_data_from_numpy(np.arange(1, 7, dtype=np.float32).reshape(2, 3))
    tensors[1].set_data_from_numpy(np.arange(1, 7).reshape(2, 3))
    return tensors


def _refused(call: Callable[..., Any], *args: Any, **options: Any) -> str:
    with pytest.raises(utils.InferenceServerException) as caught:
        call(*args, **options)
    return f"{caught.value.status()} {caught.value.message()}"


# ---- what clients do ------------------------------------------------------------------------------------------------


def test_inputs_and_outputs(outline: Outline, make: Callable[..., Any]) -> None:
    """As NVIDIA's example does it: first nothing is registered, at last nothing is, and the data go neither way over the wire."""
    module, client = outline
    client.unregister_system_shared_memory()
    client.unregister_cuda_shared_memory()
    given, taken = make(256), make(256)
    shm.set_shared_memory_region(given, [ROWS], offset=64)
    client.register_system_shared_memory("in", given._shm_key, 192, offset=32)
    client.register_system_shared_memory("out", taken._shm_key, 256)
    more = {"unlinked": False} if module is http else {}  # for which gRPC's message has no field
    assert _told(outline) == [
        {"name": "in", "key": given._shm_key, "offset": 32, "byte_size": 192, **more},
        {"name": "out", "key": taken._shm_key, "offset": 0, "byte_size": 256, **more},
    ]
    assert _told(outline, "out") == _told(outline)[1:]
    x, y = _tensors(module, at=32)
    y.set_shared_memory("out", 200, offset=16)
    for _ in range(3):  # runs that are quick are made in another way from the second on
        result = client.infer("mlp", [x], outputs=[y], request_id="r")
        output = result.get_output("y")
        found = shm.get_contents_as_numpy(taken, np.float32, EXPECTED.shape, offset=16)
        np.testing.assert_allclose(found, EXPECTED, rtol=1e-4, atol=1e-5)
        found[:] = 0
    if module is http:
        place = {
            "shared_memory_region": "out",
            "shared_memory_byte_size": EXPECTED.nbytes,
            "shared_memory_offset": 16,
        }
        shape = list(EXPECTED.shape)
        assert output == {"name": "y", "datatype": "FP32", "shape": shape, "parameters": place}
    else:
        assert list(output.shape) == list(EXPECTED.shape) and result.get_response().raw_output_contents == [b""]
        assert output.parameters["shared_memory_byte_size"].int64_param == EXPECTED.nbytes
    client.unregister_system_shared_memory("in")
    client.unregister_system_shared_memory("in")  # as Triton, no error
    assert [each["name"] for each in _told(outline)] == ["out"]
    assert "registered no region 'in'" in _refused(client.infer, "mlp", [x])
    client.unregister_system_shared_memory()
    assert _told(outline) == []


def test_some_tensors_in_shared_memory_and_others_not(outline: Outline, make: Callable[..., Any]) -> None:
    module, client = outline
    region = make(4096)
    client.register_system_shared_memory("in", region._shm_key, 4096)
    shm.set_shared_memory_region(region, [ROWS])
    x, _ = _tensors(module)
    np.testing.assert_allclose(client.infer("mlp", [x]).as_numpy("y"), EXPECTED, rtol=1e-4, atol=1e-5)
    sent, plain = _two(module), client.infer("two", _two(module))
    for there, here in (("aa", "bt"), ("bt", "aa")):
        wanted = [module.InferRequestedOutput(each) for each in ("aa", "bt")]
        wanted[there == "bt"].set_shared_memory("in", 1024, offset=1024)
        result = client.infer("two", sent, outputs=wanted)
        np.testing.assert_array_equal(result.as_numpy(here), plain.as_numpy(here))
        expected = plain.as_numpy(there)
        found = shm.get_contents_as_numpy(region, expected.dtype, expected.shape, offset=1024)
        np.testing.assert_array_equal(found, expected)


def test_strings(outline: Outline, make: Callable[..., Any]) -> None:
    module, client = outline
    region = make(1024)
    client.register_system_shared_memory("in", region._shm_key, 1024)
    tensors = []
    for at, name, words in ((0, "a", ["one", "zwölf"]), (256, "b", ["", "123456"])):
        packed = utils.serialize_byte_tensor(np.array([words], object))
        shm.set_shared_memory_region(region, [packed], offset=at)
        tensors.append(module.InferInput(name, [1, 2], "BYTES"))
        tensors[-1].set_shared_memory("in", len(packed.item()), offset=at)
    y = module.InferRequestedOutput("y")
    y.set_shared_memory("in", 512, offset=512)
    client.infer("strings", tensors, outputs=[y])
    found = shm.get_contents_as_numpy(region, np.object_, [2, 2], offset=512)
    assert [[each.decode() for each in row] for row in found] == [["one", "zwölf"], ["", "123456"]]
    # Lengths that lead out of what was given.
    region._mpsm_handle.buf[:4] = b"\xff\xff\xff\xff"
    assert "element 0 of its data ends at byte" in _refused(client.infer, "strings", tensors)


def test_cuda_shared_memory_is_none(outline: Outline) -> None:
    module, client = outline
    told = client.get_cuda_shared_memory_status()
    assert (told if module is http else list(told.regions)) == []
    assert "no region 'x' of CUDA" in _refused(client.get_cuda_shared_memory_status, "x")
    refused = _refused(client.register_cuda_shared_memory, "x", b"aGFuZGxl", 0, 64)
    assert "take system shared memory" in refused and ("400" in refused or "INVALID_ARGUMENT" in refused)
    client.unregister_cuda_shared_memory("x")
    client.unregister_cuda_shared_memory()


def test_the_metadata_say_so(outline: Outline) -> None:
    module, client = outline
    told = client.get_server_metadata()
    extensions = told["extensions"] if module is http else list(told.extensions)
    assert "system_shared_memory" in extensions and "cuda_shared_memory" not in extensions
    assert extensions == sorted(extensions)


# ---- what may be wrong ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/",
        "//x",
        ".",
        "..",
        "/..",
        "/../etc/passwd",
        "../dev/null",
        "/a/b",
        "/a..b",
        "/.hidden",
        "/a b",
        "/a\0b",
        "/a\n",
        "/é",
        "/" + "a" * 256,
        "/" + "a" * 100_000,
    ],
)
def test_keys_that_are_none(key: str) -> None:
    with pytest.raises(ServiceError, match='"key" is') as caught:
        Regions().register("", "r", key, 0, 8)
    assert caught.value.kind is Kind.BAD_REQUEST and len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("offset", "size", "sentence"),
    [
        (0, 0, "has 1 byte or more"),
        (0, 2**63, "within 2\\*\\*63 - 1"),
        (2**63 - 1, 1, "within 2\\*\\*63 - 1"),
        (0, 2**64, "within 2\\*\\*63 - 1"),
        (0, -1, "has 1 byte or more"),
        (-1, 8, "has 1 byte or more"),
        (0, 65, "was to end at byte 65, and the shared memory '/.*' has 64"),
        (60, 5, "was to end at byte 65"),
        (64, 1, "was to end at byte 65"),
        (2**62, 2**62 - 1, "has 64"),
    ],
)
def test_sizes_that_are_none(make: Callable[..., Any], offset: int, size: int, sentence: str) -> None:
    regions = Regions()
    with pytest.raises(ServiceError, match=sentence) as caught:
        regions.register("", "r", make(64)._shm_key, offset, size)
    assert caught.value.kind is Kind.BAD_REQUEST and regions.told("") == []


async def test_bad_registrations_over_http(models: Path, make: Callable[..., Any]) -> None:
    key = make(64)._shm_key
    async with serving(models, shared_memory=True) as server:
        for document, status, sentence in (
            ({}, 400, 'a "key", a string'),
            ({"key": key}, 400, 'a "key", a string'),
            ({"key": 3, "byte_size": 8}, 400, 'a "key", a string'),
            ({"key": key, "byte_size": True}, 400, 'a "key", a string'),
            ({"key": key, "byte_size": 8.0}, 400, 'a "key", a string'),
            ({"key": key, "byte_size": 8, "offset": None}, 400, 'a "key", a string'),
            ({"key": key, "byte_size": -8}, 400, "1 byte or more"),
            ({"key": "/../../etc/passwd", "byte_size": 8}, 400, '"key" is'),
            ({"key": f"{key}-not", "byte_size": 8}, 404, "is not there"),
        ):
            got, told, _ = await server.ask("POST", "/v2/systemsharedmemory/region/r/register", json=document)
            assert got == status and sentence in told["error"], document
        path = "/v2/systemsharedmemory/region/"
        for name in ("a/b", "..", "a\0b", "é"):
            where = f"{path}{quote(name, safe='').replace('.', '%2E')}/register"
            got, told, _ = await server.ask("POST", where, json={"key": key, "byte_size": 8})
            assert got in (200, 404), (name, told)  # a name is a key of a table, and no path
        assert (await server.ask("POST", f"{path}{'n' * 257}/register", json={"key": key, "byte_size": 8}))[0] == 400
        assert (await server.ask("POST", f"{path}r/register", json={"key": key, "byte_size": 64}))[0] == 200
        again = await server.ask("POST", f"{path}r/register", json={"key": key, "byte_size": 64})
        assert again[0] == 400 and "is registered already" in again[1]["error"]
        for region, size, offset, status, sentence in (
            ("r", 64, 1, 400, "ends at byte 65 of region 'r', which has 64 bytes"),
            ("r", 64, 2**64 - 1, 400, "which has 64 bytes"),
            ("r", 2**64 - 1, 0, 400, "which has 64 bytes"),
            ("r", -1, 0, 400, "numbers of bytes"),
            ("r", 63, 0, 400, "has 63 bytes of data, and FP32 of shape [1, 16] takes 64"),
            ("s", 64, 0, 404, "registered no region 's'"),
        ):
            place = {
                "shared_memory_region": region,
                "shared_memory_byte_size": size,
                "shared_memory_offset": offset,
            }
            tensor = {"name": "x", "datatype": "FP32", "shape": [1, 16], "parameters": place}
            got, told, _ = await server.ask("POST", "/v2/models/mlp/infer", json={"inputs": [tensor]})
            assert got == status and sentence in told["error"]
        for method, where, status, allow in (
            ("POST", "/v2/systemsharedmemory/status", 405, "GET,HEAD"),
            ("GET", "/v2/systemsharedmemory/unregister", 405, "POST"),
            ("GET", "/v2/systemsharedmemory/region/r/register", 405, "POST"),
            ("POST", "/v2/systemsharedmemory/register", 404, None),
            ("GET", "/v2/systemsharedmemory/region/nope/status", 404, None),
        ):
            got, _, headers = await server.ask(method, where)
            assert (got, headers.get("Allow")) == (status, allow)
        assert server.core.regions is not None and server.core.regions._held == 0


def test_a_symbolic_link(path: Path, make: Callable[..., Any]) -> None:
    path.symlink_to(f"/dev/shm{make(64)._shm_key}")
    _check_refused(path, "is no regular file")


def test_a_folder(path: Path) -> None:
    path.mkdir()
    _check_refused(path, "is no regular file")


def test_a_named_pipe(path: Path) -> None:
    os.mkfifo(path)
    _check_refused(path, "is no regular file")  # and nobody waits for its other end


def test_a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        _check_refused(path, "is no regular file")


def test_a_file_that_the_server_may_not_write(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its owner's may be, whoever that is, and others' if they say so; what root might do besides does not count."""
    path.write_bytes(bytes(64))
    mine = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: mine + 1)
    monkeypatch.setattr(os, "getegid", lambda: path.stat().st_gid + 1)
    monkeypatch.setattr(os, "getgroups", list)
    for mode, group, is_good in (
        (0o600, False, False),
        (0o644, False, False),
        (0o662, False, False),
        (0o666, False, True),
        (0o660, False, False),
        (0o660, True, True),
        (0o640, True, False),
        (0o606, True, False),
    ):
        path.chmod(mode)
        monkeypatch.setattr(os, "getgroups", lambda is_in=group: [path.stat().st_gid] if is_in else [])
        if is_good:
            Regions().register("", "r", path.name, 0, 8)
        else:
            _check_refused(path, "belongs to another user")
    assert stat.S_IMODE(path.stat().st_mode) == 0o606


def _check_refused(path: Path, sentence: str) -> None:
    with pytest.raises(ServiceError, match=sentence) as caught:
        Regions().register("", "r", f"/{path.name}", 0, 1)
    assert caught.value.kind is Kind.BAD_REQUEST and _open_files(str(path)) == 0


def _open_files(path: str) -> int:
    """How often this process has a file open."""
    count = 0
    for each in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # others are opened and closed meanwhile
            count += os.readlink(f"/proc/self/fd/{each}") == path
    return count


def test_an_object_that_its_client_makes_smaller(outline: Outline, make: Callable[..., Any]) -> None:
    """Which would end a server that had mapped it."""
    module, client = outline
    region = make(4096)
    client.register_system_shared_memory("in", region._shm_key, 4096)
    x, y = _tensors(module)
    os.truncate(f"/dev/shm{region._shm_key}", 100)
    assert "which has been made smaller" in _refused(client.infer, "mlp", [x])
    x.set_data_from_numpy(ROWS)
    y.set_shared_memory("in", 128, offset=64)
    assert "which has been made smaller" in _refused(client.infer, "mlp", [x], outputs=[y])
    assert os.stat(f"/dev/shm{region._shm_key}").st_size == 100
    os.truncate(f"/dev/shm{region._shm_key}", 4096)
    client.infer("mlp", [x], outputs=[y])


def test_an_object_whose_size_changes_all_the_time(outline: Outline, make: Callable[..., Any]) -> None:
    """Each request is answered or refused, whatever happens to its memory while it is read and written."""
    module, client = outline
    region = make(1 << 17)
    client.register_system_shared_memory("in", region._shm_key, 1 << 17)
    x, y = _tensors(module, [1024, 16], 1 << 16)
    y.set_shared_memory("in", 1 << 15, offset=1 << 16)
    stop, turns = threading.Event(), []

    def change() -> None:
        while not stop.is_set():
            for size in (0, 30_000, 1 << 16, 80_000, 1 << 17):
                os.truncate(f"/dev/shm{region._shm_key}", size)
            turns.append(1)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(100):
            with suppress(utils.InferenceServerException):
                client.infer("mlp", [x], outputs=[y])
    finally:
        stop.set()
        thread.join()
    assert turns and client.is_server_live()
    os.truncate(f"/dev/shm{region._shm_key}", 1 << 17)
    client.infer("mlp", [x], outputs=[y])


def test_an_output_that_does_not_fit(outline: Outline, make: Callable[..., Any]) -> None:
    module, client = outline
    region = make(4096)
    client.register_system_shared_memory("in", region._shm_key, 4096)
    outputs = [module.InferRequestedOutput(each) for each in ("aa", "bt")]
    outputs[0].set_shared_memory("in", 1024)
    outputs[1].set_shared_memory("in", 1, offset=2048)
    refused = _refused(client.infer, "two", _two(module), outputs=outputs)
    assert "output 'bt' has 48 bytes" in refused and '"shared_memory_byte_size" is 1' in refused
    assert ("400" in refused) or ("INVALID_ARGUMENT" in refused)
    assert not any(region._mpsm_handle.buf)  # nor was the first one written
    outputs[1].set_shared_memory("in", 1024, offset=1023)
    assert "share bytes of the shared memory" in _refused(client.infer, "two", _two(module), outputs=outputs)


def test_what_cannot_fit_is_refused_before_it_runs(outline: Outline, make: Callable[..., Any]) -> None:
    """Or the state of a sequence would have gone on without an answer."""
    module, client = outline
    client.register_system_shared_memory("in", make(64)._shm_key, 64)
    x = module.InferInput("x", [1, 4], "FP32")
    x.set_data_from_numpy(np.ones((1, 4), np.float32))
    y = module.InferRequestedOutput("y")
    y.set_shared_memory("in", 15)
    client.infer("sum", [x], sequence_id=5, sequence_start=True)
    refused = _refused(client.infer, "sum", [x], outputs=[y], sequence_id=5)
    assert "output 'y' has 16 bytes, and \"shared_memory_byte_size\" is 15" in refused
    result = client.infer("sum", [x], sequence_id=5, sequence_end=True)
    assert result.as_numpy("y").tolist() == [[12.0] * 4]


def test_a_machine_without_memory(make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    regions = Regions()
    regions.register("", "r", make(64)._shm_key, 0, 64)

    def write(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", write)
    with pytest.raises(ServiceError, match="output 'y' cannot be written to region 'r': No space left") as caught:
        regions.span("", "r", 0, 64, "output 'y'").write(memoryview(bytes(8)))
    assert caught.value.kind is Kind.OVERLOADED


def test_the_data_are_given_once(outline: Outline, make: Callable[..., Any]) -> None:
    module, client = outline
    client.register_system_shared_memory("in", make(64)._shm_key, 64)
    x, _ = _tensors(module, [1, 16], 64)
    y = module.InferRequestedOutput("y", class_count=2)
    if module is rpc:  # the other client refuses it itself
        y._output.parameters["shared_memory_region"].string_param = "in"
        y._output.parameters["shared_memory_byte_size"].int64_param = 64
        assert "a classification cannot be put" in _refused(client.infer, "mlp", [x], outputs=[y])
        x._raw_content = ROWS[:1].tobytes()
        refused = _refused(client.infer, "mlp", [x])
    else:
        tensor = x._get_tensor()
        x._get_tensor = lambda: {**tensor, "data": ROWS[0].tolist()}
        refused = _refused(client.infer, "mlp", [x])
    assert "400" in refused or "INVALID_ARGUMENT" in refused


# ---- how much, and whose --------------------------------------------------------------------------------------------


def test_regions_are_few_and_their_files_are_closed(make: Callable[..., Any]) -> None:
    key = make(64)._shm_key
    path = f"/dev/shm{key}"
    before = _open_files(path)  # its maker's
    regions = Regions(limit=4, share=2)
    for owner, name in (("a", "1"), ("a", "2"), ("", "1")):
        regions.register(owner, name, key, 0, 64)
    with pytest.raises(ServiceError, match="2 regions of this client") as caught:
        regions.register("a", "3", key, 0, 64)
    assert caught.value.kind is Kind.OVERLOADED
    regions.register("b", "1", key, 0, 64)
    with pytest.raises(ServiceError, match="4 regions are registered"):
        regions.register("", "2", key, 0, 64)
    assert _open_files(path) == before + 4
    span = regions.span("b", "1", 0, 64, "input 'x'")
    regions.unregister("b")
    assert span.read() == bytes(64)  # a request goes on with what it has found
    del span
    assert _open_files(path) == before + 3 and [each["name"] for each in regions.told("a")] == ["1", "2"]
    regions.close()
    assert _open_files(path) == before


def test_bytes_that_are_held(make: Callable[..., Any]) -> None:
    regions = Regions(largest=100, all_bytes=150)
    with pytest.raises(ServiceError, match="101 bytes, and 100 are the most") as caught:
        regions.hold(101)
    assert caught.value.kind is Kind.TOO_LARGE
    regions.hold(100)
    with pytest.raises(ServiceError, match="as many bytes") as caught:
        regions.hold(51)
    assert caught.value.kind is Kind.OVERLOADED
    regions.release(100)
    regions.hold(51)


async def test_inputs_beyond_the_largest_body(models: Path, make: Callable[..., Any]) -> None:
    """A small request cannot have the server copy what it would not accept as a body."""
    key = make(1 << 21)._shm_key
    async with serving(models, shared_memory=True, max_body=1 << 20) as server:
        path = "/v2/systemsharedmemory/region/r/register"
        assert (await server.ask("POST", path, json={"key": key, "byte_size": 1 << 21}))[0] == 200
        place = {"shared_memory_region": "r", "shared_memory_byte_size": 1 << 21}
        tensor = {"name": "x", "datatype": "FP32", "shape": [1 << 15, 16], "parameters": place}
        status, told, _ = await server.ask("POST", "/v2/models/mlp/infer", json={"inputs": [tensor]})
        assert status == 413 and "2097152 bytes" in told["error"]


async def test_regions_are_their_clients(models: Path, make: Callable[..., Any], tmp_path: Path) -> None:
    keys, now = tmp_path / "keys.json", time.time_ns()
    everything = read_grants(["infer", "shared-memory", "read"])
    mine, theirs = (new_key(keys, name, everything, now) for name in ("mine", "theirs"))
    poor = new_key(keys, "poor", read_grants(["infer", "read", "admin", "metrics"]), now)
    some = new_key(keys, "some", read_grants(["infer", "shared-memory:mlp"]), now)
    gate = Gatekeeper(Access(keys), Limiter(Limits()), Audit(stream=io.StringIO()))
    region = make(64)
    async with serving(models, shared_memory=True, gate=gate) as server:

        async def ask(token: str, method: str, path: str, **options: Any) -> tuple[int, Any]:
            path, headers = f"/v2/{path}", {"Authorization": f"Bearer {token}"}
            return (await server.ask(method, path, headers=headers, **options))[:2]

        where, document = "systemsharedmemory/region/r", {"key": region._shm_key, "byte_size": 64}
        assert (await ask(mine, "POST", f"{where}/register", json=document))[0] == 200
        for token in (poor, some):  # no other verb includes it, and it is on no model
            status, told = await ask(token, "POST", f"{where}/register", json=document)
            assert status == 403 and "does not grant shared-memory on the whole server" in told["error"]
            assert (await ask(token, "GET", "systemsharedmemory/status"))[0] == 403
        assert (await server.ask("GET", "/v2/systemsharedmemory/status"))[0] == 401
        assert await ask(theirs, "GET", "systemsharedmemory/status") == (200, [])
        assert (await ask(theirs, "GET", f"{where}/status"))[0] == 404
        assert (await ask(theirs, "POST", "systemsharedmemory/unregister"))[0] == 200
        assert len((await ask(mine, "GET", "systemsharedmemory/status"))[1]) == 1
        place = {"shared_memory_region": "r", "shared_memory_byte_size": 64}
        tensor = {"name": "x", "datatype": "FP32", "shape": [1, 16], "parameters": place}
        for token, expected in ((mine, 200), (theirs, 404), (poor, 403)):
            assert (await ask(token, "POST", "models/mlp/infer", json={"inputs": [tensor]}))[0] == expected
        # The same name is another region of another client.
        assert (await ask(theirs, "POST", f"{where}/register", json=document))[0] == 200


async def test_a_client_that_lost_its_grant_has_no_use_of_its_regions(models: Path, make: Callable[..., Any]) -> None:
    """As the subject of a JWT whose next token grants less: its regions are still there, and are neither read nor written for it."""
    region, gate = make(128), Gatekeeper(audit=Audit(stream=io.StringIO()))
    place = {"shared_memory_region": "r", "shared_memory_byte_size": 64}
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 16]}
    reads = {"inputs": [{**tensor, "parameters": place}]}
    writes = {"inputs": [{**tensor, "data": [0.0] * 16}], "outputs": [{"name": "y", "parameters": place}]}
    async with serving(models, shared_memory=True, gate=gate) as server:

        async def infer(grants: list[str], document: dict[str, Any]) -> Any:
            client = Client("jwt:somebody", read_grants(grants))
            with server.core.begin("mlp", None, Context(client=client)) as inference:
                return await inference.infer(decode_request(json.dumps(document).encode()))

        client = Client("jwt:somebody", read_grants(["shared-memory"]))
        await server.core.register_region("r", region._shm_key, 0, 128, Context(client=client))
        for document in (reads, writes):
            with pytest.raises(ServiceError, match="does not grant shared-memory") as caught:
                await infer(["infer"], document)
            assert caught.value.kind is Kind.FORBIDDEN
            await infer(["infer", "shared-memory"], document)


@pytest.mark.parametrize("transport", ["http", "grpc"])
def test_registrations_are_in_the_audit_log(
    transport: str, models: Path, make: Callable[..., Any], tmp_path: Path
) -> None:
    """Each of them, refused or not; to look at regions, or to use them, is not in it."""
    keys, now, noted = tmp_path / "keys.json", time.time_ns(), tmp_path / "audit"
    rich = new_key(keys, "rich", read_grants(["infer", "shared-memory"]), now)
    poor = new_key(keys, "poor", read_grants(["infer"]), now)
    gate = Gatekeeper(Access(keys), Limiter(Limits()), Audit(noted))
    key = make(128)._shm_key
    with serving_beside(models, grpc={}, shared_memory=True, gate=gate) as server:
        module = http if transport == "http" else rpc
        where = f"127.0.0.1:{server.port}" if module is http else server.grpc.places[0].removeprefix("grpc://")
        with module.InferenceServerClient(where) as client:

            def call(token: str, name: str, *values: Any) -> None:
                header = "Authorization" if module is http else "authorization"
                with suppress(utils.InferenceServerException):
                    getattr(client, name)(*values, headers={header: f"Bearer {token}"})

            x, _ = _tensors(module)
            call(rich, "register_system_shared_memory", "in", key, 128)
            call(rich, "get_system_shared_memory_status")
            call(poor, "get_system_shared_memory_status")
            call(rich, "infer", "mlp", [x])
            call(rich, "register_system_shared_memory", "in", key, 128)
            call(poor, "register_system_shared_memory", "in", key, 128)
            call("wrong", "unregister_system_shared_memory")
            call(rich, "unregister_system_shared_memory", "in")
    lines = [json.loads(line) for line in noted.read_text().splitlines()]
    outcomes = ["ok", "bad_request", "forbidden", "unauthenticated", "ok"]
    assert [line["outcome"] for line in lines] == outcomes
    verbs = ["register", "register", "register", "unregister", "unregister"]
    assert all(verb in line["event"].lower() for verb, line in zip(verbs, lines))
    assert rich not in noted.read_text() and lines[0]["client"] == lines[1]["client"] != lines[2]["client"]


async def test_what_clients_that_died_have_left(models: Path, make: Callable[..., Any], tmp_path: Path) -> None:
    """A region whose object was unlinked is told as one; its client's next process forgets it, and an administrator everybody's."""
    keys, now = tmp_path / "keys.json", time.time_ns()
    grants = read_grants(["infer", "shared-memory"])
    mine, theirs = (new_key(keys, name, grants, now) for name in ("mine", "theirs"))
    chief = new_key(keys, "chief", read_grants(["shared-memory", "admin"]), now)
    gate = Gatekeeper(Access(keys), Limiter(Limits()), Audit(stream=io.StringIO()))
    path = "/v2/systemsharedmemory"
    async with serving(models, shared_memory=True, gate=gate) as server:

        async def ask(token: str, method: str, end: str, **options: Any) -> tuple[int, Any]:
            headers = {"Authorization": f"Bearer {token}"}
            return (await server.ask(method, f"{path}{end}", headers=headers, **options))[:2]

        left = []
        for token in (mine, theirs):
            key = f"/maas-rt-test-{secrets.token_hex(8)}"
            Path(f"/dev/shm{key}").write_bytes(bytes(4096))
            for name in ("one", "two"):
                document = {"key": key, "byte_size": 64}
                assert (await ask(token, "POST", f"/region/{name}/register", json=document))[0] == 200
            assert [each["unlinked"] for each in (await ask(token, "GET", "/status"))[1]] == [False, False]
            Path(f"/dev/shm{key}").unlink()
            left.append(key)
        assert [each["unlinked"] for each in (await ask(mine, "GET", "/status"))[1]] == [True, True]
        assert (await ask(mine, "POST", "/region/one/unregister"))[0] == 200
        assert [each["name"] for each in (await ask(mine, "GET", "/status"))[1]] == ["two"]
        everybody = {"parameters": {"all_clients": True}}
        status, told = await ask(mine, "POST", "/unregister", json=everybody)
        assert status == 403 and "admin on the whole server" in told["error"]
        status, told = await ask(chief, "POST", "/unregister", json={"parameters": {"all_clients": 1}})
        assert status == 400 and '"all_clients" is 1 and must be true or false' in told["error"]
        assert (await ask(chief, "POST", "/unregister"))[0] == 200  # its own: it has none
        assert len((await ask(theirs, "GET", "/status"))[1]) == 2
        assert (await ask(chief, "POST", "/region/one/unregister", json=everybody))[0] == 200
        assert [each["name"] for each in (await ask(theirs, "GET", "/status"))[1]] == ["two"]
        assert (await ask(chief, "POST", "/unregister", json=everybody))[0] == 200
        assert (await ask(mine, "GET", "/status"))[1] == (await ask(theirs, "GET", "/status"))[1] == []
        assert all(_open_files(f"/dev/shm{key} (deleted)") == 0 for key in left)


def test_memory_that_only_the_server_still_has_is_bounded(path: Path, make: Callable[..., Any]) -> None:
    page = os.sysconf("SC_PAGESIZE")
    regions = Regions(unlinked=3 * page)
    for owner, names in (("a", "12"), ("b", "34")):
        path.write_bytes(bytes(2 * page))
        for name in names:  # an object counts once
            regions.register(owner, name, path.name, 0, 64)
        regions.register(owner, f"named {owner}", make(page)._shm_key, 0, 64)  # those that have a name do not
        path.unlink()
    with pytest.raises(ServiceError, match=f"{4 * page} bytes of shared memory are held by regions") as caught:
        regions.register("c", "5", make(64)._shm_key, 0, 64)
    assert caught.value.kind is Kind.OVERLOADED
    regions.unregister("a")
    regions.register("c", "5", make(64)._shm_key, 0, 64)
    regions.unregister(None)
    assert all(regions.told(owner) == [] for owner in "abc")


def test_tensors_without_elements(outline: Outline, make: Callable[..., Any]) -> None:
    """They have a place of no bytes, be it at the end of their region."""
    module, client = outline
    region = make(64)
    client.register_system_shared_memory("in", region._shm_key, 64)
    tensors = []
    for name in ("a", "b"):
        tensors.append(module.InferInput(name, [0, 2], "BYTES"))
        tensors[-1].set_shared_memory("in", 0, offset=64)
    y = module.InferRequestedOutput("y")
    y.set_shared_memory("in", 0, offset=64)
    refused = _refused(client.infer, "strings", tensors, outputs=[y])
    assert "dimension 0" in refused  # which its model says of such tensors in a request, too
    x, _ = _tensors(module, [0, 16], 0, at=64)
    assert "extent 0" in _refused(client.infer, "mlp", [x])
    x, _ = _tensors(module, [0, 16], 0, at=65)
    assert "ends at byte 65 of region 'in'" in _refused(client.infer, "mlp", [x])


@pytest.mark.parametrize(
    ("remote", "is_here"),
    [
        (None, True),
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("::ffff:10.0.0.1", False),
        ("10.0.0.1", False),
        ("192.168.1.5", False),
        ("fe80::1%eth0", False),
        ("2001:db8::1", False),
    ],
)
async def test_only_clients_on_this_machine(models: Path, remote: str | None, is_here: bool) -> None:
    address = network_of(remote)
    assert is_local(address) is is_here
    core: Core = create_app(Repository(models), shared_memory=True)[CORE]
    place = b'{"shared_memory_region": "r", "shared_memory_byte_size": 64}'
    body = b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 16], "parameters": %s}]}' % place
    context = Context(address=address)
    kinds = []
    for call in (core.regions_told, core.cuda_regions_told):
        with pytest.raises(ServiceError) as caught:
            call("r", context)
        kinds.append(caught.value.kind)
    with pytest.raises(ServiceError) as caught:
        await core.register_region("r", "/maas-rt-test-none", 0, 8, context)
    kinds.append(caught.value.kind)
    if not is_here:
        with pytest.raises(ServiceError) as caught:
            await core.unregister_regions("r", context)
        kinds.append(caught.value.kind)
    with pytest.raises(ServiceError) as caught, core.begin("mlp", None, context) as inference:
        await inference.infer(decode_request(body))
    kinds.append(caught.value.kind)
    assert set(kinds) == {Kind.NOT_FOUND if is_here else Kind.FORBIDDEN}
    core.close()


async def test_off_by_default(models: Path) -> None:
    async with serving(models) as server:
        for method, path in (
            ("GET", "systemsharedmemory/status"),
            ("POST", "systemsharedmemory/unregister"),
            ("GET", "systemsharedmemory/region/r/status"),
            ("POST", "systemsharedmemory/region/r/unregister"),
            ("POST", "cudasharedmemory/unregister"),
            ("GET", "cudasharedmemory/status"),
            ("POST", "cudasharedmemory/region/r/register"),
        ):
            status, told, _ = await server.ask(method, f"/v2/{path}")
            assert status == 404 and "start the server with --shared-memory" in told["error"]
        document = {"key": "/x", "byte_size": 8}
        status, told, _ = await server.ask("POST", "/v2/systemsharedmemory/region/r/register", json=document)
        assert status == 404 and "--shared-memory" in told["error"]
        place = {"shared_memory_region": "r", "shared_memory_byte_size": 64}
        data = {"name": "x", "datatype": "FP32", "shape": [1, 16]}
        lies = {"inputs": [{**data, "parameters": place}]}
        goes = {"inputs": [{**data, "data": [0.0] * 16}], "outputs": [{"name": "y", "parameters": place}]}
        for document, what in ((lies, "input 'x' lies in"), (goes, "output 'y' is to go to")):
            status, told, _ = await server.ask("POST", "/v2/models/mlp/infer", json=document)
            assert status == 400 and f"{what} shared memory, and that is off" in told["error"]
        told = (await server.ask("GET", "/v2"))[1]
        assert "system_shared_memory" not in told["extensions"]
