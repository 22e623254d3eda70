"""Half precision: float32 between operators, so that a deep network is as near to the truth as where ONNX Runtime runs it; a model's own
casts round."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from maas_rt.compiler._configs import VerifyOptions
from maas_rt.compiler.verify import half_tolerances
from onnx import TensorProto, helper, numpy_helper

import maas_rt
from maas_rt import compiler

LAYERS, GROWTH = 16, 4


def _dense(half: bool) -> onnx.ModelProto:
    """Convolutions behind batch norms, each on all that came before it; the same numbers, which float16 holds, in either type."""
    rng, kind = np.random.default_rng(0), TensorProto.FLOAT16 if half else TensorProto.FLOAT
    weights: list[onnx.TensorProto] = []

    def weight(values: np.ndarray) -> str:
        rounded = values.astype(np.float16).astype(np.float16 if half else np.float32)
        weights.append(numpy_helper.from_array(rounded, f"w{len(weights)}"))
        return str(weights[-1].name)

    nodes = [helper.make_node("Conv", ["x", weight(rng.normal(0, 0.3, (8, 3, 3, 3)))], ["f"], pads=[1] * 4)]
    current, channels = "f", 8
    for i in range(LAYERS):
        statistics = [weight(rng.uniform(0.8, 1.2, channels)) for _ in range(2)]
        moments = [weight(rng.normal(0, 0.1, channels)), weight(rng.uniform(0.8, 1.2, channels))]
        filters = weight(rng.normal(0, 1.4 / np.sqrt(9 * channels), (GROWTH, channels, 3, 3)))
        nodes += [
            helper.make_node("BatchNormalization", [current, *statistics, *moments], [f"n{i}"]),
            helper.make_node("Relu", [f"n{i}"], [f"r{i}"]),
            helper.make_node("Conv", [f"r{i}", filters], [f"c{i}"], pads=[1] * 4),
            helper.make_node("Concat", [current, f"c{i}"], [f"d{i}"], axis=1),
        ]
        current, channels = f"d{i}", channels + GROWTH
    nodes.append(helper.make_node("GlobalAveragePool", [current], ["y"]))
    graph = helper.make_graph(
        nodes, "dense", [helper.make_tensor_value_info("x", kind, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", kind, [1, channels, 1, 1])], weights,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def test_a_deep_network_is_as_near_to_the_truth_as_onnx_runtime() -> None:
    x = np.random.default_rng(1).normal(size=(1, 3, 8, 8)).astype(np.float16)

    def peer(half: bool, given: np.ndarray) -> np.ndarray:
        session = onnxruntime.InferenceSession(_dense(half).SerializeToString(), providers=["CPUExecutionProvider"])
        return session.run(None, {"x": given})[0].astype(np.float64)

    truth = peer(False, x.astype(np.float32))
    got = maas_rt.load(compiler.compile(_dense(True)))(x).astype(np.float64)
    ours, theirs = (float(np.sqrt(np.mean((y - truth) ** 2))) for y in (got, peer(True, x)))
    assert ours <= 1.5 * theirs


def test_a_cast_of_the_models_own_rounds() -> None:
    class Rounds(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.half().float() + x.to(torch.bfloat16).float() * 2

    x = torch.linspace(0.1, 3, 40)
    got = maas_rt.load(compiler.compile(Rounds(), [x]))(x.numpy())
    np.testing.assert_array_equal(got, Rounds()(x).numpy())

    nodes = [
        helper.make_node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16),
        helper.make_node("Cast", ["h"], ["y"], to=TensorProto.FLOAT),
    ]
    shape = ("x", TensorProto.FLOAT, [40]), ("y", TensorProto.FLOAT, [40])
    graph = helper.make_graph(nodes, "g", *([helper.make_tensor_value_info(*each)] for each in shape))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    got = maas_rt.load(compiler.compile(model))(x.numpy())
    np.testing.assert_array_equal(got, x.half().float().numpy())


def test_fused_steps_round_once() -> None:
    class Chain(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return ((x * 1.1 + 0.3) * x - 0.7).tanh() * 3.3 + x

    x = torch.linspace(-2, 2, 1000).half()
    exact = Chain()(x.double()).numpy()
    got = maas_rt.load(compiler.compile(Chain(), [x]))(x.numpy()).astype(np.float64)
    place = np.spacing(np.abs(exact).astype(np.float16)).astype(np.float64)
    # The constants are rounded to float16 too, as torch does for tensors of it.
    assert np.median(np.abs(got - exact) / place) <= 0.6


@pytest.mark.parametrize(("layers", "wider"), [(1, False), (60, True)])
def test_tolerance_knows_the_depth(layers: int, wider: bool) -> None:
    class Deep(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for _ in range(layers):
                x = (x * 1.01 + 0.1).sin()
            return x

    from maas_rt.compiler.importers.torch.module import import_module

    mod = import_module(Deep(), [torch.ones(4, dtype=torch.float16)]).mod
    options = half_tolerances(VerifyOptions(), mod)
    assert (options.float16 > VerifyOptions().float16) == wider and options.float32 == VerifyOptions().float32
    assert half_tolerances(VerifyOptions(float16=1e-3), mod).float16 == 1e-3  # what is asked for is kept


@pytest.mark.parametrize("pure", [False, True])
def test_float32_that_comes_of_half_results_has_their_tolerance(pure: bool) -> None:
    """As where a model is converted to float16 but for its inputs and outputs; beside an output that no half result is behind, not."""

    class Mixed(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            y = (x.half() * 1.01 + 0.1).sin().float()
            return (y * 2, x * 2) if pure else (y * 2, y.sum(0))

    from maas_rt.compiler.importers.torch.module import import_module

    mod = import_module(Mixed(), [torch.ones(4, 3)]).mod
    options = half_tolerances(VerifyOptions(), mod)
    assert (options.float32 > 1e-3) == (not pure)
    assert half_tolerances(VerifyOptions(float32=2e-4), mod).float32 == 2e-4


def test_a_cast_to_half_and_back_widens_nothing() -> None:
    class Rounded(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.half().float().sin()

    from maas_rt.compiler.importers.torch.module import import_module

    assert half_tolerances(VerifyOptions(), import_module(Rounded(), [torch.ones(4)]).mod) == VerifyOptions()
