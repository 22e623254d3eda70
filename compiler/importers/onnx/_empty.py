"""Tensors without elements: an extent that is known to be 0. What such a tensor holds is known, so that no code is made for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx

from ._dims import Dim
from ._schema import SMALL, infer_types
from ._stored import STORED
from ._values import DTYPES, Value, numpy_dtype

__all__ = ["empty_results", "empty_value", "is_empty"]

# What makes tensors without elements of others that have some, if its small inputs say so.
_MAKERS = frozenset({"ConstantOfShape", "Expand", "OneHot", "Tile", "TopK"})
# ONNX's inference rounds towards 0 how often a window fits, which is once too often where it fits not at all: their converters say so.
_WINDOWS = frozenset(
    {"AveragePool", "Conv", "ConvInteger", "DeformConv", "LpPool", "MaxPool", "QLinearAveragePool", "QLinearConv"}
)


def is_empty(dims: Sequence[Dim]) -> bool:
    """Whether all extents are known, and one is 0."""
    return all(isinstance(d, int) for d in dims) and 0 in dims


def empty_value(dims: Sequence[Dim], dtype: str, origin: str) -> Value:
    """The tensor of these extents, which `is_empty`."""
    return Value.of_array(np.zeros(tuple(dims), numpy_dtype(dtype)), origin)


def empty_results(
    node: onnx.NodeProto, opset: int, place: str, inputs: Sequence[Value | None]
) -> list[Value | None] | None:
    """The node's results, if ONNX's shape inference says that none of them has an element; else None."""
    given = [v for v in inputs if v is not None]
    if node.op_type in _WINDOWS or any(
        v.items is not None or v.absent or v.dtype not in DTYPES.values() for v in given
    ):
        return None
    if not all(
        isinstance(d, int) for v in given for d in v.shape
    ):  # what a run has to check, its converter has checked
        return None
    if not any(is_empty(v.shape) for v in given) and not (node.op_type in _MAKERS and any(_has_zero(v) for v in given)):
        return None
    inferred = _inferred(node, opset, inputs)
    results: list[Value | None] = []
    for name in node.output:
        kind = inferred.get(name)
        if not name:
            results.append(None)
            continue
        if kind is None or not kind.HasField("tensor_type") or not kind.tensor_type.HasField("shape"):
            return None
        dims = [d.dim_value if d.HasField("dim_value") else None for d in kind.tensor_type.shape.dim]
        dtype = DTYPES.get(kind.tensor_type.elem_type)
        if dtype is None or dtype in STORED or not is_empty(dims):
            return None
        results.append(empty_value(dims, dtype, place))
    return results


def _has_zero(value: Value) -> bool:
    return value.const is not None and value.const.size <= SMALL and not value.const.astype(bool).all()


def _inferred(node: onnx.NodeProto, opset: int, inputs: Sequence[Value | None]) -> dict[str, Any]:
    """The results' types by name; empty where the inference has nothing to say, or refuses the node (its converter says why)."""
    try:
        return infer_types(node, opset, node.domain, inputs)
    except Exception:  # of onnx's own classes, of ValueError, of protobuf's
        return {}
