"""Matrix products to kernel calls: gemm_f32 where the right side is a constant matrix (packed ahead), matmul_f32
otherwise."""

from __future__ import annotations

import tvm
from tvm import relax

from ._dims import extents, shape_of
from ._kernel_call import AttrValue, make_kernel_call
from ._ops import constant, finite_f32, is_f32, reshape
from ._rewrite import Rewriter, array_of, is_call, rewrite, scalar_of
from .lower_convolutions import GEMM_PACKING

__all__ = ["lower_matmuls"]


def lower_matmuls(mod: tvm.IRModule) -> tvm.IRModule:
    return rewrite(mod, _lower)


def _lower(rw: Rewriter, var: relax.Var, value: relax.Expr) -> relax.Expr | None:
    if not is_call(value, "relax.matmul") or not is_f32(value, *value.args):
        return None
    a, b = value.args
    shapes = [shape for shape in (shape_of(a), shape_of(b)) if shape]
    if len(shapes) != 2 or any(isinstance(extent, int) and extent == 0 for shape in shapes for extent in shape):
        return None
    weight = array_of(b)
    if weight is not None and 2 <= weight.ndim <= len(shapes[0]) and weight.size == weight.shape[-1] * weight.shape[-2]:
        matrix = b if weight.ndim == 2 else constant(weight.reshape(weight.shape[-2:]))
        sizes = {"n": weight.shape[-1], "k": weight.shape[-2]}
        return make_kernel_call("gemm_f32", [a, matrix], var.ty, sizes, packing=GEMM_PACKING, name=str(var.name))
    if len(shapes[0]) == 1 or len(shapes[1]) == 1:
        return _vectors(rw, var, value)
    attrs: dict[str, AttrValue | int | float] = {}
    a, alpha = _scaled(rw, a, 1.0)
    b, alpha = _scaled(rw, b, alpha)
    a, trans_a = _without_transpose(rw, a)
    b, trans_b = _without_transpose(rw, b)
    if trans_a:
        attrs["trans_a"] = 1
    if trans_b:
        attrs["trans_b"] = 1
    if alpha != 1.0:
        attrs["alpha"] = alpha
    return make_kernel_call("matmul_f32", [a, b], var.ty, attrs, name=str(var.name))


def _vectors(rw: Rewriter, var: relax.Var, value: relax.Call) -> relax.Expr | None:
    """A vector on either side as a matrix of one row or column."""
    a, b = value.args
    if a.ty.ndim == 1:
        a = rw.emit(reshape(a, [1, *extents(a)]))
    if b.ty.ndim == 1:
        column = array_of(b)
        b = rw.emit(reshape(b, [*extents(b), 1])) if column is None else constant(column.reshape(-1, 1))
    product = rw.emit(relax.op.matmul(a, b), str(var.name))
    lowered = _lower(rw, product, rw.definition(product))
    return reshape(rw.emit(product if lowered is None else lowered, str(var.name)), extents(var))


def _without_transpose(rw: Rewriter, x: relax.Expr) -> tuple[relax.Expr, bool]:
    """(x', True) where x is x' with its last two axes exchanged."""
    turned = rw.call(x, "relax.permute_dims")
    if turned is None:
        return x, False
    ndim = turned.args[0].ty.ndim
    axes = (
        list(reversed(range(ndim))) if turned.attrs.axes is None else [int(axis) % ndim for axis in turned.attrs.axes]
    )
    if axes != [*range(ndim - 2), ndim - 1, ndim - 2]:
        return x, False
    return turned.args[0], True


def _scaled(rw: Rewriter, x: relax.Expr, alpha: float) -> tuple[relax.Expr, float]:
    """(x', alpha * c) where x is x' * c or x' / c for a number c and nobody else needs it."""
    call = rw.call(x, "relax.multiply", "relax.divide")
    factor = scalar_of(call.args[1]) if call is not None else None
    if call is None or not factor or not rw.single_use(x) or call.args[0].ty.ndim != x.ty.ndim:
        return x, alpha
    scaled = alpha * factor if is_call(call, "relax.multiply") else alpha / factor
    return (call.args[0], scaled) if finite_f32(scaled) else (x, alpha)
