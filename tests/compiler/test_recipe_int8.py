"""The recipe Int8: what is quantized, how far the result is from the source, and what is refused."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from maas_rt.compiler import Int8, Recipe
from maas_rt.compiler import compile as compile_model
from onnx import TensorProto
from torch import nn

import maas_rt
from tests.compiler.test_import_onnx import model, node


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(3, 1, 1), nn.Conv2d(16, 32, 3, 1, 1), nn.ReLU(), nn.Conv2d(32, 32, 1),
        nn.ReLU6(), nn.Conv2d(32, 32, 3, 1, 1, groups=32), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 40), nn.GELU(),
        nn.Linear(40, 10),
    ]  # fmt: skip
    return nn.Sequential(*layers).eval()


def images(count: int) -> list[np.ndarray]:
    return [np.random.default_rng(i).standard_normal((2, 3, 20, 20)).astype(np.float32) for i in range(count)]


def compiled(recipe: Recipe | None, **options: Any) -> Any:
    return compile_model(network(), [torch.from_numpy(images(1)[0])], recipe=recipe, **options)


@pytest.fixture(scope="module")
def name() -> str:
    artifact = compiled(None, verify=False)
    return str(artifact.manifest["inputs"][0]["name"])


@pytest.mark.parametrize("bits", [7, 8])
def test_layers_run_on_eight_bits(name: str, bits: int) -> None:
    recipe = Recipe(quantize=Int8([{name: x} for x in images(3)], activation_bits=bits, tolerance=0.05))
    artifact = compiled(recipe)
    steps = [s for block in artifact.linear.plan.blocks for s in block.steps]
    counts = Counter(s.target for s in steps)
    assert (counts["conv2d_u8s8"], counts["gemm_u8s8"], counts["depthwise_conv2d_u8s8"]) == (2, 3, 1)
    assert (counts["conv2d_f32"], counts["gemm_f32"], counts["depthwise_conv2d_f32"]) == (0, 0, 0)
    assert counts["max_pool2d_u8"] == 1 and counts["pool2d_f32"] == 0  # behind the first layer's quantization
    kernels = [{a.key: a.ints for a in s.attrs} for s in steps if s.target.endswith("u8s8")]
    assert all(k.get("a_max") == ([127] if bits == 7 else None) for k in kernels)
    assert sum("y_scale" in {a.key for a in s.attrs} for s in steps) == 4  # between these layers no float is written
    manifest = artifact.manifest
    assert manifest["recipe"]["quantize"]["activation_bits"] == bits
    assert manifest["verified"]["status"] == "passed" and manifest["verified"]["tolerance"] == 0.05
    assert 0 < manifest["verified"]["max_relative_error"] <= 0.05
    x = images(5)[4]  # no calibration input
    got = next(iter(maas_rt.load(artifact.to_bytes(), threads=1).run({name: x}).values()))
    with torch.no_grad():
        want = network()(torch.from_numpy(x)).numpy()
    assert np.abs(got - want).max() <= 0.1 * np.abs(want).max()
    assert np.abs(got - want).max() > 0


def test_a_result_beyond_the_tolerance_is_refused(name: str) -> None:
    recipe = Recipe(quantize=Int8([{name: images(1)[0]}], tolerance=1e-5))
    with pytest.raises(maas_rt.VerificationError, match="the recipe admits 1e-05"):
        compiled(recipe)


def test_calibration_inputs_are_the_models(name: str) -> None:
    with pytest.raises(maas_rt.InvalidArgumentError, match="expected the model's inputs"):
        compiled(Recipe(quantize=Int8([{"nothing": images(1)[0]}])))
    bad = images(1)[0]
    bad[0, 0, 0, 0] = np.inf
    with pytest.raises(maas_rt.CompileError, match="not finite"):
        compiled(Recipe(quantize=Int8([{name: bad}])), verify=False)


@pytest.mark.parametrize(
    ("change", "words"),
    [({"activation_bits": 6}, "7 or 8"), ({"calibration": []}, "empty"), ({"tolerance": 0.0}, "above 0")],
)
def test_options_are_checked(change: dict[str, Any], words: str) -> None:
    with pytest.raises(maas_rt.InvalidArgumentError, match=words):
        Int8(**{"calibration": [{"x": np.zeros(1)}], **change})


def test_nothing_to_quantize() -> None:
    x = torch.ones(2, 3)
    with pytest.raises(maas_rt.CompileError, match="no convolution or matrix product"):
        compile_model(nn.ReLU(), [x], recipe=Recipe(quantize=Int8([{"input": x.numpy()}])))
    with pytest.raises(maas_rt.CompileError, match="expected a maas_rt.compiler.Recipe"):
        compile_model(nn.ReLU(), [x], recipe={"quantize": "int8"})  # type: ignore[arg-type]


def test_weights_that_the_model_standardizes_are_quantized() -> None:
    """As a batch norm of constants, which is how torch exports timm's StdConv2d."""
    rng = np.random.default_rng(0)
    constants = {
        "w": rng.standard_normal((1, 8, 27)), "gain": rng.uniform(0.5, 1, 8), "zero": np.zeros(8), "mean": rng.uniform(-0.1, 0.1, 8),
        "spread": rng.uniform(0.5, 1, 8),
    }  # fmt: skip
    arrays = {name: value.astype(np.float32) for name, value in constants.items()} | {"shape": np.array([8, 3, 3, 3])}
    nodes = [
        node("BatchNormalization", "w gain zero mean spread", "v"), node("Reshape", "v shape", "k"), node("Conv", "x k", "y"),
    ]  # fmt: skip
    proto = model(nodes, {"x": (TensorProto.FLOAT, [1, 3, 9, 9])}, ["y"], arrays)
    inputs = [{"x": rng.standard_normal((1, 3, 9, 9)).astype(np.float32)} for _ in range(2)]
    artifact = compile_model(proto, recipe=Recipe(quantize=Int8(inputs, tolerance=0.05)))
    assert [s.target for block in artifact.linear.plan.blocks for s in block.steps].count("conv2d_u8s8") == 1
