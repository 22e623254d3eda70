"""U-Net for segmentation (Ronneberger et al. 2015, arXiv:1505.04597), with batch norm and padded convolutions; one up path learned, the others bilinear."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def _double(c_in: int, c_out: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a in (c_in, c_out):
        layers += [nn.Conv2d(a, c_out, 3, padding=1, bias=False), nn.BatchNorm2d(c_out), nn.ReLU()]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """Images [batch, 3, h, w] (h, w multiples of 8) to class scores [batch, classes, h, w]."""

    def __init__(self, width: int = 16, classes: int = 5) -> None:
        super().__init__()
        self.down = nn.ModuleList(_double(a, b) for a, b in ((3, width), (width, 2 * width), (2 * width, 4 * width)))
        self.bottom = _double(4 * width, 8 * width)
        self.ups = nn.ModuleList(
            [
                nn.ConvTranspose2d(8 * width, 4 * width, 2, 2),
                nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(4 * width, 2 * width, 1)),
                nn.Sequential(nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(2 * width, width, 1)),
            ]
        )
        self.up = nn.ModuleList(_double(2 * c, c) for c in (4 * width, 2 * width, width))
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for block in self.down:
            x = block(x)
            skips.append(x)
            x = nn.functional.max_pool2d(x, 2)
        x = self.bottom(x)
        for grow, block in zip(self.ups, self.up):
            x = block(torch.cat([skips.pop(), grow(x)], 1))
        return self.head(x)


class DeepUNet(nn.Module):
    """The paper's four levels with learned up-convolutions, padded; `width` is 64 in the paper. [batch, 3, h, w], h, w multiples of 16."""

    def __init__(self, width: int = 32, classes: int = 2) -> None:
        super().__init__()
        widths = [width << level for level in range(5)]
        self.down = nn.ModuleList(_double(a, b) for a, b in zip([3, *widths], widths[:-1]))
        self.bottom = _double(widths[-2], widths[-1])
        self.grow = nn.ModuleList(nn.ConvTranspose2d(2 * w, w, 2, 2) for w in reversed(widths[:-1]))
        self.up = nn.ModuleList(_double(2 * w, w) for w in reversed(widths[:-1]))
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for block in self.down:
            x = block(x)
            skips.append(x)
            x = nn.functional.max_pool2d(x, 2)
        x = self.bottom(x)
        for grow, block in zip(self.grow, self.up):
            x = block(torch.cat([skips.pop(), grow(x)], 1))
        return self.head(x)
