"""The load over gRPC: a client of grpcio's in a process of its own, for what wrk cannot speak.

python -m bench.service._grpc PORT FOLDER COUNT CONNECTIONS SECONDS

Each connection is a channel of its own with one call under way, whose bytes were made before. What came of them is printed as load.lua does.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from bench._harness import ROOT
from bench.service._requests import Requests
from bench.service._wrk import Outcome

METHOD = "/inference.GRPCInferenceService/ModelInfer"


def metadata_of(folder: Path) -> list[tuple[str, str]]:
    """The headers of a folder of requests, as gRPC has them; the type of the bodies is its own to say."""
    lines = (line.split(": ", 1) for line in (folder / "headers").read_text().splitlines())
    return [(name.lower(), value) for name, value in lines if name != "Content-Type"]


def run(port: int, requests: Requests, connections: int, seconds: float) -> Outcome:
    """A slice of load."""
    command = [sys.executable, "-m", "bench.service._grpc", str(port), str(requests.folder)]
    command += [str(requests.count), str(connections), str(max(1, round(seconds)))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the client ended with {done.returncode}: {done.stderr.strip()[-300:]}")
    return Outcome(**json.loads(done.stdout.strip().splitlines()[-1]))


class _Connection:
    """A channel with one call after the other until a time."""

    def __init__(self, load: _Load, number: int) -> None:
        import grpc

        self._load = load
        self._at = number
        channel = grpc.insecure_channel(load.address, options=[("grpc.use_local_subchannel_pool", 1)])
        self._channel = channel
        self._call = channel.unary_unary(METHOD)

    def ask(self) -> None:
        self._at += 1
        began = time.perf_counter()
        future = self._call.future(
            self._load.bodies[self._at % len(self._load.bodies)], metadata=self._load.metadata, timeout=60
        )
        future.add_done_callback(lambda done: self._answered(done, began))

    def _answered(self, future: Any, began: float) -> None:
        now = time.perf_counter()
        self._load.note(now - began, future.exception() is not None)
        if now < self._load.end:
            self.ask()
        else:
            self._load.leave()

    def close(self) -> None:
        self._channel.close()


class _Load:
    def __init__(self, port: int, folder: Path, count: int, connections: int, seconds: float) -> None:
        self.address = f"127.0.0.1:{port}"
        self.bodies = [(folder / f"{number}.body").read_bytes() for number in range(count)]
        self.metadata = metadata_of(folder)
        self.times: list[float] = []
        self.failed = 0
        self._lock = threading.Lock()
        self._left = connections
        self._over = threading.Event()
        made = [_Connection(self, number) for number in range(connections)]
        began = time.perf_counter()
        self.end = began + seconds
        for each in made:
            each.ask()
        self._over.wait()
        self.seconds = time.perf_counter() - began
        for each in made:
            each.close()

    def note(self, seconds: float, failed: bool) -> None:
        with self._lock:
            self.times.append(seconds)
            self.failed += failed

    def leave(self) -> None:
        with self._lock:
            self._left -= 1
            if not self._left:
                self._over.set()


def main() -> int:
    port, folder, count, connections, seconds = sys.argv[1:]
    load = _Load(int(port), Path(folder), int(count), int(connections), float(seconds))
    ordered = sorted(load.times)

    def percentile(share: float) -> float:
        return 1e6 * ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    told = {"requests": len(ordered), "seconds": load.seconds, "failed": load.failed}
    print(json.dumps(told | {"p50_us": percentile(0.5), "p99_us": percentile(0.99)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
