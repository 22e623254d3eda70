"""How a converter refuses a node, and the importer's refusals as the project's exceptions."""

from __future__ import annotations

from maas_rt._errors import ImportModelError, UnsupportedOperatorError

__all__ = ["Broken", "Refused", "Unsupported", "broken_model", "unsupported_error"]


class Refused(Exception):
    """The node's operator, or this use of it, is not supported; the text says why."""


class Broken(Exception):
    """The node contradicts the ONNX specification; the text says how."""


class Unsupported:
    """Operators that were refused: (operator, reason) -> places."""

    def __init__(self) -> None:
        self.entries: dict[tuple[str, str], list[str]] = {}

    def add(self, operator: str, reason: str, place: str) -> None:
        self.entries.setdefault((operator, reason), []).append(place)


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
