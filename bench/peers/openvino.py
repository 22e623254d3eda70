"""OpenVINO: its latency mode, one stream, arithmetic in f32."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bench.peers import Arrays, Loaded


def load(folder: Path, inputs: Arrays, threads: int) -> Loaded:
    import openvino

    core = openvino.Core()
    options = {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
        "NUM_STREAMS": 1,
    }
    compiled = core.compile_model(str(folder / "model.onnx"), "CPU", options)
    request = compiled.create_infer_request()
    ordered = [inputs[port.get_any_name()] for port in compiled.inputs]
    return lambda: request.infer(ordered, share_inputs=True, share_outputs=True), lambda: [
        np.array(request.infer(ordered)[port]) for port in compiled.outputs
    ]
