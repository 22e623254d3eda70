"""Why a layer cannot have a method of a recipe."""

from __future__ import annotations

import numpy as np
from tvm import relax

from .._recipes import Half, Int8, Int8Dynamic, Quantize, WeightOnly, needs_data
from ..ir import gru, lstm, read_operator
from ..passes._ops import dtype_of
from ..passes._rewrite import array_of, is_call
from ..passes.lower_weights import floats_are_better
from ._layers import NESTED, Layer, constant_weight_reason, matrix_reason

__all__ = ["INT8_RUN_TIME", "INT8_TABLES", "has_run_time_ranges", "reason_against"]

# What embeddings have where other layers are Int8, and recurrent layers and those of branches and loops.
INT8_TABLES = WeightOnly(bits=8, group=None, method="rtn", scales="float32")
INT8_RUN_TIME = Int8Dynamic(granularity="tensor")
_NO_WEIGHTS = "it has no weights"


def reason_against(layer: Layer, method: Quantize) -> str:
    """Why `layer` stays in float, in a clause; "" if it need not."""
    if isinstance(method, Int8):
        return _int8(layer)
    if layer.kind == "attention":
        return _NO_WEIGHTS
    if isinstance(method, Int8Dynamic):
        return _dynamic(layer, method)
    if isinstance(method, Half):
        return _half(layer, method)
    if layer.nested and layer.kind != "embedding" and needs_data(method):
        return NESTED
    return _weight_only(layer.value, method)


def _int8(layer: Layer) -> str:
    if layer.kind == "embedding":
        return _weight_only(layer.value, INT8_TABLES)
    if has_run_time_ranges(layer):
        reason = _dynamic(layer, INT8_RUN_TIME)
        return f"{NESTED}, and {reason}" if reason and layer.nested else reason
    return layer.reason


def has_run_time_ranges(layer: Layer) -> bool:
    """Whether what Int8 gives this layer reads has ranges that each run finds: recurrent layers, and what calibration does not see."""
    return layer.kind in ("LSTM", "GRU") or (layer.nested and layer.kind != "embedding")


def _weight_only(value: relax.Expr, method: WeightOnly) -> str:
    if is_call(value, "relax.take"):
        if reason := _table(value):
            return reason
        depth, rows = value.args[0].ty.shape[1], value.args[0].ty.shape[0]
    elif is_call(value, "relax.matmul"):
        if reason := constant_weight_reason(value) or matrix_reason(value):
            return reason
        depth, rows = value.args[1].ty.shape
    else:
        return f"no kernel reads its weights in {method.bits} bits"
    depth, rows = int(depth), int(rows)
    scales = -(-depth // min(method.group or depth, depth)) * rows
    if floats_are_better(depth * rows, method.bits, scales):
        return f"its rows of {depth} are so short that their scales would outweigh what {method.bits} bits save"
    return ""


def _half(layer: Layer, method: Half) -> str:
    is_product = is_call(layer.value, "relax.matmul")
    if not is_product and layer.kind != "embedding":
        return "no kernel reads its weights in 16 bits"
    reason = constant_weight_reason(layer.value) or matrix_reason(layer.value) if is_product else _table(layer.value)
    if reason:
        return reason
    weight = array_of(layer.value.args[1 if is_product else 0])
    assert weight is not None
    largest = float(np.abs(weight).max())
    return f"its weights reach {largest:.3g}, beyond float16" if method.dtype == "float16" and largest > 65504 else ""


def _table(value: relax.Call) -> str:
    table = array_of(value.args[0])
    if dtype_of(value) != "float32" or table is None:
        return f"its numbers are {dtype_of(value)}"
    if value.attrs.axis is None or int(value.attrs.axis) % 2:
        return "it does not take rows"
    return "" if table.size and np.isfinite(table).all() else "its weights are not finite numbers"


def _dynamic(layer: Layer, method: Int8Dynamic) -> str:
    whole = method.granularity == "tensor"
    value = layer.value
    if is_call(value, "relax.matmul"):
        return layer.reason
    if is_call(value, "relax.nn.conv2d"):
        return layer.reason or (
            "" if whole else "it has no rows that could have ranges of their own (granularity tensor takes it)"
        )
    if "convolution" in layer.kind:
        return (
            layer.reason
            or "ranges of each run are for products and convolutions over two axes: Int8 takes it, with calibration data"
        )
    call = read_operator(value)
    if call is None or call.operator not in (lstm, gru):
        return "there is no kernel of 8 bits for it"
    if any(array_of(call.args[at]) is None for at in (1, 2)):
        return "its weights are a run's"
    return "" if whole else "its kernel has one range for all sequences (granularity tensor takes it)"
