"""Batches that go through stretches of layers a few images at a time: the results of the framework at every batch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from maas_rt.compiler import compile as compile_model
from torch import nn

import maas_rt

SIDE = 96  # 16 channels of such an image: 0.6 MB, so that a batch is cut from 4 images on


class Net(nn.Module):
    """Depthwise separable layers with a residual, a gate and a second output that leaves in the middle."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.point = nn.Conv2d(16, 16, 1)
        self.squeeze, self.gate = nn.Linear(16, 8), nn.Linear(8, 16)
        self.up = nn.ConvTranspose2d(16, 8, 2, stride=2)
        self.head = nn.Conv2d(8, 8, 3, stride=2, padding=1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.stem(x).relu()
        middle = x + self.point(self.depthwise(x).relu())
        gate = self.gate(self.squeeze(middle.mean((2, 3))).relu()).sigmoid()
        x = nn.functional.max_pool2d(self.up(middle * gate[:, :, None, None]), 2)
        joined = torch.cat([self.head(x), x[:, :, ::2, ::2]], 1)
        return joined / joined.abs().mean(0, keepdim=True), middle  # a mean over the batch needs all images


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    torch.manual_seed(3)
    with torch.no_grad():
        yield Net().eval()


@pytest.fixture(scope="module")
def compiled(net: Net, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("micro") / "net.mrt"
    compile_model(net, (torch.zeros(2, 3, SIDE, SIDE),), dynamic={"x": {0: "batch"}}).save(path)
    return path


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("batch", [1, 2, 5, 8, 12, 3])
def test_every_batch_agrees_with_the_framework(net: Net, compiled: Path, threads: int, batch: int) -> None:
    model = maas_rt.load(compiled, threads=threads)
    x = torch.randn(batch, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(batch))
    for _ in range(2):
        got = list(model.run({"x": x.numpy()}).values())
        for ours, theirs in zip(got, net(x)):
            np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-4, atol=1e-4)


def test_a_large_batch_is_cut(compiled: Path) -> None:
    model = maas_rt.load(compiled, threads=1)
    steps = [r.name for r in model.profile({"x": np.zeros((8, 3, SIDE, SIDE), np.float32)}).records]
    assert len(steps) > len(set(steps))
    table = model.profile({"x": np.zeros((8, 3, SIDE, SIDE), np.float32)}).table()
    assert "times)" in table
    assert len(table.splitlines()) == len(set(steps)) + 2
