"""The demo's architecture: a small convolutional classifier for 8 x 8 images of digits."""

from __future__ import annotations

from torch import Tensor, nn


def _block(c_in: int, c_out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False), nn.BatchNorm2d(c_out), nn.ReLU())


class DigitNet(nn.Module):
    """Images [batch, 1, 8, 8] in 0..1 to scores [batch, 10]; about 60,000 parameters."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.features = nn.Sequential(
            _block(1, width), _block(width, width), _block(width, 2 * width, 2), nn.Dropout(0.1)
        )
        self.head = nn.Linear(2 * width * 16, 10)

    def forward(self, image: Tensor) -> Tensor:
        scores: Tensor = self.head(self.features(image).flatten(1))
        return scores


def build() -> nn.Module:
    """The factory that `maas-rt compile --model maas_rt.compiler.demo.model:build` calls."""
    return DigitNet()
