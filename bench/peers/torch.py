"""Eager torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bench.peers import Arrays, Loaded


def load(folder: Path, inputs: Arrays, threads: int) -> Loaded:
    import torch

    from bench.models import EVERY

    torch.set_num_threads(threads)
    return callables(EVERY[folder.name].module(), inputs)


def callables(module: Any, inputs: Arrays) -> Loaded:
    """A module, compiled or not, as calls on `inputs`."""
    import torch

    tensors = {name: torch.from_numpy(value) for name, value in inputs.items()}

    def call() -> Any:
        with torch.inference_mode():
            return module(**tensors)

    def outputs() -> list[np.ndarray]:
        result = call()
        return [t.numpy() for t in (result if isinstance(result, tuple) else (result,))]

    return call, outputs
