"""Gives a function's tensors the alignment that they have: that of their elements.

TVM declares 64 bytes and LLVM builds on it; a caller's array, or a view into one, need not have them.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import tirx

from . import _math
from ._stages import as_int64
from ._statements import StatementRewriter

__all__ = ["element_aligned", "realign"]


def element_aligned(buffer: Any, data: Any = None) -> Any:
    """A dense buffer like `buffer` (a view of `data`, if given), aligned to its elements and no more."""
    align = max(1, int(tvm.DataType(str(buffer.dtype)).itemsize))
    return tirx.decl_buffer(buffer.shape, buffer.dtype, name=buffer.name, data=data, data_alignment=align, layout=None)


def realign(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """`func` (without blocks) with element-aligned parameters. Raises NotImplementedError for a statement it does not know."""
    swap = {param: element_aligned(param) for param in func.params if tirx.is_buffer_var(param)}
    for param in list(swap):  # a plan's tensors are dense and begin at their first element
        if isinstance(param.elem_offset, tirx.Var):
            swap[param.elem_offset] = tirx.const(0, str(param.elem_offset.ty.dtype))
        dense = tirx.const(1, "int64")
        for extent, stride in zip(reversed(param.shape), reversed(param.strides)):
            if isinstance(stride, tirx.Var):
                swap[stride] = tirx.Cast(stride.ty, dense)
            dense = dense * as_int64(extent)
    params = [swap.get(param, param) for param in func.params]
    return tirx.PrimFunc(params, _Realign(swap).stmt(func.body), func.ret_type, func.attrs)


class _Realign(StatementRewriter):
    def __init__(self, swap: dict[Any, Any]) -> None:
        self.swap = swap

    def buffer(self, buffer: Any) -> Any:
        return self.swap.get(buffer, buffer)

    def var(self, var: Any) -> Any:
        return self.swap.get(var, var)

    def declare(self, node: Any) -> Any:
        data = self.expr(node.data)
        self.swap[node.buffer] = element_aligned(node.buffer, data)
        return tirx.DeclBuffer(self.swap[node.buffer], data=data)

    def leave(self, node: Any) -> Any:
        if isinstance(node, tirx.Cast):
            return _cast(node.value, node.ty)
        if isinstance(node, tvm.ir.Call) and isinstance(node.op, tvm.ir.Op):
            called = _math.library_call(str(node.op.name), list(node.args))
            return node if called is None else called
        if isinstance(node, tirx.NE) and str(node.a.ty.dtype).startswith(("float", "bfloat")):
            return tirx.Not(tirx.EQ(node.a, node.b))  # TVM's NE is false for NaN
        return node


def _cast(value: Any, ty: Any) -> Any:
    """A cast; TVM's own ones of bfloat16 read the bits as a number."""
    source, target = str(value.ty.dtype), str(ty.dtype)
    if "bfloat16" not in (source, target) or source == target:
        once = tirx.Var("value", value.ty)  # a cast may read it several times
        return tirx.Let(once, value, _math.cast(once, ty, _as_is)) if target == "float16" else tirx.Cast(ty, value)
    if source == "bfloat16":
        value = _math.from_bfloat16(value, _as_is)
        return value if target == "float32" else tirx.Cast(ty, value)
    return _math.to_bfloat16(value if source == "float32" else tirx.Cast("float32", value), _as_is)


def _as_is(value: Any) -> Any:
    return value
