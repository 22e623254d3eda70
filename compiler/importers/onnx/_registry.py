"""The table of operators: a converter is found by the operator's name and by the version of its schema.

    @op("Softmax", since=[1, 13])
    def softmax(n: Node) -> Any: ...

`since` lists the schema versions that the function implements; a node whose schema (the newest one not above the
model's opset) is older than the first of them is refused, as is one that is newer than the last if that version is not listed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ._node import Node

__all__ = [
    "Converter",
    "find",
    "find_equivalent",
    "find_shape_op",
    "find_string_op",
    "op",
    "same_as",
    "shape_op",
    "string_op",
    "supported",
]

Convert = Callable[[Node], Any]


@dataclass(frozen=True)
class Converter:
    name: str
    domain: str
    since: tuple[int, ...]
    convert: Convert


_CONVERTERS: dict[tuple[str, str], list[Converter]] = {}
_SHAPE_OPS: dict[str, Convert] = {}
_STRING_OPS: dict[tuple[str, str], Convert] = {}


def op(*names: str, since: int | list[int] | None = None, domain: str = "") -> Callable[[Convert], Convert]:
    """Register a converter for the operators `names` at the schema versions `since` (None: every version)."""
    versions = () if since is None else (since,) if isinstance(since, int) else tuple(since)

    def register(function: Convert) -> Convert:
        for name in names:
            _CONVERTERS.setdefault((domain, name), []).append(Converter(name, domain, versions, function))
        return function

    return register


@dataclass(frozen=True)
class Equivalent:
    """An operator of the default domain, at a version of its schema."""

    name: str
    version: int


_EQUIVALENTS: dict[tuple[str, str], Equivalent] = {}


def same_as(domain: str, name: str, version: int, of: str = "") -> None:
    """The operator `name` of another domain is the default domain's of this name, or `of`, at schema `version`."""
    _EQUIVALENTS[domain, name] = Equivalent(of or name, version)


def find_equivalent(domain: str, name: str) -> Equivalent | None:
    return _EQUIVALENTS.get((domain, name))


def shape_op(*names: str) -> Callable[[Convert], Convert]:
    """Register an evaluator for nodes whose inputs are all known as constants or as expressions of symbols. It returns an
    array (object dtype for expressions) or None if it cannot tell; then the node is converted like any other."""

    def register(function: Convert) -> Convert:
        for name in names:
            _SHAPE_OPS[name] = function
        return function

    return register


def string_op(name: str, *, domain: str = "") -> Callable[[Convert], Convert]:
    """Register what converts an operator of numbers where its inputs are strings."""

    def register(function: Convert) -> Convert:
        _STRING_OPS[domain, name] = function
        return function

    return register


def find(domain: str, name: str, version: int) -> Converter | None:
    """The converter of an operator whose schema has this version."""
    for converter in _CONVERTERS.get((domain, name), ()):
        if not converter.since or version in converter.since:
            return converter
    return None


def has_converter(domain: str, name: str) -> bool:
    return (domain, name) in _CONVERTERS


def find_string_op(domain: str, name: str) -> Convert | None:
    return _STRING_OPS.get((domain, name))


def find_shape_op(name: str) -> Convert | None:
    return _SHAPE_OPS.get(name)


def supported() -> dict[str, list[int]]:
    """Operators of the default domain and the schema versions that are converted ([]: all)."""
    out: dict[str, list[int]] = {}
    for (domain, name), converters in sorted(_CONVERTERS.items()):
        key = f"{domain}::{name}" if domain else name
        out[key] = sorted({v for c in converters for v in c.since})
    for domain, name in sorted(_EQUIVALENTS):
        out[f"{domain}::{name}"] = []
    return out
