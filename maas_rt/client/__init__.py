"""Clients of maas_rt's service, and of other servers that speak the Open Inference Protocol over HTTP.

    with maas_rt.client.Client("http://127.0.0.1:8000") as client:
        y = client.infer("digits", {"x": x})["y"]

`Client` blocks and needs nothing; `AsyncClient` is for asyncio, needs the extra `client`, and is imported on first use. docs/client.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._client import Client, Sequence
from ._errors import (
    BadRequestError,
    ClientError,
    ConnectionFailedError,
    DeadlineError,
    ForbiddenError,
    InvalidAnswerError,
    NotFoundError,
    RateLimitedError,
    RefusedError,
    RunCancelledError,
    ServerFaultError,
    TlsError,
    TooLargeError,
    UnauthenticatedError,
    UnavailableError,
)
from ._regions import InRegion
from ._result import ClassScore, InferResult
from ._retry import Retry

if TYPE_CHECKING:
    from ._async_client import AsyncClient, AsyncSequence

__all__ = [
    "AsyncClient",
    "AsyncSequence",
    "BadRequestError",
    "ClassScore",
    "Client",
    "ClientError",
    "ConnectionFailedError",
    "DeadlineError",
    "ForbiddenError",
    "InRegion",
    "InferResult",
    "InvalidAnswerError",
    "NotFoundError",
    "RateLimitedError",
    "RefusedError",
    "Retry",
    "RunCancelledError",
    "Sequence",
    "ServerFaultError",
    "TlsError",
    "TooLargeError",
    "UnauthenticatedError",
    "UnavailableError",
]


def __getattr__(name: str) -> object:
    if name not in ("AsyncClient", "AsyncSequence"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import _async_client

    value: object = getattr(_async_client, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
