"""Constant folding: a node whose inputs are all constants is evaluated by ONNX's own reference implementation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from ._values import DTYPES, onnx_dtype

if TYPE_CHECKING:
    from ._node import Node

__all__ = ["fold"]

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
_MAX_ELEMENTS = 1 << 26


def fold(node: Node) -> list[npt.NDArray[Any]] | None:
    """The node's results, or None if it is better converted. Raises ValueError if the reference refuses the node."""
    if node.op not in _FOLDABLE or node.proto.domain not in ("", "ai.onnx"):
        return None
    arrays = [v.const if v is not None else None for v in node.inputs]
    if any(a is not None and a.size > _MAX_ELEMENTS for a in arrays) or _explodes(node, arrays):
        return None
    if any(a.type == onnx.AttributeProto.GRAPH for a in node.proto.attribute):
        return None
    try:
        outputs = _evaluate(node, arrays)
    except Exception as why:
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


def _explodes(node: Node, arrays: list[npt.NDArray[Any] | None]) -> bool:
    """Whether a small constant asks for a huge result (Expand, Tile, ConstantOfShape, Range, Pad of a hostile size)."""
    first = arrays[0]
    size = 1 if first is None else max(first.size, 1)
    second = arrays[1] if len(arrays) > 1 else None
    if node.op == "ConstantOfShape" and first is not None:
        return int(np.prod(np.abs(first.astype(object)), initial=1)) > _MAX_ELEMENTS
    if node.op in ("Expand", "Tile", "OneHot", "Pad") and second is not None:
        return size * int(np.prod(np.abs(second.astype(object)) + 1, initial=1)) > _MAX_ELEMENTS
    if node.op == "Range" and all(a is not None and a.size == 1 for a in arrays):
        start, limit, delta = (float(a.reshape(())) for a in arrays[:3])  # type: ignore[union-attr]
        return not delta or abs((limit - start) / delta) > _MAX_ELEMENTS
    return False


def _evaluate(node: Node, arrays: list[npt.NDArray[Any] | None]) -> list[Any]:
    from onnx.reference import ReferenceEvaluator

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
