"""The recipe Int8: what is quantized, how far the result is from the source, and what is refused."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from maas_rt.compiler import Int8, Recipe
from maas_rt.compiler import compile as compile_model
from maas_rt.compiler.compression._layers import layers
from maas_rt.compiler.importers import import_model
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
    (method,) = manifest["recipe"]["quantize"]["methods"]
    assert (method["kind"], method["activation_bits"]) == ("int8", bits)
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
    with pytest.raises(maas_rt.InvalidArgumentError, match=r"holds inf at \[0, 0, 0, 0\]"):
        compiled(Recipe(quantize=Int8([{name: bad}])), verify=False)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"activation_bits": 6}, "7 or 8"),
        ({"calibration": []}, "empty"),
        ({"calibration": {}}, "empty"),
        ({"tolerance": 0.0}, "above 0"),
        ({"method": "best"}, "expected one of auto, minmax, percentile, mse, entropy"),
    ],
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


@pytest.mark.parametrize("method", ["auto", "minmax", "percentile", "mse", "entropy"])
def test_every_method_calibrates_from_a_generator(name: str, method: str) -> None:
    """Read once, by calibration; what is kept of it verifies."""
    data = ({name: x} for x in images(6))
    manifest = compiled(Recipe(quantize=Int8(data, method=method))).manifest
    quantize, verified = manifest["recipe"]["quantize"], manifest["verified"]
    assert quantize["methods"][0]["method"] == method
    assert (quantize["calibration_inputs"], quantize["notes"]) == (6, [])
    assert verified["runs"] == 7 and min(verified["signal_to_error_db"].values()) > 20
    assert not next(data, None)


def test_a_sample_that_makes_the_others_coarse_is_named(name: str) -> None:
    samples = images(8)
    samples[5][1, 2, 3, 4] = 1e4
    quantize = compiled(Recipe(quantize=Int8([{name: x} for x in samples], tolerance=1.0))).manifest["recipe"][
        "quantize"
    ]
    assert "calibration sample 5 reaches 1e+04" in quantize["notes"][0] and "percentile" in quantize["notes"][0]


@pytest.mark.parametrize("recipe", [Int8(), Int8(tolerance=0.02, rounding="gptq")])
def test_a_sample_whose_result_is_near_0_is_judged_by_the_scale_of_all(recipe: Int8) -> None:
    """A score between two classes: of such a sample's own scale any error is large, that of float32 included."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1)).eval()
    x = torch.randn(32, 64)
    with torch.no_grad():
        net[2].bias -= net(x[:1])[0]  # the first one's score is 0 but for rounding
        scores = net(x).numpy()
    assert abs(scores[0, 0]) < 1e-6 < 0.1 < np.abs(scores).max()
    artifact = compile_model(net, (x[:1],), recipe=Recipe(quantize=recipe, calibration={"input": x.numpy()}))
    verified = artifact.manifest["verified"]
    assert verified["status"] == "passed" and verified["max_relative_error"] < 0.02


def test_a_result_that_says_nothing_is_refused_whatever_is_admitted() -> None:
    """All zeros: the outlier, which is no input of the check, leaves no step for anything else."""
    x = np.random.default_rng(0).standard_normal((5000, 8)).astype(np.float32)
    x[1, 0] = 1e6
    torch.manual_seed(0)
    layer = nn.Linear(8, 4, bias=False)
    with pytest.raises(maas_rt.VerificationError, match="as far from the source's as a constant would be"):
        compile_model(layer, [torch.from_numpy(x[:1])], recipe=Recipe(quantize=Int8(x, tolerance=1e9)))
    recipe = Recipe(quantize=Int8(x, method="percentile", tolerance=0.5))
    verified = compile_model(layer, [torch.from_numpy(x[:1])], recipe=recipe).manifest["verified"]
    assert min(verified["signal_to_error_db"].values()) > 30


class Labels(nn.Module):
    """Scores and the labels that they are for; `fine`: as whole numbers that are finer than 8 bits."""

    def __init__(self, fine: bool) -> None:
        super().__init__()
        self.fine, self.layer = fine, nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = self.layer(x)
        return y, ((y * 50).round().long() if self.fine else y.argmax(1))


def test_labels_may_differ_in_as_many_as_the_recipe_admits() -> None:
    torch.manual_seed(0)
    x = torch.randn(64, 4, 32)
    recipe = Recipe(quantize=Int8(x.numpy(), tolerance=0.05))
    net = Labels(False).eval()
    artifact = compile_model(net, [x[0]], recipe=recipe)
    session = maas_rt.load(artifact.to_bytes())
    agreement = artifact.manifest["verified"]["agreement"]
    assert len(agreement) == 1 and 0.95 <= next(iter(agreement.values())) <= 1
    found = [list(session.run({session.inputs[0].name: each.numpy()}).values())[1] for each in x]
    with torch.no_grad():
        assert (np.stack(found) == np.stack([net(each)[1].numpy() for each in x])).mean() > 0.95
    with pytest.raises(
        maas_rt.VerificationError, match=r"differs in \d+ of \d+ numbers, and the recipe admits 0.05 of them"
    ):
        compile_model(Labels(True).eval(), [x[0]], recipe=recipe)


class Mixed(nn.Module):
    """Layers of many kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 8)
        self.line = nn.Conv1d(8, 8, 3, padding=1)
        self.up = nn.ConvTranspose1d(8, 8, 2, 2)
        self.lstm = nn.LSTM(8, 8, batch_first=True)
        self.gru = nn.GRU(8, 8, batch_first=True)
        self.few = nn.Conv2d(4, 2, 3, groups=2, padding=1)
        self.head = nn.Linear(8, 5)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.up(self.line(self.table(ids).transpose(1, 2)))
        x, _ = self.gru(self.lstm(x.transpose(1, 2))[0])
        x = x + (x @ x.transpose(1, 2)).softmax(-1) @ x
        y = self.few(x.unsqueeze(1).expand(-1, 4, -1, -1))
        return self.head(x + y.mean(1, keepdim=True)[:, 0])


def test_what_stays_in_float_is_named_with_its_reason() -> None:
    torch.manual_seed(0)
    ids = np.random.default_rng(0).integers(0, 11, (5, 1, 6))
    artifact = compile_model(
        Mixed().eval(), [torch.from_numpy(ids[0])], recipe=Recipe(quantize=Int8(ids, tolerance=1.0))
    )
    quantize = artifact.manifest["recipe"]["quantize"]
    reasons = {(each["kind"], each["reason"]) for each in quantize["float_layers"]}
    assert reasons >= {
        ("product", "both of its operands are a run's"),
        ("convolution over 2 axes", "a group has fewer than 4 outputs, or its sums more terms than 32 bits hold"),
    }  # fmt: skip
    assert quantize["layers"] == 6 and all(each["name"] for each in quantize["float_layers"])
    assert quantize["notes"] == [f"what {name} reads has ranges that each run finds" for name in ("lstm1, gru",)]


class Volumes(nn.Module):
    """Convolutions over three axes and over one, and an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.whole, self.grouped = nn.Conv3d(3, 16, 3, padding=1), nn.Conv3d(16, 16, (3, 1, 3), 2, 1, groups=4)
        self.point, self.line = nn.Conv3d(16, 8, 1), nn.Conv1d(8, 16, 5, padding=2)
        self.each = nn.Conv1d(16, 16, 3, dilation=2, groups=16)
        self.table, self.head = nn.Embedding(11, 16), nn.Linear(16, 5)

    def forward(self, x: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        x = self.point(self.grouped(self.whole(x).relu() - 0.5).relu()).flatten(2)
        x = self.each(self.line(x).relu()).relu()
        return self.head(x.mean(2) + self.table(ids))


def test_volumes_signals_and_tables_run_on_eight_bits() -> None:
    """Planes are laid side by side as bytes; padding is the zero point, which is not 0 here."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    x, ids = rng.standard_normal((12, 1, 3, 6, 8, 8)).astype(np.float32), rng.integers(0, 11, (12, 1))
    example = [torch.from_numpy(x[0]), torch.from_numpy(ids[0])]
    artifact = compile_model(
        Volumes().eval(), example, recipe=Recipe(quantize=Int8(tolerance=0.05), calibration={"x": x, "ids": ids})
    )
    counts = Counter(s.target for block in artifact.linear.plan.blocks for s in block.steps)
    assert (counts["conv2d_u8s8"], counts["gemm_u8s8"], counts["depthwise_conv2d_u8s8"]) == (3, 2, 1)
    assert not [name for name in counts if "conv" in name and not name.endswith("u8s8")]
    quantize = artifact.manifest["recipe"]["quantize"]
    assert quantize["layers"] == 7 and quantize["float_layers"] == []
    assert min(artifact.manifest["verified"]["signal_to_error_db"].values()) > 30


def test_a_model_that_is_quantized_already_stays_as_it_is() -> None:
    scale, zero = np.array(0.02, np.float32), np.array(128, np.uint8)
    constants = {"s": scale, "z": zero, "w": np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)}
    nodes = [node("QuantizeLinear", "x s z", "q"), node("DequantizeLinear", "q s z", "d"), node("MatMul", "d w", "y")]
    proto = model(nodes, {"x": (TensorProto.FLOAT, [1, 8])}, ["y"], constants)
    data = np.random.default_rng(1).standard_normal((3, 8)).astype(np.float32)
    same = compile_model(proto)
    artifact = compile_model(proto, recipe=Recipe(quantize=Int8(data)))
    assert artifact.manifest["recipe"]["quantize"]["notes"] == ["the model is quantized already, and stays as it is"]
    assert artifact.manifest["verified"] == same.manifest["verified"]  # not to the recipe's wider tolerance
    x = {"x": data[:1]}
    np.testing.assert_array_equal(
        *(next(iter(maas_rt.load(a.to_bytes(), threads=1).run(x).values())) for a in (artifact, same))
    )


def test_a_recipe_leaves_layers_in_float_that_it_names() -> None:
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8)).eval()
    data = np.random.default_rng(0).standard_normal((16, 8), np.float32)
    example = [torch.from_numpy(data[:1])]
    whole = compile_model(net, example, recipe=Recipe(quantize=Int8(), calibration=data))
    assert whole.manifest["recipe"]["quantize"]["layers"] == 2
    names = [layer.name for layer in layers(import_model(net, example).mod)]
    assert len(set(names)) == 2
    part = compile_model(net, example, recipe=Recipe(quantize=Int8(), layers={names[0]: None}, calibration=data))
    quantize = part.manifest["recipe"]["quantize"]
    assert quantize["layers"] == 1
    assert quantize["float_layers"] == [
        {"name": names[0], "kind": "product", "reason": "the recipe leaves it in float"}
    ]
    with pytest.raises(maas_rt.Error, match=f"the layer 'nothing', which the model does not have: it has {names[0]}, "):
        compile_model(net, example, recipe=Recipe(quantize=Int8(), layers={"nothing": None}, calibration=data))
    with pytest.raises(maas_rt.Error, match="no calibration data"):
        compile_model(net, example, recipe=Recipe(quantize=Int8()))
