"""How far two computations in half precision may drift apart: by the number of roundings on the way to the result."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import tvm
from tvm import relax

from .._configs import VerifyOptions

__all__ = ["half_tolerances"]

_EPSILON = {"float16": 2.0**-10, "bfloat16": 2.0**-7}


def half_tolerances(options: VerifyOptions, mod: tvm.IRModule) -> VerifyOptions:
    """`options` for a model in which up to n results in a row are rounded to a half type: 2 epsilon sqrt(n) where that is more than the
    default, since n roundings, each up or down, add up as a random walk. So too for float32, where each output of that type comes of two
    such roundings or more, and so of what was computed in between. A tolerance that is not the default is kept."""
    deepest, outputs = _roundings(mod)
    for name, epsilon in _EPSILON.items():
        options = _widened(options, name, 2 * epsilon * math.sqrt(deepest[name]))
    if outputs and all(max(counts.values()) > 1 for counts in outputs):
        wider = (2 * _EPSILON[name] * math.sqrt(count) for counts in outputs for name, count in counts.items())
        options = _widened(options, "float32", max(wider))
    return options


def _widened(options: VerifyOptions, dtype: str, wider: float) -> VerifyOptions:
    default = getattr(VerifyOptions(), dtype)
    changes: dict[str, Any] = {dtype: wider} if getattr(options, dtype) == default < wider else {}
    return replace(options, **changes)


def _roundings(mod: tvm.IRModule) -> tuple[dict[str, int], list[dict[str, int]]]:
    """The most results of each half type on a path through `main`, and on the paths to its outputs of float32; branches and loops count as
    one step."""
    depth: dict[relax.Var, dict[str, int]] = {}
    body, none = mod["main"].body, dict.fromkeys(_EPSILON, 0)
    for block in body.blocks:
        for binding in block.bindings:
            before = [depth.get(var, none) for var in relax.analysis.free_vars(binding.value)]
            found = {name: max((counts[name] for counts in before), default=0) for name in _EPSILON}
            dtype = _dtype(binding.var)
            if dtype in found and isinstance(binding.value, relax.Call):
                found[dtype] += 1
            depth[binding.var] = found
    deepest = {name: max((counts[name] for counts in depth.values()), default=0) for name in _EPSILON}
    bound = {binding.var: binding.value for block in body.blocks for binding in block.bindings}
    result = bound.get(body.body, body.body)
    fields = list(result.fields) if isinstance(result, relax.Tuple) else [result]
    return deepest, [depth.get(each, none) for each in fields if _dtype(each) == "float32"]


def _dtype(expr: relax.Expr) -> str:
    return str(expr.ty.dtype) if isinstance(expr.ty, relax.TensorType) else ""
