"""Options of a command from four places: a flag goes before the environment, that before a file, that before the default.

An option --drain-delay is MAAS_RT_SERVE_DRAIN_DELAY in the environment and drain-delay in the file. What none of them knows is refused: a
server that was given its keys under a misspelt name would ask nobody for one.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._errors import Error, InvalidArgumentError

if sys.version_info >= (3, 11):
    import tomllib

_WORDS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


@dataclass(frozen=True)
class Layers:
    """The options of a command by their names, each with its default."""

    prefix: str
    actions: Mapping[str, tuple[argparse.Action, Any]]

    @classmethod
    def under(cls, parser: argparse.ArgumentParser, prefix: str, but: tuple[str, ...] = ()) -> Layers:
        """Takes over the defaults of all options that were added, but for these, and adds --config."""
        parser.add_argument(
            "--config",
            metavar="FILE.toml",
            help=f"options by their names, as port = 8000; the environment ({prefix}PORT) goes before it, and flags before both",
        )
        actions = {}
        for action in parser._actions:
            name = max(action.option_strings, key=len).lstrip("-") if action.option_strings else action.dest
            if name not in ("help", *but):
                actions[name] = (action, action.default)
                action.default = argparse.SUPPRESS  # so that only what was given is in the namespace
        return cls(prefix, actions)

    def resolve(self, args: argparse.Namespace, environment: Mapping[str, str] = os.environ) -> argparse.Namespace:
        """The options with what the environment and the file say of those that no flag gave.

        Raises:
            InvalidArgumentError: one of them says what is not known or not taken.
        """
        given = {name: text for name, text in environment.items() if name.startswith(self.prefix)}
        known = {self.prefix + name.replace("-", "_").upper(): name for name in self.actions}
        unknown = sorted(set(given) - set(known))
        if unknown:
            raise InvalidArgumentError(
                f"the environment has {unknown[0]}, which is none of: {', '.join(sorted(known))}"
            )
        file = getattr(args, "config", None) or given.get(self.prefix + "CONFIG")
        values = {} if not file else self._read(file)
        values |= {known[name]: self._of_text(known[name], text, name) for name, text in given.items()}
        resolved = {action.dest: values.get(name, default) for name, (action, default) in self.actions.items()}
        return argparse.Namespace(**{**resolved, **vars(args)})

    def _read(self, file: str) -> dict[str, Any]:
        try:
            table = _toml(Path(file).read_text(encoding="utf-8"))
        except OSError as error:
            raise InvalidArgumentError(f"the config {file} cannot be read: {error.strerror or error}") from None
        except ValueError as error:
            raise InvalidArgumentError(f"the config {file} is not TOML: {error}") from None
        unknown = sorted(set(table) - set(self.actions))
        if unknown:
            raise InvalidArgumentError(
                f"the config {file} has {unknown[0]!r}, which is none of: {', '.join(sorted(self.actions))}"
            )
        return {name: self._of_file(name, value, f"{name} in {file}") for name, value in table.items()}

    def _of_text(self, name: str, text: str, where: str) -> Any:
        action, _ = self.actions[name]
        if action.nargs == 0:
            if text.lower() not in _WORDS:
                raise InvalidArgumentError(f"{where} is {text!r} and must be true or false")
            return _switched(action, _WORDS[text.lower()])
        if _is_list(action):
            return [self._one(action, line, where) for line in text.splitlines() if line]
        return self._one(action, text, where)

    def _of_file(self, name: str, value: object, where: str) -> Any:
        action, _ = self.actions[name]
        if action.nargs == 0:
            if not isinstance(value, bool):
                raise InvalidArgumentError(f"{where} is {value!r} and must be true or false")
            return _switched(action, value)
        values = value if _is_list(action) and isinstance(value, list) else [value]
        for each in values:
            if isinstance(each, bool) or not isinstance(each, str | int | float):
                raise InvalidArgumentError(f"{where} is {each!r} and must be a text or a number")
        read = [self._one(action, str(each), where) for each in values]
        return read if _is_list(action) else read[0]

    def _one(self, action: argparse.Action, text: str, where: str) -> Any:
        try:
            value = action.type(text) if callable(action.type) else text
        except argparse.ArgumentTypeError as error:
            raise InvalidArgumentError(f"{where}: {error}") from None
        except ValueError:
            raise InvalidArgumentError(f"{where} is {text!r} and must be a number") from None
        if action.choices is not None and value not in action.choices:
            raise InvalidArgumentError(f"{where} is {text!r} and must be one of {', '.join(action.choices)}")
        return value


def _is_list(action: argparse.Action) -> bool:
    return isinstance(action, argparse._AppendAction)


def _switched(action: argparse.Action, on: bool) -> bool:
    """What a switch leaves: `--no-console` turns the console off."""
    return bool(action.const) if on else not action.const


def _toml(text: str) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        return tomllib.loads(text)
    try:
        import tomli
    except ModuleNotFoundError:
        raise Error("a config file needs tomli: run `pip install 'maas-rt[serve]'`") from None
    found: dict[str, Any] = tomli.loads(text)
    return found
