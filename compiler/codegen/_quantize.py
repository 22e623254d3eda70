"""QuantizeLinear and DequantizeLinear as ONNX defines them, for those that no kernel took in: `LEGALIZE` for relax.transform.LegalizeOps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import relax, te, tirx

__all__ = ["LEGALIZE"]


def _at(parameter: Any, axis: int, index: tuple[Any, ...]) -> Any:
    """A scale or zero point at an element of the data: one for all, or one for each index of `axis`."""
    return parameter(index[axis]) if len(parameter.shape) else parameter()


def _quantize(builder: relax.BlockBuilder, call: Any) -> Any:
    """saturate(round_half_to_even(x / scale) + zero): division, not multiplication by an inverse, as in ONNX."""
    out = str(call.attrs.out_dtype)
    low, high = (float(v) for v in (np.iinfo(out).min, np.iinfo(out).max))
    axis = int(call.attrs.axis) % max(1, call.args[0].ty.ndim)

    def body(x: Any, scale: Any, zero: Any) -> Any:
        def element(*i: Any) -> Any:
            q = tirx.nearbyint(x(*i) / _at(scale, axis, i)) + tirx.Cast("float32", _at(zero, axis, i))
            clipped = tirx.max(tirx.FloatImm("float32", low), tirx.min(tirx.FloatImm("float32", high), q))
            return tirx.Cast(out, tirx.Cast("int32", clipped))

        return te.compute(x.shape, element, name="quantize")

    return builder.call_te(body, *call.args, primfunc_name_hint="quantize")


def _dequantize(builder: relax.BlockBuilder, call: Any) -> Any:
    """(x - zero) * scale, the difference exact: in 32 bits where x has fewer, else in 64."""
    wide = "int32" if np.dtype(str(call.args[0].ty.dtype)).itemsize < 4 else "int64"
    axis = int(call.attrs.axis) % max(1, call.args[0].ty.ndim)

    def body(x: Any, scale: Any, zero: Any) -> Any:
        def element(*i: Any) -> Any:
            difference = tirx.Cast(wide, x(*i)) - tirx.Cast(wide, _at(zero, axis, i))
            return tirx.Cast("float32", difference) * _at(scale, axis, i)

        return te.compute(x.shape, element, name="dequantize")

    return builder.call_te(body, *call.args, primfunc_name_hint="dequantize")


LEGALIZE: dict[str, Callable[[Any, Any], Any]] = {"relax.quantize": _quantize, "relax.dequantize": _dequantize}
