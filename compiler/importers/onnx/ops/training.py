"""Steps of optimisers (ai.onnx.preview.training): Adagrad, Adam, Momentum."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import tirx

from .._node import Node
from .._registry import op
from ._te import elementwise, imm

_DOMAIN = "ai.onnx.preview.training"
_F, _WIDE = "float32", "float64"
Update = Callable[..., list[Any]]


def _steps(n: Node, states: int, update: Update) -> list[Any]:
    """`update(rate, step, x, gradient, *states)` gives x and the states anew, each in whatever precision. Inputs: rate, step, which it gets
    in float64, then all x, all gradients, all of each state; outputs: all x, all of each state."""
    count, left = divmod(len(n.inputs) - 2, 2 + states)
    if left or count < 1:
        raise n.broken(f"has {len(n.inputs)} inputs")
    if any(n.dtype(i) != _F for i in (0, *range(2, len(n.inputs)))):
        raise n.refuse("of other types than float32")
    # A power of the step, and 1 minus it, leave float32 before the rate that comes of them does.
    rate, step = (n.cast(n.reshape(n.x(i), []), _WIDE) for i in (0, 1))
    made = []
    for k in range(count):
        inputs = [2 + k + count * j for j in range(2 + states)]
        _require_one_shape(n, inputs)
        operands = [n.x(i) for i in inputs]
        made.append([
            elementwise(n, lambda *scalars, at=at: tirx.Cast(_F, update(*scalars)[at]), rate, step, *operands)
            for at in range(1 + states)
        ])  # fmt: skip
    return [each[at] for at in range(1 + states) for each in made]


def _require_one_shape(n: Node, inputs: list[int]) -> None:
    """A tensor, its gradient and its states are never broadcast."""
    first, *others = inputs
    n.require_ranks(n.rank(first), *others)
    for i in others:
        for mine, other in zip(n.shape(first), n.shape(i), strict=True):
            n.math.require_same(mine, other)


@op("Adagrad", since=1, domain=_DOMAIN)
def adagrad(n: Node) -> Any:
    decay, epsilon = (imm(n.float_attr(name, 0.0), kind) for name, kind in (("decay_factor", _WIDE), ("epsilon", _F)))
    norm, one = imm(n.float_attr("norm_coefficient", 0.0), _F), imm(1, _WIDE)

    def update(r: Any, t: Any, x: Any, g: Any, h: Any) -> list[Any]:
        slope = norm * x + g
        squares = h + slope * slope
        direction = slope / (tirx.sqrt(squares) + epsilon)
        return [x - r / (one + t * decay) * direction, squares]

    return _steps(n, 1, update)


@op("Adam", since=1, domain=_DOMAIN)
def adam(n: Node) -> Any:
    one, wide_one = imm(1, _F), imm(1, _WIDE)
    factors = n.float_attr("alpha", 0.9), n.float_attr("beta", 0.999)
    alpha, beta = (imm(each, _F) for each in factors)
    wide_alpha, wide_beta = (imm(each, _WIDE) for each in factors)
    names = ("epsilon", "norm_coefficient", "norm_coefficient_post")
    epsilon, norm, post = (imm(n.float_attr(name, 0.0), _F) for name in names)

    def update(r: Any, t: Any, x: Any, g: Any, v: Any, h: Any) -> list[Any]:
        slope = norm * x + g
        mean = alpha * v + (one - alpha) * slope
        squares = beta * h + (one - beta) * (slope * slope)
        unbiased = r * tirx.sqrt(wide_one - tirx.power(wide_beta, t)) / (wide_one - tirx.power(wide_alpha, t))
        rate = tirx.if_then_else(t > imm(0, _WIDE), unbiased, r)
        return [(one - post) * (x - rate * (mean / (tirx.sqrt(squares) + epsilon))), mean, squares]

    return _steps(n, 2, update)


@op("Momentum", since=1, domain=_DOMAIN)
def momentum(n: Node) -> Any:
    alpha, beta, norm = (imm(n.float_attr(name), _F) for name in ("alpha", "beta", "norm_coefficient"))
    mode = n.str_attr("mode")
    if mode not in ("standard", "nesterov"):
        raise n.broken(f"has the unknown mode '{mode}'")

    def update(r: Any, t: Any, x: Any, g: Any, v: Any) -> list[Any]:
        slope = norm * x + g
        speed = alpha * v + tirx.Select(t > imm(0, _WIDE), beta, imm(1, _F)) * slope
        return [x - r * (slope + alpha * speed if mode == "nesterov" else speed), speed]

    return _steps(n, 1, update)
