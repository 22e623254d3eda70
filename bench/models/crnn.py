"""Text recognition: convolutions, then a bidirectional LSTM over the columns (CRNN, Shi et al. 2015, arXiv:1507.05717)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class BidirectionalLstm(nn.Module):
    """[batch, columns, width] to [batch, columns, out]."""

    def __init__(self, width: int, hidden: int, out: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(width, hidden, bidirectional=True, batch_first=True)
        self.head = nn.Linear(2 * hidden, out)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.lstm(x)
        return self.head(states)


class Crnn(nn.Module):
    """Grey images [batch, 1, 32, 100] to scores [batch, 26, classes]: table 1 of the paper; 8.3 M parameters."""

    def __init__(self, classes: int = 37) -> None:
        super().__init__()

        def conv(c_in: int, c_out: int, norm: bool = False, kernel: int = 3, pad: int = 1) -> list[nn.Module]:
            layers: list[nn.Module] = [nn.Conv2d(c_in, c_out, kernel, 1, pad)]
            return layers + ([nn.BatchNorm2d(c_out)] if norm else []) + [nn.ReLU()]

        self.features = nn.Sequential(
            *conv(1, 64),
            nn.MaxPool2d(2, 2),
            *conv(64, 128),
            nn.MaxPool2d(2, 2),
            *conv(128, 256, norm=True),
            *conv(256, 256),
            nn.MaxPool2d((2, 2), (2, 1), (0, 1)),
            *conv(256, 512, norm=True),
            *conv(512, 512),
            nn.MaxPool2d((2, 2), (2, 1), (0, 1)),
            *conv(512, 512, norm=True, kernel=2, pad=0),
        )
        self.recurrent = nn.Sequential(BidirectionalLstm(512, 256, 256), BidirectionalLstm(256, 256, classes))

    def forward(self, x: Tensor) -> Tensor:
        columns = torch.flatten(self.features(x), 2).transpose(1, 2)  # the height is 1 by now
        return self.recurrent(columns)
