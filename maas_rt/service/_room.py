"""The memory for models: what fits, what goes for what has no room, and what goes because nobody asks for it.

Where several processes serve the same, they have each file in memory once, and one of them decides for all: what nobody uses in any of them may go, by
its last use in any of them. What a request begins to use while it goes stays until that has ended; nothing takes its room before.
"""

from __future__ import annotations

import logging
from collections.abc import Collection

from ._catalogue import Catalogue, Loaded
from ._errors import ServiceError
from ._uses import Name, Others, Uses


class Room:
    """For one change of a repository at a time.

    Args:
        memory: bytes of what may be loaded at once; 0: any.
        others: the other processes that serve the same; None: there are none.
    """

    def __init__(self, catalogue: Catalogue, memory: int, others: Others | None) -> None:
        self._catalogue = catalogue
        self._memory = memory
        self._others = others
        self._leaving: dict[Name, int] = {}  # bytes of what was put to sleep while another process began to use it

    def make(self, size: int, evict: bool, spared: str | None) -> bool:
        """Whether so many more bytes fit; `evict`: if need be without versions that nobody uses now, those that were used least recently first; none of
        the model `spared`.
        """
        if not self._memory:
            return True
        uses = self._uses() if evict else []
        if evict:
            self._keep_leaving(uses)
        with self._catalogue.change() as ended:
            gone: list[Loaded] = []
            missing = size - self._left()
            for each, _ in sorted(self._unused(uses), key=lambda found: found[1]) if evict else []:
                name, number, _ = each
                if missing > 0 and name != spared:
                    gone.append(each)
                    missing -= self._catalogue.models[name].sizes[number]
            if missing > 0:
                return False
            sizes = {(name, number): self._catalogue.models[name].sizes[number] for name, number, _ in gone}
            ended += self._catalogue.put_to_sleep(gone)
        if gone and self._others is not None:
            self._leaving |= sizes
            self._tell()
            self._keep_leaving(self._uses())
        return size <= self._left()

    def leave_idle(self, before: int) -> None:
        """Puts to sleep what nobody has used since that time, in nanoseconds of time.monotonic_ns."""
        uses = self._uses()
        with self._catalogue.change() as ended:
            gone = [each for each, used in self._unused(uses) if used <= before]
            ended += self._catalogue.put_to_sleep(gone)
        if gone:
            self._tell()

    def _left(self) -> int:
        return self._memory - self._catalogue.size() - sum(self._leaving.values())

    def _uses(self) -> list[Uses]:
        return [] if self._others is None else self._others.uses()

    def _unused(self, uses: Collection[Uses]) -> list[tuple[Loaded, int]]:
        """What nobody uses anywhere, and when somebody did last; with the catalogue's lock."""
        found = []
        for each in self._catalogue.unused():
            name = each[0], each[1]
            if not any(name in other.used for other in uses):
                found.append((each, max(each[2].used, *(other.unused.get(name, 0) for other in uses), 0)))
        return found

    def _keep_leaving(self, uses: Collection[Uses]) -> None:
        own = self._catalogue.uses().used
        self._leaving = {
            name: size for name, size in self._leaving.items() if name in own or any(name in each.used for each in uses)
        }

    def _tell(self) -> None:
        if self._others is not None:
            try:
                self._others.publish()
            except ServiceError as error:  # who could not follow goes
                logging.getLogger(__name__).warning("%s", error)
