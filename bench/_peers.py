"""The runtimes that are compared: each loads a prepared model and offers one call on fixed inputs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray]
Call = Callable[[], Any]


def _maas_rt(folder: Path, inputs: Arrays, threads: int) -> tuple[Call, Callable[[], list[np.ndarray]]]:
    import maas_rt

    model = maas_rt.load(folder / "model.mrt", threads=threads)
    return lambda: model.run(inputs), lambda: list(model.run(inputs).values())


def _maas_rt_c(folder: Path, inputs: Arrays, threads: int) -> tuple[Call, Callable[[], list[np.ndarray]]]:
    """The C API through cffi: the whole call from Python included."""
    from maas_rt import capi

    model = capi.load(folder / "model.mrt", threads=threads)
    return lambda: model.run(inputs), lambda: list(model.run(inputs).values())


def _onnxruntime(folder: Path, inputs: Arrays, threads: int) -> tuple[Call, Callable[[], list[np.ndarray]]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, inputs), lambda: session.run(None, inputs)


def _openvino(folder: Path, inputs: Arrays, threads: int) -> tuple[Call, Callable[[], list[np.ndarray]]]:
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
    return lambda: request.infer(ordered, share_inputs=True), lambda: [
        np.array(request.infer(ordered)[port]) for port in compiled.outputs
    ]


def _torch_eager(folder: Path, inputs: Arrays, threads: int) -> tuple[Call, Callable[[], list[np.ndarray]]]:
    import torch

    from bench.models import CASES, ODD_CASES

    torch.set_num_threads(threads)
    module = {**CASES, **ODD_CASES}[folder.name].module()
    tensors = {name: torch.from_numpy(value) for name, value in inputs.items()}

    def call() -> Any:
        with torch.inference_mode():
            return module(**tensors)

    def outputs() -> list[np.ndarray]:
        result = call()
        return [t.numpy() for t in (result if isinstance(result, tuple) else (result,))]

    return call, outputs


PEERS: dict[str, Callable[[Path, Arrays, int], tuple[Call, Callable[[], list[np.ndarray]]]]] = {
    "maas_rt": _maas_rt,
    "maas_rt_c": _maas_rt_c,
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "torch": _torch_eager,
}


def version(peer: str) -> str:
    """The installed version of a peer's package."""
    from importlib import metadata

    return metadata.version({"maas_rt": "maas-rt", "maas_rt_c": "maas-rt"}.get(peer, peer))
