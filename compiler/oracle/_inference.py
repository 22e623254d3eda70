"""ONNX's own inference of one node's types. It reads outside of its tensors on some nodes that are wrong (onnx 1.23.2: LayerNormalization with
an axis of 2^31), and ends its process on others, so that it runs in the worker alone."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import shape_inference

from ._wire import Array

__all__ = ["infer_node"]


def infer_node(model: bytes) -> tuple[list[str], list[Array]]:
    """Names and types (serialized onnx.TypeProto) of the results of a model's only node, as far as the inference tells.

    Raises what the inference raises where it refuses the node; what it raises for another reason says nothing of the node.
    """
    proto = onnx.ModelProto.FromString(model)
    (node,) = proto.graph.node
    (opset,) = proto.opset_import
    inputs = {each.name: each.type for each in proto.graph.input}
    constants = {each.name: each for each in proto.graph.initializer}
    try:
        schema = onnx.defs.get_schema(node.op_type, opset.version, opset.domain)
        types = shape_inference.infer_node_outputs(schema, node, inputs, constants, opset_imports=[opset])
    except shape_inference.InferenceError:
        raise
    except Exception:
        return [], []
    return list(types), [np.frombuffer(kind.SerializeToString(), np.uint8) for kind in types.values()]
