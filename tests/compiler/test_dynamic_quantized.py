"""Dynamically quantized models: which kernels their forms become, and that results are those of onnx.reference, whose sums are exact
(ONNX Runtime's are not where the CPU has no VNNI)."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from maas_rt.compiler import compile as compile_model
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator

import maas_rt
from tests.compiler.test_import_onnx import model, node

F, U8, I8, I32 = TensorProto.FLOAT, TensorProto.UINT8, TensorProto.INT8, TensorProto.INT32
RNG = np.random.default_rng(5)
QUANTIZE = node("DynamicQuantizeLinear", "x", "q s z")


def rescaled(*, factors: str = "outside") -> list[Any]:
    """From the sums p of a product to y = float(p) * s * ws, the factors where one tool or another puts them."""
    cast = node("Cast", "p", "pf", to=F)
    if factors == "outside":
        return [node("Mul", "s ws", "f"), cast, node("Mul", "pf f", "y0")]
    if factors == "turned":
        return [cast, node("Mul", "ws s", "f"), node("Mul", "f pf", "y0")]
    return [cast, node("Mul", "pf s", "m"), node("Mul", "m ws", "y0")]


def runs(proto: onnx.ModelProto, feeds: dict[str, Any], kernels: dict[str, int], tolerance: float = 1e-6) -> None:
    """Compiled into these kernels and none but them; equal to the reference up to the rounding of floats."""
    proto = onnx.shape_inference.infer_shapes(proto)
    artifact = compile_model(proto, verify=False)
    counts = Counter(s.target for block in artifact.linear.plan.blocks for s in block.steps)
    assert counts == kernels
    got = maas_rt.load(artifact.to_bytes()).run(feeds)
    for name, want in zip(got, ReferenceEvaluator(proto).run(None, feeds), strict=True):
        np.testing.assert_allclose(got[name], want, rtol=0, atol=tolerance * max(1e-30, np.abs(want).max(initial=0)))


def weights(dtype: type, *shape: int) -> Any:
    info = np.iinfo(dtype)
    return RNG.integers(info.min, info.max + 1, shape).astype(dtype)


@pytest.mark.parametrize("factors", ["outside", "turned", "inside"])
@pytest.mark.parametrize(
    ("dtype", "zero"),
    [
        (np.int8, None),
        (np.int8, np.int8(0)),
        (np.int8, np.int8(-3)),
        (np.uint8, np.uint8(128)),
        (np.uint8, np.uint8(121)),
    ]
    + [(np.uint8, None), (np.uint8, "per column"), (np.int8, "per column")],
)
def test_matmul_integer(dtype: type, zero: Any, factors: str) -> None:
    """Bias and activation go into the kernel as well."""
    columns = 40
    constants: dict[str, Any] = {"w": weights(dtype, 33, columns), "b": RNG.normal(0, 1, columns).astype(np.float32)}
    if isinstance(zero, str):
        zero = weights(dtype, columns) if dtype is np.uint8 else RNG.integers(-9, 9, columns).astype(np.int8)
    if zero is not None:
        constants["wz"] = zero
    constants["ws"] = RNG.uniform(0.001, 0.01, columns if factors == "inside" else 1).astype(np.float32)
    product = node("MatMulInteger", f"q w z{' wz' if zero is not None else ''}", "p")
    tail = [node("Add", "b y0", "y1"), node("Relu", "y1", "y")]
    proto = model([QUANTIZE, product, *rescaled(factors=factors), *tail], {"x": (F, [2, 7, 33])}, ["y"], constants)
    feeds = {"x": RNG.normal(0, 1, (2, 7, 33)).astype(np.float32)}
    runs(proto, feeds, {"dynamic_quantize_u8": 1, "gemm_u8s8": 1})


def test_several_products_share_one_quantization_and_a_residual_is_fused() -> None:
    nodes = [QUANTIZE]
    for i in range(3):
        nodes += [node("MatMulInteger", f"q w{i} z", f"p{i}"), node("Cast", f"p{i}", f"f{i}", to=F)]
        nodes += [node("Mul", f"s ws{i}", f"s{i}"), node("Mul", f"f{i} s{i}", f"y{i}")]
    nodes += [node("Add", "y0 x", "a"), node("Add", "y1 y2", "b"), node("Mul", "a b", "y")]
    constants = {f"w{i}": weights(np.int8, 16, 16) for i in range(3)}
    constants |= {f"ws{i}": np.float32([0.01 * (i + 1)]) for i in range(3)}
    proto = onnx.shape_inference.infer_shapes(model(nodes, {"x": (F, [3, 16])}, ["y"], constants))
    artifact = compile_model(proto, verify=False)
    counts = Counter(s.target for block in artifact.linear.plan.blocks for s in block.steps)
    assert counts["dynamic_quantize_u8"] == 1 and counts["gemm_u8s8"] == 3
    assert sum(counts.values()) == 5  # and one generated product
    feeds = {"x": RNG.normal(0, 1, (3, 16)).astype(np.float32)}
    (want,) = ReferenceEvaluator(proto).run(None, feeds)
    np.testing.assert_allclose(maas_rt.load(artifact.to_bytes()).run(feeds)["y"], want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("dtype", "zero", "shape", "group", "kernels"),
    [
        (np.uint8, 119, (20, 3, 3, 3), 1, {"conv2d_u8s8": 1, "transpose": 1}),
        (np.int8, 0, (20, 3, 3, 3), 1, {"conv2d_u8s8": 1, "transpose": 1}),
        (np.uint8, 119, (20, 6, 1, 1), 1, {"gemm_u8s8": 1, "transpose": 2}),
        (np.int8, 0, (8, 1, 3, 3), 8, {"depthwise_conv2d_u8s8": 1, "transpose": 2}),
        (np.uint8, 119, (8, 1, 3, 3), 8, {"depthwise_conv2d_u8s8": 1, "transpose": 2}),
        (np.uint8, 119, (8, 1, 17, 17), 8, {"conv2d_u8s8": 1, "transpose": 2}),
        (np.uint8, 119, (8, 4, 5), 1, {"conv2d_u8s8": 1, "transpose": 2}),
    ],
)
def test_conv_integer(dtype: type, zero: int, shape: tuple[int, ...], group: int, kernels: dict[str, int]) -> None:
    spatial = len(shape) - 2
    constants = {"w": weights(dtype, *shape), "wz": dtype(zero), "ws": np.float32(0.003)}
    constants["b"] = RNG.normal(0, 1, (1, shape[0], *[1] * spatial)).astype(np.float32)
    product = node("ConvInteger", "q w z wz", "p", group=group, pads=[shape[-1] // 2] * 2 * spatial)
    nodes = [QUANTIZE, product, *rescaled(), node("Add", "y0 b", "y1"), node("Relu", "y1", "y")]
    dims = [2, shape[1] * group, *[9] * spatial]
    x = RNG.normal(0, 1, dims).astype(np.float32)
    counts = Counter({"dynamic_quantize_u8": 1}) + Counter(kernels)
    if shape[1] * group == 3:  # NHWC of few channels is made by the same kernel as any
        counts["transpose"] = 2
    runs(model(nodes, {"x": (F, dims)}, ["y"], constants), {"x": x}, dict(counts))


def test_convolutions_in_a_row_stay_channels_last() -> None:
    nodes = [QUANTIZE, node("ConvInteger", "q w z wz", "p"), *rescaled(), node("Relu", "y0", "r")]
    nodes += [node("DynamicQuantizeLinear", "r", "q2 s2 z2"), node("ConvInteger", "q2 v z2", "p2")]
    nodes += [node("Cast", "p2", "f2", to=F), node("Mul", "f2 s2", "y")]
    constants = {"w": weights(np.uint8, 16, 3, 3, 3), "wz": np.uint8(119), "ws": np.float32(0.003)}
    constants["v"] = weights(np.int8, 17, 16, 3, 3)
    x = RNG.normal(0, 1, (1, 3, 12, 12)).astype(np.float32)
    kernels = {"dynamic_quantize_u8": 2, "conv2d_u8s8": 2, "transpose": 2}
    # The second quantization reads what the first convolution rounded: one step of it is 1/255 of its range.
    runs(model(nodes, {"x": (F, list(x.shape))}, ["y"], constants), {"x": x}, kernels, tolerance=1e-5)


def test_a_product_of_two_quantized_tensors() -> None:
    nodes = [QUANTIZE, node("DynamicQuantizeLinear", "v", "q2 s2 z2"), node("MatMulInteger", "q q2 z z2", "p")]
    nodes += [node("Mul", "s s2", "ws"), node("Cast", "p", "pf", to=F), node("Mul", "pf ws", "y")]
    feeds = {"x": RNG.normal(0, 1, (3, 5, 7)).astype(np.float32), "v": RNG.normal(0, 1, (3, 7, 6)).astype(np.float32)}
    proto = onnx.shape_inference.infer_shapes(model(nodes, {"x": (F, [3, 5, 7]), "v": (F, [3, 7, 6])}, ["y"], {}))
    artifact = compile_model(proto, verify=False)
    counts = Counter(s.target for block in artifact.linear.plan.blocks for s in block.steps)
    assert counts["dynamic_quantize_u8"] == 2 and counts["matmul_u8"] == 1
    (want,) = ReferenceEvaluator(proto).run(None, feeds)
    np.testing.assert_allclose(maas_rt.load(artifact.to_bytes()).run(feeds)["y"], want, rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_sums_alone_are_integers(dtype: type) -> None:
    """Nothing behind the product: no float in between."""
    a = RNG.integers(0, 256, (5, 300)).astype(np.uint8)
    proto = model([node("MatMulInteger", "a w az wz", "y")], {"a": (U8, [5, 300])}, ["y"], {
        "w": weights(dtype, 300, 20), "az": np.uint8(9), "wz": dtype(3)
    })  # fmt: skip
    runs(proto, {"a": a}, {"gemm_u8s8": 1}, tolerance=0)


def test_what_has_no_kernel_is_still_right() -> None:
    """A zero point for each row of the activations; weights in a batch."""
    constants = {"w": weights(np.int8, 2, 9, 6), "az": RNG.integers(0, 9, 5).astype(np.uint8)}
    proto = model([node("MatMulInteger", "a w az", "y")], {"a": (U8, [2, 5, 9])}, ["y"], constants)
    proto = onnx.shape_inference.infer_shapes(proto)
    a = RNG.integers(0, 256, (2, 5, 9)).astype(np.uint8)
    got = maas_rt.load(compile_model(proto, verify=False).to_bytes()).run({"a": a})["y"]
    centred = a.astype(np.int64) - constants["az"].astype(np.int64)[:, None]
    np.testing.assert_array_equal(got, centred @ constants["w"].astype(np.int64))


def test_an_embedding_of_bytes_stays_bytes() -> None:
    """quantize_dynamic's Gather: rows are dequantized, never the table."""
    nodes = [node("Gather", "w i", "g"), node("DequantizeLinear", "g s z", "y")]
    constants = {"w": weights(np.uint8, 5000, 64), "s": np.float32(0.02), "z": np.uint8(117)}
    proto = model(nodes, {"i": (TensorProto.INT64, [3, 4])}, ["y"], constants)
    artifact = compile_model(onnx.shape_inference.infer_shapes(proto), verify=False)
    assert len(artifact.to_bytes()) < 5000 * 64 + 70_000
    i = RNG.integers(0, 5000, (3, 4))
    want = (constants["w"][i].astype(np.float32) - 117) * np.float32(0.02)
    np.testing.assert_allclose(maas_rt.load(artifact.to_bytes()).run({"i": i})["y"], want, rtol=1e-6)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize(
    ("dtype", "batch", "states", "lengths", "per_channel"),
    [(np.int8, 1, False, None, False), (np.uint8, 3, True, None, False), (np.int8, 4, True, [7, 1, 5, 3], True), (np.uint8, 2, False, [4, 6], False)],
)  # fmt: skip
def test_dynamic_quantize_lstm(
    direction: str, dtype: type, batch: int, states: bool, lengths: list[int] | None, per_channel: bool
) -> None:
    """Against ONNX Runtime, the only definition that there is; weights of seven bits, so that its sums are exact everywhere."""
    dirs, hidden, steps, features = 1 + (direction == "bidirectional"), 20, 7, 9
    middle = 0 if dtype is np.int8 else 117
    constants: dict[str, Any] = {
        name: RNG.integers(middle - 60, middle + 61, (dirs, k, 4 * hidden)).astype(dtype)
        for name, k in (("w", features), ("r", hidden))
    }
    constants["b"] = RNG.normal(0, 0.3, (dirs, 8 * hidden)).astype(np.float32)
    for name in "wr":
        shape = (dirs, 4 * hidden) if per_channel else (dirs,)
        constants[name + "s"] = RNG.uniform(0.003, 0.006, shape).astype(np.float32)
        constants[name + "z"] = np.full(shape, middle, dtype)
    if lengths is not None:
        constants["lengths"] = np.array(lengths, np.int32)
    given = ""
    if states:
        constants |= {name: RNG.uniform(-1, 1, (dirs, batch, hidden)).astype(np.float32) for name in ("h0", "c0")}
        given = "h0 c0"
    inputs = [
        "x",
        "w",
        "r",
        "b",
        "lengths" if lengths else "",
        *(given.split() or ["", ""]),
        "",
        "ws",
        "wz",
        "rs",
        "rz",
    ]
    lstm = onnx.helper.make_node(
        "DynamicQuantizeLSTM", inputs, ["y", "h", "c"], domain="com.microsoft", hidden_size=hidden, direction=direction
    )
    proto = model([lstm], {"x": (F, [steps, batch, features])}, ["y", "h", "c"], constants)
    proto.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    artifact = compile_model(proto, verify=False)
    counts = Counter(s.target for block in artifact.linear.plan.blocks for s in block.steps)
    assert counts["lstm_u8s8"] == 1 and not set(counts) - {"lstm_u8s8", "transpose", ""}  # "": a view
    x = RNG.normal(0, 1, (steps, batch, features)).astype(np.float32)
    got = maas_rt.load(artifact.to_bytes()).run({"x": x})
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options)
    for name, want in zip(("y", "h", "c"), session.run(None, {"x": x}), strict=True):
        np.testing.assert_allclose(got[name], want, rtol=0, atol=0.01)


@pytest.mark.parametrize(
    ("attributes", "peepholes", "words"),
    [
        ({"clip": 0.5}, False, "a clip"), ({"input_forget": 1}, True, "peepholes and coupled gates"),
        ({"activations": ["Sigmoid", "Relu", "Tanh"]}, False, "other activations"),
    ],
)  # fmt: skip
def test_what_dynamic_quantize_lstm_does_not_have_is_refused(
    attributes: dict[str, Any], peepholes: bool, words: str
) -> None:
    constants: dict[str, Any] = {name: weights(np.int8, 1, 4, 16) for name in "wr"}
    constants |= {name: np.ones(1, np.float32) for name in ("ws", "rs")} | {name: np.zeros(1, np.int8) for name in ("wz", "rz")}  # fmt: skip
    constants["p"] = np.ones((1, 12), np.float32)
    inputs = ["x", "w", "r", "", "", "", "", "p" if peepholes else "", "ws", "wz", "rs", "rz"]
    lstm = onnx.helper.make_node(
        "DynamicQuantizeLSTM", inputs, ["y"], domain="com.microsoft", hidden_size=4, **attributes
    )
    proto = model([lstm], {"x": (F, [2, 1, 4])}, ["y"], constants)
    proto.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    with pytest.raises(maas_rt.Error, match=words):
        compile_model(proto, verify=False)
