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
    DecryptionError,
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
    from maas_rt._onnxruntime import *  # noqa: F403
    from maas_rt._onnxruntime_values import OrtValue  # noqa: F401

__all__ = [
    "CancelToken",
    "CancelledError",
    "CheckpointError",
    "CodeRefusedError",
    "CompileError",
    "DeadlineExceededError",
    "DecryptionError",
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


# What scripts for ONNX Runtime find with `import maas_rt as ort`; not in __all__, for the names are another package's.
_ONNXRUNTIME = frozenset(
    {
        "ExecutionMode",
        "GraphOptimizationLevel",
        "IOBinding",
        "InferenceSession",
        "ModelMetadata",
        "NodeArg",
        "OrtValue",
        "RunOptions",
        "SessionOptions",
        "disable_telemetry_events",
        "enable_telemetry_events",
        "get_all_providers",
        "get_available_providers",
        "get_build_info",
        "get_device",
        "get_version_string",
        "preload_dlls",
        "set_default_logger_severity",
        "set_default_logger_verbosity",
        "set_seed",
    }
)


def __getattr__(name: str) -> object:
    module = "maas_rt._model" if name in _NATIVE else "maas_rt._onnxruntime" if name in _ONNXRUNTIME else None
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
