"""Errors as the protocol has them in HTTP: a JSON object with `error`, its status and the headers that belong to it."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping

from .._errors import Error
from ._access import challenge
from ._aiohttp import web
from ._errors import Kind, ServiceError, kind_of, shown
from ._packing import ACCEPTED_ENCODINGS

SERVER = "maas-rt"  # aiohttp would tell versions to whoever knocks

_KIND_OF_STATUS = {
    400: Kind.BAD_REQUEST,
    404: Kind.NOT_FOUND,
    405: Kind.METHOD_NOT_ALLOWED,
    408: Kind.DEADLINE,
    413: Kind.TOO_LARGE,
    417: Kind.BAD_REQUEST,
}


def answer_of(request: web.Request, error: Exception) -> web.Response:
    """The answer to a request that has failed. Raises the error again if it is a redirection."""
    if isinstance(error, web.HTTPException):
        if error.status < 400:
            raise error
        allow = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
        return error_response(error.status, f"{request.method} {shown(request.path)}: {error.reason}", allow)
    return refusal(error, request.headers.get("Authorization"), f"{request.method} {shown(request.path)}")


def refusal(error: Exception, credential: str | None, call: str) -> web.Response:
    """The answer to a call that has failed with what is no HTTPException; `call` is for the log."""
    if isinstance(error, ServiceError):
        return service_error(error, credential)
    if isinstance(error, Error):
        return error_response(kind_of(error).http, str(error))
    logging.getLogger(__name__).error("%s", call, exc_info=error)
    return error_response(500, f"the server failed on this request ({type(error).__name__}): its log says more")


def kind_of_answer(error: Exception) -> Kind:
    """The kind of what `answer_of` answers to."""
    if isinstance(error, web.HTTPException):
        return _KIND_OF_STATUS.get(error.status, Kind.INTERNAL)
    return kind_of(error)


def service_error(error: ServiceError, credential: str | None = None) -> web.Response:
    """A refusal, with the headers that belong to its kind."""
    headers = {}
    if error.retry_after is not None or error.kind in (Kind.OVERLOADED, Kind.NOT_READY, Kind.RATE_LIMITED):
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after or 1)))
    asks = challenge(error, credential)
    if asks is not None:
        headers["WWW-Authenticate"] = asks
    if error.kind is Kind.UNSUPPORTED_MEDIA:
        headers["Accept-Encoding"] = ACCEPTED_ENCODINGS
    return error_response(error.kind.http, str(error), headers)


def error_response(status: int, message: str, headers: Mapping[str, str] | None = None) -> web.Response:
    """An error as the protocol has it."""
    # Without a charset, which JSON has not: kserve's client reads the sentence of no other type.
    body = json.dumps({"error": message}).encode()
    return web.Response(
        body=body, status=status, content_type="application/json", headers={"Server": SERVER, **(headers or {})}
    )
