"""What a call costs beside its arithmetic: a two-layer perceptron of 64 units, from C, from Python, and ONNX Runtime from Python."""

from __future__ import annotations

import json
import statistics
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench._environments import ROOT
from bench._harness import OURS, Worker, pinned, race
from bench.gauntlet._prepare import WORK, prepare

SOURCE = Path(__file__).with_name("call.c")
ROUNDS, SECONDS = 12, 0.1


def measure(told: Callable[[str], None]) -> dict[str, Any]:
    """Microseconds of one call, and the median over the rounds of our time over ONNX Runtime's."""
    folder = prepare("mlp", 1, [OURS, "onnxruntime"], told).folder
    with np.load(folder / "inputs.npz") as inputs:
        inputs["x"].astype(np.float32).tofile(folder / "input.f32")
    cpus = pinned(1)
    command = [
        "taskset",
        "-c",
        str(cpus[0]),
        str(build(WORK / "call")),
        str(folder / "model.mrt"),
        str(folder / "input.f32"),
    ]
    workers = [
        Worker(OURS, folder, 1, cpus, command=command, label="c"),
        Worker(OURS, folder, 1, cpus, label="python"),
        Worker("onnxruntime", folder, 1, cpus),
    ]
    try:
        result = race(workers, ROUNDS, SECONDS, told=told)
    finally:
        for worker in workers:
            worker.close()
    if result.errors:
        raise RuntimeError(f"the two-layer perceptron did not run: {json.dumps(result.errors)}")
    return {
        "microseconds": {name: result.median(name) * 1e6 for name in result.rounds},
        "ratio": {name: statistics.median(result.ratios("onnxruntime", ours=name)) for name in ("c", "python")},
    }


def build(program: Path) -> Path:
    """The C program, linked to the library of the installed package, at the path `program`."""
    import maas_rt

    package = Path(maas_rt.__file__).resolve().parent
    subprocess.run(
        ["cc", "-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(program), str(SOURCE)]
        + [f"-I{ROOT / 'csrc' / 'include'}", f"-L{package}", "-lmaas_rt", f"-Wl,-rpath,{package}"],
        check=True,
    )
    return program
