"""The user's own function that says how good a model is: asked with care, since it decides."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from maas_rt._errors import InvalidArgumentError

__all__ = ["Evaluate", "Run", "Score", "digests"]

Array = npt.NDArray[Any]
Run = Callable[[Mapping[str, Array]], dict[str, Array]]
Evaluate = Callable[[Run], float]

_REPEATS = 3  # of the float model's score: what they differ by is noise
_ROWS = 4096  # of inputs that are told apart, at most


class Score:
    """`evaluate(run)` of one model after the other; more is better. `noise` is the largest difference of the float model's scores."""

    def __init__(self, evaluate: Evaluate, what: str = "evaluate") -> None:
        if not callable(evaluate):
            raise InvalidArgumentError(f"{what} is a {type(evaluate).__name__}, expected a function of run")
        self._evaluate = evaluate
        self._what = what
        self.noise = 0.0
        self.seen: set[bytes] = set()  # of what it ran, rows

    def of(self, program: Any, whose: str) -> float:
        """The score of a loaded model.

        Raises InvalidArgumentError where the function fails, or gives anything but one finite number.
        """

        def run(inputs: Mapping[str, Array]) -> dict[str, Array]:
            if len(self.seen) < _ROWS:
                self.seen.update(digests(inputs))
            results: dict[str, Array] = program.run(dict(inputs))
            return results

        try:
            value = self._evaluate(run)
        except (Exception, SystemExit) as error:
            raise InvalidArgumentError(
                f"{self._what} failed on {whose} ({type(error).__name__}: {str(error).strip() or 'no message'}): mend it, and run the "
                "same search again, which goes on from here"
            ) from error
        number = np.asarray(value) if isinstance(value, int | float | np.ndarray | np.generic) else np.asarray(None)
        if number.size != 1 or number.dtype.kind not in "fiub":
            given = f"{number.size} numbers" if number.dtype.kind in "fiub" else f"a {type(value).__name__}"
            raise InvalidArgumentError(
                f"{self._what} gave {given} for {whose}, expected one number, more of it for better"
            )
        score = float(number.reshape(()))
        if not math.isfinite(score):
            raise InvalidArgumentError(f"{self._what} gave {score} for {whose}, expected a finite number")
        return score

    def of_float(self, program: Any) -> float:
        """The float model's, the median of several; their spread is the noise."""
        scores = [self.of(program, "the float model") for _ in range(_REPEATS)]
        self.noise = max(scores) - min(scores)
        return float(np.median(scores))


def digests(inputs: Mapping[str, Any]) -> set[bytes]:
    """Of a set of inputs: of each row along the first axes, where all have one of the same extent; else of the whole."""
    arrays = [np.ascontiguousarray(inputs[name]) for name in sorted(inputs)]
    counts = {a.shape[0] if a.ndim else 0 for a in arrays}
    if len(counts) == 1 and 0 not in counts:
        rows: Iterable[list[Array]] = ([a[i] for a in arrays] for i in range(min(counts.pop(), _ROWS)))
    else:
        rows = [arrays]
    return {hashlib.blake2b(b"".join(part.tobytes() for part in row), digest_size=16).digest() for row in rows}
