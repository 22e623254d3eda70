"""maas_rt: runs compiled models (model.mrt). Imports numpy and its own native library, nothing else.

    m = maas_rt.load("model.mrt")
    y = m(x)

What needs the compiled extension is imported on first use, so that maas_rt.capi and the errors are there without it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from maas_rt._errors import (
    CancelledError,
    CheckpointError,
    CodeRefusedError,
    CompileError,
    DeadlineExceededError,
    Error,
    FormatError,
    ImportModelError,
    InvalidArgumentError,
    MissingExtraError,
    ModelNotFoundError,
    SignatureError,
    TargetError,
    UnsupportedOperatorError,
    VerificationError,
)
from maas_rt._profile import Profile, StepRecord
from maas_rt._strings import decode_strings, encode_strings
from maas_rt._tensor_info import TensorInfo
from maas_rt._version import __version__

if TYPE_CHECKING:
    from maas_rt._model import CancelToken, Model, Session, State, load

__all__ = [
    "CancelToken",
    "CancelledError",
    "CheckpointError",
    "CodeRefusedError",
    "CompileError",
    "DeadlineExceededError",
    "Error",
    "FormatError",
    "ImportModelError",
    "InvalidArgumentError",
    "MissingExtraError",
    "Model",
    "ModelNotFoundError",
    "Profile",
    "Session",
    "SignatureError",
    "State",
    "StepRecord",
    "TargetError",
    "TensorInfo",
    "UnsupportedOperatorError",
    "VerificationError",
    "__version__",
    "decode_strings",
    "encode_strings",
    "load",
]

_NATIVE = frozenset({"CancelToken", "Model", "Session", "State", "load"})


def __getattr__(name: str) -> object:
    if name not in _NATIVE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module("maas_rt._model"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
