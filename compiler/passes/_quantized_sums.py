"""quantize(dequantize(kernel's bytes) + dequantize(r)) into the kernel, which adds r where its sums are complete: of a residual
stream of 8 bits no float is written, and each rounding of the model's stays."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from tvm import relax

from .._contracts import contract_of
from ._activations import recognise
from ._dims import same_shape, shape_of
from ._kernel_call import KernelCall, read_kernel_call, remake_kernel_call
from ._ops import dtype_of
from ._rewrite import Rewriter, array_of, is_call

__all__ = ["summed"]

_CLAMPS = ("none", "relu", "clip")
_SCALES = (2.0**-40, 2.0**40)  # that the kernels take (csrc/kernels/qgemm/output.cc)


class _Bytes(NamedTuple):
    """A uint8 tensor, what it was dequantized by, and whether only that was done with it."""

    q: relax.Expr
    scale: float
    zero: int
    alone: bool


def summed(rw: Rewriter, var: relax.Var, total: relax.Expr, y_scale: float, y_zero: int) -> relax.Expr | None:
    """The kernel call that gives `total`, a sum, quantized by y_scale and y_zero as the value of `var`; None where none does."""
    add = rw.call(_behind_relu(rw, total, y_zero, dtype_of(var)), "relax.add")
    if add is None:
        return None
    parts = [_bytes(rw, arg) for arg in add.args]
    for term, residual in (parts, parts[::-1]):
        if term is None or residual is None or not term.alone:
            continue
        if not all(_SCALES[0] <= scale <= _SCALES[1] for scale in (term.scale, residual.scale, y_scale)):
            continue
        call = read_kernel_call(rw.definition(term.q))
        if call is None or not _takes(call, term) or not _alike(var, term, residual):
            continue
        place = contract_of(call.contract).residual
        assert place is not None
        args = list(call.args) + [None] * (place + 1 - len(call.args))
        args[place] = residual.q
        attrs = {key: attr for key, attr in call.attrs.items() if key != "y_max"}
        attrs |= {"x_scale": [term.scale], "x_zero": [term.zero], "x_max": call.attrs.get("y_max", [255])}
        attrs |= {"r_scale": [residual.scale], "r_zero": [residual.zero]}
        attrs |= {"y_scale": [y_scale], "y_zero": [y_zero]}
        return remake_kernel_call(replace(call, args=args, attrs=attrs), var.ty)
    return None


def _behind_relu(rw: Rewriter, x: relax.Expr, y_zero: int, dtype: str) -> relax.Expr:
    """What a ReLU is of, where it changes no byte: 0 is the least that there is. Else `x`."""
    value = rw.definition(x)
    found = recognise(rw, value) if is_call(value) and y_zero == np.iinfo(dtype).min else None
    if found is None or found.act != "relu" or rw.use_count(found.source) > found.occurrences:
        return x
    return found.source


def _bytes(rw: Rewriter, x: relax.Expr) -> _Bytes | None:
    call = rw.call(x, "relax.dequantize")
    if call is None or dtype_of(call.args[0]) != "uint8" or array_of(call.args[0]) is not None:
        return None
    scale, zero = array_of(call.args[1]), array_of(call.args[2])
    if scale is None or zero is None or scale.size != 1 or zero.size != 1:
        return None
    number = np.float32(scale.reshape(-1)[0])
    alone = rw.single_use(x) and rw.single_use(call.args[0])
    return _Bytes(call.args[0], float(number), int(zero.reshape(-1)[0]), alone)


def _takes(call: KernelCall, term: _Bytes) -> bool:
    """Whether the call makes these very bytes, by no more than a clamp, and has a place for a residual of them that is free."""
    contract = contract_of(call.contract)
    place = contract.residual
    if "x_scale" not in contract.attributes or place is None or any(arg is not None for arg in call.args[place:]):
        return False
    if call.attrs.get("act", "none") not in _CLAMPS or "x_scale" in call.attrs:
        return False
    return call.attrs.get("y_scale") == [term.scale] and call.attrs.get("y_zero") == [term.zero]


def _alike(var: relax.Var, term: _Bytes, residual: _Bytes) -> bool:
    shapes = [shape_of(x) for x in (var, term.q, residual.q)]
    return same_shape(shapes[0], shapes[1]) and same_shape(shapes[0], shapes[2])
