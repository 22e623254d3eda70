"""Generated functions: schedules for what no kernel does, object code per target, one shared object per code section."""

from __future__ import annotations

from ._build import build_code
from ._targets import TARGETS, TargetSpec, native_level, resolve_targets

__all__ = ["TARGETS", "TargetSpec", "build_code", "native_level", "resolve_targets"]
