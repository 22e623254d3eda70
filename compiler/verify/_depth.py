"""How far two computations in half precision may drift apart: by the number of roundings on the way to the result."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import tvm
from tvm import relax

from .._configs import VerifyOptions

__all__ = ["half_tolerances"]

_EPSILON = {"float16": 2.0**-10, "bfloat16": 2.0**-7}


def half_tolerances(options: VerifyOptions, mod: tvm.IRModule) -> VerifyOptions:
    """`options` for a model in which up to n results in a row are rounded to a half type: 2 epsilon sqrt(n) where that is more than the
    default, since n roundings, each up or down, add up as a random walk. So too for float32, where each output of that type comes of what
    was computed in a half type. A tolerance that is not the default is kept."""
    deepest, outputs = _roundings(mod)
    for name, epsilon in _EPSILON.items():
        options = _widened(options, name, 2 * epsilon * math.sqrt(deepest[name]))
    if outputs and all(each.computed for each in outputs):
        wider = (2 * _EPSILON[name] * math.sqrt(count) for each in outputs for name, count in each.counts.items())
        options = _widened(options, "float32", max(wider))
    return options


def _widened(options: VerifyOptions, dtype: str, wider: float) -> VerifyOptions:
    default = getattr(VerifyOptions(), dtype)
    changes: dict[str, Any] = {dtype: wider} if getattr(options, dtype) == default < wider else {}
    return replace(options, **changes)


@dataclass(frozen=True)
class _Path:
    """The most results of each half type on a path to a value, and whether one of them was computed of half values, not only cast."""

    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_EPSILON, 0))
    computed: bool = False


def _roundings(mod: tvm.IRModule) -> tuple[dict[str, int], list[_Path]]:
    """The most results of each half type on a path through `main`, and the paths to its outputs of float32; branches and loops count as
    one step."""
    paths: dict[relax.Var, _Path] = {}
    body = mod["main"].body
    for block in body.blocks:
        for binding in block.bindings:
            value, dtype = binding.value, _dtype(binding.var)
            before = [paths[var] for var in relax.analysis.free_vars(value) if var in paths]
            counts = {name: max((path.counts[name] for path in before), default=0) for name in _EPSILON}
            computed = any(path.computed for path in before)
            if dtype in counts and isinstance(value, relax.Call):
                counts[dtype] += 1
                computed = computed or any(_dtype(var) in counts for var in relax.analysis.free_vars(value))
            paths[binding.var] = _Path(counts, computed)
    deepest = {name: max((path.counts[name] for path in paths.values()), default=0) for name in _EPSILON}
    bound = {binding.var: binding.value for block in body.blocks for binding in block.bindings}
    result = bound.get(body.body, body.body)
    fields = list(result.fields) if isinstance(result, relax.Tuple) else [result]
    return deepest, [paths.get(each, _Path()) for each in fields if _dtype(each) == "float32"]


def _dtype(expr: relax.Expr) -> str:
    return str(expr.ty.dtype) if isinstance(expr.ty, relax.TensorType) else ""
