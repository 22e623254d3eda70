"""What several passes emit: reshapes with explicit shapes, transposes that know when they are reshapes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from tvm import relax

from .._constants import constant_of
from ._dims import Dim, product, same_shape, shape_of
from ._rewrite import Array, array_of, call_of, is_call

__all__ = [
    "constant",
    "dtype_of",
    "finite_f32",
    "is_f32",
    "moved_only_units",
    "names",
    "permute",
    "permuted",
    "regroup",
    "reshape",
    "row_of",
    "same_move",
    "slice_of",
]


def dtype_of(expr: relax.Expr) -> str:
    """Element type as text; "" if unknown or no tensor."""
    ty = expr.ty
    return str(ty.dtype) if isinstance(ty, relax.TensorType) and ty.dtype is not None else ""


def names(text: str) -> frozenset[str]:
    """Operators by their names without the `relax.` before them."""
    return frozenset("relax." + name for name in text.split())


def slice_of(call: relax.Call) -> list[tuple[int, int | None, int | None, int | None]]:
    """(axis, begin, end, stride) of a strided_slice, as written; None for what depends on a symbol."""
    ndim = call.args[0].ty.ndim
    parts = [[_number(item) for item in arg.fields] for arg in call.args[1:]]
    if len(parts) < 4:
        parts.append([1] * len(parts[0]))
    return [(int(axis or 0) % ndim, *rest) for axis, *rest in zip(*parts, strict=True)]


def _number(expr: relax.Expr) -> int | None:
    value = getattr(expr, "value", None)
    return None if value is None else int(value)


def is_f32(*exprs: relax.Expr) -> bool:
    return all(dtype_of(expr) == "float32" for expr in exprs)


def finite_f32(number: float) -> bool:
    """Whether a number is one that the kernels take as an attribute."""
    return bool(abs(number) <= np.finfo(np.float32).max)


def constant(value: Array) -> relax.Expr:
    """A Relax constant of exactly this array's dtype and shape (rank 0 included)."""
    return constant_of(value)


def reshape(x: relax.Expr, shape: Sequence[Dim]) -> relax.Expr:
    """`x` with another shape; `x` itself if it has that shape already."""
    if same_shape(shape_of(x), list(shape)):
        return x
    return relax.op.reshape(x, relax.ShapeExpr(list(shape)))


def row_of(vector: relax.Expr, shape: Sequence[Dim] | None) -> Array | None:
    """float32 [shape[-1]]: a constant that broadcasts along the last axis only, as a vector of it (a scalar is spread)."""
    array = array_of(vector)
    if (
        array is None
        or array.dtype != np.float32
        or not shape
        or array.ndim > len(shape)
        or not isinstance(shape[-1], int)
    ):
        return None
    if array.size not in (1, shape[-1]) or (array.size > 1 and array.shape[-1] != array.size):
        return None
    return np.ascontiguousarray(np.broadcast_to(array.reshape(-1), (shape[-1],)))


def moved_only_units(shape: Sequence[Dim], axes: Sequence[int]) -> bool:
    """Whether a transpose keeps the order of all axes whose extent is not 1: then it is a reshape."""
    kept = [axis for axis in axes if not (isinstance(shape[axis], int) and shape[axis] == 1)]
    return kept == sorted(kept)


def permuted(items: Sequence[Dim], axes: Sequence[int]) -> list[Dim]:
    return [items[axis] for axis in axes]


def permute(x: relax.Expr, axes: Sequence[int]) -> relax.Expr:
    """`x` transposed; a reshape where only axes of extent 1 move; `x` itself if nothing moves."""
    shape = shape_of(x)
    if list(axes) == list(range(len(axes))):
        return x
    if shape is not None and moved_only_units(shape, axes):
        return reshape(x, permuted(shape, axes))
    return relax.op.permute_dims(x, list(axes))


def regroup(source: Sequence[Dim], target: Sequence[Dim]) -> list[tuple[list[int], list[int]]] | None:
    """Which axes of `source` become which axes of `target` in a reshape: the finest list of groups of equal product.

    Axes of extent 1 may stand in a group with an empty other side. None if the shapes do not line up for all bindings.
    """
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(source) or j < len(target):
        if i < len(source) and isinstance(source[i], int) and source[i] == 1:
            groups.append(([i], []))
            i += 1
            continue
        if j < len(target) and isinstance(target[j], int) and target[j] == 1:
            groups.append(([], [j]))
            j += 1
            continue
        if i >= len(source) or j >= len(target):
            return None
        first, second = [i], [j]
        i, j = i + 1, j + 1
        while (left := product(source[k] for k in first)) != (right := product(target[k] for k in second)):
            constants = set(left) | set(right) == {()}
            grow_left = left.get((), 0) < right.get((), 0) if constants else _divides(right, left)
            if grow_left and i < len(source):
                first.append(i)
                i += 1
            elif j < len(target) and (not constants or not grow_left):
                second.append(j)
                j += 1
            elif i < len(source) and not constants:
                first.append(i)
                i += 1
            else:
                return None
        groups.append((first, second))
    return groups


def _divides(whole: dict[tuple[str, ...], int], part: dict[tuple[str, ...], int]) -> bool:
    """Whether `part` can be one factor of `whole`: both of one monomial, atoms contained and coefficient dividing."""
    if len(whole) != 1 or len(part) != 1:
        return False
    (whole_atoms, whole_c), (part_atoms, part_c) = next(iter(whole.items())), next(iter(part.items()))
    rest = list(whole_atoms)
    for atom in part_atoms:
        if atom not in rest:
            return False
        rest.remove(atom)
    return whole_c % part_c == 0


def same_move(move: relax.Call) -> Callable[[relax.Expr], relax.Expr]:
    """What a reshape, a slice or a transpose does, for another tensor of the same shape."""
    if is_call(move, "relax.strided_slice"):
        return lambda x: call_of("relax.strided_slice", [x, *move.args[1:]], move.attrs)
    if is_call(move, "relax.reshape"):
        shape = shape_of(move)
        return lambda x: relax.op.reshape(x, move.args[1]) if shape is None else reshape(x, shape)
    axes = move.attrs.axes
    order = list(reversed(range(move.ty.ndim))) if axes is None else [int(axis) % move.ty.ndim for axis in axes]
    return lambda x: permute(x, order)
