"""Half precision keeps float32 between operators: what one gives is rounded where it is stored for the caller, not on the way to the next.

An operator on float16 becomes the same on float32 with casts around it, and a cast to a half type whose result is cast back goes. Only
casts that an importer made take part, relax.astype; a model's own cast to a half type is meant to round, and is generated code
from the start. So are the operands and the result of a product of two run-time tensors. Weights stay what they are: an operator that only moves elements is widened where its source is wide already.
"""

from __future__ import annotations

import tvm
from tvm import relax

from ._ops import constant, dtype_of, names
from ._rewrite import Rewriter, array_of, call_of, is_call, rewrite

__all__ = ["keep_wide"]

_HALVES = ("float16", "bfloat16")
_CALCULATES = names(
    "add subtract multiply divide maximum minimum negative abs exp log sqrt rsqrt square power sigmoid tanh erf clip where sum mean max min "
    "nn.relu nn.leakyrelu nn.gelu nn.gelu_tanh nn.silu nn.softmax nn.log_softmax nn.max_pool1d nn.max_pool2d nn.max_pool3d nn.avg_pool1d "
    "nn.avg_pool2d nn.avg_pool3d nn.adaptive_avg_pool2d"
)
_MOVES = names("reshape permute_dims concat strided_slice squeeze expand_dims broadcast_to flatten nn.pad")


def keep_wide(mod: tvm.IRModule) -> tvm.IRModule:
    return rewrite(mod, _widen)


def _widen(rw: Rewriter, var: relax.Var, value: relax.Expr) -> relax.Expr | None:
    if not is_call(value):
        return None
    if is_call(value, "relax.astype"):
        if dtype_of(var) != "float32" or _feeds_two_tensors(rw, var):
            return None
        return _source(rw, value.args[0])
    name = str(value.op.name)
    if name not in _CALCULATES | _MOVES or dtype_of(var) not in _HALVES:
        return None
    args = list(value.args)
    tensors = list(args[0].fields) if isinstance(args[0], relax.Tuple) else args
    if name in _MOVES and not any(_source(rw, arg) is not None for arg in tensors):
        return None
    wide = [_as_float32(rw, arg) for arg in tensors]
    args = [relax.Tuple(wide)] if isinstance(args[0], relax.Tuple) else wide
    return relax.op.astype(rw.emit(call_of(name, args, value.attrs), str(var.name)), dtype_of(var))


def _feeds_two_tensors(rw: Rewriter, var: relax.Var) -> bool:
    """Whether it goes, perhaps moved, into a product of two run-time tensors."""
    return any(
        _of_two_tensors(rw, user) or (is_call(user) and str(user.op.name) in _MOVES and _feeds_two_tensors(rw, moved))
        for moved, user in rw.users(var)
    )


def _of_two_tensors(rw: Rewriter, value: relax.Expr | None) -> bool:
    """A product of two run-time tensors, as in attention, whose operands and result ONNX's definition of Attention rounds."""
    return is_call(value, "relax.matmul") and not any(_is_weight(rw, arg) for arg in value.args)


def _is_weight(rw: Rewriter, expr: relax.Expr) -> bool:
    """Whether it is a constant, perhaps cast or moved."""
    mapped = rw.mapped(expr)
    expr = expr if mapped is None else mapped
    while (call := rw.call(expr, "relax.astype", "relax.permute_dims", "relax.reshape")) is not None:
        expr = call.args[0]
    return array_of(expr) is not None


def _source(rw: Rewriter, expr: relax.Expr) -> relax.Expr | None:
    """The float32 of which a tensor of half precision is the rounding, if it is one that an importer's cast made."""
    cast = rw.call(expr, "relax.astype")
    if cast is None or dtype_of(expr) not in _HALVES or dtype_of(cast.args[0]) != "float32":
        return None
    return None if _of_two_tensors(rw, rw.definition(cast.args[0])) else cast.args[0]


def _as_float32(rw: Rewriter, expr: relax.Expr) -> relax.Expr:
    """A tensor of half precision as float32; anything else as it is."""
    if not isinstance(expr.ty, relax.TensorType) or dtype_of(expr) not in _HALVES:
        return expr
    source, array = _source(rw, expr), array_of(expr)
    if source is not None:
        return source
    return constant(array.astype("float32")) if array is not None else rw.emit(relax.op.astype(expr, "float32"))
