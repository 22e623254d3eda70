"""Which request this is, for logs, answers and traces: its id, and its place in a trace (W3C Trace Context).

Source: https://www.w3.org/TR/trace-context/.
"""

from __future__ import annotations

import re
import secrets
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol

TRACEPARENT = "traceparent"
TRACESTATE = "tracestate"
_SAMPLED = 1
_FORM = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_LONGEST_STATE = 512


@dataclass(frozen=True)
class Parent:
    """The span of the caller's that a request belongs to."""

    trace_id: str
    span_id: str
    flags: int
    state: str = ""


class Span(Protocol):
    """A request's, of which its phases are parts. Times are nanoseconds."""

    @property
    def ids(self) -> tuple[str, str, int]:
        """Those of the trace and of itself, and the flags."""
        ...

    def phases(self, model: str, version: str, **spent: int) -> None:
        """An inference has just been made, in these phases, one after the other."""
        ...

    def end(self, method: str, route: str, status: int, request_id: str) -> None:
        """It was answered."""
        ...


class Tracer(Protocol):
    """Makes spans."""

    def begin(self, parent: Parent | None) -> Span:
        """The span of a request that has come now."""
        ...

    def close(self) -> None:
        """Sends what was not sent yet."""
        ...


@dataclass
class Trail:
    """What is known of the request that is under way."""

    request_id: str
    trace_id: str = ""
    span_id: str = ""
    flags: int = 0
    span: Span | None = None

    @property
    def traceparent(self) -> str | None:
        """The header of an answer, and of whatever is asked on behalf of the request; None outside of traces."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags:02x}" if self.trace_id else None


CURRENT: ContextVar[Trail | None] = ContextVar("maas_rt request", default=None)


def begin(request_id: str, traceparent: str | None, tracestate: str | None, tracer: Tracer | None) -> Trail:
    """A request's trail. It goes on with the caller's trace; without one there is a trace only where traces are sent somewhere."""
    parent = None if traceparent is None else read(traceparent, tracestate)
    if tracer is not None:
        span = tracer.begin(parent)
        return Trail(request_id, *span.ids, span)
    if parent is None:
        return Trail(request_id)
    return Trail(request_id, parent.trace_id, secrets.token_hex(8), parent.flags & _SAMPLED)


def read(traceparent: str, tracestate: str | None = None) -> Parent | None:
    """The headers of a caller; None where they are not valid, which starts a trace anew."""
    found = _FORM.fullmatch(traceparent)
    if found is None:
        return None
    version, trace_id, span_id, flags, rest = found.groups()
    if version == "ff" or (version == "00" and rest is not None) or not int(trace_id, 16) or not int(span_id, 16):
        return None
    state = tracestate if tracestate is not None and len(tracestate) <= _LONGEST_STATE else ""
    return Parent(trace_id, span_id, int(flags, 16), state)
