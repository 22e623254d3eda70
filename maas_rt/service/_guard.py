"""What stands before every handler of the HTTP service: the page that asks, the client, its limits; and what becomes of errors."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from ipaddress import ip_address

from ._aiohttp import web
from ._answers import SERVER, answer_of, kind_of_answer
from ._bodies import header
from ._callers import network_of, request_id
from ._calls import Context
from ._connection import Connection
from ._core import Core
from ._errors import Kind, ServiceError, bad_request, shown
from ._headers import REQUEST_ID, TIMEOUT
from ._logs import log_request
from ._metrics import Metrics
from ._tracing import CURRENT, TRACEPARENT, TRACESTATE, Tracer, Trail, begin

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
CORE = web.AppKey("core", Core)
METRICS = web.AppKey("metrics", Metrics)
LOCAL_ONLY = web.AppKey("local_only", bool)
TRACING: web.AppKey[Tracer | None] = web.AppKey("tracing")
VERBS: web.AppKey[dict[tuple[str, Handler], str | None]] = web.AppKey("verbs", dict)
_CONTEXT = web.RequestKey("context", Context)
_COUNTED = web.RequestKey("counted", bool)
_LONGEST_CALL = 256  # characters of a path, in logs


@web.middleware
async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The order of checks: path and method, the page that asks, the client and its limits; then the handler, which looks at the body.
    A refusal costs nothing that stands after it."""
    identifier = request_id(request.headers.get(REQUEST_ID))
    # Another one, in somebody else's server.
    connection = request.protocol if isinstance(request.protocol, Connection) else None
    if connection is not None:
        connection.begin(request)
    began, status = time.monotonic_ns(), Kind.CANCELLED.http
    trail = begin(identifier, request.headers.get(TRACEPARENT), request.headers.get(TRACESTATE), request.app[TRACING])
    CURRENT.set(trail)
    try:
        response = await _answered(request, handler, identifier)
        status = response.status
    finally:
        if connection is not None:
            connection.end()
        _note(request, trail, status, time.monotonic_ns() - began)
    content = request.content
    unread = response.status >= 400 and (not content.is_eof() or content.exception() is not None)
    if unread or response.status == 408 or request.app[CORE].draining:
        response.force_close()
    if not response.prepared:
        response.headers["Server"] = SERVER
        response.headers.update(trail_headers(trail))
    return response


async def _answered(request: web.Request, handler: Handler, identifier: str) -> web.StreamResponse:
    """The handler's answer, or that to its error."""
    try:
        return await _handled(request, handler, identifier)
    except ConnectionError:  # the client has gone while it was answered
        raise
    except Exception as error:
        if _COUNTED not in request:
            request.app[METRICS].server.refuse(kind_of_answer(error))
        return answer_of(request, error)


def _note(request: web.Request, trail: Trail, status: int, ns: int) -> None:
    """Tells the log and the trace how a request has ended."""
    if trail.span is not None:
        resource = request.match_info.route.resource
        trail.span.end(request.method, "" if resource is None else resource.canonical, status, trail.request_id)
    context = request.get(_CONTEXT)
    client = context.client if context is not None else None
    log_request(request.method, request.path[:_LONGEST_CALL], status, ns, client.name if client is not None else None)


def trail_headers(trail: Trail) -> dict[str, str]:
    """The headers that name a request in its answer."""
    place = trail.traceparent
    return {REQUEST_ID: trail.request_id, **({} if place is None else {TRACEPARENT: place})}


async def _handled(request: web.Request, handler: Handler, identifier: str) -> web.StreamResponse:
    if request.match_info.http_exception is not None:
        return await handler(request)  # which raises it
    _check_page(request)
    method = "GET" if request.method == "HEAD" else request.method
    verb = request.app[VERBS][method, request.match_info.handler]  # a route that nobody gave a verb is nobody's
    if verb is None:
        return await handler(request)
    context = Context(
        header(request, "Authorization"),
        _deadline(request),
        address=network_of(request.remote),
        request_id=identifier,
        call=f"{request.method} {request.path[:_LONGEST_CALL]}",
        reads=method == "GET",
    )
    with request.app[CORE].gate.enter(context, verb, request.match_info.get("model")) as client:
        request[_CONTEXT] = replace(context, client=client)
        return await handler(request)


def context_of(request: web.Request) -> Context:
    """What Core is told of a request beside its message."""
    return request[_CONTEXT]


def counted(request: web.Request) -> None:
    """The request has come to a version, which counts it."""
    request[_COUNTED] = True


def _deadline(request: web.Request) -> int | None:
    given = header(request, TIMEOUT)
    return None if given is None else time.monotonic_ns() + read_timeout(given) * 1_000_000


def read_timeout(given: str) -> int:
    """What TIMEOUT says, in milliseconds. Raises BAD_REQUEST."""
    if not (given.isascii() and given.isdigit() and 0 < len(given) <= 10):
        raise bad_request(f"{TIMEOUT} is {shown(given)} and must be a number of milliseconds")
    return int(given)


def _check_page(request: web.Request) -> None:
    """Refuses what a page of another site has a browser ask: a browser brings along what reaches the server, its place in the network."""
    headers = request.headers
    host, site = headers.get("Host", ""), headers.get("Sec-Fetch-Site")
    if site is not None:
        is_link = headers.get("Sec-Fetch-Mode") == "navigate" and request.method in ("GET", "HEAD")
        is_ours = is_link or site in ("same-origin", "none")
    else:
        origin = headers.get("Origin")
        is_ours = origin is None or origin.partition("://")[2] == host
    if not is_ours:
        raise ServiceError(Kind.FORBIDDEN, "requests of other sites' pages are not answered")
    # A browser sends a Host, and reaches no Unix sockets.
    if request.app[LOCAL_ONLY] and host and request.remote and not is_literal(host):
        text = f"this server answers to localhost and to addresses, not to the name {shown(host)}"
        raise ServiceError(Kind.FORBIDDEN, text)


def is_literal(host: str) -> bool:
    """Whether a Host header has an address in it, or localhost: what no name server is asked for."""
    name = host.partition("]")[0][1:] if host.startswith("[") else host.partition(":")[0]
    try:
        ip_address(name)
    except ValueError:
        return name.lower() == "localhost"
    return True
