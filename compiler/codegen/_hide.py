"""Keeps TVM's analyzer from seeing through arithmetic that is no index.

LowerIntrin and the LLVM generator bind every variable to its value in an analyzer, which simplifies each next value with the ones
before put in their places: a chain of bindings that each use the last one twice, as the polynomials of _math.py do, grows as a power
of two. So a variable that holds anything but an index becomes a local buffer of one element, which the analyzer leaves alone and
LLVM turns back into a register. Variables of plain index arithmetic stay: what is known of them makes divisions cheap.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import tirx

from ._stages import walk
from ._statements import StatementRewriter

__all__ = ["hide_arithmetic"]


def hide_arithmetic() -> tvm.ir.transform.Pass:
    """The pass; it runs after vectorisation, when a variable's type is what one iteration computes."""

    def run(mod: tvm.IRModule, context: Any) -> tvm.IRModule:
        return tvm.IRModule({name: _Hide().func(func) for name, func in mod.functions_items()}, attrs=mod.attrs)

    return tvm.ir.transform.module_pass(run, opt_level=0, name="maas_rt.hide_arithmetic")


class _Hide(StatementRewriter):
    def __init__(self) -> None:
        self.buffers: dict[Any, Any] = {}
        self.pending: list[Any] = []  # what must run before the statement at hand

    def stmt(self, node: Any) -> Any:
        if isinstance(node, tirx.While):
            return tirx.While(
                node.condition, self.stmt(node.body)
            )  # evaluated anew each time: nothing of it can move out
        outer, self.pending = self.pending, []
        if isinstance(node, tirx.Bind):
            self._bind(node.var, self.expr(node.value))
            rewritten = None
        else:
            rewritten = super().stmt(node)
        stmts = self.pending if rewritten is None else [*self.pending, rewritten]
        self.pending = outer
        return _sequence(stmts) if stmts else None

    def var(self, var: Any) -> Any:
        buffer = self.buffers.get(var)
        return var if buffer is None else _read(buffer, var.ty)

    def expr(self, node: Any) -> Any:
        if isinstance(node, tirx.Let):
            self._bind(node.var, self.expr(node.value))
            return self.expr(node.body)
        if isinstance(node, tvm.ir.Call) and node.op.name == "prim.if_then_else":
            return self._branches(node)
        return super().expr(node)

    def _branches(self, node: Any) -> Any:
        """A branch that binds variables becomes a statement."""
        condition = self.expr(node.args[0])
        outer, values, bodies = self.pending, [], []
        for side in node.args[1:]:
            self.pending = []
            values.append(self.expr(side))
            bodies.append(self.pending)
        self.pending = outer
        if not any(bodies):
            return tvm.ir.Call(node.op, [condition, *values], ret_ty=node.ty, attrs=node.attrs)
        result = tirx.decl_buffer((1,), node.ty.dtype, name="branch", scope="local")
        yes, no = (
            _sequence([*body, tirx.BufferStore(result, value, [0])]) for body, value in zip(bodies, values, strict=True)
        )
        self.pending += [tirx.AllocBuffer(result), tirx.IfThenElse(condition, yes, no)]
        return tirx.BufferLoad(result, [0])

    def _bind(self, var: Any, value: Any) -> None:
        if _is_index(var, value):
            self.pending.append(tirx.Bind(var, value))
            return
        buffer = _element(var.name, var.ty)
        self.buffers[var] = buffer
        self.pending += [tirx.AllocBuffer(buffer), _write(buffer, value)]


def _element(name: str, ty: Any) -> Any:
    """A local buffer of one element (a vector is one): bools as bytes, of which TVM would not store a vector's right."""
    return tirx.decl_buffer((1,), str(ty.dtype).replace("bool", "int8"), name=name, scope="local")


def _write(buffer: Any, value: Any) -> Any:
    value = value if str(value.ty.dtype) == str(buffer.dtype) else tirx.Cast(buffer.dtype, value)
    return tirx.BufferStore(buffer, value, [0])


def _read(buffer: Any, ty: Any) -> Any:
    load = tirx.BufferLoad(buffer, [0])
    return load if str(ty.dtype) == str(buffer.dtype) else tirx.Cast(ty, load)


def _sequence(stmts: list[Any]) -> Any:
    return stmts[0] if len(stmts) == 1 else tirx.SeqStmt(stmts)


def _is_index(var: Any, value: Any) -> bool:
    """Whether a variable is a pointer, or an integer that no float has a part in."""
    if not isinstance(var.ty, tvm.ir.PrimType):
        return True
    return str(var.ty.dtype).startswith(("int", "uint")) and not any(_is_float(each) for each in walk(value))


def _is_float(node: Any) -> bool:
    return isinstance(node.ty, tvm.ir.PrimType) and str(node.ty.dtype).startswith(("float", "bfloat"))
