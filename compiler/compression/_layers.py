"""The layers of a model: which of them static 8 bits can have, and why the others stay in float."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import tvm
from tvm import relax

from ..ir import read_operator
from ..passes._dims import extents
from ..passes._ops import dtype_of
from ..passes._rewrite import array_of, is_call
from ..passes.lower_quantized import MAX_DEPTH, conv_contract
from ..passes.sub_pixels import TRANSPOSED, SubPixels

__all__ = [
    "NESTED",
    "Layer",
    "constant_weight_reason",
    "is_quantized",
    "layers",
    "matrix_reason",
    "weight_axis",
    "weight_count",
]

NESTED = "it is inside of a branch or a loop, where calibration does not see what it reads"

_KINDS = {
    **{f"relax.nn.conv{n}d": f"convolution over {n} {'axis' if n == 1 else 'axes'}" for n in (1, 2, 3)},
    **dict.fromkeys(TRANSPOSED, "transposed convolution"),
    "relax.matmul": "product",
}
_CONVOLUTIONS = {"relax.nn.conv1d": "W", "relax.nn.conv2d": "HW", "relax.nn.conv3d": "DHW"}
_QUANTIZED = ("decode", "dynamic_quantize", "dynamic_quantize_lstm", "dynamic_quantize_gru")
_OPERATORS = {"lstm": "LSTM", "gru": "GRU", "attention": "attention"}


@dataclass(frozen=True)
class Layer:
    """`name` is the source's, with a number behind it where several have it; `kind` is a word for people; `reason` says why static 8 bits
    cannot have it, and is empty where they can. `var` is bound to its result, which is `value`; `nested`: within a branch or a loop."""

    name: str
    kind: str
    reason: str
    var: relax.Var
    value: relax.Expr
    nested: bool


def layers(mod: tvm.IRModule) -> list[Layer]:
    """All of them in order, those within branches and loops included."""
    found: list[Layer] = []
    seen: Counter[str] = Counter()
    for binding, inner in _bindings(mod["main"].body, False):
        if not (kind := _kind(binding.value)):
            continue
        name = str(binding.var.name)
        seen[name] += 1
        reason = _reason(binding.value)
        unique = name if seen[name] == 1 else f"{name}#{seen[name]}"
        found.append(Layer(unique, kind, reason, binding.var, binding.value, inner))
    return found


def weight_count(layer: Layer) -> int:
    """How many numbers of its operands are the model's own."""
    operands = layer.value.args if isinstance(layer.value, relax.Call) else []
    return sum(array.size for array in map(array_of, operands) if array is not None)


def is_quantized(mod: tvm.IRModule) -> bool:
    """Whether the model has quantized numbers already."""
    names = ("relax.quantize", "relax.dequantize")
    return any(
        is_call(b.value, *names) or _operator(b.value) in _QUANTIZED for b, _ in _bindings(mod["main"].body, False)
    )


def weight_axis(value: relax.Expr) -> int | None:
    """The axis of the output channels of what can be quantized: a layer with a constant weight that the kernels take."""
    if not is_call(value, "relax.matmul", *_CONVOLUTIONS) or _reason(value):
        return None
    return 1 if is_call(value, "relax.matmul") else 0


def _bindings(body: relax.Expr, inner: bool) -> Iterator[tuple[relax.Binding, bool]]:
    for block in body.blocks if isinstance(body, relax.SeqExpr) else []:
        for binding in block.bindings:
            yield binding, inner
            if isinstance(binding.value, relax.If):
                for branch in (binding.value.true_branch, binding.value.false_branch):
                    yield from _bindings(branch, True)


def _operator(value: relax.Expr) -> str:
    call = read_operator(value)
    return call.operator.name if call is not None else ""


def _kind(value: relax.Expr) -> str:
    if is_call(value, *_KINDS):
        return _KINDS[str(value.op.name)]
    if is_call(value, "relax.take") and array_of(value.args[0]) is not None and value.args[0].ty.ndim == 2:
        return "embedding" if dtype_of(value.args[0]).startswith(("float", "bfloat")) else ""
    return _OPERATORS.get(_operator(value), "")


def _reason(value: relax.Expr) -> str:
    """Why a layer stays in float; "" if it need not."""
    if not is_call(value, "relax.matmul", *_CONVOLUTIONS, *TRANSPOSED):
        attention = _operator(value) == "attention"
        return "in one pass over floats it is as quick" if attention else "there is no kernel of 8 bits for it"
    if reason := constant_weight_reason(value):
        return reason
    weight = array_of(value.args[1])
    assert weight is not None
    if is_call(value, *TRANSPOSED):
        way = SubPixels.of(value)
        return way if isinstance(way, str) else _filter_reason(value, way.filters_shape(weight.shape))
    if is_call(value, "relax.matmul"):
        too_deep = f"its sums have more than {MAX_DEPTH} terms" if weight.shape[0] > MAX_DEPTH else ""
        return matrix_reason(value) or too_deep
    space = _CONVOLUTIONS[str(value.op.name)]
    if str(value.attrs.data_layout) != f"NC{space}" or str(value.attrs.kernel_layout) != f"OI{space}":
        return f"its layout is another than NC{space}"
    return _filter_reason(value, weight.shape)


def _filter_reason(value: relax.Call, shape: Sequence[int]) -> str:
    """Why no kernel of 8 bits takes a convolution of `value`'s operand by filters of this shape; "" if one does."""
    if len(shape) == 5 and not isinstance(extents(value.args[0])[2], int):
        return "how many planes its volumes have is a run's"
    contract = conv_contract(shape, int(value.attrs.groups))
    return "" if contract else "a group has fewer than 4 outputs, or its sums more terms than 32 bits hold"


def constant_weight_reason(value: relax.Call) -> str:
    """Why a convolution or product has no weights of float32 that could be quantized; "" if it has."""
    dtypes = {dtype_of(value), *map(dtype_of, value.args)}
    if dtypes != {"float32"}:
        return f"its numbers are {', '.join(sorted(dtypes))}"
    weight = array_of(value.args[1])
    if weight is None:
        return "both of its operands are a run's" if is_call(value, "relax.matmul") else "its weights are a run's"
    if weight.size == 0 or not np.isfinite(weight).all():
        return "its weights are not finite numbers"
    return "both of its operands are constants" if array_of(value.args[0]) is not None else ""


def matrix_reason(value: relax.Call) -> str:
    """Why a product with a constant is not one with a matrix; "" if it is."""
    is_matrix = value.args[1].ty.ndim == 2 and value.args[0].ty.ndim >= 2
    return "" if is_matrix else "it is no product with one matrix"
