"""Random numbers in the IR: operators that read the run's seed, the last parameter of main. For all importers.

docs/random.md says what the operators of the frameworks are made of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import tvm
from tvm import relax, tirx

from .._constants import constant_of
from ..ir import random
from ..ir._philox import MODULUS, MULTIPLIER
from ._imported import SEED

__all__ = ["Noise", "with_seed"]


class Noise:
    """The random numbers of one model while it is imported: its seed, and in which iterations of which loops the importer stands."""

    def __init__(self) -> None:
        self.seed = relax.Var(SEED, relax.TensorType([1], "uint64"))
        self._iterations: list[tuple[Any, int]] = []  # of the loops around, the outermost first

    @contextmanager
    def iteration(self, number: Any, after: int = 0) -> Iterator[None]:
        """What is drawn here is drawn anew for each `number`, an int or an int64 tensor with one element; `after`: more than that."""
        self._iterations.append((number, after))
        try:
            yield
        finally:
            self._iterations.pop()

    def call(
        self,
        emit: Callable[[Any], Any],
        kind: str,
        shape: Sequence[Any],
        dtype: str,
        number: int,
        *,
        key: int | None = None,
        name: str = "",
    ) -> Any:
        """A tensor of `kind` "uniform" (in [0, 1)), "normal" (mean 0, deviation 1), float32 or float64, or "bits", uint64.

        `number` is the operator's in the model; `key` stands in the seed's place where the model itself has one.
        """
        seed = self.seed if key is None else constant_of(np.array([key], np.uint64))
        out = relax.ShapeExpr([tirx.IntImm("int64", d) if isinstance(d, int) else d for d in shape])
        return emit(random(seed, out, self._draw(emit), kind=kind, dtype=dtype, number=number, place=name))

    def _draw(self, emit: Callable[[Any], Any]) -> Any:
        """Which of the draws of an operator in loops this is: int64 of rank 0; None outside of loops. See _philox.combined."""
        draw: Any = None
        for number, after in self._iterations:
            if after:
                number = emit(relax.op.add(_scalar(emit, number), _scalar(emit, after)))
            if draw is None:
                draw = number
            elif isinstance(draw, int) and isinstance(number, int):
                draw = (draw * MULTIPLIER + number) % MODULUS
            else:
                spread = emit(relax.op.multiply(_scalar(emit, draw), _scalar(emit, MULTIPLIER)))
                total = emit(relax.op.add(spread, _scalar(emit, number)))
                draw = emit(relax.op.bitwise_and(total, _scalar(emit, MODULUS - 1)))
        return None if draw is None else _scalar(emit, draw)


def _scalar(emit: Callable[[Any], Any], value: Any) -> Any:
    if isinstance(value, int):
        return constant_of(np.array(value, np.int64))
    return emit(relax.op.reshape(value, relax.ShapeExpr([]))) if value.ty.ndim else value


def with_seed(mod: tvm.IRModule, noise: Noise) -> tvm.IRModule:
    """The module, whose main has the seed as its last parameter if anything in it draws."""
    main = mod["main"]
    if not any(each.same_as(noise.seed) for each in relax.analysis.free_vars(main)):
        return mod
    whole = relax.Function([*main.params, noise.seed], main.body, main.ret_ty, main.is_pure, main.attrs, main.span)
    out = mod.clone()
    out["main"] = whole.with_attr(SEED, tirx.IntImm("int64", len(main.params)))
    return out
