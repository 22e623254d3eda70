"""Dense linear algebra: factorisations and what is solved with them, in float64, one matrix after the other.

Algorithms: G. H. Golub and C. F. Van Loan, Matrix Computations (4th edition, 2013): LU with partial pivoting (3.4), Cholesky (4.2),
Householder QR (5.2), Jacobi's methods for symmetric eigenvalues (8.5) and singular values (8.6). Vectors of the last two are refused:
their signs are arbitrary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import relax, tirx
from tvm.script.ir_builder import tirx as T

from ..._imperative import variable
from .._context import Context, Expr
from .._registry import NotConvertible, converts
from ._matrices import SWEEPS, WIDE, each_matrix, extents, eye, f, result, results, rotation, wide_matrix

OP = relax.op


def same_batch(c: Context, a: Expr, b: Expr) -> tuple[Expr, Expr]:
    """a and b with their batch dims broadcast against each other."""
    rank = max(c.rank(a), c.rank(b)) - 2
    leads = [[1] * (rank - c.rank(x) + 2) + c.shape(x)[:-2] for x in (a, b)]
    lead = [p if isinstance(q, int) and q == 1 else q for p, q in zip(*leads)]
    return c.broadcast(a, [*lead, *c.shape(a)[-2:]]), c.broadcast(b, [*lead, *c.shape(b)[-2:]])


# LU.


def _lu(c: Context, a: Expr, pivot: bool = True) -> list[Expr]:
    """(LU, pivots from 1, info, permutation, [sign, log|det|, det]) of float64 [..., M, N]."""
    rows, columns = extents(c, a)
    small = min(rows, columns)

    def write(source: Any, lu: Any, pivots: Any, info: Any, order: Any, det: Any) -> None:
        best, swap, whole = variable("int64"), variable(WIDE), variable("int64")
        with T.serial(0, rows) as i:
            order[0, i] = i
            with T.serial(0, columns) as j:
                lu[i, j] = source[i, j]
        info[0, 0] = tirx.IntImm("int32", 0)
        det[0, 0] = f(1.0)
        det[0, 1] = f(0.0)
        with T.serial(0, small) as k:
            best[0] = k
            if pivot:
                with T.serial(0, rows) as r:
                    with T.If(tirx.all(r > k, tirx.abs(lu[r, k]) > tirx.abs(lu[best[0], k]))):
                        with T.Then():
                            best[0] = r
            pivots[0, k] = tirx.Cast("int32", best[0] + 1)
            with T.If(best[0] != k):
                with T.Then():
                    det[0, 0] = -det[0, 0]
                    whole[0] = order[0, k]
                    order[0, k] = order[0, best[0]]
                    order[0, best[0]] = whole[0]
                    with T.serial(0, columns) as j:
                        swap[0] = lu[k, j]
                        lu[k, j] = lu[best[0], j]
                        lu[best[0], j] = swap[0]
            with T.If(lu[k, k] < 0.0):
                with T.Then():
                    det[0, 0] = -det[0, 0]
            with T.If(lu[k, k] == 0.0):
                with T.Then():
                    det[0, 0] = f(0.0)
                    with T.If(info[0, 0] == 0):
                        with T.Then():
                            info[0, 0] = tirx.Cast("int32", k + 1)
                with T.Else():
                    with T.serial(0, rows) as r:
                        with T.If(r > k):
                            with T.Then():
                                lu[r, k] = lu[r, k] / lu[k, k]
                                with T.serial(0, columns) as j:
                                    with T.If(j > k):
                                        with T.Then():
                                            lu[r, j] = lu[r, j] - lu[r, k] * lu[k, j]
            det[0, 1] = det[0, 1] + tirx.log(tirx.abs(lu[k, k]))
        det[0, 2] = det[0, 0] * tirx.exp(det[0, 1])

    outs = [(rows, columns, WIDE), (1, small, "int32"), (1, 1, "int32"), (1, rows, "int64"), (1, 3, WIDE)]
    return each_matrix(c, [a], outs, write, "lu")


@converts("aten.linalg_lu_factor_ex.default")
def lu_factor_ex(c: Context, A: Expr, pivot: bool = True, check_errors: bool = False) -> list[Any]:
    lu, pivots, info, *_ = _lu(c, wide_matrix(c, A), pivot)
    return results(c, lu, pivots, info)


@converts("aten._linalg_det.default")
def det(c: Context, A: Expr) -> list[Any]:
    lu, pivots, _, _, numbers = _lu(c, wide_matrix(c, A))
    return results(c, c.slice(numbers, c.rank(numbers) - 1, 2, 1), lu, pivots)


@converts("aten._linalg_slogdet.default")
def slogdet(c: Context, A: Expr) -> list[Any]:
    lu, pivots, _, _, numbers = _lu(c, wide_matrix(c, A))
    last = c.rank(numbers) - 1
    return results(c, c.slice(numbers, last, 0, 1), c.slice(numbers, last, 1, 1), lu, pivots)


def _triangles(c: Context, lu: Expr) -> tuple[Expr, Expr]:
    """L [..., M, K] with ones on its diagonal, and U [..., K, N]."""
    rows, columns = extents(c, lu)
    small, rank = min(rows, columns), c.rank(lu)
    lower = c.emit(OP.tril(c.slice(lu, rank - 1, 0, small), -1))
    return c.emit(OP.add(lower, c.const(np.eye(rows, small), WIDE))), c.emit(
        OP.triu(c.slice(lu, rank - 2, 0, small), 0)
    )


def _permutation(c: Context, order: Expr) -> Expr:
    """P with A = P L U: row order[i] has its one in column i."""
    rows = c.static_shape_of(order, [c.rank(order) - 1])[0]
    numbers = c.const(np.arange(rows).reshape(rows, 1), "int64")
    return c.cast(c.emit(OP.equal(order, numbers)), WIDE)


@converts("aten.linalg_lu.default")
def lu(c: Context, A: Expr, pivot: bool = True) -> list[Any]:
    both, _, _, order, _ = _lu(c, wide_matrix(c, A), pivot)
    return results(c, _permutation(c, order) if pivot else None, *_triangles(c, both))


@converts("aten.lu_unpack.default")
def lu_unpack(c: Context, LU_data: Expr, LU_pivots: Expr, unpack_data: bool = True, unpack_pivots: bool = True) -> list[Any]:  # fmt: skip
    if not unpack_data or not unpack_pivots:
        raise NotConvertible("only one part")
    rows, columns = extents(c, LU_data)
    pivots = c.reshape(LU_pivots, [*c.shape(LU_pivots)[:-1], 1, min(rows, columns)])

    def write(source: Any, order: Any) -> None:
        swap, at = variable("int64"), variable("int64")
        with T.serial(0, rows) as i:
            order[0, i] = i
        with T.serial(0, min(rows, columns)) as k:
            at[0] = tirx.max(tirx.min(tirx.Cast("int64", source[0, k]) - 1, rows - 1), 0)
            swap[0] = order[0, k]
            order[0, k] = order[0, at[0]]
            order[0, at[0]] = swap[0]

    order = each_matrix(c, [pivots], [(1, rows, "int64")], write, "order_of_pivots")[0]
    return results(c, _permutation(c, order), *_triangles(c, wide_matrix(c, LU_data)))


def _lu_solved(c: Context, lu: Expr, pivots: Expr, b: Expr, transposed: bool) -> Expr:
    """X with A X = B, or A^T X = B: float64 [..., N, K]; pivots [..., 1, N] from 1."""
    size, columns = extents(c, b)

    def write(a: Any, places: Any, source: Any, x: Any) -> None:
        swap, other = variable(WIDE), variable("int64")

        def exchange(k: Any) -> None:
            other[0] = tirx.max(tirx.min(tirx.Cast("int64", places[0, k]) - 1, size - 1), 0)
            with T.serial(0, columns) as j:
                swap[0] = x[k, j]
                x[k, j] = x[other[0], j]
                x[other[0], j] = swap[0]

        with T.serial(0, size) as i, T.serial(0, columns) as j:
            x[i, j] = source[i, j]
        if transposed:
            _substitute(lambda i, j: a[j, i], x, size, columns, lower=True, unit=False)
            _substitute(lambda i, j: a[j, i], x, size, columns, lower=False, unit=True)
            with T.serial(0, size) as k:
                exchange(size - 1 - k)
        else:
            with T.serial(0, size) as k:
                exchange(k)
            _substitute(lambda i, j: a[i, j], x, size, columns, lower=True, unit=True)
            _substitute(lambda i, j: a[i, j], x, size, columns, lower=False, unit=False)

    return each_matrix(c, [lu, pivots, b], [(size, columns, WIDE)], write, "lu_solve")[0]


def _substitute(a: Callable[[Any, Any], Any], x: Any, size: int, columns: int, lower: bool, unit: bool) -> None:
    """x = A^-1 x in place, for a triangular A."""
    with T.serial(0, size) as step:
        i = step if lower else size - 1 - step
        with T.serial(0, columns) as j:
            with T.serial(0, step) as done:
                k = done if lower else size - 1 - done
                x[i, j] = x[i, j] - a(i, k) * x[k, j]
            if not unit:
                x[i, j] = x[i, j] / a(i, i)


@converts("aten.linalg_lu_solve.default")
def lu_solve(c: Context, LU: Expr, pivots: Expr, B: Expr, left: bool = True, adjoint: bool = False) -> Expr:
    a, b = same_batch(c, wide_matrix(c, LU), wide_matrix(c, B) if left else c.swap(wide_matrix(c, B), -1, -2))
    places = c.broadcast(c.reshape(pivots, [*c.shape(pivots)[:-1], 1, c.shape(pivots)[-1]]),
                         [*c.shape(a)[:-2], 1, c.shape(pivots)[-1]])  # fmt: skip
    x = _lu_solved(c, a, places, b, transposed=adjoint if left else not adjoint)
    return c.cast(x if left else c.swap(x, -1, -2), c.out_dtype())


@converts("aten._linalg_solve_ex.default")
def solve_ex(c: Context, A: Expr, B: Expr, left: bool = True, check_errors: bool = False) -> list[Any]:
    vector = c.rank(B) == 1 or (c.rank(B) == c.rank(A) - 1 and c.same_dims(c.shape(B), c.shape(A)[:-1]))
    b = c.reshape(wide_matrix(c, B), [*c.shape(B), 1]) if vector else wide_matrix(c, B)
    factors, pivots, info, *_ = _lu(c, wide_matrix(c, A))
    joined, b = same_batch(c, factors, b if left else c.swap(b, -1, -2))
    places = c.broadcast(pivots, [*c.shape(joined)[:-2], 1, c.shape(pivots)[-1]])
    x = _lu_solved(c, joined, places, b, transposed=not left)
    return results(c, x if left else c.swap(x, -1, -2), factors, pivots, info)


@converts("aten.linalg_inv_ex.default")
def inv_ex(c: Context, A: Expr, check_errors: bool = False) -> list[Any]:
    factors, pivots, info, *_ = _lu(c, wide_matrix(c, A))
    return results(c, _lu_solved(c, factors, pivots, eye(c, factors), transposed=False), info)


# Cholesky, and triangular systems.


def _cholesky(c: Context, a: Expr) -> list[Expr]:
    """(L, info) of the lower triangle of float64 [..., N, N]."""
    size = extents(c, a)[0]

    def write(source: Any, lower: Any, info: Any) -> None:
        total = variable(WIDE)
        info[0, 0] = tirx.IntImm("int32", 0)
        with T.serial(0, size) as i, T.serial(0, size) as j:
            lower[i, j] = f(0.0)
        with T.serial(0, size) as j:
            with T.serial(0, size - j) as below:
                i = j + below
                total[0] = source[i, j]
                with T.serial(0, j) as k:
                    total[0] = total[0] - lower[i, k] * lower[j, k]
                with T.If(i == j):
                    with T.Then():
                        with T.If(tirx.all(tirx.Not(total[0] > 0.0), info[0, 0] == 0)):
                            with T.Then():
                                info[0, 0] = tirx.Cast("int32", j + 1)
                        lower[i, j] = tirx.sqrt(total[0])
                    with T.Else():
                        lower[i, j] = total[0] / lower[j, j]

    return each_matrix(c, [a], [(size, size, WIDE), (1, 1, "int32")], write, "cholesky")


@converts("aten.linalg_cholesky_ex.default")
def cholesky_ex(c: Context, x: Expr, upper: bool = False, check_errors: bool = False) -> list[Any]:
    wide = wide_matrix(c, x)
    lower, info = _cholesky(c, c.swap(wide, -1, -2) if upper else wide)
    return results(c, c.swap(lower, -1, -2) if upper else lower, info)


@converts("aten.cholesky.default")
def cholesky(c: Context, x: Expr, upper: bool = False) -> Expr:
    wide = wide_matrix(c, x)
    lower = _cholesky(c, c.swap(wide, -1, -2) if upper else wide)[0]
    return c.cast(c.swap(lower, -1, -2) if upper else lower, c.out_dtype())


def _triangular_solved(c: Context, a: Expr, b: Expr, lower: bool, unit: bool, transposed: bool) -> Expr:
    size, columns = extents(c, b)

    def write(matrix: Any, source: Any, x: Any) -> None:
        with T.serial(0, size) as i, T.serial(0, columns) as j:
            x[i, j] = source[i, j]

        def element(i: Any, j: Any) -> Any:
            return matrix[j, i] if transposed else matrix[i, j]

        _substitute(element, x, size, columns, lower != transposed, unit)

    return each_matrix(c, [a, b], [(size, columns, WIDE)], write, "solve_triangular")[0]


@converts("aten.linalg_solve_triangular.default")
def solve_triangular(c: Context, x: Expr, B: Expr, upper: bool, left: bool = True, unitriangular: bool = False) -> Expr:
    a, b = same_batch(c, wide_matrix(c, x), wide_matrix(c, B) if left else c.swap(wide_matrix(c, B), -1, -2))
    found = _triangular_solved(c, a, b, not upper, unitriangular, transposed=not left)
    return c.cast(found if left else c.swap(found, -1, -2), c.out_dtype())


@converts("aten.triangular_solve.default")
def triangular_solve(c: Context, x: Expr, A: Expr, upper: bool = True, transpose: bool = False, unitriangular: bool = False) -> list[Any]:  # fmt: skip
    a, b = same_batch(c, wide_matrix(c, A), wide_matrix(c, x))
    return results(c, _triangular_solved(c, a, b, not upper, unitriangular, transpose), a)


def _cholesky_solved(c: Context, b: Expr, factor: Expr, upper: bool) -> Expr:
    """X with L L^T X = B, or U^T U X = B."""
    a, b = same_batch(c, factor, b)
    half = _triangular_solved(c, a, b, not upper, False, transposed=upper)
    return _triangular_solved(c, a, half, not upper, False, transposed=not upper)


@converts("aten.cholesky_solve.default")
def cholesky_solve(c: Context, x: Expr, input2: Expr, upper: bool = False) -> Expr:
    return c.cast(_cholesky_solved(c, wide_matrix(c, x), wide_matrix(c, input2), upper), c.out_dtype())


@converts("aten.cholesky_inverse.default")
def cholesky_inverse(c: Context, x: Expr, upper: bool = False) -> Expr:
    return c.cast(_cholesky_solved(c, eye(c, x), wide_matrix(c, x), upper), c.out_dtype())


# Householder QR, with LAPACK's signs.


def _reflectors(c: Context, a: Expr) -> list[Expr]:
    """(R above, reflectors below the diagonal; their factors [..., 1, K])."""
    rows, columns = extents(c, a)
    small = min(rows, columns)

    def write(source: Any, out: Any, tau: Any) -> None:
        norm, dot = variable(WIDE), variable(WIDE)
        with T.serial(0, rows) as i, T.serial(0, columns) as j:
            out[i, j] = source[i, j]
        with T.serial(0, small) as k:
            norm[0] = f(0.0)
            with T.serial(0, rows - 1 - k) as i:
                norm[0] = norm[0] + out[k + 1 + i, k] * out[k + 1 + i, k]
            tau[0, k] = f(0.0)
            with T.If(norm[0] > 0.0):
                with T.Then():
                    norm[0] = tirx.sqrt(norm[0] + out[k, k] * out[k, k])
                    norm[0] = tirx.if_then_else(out[k, k] >= 0.0, -norm[0], norm[0])
                    tau[0, k] = (norm[0] - out[k, k]) / norm[0]
                    with T.serial(0, rows - 1 - k) as i:
                        out[k + 1 + i, k] = out[k + 1 + i, k] / (out[k, k] - norm[0])
                    out[k, k] = norm[0]
                    with T.serial(0, columns - 1 - k) as right:
                        j = k + 1 + right
                        _reflect(out, tau, k, out, j, rows, dot)

    return each_matrix(c, [a], [(rows, columns, WIDE), (1, small, WIDE)], write, "reflectors")


def _reflect(vectors: Any, tau: Any, k: Any, x: Any, j: Any, rows: int, dot: Any) -> None:
    """Column j of x becomes (I - tau v v^T) of it, v the k-th reflector."""
    dot[0] = x[k, j]
    with T.serial(0, rows - 1 - k) as i:
        dot[0] = dot[0] + vectors[k + 1 + i, k] * x[k + 1 + i, j]
    dot[0] = dot[0] * tau[0, k]
    x[k, j] = x[k, j] - dot[0]
    with T.serial(0, rows - 1 - k) as i:
        x[k + 1 + i, j] = x[k + 1 + i, j] - vectors[k + 1 + i, k] * dot[0]


def _applied(c: Context, vectors: Expr, tau: Expr, x: Expr, transposed: bool) -> Expr:
    """Q x, or Q^T x, for Q = H_0 H_1 ...; tau [..., 1, K]."""
    rows, columns = extents(c, x)
    count = extents(c, tau)[1]

    def write(v: Any, t: Any, source: Any, out: Any) -> None:
        dot = variable(WIDE)
        with T.serial(0, rows) as i, T.serial(0, columns) as j:
            out[i, j] = source[i, j]
        with T.serial(0, count) as step, T.serial(0, columns) as j:
            _reflect(v, t, step if transposed else count - 1 - step, out, j, rows, dot)

    return each_matrix(c, [vectors, tau, x], [(rows, columns, WIDE)], write, "apply_reflectors")[0]


@converts("aten.geqrf.default")
def geqrf(c: Context, x: Expr) -> list[Any]:
    return results(c, *_reflectors(c, wide_matrix(c, x)))


def _columns_of_q(c: Context, vectors: Expr, tau: Expr, columns: int) -> Expr:
    rows = extents(c, vectors)[0]
    eye = c.broadcast(c.const(np.eye(rows, columns), WIDE), [*c.shape(vectors)[:-2], rows, columns])
    return _applied(c, vectors, tau, eye, transposed=False)


@converts("aten.linalg_qr.default")
def qr(c: Context, A: Expr, mode: str = "reduced") -> list[Any]:
    rows, columns = extents(c, A)
    vectors, tau = _reflectors(c, wide_matrix(c, A))
    count = rows if mode == "complete" else min(rows, columns)
    upper = c.emit(OP.triu(vectors, 0))
    r = c.slice(upper, c.rank(upper) - 2, 0, count)
    if mode == "r":
        return [c.zeros(c.out_shape(0), c.out_dtype(0)), result(c, r, 1)]
    return results(c, _columns_of_q(c, vectors, tau, count), r)


@converts("aten.linalg_householder_product.default", "aten.orgqr.default")
def householder_product(c: Context, input: Any = None, tau: Any = None, x: Any = None, input2: Any = None) -> Expr:
    vectors, factors = wide_matrix(c, input if x is None else x), wide_matrix(c, tau if x is None else input2)
    row = c.reshape(factors, [*c.shape(factors)[:-1], 1, c.shape(factors)[-1]])
    return c.cast(_columns_of_q(c, vectors, row, extents(c, vectors)[1]), c.out_dtype())


@converts("aten.ormqr.default")
def ormqr(c: Context, x: Expr, input2: Expr, input3: Expr, left: bool = True, transpose: bool = False) -> Expr:
    factors, other = wide_matrix(c, input2), wide_matrix(c, input3)
    row = c.reshape(factors, [*c.shape(factors)[:-1], 1, c.shape(factors)[-1]])
    found = _applied(
        c, wide_matrix(c, x), row, other if left else c.swap(other, -1, -2), transpose if left else not transpose
    )
    return c.cast(found if left else c.swap(found, -1, -2), c.out_dtype())


# Eigenvalues and singular values.


def _sort_row(row: Any, count: int, ascending: bool) -> None:
    swap = variable(WIDE)
    with T.serial(0, count) as i, T.serial(0, count) as j:
        wrong = row[0, j] < row[0, i] if not ascending else row[0, j] > row[0, i]
        with T.If(tirx.all(j < i, wrong)):
            with T.Then():
                swap[0] = row[0, i]
                row[0, i] = row[0, j]
                row[0, j] = swap[0]


def orthogonalised(c: Context, wide: Expr, vectors: bool) -> list[Expr]:
    """W = A V with orthogonal columns, as long as the singular values, of float64 A [..., M, N], M >= N; and if asked for V, which is
    orthogonal: columns are rotated until they are (8.6.3)."""
    rows, columns = extents(c, wide)

    def write(source: Any, work: Any, *more: Any) -> None:
        turn = [variable(WIDE) for _ in range(3)]
        p, q, off, old = (variable(WIDE) for _ in range(4))
        with T.serial(0, rows) as i, T.serial(0, columns) as j:
            work[i, j] = source[i, j]
        for v in more:
            with T.serial(0, columns) as i, T.serial(0, columns) as j:
                v[i, j] = tirx.if_then_else(i == j, f(1.0), f(0.0))

        def turned(x: Any, height: int, a: Any, b: Any) -> None:
            with T.serial(0, height) as i:
                old[0] = x[i, a]
                x[i, a] = turn[0][0] * old[0] - turn[1][0] * x[i, b]
                x[i, b] = turn[1][0] * old[0] + turn[0][0] * x[i, b]

        with T.serial(0, SWEEPS), T.serial(0, columns) as a, T.serial(0, columns) as b:
            with T.If(a < b):
                with T.Then():
                    for total in (p, q, off):
                        total[0] = f(0.0)
                    with T.serial(0, rows) as i:
                        p[0] = p[0] + work[i, a] * work[i, a]
                        q[0] = q[0] + work[i, b] * work[i, b]
                        off[0] = off[0] + work[i, a] * work[i, b]
                    with T.If(tirx.abs(off[0]) > tirx.sqrt(p[0] * q[0]) * 1e-16):
                        with T.Then():
                            rotation(turn, p[0], q[0], off[0])
                            turned(work, rows, a, b)
                            for v in more:
                                turned(v, columns, a, b)

    outs = [(rows, columns, WIDE), (columns, columns, WIDE)][: 2 if vectors else 1]
    return each_matrix(c, [wide], outs, write, "orthogonal_columns")


@converts("aten._linalg_svd.default")
def svd(c: Context, A: Expr, full_matrices: bool = False, compute_uv: bool = True, driver: Any = None) -> list[Any]:
    """Singular values alone: columns are rotated until they are orthogonal; then they are as long as the values."""
    if c.used(0) or c.used(2):
        raise NotConvertible("singular vectors, whose signs are arbitrary")
    wide = wide_matrix(c, A)
    if extents(c, A)[0] < extents(c, A)[1]:
        wide = c.swap(wide, -1, -2)
    columns = extents(c, wide)[1]
    turned = orthogonalised(c, wide, vectors=False)[0]
    squares = c.emit(OP.multiply(turned, turned))
    lengths = c.emit(OP.sqrt(c.emit(OP.sum(squares, [c.rank(squares) - 2], True))))
    values = each_matrix(
        c, [lengths], [(1, columns, WIDE)], lambda a, b: _sorted_row(a, b, columns), "singular_values"
    )[0]
    return [None, result(c, values, 1), None]


def _sorted_row(source: Any, out: Any, count: int) -> None:
    with T.serial(0, count) as i:
        out[0, i] = source[0, i]
    _sort_row(out, count, ascending=False)


@converts("aten._linalg_eigh.default")
def eigh(c: Context, A: Expr, UPLO: str = "L", compute_v: bool = True) -> list[Any]:
    """Eigenvalues alone, of the symmetric matrix that one triangle gives: Jacobi's rotations."""
    if c.used(1):
        raise NotConvertible("eigenvectors, whose signs are arbitrary")
    wide = wide_matrix(c, A)
    size = extents(c, A)[0]

    def write(source: Any, work: Any, values: Any) -> None:
        turn = [variable(WIDE) for _ in range(3)]
        old = variable(WIDE)
        with T.serial(0, size) as i, T.serial(0, size) as j:
            kept = j <= i if UPLO == "L" else j >= i
            work[i, j] = tirx.if_then_else(kept, source[i, j], source[j, i])
        with T.serial(0, SWEEPS), T.serial(0, size) as a, T.serial(0, size) as b:
            with T.If(tirx.all(a < b, work[a, b] != 0.0)):
                with T.Then():
                    rotation(turn, work[a, a], work[b, b], work[a, b])
                    with T.serial(0, size) as k:
                        old[0] = work[k, a]
                        work[k, a] = turn[0][0] * old[0] - turn[1][0] * work[k, b]
                        work[k, b] = turn[1][0] * old[0] + turn[0][0] * work[k, b]
                    with T.serial(0, size) as k:
                        old[0] = work[a, k]
                        work[a, k] = turn[0][0] * old[0] - turn[1][0] * work[b, k]
                        work[b, k] = turn[1][0] * old[0] + turn[0][0] * work[b, k]
        with T.serial(0, size) as i:
            values[0, i] = work[i, i]
        _sort_row(values, size, ascending=True)

    values = each_matrix(c, [wide], [(size, size, WIDE), (1, size, WIDE)], write, "eigenvalues")[1]
    return [result(c, values, 0), None]
