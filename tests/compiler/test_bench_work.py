"""The roofline's flops and bytes against formulas written out by hand."""

from __future__ import annotations

import pytest
import torch

from bench.gauntlet._work import work_of
from bench.models import EVERY, GAUNTLET
from bench.models.transformers import Bert


def test_perceptron() -> None:
    work = work_of(GAUNTLET["mlp"].module(), GAUNTLET["mlp"].inputs(8))
    assert work.flops == 2 * 8 * (64 * 64 + 64 * 10)
    assert work.bytes == 4 * (64 * 64 + 64 + 64 * 10 + 10 + 8 * 64 + 8 * 10)


def test_attention_is_counted_and_tables_by_the_rows_read() -> None:
    tokens = torch.tensor([[1, 2, 2, 5]])
    module = Bert(1, 32, 4, 64, 1000).eval()
    work = work_of(module, {"tokens": tokens})
    linear = 4 * (4 * 32 * 32 + 2 * 32 * 64) + 32 * 32
    attention = 2 * 4 * 4 * 32  # both products, all heads
    assert work.flops == 2 * (linear + attention)
    tables = {id(module.tokens.weight), id(module.positions.weight)}
    weights = sum(p.numel() for p in module.parameters() if id(p) not in tables)
    rows = (3 + 4) * 32
    assert work.bytes == 4 * (weights + rows + 4 * 32 + 32) + 8 * 4


def test_recurrent_layers_are_counted_in_both_directions() -> None:
    class Recurrent(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = torch.nn.LSTM(24, 16, bidirectional=True, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.lstm(x)[0]

    work = work_of(Recurrent().eval(), {"x": torch.zeros(3, 7, 24)})
    assert work.flops == 2 * 2 * 3 * 7 * 4 * 16 * (24 + 16)


def test_convolutions() -> None:
    module = torch.nn.Sequential(torch.nn.Conv2d(8, 12, 3, 2, 1, groups=4, bias=False))
    module.forward = lambda x: module[0](x)  # type: ignore[method-assign]
    assert work_of(module, {"x": torch.zeros(2, 8, 10, 10)}).flops == 2 * 2 * 5 * 5 * 12 * (8 // 4) * 9


@pytest.mark.parametrize(
    ("model", "millions"),
    [
        ("resnet50", 25.557),
        ("mobilenet_v2", 3.505),
        ("mobilenet_v3_large", 5.483),
        ("efficientnet_lite0", 4.652),
        ("yolo", 3.157),
        ("vit_tiny", 5.717),
        ("deit_small", 22.051),
    ],
)
def test_models_have_as_many_parameters_as_the_published_ones(model: str, millions: float) -> None:
    assert sum(p.numel() for p in EVERY[model].build().parameters()) / 1e6 == pytest.approx(millions, abs=1e-3)
