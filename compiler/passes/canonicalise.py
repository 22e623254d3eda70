"""One spelling for what has many: reshape-like operators, transpose chains, identities; no dead and no repeated
bindings."""

from __future__ import annotations

from typing import Any

import tvm
import tvm_ffi
from tvm import relax

from ._dims import Dim, same, same_shape, shape_of
from ._ops import dtype_of, moved_only_units, permute, permuted, regroup, reshape, slice_of
from ._rewrite import Rewriter, array_of, is_call, rewrite

__all__ = ["canonicalise"]

_RESHAPES = (
    "relax.expand_dims",
    "relax.squeeze",
    "relax.flatten",
    "relax.nn.batch_flatten",
    "relax.reshape",
    "relax.memory.view",
)


def canonicalise(mod: tvm.IRModule) -> tvm.IRModule:
    """Inline private functions; then rewrite until the number of bindings stands still (a few rounds at most)."""
    if sum(isinstance(func, relax.Function) for _, func in mod.functions_items()) > 1:
        mod = relax.transform.InlinePrivateFunctions()(mod)
    mod = relax.transform.Normalize()(mod)
    for _ in range(4):
        before = _shape_of_program(mod)
        mod = rewrite(mod, _Canonical())
        if _shape_of_program(mod) == before:
            break
    return mod


def _shape_of_program(mod: tvm.IRModule) -> list[str]:
    names = []
    for _, func in mod.functions_items():
        if isinstance(func, relax.Function):
            for block in func.body.blocks:
                for binding in block.bindings:
                    names.append(str(binding.value.op.name) if is_call(binding.value) else "")
    return names


class _Canonical:
    """The rule, with a memory of what was computed before (common subexpressions)."""

    def __init__(self) -> None:
        self._seen_values: dict[Any, list[tuple[relax.Expr, relax.Var]]] = {}
        self._walk: Rewriter | None = None

    def __call__(self, rw: Rewriter, var: relax.Var, value: relax.Expr) -> relax.Expr | None:
        if not is_call(value):
            return None
        name = str(value.op.name)
        result = value
        if name in _RESHAPES:
            result = _reshape(rw, value, shape_of(var))
        elif name == "relax.permute_dims":
            result = _permute(rw, value)
        elif name == "relax.nn.dropout":
            return relax.Tuple([value.args[0], value.args[0]])
        elif name == "relax.astype":
            if dtype_of(value.args[0]) == dtype_of(var):
                return value.args[0]
        elif name == "relax.broadcast_to":
            if same_shape(shape_of(value.args[0]), shape_of(var)):
                return value.args[0]
        elif name == "relax.concat":
            if isinstance(value.args[0], relax.Tuple) and len(value.args[0].fields) == 1:
                return value.args[0].fields[0]
        elif name == "relax.strided_slice":
            if same_shape(shape_of(value.args[0]), shape_of(var)) and _unit_strides(value):
                return value.args[0]
            result = _slice_below_permute(rw, value)
        elif name == "relax.take":
            result = _take_one(rw, value, shape_of(var))
        elif name == "relax.split":
            return _split_below_permute(rw, value)
        return self._existing_variable(rw, var, result)

    def _existing_variable(self, rw: Rewriter, var: relax.Var, value: relax.Expr) -> relax.Expr:
        """The variable that already holds this value, if there is one in scope of everything that follows."""
        if (
            not is_call(value)
            or rw.branching
            or str(value.op.name) in ("relax.call_tir", "relax.call_dps_packed", "relax.call_pure_packed")
        ):
            return value
        if self._walk is not rw:
            self._walk, self._seen_values = rw, {}
        key = (str(value.op.name), tuple(_key(arg) for arg in value.args))
        for other, bound in self._seen_values.setdefault(key, []):
            if tvm_ffi.structural_equal(other.attrs, value.attrs) if value.attrs is not None else other.attrs is None:
                return bound
        bound = rw.emit(value, str(var.name))
        if isinstance(bound, tvm.ir.Var):
            self._seen_values[key].append((value, bound))
        return bound


def _key(expr: relax.Expr) -> Any:
    if isinstance(expr, relax.Tuple):
        return tuple(_key(field) for field in expr.fields)
    if isinstance(expr, relax.ShapeExpr):
        return tuple(str(dim) if not isinstance(dim, tvm.ir.Var) else hash(dim) for dim in expr.values)
    if isinstance(expr, (tvm.ir.Var, tvm.ir.GenericConst)):
        return hash(expr)
    return (type(expr).__name__, str(expr))


def _reshape(rw: Rewriter, value: relax.Expr, shape: list[Dim] | None) -> relax.Expr:
    """A reshape of the first source in a chain of reshapes, below any transpose that it can pass."""
    source = value.args[0]
    if shape is None or (
        str(value.op.name) == "relax.memory.view" and len(value.args) > 1 and dtype_of(value) != dtype_of(source)
    ):
        return value
    while (inner := rw.call(source, "relax.reshape")) is not None:
        source = inner.args[0]
    turned = rw.call(source, "relax.permute_dims")
    if turned is not None:
        sunk = _sink(rw, turned, shape)
        if sunk is not None:
            return sunk
    return reshape(source, shape)


def _sink(rw: Rewriter, turned: relax.Call, shape: list[Dim]) -> relax.Expr | None:
    """reshape(permute(x)) as permute(reshape(x)), where the axes of every group that is reshaped lie together."""
    origin = shape_of(turned.args[0])
    if origin is None:
        return None
    axes = _axes(turned)
    groups = regroup(permuted(origin, axes), shape)
    if groups is None:
        return None
    real: list[tuple[int, list[int]]] = []  # (place in x, axes of the result)
    leading: list[int] = []
    for first, second in groups:
        places = [axes[i] for i in first if not same(origin[axes[i]], 1)]
        if not places:
            (real[-1][1] if real else leading).extend(second)
            continue
        between = [k for k in range(places[0], places[-1] + 1) if not same(origin[k], 1)]
        if places != between:
            return None
        real.append((places[0], second))
    if not real:
        return None
    real[0] = (real[0][0], leading + real[0][1])
    ordered = [axis for _, group in sorted(real, key=lambda entry: entry[0]) for axis in group]
    inner = rw.emit(reshape(turned.args[0], permuted(shape, ordered)))
    return _permute_of(rw, inner, [ordered.index(axis) for axis in range(len(shape))])


def _permute(rw: Rewriter, value: relax.Expr) -> relax.Expr:
    return _permute_of(rw, value.args[0], _axes(value), value)


def _permute_of(rw: Rewriter, source: relax.Expr, axes: list[int], value: relax.Expr | None = None) -> relax.Expr:
    """One transpose for a chain of them; a reshape where it only moves axes of extent 1."""
    while (inner := rw.call(source, "relax.permute_dims")) is not None:
        axes = permuted(_axes(inner), axes)
        source, value = inner.args[0], None
    shape = shape_of(source)
    if shape is not None and moved_only_units(shape, axes):
        target = permuted(shape, axes)
        while (view := rw.call(source, "relax.reshape")) is not None:
            source = view.args[0]
        return reshape(source, target)
    return value if value is not None else permute(source, axes)


def _split_below_permute(rw: Rewriter, value: relax.Call) -> relax.Expr | None:
    """split(permute(x)) as a tuple of permute(split(x)): so that the transposes meet what undoes them."""
    turned = rw.call(value.args[0], "relax.permute_dims")
    if turned is None or not rw.single_use(value.args[0]):
        return None
    axes = _axes(turned)
    sections = value.attrs.indices_or_sections
    axis = axes[int(value.attrs.axis) % len(axes)]
    parts = rw.emit(
        relax.op.split(turned.args[0], int(sections) if not hasattr(sections, "__len__") else list(sections), axis)
    )
    count = len(parts.ty.fields)
    return relax.Tuple([rw.emit(_permute_of(rw, rw.emit(relax.TupleGetItem(parts, i)), axes)) for i in range(count)])


def _slice_below_permute(rw: Rewriter, value: relax.Call) -> relax.Expr:
    """strided_slice(permute(x)) as permute(strided_slice(x))."""
    turned = rw.call(value.args[0], "relax.permute_dims")
    if turned is None:
        return value
    axes = _axes(turned)
    moved = [axes[axis] for axis, *_ in slice_of(value)]
    rest = [list(arg.fields) for arg in value.args[2:]]
    part = relax.op.strided_slice(turned.args[0], moved, *rest, assume_inbound=bool(value.attrs.assume_inbound))
    inner = rw.emit(part)
    return _permute_of(rw, inner, axes)


def _take_one(rw: Rewriter, value: relax.Call, shape: list[Dim] | None) -> relax.Expr:
    """take of one constant position along an axis as a slice, which fuses, packs and moves better."""
    index = array_of(value.args[1])
    source = shape_of(value.args[0])
    if source is None or shape is None or value.attrs.axis is None:
        return value
    if index is None or index.size != 1:
        return _take_below_permute(rw, value)
    axis = int(value.attrs.axis) % len(source)
    place, extent = int(index.reshape(-1)[0]), source[axis]
    if not isinstance(extent, int) or not -extent <= place < extent:
        return value
    place %= extent
    part = rw.emit(relax.op.strided_slice(value.args[0], [axis], [place], [place + 1], assume_inbound=True))
    return reshape(part, shape)


def _take_below_permute(rw: Rewriter, value: relax.Call) -> relax.Expr:
    """take(permute(x), indices [K]) as permute(take(x, indices))."""
    turned, indices = rw.call(value.args[0], "relax.permute_dims"), value.args[1]
    if turned is None or indices.ty.ndim != 1:
        return value
    axes = _axes(turned)
    axis = axes[int(value.attrs.axis) % len(axes)]
    inner = rw.emit(relax.op.take(turned.args[0], indices, axis, mode=str(value.attrs.mode)))
    return _permute_of(rw, inner, axes)


def _axes(call: relax.Call) -> list[int]:
    if call.attrs.axes is None:
        return list(reversed(range(call.args[0].ty.ndim)))
    ndim = len(call.attrs.axes)
    return [int(axis) % ndim for axis in call.attrs.axes]


def _unit_strides(call: relax.Call) -> bool:
    """Whether a strided_slice walks forward by one along every axis."""
    return all(stride == 1 for *_, stride in slice_of(call))
