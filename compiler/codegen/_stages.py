"""Takes a PrimFunc of TVM's operator library apart: buffers, and stages that each compute one of them over a box of loops."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import tvm
import tvm_ffi
from tvm import s_tir, tirx

__all__ = ["Loop", "Stage", "Stages", "Store", "as_int64", "children", "parse_stages", "replace_vars", "walk"]


@dataclass(frozen=True)
class Loop:
    """One loop from 0 to `extent`; `reduces` if its iterations contribute to one element. `var` is what expressions of the source call
    it; `index` is the int64 variable that runs in its place, so that addresses need no conversions."""

    var: Any
    index: Any
    extent: Any
    reduces: bool


@dataclass(frozen=True)
class Store:
    buffer: Any
    indices: tuple[Any, ...]
    value: Any


@dataclass(frozen=True)
class Stage:
    """`loops` outermost first; `env` says what the block's own variables are in terms of the loops'; `binds` come before the
    stores. A reduction has `inits`, one for each store."""

    name: str
    loops: tuple[Loop, ...]
    env: dict[Any, Any]
    binds: tuple[tuple[Any, Any], ...]
    stores: tuple[Store, ...]
    inits: tuple[Store, ...] = ()

    @property
    def spatial(self) -> list[Loop]:
        return [loop for loop in self.loops if not loop.reduces]

    @property
    def reduce(self) -> list[Loop]:
        return [loop for loop in self.loops if loop.reduces]


@dataclass(frozen=True)
class Stages:
    """A function's stages in the order in which they may run, and the buffers between them."""

    stages: list[Stage]
    intermediates: list[Any] = field(default_factory=list)


def parse_stages(func: tirx.PrimFunc) -> Stages | None:
    """The stages of `func`; None if it has loops inside of blocks, guards, or reads what it writes: no plain chain of stages."""
    root = func.body
    if not isinstance(root, s_tir.SBlockRealize) or root.block.iter_vars or root.block.match_buffers:
        return None
    buffers = [*func.params, *root.block.alloc_buffers]
    if any(tirx.is_buffer_var(each) and (len(each.strides) or not _is_zero(each.elem_offset)) for each in buffers):
        return None
    body = root.block.body
    stages = []
    for nest in body.seq if isinstance(body, tirx.SeqStmt) else [body]:
        stage = _parse_nest(nest)
        if stage is None:
            return None
        stages.append(stage)
    return Stages(stages, list(root.block.alloc_buffers))


def _is_zero(value: Any) -> bool:
    return value is None or (isinstance(value, tirx.IntImm) and int(value.value) == 0)


def _parse_nest(nest: Any) -> Stage | None:
    loops = []
    while isinstance(nest, tirx.For):
        if nest.kind != tirx.ForKind.SERIAL or not _is_zero(nest.min) or nest.annotations:
            return None
        loops.append((nest.loop_var, nest.extent))
        nest = nest.body
    if not isinstance(nest, s_tir.SBlockRealize):
        return None
    block = nest.block
    predicate = nest.predicate
    if (
        not (isinstance(predicate, tirx.IntImm) and int(predicate.value) == 1)
        or block.alloc_buffers
        or block.match_buffers
    ):
        return None
    reduced: set[Any] = set()
    spatial: set[Any] = set()
    for iter_var, value in zip(block.iter_vars, nest.iter_values):
        if iter_var.iter_type not in (tirx.IterVar.DataPar, tirx.IterVar.CommReduce):
            return None
        names = {var for var in walk(value) if isinstance(var, tirx.Var)}
        (reduced if iter_var.iter_type == tirx.IterVar.CommReduce else spatial).update(names)
    if reduced & spatial:
        return None
    env = {iter_var.var: value for iter_var, value in zip(block.iter_vars, nest.iter_values)}
    body = _parse_body(block.body)
    init = ([], []) if block.init is None else _parse_body(block.init)
    if body is None or init is None or init[0]:
        return None
    if bool(reduced) != bool(init[1]):
        return None
    stage = Stage(
        str(block.name_hint),
        tuple(Loop(var, tirx.Var(var.name, "int64"), as_int64(extent), var in reduced) for var, extent in loops),
        env,
        tuple(body[0]),
        tuple(body[1]),
        tuple(init[1]),
    )
    return stage if _is_pure(stage) else None


def _parse_body(body: Any) -> tuple[list[tuple[Any, Any]], list[Store]] | None:
    binds: list[tuple[Any, Any]] = []
    stores: list[Store] = []
    for stmt in body.seq if isinstance(body, tirx.SeqStmt) else [body]:
        if isinstance(stmt, tirx.Bind) and not stores:
            binds.append((stmt.var, stmt.value))
        elif isinstance(stmt, tirx.BufferStore):
            stores.append(Store(stmt.buffer, tuple(stmt.indices), stmt.value))
        else:
            return None
    return binds, stores


def _is_pure(stage: Stage) -> bool:
    """No packed or external call with an effect, and no read of a written buffer but a reduction's own element."""
    written = {store.buffer: store for store in stage.stores}
    if len(written) != len(stage.stores) or not stage.stores:
        return False
    if stage.inits and [init.buffer for init in stage.inits] != [store.buffer for store in stage.stores]:
        return False
    for value in (*(value for _, value in stage.binds), *(store.value for store in (*stage.stores, *stage.inits))):
        for node in walk(value):
            if isinstance(node, tvm.ir.Call) and node.op.name in _IMPURE:
                return False
            if isinstance(node, tvm.ir.TensorLoad) and node.source in written:
                store = written[node.source]
                same = all(
                    tvm_ffi.structural_equal(a, b, map_free_vars=False) for a, b in zip(node.indices, store.indices)
                )
                if not stage.inits or not same:
                    return False
            if isinstance(node, (tirx.Ramp, tirx.Broadcast, tirx.Shuffle, tirx.Reduce)):
                return False
    return True


_IMPURE = frozenset(
    {
        "tirx.call_extern", "tirx.tvm_call_packed", "tirx.tvm_call_cpacked", "tirx.call_llvm_intrin", "tirx.tvm_access_ptr", "tirx.address_of",
        "tirx.atomic_add", "tirx.tvm_call_packed_lowered", "tirx.tvm_call_cpacked_lowered", "tirx.call_ffi_kernel",
    }
)  # fmt: skip


def children(expr: Any) -> list[Any]:
    """The direct operands of an expression."""
    if isinstance(expr, tvm.ir.TensorLoad):
        return list(expr.indices)
    if isinstance(expr, tvm.ir.Call):
        return [arg for arg in expr.args if isinstance(arg, tvm.ir.Expr)]
    if isinstance(expr, (tirx.Var, tirx.IntImm, tirx.FloatImm)):
        return []
    if isinstance(expr, (tirx.Cast, tirx.Broadcast)):
        return [expr.value]
    if isinstance(expr, tirx.Select):
        return [expr.condition, expr.true_value, expr.false_value]
    if isinstance(expr, (tirx.Not, tirx.BitwiseNot)):
        return [expr.a]
    if isinstance(expr, tirx.Let):
        return [expr.value, expr.body]
    if hasattr(expr, "a") and hasattr(expr, "b"):
        return [expr.a, expr.b]
    return []


def as_int64(value: Any) -> Any:
    """An integer expression in 64 bits."""
    if isinstance(value, tirx.IntImm):
        return tirx.IntImm("int64", int(value.value))
    return value if str(value.ty.dtype) == "int64" else tirx.Cast("int64", value)


def walk(expr: Any) -> Iterator[Any]:
    """`expr` and everything below it."""
    pending = [expr]
    while pending:
        node = pending.pop()
        yield node
        pending.extend(children(node))


def replace_vars(expr: Any, mapping: Mapping[Any, Any]) -> Any:
    """An integer expression without loads, with variables replaced."""
    if isinstance(expr, tirx.Var):
        return mapping.get(expr, expr)
    if not any(isinstance(node, tirx.Var) and node in mapping for node in walk(expr)):
        return expr
    if isinstance(expr, tirx.Cast):
        return tirx.Cast(expr.ty, replace_vars(expr.value, mapping))
    if isinstance(expr, (tirx.Not, tirx.BitwiseNot)):
        return type(expr)(replace_vars(expr.a, mapping))
    if isinstance(expr, tirx.Select):
        return tirx.Select(*(replace_vars(each, mapping) for each in children(expr)))
    if isinstance(expr, tvm.ir.Call):
        args = [replace_vars(arg, mapping) if isinstance(arg, tvm.ir.Expr) else arg for arg in expr.args]
        return tvm.ir.Call(expr.op, args, ret_ty=expr.ty, attrs=expr.attrs)
    return type(expr)(replace_vars(expr.a, mapping), replace_vars(expr.b, mapping))
