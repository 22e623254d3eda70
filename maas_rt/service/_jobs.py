"""What runs, and on what: a request on its way through a scheduler, and what pipelines and those who watch see of a version that is served.

How a version is made (_served) they need not know.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from .._model import State
from ._compatible import Interface
from ._config import Scheduling
from ._datatypes import Array
from ._errors import Kind, ServiceError
from ._signature import Signature
from ._statistics import Phases, Statistics

Arrays = dict[str, Array]


def size_of(arrays: Arrays) -> int:
    """Bytes of all of them."""
    return sum(array.nbytes for array in arrays.values())


class Queue(Protocol):
    """Where jobs go: a Scheduler, or that of a pipeline."""

    def check_load(self, deadline: int | None) -> None:
        """Raises what `submit` would raise for the least of requests that are known."""
        ...

    def submit(self, job: Job) -> None:
        """Takes a job, which may be done when this returns."""
        ...

    def cancel(self, job: Job, error: ServiceError | None = None) -> None:
        """Ends a job with an error."""
        ...


class Member(Protocol):
    """A version that is served: a Served."""

    @property
    def name(self) -> str:
        """Of the model."""
        ...

    @property
    def version(self) -> str:
        """Its number."""
        ...

    @property
    def is_pipeline(self) -> bool:
        """Whether it is one itself."""
        ...

    @property
    def stateful(self) -> bool:
        """Whether it keeps states between runs."""
        ...

    @property
    def draws(self) -> bool:
        """Whether its runs draw random numbers."""
        ...

    @property
    def signature(self) -> Signature:
        """What it takes and gives."""
        ...

    @property
    def interface(self) -> Interface:
        """The same as clients see it."""
        ...

    @property
    def scheduling(self) -> Scheduling:
        """What its owner says of that."""
        ...

    @property
    def scheduler(self) -> Queue:
        """When its requests run."""
        ...

    @property
    def statistics(self) -> Statistics:
        """What it has done so far."""
        ...

    def rows(self, arrays: Arrays) -> int | None:
        """The rows of a request that others may be put together with; None: it runs alone."""
        ...


class Steps(Protocol):
    """Told of each step of a pipeline, on any thread."""

    def began(self, member: Member) -> None:
        """It is about to run on this version."""
        ...

    def ran(self, member: Member, kind: Kind | None, phases: Phases, ns: int) -> None:
        """How it has failed, if it has, its phases, and its nanoseconds in all."""
        ...


@dataclass(eq=False)
class Job:
    """A request on its way. When it is `finished` it has `results` or an `error`, and `done` is called, once, without a lock, on any thread.

    Args:
        rows: extent of its arrays' first dimension; 1 where requests are not put together.
        priority: 1 is the highest.
        deadline: when its answer is of no use any more.
        alone: it is put together with no other.
        steps: told of those of a pipeline.
    """

    arrays: Arrays
    done: Callable[[Job], object]
    rows: int = 1
    state: State | None = None
    seed: int | None = None
    priority: int = 1
    deadline: int | None = None
    alone: bool = True
    steps: Steps | None = None
    finished: bool = False
    results: Arrays = field(default_factory=dict)
    error: BaseException | None = None
    submitted: int = 0
    started: int = 0
    ended: int = 0
    _waiting: int = 0  # parts of it
    _running: int = 0
    _given_up: BaseException | None = None
    _size: int = 0
    _estimate: int = 0
    _pieces: list[tuple[int, Arrays]] = field(default_factory=list)  # by their first rows
