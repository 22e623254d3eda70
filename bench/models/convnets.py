"""Convolutional classifiers: ResNet-18 and ResNet-50 (He et al. 2015, arXiv:1512.03385) and MobileNetV2 (Sandler et al. 2018, arXiv:1801.04381)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def _conv_bn(c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(c_out)
    )


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, projected where shape changes."""

    def __init__(self, c_in: int, c_out: int, stride: int, groups: int = 1) -> None:
        super().__init__()
        self.first = _conv_bn(c_in, c_out, 3, stride)
        self.second = _conv_bn(c_out, c_out, 3, groups=groups)
        self.shortcut = nn.Identity() if stride == 1 and c_in == c_out else _conv_bn(c_in, c_out, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(torch.relu(self.first(x)))
        return torch.relu(y + self.shortcut(x))


class ResNet(nn.Module):
    """Stages of basic blocks; the widths, depths and groups are parameters so that odd variants can be measured."""

    def __init__(self, widths: tuple[int, ...], depths: tuple[int, ...], classes: int = 1000, groups: int = 1) -> None:
        super().__init__()
        self.stem = nn.Sequential(_conv_bn(3, widths[0], 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        blocks: list[nn.Module] = []
        channels = widths[0]
        for stage, (width, depth) in enumerate(zip(widths, depths)):
            for i in range(depth):
                blocks.append(BasicBlock(channels, width, 2 if stage and i == 0 else 1, groups))
                channels = width
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


class ResNet18(ResNet):
    """11.7 M parameters, 1.8 G multiply-adds at 224 x 224."""

    def __init__(self) -> None:
        super().__init__((64, 128, 256, 512), (2, 2, 2, 2))


class Bottleneck(nn.Module):
    """1x1 down, 3x3, 1x1 up to four times the width, and a shortcut; the stride is in the 3x3, as the published weights have it."""

    def __init__(self, c_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.reduce = _conv_bn(c_in, width, 1)
        self.filter = _conv_bn(width, width, 3, stride)
        self.expand = _conv_bn(width, 4 * width, 1)
        self.shortcut = nn.Identity() if stride == 1 and c_in == 4 * width else _conv_bn(c_in, 4 * width, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.expand(torch.relu(self.filter(torch.relu(self.reduce(x)))))
        return torch.relu(y + self.shortcut(x))


class ResNet50(nn.Module):
    """25.6 M parameters, 4.1 G multiply-adds at 224 x 224."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        layers: list[nn.Module] = [_conv_bn(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
        channels = 64
        for stage, (width, depth) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3))):
            for i in range(depth):
                layers.append(Bottleneck(channels, width, 2 if stage and i == 0 else 1))
                channels = 4 * width
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((2, 3)))


class InvertedResidual(nn.Module):
    """Expand (1x1), filter per channel (3x3), project (1x1); residual where shape is kept."""

    def __init__(self, c_in: int, c_out: int, stride: int, expand: int) -> None:
        super().__init__()
        hidden = c_in * expand
        layers: list[nn.Module] = []
        if expand != 1:
            layers += [_conv_bn(c_in, hidden, 1), nn.ReLU6()]
        layers += [_conv_bn(hidden, hidden, 3, stride, groups=hidden), nn.ReLU6(), _conv_bn(hidden, c_out, 1)]
        self.body = nn.Sequential(*layers)
        self.residual = stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.residual else self.body(x)


class MobileNetV2(nn.Module):
    """3.5 M parameters, 0.3 G multiply-adds at 224 x 224."""

    STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))

    def __init__(self, width: float = 1.0, classes: int = 1000) -> None:
        super().__init__()
        channels = self._scaled(32, width)
        layers: list[nn.Module] = [_conv_bn(3, channels, 3, 2), nn.ReLU6()]
        for expand, base, repeat, stride in self.STAGES:
            out = self._scaled(base, width)
            for i in range(repeat):
                layers.append(InvertedResidual(channels, out, stride if i == 0 else 1, expand))
                channels = out
        last = max(1280, self._scaled(1280, width))
        layers += [_conv_bn(channels, last, 1), nn.ReLU6()]
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(last, classes))

    @staticmethod
    def _scaled(channels: int, width: float) -> int:
        return max(8, int(channels * width + 4) // 8 * 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.flatten(nn.functional.adaptive_avg_pool2d(self.features(x), 1), 1))
