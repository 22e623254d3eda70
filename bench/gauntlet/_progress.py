"""Progress on stderr: what is being done, how long it has taken, and what is left by the pace so far."""

from __future__ import annotations

import sys
import time


class Progress:
    """One line that is written again where stderr is a terminal; else a line for each finished step."""

    def __init__(self, steps: int) -> None:
        self._steps, self._done, self._start = steps, 0, time.monotonic()
        self._terminal = sys.stderr.isatty()
        self._title = ""

    def begin(self, title: str) -> None:
        self._title = title
        self.told("")

    def told(self, what: str) -> None:
        """What is happening inside the step."""
        if self._terminal:
            line = f"[{self._done}/{self._steps}, {self.left()}] {self._title} {what}"
            print(f"\r\x1b[K{line[:150]}", end="", file=sys.stderr, flush=True)

    def end(self, result: str) -> None:
        self._done += 1
        start = "\r\x1b[K" if self._terminal else ""
        print(f"{start}[{self._done}/{self._steps}, {self.left()}] {result}", file=sys.stderr, flush=True)

    def left(self) -> str:
        if self._done == 0:
            return "time left unknown"
        left = (time.monotonic() - self._start) / self._done * (self._steps - self._done)
        return f"{left / 60:.0f} min left" if left >= 90 else f"{left:.0f} s left"
