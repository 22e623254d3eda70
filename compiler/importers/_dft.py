"""Discrete Fourier transforms of pairs (real, imaginary), for all importers: products with matrices of roots of unity.

A transform of up to 1024 elements is one product with its matrix, which the matrix kernels compute. A longer one of composite length
is made of shorter ones (J. W. Cooley, J. W. Tukey, 1965), one of prime length is a convolution (L. I. Bluestein, 1970).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tvm
from tvm import relax, te, tirx

__all__ = ["any_dft", "complex_dft", "half_to_real", "real_dft", "root_tables"]

OP = relax.op
Emit = Callable[[Any], Any]  # binds a Relax expression to a variable
_DIRECT = 1024  # the longest transform that is a product with its whole matrix


def complex_dft(emit: Emit, real: Any, imag: Any, inverse: bool = False, scale: float = 1.0) -> tuple[Any, Any]:
    """The transform along the last axis, whose size N is fixed: sum of x[n] exp(-+2 pi i n k / N) times `scale`. float32 or float64
    [..., N] each; `imag` None is zero."""
    length = _last(real)
    if length > _DIRECT:
        if scale != 1.0:
            real, imag = (v if v is None else emit(OP.multiply(v, _const(scale, v))) for v in (real, imag))
        factor = _factor(length)
        if factor == 1:
            return _bluestein(emit, real, imag, inverse)
        return _split(emit, real, imag, inverse, factor)
    cos, sin = _roots(length, length, inverse, scale)
    if imag is None:
        return _product(emit, [real], [cos]), _product(emit, [real], [sin])
    return _product(emit, [real, imag], [cos, -sin]), _product(emit, [real, imag], [sin, cos])


def real_dft(emit: Emit, real: Any, scale: float = 1.0) -> tuple[Any, Any]:
    """The first N // 2 + 1 frequencies of real [..., N]; the others are their conjugates."""
    length = _last(real)
    bins = length // 2 + 1
    if length > _DIRECT:
        both = complex_dft(emit, real, None, scale=scale)
        return _cut(emit, both[0], 0, bins), _cut(emit, both[1], 0, bins)
    cos, sin = _roots(length, bins, False, scale)
    return _product(emit, [real], [cos]), _product(emit, [real], [sin])


def half_to_real(emit: Emit, real: Any, imag: Any, length: int, scale: float = 1.0) -> Any:
    """The real signal [..., length] whose first length // 2 + 1 frequencies these are: the inverse of `real_dft` for a scale of
    1 / length. Imaginary parts that such a spectrum cannot have (of the first frequency, and the middle one) are ignored."""
    bins = length // 2 + 1
    if length > _DIRECT:
        return complex_dft(emit, *_mirrored(emit, real, imag, length), True, scale)[0]
    cos, sin = _roots(length, bins, True, scale)
    twice = np.full((bins, 1), 2.0)
    twice[0] = 1.0
    alone = [0]  # frequencies that are their own conjugates
    if length % 2 == 0:
        twice[-1] = 1.0
        alone.append(bins - 1)
    weights = -sin.T * twice
    weights[alone] = 0.0
    if imag is None:
        return _product(emit, [real], [cos.T * twice])
    return _product(emit, [real, imag], [cos.T * twice, weights])


def root_tables(rows: Any, columns: Any, length: Any, inverse: bool, half: bool, dtype: str) -> list[Any]:
    """As tensor expressions: cosines and sines of 2 pi r k / length, [rows, columns], for a length that may be a symbol. `half`: rows
    are the first half of a real signal's spectrum, and each counts for its conjugate too."""

    def phase(r: Any, k: Any) -> Any:
        turns = tirx.floormod(tirx.Cast("int64", r) * tirx.Cast("int64", k), length)
        part = tirx.Cast("float64", turns) / tirx.Cast("float64", length)
        return part * _number((1 if inverse else -1) * 2 * math.pi, "float64")

    def element(function: Callable[[Any], Any], at_ends: float) -> Callable[[Any, Any], Any]:
        def value(r: Any, k: Any) -> Any:
            alone = tirx.any(r == 0, r * 2 == length)  # frequencies that are their own conjugates
            times = tirx.Select(alone, _number(at_ends, "float64"), _number(2, "float64"))
            found = function(phase(r, k))
            return tirx.Cast(dtype, found * times if half else found)

        return value

    cosines = te.compute((rows, columns), element(tirx.cos, 1.0), name="cosines")
    return [cosines, te.compute((rows, columns), element(tirx.sin, 0.0), name="sines")]


def any_dft(t: Any, axis: Any, total: Any, shape: Sequence[Any], inverse: bool, real_out: bool) -> Any:
    """As a tensor expression: the transform along an axis and of a length that may be symbols, with roots computed as needed, in
    float64.

    `t` is [..., 1 or 2], parts last, cut or filled with zeros to `total` elements; `shape` that of the result, parts included.
    `real_out`: t is half a spectrum, and the result is real. An inverse is divided by the length.
    """
    kind, rank, parts = str(t.dtype), len(t.shape), int(t.shape[len(t.shape) - 1])
    k = te.reduce_axis((0, total), name="k")

    def read(i: tuple[Any, ...], position: Any, part: int) -> Any:
        if part >= parts:
            return _number(0, kind)
        inside: Any = tirx.IntImm("bool", 1)
        index = []
        for d in range(rank - 1):
            index.append(tirx.Select(axis == d, position, i[d]))
            inside = tirx.all(inside, tirx.any(axis != d, position < t.shape[d]))
        return tirx.if_then_else(inside, t(*index, part), _number(0, kind))

    def element(*i: Any) -> Any:
        bin_: Any = tirx.IntImm("int64", 0)
        for d in range(rank - 1):
            bin_ = tirx.Select(axis == d, tirx.Cast("int64", i[d]), bin_)
        at = tirx.Cast("int64", k.var)
        phase = tirx.Cast("float64", tirx.floormod(bin_ * at, total)) / tirx.Cast("float64", total)
        angle = phase * _number((1 if inverse else -1) * 2 * math.pi, "float64")
        one = _number(1, "float64")
        scale = one / tirx.Cast("float64", total) if inverse else one
        c, s = (tirx.Cast(kind, f(angle) * scale) for f in (tirx.cos, tirx.sin))
        if real_out:  # the other half of the spectrum is the conjugate of this one
            lower = at <= tirx.floordiv(total, 2)
            mirror = tirx.Select(lower, at, total - at)
            sign = tirx.Select(lower, _number(1, kind), _number(-1, kind))
            alone = tirx.any(at == 0, at * 2 == total)  # its own conjugate: real
            real = read(i, mirror, 0)
            imag = tirx.Select(alone, _number(0, kind), read(i, mirror, 1) * sign)
        else:
            real, imag = read(i, at, 0), read(i, at, 1)
        return te.sum(tirx.Select(i[-1] == 0, real * c - imag * s, real * s + imag * c), axis=k)

    return te.compute(tuple(shape), element, name="dft")


# The pieces.


def _last(x: Any) -> int:
    return int(list(x.ty.shape.values)[-1])


def _const(value: Any, like: Any) -> Any:
    """As a constant of the dtype of `like`."""
    return _constant(value, str(like.ty.dtype))


def _constant(value: Any, dtype: str) -> Any:
    array = np.asarray(value).astype(dtype)
    return relax.const(tvm.runtime.tensor(np.ascontiguousarray(array).reshape(array.shape)))


def _number(value: float, dtype: str) -> Any:
    return tirx.FloatImm(dtype, value)


def _clean(table: Any) -> Any:
    """Zeros that rounding made 1e-16 are zeros again."""
    return np.where(np.abs(table) < 1e-15, 0.0, table)


def _roots(length: int, bins: int, inverse: bool, scale: float) -> tuple[Any, Any]:
    """Cosines and sines [length, bins] of float64."""
    phase = np.outer(np.arange(length), np.arange(bins)) % length
    angle = (1 if inverse else -1) * 2 * math.pi * phase / length
    return _clean(np.cos(angle)) * scale, _clean(np.sin(angle)) * scale


def _product(emit: Emit, parts: list[Any], tables: list[Any]) -> Any:
    """The sum of parts[i] @ tables[i], as one product."""
    x = parts[0] if len(parts) == 1 else emit(OP.concat(parts, axis=len(parts[0].ty.shape.values) - 1))
    table = _const(np.concatenate(tables), x)
    if len(x.ty.shape.values) > 1:
        return emit(OP.matmul(x, table))
    return _reshape(emit, emit(OP.matmul(_reshape(emit, x, [1, _last(x)]), table)), [_last(table)])


def _reshape(emit: Emit, x: Any, shape: Sequence[Any]) -> Any:
    return emit(OP.reshape(x, relax.ShapeExpr([tirx.IntImm("int64", s) if isinstance(s, int) else s for s in shape])))


def _lead(x: Any) -> list[Any]:
    return list(x.ty.shape.values)[:-1]


def _swap(emit: Emit, x: Any) -> Any:
    rank = len(x.ty.shape.values)
    return emit(OP.permute_dims(x, [*range(rank - 2), rank - 1, rank - 2]))


def _cut(emit: Emit, x: Any, begin: int, end: int) -> Any:
    if begin == 0 and end == _last(x):
        return x
    return emit(OP.strided_slice(x, [len(x.ty.shape.values) - 1], [begin], [end]))


def _times(emit: Emit, real: Any, imag: Any, cos: Any, sin: Any) -> tuple[Any, Any]:
    """(real + i imag) times a constant (cos + i sin) of the shape of the last axes."""
    c, s = _const(cos, real), _const(sin, real)
    if imag is None:
        return emit(OP.multiply(real, c)), emit(OP.multiply(real, s))
    return (
        emit(OP.subtract(emit(OP.multiply(real, c)), emit(OP.multiply(imag, s)))),
        emit(OP.add(emit(OP.multiply(real, s)), emit(OP.multiply(imag, c)))),
    )


def _factor(length: int) -> int:
    """The largest divisor up to the square root."""
    return next(d for d in range(math.isqrt(length), 0, -1) if length % d == 0)


def _split(emit: Emit, real: Any, imag: Any, inverse: bool, rows: int) -> tuple[Any, Any]:
    """Length rows * columns: n = columns * n1 + n2, k = k1 + rows * k2. Transforms over n1, factors exp(-+2 pi i n2 k1 / N), transforms
    over n2."""
    length = _last(real)
    columns = length // rows

    def each(parts: tuple[Any, Any], function: Callable[[Any], Any]) -> tuple[Any, Any]:
        return function(parts[0]), None if parts[1] is None else function(parts[1])

    parts = each((real, imag), lambda v: _swap(emit, _reshape(emit, v, [*_lead(v), rows, columns])))
    parts = complex_dft(emit, *parts, inverse)
    angle = (1 if inverse else -1) * 2 * math.pi * np.outer(np.arange(columns), np.arange(rows)) / length
    parts = _times(emit, *parts, _clean(np.cos(angle)), _clean(np.sin(angle)))
    parts = complex_dft(emit, *each(parts, lambda v: _swap(emit, v)), inverse)
    return each(parts, lambda v: _reshape(emit, _swap(emit, v), [*_lead(v)[:-1], length]))


def _bluestein(emit: Emit, real: Any, imag: Any, inverse: bool) -> tuple[Any, Any]:
    """With n k = (n^2 + k^2 - (k - n)^2) / 2: a convolution with exp(+-pi i n^2 / N), by transforms of a power of two."""
    length = _last(real)
    wide = 1 << (2 * length - 2).bit_length()
    angle = (1 if inverse else -1) * math.pi * (np.arange(length) ** 2 % (2 * length)) / length
    chirp = np.exp(1j * angle)
    filled = np.zeros(wide, np.complex128)
    filled[:length] = chirp.conj()
    filled[wide - length + 1 :] = chirp.conj()[:0:-1]
    response = np.fft.fft(filled) / wide
    parts = _times(emit, real, imag, chirp.real, chirp.imag)
    widths = [0] * (2 * len(_lead(real))) + [0, wide - length]
    padded = tuple(emit(OP.nn.pad(v, widths, "constant", 0.0)) for v in parts)
    parts = complex_dft(emit, padded[0], padded[1])
    parts = complex_dft(emit, *_times(emit, *parts, response.real, response.imag), inverse=True)
    return _times(emit, _cut(emit, parts[0], 0, length), _cut(emit, parts[1], 0, length), chirp.real, chirp.imag)


def _mirrored(emit: Emit, real: Any, imag: Any, length: int) -> tuple[Any, Any]:
    """The whole spectrum of a real signal from its first half."""
    bins, axis = length // 2 + 1, len(real.ty.shape.values) - 1

    def whole(x: Any) -> Any:
        return emit(OP.concat([x, emit(OP.flip(_cut(emit, x, 1, length - bins + 1), axis))], axis=axis))

    if imag is None:
        return whole(real), None
    sign = np.where(np.arange(length) < bins, 1.0, -1.0)
    sign[0] = 0.0
    if length % 2 == 0:
        sign[length // 2] = 0.0
    return whole(real), emit(OP.multiply(whole(imag), _const(sign, imag)))
