"""The largest memory of a process that compresses one model: `python -m bench.compression._memory_of METHOD SAMPLES`, in MB on stdout."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from maas_rt.compiler import Int8, Prune, Recipe, WeightOnly, compile

from ._data import KEPT, SIDE
from ._files import exported
from ._nets import ViT

METHODS: dict[str, dict[str, Int8 | WeightOnly | Prune]] = {
    "int8 auto": {"quantize": Int8()},
    "int8 percentile": {"quantize": Int8(method="percentile")},
    "int8 mse": {"quantize": Int8(method="mse")},
    "int8 entropy": {"quantize": Int8(method="entropy")},
    "GPTQ": {"quantize": WeightOnly(method="gptq")},
    "AWQ": {"quantize": WeightOnly(method="awq")},
    "Wanda": {"prune": Prune(0.5, method="wanda")},
    "SparseGPT": {"prune": Prune(0.5)},
    "structured": {"prune": Prune(0.5, "structured")},
    "low rank": {"prune": Prune(0.5, "low_rank")},
}


def main(method: str, samples: int) -> None:
    torch.manual_seed(0)
    net, path = ViT(width=64, depth=2, heads=4), KEPT / "memory" / "model.onnx"
    if not path.exists():
        exported(net, {"x": torch.zeros(1, 1, SIDE, SIDE)}, path, dynamic=False)
    recipe = Recipe(calibration=_drawn(samples), **METHODS[method])  # type: ignore[arg-type]
    compile(path, recipe=recipe, verify=False)
    status = Path("/proc/self/status").read_text()
    print(int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) / 1000)


def _drawn(count: int) -> Iterator[dict[str, np.ndarray]]:
    """Read once: nobody holds all of them."""
    rng = np.random.default_rng(0)
    for _ in range(count):
        yield {"x": rng.standard_normal((1, 1, SIDE, SIDE), np.float32)}


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
