"""A step in another way than by a kernel: as operators, which TVM lowers and this project's schedules order, like all code that is
generated. For small steps only: a large product of generated code takes many times a kernel's time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from tvm import relax

from ..passes import KernelCall
from ..passes._ops import constant
from ..passes._rewrite import array_of

__all__ = ["GENERATED", "MOST_OPERATIONS", "as_operators", "is_expressible"]

GENERATED = "generated"  # the contract of a candidate that is none
MOST_OPERATIONS = 4e6

Emit = Callable[[relax.Expr], relax.Expr]


def _number(value: float) -> relax.Expr:
    return constant(np.asarray(value, np.float32))


def _clip(x: relax.Expr, low: float, high: float, emit: Emit) -> relax.Expr:
    return relax.op.minimum(emit(relax.op.maximum(x, _number(low))), _number(high))


_ACTIVATIONS: dict[str, Callable[[relax.Expr, Sequence[float], Emit], relax.Expr]] = {
    "none": lambda x, args, emit: x,
    "relu": lambda x, args, emit: relax.op.nn.relu(x),
    "clip": lambda x, args, emit: _clip(x, args[0], args[1], emit),
    "sigmoid": lambda x, args, emit: relax.op.sigmoid(x),
    "tanh": lambda x, args, emit: relax.op.tanh(x),
    "gelu": lambda x, args, emit: relax.op.nn.gelu(x),
    "gelu_tanh": lambda x, args, emit: relax.op.nn.gelu_tanh(x),
    "silu": lambda x, args, emit: relax.op.nn.silu(x),
}


def is_expressible(call: KernelCall) -> bool:
    """Whether `as_operators` knows the call."""
    return call.contract == "gemm_f32" and call.attrs.get("act", "none") in _ACTIVATIONS


def as_operators(call: KernelCall, args: Sequence[relax.Expr | None], emit: Emit) -> relax.Expr:
    """The result of the gemm_f32 that `call` was, of these operands; `emit` binds what is in between."""
    x, weight, bias, residual = (*args, None, None)[:4]
    array = array_of(weight)
    assert x is not None and array is not None
    w = constant(np.ascontiguousarray(array.T)) if call.attrs.get("w_trans") == [1] else weight
    y = emit(relax.op.matmul(x, w))
    if bias is not None:
        y = emit(relax.op.add(y, bias))
    after = call.attrs.get("residual_after") == [1]
    if residual is not None and not after:
        y = emit(relax.op.add(y, residual))
    act_args = [float(value) for value in call.attrs.get("act_args", [])]
    y = emit(_ACTIVATIONS[str(call.attrs.get("act", "none"))](y, act_args, emit))
    return emit(relax.op.add(y, residual)) if residual is not None and after else y
