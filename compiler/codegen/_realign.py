"""Gives a function's tensors the alignment that they have: that of their elements.

TVM declares 64 bytes and LLVM builds on it; a caller's array, or a view into one, need not have them.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import tirx

from . import _math
from ._stages import as_int64

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
    return tirx.PrimFunc(params, _stmt(func.body, swap), func.ret_type, func.attrs)


def _stmt(node: Any, swap: dict[Any, Any]) -> Any:
    if node is None:
        return None
    if isinstance(node, tirx.SeqStmt):
        return tirx.SeqStmt([_stmt(each, swap) for each in node.seq])
    if isinstance(node, tirx.For):
        body = _stmt(node.body, swap)
        return tirx.For(
            node.loop_var,
            _expr(node.min, swap),
            _expr(node.extent, swap),
            node.kind,
            body,
            node.thread_binding,
            node.annotations,
        )
    if isinstance(node, tirx.While):
        return tirx.While(_expr(node.condition, swap), _stmt(node.body, swap))
    if isinstance(node, tirx.IfThenElse):
        return tirx.IfThenElse(_expr(node.condition, swap), _stmt(node.then_case, swap), _stmt(node.else_case, swap))
    if isinstance(node, tirx.BufferStore):
        indices = [_expr(index, swap) for index in node.indices]
        return tirx.BufferStore(swap.get(node.buffer, node.buffer), _expr(node.value, swap), indices)
    if isinstance(node, tirx.Bind):
        return tirx.Bind(node.var, _expr(node.value, swap))
    if isinstance(node, tirx.Evaluate):
        return tirx.Evaluate(_expr(node.value, swap))
    if isinstance(node, tirx.AttrStmt):
        return tirx.AttrStmt(node.node, node.attr_key, _expr(node.value, swap), _stmt(node.body, swap))
    if isinstance(node, tirx.DeclBuffer):
        data = _expr(node.data, swap)
        swap[node.buffer] = element_aligned(node.buffer, data)
        return tirx.DeclBuffer(swap[node.buffer], data=data)
    if isinstance(node, (tirx.AllocBuffer, tirx.Break, tirx.Continue)):
        return node
    if isinstance(node, tirx.AssertStmt):
        return tirx.AssertStmt(node.kind, _expr(node.condition, swap), node.message_parts)
    raise NotImplementedError(type(node).__name__)


def _expr(node: Any, swap: dict[Any, Any]) -> Any:
    if not isinstance(node, tvm.ir.Expr):
        return node
    if isinstance(node, tirx.Var):
        return swap.get(node, node)
    if isinstance(node, (tirx.IntImm, tirx.FloatImm, tvm.ir.StringImm)):
        return node
    if isinstance(node, tvm.ir.TensorLoad):
        return tirx.BufferLoad(swap.get(node.source, node.source), [_expr(index, swap) for index in node.indices])
    if isinstance(node, tvm.ir.Call):
        args = [_expr(arg, swap) for arg in node.args]
        return tvm.ir.Call(node.op, args, ret_ty=node.ty, attrs=node.attrs)
    if isinstance(node, tirx.Cast):
        return _cast(_expr(node.value, swap), node.ty)
    if isinstance(node, tirx.Not):
        return tirx.Not(_expr(node.a, swap))
    if isinstance(node, tirx.Select):
        return tirx.Select(*(_expr(each, swap) for each in (node.condition, node.true_value, node.false_value)))
    if isinstance(node, tirx.Let):
        return tirx.Let(node.var, _expr(node.value, swap), _expr(node.body, swap))
    if hasattr(node, "a") and hasattr(node, "b"):
        a, b = _expr(node.a, swap), _expr(node.b, swap)
        if isinstance(node, tirx.NE) and str(a.ty.dtype).startswith(("float", "bfloat")):
            return tirx.Not(tirx.EQ(a, b))  # TVM's NE is false for NaN
        return type(node)(a, b)
    raise NotImplementedError(type(node).__name__)


def _cast(value: Any, ty: Any) -> Any:
    """A cast; TVM's own ones of bfloat16 read the bits as a number."""
    source, target = str(value.ty.dtype), str(ty.dtype)
    if "bfloat16" not in (source, target) or source == target:
        return tirx.Cast(ty, value)
    if source == "bfloat16":
        value = _math.from_bfloat16(value, _as_is)
        return value if target == "float32" else tirx.Cast(ty, value)
    return _math.to_bfloat16(value if source == "float32" else tirx.Cast("float32", value), _as_is)


def _as_is(value: Any) -> Any:
    return value
