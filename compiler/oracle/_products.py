"""Whether ONNX Runtime's sums of products of 8-bit integers are exact on this CPU: asked of itself, by products whose sums are known.

On x86 CPUs without VNNI its uint8 by int8 products saturate in 16 bits, two at a time, unless the weights are constants that its
"x64quantprecision" makes uint8.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

__all__ = ["INTEGER_PRODUCTS", "products_are_exact"]

# Operator -> the place of its weights.
INTEGER_PRODUCTS = {"ConvInteger": 1, "MatMulInteger": 1, "QLinearConv": 3, "QLinearMatMul": 3}
_SAME_KERNEL = {
    "DynamicQuantizeLSTM": "MatMulInteger",
    "DynamicQuantizeMatMul": "MatMulInteger",
    "MatMulIntegerToFloat": "MatMulInteger",
    "QAttention": "MatMulInteger",
    "QGemm": "QLinearMatMul",
}
INTEGER_PRODUCTS |= {name: INTEGER_PRODUCTS[like] for name, like in _SAME_KERNEL.items()}
_DEPTH = 64


def products_are_exact(model: onnx.ModelProto, *, precise: bool = True) -> bool | None:
    """With "x64quantprecision" if `precise`. None if the model has no such operator."""
    found = {
        (node.op_type, _is_constant(node, graph))
        for graph in _graphs(model)
        for node in graph.node
        if node.op_type in INTEGER_PRODUCTS
    }
    return all(_exact(_SAME_KERNEL.get(name, name), constant, precise) for name, constant in found) if found else None


def _is_constant(node: onnx.NodeProto, graph: Any) -> bool:
    place = INTEGER_PRODUCTS[node.op_type]
    return place < len(node.input) and any(
        tensor.name == node.input[place] for tensor in getattr(graph, "initializer", ())
    )


def _graphs(model: onnx.ModelProto) -> Iterator[Any]:
    stack: list[Any] = [model.graph, *model.functions]
    while stack:
        graph = stack.pop()
        yield graph
        for node in graph.node:
            for attribute in node.attribute:
                stack.extend([attribute.g] if attribute.type == onnx.AttributeProto.GRAPH else attribute.graphs)


@functools.cache
def _exact(operator: str, constant: bool, precise: bool) -> bool:
    """Of the largest products that there are, whose sum is known."""
    import onnxruntime

    spatial = [1, 1] if operator.endswith(("ConvInteger", "LinearConv")) else []
    x = np.full([1, _DEPTH, *spatial], 255, np.uint8)
    w = np.full([16, _DEPTH, *spatial] if spatial else [_DEPTH, 16], 127, np.int8)
    total = 255 * 127 * _DEPTH
    scales = {"one": np.float32(1), "zero": np.uint8(0), "zero_w": np.int8(0), "sum": np.float32(total / 200)}
    quantized = operator.startswith("QLinear")
    names = ["x", "one", "zero", "w", "one", "zero_w", "sum", "zero"] if quantized else ["x", "w"]
    tensors = {"w": w, **scales} if constant else scales
    inputs = [("x", TensorProto.UINT8, x.shape), *([] if constant else [("w", TensorProto.INT8, w.shape)])]
    out = TensorProto.UINT8 if quantized else TensorProto.INT32
    graph = helper.make_graph(
        [helper.make_node(operator, names, ["y"])],
        "products",
        [helper.make_tensor_value_info(*each) for each in inputs],
        [helper.make_tensor_value_info("y", out, None)],
        [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items() if name in names],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.add_session_config_entry("session.x64quantprecision", "1" if precise else "0")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (result,) = session.run(None, {"x": x} if constant else {"x": x, "w": w})
    return bool((result == (200 if quantized else total)).all())
