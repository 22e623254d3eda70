"""maas_rt: runs compiled models (model.mrt). Imports numpy and its own native library, nothing else."""

from __future__ import annotations

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
    SignatureError,
    TargetError,
    UnsupportedOperatorError,
    VerificationError,
)
from maas_rt._version import __version__

__all__ = [
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
    "SignatureError",
    "TargetError",
    "UnsupportedOperatorError",
    "VerificationError",
    "__version__",
]
