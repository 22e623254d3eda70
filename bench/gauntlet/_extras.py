"""Further targets of the same table, each a measurement of its own: GEMM, scaling, call overhead, compile time, size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Told = Callable[[str], None]
EXTRAS: dict[str, Callable[[Told], dict[str, Any]]] = {}
