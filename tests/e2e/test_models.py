"""The models of bench/models, compiled with a dynamic batch, agree with torch at several batch sizes; statically too where it is quick."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import maas_rt
from bench.models import CASES, ODD_CASES, ModelCase
from maas_rt import compiler

TOLERANCE = 1e-4  # of the output's scale, worst element
EVERY = {**CASES, **ODD_CASES}


def _expected(module: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> list[np.ndarray]:
    with torch.inference_mode():
        result = module(**inputs)
    return [t.numpy() for t in (result if isinstance(result, tuple) else (result,))]


def _check(model: maas_rt.Model, module: torch.nn.Module, case: ModelCase, batch: int) -> None:
    inputs = case.inputs(batch)
    outputs = list(model.run({name: value.numpy() for name, value in inputs.items()}).values())
    expected = _expected(module, inputs)
    assert len(outputs) == len(expected)
    for got, want in zip(outputs, expected):
        assert got.shape == want.shape
        assert want.size == 1 or want.std() > 0, "a constant output proves nothing"
        assert np.abs(got - want).max() <= TOLERANCE * np.abs(want).max()


@pytest.mark.parametrize("name", EVERY)
def test_dynamic_batch_agrees_with_torch(name: str) -> None:
    case = EVERY[name]
    module = case.module()
    artifact = compiler.compile(module, case.inputs(2), dynamic=case.dynamic, name=name)
    assert artifact.manifest["verified"]["status"] == "passed"
    model = maas_rt.load(artifact.to_bytes(), threads=2)
    for batch in (1, 3, 2):
        _check(model, module, case, batch)
    with pytest.raises(maas_rt.InvalidArgumentError, match="65|33"):
        model.run({key: value.numpy() for key, value in case.inputs(65 if name == "dlrm" else 33).items()})


@pytest.mark.parametrize("name", ["mlp", "mobilenet_v2", "bert_odd", "lstm_tagger"])
def test_static_shapes_agree_with_torch(name: str) -> None:
    case = EVERY[name]
    module = case.module()
    model = maas_rt.load(compiler.compile(module, case.inputs(1)).to_bytes(), threads=1)
    _check(model, module, case, 1)


def test_dynamic_sequence_and_batch_of_an_encoder() -> None:
    from bench.models.transformers import Bert

    torch.manual_seed(1)
    module = Bert(layers=2, width=96, heads=4, hidden=192, vocabulary=500, length=64).eval()
    tokens = torch.randint(0, 500, (2, 16))
    artifact = compiler.compile(module, {"tokens": tokens}, dynamic={"tokens": {0: (1, 8), 1: (2, 64)}})
    model = maas_rt.load(artifact.to_bytes())
    for batch, length in ((1, 2), (3, 17), (8, 64)):
        x = torch.randint(0, 500, (batch, length))
        for got, want in zip(model.run({"tokens": x.numpy()}).values(), _expected(module, {"tokens": x})):
            assert np.abs(got - want).max() <= TOLERANCE * np.abs(want).max()


def test_dynamic_image_size_of_a_segmenter() -> None:
    case = CASES["unet"]
    module = case.module()
    x = torch.randn(1, 3, 32, 48)
    h, w = 8 * torch.export.Dim("h8", min=2, max=8), 8 * torch.export.Dim("w8", min=2, max=8)
    model = maas_rt.load(compiler.compile(module, {"x": x}, dynamic={"x": {2: h, 3: w}}).to_bytes())
    for size in ((16, 64), (40, 24)):
        image = torch.randn(1, 3, *size)
        got = model(image.numpy())
        want = _expected(module, {"x": image})[0]
        assert np.abs(got - want).max() <= TOLERANCE * np.abs(want).max()
    with pytest.raises(maas_rt.InvalidArgumentError):
        model(torch.randn(1, 3, 20, 24).numpy())
