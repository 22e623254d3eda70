"""Sequences: requests of one id go on with the state that the last one left, one at a time, on the version that the first one had.

Source: the sequence extension, https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_sequence.md.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

from .._model import State
from ._errors import Kind, ServiceError, bad_request, shown
from ._leases import Lease
from ._places import Places
from ._served import Served

SequenceId = int | str


@dataclass(eq=False)
class Sequence:
    """A sequence under way: `served` and `state` are for the request that has it (Sequences.take), and no other."""

    owner: str
    model: str
    id: SequenceId
    lease: Lease[Served]
    state: State
    place: int
    used: int  # when a request last gave it back
    busy: bool = True
    dropped: bool = False  # another has begun under its id
    waiting: deque[Future[Sequence]] = field(default_factory=deque)

    @property
    def served(self) -> Served:
        """The version that all of its requests run on."""
        return self.lease.value


class Sequences:
    """All sequences. Any thread may call anything; nothing waits.

    Args:
        idle: nanoseconds after which a sequence that nobody asks for ends.
        places: how many there may be.
        queue: the most requests that wait for one sequence.
    """

    def __init__(
        self,
        idle: int = 60_000_000_000,
        places: Places | None = None,
        queue: int = 64,
        now: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._idle = idle
        self._places = places or Places()
        self._queue = queue
        self._now = now
        self._lock = threading.Lock()
        self._sequences: dict[tuple[str, str, SequenceId], Sequence] = {}

    @property
    def idle(self) -> int:
        """Nanoseconds after which a sequence ends that nobody asks for."""
        return self._idle

    def __len__(self) -> int:
        return len(self._sequences)

    def take(
        self, model: str, identifier: SequenceId, start: bool, lease: Lease[Served], owner: str = ""
    ) -> Future[Sequence]:
        """A sequence for one request, which gives it back (`give_back`) once the future has a result.

        `lease` is the version that the request itself means. A sequence that starts keeps it. One that goes on ends it, and runs on
        the version that it began with. `owner` is whose it is: no other client finds it under its id.

        Raises:
            ServiceError: BAD_REQUEST if it has not begun, OVERLOADED if there are too many. The lease is then ended.
        """
        try:
            self.expire()
            return (self._start if start else self._go_on)(owner, model, identifier, lease)
        except BaseException:
            lease.end()
            raise

    def give_back(self, sequence: Sequence, end: bool = False) -> None:
        """After a request, successful or not: the next one that waits has it. `end`: it was the last, and others are refused."""
        with self._lock:
            sequence.used = self._now()
            follower = None if end else self._next(sequence)
            end = end or (sequence.dropped and follower is None)
            sequence.busy = follower is not None
            refused = list(sequence.waiting) if end else []
            if end:
                sequence.waiting.clear()
                self._forget(sequence)
        if follower is not None:
            follower.set_result(sequence)
        if end:
            sequence.lease.end()
        for future in refused:
            if future.set_running_or_notify_cancel():
                future.set_exception(unknown(sequence.model, sequence.id))

    def expire(self) -> None:
        """Ends the sequences that were idle too long; to be called now and then."""
        with self._lock:
            before = self._now() - self._idle
            gone = [each for each in self._sequences.values() if not each.busy and each.used <= before]
            for sequence in gone:
                self._forget(sequence)
        for sequence in gone:
            sequence.lease.end()

    def close(self) -> None:
        """Ends those that nobody uses, and every other one when it is given back."""
        with self._lock:
            gone = [each for each in self._sequences.values() if not each.busy]
            for sequence in list(self._sequences.values()):
                sequence.dropped = True
                self._forget(sequence)
        for sequence in gone:
            sequence.lease.end()

    def _start(self, owner: str, model: str, identifier: SequenceId, lease: Lease[Served]) -> Future[Sequence]:
        state = lease.value.state()
        with self._lock:
            old = self._sequences.get((owner, model, identifier))
            place = self._places.take(owner) if old is None else old.place
            sequence = Sequence(owner, model, identifier, lease, state, place, self._now())
            idle = old is not None and not old.busy
            if old is not None:
                old.dropped = True
            self._sequences[owner, model, identifier] = sequence
        if old is not None and idle:
            old.lease.end()
        future: Future[Sequence] = Future()
        future.set_result(sequence)
        return future

    def _go_on(self, owner: str, model: str, identifier: SequenceId, lease: Lease[Served]) -> Future[Sequence]:
        future: Future[Sequence] = Future()
        with self._lock:
            sequence = self._sequences.get((owner, model, identifier))
            if sequence is None:
                raise unknown(model, identifier)
            if sequence.busy and len(sequence.waiting) >= self._queue:
                text = f"{self._queue} requests wait for sequence {shown(identifier)} of model {shown(model)} already"
                raise ServiceError(Kind.OVERLOADED, text, 1)
            if sequence.busy:
                sequence.waiting.append(future)
            else:
                sequence.busy = True
                future.set_result(sequence)
        lease.end()
        return future

    def _next(self, sequence: Sequence) -> Future[Sequence] | None:
        """The first that waits and was not cancelled."""
        while sequence.waiting:
            future = sequence.waiting.popleft()
            if future.set_running_or_notify_cancel():
                return future
        return None

    def _forget(self, sequence: Sequence) -> None:
        key = (sequence.owner, sequence.model, sequence.id)
        if self._sequences.get(key) is sequence:
            del self._sequences[key]
            self._places.give_back(sequence.place)


def unknown(model: str, identifier: SequenceId) -> ServiceError:
    """What is told of a sequence that is not there."""
    return bad_request(
        f"sequence {shown(identifier)} of model {shown(model)} has not begun, has ended or was idle too long: begin it with "
        '"sequence_start"'
    )
