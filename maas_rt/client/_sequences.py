"""What both clients know of a sequence: its id, whether it has begun, what ends it."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from .._errors import InvalidArgumentError

ENDING = 5.0  # seconds for the request that ends a sequence which nobody ended


class Course:
    """Where a sequence of requests stands."""

    def __init__(self, id: int | str | None) -> None:
        if id is not None and not id:
            raise InvalidArgumentError(f"the id of a sequence is {id!r}, which means none")
        self.id = secrets.randbits(63) | 1 if id is None else id
        self._inputs: Mapping[str, object] | None = None  # of the last request that was answered, while it is under way
        self._begun = False
        self._ended = False

    def parameters(self, given: Mapping[str, Any] | None, last: bool) -> dict[str, Any]:
        """The parameters of the next request."""
        if self._ended:
            raise InvalidArgumentError(f"the sequence {self.id!r} has ended: begin another")
        marks = {"sequence_start": not self._begun, "sequence_end": last}
        return {**(given or {}), "sequence_id": self.id, **{name: True for name, value in marks.items() if value}}

    def answered(self, inputs: Mapping[str, object], last: bool) -> None:
        """A request was answered."""
        self._begun, self._ended = True, last
        self._inputs = None if last else inputs

    def ending(self) -> tuple[Mapping[str, object], dict[str, Any]] | None:
        """Its block ends: inputs and parameters of a request that ends it, if it is under way."""
        inputs = self._inputs
        marked = self.parameters(None, True) if inputs is not None else {}
        self._inputs, self._ended = None, True
        return None if inputs is None else (inputs, marked)
