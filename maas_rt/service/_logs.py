"""What the server logs, on standard error: as lines for people or as JSON for machines, each with the request that it is about.

No line holds a token: what looks like one is left out, whoever wrote it there.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any

from ._keys import PREFIX
from ._settings import LOGGER
from ._tracing import CURRENT

FORMATS = ("text", "json")
REQUESTS = logging.getLogger("maas_rt.service.requests")
REQUESTS.setLevel(logging.WARNING)  # a line for each request costs time: only who asks for them gets them
_SECRET = re.compile(rf"\b{re.escape(PREFIX)}[A-Za-z0-9_-]+|\beyJ[\w-]*\.[\w-]+\.[\w-]*|(?i:(?<=bearer )\S+)")
_LEFT_OUT = "[a token]"


@contextmanager
def logging_as(format_: str, requests: bool = False) -> Iterator[None]:
    """Logs of this process go to standard error in a form of FORMATS while the block runs; with `requests` a line for each of them."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if format_ == "json" else _Text())
    root, level = logging.getLogger(), LOGGER.level
    root.addHandler(handler)
    if level == logging.NOTSET:
        LOGGER.setLevel(logging.INFO)
    if requests:
        REQUESTS.setLevel(logging.NOTSET)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        LOGGER.setLevel(level)
        REQUESTS.setLevel(logging.WARNING)
        root.removeHandler(handler)


def log_request(method: str, path: str, status: int, ns: int, client: str | None) -> None:
    """One line for a request that was answered."""
    if REQUESTS.isEnabledFor(logging.INFO):
        fields = {"method": method, "path": path, "status": status, "duration_ms": round(ns / 1e6, 3)}
        if client:
            fields["client"] = client
        text = f"{method} {path} {status} {ns / 1e6:.3f} ms"
        REQUESTS.info("%s", text, extra={"fields": fields})


def without_secrets(text: str) -> str:
    """A text in which nothing looks like a token."""
    return _SECRET.sub(_LEFT_OUT, text)


class _Text(logging.Formatter):
    """The message, on one line but for tracebacks, and the request it is about."""

    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage().replace("\r", "\\r").replace("\n", "\\n")
        trail = CURRENT.get()
        if trail is not None:
            text += f" (request {trail.request_id})"
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        return without_secrets(text)


class _Json(logging.Formatter):
    """An object on a line, in ASCII."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {
            "time": moment.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": without_secrets(record.getMessage()),
        }
        trail = CURRENT.get()
        if trail is not None:
            line["request_id"] = trail.request_id
            if trail.trace_id:
                line |= {"trace_id": trail.trace_id, "span_id": trail.span_id}
        for name, value in getattr(record, "fields", {}).items():
            line[name] = without_secrets(value) if isinstance(value, str) else value
        if record.exc_info:
            line["traceback"] = without_secrets(self.formatException(record.exc_info))
        return json.dumps(line)
