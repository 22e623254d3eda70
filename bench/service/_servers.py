"""The servers: how each is started for a model, what requests it takes, and what its processes spend.

Every one is as its documentation starts it, with one worker process and one thread of inference, so that what is compared is the way from
bytes to bytes; ours has its access rules, limits, ids and metrics on, as it has for strangers.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bench import _environments
from bench._harness import ROOT
from bench.service import _grpc, _requests, _wrk
from bench.service._models import WORK, Case
from bench.service._wrk import Outcome

HERE = Path(__file__).resolve().parent
_START_SECONDS = 180.0
_TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Start:
    """A server's command; `path` is what requests of `form` are sent to (_requests.write), `grpc` the port of those over gRPC."""

    command: list[str]
    path: str
    grpc: int = 0
    environment: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Kind:
    """A server. `forms`: what it takes; `package`: whose version is told, and in which environment it is."""

    name: str
    forms: tuple[str, ...]
    start: Callable[[Case, int, Path], Start]
    package: str | None = None


def _ours(case: Case, port: int, folder: Path, config: str = "") -> Start:
    from maas_rt.service._grants import read_grants
    from maas_rt.service._keys import new_key

    model, keys = folder / "models" / case.name, folder / "keys.json"
    (model / "1").mkdir(parents=True)
    shutil.copy(case.folder / "model.mrt", model / "1" / "model.mrt")
    (model / "config.toml").write_text(config)
    token = new_key(keys, "bench", read_grants(["infer", "read", "metrics"]), time.time_ns(), None)
    command = [
        sys.executable,
        "-m",
        "maas_rt",
        "serve",
        str(folder / "models"),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    command += ["--threads", "1", "--keys", str(keys), "--rate", "1000000", "--in-flight", "1000"]
    command += ["--grpc-port", str(grpc := _free_port())]
    return Start(command, f"/v2/models/{case.name}/infer", grpc, headers={"Authorization": f"Bearer {token}"})


def _batching(case: Case, port: int, folder: Path) -> Start:
    return _ours(case, port, folder, "max_batch_size = 16\ninstances = 1\n[dynamic_batching]\n")


def _one_by_one(case: Case, port: int, folder: Path) -> Start:
    return _ours(case, port, folder, "instances = 1\n")


def _nginx(case: Case, port: int, folder: Path) -> Start:
    """It returns a constant of the size of our answer."""
    text = json.dumps({"data": [round(float(v), 7) for v in case.expected[0].reshape(-1)]})
    config = f"""daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log; events {{}}
http {{ access_log off; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s; keepalive_requests 1000000000; client_max_body_size 100m;
server {{ listen 127.0.0.1:{port}; location / {{ default_type application/json; return 200 '{text}'; }} }} }}"""
    (folder / "nginx.conf").write_text(config)
    return Start(["nginx", "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")], "/")


def _mlserver(case: Case, port: int, folder: Path) -> Start:
    settings = {
        "name": case.name,
        "implementation": "mlserver_model.Onnx",
        "parameters": {"uri": str(case.folder / "model.onnx")},
    }
    (folder / "model-settings.json").write_text(json.dumps(settings))
    ports = {"http_port": port, "grpc_port": _free_port(), "metrics_port": _free_port()}
    (folder / "settings.json").write_text(
        json.dumps({"host": "127.0.0.1", "parallel_workers": 0, "debug": False, **ports})
    )
    program = Path(_environments.python("mlserver")).with_name("mlserver")
    path = f"/v2/models/{case.name}/infer"
    environment = {"PYTHONPATH": str(HERE / "servers")}
    return Start([str(program), "start", str(folder)], path, ports["grpc_port"], environment)


def _kserve(case: Case, port: int, folder: Path) -> Start:
    command = [
        _environments.python("kserve"),
        str(HERE / "servers" / "kserve_server.py"),
        case.name,
        str(case.folder / "model.onnx"),
    ]
    command += ["--http_port", str(port), "--grpc_port", str(grpc := _free_port()), "--workers", "1"]
    return Start(command, f"/v2/models/{case.name}/infer", grpc)


def _litserve(case: Case, port: int, folder: Path) -> Start:
    command = [
        _environments.python("litserve"),
        str(HERE / "servers" / "litserve_server.py"),
        str(case.folder / "model.onnx"),
    ]
    return Start([*command, case.input, str(case.inputs[0].dtype), str(port)], "/predict")


def _bentoml(case: Case, port: int, folder: Path) -> Start:
    program = Path(_environments.python("bentoml")).with_name("bentoml")
    command = [
        str(program),
        "serve",
        "bentoml_service:Onnx",
        "--working-dir",
        str(HERE / "servers"),
        "--host",
        "127.0.0.1",
    ]
    told = {"MODEL": str(case.folder / "model.onnx"), "INPUT": case.input, "DTYPE": str(case.inputs[0].dtype)}
    told |= {"BENTOML_HOME": str(folder), "BENTOML_DO_NOT_TRACK": "1"}
    return Start([*command, "--port", str(port)], "/infer", environment=told)


OIP = ("oip-json", "oip-binary", "oip-grpc")
KINDS = {
    kind.name: kind
    for kind in (
        Kind("maas-rt", OIP, _ours),
        Kind("nginx", OIP[:2], _nginx),
        Kind("mlserver", OIP, _mlserver, "mlserver"),
        Kind("kserve", OIP, _kserve, "kserve"),
        Kind("litserve", ("plain",), _litserve, "litserve"),
        Kind("bentoml", ("plain",), _bentoml, "bentoml"),
        Kind("maas-rt one by one", OIP, _one_by_one),
        Kind("maas-rt batching", OIP, _batching),
    )
}


class Server:
    """One that runs, stopped except while it is measured.

    Raises RuntimeError if it does not start, or answers wrongly.
    """

    def __init__(self, kind: Kind, case: Case, form: str) -> None:
        self.name = kind.name
        self.port = _free_port()
        folder = WORK / "servers" / f"{kind.name.replace(' ', '-')}-{case.name}-{form}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        start = kind.start(case, self.port, folder)
        self._grpc = start.grpc if form == "oip-grpc" else 0
        self.requests = _requests.write(folder / "requests", case, form, start.path, dict(start.headers))
        self._log = (folder / "log").open("w")
        self._process = subprocess.Popen(
            start.command,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **start.environment},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            self._wait()
            if kind.name != "nginx":
                self._check(case)
        except BaseException:
            self.close()
            raise
        self.stop()

    def load(self, connections: int, seconds: float, rate: float = 0.0) -> Outcome:
        """A slice of load (_wrk.run); over gRPC there is no `rate`."""
        if self._grpc:
            return _grpc.run(self._grpc, self.requests, connections, seconds)
        return _wrk.run(f"http://127.0.0.1:{self.port}{self.requests.path}", self.requests, connections, seconds, rate)

    @property
    def offers(self) -> bool:
        """Whether it can be offered a rate."""
        return not self._grpc

    def stop(self) -> None:
        """Until `go_on`."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """From where it was stopped."""
        self._signal(signal.SIGCONT)

    def cpu(self) -> float:
        """Seconds of CPU of all its processes, those that have ended included."""
        return sum(self._spent().values())

    def _signal(self, number: int) -> None:
        """To all its processes: those of some servers have sessions of their own."""
        for pid in self._spent():
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def _spent(self) -> dict[int, float]:
        """Seconds of CPU of each of its processes, with those of its children that have ended."""
        children: dict[int, list[int]] = {}
        spent: dict[int, float] = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    fields = (entry / "stat").read_text().rpartition(")")[2].split()
                except OSError:  # it has ended meanwhile
                    continue
                children.setdefault(int(fields[1]), []).append(int(entry.name))
                spent[int(entry.name)] = sum(map(int, fields[11:15])) / _TICK
        own, left = {}, [self._process.pid]
        while left:
            pid = left.pop()
            own[pid] = spent.get(pid, 0.0)
            left += children.get(pid, [])
        return own

    def close(self) -> None:
        """Ends all its processes."""
        if self._process.poll() is None:
            self._signal(signal.SIGKILL)
        self._process.wait()
        self._log.close()

    def _wait(self) -> None:
        end = time.monotonic() + _START_SECONDS
        why: Exception | None = None
        while time.monotonic() < end:
            if self._process.poll() is not None:
                raise RuntimeError(f"{self.name} ended with {self._process.returncode}: see {self._log.name}")
            try:
                self._ask(0)
                return
            except (OSError, RuntimeError) as error:
                why = error
                time.sleep(0.2)
        raise RuntimeError(f"{self.name} does not answer: {why}; see {self._log.name}")

    def _ask(self, number: int) -> np.ndarray:
        if self._grpc:
            return _requests.ask_grpc(self._grpc, self.requests, number)
        return _requests.numbers(*_requests.ask(self.port, self.requests, number))

    def _check(self, case: Case) -> None:
        for number in range(self.requests.count):
            error = _requests.difference(case, number, self._ask(number))
            if error > 1e-3:
                raise RuntimeError(f"{self.name} answers request {number} of {case.name} with an error of {error:.2g}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
