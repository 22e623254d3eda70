"""Six models that came quantized, against ONNX Runtime and OpenVINO on the same files: the gauntlet's rows of 8 bits."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from .._environments import ROOT
from ..gauntlet._table import counted, geometric_mean
from ._rows import Goal, Measured, row

RESULTS = ROOT / "bench" / "results" / "gauntlet-int8.json"
MEAN, SLOWEST = "best peer's time over ours, geometric mean", "… of the slowest"


@row(
    "quantized",
    "six quantized models, one and two threads, batch 1 and 8",
    Goal(MEAN, 1.2, 1.35),
    Goal(SLOWEST, 0.95, 1.0),
    timed=True,
)
def _quantized() -> Measured:
    command = ["-m", "bench.gauntlet", "--precision", "int8", "--no-extras", "--output", str(RESULTS.relative_to(ROOT))]
    subprocess.run([sys.executable, *command], cwd=ROOT)  # not 0 where rows of a busy machine are left out, too
    return of_rows(json.loads(RESULTS.read_text())["rows"])


def of_rows(rows: list[dict[str, Any]]) -> Measured:
    """The figures of the gauntlet's rows, without those of a busy machine."""
    count = counted(rows, "int8")
    mean = geometric_mean([each["speed_to_best"] for each in count])
    if mean is None:
        raise RuntimeError("the machine was busy in all rows")
    slowest = min(count, key=lambda each: float(each["speed_to_best"]))
    where = {name: slowest[name] for name in ("model", "threads", "batch", "best_peer")}
    return Measured({MEAN: mean, SLOWEST: slowest["speed_to_best"]}, more={"rows": len(count), "slowest": where})
