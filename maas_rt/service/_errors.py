"""What can go wrong with a request, in HTTP's and in gRPC's numbers side by side."""

from __future__ import annotations

import asyncio
import reprlib
from enum import Enum
from typing import NamedTuple

from .._errors import CancelledError, DeadlineExceededError, Error, InvalidArgumentError

_REPR = reprlib.Repr()
_REPR.maxlevel = 2
_REPR.maxstring = 80


class Kind(Enum):
    """A kind of failure: its name in metrics and logs, the HTTP status, the number of the gRPC status code."""

    BAD_REQUEST = ("bad_request", 400, 3)  # the request, or data in it that a step of the model refuses
    UNAUTHENTICATED = ("unauthenticated", 401, 16)  # no token, or none that is known and valid
    FORBIDDEN = ("forbidden", 403, 7)  # a valid token that does not reach so far
    NOT_FOUND = ("not_found", 404, 5)  # a model, version, label, region or path
    METHOD_NOT_ALLOWED = ("method_not_allowed", 405, 12)
    NOT_OFFERED = ("not_offered", 404, 12)  # what the server was started without
    TOO_LARGE = ("too_large", 413, 8)  # the body or a tensor
    UNSUPPORTED_MEDIA = ("unsupported_media", 415, 3)  # its encoding or its type
    RATE_LIMITED = ("rate_limited", 429, 8)  # this client asks too often
    CANCELLED = ("cancelled", 499, 1)  # the client went away, or the run was cancelled
    INTERNAL = ("internal", 500, 13)
    OVERLOADED = ("overloaded", 503, 14)  # the queue is full, or the answer would come too late
    NOT_READY = ("not_ready", 503, 14)  # loading, unloaded or draining
    DEADLINE = ("deadline", 504, 4)  # it passed, in the queue or between two steps

    def __init__(self, label: str, http: int, grpc: int) -> None:
        self.label = label
        self.http = http
        self.grpc = grpc


class ServiceError(Exception):
    """A request that is not answered: its kind, and a sentence for the client that says what and where.

    `retry_after` is the number of seconds after which it may go better; None where that is not known.
    """

    def __init__(self, kind: Kind, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.retry_after = retry_after


class Told(NamedTuple):
    """An error as one process tells another of it: the name of its kind, its sentence and when it may go better."""

    kind: str
    text: str
    retry_after: float | None

    @classmethod
    def of(cls, error: BaseException) -> Told:
        """Of one that nobody foresaw the client learns its name; the log of the process that has met it is to say more."""
        if not isinstance(error, Error | ServiceError):
            text = f"the server failed on this request ({type(error).__name__}): its log says more"
            return cls(Kind.INTERNAL.name, text, None)
        return cls(kind_of(error).name, str(error), getattr(error, "retry_after", None))

    def error(self) -> ServiceError:
        """The same here."""
        return ServiceError(Kind[self.kind], self.text, self.retry_after)


def bad_request(message: str) -> ServiceError:
    """The most frequent kind."""
    return ServiceError(Kind.BAD_REQUEST, message)


def shown(value: object) -> str:
    """Something that a client sent, for an error: one short line, however long or deep it is."""
    return repr(value) if type(value) is str and len(value) <= _REPR.maxstring else _REPR.repr(value)


def kind_of(error: BaseException) -> Kind:
    """The kind of whatever a load or a run has raised."""
    if isinstance(error, ServiceError):
        return error.kind
    if isinstance(error, CancelledError | asyncio.CancelledError):
        return Kind.CANCELLED
    if isinstance(error, DeadlineExceededError):
        return Kind.DEADLINE
    # What a step refuses lies in the request's data: an index that its table does not have, a size beyond the model's.
    if isinstance(error, InvalidArgumentError) or (isinstance(error, Error) and error.status == "MRT_ERROR_RUN"):
        return Kind.BAD_REQUEST
    return Kind.INTERNAL
