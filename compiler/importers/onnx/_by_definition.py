"""What ONNX Runtime computes otherwise than its own documents define it, as operators that it computes right.

MatMulNBits with a g_idx: in 1.31 one that changes nothing, k // block_size, changes the result of 2 bits (read as if there were 4), packed
zero points are not read beside it, and 8 bits are refused. The definition, dequantized = (q - zero) * scale with the scale and zero point of
each k's group, is a matrix, and the operator its product.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from ._data import Data
from ._packed import unpacked

__all__ = ["by_definition"]

Array = npt.NDArray[Any]


def by_definition(model: onnx.ModelProto, data: Data) -> onnx.ModelProto:
    """The model, or a copy with such nodes replaced where their operands are constants; `data` has those that are not in the model."""
    if not any(map(_grouped, model.graph.node)):
        return model
    out = onnx.ModelProto()
    out.CopyFrom(model)
    stored = {tensor.name: tensor for tensor in out.graph.initializer}
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        operands = list(node.input[1:5])
        if not _grouped(node) or any(name and name not in stored for name in operands):
            nodes.append(node)
            continue
        known = [_array(stored[name], data) if name else None for name in operands]
        name = f"{node.output[0]}/matrix"
        out.graph.initializer.append(numpy_helper.from_array(_matrix(node, known), name))
        nodes += _product(node, name)
    del out.graph.node[:]
    out.graph.node.extend(nodes)
    return out


def _array(tensor: onnx.TensorProto, data: Data) -> Array:
    return data.array(tensor) if tensor.name in data else numpy_helper.to_array(tensor)


def _grouped(node: onnx.NodeProto) -> bool:
    return node.op_type == "MatMulNBits" and len(node.input) > 4 and bool(node.input[4])


def _matrix(node: onnx.NodeProto, known: list[Array | None]) -> Array:
    """[K, N], of the scales' type"""
    number = {a.name: a.i for a in node.attribute}
    k, n, bits, block = number["K"], number["N"], number.get("bits", 4), number["block_size"]
    packed, scale, zero, group = known
    assert packed is not None and scale is not None and group is not None
    blocks = -(-k // block)
    q = unpacked(packed.reshape(n, blocks, -1), bits, block).reshape(n, -1)[:, :k].astype(np.float32)
    scales = scale.reshape(n, blocks).astype(np.float32)
    if zero is None:
        zeros = np.full((n, blocks), 1 << (bits - 1), np.float32)
    elif zero.dtype == np.uint8:
        zeros = unpacked(zero.reshape(n, -1), bits, blocks).astype(np.float32)
    else:
        zeros = zero.reshape(n, blocks).astype(np.float32)
    matrix: Array = ((q - zeros[:, group]) * scales[:, group]).T
    return np.ascontiguousarray(matrix.astype(scale.dtype))


def _product(node: onnx.NodeProto, matrix: str) -> list[onnx.NodeProto]:
    bias = node.input[5] if len(node.input) > 5 else ""
    out = node.output[0]
    product = helper.make_node("MatMul", [node.input[0], matrix], [f"{out}/product" if bias else out], node.name)
    return [product, helper.make_node("Add", [f"{out}/product", bias], [out])] if bias else [product]
