"""Functions of one tensor of 8 bits, element by element, as tables of 256 entries: what stands between dequantize and quantize."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import tvm
from tvm import relax

from ._dims import same_shape, shape_of
from ._kernel_call import make_kernel_call
from ._ops import constant, dtype_of, names, reshape
from ._rewrite import Array, Rewriter, array_of, is_call, rewrite, scalar_of

__all__ = ["fold_lookups"]

ENTRIES = 256
_EIGHT_BITS = ("uint8", "int8")
_CHEAP = names("add subtract multiply divide maximum minimum clip nn.relu nn.relu6 negative abs")


def fold_lookups(mod: tvm.IRModule) -> tvm.IRModule:
    return rewrite(mod, _fold)


def _fold(rw: Rewriter, var: relax.Var, value: relax.Expr) -> relax.Expr | None:
    if not is_call(value, "relax.quantize") or dtype_of(var) not in _EIGHT_BITS:
        return None
    found = _Function(rw).of(value.args[0])
    scale, zero = scalar_of(value.args[1]), scalar_of(value.args[2])
    shape = shape_of(var)
    if found is None or scale is None or zero is None or shape is None:
        return None
    if found.cheap and all(is_call(use, "relax.dequantize") for _, use in rw.users(var)):
        return None  # one loop over floats, which the user's dequantize joins, is as quick
    table = _quantized(found.values, scale, zero, dtype_of(var))
    q = reshape(found.q, shape)
    if dtype_of(found.q) == dtype_of(var) and np.array_equal(table.view(np.uint8), np.arange(ENTRIES)):
        return q
    return make_kernel_call("lookup", [rw.emit(q), constant(table)], var.ty, name=str(var.name))


def _quantized(x: Array, scale: float, zero: float, dtype: str) -> Array:
    """As ONNX defines QuantizeLinear, in float32."""
    limits = np.iinfo(dtype)
    with np.errstate(all="ignore"):
        q = np.rint(x / np.float32(scale)) + np.float32(zero)
    table: Array = np.nan_to_num(np.clip(q, limits.min, limits.max), nan=limits.min).astype(dtype)
    return table


class _Result:
    """A tensor that is a function of `q` alone, perhaps in another shape: its values for each byte of q, from 0 to 255."""

    def __init__(self, q: relax.Expr, values: Array, cheap: bool) -> None:
        self.q, self.values, self.cheap = q, values, cheap


class _Function:
    def __init__(self, rw: Rewriter) -> None:
        self._rw = rw
        self._results: dict[relax.Expr, _Result | None] = {}

    def of(self, expr: relax.Expr) -> _Result | None:
        """What `expr`, of float32, is a function of; None if not of one tensor of 8 bits alone."""
        if expr not in self._results:
            self._results[expr] = self._of(expr)
        return self._results[expr]

    def _of(self, expr: relax.Expr) -> _Result | None:
        call = self._rw.definition(expr)
        if not is_call(call) or dtype_of(expr) != "float32":
            return None
        if is_call(call, "relax.dequantize"):
            return _dequantized(call)
        if is_call(call, "relax.reshape"):
            return self.of(call.args[0])
        rule = _RULES.get(str(call.op.name).removeprefix("relax."))
        if rule is None:
            return None
        operands: list[Array] = []
        source: _Result | None = None
        cheap = str(call.op.name) in _CHEAP
        for arg in call.args:
            if not isinstance(arg.ty, relax.TensorType):
                number = getattr(arg, "value", None)
                if number is None:
                    return None
                operands.append(np.float32(float(number)))
                continue
            number = scalar_of(arg)
            if number is not None:
                operands.append(np.float32(number))
                continue
            result = self.of(arg) if same_shape(shape_of(arg), shape_of(expr)) else None
            if result is None or (source is not None and not source.q.same_as(result.q)):
                return None
            source, cheap = result, cheap and result.cheap
            operands.append(result.values)
        if source is None:
            return None
        with np.errstate(all="ignore"):
            values = np.asarray(rule(call, operands), np.float32)
        return _Result(source.q, values, cheap)


def _dequantized(call: relax.Call) -> _Result | None:
    dtype, scale, zero = dtype_of(call.args[0]), scalar_of(call.args[1]), scalar_of(call.args[2])
    if dtype not in _EIGHT_BITS or scale is None or zero is None or array_of(call.args[0]) is not None:
        return None
    codes = np.arange(ENTRIES, dtype=np.uint8).view(dtype).astype(np.int32)
    with np.errstate(all="ignore"):
        return _Result(call.args[0], (codes - int(zero)).astype(np.float32) * np.float32(scale), True)


# ---- the operators, on float32; functions that are no single rounding in double precision, rounded once
# ----------------------------------------------------------------------------------------------------------

_Rule = Callable[[relax.Call, list[Array]], Array]


def _binary(function: Callable[[Array, Array], Array]) -> _Rule:
    return lambda call, x: function(x[0], x[1])


def _smooth(function: Callable[[Array], Array]) -> _Rule:
    return lambda call, x: function(x[0].astype(np.float64))


def _sigmoid(x: Array) -> Array:
    result: Array = 1 / (1 + np.exp(-x))
    return result


def _erf(x: Array) -> Array:
    return np.array([math.erf(v) for v in x.reshape(-1)]).reshape(x.shape)


def _gelu(x: Array) -> Array:
    # x Phi(x) with the complement, which keeps its digits far to the left.
    phi = np.array([0.5 * math.erfc(-v * math.sqrt(0.5)) for v in x.reshape(-1)]).reshape(x.shape)
    result: Array = x * phi
    return result


def _gelu_tanh(x: Array) -> Array:
    result: Array = 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return result


_RULES: dict[str, _Rule] = {
    "add": _binary(np.add),
    "subtract": _binary(np.subtract),
    "multiply": _binary(np.multiply),
    "divide": _binary(np.divide),
    "maximum": _binary(np.maximum),
    "minimum": _binary(np.minimum),
    "clip": lambda call, x: np.minimum(np.maximum(x[0], x[1]), x[2]),
    "negative": lambda call, x: -x[0],
    "abs": lambda call, x: np.abs(x[0]),
    "nn.relu": lambda call, x: np.maximum(x[0], np.float32(0)),
    "nn.relu6": lambda call, x: np.minimum(np.maximum(x[0], np.float32(0)), np.float32(6)),
    "nn.leakyrelu": lambda call, x: np.where(x[0] > 0, x[0], x[0] * np.float32(call.attrs.alpha)),
    "nn.gelu": _smooth(_gelu),
    "nn.gelu_tanh": _smooth(_gelu_tanh),
    "nn.silu": _smooth(lambda x: x * _sigmoid(x)),
    "sigmoid": _smooth(_sigmoid),
    "tanh": _smooth(np.tanh),
    "exp": _smooth(np.exp),
    "log": _smooth(np.log),
    "sqrt": _smooth(np.sqrt),
    "rsqrt": _smooth(lambda x: 1 / np.sqrt(x)),
    "power": _binary(lambda x, y: np.power(np.asarray(x, np.float64), y)),
    "square": lambda call, x: x[0] * x[0],
    "sin": _smooth(np.sin),
    "cos": _smooth(np.cos),
    "erf": _smooth(_erf),
}
