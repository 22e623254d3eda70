"""What only moves data, and stays after fusion, to kernels: transposes, concatenation, slices, padding, gathers.

Slices whose users are all generated element by element stay generated: there they cost nothing. A gather by run-time
indices is always a kernel, since kernels check indices and generated code does not: where Relax says of a negative one that it gives
NaN, it is refused too.
"""

from __future__ import annotations

import tvm
from tvm import relax

from ._dims import Dim, extents, shape_of
from ._indices import run_indices
from ._kernel_call import AttrValue, make_kernel_call
from ._ops import dtype_of, names, reshape, slice_of
from ._rewrite import Rewriter, is_call, rewrite

__all__ = ["lower_movement"]

_MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "edge": "edge", "circular": "wrap"}
_BITS = (8, 16, 32, 64)  # of the elements that the kernels move
_NOT_FUSED = names("call_dps_packed reshape permute_dims concat nn.pad take matmul strided_slice")


def lower_movement(mod: tvm.IRModule) -> tvm.IRModule:
    """Splits become slices first, so that parts that nobody wants are not made."""
    return rewrite(rewrite(mod, _split), _lower)


def _split(rw: Rewriter, var: relax.Var, value: relax.Expr) -> relax.Expr | None:
    if not is_call(value, "relax.split"):
        return None
    shapes = [shape for shape in map(shape_of, _parts(value)) if shape is not None]
    axis = int(value.attrs.axis) % value.args[0].ty.ndim
    if len(shapes) != len(value.ty.fields) or any(not isinstance(shape[axis], int) for shape in shapes):
        return None
    slices, start = [], 0
    for shape in shapes:
        stop = start + shape[axis]
        part = relax.op.strided_slice(value.args[0], [axis], [start], [stop], assume_inbound=True)
        slices.append(rw.emit(part, str(var.name)))
        start = stop
    return relax.Tuple(slices)


def _parts(value: relax.Call) -> list[relax.Var]:
    return [relax.Var("part", field) for field in value.ty.fields]


def _lower(rw: Rewriter, var: relax.Var, value: relax.Expr) -> relax.Expr | None:
    if not is_call(value) or not isinstance(var.ty, relax.TensorType) or not _has_movement_kernel(dtype_of(var)):
        return None
    name = str(value.op.name)
    if name == "relax.permute_dims":
        return _transpose(var, value)
    if name == "relax.concat":
        return _concat(var, value)
    if name == "relax.strided_slice":
        return _slice(rw, var, value)
    if name == "relax.nn.pad":
        return _pad(var, value)
    if name == "relax.take":
        return _gather(rw, var, value)
    return None


def _transpose(var: relax.Var, value: relax.Call) -> relax.Expr:
    ndim = var.ty.ndim
    axes = list(reversed(range(ndim))) if value.attrs.axes is None else [int(axis) % ndim for axis in value.attrs.axes]
    return make_kernel_call("transpose", [value.args[0]], var.ty, {"perm": axes}, name=str(var.name))


def _concat(var: relax.Var, value: relax.Call) -> relax.Expr | None:
    if not isinstance(value.args[0], relax.Tuple) or value.attrs.axis is None:
        return None
    axis = int(value.attrs.axis) % var.ty.ndim
    return make_kernel_call("concat", list(value.args[0].fields), var.ty, {"axis": axis}, name=str(var.name))


def _slice(rw: Rewriter, var: relax.Var, value: relax.Call) -> relax.Expr | None:
    source, target = shape_of(value.args[0]), shape_of(var)
    if source is None or target is None or _joins_users(rw, var):
        return None
    starts, steps = [0] * len(source), [1] * len(source)
    for axis, first, _, step in slice_of(value):
        start = _start(first, source[axis])
        if start is None or step is None or step < 1:
            return None
        starts[axis], steps[axis] = start, step
    return make_kernel_call("slice", [value.args[0]], var.ty, {"starts": starts, "steps": steps}, name=str(var.name))


def _start(first: int | None, extent: Dim) -> int | None:
    """Where a slice begins, counted from the front; None if that depends on a symbol."""
    if first is None or (first < 0 and not isinstance(extent, int)):
        return None
    start = first + extent if first < 0 else first
    return min(max(start, 0), extent) if isinstance(extent, int) else start


def _joins_users(rw: Rewriter, var: relax.Var) -> bool:
    """Whether all that use it become loops that read it element by element, and fuse with it."""
    users = rw.users(var)
    fused = all(is_call(expr) and str(expr.op.name) not in _NOT_FUSED for _, expr in users)
    return bool(users) and rw.original_use_count(var) == len(users) and fused


def _has_movement_kernel(dtype: str) -> bool:
    return dtype in ("bool", "bfloat16") or (
        dtype.rstrip("0123456789") in ("int", "uint", "float") and _bits(dtype) in _BITS
    )


def _bits(dtype: str) -> int:
    return int(dtype.lstrip("uintfloa"))


def _pad(var: relax.Var, value: relax.Call) -> relax.Expr | None:
    mode = _MODES.get(str(value.attrs.pad_mode))
    width = [int(w) for w in value.attrs.pad_width]
    if mode is None or any(w < 0 for w in width):
        return None
    attrs: dict[str, AttrValue | float] = {"before": width[0::2], "value": float(value.attrs.pad_value), "mode": mode}
    return make_kernel_call("pad", [value.args[0]], var.ty, attrs, name=str(var.name))


def _gather(rw: Rewriter, var: relax.Var, value: relax.Call) -> relax.Expr | None:
    table, indices = value.args
    if value.attrs.axis is None or str(value.attrs.mode) not in ("fast", "nan") or shape_of(table) is None:
        return None
    indices = run_indices(rw, indices)
    if indices is None:
        return None
    axis = int(value.attrs.axis) % table.ty.ndim
    shape = extents(table)
    out_ty = relax.TensorType([*shape[:axis], *extents(indices), *shape[axis + 1 :]], dtype_of(table))
    attrs: dict[str, AttrValue | float] = {"axis": axis, **({"wraps": 0} if str(value.attrs.mode) == "nan" else {})}
    call = make_kernel_call("gather", [table, indices], out_ty, attrs, name=str(var.name))
    return reshape(rw.emit(call, str(var.name)), extents(var))
