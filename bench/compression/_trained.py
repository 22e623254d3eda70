"""The trained reference nets: recipe and seed are here, the weights are made once and kept in build/compression/nets."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from maas_rt.compiler.train import TrainOptions, train
from torch import nn

from ._data import KEPT, fashion_mnist
from ._nets import MobileNet, ResNet, ViT

SEED = 18
BATCH = 128


@dataclass(frozen=True)
class Training:
    """A net, and how it is trained: AdamW, one cycle up to `lr`, `epochs` over the training images."""

    build: Callable[[], nn.Module]
    epochs: int
    lr: float
    weight_decay: float = 0.02


# They take 1.5 to 6 minutes of one core of a Zen 5 each.
TRAININGS = {
    "resnet": Training(ResNet, epochs=3, lr=6e-3),
    "mobilenet": Training(MobileNet, epochs=4, lr=8e-3),
    "vit": Training(ViT, epochs=3, lr=2e-3),
}


def trained(name: str) -> nn.Module:
    """The net in evaluation mode; trained first where its weights are not there, or were made by another recipe."""
    chosen = TRAININGS[name]
    torch.manual_seed(SEED)
    net = chosen.build()
    recipe = f"{chosen.epochs} {chosen.lr} {chosen.weight_decay} {BATCH} {SEED} {net}"
    net.load_state_dict(kept_or(name, recipe, lambda: _train(name, net, chosen)))
    return net.eval()


def kept_or(name: str, recipe: str, make: Callable[[], dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The weights that are kept under this name, made first where there are none by this recipe."""
    path = KEPT / "nets" / f"{name}.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another process that trains it is waited for
        kept = torch.load(path, weights_only=True) if path.exists() else {}
        if kept.get("recipe") != recipe:
            kept = {"recipe": recipe, "state": make()}
            save(path, kept)
    state: dict[str, torch.Tensor] = kept["state"]
    return state


def save(path: Path, value: object) -> None:
    """By torch.save, beside and then renamed into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".new")
    torch.save(value, beside)
    os.replace(beside, path)


def _train(name: str, net: nn.Module, chosen: Training) -> dict[str, torch.Tensor]:
    print(f"training {name}", flush=True)
    options = TrainOptions(
        lr=chosen.lr, weight_decay=chosen.weight_decay, schedule="one-cycle", epochs=chosen.epochs, batch=BATCH, seed=SEED, clip=1.0,
        checkpoint=KEPT / "training" / name,
    )  # fmt: skip
    result = train(net, tensors("train"), nn.functional.cross_entropy, options, validation=tensors("t10k"))
    print(f"{name}: {result.validation}", flush=True)
    return {key: value.detach().cpu() for key, value in result.state.items()}


def tensors(part: str) -> list[torch.Tensor]:
    """The images and labels of a split, for `train`."""
    split = fashion_mnist(part)
    return [torch.from_numpy(split.images), torch.from_numpy(split.labels)]


def logits(net: nn.Module, images: np.ndarray) -> np.ndarray:
    """What torch computes of all of them, float32 [n, 10]."""
    with torch.inference_mode():
        return np.concatenate([net(torch.from_numpy(images[i : i + 500])).numpy() for i in range(0, len(images), 500)])


def accuracy(scores: np.ndarray) -> float:
    """Of the test images, the share whose largest score is the label's."""
    return float((scores.argmax(1) == fashion_mnist("t10k").labels).mean())
