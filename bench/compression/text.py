"""MiniLM compressed: the cosine of each sentence's vector to the float model's, on sentences that calibration has not seen."""

from __future__ import annotations

import numpy as np
import torch
from maas_rt.compiler import Int8, Int8Dynamic, Recipe, WeightOnly

from ._data import KEPT
from ._files import compiled, computed, exported
from ._minilm import minilm, tokens
from ._rows import Goal, Measured, row

BATCH = 20


def goals(mean: tuple[float, float], least: tuple[float, float]) -> tuple[Goal, Goal]:
    """Must and aim of the mean cosine, and of the least."""
    return Goal("mean cosine", *mean), Goal("least cosine", *least)


def measure(recipe: Recipe) -> Measured:
    test = tokens("test")
    path = KEPT / "minilm" / "model.onnx"
    if not path.exists():
        exported(minilm(), {name: torch.from_numpy(value[:1]) for name, value in test.items()}, path)
    with torch.inference_mode():
        want = minilm()(*(torch.from_numpy(value) for value in test.values())).numpy().astype(np.float64)
    got = computed(compiled(path, recipe, test), test, BATCH).astype(np.float64)
    cosines = (want * got).sum(1) / np.linalg.norm(want, axis=1) / np.linalg.norm(got, axis=1)
    return Measured({"mean cosine": float(cosines.mean()), "least cosine": float(cosines.min())})


@row("minilm-static", "MiniLM, int8 static", *goals((0.995, 0.999), (0.98, 0.995)))
def _static() -> Measured:
    return measure(Recipe(quantize=Int8(tolerance=1.0), calibration=tokens("calibration")))


@row("minilm-dynamic", "MiniLM, int8 dynamic", *goals((0.998, 0.9995), (0.99, 0.9995)))
def _dynamic() -> Measured:
    return measure(Recipe(quantize=Int8Dynamic(tolerance=1.0)))


@row("minilm-int4", "MiniLM, int4 in groups of 32", *goals((0.985, 0.993), (0.95, 0.97)))
def _int4() -> Measured:
    method = WeightOnly(bits=4, group=32, symmetric=False, method="gptq", tolerance=1.0)
    return measure(Recipe(quantize=method, calibration=tokens("calibration")))
