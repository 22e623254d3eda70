"""Small nets that punish careless quantization, with drawn weights: the error on inputs that calibration has not seen."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np
import torch
from maas_rt.compiler import Int8, Recipe
from torch import Tensor, nn
from torch.nn import functional

from ._data import KEPT, calibration_images, fashion_mnist
from ._files import BATCH, compiled, computed, exported
from ._peers import best, outputs_of_peers, varying_to_error
from ._rows import Goal, Measured, row

ERROR = Goal("signal to error", 0, 3, over_peer=True, unit=" dB")
CALIBRATION, TEST = 64, 500


class Outliers(nn.Module):
    """Two perceptrons behind layer norms, four channels of which are `size` times the others (T. Dettmers et al., 2022: LLM.int8())."""

    def __init__(self, size: float, width: int = 64) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.up = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(2))
        self.down = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(2))
        self.head = nn.Linear(width, 10)
        for norm in self.norms:
            places = torch.randperm(width)[:4]
            norm.weight.data[places] *= size
            norm.bias.data.normal_(0, 0.1)
        for up, norm in zip(self.up, self.norms):
            up.weight.data /= norm.weight.data.sqrt()  # what was trained with such norms has small weights behind them

    def forward(self, x: Tensor) -> Tensor:
        for norm, up, down in zip(self.norms, self.up, self.down):
            x = x + down(functional.gelu(up(norm(x))))
        scores: Tensor = self.head(x.mean(1))
        return scores


class Gains(nn.Module):
    """Convolutions whose channels have gains of 2^-6 to 2^6, taken back by the next one (M. Nagel et al., 2019)."""

    def __init__(self, octaves: float = 6.0) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 16, 3, 2, 1), nn.Conv2d(16, 16, 3, 1, 1, groups=16)
        self.third, self.head = nn.Conv2d(16, 32, 1), nn.Linear(32, 10)
        gain = torch.exp2(torch.empty(16).uniform_(-octaves, octaves))
        for parameter in (self.first.weight, self.first.bias):
            assert parameter is not None
            parameter.data *= gain.reshape(-1, *[1] * (parameter.ndim - 1))
        self.second.weight.data /= gain.reshape(-1, 1, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.second(functional.relu(self.first(x))))
        scores: Tensor = self.head(functional.relu(self.third(x)).mean((2, 3)))
        return scores


class Excited(nn.Module):
    """Inverted bottlenecks with SiLU and squeeze-and-excite (M. Tan and Q. Le, 2019: EfficientNet)."""

    class Block(nn.Module):
        def __init__(self, width: int, hidden: int) -> None:
            super().__init__()
            self.expand, self.project = nn.Conv2d(width, hidden, 1), nn.Conv2d(hidden, width, 1)
            self.filter = nn.Conv2d(hidden, hidden, 3, 1, 1, groups=hidden)
            self.squeeze, self.excite = nn.Conv2d(hidden, hidden // 4, 1), nn.Conv2d(hidden // 4, hidden, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = functional.silu(self.filter(functional.silu(self.expand(x))))
            gate = torch.sigmoid(self.excite(functional.silu(self.squeeze(y.mean((2, 3), keepdim=True)))))
            result: Tensor = x + self.project(y * gate)
            return result

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, 2, 1)
        self.blocks = nn.Sequential(*(self.Block(width, 4 * width) for _ in range(3)))
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.blocks(functional.silu(self.stem(x))).mean((2, 3)))
        return scores


class Recurrent(nn.Module):
    """An LSTM over the rows of an image, between linear layers."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.embed, self.lstm, self.head = nn.Linear(28, width), nn.LSTM(width, width, batch_first=True), nn.Linear(width, 10)  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.lstm(functional.relu(self.embed(x.squeeze(1))))
        scores: Tensor = self.head(states[:, -1])
        return scores


class Branches(nn.Module):
    """A grouped convolution beside a plain one, concatenated, added to their input, and one branch read twice."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, 2, 1)
        self.grouped, self.plain = nn.Conv2d(width, width // 2, 3, 1, 1, groups=4), nn.Conv2d(width, width // 2, 1)
        self.merge, self.head = nn.Conv2d(width + width // 2, width, 1), nn.Linear(width, 10)
        self.plain.weight.data *= 6  # branches that differ in scale meet in one tensor

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.stem(x))
        a, b = self.grouped(x), functional.relu(self.plain(x))
        y = torch.cat([a, b], 1) + x
        scores: Tensor = self.head(functional.relu(self.merge(torch.cat([y, b], 1))).mean((2, 3)))
        return scores


def _tokens(count: int) -> np.ndarray:
    """Sequences of 16 tokens of 64 numbers, drawn; another seed for each count."""
    return np.random.default_rng(count).standard_normal((count, 16, 64), np.float32)


def _images(count: int) -> np.ndarray:
    return calibration_images(count) if count == CALIBRATION else fashion_mnist("t10k").images[:count]


def measure(name: str, build: Callable[[], nn.Module], drawn: Callable[[int], np.ndarray], transformer: bool = False) -> Measured:  # fmt: skip
    """Ours by the default recipe, and both peers."""
    torch.manual_seed(zlib.crc32(name.encode()))
    net = build().eval()
    calibration, inputs = {"x": drawn(CALIBRATION)}, {"x": drawn(TEST)}
    path = exported(net, {"x": torch.from_numpy(inputs["x"][:1])}, KEPT / "awkward" / name / "model.onnx")
    with torch.inference_mode():
        want = net(torch.from_numpy(inputs["x"])).numpy()

    def figures(got: np.ndarray) -> dict[str, float]:
        return {"signal to error": varying_to_error(want, got)}

    artifact = compiled(path, Recipe(quantize=Int8(tolerance=1.0), calibration=calibration), inputs)
    peers = outputs_of_peers(path.parent, calibration, inputs, BATCH, transformer)
    theirs, settings = best(peers, figures, "signal to error")
    return Measured(figures(computed(artifact, inputs)), theirs, {"settings": settings})


@row("awkward-outliers-30", "int8 static, LayerNorm outliers x 30", ERROR)
def _outliers_30() -> Measured:
    return measure("outliers-30", lambda: Outliers(30), _tokens, transformer=True)


@row("awkward-outliers-200", "int8 static, LayerNorm outliers x 200", ERROR)
def _outliers_200() -> Measured:
    return measure("outliers-200", lambda: Outliers(200), _tokens, transformer=True)


@row("awkward-gains", "int8 static, channel gains 2^±6", ERROR)
def _gains() -> Measured:
    return measure("gains", Gains, _images)


@row("awkward-excited", "int8 static, SiLU and squeeze-excite", ERROR)
def _excited() -> Measured:
    return measure("excited", Excited, _images)


@row("awkward-lstm", "int8 static, LSTM", ERROR)
def _lstm() -> Measured:
    return measure("lstm", Recurrent, _images)


@row("awkward-branches", "int8 static, concat, residual and groups", ERROR)
def _branches() -> Measured:
    return measure("branches", Branches, _images)
