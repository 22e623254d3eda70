"""Models as the files that all runtimes read, and ours as it computes many samples."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from maas_rt.compiler import Recipe, compile
from torch import nn

BATCH = 100


def exported(
    net: nn.Module, example: Mapping[str, torch.Tensor], path: Path, dynamic: bool = True, output: str = "y"
) -> Path:
    """An ONNX file by torch's exporter; `dynamic`: the first axis of all inputs varies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    axes = {name: {0: "n"} for name in (*example, output)} if dynamic else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net.eval(), tuple(example.values()), str(path), input_names=list(example), output_names=[output],
            dynamic_axes=axes, dynamo=False, opset_version=17,
        )  # fmt: skip
    return path


def compiled(path: Path, recipe: Recipe | None, inputs: Mapping[str, Any], dynamic: bool = True, **more: Any) -> Any:
    """The artifact of an ONNX file, for batches up to BATCH where it is dynamic."""
    axes = {name: {0: (1, BATCH)} for name in inputs} if dynamic else None
    return compile(path, recipe=recipe, dynamic=axes, **more)


def computed(artifact: Any, inputs: Mapping[str, np.ndarray], batch: int = BATCH) -> np.ndarray:
    """The first output for all samples."""
    program = artifact.loaded()
    count = len(next(iter(inputs.values())))
    parts = []
    for i in range(0, count, batch):
        result = program.run({name: np.ascontiguousarray(value[i : i + batch]) for name, value in inputs.items()})
        parts.append(np.array(next(iter(result.values()))))
    return np.concatenate(parts)
