"""Several workers: what one of them dies of is nobody else's, what is asked of one holds for all, and they share what they load."""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import re
import resource
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maas_rt._cli import main
from maas_rt._errors import InvalidArgumentError
from maas_rt.service import _supervisor, serve
from maas_rt.service._listen import Listen
from maas_rt.service._sealed import is_offered
from maas_rt.service._statistics import Statistics, summed
from maas_rt.service._supervisor import Patience
from tests import _tiny
from tests.service._versions import times

pytestmark = pytest.mark.skipif(
    not is_offered(), reason="workers share files in memory, which this system does not have"
)
_IMPATIENT = """
import sys
from maas_rt._cli import main
from maas_rt.service import _supervisor
from maas_rt.service._supervisor import Patience
_supervisor.Patience = lambda: Patience({})
sys.exit(main(sys.argv[1:]))
"""
_LONG = 180.0  # seconds after which something hangs, however busy the machine is
_REST = 0.002  # seconds
_BODY = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1.0, 1.0, 1.0, 1.0]}]})


class Server:
    """`maas-rt serve` in a process of its own."""

    def __init__(self, folder: Path, *options: str, before: tuple[str, ...] = (), patience: str = "") -> None:
        program = ["-c", _IMPATIENT.format(patience)] if patience else ["-m", "maas_rt"]
        command = [*before, sys.executable, *program, "serve", str(folder), "--port", "0", "--host", "127.0.0.1"]
        command += ["--grpc-port", "off"] if "--grpc-port" not in options else []
        self.process = subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True)
        self.lines: list[str] = []
        self.port = 0
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        until(lambda: self.port or self.process.poll() is not None)

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            found = re.search(r"listening on http://127.0.0.1:(\d+)/v2", line)
            if found:
                self.port = int(found[1])

    def ask(self, method: str, path: str, document: object = None) -> tuple[int, Any]:
        """On a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_LONG)
        try:
            connection.request(method, path, None if document is None else json.dumps(document))
            answer = connection.getresponse()
            body = answer.read()
            return answer.status, json.loads(body) if "json" in answer.headers["Content-Type"] else body.decode()
        finally:
            connection.close()

    def everywhere(self, path: str) -> Any:
        """What all of a number of connections are told: so many that each worker has one in all likelihood."""
        told = [self.ask("GET", path) for _ in range(16)]
        assert all(each == told[0] for each in told), told
        return told[0]

    def metric(self, name: str) -> dict[str, float]:
        """The samples of a name, by what is in the braces."""
        found = re.findall(rf"^{name}(?:{{(.*)}})? (\S+)$", self.ask("GET", "/metrics")[1], re.MULTILINE)
        return {labels: float(value) for labels, value in found}

    def workers(self) -> list[int]:
        """Their process ids."""
        pid = self.process.pid
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def end(self) -> int:
        """Its exit status."""
        self.process.terminate()
        return self.ended()

    def kill(self) -> None:
        """Ends it, and its workers, at once."""
        workers = self.workers()
        self.process.kill()
        for each in workers:  # who would take their time to end
            with suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)
        self.ended()

    def ended(self) -> int:
        """The same, where it ends of itself."""
        status = self.process.wait(_LONG)
        self._reader.join()
        return status


def until(condition: Callable[[], object], seconds: float = _LONG) -> None:
    """Waits until something is so. A question that a dying worker has taken along is asked again."""
    end = time.monotonic() + seconds
    while True:
        with suppress(ConnectionError, http.client.HTTPException):
            if condition():
                return
        assert time.monotonic() < end, "it does not come to be"
        time.sleep(0.005)


@contextmanager
def serving(
    folder: Path, *options: str, workers: int = 2, before: tuple[str, ...] = (), patience: str = ""
) -> Iterator[Server]:
    """`patience`: arguments of the supervisor's."""
    server = Server(folder, "--workers", str(workers), *options, before=before, patience=patience)
    try:
        assert server.port, server.lines
        yield server
    finally:
        if server.process.poll() is None:
            server.kill()


class Clients:
    """Threads that ask model `m` on connections that stay, and try nothing again. They rest between two requests: what else goes on needs the CPUs, too."""

    def __init__(self, server: Server, number: int = 6) -> None:
        self.answers: list[tuple[float, str]] = []  # when it was asked, by time.monotonic, and which version it is of
        self.failures: list[str] = []
        self.refused = 0  # connections, after the server has stopped to listen
        self._server = server
        self._stop = False
        self._threads = [threading.Thread(target=self._run) for _ in range(number)]
        for each in self._threads:
            each.start()

    def __enter__(self) -> Clients:
        until(lambda: len(self.answers) > 100)
        return self

    @property
    def versions(self) -> list[str]:
        """Of all answers."""
        return [version for _, version in self.answers]

    def __exit__(self, *_: object) -> None:
        self._stop = True
        for each in self._threads:
            each.join()

    def _run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._server.port, timeout=_LONG)
        while not self._stop:
            time.sleep(_REST)
            try:
                if connection.sock is None:
                    connection.connect()
            except ConnectionRefusedError:
                self.refused += 1
                return
            try:
                asked = time.monotonic()
                connection.request("POST", "/v2/models/m/infer", _BODY, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                document = json.loads(answer.read())
                if answer.status == 200:
                    assert document["outputs"][0]["data"] == [float(document["model_version"])] * 4
                    self.answers.append((asked, document["model_version"]))
                else:
                    self.failures.append(document["error"])
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))
                connection.close()
        connection.close()


@pytest.fixture
def models(tmp_path: Path) -> Path:
    put(tmp_path / "models", 1)
    return tmp_path / "models"


@pytest.fixture(scope="module")
def for_many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for tests that leave it as they find it, each with a model of its own: a start takes most of a test's time."""
    folder = tmp_path_factory.mktemp("models")
    for name in ("m", "counted"):
        (folder / f"{name}.mrt").write_bytes(times(1))
    for name in ("sum", "lost", "streamed"):
        (folder / f"{name}.mrt").write_bytes(_tiny.accumulator())
    options = ("--grpc-port", "0") if importlib.util.find_spec("grpc") else ()
    with serving(folder, "--shared-memory", *options, workers=3) as server:
        yield server


@pytest.fixture
def server(for_many: Server) -> Server:
    """It, when all of its workers are there."""
    until(lambda: sum(for_many.metric("maas_rt_worker_up").values()) == 3)
    return for_many


def killed(server: Server, worker: int) -> None:
    """A worker dies, and another takes its place."""
    restarts = sum(server.metric("maas_rt_worker_restarts_total").values())
    os.kill(worker, signal.SIGKILL)
    until(lambda: sum(server.metric("maas_rt_worker_restarts_total").values()) == restarts + 1)
    until(lambda: server.ask("GET", "/v2/health/ready")[0] == 200)


def put(folder: Path, version: int, data: bytes | None = None) -> Path:
    """A version of `m`, whose answers are its number; it appears whole."""
    path = folder / "m" / str(version) / "model.mrt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".part").write_bytes(times(version) if data is None else data)
    path.with_suffix(".part").rename(path)
    return path


def test_a_worker_that_is_killed_takes_its_own_requests_along_and_comes_back(models: Path) -> None:
    with serving(models, "--watch", "0.2", workers=2) as server:
        before = server.workers()
        assert len(before) == 2
        totals, is_over, not_ready = [0.0], threading.Event(), []

        def watch() -> None:
            while not is_over.is_set():
                with suppress(ConnectionError, http.client.HTTPException):
                    totals.append(sum(server.metric("maas_rt_requests_total").values()))
                    not_ready.append(server.ask("GET", "/v2/health/ready")[0] == 503)

        with Clients(server, 6) as clients:
            for turn in range(2):  # the leader, then the one that has followed it
                watching = threading.Thread(target=watch)
                watching.start()
                os.kill(before[turn], signal.SIGKILL)
                until(lambda turn=turn: sum(server.metric("maas_rt_worker_restarts_total").values()) == turn + 1)
                until(lambda: sum(server.metric("maas_rt_worker_up").values()) == 2)
                is_over.set()
                watching.join()
                is_over.clear()
                asked = len(clients.versions)
                until(lambda asked=asked: len(clients.versions) > asked + 100)
            failures = list(clients.failures)
        assert len(failures) <= 2 * 6, failures  # one of each client at each death, at most
        assert any(not_ready) and server.ask("GET", "/v2/health/ready")[0] == 200
        assert totals == sorted(totals)
        until(lambda: sum(server.metric("maas_rt_requests_in_flight").values()) == 0)
        counted = server.metric("maas_rt_requests_total")['model="m",version="1"']
        assert len(clients.versions) <= counted <= len(clients.versions) + len(failures)
        assert set(server.workers()).isdisjoint(before) and len(server.workers()) == 2
        put(models, 2)  # somebody looks at the folder still
        until(lambda: server.ask("GET", "/v2/models/m/versions/2/ready")[0] == 200)
        assert server.end() == 0
        assert any("worker 0 has died (signal 9) and is started again" in line for line in server.lines)


def test_what_one_worker_is_asked_to_change_holds_for_all_and_for_those_that_come_later(models: Path) -> None:
    put(models, 2)
    (models / "other.mrt").write_bytes(times(1))
    with serving(models) as server:
        assert server.ask("POST", "/v2/repository/models/m/labels/production", {"version": "1"})[0] == 200
        assert server.everywhere("/v2/models/m/versions/production/ready")[1]["version"] == "1"
        for _ in range(4):
            assert server.ask("POST", "/v2/repository/models/m/labels/production", {"version": "2"})[0] == 200
            assert server.everywhere("/v2/repository/models/m/labels") == (200, {"production": "2"})
            assert server.ask("POST", "/v2/repository/models/m/labels/production/rollback")[0] == 200
            assert server.everywhere("/v2/repository/models/m/labels") == (200, {"production": "1"})
        assert server.ask("POST", "/v2/repository/models/other/unload")[0] == 200
        assert server.ask("POST", "/v2/models/m/trace/setting", {"trace_rate": "7"})[1]["trace_rate"] == "7"
        assert server.ask("POST", "/v2/logging", {"log_info": False})[0] == 200
        # A bad file in the place of one that is served, which nobody has asked for yet.
        (models / "m" / "2" / "model.mrt").write_bytes(b"junk")
        for _ in range(2):
            assert server.everywhere("/v2/models/other/ready")[0] == 503
            assert server.everywhere("/v2/models/m/trace/setting")[1]["trace_rate"] == "7"
            assert server.everywhere("/v2/logging")[1]["log_info"] is False
            assert server.everywhere("/v2/models/m/versions/2/ready")[0] == 200
            index = server.everywhere("/v2/repository/index")[1]
            for worker in server.workers():
                os.kill(worker, signal.SIGKILL)
                until(lambda worker=worker: worker not in server.workers())
            until(lambda: server.ask("GET", "/v2/health/ready")[0] == 200)
            assert server.everywhere("/v2/repository/index")[1] == index
        status, document = server.ask("POST", "/v2/repository/models/m/load")
        assert status == 400 and "m/2/model.mrt" in document["error"]
        assert server.everywhere("/v2/models/m/versions/2/ready")[0] == 200
        assert server.ask("POST", "/v2/repository/models/nobody/load")[0] == 404
        assert server.ask("POST", "/v2/repository/models/m/labels/production", {"version": "9"})[0] == 404
        assert server.ask("POST", "/v2/logging", {"log_info": 3})[0] == 400
        put(models, 2), put(models, 3)
        assert server.ask("POST", "/v2/repository/models/m/load")[0] == 200
        assert server.everywhere("/v2/models/m/versions/3/ready")[0] == 200
        assert server.ask("POST", "/v2/repository/models/other/load")[0] == 200
        assert server.everywhere("/v2/models/other/ready")[0] == 200


def test_regions_of_shared_memory_are_those_of_all_workers(server: Server) -> None:
    """An object goes to the workers as an open file: one that its client has unlinked by its name is known to those that come later, too."""
    path = Path(f"/dev/shm/maas-rt-test-{secrets.token_hex(8)}")
    where = "/v2/systemsharedmemory/region/r"
    place = {"shared_memory_region": "r", "shared_memory_byte_size": 16}
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 4], "parameters": place}
    output = {"name": "y", "parameters": {**place, "shared_memory_offset": 16}}
    try:
        path.write_bytes(np.arange(4, dtype=np.float32).tobytes() + bytes(16))
        assert server.ask("POST", f"{where}/register", {"key": "/nope", "byte_size": 32})[0] == 404
        assert server.ask("POST", f"{where}/register", {"key": path.name, "byte_size": 32})[0] == 200
        memory = path.open("r+b")
    finally:
        path.unlink(missing_ok=True)

    def check() -> None:
        told = [{"name": "r", "key": path.name, "offset": 0, "byte_size": 32, "unlinked": True}]
        assert server.everywhere(f"{where}/status") == (200, told)
        for _ in range(16):
            memory.seek(16)
            memory.write(bytes(16))
            memory.flush()
            found = server.ask("POST", "/v2/models/m/infer", {"inputs": [tensor], "outputs": [output]})
            assert found[0] == 200 and "data" not in found[1]["outputs"][0], found
            memory.seek(16)
            assert np.frombuffer(memory.read(), np.float32).tolist() == [0, 1, 2, 3]

    with memory:
        check()
        assert server.ask("POST", f"{where}/register", {"key": "/nope", "byte_size": 32})[0] == 400  # it is there
        for worker in server.workers():
            os.kill(worker, signal.SIGKILL)
            until(lambda worker=worker: worker not in server.workers())
        until(lambda: server.ask("GET", "/v2/health/ready")[0] == 200)
        check()
        assert server.ask("POST", f"{where}/unregister")[0] == 200
        assert server.everywhere("/v2/systemsharedmemory/status") == (200, [])
        assert server.ask("POST", "/v2/models/m/infer", {"inputs": [tensor]})[0] == 404
        # Nobody has the object open any more but this test.
        name, mine = os.readlink(f"/proc/self/fd/{memory.fileno()}"), [server.process.pid, *server.workers()]
        links = [os.readlink(each) for pid in mine for each in Path(f"/proc/{pid}/fd").iterdir() if each.is_symlink()]
        assert name not in links and any("socket:" in each for each in links)


def test_versions_change_under_load_in_all_workers(models: Path) -> None:
    with serving(models, "--watch", "0.1") as server, Clients(server) as clients:
        for version in (2, 3):
            put(models, version)
            until(lambda version=version: clients.versions[-1] == str(version))
        assert server.ask("POST", "/v2/repository/models/m/labels/production", {"version": "1"})[0] == 200
        moved, at = time.monotonic(), len(clients.answers)
        until(lambda: len(clients.answers) > at + 200)
        assert {version for asked, version in clients.answers if asked > moved} == {"1"}
        assert not clients.failures
    assert set(clients.versions) == {"1", "2", "3"}


def test_a_pipeline_follows_its_models_in_all_workers(models: Path) -> None:
    config = models / "p" / "config.toml"
    config.parent.mkdir()
    config.write_text(
        '[[pipeline.step]]\nname = "one"\nmodel = "m"\ninputs = {x = "x"}\n[pipeline.outputs]\ny = "one.y"\n'
    )
    with serving(models) as server:
        assert _everyone(server, "p") == 1.0
        put(models, 2)
        assert server.ask("POST", "/v2/repository/models/m/load")[0] == 200
        assert _everyone(server, "p") == 2.0
        assert server.ask("POST", "/v2/repository/models/p/unload")[0] == 200
        assert server.everywhere("/v2/models/p/ready")[0] == 503
        for worker in server.workers():
            os.kill(worker, signal.SIGKILL)
            until(lambda worker=worker: worker not in server.workers())
        until(lambda: server.ask("GET", "/v2/health/ready")[0] == 200)
        assert server.everywhere("/v2/models/p/ready")[0] == 503
        assert server.ask("POST", "/v2/repository/models/p/load")[0] == 200
        assert _everyone(server, "p") == 2.0


def _everyone(server: Server, model: str) -> float:
    """What all workers answer."""
    told = {
        json.dumps(server.ask("POST", f"/v2/models/{model}/infer", json.loads(_BODY))[1]["outputs"]) for _ in range(16)
    }
    assert len(told) == 1, told
    return float(json.loads(told.pop())[0]["data"][0])


def test_an_end_loses_no_request_and_another_signal_ends_the_delay(models: Path) -> None:
    with serving(models, "--drain-delay", "0.5") as server:
        with Clients(server) as clients:
            server.process.terminate()
            assert server.ended() == 0
            until(lambda: clients.refused == 6)
        assert not clients.failures
    with serving(models, "--drain-delay", "300") as server:
        workers = server.workers()
        server.process.terminate()
        until(lambda: all(server.ask("GET", "/v2/health/ready")[0] == 503 for _ in range(16)))
        assert server.ask("GET", "/v2/models/m/ready")[0] == 200
        server.process.send_signal(signal.SIGINT)
        assert server.ended() == 0
    assert not any(Path(f"/proc/{each}").exists() for each in workers)


def test_workers_go_with_the_process_that_watches_over_them(models: Path, tmp_path: Path) -> None:
    with serving(models, "--drain-delay", "300", "--unix", str(tmp_path / "s")) as server:
        workers = server.workers()
        server.process.kill()
        until(lambda: not any(_is_alive(each) for each in workers))
        server.ended()


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_unix_socket_is_there_until_the_end(models: Path, tmp_path: Path) -> None:
    path = tmp_path / "s"
    with serving(models, "--unix", str(path), "--drain-delay", "300") as server:
        server.process.terminate()
        until(lambda: all(server.ask("GET", "/v2/health/ready")[0] == 503 for _ in range(16)))
        assert path.is_socket()
        server.process.terminate()
        assert server.ended() == 0
    assert not path.exists()


def test_weights_are_in_memory_once(tmp_path: Path) -> None:
    size = 32 << 20
    (tmp_path / "large.mrt").write_bytes(_large(size))
    with serving(tmp_path, workers=3) as server:
        body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1024], "data": [0.0] * 1024}]}
        for _ in range(24):  # so that each worker has read them
            assert server.ask("POST", "/v2/models/large/infer", body)[0] == 200
        maps = [_memory(pid) for pid in server.workers()]
    assert sum(model for model, _ in maps) < 1.1 * size
    assert all(own < 0.1 * size for _, own in maps), maps


def _large(size: int) -> bytes:
    """x [1, 1024] -> y [1, 1024], with weights of so many bytes."""
    b = _tiny.Builder("large")
    x = b.input("x", [1, 1024])
    for number in range(size >> 22):
        y = b.value(f"y{number}", [1, 1024])
        b.gemm(x, np.full((1024, 1024), number, np.float32), y)
        x = y
    return b.file(x)


def _memory(pid: int) -> tuple[float, float]:
    """Bytes of models: this process's part of those that it shares, and those that are its own."""
    shared = own = 0
    for block in re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", Path(f"/proc/{pid}/smaps").read_text(), flags=re.MULTILINE):
        if "memfd:maas-rt model" in block.partition("\n")[0]:
            sizes = {name: int(value) << 10 for name, value in re.findall(r"^(\w+): +(\d+) kB$", block, re.MULTILINE)}
            shared += sizes["Pss"]
            own += sizes["Private_Dirty"] + sizes["Swap"]
    return shared, own


def test_a_worker_that_cannot_follow_is_told_of_and_another_takes_its_place(models: Path) -> None:
    with serving(models, "--drain-delay", "300") as server:
        leader, follower = server.workers()
        pages = int(Path(f"/proc/{follower}/statm").read_text().split()[0])
        room = pages * resource.getpagesize() + (24 << 20)  # and no more of addresses
        resource.prlimit(follower, resource.RLIMIT_AS, (room, resource.RLIM_INFINITY))
        (models / "large.mrt").write_bytes(_large(64 << 20))
        status, document = server.ask("POST", "/v2/repository/models/large/load")
        assert status == 500 and "worker 1 could not follow, and is started again: " in document["error"]
        until(lambda: follower not in server.workers())  # at once, with requests that it should answer otherwise
        until(lambda: sum(server.metric("maas_rt_worker_up").values()) == 2)
        assert server.everywhere("/v2/models/large/ready")[0] == 200 and leader in server.workers()


def test_statistics_are_sums(server: Server) -> None:
    for _ in range(24):
        assert server.ask("POST", "/v2/models/counted/infer", json.loads(_BODY))[0] == 200
    for path in ("counted/stats", "counted/versions/1/stats", "stats"):
        found = server.everywhere(f"/v2/models/{path}")[1]["model_stats"]
        (told,) = (each for each in found if each["name"] == "counted")
        assert (told["inference_count"], told["execution_count"]) == (24, 24)
        assert told["inference_stats"]["success"]["count"] == 24 and told["inference_stats"]["success"]["ns"] > 0
        (batch,) = told["batch_stats"]
        assert batch["batch_size"] == 1 and batch["compute_infer"]["count"] == 24
    victim = server.workers()[1]
    os.kill(victim, signal.SIGSTOP)  # who waits for a worker that dies is told the rest
    told: list[int] = []

    def look() -> None:
        with suppress(OSError, http.client.HTTPException):  # it was the one that was asked
            told.append(server.ask("GET", "/v2/models/counted/stats")[0])

    asking = [threading.Thread(target=look) for _ in range(6)]
    for each in asking:
        each.start()
    killed(server, victim)
    for each in asking:
        each.join()
    assert set(told) == {200}


def test_statistics_are_added_up_by_version_and_batch_size() -> None:
    first, second, gone = Statistics(), Statistics(), Statistics()
    first.executed(1, 10), first.executed(2, 20), second.executed(2, 5), second.executed(4, 7), gone.executed(1, 1)
    first.failed(3), second.failed(4)
    (told,) = summed([first.told("m", "1")], [second.told("m", "1"), gone.told("m", "2")])
    assert (told["inference_count"], told["execution_count"]) == (9, 4)
    assert told["inference_stats"]["fail"] == {"count": 2, "ns": 7}
    assert [(each["batch_size"], each["compute_infer"]) for each in told["batch_stats"]] == [
        (1, {"count": 1, "ns": 10}),
        (2, {"count": 2, "ns": 25}),
        (4, {"count": 1, "ns": 7}),
    ]
    assert told.keys() == first.told("m", "1").keys() and summed([], [told]) == []


def _ready(server: Server) -> set[str]:
    """The models that are loaded in any worker."""
    told = [server.ask("GET", "/v2/repository/index")[1] for _ in range(16)]
    return {entry["name"] for index in told for entry in index if entry["state"] == "READY"}


def test_memory_is_of_all_workers(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / f"{name}.mrt").write_bytes(_large(12 << 20))
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1024], "data": [0.0] * 1024}]}

    def ask(name: str) -> bool:
        status, document = server.ask("POST", f"/v2/models/{name}/infer", body)
        assert status == 200 or (status == 503 and "loaded" in document["error"]), document
        return status == 200

    with serving(tmp_path, "--memory", "28") as server:
        assert _ready(server) == {"a", "b"}
        for name, gone in (("c", "a"), ("a", "b"), ("b", "c")):
            until(lambda name=name: ask(name))
            until(lambda name=name: all(ask(name) for _ in range(16)))  # the others have it, too
            assert _ready(server) == set("abc") - {gone}
            held = [_memory(pid) for pid in server.workers()]
            assert sum(shared for shared, _ in held) < 28 << 20, held
        os.kill(server.workers()[0], signal.SIGKILL)  # the leader
        until(lambda: sum(server.metric("maas_rt_worker_restarts_total").values()) == 1)
        until(lambda: sum(server.metric("maas_rt_worker_up").values()) == 2)
        assert _ready(server) == {"a", "b"}
        until(lambda: all(ask("c") for _ in range(16)))
        assert len(_ready(server)) == 2 and server.end() == 0


def test_what_no_worker_is_asked_for_is_unloaded_in_all_and_comes_back(sums: Path) -> None:
    (sums / "m.mrt").write_bytes(times(1))
    with serving(sums, "--idle-unload", "0.5") as server:
        until(lambda: _step(server, 1, sequence_start=True)[0] == 200)  # who holds it keeps it loaded everywhere
        until(lambda: _ready(server) == {"sum"})
        assert server.ask("GET", "/v2/health/ready")[0] == 200
        until(lambda: server.ask("POST", "/v2/models/m/infer", json.loads(_BODY))[0] == 200)
        assert _step(server, 1, sequence_end=True) == (200, 12.0)
        until(lambda: _ready(server) == set())
        until(lambda: server.ask("POST", "/v2/models/m/infer", json.loads(_BODY))[0] == 200)
        assert server.end() == 0


def test_limits_of_a_client_are_those_of_all_workers(models: Path) -> None:
    with serving(models, "--rate", "0.001", "--burst", "6") as server:
        told = [server.ask("GET", "/v2")[0] for _ in range(24)]
        assert sorted(told) == [200] * 6 + [429] * 18


def test_connections_are_spread(models: Path) -> None:
    with serving(models) as server:
        workers = server.workers()
        before = [_sockets(each) for each in workers]
        connections = [http.client.HTTPConnection("127.0.0.1", server.port) for _ in range(32)]
        for each in connections:
            each.connect()
        until(lambda: sum(map(_sockets, workers)) - sum(before) == 32)
        assert min(_sockets(each) - was for each, was in zip(workers, before)) >= 4
        for each in connections:
            each.close()


def _sockets(pid: int) -> int:
    return sum(os.readlink(each).startswith("socket:") for each in Path(f"/proc/{pid}/fd").iterdir())


def _step(server: Server, identifier: int | str, model: str = "sum", **more: Any) -> tuple[int, Any]:
    """A request of a sequence, on a connection of its own: the status, and the sum so far or why there is none."""
    inputs = [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1.0] * 4}]
    parameters = {"sequence_id": identifier, **more}
    status, document = server.ask("POST", f"/v2/models/{model}/infer", {"inputs": inputs, "parameters": parameters})
    return status, document["outputs"][0]["data"][0] if status == 200 else document["error"]


@pytest.fixture
def sums(tmp_path: Path) -> Path:
    """The model "sum", whose sum begins at 10."""
    (tmp_path / "sum.mrt").write_bytes(_tiny.accumulator())
    return tmp_path


def test_requests_of_a_sequence_come_to_the_worker_that_holds_it(server: Server) -> None:
    assert "sequence" in server.everywhere("/v2")[1]["extensions"]
    names: list[int | str] = [*range(1, 13), *(f"s{number}" for number in range(12))]
    for name in names:
        assert _step(server, name, sequence_start=True) == (200, 11.0)
    for turn in range(2, 5):
        for name in names:
            assert _step(server, name) == (200, 10.0 + turn)
    for name in names:
        assert _step(server, name, sequence_end=True) == (200, 15.0)
        status, why = _step(server, name)
        assert status == 400 and "has not begun, has ended or was idle too long" in why
    asked, refused = 5 * len(names), len(names)
    (told,) = server.everywhere("/v2/models/sum/stats")[1]["model_stats"]
    assert told["execution_count"] == told["inference_stats"]["success"]["count"] == asked
    assert told["inference_stats"]["fail"]["count"] == refused
    for name, number in (
        ("requests_total", asked + refused),
        ("errors_total", refused),
        ("batch_size_count", asked),
        ("requests_in_flight", 0),
    ):
        samples = server.metric(f"maas_rt_{name}")
        assert sum(value for labels, value in samples.items() if 'model="sum"' in labels) == number, (name, samples)


def test_a_sequence_goes_with_its_worker_and_is_never_another_one(server: Server) -> None:
    def step(name: int, **more: Any) -> tuple[int, Any]:
        return _step(server, name, "lost", **more)

    names = list(range(1, 33))
    for name in names:
        assert step(name, sequence_start=True) == (200, 11.0)
    restarts = sum(server.metric("maas_rt_worker_restarts_total").values())
    first, *_, last = server.workers()
    os.kill(last, signal.SIGKILL)
    until(lambda: sum(server.metric("maas_rt_worker_restarts_total").values()) == restarts + 1)
    told = {name: step(name) for name in names}  # while it is away, most likely
    lost = [name for name, (status, _) in told.items() if status == 400]
    assert 0 < len(lost) < len(names)
    assert all("has not begun, has ended or was idle too long" in told[name][1] for name in lost)
    assert all(told[name] == (200, 12.0) for name in names if name not in lost)
    for name in lost:
        until(lambda name=name: step(name, sequence_start=True) == (200, 11.0))  # 503 until it is back
    assert all(step(name) == (200, 12.0 if name in lost else 13.0) for name in names)
    killed(server, first)
    again = [name for name in names if step(name)[0] == 400]
    assert again and not set(again) & set(lost)


def test_an_end_loses_no_request_of_a_sequence(sums: Path) -> None:
    """A worker stays until no other one has anything to ask of it."""
    told: list[tuple[int, Any]] = []

    def go_on(name: int) -> None:
        inputs = [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1.0] * 4}]
        body = {"inputs": inputs, "parameters": {"sequence_id": name}}
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=_LONG)
        for turn in range(2, 1_000_000):
            try:
                connection.request("POST", "/v2/models/sum/infer", json.dumps(body))
            except ConnectionRefusedError:
                return
            answer = connection.getresponse()
            found = json.loads(answer.read())
            if answer.status != 200 or found["outputs"][0]["data"][0] != 10.0 + turn:
                told.append((answer.status, found))
                return

    with serving(sums, "--drain-delay", "0.5") as server:
        for name in range(1, 9):
            assert _step(server, name, sequence_start=True) == (200, 11.0)
        clients = [threading.Thread(target=go_on, args=(name,)) for name in range(1, 9)]
        for each in clients:
            each.start()
        until(lambda: sum(server.metric("maas_rt_requests_total").values()) > 100)
        assert server.end() == 0
        for each in clients:
            each.join()
        assert not told


def test_a_worker_that_hangs_is_ended_and_another_takes_its_place(sums: Path) -> None:
    with serving(sums, patience="look=0.25, silent=3.0") as server:
        names = range(1, 17)
        for name in names:
            assert _step(server, name, sequence_start=True) == (200, 11.0)
        before = server.workers()
        os.kill(before[1], signal.SIGSTOP)
        told: list[tuple[int, Any]] = []
        asking = [threading.Thread(target=lambda name=name: told.append(_asked(server, name))) for name in names]
        for each in asking:
            each.start()
        until(lambda: before[1] not in server.workers())
        for each in asking:
            each.join()
        until(lambda: sum(server.metric("maas_rt_worker_up").values()) == 2)
        assert {status for status, _ in told} <= {0, 200, 400} and (200, 12.0) in told
        assert all("has not begun" in why for status, why in told if status == 400)
        assert any("worker 1 has done nothing for 3 seconds: it is ended" in line for line in server.lines)
        assert before[0] in server.workers() and server.end() == 0


def _asked(server: Server, name: int) -> tuple[int, Any]:
    """The same; 0 for a request that its worker has taken along."""
    try:
        return _step(server, name)
    except (OSError, http.client.HTTPException) as error:
        return 0, repr(error)


def test_sequences_in_a_stream_of_grpc(server: Server) -> None:
    grpc = pytest.importorskip("grpc", reason="the extra grpc is not installed")
    from maas_rt.service._grpc_messages import INFERENCE, MESSAGES

    def request(name: int, **more: bool) -> bytes:
        message = MESSAGES["ModelInferRequest"](model_name="streamed", id=str(name))
        message.parameters["sequence_id"].int64_param = name
        for key, value in more.items():
            message.parameters[key].bool_param = value
        message.inputs.add(name="x", datatype="FP32", shape=[1, 4])
        message.raw_input_contents.append(np.ones(4, np.float32).tobytes())
        return bytes(message.SerializeToString())

    names = range(1, 9)
    until(lambda: any("(gRPC)" in line for line in server.lines))
    (port,) = re.findall(r"grpc://127.0.0.1:(\d+)", "".join(server.lines))
    asked = [request(name, sequence_start=True) for name in names]
    asked += [request(name) for _ in range(6) for name in names]
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        told = list(channel.stream_stream(f"/{INFERENCE}/ModelStreamInfer")(iter(asked), timeout=_LONG))
        answers = [MESSAGES["ModelStreamInferResponse"].FromString(each) for each in told]
        one = channel.unary_unary(f"/{INFERENCE}/ModelInfer")
        lasts = [one(request(name, sequence_end=True), timeout=_LONG) for name in names]
        with pytest.raises(grpc.RpcError) as caught:
            one(request(3), timeout=_LONG)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT and "has not begun" in caught.value.details()
    for name in names:
        own = [each.infer_response for each in answers if each.infer_response.id == str(name)]
        sums_so_far = [np.frombuffer(each.raw_output_contents[0], np.float32)[0] for each in own]
        assert sums_so_far == [11.0 + turn for turn in range(7)]
    found = [MESSAGES["ModelInferResponse"].FromString(each).raw_output_contents[0] for each in lasts]
    assert all(np.frombuffer(each, np.float32)[0] == 18.0 for each in found)


def test_grpc_is_answered_by_all_workers(server: Server, models: Path) -> None:
    grpc = pytest.importorskip("grpc", reason="the extra grpc is not installed")
    health = pytest.importorskip("grpc_health.v1.health_pb2_grpc", reason="grpcio-health-checking is not installed")
    from grpc_health.v1.health_pb2 import HealthCheckRequest

    def status(port: int) -> int:
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(f"127.0.0.1:{port}", options) as channel:
            found: int = health.HealthStub(channel).Check(HealthCheckRequest(), timeout=_LONG).status
            return found

    until(lambda: any("(gRPC)" in line for line in server.lines))
    (port,) = re.findall(r"grpc://127.0.0.1:(\d+)", "".join(server.lines))
    assert {status(int(port)) for _ in range(8)} == {1}
    killed(server, server.workers()[0])
    assert {status(int(port)) for _ in range(8)} == {1}
    assert main(["serve", str(models), "--port", "0", "--host", "127.0.0.1", "--grpc-port", port, "--check"]) == 1


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("unshare") is None, reason="a new process 1 needs root and unshare"
)
def test_process_1_ends_when_it_is_told_and_buries_what_is_left_to_it(models: Path) -> None:
    before = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child=KILL")
    probe = subprocess.run([*before, "true"], capture_output=True)
    if probe.returncode:
        pytest.skip("no new process 1 can be made here")
    with serving(models, before=before) as server:
        (first,) = server.workers()  # unshare's own child: process 1 of its own world
        outer = Path(f"/proc/{first}/task/{first}/children")
        orphan = ["nsenter", "-t", str(first), "-p", "-m", "sh", "-c", "sleep 0.1 & echo $!"]
        subprocess.run(orphan, check=True, capture_output=True)
        until(lambda: len(outer.read_text().split()) == 2)
        os.kill(first, signal.SIGTERM)
        assert server.ended() == 0


# ---- what does not start


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--workers", "-3"], "'-3' is no number of workers; expected 0 to 1024"),
        (["--workers", "2000"], "'2000' is no number of workers"),
        (["--workers", "two"], "'two' is no number of workers"),
    ],
)
def test_what_is_no_number_of_workers(
    models: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    with pytest.raises(SystemExit):
        main(["serve", str(models), *options])
    assert said in capsys.readouterr().err


def test_workers_below_none(models: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="workers is -1 and must be"):
        serve(str(models), workers=-1)


def test_what_a_worker_cannot_serve_is_told_in_one_sentence(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "junk.mrt").write_bytes(b"junk")
    assert main(["serve", str(tmp_path), "--port", "0", "--grpc-port", "off", "--workers", "2"]) == 1
    said = capfd.readouterr().err
    assert "maas-rt serve: error: " in said and "junk.mrt" in said and "Traceback" not in said


def test_workers_that_die_at_once_are_given_up(
    models: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_supervisor, "_PROGRAM", "import sys; sys.exit(3)")
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(_supervisor, "Patience", lambda: Patience(3, 0.01))
    assert serve(str(models), listen=Listen(port=0), workers=2) == 1
    assert "has died (status 3) and is started again" in caplog.text
    assert "has failed 3 times before it could answer: the server ends" in caplog.text
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_check_starts_no_worker(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", str(models), "--port", "0", "--grpc-port", "off", "--workers", "3", "--check"]) == 0
    assert "would start 3 workers" in capsys.readouterr().err
