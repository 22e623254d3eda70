"""Searches the forms of a trained net within a budget, and keeps every trial: `python -m bench.compression.front`, then
`python -m bench.plot compression_front` draws them.

Calibrated on 512 training images, chosen by others, judged by the test images, which chose nothing.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from maas_rt import compiler

from .. import machine
from .._environments import ROOT
from .._harness import QUIET
from .._results import write_results
from . import _data
from ._trained import TRAININGS, trained

RESULTS = ROOT / "bench" / "results" / "compression_front.json"
CHOOSING = 3000  # training images, the last


def accuracy_on(split: _data.Split) -> Callable[..., float]:
    """A score for `compress`: the share of these images whose class is found."""

    def score(run: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]) -> float:
        found = [next(iter(run({"x": image[None]}).values())).argmax() for image in split.images]
        return float((np.array(found) == split.labels).mean())

    return score


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.compression.front", description=__doc__)
    parser.add_argument("net", nargs="?", choices=[*TRAININGS], default="resnet")
    parser.add_argument("--max-drop", type=float, default=0.01, help="of accuracy (default: 0.01)")
    parser.add_argument("--seconds", type=float, default=900, help="of search (default: 900)")
    parser.add_argument("--data", type=Path, help="a folder with Fashion-MNIST's IDX files; default: Debian's package")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.data is not None:
        _data.use(options.data)
    train, test = _data.fashion_mnist("train"), _data.fashion_mnist("t10k")
    choosing = _data.Split(train.images[-CHOOSING:], train.labels[-CHOOSING:])
    before = machine.peak_gflops()
    artifact = compiler.compress(
        trained(options.net), {"x": _data.calibration_images()}, accuracy_on(choosing),
        {"max_drop": options.max_drop, "objective": "latency", "seconds": options.seconds},
        judge=accuracy_on(test), example_inputs={"x": torch.from_numpy(test.images[:1])},
        journal=_data.KEPT / f"front-{options.net}.jsonl", progress=lambda *told: print(*told, file=sys.stderr, flush=True),
    )  # fmt: skip
    after = machine.peak_gflops()
    write_results(
        options.output,
        {
            "command": shlex.join(["python", "-m", "bench.compression.front", *sys.argv[1:]]), "net": options.net, "machine": machine.describe(),
            "quiet": os.getloadavg()[0] < 1.5 and abs(after / before - 1) < QUIET, "fma_gflops": [before, after],
            "report": artifact.report,
        },
    )  # fmt: skip
    artifact.save(_data.KEPT / f"front-{options.net}.mrt")
    print(artifact.report["judged"], artifact.report["latency"], artifact.report["bytes"], artifact.report["methods"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
