"""The runtimes that are compared. Each module here loads a prepared model and offers one call on fixed inputs.

Nothing of maas_rt is imported here, and each runtime only in its `load`: a worker runs in whichever environment holds its peer.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray]
Loaded = tuple[Callable[[], Any], Callable[[], list[np.ndarray]]]
"""A call that computes and throws away, and one that gives the outputs."""


@dataclass(frozen=True)
class Peer:
    """One runtime: where it is installed, which prepared file it loads, and how it is set (for the reader of a result)."""

    name: str
    title: str
    package: str
    format: str
    settings: str
    environment: str = "main"
    module: str = ""

    def load(self, folder: Path, inputs: Arrays, threads: int) -> Loaded:
        module = importlib.import_module(f"bench.peers.{self.module or self.name}")
        loaded: Loaded = module.load(folder, inputs, threads)
        return loaded


PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        Peer("maas_rt", "maas_rt", "maas-rt", "mrt", "as it comes"),
        Peer("maas_rt_c", "maas_rt, C API through cffi", "maas-rt", "mrt", "as it comes"),
        Peer("onnxruntime", "ONNX Runtime", "onnxruntime", "onnx", "ORT_ENABLE_ALL, intra-op threads, spinning"),
        Peer("openvino", "OpenVINO", "openvino", "onnx", "LATENCY, f32, 1 stream, inputs and outputs shared"),
        Peer("torch", "eager torch", "torch", "torch", "inference_mode"),
        Peer("inductor", "torch.compile", "torch", "torch", "inference_mode, frozen weights"),
        Peer(
            "ncnn",
            "ncnn",
            "ncnn",
            "ncnn",
            "packing layout, winograd and sgemm convolution, f32 storage and arithmetic; a batch is a loop over its items, "
            "as ncnn has no batch axis",
            environment="ncnn",
        ),
        Peer(
            "mnn",
            "MNN",
            "MNN",
            "mnn",
            "precision, memory and power high; the highest Winograd level within 1e-4",
            environment="mnn",
        ),
        Peer("litert", "LiteRT", "ai-edge-litert", "tflite", "XNNPACK delegate (the default)", environment="litert"),
    )
}


def version(peer: str) -> str:
    """The version of a peer's package, as this environment has it."""
    from importlib import metadata

    return metadata.version(PEERS[peer].package)
