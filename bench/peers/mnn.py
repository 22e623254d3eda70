"""MNN through its module interface, in f32 ("high" precision; "normal" is f32 on x86 as well)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bench._agreement import largest_error
from bench.peers import Arrays, Loaded

WINOGRAD_LEVEL = 3  # the number of this hint in MNN's HintMode
LEVELS = (3, 2, 1, 0)  # of Winograd's tiles, the default first: the larger, the quicker and the less exact
TOLERANCE = 1e-4


def load(folder: Path, inputs: Arrays, threads: int) -> Loaded:
    """At the highest level whose outputs are within the tolerance of eager torch's; at the default one if none is."""
    with np.load(folder / "expected.npz") as file:
        expected = [file[name] for name in file.files]
    for level in LEVELS:
        loaded = _load(folder, inputs, threads, len(expected), level)
        if largest_error(expected, loaded[1]()) <= TOLERANCE:
            return loaded
    return _load(folder, inputs, threads, len(expected), LEVELS[0])


def _load(folder: Path, inputs: Arrays, threads: int, outputs_count: int, level: int) -> Loaded:
    from MNN import expr, nn

    config = {"backend": "CPU", "numThread": threads, "precision": "high", "memory": "high", "power": "high"}
    runtime = nn.create_runtime_manager((config,))
    runtime.set_hint(WINOGRAD_LEVEL, level)
    names = [f"y{i}" for i in range(outputs_count)]
    net = nn.load_module_from_file(
        str(folder / "model.mnn"), list(inputs), names, runtime_manager=runtime, shape_mutable=False
    )
    variables = []
    for value in inputs.values():
        narrow = value.astype(np.int32) if value.dtype == np.int64 else value
        kind = expr.int if narrow.dtype == np.int32 else expr.float
        variable = expr.placeholder(list(narrow.shape), expr.NCHW, kind)
        variable.write(narrow)
        variables.append(variable)

    def call() -> list[np.ndarray]:
        return [y.read() for y in net.forward(variables)]  # lazy: reading computes

    def outputs() -> list[np.ndarray]:
        return [np.array(expr.convert(y, expr.NCHW).read()) for y in net.forward(variables)]

    return call, outputs
