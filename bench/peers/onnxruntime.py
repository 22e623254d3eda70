"""ONNX Runtime: every graph optimisation, the blocked layout among them; its pool spins, which is its default."""

from __future__ import annotations

from pathlib import Path

from bench.peers import Arrays, Loaded


def load(folder: Path, inputs: Arrays, threads: int) -> Loaded:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, inputs), lambda: session.run(None, inputs)
