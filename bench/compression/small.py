"""The ResNet pruned, distilled and on 8 bits, against what it was: accuracy, size and latency; and what any file takes."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from maas_rt.compiler import Int8, Prune, Recipe, compile
from torch import nn

from . import _timing
from ._data import KEPT, calibration_images, fashion_mnist
from ._files import BATCH, compiled, computed, exported
from ._peers import outputs_of_peers
from ._rows import Goal, Measured, row
from ._student import student
from ._trained import accuracy, logits, trained
from .static import onnx_file

PEER_FILES = {
    "ONNX Runtime int8": "onnxruntime/model.minmax.onnx",
    "OpenVINO int8, performance": "nncf/model.performance.xml",
    "OpenVINO int8, mixed": "nncf/model.mixed.xml",
}


@row(
    "small-resnet",
    "ResNet-like, pruned + distilled + int8",
    Goal("accuracy lost, points", 1.0, 1.0, least=False),
    Goal("best peer's fp32 time over ours", 3, 5),
    Goal("best peer's int8 time over ours", 1.5, 2.5),
    Goal("file over ONNX file", 1 / 8, 1 / 20, least=False),
    timed=True,
)
def _small() -> Measured:
    dense, images = onnx_file("resnet"), fashion_mnist("t10k").images
    path = exported(student(), {"x": torch.zeros(1, 1, 28, 28)}, KEPT / "static" / "student" / "model.onnx")
    recipe = Recipe(quantize=Int8(), calibration={"x": calibration_images()})
    lost = accuracy(logits(trained("resnet"), images)) - accuracy(computed(compiled(path, recipe, {"x": images}), {"x": images}))  # fmt: skip
    image = {"x": np.ascontiguousarray(images[:1])}
    artifact = compile(path, recipe=recipe, input_shapes={"x": (1, 1, 28, 28)})
    runs = {"ours": _timing.maas_rt(artifact, image), **_peers(dense, image)}
    runs["ours, not compressed"] = _timing.maas_rt(compile(dense, input_shapes={"x": (1, 1, 28, 28)}), image)
    times = _timing.interleaved(runs)
    fp32, who = _timing.best_ratio(times, "ours", ["ONNX Runtime", "OpenVINO"])
    int8, which = _timing.best_ratio(times, "ours", list(PEER_FILES))
    figures = {
        "accuracy lost, points": 100 * lost,
        "best peer's fp32 time over ours": fp32,
        "best peer's int8 time over ours": int8,
        "file over ONNX file": _size(artifact) / dense.stat().st_size,
    }
    more = {"microseconds": {name: 1e6 * float(np.median(each)) for name, each in times.items()}, "best": [who, which]}
    return Measured(figures, more=more | {"bytes": [_size(artifact), dense.stat().st_size]})


def _peers(dense: Path, image: dict[str, np.ndarray]) -> dict[str, _timing.Run]:
    """The peers on the net as it was, in float and as they quantize it."""
    folder = dense.parent
    if not all((folder / each).exists() for each in PEER_FILES.values()):
        outputs_of_peers(folder, {"x": calibration_images()}, {"x": fashion_mnist("t10k").images[:BATCH]}, BATCH)
    runs = {"ONNX Runtime": _timing.onnxruntime(dense, image), "OpenVINO": _timing.openvino(dense, image)}
    for name, file in PEER_FILES.items():
        runs[name] = (_timing.onnxruntime if file.endswith(".onnx") else _timing.openvino)(folder / file, image)
    return runs


def _size(artifact: object) -> int:
    """Bytes of the file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.mrt"
        artifact.save(path)  # type: ignore[attr-defined]
        return path.stat().st_size


@row("file-overhead", "fixed overhead of a file", Goal("KiB", 24, 12, least=False))
def _overhead() -> Measured:
    """A layer of one weight: all of its file but four bytes or eight is overhead."""
    net = nn.Linear(1, 1)
    return Measured({"KiB": _size(compile(net, [torch.zeros(1, 1)])) / 1024})


@row(
    "structured", "structured pruning at half of the FLOPs", Goal("time over dense", 0.6, 0.52, least=False), timed=True
)
def _structured() -> Measured:
    """A ResNet, 160 channels wide, with drawn weights, both in float32: 112 of them stay, 0.49 of the operations. What counts is the time."""
    from ._nets import ResNet

    torch.manual_seed(0)
    wide = ResNet((160,) * 4).eval()
    path = exported(wide, {"x": torch.zeros(1, 1, 28, 28)}, KEPT / "static" / "wide" / "model.onnx")
    image = {"x": np.ascontiguousarray(fashion_mnist("t10k").images[:1])}
    shapes = {"x": (1, 1, 28, 28)}
    recipe = Recipe(prune=Prune(0.3, "structured", "sparsegpt"), calibration={"x": calibration_images(64)})
    pruned, dense = compile(path, recipe=recipe, input_shapes=shapes, verify=False), compile(path, input_shapes=shapes)
    times = _timing.interleaved({"ours": _timing.maas_rt(pruned, image), "dense": _timing.maas_rt(dense, image)})
    ratio, _ = _timing.best_ratio(times, "ours", ["dense"])
    channels = [layer["outputs"] for layer in pruned.manifest["recipe"]["prune"]["layers"]]
    return Measured({"time over dense": 1 / ratio}, more={"channels": channels})
