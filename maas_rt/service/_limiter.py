"""How much one client may ask: requests a second, and requests at once."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol

from .._errors import InvalidArgumentError
from ._errors import Kind, ServiceError

_SECOND = 1_000_000_000


@dataclass(frozen=True)
class Limits:
    """Of one client; 0 stands for no limit.

    Args:
        rate: requests a second in the long run.
        burst: requests that may come together before the rate holds; 0: as many as come in a second.
        in_flight: requests at once.
    """

    rate: float = 0.0
    burst: int = 0
    in_flight: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.rate <= 1e9 or (self.rate and self.rate < 1e-3):  # NaN fails both comparisons
            raise InvalidArgumentError(
                f"the rate of a client is {self.rate} and must be from 0.001 to 1e9 requests a second, or 0"
            )
        if self.burst < 0 or self.in_flight < 0:
            raise InvalidArgumentError(
                f"burst is {self.burst} and in_flight {self.in_flight}; both must be 1 or more, or 0 for no limit"
            )

    @property
    def interval_ns(self) -> int:
        """Between two requests in the long run."""
        return max(1, round(_SECOND / self.rate)) if self.rate else 0

    @property
    def depth(self) -> int:
        """Requests that may come together."""
        return self.burst or max(1, math.ceil(self.rate))


@dataclass
class _Bucket:
    """A client's state: when its bucket of tokens will be full again (all that GCRA, the generic cell rate algorithm, keeps), and its requests."""

    full_at: int = 0
    in_flight: int = 0


class Bucket(Protocol):
    """What `let_in` looks at, and changes."""

    full_at: int
    in_flight: int


class _Owner(Protocol):
    def give_back(self, bucket: Any, taken: int = 0) -> None: ...


class Admission:
    """A request that was let in, until `end`, or the end of a with block. To end it twice is to end it once. `limiter` has counted it; None: nobody has."""

    __slots__ = ("_bucket", "_limiter", "_taken")

    def __init__(self, limiter: _Owner | None, bucket: Bucket | None, taken: int) -> None:
        self._limiter = limiter
        self._bucket = bucket
        self._taken = taken

    def end(self) -> None:
        """The request has been answered."""
        limiter, self._limiter = self._limiter, None
        if limiter is not None:
            limiter.give_back(self._bucket)

    def withdraw(self) -> None:
        """It comes again, and was not asked."""
        limiter, self._limiter = self._limiter, None
        if limiter is not None:
            limiter.give_back(self._bucket, self._taken)

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()


def let_in(limits: Limits, bucket: Bucket, now: int) -> int:
    """Counts a request, and returns what its bucket has given; or raises ServiceError, RATE_LIMITED."""
    if limits.in_flight and bucket.in_flight >= limits.in_flight:
        text = f"this client has {limits.in_flight} requests in flight, its most; wait for one"
        raise ServiceError(Kind.RATE_LIMITED, text, 1)
    interval = limits.interval_ns
    if interval:
        allowed = (limits.depth - 1) * interval
        full_at = min(max(bucket.full_at, now), now + allowed + interval)
        wait = full_at - now - allowed
        if wait > 0:
            text = f"this client asks more often than its {limits.rate:g} requests a second"
            raise ServiceError(Kind.RATE_LIMITED, text, wait / _SECOND)
        bucket.full_at = full_at + interval
    bucket.in_flight += 1
    return interval


class Limiter:
    """Counts the requests of each client. Any thread may call anything.

    The table holds `clients` of them. One is forgotten only when that changes nothing, for its bucket is full and none of its requests is in
    flight; where nobody can be, newcomers share one bucket until somebody can: to come under many names wins nothing.
    """

    def __init__(self, limits: Limits, clients: int = 10_000) -> None:
        self._limits = limits
        self._most = clients
        self._lock = threading.Lock()
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()  # who asked last is last
        self._rest = _Bucket()

    def __len__(self) -> int:
        return len(self._buckets)

    def admit(self, client: str, now: int, limits: Limits | None = None) -> Admission:
        """Lets a request in, or refuses it at once.

        Args:
            now: the time in ns; a clock that is set back costs a client its burst at most.
            limits: the client's own.

        Raises:
            ServiceError: RATE_LIMITED, with the seconds to wait.
        """
        limits = limits or self._limits
        with self._lock:
            bucket = self._bucket(client, now)
            taken = let_in(limits, bucket, now)
        return Admission(self, bucket, taken)

    def _bucket(self, client: str, now: int) -> _Bucket:
        bucket = self._buckets.get(client)
        if bucket is not None:
            self._buckets.move_to_end(client)
            return bucket
        if len(self._buckets) >= self._most and not self._forget(now):
            return self._rest
        bucket = self._buckets[client] = _Bucket()
        return bucket

    def _forget(self, now: int) -> bool:
        """Makes room, by one who asked longest ago of all; looks at a few, so that a request costs the same whatever the table holds."""
        for _ in range(8):
            client, bucket = next(iter(self._buckets.items()))
            if bucket.in_flight == 0 and bucket.full_at <= now:
                del self._buckets[client]
                return True
            self._buckets.move_to_end(client)
        return False

    def give_back(self, bucket: _Bucket, taken: int = 0) -> None:
        """A request is over; `taken`: it was none."""
        with self._lock:
            bucket.in_flight -= 1
            bucket.full_at -= taken
