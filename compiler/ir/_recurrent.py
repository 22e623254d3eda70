"""Recurrent layers: one layer, in one direction or both, over sequences of their own lengths."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tvm import relax

from ._operator import Array, extents, operator
from ._quantize import dynamic_quantize

__all__ = ["dynamic_quantize_gru", "dynamic_quantize_lstm", "gru", "lstm"]

Product = Callable[[int, Array], Array]  # (direction, vectors [B, K]) -> [B, G H]


def _results(states: int) -> Callable[..., list[relax.TensorType]]:
    def types(x: Any, w: Any, r: Any, *_: Any, **attrs: Any) -> list[relax.TensorType]:
        steps, batch, _features = extents(x)
        directions, _rows, hidden = extents(r)
        end = relax.TensorType([directions, batch, hidden], "float32")
        return [relax.TensorType([steps, batch, directions * hidden], "float32"), *[end] * states]

    return types


@operator(_results(2))
def lstm(
    x: Array,
    w: Array,
    r: Array,
    bias: Array | None = None,
    h0: Array | None = None,
    c0: Array | None = None,
    lengths: Array | None = None,
    *,
    direction: str = "forward",
    gates: str = "iofc",
) -> list[Array]:
    """y [S, B, D H], hn and cn [D, B, H] of x [S, B, I], w [D, 4 H, I], r [D, 4 H, H], bias [D, 8 H] (of w, then of r), h0 and c0 [D, B, H] and
    lengths int32 [B]: i, f, o = sigma(W x + R h + b), g = tanh(W x + R h + b), c' = f c + i g, h' = o tanh(c').

    `direction` is "forward", "reverse" or, with D of 2, "bidirectional"; a sequence is read backwards from its last step, and behind its
    length y is 0. `gates` is the order of the rows: ONNX's "iofc" or torch's "ifgo", whose g is the other's c.
    """
    products = _products(w), _products(r)
    return _lstm(x, r.shape, products, bias, [h0, c0], lengths, direction, gates)


@operator(_results(2))
def dynamic_quantize_lstm(
    x: Array,
    w: Array,
    r: Array,
    bias: Array | None,
    h0: Array | None,
    c0: Array | None,
    lengths: Array | None,
    w_scale: Array,
    r_scale: Array,
    w_zero: Array | None = None,
    r_zero: Array | None = None,
    *,
    direction: str = "forward",
    gates: str = "iofc",
) -> list[Array]:
    """An lstm of int8 or uint8 weights with scales and zero points [D, 4 H]. x is quantized to uint8 by the range of all of it, h in each step by that of
    all sequences (`dynamic_quantize`), as ONNX Runtime's DynamicQuantizeLSTM does on one thread; sums are exact."""

    of_r = _integer_products(r, r_scale, r_zero)
    whole, of_x = _whole(x, w, w_scale, w_zero)

    def of_h(d: int, h: Array) -> Array:
        q, unit, zero = dynamic_quantize.reference(h)
        return of_r(d, q.astype(np.int64) - zero, unit)

    return _lstm(whole, r.shape, (of_x, of_h), bias, [h0, c0], lengths, direction, gates)


@operator(_results(1))
def gru(
    x: Array,
    w: Array,
    r: Array,
    bias: Array | None = None,
    h0: Array | None = None,
    lengths: Array | None = None,
    *,
    direction: str = "forward",
    gates: str = "zrh",
    linear_before_reset: int = 1,
) -> list[Array]:
    """y and hn as those of an lstm, of w [D, 3 H, I], r [D, 3 H, H], bias [D, 6 H]: z, r = sigma(W x + R h + b), n = tanh(W x + b + r (R h + b)), or
    without `linear_before_reset` tanh(W x + b + R (r h) + b), h' = (1 - z) n + z h. `gates` is ONNX's "zrh" or torch's "rzn", whose n is the
    other's h."""
    of_r = _products(r)
    products = _products(w), lambda d, h, _: of_r(d, h)
    return _gru(x, r.shape, products, bias, h0, lengths, direction, gates, linear_before_reset)


@operator(_results(1))
def dynamic_quantize_gru(
    x: Array,
    w: Array,
    r: Array,
    bias: Array | None,
    h0: Array | None,
    lengths: Array | None,
    w_scale: Array,
    r_scale: Array,
    w_zero: Array | None = None,
    r_zero: Array | None = None,
    *,
    direction: str = "forward",
    gates: str = "zrh",
    linear_before_reset: int = 1,
) -> list[Array]:
    """A gru of int8 or uint8 weights with scales and zero points [D, 3 H], quantized as those of dynamic_quantize_lstm; what a reset gate leaves of h
    is quantized by the range of h."""

    of_r = _integer_products(r, r_scale, r_zero)
    whole, of_x = _whole(x, w, w_scale, w_zero)

    def of_h(d: int, v: Array, h: Array) -> Array:
        _, unit, zero = dynamic_quantize.reference(h)
        steps = np.clip(np.rint(v / unit) + zero, 0, 255) if unit > 0 else np.full(v.shape, zero)
        return of_r(d, steps.astype(np.int64) - zero, unit)

    return _gru(whole, r.shape, (of_x, of_h), bias, h0, lengths, direction, gates, linear_before_reset)


def _gru(
    x: Array,
    shape: tuple[int, ...],
    products: tuple[Product, Callable[[int, Array, Array], Array]],
    bias: Array | None,
    h0: Array | None,
    lengths: Array | None,
    direction: str,
    gates: str,
    linear_before_reset: int,
) -> list[Array]:
    """`products`: of W with x, and of R with h or with what the reset gate leaves of h, the last argument."""
    of_w, of_r = products
    z, g, n = (gates.replace("n", "h").index(each) for each in "zrh")

    def cell(d: int, v: Array, h: Array) -> list[Array]:
        b_w, b_r = _halves(bias, d)
        from_w, from_r = _split(of_w(d, v) + b_w, 3), _split(of_r(d, h, h) + b_r, 3)
        update, reset = (_sigma(from_w[each] + from_r[each]) for each in (z, g))
        if not linear_before_reset:
            from_r = _split(of_r(d, reset * h, h) + b_r, 3)
            reset = np.float32(1)
        candidate = np.tanh(from_w[n] + reset * from_r[n])
        return [(1 - update) * candidate + update * h]

    return _walk(x, shape, [h0], lengths, direction, cell)


def _lstm(
    x: Array,
    shape: tuple[int, ...],
    products: tuple[Product, Product],
    bias: Array | None,
    starts: Sequence[Array | None],
    lengths: Array | None,
    direction: str,
    gates: str,
) -> list[Array]:
    i, o, f, g = (gates.replace("g", "c").index(each) for each in "iofc")

    def cell(d: int, v: Array, h: Array, c: Array) -> list[Array]:
        rows = _split(products[0](d, v) + products[1](d, h) + sum(_halves(bias, d)), 4)
        c = _sigma(rows[f]) * c + _sigma(rows[i]) * np.tanh(rows[g])
        return [_sigma(rows[o]) * np.tanh(c), c]

    return _walk(x, shape, starts, lengths, direction, cell)


def _walk(
    x: Array,
    shape: tuple[int, ...],
    starts: Sequence[Array | None],
    lengths: Array | None,
    direction: str,
    cell: Callable[..., list[Array]],
) -> list[Array]:
    """[y, the states at the end]: step by step, all sequences at once; `shape` is that of r, and cell(direction, x_t, states...) gives the next states."""
    (steps, batch, _), (directions, _, hidden) = x.shape, shape
    y = np.zeros((steps, batch, directions, hidden), np.float32)
    ends = [np.zeros((directions, batch, hidden), np.float32) if s is None else s.copy() for s in starts]
    for d in range(directions):
        backward = direction == "reverse" or d == 1
        for t in reversed(range(steps)) if backward else range(steps):
            there = np.ones(batch, bool) if lengths is None else t < lengths
            for end, following in zip(ends, cell(d, x[t], *(end[d] for end in ends))):
                end[d, there] = following[there]
            y[t, there, d] = ends[0][d, there]
    return [y.reshape(steps, batch, directions * hidden), *ends]


def _products(weights: Array) -> Product:
    return lambda d, v: v @ weights[d].T


def _integer_products(weights: Array, scale: Array, zero: Array | None) -> Callable[[int, Array, Array], Array]:
    """Of whole numbers whose unit is the last argument."""
    centred = weights.astype(np.int64) - (0 if zero is None else zero.astype(np.int64)[:, :, None])
    return lambda d, v, unit: (v @ centred[d].T).astype(np.float32) * (scale[d] * unit)


def _whole(x: Array, w: Array, scale: Array, zero: Array | None) -> tuple[Array, Product]:
    """x as whole numbers by the range of all of it, and the products of w with those."""
    of_w = _integer_products(w, scale, zero)
    q, unit, origin = dynamic_quantize.reference(x)
    return q.astype(np.int64) - origin, lambda d, v: of_w(d, v, unit)


def _halves(bias: Array | None, d: int) -> list[Any]:
    """The bias of w and that of r."""
    return [np.float32(0)] * 2 if bias is None else np.split(bias[d], 2)


def _split(rows: Array, gates: int) -> list[Array]:
    return np.split(rows, gates, axis=1)


def _sigma(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))
