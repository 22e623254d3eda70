"""Layer norm, RMS norm and softmax, whole or in pieces, to kernel calls.

Pieces as exporters write them are the formulas below, and then scale and shift by vectors of the last axis."""

from __future__ import annotations

import numpy as np
import tvm
from tvm import relax

from ._dims import Dim, same_shape, shape_of
from ._kernel_call import make_kernel_call, read_kernel_call
from ._ops import constant, is_f32, reshape, row_of
from ._pattern import Number, Pattern, Rows, op, tensor
from ._rewrite import Rewriter, array_of, is_call, rewrite

__all__ = ["match_norms"]

_NORMS = ("layer_norm_f32", "rms_norm_f32")


def _over_last(reduction: relax.Call) -> bool:
    axis, ndim = reduction.attrs.axis, reduction.args[0].ty.ndim
    return bool(reduction.attrs.keepdims) and axis is not None and [int(a) % ndim for a in axis] == [ndim - 1]


def _row(name: str, x: Pattern) -> Pattern:
    """A reduction over the last axis, which is kept."""
    return op(name, x, where=_over_last)


X, EPSILON = tensor("x"), Number("epsilon")
_CENTRED = tensor("centred", op("subtract", X, _row("mean", X)))
_RAISED = tensor("raised", op("exp", op("subtract", X, _row("max", X))))
_PIECES = Rows(
    (_CENTRED * (_row("variance", X) + EPSILON) ** -0.5, "layer_norm_f32"),
    (_CENTRED * (_row("mean", _CENTRED**2) + EPSILON) ** -0.5, "layer_norm_f32"),
    (X * (_row("mean", X**2) + EPSILON) ** -0.5, "rms_norm_f32"),
    (_RAISED * _row("sum", _RAISED) ** -1, "softmax_f32"),
    shared=True,
)


def match_norms(mod: tvm.IRModule) -> tvm.IRModule:
    return rewrite(mod, _match)


def _match(rw: Rewriter, var: relax.Var, value: relax.Expr) -> relax.Expr | None:
    if not is_call(value) or not is_f32(value):
        return None
    name = str(value.op.name)
    if name in ("relax.nn.layer_norm", "relax.nn.rms_norm"):
        return _whole_norm(rw, var, value)
    if name in ("relax.nn.group_norm", "relax.nn.instance_norm"):
        return _group_norm(rw, var, value)
    if name in ("relax.nn.softmax", "relax.nn.log_softmax"):
        return _whole_softmax(var, value)
    found = _pieces(rw, var, value)
    if found is None and name == "relax.multiply":  # norm(x) * gamma, where the norm has neither gamma nor beta
        return _with_vector(rw, value, 1)
    if found is None and name == "relax.add":  # layer_norm(x) + beta, where the norm has no beta
        return _with_vector(rw, value, 2)
    return found


def _whole_norm(rw: Rewriter, var: relax.Var, value: relax.Call) -> relax.Expr | None:
    """The operators themselves; several trailing axes become one by a reshape."""
    x = value.args[0]
    shape = shape_of(x)
    is_layer = is_call(value, "relax.nn.layer_norm")
    if shape is None:
        return None
    axes = sorted(int(axis) % len(shape) for axis in value.attrs.axes)
    if axes != list(range(len(shape) - len(axes), len(shape))):
        return None
    vectors: list[relax.Expr | None] = [value.args[1], value.args[2] if is_layer else None]
    if is_layer:
        used = (value.attrs.scale, value.attrs.center)
        vectors = [vector if wanted else None for vector, wanted in zip(vectors, used, strict=True)]
    epsilon = float(value.attrs.epsilon)
    contract = _NORMS[0] if is_layer else _NORMS[1]
    if len(axes) == 1:
        return make_kernel_call(contract, [x, *vectors], var.ty, {"epsilon": epsilon}, name=str(var.name))
    flat = _flattened(shape, axes[0])
    if flat is None:
        return None
    inner = rw.emit(reshape(x, flat))
    vectors = [None if vector is None else rw.emit(reshape(vector, flat[-1:])) for vector in vectors]
    out = rw.emit(
        make_kernel_call(contract, [inner, *vectors], inner.ty, {"epsilon": epsilon}, name=str(var.name)), str(var.name)
    )
    return reshape(out, shape)


def _flattened(shape: list[Dim], first: int) -> list[Dim] | None:
    """The shape with all axes from `first` on as one, which must be static."""
    if any(not isinstance(extent, int) for extent in shape[first:]):
        return None
    return [*shape[:first], int(np.prod(shape[first:], dtype=np.int64))]


def _group_norm(rw: Rewriter, var: relax.Var, value: relax.Call) -> relax.Expr | None:
    """[N, C, ...] as rows of one group each through layer norm, then scale and shift per channel."""
    x = value.args[0]
    shape = shape_of(x)
    if shape is None or len(shape) < 3 or not isinstance(shape[1], int):
        return None
    first = int(value.attrs.channel_axis)
    axes = [int(axis) for axis in value.attrs.axes]
    if first % len(shape) != 1 or sorted(axis % len(shape) for axis in axes) != list(range(2, len(shape))):
        return None
    groups = int(value.attrs.num_groups) if is_call(value, "relax.nn.group_norm") else shape[1]
    inner: Dim = shape[1] // groups
    for extent in shape[2:]:
        inner = inner * extent
    rows = rw.emit(reshape(x, [shape[0], groups, inner]))
    call = make_kernel_call(_NORMS[0], [rows], rows.ty, {"epsilon": float(value.attrs.epsilon)}, name=str(var.name))
    out = rw.emit(reshape(rw.emit(call, str(var.name)), shape))
    spread = [shape[1]] + [1] * (len(shape) - 2)
    for vector, used, join in (
        (value.args[1], value.attrs.scale, relax.op.multiply),
        (value.args[2], value.attrs.center, relax.op.add),
    ):
        if used:
            array = array_of(vector)
            spreaded = constant(array.reshape(spread)) if array is not None else rw.emit(reshape(vector, spread))
            out = rw.emit(join(out, spreaded))
    return out


def _whole_softmax(var: relax.Var, value: relax.Call) -> relax.Expr | None:
    ndim = value.args[0].ty.ndim
    if ndim == 0 or int(value.attrs.axis) % ndim != ndim - 1:
        return None
    attrs = {"log": 1} if is_call(value, "relax.nn.log_softmax") else {}
    return make_kernel_call("softmax_f32", [value.args[0]], var.ty, attrs, name=str(var.name))


def _pieces(rw: Rewriter, var: relax.Var, value: relax.Call) -> relax.Expr | None:
    row = _PIECES.find(rw, value)
    if row is None:
        return None
    contract, found = row
    x = found.tensors["x"]
    attrs = {"epsilon": found.numbers["epsilon"]} if contract in _NORMS else {}
    return (
        make_kernel_call(contract, [x], var.ty, attrs, name=str(var.name))
        if same_shape(shape_of(x), shape_of(var))
        else None
    )


def _with_vector(rw: Rewriter, value: relax.Call, place: int) -> relax.Expr | None:
    for source, vector in ((value.args[0], value.args[1]), (value.args[1], value.args[0])):
        call = read_kernel_call(rw.definition(source)) if isinstance(source, tvm.ir.Var) else None
        if call is None or call.contract not in _NORMS[: 1 if place == 2 else 2] or not rw.single_use(source):
            continue
        args = list(call.args) + [None] * (3 - len(call.args))
        if len(call.args) > 3 or any(arg is not None for arg in args[place:]):
            continue
        row = row_of(vector, shape_of(source))
        if row is None:
            continue
        args[place] = constant(row)
        return make_kernel_call(call.contract, args, source.ty, call.attrs, name=call.name)
    return None
