"""Elementary functions of float32 as straight-line arithmetic, which LLVM vectorises where it would call libm once an element.

The formulas and polynomials are those of csrc/simd/math.h, where their errors stand: range reduction after W. J. Cody and W. Waite,
Software Manual for the Elementary Functions (1980), rounding by a magic number, weighted minimax polynomials (C. L. Lawson's
iteration, 1961). NaN in, NaN out; infinities and zeros as in C's math.h. Functions that are not here are libm's, by name: TVM's own rules
make some of them (tanh, atanh) differences that lose all digits of a small argument. docs/accuracy.md has the worst errors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from tvm import tirx

__all__ = [
    "Let",
    "cast",
    "from_bfloat16",
    "function_name",
    "is_expensive",
    "is_nan",
    "library_call",
    "lower_float32",
    "lower_float64",
    "lower_float_test",
    "nan_max",
    "nan_min",
    "round_to_bfloat16",
    "to_bfloat16",
]

# Binds a value to a variable, so that its uses do not evaluate it again.
Let = Callable[[Any], Any]

_MAGIC = 12582912.0  # 1.5 * 2^23: x + _MAGIC has round(x) in its low bits, |x| < 2^21
_EXPM1 = (1.395025204e-3, 8.368888217e-3, 4.166620986e-2, 1.666651884e-1, 0.5)
_LOG1P = (
    -7.859709248e-2, 1.288164324e-1, -1.312870165e-1, 1.418117971e-1, -1.662455790e-1, 2.000228753e-1, -2.500081036e-1, 3.333331670e-1,
)  # fmt: skip
_EXP2 = (1.547508635e-4, 1.340033619e-3, 9.618008434e-3, 5.550327576e-2, 2.402265131e-1, 6.931472064e-1, 1.0)
_ERF_SMALL = (
    7.853890693e-5,
    -8.010201346e-4,
    5.188328407e-3,
    -2.685381221e-2,
    1.128358515e-1,
    -3.761262582e-1,
    1.28379166e-1,
)
_ERF_LARGE = (
    -2.776059036e-4,
    4.340309606e-3,
    -3.186524574e-2,
    1.495201505e-1,
    9.197442612e-1,
    1.626601482,
    3.533350346e-4,
)


def _f(value: float) -> Any:
    return tirx.FloatImm("float32", value)


def _i(value: int) -> Any:
    return tirx.IntImm("int32", value)


def _bits(x: Any) -> Any:
    return tirx.reinterpret("int32", x)


def _float(x: Any) -> Any:
    return tirx.reinterpret("float32", x)


def _shl(x: Any, count: int) -> Any:
    return tirx.LShift(x, _i(count))


def _select(cond: Any, yes: Any, no: Any) -> Any:
    return tirx.Select(cond, yes, no)


def _at_most(limit: float, x: Any) -> Any:
    """min(limit, x) that lets NaN through: a variable x is evaluated twice."""
    return _select(_f(limit) < x, _f(limit), x)


def _at_least(limit: float, x: Any) -> Any:
    return _select(_f(limit) > x, _f(limit), x)


def _abs(x: Any) -> Any:
    return _float(tirx.BitwiseAnd(_bits(x), _i(0x7FFFFFFF)))


def _with_sign_of(magnitude: Any, x: Any) -> Any:
    """|magnitude| with the sign of x; the magnitude must not be negative."""
    sign = tirx.BitwiseAnd(_bits(x), _i(-0x80000000))
    return _float(tirx.BitwiseOr(_bits(magnitude), sign))


def _horner(coefficients: Sequence[float], x: Any) -> Any:
    result = _f(coefficients[0])
    for coefficient in coefficients[1:]:
        result = result * x + _f(coefficient)
    return result


def _pow2_of_rounded(z: Any) -> Any:
    """2^n for an integer n in [-127, 128] given as z = n + _MAGIC; 2^-127 comes out as 0, 2^128 as infinity."""
    return _float(_shl(_bits(z), 23) + _i(0x3F800000))


def _reduce_ln2(x: Any, let: Let) -> tuple[Any, Any]:
    """x = n ln 2 + r: (r, n + _MAGIC)."""
    z = let(x * _f(1.44269504) + _f(_MAGIC))
    n = let(z - _f(_MAGIC))
    return let(n * _f(2.12194440e-4) + (n * _f(-0.693359375) + x)), z


def _expm1_reduced(r: Any) -> Any:
    """e^r - 1 for |r| <= ln(2) / 2."""
    return _horner(_EXPM1, r) * (r * r) + r


def _exp(x: Any, let: Let) -> Any:
    """e^x over the whole range, denormal results included."""
    x = let(_at_most(89.0, let(_at_least(-105.0, x))))
    r, z = _reduce_ln2(x, let)
    n = let(_bits(z) - _i(0x4B400000))
    half = let(tirx.RShift(n, _i(1)))  # 2^n as 2^(n/2) 2^(n - n/2): n reaches from -151 to 128
    low, high = _float(_shl(half + _i(127), 23)), _float(_shl(n - half + _i(127), 23))
    return let((_expm1_reduced(r) + _f(1.0)) * low * high)


def _exp2(x: Any, let: Let) -> Any:
    """2^x: the fraction by a polynomial, the power by the exponent's bits; denormal results included."""
    x = let(_at_most(129.0, let(_at_least(-151.0, x))))
    z = let(x + _f(_MAGIC))
    f = let(x - (z - _f(_MAGIC)))
    n = let(_bits(z) - _i(0x4B400000))
    half = let(tirx.RShift(n, _i(1)))
    low, high = _float(_shl(half + _i(127), 23)), _float(_shl(n - half + _i(127), 23))
    return let(_horner(_EXP2, f) * low * high)


def _expm1(x: Any, let: Let) -> Any:
    x = let(_at_most(89.0, let(_at_least(-20.0, x))))
    r, z = _reduce_ln2(x, let)
    half = let(_pow2_of_rounded(z - _f(1.0)))  # 2^(n-1), so that n = 128 does not overflow on the way
    y = let(_expm1_reduced(r) * half + (half - _f(0.5)))
    return let(y + y)


def _expm1_of_any(x: Any, let: Let) -> Any:
    return let(_select(let(_abs(x)) < _f(1e-8), x, _expm1(x, let)))  # keeps -0 and denormals


def _log1p_reduced(f: Any) -> Any:
    """log(1 + f) for sqrt(1/2) - 1 <= f <= sqrt(2) - 1."""
    return (f * f) * (_horner(_LOG1P, f) * f + _f(-0.5)) + f


def _log_parts(x: Any, let: Let) -> tuple[Any, Any]:
    """x = 2^n (1 + f): (n as a float, f) for x > 0, denormals included."""
    tiny = let(x < _f(1.17549435e-38))
    scaled = let(_select(tiny, x * _f(8388608.0), x))
    e = let(tirx.RShift(_bits(scaled) - _i(0x3F3504F3), _i(23)))
    n = let(tirx.Cast("float32", e) - _select(tiny, _f(23.0), _f(0.0)))
    return n, let(_float(_bits(scaled) - _shl(e, 23)) - _f(1.0))


def _log_limits(x: Any, y: Any, let: Let) -> Any:
    """The values of a logarithm at infinity, at 0, below 0 and of NaN, where y holds for none of them."""
    y = let(_select(x.equal(_f(math.inf)), x, y))
    y = let(_select(x.equal(_f(0.0)), _f(-math.inf), y))
    return let(_select(x >= _f(0.0), y, _f(math.nan)))


def _log(x: Any, let: Let) -> Any:
    n, f = _log_parts(x, let)
    y = let(n * _f(0.693359375) + (n * _f(-2.12194440e-4) + _log1p_reduced(f)))
    return _log_limits(x, y, let)


def _log_base(scale: float) -> Callable[[Any, Let], Any]:
    def lower(x: Any, let: Let) -> Any:
        """log(x) / log(base): exact at the powers of 2 for base 2."""
        n, f = _log_parts(x, let)
        y = let(n * _f(scale * math.log(2.0)) + _log1p_reduced(f) * _f(scale))
        return _log_limits(x, y, let)

    return lower


def _log1p(x: Any, let: Let) -> Any:
    """log(1 + x) with the rounding of 1 + x put back: log(u) + (x - (u - 1)) / u, after W. Kahan."""
    u = let(_f(1.0) + x)
    correction = let((x - (u - _f(1.0))) / u)
    y = let(_log(u, let) + correction)
    y = let(_select(x.equal(_f(math.inf)), x, y))
    y = let(_select(x.equal(_f(-1.0)), _f(-math.inf), y))
    return let(_select(_abs(x) < _f(1e-8), x, y))  # keeps -0 and denormals


def _tanh(x: Any, let: Let) -> Any:
    """(e^2|x| - 1) / (e^2|x| + 1) with the sign of x."""
    t = let(_at_most(10.0, let(_abs(x))))
    e = _expm1(let(t + t), let)
    return let(_with_sign_of(let(e / (e + _f(2.0))), x))


def _sigmoid(x: Any, let: Let) -> Any:
    """1 / (1 + e^-x) with both sides of the quotient times 2^-64, so that e^-x has room up to 2^150 and results may be denormal."""
    r, z = _reduce_ln2(let(_at_most(104.5, let(_at_least(-43.0, let(_f(0.0) - x))))), let)
    raised = let((_expm1_reduced(r) + _f(1.0)) * _float(_shl(_bits(z), 23) + _i(0x1F800000)))
    return let(_f(2.0**-64) / (raised + _f(2.0**-64)))


def _erf(x: Any, let: Let) -> Any:
    """Below 1: x times a polynomial of x^2. Above: 1 - 2^-q(|x|), q approximating -log2(erfc)."""
    a = let(_abs(x))
    small = let(_horner(_ERF_SMALL, let(x * x)) * x + x)
    t = let(_at_most(4.0, a))
    p = let(_at_most(127.0, let(_horner(_ERF_LARGE, t))))
    z = let(_f(_MAGIC) - p)
    f = let((_f(_MAGIC) - z) - p)
    tail = let(_horner(_EXP2, f) * _pow2_of_rounded(z))
    large = let(_with_sign_of(_f(1.0) - tail, x))
    return let(_select(a < _f(1.0), small, large))


def _rsqrt(x: Any, let: Let) -> Any:
    return let(_f(1.0) / tirx.sqrt(x))


def _fabs(x: Any, let: Let) -> Any:
    return let(_abs(x))


_UNARY: dict[str, Callable[[Any, Let], Any]] = {
    "tirx.exp": _exp,
    "tirx.exp2": _exp2,
    "expm1": _expm1_of_any,
    "tirx.log": _log,
    "tirx.log2": _log_base(1.0 / math.log(2.0)),
    "prim.log2": _log_base(1.0 / math.log(2.0)),
    "tirx.log10": _log_base(1.0 / math.log(10.0)),
    "tirx.log1p": _log1p,
    "tirx.tanh": _tanh,
    "tirx.sigmoid": _sigmoid,
    "tirx.erf": _erf,
    "tirx.rsqrt": _rsqrt,
    "tirx.fabs": _fabs,
    "tirx.abs": _fabs,
}


def _root(x: Any) -> Any:
    """x^0.5, which is a square root but at -0 and at -infinity."""
    root = _select(x.equal(_f(-math.inf)), _f(math.inf), tirx.sqrt(x))
    return _select(x.equal(_f(0.0)), _f(0.0), root)


# Powers that are cheaper, and no less exact, as arithmetic.
_POWERS: dict[float, Callable[[Any], Any]] = {
    0.5: _root,
    1.0: lambda x: x,
    2.0: lambda x: x * x,
    3.0: lambda x: x * x * x,
    4.0: lambda x: (x * x) * (x * x),
    -1.0: lambda x: _f(1.0) / x,
    -0.5: lambda x: _f(1.0) / _root(x),
    -2.0: lambda x: (_f(1.0) / x) * (_f(1.0) / x),  # x * x may leave the range where the result does not
}
_LIBRARY = frozenset(
    "acos acosh asin asinh atan atan2 atanh cosh erf erfc expm1 fmod hypot log10 log1p log2 sinh tan tanh".split()
)
_CHEAP = frozenset(
    {
        "prim.if_then_else", "prim.likely", "prim.ceil", "tirx.floor", "tirx.ceil", "tirx.round", "tirx.trunc", "tirx.nearbyint", "tirx.fabs",
        "tirx.abs", "tirx.isnan", "tirx.isinf", "tirx.isfinite", "tirx.reinterpret", "tirx.fma", "tirx.copysign", "tirx.popcount",
    }
)  # fmt: skip


def is_expensive(name: str) -> bool:
    """Whether an operator of TIR costs many times an addition."""
    return name not in _CHEAP


def lower_float32(name: str, args: Sequence[Any], let: Let) -> Any | None:
    """The value of the intrinsic `name` for float32 arguments (variables or constants); None if libm's function is called."""
    lower = _UNARY.get(name)
    if lower is not None:
        return lower(args[0], let)
    if name == "tirx.pow" and isinstance(args[1], tirx.FloatImm):
        power = _POWERS.get(float(args[1].value))
        return None if power is None else let(power(args[0]))
    return None


def lower_float64(name: str, args: Sequence[Any], let: Let) -> Any | None:
    """The value of the intrinsic `name` for float64 arguments where neither libm nor LLVM has it; None for others."""
    if name != "tirx.sigmoid":
        return None
    x, one = args[0], tirx.FloatImm("float64", 1.0)
    e = let(tirx.exp(let(_select(x > tirx.FloatImm("float64", 0.0), -x, x))))  # of -|x|, which cannot overflow
    return let(_select(x > tirx.FloatImm("float64", 0.0), one, e) / (one + e))


def function_name(node: Any) -> str:
    """What a call computes: the intrinsic's name, or that of libm's function without the f of float32."""
    name = str(node.op.name)
    if name != "tirx.call_pure_extern":
        return name
    called = str(node.args[0].value)
    return called.removesuffix("f") if str(node.ty.dtype) == "float32" else called


def library_call(name: str, args: Sequence[Any]) -> Any | None:
    """libm's function for an intrinsic; None for those that LLVM has itself, or turns into libm's. float32 and float64."""
    called = name.removeprefix("tirx.")
    if called not in _LIBRARY:
        return None
    dtype = str(args[0].ty.dtype)
    return tirx.call_pure_extern(dtype, called + "f" if dtype == "float32" else called, *args)


def cast(value: Any, ty: Any, let: Let) -> Any:
    """A cast between types that are not bfloat16. From float64 to float16, for which a CPU may have no instruction (and libgcc's function
    is not in libc), through the float32 that rounds to odd: rounding it once more gives what rounding once would have given."""
    if str(value.ty.dtype) != "float64" or str(getattr(ty, "dtype", ty)) != "float16":
        return tirx.Cast(ty, value)
    value = let(value)
    near = let(tirx.Cast("float32", value))
    back, bits = let(tirx.Cast("float64", near)), _bits(near)
    above = tirx.abs(back) > tirx.abs(value)
    odd = _float(tirx.BitwiseOr(_select(above, bits - _i(1), bits), _i(1)))
    exact = tirx.Or(tirx.EQ(back, value), is_nan(value))
    return tirx.Cast(ty, let(_select(exact, near, odd)))


def round_to_bfloat16(x: Any, let: Let) -> Any:
    """The float32 that is nearest to x among those that bfloat16 has (ties to even); NaN stays NaN."""
    bits = let(_bits(x))
    odd = tirx.BitwiseAnd(tirx.RShift(bits, _i(16)), _i(1))
    rounded = tirx.BitwiseAnd(bits + (_i(0x7FFF) + odd), _i(-0x10000))
    return let(_select(tirx.EQ(x, x), _float(rounded), _f(math.nan)))


def to_bfloat16(x: Any, let: Let) -> Any:
    """x, rounded, as what memory holds. By its bits: TVM's own casts of bfloat16 read the bits as a number."""
    high = tirx.RShift(tirx.reinterpret("uint32", round_to_bfloat16(x, let)), tirx.IntImm("uint32", 16))
    return tirx.reinterpret("bfloat16", let(tirx.Cast("uint16", high)))


def from_bfloat16(load: Any, let: Let) -> Any:
    """The float32 that a bfloat16 in memory stands for."""
    bits = let(tirx.Cast("uint32", tirx.reinterpret("uint16", load)))
    return let(tirx.reinterpret("float32", tirx.LShift(bits, tirx.IntImm("uint32", 16))))


def nan_max(a: Any, b: Any, let: Let) -> Any:
    """max(a, b) that is NaN if either is, as in torch, numpy and ONNX; TVM's own Max drops a NaN on the left."""
    return _nan_extreme(a, b, let, lambda x, y: x > y)


def nan_min(a: Any, b: Any, let: Let) -> Any:
    """min(a, b) that is NaN if either is."""
    return _nan_extreme(a, b, let, lambda x, y: x < y)


def _nan_extreme(a: Any, b: Any, let: Let, beats: Callable[[Any, Any], Any]) -> Any:
    if isinstance(a, tirx.FloatImm):
        a, b = b, a
    if isinstance(b, tirx.FloatImm) and not math.isnan(float(b.value)):
        return let(_select(beats(b, a), b, a))  # false for a NaN in a, which is then the result
    return let(_select(tirx.Or(beats(b, a), is_nan(b)), b, a))


def is_nan(x: Any) -> Any:
    """Whether a float is NaN. TVM's own NE is LLVM's ordered comparison, which is false for a NaN; so is not this."""
    return tirx.Not(tirx.EQ(x, x))


def lower_float_test(name: str, x: Any) -> Any | None:
    """isnan, isinf and isfinite of any float type (x a variable); None for other operators."""
    infinity = tirx.FloatImm(x.ty, math.inf)
    if name == "tirx.isnan":
        return is_nan(x)
    if name == "tirx.isinf":
        return tirx.Or(tirx.EQ(x, infinity), tirx.EQ(x, tirx.FloatImm(x.ty, -math.inf)))
    if name == "tirx.isfinite":
        return tirx.And(x < infinity, x > tirx.FloatImm(x.ty, -math.inf))
    return None
