"""Generated functions: schedules for what no kernel does, object code per target, one shared object per code section."""

from __future__ import annotations

from ._build import build_code, build_object
from ._collect import GeneratedFunctions, collect_functions
from ._exact import LEGALIZE as _EXACT
from ._fill import LEGALIZE as _FILL
from ._object import LinkableCode
from ._ordering import LEGALIZE as _ORDERING
from ._pointwise import is_pointwise
from ._quantize import LEGALIZE as _QUANTIZE
from ._schedule import schedule_function, schedule_functions
from ._targets import TARGETS, TargetSpec, native_level, resolve_targets, runs_on_this_cpu

__all__ = [
    "LEGALIZE",
    "TARGETS",
    "GeneratedFunctions",
    "LinkableCode",
    "TargetSpec",
    "build_code",
    "build_object",
    "collect_functions",
    "is_pointwise",
    "native_level",
    "resolve_targets",
    "runs_on_this_cpu",
    "schedule_function",
    "schedule_functions",
]

LEGALIZE = {**_EXACT, **_FILL, **_ORDERING, **_QUANTIZE}
