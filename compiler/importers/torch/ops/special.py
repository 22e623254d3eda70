"""Special functions of mathematical physics and statistics: computed in float64, an element at a time, by loops that run until they converge.

Formulas: Abramowitz and Stegun, Handbook of Mathematical Functions (1964); NIST Digital Library of Mathematical Functions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from ..._imperative import imperative, variable
from .._context import Context, Expr, Promotion
from .._dtypes import is_float
from .._registry import NotConvertible, converts

_SCRATCH = 6  # variables that a function may use
Scratch = list[Any]


def _f(value: float) -> Any:
    return tirx.FloatImm("float64", value) if math.isfinite(value) else _not_finite(value)


def _not_finite(value: float) -> Any:
    infinity = tirx.infinity("float64")
    return infinity - infinity if math.isnan(value) else infinity if value > 0 else -infinity


def _m(name: str, *args: Any) -> Any:
    """A function of libm."""
    return tirx.call_pure_extern("float64", name, *args)


def _pick(condition: Any, yes: Any, no: Any) -> Any:
    yes, no = (_f(float(v)) if isinstance(v, (int, float)) else v for v in (yes, no))
    return tirx.if_then_else(condition, yes, no)


def map_elements(c: Context, tensors: list[Expr], dtype: str, function: Callable[..., Any], compute: str = "float64",
         shape: Any = None) -> Expr:  # fmt: skip
    """function(*elements, scratch) for each element of the broadcast tensors; `scratch` are variables of type `compute`."""
    shape = c.out_shape() if shape is None else shape
    flat = [c.broadcast(t, shape) if shape else c.reshape(t, [1]) for t in tensors]

    def build(*inputs: Any) -> Any:
        def write(*buffers: Any) -> None:
            *sources, out = buffers
            scratch = [variable(compute) for _ in range(_SCRATCH)]
            total: Any = tirx.IntImm("int64", 1)
            for extent in inputs[0].shape:
                total = total * extent
            with T.serial(0, total) as i:
                out[i] = tirx.Cast(dtype, function(*[tirx.Cast(compute, s[i]) for s in sources], scratch))

        return imperative([inputs[0].shape], [dtype], list(inputs), write, "special")[0]

    return c.reshape(c.generated(build, *flat, name="special")[0], shape)


def _unary(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register function(x, scratch)."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        @converts(*[f"aten.{name}.default" for name in names])
        def convert(c: Context, x: Expr) -> Expr:
            _, result = c.promoted(["x"], Promotion.INT_TO_FLOAT)
            return map_elements(c, [x], result, function)

        return function

    return register


@converts("aten.nextafter.default")
def nextafter(c: Context, x: Expr, other: Expr) -> Expr:
    dtype = c.out_dtype()
    if dtype not in ("float32", "float64"):
        raise NotConvertible(f"dtype {dtype}")
    name = "nextafterf" if dtype == "float32" else "nextafter"
    return map_elements(c, [x, other], dtype, lambda a, b, v: tirx.call_pure_extern(dtype, name, a, b), compute=dtype)


@converts("aten.frexp.Tensor")
def frexp(c: Context, x: Expr) -> list[Expr]:
    """x = mantissa * 2^exponent with the mantissa in [0.5, 1): the exponent by logarithm, put right where that rounded."""
    if c.dtype(x) != "float32":
        raise NotConvertible(f"dtype {c.dtype(x)}")

    def exponent(value: Any, v: Scratch) -> Any:
        good = tirx.all(value != 0.0, _m("fabs", value) < tirx.infinity("float64"))
        v[0][0] = _pick(good, _m("floor", _m("log2", _m("fabs", _pick(good, value, 1.0)))) + 1.0, 0.0)
        v[1][0] = _m("fabs", value) * _m("exp2", -v[0][0])
        more = _pick(v[1][0] >= 1.0, 1.0, _pick(v[1][0] < 0.5, -1.0, 0.0))
        return v[0][0] + _pick(good, more, 0.0)

    shape = c.out_shape(0)
    mantissa = map_elements(c, [x], c.dtype(x), lambda a, v: a * _m("exp2", -exponent(a, v)), shape=shape)
    return [mantissa, map_elements(c, [x], "int32", exponent, shape=shape)]


# The gamma function and its relatives.


@_unary("lgamma")
def _lgamma(x: Any, v: Scratch) -> Any:
    return _m("lgamma", x)


@_unary("digamma")
def _digamma(x: Any, v: Scratch) -> Any:
    """Reflection for x < 0, recurrence up to 12, then the asymptotic series."""
    total, y = v[:2]
    total[0] = _pick(x < 0.0, _f(-math.pi) / _m("tan", _f(math.pi) * (x - _m("trunc", x))), 0.0)
    y[0] = _pick(x < 0.0, _f(1.0) - x, x)
    with T.While(tirx.all(y[0] < 12.0, y[0] != 0.0)):
        total[0] = total[0] - _f(1.0) / y[0]
        y[0] = y[0] + 1.0
    square = _f(1.0) / (y[0] * y[0])
    series: Any = _f(0.0)
    for k in range(8, 0, -1):
        series = square * (series + float(_bernoulli(2 * k) / (2 * k)))
    found = total[0] + _m("log", y[0]) - _f(0.5) / y[0] - series
    pole = tirx.all(x < 0.0, _m("floor", x) == x)
    return _pick(x == 0.0, _f(-1.0) / x, _pick(pole, math.nan, found))


def _bernoulli(n: int) -> Fraction:
    """By the recurrence sum(binomial(n + 1, k) B_k) = 0."""
    numbers = [Fraction(1)]
    for m in range(1, n + 1):
        numbers.append(-sum((math.comb(m + 1, k) * numbers[k] for k in range(m)), Fraction(0)) / (m + 1))
    return numbers[n]


def _zeta(s: Any, q: Any, v: Scratch) -> Any:
    """Hurwitz zeta(s, q) = sum (q + k)^-s by Euler and Maclaurin; torch's values at the poles."""
    total, a, b, count = v[:4]
    whole = _m("floor", q) == q
    outside = tirx.any(s < 1.0, tirx.all(q <= 0.0, tirx.Not(whole), _m("floor", s) != s))
    endless = tirx.any(s == 1.0, tirx.all(q <= 0.0, whole))
    good = tirx.Not(tirx.any(outside, endless))
    a[0] = q
    b[0] = _m("pow", q, -s)
    total[0] = b[0]
    count[0] = _f(0.0)
    with T.While(tirx.all(good, tirx.any(count[0] < 9.0, a[0] <= 9.0))):
        count[0] = count[0] + 1.0
        a[0] = a[0] + 1.0
        b[0] = _m("pow", a[0], -s)
        total[0] = total[0] + b[0]
    tail: Any = b[0] * a[0] / (s - 1.0) - b[0] * 0.5
    factor: Any = s
    power: Any = b[0] / a[0]
    for k in range(1, 9):
        tail = tail + factor * power * float(_bernoulli(2 * k) / math.factorial(2 * k))
        factor = factor * (s + float(2 * k - 1)) * (s + float(2 * k))
        power = power / (a[0] * a[0])
    return _pick(endless, math.inf, _pick(outside, math.nan, total[0] + tail))


@converts("aten.special_zeta.default", "aten.special_zeta.other_scalar", "aten.special_zeta.self_scalar")
def zeta(c: Context, x: Any, other: Any) -> Expr:
    _, result = c.promoted(["x", "other"], Promotion.INT_TO_FLOAT)
    return map_elements(c, [c.tensor(x, result), c.tensor(other, result)], result, _zeta)


@converts("aten.polygamma.default")
def polygamma(c: Context, n: int, x: Expr) -> Expr:
    """(-1)^(n + 1) n! zeta(n + 1, x)"""
    _, result = c.promoted(["x"], Promotion.INT_TO_FLOAT)
    if n == 0:
        return map_elements(c, [x], result, _digamma)
    scale = (1.0 if n % 2 else -1.0) * math.exp(math.lgamma(n + 1))
    return map_elements(c, [x], result, lambda q, v: _zeta(_f(float(n + 1)), q, v) * scale)


def _incomplete_gamma(upper: bool) -> Callable[..., Any]:
    """P(a, x) or Q(a, x) = 1 - P: the series for x < a + 1, else the continued fraction (W. J. Lentz's method)."""

    def function(a: Any, x: Any, v: Scratch) -> Any:
        total, term, n, c, d, step = v
        low = x < a + 1.0
        n[0] = _f(0.0)
        total[0] = _f(1.0)
        term[0] = _f(1.0)
        with T.While(tirx.all(low, n[0] < 5000.0, term[0] > total[0] * 1e-17)):
            n[0] = n[0] + 1.0
            term[0] = term[0] * x / (a + n[0])
            total[0] = total[0] + term[0]
        c[0] = _f(1e300)
        d[0] = _f(1.0) / (x + 1.0 - a)
        term[0] = d[0]
        step[0] = _f(0.0)
        n[0] = _f(0.0)
        with T.While(tirx.all(tirx.Not(low), n[0] < 5000.0, _m("fabs", step[0] - 1.0) > 1e-16)):
            n[0] = n[0] + 1.0
            d[0] = _f(1.0) / (n[0] * (a - n[0]) * d[0] + x + 1.0 - a + n[0] * 2.0)
            c[0] = x + 1.0 - a + n[0] * 2.0 + n[0] * (a - n[0]) / c[0]
            step[0] = c[0] * d[0]
            term[0] = term[0] * step[0]
        scale = _m("exp", a * _m("log", x) - x - _m("lgamma", a))
        from_series = scale * total[0] / a
        from_fraction = scale * term[0]
        inside = (
            _pick(low, _f(1.0) - from_series, from_fraction)
            if upper
            else _pick(low, from_series, _f(1.0) - from_fraction)
        )
        none, whole = (1.0, 0.0) if upper else (0.0, 1.0)
        huge = tirx.infinity("float64")
        limits = _pick(a == 0.0, _pick(x > 0.0, whole, math.nan), _pick(x == 0.0, none, inside))
        limits = _pick(a == huge, _pick(x == huge, math.nan, none), _pick(x == huge, whole, limits))
        return _pick(tirx.any(x < 0.0, a < 0.0, _m("fabs", a) != _m("fabs", a)), math.nan, limits)

    return function


for _name, _upper in (("igamma", False), ("igammac", True)):

    def _convert(c: Context, x: Expr, other: Expr, upper: bool = _upper) -> Expr:
        _, result = c.promoted(["x", "other"], Promotion.INT_TO_FLOAT)
        return map_elements(c, [c.cast(x, result), c.cast(other, result)], result, _incomplete_gamma(upper))

    converts(f"aten.{_name}.default")(_convert)


# The error function and the normal distribution.


def _erf_inverse(y: Any, q: Any, v: Scratch) -> Any:
    """z >= 0 with erf(z) = y and erfc(z) = q = 1 - y, both given so that neither has lost a digit: S. Winitzki's approximation, then
    three steps of Halley's method on the smaller of the two."""
    z, step = v[:2]
    log = _m("log1p", -y * y)
    log = _pick(y < 0.5, log, _m("log", q * (_f(2.0) - q)))
    half = _f(2 / (math.pi * 0.147)) + log * 0.5
    z[0] = _m("sqrt", _m("sqrt", half * half - log / 0.147) - half)
    for _ in range(3):
        far = _pick(y < 0.5, _m("erf", z[0]) - y, q - _m("erfc", z[0]))
        step[0] = far * _m("exp", z[0] * z[0]) * (math.sqrt(math.pi) / 2)
        z[0] = z[0] - step[0] / (z[0] * step[0] + 1.0)
    return _pick(y < 1e-4, y * (y * y * (math.pi / 12) + 1.0) * (math.sqrt(math.pi) / 2), z[0])


@_unary("erfinv")
def _erfinv(y: Any, v: Scratch) -> Any:
    size = v[2]
    size[0] = _m("fabs", y)
    z = _m("copysign", _erf_inverse(size[0], _f(1.0) - size[0], v), y)
    return _pick(size[0] > 1.0, math.nan, _pick(size[0] == 1.0, _m("copysign", _not_finite(math.inf), y), z))


@_unary("special_ndtri")
def _ndtri(p: Any, v: Scratch) -> Any:
    q = v[2]
    q[0] = _pick(p < 0.5, p, _f(1.0) - p) * 2.0
    z = _erf_inverse(_m("fabs", p * 2.0 - 1.0), q[0], v) * math.sqrt(2)
    z = _pick(q[0] == 0.0, math.inf, _pick(q[0] < 0.0, math.nan, z))
    return _pick(p < 0.5, -z, z)


def _scaled_erfc(x: Any) -> Any:
    """exp(x^2) erfc(x)"""
    square = _f(1.0) / (x * x)
    series: Any = _f(1.0)
    for k in range(10, 0, -1):
        series = _f(1.0) - series * square * (k - 0.5)
    far = series * (1 / math.sqrt(math.pi)) / x
    # What x * x has lost by its rounding is put back: e^(s + t) = e^s (1 + t) for a small t.
    near = _m("exp", x * x) * _m("erfc", x)
    near = _pick(x > -26.0, near * (_m("fma", x, x, -(x * x)) + 1.0), near)
    return _pick(x > 26.0, far, near)


@_unary("special_erfcx")
def _erfcx(x: Any, v: Scratch) -> Any:
    return _scaled_erfc(x)


@_unary("special_log_ndtr")
def _log_ndtr(x: Any, v: Scratch) -> Any:
    t = x * math.sqrt(0.5)
    return _pick(x < -1.0, _m("log", _scaled_erfc(-t) * 0.5) - t * t, _m("log1p", _m("erfc", t) * -0.5))


# Bessel functions.

for _name, _function in {"j0": "j0", "j1": "j1", "y0": "y0", "y1": "y1"}.items():
    _unary(f"special_bessel_{_name}")(lambda x, v, f=_function: _m(f, x))


def _modified_i(order: int, scaled: bool) -> Callable[..., Any]:
    """I_0 or I_1, times exp(-|x|) if `scaled`: the power series, far out the asymptotic one."""

    def function(x: Any, v: Scratch) -> Any:
        total, term, n, size = v[:4]
        size[0] = _m("fabs", x)
        square = size[0] * size[0] * 0.25
        near = size[0] <= 30.0
        total[0] = _f(1.0)
        term[0] = _f(1.0)
        n[0] = _f(0.0)
        with T.While(tirx.all(near, term[0] > total[0] * 1e-17)):
            n[0] = n[0] + 1.0
            term[0] = term[0] * square / (n[0] * (n[0] + float(order)))
            total[0] = total[0] + term[0]
        series: Any = _f(1.0)
        for k in range(12, 0, -1):
            series = _f(1.0) - series * float((4 * order * order - (2 * k - 1) ** 2) / (8 * k)) / size[0]
        far = series / _m("sqrt", size[0] * (2 * math.pi))
        close = total[0] * (size[0] * 0.5 if order else 1.0)
        if scaled:
            found = _pick(near, close * _m("exp", -size[0]), far)
        else:
            found = _pick(near, close, far * _m("exp", size[0]))
        return _m("copysign", found, x) if order else found

    return function


_unary("i0", "special_modified_bessel_i0")(_modified_i(0, False))
_unary("special_i0e")(_modified_i(0, True))
_unary("special_i1", "special_modified_bessel_i1")(_modified_i(1, False))
_unary("special_i1e")(_modified_i(1, True))


def _integral_k(order: float, x: Any, v: Scratch) -> Any:
    """exp(x) K_order(x) = integral of exp(-x (cosh t - 1)) cosh(order t) over t > 0, by the trapezoidal rule, which converges
    exponentially here; x > 0."""
    total, t, step = v[:3]
    step[0] = _m("fmin", _f(0.25), _f(0.7) / _m("sqrt", x))
    total[0] = _f(0.5)
    t[0] = step[0]
    with T.While(tirx.all(x > 0.0, x < 1e12, x * (_m("cosh", t[0]) - 1.0) < 60.0)):
        total[0] = total[0] + _m("exp", -x * (_m("cosh", t[0]) - 1.0)) * _m("cosh", t[0] * order)
        t[0] = t[0] + step[0]
    return _pick(x < 1e12, total[0] * step[0], _m("sqrt", _f(math.pi / 2) / x))


def _modified_k(order: int, scaled: bool) -> Callable[..., Any]:
    def function(x: Any, v: Scratch) -> Any:
        found = _integral_k(float(order), x, v) * (1.0 if scaled else _m("exp", -x))
        return _pick(x == 0.0, math.inf, _pick(x < 0.0, math.nan, found))

    return function


for _order in (0, 1):
    _unary(f"special_modified_bessel_k{_order}")(_modified_k(_order, False))
    _unary(f"special_scaled_modified_bessel_k{_order}")(_modified_k(_order, True))


@_unary("special_spherical_bessel_j0")
def _spherical_j0(x: Any, v: Scratch) -> Any:
    return _pick(x == 0.0, 1.0, _pick(_m("fabs", x) == tirx.infinity("float64"), 0.0, _m("sin", x) / x))


@_unary("special_airy_ai")
def _airy(x: Any, v: Scratch) -> Any:
    """x > 0: through K_1/3; -8 <= x <= 0: the power series; below: the asymptotic series."""
    first, second, total, zeta, n, size = v
    size[0] = _m("fabs", x)
    zeta[0] = size[0] * _m("sqrt", size[0]) * (2 / 3)
    right = _integral_k(1 / 3, zeta[0], v) * _m("exp", -zeta[0]) * _m("sqrt", size[0] / 3.0) * (1 / math.pi)
    first[0] = _pick(x > 0.0, right, 0.0)
    with T.If(tirx.all(x <= 0.0, x >= -8.0)):
        with T.Then():
            first[0] = _f(1.0)
            second[0] = x
            total[0] = first[0] * _AI0 + second[0] * _AI1
            n[0] = _f(0.0)
            with T.While(n[0] < 180.0):
                n[0] = n[0] + 3.0
                first[0] = first[0] * x * x * x / (n[0] * (n[0] - 1.0))
                second[0] = second[0] * x * x * x / (n[0] * (n[0] + 1.0))
                total[0] = total[0] + first[0] * _AI0 + second[0] * _AI1
            first[0] = total[0]
    with T.If(x < -8.0):
        with T.Then():
            even: Any = _f(0.0)
            odd: Any = _f(0.0)
            square = zeta[0] * zeta[0]
            for k in range(4, -1, -1):
                even = _f(_airy_u(2 * k)) - even / square
                odd = _f(_airy_u(2 * k + 1)) - odd / square
            angle = zeta[0] - math.pi / 4
            wave = _m("cos", angle) * even + _m("sin", angle) * odd / zeta[0]
            first[0] = wave / (_m("sqrt", _m("sqrt", size[0])) * math.sqrt(math.pi))
    return _pick(size[0] < tirx.infinity("float64"), first[0], math.nan)


_AI0 = 3 ** (-2 / 3) / math.gamma(2 / 3)
_AI1 = -(3 ** (-1 / 3)) / math.gamma(1 / 3)


def _airy_u(k: int) -> float:
    return math.gamma(3 * k + 0.5) / (54.0**k * math.factorial(k) * math.gamma(k + 0.5))


# Orthogonal polynomials: three-term recurrences, in the arithmetic of the result as torch has them.

# The polynomial of degree 1 of x, and the next of (x, the last one p, the one before q, k) for degree k + 1.
_Step = Callable[[Any, Any, Any, Any], Any]
_POLYNOMIALS: dict[str, tuple[Callable[[Any], Any], _Step]] = {
    "chebyshev_polynomial_t": (lambda x: x, lambda x, p, q, k: (x + x) * p - q),
    "chebyshev_polynomial_u": (lambda x: x + x, lambda x, p, q, k: (x + x) * p - q),
    "chebyshev_polynomial_v": (lambda x: x + x - 1.0, lambda x, p, q, k: (x + x) * p - q),
    "chebyshev_polynomial_w": (lambda x: x + x + 1.0, lambda x, p, q, k: (x + x) * p - q),
    "hermite_polynomial_h": (lambda x: x + x, lambda x, p, q, k: (x + x) * p - (k + k) * q),
    "hermite_polynomial_he": (lambda x: x, lambda x, p, q, k: x * p - k * q),
    "laguerre_polynomial_l": (lambda x: 1.0 - x, lambda x, p, q, k: ((k + k + 1.0 - x) * p - k * q) / (k + 1.0)),
    "legendre_polynomial_p": (lambda x: x, lambda x, p, q, k: ((k + k + 1.0) * x * p - k * q) / (k + 1.0)),
}
for _kind in "tuvw":
    _plain = _POLYNOMIALS[f"chebyshev_polynomial_{_kind}"]
    _POLYNOMIALS[f"shifted_chebyshev_polynomial_{_kind}"] = (
        lambda x, plain=_plain: plain[0](x + x - 1.0),  # type: ignore[misc]
        lambda x, p, q, k, plain=_plain: plain[1](x + x - 1.0, p, q, k),  # type: ignore[misc]
    )


def _polynomial(name: str) -> Callable[..., Any]:
    start, step = _POLYNOMIALS[name]

    def function(x: Any, degree: Any, v: Scratch) -> Any:
        p, q, k, spare = v[:4]
        dtype = str(x.ty.dtype)
        zero, one = tirx.FloatImm(dtype, 0.0), tirx.FloatImm(dtype, 1.0)
        n = tirx.Cast("int64", degree)
        q[0] = one
        p[0] = start(x)
        k[0] = one
        with T.While(tirx.Cast("int64", k[0]) < n):
            spare[0] = step(x, p[0], q[0], k[0])
            q[0] = p[0]
            p[0] = spare[0]
            k[0] = k[0] + one
        return tirx.if_then_else(n < 0, zero, tirx.if_then_else(n == 0, one, p[0]))

    return function


def _polynomial_converter(name: str) -> Callable[..., Any]:
    def convert(c: Context, x: Any, n: Any) -> Expr:
        _, result = c.promoted(["x", "n"], Promotion.INT_TO_FLOAT)
        if not is_float(result) or result in ("float16", "bfloat16"):
            raise NotConvertible(f"polynomials in {result}")
        return map_elements(c, [c.tensor(x, result), c.tensor(n, result)], result, _polynomial(name), compute=result)

    return convert


for _name in _POLYNOMIALS:
    converts(*[f"aten.special_{_name}.{overload}" for overload in ("default", "n_scalar", "x_scalar")])(
        _polynomial_converter(_name)
    )
