"""Sampling a tensor at places that another one gives, as spatial transformers do (M. Jaderberg and others, 2015), for all importers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import relax, te, tirx

from ._elementary import fmod

__all__ = ["TAPS", "grid_sample"]

TAPS = {"nearest": 1, "linear": 2, "cubic": 4}  # neighbours along one axis


def grid_sample(emit: Callable[..., Any], x: Any, grid: Any, mode: str, padding: str, align: bool) -> Any:
    """Samples x [N, C, D1..Dk] at grid [N, E1..Ek, k] -> [N, C, E1..Ek]; the grid's last axis counts from the innermost dimension, and
    -1 and 1 are the ends of an axis: the centres of its outer elements (`align`), or their outer edges. mode is one of TAPS (cubic
    for k = 2 alone), padding "zeros", "border" or "reflection".

    `emit(function, *tensors and relax.ShapeExprs, name=)` makes a generated function.
    """
    dims, where = list(x.ty.shape.values), list(grid.ty.shape.values)
    k = len(dims) - 2
    dtype = str(x.ty.dtype)
    f = "float64" if dtype == "float64" else "float32"
    taps = TAPS[mode]
    outer = [dims[0], *where[1:-1]]

    # In stages, each of them small: where a sample lies, which elements it needs, and with what weights.
    def places(g: Any, extents: Any, shape: Any) -> Any:
        def element(*i: Any) -> Any:
            *at, a = i
            v = tirx.Cast(f, g(*at, k - 1 - a))
            p = _place(v, _pick_extent(extents, a, k), align, f)
            return p if mode == "cubic" else _border(p, _pick_extent(extents, a, k), padding, align, f, k)

        return te.compute(shape, element, name="grid_place")

    place = emit(places, grid, _shape(dims[2:]), _shape([*outer, k]), name="grid_place")

    def indices(p: Any, extents: Any, shape: Any) -> Any:
        """-1 for what lies outside and counts as zero."""

        def element(*i: Any) -> Any:
            *at, tap = i
            extent = _pick_extent(extents, at[-1], k)
            base = tirx.nearbyint(p(*at)) if mode == "nearest" else tirx.floor(p(*at))
            v = base + tirx.Cast(f, tap - (taps // 2 - 1 if taps > 1 else 0))
            if mode == "cubic":
                v = _border(v, extent, padding, align, f, k)
            far = _imm(1e9, f)
            v = tirx.Select(tirx.isnan(v), -far, v)
            whole = tirx.Cast("int64", tirx.max(tirx.min(v, far), -far))
            return tirx.Select(tirx.all(whole >= 0, whole < extent), whole, tirx.IntImm("int64", -1))

        return te.compute(shape, element, name="grid_index")

    index = emit(indices, place, _shape(dims[2:]), _shape([*outer, k, taps]), name="grid_index")

    def weights(p: Any, shape: Any) -> Any:
        def element(*i: Any) -> Any:
            *at, tap = i
            d = p(*at) - tirx.floor(p(*at))
            given = _cubic(d, f) if mode == "cubic" else [_imm(1, f) - d, d]
            out = given[-1]
            for j in range(len(given) - 2, -1, -1):
                out = tirx.Select(tap == j, given[j], out)
            return out

        return te.compute(shape, element, name="grid_weight")

    weight = emit(weights, place, _shape([*outer, k, taps]), name="grid_weight") if taps > 1 else None

    def body(t: Any, ix: Any, *rest: Any) -> Any:
        *w, out = rest

        def element(b: Any, c: Any, *at: Any) -> Any:
            total: Any = None
            for corner in range(taps**k):
                pick = [corner // taps**a % taps for a in range(k)]
                found = [ix(b, *at, a, j) for a, j in enumerate(pick)]
                inside = tirx.all(*[v >= 0 for v in found])
                safe = [tirx.max(v, tirx.IntImm("int64", 0)) for v in found]
                value = tirx.Select(inside, tirx.Cast(f, t(b, c, *safe)), _imm(0, f))
                for a, j in enumerate(pick):
                    value = value * w[0](b, *at, a, j) if w else value
                if w and k == 3:  # of volumes torch leaves out what lies outside, whatever its weight
                    value = tirx.Select(inside, value, _imm(0, f))
                total = value if total is None else total + value
            return tirx.Cast(dtype, total)

        return te.compute(out, element, name="grid_sample")

    given = [weight] if weight is not None else []
    return emit(body, x, index, *given, _shape([dims[0], dims[1], *where[1:-1]]), name="grid_sample")


def _shape(dims: Sequence[Any]) -> Any:
    return relax.ShapeExpr([tirx.IntImm("int64", d) if isinstance(d, int) else d for d in dims])


def _imm(value: float, dtype: str) -> Any:
    return tirx.FloatImm(dtype, float(value))


def _pick_extent(extents: Any, axis: Any, count: int) -> Any:
    """extents[axis] for an axis that is a loop variable."""
    out = extents[count - 1]
    for a in range(count - 2, -1, -1):
        out = tirx.Select(axis == a, extents[a], out)
    return out


def _cubic(d: Any, f: str) -> list[Any]:
    """Weights of the four neighbours (R. Keys, 1981)."""
    a = -0.75
    one = _imm(1, f)

    def near(t: Any) -> Any:
        return (_imm(a + 2, f) * t - _imm(a + 3, f)) * t * t + one

    def far(t: Any) -> Any:
        return ((_imm(a, f) * t - _imm(5 * a, f)) * t + _imm(8 * a, f)) * t - _imm(4 * a, f)

    return [far(d + one), near(d), near(one - d), far(_imm(2, f) - d)]


def _place(v: Any, extent: Any, align: bool, f: str) -> Any:
    """From [-1, 1] to the index of an element."""
    one, two = _imm(1, f), _imm(2, f)
    size = tirx.Cast(f, extent)
    return (v + one) / two * (size - one) if align else ((v + one) * size - one) / two


def _border(p: Any, extent: Any, padding: str, align: bool, f: str, k: int) -> Any:
    """The place that stands for p. NaN, and an infinity that is reflected, is the first element of images and the last of volumes, as torch
    has it, to which a volume's place is also the same after 2^31 turns and any number more."""
    if padding == "zeros":
        return p
    size = tirx.Cast(f, extent)
    zero, one, half = _imm(0, f), _imm(1, f), _imm(0.5, f)
    if padding == "reflection":
        # about the centres of the outer elements, or about their outer edges
        low, high = (zero, size - one) if align else (-half, size - half)
        span = high - low
        safe = tirx.Select(span > zero, span, one)
        d = tirx.abs(p - low)
        turns = tirx.floor(d / safe)
        rest = d - turns * safe if k != 3 else fmod(d, safe)
        even = tirx.floor(turns / _imm(2, f)) * _imm(2, f) == turns
        if k == 3:
            even = tirx.any(even, turns >= _imm(2**31, f))
        mirrored = tirx.Select(even, rest + low, high - rest)
        p = tirx.Select(span > zero, mirrored, zero)
    if k == 3:
        return tirx.Select(p < size - one, tirx.max(p, zero), size - one)
    return tirx.Select(p > zero, tirx.min(p, size - one), zero)
