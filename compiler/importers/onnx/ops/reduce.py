"""Reductions, extrema with their positions, running sums."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import relax, te, tirx

from ..._positions import position_of_extreme
from .._dims import Dim
from .._exprs import dims_of, dtype_of, shape_expr
from .._node import Node
from .._registry import op
from .._values import is_float
from ._loops import running
from ._runtime import axes_mask, bind_vector, check_axes, int64, list_length
from ._targets import AXES_INPUT, reduced_axes
from ._te import elementwise, highest, imm, is_nan, lowest
from .shape import kept_extents


def reduce_te(
    n: Node, x: Any, axes: list[int], keepdims: bool, function: Callable[[Any, Any], Any], identity: Any, name: str = ""
) -> Any:
    """Reduce with any associative function; also right where a reduced axis has no element (the identity is the result)."""
    dims = dims_of(x)
    out: list[Dim] = [1 if i in axes else d for i, d in enumerate(dims) if keepdims or i not in axes]
    if any(isinstance(dims[a], int) and dims[a] == 0 for a in axes):
        return n.te(lambda shape: te.compute(shape, lambda *i: identity, name="empty"), shape_expr(out), name="empty")
    maybe_empty = [a for a in axes if not isinstance(dims[a], int)]
    reducer = te.comm_reducer(lambda a, b: function(a, b), lambda t: identity, name=name or "reduce")

    def body(t: Any, shape: Any) -> Any:
        ks = [te.reduce_axis((0, t.shape[a]), name=f"k{a}") for a in axes]

        def element(*i: Any) -> Any:
            rest = iter(i)
            reduced = iter(ks)
            index = []
            for a in range(len(dims)):
                if a in axes:
                    index.append(next(reduced))
                    if keepdims:
                        next(rest)
                else:
                    index.append(next(rest))
            return reducer(t(*index), axis=ks)

        result = te.compute(shape, element, name=name or n.op.lower())
        if not maybe_empty:
            return result
        # A loop of no iterations would leave its result as it found it.
        empty = tirx.any(*[t.shape[a] == 0 for a in maybe_empty])
        return te.compute(shape, lambda *i: tirx.if_then_else(empty, identity, result(*i)), name="or_empty")

    return n.te(body, x, shape_expr(out), name=name or n.op.lower())


def _may_be_empty(n: Node, d: Dim) -> bool:
    """An extent of 0, or one that the run itself computes (those of inputs are trusted to be at least 1 in this)."""
    if isinstance(d, int):
        return d == 0
    return any(v.name in n.math.derived for v in tirx.analysis.undefined_vars(d))


def summed(n: Node, x: Any, axes: list[int], keepdims: bool) -> Any:
    dtype = dtype_of(x)
    if not axes:
        return x
    if dtype == "float32" and not any(_may_be_empty(n, dims_of(x)[a]) for a in axes):
        return n.emit(relax.op.sum(x, axes, keepdims))
    if dtype in ("float16", "bfloat16"):
        return n.cast(
            reduce_te(n, n.cast(x, "float32"), axes, keepdims, lambda a, b: a + b, imm(0, "float32"), "sum"), dtype
        )
    return reduce_te(n, x, axes, keepdims, lambda a, b: a + b, imm(0, dtype), "sum")


def _reduction(function: Callable[[Node, Any, list[int], bool], Any]) -> Callable[[Node], Any]:
    def convert(n: Node) -> Any:
        keepdims = n.flag("keepdims", 1)
        if n.version >= AXES_INPUT.get(n.op, 18) and n.has(1) and n.value(1).const is None:
            return _runtime_axes(n, function, keepdims)
        axes = reduced_axes(n)
        if axes is None:
            # Reduced over no axes: the elementwise part still applies (the square of ReduceSumSquare).
            axes = []
        return function(n, n.x(0), axes, keepdims)

    return convert


def _runtime_axes(n: Node, function: Callable[[Node, Any, list[int], bool], Any], keepdims: bool) -> Any:
    """Axes that a run computes. Split each axis in two, [kept, reduced]: one of the pair has the axis' extent, the other is 1,
    and which one is bound at run time. Then the reduced halves are axes that are known."""
    dims = n.shape(0)
    rank = len(dims)
    count = list_length(n, 1)
    if count == 0:
        return function(n, n.x(0), [] if n.flag("noop_with_empty_axes") else list(range(rank)), keepdims)

    check_axes(n, 1, rank, distinct=not keepdims)

    mask = axes_mask(n, 1, count, rank)

    def halves(mask: Any, extents: Any) -> list[Any]:
        out = []
        for a in range(rank):
            gone = mask(a) == 1
            out += [
                tirx.Select(gone, imm(1, "int64"), int64(extents[a])),
                tirx.Select(gone, int64(extents[a]), imm(1, "int64")),
            ]
        return out

    pairs = bind_vector(n, halves, mask, dims=dims, count=2 * rank)
    split = n.reshape(n.x(0), pairs)
    y = function(n, split, list(range(1, 2 * rank, 2)), False)
    y = n.emit(y) if not isinstance(y, relax.Var) else y
    if keepdims:
        return y
    if count > rank:
        raise n.broken(f"has {count} axes for rank {rank}")
    return n.reshape(y, kept_extents(n, mask, dims, count))


def _reduce_sum(n: Node, x: Any, axes: list[int], keepdims: bool) -> Any:
    return summed(n, x, axes, keepdims)


def _reduce_mean(n: Node, x: Any, axes: list[int], keepdims: bool) -> Any:
    dtype = dtype_of(x)
    if not axes:
        return x
    if dtype == "float32":
        return relax.op.mean(x, axes, keepdims)
    wide = "float32" if dtype in ("float16", "bfloat16") else dtype
    total = n.emit(summed(n, n.cast(x, wide), axes, keepdims))
    count: Dim = n.math.product([dims_of(x)[a] for a in axes])

    def mean(t: Any, counted: Any) -> Any:  # of whole numbers rounded towards 0, as ONNX Runtime does
        def element(*at: Any) -> Any:
            number = tirx.Cast(wide, counted[0])
            return t(*at) / number if is_float(wide) else tirx.truncdiv(t(*at), number)

        return te.compute(t.shape, element, name="mean")

    return n.cast(n.te(mean, total, shape_expr([count])), dtype)


def _reduce_max(n: Node, x: Any, axes: list[int], keepdims: bool) -> Any:
    return _extremum(n, x, axes, keepdims, greatest=True)


def _reduce_min(n: Node, x: Any, axes: list[int], keepdims: bool) -> Any:
    return _extremum(n, x, axes, keepdims, greatest=False)


def _extremum(n: Node, x: Any, axes: list[int], keepdims: bool, *, greatest: bool) -> Any:
    dtype = dtype_of(x)
    if not axes:
        return x
    if dtype == "bool":
        start = imm(0 if greatest else 1, "int8")
        wide = reduce_te(
            n,
            n.cast(x, "int8"),
            axes,
            keepdims,
            tirx.max if greatest else tirx.min,
            start,
            "any" if greatest else "all",
        )
        return n.cast(wide, "bool")

    def pick(a: Any, b: Any) -> Any:
        wins = a > b if greatest else a < b
        return tirx.Select(tirx.any(wins, is_nan(a)) if is_float(dtype) else wins, a, b)

    start = lowest(dtype) if greatest else highest(dtype)
    return reduce_te(n, x, axes, keepdims, pick, start, "max" if greatest else "min")


def _reduce_prod(n: Node, x: Any, axes: list[int], keepdims: bool) -> Any:
    dtype = dtype_of(x)
    return reduce_te(n, x, axes, keepdims, lambda a, b: a * b, imm(1, dtype), "prod") if axes else x


def _square(n: Node, x: Any) -> Any:
    return n.emit(relax.op.multiply(x, x))


def _absolute(n: Node, x: Any) -> Any:
    dtype = dtype_of(x)
    if is_float(dtype):
        return n.emit(relax.op.abs(x))
    return elementwise(n, lambda v: tirx.Select(v < imm(0, dtype), imm(0, dtype) - v, v), x, name="abs")


def _reduce_l1(n: Node, x: Any, axes: list[int], keepdims: bool) -> Any:
    return summed(n, _absolute(n, x), axes, keepdims)


def _reduce_l2(n: Node, x: Any, axes: list[int], keepdims: bool) -> Any:
    dtype = dtype_of(x)
    total = summed(n, _square(n, x), axes, keepdims)
    if not is_float(dtype):
        return elementwise(n, lambda v: tirx.Cast(dtype, tirx.sqrt(tirx.Cast("float64", v))), total)
    return relax.op.sqrt(total)


def _reduce_log_sum(n: Node, x: Any, axes: list[int], keepdims: bool) -> Any:
    dtype = dtype_of(x)
    wide = dtype if is_float(dtype) else "float64"
    total = summed(n, x, axes, keepdims)
    return elementwise(n, lambda v: tirx.Cast(dtype, tirx.log(tirx.Cast(wide, v))), total)


def _reduce_log_sum_exp(n: Node, x: Any, axes: list[int], keepdims: bool) -> Any:
    dtype = dtype_of(x)
    if not is_float(dtype):
        raise n.refuse(f"on {dtype}")
    if not axes:
        return x
    wide = n.cast(x, "float32") if dtype in ("float16", "bfloat16") else x
    kind = dtype_of(wide)
    top = _extremum(n, wide, axes, True, greatest=True)
    # Where the maximum is infinite, subtracting it would make NaN.
    top = elementwise(
        n, lambda v: tirx.Select(tirx.any(v == lowest(kind), v == highest(kind)), imm(0, kind), v), top, name="finite"
    )
    shifted = elementwise(n, lambda v, t: tirx.exp(v - t), wide, top, name="exp_shifted")
    total = summed(n, shifted, axes, True)
    out = elementwise(n, lambda s, t: tirx.log(s) + t, total, top, name="log_sum")
    if not keepdims:
        out = n.reshape(out, [d for i, d in enumerate(dims_of(x)) if i not in axes])
    return n.cast(out, dtype)


def _reduce_sum_square(n: Node, x: Any, axes: list[int], keepdims: bool) -> Any:
    return summed(n, _square(n, x), axes, keepdims)


for _name, _versions, _function in (
    ("ReduceSum", [1, 11, 13], _reduce_sum),
    ("ReduceMean", [1, 11, 13, 18], _reduce_mean),
    ("ReduceMax", [1, 11, 12, 13, 18, 20], _reduce_max),
    ("ReduceMin", [1, 11, 12, 13, 18, 20], _reduce_min),
    ("ReduceProd", [1, 11, 13, 18], _reduce_prod),
    ("ReduceL1", [1, 11, 13, 18], _reduce_l1),
    ("ReduceL2", [1, 11, 13, 18], _reduce_l2),
    ("ReduceLogSum", [1, 11, 13, 18, 28], _reduce_log_sum),
    ("ReduceLogSumExp", [1, 11, 13, 18, 28], _reduce_log_sum_exp),
    ("ReduceSumSquare", [1, 11, 13, 18], _reduce_sum_square),
):
    op(_name, since=_versions)(_reduction(_function))


@op("ArgMax", "ArgMin", since=[1, 11, 12, 13])
def arg_extremum(n: Node) -> Any:
    axis = n.axis(n.int_attr("axis", 0), n.rank(0))
    keepdims = n.flag("keepdims", 1)
    last = n.flag("select_last_index")
    greatest = n.op == "ArgMax"
    x = n.x(0)
    dims = dims_of(x)
    out = [1 if i == axis else d for i, d in enumerate(dims) if keepdims or i != axis]

    def body(t: Any, shape: Any) -> Any:
        return position_of_extreme(t, shape, axis, keepdims=keepdims, greatest=greatest, last=last)

    return n.te(body, x, shape_expr(out))


@op("CumSum", since=[11, 14])
def cumsum(n: Node) -> Any:
    return _scan(n, lambda a, b: a + b, 0)


@op("CumProd", since=[26])
def cumprod(n: Node) -> Any:
    return _scan(n, lambda a, b: a * b, 1)


def _scan(n: Node, function: Callable[[Any, Any], Any], identity: int) -> Any:
    exclusive, reverse = n.flag("exclusive"), n.flag("reverse")
    x = n.x(0)
    dtype = dtype_of(x)
    if n.value(1).const is None:
        return _runtime_scan(n, x, function, imm(identity, dtype), exclusive=exclusive, reverse=reverse)
    axis = n.axis(int(n.scalar(1, "axis")), n.rank(0))
    return scan_axis(n, x, axis, function, imm(identity, dtype), exclusive=exclusive, reverse=reverse)


def _runtime_scan(
    n: Node, x: Any, function: Callable[[Any, Any], Any], identity: Any, *, exclusive: bool, reverse: bool
) -> Any:
    """Along an axis that a run chooses: every axis is tried, and the right result kept."""
    rank = len(dims_of(x))
    check_axes(n, 1, rank)
    axis = n.cast(n.reshape(n.x(1), []), "int64")
    out = x
    for a in range(rank):
        y = scan_axis(n, x, a, function, identity, exclusive=exclusive, reverse=reverse)

        def keep(new: Any, old: Any, chosen: Any, a: int = a) -> Any:
            return tirx.Select(tirx.any(chosen == a, chosen == a - rank), new, old)

        out = elementwise(n, keep, y, out, axis, name="choose_axis")
    return out


def scan_axis(
    n: Node, x: Any, axis: int, function: Callable[[Any, Any], Any], identity: Any, *, exclusive: bool, reverse: bool
) -> Any:
    """Running reduction along an axis, one sequential loop per line."""
    return n.te(lambda t: running(t, axis, function, identity, exclusive, reverse), x)
