"""The measuring protocol: peers in processes of their own, interleaved, each stopped while another runs, ratios inside one round."""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


class Worker:
    """A peer's process. It is stopped (SIGSTOP) except while it is being timed, since spinning pools slow their neighbours."""

    def __init__(self, peer: str, folder: Path, threads: int, cpus: list[int]) -> None:
        self.peer = peer
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "bench._worker", peer, str(folder), str(threads), ",".join(map(str, cpus))]
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        answer = self._answer()
        self.error: str | None = answer.get("error") if isinstance(answer, dict) else None
        self._pause()

    def _answer(self) -> dict[str, str] | list[float]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        return json.loads(line) if line else {"error": f"the process ended with status {self._process.wait()}"}

    def _pause(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGSTOP)

    def time(self, seconds: float) -> list[float]:
        """Times of single calls, in seconds."""
        assert self._process.stdin is not None
        self._process.send_signal(signal.SIGCONT)
        self._process.stdin.write(f"{seconds}\n")
        self._process.stdin.flush()
        times = self._answer()
        self._pause()
        if isinstance(times, dict):
            raise RuntimeError(f"{self.peer}: {times['error']}")
        return times

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.send_signal(signal.SIGCONT)
        self._process.wait()


@dataclass(frozen=True)
class Comparison:
    """Per-round medians of every peer (seconds), in the order in which the rounds ran."""

    rounds: dict[str, list[float]]
    errors: dict[str, str]

    def median(self, peer: str) -> float:
        return statistics.median(self.rounds[peer])

    def ratios(self, peer: str, ours: str = "maas_rt") -> list[float]:
        """Our time over the peer's, round by round; below 1 is faster."""
        return [a / b for a, b in zip(self.rounds[ours], self.rounds[peer])]

    def best_peer(self, ours: str = "maas_rt") -> str | None:
        """The fastest peer on the even rounds; it is compared on the odd ones (see `best_ratio`), so that luck is not chosen."""
        others = [peer for peer in self.rounds if not peer.startswith(ours)]
        return min(others, key=lambda peer: statistics.median(self.rounds[peer][::2]), default=None)

    def best_ratio(self, ours: str = "maas_rt") -> float | None:
        peer = self.best_peer(ours)
        return statistics.median(self.ratios(peer, ours)[1::2]) if peer else None


def compare(folder: Path, peers: list[str], threads: int, rounds: int = 10, seconds: float = 0.3) -> Comparison:
    """Time `peers` on the model prepared in `folder` (model.mrt, model.onnx, inputs.npz), interleaved, `rounds` times."""
    cpus = sorted(os.sched_getaffinity(0))[-threads:]
    workers = [Worker(peer, folder, threads, cpus) for peer in peers]
    try:
        errors = {worker.peer: worker.error for worker in workers if worker.error}
        running = [worker for worker in workers if not worker.error]
        measured: dict[str, list[float]] = {worker.peer: [] for worker in running}
        for number in range(rounds):
            for worker in running if number % 2 == 0 else reversed(running):
                measured[worker.peer].append(statistics.median(worker.time(seconds)))
        return Comparison(measured, errors)
    finally:
        for worker in workers:
            worker.close()
