"""What a run says where a number that it computes is none that the model takes: importers leave the sentence, the plan's builder
finds it by the name of the binding that turns a tensor into sizes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["Tellings", "Told", "readable", "told"]

_MARK = "mrt_told_"
_MARKED = re.compile(_MARK + r"(\d+)_(.*)")


@dataclass(frozen=True)
class Told:
    """`kind` is the attribute of the bind step (FORMAT.md says what the runtime makes of each): "assumed" of the inputs' shapes, "indices" of
    a place that looks up, "number" names what is out of its bounds, "refused" is a sentence of its own. "place" is none of these: it says where
    extents that must be equal meet."""

    kind: Literal["assumed", "indices", "number", "place", "refused"]
    text: str


class Tellings:
    """The sentences of one import."""

    def __init__(self) -> None:
        self.said: list[Told] = []

    def name(self, what: Told, plain: str) -> str:
        """The name that says it, of a binding that would be called `plain`."""
        self.said.append(what)
        return f"{_MARK}{len(self.said) - 1}_{plain}"


def told(name: str, said: Sequence[Told]) -> tuple[Told | None, str]:
    """What the binding of this name says, and its plain name."""
    found = _MARKED.fullmatch(name)
    if found is None or int(found[1]) >= len(said):
        return None, name
    return said[int(found[1])], found[2]


def readable(expr: Any) -> str:
    """The expression as a person writes it: TVM's text without the types of its numbers."""
    return re.sub(r"T\.int64\((-?\d+)\)", r"\1", str(expr)).replace("T.", "")
