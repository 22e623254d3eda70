"""Sums, differences and products of whole numbers wrap around in generated code, as they do in the frameworks.

TVM reasons about them as if they had no limits ((x * 6) // 3 becomes x * 2), and has LLVM leave undefined what overflows 32 or 64 bits. Of
numbers that were read from a tensor each is therefore computed in twice the width and cut: LLVM makes one plain instruction of that.
Indices, which do not overflow, stay as they are, so that what is known of them makes divisions and addresses cheap.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import tirx

from ._stages import walk
from ._statements import StatementRewriter

__all__ = ["wrap_around"]

_TWICE = {"int32": "int64", "uint32": "uint64", "int64": "int128", "uint64": "uint128"}


def wrap_around(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """`func`, scheduled, whose whole numbers wrap around."""
    return _Wrap().func(func)


class _Wrap(StatementRewriter):
    def __init__(self) -> None:
        self.read: set[Any] = set()  # variables that hold what was read from tensors

    def stmt(self, node: Any) -> Any:
        done = super().stmt(node)
        if isinstance(done, tirx.Bind):
            self._note(done.var, done.value)
        return done

    def expr(self, node: Any) -> Any:
        if isinstance(node, tirx.Let):
            value = self.expr(node.value)
            self._note(node.var, value)
            return tirx.Let(node.var, value, self.expr(node.body))
        return super().expr(node)

    def leave(self, node: Any) -> Any:
        if not isinstance(node, (tirx.Add, tirx.Sub, tirx.Mul)):
            return node
        dtype = str(node.ty.dtype)
        wide = _TWICE.get(dtype)
        if wide is None or not (self._is_read(node.a) or self._is_read(node.b)):
            return node
        return tirx.Cast(dtype, type(node)(tirx.Cast(wide, node.a), tirx.Cast(wide, node.b)))

    def _note(self, var: Any, value: Any) -> None:
        if isinstance(var.ty, tvm.ir.PrimType) and str(var.ty.dtype) in _TWICE and self._is_read(value):
            self.read.add(var)

    def _is_read(self, value: Any) -> bool:
        return any(
            isinstance(node, tvm.ir.TensorLoad) or (isinstance(node, tirx.Var) and node in self.read)
            for node in walk(value)
        )
