"""The gate of Core: who calls, whether they may, how often; and a note of each administrative call. The same for every transport."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from types import TracebackType
from typing import Protocol

from ._access import Access, bearer, permit
from ._audit import Audit
from ._calls import Context, Entry, Withdrawn
from ._errors import ServiceError, kind_of
from ._grants import Client, Verb
from ._limiter import Admission, Limiter, Limits

_VERBS = {each.value: each for each in Verb}
_NOTED = (Verb.ADMIN, Verb.SHARED_MEMORY)  # in the audit log, unless the call reads only
_STRANGERS = Limits(rate=10, burst=50)  # of calls without a valid token from one address


class Admits(Protocol):
    """A Limiter, or one that counts with others."""

    def admit(self, client: str, now: int, limits: Limits | None = None) -> Admission: ...


class Gatekeeper:
    """A Core's Gate. Any thread may call anything. Of an address whose tokens fail too often calls are refused without a note.

    Args:
        now: the time in ns since 1970.
    """

    def __init__(
        self,
        access: Access | None = None,
        limiter: Admits | None = None,
        audit: Audit | None = None,
        now: Callable[[], int] = time.time_ns,
    ) -> None:
        self.access = Access() if access is None else access
        self._limiter: Admits = Limiter(Limits()) if limiter is None else limiter
        self._audit = Audit() if audit is None else audit
        self._now = now
        self._strangers = Limiter(_STRANGERS)

    def enter(self, context: Context, verb: str, model: str | None) -> AbstractContextManager[Client]:
        """Lets a call in until its block ends; one whose transport has asked for it before (`Context.client`) is not counted twice.

        Raises:
            ServiceError: UNAUTHENTICATED, FORBIDDEN, RATE_LIMITED; NOT_READY while an issuer's keys are fetched.
        """
        asked = _VERBS[verb]
        if context.client is not None:
            permit(context.client, asked, model)
            return nullcontext(context.client)
        return self._enter(context, asked, True, model)

    def admit(self, context: Context, verb: str) -> Entry:
        """The same for a call whose message, yet to be read, says which model it is about: the transport enters again when it knows."""
        return self._enter(context, _VERBS[verb], False)

    def _enter(self, context: Context, asked: Verb, about_known: bool, model: str | None = None) -> _Entered:
        now = self._now()
        client = None
        try:
            client = self._identify(context, now)
            if about_known:
                permit(client, asked, model)
            admission = self._limiter.admit(client.name, now, client.limits)
        except ServiceError as error:
            if client is None:  # anybody can come so far: he fills no disk with the lines of what was refused
                self._strangers.admit(context.address, now).end()
            if _is_noted(context, asked):
                self.note(context, client, error.kind.label)
            raise
        return _Entered(self, context, client, admission, _is_noted(context, asked))

    def allows(self, context: Context, verb: str, model: str | None) -> bool:
        """Whether the client of a call may do this, too."""
        client = context.client or self._identify(context, self._now())
        return client.may(Verb(verb), model)

    def note(self, context: Context, client: Client | None, outcome: str) -> None:
        """A line in the audit log; the outcome is "ok" or a kind of error."""
        name = client.name if client is not None else None
        remote, request_id = context.address or "unix", context.request_id or None
        self._audit.tell(self._now(), context.call, client=name, remote=remote, outcome=outcome, request_id=request_id)

    def _identify(self, context: Context, now: int) -> Client:
        token = None if self.access.is_open else bearer(context.credential)
        return self.access.find(token, now, context.address)


def _is_noted(context: Context, verb: Verb) -> bool:
    return verb in _NOTED and not context.reads


class _Entered(Entry):
    __slots__ = ("_admission", "_client", "_context", "_gate", "_noted")

    def __init__(self, gate: Gatekeeper, context: Context, client: Client, admission: Admission, noted: bool) -> None:
        self._gate = gate
        self._context = context
        self._client = client
        self._admission = admission
        self._noted = noted

    def __enter__(self) -> Client:
        return self._client

    def about(self, call: str, verb: str) -> None:
        self._context = replace(self._context, call=call)
        self._noted = _is_noted(self._context, Verb(verb))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is Withdrawn:
            self._admission.withdraw()
            return
        self._admission.end()
        if self._noted:
            self._gate.note(self._context, self._client, "ok" if error is None else kind_of(error).label)
