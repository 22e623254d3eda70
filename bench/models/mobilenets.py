"""Small convolutional classifiers: MobileNetV3-large (Howard et al. 2019, arXiv:1905.02244) and EfficientNet-lite0 (EfficientNet-B0,
Tan and Le 2019, arXiv:1905.11946, without squeeze-and-excite and with ReLU6, as its authors' "lite" family has it)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def _conv(c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(c_out, eps=1e-3)
    )


class SqueezeExcite(nn.Module):
    """Scales each channel by a gate that is computed from the means of all channels (section 5.3 of the paper: a hard sigmoid)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = _rounded(channels / 4)
        self.gate = nn.Sequential(
            nn.Conv2d(channels, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, channels, 1), nn.Hardsigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(nn.functional.adaptive_avg_pool2d(x, 1))


def _rounded(channels: float) -> int:
    """The nearest multiple of 8, not more than a tenth below."""
    result = max(8, int(channels + 4) // 8 * 8)
    return result + 8 if result < 0.9 * channels else result


class Block(nn.Module):
    """Expand (1x1), filter per channel (k x k), gate, project (1x1); residual where shape is kept."""

    def __init__(
        self, c_in: int, hidden: int, c_out: int, kernel: int, stride: int, gate: bool, act: Callable[[], nn.Module]
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [] if hidden == c_in else [_conv(c_in, hidden, 1), act()]
        layers += [_conv(hidden, hidden, kernel, stride, hidden), act()]
        layers += [SqueezeExcite(hidden)] if gate else []
        self.body = nn.Sequential(*layers, _conv(hidden, c_out, 1))
        self.residual = stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.residual else self.body(x)


class MobileNetV3Large(nn.Module):
    """5.5 M parameters, 0.22 G multiply-adds at 224 x 224."""

    # kernel, hidden, out, gate, hard swish (else ReLU), stride: table 1 of the paper
    STAGES = (
        (3, 16, 16, False, False, 1),
        (3, 64, 24, False, False, 2),
        (3, 72, 24, False, False, 1),
        (5, 72, 40, True, False, 2),
        (5, 120, 40, True, False, 1),
        (5, 120, 40, True, False, 1),
        (3, 240, 80, False, True, 2),
        (3, 200, 80, False, True, 1),
        (3, 184, 80, False, True, 1),
        (3, 184, 80, False, True, 1),
        (3, 480, 112, True, True, 1),
        (3, 672, 112, True, True, 1),
        (5, 672, 160, True, True, 2),
        (5, 960, 160, True, True, 1),
        (5, 960, 160, True, True, 1),
    )

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        layers: list[nn.Module] = [_conv(3, 16, 3, 2), nn.Hardswish()]
        channels = 16
        for kernel, hidden, out, gate, swish, stride in self.STAGES:
            layers.append(Block(channels, hidden, out, kernel, stride, gate, nn.Hardswish if swish else nn.ReLU))
            channels = out
        self.features = nn.Sequential(*layers, _conv(channels, 960, 1), nn.Hardswish())
        self.head = nn.Sequential(nn.Linear(960, 1280), nn.Hardswish(), nn.Linear(1280, classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.flatten(nn.functional.adaptive_avg_pool2d(self.features(x), 1), 1))


class EfficientNetLite0(nn.Module):
    """4.7 M parameters, 0.4 G multiply-adds at 224 x 224."""

    # kernel, expansion, out, repeats, stride: table 1 of the paper
    STAGES = (
        (3, 1, 16, 1, 1),
        (3, 6, 24, 2, 2),
        (5, 6, 40, 2, 2),
        (3, 6, 80, 3, 2),
        (5, 6, 112, 3, 1),
        (5, 6, 192, 4, 2),
        (3, 6, 320, 1, 1),
    )

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        layers: list[nn.Module] = [_conv(3, 32, 3, 2), nn.ReLU6()]
        channels = 32
        for kernel, expand, out, repeats, stride in self.STAGES:
            for i in range(repeats):
                layers.append(Block(channels, channels * expand, out, kernel, stride if i == 0 else 1, False, nn.ReLU6))
                channels = out
        self.features = nn.Sequential(*layers, _conv(channels, 1280, 1), nn.ReLU6())
        self.head = nn.Linear(1280, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.flatten(nn.functional.adaptive_avg_pool2d(self.features(x), 1), 1))
