"""Tensors filled with one number, infinities and NaN included (every causal mask): `LEGALIZE` for relax.transform.LegalizeOps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tvm
from tvm import relax, te, tirx

__all__ = ["LEGALIZE"]


def _full(builder: relax.BlockBuilder, call: Any) -> Any:
    like = call.op.name == "relax.full_like"
    shape, dtype = call.args[0].ty.shape if like else call.args[0], str(call.ty.dtype)
    if not isinstance(shape, relax.ShapeExpr):
        return call
    value = call.args[1]
    known = isinstance(value, tvm.ir.GenericConst)

    def body(extents: Any, *tensor: Any) -> Any:
        number = _number(value.value.numpy().item(), dtype) if known else tirx.Cast(dtype, tensor[0]())
        return te.compute(extents, lambda *_: number, name="full")

    return builder.call_te(body, shape, *([] if known else [value]), primfunc_name_hint="full")


def _number(value: Any, dtype: str) -> Any:
    """A number of the type; as a literal where the type has one for it."""
    if dtype == "bool":
        return tirx.IntImm("bool", int(bool(value)))
    if dtype.startswith(("int", "uint")):
        return tirx.const(int(value), dtype)
    if dtype in ("float16", "float32", "float64"):
        return tirx.FloatImm(dtype, float(value))
    return tirx.Cast(dtype, tirx.FloatImm("float32", float(value)))


LEGALIZE: dict[str, Callable[[Any, Any], Any]] = {"relax.full": _full, "relax.full_like": _full}
