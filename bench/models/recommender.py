"""A recommender in the manner of DLRM (Naumov et al. 2019, arXiv:1906.00091): embedding bags, an MLP for dense features, pairwise dot products."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

ROWS = (1000, 5000, 300, 20000, 50, 800)
DENSE = 13
DYNAMIC = {"dense": {0: (1, 64)}, "sparse": {0: (1, 64)}}


def _mlp(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in pairwise(widths):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers)


class Dlrm(nn.Module):
    """Dense features [batch, 13] and one row number per table [batch, 6] (int64) to a click probability [batch, 1]."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(rows, width) for rows in ROWS)
        self.bottom = _mlp(DENSE, 128, 64, width)
        pairs = (len(ROWS) + 1) * len(ROWS) // 2
        self.top = nn.Sequential(_mlp(width + pairs, 128, 64), nn.Linear(64, 1), nn.Sigmoid())
        rows, columns = torch.tril_indices(len(ROWS) + 1, len(ROWS) + 1, -1)
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("columns", columns, persistent=False)

    def forward(self, dense: Tensor, sparse: Tensor) -> Tensor:
        x = self.bottom(dense)
        vectors = torch.stack([x, *(table(sparse[:, i]) for i, table in enumerate(self.tables))], 1)
        products = (vectors @ vectors.transpose(1, 2))[:, self.rows, self.columns]
        return self.top(torch.cat([x, products], 1))


def example_inputs(batch: int) -> dict[str, Tensor]:
    """Named inputs for a batch; row numbers are within each table."""
    generator = torch.Generator().manual_seed(batch)
    sparse = torch.stack([torch.randint(0, rows, (batch,), generator=generator) for rows in ROWS], 1)
    return {"dense": torch.randn(batch, DENSE, generator=generator), "sparse": sparse}
