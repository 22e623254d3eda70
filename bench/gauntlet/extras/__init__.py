"""Further targets of the gauntlet's table, each a measurement of its own: `measure(told)` gives a record for the JSON."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

NAMES = ("scaling", "together", "cliffs", "overhead", "gemm", "compile_time", "library")


def measure(name: str, told: Callable[[str], None]) -> dict[str, Any]:
    """Run one of NAMES."""
    result: dict[str, Any] = importlib.import_module(f"bench.gauntlet.extras.{name}").measure(told)
    return result
