"""A two-layer perceptron: so small that a call's overhead is what is measured."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Mlp(nn.Module):
    """[batch, 64] to [batch, 10]."""

    def __init__(self, width: int = 64, hidden: int = 64, classes: int = 10) -> None:
        super().__init__()
        self.first = nn.Linear(width, hidden)
        self.second = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(x)))
