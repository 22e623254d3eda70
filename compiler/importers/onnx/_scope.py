"""The names of an ONNX graph or function body while it is converted."""

from __future__ import annotations

import onnx

from ._values import Value

__all__ = ["Scope"]


class Scope:
    """Names of one graph or function body; a subgraph sees the names of what encloses it."""

    def __init__(self, opsets: dict[str, int], parent: Scope | None = None, depth: int = 0, prefix: str = "") -> None:
        self.opsets = opsets
        self.parent = parent
        self.depth = depth
        self.prefix = prefix
        self.values: dict[str, Value] = {}
        self.attributes: dict[str, onnx.AttributeProto] | None = None  # of the call, inside a function body

    def find(self, name: str) -> Value | None:
        scope: Scope | None = self
        while scope is not None:
            if name in scope.values:
                return scope.values[name]
            scope = scope.parent
        return None

    def root(self) -> Scope:
        """The scope of the model's own graph."""
        return self if self.parent is None else self.parent.root()
