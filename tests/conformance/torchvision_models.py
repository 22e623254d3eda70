"""torchvision's classification, detection and segmentation models; see vision_models for how, and for the command line."""

from __future__ import annotations

import sys
from typing import Any

from tests.conformance.vision_models import Case, image
from tests.conformance.vision_models import main as run_suite

# Smaller images where the architecture takes them.
SIZES = {"inception_v3": 96, "vit": 224, "maxvit": 224, "alexnet": 80, "squeezenet": 80}
HUGE = ("regnet_y_128gf", "vit_h_14")  # 2.5 GB of weights each; regnet_y_32gf and vit_l_16 are the same code


def cases() -> list[Case]:
    from torchvision import models

    found = [_classifier(name) for name in models.list_models(module=models) if name not in HUGE]
    found += [_segmenter(name) for name in models.list_models(module=models.segmentation)]
    found += [_detector(name) for name in models.list_models(module=models.detection)]
    return found


def _classifier(name: str) -> Case:
    from torchvision import models

    options: dict[str, Any] = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
    size = next((size for prefix, size in SIZES.items() if name.startswith(prefix)), 64)
    if name.startswith("vit"):
        size, options = 64, {"image_size": 64}
    if name == "vit_h_14":
        size, options = 56, {"image_size": 56}
    return Case(name, lambda: models.get_model(name, weights=None, **options), image(size))


def _segmenter(name: str) -> Case:
    from torchvision import models

    return Case(name, lambda: models.get_model(name, weights=None, weights_backbone=None, num_classes=5), image(64))


def _detector(name: str) -> Case:
    import torch
    from torchvision import models

    size = 96
    options: dict[str, Any] = {"min_size": size, "max_size": size}
    if name.startswith("ssd"):
        size = 300 if name == "ssd300_vgg16" else 320
        options = {}

    def images(batch: int) -> tuple[Any, ...]:
        return ([torch.rand(3, size, size) for _ in range(batch)],)

    return Case(
        name,
        lambda: models.get_model(name, weights=None, weights_backbone=None, num_classes=5, **options),
        images,
        batched=False,
        detections=True,
    )


def main(arguments: list[str]) -> int:
    import torch
    import torchvision

    versions = {"torch": torch.__version__.split("+")[0], "torchvision": torchvision.__version__.split("+")[0]}
    return run_suite("torchvision", cases(), versions, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
