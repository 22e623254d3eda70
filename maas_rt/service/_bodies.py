"""HTTP bodies: read within limits of size and time, unpacked; answers packed as their clients take them.

The application has to be one that leaves bodies packed (auto_decompress=False): aiohttp's own reader takes a gzip that is cut off for whole.
"""

from __future__ import annotations

import asyncio

from ._aiohttp import web
from ._connection import Connection
from ._errors import Kind, ServiceError, bad_request, shown
from ._offload import beside_the_loop
from ._packing import ACCEPTED_ENCODINGS, ENCODINGS, packed, too_large, unpacked
from ._requests import HEADER_LENGTH, Body, InferResponse, encode_response

_PACKED_FROM = 1024  # bytes; less is packed for a client alone that names one encoding and no other
_UNPACKED = 4  # times as large as what comes in, about


def header(request: web.Request, name: str) -> str | None:
    """A header; where it is given several times, all of them as one, which is none of those that are taken."""
    values = request.headers.getall(name, None)
    return None if values is None else ", ".join(values)


def check_type(request: web.Request) -> None:
    """A body is JSON or binary, or its type is not given; curl's default stands for that, too."""
    given = request.headers.get("Content-Type")
    if given is None:
        return
    kind = given.partition(";")[0].strip().lower()
    if kind not in ("application/json", "application/octet-stream", "application/x-www-form-urlencoded") and not (
        kind.startswith("application/") and kind.endswith("+json")
    ):
        raise ServiceError(
            Kind.UNSUPPORTED_MEDIA,
            f"the Content-Type is {shown(given)}, and this server takes application/json and application/octet-stream",
        )


def check_length(request: web.Request, limit: int) -> None:
    """Refuses what says itself that it is too large, before it is sent."""
    if request.content_length is not None and request.content_length > limit:
        raise too_large(limit)


async def expect_later(request: web.Request) -> None:
    """For routes' `expect_handler`: a client that waits for 100 Continue hears it when its body is read, after all else was checked."""


async def read_body(request: web.Request, limit: int, seconds: float) -> bytes | bytearray:
    """The body, of at most `limit` bytes once it is unpacked, if it is there within so many seconds.

    Raises:
        ServiceError: BAD_REQUEST, TOO_LARGE, UNSUPPORTED_MEDIA; OVERLOADED where the server holds as many bodies as it may.
        HTTPRequestTimeout, HTTPExpectationFailed.
    """
    encoding = (header(request, "Content-Encoding") or "identity").strip().lower()
    if encoding not in ("identity", *ENCODINGS):
        text = f"the Content-Encoding is {shown(encoding)}, and this server takes {ACCEPTED_ENCODINGS}"
        raise ServiceError(Kind.UNSUPPORTED_MEDIA, text)
    check_length(request, limit)
    await _say_continue(request)
    if request.content.is_eof():  # all of it has arrived
        body = await _collect(request, limit)
    else:
        try:
            body = await asyncio.wait_for(_collect(request, limit), seconds)
        except asyncio.TimeoutError:
            raise web.HTTPRequestTimeout(reason=f"the body was not there after {seconds:g} seconds") from None
    if encoding == "identity":
        return body
    found = await beside_the_loop(_UNPACKED * len(body), unpacked, body, encoding, limit)
    _hold(request, len(found))
    return found


def _hold(request: web.Request, size: int) -> None:
    """Bytes of the body are in memory now."""
    if isinstance(request.protocol, Connection):  # it is not, in somebody else's server
        request.protocol.hold(size)


async def _say_continue(request: web.Request) -> None:
    expected = header(request, "Expect")
    if expected is None:
        return
    if expected.lower() != "100-continue":
        raise web.HTTPExpectationFailed(reason=f"Expect is {shown(expected)}, and only 100-continue is known")
    if request.version >= (1, 1):
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # the answer has not begun


async def _collect(request: web.Request, limit: int) -> bytes | bytearray:
    content = request.content
    try:
        chunk = await content.readany()
        _hold(request, len(chunk))
        if content.at_eof() and len(chunk) <= limit:
            return chunk
        body = bytearray(chunk)
        while chunk:
            if len(body) > limit:
                raise too_large(limit)
            chunk = await content.readany()
            _hold(request, len(chunk))
            body += chunk
    except (web.RequestPayloadError, ConnectionError) as error:  # an end before its length
        raise bad_request(f"the body cannot be read: {shown(' '.join(str(error).split()))}") from None
    return body


def encoded(response: InferResponse, accepted: str | None) -> tuple[tuple[bytes | memoryview, ...], dict[str, str]]:
    """The parts of an answer's body, packed as the client likes it, and its headers."""
    return packed_as(encode_response(response), accepted)


def packed_as(body: Body, accepted: str | None) -> tuple[tuple[bytes | memoryview, ...], dict[str, str]]:
    """The same of a body."""
    parts, length = body
    headers = {"Content-Type": "application/json"}
    if length is not None:
        headers |= {HEADER_LENGTH: str(length), "Content-Type": "application/octet-stream"}
    encoding = encoding_for(accepted, sum(map(len, parts)))
    if encoding is not None:
        parts = (packed(b"".join(parts), encoding),)
        headers["Content-Encoding"] = encoding
    return parts, headers


def encoding_for(accepted: str | None, size: int) -> str | None:
    """The encoding of an answer of so many bytes to a request that accepts these; None: as it is."""
    if accepted is None:
        return None
    weights = _weights(accepted)
    if size < _PACKED_FROM and len(weights) > 1:
        return None
    offered = {name: weights.get(name, weights.get("*", 0.0)) for name in ENCODINGS}
    best = max(offered, key=lambda name: offered[name])
    return best if offered[best] > weights.get("identity", 0.0) else None


def _weights(accepted: str) -> dict[str, float]:
    weights = {}
    for part in accepted.split(","):
        name, _, parameter = part.strip().lower().partition(";")
        key, _, value = parameter.partition("=")
        try:
            weight = float(value) if key.strip() == "q" else 1.0
        except ValueError:
            weight = 0.0
        if name:
            weights[name.strip()] = weight
    return weights
