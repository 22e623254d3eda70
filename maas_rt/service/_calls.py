"""A call as the core sees it, and whom it asks and tells: the gate, observers, other processes."""

from __future__ import annotations

from collections.abc import Awaitable
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol

from ._callers import is_local
from ._errors import Kind, ServiceError, Told
from ._grants import ALL, Client
from ._jobs import Steps
from ._requests import InferRequest, InferResponse
from ._served import Served
from ._shelf import Shelf
from ._statistics import Phases
from ._tracing import Trail

Key = tuple[str, str, int | str]  # of a sequence: whose it is, its model, its id


@dataclass(slots=True)
class Context:
    """What a transport knows of a call beside its message.

    Args:
        credential: as the client gave it; None: it gave none.
        deadline: when the answer is of no use any more, in nanoseconds of time.monotonic_ns.
        address: the client's; "" if it has none.
        request_id, call: for logs, as "POST /v2/repository/models/digits/load".
        client: where the transport has entered the gate already, as one does that has a body yet to read.
        reads: it changes nothing, whatever its verb: the audit log has no line of it.
    """

    credential: str | None = field(default=None, repr=False)
    deadline: int | None = None
    address: str = ""
    request_id: str = ""
    call: str = ""
    client: Client | None = None
    reads: bool = False


class Withdrawn(Exception):
    """The end of a call that is made again, of which nothing is counted: it cannot be answered in the way that was tried."""


class Entry(AbstractContextManager[Client]):
    """A call that was let in, until its block ends."""

    __slots__ = ()

    def about(self, call: str, verb: str) -> None:
        """What the call is, where that is known only now: for logs, in which administrative ones are noted."""


class Gate(Protocol):
    """Who may do what. Verbs are "infer", "read", "admin", "metrics" and "shared-memory"; without a model they are on the whole server."""

    def enter(self, context: Context, verb: str, model: str | None) -> AbstractContextManager[Client]:
        """Lets a call in until its block ends. A context with a client in it has been let in, and counted, before.

        Raises:
            ServiceError: UNAUTHENTICATED, FORBIDDEN, RATE_LIMITED, NOT_READY.
        """
        ...

    def admit(self, context: Context, verb: str) -> Entry:
        """`enter` for a transport that learns the model from a message which it has yet to read: who calls, and how often, is looked at; for
        the rest it enters with the client that it gets."""
        ...

    def allows(self, context: Context, verb: str, model: str | None) -> bool:
        """Whether `enter` would let it in, for lists of what a client may see."""
        ...


_ANYBODY = Client("", ALL, is_known=False)


class _Anybody(Entry):
    """Somebody of whom nothing is known."""

    def __enter__(self) -> Client:
        return _ANYBODY

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


class OpenGate:
    """Everybody may do everything."""

    def enter(self, context: Context, verb: str, model: str | None) -> AbstractContextManager[Client]:
        """Lets it in."""
        return _Anybody()

    def admit(self, context: Context, verb: str) -> Entry:
        """Lets it in."""
        return _Anybody()

    def allows(self, context: Context, verb: str, model: str | None) -> bool:
        """True."""
        return True


class Observer(Steps, Protocol):
    """Told of each inference of a version that there is, and of the steps of those of pipelines, on any thread."""

    def left(self, served: Served) -> None:
        """It goes on with another one, its sequence's, which `began` is told of."""
        ...

    def ended(self, served: Served, kind: Kind | None, phases: Phases, ns: int) -> None:
        """How it has failed, if it has, its phases, and its nanoseconds in all."""
        ...

    def traced(self, model: str, version: str, phases: Phases) -> None:
        """Another process has made it, and counted it."""
        ...


@dataclass(frozen=True)
class Handed:
    """An inference that another process is to make, for it holds its sequence. Whoever asks was let in.

    Args:
        version: as it was asked for.
        client: who has asked.
        deadline, begun: nanoseconds of time.monotonic_ns, which is one clock for all processes.
        parsed: nanoseconds that the transport took to read it.
        call, trail: for logs.
    """

    model: str
    version: str | None
    client: Client
    deadline: int | None
    begun: int
    parsed: int
    address: str
    call: str
    trail: Trail


@dataclass(frozen=True)
class Answered:
    """What has come of it."""

    response: InferResponse
    phases: Phases


class NotHeld(Exception):
    """The process that holds a sequence is not there, or has died and taken it along."""


class NotBegun(Exception):
    """The process that holds a sequence has refused a request of it before it was an inference there, that is counted: its argument is the error."""

    def error(self) -> ServiceError:
        """Why."""
        told: Told = self.args[0]
        return told.error()


class Peers(Shelf, Protocol):
    """The other processes that serve the same."""

    @property
    def complete(self) -> bool:
        """Whether all of them are there."""
        ...

    def change(self, what: str, values: tuple[Any, ...]) -> Future[Any]:
        """Has a change (Core.make) made in all of them and here; the future ends when it is, or has the error."""
        ...

    def statistics(self) -> Future[list[dict[str, Any]]]:
        """Those of all of them (Core.all_statistics), one after the other."""
        ...

    def holder(self, key: Key) -> int | None:
        """Which process holds a sequence, or is to; None: this one."""
        ...

    def hand_over(self, holder: int, key: Key, handed: Handed, asked: list[InferRequest]) -> Awaitable[Answered]:
        """Has it make an inference (Core.take_over), after those of the sequence that were handed to it before. `asked` is the request, and empty from
        when it is on its way.

        Raises:
            NotHeld, NotBegun.
            ServiceError: what it has failed of.
        """
        ...

    async def finished(self) -> None:
        """This process asks nothing any more. Returns when none of them does: what they hold is of no more use then."""
        ...


def check_local(context: Context) -> None:
    """Another machine has no shared memory with this one, and nothing to look for in it."""
    if not is_local(context.address):
        raise ServiceError(Kind.FORBIDDEN, "shared memory is for clients on this machine")
