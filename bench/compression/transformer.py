"""A transformer of MiniLM's shape whose weights are zero in four of five blocks, on 8 bits: its time against our own dense forms."""

from __future__ import annotations

import numpy as np
from maas_rt.compiler import Int8, Prune, Recipe, compile

from ..models import GAUNTLET
from . import _timing
from ._data import KEPT
from ._files import exported
from ._rows import Goal, Measured, row


@row(
    "sparse-minilm",
    "MiniLM's shape at 128 tokens, 80 % block-sparse + int8",
    Goal("our dense fp32 time over it", 3.5, 4.8),
    Goal("our dense int8 time over it", 1.8, 2.5),
    timed=True,
)
def _sparse() -> Measured:
    """Drawn weights, by magnitude: what counts is the time alone."""
    case = GAUNTLET["minilm_128"]
    inputs = case.inputs(1)
    path = exported(case.module(), inputs, KEPT / "minilm_128" / "model.onnx", dynamic=False)
    rng = np.random.default_rng(0)
    calibration = [{name: rng.integers(0, 30000, value.shape) for name, value in inputs.items()} for _ in range(4)]
    int8 = Int8(method="minmax", smooth=False, bias_correction=False)
    block = Prune(0.8, "block", "magnitude")
    recipes = {
        # The last layer of an output stays dense unless it is named; here an encoder's last one is as large as any.
        "ours": Recipe(prune=block, prune_layers={"layers_5_*": block}, quantize=int8, calibration=calibration),
        "dense int8": Recipe(quantize=int8, calibration=calibration),
        "dense fp32": None,
    }
    example = {name: value.numpy() for name, value in inputs.items()}
    artifacts = {name: compile(path, recipe=recipe, verify=False) for name, recipe in recipes.items()}
    times = _timing.interleaved({name: _timing.maas_rt(each, example) for name, each in artifacts.items()}, 30)
    ratios = {kind: _timing.best_ratio(times, "ours", [f"dense {kind}"])[0] for kind in ("fp32", "int8")}
    figures = {f"our dense {kind} time over it": ratio for kind, ratio in ratios.items()}
    return Measured(figures, more={"ms": {name: 1e3 * float(np.median(each)) for name, each in times.items()}})
