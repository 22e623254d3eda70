"""Operators on complex numbers, which are pairs of real tensors.

Formulas: Abramowitz and Stegun, Handbook of Mathematical Functions (1964), 3.7, 3.8 and 4.3; division by R. L. Smith's algorithm 116
(1962); tanh by W. Kahan (1987).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch._prims_common import elementwise_dtypes
from tvm import relax

from .._complex import Pair, converts_complex, imaginary, is_complex, joined, part_dtype, separated
from .._context import Context, Expr, Promotion
from .._dtypes import tvm_dtype
from . import linear, reduce
from .elementwise import fitted

OP = relax.op


def as_pair(c: Context, value: Any, dtype: str) -> Pair:
    """A complex or real tensor, or a number, as a pair of the dtype."""
    if isinstance(value, Pair):
        return Pair(c.cast(value.real, dtype), None if value.imag is None else c.cast(value.imag, dtype))
    if isinstance(value, complex):
        return Pair(c.const(value.real, dtype), c.const(value.imag, dtype))
    return Pair(c.tensor(value, dtype), None)


def _dtype(c: Context) -> str:
    """The dtype of the parts of the node's result."""
    return part_dtype(c.result.dtype)


def _operands(c: Context, *values: Any, dtype: str | None = None) -> list[Pair]:
    """Pairs whose broadcast is plain to see."""
    pairs = [as_pair(c, value, dtype or _dtype(c)) for value in values]
    return [Pair(fitted(c, p.real), None if p.imag is None else fitted(c, p.imag)) for p in pairs]


def _result_pair(c: Context, real: Expr, imag: Expr | None) -> Pair:
    """The result, both parts of its shape."""
    shape = c.out_shape()
    return Pair(c.broadcast(real, shape), None if imag is None else c.broadcast(imag, shape))


def _add(c: Context, a: Expr | None, b: Expr | None) -> Expr | None:
    """None is zero."""
    return b if a is None else a if b is None else c.emit(OP.add(a, b))


def _neg(c: Context, a: Expr | None) -> Expr | None:
    return None if a is None else c.emit(OP.negative(a))


def _mul(c: Context, a: Expr | None, b: Expr | None) -> Expr | None:
    return None if a is None or b is None else c.emit(OP.multiply(a, b))


def _sub(c: Context, a: Expr | None, b: Expr | None) -> Expr | None:
    return _neg(c, b) if a is None else a if b is None else c.emit(OP.subtract(a, b))


def times(c: Context, a: Pair, b: Pair) -> Pair:
    real = _sub(c, _mul(c, a.real, b.real), _mul(c, a.imag, b.imag))
    return Pair(real, _add(c, _mul(c, a.real, b.imag), _mul(c, a.imag, b.real)))


def _scaled(c: Context, a: Pair, factor: float) -> Pair:
    by = c.const(factor, c.dtype(a.real))
    return Pair(c.emit(OP.multiply(a.real, by)), _mul(c, a.imag, by))


# Between complex and real.


@converts_complex("aten.complex.default")
def complex_(c: Context, real: Expr, imag: Expr) -> Pair:
    return _result_pair(c, real, imag)


@converts_complex("aten.polar.default")
def polar(c: Context, abs: Expr, angle: Expr) -> Pair:
    size, turn = fitted(c, abs), fitted(c, angle)
    parts = [c.emit(OP.multiply(size, c.emit(function(turn)))) for function in (OP.cos, OP.sin)]
    return _result_pair(c, *parts)


@converts_complex("aten.view_as_complex.default")
def view_as_complex(c: Context, x: Expr) -> Pair:
    return separated(c, x)


@converts_complex("aten.view_as_real.default")
def view_as_real(c: Context, x: Pair) -> Expr:
    return joined(c, x)


@converts_complex("aten.real.default")
def real(c: Context, x: Any) -> Expr:
    return x.real if isinstance(x, Pair) else x


@converts_complex("aten.imag.default")
def imag(c: Context, x: Pair) -> Expr:
    return imaginary(c, x)


@converts_complex("aten._conj.default", "aten.conj.default", "aten.conj_physical.default", "aten._conj_copy.default",
                  "aten._conj_physical.default", "prims.conj_physical.default")  # fmt: skip
def conj(c: Context, x: Any) -> Any:
    return Pair(x.real, _neg(c, x.imag)) if isinstance(x, Pair) else x


@converts_complex("aten.resolve_conj.default", "aten.resolve_neg.default")
def resolved(c: Context, x: Any) -> Any:
    return x


@converts_complex("aten._neg_view.default", "aten._neg_view_copy.default")
def neg_view(c: Context, x: Any) -> Any:
    return Pair(c.emit(OP.negative(x.real)), _neg(c, x.imag)) if isinstance(x, Pair) else _neg(c, x)


@converts_complex(
    "aten._to_copy.default", "aten.to.dtype", "aten.to.dtype_layout", "prims.convert_element_type.default"
)
def to_dtype(c: Context, x: Any = None, a: Any = None, dtype: Any = None) -> Any:
    """As torch has it: a real dtype keeps the real part; bool is "not zero"."""
    value = x if x is not None else a
    if is_complex(c.result):
        return as_pair(c, value, _dtype(c))
    if not isinstance(value, Pair):
        return c.cast(value, tvm_dtype(c.result.dtype))
    return _nonzero(c, value) if c.out_dtype() == "bool" else c.cast(value.real, c.out_dtype())


def _nonzero(c: Context, x: Pair) -> Expr:
    tests = [c.cast(part, "bool") for part in (x.real, x.imag) if part is not None]
    return tests[0] if len(tests) == 1 else c.emit(OP.logical_or(*tests))


def _absolute(c: Context, x: Pair) -> Expr:
    """sqrt(r^2 + i^2), scaled by the larger one so that squares do not overflow; infinite where a part is."""
    a = c.emit(OP.abs(x.real))
    if x.imag is None:
        return a
    b = c.emit(OP.abs(x.imag))
    dtype = c.dtype(a)
    large, small = c.emit(OP.maximum(a, b)), c.emit(OP.minimum(a, b))
    plain = c.emit(OP.logical_and(c.emit(OP.greater(large, c.const(0.0, dtype))), c.emit(OP.isfinite(large))))
    ratio = c.emit(OP.divide(small, c.where(plain, large, c.const(1.0, dtype))))
    root = c.emit(OP.sqrt(c.emit(OP.add(c.const(1.0, dtype), c.emit(OP.multiply(ratio, ratio))))))
    return c.where(plain, c.emit(OP.multiply(large, root)), large)


@converts_complex("aten.abs.default")
def abs_(c: Context, x: Pair) -> Expr:
    return _absolute(c, x)


@converts_complex("aten.angle.default")
def angle(c: Context, x: Pair) -> Expr:
    return c.emit(OP.atan2(imaginary(c, x), x.real))


@converts_complex("aten.sgn.default")
def sgn(c: Context, x: Pair) -> Pair:
    size = _absolute(c, x)
    zero = c.emit(OP.equal(size, c.const(0.0, c.dtype(size))))
    safe = c.where(zero, c.const(1.0, c.dtype(size)), size)
    return Pair(*[None if part is None else c.emit(OP.divide(part, safe)) for part in (x.real, x.imag)])


# Arithmetic.


@converts_complex("aten.add.Tensor", "aten.add.Scalar")
def add(c: Context, x: Any, other: Any, alpha: Any = 1) -> Pair:
    a, b = _operands(c, x, other)
    b = b if alpha == 1 else times(c, b, as_pair(c, alpha, _dtype(c)))
    return _result_pair(c, _add(c, a.real, b.real), _add(c, a.imag, b.imag))


@converts_complex("aten.sub.Tensor", "aten.sub.Scalar")
def sub(c: Context, x: Any, other: Any, alpha: Any = 1) -> Pair:
    a, b = _operands(c, x, other)
    b = b if alpha == 1 else times(c, b, as_pair(c, alpha, _dtype(c)))
    return _result_pair(c, _sub(c, a.real, b.real), _sub(c, a.imag, b.imag))


@converts_complex("aten.rsub.Scalar", "aten.rsub.Tensor")
def rsub(c: Context, x: Any, other: Any, alpha: Any = 1) -> Pair:
    return sub(c, other, x, alpha)


@converts_complex("aten.mul.Tensor", "aten.mul.Scalar")
def mul(c: Context, x: Any, other: Any) -> Pair:
    found = times(c, *_operands(c, x, other))
    return _result_pair(c, found.real, found.imag)


@converts_complex("aten.square.default")
def square(c: Context, x: Pair) -> Pair:
    return times(c, x, x)


def _quotient(c: Context, a: Pair, b: Pair) -> Pair:
    if b.imag is None:
        return Pair(c.emit(OP.divide(a.real, b.real)), None if a.imag is None else c.emit(OP.divide(a.imag, b.real)))
    wide = c.emit(OP.greater_equal(c.emit(OP.abs(b.real)), c.emit(OP.abs(b.imag))))
    large, small = c.where(wide, b.real, b.imag), c.where(wide, b.imag, b.real)
    zero = c.emit(OP.equal(large, c.const(0.0, c.dtype(large))))
    ratio = c.emit(OP.divide(small, c.where(zero, c.const(1.0, c.dtype(large)), large)))
    below = c.emit(OP.add(large, c.emit(OP.multiply(small, ratio))))
    other = imaginary(c, a)
    first, second = c.where(wide, a.real, other), c.where(wide, other, a.real)
    above = c.emit(OP.add(first, c.emit(OP.multiply(second, ratio))))
    across = c.emit(OP.subtract(second, c.emit(OP.multiply(first, ratio))))
    found = c.emit(OP.divide(across, below))
    return Pair(c.emit(OP.divide(above, below)), c.where(wide, found, c.emit(OP.negative(found))))


@converts_complex("aten.div.Tensor", "aten.div.Scalar", "aten.true_divide.Tensor")
def div(c: Context, x: Any, other: Any) -> Pair:
    found = _quotient(c, *_operands(c, x, other))
    return _result_pair(c, found.real, found.imag)


@converts_complex("aten.reciprocal.default")
def reciprocal(c: Context, x: Pair) -> Pair:
    return _quotient(c, as_pair(c, 1.0, _dtype(c)), x)


@converts_complex("aten.pow.Tensor_Scalar")
def pow_scalar(c: Context, x: Any, exponent: Any) -> Pair:
    x = as_pair(c, x, _dtype(c))
    if exponent in (0.5, -0.5):
        root = sqrt(c, x)
        return root if exponent > 0 else reciprocal(c, root)
    if not isinstance(exponent, complex) and exponent == int(exponent) and 0 < abs(exponent) <= 16:
        total = x
        for _ in range(abs(int(exponent)) - 1):
            total = times(c, total, x)
        return total if exponent > 0 else reciprocal(c, total)
    return _power(c, x, as_pair(c, exponent, _dtype(c)))


@converts_complex("aten.pow.Tensor_Tensor", "aten.pow.Scalar")
def pow_tensor(c: Context, x: Any, exponent: Any) -> Pair:
    return _power(c, *_operands(c, x, exponent))


def _power(c: Context, x: Pair, exponent: Pair) -> Pair:
    """exp(exponent log x); 0 to a power with a positive real part is 0, to the power 0 it is 1, and NaN else."""
    found = exp(c, times(c, exponent, log(c, x)))
    dtype = c.dtype(x.real)
    zero = c.emit(OP.logical_not(_nonzero(c, x)))
    none, one, nan = (c.const(v, dtype) for v in (0.0, 1.0, math.nan))
    ends = c.where(c.emit(OP.greater(exponent.real, none)), none, nan)
    real = c.where(_nonzero(c, exponent), ends, one)
    imag = c.where(_nonzero(c, exponent), ends, none)
    return _result_pair(c, c.where(zero, real, found.real), c.where(zero, imag, imaginary(c, found)))


# Comparison and tests.


def _equal(c: Context, x: Any, other: Any) -> Expr:
    kind, _ = elementwise_dtypes(c.fakes["x"], c.fakes["other"], type_promotion_kind=Promotion.DEFAULT)
    dtype = part_dtype(kind)
    a, b = _operands(c, x, other, dtype=dtype)
    same = [c.emit(OP.equal(a.real, b.real)), c.emit(OP.equal(imaginary(c, a), imaginary(c, b)))]
    return c.broadcast(c.emit(OP.logical_and(*same)), c.out_shape())


@converts_complex("aten.eq.Tensor", "aten.eq.Scalar")
def eq(c: Context, x: Any, other: Any) -> Expr:
    return _equal(c, x, other)


@converts_complex("aten.ne.Tensor", "aten.ne.Scalar")
def ne(c: Context, x: Any, other: Any) -> Expr:
    return c.emit(OP.logical_not(_equal(c, x, other)))


def _tested(function: Callable[..., Any], both: Callable[..., Any]) -> Any:
    def convert(c: Context, x: Pair) -> Expr:
        tests = [
            c.emit(function(part if c.dtype(part) == "float64" else c.cast(part, "float32")))
            for part in (x.real, imaginary(c, x))
        ]
        return c.emit(both(*tests))

    return convert


converts_complex("aten.isnan.default")(_tested(OP.isnan, OP.logical_or))
converts_complex("aten.isinf.default")(_tested(OP.isinf, OP.logical_or))
converts_complex("aten.isfinite.default")(_tested(OP.isfinite, OP.logical_and))


@converts_complex("aten.logical_not.default")
def logical_not(c: Context, x: Pair) -> Expr:
    return c.emit(OP.logical_not(_nonzero(c, x)))


# Functions.


@converts_complex("aten.exp.default")
def exp(c: Context, x: Pair) -> Pair:
    size = c.emit(OP.exp(x.real))
    if x.imag is None:
        return Pair(size, None)
    return Pair(*[c.emit(OP.multiply(size, c.emit(function(x.imag)))) for function in (OP.cos, OP.sin)])


@converts_complex("aten.log.default")
def log(c: Context, x: Pair) -> Pair:
    return Pair(c.emit(OP.log(_absolute(c, x))), angle(c, x))


@converts_complex("aten.log2.default")
def log2(c: Context, x: Pair) -> Pair:
    return _scaled(c, log(c, x), 1 / math.log(2))


@converts_complex("aten.log10.default")
def log10(c: Context, x: Pair) -> Pair:
    return _scaled(c, log(c, x), 1 / math.log(10))


@converts_complex("aten.sqrt.default")
def sqrt(c: Context, x: Pair) -> Pair:
    """The root with a real part that is not negative: m = sqrt((|z| + |r|) / 2) and i / (2 m), swapped where r < 0."""
    dtype, imag = c.dtype(x.real), imaginary(c, x)
    zero, one, half = (c.const(v, dtype) for v in (0.0, 1.0, 0.5))
    total = c.emit(OP.add(_absolute(c, x), c.emit(OP.abs(x.real))))
    m = c.emit(OP.sqrt(c.emit(OP.multiply(total, half))))
    safe = c.where(c.emit(OP.equal(m, zero)), one, m)
    n = c.emit(OP.multiply(c.emit(OP.divide(imag, safe)), half))
    right = c.emit(OP.greater_equal(x.real, zero))
    signed = c.where(_negative(c, imag), c.emit(OP.negative(m)), m)
    return Pair(c.where(right, m, c.emit(OP.abs(n))), c.where(right, n, signed))


def _negative(c: Context, x: Expr) -> Expr:
    """Whether the sign is minus; that of -0.0 is found through 1 / x."""
    zero, one = c.const(0.0, c.dtype(x)), c.const(1.0, c.dtype(x))
    return c.emit(OP.logical_or(c.emit(OP.less(x, zero)), c.emit(OP.less(c.emit(OP.divide(one, x)), zero))))


@converts_complex("aten.rsqrt.default")
def rsqrt(c: Context, x: Pair) -> Pair:
    return reciprocal(c, sqrt(c, x))


def _products(c: Context, x: Pair, real: tuple[Any, Any], imag: tuple[Any, Any]) -> Pair:
    """(f(r) g(i), h(r) k(i)) for the pairs of functions of the parts."""
    i = imaginary(c, x)
    return Pair(*[c.emit(OP.multiply(c.emit(f(x.real)), c.emit(g(i)))) for f, g in (real, imag)])


@converts_complex("aten.sin.default")
def sin(c: Context, x: Pair) -> Pair:
    return _products(c, x, (OP.sin, OP.cosh), (OP.cos, OP.sinh))


@converts_complex("aten.cos.default")
def cos(c: Context, x: Pair) -> Pair:
    found = _products(c, x, (OP.cos, OP.cosh), (OP.sin, OP.sinh))
    return Pair(found.real, _neg(c, found.imag))


@converts_complex("aten.sinh.default")
def sinh(c: Context, x: Pair) -> Pair:
    return _products(c, x, (OP.sinh, OP.cos), (OP.cosh, OP.sin))


@converts_complex("aten.cosh.default")
def cosh(c: Context, x: Pair) -> Pair:
    return _products(c, x, (OP.cosh, OP.cos), (OP.sinh, OP.sin))


@converts_complex("aten.tanh.default")
def tanh(c: Context, x: Pair) -> Pair:
    """With s = sinh r, q = cosh r, and the cosine and sine of i: (s q, sin cos) / (s^2 + cos^2). Beyond |r| = 20 (300 for float64)
    nothing changes any more but for an imaginary part that is as good as zero."""
    dtype, i = c.dtype(x.real), imaginary(c, x)
    limit = 300.0 if dtype == "float64" else 20.0
    r = c.emit(OP.minimum(c.emit(OP.maximum(x.real, c.const(-limit, dtype))), c.const(limit, dtype)))
    s, q, cosine, sine = (c.emit(f(v)) for f, v in ((OP.sinh, r), (OP.cosh, r), (OP.cos, i), (OP.sin, i)))
    below = c.emit(OP.add(c.emit(OP.multiply(s, s)), c.emit(OP.multiply(cosine, cosine))))
    return Pair(*[c.emit(OP.divide(c.emit(OP.multiply(a, b)), below)) for a, b in ((s, q), (sine, cosine))])


@converts_complex("aten.tan.default")
def tan(c: Context, x: Pair) -> Pair:
    """-i tanh(i z)"""
    found = tanh(c, Pair(c.emit(OP.negative(imaginary(c, x))), x.real))
    assert found.imag is not None
    return Pair(found.imag, _neg(c, found.real))


@converts_complex("aten.sigmoid.default")
def sigmoid(c: Context, x: Pair) -> Pair:
    """1 / (1 + exp(-z)), or where r < 0 exp(z) / (1 + exp(z)): neither overflows."""
    dtype, i = c.dtype(x.real), imaginary(c, x)
    right = c.emit(OP.greater_equal(x.real, c.const(0.0, dtype)))
    e = exp(c, Pair(c.emit(OP.negative(c.emit(OP.abs(x.real)))), c.where(right, c.emit(OP.negative(i)), i)))
    above = Pair(c.where(right, c.const(1.0, dtype), e.real), c.where(right, c.const(0.0, dtype), imaginary(c, e)))
    return _quotient(c, above, Pair(c.emit(OP.add(e.real, c.const(1.0, dtype))), e.imag))


# Products of matrices, and norms.


def product(c: Context, a: Pair, b: Pair) -> Pair:
    def of(p: Expr | None, q: Expr | None) -> Expr | None:
        return None if p is None or q is None else linear.product(c, p, q)

    real = _sub(c, of(a.real, b.real), of(a.imag, b.imag))
    return Pair(real, _add(c, of(a.real, b.imag), of(a.imag, b.real)))


@converts_complex("aten.matmul.default", "aten.mm.default", "aten.bmm.default", "aten.mv.default", "aten.dot.default")
def matmul(c: Context, x: Any, other: Any = None, mat2: Any = None, vec: Any = None, tensor: Any = None) -> Pair:
    right = next(v for v in (other, mat2, vec, tensor) if v is not None)
    return product(c, as_pair(c, x, _dtype(c)), as_pair(c, right, _dtype(c)))


@converts_complex("aten.vdot.default")
def vdot(c: Context, x: Any, other: Any) -> Any:
    a, b = as_pair(c, x, _dtype(c)), as_pair(c, other, _dtype(c))
    found = product(c, Pair(a.real, _neg(c, a.imag)), b)
    return found if is_complex(c.result) else found.real


@converts_complex("aten.addmm.default", "aten.baddbmm.default", "aten.addmv.default")
def addmm(c: Context, x: Any, mat1: Any = None, mat2: Any = None, batch1: Any = None, batch2: Any = None, mat: Any = None,
          vec: Any = None, beta: Any = 1, alpha: Any = 1) -> Pair:  # fmt: skip
    left = next(v for v in (mat1, batch1, mat) if v is not None)
    right = next(v for v in (mat2, batch2, vec) if v is not None)
    dtype = _dtype(c)
    found = times(c, product(c, as_pair(c, left, dtype), as_pair(c, right, dtype)), as_pair(c, alpha, dtype))
    if beta != 0:
        more = times(c, _operands(c, x)[0], as_pair(c, beta, dtype))
        found = Pair(c.emit(OP.add(found.real, more.real)), _add(c, found.imag, more.imag))
    return _result_pair(c, found.real, found.imag)


@converts_complex("aten.linear.default")
def linear_(c: Context, input: Any, weight: Any, bias: Any = None) -> Pair:
    dtype = _dtype(c)
    w = as_pair(c, weight, dtype)
    if c.rank(w.real) == 2:
        w = Pair(c.swap(w.real, 0, 1), None if w.imag is None else c.swap(w.imag, 0, 1))
    found = product(c, as_pair(c, input, dtype), w)
    if bias is not None:
        more = _operands(c, bias)[0]
        found = Pair(c.emit(OP.add(found.real, more.real)), _add(c, found.imag, more.imag))
    return _result_pair(c, found.real, found.imag)


@converts_complex("aten.linalg_vector_norm.default")
def vector_norm(c: Context, x: Pair, ord: Any = 2, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Expr:
    return reduce.vector_norm(c, _absolute(c, x), ord, dim, keepdim, None)
