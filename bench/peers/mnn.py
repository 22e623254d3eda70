"""MNN through its module interface, in f32 ("high" precision; "normal" is f32 on x86 as well)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bench.peers import Arrays, Loaded


def load(folder: Path, inputs: Arrays, threads: int) -> Loaded:
    from MNN import expr, nn

    with np.load(folder / "expected.npz") as expected:
        names = [f"y{i}" for i in range(len(expected.files))]
    config = {"backend": "CPU", "numThread": threads, "precision": "high", "memory": "high", "power": "high"}
    runtime = nn.create_runtime_manager((config,))
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
