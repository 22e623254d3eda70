"""Whole models: which kernel calls, generated functions and transposes are left, and that the numbers are torch's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from maas_rt.compiler.importers import import_model

from bench.models import CASES, convnets, transformers, unet
from tests.compiler._interpret import run_lowered
from tests.compiler._lowering import kernels, lower, operators

# What is left of each model; "generated" and "transpose" only ever shrink.
EXPECTED: dict[str, dict[str, int]] = {
    "resnet18": {
        "conv2d_f32": 7,
        "conv2d_winograd_f32": 13,
        "gemm_f32": 1,
        "pool2d_f32": 1,
        "global_avg_pool_f32": 1,
        "transpose": 1,
    },
    "mobilenet_v2": {
        "conv2d_f32": 1,
        "depthwise_conv2d_f32": 17,
        "gemm_f32": 35,
        "global_avg_pool_f32": 1,
        "transpose": 1,
    },
    # generated: the words' and positions' sum, and whether every token is in the vocabulary
    "bert": {"gather": 1, "gemm_f32": 25, "layer_norm_f32": 13, "qkv_attention_f32": 6, "slice": 1, "generated": 1},
    "vit_tiny": {
        "conv2d_f32": 1,
        "gemm_f32": 49,
        "layer_norm_f32": 25,
        "qkv_attention_f32": 12,
        "concat": 1,
        "slice": 1,
        "transpose": 1,
        "generated": 2,
    },
    "unet": {
        "conv2d_f32": 1,
        "conv2d_winograd_f32": 13,
        "conv_transpose2d_f32": 1,
        "gemm_f32": 3,
        "pool2d_f32": 3,
        "concat": 3,
        "resize2d_f32": 2,
        "transpose": 2,
    },
    "mlp": {"gemm_f32": 2},
}


@pytest.mark.parametrize("name", EXPECTED)
def test_nothing_stray_is_left(name: str) -> None:
    case = CASES[name]
    imported = import_model(case.module(), tuple(case.inputs(2).values()), dynamic=case.dynamic)
    assert operators(lower(imported.mod)) == EXPECTED[name]


def test_a_bert_layer_is_what_the_kernels_were_made_for() -> None:
    model = transformers.Bert(layers=1, width=32, heads=4, hidden=64, vocabulary=50, length=16).eval()
    tokens = torch.randint(0, 50, (2, 8))
    calls = kernels(lower(import_model(model, (tokens,), dynamic={"tokens": {0: (1, 8)}}).mod))
    layer = [(call.contract, call.attrs.get("act", ""), len(call.args)) for call in calls][1:-2]
    assert layer == [
        ("layer_norm_f32", "", 3),
        ("gemm_f32", "", 3),
        ("qkv_attention_f32", "", 1),
        ("gemm_f32", "", 3),
        ("layer_norm_f32", "", 4),  # with the residual
        ("gemm_f32", "gelu", 3),
        ("gemm_f32", "", 3),
        ("layer_norm_f32", "", 4),
    ]


def _models() -> dict[str, tuple[torch.nn.Module, tuple[torch.Tensor, ...], dict[str, Any]]]:
    image = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    batch = {0: (1, 8)}
    return {
        "resnet": (convnets.ResNet((8, 16), (1, 1), 10), (image,), {"x": batch}),
        "resnet with groups": (convnets.ResNet((8, 16), (2, 1), 10, groups=4), (image,), {"x": batch}),
        "mobilenet": (convnets.MobileNetV2(0.25, 10), (image,), {"x": batch}),
        "bert": (
            transformers.Bert(2, 32, 4, 64, 50, 16),
            (torch.randint(0, 50, (2, 9)),),
            {"tokens": {0: (1, 8), 1: (2, 16)}},
        ),
        "vit": (transformers.VisionTransformer(32, 8, 24, 3, 2, 10), (image,), {"x": batch}),
        "unet": (unet.UNet(4, 3), (image,), {"x": batch}),
    }


@pytest.mark.parametrize("name", ["resnet", "resnet with groups", "mobilenet", "bert", "vit", "unet"])
def test_small_models_give_torchs_numbers(name: str) -> None:
    torch.manual_seed(0)
    model, inputs, dynamic = _models()[name]
    model.eval()
    for part in model.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.running_mean.uniform_(-0.2, 0.2)  # type: ignore[union-attr,operator]
            part.running_var.uniform_(0.6, 1.4)  # type: ignore[union-attr,operator]
    lowered = lower(import_model(model, inputs, dynamic=dynamic).mod)
    for batch in (2, 1):
        given = tuple(x[:batch] for x in inputs)
        with torch.no_grad():
            wanted = model(*given)
        got = run_lowered(lowered, [x.numpy() for x in given])
        for a, b in zip([wanted] if isinstance(wanted, torch.Tensor) else wanted, got, strict=True):
            assert np.abs(a.numpy() - b).max() <= 1e-5 * max(1.0, float(a.abs().max()))
