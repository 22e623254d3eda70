"""What a run says where a number that it computes is none that the model takes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

from tvm import relax

from ..ir import check

__all__ = ["RunCheck", "readable"]


@dataclass(frozen=True)
class RunCheck:
    """`kind` is the attribute of the bind step (FORMAT.md says what the runtime makes of each): "assumed" of the inputs' shapes, "indices" of
    a place that looks up, "number" names what is out of its bounds, "refused" is a sentence of its own."""

    kind: Literal["assumed", "indices", "number", "refused"]
    text: str

    def sizes(self, x: Any) -> relax.Call:
        """An int64 tensor of rank 1 as sizes, for a match_cast that binds symbols; a run says this of those that are out of bounds."""
        return check(x, kind=self.kind, text=self.text)


def readable(expr: Any) -> str:
    """The expression as a person writes it: TVM's text without the types of its numbers."""
    return re.sub(r"T\.int64\((-?\d+)\)", r"\1", str(expr)).replace("T.", "")
