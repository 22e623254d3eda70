"""Every error of a client, and which one an answer stands for.

maas_rt.Error
 └─ ClientError                                        the call was not answered as it was meant
     ├─ ConnectionFailedError(.., ConnectionError)     there is no connection, or it broke before the answer was there
     │   └─ TlsError                                   one of the two does not believe the other
     ├─ InvalidAnswerError                             what came is no answer of the protocol, or is larger than is taken
     └─ RefusedError                                   the server says why: `http_status`, `retry_after`, `request_id`
         ├─ BadRequestError(.., InvalidArgumentError)  400, and what else of 4xx stands below by no name of its own
         ├─ UnauthenticatedError                       401: no token, or none that is known and valid
         ├─ ForbiddenError                             403: a valid token that does not grant this
         ├─ NotFoundError                              404: no such model, version, label or path
         ├─ TooLargeError                              413
         ├─ RateLimitedError                           429: this client asks more than it may
         ├─ RunCancelledError(.., CancelledError)      499
         ├─ DeadlineError(.., DeadlineExceededError)   408, 504, or the client's own clock
         ├─ UnavailableError                           503: not ready, or more requests than it can take
         └─ ServerFaultError                           500, and what else of 5xx there is
"""

from __future__ import annotations

import email.utils
import time
from collections.abc import Mapping

from .._errors import CancelledError, DeadlineExceededError, Error, InvalidArgumentError


class ClientError(Error):
    """The root of a client's errors, but for those of arguments, which are maas_rt.InvalidArgumentError."""


class ConnectionFailedError(ClientError, ConnectionError):
    """There is no connection, or it broke. `reached`: the server may have begun to do what it was asked."""

    reached = False


class TlsError(ConnectionFailedError):
    """The server's certificate is not signed by an authority that is trusted, is not for this name, or the server asks for one of the client."""


class InvalidAnswerError(ClientError):
    """What came is no answer of the protocol, or larger than is taken."""


class RefusedError(ClientError):
    """The server says why it did not do it.

    Args:
        message: the server's sentence.
        http_status: as 404; 0 where the client's own clock ran out.
        retry_after: seconds after which it may go better; None where the server does not tell.
        request_id: by which the server's log knows the request; "" where it does not tell.
    """

    def __init__(
        self, message: str, http_status: int = 0, retry_after: float | None = None, request_id: str = ""
    ) -> None:
        super().__init__(message)
        self.http_status = http_status
        self.retry_after = retry_after
        self.request_id = request_id


class BadRequestError(RefusedError, InvalidArgumentError):
    """What the request says is wrong."""


class UnauthenticatedError(RefusedError):
    """There is no token, or none that is known and valid."""


class ForbiddenError(RefusedError):
    """The token does not grant this."""


class NotFoundError(RefusedError):
    """There is no such model, version, label or path."""


class TooLargeError(RefusedError):
    """The request is larger than the server takes."""


class RateLimitedError(RefusedError):
    """This client asks more than it may."""


class RunCancelledError(RefusedError, CancelledError):
    """The run was cancelled on the server."""


class DeadlineError(RefusedError, DeadlineExceededError):
    """The call's time was over before it was answered."""


class UnavailableError(RefusedError):
    """The server or the model is not ready, or has more requests than it can take."""


class ServerFaultError(RefusedError):
    """The server failed on this request: its log says more."""


_OF_STATUS: dict[int, type[RefusedError]] = {
    401: UnauthenticatedError,
    403: ForbiddenError,
    404: NotFoundError,
    408: DeadlineError,
    413: TooLargeError,
    429: RateLimitedError,
    499: RunCancelledError,
    503: UnavailableError,
    504: DeadlineError,
}


def refusal(status: int, message: str, headers: Mapping[str, str], request_id: str) -> RefusedError:
    """The error of an answer with this status of 400 or more; the names of headers are in small letters."""
    kind = _OF_STATUS.get(status) or (BadRequestError if status < 500 else ServerFaultError)
    return kind(message, status, _seconds(headers.get("retry-after")), request_id)


def _seconds(text: str | None) -> float | None:
    """What Retry-After says: a number of seconds, or a date (RFC 9110, section 10.2.3)."""
    if text is None:
        return None
    if text.isascii() and text.isdigit():
        return float(text[:12])
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None
