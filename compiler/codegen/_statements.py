"""Rebuilds statements and expressions of TIR through a few hooks: the walk that the rewrites of this folder share."""

from __future__ import annotations

from typing import Any

import tvm
from tvm import tirx

__all__ = ["StatementRewriter"]


class StatementRewriter:
    """Override what a rewrite changes. Raises NotImplementedError for a node that it does not know."""

    def buffer(self, buffer: Any) -> Any:
        """A buffer where it is read or written."""
        return buffer

    def var(self, var: Any) -> Any:
        """A variable where it is used."""
        return var

    def leave(self, node: Any) -> Any:
        """An expression whose operands are rewritten."""
        return node

    def declare(self, node: Any) -> Any:
        """A DeclBuffer."""
        return tirx.DeclBuffer(self.buffer(node.buffer), data=self.expr(node.data))

    def func(self, func: tirx.PrimFunc) -> tirx.PrimFunc:
        """`func` with its body rewritten."""
        return tirx.PrimFunc(func.params, self.stmt(func.body), func.ret_type, func.attrs)

    def stmt(self, node: Any) -> Any:
        if node is None or isinstance(node, (tirx.AllocBuffer, tirx.Break, tirx.Continue)):
            return node
        if isinstance(node, tirx.SeqStmt):
            stmts = [self.stmt(each) for each in node.seq]
            return tirx.SeqStmt([each for each in stmts if each is not None])
        if isinstance(node, tirx.For):
            low, extent, body = self.expr(node.min), self.expr(node.extent), self.stmt(node.body)
            return tirx.For(node.loop_var, low, extent, node.kind, body, node.thread_binding, node.annotations)
        if isinstance(node, tirx.While):
            return tirx.While(self.expr(node.condition), self.stmt(node.body))
        if isinstance(node, tirx.IfThenElse):
            return tirx.IfThenElse(self.expr(node.condition), self.stmt(node.then_case), self.stmt(node.else_case))
        if isinstance(node, tirx.BufferStore):
            value, indices = self.expr(node.value), [self.expr(index) for index in node.indices]
            return tirx.BufferStore(self.buffer(node.buffer), value, indices)
        if isinstance(node, tirx.Bind):
            return tirx.Bind(node.var, self.expr(node.value))
        if isinstance(node, tirx.Evaluate):
            return tirx.Evaluate(self.expr(node.value))
        if isinstance(node, tirx.Return):
            return tirx.Return(self.expr(node.value))
        if isinstance(node, tirx.AttrStmt):
            return tirx.AttrStmt(node.node, node.attr_key, self.expr(node.value), self.stmt(node.body))
        if isinstance(node, tirx.DeclBuffer):
            return self.declare(node)
        if isinstance(node, tirx.AssertStmt):
            # The Python class names its first two parameters the wrong way round.
            return tirx.AssertStmt(self.expr(node.condition), node.error_kind, node.message_parts)
        raise NotImplementedError(type(node).__name__)

    def expr(self, node: Any) -> Any:
        if not isinstance(node, tvm.ir.Expr) or isinstance(node, (tirx.IntImm, tirx.FloatImm, tvm.ir.StringImm)):
            return node
        if isinstance(node, tirx.Var):
            return self.var(node)
        return self.leave(self._with_operands(node))

    def _with_operands(self, node: Any) -> Any:
        if isinstance(node, tvm.ir.TensorLoad):
            return tirx.BufferLoad(self.buffer(node.source), [self.expr(index) for index in node.indices])
        if isinstance(node, tvm.ir.Call):
            return tvm.ir.Call(node.op, [self.expr(arg) for arg in node.args], ret_ty=node.ty, attrs=node.attrs)
        if isinstance(node, tirx.Cast):
            return tirx.Cast(node.ty, self.expr(node.value))
        if isinstance(node, (tirx.Not, tirx.BitwiseNot)):
            return type(node)(self.expr(node.a))
        if isinstance(node, tirx.Select):
            return tirx.Select(self.expr(node.condition), self.expr(node.true_value), self.expr(node.false_value))
        if isinstance(node, tirx.Let):
            return tirx.Let(node.var, self.expr(node.value), self.expr(node.body))
        if isinstance(node, tirx.Broadcast):
            return tirx.Broadcast(self.expr(node.value), node.lanes)
        if isinstance(node, tirx.Ramp):
            return tirx.Ramp(self.expr(node.base), self.expr(node.stride), node.lanes)
        if isinstance(node, tirx.Shuffle):
            return tirx.Shuffle([self.expr(each) for each in node.vectors], [self.expr(each) for each in node.indices])
        if hasattr(node, "a") and hasattr(node, "b"):
            return type(node)(self.expr(node.a), self.expr(node.b))
        raise NotImplementedError(type(node).__name__)
