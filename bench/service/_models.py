"""The models that are served: compiled for ours, exported to ONNX for the others, which run it with ONNX Runtime."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from bench._harness import ROOT
from bench.models import convnets, mlp, transformers

WORK = ROOT / "build" / "bench" / "service"
OUTPUT = "output_0"  # what our compiler calls it


@dataclass(frozen=True)
class Model:
    """Its one input is `input`; `free`: the axes that are open, with their bounds; `draw`: inputs of requests."""

    name: str
    build: Callable[[], nn.Module]
    input: str
    draw: Callable[[torch.Generator], list[torch.Tensor]]
    free: dict[int, tuple[int, int]]


@dataclass(frozen=True)
class Case:
    """A model that was prepared: its folder, with model.mrt and model.onnx, inputs of requests and what they should give."""

    name: str
    folder: Path
    input: str
    output: str
    inputs: list[np.ndarray]
    expected: list[np.ndarray]


class _First(nn.Module):
    """A model's first output, flat but for the batch: what servers answer is compared as it is."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.model(x)
        return torch.flatten(y[0] if isinstance(y, tuple) else y, 1)


class _Encoder(nn.Module):
    """A MiniLM's sentence vector: the mean over the tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.model = transformers.Bert()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.model(x)
        return (y[0] if isinstance(y, tuple) else y).mean(1)


def _wide() -> nn.Module:
    layers = [nn.Sequential(nn.Linear(2048, 2048), nn.ReLU()) for _ in range(4)]
    return _First(nn.Sequential(*layers, nn.Linear(2048, 16)))


def _lengths(generator: torch.Generator) -> list[torch.Tensor]:
    sizes = torch.randint(4, 65, (24,), generator=generator).tolist()
    return [torch.randint(0, 30522, (1, size), generator=generator) for size in sizes]


def _vectors(width: int) -> Callable[[torch.Generator], list[torch.Tensor]]:
    return lambda generator: [torch.randn(1, width, generator=generator) for _ in range(16)]


MODELS = {
    model.name: model
    for model in (
        Model("mlp", lambda: _First(mlp.Mlp()), "x", _vectors(64), {}),
        Model(
            "mobilenet_v2",
            lambda: _First(convnets.MobileNetV2()),
            "x",
            lambda generator: [torch.randn(1, 3, 224, 224, generator=generator) for _ in range(4)],
            {},
        ),
        Model("encoder", _Encoder, "x", _lengths, {1: (4, 64)}),
        Model("wide", _wide, "x", _vectors(2048), {0: (1, 16)}),
    )
}


def prepare(name: str) -> Case:
    """Makes what is not there."""
    model, folder = MODELS[name], WORK / name
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    module = model.build().eval()
    inputs = model.draw(torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = [module(each).numpy() for each in inputs]
    if not (folder / "model.mrt").exists():
        _compile(model, module, inputs[0], folder / "model.mrt")
    if not (folder / "model.onnx").exists():
        _export(model, module, inputs[0], folder / "model.onnx")
    return Case(name, folder, model.input, OUTPUT, [each.numpy() for each in inputs], expected)


def _compile(model: Model, module: nn.Module, example: torch.Tensor, target: Path) -> None:
    from maas_rt import compiler

    dynamic = {model.input: model.free} if model.free else None
    compiler.compile(module, {model.input: example}, dynamic=dynamic, name=model.name).save(target)


def _export(model: Model, module: nn.Module, example: torch.Tensor, target: Path) -> None:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    free = {axis: torch.export.Dim(f"n{axis}", min=low, max=high) for axis, (low, high) in model.free.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (example,),
            str(target),
            input_names=[model.input],
            output_names=[OUTPUT],
            dynamic_shapes=(free,) if free else None,
            external_data=False,
            verbose=False,
        )
