"""Products of a model that came with weights of 4 bits, on activations that each run rounds to 8: what `WeightOnly(activations="int8")` makes of it.

ONNX Runtime does so where a MatMulNBits has an `accuracy_level` of 4, in blocks of its own; here it is done where a recipe asks for it, whatever
the model allows, in the blocks of `round_to_bytes`.
"""

from __future__ import annotations

from collections.abc import Sequence

import tvm
from tvm import relax

from ..ir import round_to_bytes
from ..passes._rewrite import Rewriter, rewrite
from ..passes.lower_weights import meets_bytes
from ._layers import Layer

__all__ = ["round_inputs"]


def round_inputs(mod: tvm.IRModule, chosen: Sequence[Layer]) -> tuple[tvm.IRModule, list[str]]:
    """The layers `chosen` that are such products, with their inputs rounded; and their names."""
    by_var = {layer.var: layer for layer in chosen}
    shared: dict[relax.Expr, relax.Expr] = {}  # by what is read
    names: list[str] = []

    def rule(rw: Rewriter, var: relax.Var, value: relax.Expr) -> relax.Expr | None:
        if var not in by_var or not meets_bytes(rw, value) or rw.call(value.args[0], "relax.dequantize") is not None:
            return None
        x, weight = value.args
        rounded = {} if by_var[var].nested else shared  # what is bound within a branch is not seen behind it
        if x not in rounded:
            rounded[x] = rw.emit(round_to_bytes(x))
        names.append(by_var[var].name)
        return tvm.ir.Call(value.op, [rounded[x], weight], value.attrs, list(value.ty_args), value.span)

    return rewrite(mod, rule), names
