"""Measure the latency of a model.mrt on this machine.

Runs on random inputs (or --input), from the initial state of a model that keeps one, until the median of consecutive windows agrees, then reports percentiles of the last windows.

  maas-rt bench model.mrt --threads 1
  maas-rt bench model.mrt --shape x:8,3,224,224 --json
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import numpy as np

from .._drawn import draw_inputs
from .._model import Model, load
from ._arrays import Arrays, add_seed, make_state, of_model, parse_duration, parse_shape, read_npz
from ._opening import add_opening, opening

_WINDOWS = 5  # of which the medians must agree
_AGREEMENT = 0.02


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL.mrt")
    parser.add_argument("--threads", type=int, default=1, help="threads of one run (default: 1)")
    parser.add_argument(
        "--shape", action="append", default=[], metavar="NAME:D0,D1,...", help="shape of a dynamic input"
    )
    parser.add_argument("--input", metavar="IN.npz", help="measure on these arrays")
    parser.add_argument(
        "--seconds", type=parse_duration, default=10.0, help="give up waiting for stable figures after this long"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_seed(parser)
    add_opening(parser)


def execute(args: argparse.Namespace) -> int:
    start = time.perf_counter()
    model = load(args.model, threads=args.threads, **opening(args))
    load_seconds = time.perf_counter() - start
    shapes = {name: shape for name, shape, _ in map(parse_shape, args.shape)}
    inputs = of_model(read_npz(args.input), model) if args.input else draw_inputs(model, shapes)
    facts = {
        "model": args.model,
        "threads": args.threads,
        "load_ms": load_seconds * 1e3,
        **measure(model, inputs, args.seconds, args.seed),
    }
    if args.json:
        print(json.dumps(facts, indent=2))
        return 0
    print(f"load    {facts['load_ms']:.2f} ms")
    for key in ("p50", "p90", "p99"):
        print(f"{key}     {_duration(facts[f'{key}_ms'])}")
    print(f"runs    {facts['runs']}{'' if facts['stable'] else '; the figures did not settle: the machine is busy'}")
    return 0


def measure(model: Model, inputs: Arrays, seconds: float, seed: int | None = None) -> dict[str, Any]:
    """Latency in milliseconds: p50, p90, p99 over the last windows, and whether their medians agreed within 2 %."""
    state = make_state(model)
    for _ in range(3):
        model.run(inputs, state=state, seed=seed)
    begin = time.perf_counter()
    model.run(inputs, state=state, seed=seed)
    single = max(time.perf_counter() - begin, 1e-7)
    per_window = max(5, min(2000, int(0.1 / single)))
    windows: list[list[float]] = []
    stable = False
    while not stable and (time.perf_counter() - begin < seconds or len(windows) < 2):
        window = []
        for _ in range(per_window):
            t0 = time.perf_counter()
            model.run(inputs, state=state, seed=seed)
            window.append(time.perf_counter() - t0)
        windows.append(window)
        medians = [float(np.median(w)) for w in windows[-_WINDOWS:]]
        stable = len(medians) == _WINDOWS and max(medians) <= min(medians) * (1 + _AGREEMENT)
    times = np.concatenate([np.asarray(w) for w in windows[-_WINDOWS:]]) * 1e3
    return {
        **{f"p{p}_ms": float(np.percentile(times, p)) for p in (50, 90, 99)},
        "runs": int(times.size),
        "stable": stable,
    }


def _duration(ms: float) -> str:
    return f"{ms:.3f} ms" if ms >= 0.1 else f"{ms * 1e3:.2f} µs"
