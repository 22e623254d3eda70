"""Dense linear algebra: factorisations and what is solved with them, in float64, one matrix after the other.

Algorithms: G. H. Golub and C. F. Van Loan, Matrix Computations (4th edition, 2013): LU with partial pivoting (3.4), Cholesky (4.2),
Householder QR (5.2), Jacobi's methods for symmetric eigenvalues (8.5) and singular values (8.6). Vectors of the last two are refused:
their signs are arbitrary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tvm import relax, tirx
from tvm.script.ir_builder import tirx as T

from ..._imperative import imperative, variable
from .._context import Context, Expr
from .._registry import NotConvertible, converts

OP = relax.op
_WIDE = "float64"
_SWEEPS = 30  # of Jacobi's methods, which converge quadratically: 6 to 10 suffice


def _f(value: float) -> Any:
    return tirx.FloatImm(_WIDE, value)


class _Matrix:
    """One matrix of a batch in a flat buffer, indexed [row, column]."""

    def __init__(self, buffer: Any, base: Any, columns: Any) -> None:
        self.buffer, self.base, self.columns = buffer, base, columns

    def __getitem__(self, at: tuple[Any, Any]) -> Any:
        return self.buffer[self.base + at[0] * self.columns + at[1]]

    def __setitem__(self, at: tuple[Any, Any], value: Any) -> None:
        self.buffer[self.base + at[0] * self.columns + at[1]] = value


def _each_matrix(
    c: Context, inputs: list[Expr], outs: Sequence[tuple[Any, Any, str]], write: Callable[..., None], name: str
) -> list[Expr]:
    """Results [batch, rows, columns] for (rows, columns, dtype) in `outs`, which write(*matrices in, *matrices out) fills. The inputs
    are float64 [..., rows, columns] with equal batch dims."""
    lead = c.shape(inputs[0])[:-2]
    count: Any = 1
    for size in lead:
        count = count * size
    flat = [c.reshape(x, [count, *c.shape(x)[-2:]]) for x in inputs]
    sizes = [c.static_shape_of(x, [1, 2]) for x in flat]

    def build(*tensors: Any) -> Any:
        batch = tensors[0].shape[0]

        def fill(*buffers: Any) -> None:
            extents = [tuple(size) for size in sizes] + [(rows, columns) for rows, columns, _ in outs]
            with T.serial(0, batch) as b:
                write(*[_Matrix(buffer, b * (m * n), n) for buffer, (m, n) in zip(buffers, extents)])

        shapes = [[batch, rows, columns] for rows, columns, _ in outs]
        found = imperative(shapes, [dtype for *_, dtype in outs], list(tensors), fill, name)
        return found if len(found) > 1 else found[0]

    found = c.generated(build, *flat, name=name)
    return [c.reshape(y, [*lead, rows, columns]) for y, (rows, columns, _) in zip(found, outs)]


def _wide(c: Context, x: Expr) -> Expr:
    if c.dtype(x) not in ("float32", "float64"):
        raise NotConvertible(f"matrices of {c.dtype(x)}")
    return c.cast(x, _WIDE)


def _extents(c: Context, x: Expr) -> tuple[int, int]:
    rows, columns = c.static_shape_of(x, [c.rank(x) - 2, c.rank(x) - 1])
    return rows, columns


def _result(c: Context, x: Expr | None, index: int | None) -> Expr | None:
    """x as result `index` of the node; None where nothing reads that."""
    if x is None or (index is not None and not c.used(index)):
        return None
    return c.reshape(c.cast(x, c.out_dtype(index)), c.out_shape(index))


def _results(c: Context, *values: Expr | None) -> list[Expr | None]:
    return [_result(c, value, index) for index, value in enumerate(values)]


def _eye(c: Context, like: Expr) -> Expr:
    """Identities, one for each matrix."""
    rows = _extents(c, like)[0]
    return c.broadcast(c.const(np.eye(rows), _WIDE), [*c.shape(like)[:-2], rows, rows])


def _same_batch(c: Context, a: Expr, b: Expr) -> tuple[Expr, Expr]:
    """a and b with their batch dims broadcast against each other."""
    rank = max(c.rank(a), c.rank(b)) - 2
    leads = [[1] * (rank - c.rank(x) + 2) + c.shape(x)[:-2] for x in (a, b)]
    lead = [p if isinstance(q, int) and q == 1 else q for p, q in zip(*leads)]
    return c.broadcast(a, [*lead, *c.shape(a)[-2:]]), c.broadcast(b, [*lead, *c.shape(b)[-2:]])


# LU.


def _lu(c: Context, a: Expr, pivot: bool = True) -> list[Expr]:
    """(LU, pivots from 1, info, permutation, [sign, log|det|, det]) of float64 [..., M, N]."""
    rows, columns = _extents(c, a)
    small = min(rows, columns)

    def write(source: Any, lu: Any, pivots: Any, info: Any, order: Any, det: Any) -> None:
        best, swap, whole = variable("int64"), variable(_WIDE), variable("int64")
        with T.serial(0, rows) as i:
            order[0, i] = i
            with T.serial(0, columns) as j:
                lu[i, j] = source[i, j]
        info[0, 0] = tirx.IntImm("int32", 0)
        det[0, 0] = _f(1.0)
        det[0, 1] = _f(0.0)
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
                    det[0, 0] = _f(0.0)
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

    outs = [(rows, columns, _WIDE), (1, small, "int32"), (1, 1, "int32"), (1, rows, "int64"), (1, 3, _WIDE)]
    return _each_matrix(c, [a], outs, write, "lu")


@converts("aten.linalg_lu_factor_ex.default")
def lu_factor_ex(c: Context, A: Expr, pivot: bool = True, check_errors: bool = False) -> list[Any]:
    lu, pivots, info, *_ = _lu(c, _wide(c, A), pivot)
    return _results(c, lu, pivots, info)


@converts("aten._linalg_det.default")
def det(c: Context, A: Expr) -> list[Any]:
    lu, pivots, _, _, numbers = _lu(c, _wide(c, A))
    return _results(c, c.slice(numbers, c.rank(numbers) - 1, 2, 1), lu, pivots)


@converts("aten._linalg_slogdet.default")
def slogdet(c: Context, A: Expr) -> list[Any]:
    lu, pivots, _, _, numbers = _lu(c, _wide(c, A))
    last = c.rank(numbers) - 1
    return _results(c, c.slice(numbers, last, 0, 1), c.slice(numbers, last, 1, 1), lu, pivots)


def _triangles(c: Context, lu: Expr) -> tuple[Expr, Expr]:
    """L [..., M, K] with ones on its diagonal, and U [..., K, N]."""
    rows, columns = _extents(c, lu)
    small, rank = min(rows, columns), c.rank(lu)
    lower = c.emit(OP.tril(c.slice(lu, rank - 1, 0, small), -1))
    return c.emit(OP.add(lower, c.const(np.eye(rows, small), _WIDE))), c.emit(
        OP.triu(c.slice(lu, rank - 2, 0, small), 0)
    )


def _permutation(c: Context, order: Expr) -> Expr:
    """P with A = P L U: row order[i] has its one in column i."""
    rows = c.static_shape_of(order, [c.rank(order) - 1])[0]
    numbers = c.const(np.arange(rows).reshape(rows, 1), "int64")
    return c.cast(c.emit(OP.equal(order, numbers)), _WIDE)


@converts("aten.linalg_lu.default")
def lu(c: Context, A: Expr, pivot: bool = True) -> list[Any]:
    both, _, _, order, _ = _lu(c, _wide(c, A), pivot)
    return _results(c, _permutation(c, order) if pivot else None, *_triangles(c, both))


@converts("aten.lu_unpack.default")
def lu_unpack(c: Context, LU_data: Expr, LU_pivots: Expr, unpack_data: bool = True, unpack_pivots: bool = True) -> list[Any]:  # fmt: skip
    if not unpack_data or not unpack_pivots:
        raise NotConvertible("only one part")
    rows, columns = _extents(c, LU_data)
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

    order = _each_matrix(c, [pivots], [(1, rows, "int64")], write, "order_of_pivots")[0]
    return _results(c, _permutation(c, order), *_triangles(c, _wide(c, LU_data)))


def _lu_solved(c: Context, lu: Expr, pivots: Expr, b: Expr, transposed: bool) -> Expr:
    """X with A X = B, or A^T X = B: float64 [..., N, K]; pivots [..., 1, N] from 1."""
    size, columns = _extents(c, b)

    def write(a: Any, places: Any, source: Any, x: Any) -> None:
        swap, other = variable(_WIDE), variable("int64")

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

    return _each_matrix(c, [lu, pivots, b], [(size, columns, _WIDE)], write, "lu_solve")[0]


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
    a, b = _same_batch(c, _wide(c, LU), _wide(c, B) if left else c.swap(_wide(c, B), -1, -2))
    places = c.broadcast(c.reshape(pivots, [*c.shape(pivots)[:-1], 1, c.shape(pivots)[-1]]),
                         [*c.shape(a)[:-2], 1, c.shape(pivots)[-1]])  # fmt: skip
    x = _lu_solved(c, a, places, b, transposed=adjoint if left else not adjoint)
    return c.cast(x if left else c.swap(x, -1, -2), c.out_dtype())


@converts("aten._linalg_solve_ex.default")
def solve_ex(c: Context, A: Expr, B: Expr, left: bool = True, check_errors: bool = False) -> list[Any]:
    vector = c.rank(B) == 1 or (c.rank(B) == c.rank(A) - 1 and c.same_dims(c.shape(B), c.shape(A)[:-1]))
    b = c.reshape(_wide(c, B), [*c.shape(B), 1]) if vector else _wide(c, B)
    factors, pivots, info, *_ = _lu(c, _wide(c, A))
    joined, b = _same_batch(c, factors, b if left else c.swap(b, -1, -2))
    places = c.broadcast(pivots, [*c.shape(joined)[:-2], 1, c.shape(pivots)[-1]])
    x = _lu_solved(c, joined, places, b, transposed=not left)
    return _results(c, x if left else c.swap(x, -1, -2), factors, pivots, info)


@converts("aten.linalg_inv_ex.default")
def inv_ex(c: Context, A: Expr, check_errors: bool = False) -> list[Any]:
    factors, pivots, info, *_ = _lu(c, _wide(c, A))
    return _results(c, _lu_solved(c, factors, pivots, _eye(c, factors), transposed=False), info)


# Cholesky, and triangular systems.


def _cholesky(c: Context, a: Expr) -> list[Expr]:
    """(L, info) of the lower triangle of float64 [..., N, N]."""
    size = _extents(c, a)[0]

    def write(source: Any, lower: Any, info: Any) -> None:
        total = variable(_WIDE)
        info[0, 0] = tirx.IntImm("int32", 0)
        with T.serial(0, size) as i, T.serial(0, size) as j:
            lower[i, j] = _f(0.0)
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

    return _each_matrix(c, [a], [(size, size, _WIDE), (1, 1, "int32")], write, "cholesky")


@converts("aten.linalg_cholesky_ex.default")
def cholesky_ex(c: Context, x: Expr, upper: bool = False, check_errors: bool = False) -> list[Any]:
    wide = _wide(c, x)
    lower, info = _cholesky(c, c.swap(wide, -1, -2) if upper else wide)
    return _results(c, c.swap(lower, -1, -2) if upper else lower, info)


@converts("aten.cholesky.default")
def cholesky(c: Context, x: Expr, upper: bool = False) -> Expr:
    wide = _wide(c, x)
    lower = _cholesky(c, c.swap(wide, -1, -2) if upper else wide)[0]
    return c.cast(c.swap(lower, -1, -2) if upper else lower, c.out_dtype())


def _triangular_solved(c: Context, a: Expr, b: Expr, lower: bool, unit: bool, transposed: bool) -> Expr:
    size, columns = _extents(c, b)

    def write(matrix: Any, source: Any, x: Any) -> None:
        with T.serial(0, size) as i, T.serial(0, columns) as j:
            x[i, j] = source[i, j]

        def element(i: Any, j: Any) -> Any:
            return matrix[j, i] if transposed else matrix[i, j]

        _substitute(element, x, size, columns, lower != transposed, unit)

    return _each_matrix(c, [a, b], [(size, columns, _WIDE)], write, "solve_triangular")[0]


@converts("aten.linalg_solve_triangular.default")
def solve_triangular(c: Context, x: Expr, B: Expr, upper: bool, left: bool = True, unitriangular: bool = False) -> Expr:
    a, b = _same_batch(c, _wide(c, x), _wide(c, B) if left else c.swap(_wide(c, B), -1, -2))
    found = _triangular_solved(c, a, b, not upper, unitriangular, transposed=not left)
    return c.cast(found if left else c.swap(found, -1, -2), c.out_dtype())


@converts("aten.triangular_solve.default")
def triangular_solve(c: Context, x: Expr, A: Expr, upper: bool = True, transpose: bool = False, unitriangular: bool = False) -> list[Any]:  # fmt: skip
    a, b = _same_batch(c, _wide(c, A), _wide(c, x))
    return _results(c, _triangular_solved(c, a, b, not upper, unitriangular, transpose), a)


def _cholesky_solved(c: Context, b: Expr, factor: Expr, upper: bool) -> Expr:
    """X with L L^T X = B, or U^T U X = B."""
    a, b = _same_batch(c, factor, b)
    half = _triangular_solved(c, a, b, not upper, False, transposed=upper)
    return _triangular_solved(c, a, half, not upper, False, transposed=not upper)


@converts("aten.cholesky_solve.default")
def cholesky_solve(c: Context, x: Expr, input2: Expr, upper: bool = False) -> Expr:
    return c.cast(_cholesky_solved(c, _wide(c, x), _wide(c, input2), upper), c.out_dtype())


@converts("aten.cholesky_inverse.default")
def cholesky_inverse(c: Context, x: Expr, upper: bool = False) -> Expr:
    return c.cast(_cholesky_solved(c, _eye(c, x), _wide(c, x), upper), c.out_dtype())


# Householder QR, with LAPACK's signs.


def _reflectors(c: Context, a: Expr) -> list[Expr]:
    """(R above, reflectors below the diagonal; their factors [..., 1, K])."""
    rows, columns = _extents(c, a)
    small = min(rows, columns)

    def write(source: Any, out: Any, tau: Any) -> None:
        norm, dot = variable(_WIDE), variable(_WIDE)
        with T.serial(0, rows) as i, T.serial(0, columns) as j:
            out[i, j] = source[i, j]
        with T.serial(0, small) as k:
            norm[0] = _f(0.0)
            with T.serial(0, rows - 1 - k) as i:
                norm[0] = norm[0] + out[k + 1 + i, k] * out[k + 1 + i, k]
            tau[0, k] = _f(0.0)
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

    return _each_matrix(c, [a], [(rows, columns, _WIDE), (1, small, _WIDE)], write, "reflectors")


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
    rows, columns = _extents(c, x)
    count = _extents(c, tau)[1]

    def write(v: Any, t: Any, source: Any, out: Any) -> None:
        dot = variable(_WIDE)
        with T.serial(0, rows) as i, T.serial(0, columns) as j:
            out[i, j] = source[i, j]
        with T.serial(0, count) as step, T.serial(0, columns) as j:
            _reflect(v, t, step if transposed else count - 1 - step, out, j, rows, dot)

    return _each_matrix(c, [vectors, tau, x], [(rows, columns, _WIDE)], write, "apply_reflectors")[0]


@converts("aten.geqrf.default")
def geqrf(c: Context, x: Expr) -> list[Any]:
    return _results(c, *_reflectors(c, _wide(c, x)))


def _columns_of_q(c: Context, vectors: Expr, tau: Expr, columns: int) -> Expr:
    rows = _extents(c, vectors)[0]
    eye = c.broadcast(c.const(np.eye(rows, columns), _WIDE), [*c.shape(vectors)[:-2], rows, columns])
    return _applied(c, vectors, tau, eye, transposed=False)


@converts("aten.linalg_qr.default")
def qr(c: Context, A: Expr, mode: str = "reduced") -> list[Any]:
    rows, columns = _extents(c, A)
    vectors, tau = _reflectors(c, _wide(c, A))
    count = rows if mode == "complete" else min(rows, columns)
    upper = c.emit(OP.triu(vectors, 0))
    r = c.slice(upper, c.rank(upper) - 2, 0, count)
    if mode == "r":
        return [c.zeros(c.out_shape(0), c.out_dtype(0)), _result(c, r, 1)]
    return _results(c, _columns_of_q(c, vectors, tau, count), r)


@converts("aten.linalg_householder_product.default", "aten.orgqr.default")
def householder_product(c: Context, input: Any = None, tau: Any = None, x: Any = None, input2: Any = None) -> Expr:
    vectors, factors = _wide(c, input if x is None else x), _wide(c, tau if x is None else input2)
    row = c.reshape(factors, [*c.shape(factors)[:-1], 1, c.shape(factors)[-1]])
    return c.cast(_columns_of_q(c, vectors, row, _extents(c, vectors)[1]), c.out_dtype())


@converts("aten.ormqr.default")
def ormqr(c: Context, x: Expr, input2: Expr, input3: Expr, left: bool = True, transpose: bool = False) -> Expr:
    factors, other = _wide(c, input2), _wide(c, input3)
    row = c.reshape(factors, [*c.shape(factors)[:-1], 1, c.shape(factors)[-1]])
    found = _applied(
        c, _wide(c, x), row, other if left else c.swap(other, -1, -2), transpose if left else not transpose
    )
    return c.cast(found if left else c.swap(found, -1, -2), c.out_dtype())


# Eigenvalues and singular values.


def _sort_row(row: Any, count: int, ascending: bool) -> None:
    swap = variable(_WIDE)
    with T.serial(0, count) as i, T.serial(0, count) as j:
        wrong = row[0, j] < row[0, i] if not ascending else row[0, j] > row[0, i]
        with T.If(tirx.all(j < i, wrong)):
            with T.Then():
                swap[0] = row[0, i]
                row[0, i] = row[0, j]
                row[0, j] = swap[0]


def _rotation(values: Any, p: Any, q: Any, off: Any) -> None:
    """values[0], [1] = cosine and sine of the rotation that makes [[p, off], [off, q]] diagonal; off is not 0."""
    cosine, sine, theta = values
    theta[0] = (q - p) / (off * 2.0)
    root = tirx.abs(theta[0]) + tirx.sqrt(theta[0] * theta[0] + 1.0)
    theta[0] = tirx.if_then_else(theta[0] >= 0.0, _f(1.0), _f(-1.0)) / root
    cosine[0] = _f(1.0) / tirx.sqrt(theta[0] * theta[0] + 1.0)
    sine[0] = theta[0] * cosine[0]


@converts("aten._linalg_svd.default")
def svd(c: Context, A: Expr, full_matrices: bool = False, compute_uv: bool = True, driver: Any = None) -> list[Any]:
    """Singular values alone: columns are rotated until they are orthogonal; then they are as long as the values."""
    if c.used(0) or c.used(2):
        raise NotConvertible("singular vectors, whose signs are arbitrary")
    wide = _wide(c, A)
    if _extents(c, A)[0] < _extents(c, A)[1]:
        wide = c.swap(wide, -1, -2)
    rows, columns = _extents(c, wide)

    def write(source: Any, work: Any, values: Any) -> None:
        turn = [variable(_WIDE) for _ in range(3)]
        p, q, off, old = (variable(_WIDE) for _ in range(4))
        with T.serial(0, rows) as i, T.serial(0, columns) as j:
            work[i, j] = source[i, j]
        with T.serial(0, _SWEEPS), T.serial(0, columns) as a, T.serial(0, columns) as b:
            with T.If(a < b):
                with T.Then():
                    for total in (p, q, off):
                        total[0] = _f(0.0)
                    with T.serial(0, rows) as i:
                        p[0] = p[0] + work[i, a] * work[i, a]
                        q[0] = q[0] + work[i, b] * work[i, b]
                        off[0] = off[0] + work[i, a] * work[i, b]
                    with T.If(tirx.abs(off[0]) > tirx.sqrt(p[0] * q[0]) * 1e-16):
                        with T.Then():
                            _rotation(turn, p[0], q[0], off[0])
                            with T.serial(0, rows) as i:
                                old[0] = work[i, a]
                                work[i, a] = turn[0][0] * old[0] - turn[1][0] * work[i, b]
                                work[i, b] = turn[1][0] * old[0] + turn[0][0] * work[i, b]
        with T.serial(0, columns) as j:
            p[0] = _f(0.0)
            with T.serial(0, rows) as i:
                p[0] = p[0] + work[i, j] * work[i, j]
            values[0, j] = tirx.sqrt(p[0])
        _sort_row(values, columns, ascending=False)

    values = _each_matrix(c, [wide], [(rows, columns, _WIDE), (1, columns, _WIDE)], write, "singular_values")[1]
    return [None, _result(c, values, 1), None]


@converts("aten._linalg_eigh.default")
def eigh(c: Context, A: Expr, UPLO: str = "L", compute_v: bool = True) -> list[Any]:
    """Eigenvalues alone, of the symmetric matrix that one triangle gives: Jacobi's rotations."""
    if c.used(1):
        raise NotConvertible("eigenvectors, whose signs are arbitrary")
    wide = _wide(c, A)
    size = _extents(c, A)[0]

    def write(source: Any, work: Any, values: Any) -> None:
        turn = [variable(_WIDE) for _ in range(3)]
        old = variable(_WIDE)
        with T.serial(0, size) as i, T.serial(0, size) as j:
            kept = j <= i if UPLO == "L" else j >= i
            work[i, j] = tirx.if_then_else(kept, source[i, j], source[j, i])
        with T.serial(0, _SWEEPS), T.serial(0, size) as a, T.serial(0, size) as b:
            with T.If(tirx.all(a < b, work[a, b] != 0.0)):
                with T.Then():
                    _rotation(turn, work[a, a], work[b, b], work[a, b])
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

    values = _each_matrix(c, [wide], [(size, size, _WIDE), (1, size, _WIDE)], write, "eigenvalues")[1]
    return [_result(c, values, 0), None]
