"""The manifest: what a person, Python or a service wants to know of a file without running it."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata
from typing import Any

import numpy as np

from maas_rt._plan import DTypeCode, Expr, ExprOp, Plan, Storage
from maas_rt._version import __version__

from ..importers._imported import ImportedModel
from ._stored import stored_weights

__all__ = ["dtype_name", "expr_text", "make_manifest"]

_TOOLS = ("apache-tvm", "numpy", "onnx", "torch")
_INFIX = {
    ExprOp.ADD: "+",
    ExprOp.SUB: "-",
    ExprOp.MUL: "*",
    ExprOp.FLOORDIV: "//",
    ExprOp.FLOORMOD: "%",
    ExprOp.EQ: "==",
    ExprOp.LT: "<",
    ExprOp.LE: "<=",
    ExprOp.LOGICAL_AND: "and",
    ExprOp.LOGICAL_OR: "or",
}
_CALLS = {ExprOp.MIN: "min", ExprOp.MAX: "max", ExprOp.CEILDIV: "ceildiv"}
_PREFIX = {
    DTypeCode.INT: "int",
    DTypeCode.UINT: "uint",
    DTypeCode.FLOAT: "float",
    DTypeCode.BFLOAT: "bfloat",
    DTypeCode.COMPLEX: "complex",
}


def make_manifest(model: ImportedModel, plan: Plan, targets: Sequence[str]) -> dict[str, Any]:
    """The manifest of an artifact that was not verified yet. No times, no paths."""
    provenance = dict(model.provenance)
    entry = plan.entries[0]
    return {
        "format": 1,
        "name": plan.name,
        "producer": {"maas_rt": __version__, **_tool_versions(provenance.get("framework"))},
        "targets": list(targets),
        "verified": {"status": "skipped"},
        "inputs": [_tensor(plan, index) for index in entry.inputs],
        "outputs": [_tensor(plan, index) for index in entry.outputs],
        "symbols": {
            symbol.name: {"min": symbol.min, "max": None if symbol.max < 0 else symbol.max, "multiple": symbol.multiple}
            for symbol in plan.symbols
        },
        "entries": [each.name for each in plan.entries],
        "states": [_tensor(plan, state.value) for state in plan.states],
        **({"draws": True} if any(value.storage == Storage.SEED for value in plan.values) else {}),
        "source": provenance,
        "weights": stored_weights(plan),
        "recipe": None,
        "metrics": {},
    }


def _tensor(plan: Plan, index: int) -> dict[str, Any]:
    value = plan.values[index]
    shape = [_extent(plan, dim) for dim in value.dims]
    return {"name": value.name, "dtype": dtype_name(value.dtype_code, value.dtype_bits), "shape": shape}


def _extent(plan: Plan, dim: int) -> int | str:
    expr = plan.exprs[dim]
    return expr.a if expr.op == ExprOp.CONSTANT else expr_text(plan, expr)


def expr_text(plan: Plan, expr: Expr, nested: bool = False) -> str:
    """An expression as people write it: "batch", "2*s+1"."""
    if expr.op == ExprOp.CONSTANT:
        return str(expr.a)
    if expr.op == ExprOp.SYMBOL:
        return plan.symbols[expr.a].name
    if expr.op == ExprOp.LOGICAL_NOT:
        return f"not {expr_text(plan, plan.exprs[expr.a], True)}"
    if expr.op in _CALLS:
        return f"{_CALLS[expr.op]}({expr_text(plan, plan.exprs[expr.a])}, {expr_text(plan, plan.exprs[expr.b])})"
    sign = _INFIX[expr.op]
    left = plan.exprs[expr.a]
    tight = {ExprOp.ADD: (ExprOp.MUL, ExprOp.ADD, ExprOp.SUB), ExprOp.SUB: (ExprOp.MUL, ExprOp.ADD, ExprOp.SUB)}.get(
        expr.op, ()
    )
    right = plan.exprs[expr.b]
    a = expr_text(plan, left, left.op not in tight)
    b = expr_text(plan, right, right.op != ExprOp.MUL or expr.op not in (ExprOp.ADD, ExprOp.SUB))
    text = f"{a} {sign} {b}" if sign.isalpha() else f"{a}{sign}{b}"
    return f"({text})" if nested else text


def dtype_name(code: int, bits: int) -> str:
    """A dtype's name from DLPack's code and bits, as numpy and ml_dtypes say it."""
    if code == DTypeCode.BOOL:
        return "bool"
    kind = DTypeCode(code)
    return f"{_PREFIX[kind]}{bits}" if kind in _PREFIX else kind.name.lower()


def _tool_versions(framework: Any) -> dict[str, str]:
    """Versions of what shapes the bytes: the compiler's tools, and the framework that the model came from."""
    versions = {"numpy": np.__version__}
    for tool in _TOOLS:
        if tool in ("onnx", "torch") and tool != framework:
            continue
        versions[tool] = metadata.version(tool)
    return versions
