"""Static quantization of the trained classifiers: how often the top class stays, and the error of the scores, on all test images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from maas_rt.compiler import Int8, Recipe

from ._data import KEPT, calibration_images, fashion_mnist
from ._files import BATCH, compiled, computed, exported
from ._peers import best, outputs_of_peers, signal_to_error
from ._rows import Goal, Measured, row
from ._trained import accuracy, logits, trained

AGREEMENT = Goal("agreement", 0.994, 0.998)
ERROR = Goal("signal to error", 0, 6, over_peer=True, unit=" dB")


def onnx_file(name: str) -> Path:
    """The trained net as an ONNX file, in a folder of its own."""
    net = trained(name)
    return exported(net, {"x": torch.zeros(1, 1, 28, 28)}, KEPT / "static" / name / "model.onnx")


def measure(name: str, transformer: bool = False) -> Measured:
    """Ours by the default recipe, and both peers."""
    path, images = onnx_file(name), fashion_mnist("t10k").images
    calibration = {"x": calibration_images()}
    want = logits(trained(name), images)

    def figures(got: np.ndarray) -> dict[str, float]:
        same = float((got.argmax(1) == want.argmax(1)).mean())
        return {"agreement": same, "signal to error": signal_to_error(want, got), "accuracy": accuracy(got)}

    artifact = compiled(path, Recipe(quantize=Int8(), calibration=calibration), {"x": images})
    peers = outputs_of_peers(path.parent, calibration, {"x": images}, BATCH, transformer)
    theirs, settings = best(peers, figures, "signal to error")
    more: dict[str, Any] = {"settings": settings, "float accuracy": accuracy(want), "onnx bytes": path.stat().st_size}
    return Measured(figures(computed(artifact, {"x": images})), theirs, more)


@row("int8-mobilenet", "int8 static, MobileNetV2-like", AGREEMENT, ERROR)
def _mobilenet() -> Measured:
    return measure("mobilenet")


@row("int8-resnet", "int8 static, ResNet-like", AGREEMENT, ERROR)
def _resnet() -> Measured:
    return measure("resnet")


@row("int8-vit", "int8 static, ViT", AGREEMENT, ERROR)
def _vit() -> Measured:
    return measure("vit", transformer=True)
