"""What processes that serve the same use of it, and what one of them asks of the others for that."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol

Name = tuple[str, int]  # of a version: its model and its number


@dataclass(frozen=True)
class Uses:
    """Of one process.

    Args:
        unused: what nobody uses there now, and when it was used last, in nanoseconds of time.monotonic_ns, which is one clock for all processes.
        used: what a request or a sequence uses there, be it that it is served no more.
    """

    unused: Mapping[Name, int]
    used: frozenset[Name]


class Others(Protocol):
    """The other processes. One of all decides what is loaded, the leader, and they follow."""

    @property
    def processes(self) -> int:
        """How many there are, with this one."""
        ...

    def uses(self) -> list[Uses]:
        """Theirs, of each of them; waits for it. Raises ServiceError NOT_READY where the server goes away."""
        ...

    def publish(self) -> None:
        """Has them serve what this one, the leader, does, and waits until they do. Raises ServiceError where one could not."""
        ...

    def wake(self, name: str, number: int) -> Future[Any]:
        """Has the leader load a version, and all serve it."""
        ...
