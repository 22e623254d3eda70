"""Recipes as TOML: what is done to a model, for people to read, and for a later compile to do again. Calibration data are not in it.

    version = 1
    quantize = "int8"       # of all layers: a method of [methods], or one of these kinds as it is by default

    [methods.small]
    kind = "weight_only"    # int8, int8_dynamic, weight_only, half or prune; what is not given is as by default
    bits = 4
    group = "channel"

    [layers]                # by patterns of names, the first that fits
    "head" = "float"
    "encoder.*" = "small"

`prune` and `[prune_layers]` in the same way, where "dense" is for layers that are not pruned. Which kinds there are, and what is set of
each, the caller says (`_recipes.py`): by their words dataclasses, of which "prune" prunes and the others quantize.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import fields
from difflib import get_close_matches
from typing import Any

from maas_rt._errors import InvalidArgumentError, MissingExtraError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["from_toml", "to_toml"]

_UNTOUCHED = {"layers": "float", "prune_layers": "dense"}  # how None is said there
_USERS = ("quantize", "prune", *_UNTOUCHED)  # of methods
_KEYS = ("version", "methods", *_USERS)
_VERSION = 1
_WHOLE_ROW = ("group", "channel")  # how None is said of a method
_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", dict: "a table"}

Kinds = Mapping[str, type[Any]]
Method = Any  # an object of one of them


def to_toml(recipe: Any, kinds: Kinds) -> str:
    """The Recipe without its data. Every field is written, so that it stays what it is where defaults change."""
    try:
        import tomli_w
    except ModuleNotFoundError as error:
        raise MissingExtraError("Recipe.to_toml", "compiler", "tomli_w") from error
    methods: list[Method] = [*recipe.methods, *recipe.prunings]
    words = [next(word for word, kind in kinds.items() if type(method) is kind) for method in methods]
    names = _names(words)

    def name_of(method: Method, none: str) -> str:
        return none if method is None else next(name for name, each in zip(names, methods) if each is method)

    document: dict[str, Any] = {"version": recipe.version}
    document |= {
        key: name_of(method, "")
        for key, method in (("quantize", recipe.quantize), ("prune", recipe.prune))
        if method is not None
    }
    document["methods"] = {name: _table(word, method) for name, word, method in zip(names, words, methods)}
    patterns: dict[str, Mapping[str, Method]] = {"layers": recipe.layers, "prune_layers": recipe.prune_layers}
    for key, chosen in patterns.items():
        document[key] = {pattern: name_of(method, _UNTOUCHED[key]) for pattern, method in chosen.items()}
    text: str = tomli_w.dumps({key: value for key, value in document.items() if value != {}})
    return text


def _names(words: list[str]) -> list[str]:
    """The words, with a number behind those that are taken."""
    counts = [words[: i + 1].count(word) for i, word in enumerate(words)]
    return [word if count == 1 else f"{word}_{count}" for word, count in zip(words, counts)]


def _table(word: str, method: Method) -> dict[str, Any]:
    table: dict[str, Any] = {"kind": word}
    for name, kind in _types(type(method)).items():
        value = getattr(method, name)
        table[name] = _WHOLE_ROW[1] if value is None else kind(value)
    return table


def _types(kind: type[Any]) -> dict[str, type[Any]]:
    """What is set of a method, by the types of the defaults."""
    return {each.name: type(each.default) for each in fields(kind) if each.name != "calibration"}


def from_toml(text: str, kinds: Kinds) -> dict[str, Any]:
    """The fields of the Recipe that `text` says.

    Raises InvalidArgumentError: it is no TOML, of a newer version, or says what no recipe has; the message names the place.
    """
    document = _parsed(text)
    version = _known_version(document)
    _check_known("the recipe", document, _KEYS)
    named = _Named(kinds)
    for name, table in _of_tables(document, "methods").items():
        named.add(name, table)
    found: dict[str, Any] = {
        "version": version,
        **{
            key: named.find(document[key], f"the recipe's {key}", key == "prune")
            for key in ("quantize", "prune")
            if key in document
        },
        **{key: _by_pattern(document, key, named) for key in _UNTOUCHED},
    }
    named.check_all_found()
    return found


def _parsed(text: str) -> dict[str, Any]:
    if not isinstance(text, str):
        raise InvalidArgumentError(f"the recipe is a {type(text).__name__}, expected the text of a TOML document")
    try:
        document: dict[str, Any] = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # also of a number of too many digits, and of what is nested too deep
        raise InvalidArgumentError(f"the recipe is not TOML: {error}") from None
    return document


def _known_version(document: Mapping[str, Any]) -> int:
    if "version" not in document:
        raise InvalidArgumentError(f"the recipe has no version, expected version = {_VERSION} at its top")
    version = _typed(document["version"], int, "the recipe's version")
    if not 1 <= version <= _VERSION:
        raise InvalidArgumentError(
            f"the recipe has version {version}, and this compiler reads {_VERSION}: take a newer maas_rt, or write the recipe anew"
        )
    return int(version)


class _Named:
    """The methods by their names: those of [methods], and kinds as they are by default, each one object wherever it is named."""

    def __init__(self, kinds: Kinds) -> None:
        self._kinds = kinds
        self._methods: dict[str, Method] = {}
        self._found: set[str] = set()

    def add(self, name: str, table: Any) -> None:
        """One of [methods]."""
        where = f"the recipe's method {name!r}"
        if name in _UNTOUCHED.values():
            raise InvalidArgumentError(f"{where} has a name that stands for no method: give it another one")
        _typed(table, dict, where)
        word = table.get("kind")
        if not isinstance(word, str) or word not in self._kinds:
            said = "has no kind" if word is None else f"has the kind {word!r}"
            known = list(self._kinds)
            raise InvalidArgumentError(f"{where} {said}, expected one of {', '.join(known)}{_nearest(word, known)}")
        types = _types(self._kinds[word])
        _check_known(where, table, ("kind", *types))
        options = {
            key: _option(key, value, types[key], f"{key} of {where}") for key, value in table.items() if key != "kind"
        }
        try:
            self._methods[name] = self._kinds[word](**options)
        except InvalidArgumentError as error:
            raise InvalidArgumentError(f"{where}: {error}") from None

    def find(self, name: Any, where: str, prunes: bool, none: str | None = None) -> Method:
        """The method of this name, which prunes, or quantizes; None for the name `none`, where there is one."""
        if _typed(name, str, where) == none:
            return None
        self._found.add(name)
        if name in self._kinds and name not in self._methods:
            self._methods[name] = self._kinds[name]()
        method = self._methods.get(name)
        if method is None or self._prunes(method) != prunes:
            known = [each for each, other in self._methods.items() if self._prunes(other) == prunes]
            known += [word for word in self._kinds if (word == "prune") == prunes and word not in self._methods]
            known += [none] if none else []
            raise InvalidArgumentError(
                f"{where} is {name!r}, expected a method that {'prunes' if prunes else 'quantizes'}: one of {', '.join(known)}"
                f"{_nearest(name, known)}"
            )
        return method

    def check_all_found(self) -> None:
        """Raises InvalidArgumentError for a method that nothing has."""
        for name in self._methods:
            if name not in self._found:
                raise InvalidArgumentError(
                    f"nothing has the recipe's method {name!r}: name it in {', '.join(_USERS)}, or take it out"
                )

    def _prunes(self, method: Method) -> bool:
        return isinstance(method, self._kinds["prune"])


def _by_pattern(document: Mapping[str, Any], key: str, named: _Named) -> dict[str, Method]:
    found: dict[str, Method] = {}
    for pattern, name in _of_tables(document, key).items():
        where = f"[{key}] of the recipe: {pattern!r}"
        if isinstance(name, dict):
            inner = f"{pattern}.{next(iter(name), '...')}"
            raise InvalidArgumentError(
                f'{where} is a table, expected the name of a method: a name with dots has quotes, as "{inner}" = ...'
            )
        found[pattern] = named.find(name, where, key == "prune_layers", _UNTOUCHED[key])
    return found


def _of_tables(document: Mapping[str, Any], key: str) -> dict[str, Any]:
    table: dict[str, Any] = _typed(document.get(key, {}), dict, f"the recipe's {key}")
    return table


def _option(key: str, value: Any, kind: type[Any], where: str) -> Any:
    """What is set of a method."""
    if (key, value) == _WHOLE_ROW:
        return None
    return _typed(value, kind, where, f", or {_WHOLE_ROW[1]!r}" if key == _WHOLE_ROW[0] else "")


def _typed(value: Any, kind: type[Any], where: str, other: str = "") -> Any:
    """The value, a whole number where any is expected as a float. `other`: what else could stand there, for the message."""
    if type(value) is int and not -(2**63) <= value < 2**63:
        raise InvalidArgumentError(f"{where} is a whole number of more than 64 bits, which TOML does not have")
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise InvalidArgumentError(f"{where} is {value!r}, expected {_WORDS[kind]}{other}")
    return value


def _check_known(where: str, table: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for key in table:
        if key not in known:
            raise InvalidArgumentError(f"{where} has {key!r}, expected {', '.join(known)}{_nearest(key, known)}")


def _nearest(word: Any, known: Any) -> str:
    """What was meant, perhaps."""
    near = get_close_matches(word, list(known), n=1) if isinstance(word, str) else []
    return f" (did you mean {near[0]}?)" if near else ""
