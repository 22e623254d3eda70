"""Layer norm, RMS norm and softmax, whole or in pieces, to kernel calls.

Pieces as exporters write them: `d = x - mean(x); d / sqrt(mean(d * d) + eps)` with the square as power, product or
`square`, the root as sqrt, rsqrt or a power; `x * rsqrt(mean(x * x) + eps)`; then scale and shift by vectors of the
last axis.
"""

from __future__ import annotations

import numpy as np
import tvm
from tvm import relax

from ._dims import Dim, shape_of
from ._kernel_call import make_kernel_call, read_kernel_call
from ._ops import constant, is_f32, reshape
from ._rewrite import Rewriter, array_of, is_call, rewrite, scalar_of

__all__ = ["match_norms"]

_NORMS = ("layer_norm_f32", "rms_norm_f32")


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
    if name == "relax.divide":
        found = _softmax_pieces(rw, var, value)
        return found if found is not None else _normalised(rw, var, value)
    if name == "relax.multiply":
        found = _normalised(rw, var, value)
        return found if found is not None else _scaled(rw, value)
    if name == "relax.add":
        return _shifted(rw, value)
    return None


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
    for vector, used, op in (
        (value.args[1], value.attrs.scale, relax.op.multiply),
        (value.args[2], value.attrs.center, relax.op.add),
    ):
        if used:
            array = array_of(vector)
            spreaded = constant(array.reshape(spread)) if array is not None else rw.emit(reshape(vector, spread))
            out = rw.emit(op(out, spreaded))
    return out


def _whole_softmax(var: relax.Var, value: relax.Call) -> relax.Expr | None:
    ndim = value.args[0].ty.ndim
    if ndim == 0 or int(value.attrs.axis) % ndim != ndim - 1:
        return None
    attrs = {"log": 1} if is_call(value, "relax.nn.log_softmax") else {}
    return make_kernel_call("softmax_f32", [value.args[0]], var.ty, attrs, name=str(var.name))


def _softmax_pieces(rw: Rewriter, var: relax.Var, value: relax.Call) -> relax.Expr | None:
    """exp(x - max(x)) / sum(exp(x - max(x))) over the last axis."""
    top, total = value.args
    summed = rw.call(total, "relax.sum")
    raised = rw.call(top, "relax.exp")
    if summed is None or raised is None or not summed.args[0].same_as(top) or not _last_axis(summed, top):
        return None
    moved = rw.call(raised.args[0], "relax.subtract")
    if moved is None:
        return None
    largest = rw.call(moved.args[1], "relax.max")
    if largest is None or not largest.args[0].same_as(moved.args[0]) or not _last_axis(largest, moved.args[0]):
        return None
    return make_kernel_call("softmax_f32", [moved.args[0]], var.ty, {}, name=str(var.name))


def _last_axis(reduction: relax.Call, source: relax.Expr) -> bool:
    axis = reduction.attrs.axis
    return (
        bool(reduction.attrs.keepdims)
        and axis is not None
        and [int(a) % source.ty.ndim for a in axis] == [source.ty.ndim - 1]
    )


def _normalised(rw: Rewriter, var: relax.Var, value: relax.Call) -> relax.Expr | None:
    """d / sqrt(mean(d^2) + eps) or d * rsqrt(...): layer norm where d = x - mean(x), else RMS norm."""
    pairs = [(value.args[0], value.args[1])]
    if is_call(value, "relax.multiply"):
        pairs.append((value.args[1], value.args[0]))
    for top, root in pairs:
        found = _inverse_root(rw, root) if is_call(value, "relax.multiply") else _root(rw, root)
        if found is None:
            continue
        source, epsilon = found
        variance = rw.call(source, "relax.variance")
        centre = _centred(rw, top)
        if (
            variance is not None
            and centre is not None
            and _last_axis(variance, centre)
            and variance.args[0].same_as(centre)
        ):
            return make_kernel_call(_NORMS[0], [centre], var.ty, {"epsilon": epsilon}, name=str(var.name))
        squared = _mean_square(rw, source)
        if squared is None:
            continue
        if squared.same_as(top) or (centre is not None and _same_centre(rw, squared, centre)):
            if centre is not None:
                return make_kernel_call(_NORMS[0], [centre], var.ty, {"epsilon": epsilon}, name=str(var.name))
            return make_kernel_call(_NORMS[1], [top], var.ty, {"epsilon": epsilon}, name=str(var.name))
    return None


def _same_centre(rw: Rewriter, expr: relax.Expr, centre: relax.Expr) -> bool:
    other = _centred(rw, expr)
    return other is not None and other.same_as(centre)


def _centred(rw: Rewriter, expr: relax.Expr) -> relax.Expr | None:
    """x of x - mean(x, last axis)."""
    moved = rw.call(expr, "relax.subtract")
    if moved is None:
        return None
    mean = rw.call(moved.args[1], "relax.mean")
    if mean is None or not mean.args[0].same_as(moved.args[0]) or not _last_axis(mean, moved.args[0]):
        return None
    return moved.args[0]


def _mean_square(rw: Rewriter, expr: relax.Expr) -> relax.Expr | None:
    """d of mean(d^2, last axis)."""
    mean = rw.call(expr, "relax.mean")
    if mean is None or not _last_axis(mean, mean.args[0]):
        return None
    square = rw.definition(mean.args[0])
    if is_call(square, "relax.square"):
        return square.args[0]
    if is_call(square, "relax.multiply") and square.args[0].same_as(square.args[1]):
        return square.args[0]
    if is_call(square, "relax.power") and scalar_of(square.args[1]) == 2.0:
        return square.args[0]
    return None


def _root(rw: Rewriter, expr: relax.Expr) -> tuple[relax.Expr, float] | None:
    """(v, eps) of sqrt(v + eps)."""
    root = rw.definition(expr)
    if is_call(root, "relax.sqrt") or (is_call(root, "relax.power") and scalar_of(root.args[1]) == 0.5):
        return _plus_epsilon(rw, root.args[0])
    return None


def _inverse_root(rw: Rewriter, expr: relax.Expr) -> tuple[relax.Expr, float] | None:
    """(v, eps) of rsqrt(v + eps), 1 / sqrt(v + eps), (v + eps) ^ -0.5."""
    root = rw.definition(expr)
    if is_call(root, "relax.rsqrt") or (is_call(root, "relax.power") and scalar_of(root.args[1]) == -0.5):
        return _plus_epsilon(rw, root.args[0])
    if is_call(root, "relax.divide") and scalar_of(root.args[0]) == 1.0:
        return _root(rw, root.args[1])
    return None


def _plus_epsilon(rw: Rewriter, expr: relax.Expr) -> tuple[relax.Expr, float] | None:
    added = rw.call(expr, "relax.add")
    if added is None:
        return None
    for source, epsilon in ((added.args[0], added.args[1]), (added.args[1], added.args[0])):
        value = scalar_of(epsilon)
        if value is not None:
            return source, value
    return None


def _scaled(rw: Rewriter, value: relax.Call) -> relax.Expr | None:
    """norm(x) * gamma, where the norm has neither gamma nor beta."""
    return _with_vector(rw, value, 1)


def _shifted(rw: Rewriter, value: relax.Call) -> relax.Expr | None:
    """layer_norm(x) + beta, where the norm has no beta."""
    return _with_vector(rw, value, 2)


def _with_vector(rw: Rewriter, value: relax.Call, place: int) -> relax.Expr | None:
    for source, vector in ((value.args[0], value.args[1]), (value.args[1], value.args[0])):
        call = read_kernel_call(rw.definition(source)) if isinstance(source, tvm.ir.Var) else None
        if call is None or call.contract not in _NORMS[: 1 if place == 2 else 2] or not rw.single_use(source):
            continue
        args = list(call.args) + [None] * (3 - len(call.args))
        if len(call.args) > 3 or any(arg is not None for arg in args[place:]):
            continue
        row = _row(vector, shape_of(source))
        if row is None:
            continue
        args[place] = row
        return make_kernel_call(call.contract, args, source.ty, call.attrs, name=call.name)
    return None


def _row(vector: relax.Expr, shape: list[Dim] | None) -> relax.Expr | None:
    """A constant that broadcasts along the last axis only, as a vector of it (a scalar is spread)."""
    array = array_of(vector)
    if (
        array is None
        or shape is None
        or array.dtype != np.float32
        or array.ndim > len(shape)
        or not isinstance(shape[-1], int)
    ):
        return None
    if array.size not in (1, shape[-1]) or (array.size > 1 and array.shape[-1] != array.size):
        return None
    return constant(np.ascontiguousarray(np.broadcast_to(array.reshape(-1), (shape[-1],))))
