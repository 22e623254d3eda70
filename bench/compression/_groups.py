"""The modules that register rows, in the table's order."""

from __future__ import annotations

from importlib import import_module

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
    "learned",
    "workers",
)


def load() -> None:
    """Imports all of them."""
    for name in GROUPS:
        import_module(f"{__package__}.{name}")
