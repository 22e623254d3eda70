"""Extents as polynomials of symbols with integer coefficients: cheap, canonical, comparable.

What is no polynomial (a floor division, a minimum) is an atom, known by its simplified text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import tvm
from tvm import relax

__all__ = [
    "Dim",
    "Poly",
    "evaluated",
    "extent",
    "extents",
    "poly",
    "product",
    "same",
    "same_shape",
    "shape_of",
    "shape_of_type",
    "static_shape",
]

Poly = dict[tuple[str, ...], int]  # monomial (sorted names of its atoms) -> coefficient; {} is 0
Dim = Any  # int, or a symbolic tirx expression
_ANALYZER = tvm.sym.Analyzer()


def extent(dim: Dim) -> Dim:
    """A constant expression as int, any other unchanged."""
    if isinstance(dim, int):
        return dim
    value = getattr(dim, "value", None)
    return int(value) if value is not None else dim


def shape_of(expr: relax.Expr) -> list[Dim] | None:
    """Extents of a tensor-valued expression; None where its rank or extents are not known."""
    ty = expr.ty
    if not isinstance(ty, relax.TensorType) or not isinstance(ty.shape, relax.ShapeExpr):
        return None
    return shape_of_type(ty)


def shape_of_type(ty: relax.TensorType) -> list[Dim]:
    """Extents of a tensor type whose shape is known."""
    return [extent(dim) for dim in ty.shape.values]


def extents(expr: relax.Expr) -> list[Dim]:
    """As `shape_of`, of an expression whose shape must be known."""
    shape = shape_of(expr)
    if shape is None:
        raise ValueError(f"the shape of {expr} is not known, and a pass took it for known")
    return shape


def static_shape(expr: relax.Expr) -> list[int] | None:
    """As `shape_of`, None also where an extent is symbolic."""
    shape = shape_of(expr)
    return None if shape is None or any(not isinstance(dim, int) for dim in shape) else shape


def evaluated(dim: Dim, value_of: Callable[[str], int]) -> int:
    """An extent where each symbol has the value that its name stands for; ValueError where that is not enough."""
    dim = extent(dim)
    if isinstance(dim, int):
        return dim
    analyzer = tvm.sym.Analyzer()
    for var in tvm.tirx.analysis.undefined_vars(dim):
        analyzer.bind(var, tvm.tirx.IntImm(str(var.ty.dtype), value_of(str(var.name))))
    value = extent(analyzer.simplify(dim))
    if not isinstance(value, int):
        raise ValueError(f"{dim} has no value where its symbols have some")
    return value


def poly(dim: Dim) -> Poly:
    """The polynomial that an extent is."""
    dim = extent(dim)
    if isinstance(dim, int):
        return {(): dim} if dim else {}
    kind = type(dim).__name__
    if kind == "Add":
        return _add(poly(dim.a), poly(dim.b), 1)
    if kind == "Sub":
        return _add(poly(dim.a), poly(dim.b), -1)
    if kind == "Mul":
        return _mul(poly(dim.a), poly(dim.b))
    if kind == "Var":
        return {(_atom(dim),): 1}
    simple = _ANALYZER.simplify(dim)
    if type(simple).__name__ in ("Add", "Sub", "Mul", "Var", "IntImm"):
        return poly(simple)
    return {(str(simple),): 1}


def product(dims: Iterable[Dim]) -> Poly:
    """The polynomial of a product of extents."""
    total: Poly = {(): 1}
    for dim in dims:
        total = _mul(total, poly(dim))
    return total


def same(a: Dim, b: Dim) -> bool:
    """Whether two extents are equal for every binding of the symbols (False also means: not known)."""
    a, b = extent(a), extent(b)
    if isinstance(a, int) or isinstance(b, int):
        return isinstance(a, int) and isinstance(b, int) and a == b
    return poly(a) == poly(b)


def same_shape(a: Sequence[Dim] | None, b: Sequence[Dim] | None) -> bool:
    return a is not None and b is not None and len(a) == len(b) and all(map(same, a, b))


def _atom(var: Any) -> str:
    return f"{var.name}@{hash(var)}"


def _add(a: Poly, b: Poly, sign: int) -> Poly:
    total = dict(a)
    for monomial, coefficient in b.items():
        total[monomial] = total.get(monomial, 0) + sign * coefficient
    return {m: c for m, c in total.items() if c}


def _mul(a: Poly, b: Poly) -> Poly:
    total: Poly = {}
    for m1, c1 in a.items():
        for m2, c2 in b.items():
            monomial = tuple(sorted(m1 + m2))
            total[monomial] = total.get(monomial, 0) + c1 * c2
    return {m: c for m, c in total.items() if c}
