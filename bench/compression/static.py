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
from ._trained import logits, trained

AGREEMENT = Goal("agreement", 0.994, 0.998)
ERROR = Goal("signal to error", 0, 6, over_peer=True, unit=" dB")


def onnx_file(name: str) -> Path:
    """The trained net as an ONNX file, in a folder of its own."""
    net = trained(name)
    return exported(net, {"x": torch.zeros(1, 1, 28, 28)}, KEPT / "static" / name / "model.onnx")


def measure(name: str, transformer: bool = False) -> Measured:
    """Of a net that is trained here."""
    test = fashion_mnist("t10k")
    calibration, want = {"x": calibration_images()}, logits(trained(name), test.images)
    return compared(onnx_file(name), calibration, test.images, test.labels, want, BATCH, transformer)


def compared(
    path: Path, calibration: dict[str, np.ndarray], images: np.ndarray, labels: np.ndarray, want: np.ndarray, batch: int,
    transformer: bool = False,
) -> Measured:  # fmt: skip
    """Ours by the default recipe, and both peers. `want` are the float net's scores."""

    def figures(got: np.ndarray) -> dict[str, float]:
        same, right = ((got.argmax(1) == of).mean() for of in (want.argmax(1), labels))
        return {"agreement": float(same), "signal to error": signal_to_error(want, got), "accuracy": float(right)}

    recipe = Recipe(
        quantize=Int8(tolerance=0.5), calibration=calibration
    )  # what the row is for is measured, not refused
    artifact = compiled(path, recipe, {"x": images})
    peers = outputs_of_peers(path.parent, calibration, {"x": images}, batch, transformer)
    theirs, settings = best(peers, figures, "signal to error")
    right = float((want.argmax(1) == labels).mean())
    more: dict[str, Any] = {"settings": settings, "float accuracy": right, "onnx bytes": path.stat().st_size}
    return Measured(figures(computed(artifact, {"x": images}, batch)), theirs, more)


@row("int8-photos", "int8 static, EfficientNet-lite0 on photos", AGREEMENT, ERROR)
def _photos() -> Measured:
    from ._photos import CALIBRATION, SIDE, efficientnet, photos, scores_of

    net, (images, labels) = efficientnet(), photos("test")
    path = exported(net, {"x": torch.zeros(1, 3, SIDE, SIDE)}, KEPT / "static" / "efficientnet" / "model.onnx")
    calibration = {"x": photos("train")[0][:CALIBRATION]}
    return compared(path, calibration, images, labels, scores_of(net, images).numpy(), 20)


@row("int8-mobilenet", "int8 static, MobileNetV2-like", AGREEMENT, ERROR)
def _mobilenet() -> Measured:
    return measure("mobilenet")


@row("int8-resnet", "int8 static, ResNet-like", AGREEMENT, ERROR)
def _resnet() -> Measured:
    return measure("resnet")


@row("int8-vit", "int8 static, ViT", AGREEMENT, ERROR)
def _vit() -> Measured:
    return measure("vit", transformer=True)
