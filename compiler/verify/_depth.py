"""How far two computations in half precision may drift apart: by the number of roundings on the way to the result."""

from __future__ import annotations

import math
from dataclasses import replace

import tvm
from tvm import relax

from .._configs import VerifyOptions

__all__ = ["half_tolerances"]

_EPSILON = {"float16": 2.0**-10, "bfloat16": 2.0**-7}


def half_tolerances(options: VerifyOptions, mod: tvm.IRModule) -> VerifyOptions:
    """`options` for a model in which up to n results in a row are rounded to a half type: 2 epsilon sqrt(n) where that is more than the
    default, since n roundings, each up or down, add up as a random walk. A tolerance that is not the default is kept."""
    deepest, default = _roundings(mod), VerifyOptions()
    for name, epsilon in _EPSILON.items():
        wider = 2 * epsilon * math.sqrt(deepest[name])
        if getattr(options, name) == getattr(default, name) < wider:
            options = replace(options, float16=wider) if name == "float16" else replace(options, bfloat16=wider)
    return options


def _roundings(mod: tvm.IRModule) -> dict[str, int]:
    """The most results of each half type on a path through `main`; branches and loops count as one step."""
    depth: dict[relax.Var, dict[str, int]] = {}
    most = dict.fromkeys(_EPSILON, 0)
    for block in mod["main"].body.blocks:
        for binding in block.bindings:
            value, ty = binding.value, binding.var.ty
            found = dict.fromkeys(_EPSILON, 0)
            for var in relax.analysis.free_vars(value):
                for name, count in depth.get(var, {}).items():
                    found[name] = max(found[name], count)
            dtype = str(ty.dtype) if isinstance(ty, relax.TensorType) else ""
            if dtype in found and isinstance(value, relax.Call):
                found[dtype] += 1
            depth[binding.var] = found
            most = {name: max(most[name], found[name]) for name in most}
    return most
