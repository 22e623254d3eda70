"""Tuning: the ways that there are to do a step, timed on this machine; the quickest goes into the file."""

from __future__ import annotations

from ._cache import default_cache
from ._tuner import Tuning, tune

__all__ = ["Tuning", "default_cache", "tune"]
