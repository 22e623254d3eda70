"""Opaque calls, which TVM's passes leave alone: `relax.call_dps_packed("<prefix><name>", (tensors..., StringImm(json)), types)`."""

from __future__ import annotations

import json
from typing import Any

import tvm
from tvm import relax

__all__ = ["read_opaque_call"]

_CALL = tvm.ir.Op.get("relax.call_dps_packed")


def read_opaque_call(expr: Any, prefix: str) -> tuple[str, list[relax.Expr], dict[str, Any]] | None:
    """(name, tensors, what the json says) of a call whose function begins with `prefix`; None if it is anything else."""
    if not isinstance(expr, relax.Call) or not _CALL.same_as(expr.op) or not isinstance(expr.args[0], relax.ExternFunc):
        return None
    symbol = str(expr.args[0].global_symbol)
    if not symbol.startswith(prefix):
        return None
    fields = list(expr.args[1])
    return symbol[len(prefix) :], fields[:-1], json.loads(str(fields[-1].value))
