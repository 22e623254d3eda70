"""Times of several runtimes in one process, in turns: CPU time of the whole process, so that who else has the cores does not count."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

SLICE = 0.02  # seconds
Run = Callable[[], Any]
Times = dict[str, list[float]]


def interleaved(runs: Mapping[str, Run], rounds: int = 60) -> Times:
    """The median seconds of a call, of each for each round; every other round in the opposite order."""
    counts = {}
    for name, run in runs.items():
        run()
        begin = time.process_time()
        run()
        counts[name] = max(3, round(SLICE / max(time.process_time() - begin, 1e-6)))
    times: Times = {name: [] for name in runs}
    for number in range(rounds):
        for name in list(runs) if number % 2 == 0 else reversed(list(runs)):
            times[name].append(_slice(runs[name], counts[name]))
    return times


def _slice(run: Run, count: int) -> float:
    taken = []
    for _ in range(count):
        begin = time.process_time()
        run()
        taken.append(time.process_time() - begin)
    return statistics.median(taken)


def best_ratio(times: Times, ours: str, peers: Sequence[str]) -> tuple[float, str]:
    """Times of the quickest peer over ours, and who it is: chosen on the even rounds, compared on the odd ones."""
    best = min(peers, key=lambda name: statistics.median(times[name][::2]))
    return statistics.median(a / b for a, b in zip(times[best][1::2], times[ours][1::2])), best


def maas_rt(artifact: Any, inputs: Mapping[str, np.ndarray]) -> Run:
    """A run of ours, one thread."""
    program = artifact.loaded()
    return lambda: program.run(inputs)


def onnxruntime(path: Path, inputs: Mapping[str, np.ndarray]) -> Run:
    """One of ONNX Runtime, one thread, all optimisations."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    feed = dict(inputs)
    return lambda: session.run(None, feed)


def openvino(path: Path, inputs: Mapping[str, np.ndarray]) -> Run:
    """One of OpenVINO for the least latency, one thread."""
    import openvino

    settings = {
        "INFERENCE_NUM_THREADS": 1,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    core = openvino.Core()
    model = core.read_model(str(path))
    model.reshape({name: list(value.shape) for name, value in inputs.items()})
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    feed = dict(inputs)
    return lambda: request.infer(feed, share_inputs=True, share_outputs=True)
