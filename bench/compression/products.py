"""Products with sparse weights against our dense ones: bench.sparse's measurements, 128 rows, the least gain of its sizes."""

from __future__ import annotations

from .. import sparse
from ._rows import Goal, Measured, row

FIGURES = {
    "unstructured, 80 %": ("unstructured", 0.2, 2, 2.6),
    "unstructured, 90 %": ("unstructured", 0.1, 3.6, 4.8),
    "unstructured, 95 %": ("unstructured", 0.05, 6, 8.5),
    "block, 80 %": ("block", 0.2, 3.8, 4.8),
    "int8 block, 80 %": ("bytes", 0.2, 3.5, 4.5),
}
GOALS = tuple(Goal(name, must, aim) for name, (_, _, must, aim) in FIGURES.items())
ROWS_OF_A, ROUNDS = 128, 25


def measure(isa: str) -> Measured:
    """Dense time over sparse time with one instruction set."""
    found = {
        name: {size: sparse.measure(kind, ROWS_OF_A, size, density, isa, ROUNDS)["ratio"] for size in sparse.SIZES}
        for name, (kind, density, _, _) in FIGURES.items()
    }
    return Measured({name: min(each.values()) for name, each in found.items()}, more={"by size": found})


@row("sparse-avx2", "sparse products over dense, AVX2", *GOALS, timed=True)
def _avx2() -> Measured:
    return measure("avx2")


@row("sparse-avx512", "sparse products over dense, AVX-512", *GOALS, timed=True)
def _avx512() -> Measured:
    return measure("avx512")
