"""Static quantization: convolutions and products with constant weights between quantize and dequantize, as QDQ models arrive.

Per-channel symmetric weights of int8, asymmetric activations of uint8 over the ranges that calibration found. B. Jacob et al.,
"Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference" (2018). `lower_quantized` makes
kernels of them. Activations of 7 bits are capped at 127: then no sum of two products leaves 16 bits, whatever the weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tvm
from tvm import relax

from ..passes._ops import constant
from ..passes._rewrite import Array, Rewriter, array_of, rewrite
from ._layers import weight_axis
from ._ranges import Range

__all__ = ["activations", "quantize_static"]


def activations(mod: tvm.IRModule, chosen: Sequence[relax.Var]) -> list[relax.Expr]:
    """What the layers `chosen` read, each once, in order."""
    layers = set(chosen)
    found: dict[relax.Expr, None] = {}
    for block in mod["main"].body.blocks:
        for binding in block.bindings:
            if binding.var in layers:
                found.setdefault(binding.value.args[0])
    return list(found)


def quantize_static(mod: tvm.IRModule, chosen: Sequence[relax.Var], ranges: Sequence[Range], bits: int) -> tvm.IRModule:
    """`ranges`: of the activations as `activations` counts them; `bits`: 7 or 8 for activations."""
    of = dict(zip(activations(mod, chosen), ranges, strict=True))
    layers = set(chosen)
    read = {
        binding.var: of[binding.value.args[0]]
        for block in mod["main"].body.blocks
        for binding in block.bindings
        if binding.var in layers
    }

    def rule(rw: Rewriter, var: relax.Var, value: relax.Expr) -> relax.Expr | None:
        if var not in read:
            return None
        axis, weight = weight_axis(value), array_of(value.args[1])
        assert axis is not None and weight is not None
        x = _activation(rw, value.args[0], read[var], bits)
        return tvm.ir.Call(value.op, [x, _weight(rw, weight, axis)], value.attrs, list(value.ty_args), value.span)

    return rewrite(mod, rule)


def _activation(rw: Rewriter, x: relax.Expr, observed: Range, bits: int) -> relax.Expr:
    max_level = 127 if bits == 7 else 255
    low, high = min(observed[0], 0.0), max(observed[1], 0.0)  # zero (padding, a relu's floor) is always exact
    step = np.float32((high - low) / max_level) or np.float32(1.0)
    zero = int(np.clip(np.rint(-low / float(step)), 0, max_level))
    scale, offset = constant(np.asarray(step, np.float32)), constant(np.asarray(zero, np.uint8))
    q = rw.emit(relax.op.quantize(x, scale, offset, axis=-1, out_dtype="uint8"))
    if bits == 7:
        q = rw.emit(relax.op.minimum(q, constant(np.asarray(max_level, np.uint8))))
    return rw.emit(relax.op.dequantize(q, scale, offset, axis=-1, out_dtype="float32"))


def _weight(rw: Rewriter, weight: Array, axis: int) -> relax.Expr:
    others = tuple(i for i in range(weight.ndim) if i != axis)
    largest = np.abs(weight).max(axis=others)
    scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    scale = np.maximum(scale, np.finfo(np.float32).tiny)
    shape = [-1 if i == axis else 1 for i in range(weight.ndim)]
    values = np.clip(np.rint(weight / scale.reshape(shape)), -127, 127).astype(np.int8)
    zero = constant(np.zeros(scale.shape, np.int8))
    return rw.emit(relax.op.dequantize(constant(values), constant(scale), zero, axis=axis, out_dtype="float32"))
