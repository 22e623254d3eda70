"""The measuring protocol: peers in processes of their own, interleaved, each stopped while another runs, ratios inside one round."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import _environments
from bench.peers import PEERS

ROOT = Path(__file__).resolve().parent.parent
OURS = "maas_rt"
START_SECONDS = 900.0  # a peer that has not given its first result by then (inductor compiles) does not run the model
QUIET = 0.05  # what the machine can do may differ so much before and after, else the run is void


class Worker:
    """A peer's process. It is stopped (SIGSTOP) except while it is being timed, since spinning pools slow their neighbours."""

    def __init__(
        self,
        peer: str,
        folder: Path,
        threads: int,
        cpus: list[int],
        command: Sequence[str] | None = None,
        label: str | None = None,
        deadline: float = START_SECONDS,
    ) -> None:
        """Starts `command`, by default bench._worker in the peer's environment, and waits for its first answer. `label` is what the
        results call it, where a peer runs twice."""
        self.peer = label or peer
        self.facts: dict[str, Any] = {}
        self.error: str | None = None
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(threads),
            "PYTHONPATH": str(ROOT),
            "TORCHINDUCTOR_CACHE_DIR": str(ROOT / "build" / "bench" / "inductor"),
        }
        if command is None:
            python = _environments.python(PEERS[peer].environment)
            command = [python, "-m", "bench._worker", peer, str(folder), str(threads), ",".join(map(str, cpus))]
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # an interrupt is this process's to answer; and it is stopped with its children
        )
        answer = self._answer(deadline)
        if isinstance(answer, dict):
            self.facts, self.error = answer, answer.get("error")
        self._signal(signal.SIGSTOP)

    def _answer(self, deadline: float) -> dict[str, Any] | list[float]:
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], deadline)
        if not ready:
            return {"error": f"no answer within {deadline:.0f} s"}
        line = self._process.stdout.readline()
        return json.loads(line) if line else {"error": f"the process ended with status {self._process.wait()}"}

    def _signal(self, number: signal.Signals) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, number)

    def time(self, seconds: float) -> list[float]:
        """Times of single calls, in seconds."""
        assert self._process.stdin is not None
        self._signal(signal.SIGCONT)
        with contextlib.suppress(BrokenPipeError):  # it ended: the answer says so
            self._process.stdin.write(f"{seconds}\n")
            self._process.stdin.flush()
        times = self._answer(START_SECONDS)
        self._signal(signal.SIGSTOP)
        if isinstance(times, dict):
            raise RuntimeError(f"{self.peer}: {times['error']}")
        return times

    def close(self) -> None:
        self._signal(signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


@dataclass(frozen=True)
class Comparison:
    """Per-round medians of every peer (seconds), in the order in which the rounds ran; a peer far behind has the first rounds only."""

    rounds: dict[str, list[float]]
    errors: dict[str, str]
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)

    def median(self, peer: str) -> float:
        return statistics.median(self.rounds[peer])

    def ratios(self, peer: str, ours: str = OURS) -> list[float]:
        """Our time over the peer's, round by round; below 1 is faster."""
        return [a / b for a, b in zip(self.rounds[ours], self.rounds[peer])]

    def best_peer(self, ours: str = OURS, among: Sequence[str] | None = None) -> str | None:
        """The fastest peer on the even rounds; it is compared on the odd ones (see `best_ratio`), so that luck is not chosen."""
        others = [p for p in self.rounds if not p.startswith(ours) and (among is None or p in among)]
        return min(others, key=lambda peer: statistics.median(self.rounds[peer][::2]), default=None)

    def best_ratio(self, ours: str = OURS, among: Sequence[str] | None = None) -> float | None:
        """Our time over the best peer's; None without a peer, or with too few rounds to choose and to compare."""
        peer = self.best_peer(ours, among)
        odd = self.ratios(peer, ours)[1::2] if peer and ours in self.rounds else []
        return statistics.median(odd) if odd else None


def pinned(threads: int) -> list[int]:
    """The cores that `threads` threads are pinned to: the last ones, since the first serves interrupts."""
    return sorted(os.sched_getaffinity(0))[-threads:]


def compare(
    folder: Path,
    peers: Sequence[str],
    threads: int,
    rounds: int = 10,
    seconds: float = 0.3,
    far_behind: float | None = None,
    budget: float | None = None,
    told: Callable[[str], None] = lambda _: None,
) -> Comparison:
    """Time `peers` on the model prepared in `folder`, interleaved, `rounds` times.

    With `far_behind`, a peer whose time is more than that many times the quickest peer's after three rounds is timed no more. With
    `budget`, seconds, no further rounds are begun after that long, once there were four.
    """
    workers: list[Worker] = []
    try:
        for peer in peers:
            told(f"loading {peer}")
            workers.append(Worker(peer, folder, threads, pinned(threads)))
        return race(workers, rounds, seconds, far_behind, budget, told)
    finally:
        for worker in workers:
            worker.close()


def race(
    workers: Sequence[Worker],
    rounds: int,
    seconds: float,
    far_behind: float | None = None,
    budget: float | None = None,
    told: Callable[[str], None] = lambda _: None,
) -> Comparison:
    """The rounds, over workers that were started already; every other round in the opposite order."""
    errors = {worker.peer: worker.error for worker in workers if worker.error}
    running = [worker for worker in workers if not worker.error]
    measured: dict[str, list[float]] = {worker.peer: [] for worker in running}
    start = time.monotonic()
    for number in range(rounds):
        if budget and number >= 4 and number % 2 == 0 and time.monotonic() - start > budget:
            break
        told(f"round {number + 1} of {rounds}")
        for worker in list(running if number % 2 == 0 else reversed(running)):
            try:
                measured[worker.peer].append(statistics.median(worker.time(seconds)))
            except RuntimeError as error:
                errors[worker.peer] = str(error)
                running.remove(worker)
                del measured[worker.peer]
        if far_behind and number == 2:
            quickest = min((statistics.median(measured[w.peer]) for w in running), default=0.0)
            running = [
                w for w in running if w.peer == OURS or statistics.median(measured[w.peer]) <= far_behind * quickest
            ]
    return Comparison(measured, errors, {worker.peer: worker.facts for worker in workers})
