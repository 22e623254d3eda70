"""One-shot pruning of the trained classifiers, half of the weights: SparseGPT against magnitude, on all test images."""

from __future__ import annotations

from maas_rt.compiler import Prune, Recipe

from ._data import calibration_images, fashion_mnist
from ._files import compiled, computed
from ._peers import signal_to_error
from ._rows import Goal, Measured, row
from ._trained import accuracy, logits, trained
from .static import onnx_file

BETTER = Goal("accuracy", 1e-4, 1e-4, over_peer=True)


def measure(name: str) -> Measured:
    """The peer is our own pruning by magnitude. Nothing is verified, since by magnitude a model may well be lost."""
    path, images = onnx_file(name), fashion_mnist("t10k").images
    want = logits(trained(name), images)
    figures = {}
    for method in ("sparsegpt", "magnitude"):
        recipe = Recipe(prune=Prune(0.5, method=method), calibration={"x": calibration_images()})
        got = computed(compiled(path, recipe, {"x": images}, verify=False), {"x": images})
        figures[method] = {"accuracy": accuracy(got), "signal to error": signal_to_error(want, got)}
    return Measured(figures["sparsegpt"], {"magnitude": figures["magnitude"]}, {"float accuracy": accuracy(want)})


@row("prune-mobilenet", "one-shot pruning, half of MobileNetV2-like", BETTER)
def _mobilenet() -> Measured:
    return measure("mobilenet")


@row("prune-resnet", "one-shot pruning, half of ResNet-like", BETTER)
def _resnet() -> Measured:
    return measure("resnet")


@row("prune-vit", "one-shot pruning, half of ViT", BETTER)
def _vit() -> Measured:
    return measure("vit")
