"""The aiohttp application: routes of the Open Inference Protocol and its extensions, one handler each.

A handler turns its request into a call of Core, and what that gives or raises into a response; it decides nothing else.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import Any

from .._errors import Error
from ._aiohttp import web
from ._bodies import ACCEPTED_ENCODINGS, check_length, check_type, encoding_for, header, packed, read_body
from ._core import Context, Core, Gate, Observer
from ._errors import Kind, ServiceError, bad_request, kind_of, shown
from ._json import parse_document
from ._offload import beside_the_loop
from ._repository import Repository
from ._requests import HEADER_LENGTH, InferResponse, decode_request, encode_response, header_length

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
SERVER = "maas-rt"  # aiohttp would tell versions to whoever knocks
TIMEOUT = "X-Request-Timeout-Ms"
CORE = web.AppKey("core", Core)
_MAX_BODY = web.AppKey("max_body", int)
_BODY_SECONDS = web.AppKey("body_seconds", float)
_EXPIRY = 5.0  # seconds between two looks for sequences that were idle too long
_STREAMED = 1 << 18  # bytes of an answer from which it is sent in pieces, each once the one before has gone
_MAX_DOCUMENT = 1 << 20  # bytes of a body that is no inference


def create_app(
    repository: Repository,
    max_body: int = 64 << 20,
    *,
    body_seconds: float = 120,
    gate: Gate | None = None,
    observe: Observer | None = None,
) -> web.Application:
    """The application for a repository.

    Args:
        max_body: requests over so many bytes, unpacked, get 413.
        body_seconds: a body that takes longer gets 408; a client that takes no more of its answer for so long is left.
        gate: who may do what; None: everybody everything.
        observe: told of each inference.
    """
    app = web.Application(middlewares=[_errors_as_json], handler_args={"auto_decompress": False})
    app[CORE] = Core(repository, gate=gate, observe=observe)
    app[_MAX_BODY] = max_body
    app[_BODY_SECONDS] = body_seconds
    app.cleanup_ctx.append(_expire_sequences)
    for method, path, handler in _routes():
        for each in ("HEAD", "GET") if method == "GET" else (method,):
            app.router.add_route(each, path, handler, expect_handler=_expect)
    return app


def _routes() -> Iterator[tuple[str, str, Handler]]:
    """All routes. Those of one resource stand together, and what is asked for most stands first."""
    model = "/v2/models/{model}"
    for prefix in (model, model + "/versions/{version}"):
        yield "POST", prefix + "/infer", _infer
        for path, handler in (("", _metadata), ("/ready", _model_ready), ("/config", _config), ("/stats", _statistics)):
            yield "GET", prefix + path, handler
    yield "GET", "/v2/models/stats", _statistics
    for path, handler in (
        ("/v2", _server),
        ("/v2/", _server),
        ("/v2/health/live", _live),
        ("/v2/health/ready", _ready),
    ):
        yield "GET", path, handler
    for path, handler in (
        ("/v2/trace/setting", _trace),
        (model + "/trace/setting", _trace),
        ("/v2/logging", _logging),
        ("/v2/repository/index", _index),
    ):
        yield "GET", path, handler
        yield "POST", path, handler
    repository = "/v2/repository/models/{model}"
    yield "POST", repository + "/load", _load
    yield "POST", repository + "/unload", _unload
    yield "GET", repository + "/labels", _labels
    yield "POST", repository + "/labels/{label}", _set_label
    yield "POST", repository + "/labels/{label}/rollback", _rollback


async def _expire_sequences(app: web.Application) -> AsyncIterator[None]:
    async def expire() -> None:
        while True:
            await asyncio.sleep(_EXPIRY)
            app[CORE].sequences.expire()

    task = asyncio.create_task(expire())
    yield
    task.cancel()
    app[CORE].close()


# ---- errors ---------------------------------------------------------------------------------------------------------


@web.middleware
async def _errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every error is a JSON object with `error`, as the protocol asks."""
    response = await _answered(request, handler)
    content = request.content
    unread = response.status >= 400 and (not content.is_eof() or content.exception() is not None)
    if unread or request.app[CORE].draining:
        response.force_close()
    if not response.prepared:
        response.headers["Server"] = SERVER
    return response


async def _answered(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except ConnectionError:  # the client has gone while it was answered
        raise
    except ServiceError as error:
        return service_error(error)
    except Error as error:
        return error_response(kind_of(error).http, str(error))
    except web.HTTPException as error:
        if error.status < 400:
            raise
        allow = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
        response = error_response(error.status, f"{request.method} {shown(request.path)}: {error.reason}", allow)
        if error.status == 408:
            response.force_close()
        return response
    except Exception as error:
        logging.getLogger(__name__).exception("%s %s", request.method, request.path)
        return error_response(500, f"the server failed on this request ({type(error).__name__}): its log says more")


def service_error(error: ServiceError) -> web.Response:
    """A refusal, with the headers that belong to its kind."""
    headers = {}
    if error.retry_after is not None or error.kind in (Kind.OVERLOADED, Kind.NOT_READY, Kind.RATE_LIMITED):
        headers["Retry-After"] = str(math.ceil(error.retry_after or 1))
    if error.kind is Kind.UNAUTHENTICATED:
        headers["WWW-Authenticate"] = "Bearer"
    if error.kind is Kind.UNSUPPORTED_MEDIA:
        headers["Accept-Encoding"] = ACCEPTED_ENCODINGS
    return error_response(error.kind.http, str(error), headers)


def error_response(status: int, message: str, headers: Mapping[str, str] | None = None) -> web.Response:
    """An error as the protocol has it."""
    return web.json_response({"error": message}, status=status, headers={"Server": SERVER, **(headers or {})})


# ---- what requests say ----------------------------------------------------------------------------------------------


def _context(request: web.Request) -> Context:
    deadline = None
    given = header(request, TIMEOUT)
    if given is not None:
        if not (given.isascii() and given.isdigit() and 0 < len(given) <= 10):
            raise bad_request(f"{TIMEOUT} is {shown(given)} and must be a number of milliseconds")
        deadline = time.monotonic_ns() + int(given) * 1_000_000
    return Context(header(request, "Authorization"), deadline)


def _asked(request: web.Request) -> tuple[str, str | None, Context]:
    return request.match_info["model"], request.match_info.get("version"), _context(request)


async def _expect(request: web.Request) -> web.StreamResponse | None:
    """Answers an Expect header: what is too large is refused before it is sent."""
    if request.headers["Expect"].lower() != "100-continue":
        return error_response(417, f"Expect is {shown(request.headers['Expect'])}, and only 100-continue is known")
    try:
        check_length(request, request.app[_MAX_BODY])
    except ServiceError as error:
        response = service_error(error)
        response.force_close()
        return response
    if request.version >= (1, 1):
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0
    return None


async def _document(request: web.Request) -> dict[str, Any]:
    """The JSON object of a request; without a body an empty one."""
    check_type(request)
    body = await read_body(request, min(_MAX_DOCUMENT, request.app[_MAX_BODY]), request.app[_BODY_SECONDS])
    document = parse_document(body) if body else {}
    if not isinstance(document, dict):
        raise bad_request("the body must be a JSON object")
    return document


# ---- the server -----------------------------------------------------------------------------------------------------


async def _server(request: web.Request) -> web.Response:
    return web.json_response(request.app[CORE].server_metadata(_context(request)))


async def _live(request: web.Request) -> web.Response:
    return web.json_response({"live": True})


async def _ready(request: web.Request) -> web.Response:
    if request.app[CORE].ready:
        return web.json_response({"ready": True})
    body = {"ready": False, "error": "no model is ready, or the server goes away"}
    return web.json_response(body, status=503, headers={"Retry-After": "1"})


async def _logging(request: web.Request) -> web.Response:
    changes = await _document(request) if request.method == "POST" else None
    return web.json_response(request.app[CORE].log_settings(_context(request), changes))


async def _trace(request: web.Request) -> web.Response:
    changes = await _document(request) if request.method == "POST" else None
    model = request.match_info.get("model")
    return web.json_response(request.app[CORE].trace_settings(model, _context(request), changes))


# ---- models ---------------------------------------------------------------------------------------------------------


async def _model_ready(request: web.Request) -> web.Response:
    return web.json_response(request.app[CORE].model_ready(*_asked(request)))


async def _metadata(request: web.Request) -> web.Response:
    return web.json_response(request.app[CORE].model_metadata(*_asked(request)))


async def _config(request: web.Request) -> web.Response:
    return web.json_response(request.app[CORE].model_config(*_asked(request)))


async def _statistics(request: web.Request) -> web.Response:
    model, version = request.match_info.get("model"), request.match_info.get("version")
    return web.json_response(request.app[CORE].statistics(model, version, _context(request)))


# ---- the repository -------------------------------------------------------------------------------------------------


async def _index(request: web.Request) -> web.Response:
    document = await _document(request) if request.method == "POST" else {}
    ready = document.get("ready", False)
    if not isinstance(ready, bool):
        raise bad_request(f'"ready" is {shown(ready)} and must be true or false')
    return web.json_response(request.app[CORE].index(_context(request), ready))


async def _parameters(request: web.Request) -> dict[str, Any]:
    parameters = (await _document(request)).get("parameters")
    if not isinstance(parameters, dict | None):
        raise bad_request('"parameters" must be an object')
    return parameters or {}


async def _load(request: web.Request) -> web.Response:
    parameters = await _parameters(request)
    foreign = [name for name in parameters if name == "config" or name.startswith("file:")]
    if foreign:
        raise bad_request(f"a model is loaded as it lies in the repository: {shown(foreign[0])} cannot be given")
    await request.app[CORE].load(request.match_info["model"], _context(request))
    return web.json_response({})


async def _unload(request: web.Request) -> web.Response:
    await _parameters(request)  # unload_dependents: there are none
    await request.app[CORE].unload(request.match_info["model"], _context(request))
    return web.json_response({})


async def _labels(request: web.Request) -> web.Response:
    return web.json_response(request.app[CORE].labels(request.match_info["model"], _context(request)))


async def _set_label(request: web.Request) -> web.Response:
    version = (await _document(request)).get("version")
    if not isinstance(version, str):
        raise bad_request(f'"version" is {shown(version)} and must be a version, as "3"')
    model, label = request.match_info["model"], request.match_info["label"]
    await request.app[CORE].set_label(model, label, version, _context(request))
    return web.json_response(request.app[CORE].labels(model, _context(request)))


async def _rollback(request: web.Request) -> web.Response:
    await _document(request)
    model, label = request.match_info["model"], request.match_info["label"]
    await request.app[CORE].rollback(model, label, _context(request))
    return web.json_response(request.app[CORE].labels(model, _context(request)))


# ---- inference ------------------------------------------------------------------------------------------------------


async def _infer(request: web.Request) -> web.StreamResponse:
    with request.app[CORE].begin(*_asked(request)) as call:
        check_type(request)
        body = await read_body(request, request.app[_MAX_BODY], request.app[_BODY_SECONDS])
        length = header_length(header(request, HEADER_LENGTH), len(body))
        asked = [await beside_the_loop(len(body), decode_request, body, length)]
        del body
        response = await call.infer(asked.pop())  # which lets go of the request when it has read it
        size = sum(output.array.nbytes for output in response.outputs)
        answer = await beside_the_loop(size, _encoded, response, header(request, "Accept-Encoding"))
    return await _send(request, *answer)


def _encoded(response: InferResponse, accepted: str | None) -> tuple[tuple[bytes | memoryview, ...], dict[str, str]]:
    """The parts of a body, and its headers."""
    parts, length = encode_response(response)
    headers = {"Server": SERVER, "Content-Type": "application/json; charset=utf-8"}
    if length is not None:
        headers |= {HEADER_LENGTH: str(length), "Content-Type": "application/octet-stream"}
    encoding = encoding_for(accepted, sum(map(len, parts)))
    if encoding is not None:
        parts = (packed(b"".join(parts), encoding),)
        headers["Content-Encoding"] = encoding
    return parts, headers


async def _send(
    request: web.Request, parts: tuple[bytes | memoryview, ...], headers: dict[str, str]
) -> web.StreamResponse:
    size = sum(map(len, parts))
    if size < _STREAMED:
        return web.Response(body=b"".join(parts), headers=headers)
    response = web.StreamResponse(headers={**headers, "Content-Length": str(size)})
    if request.app[CORE].draining:
        response.force_close()
    await response.prepare(request)
    for part in parts:
        for at in range(0, len(part), _STREAMED):
            piece = memoryview(part)[at : at + _STREAMED]
            try:
                await asyncio.wait_for(response.write(piece), request.app[_BODY_SECONDS])
            except asyncio.TimeoutError:
                if request.transport is not None:
                    request.transport.abort()
                raise ConnectionResetError("the client does not take its answer") from None
    return response
