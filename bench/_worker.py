"""One peer, one model, one process: answers commands on stdin with JSON on stdout. Started by bench._harness."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import numpy as np

from bench._peers import PEERS


def main() -> None:
    peer, folder, threads, cpus = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    os.sched_setaffinity(0, {int(c) for c in cpus.split(",")})
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not be taken for an answer
    with np.load(folder / "inputs.npz") as file:
        inputs = {name: file[name] for name in file.files}
    start = time.perf_counter()
    try:
        call, outputs = PEERS[peer](folder, inputs, threads)
    except Exception as error:  # a peer that cannot run a model is a result, not a crash
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}), file=answers, flush=True)
        return
    call()
    np.savez(folder / f"outputs.{peer}.npz", *outputs())
    for _ in range(2):
        call()
    print(json.dumps({"ready": time.perf_counter() - start}), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(_time(call, float(line))), file=answers, flush=True)


def _time(call, seconds: float) -> list[float]:
    """Times of single calls for about `seconds`, at least 3; the first, which refills the caches, is dropped."""
    clock = time.perf_counter
    call()
    times: list[float] = []
    end = clock() + seconds
    while len(times) < 3 or (clock() < end and len(times) < 20000):
        start = clock()
        call()
        times.append(clock() - start)
    return times


if __name__ == "__main__":
    main()
