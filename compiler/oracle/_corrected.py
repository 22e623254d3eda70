"""ONNX's reference, put right in the operators in which it departs from ONNX's text."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from onnx import NodeProto
from onnx.helper import np_dtype_to_tensor_dtype
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from onnx.reference.ops._quant_utils import reshape_input
from onnx.reference.ops.op_optional import Optional
from onnx.reference.ops.op_quantize_linear import _QUANT_INTEGER_RANGES, _CommonQuantizeLinear

__all__ = ["Corrected"]

_FAR = 1 << 30  # beyond every quantized integer, with any zero point


class _Saturating(OpRun):
    """Quotients are cast to int32 before they are saturated: those beyond it, as of a scale of 0, came out at the wrong end."""

    def _run(self, x: Any, y_scale: Any, *rest: Any, **attributes: Any) -> Any:
        with np.errstate(all="ignore"):
            (y,) = super()._run(x, y_scale, *rest, **attributes)
            ends = _QUANT_INTEGER_RANGES.get(np_dtype_to_tensor_dtype(y.dtype))
            if ends is None:
                return (y,)
            scale = reshape_input(y_scale, x.shape, attributes.get("axis", 1), attributes.get("block_size"))
            quotient = np.asarray(x / scale, np.float64)
        y_wide = np.where(quotient <= -_FAR, ends[0], y.astype(np.int32))
        return (np.where(quotient >= _FAR, ends[1], y_wide).astype(y.dtype),)


class _Holding(OpRun):
    """Optional gave what it holds as a list of it."""

    def _run(self, x: Any = None, type: Any = None) -> Any:  # the attribute's name
        return super()._run(x, type) if x is None else (x,)


_CORRECTIONS: tuple[tuple[type[OpRun], type[OpRun]], ...] = ((_CommonQuantizeLinear, _Saturating), (Optional, _Holding))


@cache
def _corrected(implementation: type[OpRun]) -> type[OpRun]:
    for wrong, right in _CORRECTIONS:
        if issubclass(implementation, wrong):
            return type(implementation.__name__, (right, implementation), {})
    return implementation


class Corrected(ReferenceEvaluator):
    """An evaluator of a model, and of the graphs and functions inside of it."""

    def _load_impl(self, node: NodeProto, input_types: Any = None) -> Any:
        found = super()._load_impl(node, input_types)
        return _corrected(found) if isinstance(found, type) else found
