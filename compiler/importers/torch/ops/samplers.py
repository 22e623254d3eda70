"""Samples of the gamma, Dirichlet, Poisson and binomial distributions: functions of noise whose amount is known beforehand. _drawn.py
writes the same definitions for verification, docs/random.md states them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from tvm import relax, tirx
from tvm.script.ir_builder import tirx as T

from ..._imperative import imperative, variable
from .._context import Context, Expr
from .._drawn import NEGLIGIBLE, SMALL_MODE, TRIES
from .._registry import converts
from .random import noise
from .special import map_elements

OP = relax.op
_F = "float64"
Ratio = Callable[[Any], Any]


def _f(value: float) -> Any:
    return tirx.FloatImm(_F, value)


def _m(name: str, *args: Any) -> Any:
    return tirx.call_pure_extern(_F, name, *args)


# ---- gamma and Dirichlet ---------------------------------------------------------------------------------------------


@converts("aten._standard_gamma.default")
def standard_gamma(c: Context, x: Expr) -> Expr:
    dtype = c.out_dtype()
    return c.emit(OP.maximum(c.cast(_gamma(c, x), dtype), c.const(_smallest_normal(dtype), dtype)))


@converts("aten._sample_dirichlet.default")
def sample_dirichlet(c: Context, x: Expr) -> Expr:
    """Gamma samples by their sum along the last axis, strictly between 0 and 1."""
    dtype, samples = c.out_dtype(), _gamma(c, x)
    shares = c.emit(OP.divide(samples, c.emit(OP.sum(samples, [c.rank(x) - 1], True))))
    largest_share = _largest_below_one(dtype)
    return c.emit(
        OP.minimum(
            c.emit(OP.maximum(c.cast(shares, dtype), c.const(_smallest_normal(dtype), dtype))),
            c.const(largest_share, dtype),
        )
    )


def _smallest_normal(dtype: str) -> float:
    """The smallest normal number."""
    return {"float16": 2.0**-14, "float64": 2.0**-1022}.get(dtype, 2.0**-126)


def _largest_below_one(dtype: str) -> float:
    return 1 - {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2.0**-24}.get(dtype, 2.0**-53)


def _gamma(c: Context, x: Expr) -> Expr:
    """float64, of the shape of x: G. Marsaglia, W. Tsang, A simple method for generating gamma variables (2000), with TRIES tries."""
    shape = c.shape(x)
    with c.noise.iteration(0):
        normal = noise(c, "normal", [TRIES, *shape], _F)
    with c.noise.iteration(1):
        uniform = noise(c, "uniform", [TRIES + 1, *shape], _F)

    def build(alphas: Any, normals: Any, uniforms: Any) -> Any:
        count: Any = tirx.IntImm("int64", 1)
        for extent in alphas.shape:
            count = count * extent

        def write(alphas: Any, normals: Any, uniforms: Any, out: Any) -> None:
            found, tried = variable(_F), variable("int64")
            with T.serial(0, count) as i:
                below = alphas[i] < _f(1.0)
                d = tirx.if_then_else(below, alphas[i] + _f(1.0), alphas[i]) - _f(1 / 3)
                found[0] = d
                tried[0] = tirx.IntImm("int64", 0)
                with T.While(tried[0] < TRIES):
                    z, u = normals[tried[0] * count + i], uniforms[tried[0] * count + i]
                    root = z / _m("sqrt", _f(9.0) * d) + _f(1.0)
                    v = root * root * root
                    bound = _f(0.5) * z * z + d * (_f(1.0) - v + _m("log", v))
                    with T.If(tirx.all(root > _f(0.0), _m("log1p", -u) < bound)):
                        with T.Then():
                            found[0] = d * v
                            tried[0] = tirx.IntImm("int64", TRIES)
                        with T.Else():
                            tried[0] = tried[0] + tirx.IntImm("int64", 1)
                last = _f(1.0) - uniforms[TRIES * count + i]
                out[i] = found[0] * tirx.if_then_else(below, _m("pow", last, _f(1.0) / alphas[i]), _f(1.0))

        return imperative([alphas.shape], [_F], [alphas, normals, uniforms], write, "gamma")[0]

    flat = c.cast(x, _F) if shape else c.reshape(c.cast(x, _F), [1])
    return c.reshape(c.generated(build, flat, normal, uniform, name="gamma")[0], shape)


# ---- Poisson and binomial --------------------------------------------------------------------------------------------


@converts("aten.poisson.default")
def poisson(c: Context, x: Expr) -> Expr:
    def draw(rate: Any, u: Any, v: Any) -> Any:
        mode = _m("floor", rate)
        near = (mode * _m("log1p", (rate - mode) / mode) - (rate - mode)) - _f(0.5) * _m("log", _f(math.tau) * mode)
        inverse = _f(1.0) / mode
        stirling = inverse * (_f(1 / 12) - inverse * inverse * (_f(1 / 360) - inverse * inverse * _f(1 / 1260)))
        direct = mode * _m("log", rate) - rate - _m("lgamma", mode + _f(1.0))
        chance = _m("exp", tirx.if_then_else(mode < _f(float(SMALL_MODE)), direct, near - stirling))
        chosen = _outwards(mode, chance, u, lambda k: rate / (k + _f(1.0)), lambda k: k / rate, v)
        return tirx.if_then_else(rate > _f(0.0), chosen, _f(0.0))

    return map_elements(c, [x, noise(c, "uniform", c.out_shape(), _F)], c.out_dtype(), draw)


@converts("aten.binomial.default")
def binomial(c: Context, count: Expr, prob: Expr) -> Expr:
    def draw(given: Any, p: Any, u: Any, v: Any) -> Any:
        n = _m("floor", given)
        mode = _m("fmin", _m("floor", (n + _f(1.0)) * p), n)
        ways = _m("lgamma", n + _f(1.0)) - _m("lgamma", mode + _f(1.0)) - _m("lgamma", n - mode + _f(1.0))
        chance = _m("exp", ways + mode * _m("log", p) + (n - mode) * _m("log1p", -p))
        odds = p / (_f(1.0) - p)
        more = lambda k: (n - k) / (k + _f(1.0)) * odds  # noqa: E731
        fewer = lambda k: k / ((n - k + _f(1.0)) * odds)  # noqa: E731
        chosen = _outwards(mode, chance, u, more, fewer, v)
        certain = tirx.if_then_else(p >= _f(1.0), n, _f(0.0))
        return tirx.if_then_else(tirx.all(n > _f(0.0), p > _f(0.0), p < _f(1.0)), chosen, certain)

    return map_elements(c, [count, prob, noise(c, "uniform", c.out_shape(), _F)], c.out_dtype(), draw)


def _outwards(mode: Any, chance: Any, u: Any, more: Ratio, fewer: Ratio, v: Any) -> Any:
    """The whole number whose chance u falls into, where they lie one behind the other in the order mode, mode + 1, mode - 1, mode + 2, ...
    `more(k)` is the chance of k + 1 by that of k, `fewer(k)` that of k - 1 by that of k."""
    left, above, below, up, down, chosen = v
    above[0] = chance
    below[0] = above[0]
    left[0] = u - above[0]
    up[0] = mode
    down[0] = up[0]
    chosen[0] = up[0]
    with T.While(tirx.all(left[0] >= _f(0.0), above[0] + below[0] > _f(NEGLIGIBLE))):
        above[0] = above[0] * more(up[0])
        up[0] = up[0] + _f(1.0)
        left[0] = left[0] - above[0]
        with T.If(left[0] < _f(0.0)):
            with T.Then():
                chosen[0] = up[0]
            with T.Else():
                below[0] = below[0] * fewer(down[0])
                down[0] = down[0] - _f(1.0)
                left[0] = left[0] - below[0]
                with T.If(left[0] < _f(0.0)):
                    with T.Then():
                        chosen[0] = down[0]
    return chosen[0]
