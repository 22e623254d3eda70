"""A detector in the manner of YOLOv8n: C2f blocks, SPPF (spatial pyramid pooling), a path-aggregation neck (Liu et al. 2018,
arXiv:1803.01534) with upsampling and concatenation, and decoupled heads whose box edges are expectations over 16 bins
(distribution focal loss, Li et al. 2020, arXiv:2006.04388)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

BINS = 16
STRIDES = (8, 16, 32)


def _conv(c_in: int, c_out: int, kernel: int = 1, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(c_out, eps=1e-3), nn.SiLU()
    )


class Bottleneck(nn.Module):
    """Two 3x3 convolutions, with a shortcut in the backbone."""

    def __init__(self, channels: int, shortcut: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(_conv(channels, channels, 3), _conv(channels, channels, 3))
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.shortcut else self.body(x)


class C2f(nn.Module):
    """Half of the channels goes through `repeats` bottlenecks, and every stage's result is kept and concatenated."""

    def __init__(self, c_in: int, c_out: int, repeats: int, shortcut: bool) -> None:
        super().__init__()
        self.enter = _conv(c_in, c_out)
        self.blocks = nn.ModuleList(Bottleneck(c_out // 2, shortcut) for _ in range(repeats))
        self.leave = _conv((2 + repeats) * (c_out // 2), c_out)

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.enter(x).chunk(2, 1))
        for block in self.blocks:
            parts.append(block(parts[-1]))
        return self.leave(torch.cat(parts, 1))


class Sppf(nn.Module):
    """Max pools of 5, 9 and 13, as three of 5 in a row, beside their input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.enter, self.leave = _conv(channels, channels // 2), _conv(2 * channels, channels)
        self.pool = nn.MaxPool2d(5, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.enter(x)]
        for _ in range(3):
            parts.append(self.pool(parts[-1]))
        return self.leave(torch.cat(parts, 1))


class Head(nn.Module):
    """Scores of the bins of four box edges, and of the classes, at one scale: [batch, 4 * BINS + classes, h * w]."""

    def __init__(self, channels: int, box: int, scores: int, classes: int) -> None:
        super().__init__()
        self.box = nn.Sequential(_conv(channels, box, 3), _conv(box, box, 3), nn.Conv2d(box, 4 * BINS, 1))
        self.scores = nn.Sequential(_conv(channels, scores, 3), _conv(scores, scores, 3), nn.Conv2d(scores, classes, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.box(x), self.scores(x)], 1).flatten(2)


class Yolo(nn.Module):
    """Images [batch, 3, size, size] to [batch, 4 + classes, positions]: centre, width and height in pixels, class probabilities.

    The widths and depths of YOLOv8n; 3.2 M parameters, 1.1 G multiply-adds at 320 x 320.
    """

    def __init__(self, size: int = 320, classes: int = 80) -> None:
        super().__init__()
        self.classes = classes
        self.stem = nn.Sequential(_conv(3, 16, 3, 2), _conv(16, 32, 3, 2), C2f(32, 32, 1, True))
        self.stage3 = nn.Sequential(_conv(32, 64, 3, 2), C2f(64, 64, 2, True))
        self.stage4 = nn.Sequential(_conv(64, 128, 3, 2), C2f(128, 128, 2, True))
        self.stage5 = nn.Sequential(_conv(128, 256, 3, 2), C2f(256, 256, 1, True), Sppf(256))
        self.up4, self.up3 = C2f(384, 128, 1, False), C2f(192, 64, 1, False)
        self.down3, self.out4 = _conv(64, 64, 3, 2), C2f(192, 128, 1, False)
        self.down4, self.out5 = _conv(128, 128, 3, 2), C2f(384, 256, 1, False)
        self.heads = nn.ModuleList(Head(channels, 4 * BINS, max(64, classes), classes) for channels in (64, 128, 256))
        self.upsample = nn.Upsample(scale_factor=2, mode="nearest")
        centers, strides = _grid(size)
        self.register_buffer("centers", centers, persistent=False)
        self.register_buffer("strides", strides, persistent=False)
        self.register_buffer("bins", torch.arange(BINS, dtype=torch.float32).view(1, BINS, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x3 = self.stage3(self.stem(x))
        x4 = self.stage4(x3)
        x5 = self.stage5(x4)
        y4 = self.up4(torch.cat([self.upsample(x5), x4], 1))
        y3 = self.up3(torch.cat([self.upsample(y4), x3], 1))
        y4 = self.out4(torch.cat([self.down3(y3), y4], 1))
        y5 = self.out5(torch.cat([self.down4(y4), x5], 1))
        raw = torch.cat([head(y) for head, y in zip(self.heads, (y3, y4, y5))], 2)
        edges, scores = raw.split([4 * BINS, self.classes], 1)
        shares = edges.view(edges.shape[0], 4, BINS, -1).transpose(1, 2).softmax(1)
        near, far = (shares * self.bins).sum(1).chunk(2, 1)
        low, high = self.centers - near, self.centers + far
        return torch.cat([torch.cat([(low + high) / 2, high - low], 1) * self.strides, scores.sigmoid()], 1)


def _grid(size: int) -> tuple[Tensor, Tensor]:
    """Centres of all cells [1, 2, positions], in cells, and the cells' sizes [1, 1, positions], in pixels."""
    centers, strides = [], []
    for stride in STRIDES:
        along = torch.arange(size // stride, dtype=torch.float32) + 0.5
        y, x = torch.meshgrid(along, along, indexing="ij")
        centers.append(torch.stack([x.flatten(), y.flatten()]))
        strides.append(torch.full((1, along.numel() ** 2), float(stride)))
    return torch.cat(centers, 1)[None], torch.cat(strides, 1)[None]
