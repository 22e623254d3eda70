"""Constant folding: a node whose inputs are all constants is evaluated by ONNX's own reference implementation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from ._node import Node
from ._values import DTYPES, onnx_dtype

__all__ = ["check_flags", "fold"]

# Operators that are cheap for their output's size and whose reference implementation is exact. What is left out is
# converted like any other node and folded, if at all, with the generated code's own arithmetic.
_FOLDABLE = frozenset(
    """Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast CastLike Ceil
    Clip Compress Concat ConstantOfShape Cos Cosh CumSum Div Equal Erf Exp Expand EyeLike Flatten Floor Gather GatherElements
    GatherND Greater GreaterOrEqual Identity IsInf IsNan IsNaN Less LessOrEqual Log MatMul Max Mean Min Mod Mul Neg NonZero Not OneHot
    Or Pad Pow Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
    ReduceSumSquare Relu Reshape Round ScatterElements ScatterND Shape Sigmoid Sign Sin Sinh Size Slice Split Sqrt Squeeze
    Sub Sum Tan Tanh Tile TopK Transpose Trilu Unique Unsqueeze Where Xor""".split()
)
# The reference and the converters read other values than 0 and 1 differently.
_FLAGS = "allowzero exclusive keepdims largest noop_with_empty_axes reverse select_last_index sorted upper".split()
_MAX_ELEMENTS = 1 << 26
_MAX_PRODUCTS = 1 << 32  # of a matrix product


def check_flags(node: Node) -> None:
    """Refuse what is neither 0 nor 1, whichever way the node is taken."""
    for name in filter(node.has_attr, _FLAGS):
        node.flag(name)


def fold(node: Node) -> list[npt.NDArray[Any]] | None:
    """The node's results, or None if it is better converted. Raises ValueError if the reference refuses the node."""
    if node.op not in _FOLDABLE or node.proto.domain not in ("", "ai.onnx") or _grows(node):
        return None
    arrays = [v.const if v is not None else None for v in node.inputs]
    if any(a is not None and a.size > _MAX_ELEMENTS for a in arrays) or _explodes(node, arrays):
        return None
    if any(a.type == onnx.AttributeProto.GRAPH for a in node.proto.attribute):
        return None
    if node.op == "OneHot" and (arrays[1] is None or arrays[1].size != 1 or arrays[1].reshape(-1)[0] < 0):
        raise ValueError("its depth is not one number of at least 0")
    try:
        outputs = _evaluate(node, arrays)
    except (
        TypeError
    ):  # the reference stumbles over an input's form, such as a depth of OneHot in a list: the converter knows
        return None
    except Exception as why:
        if any(a is not None and a.size == 0 for a in arrays):  # the reference is not made for tensors without elements
            return None
        raise ValueError(f"its constant inputs do not fit its operator: {why}") from why
    out = []
    for o in outputs:
        if not isinstance(o, np.ndarray | np.generic):
            return None
        a = np.asarray(o)
        if a.dtype.kind not in "OUS" and a.dtype.name not in DTYPES.values():
            return None
        out.append(a)
    return out


def _grows(node: Node) -> bool:
    """Weights of 8 bits that are converted to float32: passes know what to do with them as they are stored."""
    if node.op != "Cast" or not node.inputs or node.attr("to", 0) != onnx.TensorProto.FLOAT:
        return False
    given = node.inputs[0]
    return (
        given is not None and given.dtype in ("int8", "uint8") and given.const is not None and given.const.size >= 1024
    )


def _explodes(node: Node, arrays: list[npt.NDArray[Any] | None]) -> bool:
    """Whether small constants ask for a huge result, or for a huge effort (Expand, Tile, Range, an outer product of a hostile size)."""
    given = [a for a in arrays if a is not None]
    if node.op == "MatMul" and len(given) == 2:
        columns = given[1].shape[-1] if given[1].ndim > 1 else 1
        rows = given[0].shape[-2] if given[0].ndim > 1 else 1
        batch = _broadcast_size(given[0].shape[:-2], given[1].shape[:-2])
        inner = given[0].shape[-1] if given[0].ndim else 1
        return batch * rows * columns > _MAX_ELEMENTS or batch * rows * columns * inner > _MAX_PRODUCTS
    if node.op == "Range" and len(given) == 3 and all(a.size == 1 for a in given):
        start, limit, delta = (float(a.reshape(())) for a in given)
        return not delta or not abs((limit - start) / delta) <= _MAX_ELEMENTS
    return _result_size(node, given) > _MAX_ELEMENTS


def _result_size(node: Node, given: list[npt.NDArray[Any]]) -> int:
    """No result has more elements than this."""
    sizes = [max(a.size, 1) for a in given]
    if node.op == "ConstantOfShape":
        return _volume(given[0])
    if node.op == "Expand" and len(given) > 1:
        return _broadcast_size(given[0].shape, [int(d) for d in given[1].reshape(-1)])
    if node.op == "Tile" and len(given) > 1:
        return sizes[0] * _volume(given[1])
    if node.op == "OneHot" and len(given) > 1:
        return sizes[0] * _volume(given[1])
    if node.op == "Pad" and len(given) > 1:
        widths = [abs(int(w)) for w in given[1].reshape(-1)]
        return math.prod(d + sum(widths) for d in given[0].shape)
    if node.op == "Gather" and len(given) > 1:
        axis = node.int_attr("axis", 0)
        row: int = math.prod(d for a, d in enumerate(given[0].shape) if a != axis % max(given[0].ndim, 1))
        return sizes[1] * row
    if node.op == "GatherND" and len(given) > 1:
        return sizes[0] * sizes[1]
    if node.op in ("Concat", "NonZero", "Unique", "TopK"):
        return sum(sizes) * max(given[0].ndim, 1)
    return _broadcast_size(*(a.shape for a in given))


def _volume(extents: npt.NDArray[Any]) -> int:
    return math.prod(abs(int(d)) for d in extents.reshape(-1))


def _broadcast_size(*shapes: Sequence[int]) -> int:
    """Elements of what the shapes broadcast to; no less than any of them has where they do not."""
    rank = max(map(len, shapes), default=0)
    wide = [(1,) * (rank - len(s)) + tuple(s) for s in shapes]
    total: int = math.prod(max(abs(d) for d in dims) for dims in zip(*wide, strict=True))
    return max(total, 1)


def _gather_elements(data: npt.NDArray[Any], indices: npt.NDArray[Any], axis: int) -> npt.NDArray[Any]:
    """What onnx's reference gives up on, or gets wrong, for more than 32 elements along the axis (np.choose has no more)."""
    axis %= data.ndim
    near = data[tuple(slice(None) if d == axis else slice(n) for d, n in enumerate(indices.shape))]
    if near.ndim != indices.ndim or any(n != near.shape[d] for d, n in enumerate(indices.shape) if d != axis):
        raise ValueError(f"indices of shape {list(indices.shape)} into {list(data.shape)}")
    return np.take_along_axis(near, indices, axis)


def _evaluate(node: Node, arrays: list[npt.NDArray[Any] | None]) -> list[Any]:
    from onnx.reference import ReferenceEvaluator

    if node.op == "GatherElements":
        data, indices = arrays
        assert data is not None and indices is not None
        return [_gather_elements(data, indices, node.int_attr("axis", 0))]
    proto = onnx.NodeProto()
    proto.CopyFrom(node.proto)
    del proto.input[:]
    proto.input.extend([f"i{k}" if a is not None else "" for k, a in enumerate(arrays)])
    count = len(proto.output)
    del proto.output[:]
    proto.output.extend([f"o{k}" for k in range(count)])
    inputs = [
        helper.make_tensor_value_info(f"i{k}", onnx_dtype(v.dtype), list(v.shape))
        for k, v in enumerate(node.inputs)
        if v is not None
    ]
    outputs = [onnx.ValueInfoProto(name=f"o{k}") for k in range(count)]
    model = helper.make_model(
        helper.make_graph([proto], "fold", inputs, outputs),
        opset_imports=[helper.make_opsetid("", node.opset)],
        ir_version=10,
    )
    with np.errstate(all="ignore"):
        return list(ReferenceEvaluator(model).run(None, {f"i{k}": a for k, a in enumerate(arrays) if a is not None}))
