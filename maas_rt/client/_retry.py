"""When a call is tried once more, and until when."""

from __future__ import annotations

import math
import random
import time
from dataclasses import dataclass

from .._errors import InvalidArgumentError
from ._errors import ClientError, ConnectionFailedError, DeadlineError, RateLimitedError, TlsError, UnavailableError


@dataclass(frozen=True)
class Retry:
    """How often a call is tried again, and how long the waits are, in seconds.

    A wait is drawn between the half and the whole of `base`, twice that for the second, and so on, so that clients that were refused together
    do not come back together. A server that says how long (Retry-After) is not asked before.

    Args:
        times: tries after the first; 0: none.
        base: the first wait.
        longest: no wait is longer. A call that a server asks to wait longer than this fails at once.
    """

    times: int = 3
    base: float = 0.1
    longest: float = 30.0

    def __post_init__(self) -> None:
        if self.times < 0 or not 0 <= self.base <= self.longest:
            raise InvalidArgumentError(
                f"times is {self.times}, base {self.base} and longest {self.longest}: times is 0 or more, and 0 <= base <= longest"
            )

    def wait(self, number: int, error: ClientError, repeatable: bool) -> float | None:
        """Seconds to wait after the try of this number (from 0 on) failed so; None: there is no other.

        What a server refuses with 429 or 503 it has not done. Where a connection broke it may have: then `repeatable` decides.
        """
        if number >= self.times or isinstance(error, TlsError):
            return None
        drawn = random.uniform(0.5, 1.0) * min(self.longest, self.base * 2.0 ** min(number, 60))
        if isinstance(error, RateLimitedError | UnavailableError):
            if error.retry_after is None:
                return drawn
            return error.retry_after + drawn if error.retry_after <= self.longest else None
        if isinstance(error, ConnectionFailedError) and (repeatable or not error.reached):
            return drawn
        return None


class Deadline:
    """The end of a call's time, all of its tries and waits together. math.inf: there is none."""

    def __init__(self, seconds: float) -> None:
        if not seconds > 0:  # NaN neither
            raise InvalidArgumentError(f"timeout is {seconds} and must be a number of seconds above 0")
        self._seconds = seconds
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds, 0 or less when it is over."""
        return self._end - time.monotonic()

    def check(self) -> float | None:
        """Seconds that are left, as sockets want them: None for no end. Raises DeadlineError when it is over."""
        if self._end == math.inf:
            return None
        left = self.left
        if left <= 0:
            raise self.over()
        return left

    def over(self) -> DeadlineError:
        """The error to raise."""
        return DeadlineError(f"the call was not answered within its {self._seconds:g} seconds")
