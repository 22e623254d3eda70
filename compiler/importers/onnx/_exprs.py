"""Relax expressions of the importer: constants, shapes, and what a tensor expression tells of itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import relax, tirx

from ..._constants import constant_of
from ._dims import Dim
from ._errors import Broken

__all__ = ["check_extents", "constant", "dims_of", "dtype_of", "shape_expr"]

_MAX_ELEMENTS = 1 << 40


def constant(array: npt.NDArray[Any] | np.generic) -> Any:
    """A Relax constant of exactly the array's type (relax.const alone narrows int64 and float64)."""
    return constant_of(np.asarray(array))


def check_extents(dims: Sequence[Dim]) -> None:
    """A tensor of these extents can exist, as far as they are known."""
    known = [d for d in dims if isinstance(d, int)]
    if any(d < 0 for d in known):
        raise Broken(f"has a result or value with a negative extent: {list(dims)}")
    if math.prod(known) > _MAX_ELEMENTS:
        raise Broken(f"has extents {list(dims)}, whose product is beyond all memory")


def shape_expr(dims: Sequence[Dim]) -> Any:
    if any(isinstance(d, int) and not -(1 << 63) <= d < 1 << 63 for d in dims):
        raise Broken(f"has extents beyond 64 bits: {list(dims)}")
    return relax.ShapeExpr([tirx.IntImm("int64", d) if isinstance(d, int) else d for d in dims])


def dims_of(expression: Any) -> tuple[Dim, ...]:
    """The extents of a Relax tensor expression, as Python integers where they are known."""
    return tuple(int(d.value) if isinstance(d, tirx.IntImm) else d for d in expression.ty.shape.values)


def dtype_of(expression: Any) -> str:
    return str(expression.ty.dtype)
