"""Two models in one process that run at the same time, on the threads that each has alone: how much of the throughput is left."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from bench._harness import OURS, pinned
from bench.gauntlet._prepare import prepare

PAIRS = (("resnet50", "vit_tiny"), ("mobilenet_v2", "minilm_128"), ("mobilenet_v2", "mobilenet_v2"))
ROUNDS, SECONDS = 9, 0.5  # of each model alone, in each round


def measure(told: Callable[[str], None]) -> dict[str, Any]:
    """By pair: the median over the rounds of (time of the two after each other / time of the two at once), for the same runs."""
    return {" with ".join(pair): _pair(pair, told) for pair in PAIRS}


def _pair(pair: tuple[str, str], told: Callable[[str], None]) -> dict[str, Any]:
    work = [_work(model, told) for model in pair]
    rounds = []
    for number in range(ROUNDS):
        told(f"{' and '.join(pair)} at once, round {number + 1} of {ROUNDS}")
        start = time.perf_counter()
        for each in work:
            each()
        alone = time.perf_counter() - start
        with ThreadPoolExecutor(len(work)) as pool:
            start = time.perf_counter()
            for done in [pool.submit(each) for each in work]:
                done.result()
            rounds.append(alone / (time.perf_counter() - start))
    return {"throughput": statistics.median(rounds), "lowest": min(rounds), "highest": max(rounds)}


def _work(model: str, told: Callable[[str], None]) -> Callable[[], None]:
    """So many runs of a model as take about SECONDS alone."""
    import numpy as np

    import maas_rt

    folder = prepare(model, 1, [OURS], told).folder
    threads = len(pinned(2))
    session = maas_rt.load(folder / "model.mrt", threads=threads).session(threads)
    with np.load(folder / "inputs.npz") as file:
        inputs = {name: file[name] for name in file.files}
    session.run(inputs)
    start = time.perf_counter()
    session.run(inputs)
    runs = max(1, round(SECONDS / (time.perf_counter() - start)))

    def run() -> None:
        for _ in range(runs):
            session.run(inputs)

    return run
