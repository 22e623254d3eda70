"""The one sentence for a command whose extra is not installed."""

from __future__ import annotations

from types import ModuleType

from .._errors import MissingExtraError


def require_compiler() -> ModuleType:
    """maas_rt.compiler, or MissingExtraError with the pip line to type."""
    try:
        from .. import compiler
    except ModuleNotFoundError as error:
        if error.name and error.name.partition(".")[0] == "maas_rt":
            raise
        raise MissingExtraError("the compiler", "compiler", error.name or "its extra") from None
    return compiler
