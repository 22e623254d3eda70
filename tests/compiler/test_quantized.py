"""Quantized models as they arrive: which layers run on 8-bit kernels, and that results are ONNX Runtime's."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from maas_rt.compiler import compile as compile_model
from maas_rt.compiler.oracle._products import products_are_exact
from onnx import TensorProto

import maas_rt
from tests.compiler.test_import_onnx import model, node

F, U8, I8 = TensorProto.FLOAT, TensorProto.UINT8, TensorProto.INT8
RNG = np.random.default_rng(7)


class Qdq:
    """A model in QDQ form, built layer by layer; `dtype` is that of the activations."""

    def __init__(self, dtype: type, per_channel: bool = True) -> None:
        self.dtype, self.per_channel = dtype, per_channel
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}
        self.count = 0

    def name(self, stem: str, value: Any = None) -> str:
        self.count += 1
        name = f"{stem}{self.count}"
        if value is not None:
            self.constants[name] = value
        return name

    def add(self, op: str, inputs: str, **attributes: Any) -> str:
        out = self.name("t")
        self.nodes.append(node(op, inputs, out, **attributes))
        return out

    def quantized(self, x: str, scale: float, zero: int) -> str:
        """x through QuantizeLinear and DequantizeLinear."""
        s, z = self.name("s", np.float32(scale)), self.name("z", self.dtype(zero))
        return self.add("DequantizeLinear", f"{self.add('QuantizeLinear', f'{x} {s} {z}')} {s} {z}")

    def weight(self, *shape: int, axis: int = 0, dtype: type = np.int8) -> str:
        info = np.iinfo(dtype)
        w = self.name("w", RNG.integers(info.min, info.max + 1, shape).astype(dtype))
        extent = shape[axis] if self.per_channel else 1
        middle = 0 if dtype is np.int8 else 128
        s = RNG.uniform(0.5, 1, extent).astype(np.float32) * 0.01
        if not self.per_channel:
            return self.add(
                "DequantizeLinear", f"{w} {self.name('ws', s.reshape(()))} {self.name('wz', dtype(middle))}"
            )
        zeros = self.name("wz", np.full(extent, middle, dtype))
        return self.add("DequantizeLinear", f"{w} {self.name('ws', s)} {zeros}", axis=axis)

    def bias(self, extent: int) -> str:
        b = self.name("b", RNG.integers(-5000, 5000, extent).astype(np.int32))
        s = self.name("bs", np.full(extent, 2e-4, np.float32))
        return self.add("DequantizeLinear", f"{b} {s} {self.name('bz', np.zeros(extent, np.int32))}", axis=0)

    def proto(self, dims: list[Any], y: str) -> onnx.ModelProto:
        self.nodes.append(node("Identity", y, "y"))
        proto = model(self.nodes, {"x": (F, dims)}, ["y"], self.constants)
        return onnx.shape_inference.infer_shapes(proto)


def runs(proto: onnx.ModelProto, x: Any, step: float, want: dict[str, int]) -> None:
    """Compiled (and so verified), with these kernels, equal to ONNX Runtime but for ties, and what follows from them."""
    artifact = compile_model(proto)
    counts = Counter(s.target for block in artifact.linear.plan.blocks for s in block.steps)
    assert {name: counts[name] for name in want} == want
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.x64quantprecision", "1")
    (expected,) = onnxruntime.InferenceSession(proto.SerializeToString(), options).run(None, {"x": x})
    assert len(np.unique(expected)) > 10
    for threads in (1, 2):
        got = maas_rt.load(artifact.to_bytes(), threads=threads).run({"x": x})["y"]
        steps = np.abs(got - expected) / step
        assert steps.max() <= 2.001 and (steps > 0.5).mean() < 0.2, (steps.max(), (steps > 0.5).mean())


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
@pytest.mark.parametrize("per_channel", [True, False])
def test_convolutions(dtype: type, per_channel: bool) -> None:
    zero = 20 if dtype is np.uint8 else -108
    q = Qdq(dtype, per_channel)
    x = q.quantized("x", 0.02, zero + 108)
    y = q.add("Conv", f"{x} {q.weight(16, 3, 7, 7)} {q.bias(16)}", strides=[2, 2], pads=[3, 3, 3, 3])
    y = a = q.quantized(q.add("Relu", y), 0.05, zero - 20)
    y = q.quantized(q.add("Conv", f"{y} {q.weight(24, 16, 1, 1)}"), 0.05, zero)
    y = q.quantized(q.add("Conv", f"{y} {q.weight(16, 12, 3, 3)}", group=2, pads=[1, 1, 1, 1]), 0.1, zero)
    y = q.quantized(q.add("Relu", q.add("Add", f"{y} {a}")), 0.1, zero - 20)
    y = q.quantized(q.add("Conv", f"{y} {q.weight(16, 1, 3, 3)}", group=16, pads=[1, 1, 1, 1]), 0.1, zero)
    y = q.quantized(q.add("GlobalAveragePool", y), 0.02, zero)
    y = q.quantized(q.add("Flatten", y), 0.02, zero)
    y = q.quantized(q.add("Gemm", f"{y} {q.weight(33, 16)} {q.bias(33)}", transB=1), 0.05, zero)
    proto = q.proto([2, 3, 20, 20], y)
    image = RNG.standard_normal((2, 3, 20, 20)).astype(np.float32)
    runs(proto, image, 0.05, {"conv2d_u8s8": 2, "gemm_u8s8": 2, "conv2d_f32": 0, "depthwise_conv2d_u8s8": 1})


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_residual_streams_stay_in_bytes(dtype: type) -> None:
    """Sums are those of the convolution's kernel, of two convolutions, of one and what it read, and of one with an activation behind it."""
    zero = 0 if dtype is np.uint8 else -128
    q = Qdq(dtype)
    x = q.quantized("x", 0.02, zero + 108)
    x = q.quantized(q.add("Relu", q.add("Conv", f"{x} {q.weight(20, 3, 3, 3)} {q.bias(20)}")), 0.05, zero)
    a = q.quantized(q.add("Conv", f"{x} {q.weight(40, 20, 1, 1)} {q.bias(40)}"), 0.09, zero + 120)
    b = q.quantized(q.add("Conv", f"{x} {q.weight(40, 20, 3, 3)} {q.bias(40)}", pads=[1, 1, 1, 1]), 0.1, zero + 100)
    y = q.quantized(q.add("Relu", q.add("Add", f"{a} {b}")), 0.11, zero)
    b = q.quantized(q.add("Conv", f"{y} {q.weight(40, 40, 1, 1)}"), 0.15, zero + 128)
    y = q.quantized(q.add("Add", f"{y} {b}"), 0.16, zero + 90)
    b = q.quantized(q.add("Relu", q.add("Conv", f"{y} {q.weight(40, 40, 1, 1)}")), 0.15, zero)
    y = q.quantized(q.add("Add", f"{b} {y}"), 0.2, zero + 80)
    proto = q.proto([2, 3, 20, 20], y)
    image = RNG.standard_normal((2, 3, 20, 20)).astype(np.float32)
    runs(proto, image, 0.2, {"conv2d_u8s8": 2, "gemm_u8s8": 3})
    blocks = compile_model(proto).linear.plan.blocks
    generated = [step.name for block in blocks for step in block.steps if "add" in step.target]
    assert generated == []


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_sums_that_bytes_do_not_say_stay_floats(dtype: type) -> None:
    """A branch that others read, too; one behind an activation that is no clamp; a ReLU whose zero is not the least byte."""
    zero = 100 if dtype is np.uint8 else -28
    q = Qdq(dtype)
    x = q.quantized("x", 0.02, zero)
    a = q.quantized(q.add("Conv", f"{x} {q.weight(8, 8, 1, 1)}"), 0.05, zero)
    y = q.quantized(q.add("Add", f"{a} {x}"), 0.05, zero)
    y = q.quantized(q.add("Add", f"{y} {q.quantized(q.add('Conv', f'{a} {q.weight(8, 8, 1, 1)}'), 0.06, zero)}"), 0.06, zero)  # fmt: skip
    b = q.quantized(q.add("Conv", f"{y} {q.weight(8, 8, 1, 1)}"), 0.1, zero)
    y = q.quantized(q.add("Relu", q.add("Add", f"{b} {y}")), 0.1, zero)
    proto = q.proto([1, 8, 20, 20], y)
    image = RNG.standard_normal((1, 8, 20, 20)).astype(np.float32)
    runs(proto, image, 0.1, {"gemm_u8s8": 3})


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_matrix_products(dtype: type) -> None:
    """Batches, any length, weights of uint8 about 128, GELU between two layers, a residual."""
    zero = 128 if dtype is np.uint8 else 0
    q = Qdq(dtype)
    x = q.quantized("x", 0.02, zero)
    y = q.add("MatMul", f"{x} {q.weight(48, 64, axis=1)}")
    y = q.quantized(q.add("Add", f"{y} {q.bias(64)}"), 0.02, zero)
    half, root = q.name("c", np.float32(0.5)), q.name("c", np.float32(2**0.5))
    one = q.name("c", np.float32(1))
    inner = q.add("Add", f"{q.add('Erf', q.add('Div', f'{y} {root}'))} {one}")
    y = q.quantized(q.add("Mul", f"{q.add('Mul', f'{y} {inner}')} {half}"), 0.02, zero)
    y = q.quantized(q.add("MatMul", f"{y} {q.weight(64, 48, axis=1, dtype=np.uint8)}"), 0.05, zero)
    y = q.quantized(q.add("Add", f"{y} {x}"), 0.05, zero)
    proto = q.proto(["n", "s", 48], y)
    data = RNG.standard_normal((2, 9, 48)).astype(np.float32)
    runs(proto, data, 0.05, {"gemm_u8s8": 2, "gemm_f32": 0, "lookup": 1})


def _hardswish(q: Qdq, x: str) -> str:
    bounds = f"{q.name('c', np.float32(0))} {q.name('c', np.float32(6))}"
    gate = q.add("Clip", f"{q.add('Add', f'{x} ' + q.name('c', np.float32(3)))} {bounds}")
    return q.add("Div", f"{q.add('Mul', f'{x} {gate}')} {q.name('c', np.float32(6))}")


FUNCTIONS = {
    "Sigmoid": lambda q, x: q.add("Sigmoid", x),
    "Tanh": lambda q, x: q.add("Tanh", x),
    "silu": lambda q, x: q.add("Mul", f"{x} {q.add('Sigmoid', x)}"),
    "hardswish": _hardswish,
    "LeakyRelu": lambda q, x: q.add("LeakyRelu", x, alpha=0.1),
    "Exp": lambda q, x: q.add("Exp", q.add("Neg", q.add("Abs", x))),
    "reshaped": lambda q, x: q.add("Sigmoid", q.add("Reshape", f"{x} {q.name('c', np.array([0, 0, 2, 12]))}")),
}


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_functions_of_one_tensor_are_tables(function: str, dtype: type) -> None:
    zero = 128 if dtype is np.uint8 else 0
    q = Qdq(dtype)
    x = q.quantized("x", 0.03, zero)
    y = q.quantized(q.add("MatMul", f"{x} {q.weight(16, 24, axis=1)}"), 0.03, zero)
    y = q.quantized(FUNCTIONS[function](q, y), 0.02, zero - 20)
    y = q.add("Reshape", f"{y} {q.name('c', np.array([0, 0, 24]))}")
    y = q.quantized(q.add("MatMul", f"{y} {q.weight(24, 16, axis=1)}"), 0.05, zero)
    proto = q.proto(["n", "s", 16], y)
    data = RNG.standard_normal((2, 9, 16)).astype(np.float32)
    runs(proto, data, 0.05, {"gemm_u8s8": 2, "lookup": 1})


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_products_of_activations(dtype: type) -> None:
    """Attention as exporters write it: scores and their products with values stay in 8 bits, over any length."""
    zero = 128 if dtype is np.uint8 else 0
    q = Qdq(dtype)
    x = q.quantized("x", 0.03, zero)

    def heads(scale: float, order: list[int]) -> str:
        y = q.quantized(q.add("MatMul", f"{x} {q.weight(32, 32, axis=1)}"), scale, zero)
        y = q.add("Reshape", f"{y} {q.name('c', np.array([0, 0, 4, 8]))}")
        return q.quantized(q.add("Transpose", y, perm=order), scale, zero)

    query, key, value = heads(0.03, [0, 2, 1, 3]), heads(0.03, [0, 2, 3, 1]), heads(0.03, [0, 2, 1, 3])
    query = q.quantized(q.add("Mul", f"{query} {q.name('c', np.float32(0.35))}"), 0.01, zero)
    scores = q.quantized(q.add("MatMul", f"{query} {key}"), 0.05, zero)
    weights = q.quantized(q.add("Softmax", scores, axis=-1), 1 / 255, zero - 128)
    y = q.quantized(q.add("MatMul", f"{weights} {value}"), 0.03, zero)
    y = q.add("Reshape", f"{q.add('Transpose', y, perm=[0, 2, 1, 3])} {q.name('c', np.array([0, 0, 32]))}")
    y = q.quantized(q.add("MatMul", f"{q.quantized(y, 0.03, zero)} {q.weight(32, 24, axis=1)}"), 0.05, zero)
    data = RNG.standard_normal((2, 19, 32)).astype(np.float32)
    kernels = {"matmul_u8": 2, "matmul_f32": 0, "gemm_u8s8": 4, "lookup": 1}
    runs(q.proto(["n", "s", 32], y), data, 0.05, kernels)


def test_functions_of_two_tensors_are_none() -> None:
    q = Qdq(np.uint8)
    x = q.quantized("x", 0.03, 128)
    a = q.quantized(q.add("MatMul", f"{x} {q.weight(16, 24, axis=1)}"), 0.03, 128)
    b = q.quantized(q.add("MatMul", f"{x} {q.weight(16, 24, axis=1)}"), 0.03, 128)
    y = q.quantized(q.add("Mul", f"{a} {q.add('Sigmoid', b)}"), 0.02, 128)
    y = q.quantized(q.add("MatMul", f"{y} {q.weight(24, 16, axis=1)}"), 0.05, 128)
    data = RNG.standard_normal((9, 16)).astype(np.float32)
    runs(q.proto([9, 16], y), data, 0.05, {"gemm_u8s8": 3, "lookup": 0})


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_qlinear_operators(dtype: type) -> None:
    zero, middle = dtype(17), 0 if dtype is np.int8 else 128
    nodes = [
        node("QuantizeLinear", "x sx z", "q"),
        node("QLinearConv", "q sx z w sw wz sy z b", "c", strides=[2, 1], pads=[1, 0, 1, 2]),
        node("QLinearConv", "c sy z v sx vz sd z", "d", group=8),
        node("Flatten", "d", "f"),
        node("QLinearMatMul", "f sd z m sm mz so z", "o"),
        node("DequantizeLinear", "o so z", "y"),
    ]
    info = np.iinfo(dtype)
    constants = {
        "z": zero, "sx": np.float32(0.02), "sy": np.float32(0.05), "sd": np.float32(0.1), "so": np.float32(0.5),
        "w": RNG.integers(info.min, info.max + 1, (8, 3, 3, 3)).astype(dtype),
        "sw": RNG.uniform(0.5, 1, 8).astype(np.float32) * np.float32(0.01), "wz": np.full(8, middle, dtype),
        "b": RNG.integers(-3000, 3000, 8).astype(np.int32),
        "v": RNG.integers(-127, 128, (8, 1, 1, 1)).astype(np.int8), "vz": np.int8(0),
        "m": RNG.integers(info.min, info.max + 1, (8 * 10 * 12, 16)).astype(dtype), "sm": np.float32(0.002),
        "mz": dtype(middle),
    }  # fmt: skip
    proto = onnx.shape_inference.infer_shapes(model(nodes, {"x": (F, [2, 3, 20, 12])}, ["y"], constants))
    x = RNG.standard_normal((2, 3, 20, 12)).astype(np.float32)
    runs(proto, x, 0.5, {"conv2d_u8s8": 1, "gemm_u8s8": 1})


def test_a_zero_point_that_products_share() -> None:
    """As ONNX Runtime saves them; making the weights uint8, for exact sums on any CPU, is what it cannot do to such."""
    rng = np.random.default_rng(11)
    nodes = [
        node("QuantizeLinear", "x sx z", "q"),
        node("QLinearMatMul", "q sx z w sw zw sx z", "a"),
        node("QLinearMatMul", "a sx z v sw zw sx z", "b"),
        node("DequantizeLinear", "b sx z", "y"),
    ]
    w, v = (rng.integers(-127, 128, (16, 16)).astype(np.int8) for _ in range(2))
    constants = {"sx": np.float32(0.03), "z": np.uint8(128), "sw": np.float32(0.004), "zw": np.int8(0), "w": w, "v": v}
    proto = onnx.shape_inference.infer_shapes(model(nodes, {"x": (F, [5, 16])}, ["y"], constants))
    if not products_are_exact(proto, precise=False):
        pytest.skip("ONNX Runtime's sums saturate on this CPU (no VNNI)")
    runs(proto, rng.standard_normal((5, 16)).astype(np.float32), 0.03, {"gemm_u8s8": 2})


def test_weights_that_int8_does_not_hold_are_multiplied_in_float() -> None:
    q = Qdq(np.uint8, per_channel=False)
    w = q.name("w", RNG.integers(0, 256, (48, 8)).astype(np.uint8))
    s, z = q.name("s", np.float32(0.01)), q.name("z", np.uint8(30))
    x = q.quantized("x", 0.02, 100)
    y = q.quantized(q.add("MatMul", f"{x} {q.add('DequantizeLinear', f'{w} {s} {z}')}"), 0.05, 100)
    runs(q.proto([5, 48], y), RNG.standard_normal((5, 48)).astype(np.float32), 0.05, {"gemm_u8s8": 0, "gemm_f32q": 1})


def test_a_tensor_that_others_read_stays_there() -> None:
    """An int8 tensor that is an output too keeps its type; a float one behind a layer is written for its other reader."""
    s, z = np.float32(0.02), np.int8(3)
    nodes = [
        node("QuantizeLinear", "x s z", "q"), node("DequantizeLinear", "q s z", "d"),
        node("DequantizeLinear", "w ws", "wd", axis=1), node("MatMul", "d wd", "m"),
        node("QuantizeLinear", "m s z", "p"), node("DequantizeLinear", "p s z", "y"),
    ]  # fmt: skip
    constants = {
        "s": s, "z": z, "w": RNG.integers(-127, 128, (8, 24)).astype(np.int8), "ws": np.full(24, 0.01, np.float32),
    }  # fmt: skip
    proto = onnx.shape_inference.infer_shapes(model(nodes, {"x": (F, [4, 8])}, ["y", "m", "q"], constants))
    artifact = compile_model(proto)
    x = RNG.standard_normal((4, 8)).astype(np.float32)
    got = maas_rt.load(artifact.to_bytes(), threads=1).run({"x": x})
    want = dict(
        zip(("y", "m", "q"), onnxruntime.InferenceSession(proto.SerializeToString()).run(None, {"x": x}), strict=True)
    )
    np.testing.assert_array_equal(got["q"], want["q"])
    np.testing.assert_allclose(got["m"], want["m"], rtol=1e-5, atol=1e-5)
    assert np.abs(got["y"] - want["y"]).max() <= 0.0201


def test_a_table_is_read_by_rows() -> None:
    nodes = [node("DequantizeLinear", "w s z", "t"), node("Gather", "t i", "y")]
    constants = {"w": RNG.integers(-128, 128, (1000, 64)).astype(np.int8), "s": np.float32(0.1), "z": np.int8(5)}
    proto = onnx.shape_inference.infer_shapes(model(nodes, {"i": (TensorProto.INT64, ["n"])}, ["y"], constants))
    artifact = compile_model(proto)
    assert artifact.linear.weights.size < 100_000
    i = np.array([0, 999, 17])
    got = maas_rt.load(artifact.to_bytes(), threads=1).run({"i": i})["y"]
    np.testing.assert_array_equal(got, (constants["w"][i].astype(np.float32) - 5) * np.float32(0.1))


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_signals_maxima_and_branches_stay_in_bytes(dtype: type) -> None:
    """Convolutions over one axis, maximum pooling, branches of several scales that are joined."""
    zero = 20 if dtype is np.uint8 else -108
    q = Qdq(dtype)
    y = q.quantized("x", 0.02, zero + 108)
    y = q.quantized(q.add("Relu", q.add("Conv", f"{y} {q.weight(16, 3, 5)}", strides=[2], pads=[2, 2])), 0.05, zero)
    y = q.quantized(q.add("MaxPool", y, kernel_shape=[3], strides=[2], ceil_mode=1), 0.05, zero)
    a = q.quantized(q.add("Conv", f"{y} {q.weight(8, 16, 1)} {q.bias(8)}"), 0.05, zero)
    b = q.quantized(q.add("Conv", f"{y} {q.weight(24, 16, 3)}", pads=[2, 2], dilations=[2]), 0.1, zero + 9)
    y = q.quantized(q.add("Concat", f"{a} {b} {y}", axis=1), 0.1, zero + 9)
    y = q.quantized(q.add("Conv", f"{y} {q.weight(36, 4, 3)}", pads=[1, 1], group=12), 0.1, zero)  # 4 groups as one
    y = q.quantized(q.add("Conv", f"{y} {q.weight(12, 36, 3)}", pads=[1, 1]), 0.1, zero)
    proto = q.proto([2, 3, 41], y)
    signal = RNG.standard_normal((2, 3, 41)).astype(np.float32)
    want = {"conv2d_u8s8": 4, "gemm_u8s8": 1, "max_pool2d_u8": 1, "concat": 1, "lookup": 2, "pool2d_f32": 0}
    runs(proto, signal, 0.1, want)


def test_what_bytes_cannot_say_stays_in_floats() -> None:
    """A window over padding alone, scales that give nothing back, a constant without axes; in whole numbers, so without ties."""
    constants = {
        "s": np.float32(0.05), "z": np.uint8(20), "s2": np.float32(0.5), "z2": np.uint8(100), "zero": np.float32(0),
        "huge": np.float32(1e37), "c": np.int8(5), "sc": np.float32(0.5), "zc": np.int8(1), "shape": np.array([1, 1, 1, 1]),
    }  # fmt: skip
    nodes = [
        node("DequantizeLinear", "x s z", "d"),
        node("MaxPool", "d", "m", kernel_shape=[2, 2], dilations=[3, 3], pads=[1] * 4),
        node("QuantizeLinear", "m s2 z2", "y"),
        node("DequantizeLinear", "x zero z", "d0"), node("QuantizeLinear", "d0 zero z", "y0"),
        node("DequantizeLinear", "x huge z", "d1"), node("QuantizeLinear", "d1 huge z", "y1"),
        node("DequantizeLinear", "c sc zc", "e"), node("Reshape", "e shape", "f"), node("Mul", "d f", "y2"),
    ]  # fmt: skip
    proto = onnx.shape_inference.infer_shapes(
        model(nodes, {"x": (U8, [1, 3, 2, 2])}, ["y", "y0", "y1", "y2"], constants)
    )
    x = np.random.default_rng(0).integers(0, 256, (1, 3, 2, 2), np.uint8)
    got = maas_rt.load(compile_model(proto, verify=False).to_bytes(), threads=1).run({"x": x})
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options)
    for name, want in zip(("y", "y0", "y1", "y2"), session.run(None, {"x": x}), strict=True):
        np.testing.assert_array_equal(got[name], want, err_msg=name)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_volumes_stay_in_bytes(dtype: type) -> None:
    """Planes are laid side by side as bytes, and padded with the zero point."""
    zero = 20 if dtype is np.uint8 else -108
    q = Qdq(dtype)
    y = q.quantized("x", 0.02, zero + 108)
    y = q.quantized(q.add("Conv", f"{y} {q.weight(16, 3, 3, 3, 3)} {q.bias(16)}", pads=[1] * 6), 0.05, zero + 100)
    y = q.quantized(q.add("Conv", f"{y} {q.weight(16, 16, 2, 1, 3)}", strides=[2, 1, 2]), 0.1, zero + 100)
    y = q.quantized(q.add("Conv", f"{y} {q.weight(8, 16, 1, 1, 1)}"), 0.1, zero + 100)
    volume = np.random.default_rng(3).standard_normal((1, 3, 6, 8, 7)).astype(np.float32)
    runs(q.proto([1, 3, 6, 8, 7], y), volume, 0.1, {"conv2d_u8s8": 2, "gemm_u8s8": 1, "conv2d_f32": 0})
