"""The models that are measured and checked: our own definitions, random weights from a fixed seed.

Each is a `ModelCase`: how to build it, what to feed it, and which dimensions may vary. Nothing here needs torchvision.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from bench.models import convnets, crnn, detector, mlp, mobilenets, recommender, tagger, transformers, unet


@dataclass(frozen=True)
class ModelCase:
    """One model of the suite.

    `inputs(batch)` gives the named example inputs; `dynamic` names, per input, the dimensions that may vary and their bounds.
    """

    name: str
    build: Callable[[], torch.nn.Module]
    inputs: Callable[[int], dict[str, torch.Tensor]]
    dynamic: dict[str, dict[int, tuple[int, int]]] = field(default_factory=dict)

    def module(self, seed: int = 0) -> torch.nn.Module:
        """The model in eval mode, with weights (and batch-norm statistics) drawn from `seed`."""
        torch.manual_seed(seed)
        module = self.build().eval()
        _draw_weights(module)
        return module


def _draw_weights(module: torch.nn.Module) -> None:
    """Give batch norms statistics that differ from the identity, so that folding them is tested, and convolutions and linear layers
    weights of a normal distribution, as the models' authors draw them and as trained ones are near to (torch's default is uniform; the
    speed of an 8-bit product depends on it)."""
    for part in module.modules():
        if isinstance(part, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
        if isinstance(part, torch.nn.Linear):
            torch.nn.init.normal_(part.weight, 0.0, (3 * part.in_features) ** -0.5)
        if isinstance(part, torch.nn.modules.batchnorm._BatchNorm):
            torch.nn.init.uniform_(part.weight, 0.6, 1.4)
            torch.nn.init.uniform_(part.bias, -0.2, 0.2)
            assert part.running_mean is not None and part.running_var is not None
            part.running_mean.uniform_(-0.2, 0.2)
            part.running_var.uniform_(0.6, 1.4)


def _images(size: int, channels: int = 3) -> Callable[[int], dict[str, torch.Tensor]]:
    def make(batch: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(batch)
        return {"x": torch.randn(batch, channels, size, size, generator=generator)}

    return make


def _tokens(length: int, vocabulary: int) -> Callable[[int], dict[str, torch.Tensor]]:
    def make(batch: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(batch)
        return {"tokens": torch.randint(0, vocabulary, (batch, length), generator=generator)}

    return make


def _vectors(width: int) -> Callable[[int], dict[str, torch.Tensor]]:
    def make(batch: int) -> dict[str, torch.Tensor]:
        return {"x": torch.randn(batch, width, generator=torch.Generator().manual_seed(batch))}

    return make


def _text_lines(batch: int) -> dict[str, torch.Tensor]:
    return {"x": torch.randn(batch, 1, 32, 100, generator=torch.Generator().manual_seed(batch))}


def _layer_input(batch: int) -> dict[str, torch.Tensor]:
    return {"input": torch.randn(batch, 64, 28, 28, generator=torch.Generator().manual_seed(batch))}


_BATCH = {"x": {0: (1, 32)}}

CASES: dict[str, ModelCase] = {
    case.name: case
    for case in (
        ModelCase("resnet18", convnets.ResNet18, _images(224), _BATCH),
        ModelCase("mobilenet_v2", convnets.MobileNetV2, _images(224), _BATCH),
        ModelCase("bert", transformers.Bert, _tokens(128, 30522), {"tokens": {0: (1, 32)}}),
        ModelCase("vit_tiny", transformers.VisionTransformer, _images(224), _BATCH),
        ModelCase("lstm_tagger", tagger.LstmTagger, _tokens(32, 5000), {"tokens": {0: (1, 32)}}),
        ModelCase("dlrm", recommender.Dlrm, recommender.example_inputs, recommender.DYNAMIC),
        ModelCase("unet", unet.UNet, _images(128), _BATCH),
        ModelCase("mlp", mlp.Mlp, _vectors(64), _BATCH),
    )
}

# Widths, sizes and groups that nothing here is tuned for: measured beside the others, so that a cliff shows.
ODD_CASES: dict[str, ModelCase] = {
    case.name: case
    for case in (
        ModelCase(
            "resnet_odd",
            lambda: convnets.ResNet((40, 72, 136, 264), (1, 2, 1, 1), classes=77, groups=4),
            _images(193),
            _BATCH,
        ),
        ModelCase("mobilenet_odd", lambda: convnets.MobileNetV2(width=0.7, classes=101), _images(151), _BATCH),
        ModelCase(
            "bert_odd", lambda: transformers.Bert(3, 280, 7, 1000, 9000), _tokens(75, 9000), {"tokens": {0: (1, 32)}}
        ),
        ModelCase("vit_odd", lambda: transformers.VisionTransformer(180, 12, 200, 5, 4), _images(180), _BATCH),
    )
}

# What `python -m bench.gauntlet` races. Random weights; the sizes are the papers' but for the detector (320 px, not 640) and
# U-Net (128 px and half of the paper's width), which would take minutes at the papers'.
GAUNTLET: dict[str, ModelCase] = {
    case.name: case
    for case in (
        ModelCase("mlp", mlp.Mlp, _vectors(64)),
        ModelCase("dlrm", recommender.Dlrm, recommender.example_inputs),
        ModelCase("mobilenet_v3_large", mobilenets.MobileNetV3Large, _images(224)),
        ModelCase("mobilenet_v2", convnets.MobileNetV2, _images(224)),
        ModelCase("efficientnet_lite0", mobilenets.EfficientNetLite0, _images(224)),
        ModelCase("resnet50", convnets.ResNet50, _images(224)),
        ModelCase("yolo", detector.Yolo, _images(320)),
        ModelCase("unet_deep", unet.DeepUNet, _images(128)),
        ModelCase("crnn", crnn.Crnn, _text_lines),
        ModelCase("vit_tiny", transformers.VisionTransformer, _images(224)),
        ModelCase("deit_small", lambda: transformers.VisionTransformer(width=384, heads=6), _images(224)),
        ModelCase("minilm_16", transformers.Bert, _tokens(16, 30522)),
        ModelCase("minilm_128", transformers.Bert, _tokens(128, 30522)),
        ModelCase("minilm_384", transformers.Bert, _tokens(384, 30522)),
        ModelCase("bert_base", lambda: transformers.Bert(12, 768, 12, 3072), _tokens(128, 30522)),
    )
}

# Single layers, as models that every peer converts.
LAYERS: dict[str, ModelCase] = {
    case.name: case for case in (ModelCase("conv3x3_64", lambda: torch.nn.Conv2d(64, 64, 3, padding=1), _layer_input),)
}

EVERY: dict[str, ModelCase] = {**CASES, **ODD_CASES, **GAUNTLET, **LAYERS}
