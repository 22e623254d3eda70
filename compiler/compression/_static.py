"""Static quantization: layers with constant weights between quantize and dequantize, as QDQ models arrive.

Per-channel symmetric weights of int8, asymmetric activations of uint8 over the ranges that calibration found. B. Jacob et al.,
"Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference" (2018). `lower_quantized` makes
kernels of them. Activations of 7 bits are capped at 127: then no sum of two products leaves 16 bits, whatever the weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import tvm
from tvm import relax

from ..ir import Encoded
from ..passes._ops import constant
from ..passes._rewrite import Array, Rewriter, array_of, rewrite
from ._grid import Grid, grid_of, quantized_weights, weight_scales
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


def quantize_static(
    mod: tvm.IRModule,
    ranges: Mapping[relax.Var, Range],
    bits: int,
    shifts: Mapping[relax.Var, npt.NDArray[np.float32]],
    weights: Mapping[relax.Var, npt.NDArray[np.int8]],
    switches: Mapping[relax.Var, relax.Var] | None = None,
) -> tvm.IRModule:
    """The layers of `ranges`, which are those of the activations that they read; `bits`: 7 or 8 for activations; `shifts`: what is added to
    each output channel of a layer behind it; `weights`: of layers whose weights are not simply rounded to nearest; `switches`: of layers
    that are there in float, too, bool [1], with which a run takes those."""
    switches = switches or {}

    def rule(rw: Rewriter, var: relax.Var, value: relax.Expr) -> relax.Expr | None:
        if var not in ranges:
            return None
        axis, weight = weight_axis(value), array_of(value.args[1])
        assert axis is not None and weight is not None
        x = _activation(rw, value.args[0], grid_of(ranges[var], bits))
        layer: relax.Expr = tvm.ir.Call(
            value.op, [x, _weight(rw, weight, axis, weights.get(var))], value.attrs, list(value.ty_args), value.span
        )
        if var in shifts:
            channels = shifts[var]  # of the last axis in a product, of the second in a convolution
            layer = rw.emit(layer, str(var.name))
            added = channels if axis else channels.reshape(-1, *[1] * (layer.ty.ndim - 2))
            layer = relax.op.add(layer, constant(added))
        if var in switches:
            layer = relax.op.where(switches[var], rw.emit(value), rw.emit(layer))
        return layer

    return rewrite(mod, rule)


def _activation(rw: Rewriter, x: relax.Expr, grid: Grid) -> relax.Expr:
    scale, offset = constant(np.asarray(grid.step, np.float32)), constant(np.asarray(grid.zero, np.uint8))
    q = rw.emit(relax.op.quantize(x, scale, offset, axis=-1, out_dtype="uint8"))
    if grid.levels < 255:
        q = rw.emit(relax.op.minimum(q, constant(np.asarray(grid.levels, np.uint8))))
    return rw.emit(relax.op.dequantize(q, scale, offset, axis=-1, out_dtype="float32"))


def _weight(rw: Rewriter, weight: Array, axis: int, rounded: npt.NDArray[np.int8] | None) -> relax.Expr:
    scales = weight_scales(weight, tuple(i for i in range(weight.ndim) if i != axis))
    values = rounded if rounded is not None else quantized_weights(weight, scales)
    return rw.emit(Encoded(values, scales, axis=axis).call())
