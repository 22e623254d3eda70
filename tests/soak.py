"""python -m tests.soak [NAME ...]: the service under load for minutes, in a process of its own as `maas-rt serve` is; `make soak` runs all of it.

overload    twice the requests that it can answer, for two minutes: what is answered stays at nine tenths of the best, in time, in flat memory
reloads     ten new versions, a rollback and a `cp` over a file in use, beside load: no request fails, each is answered by a version that was
            live while it was asked
drain       SIGTERM beside load: every request that was sent is answered
shapes      a hundred thousand requests of random sizes: memory grows by less than a hundredth
body        60 MB of JSON: meanwhile health answers within 50 ms, and memory stays below four times the body
loads       a model of 64 MB is loaded again and again beside another one's load, whose p99 is at most twice what it was

Each says what it has measured, and ends with 1 where that is not what it must be. The clients are processes of their own; on a machine that is
busy otherwise the first one tells little.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tests._tiny import Builder

WIDTH = 8
TARGET_MS = 500  # of the model that is overloaded, at its clients
LATENCY_MS = 450  # what its server would answer later is refused
HEAVY = 2048  # of its layers
LAYERS = 8


# ---- models ---------------------------------------------------------------------------------------------------------


def constant(version: int) -> bytes:
    """x [n, 8] -> the version, eight times: an answer says who gave it."""
    b = Builder("constant")
    b.symbol("n", 1, 4096)
    x, y = b.input("x", ["n", WIDTH]), b.value("y", ["n", WIDTH])
    b.gemm(x, np.zeros((WIDTH, WIDTH), np.float32), y, bias=b.constant("v", np.full(WIDTH, version, np.float32)))
    return b.file(y)


def heavy() -> bytes:
    """x [1, 8] -> y, some ten milliseconds later: what asks for it takes next to nothing of the machine beside it."""
    b = Builder("heavy")
    rng = np.random.default_rng(0)
    x, width = b.input("x", [1, WIDTH]), WIDTH
    for _ in range(LAYERS):
        y = b.value(f"y{len(b.plan.values)}", [1, HEAVY])
        b.gemm(x, rng.standard_normal((width, HEAVY)).astype(np.float32) / 32, y, act="relu")
        x, width = y, HEAVY
    return b.file(x)


def wide(rows: int) -> bytes:
    """x [n, 8] -> y [n, 1], n up to `rows`."""
    b = Builder("wide")
    b.symbol("n", 1, rows)
    x, y = b.input("x", ["n", WIDTH]), b.value("y", ["n", 1])
    b.gemm(x, np.ones((WIDTH, 1), np.float32), y)
    return b.file(y)


# ---- the server -----------------------------------------------------------------------------------------------------


class Server:
    """A `maas-rt serve` on a folder."""

    def __init__(self, folder: Path, *options: str) -> None:
        command = [sys.executable, "-m", "maas_rt", "serve", str(folder), "--port", "0", "--host", "127.0.0.1"]
        self.process = subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        self.port = 0
        for line in self.process.stderr:
            if found := re.search(r"http://127\.0\.0\.1:(\d+)", line):
                self.port = int(found[1])
                break
        threading.Thread(target=self.process.stderr.read, daemon=True).start()  # a full pipe would stop it

    @property
    def resident(self) -> int:
        """Bytes of memory that are its own."""
        text = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text()
        return sum(int(size) << 10 for size in re.findall(r"Private_\w+: +(\d+) kB", text))

    def end(self) -> int:
        """SIGTERM, and its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    @property
    def peak(self) -> int:
        """The most bytes of memory that it ever had."""
        return int(re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{self.process.pid}/status").read_text())[0]) << 10


@contextmanager
def serving(files: dict[str, bytes], *options: str) -> Iterator[tuple[Path, Server]]:
    """A server on a folder with these files."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for path, data in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(data)
        server = Server(folder, *options)
        try:
            yield folder, server
        finally:
            if server.process.poll() is None:
                server.process.kill()
                server.process.wait()


# ---- clients --------------------------------------------------------------------------------------------------------


class Answer(NamedTuple):
    """Of one request: when it was due and when it was answered (time.monotonic), its status (0: none), who gave it and what."""

    due: float
    end: float
    status: int
    version: str = ""
    value: float = 0.0


@dataclass(frozen=True)
class Load:
    """What a process of clients sends.

    Args:
        rate: requests a second, whenever the answers come; 0: each connection asks again once it has its answer.
        rows: of a request, drawn from 1 to this.
    """

    port: int
    model: str
    width: int
    connections: int
    seconds: float
    rate: float = 0.0
    rows: int = 1
    requests: int = 1 << 60
    seed: int = 0


class _Client:
    def __init__(self, load: Load) -> None:
        self._load = load
        self._random = random.Random(load.seed)
        self._data = (
            np.random.default_rng(load.seed).standard_normal(load.rows * load.width).astype(np.float32).tobytes()
        )
        self.answers: list[Answer] = []
        self.left = load.requests

    async def ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, due: float) -> bool:
        """One request; whether the connection goes on."""
        load = self._load
        rows = self._random.randint(1, load.rows)
        size = 4 * rows * load.width
        tensor = {
            "name": "x",
            "shape": [rows, load.width],
            "datatype": "FP32",
            "parameters": {"binary_data_size": size},
        }
        text = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
        head = (
            f"POST /v2/models/{load.model}/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(text) + size}\r\n"
        )
        head += f"Inference-Header-Content-Length: {len(text)}\r\n\r\n"
        begun = False
        try:
            writer.write(head.encode() + text + self._data[:size])
            answer = await reader.readuntil(b"\r\n\r\n")
            begun = True
            fields = dict(re.findall(rb"([^:\r\n]+): ([^\r\n]*)\r\n", answer))
            body = await reader.readexactly(int(fields[b"Content-Length"]))
        except (OSError, asyncio.IncompleteReadError):
            self.answers.append(Answer(due, time.monotonic(), -1 if begun else 0))
            return False
        status, version, value = int(answer.split()[1]), "", 0.0
        if status == 200:
            length = int(fields[b"Inference-Header-Content-Length"])
            version = json.loads(body[:length])["model_version"]
            value = float(np.frombuffer(body, np.float32, 1, length)[0])
        self.answers.append(Answer(due, time.monotonic(), status, version, value))
        return fields.get(b"Connection", b"").lower() != b"close"

    async def closed_loop(self, end: float) -> None:
        """A connection that asks again and again; where it is closed, another one, until nobody listens."""
        with_connection = False
        while time.monotonic() < end and self.left > 0:
            if not with_connection:
                try:
                    reader, writer = await asyncio.open_connection("127.0.0.1", self._load.port)
                except OSError:
                    return
            self.left -= 1
            with_connection = await self.ask(reader, writer, time.monotonic())
            if not with_connection:
                writer.close()

    async def open_loop(self, end: float) -> None:
        """Requests at their times, on as many connections as it takes, at most `connections`."""
        load, free = self._load, asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter] | None]()
        for _ in range(load.connections):
            free.put_nowait(None)
        tasks: set[asyncio.Task[None]] = set()

        async def one(due: float) -> None:
            pair = await free.get() or await asyncio.open_connection("127.0.0.1", load.port)
            free.put_nowait(pair if await self.ask(*pair, due) else None)

        due = time.monotonic()
        while due < end:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            tasks.add(task := asyncio.create_task(one(due)))
            task.add_done_callback(tasks.discard)
            due += self._random.expovariate(load.rate)
        if tasks:
            await asyncio.wait(tasks, timeout=10)


def _clients(load: Load) -> list[Answer]:
    async def run() -> list[Answer]:
        client, end = _Client(load), time.monotonic() + load.seconds
        if load.rate:
            await client.open_loop(end)
        else:
            await asyncio.gather(*(client.closed_loop(end) for _ in range(load.connections)))
        return client.answers

    return asyncio.run(run())


@contextmanager
def under(load: Load) -> Iterator[list[Answer]]:
    """Load beside the block, whose answers are in the list once it has ended."""
    answers: list[Answer] = []
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        running = pool.apply_async(_clients, (load,))
        yield answers
        answers += running.get()


def sent(load: Load) -> list[Answer]:
    """Load, and its answers."""
    with under(load) as answers:
        pass
    return answers


def _health(port: int, seconds: float) -> list[float]:
    """Seconds that answers about health have taken, asked for every 5 ms."""
    import http.client

    connection, end, taken = http.client.HTTPConnection("127.0.0.1", port, timeout=60), time.monotonic() + seconds, []
    while (began := time.monotonic()) < end:
        connection.request("GET", "/v2/health/live")
        assert connection.getresponse().read()
        taken.append(time.monotonic() - began)
        time.sleep(0.005)
    return taken


# ---- what must hold -------------------------------------------------------------------------------------------------


class Check:
    """What was found wrong."""

    def __init__(self) -> None:
        self.wrong: list[str] = []

    def that(self, holds: bool, text: str) -> None:
        """Tells it, and notes it where it does not hold."""
        print(("  " if holds else "  NOT ") + text, flush=True)
        if not holds:
            self.wrong.append(text)


def overload(check: Check, rounds: int = 6, seconds: float = 20.0) -> None:
    config = f"[queue]\nlatency_ms = {LATENCY_MS}\n".encode()
    files = {"heavy/1/model.mrt": heavy(), "heavy/config.toml": config}
    with serving(files, "--threads", "1") as (_, server):
        closed = Load(server.port, "heavy", WIDTH, 8, 4.0)
        sent(closed)
        best, answers, before = [], [], 0
        for _ in range(rounds):  # what the machine can do changes from minute to minute
            best.append(sum(a.status == 200 for a in sent(closed)) / closed.seconds)
            before = before or server.resident
            answers += sent(Load(server.port, "heavy", WIDTH, 512, seconds, 2 * best[-1]))
        grown, peak = server.resident - before, statistics.mean(best)
        good = sorted(a.end - a.due for a in answers if a.status == 200)
        others = {status: sum(a.status == status for a in answers) for status in {a.status for a in answers} - {200}}
        p99, rate = good[int(0.99 * len(good))], len(good) / (rounds * seconds)
        print(
            f"  peak {peak:.0f}/s, offered {len(answers) / (rounds * seconds):.0f}/s, others {others}, memory grew by {grown >> 10} kB"
        )
        check.that(rate >= 0.9 * peak, f"{rate:.0f} answers/s are 0.9 of the peak or more")
        check.that(set(others) <= {503}, "what is not answered is 503")
        check.that(p99 <= TARGET_MS / 1000, f"p99 of what is answered, {1000 * p99:.0f} ms, keeps to {TARGET_MS} ms")
        check.that(grown < before // 10 + (8 << 20), "memory is flat")


def reloads(check: Check, seconds: float = 20.0) -> None:
    with serving({"m/1/model.mrt": constant(1)}, "--watch", "0.2") as (folder, server):
        live: dict[str, list[float]] = {"1": [0.0, float("inf")]}
        load = Load(server.port, "m", WIDTH, 16, seconds, rows=4)
        with under(load) as answers:
            time.sleep(2)
            for version in range(2, 12):
                _put(folder / "m" / str(version) / "model.mrt", constant(version))
                live[str(version)] = [time.monotonic(), float("inf")]
                time.sleep(1)
            _ask(server.port, "/v2/repository/models/m/labels/production", {"version": "11"})
            _ask(server.port, "/v2/repository/models/m/labels/production", {"version": "10"})
            _ask(server.port, "/v2/repository/models/m/labels/production/rollback", {})
            time.sleep(1)
            # A `cp` over a file in use: for a moment it is half of one. 11 becomes 12.
            (folder / "new").write_bytes(constant(12))
            shutil.copyfile(folder / "new", folder / "m" / "11" / "model.mrt")
            time.sleep(2)
        failed = [a for a in answers if a.status != 200]
        versions = sorted({a.version for a in answers}, key=int)
        print(
            f"  {len(answers)} requests, versions {', '.join(versions)}, last values {sorted({a.value for a in answers[-200:]})}"
        )
        check.that(not failed, f"{len(failed)} requests failed")
        check.that(len(versions) == 11, "all versions have answered")
        check.that(answers[-1].value == 12.0, "the file that was copied over another one answers")
        wrong = [a for a in answers if a.value != float(a.version) and (a.version, a.value) != ("11", 12.0)]
        check.that(not wrong, f"{len(wrong)} answers are not what their version says")
        early = [a for a in answers if a.end < live[a.version][0]]
        check.that(not early, f"{len(early)} answers came from versions that were not there yet")


def drain(check: Check) -> None:
    for options in ((), ("--drain-delay", "1")):
        with serving({"m/1/model.mrt": constant(1)}, *options) as (_, server):
            with under(Load(server.port, "m", WIDTH, 16, 30.0)) as answers:
                time.sleep(3)
                status = server.end()
            lost = [a for a in answers if a.status != 200]
            what = "with a delay" if options else "at once"
            check.that(status == 0 and not lost, f"{what}: {len(lost)} of {len(answers)} requests are lost")


def shapes(check: Check, count: int = 100_000) -> None:
    with serving({"m/1/model.mrt": constant(1)}) as (_, server):
        sent(Load(server.port, "m", WIDTH, 16, 600.0, rows=512, requests=count // 10))
        before = server.resident
        answers = sent(Load(server.port, "m", WIDTH, 16, 600.0, rows=512, requests=count, seed=1))
        grown = server.resident / before - 1
        failed = sum(a.status != 200 for a in answers)
        check.that(failed == 0 and len(answers) == count, f"{failed} of {len(answers)} requests failed")
        check.that(grown < 0.01, f"memory grew by {100 * grown:.2f} %, from {before >> 10} kB")


def body(check: Check, megabytes: int = 60) -> None:
    rows = (megabytes << 20) // (8 * WIDTH)
    document = {"inputs": [{"name": "x", "shape": [rows, WIDTH], "datatype": "FP32", "data": []}]}
    text = json.dumps(document).replace("[]", f"[{','.join(['0.12345'] * rows * WIDTH)}]").encode()
    with serving({"m/1/model.mrt": wide(rows)}, "--max-body", "128") as (_, server):
        _post(server.port, "/v2/models/m/infer", json.dumps(document).encode(), wanted=400)
        before = server.peak
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            quiet = sorted(pool.apply(_health, (server.port, 2.0)))
            polling = pool.apply_async(_health, (server.port, 6.0))
            time.sleep(0.5)
            began = time.monotonic()
            for _ in range(2):
                _post(server.port, "/v2/models/m/infer", text)
            seconds = (time.monotonic() - began) / 2
            taken = sorted(polling.get())
        grown = (server.peak - before) / len(text)
        print(
            f"  {len(text) >> 20} MiB answered in {seconds:.2f} s; health without it: at most {1000 * quiet[-1]:.1f} ms"
        )
        check.that(taken[-1] < 0.05, f"health answers within {1000 * taken[-1]:.1f} ms")
        check.that(grown < 4, f"memory grew by {grown:.2f} of the body at most")


def loads(check: Check, seconds: float = 12.0) -> None:
    rng = np.random.default_rng(0)
    b = Builder("large")
    x = b.input("x", [1, 4096])
    y = b.value("y", [1, 4096])
    b.gemm(x, rng.standard_normal((4096, 4096)).astype(np.float32), y)
    files = {"m/1/model.mrt": constant(1), "large/1/model.mrt": b.file(y)}
    with serving(files, "--threads", "1") as (_, server):
        load = Load(server.port, "m", WIDTH, 16, seconds, 500.0, rows=4)
        before, count = sent(load), 0
        with under(load) as beside:
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                _ask(server.port, "/v2/repository/models/large/load", {})
                count += 1
        failed = sum(a.status != 200 for a in beside)
        first, second = (
            sorted(a.end - a.due for a in answers)[int(0.99 * len(answers))] for answers in (before, beside)
        )
        check.that(failed == 0, f"{failed} of {len(beside)} requests failed beside {count} loads")
        check.that(
            second <= 2 * first, f"p99 is {1000 * second:.2f} ms beside loads, and {1000 * first:.2f} ms without"
        )


def _put(path: Path, data: bytes) -> None:
    path.parent.mkdir(exist_ok=True)
    path.with_suffix(".new").write_bytes(data)
    os.replace(path.with_suffix(".new"), path)


def _ask(port: int, path: str, document: dict[str, str]) -> None:
    _post(port, path, json.dumps(document).encode())


def _post(port: int, path: str, body: bytes, wanted: int = 200) -> None:
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST", path, body)
    response = connection.getresponse()
    response.read()
    connection.close()
    assert response.status == wanted, response.status


SCENARIOS = {each.__name__: each for each in (overload, reloads, drain, shapes, body, loads)}


def main(names: list[str]) -> int:
    check = Check()
    for name in names or SCENARIOS:
        print(name, flush=True)
        SCENARIOS[name](check)
    return 1 if check.wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
