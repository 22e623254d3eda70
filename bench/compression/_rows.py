"""Rows of the table: what is measured, what it must reach, and what it came to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

REACHED = ("missed", "must", "aim")


@dataclass(frozen=True)
class Goal:
    """What a figure must reach and should: at least, or, with `least` False, at most. `of` says of whose figure it is a bound: none; or
    "peer", the best peer's figure plus the bound."""

    figure: str
    must: float
    aim: float
    least: bool = True
    over_peer: bool = False
    unit: str = ""

    def reached(self, ours: float, peer: float | None) -> str:
        """One of REACHED; "no peer" where the bound is over a peer's figure and no peer has one."""
        if self.over_peer and peer is None:
            return "no peer"
        base = peer if self.over_peer and peer is not None else 0.0
        sign = 1 if self.least else -1
        return REACHED[sum(sign * (ours - base - bound) >= 0 for bound in (self.must, self.aim))]

    def told(self, bound: float) -> str:
        """A bound as the table has it."""
        if self.over_peer:
            return f"peer {'+' if bound >= 0 else '-'} {abs(bound):g}{self.unit}" if bound else "the peer's"
        return f"{'≥' if self.least else '≤'} {bound:g}{self.unit}"

    def best(self, peers: Mapping[str, Mapping[str, float]]) -> tuple[str, float] | None:
        """The peer whose figure is best, and the figure."""
        known = [(name, figures[self.figure]) for name, figures in peers.items() if self.figure in figures]
        return (max if self.least else min)(known, key=lambda each: each[1]) if known else None


@dataclass(frozen=True)
class Measured:
    """Figures by name, ours and each peer's; `more` is kept with the results, and is no part of the table."""

    ours: Mapping[str, float]
    peers: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    more: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """`timed`: its figures are times, which a busy machine changes."""

    name: str
    title: str
    goals: Sequence[Goal]
    measure: Callable[[], Measured]
    timed: bool


ROWS: dict[str, Row] = {}


def row(
    name: str, title: str, *goals: Goal, timed: bool = False
) -> Callable[[Callable[[], Measured]], Callable[[], Measured]]:
    """Registers a function that measures a row."""

    def register(measure: Callable[[], Measured]) -> Callable[[], Measured]:
        if name in ROWS:
            raise ValueError(f"there are two rows {name}")
        ROWS[name] = Row(name, title, goals, measure, timed)
        return measure

    return register
