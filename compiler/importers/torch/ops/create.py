"""Operators that make tensors from numbers. What is fully known at import is computed by torch itself and kept as a constant."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from tvm import relax

from .._context import Context, Expr, as_dim, as_expr
from .._registry import NotConvertible, converts

OP = relax.op
_LARGEST_CONSTANT = 1 << 20  # elements


def _evaluated(c: Context) -> Expr | None:
    """The node's result as torch computes it, if nothing in it depends on inputs; None otherwise."""
    node, fake = c.node, c.result
    assert node is not None
    nested = torch.fx.node.map_arg((node.args, node.kwargs), lambda n: _frozen(n))
    leaves = torch.utils._pytree.tree_leaves(nested)
    if any(leaf is _Unknown for leaf in leaves) or not _is_static(fake) or fake.numel() > _LARGEST_CONSTANT:
        return None
    return c.tensor_const(node.target(*nested[0], **nested[1]))  # type: ignore[operator]


class _Unknown:
    """Stands for a value that only a run knows."""


def _frozen(node: torch.fx.Node) -> Any:
    value = node.meta.get("val")
    return value if isinstance(value, (int, float, bool)) else _Unknown


def _is_static(fake: Any) -> bool:
    return isinstance(fake, torch.Tensor) and all(isinstance(size, int) for size in fake.shape)


def _filled(c: Context, value: Any) -> Expr:
    shape, dtype = c.out_shape(), c.out_dtype()
    if isinstance(value, (bool, int, float)):
        return c.zeros(shape, dtype, value)
    return c.broadcast(c.reshape(c.tensor(value, dtype), [1] * len(shape)), shape)


@converts("aten.full.default")
def full(c: Context, size: Any, fill_value: Any, dtype: Any = None) -> Expr:
    return _filled(c, fill_value)


@converts("aten.full_like.default", "aten.new_full.default")
def full_like(c: Context, x: Expr, fill_value: Any, size: Any = None, dtype: Any = None) -> Expr:
    return _filled(c, fill_value)


@converts("aten.zeros.default", "aten.empty.memory_format")  # empty: any value is right, zero is repeatable
def zeros(c: Context, size: Any, dtype: Any = None) -> Expr:
    return _filled(c, 0)


@converts("aten.ones.default")
def ones(c: Context, size: Any, dtype: Any = None) -> Expr:
    return _filled(c, 1)


@converts("aten.zeros_like.default", "aten.new_zeros.default", "aten.empty_like.default", "aten.new_empty.default")
def zeros_like(c: Context, x: Expr, size: Any = None, dtype: Any = None) -> Expr:
    return _filled(c, 0)


@converts("aten.ones_like.default", "aten.new_ones.default")
def ones_like(c: Context, x: Expr, size: Any = None, dtype: Any = None) -> Expr:
    return _filled(c, 1)


@converts("aten.fill.Scalar", "aten.fill.Tensor")
def fill(c: Context, x: Expr, value: Any) -> Expr:
    return _filled(c, value)


@converts("aten.copy.default")
def copy(c: Context, x: Expr, src: Expr) -> Expr:
    return c.broadcast(c.cast(src, c.out_dtype()), c.out_shape())


@converts("aten.scalar_tensor.default")
def scalar_tensor(c: Context, s: Any, dtype: Any = None) -> Expr:
    return c.tensor(s, c.out_dtype())


@converts("aten.arange.default", "aten.arange.start", "aten.arange.start_step")
def arange(c: Context, end: Any, start: Any = 0, step: Any = 1, dtype: Any = None) -> Expr:
    known = _evaluated(c)
    if known is not None:
        return known
    first, stride = as_dim(start), as_dim(step)
    if any(isinstance(v, float) for v in (first, stride)):
        raise NotConvertible("a range of dynamic length with fractional steps")
    length = c.out_shape()[0]
    counter = c.emit(OP.arange(as_expr(0), as_expr(length), as_expr(1), "int64"))
    if not (isinstance(stride, int) and stride == 1):
        counter = c.emit(OP.multiply(counter, c.tensor(stride, "int64")))
    if not (isinstance(first, int) and first == 0):
        counter = c.emit(OP.add(counter, c.tensor(first, "int64")))
    return c.cast(counter, c.out_dtype())


@converts("aten.eye.default", "aten.eye.m")
def eye(c: Context, n: Any, m: Any = None, dtype: Any = None) -> Expr:
    known = _evaluated(c)
    if known is not None:
        return known
    rows, columns = (c.emit(OP.arange(as_expr(0), as_expr(size), as_expr(1), "int64")) for size in c.out_shape())
    return c.cast(c.emit(OP.equal(c.reshape(rows, [c.out_shape()[0], 1]), columns)), c.out_dtype())


@converts("aten.linspace.default", "aten.tril_indices.default", "aten.triu_indices.default",
          "aten.logspace.default", "aten.hann_window.default", "aten.hamming_window.default")  # fmt: skip
def evaluated(c: Context, start: Any = None, end: Any = None, steps: Any = None, row: Any = None,
              col: Any = None, offset: Any = None, base: Any = None, window_length: Any = None, dtype: Any = None) -> Expr:  # fmt: skip
    known = _evaluated(c)
    if known is None:
        raise NotConvertible("a size that is dynamic or very large")
    return known


def _triangle(c: Context, x: Expr, diagonal: Any, lower: bool) -> Expr:
    if not isinstance(diagonal, int):
        raise NotConvertible("a dynamic diagonal")
    if c.dtype(x) == "bool":
        kept = c.emit((OP.tril if lower else OP.triu)(c.emit(OP.astype(x, "int8")), diagonal))
        return c.cast(kept, "bool")
    return c.emit((OP.tril if lower else OP.triu)(x, diagonal))


@converts("aten.tril.default")
def tril(c: Context, x: Expr, diagonal: Any = 0) -> Expr:
    return _triangle(c, x, diagonal, lower=True)


@converts("aten.triu.default")
def triu(c: Context, x: Expr, diagonal: Any = 0) -> Expr:
    return _triangle(c, x, diagonal, lower=False)


@converts("aten.one_hot.default")
def one_hot(c: Context, x: Expr, num_classes: Any = -1) -> Expr:
    if not isinstance(num_classes, int) or num_classes <= 0:
        raise NotConvertible("a number of classes that only the data decides")
    classes = c.const(np.arange(num_classes), c.dtype(x))
    return c.cast(c.emit(OP.equal(c.reshape(x, [*c.shape(x), 1]), classes)), c.out_dtype())


@converts("aten.item.default", "aten._local_scalar_dense.default")
def item(c: Context, x: Expr) -> Any:
    """A number out of a tensor with one element: a whole number becomes a symbol, others stay tensors of rank 0."""
    assert c.node is not None
    value = c.node.meta["val"]
    if isinstance(value, torch.SymInt) and value.node.expr.free_symbols:
        return c.bind_symbol(value.node.expr, x, c.node.name)
    if isinstance(value, (torch.SymFloat, torch.SymBool)):
        scalar = c.reshape(x, [])
        c.scalar_tensors[str(value.node.expr)] = scalar
        return c.cast(scalar, "float64" if isinstance(value, torch.SymFloat) else "bool")
    if not isinstance(value, bool) and isinstance(value, int) and c.constant_value(x) is None:
        c.require_number(x, value)  # what torch._check says that it is
    if isinstance(value, torch.SymInt):
        c.require_number(x, c.dim(value))  # torch._check said which one it is
        return c.dim(value)
    return value
