"""Sites: activations that are quantized, and what is kept of each over the calibration samples, in an amount of memory that these do not
change."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import tvm
from tvm import relax

from maas_rt._errors import CompileError

from ..passes._rewrite import is_call
from ._measure import Layer8
from ._observe import Observer
from ._ranges import HEADROOM, Numbers, Range, find_range
from ._rows import Matrix, Rows, Window, channels_of, matrix_of, window_of
from ._static import activations

__all__ = ["Site", "observed", "outlier"]

Array = npt.NDArray[np.float32]

_OUTLIER = 16.0  # times the median of the samples' largest numbers
_FEW = 4  # samples, of which none can be called an outlier


class Half:
    """What is kept of every other sample: the ends of each channel, counts of all numbers, and rows by the windows of layers."""

    def __init__(self, channels: int, axis: int, windows: Sequence[Window]) -> None:
        self.numbers = Numbers()
        self.low, self.high = (np.full(channels, end) for end in (np.inf, -np.inf))
        self.rows = {window: Rows(window, channels) for window in windows}
        self._axis = axis

    @property
    def is_empty(self) -> bool:
        return not (self.low <= self.high).all()

    def add(self, sample: int, x: Array, whole: bool) -> Range:
        """Those of an activation; its ends."""
        if not x.size:
            return 0.0, 0.0
        others = tuple(axis for axis in range(x.ndim) if axis != self._axis)
        low, high = x.min(axis=others), x.max(axis=others)
        np.minimum(self.low, low, out=self.low)
        np.maximum(self.high, high, out=self.high)
        for rows in self.rows.values():
            rows.add(sample, x)
        return self.numbers.add(x if whole else np.array([low.min(), high.max()], np.float32))


@dataclass
class Site:
    """An activation, and the layers `readers` that are to read it on 8 bits; `axis` is that of its channels."""

    value: relax.Expr
    readers: list[relax.Var]
    matrices: list[Matrix]
    windows: list[Window]
    axis: int
    channels: int
    peaks: array[float] = field(default_factory=lambda: array("f"))  # the largest magnitude of each sample

    def __post_init__(self) -> None:
        self._halves = [Half(self.channels, self.axis, self.windows) for _ in range(2)]

    def add_ends(self, low: Array, high: Array) -> None:
        """Of a sample of which no more is kept."""
        self._peak(*self._halves[0].numbers.add(np.array([low, high], np.float32)))

    def add(self, sample: int, x: Array, whole: bool) -> None:
        """All that is kept; of the counts of numbers only where they are asked for."""
        self._peak(*self._halves[sample % 2].add(sample, x, whole))

    def _peak(self, low: float, high: float) -> None:
        if not np.isfinite([low, high]).all():
            raise CompileError(
                f"calibration sample {len(self.peaks)} gives an activation that is not finite, which 8 bits do not hold"
            )
        self.peaks.append(max(-low, high))

    @property
    def low(self) -> npt.NDArray[np.float64]:
        """The least number of each channel."""
        return np.asarray(np.minimum(self._halves[0].low, self._halves[1].low))

    @property
    def high(self) -> npt.NDArray[np.float64]:
        return np.asarray(np.maximum(self._halves[0].high, self._halves[1].high))

    @property
    def is_empty(self) -> bool:
        return self._halves[0].is_empty

    def rows(self, window: Window) -> Array:
        """All rows that are kept, [n, C, taps]."""
        return np.concatenate([half.rows[window].array() for half in self._halves])

    def seen(self, window: Window) -> int:
        """How many rows there were in all."""
        return sum(half.rows[window].seen for half in self._halves)

    def trials(self) -> list[tuple[list[Layer8], Half]]:
        """What to measure on, and what to find ranges in for it: the one half and the other, both ways, so that a range that fits what it was
        found in alone does not look good; of one sample itself."""
        first, second = self._halves
        pairs = [(first, first)] if second.is_empty else [(first, second), (second, first)]
        return [
            ([Layer8(matrix, judged.rows[w].array()) for matrix, w in zip(self.matrices, self.windows)], used)
            for judged, used in pairs
        ]

    def span(self, method: str, levels: int, factor: npt.NDArray[np.float64] | None, of: Half | None = None) -> Range:
        """The range of the activation (or of a half of the samples) with its channels multiplied by `factor` (None: as it is). Of numbers so
        multiplied the ends are known, and else the rows stand for all."""
        halves = self._halves if of is None else [of]
        if factor is None:
            return find_range(Numbers.joined([half.numbers for half in halves]), method, levels)
        scaled = Numbers()
        for half in halves:
            if not half.is_empty:
                scaled.add(np.concatenate([half.low * factor, half.high * factor]).astype(np.float32))
            if method not in HEADROOM:
                rows = next(iter(half.rows.values()))
                seen = rows.array()
                each = max(round(rows.seen / max(len(seen), 1)), 1)
                scaled.add(np.asarray(seen * factor.astype(np.float32)[:, None]), each)
        return find_range(scaled, method, levels)


def observed(
    mod: tvm.IRModule, chosen: Sequence[relax.Var], observer: Observer, measures: bool, whole: bool
) -> list[Site]:
    """The sites of the layers `chosen` after a run over the samples. `measures`: rows are kept; `whole`: counts of all numbers.

    Raises CompileError for an activation that is not finite.
    """
    sites = [_site(mod, value, chosen) for value in activations(mod, chosen)]
    ends = [relax.op.min, relax.op.max]

    def take(sample: int, values: list[list[Array]]) -> None:
        for site, found in zip(sites, values):
            if measures or whole:
                site.add(sample, found[0], whole)
            else:
                site.add_ends(found[0], found[1])

    observer.observe(
        mod, [s.value for s in sites], lambda x: [x] if measures or whole else [end(x) for end in ends], take
    )
    return sites


def _site(mod: tvm.IRModule, value: relax.Expr, chosen: Sequence[relax.Var]) -> Site:
    layers = set(chosen)
    bindings = [b for block in mod["main"].body.blocks for b in block.bindings]
    found = [b for b in bindings if b.var in layers and b.value.args[0].same_as(value)]
    first = found[0].value
    return Site(
        value,
        [b.var for b in found],
        [matrix_of(b.value) for b in found],
        [window_of(b.value) for b in found],
        value.ty.ndim - 1 if is_call(first, "relax.matmul") else 1,
        channels_of(first),
    )


def outlier(sites: Sequence[Site]) -> list[str]:
    """What ranges that take in all numbers owe to one sample alone: the largest such case."""
    if not sites or len(sites[0].peaks) < _FEW:
        return []
    worst = (_OUTLIER, 0, 0.0, 0.0)
    for site in sites:
        largest, usual = float(max(site.peaks)), float(np.median(site.peaks))
        if usual > 0 and largest / usual > worst[0]:
            worst = (largest / usual, site.peaks.index(max(site.peaks)), largest, usual)
    factor, sample, largest, usual = worst
    if not largest:
        return []
    return [
        f"calibration sample {sample} reaches {largest:.3g} in a layer in which the others reach {usual:.3g}, and the others' numbers "
        f"have {factor:.0f} times fewer of the steps: leave it out, or take the method percentile"
    ]
