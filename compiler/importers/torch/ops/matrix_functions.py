"""Functions of matrices: the pseudo-inverse, the exponential, and the factorisation of symmetric indefinite ones.

Algorithms: Golub and Van Loan, Matrix Computations (2013): pseudo-inverse (5.5.2), scaling and squaring (9.3.1); J. R. Bunch and
L. Kaufman (1977) with LAPACK's storage.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from tvm import relax, tirx
from tvm.script.ir_builder import tirx as T

from ..._imperative import variable
from .._context import Context, Expr
from .._registry import converts
from ._matrices import WIDE, each_matrix, extents, f, results, wide_matrix
from .linalg import orthogonalised, same_batch

OP = relax.op


# The pseudo-inverse.


@converts("aten.linalg_pinv.atol_rtol_tensor", "aten.linalg_pinv.atol_rtol_float", "aten.linalg_pinv.default",
          "aten.linalg_pinv.rcond_tensor")  # fmt: skip
def pinv(c: Context, x: Expr, atol: Any = None, rtol: Any = None, rcond: Any = None, hermitian: bool = False) -> Expr:
    """V diag(1 / s) U^T; singular values up to max(atol, rtol * the largest one) count as zero."""
    rows, columns = extents(c, x)
    a = _symmetric(c, wide_matrix(c, x)) if hermitian else wide_matrix(c, x)
    turned, v = orthogonalised(c, a if rows >= columns else c.swap(a, -1, -2), vectors=True)
    last = c.rank(turned) - 1
    squares = c.emit(OP.sum(c.emit(OP.multiply(turned, turned)), [last - 1], True))  # [..., 1, K]
    sizes = c.emit(OP.sqrt(squares))
    relative = rcond if rcond is not None else rtol
    if relative is None:
        relative = float(torch.finfo(c.result.dtype).eps) * max(rows, columns)
        if atol is not None:
            zero, level = c.const(0.0, WIDE), _limit(c, atol)
            relative = c.where(c.emit(OP.greater(level, zero)), zero, c.const(relative, WIDE))
    bound = c.emit(OP.multiply(c.emit(OP.max(sizes, [last], True)), _limit(c, relative)))
    if atol is not None:
        bound = c.emit(OP.maximum(bound, _limit(c, atol)))
    kept = c.emit(OP.greater(sizes, bound))
    inverse = c.emit(OP.divide(c.const(1.0, WIDE), c.where(kept, squares, c.const(math.inf, WIDE))))
    found = c.emit(OP.matmul(c.emit(OP.multiply(v, inverse)), c.swap(turned, -1, -2)))
    return c.cast(found if rows >= columns else c.swap(found, -1, -2), c.out_dtype())


def _limit(c: Context, value: Any) -> Expr:
    """A number, or one for each matrix, that compares with [..., 1, K]."""
    if isinstance(value, (int, float)):
        return c.const(float(value), WIDE)
    wide = c.cast(value, WIDE)
    return c.reshape(wide, [*c.shape(wide), 1, 1]) if c.rank(wide) else wide


def _symmetric(c: Context, a: Expr) -> Expr:
    """The symmetric matrix that the lower triangle gives."""
    return c.emit(OP.add(c.emit(OP.tril(a, 0)), c.swap(c.emit(OP.tril(a, -1)), -1, -2)))


# The exponential.


@converts("aten.linalg_matrix_exp.default", "aten.matrix_exp.default")
def matrix_exp(c: Context, x: Expr) -> Expr:
    """The Taylor polynomial of degree 18 of A / 2^s, whose norm is at most 1/2 (error below 1e-22), squared s times."""
    a = wide_matrix(c, x)
    size = extents(c, a)[0]

    def write(source: Any, total: Any, work: Any) -> None:
        norm, times, row, scale = variable(WIDE), variable("int64"), variable(WIDE), variable(WIDE)

        def product(left: Callable[[Any, Any], Any], factor: Any, plus: bool) -> None:
            """total = left @ total * factor + identity if asked for"""
            with T.serial(0, size) as i, T.serial(0, size) as j:
                row[0] = f(0.0)
                with T.serial(0, size) as k:
                    row[0] = row[0] + left(i, k) * total[k, j]
                work[i, j] = row[0] * factor + (tirx.if_then_else(i == j, f(1.0), f(0.0)) if plus else f(0.0))
            with T.serial(0, size) as i, T.serial(0, size) as j:
                total[i, j] = work[i, j]

        norm[0] = f(0.0)
        with T.serial(0, size) as i:
            row[0] = f(0.0)
            with T.serial(0, size) as j:
                row[0] = row[0] + tirx.abs(source[i, j])
                total[i, j] = tirx.if_then_else(i == j, f(1.0), f(0.0))
            norm[0] = tirx.max(norm[0], row[0])
        times[0] = tirx.IntImm("int64", 0)
        scale[0] = f(1.0)
        with T.While(tirx.all(norm[0] > 0.5, norm[0] < tirx.infinity(WIDE))):
            norm[0] = norm[0] * 0.5
            scale[0] = scale[0] * 0.5
            times[0] = times[0] + 1
        with T.serial(0, 18) as step:
            product(lambda i, k: source[i, k] * scale[0], f(1.0) / tirx.Cast(WIDE, 18 - step), plus=True)
        with T.serial(0, times[0]):
            product(lambda i, k: total[i, k], f(1.0), plus=False)

    return c.cast(each_matrix(c, [a], [(size, size, WIDE)] * 2, write, "matrix_exp")[0], c.out_dtype())


# Symmetric indefinite matrices: P A P^T = L D L^T, D of blocks 1 x 1 and 2 x 2. A pivot -p names both rows of a 2 x 2 block.

_ALPHA = (1 + math.sqrt(17)) / 8


def _swap(a: Any, first: tuple[Any, Any], second: tuple[Any, Any], spare: Any) -> None:
    spare[0] = a[first]
    a[first] = a[second]
    a[second] = spare[0]


@converts("aten.linalg_ldl_factor_ex.default")
def ldl_factor(c: Context, x: Expr, hermitian: bool = False, check_errors: bool = False) -> list[Any]:
    """The steps of LAPACK's sytf2 on the lower triangle."""
    wide = wide_matrix(c, x)
    size = extents(c, wide)[0]

    def write(source: Any, a: Any, pivots: Any, info: Any) -> None:
        k, best, at, pair = (variable("int64") for _ in range(4))
        column, row, spare, d11, d22, d21, w, z = (variable(WIDE) for _ in range(8))
        with T.serial(0, size) as i, T.serial(0, size) as j:
            a[i, j] = tirx.if_then_else(j <= i, source[i, j], f(0.0))
        info[0, 0] = tirx.IntImm("int32", 0)
        k[0] = tirx.IntImm("int64", 0)
        with T.While(k[0] < size):
            best[0] = k[0]
            column[0] = f(0.0)
            with T.serial(0, size - 1 - k[0]) as below:
                with T.If(tirx.abs(a[k[0] + 1 + below, k[0]]) > column[0]):
                    with T.Then():
                        best[0] = k[0] + 1 + below
                        column[0] = tirx.abs(a[k[0] + 1 + below, k[0]])
            row[0] = f(0.0)
            with T.serial(0, size) as j:
                value = tirx.if_then_else(j < best[0], a[best[0], j], a[j, best[0]])
                with T.If(tirx.all(j >= k[0], j != best[0])):
                    with T.Then():
                        row[0] = tirx.max(row[0], tirx.abs(value))
            own, other = tirx.abs(a[k[0], k[0]]), tirx.abs(a[best[0], best[0]])
            stays = tirx.any(own >= column[0] * _ALPHA, own * row[0] >= column[0] * column[0] * _ALPHA)
            pair[0] = tirx.Cast("int64", tirx.Not(tirx.any(stays, other >= row[0] * _ALPHA)))
            at[0] = tirx.if_then_else(stays, k[0], best[0])
            with T.If(tirx.all(own == 0.0, column[0] == 0.0)):
                with T.Then():
                    with T.If(info[0, 0] == 0):
                        with T.Then():
                            info[0, 0] = tirx.Cast("int32", k[0] + 1)
                    pivots[0, k[0]] = tirx.Cast("int32", k[0] + 1)
                    k[0] = k[0] + 1
                with T.Else():
                    last = k[0] + pair[0]  # the row and column that change places with `at`
                    with T.If(at[0] != last):
                        with T.Then():
                            with T.serial(0, size) as i:
                                with T.If(i > at[0]):
                                    with T.Then():
                                        _swap(a, (i, last), (i, at[0]), spare)
                                with T.If(tirx.all(i > last, i < at[0])):
                                    with T.Then():
                                        _swap(a, (i, last), (at[0], i), spare)
                            _swap(a, (last, last), (at[0], at[0]), spare)
                            with T.If(pair[0] == 1):
                                with T.Then():
                                    _swap(a, (k[0] + 1, k[0]), (at[0], k[0]), spare)
                    with T.If(pair[0] == 0):
                        with T.Then():
                            pivots[0, k[0]] = tirx.Cast("int32", at[0] + 1)
                            d11[0] = f(1.0) / a[k[0], k[0]]
                            with T.serial(0, size) as j, T.serial(0, size) as i:
                                with T.If(tirx.all(j > k[0], i >= j)):
                                    with T.Then():
                                        a[i, j] = a[i, j] - d11[0] * a[j, k[0]] * a[i, k[0]]
                            with T.serial(0, size - 1 - k[0]) as below:
                                a[k[0] + 1 + below, k[0]] = a[k[0] + 1 + below, k[0]] * d11[0]
                            k[0] = k[0] + 1
                        with T.Else():
                            pivots[0, k[0]] = tirx.Cast("int32", -(at[0] + 1))
                            pivots[0, k[0] + 1] = tirx.Cast("int32", -(at[0] + 1))
                            d21[0] = a[k[0] + 1, k[0]]
                            d11[0] = a[k[0] + 1, k[0] + 1] / d21[0]
                            d22[0] = a[k[0], k[0]] / d21[0]
                            d21[0] = f(1.0) / (d11[0] * d22[0] - 1.0) / d21[0]
                            with T.serial(0, size) as j:
                                with T.If(j > k[0] + 1):
                                    with T.Then():
                                        w[0] = d21[0] * (d11[0] * a[j, k[0]] - a[j, k[0] + 1])
                                        z[0] = d21[0] * (d22[0] * a[j, k[0] + 1] - a[j, k[0]])
                                        with T.serial(0, size) as i:
                                            with T.If(i >= j):
                                                with T.Then():
                                                    a[i, j] = a[i, j] - a[i, k[0]] * w[0] - a[i, k[0] + 1] * z[0]
                                        a[j, k[0]] = w[0]
                                        a[j, k[0] + 1] = z[0]
                            k[0] = k[0] + 2

    outs = [(size, size, WIDE), (1, size, "int32"), (1, 1, "int32")]
    return results(c, *each_matrix(c, [wide], outs, write, "ldl"))


@converts("aten.linalg_ldl_solve.default")
def ldl_solve(c: Context, LD: Expr, pivots: Expr, B: Expr, hermitian: bool = False) -> Expr:
    """The steps of LAPACK's sytrs for a factor in the lower triangle."""
    a, b = same_batch(c, wide_matrix(c, LD), wide_matrix(c, B))
    size, columns = extents(c, b)
    places = c.broadcast(c.reshape(pivots, [*c.shape(pivots)[:-1], 1, size]), [*c.shape(a)[:-2], 1, size])

    def write(a: Any, pivots: Any, source: Any, x: Any) -> None:
        k, at = variable("int64"), variable("int64")
        spare, first, second, down = (variable(WIDE) for _ in range(4))
        with T.serial(0, size) as i, T.serial(0, columns) as j:
            x[i, j] = source[i, j]

        def exchange(row: Any) -> None:
            number = tirx.Cast("int64", pivots[0, k[0]])
            at[0] = tirx.max(tirx.min(tirx.max(number, -number) - 1, size - 1), 0)
            with T.serial(0, columns) as j:
                _swap(x, (row, j), (at[0], j), spare)

        def forward(column: Any, begin: Any) -> None:
            with T.serial(0, size) as i, T.serial(0, columns) as j:
                with T.If(i >= begin):
                    with T.Then():
                        x[i, j] = x[i, j] - a[i, column] * x[column, j]

        def backward(row: Any) -> None:
            with T.serial(0, size) as i, T.serial(0, columns) as j:
                with T.If(i > k[0]):
                    with T.Then():
                        x[row, j] = x[row, j] - a[i, row] * x[i, j]

        k[0] = tirx.IntImm("int64", 0)
        with T.While(k[0] < size):
            with T.If(tirx.any(pivots[0, k[0]] > 0, k[0] == size - 1)):
                with T.Then():
                    exchange(k[0])
                    forward(k[0], k[0] + 1)
                    with T.serial(0, columns) as j:
                        x[k[0], j] = x[k[0], j] / a[k[0], k[0]]
                    k[0] = k[0] + 1
                with T.Else():
                    exchange(k[0] + 1)
                    forward(k[0], k[0] + 2)
                    forward(k[0] + 1, k[0] + 2)
                    with T.serial(0, columns) as j:
                        down[0] = a[k[0] + 1, k[0]]
                        first[0] = a[k[0], k[0]] / down[0]
                        second[0] = a[k[0] + 1, k[0] + 1] / down[0]
                        spare[0] = x[k[0], j] / down[0]
                        down[0] = x[k[0] + 1, j] / down[0]
                        x[k[0], j] = (second[0] * spare[0] - down[0]) / (first[0] * second[0] - 1.0)
                        x[k[0] + 1, j] = (first[0] * down[0] - spare[0]) / (first[0] * second[0] - 1.0)
                    k[0] = k[0] + 2
        k[0] = tirx.IntImm("int64", size - 1)
        with T.While(k[0] >= 0):
            with T.If(tirx.any(pivots[0, k[0]] > 0, k[0] == 0)):
                with T.Then():
                    backward(k[0])
                    exchange(k[0])
                    k[0] = k[0] - 1
                with T.Else():
                    backward(k[0])
                    backward(k[0] - 1)
                    exchange(k[0])
                    k[0] = k[0] - 2

    return c.cast(each_matrix(c, [a, places, b], [(size, columns, WIDE)], write, "ldl_solve")[0], c.out_dtype())
