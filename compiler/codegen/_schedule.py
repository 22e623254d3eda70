"""Gives every generated function its schedule; no loop nest of TVM's own making ships."""

from __future__ import annotations

from typing import Any

import tvm
from tvm import s_tir, tirx

from .._boundary import boundary
from ._collect import GeneratedFunctions
from ._emit import emit_function
from ._realign import realign
from ._stages import parse_stages

__all__ = ["schedule_function", "schedule_functions"]


def schedule_functions(generated: GeneratedFunctions) -> GeneratedFunctions:
    """The same functions, scheduled, with their parameters in the plan's order."""
    scheduled = {}
    for name, func in generated.functions.items():
        with boundary("schedule", f"the generated function {name}"):
            scheduled[name] = schedule_function(func)
    return GeneratedFunctions(generated.symbols, scheduled)


def schedule_function(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """`func` scheduled: tensors in, tensors out, then numbers (the order of a code step's arguments)."""
    func = _numbers_last(func)
    stages = parse_stages(func)
    return emit_function(func, stages) if stages is not None else _lower_blocks(func)


def _numbers_last(func: tirx.PrimFunc) -> tirx.PrimFunc:
    tensors = [param for param in func.params if tirx.is_buffer_var(param)]
    numbers = [param for param in func.params if not tirx.is_buffer_var(param)]
    return tirx.PrimFunc([*tensors, *numbers], func.body, func.ret_type, func.attrs)


def _lower_blocks(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """A function that is no chain of stages (a scan, a sort, a scatter): its own serial loops, without blocks."""
    passes = s_tir.transform
    mod: Any = tvm.IRModule({"f": func.with_attr("global_symbol", "f")})
    mod = tvm.ir.transform.Sequential(
        [
            passes.LowerInitBlock(),
            passes.PlanAndUpdateBufferAllocationLocation(),
            passes.ConvertBlocksToOpaque(),
            passes.CompactBufferAllocation(),
            passes.LowerMatchBuffer(),
            passes.LowerOpaqueBlock(),
            tirx.transform.FlattenBuffer(),
        ]
    )(mod)
    lowered = mod["f"].without_attr("global_symbol")
    return realign(lowered.without_attr("s_tir") if "s_tir" in lowered.attrs else lowered)
