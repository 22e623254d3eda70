"""The classifiers that are trained here: images [n, 1, 28, 28] to scores [n, 10]."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ._data import CLASSES


def _conv(c_in: int, c_out: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(c_out)
    )


class Residual(nn.Module):
    """Two 3x3 convolutions beside a shortcut (He et al. 2015, arXiv:1512.03385), 1x1 where the shape changes."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(_conv(c_in, c_out, 3, stride), nn.ReLU(), _conv(c_out, c_out, 3))
        self.shortcut = nn.Identity() if stride == 1 and c_in == c_out else _conv(c_in, c_out, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


class ResNet(nn.Module):
    """ResNet-10 of a quarter of the width: 0.31 M parameters, 12.6 M multiply-adds."""

    def __init__(self, widths: tuple[int, ...] = (16, 32, 64, 128)) -> None:
        super().__init__()
        self.stem = nn.Sequential(_conv(1, widths[0], 3), nn.ReLU())
        pairs = zip((widths[0], *widths), widths, strict=False)
        self.blocks = nn.Sequential(*(Residual(a, b, 1 if n == 0 else 2) for n, (a, b) in enumerate(pairs)))
        self.head = nn.Linear(widths[-1], CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.blocks(self.stem(x)).mean((2, 3))
        scores: Tensor = self.head(features)
        return scores


class Inverted(nn.Module):
    """Expand, filter each channel, project, ReLU6 (Sandler et al. 2018, arXiv:1801.04381)."""

    def __init__(self, c_in: int, c_out: int, stride: int, expand: int) -> None:
        super().__init__()
        hidden = c_in * expand
        self.body = nn.Sequential(
            _conv(c_in, hidden), nn.ReLU6(), _conv(hidden, hidden, 3, stride, hidden), nn.ReLU6(), _conv(hidden, c_out)
        )
        self.residual = stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.residual else self.body(x)


class MobileNet(nn.Module):
    """A small MobileNetV2: 0.10 M parameters."""

    STAGES = (
        (16, 1, 3),
        (24, 1, 4),
        (32, 2, 4),
        (32, 1, 4),
        (48, 2, 4),
        (48, 1, 4),
        (64, 1, 4),
    )  # channels, stride, expansion

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [_conv(1, 16, 3, 2), nn.ReLU6()]
        channels = 16
        for width, stride, expand in self.STAGES:
            layers.append(Inverted(channels, width, stride, expand))
            channels = width
        self.features = nn.Sequential(*layers, _conv(channels, 208), nn.ReLU6())
        self.head = nn.Linear(208, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.features(x).mean((2, 3)))
        return scores


class Encoder(nn.Module):
    """Attention and a perceptron, the norms in front (Dosovitskiy et al. 2021, arXiv:2010.12089)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(n, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, tokens, width)
        x = x + self.out(mixed)
        result: Tensor = x + self.down(nn.functional.gelu(self.up(self.norm2(x))))
        return result


class ViT(nn.Module):
    """Patches of 4 x 4, five layers of width 80: 0.39 M parameters."""

    def __init__(self, width: int = 80, depth: int = 5, heads: int = 5) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 4, 4)
        self.places = nn.Parameter(torch.randn(1, 49, width) * 0.02)
        self.layers = nn.Sequential(*(Encoder(width, heads) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.places
        scores: Tensor = self.head(self.norm(self.layers(tokens)).mean(1))
        return scores
