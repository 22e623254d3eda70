"""Which generated functions a module's main calls, each once under a name that every compile gives it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import tvm
import tvm_ffi
from tvm import relax, tirx

from maas_rt._errors import CompileError

__all__ = ["GeneratedFunctions", "collect_functions"]


@dataclass(frozen=True)
class GeneratedFunctions:
    """`symbols` maps a function's name in the module to its symbol in the code section, `functions` that to its PrimFunc."""

    symbols: dict[str, str]
    functions: dict[str, tirx.PrimFunc]


def collect_functions(mod: tvm.IRModule) -> GeneratedFunctions:
    """The PrimFuncs that `mod["main"]` calls, in order of first use; structurally equal ones share a symbol."""
    symbols: dict[str, str] = {}
    functions: dict[str, tirx.PrimFunc] = {}
    by_hash: dict[int, list[str]] = {}
    for call in _calls(mod["main"].body):
        if getattr(call.op, "name", None) not in ("relax.call_tir", "relax.call_tir_inplace"):
            continue
        name = call.args[0].name_hint
        if name in symbols:
            continue
        func = mod[call.args[0]]
        if not isinstance(func, tirx.PrimFunc):
            raise CompileError(f"call_tir names {name}, which is not a PrimFunc")
        func = func.without_attr("global_symbol")
        same = by_hash.setdefault(tvm_ffi.structural_hash(func), [])
        twin = next((symbol for symbol in same if tvm_ffi.structural_equal(functions[symbol], func)), None)
        if twin is None:
            twin = f"f{len(functions)}_" + re.sub(r"\W", "_", name, flags=re.ASCII)[:48]
            functions[twin] = func
            same.append(twin)
        symbols[name] = twin
    return GeneratedFunctions(symbols, functions)


def _calls(expr: Any) -> Iterator[Any]:
    """The calls of an expression in A-normal form, branches included, in order."""
    if isinstance(expr, relax.SeqExpr):
        for block in expr.blocks:
            for binding in block.bindings:
                yield from _calls(binding.value)
        yield from _calls(expr.body)
    elif isinstance(expr, relax.If):
        yield from _calls(expr.true_branch)
        yield from _calls(expr.false_branch)
    elif isinstance(expr, tvm.ir.Call):
        yield expr
