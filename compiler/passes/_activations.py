"""Recognises activations, whole or in pieces, as the epilogue of a kernel understands them (docs/kernels.md)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from tvm import relax

from ._pattern import Number, Rows, clip, either, op, scaled, tensor
from ._rewrite import Rewriter

__all__ = ["Activation", "recognise"]


@dataclass(frozen=True)
class Activation:
    """`act(source)`, in which `source` occurs `occurrences` times."""

    source: relax.Expr
    act: str
    args: list[float] = field(default_factory=list)
    occurrences: int = 1


# (x + 3) / 6 as a x + b: the float32 below 1/6, three times which is a float32, so that the line is exactly 0 at -3.
_SIXTH = float.fromhex("0x1.555554p-3")

X = tensor("x")
_SOFTPLUS = either(
    op("nn.softplus", X, where=lambda call: float(call.attrs.beta) == 1.0 and float(call.attrs.threshold) >= 15.0),
    op("log", op("exp", X) + 1),
)

# A formula, the kernels' name for it, and its arguments: numbers, or names of the formula's.
_ROWS = Rows[tuple[str, tuple[float | str, ...]]](
    (op("nn.relu", X), ("relu", ())),
    (op("sigmoid", X), ("sigmoid", ())),
    (op("tanh", X), ("tanh", ())),
    (op("exp", X), ("exp", ())),
    (op("sqrt", X), ("sqrt", ())),
    (op("abs", X), ("abs", ())),
    (op("nn.gelu", X), ("gelu", ())),
    (0.5 * X * (op("erf", math.sqrt(0.5) * X) + 1), ("gelu", ())),
    (op("nn.gelu_tanh", X), ("gelu_tanh", ())),
    (0.5 * X * (op("tanh", math.sqrt(2 / math.pi) * (X + 0.044715 * X**3)) + 1), ("gelu_tanh", ())),
    (0.5 * X * (op("tanh", math.sqrt(2 / math.pi) * X * (0.044715 * X**2 + 1)) + 1), ("gelu_tanh", ())),
    (op("nn.silu", X), ("silu", ())),
    (X * op("sigmoid", X), ("silu", ())),
    (_SOFTPLUS, ("softplus", ())),
    (X * op("tanh", _SOFTPLUS), ("mish", ())),
    (1 / 6 * clip(X + 3, 0, 6), ("hardsigmoid", (_SIXTH, 3 * _SIXTH))),
    (clip(scaled(Number("a"), X) + Number("b"), 0, 1), ("hardsigmoid", ("a", "b"))),
    (1 / 6 * X * clip(X + 3, 0, 6), ("hardswish", ())),
    (X * clip(1 / 6 * X + 0.5, 0, 1), ("hardswish", ())),
    (op("nn.leakyrelu", X), ("leaky_relu", ("alpha",))),
    (op("nn.relu6", X), ("clip", (0.0, 6.0))),
    (clip(X, 0, math.inf), ("relu", ())),
    (clip(X, Number("low"), Number("high")), ("clip", ("low", "high"))),
)


def recognise(rw: Rewriter, value: relax.Expr) -> Activation | None:
    """The outermost activation that a binding's value is; None if it is none."""
    row = _ROWS.find(rw, value)
    if row is None:
        return None
    (act, args), found = row
    numbers = [
        arg
        if isinstance(arg, float)
        else found.numbers[arg]
        if arg in found.numbers
        else float(getattr(value.attrs, arg))
        for arg in args
    ]
    return Activation(found.tensors["x"], act, numbers, found.occurrences["x"])
