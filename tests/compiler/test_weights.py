"""Weights of few bits in front of float activations: they stay so in the file, and the numbers are those of the floats."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import pytest
from maas_rt.compiler import compile as compile_model
from onnx import TensorProto, helper

import maas_rt
from tests.compiler.test_import_onnx import model, node

F, I64 = TensorProto.FLOAT, TensorProto.INT64
RNG = np.random.default_rng(5)
K, N = 96, 80


def compiled(nodes: list[Any], constants: dict[str, Any], **inputs: Any) -> tuple[Counter[str], int, Any]:
    """The kernels, the bytes of weights, and the result; verified against ONNX Runtime."""
    tensors = {k: v for k, v in constants.items() if isinstance(v, TensorProto)}
    kinds = {name: (helper.np_dtype_to_tensor_dtype(v.dtype), list(v.shape)) for name, v in inputs.items()}
    proto = model(nodes, kinds, ["y"], {k: v for k, v in constants.items() if k not in tensors}, opset=21)
    proto.graph.initializer.extend(tensors.values())
    artifact = compile_model(onnx.shape_inference.infer_shapes(proto))
    steps = Counter(s.target for block in artifact.linear.plan.blocks for s in block.steps)
    return steps, artifact.linear.weights.size, maas_rt.load(artifact.to_bytes(), threads=1).run(inputs)["y"]


def scales(*shape: int) -> Any:
    return RNG.uniform(0.01, 0.02, shape).astype(np.float32)


Q = RNG.integers(-128, 128, (K, N)).astype(np.int8)
BLOCKS = RNG.integers(0, 16, (N, 3, 32)).astype(np.uint8)
CAST = node("Cast", "q", "c", to=F)
WIDE = np.array([N, K])

# name -> nodes that make y of x [5, K], constants, bits of a weight
PRODUCTS: dict[str, tuple[list[Any], dict[str, Any], int]] = {
    "per column": (
        [node("DequantizeLinear", "q s", "w", axis=1), node("MatMul", "x w", "h"), node("Add", "h b", "g"), node("Relu", "g", "y")],
        {"q": Q, "s": scales(N), "b": scales(N)},
        8,
    ),
    "per tensor": ([node("DequantizeLinear", "q s z", "w"), node("MatMul", "x w", "y")], {"q": Q, "s": np.float32(0.1), "z": np.int8(7)}, 8),
    "transposed": (
        [node("DequantizeLinear", "q s", "w", axis=0), node("Gemm", "x w b", "y", transB=1)],
        {"q": Q.T.copy(), "s": scales(N), "b": scales(N)},
        8,
    ),
    "by hand": ([CAST, node("Mul", "c s", "w"), node("MatMul", "x w", "y")], {"q": Q, "s": scales(N)}, 8),
    "by hand, a zero point a column": (
        [CAST, node("Sub", "c z", "d"), node("Mul", "d s", "w"), node("MatMul", "x w", "y")],
        {"q": Q.view(np.uint8), "s": scales(N), "z": RNG.integers(100, 140, N).astype(np.float32)},
        8,
    ),
    "by hand, rows, transposed behind": (
        [CAST, node("Mul", "c s", "w0"), node("Transpose", "w0", "w", perm=[1, 0]), node("MatMul", "x w", "y")],
        {"q": Q.T.copy(), "s": scales(N, 1)},
        8,
    ),
    "scaled behind the product": ([CAST, node("MatMul", "x c", "h"), node("Mul", "h s", "y")], {"q": Q, "s": scales(N)}, 8),
    "blocks by hand": (
        [CAST, node("Sub", "c z", "d"), node("Mul", "d s", "w0"), node("Reshape", "w0 to", "w1"), node("Transpose", "w1", "w", perm=[1, 0]),
         node("MatMul", "x w", "y")],
        {"q": BLOCKS, "s": scales(N, 3, 1), "z": RNG.integers(0, 16, (N, 3, 1)).astype(np.float32), "to": WIDE},
        4,
    ),
    "blocks of int4": (
        [node("DequantizeLinear", "q s", "w", axis=0, block_size=16), node("MatMul", "x w", "y")],
        {"q": helper.make_tensor("q", TensorProto.INT4, [K, N], RNG.integers(-8, 8, K * N).tolist()), "s": scales(K // 16, N)},
        4,
    ),
    "quantized at every run": (
        [node("QuantizeLinear", "f s z", "q", axis=0), node("DequantizeLinear", "q s z", "w0", axis=0),
         node("Transpose", "w0", "w", perm=[1, 0]), node("MatMul", "x w", "y")],
        {"f": RNG.standard_normal((N, K)).astype(np.float32), "s": scales(N), "z": np.zeros(N, np.int8)},
        8,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_read_weights_as_they_are_stored(name: str) -> None:
    nodes, constants, bits = PRODUCTS[name]
    steps, size, _ = compiled(nodes, constants, x=RNG.standard_normal((5, K)).astype(np.float32))
    assert steps["gemm_f32q"] == 1 and not steps["gemm_f32"]
    assert size < K * N * bits // 8 + 3500


def test_a_convolution_gets_floats() -> None:
    nodes = [node("DequantizeLinear", "q s", "w", axis=0), node("Conv", "x w", "y", pads=[1, 1, 1, 1])]
    constants = {"q": RNG.integers(-128, 128, (8, 6, 3, 3)).astype(np.int8), "s": scales(8)}
    steps, _, _ = compiled(nodes, constants, x=RNG.standard_normal((1, 6, 7, 7)).astype(np.float32))
    assert steps["conv2d_f32"] == 1


def test_what_is_no_weight_of_a_product_is_floats_when_it_is_compiled() -> None:
    """Filters that are cast, numbers that are added, as many scales as numbers: no conversion at every run."""
    filters = RNG.integers(-128, 128, (64, 16, 3, 3)).astype(np.int8)
    nodes = [CAST, node("Conv", "x c", "y")]
    steps, _, _ = compiled(nodes, {"q": filters}, x=RNG.standard_normal((1, 16, 7, 7)).astype(np.float32))
    assert steps["conv2d_f32"] + steps["conv2d_winograd_f32"] == 1
    big = RNG.integers(-128, 128, (200, 200)).astype(np.int8)
    steps, _, _ = compiled(
        [CAST, node("Add", "x c", "y")], {"q": big}, x=RNG.standard_normal((200, 200)).astype(np.float32)
    )
    assert sum(steps.values()) == 1
    nodes = [node("DequantizeLinear", "q s", "w", axis=0), node("MatMul", "x w", "y")]
    steps, _, _ = compiled(nodes, {"q": Q, "s": scales(K)}, x=RNG.standard_normal((5, K)).astype(np.float32))
    assert steps["gemm_f32"] == 1


TABLE = RNG.integers(-128, 128, (50, 64)).astype(np.int8)
TABLES: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "rows": ([node("DequantizeLinear", "q s", "w", axis=0)], {"q": TABLE, "s": scales(50)}),
    "columns": ([node("DequantizeLinear", "q s", "w", axis=1)], {"q": TABLE, "s": scales(64)}),
    "tensor": ([node("DequantizeLinear", "q s z", "w")], {"q": TABLE, "s": np.float32(0.1), "z": np.int8(3)}),
    "by hand": ([CAST, node("Mul", "c s", "w")], {"q": TABLE, "s": scales(50, 1)}),
    "blocks of uint4": (
        [node("DequantizeLinear", "q s z", "w", axis=1, block_size=16)],
        {"q": helper.make_tensor("q", TensorProto.UINT4, [50, 64], RNG.integers(0, 16, 3200).tolist()), "s": scales(50, 4),
         "z": helper.make_tensor("z", TensorProto.UINT4, [50, 4], RNG.integers(0, 16, 200).tolist())},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_rows_of_tables_are_dequantized_when_they_are_taken(name: str) -> None:
    nodes, constants = TABLES[name]
    bits = 4 if "4" in name else 8
    _, size, _ = compiled([*nodes, node("Gather", "w i", "y")], constants, i=RNG.integers(0, 50, (2, 3)))
    assert size < 50 * 64 * bits // 8 + 1500
