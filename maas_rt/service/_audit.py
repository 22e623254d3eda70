"""The audit log: each administrative call, whoever made it and however it ended, as a line of JSON. It holds no tokens and no request bodies."""

from __future__ import annotations

import json
import logging
import logging.handlers
import os
import sys
from datetime import datetime, timezone
from io import TextIOWrapper
from pathlib import Path
from typing import TextIO

from .._errors import InvalidArgumentError

LOGGER = "maas_rt.audit"


class Audit:
    """Writes to a file, which is opened again when it was moved away (logrotate), or to standard error. Any thread may call it."""

    def __init__(self, path: Path | None = None, stream: TextIO | None = None) -> None:
        handler: logging.Handler
        if path is None:
            handler = logging.StreamHandler(stream or sys.stderr)
        else:
            try:
                handler = _Private(path, encoding="utf-8")
            except OSError as error:
                raise InvalidArgumentError(
                    f"the audit log {path} cannot be written: {error.strerror or error}"
                ) from None
        self._handler = handler

    def tell(self, now: int, event: str, **fields: str | int | None) -> None:
        """One line. `now` is the time in ns since 1970; fields that are None are left out. A file that cannot be written is told to the
        log of the server, with the line, and is tried again with the next one."""
        moment = datetime.fromtimestamp(now / 1e9, timezone.utc).isoformat(timespec="milliseconds")
        line = {"time": moment.replace("+00:00", "Z"), "event": event}
        line |= {name: value for name, value in fields.items() if value is not None}  # type: ignore[misc]
        text = json.dumps(line)  # in ASCII: a name with a line break in it stays on its line
        try:
            self._handler.handle(logging.LogRecord(LOGGER, logging.INFO, "", 0, text, None, None))
        except OSError as error:  # what it tells of has been done, and its caller hears that
            why = error.strerror or error
            logging.getLogger(__name__).error("the audit log cannot be written (%s), with this line: %s", why, text)

    def close(self) -> None:
        """Closes the file."""
        self._handler.close()


class _Private(logging.handlers.WatchedFileHandler):
    """A file that only its owner reads, from its first moment."""

    def _open(self) -> TextIOWrapper:
        descriptor = os.open(self.baseFilename, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        return open(descriptor, "a", encoding="utf-8")
