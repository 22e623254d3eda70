"""What is read of a table of TOML: of the names that are known, and of the right types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .._errors import InvalidArgumentError

MOST = 2**31 - 1


def read_table(owner: Mapping[str, object], name: str, keys: set[str]) -> Mapping[str, Any]:
    """A table in another one, with no names but `keys`; an empty one where there is none."""
    table = owner.get(name, {})
    if not isinstance(table, dict):
        raise InvalidArgumentError(f"{name} is {table!r} and must be a table, [{name}]")
    check_names(table, name, keys)
    return table


def check_names(table: Mapping[str, object], what: str, keys: set[str]) -> None:
    """Refuses names that are not known."""
    unknown = sorted(set(table) - keys)
    if unknown:
        raise InvalidArgumentError(f"{what} has {', '.join(unknown)}, which is none of: {', '.join(sorted(keys))}")


def read_flag(table: Mapping[str, object], name: str) -> bool:
    """False by default."""
    value = table.get(name, False)
    if not isinstance(value, bool):
        raise InvalidArgumentError(f"{name} is {value!r} and must be true or false")
    return value


def read_number(table: Mapping[str, object], name: str, default: int, least: int = 0) -> int:
    """An integer from `least` to MOST."""
    value = table.get(name, default)
    if type(value) is not int or not least <= value <= MOST:
        raise InvalidArgumentError(f"{name} is {value!r} and must be an integer from {least} to {MOST}")
    return value
