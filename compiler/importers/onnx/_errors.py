"""The importer's refusals as the project's exceptions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maas_rt import CompileError, ImportModelError, UnsupportedOperatorError

if TYPE_CHECKING:
    from ._graph import Unsupported

__all__ = ["CompileError", "broken_model", "unsupported_error"]


def broken_model(sentence: str) -> ImportModelError:
    return ImportModelError(f"the ONNX model is not valid: {sentence}")


def unsupported_error(unsupported: Unsupported) -> UnsupportedOperatorError:
    """One error that lists every refused operator with where it stands and how often."""
    entries = [
        (operator if reason == "no converter" else f"{operator} ({reason})", places[0], len(places))
        for (operator, reason), places in unsupported.entries.items()
    ]
    listing = "; ".join(
        f"{name} at '{place}'" + (f" and {count - 1} more" if count > 1 else "") for name, place, count in entries
    )
    return UnsupportedOperatorError(f"the ONNX model uses operators that are not supported: {listing}", entries)
