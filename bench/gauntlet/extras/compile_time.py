"""Seconds until ResNet-50 can run: our compile, without tuning, against torch.compile's first call. Neither finds anything cached."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

from bench._environments import ROOT

ROUNDS = 3

# What both import, and the model itself, is there before the clock starts.
_START = """
import time, torch
from bench.models import GAUNTLET
case = GAUNTLET["resnet50"]
module, inputs = case.module(), case.inputs(1)
"""
PROGRAMS = {
    "maas_rt": _START
    + """
from maas_rt import compiler
start = time.perf_counter()
compiler.compile(module, inputs, name="resnet50")
print(time.perf_counter() - start)
""",
    "torch.compile": _START
    + """
start = time.perf_counter()
with torch.inference_mode():
    torch.compile(module, dynamic=False)(**inputs)
print(time.perf_counter() - start)
""",
}


def measure(told: Callable[[str], None]) -> dict[str, Any]:
    """Seconds of each round, taken in turns, and the median of the rounds' ratios. All cores may be used, and the verification of our
    compile counts."""
    seconds: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    for number in range(ROUNDS):
        for name in PROGRAMS:
            told(f"{name}, round {number + 1} of {ROUNDS}")
            seconds[name].append(_seconds(PROGRAMS[name]))
    ratios = [ours / theirs for ours, theirs in zip(seconds["maas_rt"], seconds["torch.compile"], strict=True)]
    return {"seconds": seconds, "ratio": statistics.median(ratios)}


def _seconds(program: str) -> float:
    import os

    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TORCHINDUCTOR_CACHE_DIR": cache}
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, cwd=cache, capture_output=True, text=True
        )
    if done.returncode != 0:
        raise RuntimeError(f"a compile of ResNet-50 failed: {done.stderr.strip()[-500:]}")
    return float(done.stdout.split()[-1])
