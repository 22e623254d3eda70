"""Extents that vary, as numbers of the model: positions, fills, slices, rolls and moments whose sizes only a run knows."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as tf
from maas_rt.compiler import compile
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import nn

import maas_rt

F32 = np.float32


def graph(nodes: list[onnx.NodeProto], constants: dict[str, Any], **inputs: list[Any]) -> onnx.ModelProto:
    """What the last nodes make is the output; inputs are float32."""
    read = {name for node in nodes for name in node.input}
    outputs = [name for node in nodes for name in node.output if name not in read]
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name, dims in inputs.items()],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    proto = helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return onnx.shape_inference.infer_shapes(proto)


def node(text: str, **attributes: Any) -> onnx.NodeProto:
    """ "y = Add a b" """
    made, _, call = text.partition(" = ")
    op, *given = call.split()
    return helper.make_node(op, given, made.split(), **attributes)


def size(tensor: str) -> list[onnx.NodeProto]:
    return [node(f"{tensor}_s = Shape {tensor}"), node(f"{tensor}_n = Gather {tensor}_s one", axis=0)]


class Lambda(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(x)


def test_positions_behind_what_is_cached() -> None:
    """x is [1, t], p is [1, q]: the positions q to q + t - 1 of every decoder with past key values, and other sums with two symbols."""
    nodes = [
        *size("x"),
        *size("p"),
        node("r = Range zero x_n one"),
        node("e = Add x_n p_n"),
        node("behind = Range p_n e one"),
        node("plus = Add r p_n"),
        node("times = Mul r p_n"),
        node("twice = Mul plus plus"),
        node("f = Cast plus", to=TensorProto.FLOAT),
        node("shifted = Add x f"),
        node("total = Mul e p_n"),
        node("back = Range e p_n minus"),
    ]
    proto = graph(nodes, {"zero": 0, "one": 1, "minus": -1}, x=[1, "t"], p=[1, "q"])
    reference, model = ReferenceEvaluator(proto), maas_rt.load(compile(proto, verify=False).to_bytes())
    for t, q in ((1, 1), (3, 5), (4, 2), (1, 0), (0, 3)):
        feeds = {"x": np.ones((1, t), F32), "p": np.ones((1, q), F32)}
        got = model.run(feeds)
        for name, want in zip(reference.output_names, reference.run(None, feeds), strict=True):
            np.testing.assert_array_equal(got[name], want, f"{name} {t} {q}")


class Behind(nn.Module):
    def forward(self, x: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
        return x + torch.arange(64.0)[:, None][torch.arange(x.shape[1]) + p.shape[1]]


def test_positions_behind_what_is_cached_in_torch() -> None:
    dynamic = ["x:1=1..16", "p:1=1..40"]
    artifact = compile(Behind(), (torch.ones(1, 2, 1), torch.ones(1, 3, 1)), dynamic=dynamic)
    model = maas_rt.load(artifact.to_bytes())
    for t, q in ((1, 1), (4, 7)):
        x, p = torch.ones(1, t, 1), torch.ones(1, q, 1)
        np.testing.assert_array_equal(model(x.numpy(), p.numpy()), Behind()(x, p).numpy())


FILLS = [float("-inf"), float("inf"), float("nan"), 1.5]


@pytest.mark.parametrize("dims", [["n", "n"], [3, 3]], ids=["open", "known"])
def test_fills_of_what_is_no_number(dims: list[Any]) -> None:
    """Every causal mask is one: ConstantOfShape, Expand, Where and Trilu of -inf, inf and nan."""
    nodes, constants = [node("s = Shape x"), node("b = Greater x zero")], {"zero": F32(0), "up": np.int64(1)}
    for i, value in enumerate(FILLS):
        constants[f"v{i}"] = F32(value)
        nodes += [
            node(f"c{i} = ConstantOfShape s", value=numpy_helper.from_array(np.array([value], F32))),
            node(f"e{i} = Expand v{i} s"),
            node(f"w{i} = Where b x c{i}"),
            node(f"u{i} = Where b v{i} x"),
            node(f"t{i} = Trilu c{i} up"),
            node(f"q{i} = Equal e{i} x"),
        ]
    nodes += [node("m = Add x t0"), node("y = Softmax m", axis=-1)]
    proto = graph(nodes, constants, x=dims)
    reference, model = ReferenceEvaluator(proto), maas_rt.load(compile(proto, verify=False).to_bytes())
    for n in (3,) if dims == [3, 3] else (1, 3, 9):
        x = np.linspace(-1, 1, n * n, dtype=F32).reshape(n, n)
        got = model.run({"x": x})
        for name, want in zip(reference.output_names, reference.run(None, {"x": x}), strict=True):
            np.testing.assert_allclose(got[name], want, rtol=1e-5, err_msg=f"{name} {n}")


def _fills(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    n = x.shape[0]
    made = [torch.full((n, n), v) for v in FILLS]
    masked = [torch.where(x > 0, x, v) for v in FILLS] + [x.masked_fill(x > 0, v) for v in FILLS]
    padded = [tf.pad(x, (1, 0), value=v) for v in FILLS]
    return *made, *masked, *padded, (x @ x.T + made[0].triu(1)).softmax(-1)


def test_fills_of_what_is_no_number_in_torch() -> None:
    module = Lambda(_fills)
    model = maas_rt.load(compile(module, (torch.ones(3, 3),), dynamic={"x": {0: (1, 16), 1: (1, 16)}}).to_bytes())
    for n in (1, 2, 7):
        x = torch.linspace(-1, 1, n * n).reshape(n, n)
        for got, want in zip(model.run({"x": x.numpy()}).values(), module(x), strict=True):
            np.testing.assert_allclose(got, want.numpy(), rtol=1e-5)


ANY_ROWS = {
    "roll": lambda x: x.roll(5, 0),
    "roll back": lambda x: x.roll((-3, 1), (0, 1)),
    "roll flat": lambda x: x.roll(-7),
    "every second": lambda x: x[1::2] + 1,
    "backwards": lambda x: x.flip(0)[::2],
    "variance": lambda x: x.var(0),
    "deviation": lambda x: x.std(0, correction=2),
    "moments": lambda x: torch.stack(torch.var_mean(x, 0, correction=0)),
    "nothing kept": lambda x: x[:, :0].mean(1),
    "nothing summed": lambda x: x[:, 4:].sum(1) + x[:, :0].prod(1),
    "nothing chosen": lambda x: torch.cat([x[:, :0].softmax(0), x], 1),
    "nothing multiplied": lambda x: x[:, :0] @ x[:, :0].T,
    "nothing seen": lambda x: torch.stack([(x[:, :0] > 0).any(1), (x[:, :0] > 0).all(1)]),
    "variance of nothing": lambda x: x[:, :0].var(1),
}


def test_any_number_of_rows() -> None:
    """Shifts beyond the extent, moments of 1 row and of none, and axes of a fixed 0 beside one that varies."""
    module = Lambda(lambda x: {name: function(x) for name, function in ANY_ROWS.items()})
    model = maas_rt.load(compile(module, (torch.ones(6, 4),), dynamic={"x": {0: (0, 16)}}).to_bytes())
    for rows in (0, 1, 2, 3, 8):
        x = torch.linspace(-2, 2, rows * 4).reshape(rows, 4)
        for (case, want), got in zip(module(x).items(), model.run({"x": x.numpy()}).values(), strict=True):
            assert got.shape == want.shape, f"{case} {rows}"
            np.testing.assert_allclose(got, want.numpy(), rtol=1e-5, atol=1e-6, err_msg=f"{case} {rows}")


def test_a_size_that_is_1_in_the_example_alone() -> None:
    with pytest.raises(maas_rt.CompileError, match=r"is 1 in the example inputs.*: give larger ones"):
        compile(Lambda(lambda x: x[1::2] + 1), (torch.ones(3, 4),), dynamic={"x": {0: (0, 16)}})


def test_a_rest_behind_a_norm_of_every_second_row() -> None:
    module = Lambda(lambda x: tf.layer_norm(x[1::2], (4,)).remainder(0.7))
    model = maas_rt.load(compile(module, (torch.ones(6, 4),), dynamic={"x": {0: (4, 16)}}).to_bytes())
    for rows in (4, 7, 16):
        x = torch.linspace(-2, 2, rows * 4).reshape(rows, 4)
        np.testing.assert_allclose(model(x.numpy()), module(x).numpy(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("function", [lambda x: x.squeeze(), lambda x: x.squeeze(0), lambda x: x.squeeze((0, 1)), lambda x: x[:, :0].squeeze(), lambda x: x.repeat(1, 2, 0).squeeze(0)])  # fmt: skip
def test_a_rank_that_depends_on_an_extent(function: Any) -> None:
    """torch.export takes an extent that varies for one that is not 1, where the module itself would drop it."""
    module, x = Lambda(function), torch.ones(3, 1, 2)
    with pytest.raises(maas_rt.InvalidArgumentError, match=r"squeeze drops it where it is 1; ask for x:0=2\.\.8"):
        compile(module, (x,), dynamic={"x": {0: (1, 8)}})
    model = maas_rt.load(compile(module, (x,), dynamic={"x": {0: (2, 8)}}).to_bytes())
    assert model(np.ones((8, 1, 2), F32)).shape == tuple(function(torch.ones(8, 1, 2)).shape)
    with pytest.raises(maas_rt.InvalidArgumentError):
        model(np.ones((1, 1, 2), F32))


def test_indices_that_tvm_cannot_analyse() -> None:
    """Rows that are chosen, a sum with the positions along an extent of 16 n + 2, and the same three times: no reshape, as TVM asks."""

    def function(x: torch.Tensor) -> torch.Tensor:
        y = tf.conv1d(x.reshape(1, 1, -1), torch.ones(2, 1, 1), padding=1)[torch.tensor([0, -1, 0])]
        return (y + torch.arange(y.shape[-1])).unsqueeze(0).expand(3, *y.shape)

    x = torch.linspace(-1, 1, 48).reshape(3, 2, 8)
    model = maas_rt.load(compile(Lambda(function), (x,), dynamic={"x": {0: (1, 16)}}).to_bytes())
    np.testing.assert_allclose(model(x.numpy()), function(x).numpy(), rtol=1e-5)


def test_a_rank_that_depends_on_the_data() -> None:
    with pytest.raises(maas_rt.UnsupportedOperatorError, match="dropped where it is 1"):
        compile(Lambda(lambda x: x[x > 0].squeeze()), (torch.randn(8),))


def test_the_last_of_an_open_extent_is_broadcast() -> None:
    """x / x[-1:], as position encodings are normalised: the last is one, unless there is none, which a run refuses."""
    ends = {name: np.array([value]) for name, value in (("s", -1), ("e", 1 << 62), ("a", 0))}
    proto = graph([node("l = Slice x s e a"), node("y = Div x l")], ends, x=["n", 3])
    model = maas_rt.load(compile(proto).to_bytes())
    for rows in (1, 2, 5):
        x = np.arange(1, 1 + 3 * rows, dtype=np.float32).reshape(rows, 3)
        np.testing.assert_allclose(model(x), x / x[-1:], rtol=1e-6)


def test_extents_that_only_a_run_shows_not_to_fit() -> None:
    """What reads one tensor by the extents of another reads nothing beyond it."""
    gather = [node("i = Cast r", to=TensorProto.INT64), node("y = GatherElements x i", axis=1)]
    model = maas_rt.load(compile(graph(gather, {}, x=["n", 3], r=["m", 2])))
    x = np.arange(6, dtype=F32).reshape(2, 3)
    np.testing.assert_array_equal(model.run({"x": x, "r": np.ones((1, 2), F32)})["y"], [[1, 1]])
    with pytest.raises(maas_rt.Error, match="differ|must|expected"):
        model.run({"x": x, "r": np.ones((5, 2), F32)})


class Resized(nn.Module):
    def forward(self, line: torch.Tensor, image: torch.Tensor, volume: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (
            tf.interpolate(line, scale_factor=2),
            tf.interpolate(line, scale_factor=2, mode="linear"),
            tf.interpolate(line, scale_factor=1.5, mode="linear", align_corners=True),
            tf.interpolate(line, scale_factor=0.5, mode="nearest-exact"),
            tf.interpolate(image, scale_factor=1.5, mode="bicubic"),
            tf.interpolate(image, scale_factor=(0.5, 2.5), mode="bilinear"),
            tf.interpolate(image, scale_factor=1.5, recompute_scale_factor=True),
            tf.interpolate(image, size=(7, 3), mode="bilinear", align_corners=True),
            tf.interpolate(volume, scale_factor=2, mode="trilinear"),
        )


def test_resizes_of_open_extents() -> None:
    module = Resized()
    given = {"line": torch.randn(1, 2, 6), "image": torch.randn(1, 2, 5, 6), "volume": torch.randn(1, 1, 3, 4, 2)}
    dynamic = {"line": {2: (2, 16)}, "image": {2: (2, 16), 3: (2, 16)}, "volume": {2: (2, 8)}}
    program = maas_rt.load(compile(module, given, dynamic=dynamic).to_bytes(), threads=1)
    for extra in (0, 3):
        inputs = [torch.randn(1, 2, 6 + extra), torch.randn(1, 2, 5 + extra, 6), torch.randn(1, 1, 3 + extra, 4, 2)]
        got = program.run(dict(zip(given, (v.numpy() for v in inputs), strict=True)))
        for a, b in zip(got.values(), module(*inputs), strict=True):
            np.testing.assert_allclose(a, b.numpy(), rtol=1e-4, atol=1e-5)


SCALED: list[dict[str, Any]] = [
    {"mode": "area", "scale_factor": 0.1},
    {"mode": "area", "size": (3, 5)},
    {"mode": "area", "scale_factor": (1.7, 0.3)},
    {"mode": "nearest", "scale_factor": 0.1},
    {"mode": "nearest-exact", "scale_factor": (1.3, 0.6)},
    {"mode": "nearest", "scale_factor": 0.3, "recompute_scale_factor": True},
    {"mode": "bilinear", "scale_factor": 0.6, "align_corners": True},
    {"mode": "bilinear", "scale_factor": (0.1, 2.2)},
    {"mode": "bicubic", "scale_factor": 1.9},
]


class Scaled(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        pooled = [tf.adaptive_max_pool2d(x, (4, 3)), tf.adaptive_avg_pool2d(x, (x.shape[2] // 3, 7))]
        return *(tf.interpolate(x, **how) for how in SCALED), *pooled


def test_resizes_of_open_extents_by_any_number() -> None:
    """0.1 times 40 is 4: torch's product in double precision, rounded down, is a quotient of whole numbers for every extent in the bounds."""
    net, bounds = Scaled(), {"x": {2: (10, 64), 3: (12, 300)}}
    program = maas_rt.load(compile(net, {"x": torch.randn(1, 2, 22, 34)}, dynamic=bounds, verify=False))
    for height, width in ((10, 12), (40, 33), (39, 300), (64, 57)):
        x = torch.randn(1, 2, height, width)
        for got, want in zip(program.run({"x": x}).values(), net(x), strict=True):
            assert got.shape == tuple(want.shape)
            np.testing.assert_allclose(got, want.numpy(), rtol=1e-4, atol=1e-5)


class Once(nn.Module):
    def __init__(self, **how: Any) -> None:
        super().__init__()
        self.how = how

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return tf.interpolate(x, **self.how)


@pytest.mark.parametrize(
    ("how", "size", "said"),
    [
        (
            {"scale_factor": 0.1},
            12,
            "x_dim2 \\* 0.1 that is 1 in the example inputs, which torch took for fixed: give larger",
        ),
        ({"scale_factor": 0.29}, 200, "sizes times 0.29, whose rounding is that of no fraction: give the size itself"),
        ({"scale_factor": 0.5, "mode": "bilinear", "antialias": True}, 22, "antialiasing with a dynamic size: fix it"),
    ],
)
def test_resizes_that_are_refused(how: dict[str, Any], size: int, said: str) -> None:
    with pytest.raises(maas_rt.UnsupportedOperatorError, match=said):
        compile(Once(**how), {"x": torch.randn(1, 2, size, 34)}, dynamic={"x": {2: (10, 400)}}, verify=False)


def test_a_resize_without_an_upper_bound_takes_what_was_looked_at() -> None:
    net = Once(scale_factor=0.1)
    program = maas_rt.load(compile(net, {"x": torch.randn(1, 1, 34)}, dynamic={"x": {2: (10, None)}}, verify=False))
    x = torch.randn(1, 1, 99_990)
    np.testing.assert_array_equal(program(x), net(x).numpy())
    with pytest.raises(maas_rt.InvalidArgumentError, match="rounded for sizes up to 1048576"):
        program(torch.zeros(1, 1, 1 << 21))


@pytest.mark.parametrize("scale", [0.1, 0.7])
def test_onnx_resizes_of_open_extents(scale: float) -> None:
    """0.7 in single precision is less: 10 times it is 6.9999999, which ONNX Runtime's product rounds to 7, and the formula to 6."""
    scales = numpy_helper.from_array(np.float32([1, 1, scale]), "scales")
    node = helper.make_node("Resize", ["x", "", "scales"], ["y"], mode="linear")
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, "n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2, None])],
        [scales],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    if scale == 0.7:
        with pytest.raises(maas_rt.UnsupportedOperatorError, match="by 0.7 on a dynamic extent, where it depends on"):
            compile(proto, verify=False)
        return
    program = maas_rt.load(compile(proto, verify=False))
    reference = ReferenceEvaluator(proto)
    for size in (10, 33, 40):
        x = np.random.default_rng(size).standard_normal((1, 2, size)).astype(F32)
        (want,) = reference.run(None, {"x": x})
        assert program(x).shape == want.shape
        np.testing.assert_allclose(program(x), want, rtol=1e-4, atol=1e-5)


def test_pools_in_ceil_mode_of_open_extents() -> None:
    """Windows that would begin behind the input are left out, which some sizes have and others have not."""
    forms: list[tuple[str, dict[str, Any]]] = [
        ("MaxPool", {"kernel_shape": [2, 3], "strides": [3, 2], "pads": [0, 1, 1, 0]}),
        ("MaxPool", {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"}),
        ("AveragePool", {"kernel_shape": [2, 2], "strides": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}),
        ("LpPool", {"kernel_shape": [2, 2], "strides": [3, 3], "pads": [1, 1, 1, 1]}),
    ]
    nodes = [helper.make_node(op, ["x"], [f"y{i}"], ceil_mode=1, **more) for i, (op, more) in enumerate(forms)]
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, "h", "w"])],
        [helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, None) for i in range(len(forms))],
    )
    proto = helper.make_model(made, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    model = maas_rt.load(compile(proto, verify=False))
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    for height, width in ((7, 9), (8, 8), (6, 7), (5, 5)):
        x = np.random.default_rng(height).standard_normal((1, 2, height, width)).astype(F32)
        found = model.run({"x": x})
        for i, want in enumerate(session.run(None, {"x": x})):
            np.testing.assert_allclose(found[f"y{i}"], want, rtol=1e-5, atol=1e-6, err_msg=str(forms[i]))


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int32, np.int64])
def test_means_of_open_extents(dtype: Any) -> None:
    """Whole numbers are rounded towards 0, and so are their logarithms, as ONNX Runtime does."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    nodes = [
        helper.make_node("ReduceMean", ["x", "axes"], ["mean"], keepdims=0),
        helper.make_node("ReduceMean", ["x"], ["all"]),
    ]
    nodes += [
        helper.make_node("ReduceSumSquare", ["x", "axes"], ["squares"]),
        helper.make_node("ReduceLogSum", ["squares"], ["log"]),
    ]
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, ["n", "m", 3])],
        [helper.make_tensor_value_info(name, kind, None) for name in ("mean", "all", "log")],
        [numpy_helper.from_array(np.array([1, -1]), "axes")],
    )
    proto = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    model = maas_rt.load(compile(proto, verify=False))
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    for shape in ((2, 4, 3), (1, 7, 3)):
        x = (np.random.default_rng(shape[1]).standard_normal(shape) * 9).astype(dtype)
        for got, want in zip(model.run({"x": x}).values(), session.run(None, {"x": x}), strict=True):
            assert got.dtype == want.dtype
            np.testing.assert_allclose(got, want, rtol=2e-3)
