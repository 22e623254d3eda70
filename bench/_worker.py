"""One peer, one model, one process: answers commands on stdin with JSON on stdout. Started by bench._harness.

It imports numpy and its peer: it runs in whichever environment has that peer.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench.peers import PEERS

LONG = 2.0  # of the seconds that are asked for: such a call is timed once


def main() -> None:
    _end_with_parent()
    peer, folder, threads, cpus = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    os.sched_setaffinity(0, {int(c) for c in cpus.split(",")})
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not be taken for an answer
    with np.load(folder / "inputs.npz") as file:
        inputs = {name: file[name] for name in file.files}
    before, start = _peak_memory(), time.perf_counter()
    try:
        call, outputs = PEERS[peer].load(folder, inputs, threads)
        call()
        facts = {"ready": time.perf_counter() - start, "memory": _peak_memory() - before}
        np.savez(folder / f"outputs.{peer}.npz", *outputs())
        for _ in range(2):
            call()
    except Exception as error:  # a peer that cannot run a model is a result, not a crash
        reason = f"{type(error).__name__}: {error}"
        print(json.dumps({"error": reason[:2000]}), file=answers, flush=True)
        return
    print(json.dumps(facts), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(time_calls(call, float(line))), file=answers, flush=True)


def time_calls(call: Callable[[], Any], seconds: float) -> list[float]:
    """Times of single calls for about `seconds`, at least 2; a first call refills the caches. A call that takes as long as this fills
    them many times itself: it is the only one."""
    clock = time.perf_counter
    start = clock()
    call()
    first = clock() - start
    if first > LONG * seconds:
        return [first]
    least = 1 if first > seconds else 2
    times: list[float] = []
    end = clock() + seconds
    while len(times) < least or (clock() < end and len(times) < 20000):
        start = clock()
        call()
        times.append(clock() - start)
    return times


def _end_with_parent() -> None:
    """A stopped worker would outlive a parent that is killed, and hold its memory (prctl(2), PR_SET_PDEATHSIG)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)


def _peak_memory() -> int:
    """Bytes: the most that this process has held in memory so far (VmHWM)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    raise RuntimeError("/proc/self/status has no VmHWM: peak memory is measured on Linux only")


if __name__ == "__main__":
    main()
