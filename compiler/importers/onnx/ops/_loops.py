"""Generated functions that are loops with a carried value: those that all importers share."""

from __future__ import annotations

from ..._imperative import flat_extents, imperative, running, variable

__all__ = ["flat_extents", "imperative", "running", "variable"]
