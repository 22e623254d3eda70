"""Worst errors of compiled functions in units in the last place of the exact value."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import mpmath
import numpy as np
import torch

import maas_rt
from maas_rt import compiler
from tests.accuracy._functions import F64, FUNCTIONS, Tensor

# bits of the significand, exponent of the smallest number, exponent above the largest
FORMATS = {
    "float64": (53, -1074, 1024),
    "float32": (24, -149, 128),
    "float16": (11, -24, 16),
    "bfloat16": (8, -133, 128),
}


@dataclass
class Worst:
    error: float = 0.0
    at: float = 0.0

    def note(self, errors: Tensor, x: Tensor) -> None:
        if errors.numel():
            top = int(errors.argmax())
            if float(errors[top]) > self.error:
                self.error, self.at = float(errors[top]), float(x[top])


class Compiled:
    """Several functions as one compiled model of `count` numbers of a dtype."""

    def __init__(self, names: Sequence[str], dtype: str, count: int) -> None:
        functions = [FUNCTIONS[name].apply for name in names]

        class Each(torch.nn.Module):
            def forward(self, x: Tensor) -> tuple[Tensor, ...]:
                return tuple(function(x) for function in functions)

        self.names, self.dtype, self.count = list(names), getattr(torch, dtype), count
        example = torch.full((count,), 0.5, dtype=self.dtype)
        self.model = maas_rt.load(compiler.compile(Each(), [example], verify=False))

    def __call__(self, x: Tensor) -> dict[str, Tensor]:
        """The results as float64; x has at most `count` numbers."""
        padded = torch.nn.functional.pad(x.double(), (0, self.count - len(x)), value=0.5).to(self.dtype)
        bits = (
            padded.view(torch.int16).numpy().view(ml_dtypes.bfloat16) if x.dtype == torch.bfloat16 else padded.numpy()
        )
        found = self.model.run({self.model.inputs[0].name: bits}).values()
        return {n: torch.from_numpy(np.asarray(y).astype(np.float64))[: len(x)] for n, y in zip(self.names, found)}


def units(got: Tensor, want: Tensor, dtype: str) -> Tensor:
    """|got - want| in units in the last place of `want` (both float64, but the exact value of a narrower dtype)."""
    bits, low, high = FORMATS[dtype]
    _, exponent = torch.frexp(want)
    place = torch.ldexp(torch.ones_like(want), (exponent - bits).clamp(min=low).double())
    error = (got - want).abs() / place
    limit = 2.0**high * (1 - 2.0 ** (-bits - 1))  # from here on the nearest number is infinity
    over = want.abs() >= limit
    error = torch.where(
        over, torch.where(got == torch.copysign(torch.tensor(torch.inf, dtype=F64), want), 0.0, 1e9), error
    )
    error = torch.where(~over & got.isinf(), 1e9, error)
    error = torch.where(want.isnan() | got.isnan(), torch.where(want.isnan() == got.isnan(), 0.0, 1e9), error)
    return torch.where(want.isinf(), torch.where(got == want, 0.0, 1e9), error)


def every(dtype: str, stride: int, chunk: int) -> Iterator[Tensor]:
    """All numbers of a dtype of 16 or 32 bits, or each stride-th of them, a chunk at a time; no NaN and no infinity."""
    wide = dtype == "float32"
    for start in range(0, 2**32 if wide else 2**16, chunk * stride):
        bits = torch.arange(start, min(start + chunk * stride, 2**32 if wide else 2**16), stride)
        x = bits.to(torch.int32).view(torch.float32) if wide else bits.to(torch.int16).view(getattr(torch, dtype))
        yield x[x.isfinite()]


def sweep(names: Iterable[str], dtype: str, stride: int = 1, chunk: int = 1 << 16) -> dict[str, tuple[Worst, Worst]]:
    """(ours, torch's own) of each function over the numbers of float32, float16 or bfloat16."""
    names = list(names)
    compiled = Compiled(names, dtype, chunk)
    worst = {name: (Worst(), Worst()) for name in names}
    for x in every(dtype, stride, chunk):
        found = compiled(x)
        for name in names:
            want = FUNCTIONS[name].wide(x.double())
            for note, got in zip(worst[name], (found[name], FUNCTIONS[name].apply(x).double())):
                note.note(units(got, want, dtype), x.double())
    return worst


def sweep_float64(names: Iterable[str], count: int, seed: int = 0) -> dict[str, tuple[Worst, Worst]]:
    """The same over float64 numbers, drawn by exponent: a third from the whole range, the others near 1."""
    names = list(names)
    rng = np.random.default_rng(seed)
    exponents = np.concatenate([rng.integers(-1070, 1023, count // 3), rng.integers(-40, 10, count - count // 3)])
    x = np.ldexp(rng.uniform(1, 2, count), exponents) * rng.choice([-1, 1], count)
    tensor = torch.from_numpy(x)
    found = Compiled(names, "float64", count)(tensor)
    worst = {}
    with mpmath.workprec(160):
        for name in names:
            function, theirs = FUNCTIONS[name], FUNCTIONS[name].apply(tensor)
            both = Worst(), Worst()
            for at, *values in zip(x.tolist(), found[name].tolist(), theirs.tolist()):
                if abs(at) <= function.bound:
                    want = _exact(function.exact, at)
                    for note, got in zip(both, values):
                        error = _units_of(got, want)
                        if error > note.error:
                            note.error, note.at = error, at
            worst[name] = both
    return worst


def _exact(function: Any, x: float) -> Any:
    try:
        y = function(mpmath.mpf(x))
    except (ValueError, ZeroDivisionError):
        return mpmath.nan
    return y if isinstance(y, mpmath.mpf) else (y.real if function is mpmath.loggamma else mpmath.nan)


def _units_of(got: float, want: Any) -> float:
    bits, low, high = FORMATS["float64"]
    if want != want or got != got:
        return 0.0 if want != want and got != got else 1e9
    if abs(want) >= mpmath.mpf(2) ** high * (1 - mpmath.mpf(2) ** (-bits - 1)):
        return 0.0 if abs(got) == float("inf") and (got > 0) == (want > 0) else 1e9
    if abs(got) == float("inf"):
        return 1e9
    place = max(mpmath.frexp(want)[1] - bits, low) if want else low
    return float(abs(mpmath.mpf(got) - want) / mpmath.mpf(2) ** place)
