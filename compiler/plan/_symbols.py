"""How symbolic dimensions get their values from the inputs' shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tvm import relax, tirx
from tvm.sym import detect_linear_equation
from tvm.tirx.analysis import undefined_vars

from maas_rt._errors import CompileError
from maas_rt._plan import Check, Plan, Symbol

from ..importers._imported import SymbolSpec
from ._exprs import ExprPool

__all__ = ["bind_input_symbols"]


def bind_input_symbols(
    params: Sequence[relax.Var],
    specs: Mapping[str, SymbolSpec],
    plan: Plan,
    pool: ExprPool,
    checks: list[Check],
) -> None:
    """Declare the plan's symbols. A variable that is a dimension by itself is bound from it; one that only occurs inside
    a*v + b gets a symbol for the whole dimension, and v = (dimension - b) // a with a check."""
    dims = [dim for param in params for dim in _dims(param)]
    for dim in dims:
        if isinstance(dim, tirx.Var) and not pool.knows(dim):
            spec = specs.get(dim.name, SymbolSpec())
            pool.bind(dim, pool.symbol(_declare(plan, dim.name, spec)), minimum=spec.min)
    for dim in dims:
        unknown = (
            [var for var in undefined_vars(dim) if not pool.knows(var)]
            if not isinstance(dim, (int, tirx.IntImm))
            else []
        )
        if unknown:
            _solve(dim, unknown, specs, plan, pool, checks)


def _dims(param: relax.Var) -> list[Any]:
    if not isinstance(param.ty, relax.TensorType) or not isinstance(param.ty.shape, relax.ShapeExpr):
        raise CompileError(
            f"the input {param.name} is {param.ty}, and its rank and dimensions must be known, at least by symbols"
        )
    return list(param.ty.shape.values)


def _declare(plan: Plan, name: str, spec: SymbolSpec) -> int:
    plan.symbols.append(Symbol(name, spec.min, -1 if spec.max is None else spec.max, spec.multiple))
    return len(plan.symbols) - 1


def _solve(
    dim: Any,
    unknown: Sequence[tirx.Var],
    specs: Mapping[str, SymbolSpec],
    plan: Plan,
    pool: ExprPool,
    checks: list[Check],
) -> None:
    var = unknown[0]
    linear = detect_linear_equation(dim, [var]) if len(unknown) == 1 else []
    scale = int(linear[0].value) if linear and isinstance(linear[0], tirx.IntImm) else 0
    if scale <= 0:
        raise CompileError(
            f"the dimension {dim} cannot be solved for {', '.join(v.name for v in unknown)}: name a dimension of an input for each"
        )
    offset = linear[1]
    spec = specs.get(var.name, SymbolSpec())
    whole_spec = SymbolSpec()
    if isinstance(offset, tirx.IntImm):
        top = None if spec.max is None else scale * spec.max + int(offset.value)
        whole_spec = SymbolSpec(max(0, scale * spec.min + int(offset.value)), top)
    name = str(dim).replace("T.int64", "").replace("(", "").replace(")", "").replace(" ", "")
    whole = tirx.Var(name, "int64")
    pool.bind(whole, pool.symbol(_declare(plan, name, whole_spec)))
    pool.bind(var, pool.lower(tirx.floordiv(whole - offset, scale)), minimum=spec.min)
    message = f"the dimension {name} must be {scale} times a whole number, plus {offset}"
    checks.append(Check(pool.lower(whole), pool.lower(dim), message))
    pool.equate(dim, pool.lower(whole))
