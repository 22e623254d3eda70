"""Trace and logging settings, in the words of Triton's extensions. Those of traces are told, and kept if they are changed: what is traced is for who
starts the server (_tracing), and what they say before that. No setting names a file: what writes files is for who starts the server.

Source: extension_trace.md and extension_logging.md at https://github.com/triton-inference-server/server/tree/main/docs/protocol.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ._errors import bad_request, shown

LOGGER = logging.getLogger("maas_rt.service")
_LEVELS = ("OFF", "TIMESTAMPS", "TENSORS", "PROFILE")
_DIGITS = 9  # of a number, at most
_TRACE: dict[str, Any] = {
    "trace_file": "",
    "trace_level": ["OFF"],
    "trace_rate": "1000",
    "trace_count": "-1",
    "log_frequency": "0",
    "trace_mode": "opentelemetry",
}
_TRACED = {
    "trace_level": ["TIMESTAMPS"],
    "trace_rate": "1",
}  # of every request; OpenTelemetry's own settings may leave some out
_LOG: dict[str, Any] = {
    "log_file": "",
    "log_info": True,
    "log_warning": True,
    "log_error": True,
    "log_verbose_level": 0,
    "log_format": "default",
}


class Setting(NamedTuple):
    """One of them. `check` gives what is kept of a value, or raises ValueError with what was expected; the schemas say what is taken and what is told."""

    check: Callable[[Any], Any]
    taken: Mapping[str, Any]
    told: Mapping[str, Any]


class TraceSettings:
    """Those of the server, and what models have of their own. Any thread may call anything.

    Args:
        traced: spans are made of requests.
    """

    def __init__(self, traced: bool = False) -> None:
        self._lock = threading.Lock()
        self._first = {**_TRACE, **(_TRACED if traced else {})}
        self._set: dict[str | None, dict[str, Any]] = {}  # None: the server's

    def told(self, model: str | None = None) -> dict[str, Any]:
        """The settings that hold for a model, or the server's."""
        with self._lock:
            return {**self._first, **self._set.get(None, {}), **self._set.get(model, {})}

    def change(self, changes: object, model: str | None = None) -> dict[str, Any]:
        """Takes all changes or none, and returns what holds then; None takes a setting back.

        Raises:
            ServiceError: BAD_REQUEST.
        """
        checked = _checked(changes, TRACE_SETTINGS, "trace")
        with self._lock:
            found = {**self._set.get(model, {}), **checked}
            self._set[model] = {name: value for name, value in found.items() if value is not None}
        return self.told(model)

    def kept(self) -> dict[str | None, dict[str, Any]]:
        """What was changed, for another process."""
        with self._lock:
            return {model: dict(settings) for model, settings in self._set.items()}

    def keep(self, settings: Mapping[str | None, Mapping[str, Any]]) -> None:
        """Becomes what another process has kept."""
        with self._lock:
            self._set = {model: dict(each) for model, each in settings.items()}


class LogSettings:
    """What the server logs. Any thread may call anything."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._set: dict[str, Any] = {}

    def told(self) -> dict[str, Any]:
        """The settings."""
        with self._lock:
            return {**_LOG, **self._set}

    def change(self, changes: object) -> dict[str, Any]:
        """Takes all changes or none, and returns what holds then.

        Raises:
            ServiceError: BAD_REQUEST.
        """
        checked = _checked(changes, LOG_SETTINGS, "logging")
        with self._lock:
            self._set.update(checked)
            self._set = {name: value for name, value in self._set.items() if value is not None}
            found = {**_LOG, **self._set}
        LOGGER.setLevel(_level(found))
        return found

    def kept(self) -> dict[str, Any]:
        """What was changed, for another process."""
        with self._lock:
            return dict(self._set)

    def keep(self, settings: Mapping[str, Any]) -> None:
        """Becomes what another process has kept."""
        with self._lock:
            if settings == self._set:
                return
            self._set = dict(settings)
            found = {**_LOG, **self._set}
        LOGGER.setLevel(_level(found))


def _level(settings: Mapping[str, Any]) -> int:
    if settings["log_verbose_level"]:
        return logging.DEBUG
    for name, level in (("log_info", logging.INFO), ("log_warning", logging.WARNING), ("log_error", logging.ERROR)):
        if settings[name]:
            return level
    return logging.CRITICAL


def _whole(value: Any) -> int | None:
    """A whole number, as JSON Schema has it: 5.0 is 5."""
    if type(value) is int or (type(value) is float and value.is_integer()):
        return int(value)
    return None


def _integer(least: int) -> Setting:
    """Told as text, as Triton does, and taken as text or a number."""

    def check(value: Any) -> Any:
        number = _whole(value)
        text = value if isinstance(value, str) else "" if number is None else str(number)
        sign, digits = ("-", text[1:]) if text.startswith("-") else ("", text)
        if not (digits.isascii() and digits.isdigit() and len(digits) <= _DIGITS) or int(sign + digits) < least:
            raise ValueError(f"an integer of {least} or more")
        return str(int(sign + digits))

    negative = {-1: f"|-0{{1,{_DIGITS}}}|-0{{0,{_DIGITS - 1}}}1", 0: f"|-0{{1,{_DIGITS}}}", 1: ""}[least]
    digits = f"[0-9]{{1,{_DIGITS}}}" if least < 1 else "0*[1-9][0-9]*"
    text = {"type": "string", "pattern": f"^({digits}{negative})$", "maxLength": _DIGITS + 1 if negative else _DIGITS}
    number = {"type": "integer", "minimum": least, "maximum": 10**_DIGITS - 1}
    return Setting(check, {"anyOf": [text, number]}, {"type": "string"})


def _trace_levels(value: Any) -> Any:
    levels = [value] if isinstance(value, str) else value
    if not isinstance(levels, list) or not levels or not all(level in _LEVELS for level in levels):
        raise ValueError(f"a list of {', '.join(_LEVELS)}")
    return list(levels)


def _no_file(value: Any) -> Any:
    if value != "":
        raise ValueError('"": no request makes this server write a file')
    return value


def _one_of(*values: Any) -> Setting:
    def check(value: Any) -> Any:
        if not any(value is each or (isinstance(value, str) and value == each) for each in values):
            raise ValueError(" or ".join(str(each).lower() for each in values))
        return value

    schema = {"enum": list(values)}
    return Setting(check, schema, schema)


def _verbose_level(value: Any) -> Any:
    level = _whole(value)
    if level is None or not 0 <= level < 2**31:
        raise ValueError("an integer of 0 or more")
    return level


_LEVEL = {"enum": list(_LEVELS)}
_LEVEL_LIST = {"type": "array", "items": _LEVEL, "minItems": 1}
_VERBOSE = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}
_FILE = Setting(_no_file, {"const": ""}, {"const": ""})
TRACE_SETTINGS: dict[str, Setting] = {
    "trace_file": _FILE,
    "trace_level": Setting(_trace_levels, {"anyOf": [_LEVEL, _LEVEL_LIST]}, _LEVEL_LIST),
    "trace_rate": _integer(1),
    "trace_count": _integer(-1),
    "log_frequency": _integer(0),
    "trace_mode": _one_of("opentelemetry"),
}
LOG_SETTINGS: dict[str, Setting] = {
    "log_file": _FILE,
    "log_info": _one_of(True, False),
    "log_warning": _one_of(True, False),
    "log_error": _one_of(True, False),
    "log_verbose_level": Setting(_verbose_level, _VERBOSE, _VERBOSE),
    "log_format": _one_of("default"),
}


def _checked(changes: object, checks: Mapping[str, Setting], what: str) -> dict[str, Any]:
    if not isinstance(changes, dict):
        raise bad_request(f"the {what} settings must be a JSON object")
    checked = {}
    for name, value in changes.items():
        if name not in checks:
            raise bad_request(f"{shown(name)} is no {what} setting; they are {', '.join(checks)}")
        try:
            checked[name] = None if value is None else checks[name].check(value)
        except ValueError as error:
            raise bad_request(f'the {what} setting "{name}" is {shown(value)} and must be {error}') from None
    return checked
