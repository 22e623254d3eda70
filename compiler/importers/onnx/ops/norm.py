"""Normalisation and softmax."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax, te, tirx

from ..._positions import position_of_extreme
from .._exprs import constant, dims_of, dtype_of, shape_expr
from .._node import Node
from .._registry import op
from ._te import elementwise, imm, lowest
from .reduce import reduce_te, summed

_NARROW = 64  # channels that a window may have where it is not known how many there are


def _half(dtype: str) -> bool:
    return dtype in ("float16", "bfloat16")


@op("BatchNormalization", since=[1, 6, 7, 9, 14, 15])
def batch_normalization(n: Node) -> Any:
    n.float_only()
    epsilon = n.float_attr("epsilon", 1e-5)
    x, dtype = n.x(0), n.dtype(0)
    training = n.flag("training_mode") if n.version >= 14 else len([o for o in n.proto.output if o]) > 1
    if n.version < 7:
        training = not n.flag("is_test")
    if n.version < 9 and n.int_attr("spatial", 1) != 1:
        raise n.refuse("with spatial = 0")
    scale, bias, mean, var = (n.x(i) for i in range(1, 5))
    if training:
        return _batch_norm_training(n, x, scale, bias, mean, var, epsilon)
    if dtype == "float32" and all(dtype_of(v) == "float32" for v in (scale, bias, mean, var)):
        return relax.TupleGetItem(
            n.emit(relax.op.nn.batch_norm(x, scale, bias, mean, var, axis=1, epsilon=epsilon, training=False)), 0
        )
    wide = "float64" if dtype == "float64" else "float32"
    dims = [1] * n.rank(0)
    dims[1 if n.rank(0) > 1 else 0] = dims_of(scale)[0]
    s, b, m, v = (n.reshape(n.cast(t, wide), dims) for t in (scale, bias, mean, var))
    return _affine(n, x, m, v, s, b, epsilon, wide)


def _affine(n: Node, x: Any, mean: Any, var: Any, scale: Any, bias: Any, epsilon: float, wide: str) -> Any:
    dtype = dtype_of(x)

    def element(p: Any, m: Any, v: Any, s: Any, b: Any) -> Any:
        return tirx.Cast(dtype, (tirx.Cast(wide, p) - m) / tirx.sqrt(v + imm(epsilon, wide)) * s + b)

    return elementwise(n, element, x, mean, var, scale, bias)


def _batch_norm_training(n: Node, x: Any, scale: Any, bias: Any, mean: Any, var: Any, epsilon: float) -> Any:
    if n.version < 14:
        raise n.refuse("in training mode before version 14")
    momentum = n.float_attr("momentum", 0.9)
    dtype = n.dtype(0)
    wide = "float64" if dtype == "float64" else "float32"
    axes = [a for a in range(n.rank(0)) if a != 1]
    f = n.cast(x, wide)
    now_mean = n.emit(relax.op.mean(f, axes, True))
    off = n.emit(relax.op.subtract(f, now_mean))
    now_var = n.emit(relax.op.mean(n.emit(relax.op.multiply(off, off)), axes, True))
    channels = dims_of(scale)
    dims = [1] * n.rank(0)
    dims[1] = channels[0]
    y = _affine(
        n,
        x,
        now_mean,
        now_var,
        n.reshape(n.cast(scale, wide), dims),
        n.reshape(n.cast(bias, wide), dims),
        epsilon,
        wide,
    )

    def blend(old: Any, new: Any) -> Any:
        kind = dtype_of(old)
        flat = n.reshape(new, list(channels))
        return elementwise(
            n,
            lambda o, v: tirx.Cast(kind, tirx.Cast(wide, o) * imm(momentum, wide) + v * imm(1.0 - momentum, wide)),
            old,
            flat,
            name="running",
        )

    return [y, blend(mean, now_mean), blend(var, now_var)]


@op("InstanceNormalization", since=[6, 22])
def instance_normalization(n: Node) -> Any:
    n.float_only()
    x, dtype = n.x(0), n.dtype(0)
    wide = "float64" if dtype == "float64" else "float32"
    axes = list(range(2, n.rank(0)))
    epsilon = n.float_attr("epsilon", 1e-5)
    if dtype == "float32":
        return relax.op.nn.instance_norm(x, n.x(1), n.x(2), 1, axes, epsilon)
    dims = [1, dims_of(n.x(1))[0], *([1] * len(axes))]
    mean, var = _moments(n, n.cast(x, wide), axes)
    return _affine(
        n, x, mean, var, n.reshape(n.cast(n.x(1), wide), dims), n.reshape(n.cast(n.x(2), wide), dims), epsilon, wide
    )


def _moments(n: Node, f: Any, axes: list[int]) -> tuple[Any, Any]:
    """(mean, variance) with the reduced axes kept."""
    mean = n.emit(relax.op.mean(f, axes, True))
    off = n.emit(relax.op.subtract(f, mean))
    return mean, n.emit(relax.op.mean(n.emit(relax.op.multiply(off, off)), axes, True))


@op("MeanVarianceNormalization", since=[9, 13])
def mean_variance_normalization(n: Node) -> Any:
    """ONNX's definition takes the mean's square from that of the squares, which rounding makes less than 0 where the numbers hardly differ: its
    root is NaN then. The mean of the squares of what is off the mean is the same number, and never is."""
    n.float_only()
    x, dtype = n.x(0), n.dtype(0)
    wide = "float64" if dtype == "float64" else "float32"
    axes = n.axes(n.ints_attr("axes", [0, 2, 3]), n.rank(0)) or list(range(n.rank(0)))
    mean, var = _moments(n, n.cast(x, wide), axes)

    def element(p: Any, m: Any, v: Any) -> Any:
        return tirx.Cast(dtype, (tirx.Cast(wide, p) - m) / (tirx.sqrt(v) + imm(1e-9, wide)))

    return elementwise(n, element, x, mean, var)


@op("GroupNormalization", since=[18, 21])
def group_normalization(n: Node) -> Any:
    n.float_only()
    x, dtype = n.x(0), n.dtype(0)
    groups = n.int_attr("num_groups")
    epsilon = n.float_attr("epsilon", 1e-5)
    dims = dims_of(x)
    scale, bias = n.x(1), n.x(2)
    if n.version == 18:
        # One factor a group: repeat it for the group's channels.
        if not isinstance(dims[1], int):
            raise n.refuse("with a dynamic number of channels")
        per = dims[1] // groups
        scale, bias = (n.emit(relax.op.repeat(v, per, 0)) for v in (scale, bias))
    if dtype == "float32":
        return relax.op.nn.group_norm(x, scale, bias, groups, 1, list(range(2, len(dims))), epsilon)
    wide = "float64" if dtype == "float64" else "float32"
    rest = [n.math.floordiv(dims[1], groups), *dims[2:]]
    f = n.reshape(n.cast(x, wide), [dims[0], groups, *rest])
    mean, var = _moments(n, f, list(range(2, 2 + len(rest))))
    norm = elementwise(n, lambda v, m, s: (v - m) / tirx.sqrt(s + imm(epsilon, wide)), f, mean, var)
    shape = [1, dims[1], *([1] * (len(dims) - 2))]
    s, b = (n.reshape(n.cast(v, wide), shape) for v in (scale, bias))
    return elementwise(n, lambda v, p, q: tirx.Cast(dtype, v * p + q), n.reshape(norm, list(dims)), s, b)


@op("LayerNormalization", since=[0, 17])  # 0: below opset 17, where ONNX Runtime's optimizer writes it all the same
def layer_normalization(n: Node) -> Any:
    n.float_only()
    axis = n.axis(n.int_attr("axis", -1), n.rank(0))
    epsilon = n.float_attr("epsilon", 1e-5)
    extra = any(n.proto.output[1:])
    return layer_norm(n, n.x(0), n.x(1), n.x(2) if n.has(2) else None, axis, epsilon, extra)


def layer_norm(n: Node, x: Any, scale: Any, bias: Any | None, axis: int, epsilon: float, extra: bool = False) -> Any:
    """Over the axes from `axis` on; with `extra`, [y, mean, 1 / deviation]."""
    dims = dims_of(x)
    axes = list(range(axis, len(dims)))
    for affine in (scale, bias):
        if affine is not None:
            n.math.require_broadcast(dims_of(affine), dims)
    full = dims_of(scale) == dims[axis:] and (bias is None or dims_of(bias) == dims[axis:])
    if dtype_of(x) == "float32" and full and not extra and dtype_of(scale) == "float32":
        shape = tuple(dims[axis:])
        if bias is None and all(isinstance(d, int) for d in shape):
            bias = constant(np.zeros(shape, np.float32))
        if bias is not None:
            return relax.op.nn.layer_norm(x, scale, bias, axes, epsilon)
    return _layer_norm(n, x, scale, bias, axes, epsilon, extra)


def _layer_norm(n: Node, x: Any, scale: Any, bias: Any | None, axes: list[int], epsilon: float, extra: bool) -> Any:
    """By the formula, with the statistics as outputs where they are asked for."""
    dtype = dtype_of(x)
    wide = "float64" if dtype == "float64" else "float32"
    mean, var = _moments(n, n.cast(x, wide), axes)
    inverse = elementwise(n, lambda v: imm(1, wide) / tirx.sqrt(v + imm(epsilon, wide)), var, name="inverse_deviation")
    norm = elementwise(n, lambda v, m, s: tirx.Cast(dtype, (tirx.Cast(wide, v) - m) * s), x, mean, inverse)
    y = n.emit(relax.op.multiply(norm, n.cast(scale, dtype)))
    if bias is not None:
        y = n.emit(relax.op.add(y, n.cast(bias, dtype)))
    return [y, mean, inverse] if extra else y


@op("RMSNormalization", since=[23])
def rms_normalization(n: Node) -> Any:
    n.float_only()
    axis = n.axis(n.int_attr("axis", -1), n.rank(0))
    return rms_norm(n, n.x(0), n.x(1), axis, n.float_attr("epsilon", 1e-5))


def rms_norm(n: Node, x: Any, scale: Any, axis: int, epsilon: float, extra: bool = False) -> Any:
    """Over the axes from `axis` on; with `extra`, [y, 1 / root of the mean square]."""
    dtype, dims = dtype_of(x), dims_of(x)
    axes = list(range(axis, len(dims)))
    n.math.require_broadcast(dims_of(scale), dims)
    if dtype == "float32" and dtype_of(scale) == "float32" and dims_of(scale) == dims[axis:] and axis > 0 and not extra:
        return relax.op.nn.rms_norm(x, scale, axes, epsilon)
    wide = "float64" if dtype == "float64" else "float32"
    f = n.cast(x, wide)
    mean = n.emit(relax.op.mean(n.emit(relax.op.multiply(f, f)), axes, True))
    norm = elementwise(
        n, lambda v, m: tirx.Cast(dtype, tirx.Cast(wide, v) / tirx.sqrt(m + imm(epsilon, wide))), x, mean
    )
    if dtype_of(scale) != dtype:
        norm = n.cast(norm, dtype_of(scale))
    y = n.emit(relax.op.multiply(norm, scale))
    if not extra:
        return y
    return [y, elementwise(n, lambda m: imm(1, wide) / tirx.sqrt(m + imm(epsilon, wide)), mean, name="inverse_root")]


@op("LRN", since=[1, 13])
def lrn(n: Node) -> Any:
    n.float_only()
    alpha, beta, bias, size = (
        n.float_attr("alpha", 1e-4),
        n.float_attr("beta", 0.75),
        n.float_attr("bias", 1.0),
        n.int_attr("size"),
    )
    x, dtype = n.x(0), n.dtype(0)
    wide = "float64" if dtype == "float64" else "float32"
    if size < 1 or n.rank(0) < 2:
        raise n.broken(f"normalises over {size} channels of a tensor of rank {n.rank(0)}")
    low = (size - 1) // 2
    narrow = size < n.shape(0)[1] if isinstance(n.shape(0)[1], int) else size <= _NARROW

    def body(t: Any, dims: Any) -> Any:
        k = te.reduce_axis((0, size if narrow else t.shape[1]), name="k")

        def squares(*i: Any) -> Any:
            c = i[1] + k - low if narrow else k
            inside = [c >= 0, c < t.shape[1]] if narrow else [c >= i[1] - low, c < i[1] - low + size]
            v = tirx.if_then_else(tirx.all(*inside), tirx.Cast(wide, t(i[0], c, *i[2:])), imm(0, wide))
            return te.sum(v * v, axis=k)

        total = te.compute(dims, squares, name="squares")

        def element(*i: Any) -> Any:
            base = imm(bias, wide) + imm(alpha / size, wide) * total(*i)
            return tirx.Cast(dtype, tirx.Cast(wide, t(*i)) / tirx.pow(base, imm(beta, wide)))

        return te.compute(dims, element, name="lrn")

    return n.te(body, x, shape_expr(dims_of(x)))


@op("LpNormalization", since=[1, 22])
def lp_normalization(n: Node) -> Any:
    n.float_only()
    axis = n.axis(n.int_attr("axis", -1), n.rank(0))
    p = n.int_attr("p", 2)
    x, dtype = n.x(0), n.dtype(0)
    if p not in (1, 2):
        raise n.broken(f"has p = {p}")
    powers = elementwise(n, lambda v: tirx.abs(v) if p == 1 else v * v, x)
    total = summed(n, powers, [axis], True)
    zero = imm(0, dtype)

    def element(v: Any, s: Any) -> Any:
        norm = s if p == 1 else tirx.sqrt(s)
        return tirx.Select(norm == zero, zero, v / tirx.Select(norm == zero, imm(1, dtype), norm))

    return elementwise(n, element, x, total)


@op("Softmax", since=[1, 11, 13])
def softmax(n: Node) -> Any:
    return _softmax(n, relax.op.nn.softmax)


@op("LogSoftmax", since=[1, 11, 13])
def log_softmax(n: Node) -> Any:
    return _softmax(n, relax.op.nn.log_softmax)


def _softmax(n: Node, function: Any) -> Any:
    n.float_only()
    if n.op == "Softmax" and _half(n.dtype(0)):
        return _over_axis(n, n.x(0), lambda t, axis: _half_softmax(n, t, axis))
    dtype = n.dtype(0)
    x = n.cast(n.x(0), "float32") if _half(dtype) else n.x(0)
    return n.cast(_over_axis(n, x, lambda t, axis: n.emit(function(t, axis))), dtype)


def _half_softmax(n: Node, x: Any, axis: int) -> Any:
    """Rounded after each step, as numpy computes it; the sum is rounded after each term in bfloat16, at its end in float16."""
    dtype = dtype_of(x)
    f = "float32"

    def rounded(v: Any) -> Any:
        return tirx.Cast(dtype, v)

    # The same rounded numbers for all steps: relax.astype of x may become what x was rounded from (passes/keep_wide.py).
    wide = elementwise(n, lambda v: tirx.Cast(f, v), x, name="wide")
    top = reduce_te(n, wide, [axis], True, tirx.max, lowest(f), "max")
    e = elementwise(n, lambda v, t: rounded(tirx.Cast(f, v) - t), x, top, name="below_max")
    e = elementwise(n, lambda v: rounded(tirx.exp(tirx.Cast(f, v))), e, name="exp")
    if dtype == "bfloat16":

        def add(a: Any, b: Any) -> Any:
            return rounded(tirx.Cast(f, a) + tirx.Cast(f, b))

        total = reduce_te(n, e, [axis], True, add, imm(0, dtype), "sum")
    else:
        total = n.cast(reduce_te(n, n.cast(e, f), [axis], True, lambda a, b: a + b, imm(0, f), "sum"), dtype)
    return elementwise(n, lambda v, s: rounded(tirx.Cast(f, v) / tirx.Cast(f, s)), e, total, name="normalise")


def _over_axis(n: Node, x: Any, function: Any) -> Any:
    """function(tensor, axis); before version 13 the axes from `axis` on count as one."""
    dims = dims_of(x)
    axis = n.axis(n.int_attr("axis", -1 if n.version >= 13 else 1), len(dims)) if dims else 0
    if not dims:
        return n.reshape(function(n.reshape(x, [1]), 0), [])
    if n.version >= 13 or axis == len(dims) - 1:
        return function(x, axis)
    flat = n.reshape(x, [n.math.product(dims[:axis]), n.math.product(dims[axis:])])
    return n.reshape(function(flat, 1), list(dims))


@op("Hardmax", since=[1, 11, 13])
def hardmax(n: Node) -> Any:
    n.float_only()
    dtype = n.dtype(0)

    def function(t: Any, axis: int) -> Any:
        def body(x: Any, shape: Any) -> Any:
            where = position_of_extreme(x, shape, axis, keepdims=True, greatest=True)

            def element(*i: Any) -> Any:
                at = list(i)
                at[axis] = 0
                return tirx.Select(where(*at) == i[axis], imm(1, dtype), imm(0, dtype))

            return te.compute(x.shape, element, name="hardmax")

        return n.te(body, t, shape_expr([1 if a == axis else d for a, d in enumerate(dims_of(t))]))

    return _over_axis(n, n.x(0), function)
