"""What 5,000 calibration samples take of memory beyond 50: a small ViT, samples drawn one by one, each compile in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys

from .._environments import ROOT
from ._rows import Goal, Measured, row

MANY, FEW = 5000, 50


@row(
    "calibration-memory",
    "calibration, 5,000 samples against 50",
    Goal("MB more, the worst method", 100, 20, least=False),
)
def _memory() -> Measured:
    from ._memory_of import METHODS

    peaks = {method: [_peak(method, count) for count in (FEW, MANY)] for method in METHODS}
    return Measured({"MB more, the worst method": max(many - few for few, many in peaks.values())}, more={"MB": peaks})


def _peak(method: str, samples: int) -> float:
    command = [sys.executable, "-m", f"{__package__}._memory_of", method, str(samples)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return float(done.stdout.strip().splitlines()[-1])
