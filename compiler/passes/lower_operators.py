"""Operators of the IR to the kernels that compute them: a row says which, what of its operator it takes, and how its weights are packed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import tvm
from tvm import relax

from ..ir import OperatorCall, check, decode, read_operator, round_to_bytes, widen
from ._dims import static_shape
from ._integers import split_weights
from ._kernel_call import make_kernel_call
from ._ops import constant
from ._rewrite import Rewriter, array_of, rewrite

__all__ = ["ROWS", "Row", "lower_operators"]

Args = list["relax.Expr | None"]
Attrs = dict[str, int | float | str]


def _tensors(call: OperatorCall) -> Args:
    """Without a shape, which says how large a result is: that stands in the result's type."""
    return [arg for arg in call.args if arg is None or isinstance(arg.ty, relax.TensorType)]


def _as_given(call: OperatorCall) -> Attrs:
    return call.attrs


def _recurrent(call: OperatorCall) -> Attrs:
    shape = static_shape(call.args[2])
    assert shape is not None  # of weights, which are constants
    return {"hidden": shape[2], **call.attrs}


def _signed(call: OperatorCall) -> Args:
    """Weights of either sign as int8, and zero points where they still need them."""
    args = list(call.args)
    for weight, zero in ((1, len(args) - 2), (2, len(args) - 1)):
        values = array_of(args[weight])
        zeros = array_of(args[zero])
        assert values is not None  # weights are constants
        directions, rows, depth = values.shape
        centred = values.astype(np.int32) - (0 if zeros is None else zeros.astype(np.int32)[:, :, None])
        split = split_weights(centred.reshape(directions * rows, depth), 0)
        assert split is not None  # bytes less a byte
        args[weight] = constant(split.values.reshape(values.shape))
        args[zero] = None if split.zeros is None else constant(split.zeros.reshape(directions, rows))
    return args


def _number(call: OperatorCall) -> Attrs:
    return {"number": call.attrs["number"]}


def _random(call: OperatorCall) -> str:
    suffix = {"float32": "f32", "float64": "f64", "uint64": "u64"}[str(call.attrs["dtype"])]
    return f"random_{call.attrs['kind']}_{suffix}"


@dataclass(frozen=True)
class Row:
    """A contract, its packing, and how it has an operator's attributes and inputs."""

    contract: str | Callable[[OperatorCall], str]
    packing: str = ""
    attrs: Callable[[OperatorCall], Attrs] = _as_given
    args: Callable[[OperatorCall], Args] = _tensors


ROWS: dict[str, Row] = {
    "attention": Row("attention_f32"),
    "dynamic_quantize": Row("dynamic_quantize_u8"),
    "dynamic_quantize_gru": Row("gru_u8s8", "rnn_u8s8_nr16_v1", _recurrent, _signed),
    "dynamic_quantize_lstm": Row("lstm_u8s8", "rnn_u8s8_nr16_v1", _recurrent, _signed),
    "gru": Row("gru_f32", "rnn_f32_nr16_v1", _recurrent),
    "lstm": Row("lstm_f32", "rnn_f32_nr16_v1", _recurrent),
    "random": Row(_random, attrs=_number),
    "top_k": Row("top_k"),
}


def lower_operators(mod: tvm.IRModule) -> tvm.IRModule:
    """All but `check`, which the plan reads itself, and `decode`, `widen` and `round_to_bytes`, which `lower_weights` lowers with what reads them."""
    return rewrite(mod, _lower)


def _lower(rw: Rewriter, var: relax.Var, value: relax.Expr) -> relax.Expr | None:
    call = read_operator(value)
    if call is None or call.operator in (check, decode, round_to_bytes, widen):
        return None
    row = ROWS[call.operator.name]
    contract = row.contract if isinstance(row.contract, str) else row.contract(call)
    types: Sequence[relax.TensorType] = list(var.ty.fields) if isinstance(var.ty, tvm.ir.TupleType) else [var.ty]
    return make_kernel_call(contract, row.args(call), types, row.attrs(call), packing=row.packing, name=call.place)
