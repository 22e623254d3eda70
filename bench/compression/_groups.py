"""The modules that register rows, in the table's order."""

from __future__ import annotations

from importlib import import_module

from ._rows import ROWS, Row

GROUPS = (
    "static",
    "awkward",
    "pruning",
    "small",
    "memory",
    "text",
    "language",
    "products",
    "transformer",
    "fewbits",
    "quantized",
    "learned",
    "workers",
)


def load() -> None:
    """Imports all of them, and puts the rows in their order, whichever was imported before."""
    modules = [import_module(f"{__package__}.{name}").__name__ for name in GROUPS]
    rows = sorted(ROWS.items(), key=lambda item: _place(item[1], modules))
    ROWS.clear()
    ROWS.update(rows)


def _place(row: Row, modules: list[str]) -> int:
    module = row.measure.__module__
    return modules.index(module) if module in modules else len(modules)
