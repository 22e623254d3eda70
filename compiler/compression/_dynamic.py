"""The recipe Int8Dynamic: products on bytes whose ranges a run finds, in the forms in which models quantized so arrive.

For one range a tensor ONNX's (DynamicQuantizeLinear, then products of integers), for one a row torchao's (scales and zero points of tokens).
Weights are int8 with a symmetric scale for each output.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tvm
from tvm import relax

from .._recipes import Int8Dynamic
from ..ir import Encoded, dynamic_quantize, dynamic_quantize_gru, dynamic_quantize_lstm, lstm, read_operator
from ..passes._ops import constant
from ..passes._rewrite import Array, Rewriter, array_of, is_call, rewrite
from ._layers import Layer

__all__ = ["quantize_dynamic"]

Quantized = dict[relax.Expr, tuple[relax.Expr, relax.Expr]]  # by what is read: the centred integers and their scale


def quantize_dynamic(mod: tvm.IRModule, chosen: Sequence[Layer], recipe: Int8Dynamic) -> tvm.IRModule:
    """The layers `chosen` on 8 bits."""
    layers = {layer.var: layer for layer in chosen}
    shared: Quantized = {}

    def rule(rw: Rewriter, var: relax.Var, value: relax.Expr) -> relax.Expr | None:
        if var not in layers:
            return None
        # What is bound within a branch is not seen behind it.
        quantized: Quantized = {} if layers[var].nested else shared
        call = read_operator(value)
        if call is not None:
            args, scales = list(call.args), []
            for at in (1, 2):
                weight = array_of(call.args[at])
                assert weight is not None
                values, scale = _symmetric(weight, (2,))
                args[at] = constant(values)
                scales.append(constant(scale[..., 0]))
            quantized_layer = dynamic_quantize_lstm if call.operator is lstm else dynamic_quantize_gru
            return quantized_layer(*args, *scales, place=call.place, **call.attrs)
        x, weight = value.args[0], array_of(value.args[1])
        assert weight is not None
        if recipe.granularity == "row":
            if x not in quantized:
                quantized[x] = _by_rows(rw, x), x
            return _row_product(rw, quantized[x][0], weight, value)
        if x not in quantized:
            quantized[x] = _centred(rw, x)
        return _integer_layer(rw, *quantized[x], weight, var, value)

    return rewrite(mod, rule)


def _by_rows(rw: Rewriter, x: relax.Expr) -> relax.Expr:
    """x, rounded to 255 steps between each row's ends, 0 included."""
    op = relax.op
    zero, top = (constant(np.asarray(each, np.float32)) for each in (0, 255))
    tiny = constant(np.asarray(np.finfo(np.float32).tiny, np.float32))
    low = rw.emit(op.minimum(rw.emit(op.min(x, -1, True)), zero))
    high = rw.emit(op.maximum(rw.emit(op.max(x, -1, True)), zero))
    scale = rw.emit(op.maximum(rw.emit(op.divide(rw.emit(op.subtract(high, low)), top)), tiny))
    origin = rw.emit(op.clip(rw.emit(op.round(rw.emit(op.divide(rw.emit(op.negative(low)), scale)))), 0, 255))
    steps = rw.emit(op.add(rw.emit(op.round(rw.emit(op.divide(x, scale)))), origin))
    q = rw.emit(op.astype(rw.emit(op.clip(steps, 0, 255)), "uint8"))
    centred = rw.emit(op.subtract(rw.emit(op.astype(q, "float32")), origin))
    return rw.emit(op.multiply(centred, scale))


def _row_product(rw: Rewriter, x: relax.Expr, weight: Array, value: relax.Call) -> relax.Expr:
    values, scale = _symmetric(weight, (0,))
    return relax.op.matmul(x, rw.emit(Encoded(values, scale, axis=1).call()))


def _centred(rw: Rewriter, x: relax.Expr) -> tuple[relax.Expr, relax.Expr]:
    """x as int32 less its zero point, and its scale."""
    parts = rw.emit(dynamic_quantize(x))
    q, scale, zero = (rw.emit(relax.TupleGetItem(parts, i)) for i in range(3))
    wide = [rw.emit(relax.op.astype(part, "int32")) for part in (q, zero)]
    return rw.emit(relax.op.subtract(*wide)), scale


def _integer_layer(
    rw: Rewriter, x: relax.Expr, x_scale: relax.Expr, weight: Array, var: relax.Var, value: relax.Call
) -> relax.Expr:
    is_product = is_call(value, "relax.matmul")
    values, scale = _symmetric(weight, (0,) if is_product else (1, 2, 3))
    w = rw.emit(relax.op.astype(constant(values), "int32"))
    if is_product:
        sums = relax.op.matmul(x, w, "int32")
    else:
        a = value.attrs
        scale = scale.reshape(1, -1, 1, 1)
        sums = relax.op.nn.conv2d(
            x, w, [int(s) for s in a.strides], [int(p) for p in a.padding], [int(d) for d in a.dilation], int(a.groups),
            "NCHW", "OIHW", "NCHW", "int32",
        )  # fmt: skip
    floats = rw.emit(relax.op.astype(rw.emit(sums, f"{var.name}.sums"), "float32"))
    return relax.op.multiply(rw.emit(relax.op.multiply(floats, x_scale)), constant(scale))


def _symmetric(weight: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
    """int8 of -127 to 127, and the scales, with the axes that share one kept as 1."""
    largest = np.abs(weight).max(axis=axes, keepdims=True)
    scale = np.maximum(np.where(largest > 0, largest / 127, 1).astype(np.float32), np.finfo(np.float32).tiny)
    return np.clip(np.rint(weight / scale), -127, 127).astype(np.int8), scale
