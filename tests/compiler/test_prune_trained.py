"""One-shot pruning of small trained models: SparseGPT against magnitude, on digits that neither training nor calibration saw."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from maas_rt.compiler import Prune, Recipe
from maas_rt.compiler import compile as compile_model
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

import maas_rt

_DIGITS = load_digits()
_ORDER = np.random.default_rng(0).permutation(len(_DIGITS.target))
IMAGES = (_DIGITS.images[_ORDER, None] / 16).astype(np.float32)
LABELS = _DIGITS.target[_ORDER].astype(np.int64)
TRAIN, CALIBRATE, BATCH = 1285, 256, 64  # the last 512 are the test set


def block(inputs: int, outputs: int, groups: int = 1) -> nn.Module:
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


class Residual(nn.Module):
    """Convolutions, a grouped one among them, around a residual sum."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = block(1, 8), block(8, 24)
        self.inner = nn.Sequential(block(24, 24, 2), block(24, 24))
        self.head = nn.Linear(96, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.max_pool2d(self.second(self.first(x)), 2)
        return self.head(functional.avg_pool2d(x + self.inner(x), 2).flatten(1))


class Encoder(nn.Module):
    """A transformer over the rows of the image."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Linear(8, 32)
        self.places = nn.Parameter(torch.randn(8, 32) * 0.1)
        self.layer = nn.TransformerEncoderLayer(32, 4, 64, 0.0, batch_first=True, norm_first=True)
        self.head = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer(self.rows(x[:, 0]) + self.places).mean(1))


def perceptron() -> nn.Module:
    sizes = (64, 96, 96, 10)
    layers = [part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *layers[:-1])


def trained(net: nn.Module, steps: int) -> nn.Module:
    optimizer = torch.optim.AdamW(net.parameters(), 3e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        some = torch.randint(0, TRAIN, (BATCH,), generator=generator).numpy()
        loss = functional.cross_entropy(net(torch.from_numpy(IMAGES[some])), torch.from_numpy(LABELS[some]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net.eval()


def compared(net: nn.Module, pattern: str) -> tuple[dict[str, tuple[float, float]], float]:
    """Signal to error in dB and accuracy on the test set, by method, at half of the weights or channels; and the float model's accuracy."""
    program = torch.export.export(net, (torch.zeros(BATCH, 1, 8, 8),))
    with torch.no_grad():
        want = net(torch.from_numpy(IMAGES[-512:])).numpy()
    found = {}
    for method in ("magnitude", "sparsegpt"):
        recipe = Recipe(prune=Prune(0.5, pattern, method=method, tolerance=10.0), calibration=IMAGES[:CALIBRATE])
        artifact = compile_model(program, recipe=recipe)
        layers = artifact.manifest["recipe"]["prune"]["layers"]
        assert layers and (
            pattern == "structured" or all(abs(each["zeros"] / each["weights"] - 0.5) < 0.01 for each in layers)
        )
        model = maas_rt.load(artifact.to_bytes(), threads=1)
        name = model.inputs[0].name
        batches = [IMAGES[-512:][i : i + BATCH] for i in range(0, 512, BATCH)]
        got = np.concatenate([next(iter(model.run({name: x}).values())) for x in batches])
        error = 10 * np.log10((want**2).sum() / ((got - want) ** 2).sum())
        found[method] = (float(error), float((got.argmax(1) == LABELS[-512:]).mean()))
    return found, float((want.argmax(1) == LABELS[-512:]).mean())


@pytest.mark.parametrize(("make", "steps"), [(Residual, 120), (Encoder, 250), (perceptron, 150)])
def test_sparsegpt_beats_magnitude_at_half_of_the_weights(make: type[nn.Module], steps: int) -> None:
    torch.manual_seed(0)
    found, right = compared(trained(make(), steps), "unstructured")
    assert right > 0.85
    assert found["sparsegpt"][0] > found["magnitude"][0] + 2  # dB
    assert found["sparsegpt"][1] >= found["magnitude"][1] - 0.002  # one of the images
    assert found["sparsegpt"][1] > right - 0.03


def test_least_squares_make_up_for_half_of_the_neurons() -> None:
    torch.manual_seed(0)
    found, right = compared(trained(perceptron(), 150), "structured")
    assert found["sparsegpt"][0] > found["magnitude"][0] + 6
    assert found["sparsegpt"][1] > right - 0.03
