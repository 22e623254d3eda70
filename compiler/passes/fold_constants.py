"""Evaluate what depends on constants only, at compile time, with numpy; but constants of 8 bits that are dequantized are `decode`.

A result that is much larger than what it was made of (a broadcast, a range) stays an operator, so that files do not
swell.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import tvm
from tvm import relax

from ..ir import encoded_dequantize
from ._dims import static_shape
from ._ops import constant, dtype_of, names, slice_of
from ._rewrite import Array, Rewriter, array_of, is_call, rewrite

__all__ = ["dequantized", "evaluate", "fold_constants"]

SMALL = 1 << 16  # bytes: a result of at most this size is always kept as a constant
GROWTH = 2  # beyond that it may be this many times its inputs,
LARGE = 1 << 28  # and beyond that no larger than they;
TOTAL = 1 << 30  # all of them together may come to this, or to four times the constants that there are

_UNARY = names(
    "abs ceil cos exp floor log negative sin sqrt square tanh tan sign logical_not isnan isinf isfinite trunc"
)
_BINARY = names(
    "add subtract multiply maximum minimum power equal not_equal greater greater_equal less less_equal logical_and "
    "logical_or logical_xor floor_divide"
)
_REDUCE: dict[str, Callable[..., Array]] = {
    "sum": np.sum,
    "mean": np.mean,
    "max": np.max,
    "min": np.min,
    "prod": np.prod,
    "variance": np.var,
    "std": np.std,
}


def fold_constants(mod: tvm.IRModule) -> tvm.IRModule:
    bytes_made, limit = 0, max(TOTAL, 4 * _constant_bytes(mod))

    def fold(rw: Rewriter, var: relax.Var, value: relax.Expr) -> relax.Expr | None:
        nonlocal bytes_made
        if is_call(value, "relax.dequantize"):
            encoded = encoded_dequantize(value)
            if not encoded.same_as(value):
                return encoded
        if bytes_made > limit or not is_call(value) or not isinstance(var.ty, relax.TensorType):
            return None
        result = evaluate(value, var)
        result = _summed(rw, value) if result is None else result
        if result is None:
            return None
        bytes_made += result.nbytes
        return constant(result)

    return rewrite(mod, fold)


def _summed(rw: Rewriter, value: relax.Call) -> Array | None:
    """Sums of integers that are cast before: the cast alone would be a larger constant (columns of weights of 8 bits)."""
    cast = rw.call(value.args[0], "relax.astype") if is_call(value, "relax.sum") else None
    source = array_of(cast.args[0]) if cast is not None else None
    if cast is None or source is None or source.dtype.kind not in "iu" or dtype_of(cast) not in ("int32", "int64"):
        return None
    axes = None if value.attrs.axis is None else tuple(int(axis) for axis in value.attrs.axis)
    return np.asarray(np.sum(source, axis=axes, dtype=dtype_of(cast), keepdims=bool(value.attrs.keepdims)))


def _constant_bytes(mod: tvm.IRModule) -> int:
    """What the module's constants hold, each counted once."""
    sizes: dict[Any, int] = {}

    def visit(node: Any) -> None:
        array = array_of(node) if isinstance(node, tvm.ir.GenericConst) else None
        if array is not None:
            sizes[node] = array.nbytes

    relax.analysis.post_order_visit(mod["main"], visit)
    return sum(sizes.values())


def evaluate(value: relax.Call, typed: relax.Expr) -> Array | None:
    """The call's value if its tensors are all constants, it is understood, and it is worth storing; else None.

    `typed` has the call's type: a result of another dtype or shape is not believed.
    """
    shape = static_shape(typed)
    dtype = dtype_of(typed)
    if shape is None or not dtype or dtype in ("bfloat16", "float8_e4m3fn", "float8_e5m2"):
        return None
    inputs: list[Array] = []
    for arg in value.args:
        for part in arg.fields if isinstance(arg, relax.Tuple) else [arg]:
            if isinstance(part.ty, relax.TensorType):
                array = array_of(part)
                if array is None:
                    return None
                inputs.append(array)
            elif isinstance(part, tvm.ir.Var):
                return None
    size = math.prod(shape) * np.dtype(dtype).itemsize
    made_of = sum(array.nbytes for array in inputs)
    if size > SMALL and (size > GROWTH * made_of or (size > LARGE and size > made_of)):
        return None
    name = str(value.op.name).removeprefix("relax.")
    with np.errstate(all="ignore"):
        result = _apply(name, value, inputs, shape, dtype)
    if result is None:
        return None
    result = np.asarray(result)
    if list(result.shape) != list(shape):
        return None
    return result.astype(dtype) if str(result.dtype) != dtype else result


def _apply(name: str, call: relax.Call, x: list[Array], shape: list[int], dtype: str) -> Array | None:
    if "relax." + name in _UNARY and len(x) == 1:
        return _as_array(getattr(np, name)(x[0]))
    if "relax." + name in _BINARY and len(x) == 2 and x[0].dtype == x[1].dtype:
        if name in ("power", "floor_divide") and x[0].dtype.kind != "f":
            return None
        return _as_array(getattr(np, name)(x[0], x[1]))
    if name in _REDUCE and len(x) == 1 and x[0].dtype.kind == "f" and x[0].size:
        axes = None if call.attrs.axis is None else tuple(int(axis) for axis in call.attrs.axis)
        return _REDUCE[name](x[0].astype(np.float64), axis=axes, keepdims=bool(call.attrs.keepdims))
    evaluator = _EVALUATORS.get(name)
    return None if evaluator is None else evaluator(call, x, shape, dtype)


def _as_array(value: object) -> Array:
    return np.asarray(value)


def _divide(call: relax.Call, x: list[Array], shape: list[int], dtype: str) -> Array | None:
    return np.divide(x[0], x[1]) if x[0].dtype.kind == "f" else None


def _astype(call: relax.Call, x: list[Array], shape: list[int], dtype: str) -> Array | None:
    if x[0].dtype.kind == "f" and np.dtype(dtype).kind in "iu" and not np.isfinite(x[0]).all():
        return None
    return x[0].astype(dtype)


def _dequantize(call: relax.Call, x: list[Array], shape: list[int], dtype: str) -> Array | None:
    """Biases; weights of 8 bits are `decode`."""
    return dequantized(call) if x[0].dtype == np.int32 else None


def dequantized(call: relax.Call) -> Array | None:
    """(x - zero) * scale of constants, rounded as the generated code does."""
    parts = [array_of(arg) for arg in call.args]
    if any(part is None for part in parts):
        return None
    x, scale, zero = (part for part in parts if part is not None)
    if scale.ndim:
        dims = [1] * x.ndim
        dims[int(call.attrs.axis) % x.ndim] = scale.size
        scale, zero = scale.reshape(dims), zero.reshape(dims)
    with np.errstate(all="ignore"):  # a scale that is no finite number
        result: Array = (x.astype(np.int64) - zero.astype(np.int64)).astype(np.float32) * scale
    return result


def _permute(call: relax.Call, x: list[Array], shape: list[int], dtype: str) -> Array:
    return np.transpose(x[0], None if call.attrs.axes is None else [int(axis) for axis in call.attrs.axes])


def _concat(call: relax.Call, x: list[Array], shape: list[int], dtype: str) -> Array:
    return np.concatenate(x, axis=None if call.attrs.axis is None else int(call.attrs.axis))


def _take(call: relax.Call, x: list[Array], shape: list[int], dtype: str) -> Array | None:
    axis = call.attrs.axis
    if len(x) != 2 or axis is None:
        return None
    extent = x[0].shape[int(axis)]
    if x[1].size and not (-extent <= x[1].min() and x[1].max() < extent):
        return None
    return np.take(x[0], x[1], axis=int(axis))


def _where(call: relax.Call, x: list[Array], shape: list[int], dtype: str) -> Array | None:
    return np.where(*x) if len(x) == 3 else None


def _arange(call: relax.Call, x: list[Array], shape: list[int], dtype: str) -> Array | None:
    start, end, step = (getattr(arg, "value", None) for arg in call.args)
    return None if start is None or end is None or step is None else np.arange(start, end, step, dtype=dtype)


def _full(call: relax.Call, x: list[Array], shape: list[int], dtype: str) -> Array | None:
    return np.full(shape, x[0].reshape(()), dtype) if len(x) == 1 and x[0].size == 1 else None


def _slice(call: relax.Call, x: list[Array], shape: list[int], dtype: str) -> Array | None:
    index: list[Any] = [slice(None)] * x[0].ndim
    for axis, low, high, stride in slice_of(call):
        if low is None or high is None or stride is None or stride < 1:
            return None
        index[axis] = slice(low, high, stride)
    return _as_array(x[0][tuple(index)])


def _sum(call: relax.Call, x: list[Array], shape: list[int], dtype: str) -> Array | None:
    """Of integers: a sum of floats depends on its order."""
    if x[0].dtype.kind not in "iu":
        return None
    axes = None if call.attrs.axis is None else tuple(int(axis) for axis in call.attrs.axis)
    return np.asarray(x[0].sum(axis=axes, dtype=x[0].dtype, keepdims=bool(call.attrs.keepdims)))


_EVALUATORS: dict[str, Callable[[relax.Call, list[Array], list[int], str], Array | None]] = {
    "divide": _divide,
    "astype": _astype,
    "permute_dims": _permute,
    "concat": _concat,
    "take": _take,
    "where": _where,
    "arange": _arange,
    "full": _full,
    "strided_slice": _slice,
    "dequantize": _dequantize,
    "sum": _sum,
    "zeros": lambda call, x, shape, dtype: np.zeros(shape, dtype),
    "ones": lambda call, x, shape, dtype: np.ones(shape, dtype),
    "zeros_like": lambda call, x, shape, dtype: np.zeros(shape, dtype),
    "ones_like": lambda call, x, shape, dtype: np.ones(shape, dtype),
    "full_like": lambda call, x, shape, dtype: np.full(shape, x[1].reshape(()), dtype),
    "round": lambda call, x, shape, dtype: np.rint(x[0]),
    "rsqrt": lambda call, x, shape, dtype: 1.0 / np.sqrt(x[0].astype(np.float64)),
    "reshape": lambda call, x, shape, dtype: x[0].reshape(shape),
    "expand_dims": lambda call, x, shape, dtype: x[0].reshape(shape),
    "squeeze": lambda call, x, shape, dtype: x[0].reshape(shape),
    "flatten": lambda call, x, shape, dtype: x[0].reshape(shape),
    "broadcast_to": lambda call, x, shape, dtype: np.broadcast_to(x[0], shape),
}
