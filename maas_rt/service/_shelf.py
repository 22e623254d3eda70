"""Files that all processes of a server have."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol


class Superseded(Exception):
    """There is a newer picture than the one that names this file."""


class Shelf(Protocol):
    """Where files lie that all processes have. Descriptors are the shelf's, and open until it drops them."""

    def put(self, path: Path) -> tuple[str, int]:
        """A file as it is now: its key, which no other has, and its descriptor.

        Raises:
            OSError: it cannot be read.
            Error: there is no room.
        """
        ...

    def get(self, key: str) -> int:
        """The file that was put under a key, by whichever process.

        Raises:
            Superseded: nobody serves it any more.
        """
        ...

    def share(self, descriptor: int) -> str:
        """Puts a file that this process has open there, and returns its key. The descriptor stays the caller's."""
        ...

    def drop(self, key: str) -> None:
        """This process needs the descriptor no more: it has mapped the file, or refused it. To drop it twice is to drop it once."""
        ...
