"""One output beside the source's: by how much it differs, and what rounding explains."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from .._configs import VerifyOptions
from ..importers._imported import Array
from ..ir._philox import SHARED_SEED
from ._report import Difference

__all__ = ["EPSILON", "NEAR", "TIED", "TIES", "compare", "is_saturated", "run_compiled", "scales_of", "tied_share"]

EPSILON = float(np.finfo(np.float32).eps)
TIES = 64  # enough for some of a thousand numbers to be rounded to 8 bits the other way
NEAR = 2
TIED = 0.01  # of the numbers of a tensor at most, at a tie


def scales_of(results: Iterable[Mapping[str, Array]]) -> dict[str, float]:
    """The largest finite magnitude of each floating-point output over several runs."""
    found: dict[str, float] = {}
    for outputs in results:
        for name, value in outputs.items():
            array = np.asarray(value)
            if array.dtype.kind not in "fcV" or not array.size:
                continue
            size = np.abs(array.astype(np.complex128 if array.dtype.kind == "c" else np.float64))
            found[name] = max(found.get(name, 0.0), float(size.max(initial=0.0, where=np.isfinite(size))))
    return found


def compare(name: str, actual: Array, expected: Array, options: VerifyOptions, scale: float = 0.0) -> Difference:
    """The difference of one output, against its own scale or a larger one that is given; `detail` says what no tolerance covers."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    if actual.shape != expected.shape:
        return Difference(name, np.inf, f"its shape is {actual.shape} and must be {expected.shape}")
    if str(actual.dtype) != str(expected.dtype):
        return Difference(name, np.inf, f"its element type is {actual.dtype} and must be {expected.dtype}")
    if options.tolerance(str(expected.dtype)) == 0.0 and expected.dtype.kind != "c":
        wrong = int((actual != expected).sum())
        return Difference(
            name, np.inf if wrong else 0.0, f"{wrong} of {expected.size} elements differ" if wrong else ""
        )
    wide = np.complex128 if expected.dtype.kind == "c" else np.float64
    g, w = actual.astype(wide), expected.astype(wide)
    if (np.isnan(g) != np.isnan(w)).any():
        count = int((np.isnan(g) != np.isnan(w)).sum())
        return Difference(name, np.inf, f"{count} of {w.size} elements are NaN on one side only")
    infinite = np.isinf(w) | np.isinf(g)
    if (g[infinite] != w[infinite]).any():
        return Difference(name, np.inf, "infinities differ")
    finite = ~(np.isnan(w) | infinite)
    if not finite.any():
        return Difference(name, 0.0, "")
    worst = float(np.abs(g[finite] - w[finite]).max())
    scale = max(scale, float(np.abs(w[finite]).max()))
    return Difference(name, worst / scale if scale > 0 else worst, "")


def is_saturated(difference: Difference, reference: Array) -> bool:
    """Whether an output is saturated: all of it near 0, and the difference less than one rounding of 1."""
    return reference.dtype == np.float32 and difference.error * float(np.abs(reference).max()) <= EPSILON


def tied_share(actual: Array, expected: Array, steps: int = 1) -> float | None:
    """Of numbers of 8 bits, none of them off by more than `steps`, the share that is off; else None."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    if (
        expected.dtype not in (np.int8, np.uint8)
        or actual.dtype != expected.dtype
        or actual.shape != expected.shape
        or not actual.size
    ):
        return None
    apart = np.abs(actual.astype(np.int16) - expected.astype(np.int16))
    return float(np.count_nonzero(apart)) / apart.size if apart.max() <= steps else None


def run_compiled(program: Any, inputs: Mapping[str, Array], options: VerifyOptions) -> dict[str, Array]:
    """Outputs by name, states (if any) at their initial values, random numbers those that the source is given."""
    input_names = {info.name for info in program.inputs}
    given = {name: array for name, array in inputs.items() if name in input_names}
    state = program.state() if program.manifest["states"] else None
    seed = {"seed": SHARED_SEED} if program.manifest.get("draws") else {}
    result: dict[str, Array] = program.run(given, state=state, deadline=options.seconds, **seed)
    return result
