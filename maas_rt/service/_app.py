"""The aiohttp application: routes of the Open Inference Protocol and its extensions, one handler each.

A handler turns its request into a call of Core, and what that gives or raises into a response; it decides nothing else.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from itertools import chain
from typing import Any

from ._aiohttp import web
from ._answers import SERVER
from ._bodies import check_type, encoded, expect_later, header, read_body
from ._calls import Context, Gate, Peers
from ._connection import SHORT_WAY
from ._console import console_routes
from ._core import Core
from ._direct import Direct
from ._errors import bad_request, shown
from ._exposition import content_type, render
from ._guard import CORE, LOCAL_ONLY, METRICS, TRACING, VERBS, Handler, context_of, counted, guard, trail_headers
from ._json import parse_document
from ._metrics import Metrics
from ._observer import Counting
from ._offload import beside_the_loop
from ._openapi import BINARY, operation, page
from ._regions import Regions
from ._repository import Repository
from ._requests import HEADER_LENGTH, decode_request, header_length
from ._sequences import Sequences
from ._tracing import CURRENT, Tracer

_DIRECT = web.AppKey("direct", Direct)
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
    metrics: Metrics | None = None,
    local_only: bool = False,
    console: bool = True,
    shared_memory: bool = False,
    tracer: Tracer | None = None,
    peers: Peers | None = None,
    sequences: Sequences | None = None,
) -> web.Application:
    """The application for a repository.

    Args:
        max_body: requests over so many bytes, unpacked, get 413.
        body_seconds: a body that takes longer gets 408; a client that takes no more of its answer for so long is left.
        gate: who may do what; None: everybody everything.
        metrics: where inferences and refusals are counted.
        local_only: the server is for this machine alone and asks for no tokens: a page of a browser on it must not reach it by a name that
            it has the browser look up (DNS rebinding).
        console: there is a page for browsers at /.
        shared_memory: clients on this machine may have tensors in it.
        tracer: where spans are made; None: nowhere.
        peers: the other processes that serve the same; None: there are none.
        sequences: the states that are held here; None: as many as one process may hold.
    """
    app = web.Application(middlewares=[guard], handler_args={"auto_decompress": False})
    app[METRICS] = metrics or Metrics()
    regions = Regions(max_body, shelf=peers) if shared_memory else None
    app[CORE] = Core(
        repository,
        gate=gate,
        sequences=sequences,
        regions=regions,
        observe=Counting(app[METRICS]),
        peers=peers,
        traced=tracer is not None,
    )
    app[LOCAL_ONLY] = local_only
    app[TRACING] = tracer
    app[VERBS] = {}
    app[_DIRECT] = Direct(app[CORE], app[METRICS], max_body, local_only)
    if tracer is None:
        app[SHORT_WAY] = app[_DIRECT]
    app[_MAX_BODY] = max_body
    app[_BODY_SECONDS] = body_seconds
    app.cleanup_ctx.append(_look_around)
    for method, path, handler, verb in chain(_routes(), console_routes() if console else ()):
        add_route(app, method, path, handler, verb)
    return app


def add_route(app: web.Application, method: str, path: str, handler: Handler, verb: str | None) -> None:
    """A route, and the verb that the gate is asked for on it; None: it is for everybody."""
    app[VERBS][method, handler] = verb
    for each in ("HEAD", "GET") if method == "GET" else (method,):
        app.router.add_route(each, path, handler, expect_handler=expect_later)


def _routes() -> Iterator[tuple[str, str, Handler, str | None]]:
    """All routes. Those of one resource stand together, and what is asked for most stands first."""
    model = "/v2/models/{model}"
    for prefix in (model, model + "/versions/{version}"):
        yield "POST", prefix + "/infer", _infer, "infer"
        for path, handler in (("", _metadata), ("/ready", _model_ready), ("/config", _config), ("/stats", _statistics)):
            yield "GET", prefix + path, handler, "read"
    yield "GET", "/v2/models/stats", _statistics, "read"
    yield "GET", "/v2", _server, "read"
    yield "GET", "/v2/", _server, "read"
    yield "GET", "/v2/health/live", _live, None
    yield "GET", "/v2/health/ready", _ready, None
    yield "GET", "/metrics", _metrics, "metrics"
    yield "GET", "/openapi.json", _page, "read"
    for path, handler, change in (
        ("/v2/trace/setting", _trace, "admin"),
        (model + "/trace/setting", _trace, "admin"),
        ("/v2/logging", _logging, "admin"),
        ("/v2/repository/index", _index, "read"),
    ):
        yield "GET", path, handler, "read"
        yield "POST", path, handler, change
    for kind, told, register, unregister in (
        ("system", _regions, _register, _unregister),
        ("cuda", _cuda_regions, _register_cuda, _unregister_cuda),
    ):
        memory = f"/v2/{kind}sharedmemory"
        for place in (memory, memory + "/region/{region}"):
            yield "GET", place + "/status", told, "shared-memory"
            yield "POST", place + "/unregister", unregister, "shared-memory"
        yield "POST", memory + "/region/{region}/register", register, "shared-memory"
    repository = "/v2/repository/models/{model}"
    yield "POST", repository + "/load", _load, "admin"
    yield "POST", repository + "/unload", _unload, "admin"
    yield "GET", repository + "/labels", _labels, "read"
    yield "POST", repository + "/labels/{label}", _set_label, "admin"
    yield "POST", repository + "/labels/{label}/rollback", _rollback, "admin"


async def _look_around(app: web.Application) -> AsyncIterator[None]:
    """Ends what nobody uses any more, while the application runs."""
    core = app[CORE]

    async def look() -> None:
        while True:
            await asyncio.sleep(_EXPIRY)
            core.sequences.expire()
            if core.peers is None:  # the leader of several asks the others, beside its loop
                core.repository.unload_idle()
            app[METRICS].keep({(each.name, each.version) for each in core.repository.index()})

    task = asyncio.create_task(look())
    yield
    await core.settled()
    task.cancel()
    core.close()


# ---- what requests say ----------------------------------------------------------------------------------------------


def _asked(request: web.Request) -> tuple[str, str | None, Context]:
    return request.match_info["model"], request.match_info.get("version"), context_of(request)


async def _document(request: web.Request) -> dict[str, Any]:
    """The JSON object of a request; without a body an empty one."""
    check_type(request)
    body = await read_body(request, min(_MAX_DOCUMENT, request.app[_MAX_BODY]), request.app[_BODY_SECONDS])
    document = parse_document(body) if body else {}
    if not isinstance(document, dict):
        raise bad_request("the body must be a JSON object")
    return document


# ---- the server -----------------------------------------------------------------------------------------------------


@operation("What the server is and can do", "Server")
async def _server(request: web.Request) -> web.Response:
    return web.json_response(request.app[CORE].server_metadata(context_of(request)))


@operation("Whether the server runs", "Live")
async def _live(request: web.Request) -> web.Response:
    return web.json_response({"live": True})


@operation("Whether a model is ready, and the server stays", "Ready")
async def _ready(request: web.Request) -> web.Response:
    if request.app[CORE].ready:
        return web.json_response({"ready": True})
    body = {"ready": False, "error": "no model is ready, a worker is being started, or the server goes away"}
    return web.json_response(body, status=503, headers={"Retry-After": "1"})


@operation("This page", "Nothing")
async def _page(request: web.Request) -> web.Response:
    return web.json_response(page(request.app))


@operation("Counts and times", {"text/plain": "Text", "application/openmetrics-text": "Text"})
async def _metrics(request: web.Request) -> web.Response:
    kind = content_type(request.headers.get("Accept"))
    return web.Response(body=render(request.app[METRICS], kind), headers={"Content-Type": kind})


@operation("What the server logs", "LogSettings", "LogChanges")
async def _logging(request: web.Request) -> web.Response:
    core, context = request.app[CORE], context_of(request)
    if request.method != "POST":
        return web.json_response(core.log_settings(context))
    return web.json_response(await core.change_log_settings(context, await _document(request)))


@operation("What is traced", "TraceSettings", "TraceChanges")
async def _trace(request: web.Request) -> web.Response:
    core, context, model = request.app[CORE], context_of(request), request.match_info.get("model")
    if request.method != "POST":
        return web.json_response(core.trace_settings(model, context))
    return web.json_response(await core.change_trace_settings(model, context, await _document(request)))


# ---- models ---------------------------------------------------------------------------------------------------------


@operation("Whether a model is ready", "ModelReady")
async def _model_ready(request: web.Request) -> web.Response:
    return web.json_response(request.app[CORE].model_ready(*_asked(request)))


@operation("Inputs and outputs of a model", "Metadata")
async def _metadata(request: web.Request) -> web.Response:
    return web.json_response(request.app[CORE].model_metadata(*_asked(request)))


@operation("Configuration of a model", "Config")
async def _config(request: web.Request) -> web.Response:
    return web.json_response(request.app[CORE].model_config(*_asked(request)))


@operation("Counts and times of versions", "Statistics")
async def _statistics(request: web.Request) -> web.Response:
    model, version = request.match_info.get("model"), request.match_info.get("version")
    return web.json_response(await request.app[CORE].statistics(model, version, context_of(request)))


# ---- the repository -------------------------------------------------------------------------------------------------


@operation("All versions, and their states", "Index", "IndexRequest")
async def _index(request: web.Request) -> web.Response:
    document = await _document(request) if request.method == "POST" else {}
    ready = document.get("ready", False)
    if not isinstance(ready, bool):
        raise bad_request(f'"ready" is {shown(ready)} and must be true or false')
    return web.json_response(request.app[CORE].index(context_of(request), ready))


async def _parameters(request: web.Request) -> dict[str, Any]:
    parameters = (await _document(request)).get("parameters")
    if not isinstance(parameters, dict | None):
        raise bad_request('"parameters" must be an object')
    return parameters or {}


def _flag(parameters: dict[str, Any], name: str) -> bool:
    value = parameters.get(name, False)
    if not isinstance(value, bool):
        raise bad_request(f'"{name}" is {shown(value)} and must be true or false')
    return value


@operation("Loads a model, or loads it again", "Nothing", "LoadRequest")
async def _load(request: web.Request) -> web.Response:
    parameters = await _parameters(request)
    await request.app[CORE].load(request.match_info["model"], context_of(request), parameters)
    return web.json_response({})


@operation("Takes a model away from new requests", "Nothing", "UnloadRequest")
async def _unload(request: web.Request) -> web.Response:
    dependents = _flag(await _parameters(request), "unload_dependents")
    await request.app[CORE].unload(request.match_info["model"], context_of(request), dependents)
    return web.json_response({})


@operation("The version of each label", "Labels")
async def _labels(request: web.Request) -> web.Response:
    return _told_labels(request, request.app[CORE].labels(request.match_info["model"], context_of(request)))


@operation("Puts a label on a version", "Labels", "LabelRequest", is_required=True)
async def _set_label(request: web.Request) -> web.Response:
    version = (await _document(request)).get("version")
    if not isinstance(version, str):
        raise bad_request(f'"version" is {shown(version)} and must be a version, as "3"')
    model, label = request.match_info["model"], request.match_info["label"]
    return _told_labels(request, await request.app[CORE].set_label(model, label, version, context_of(request)))


@operation("Puts a label back on the version that it was on before", "Labels", "Nothing")
async def _rollback(request: web.Request) -> web.Response:
    await _document(request)
    model, label = request.match_info["model"], request.match_info["label"]
    return _told_labels(request, await request.app[CORE].rollback(model, label, context_of(request)))


def _told_labels(request: web.Request, labels: dict[str, str]) -> web.Response:
    headers = {}
    if request.app[CORE].labels_note(request.match_info["model"]):
        text = "labels that were set here last until the server ends: the repository cannot be written to"
        headers["Warning"] = f'299 maas-rt "{text}"'
    return web.json_response(labels, headers=headers)


# ---- shared memory --------------------------------------------------------------------------------------------------


@operation("The client's regions of system shared memory", "Regions", refusals=(404,))
async def _regions(request: web.Request) -> web.Response:
    return web.json_response(request.app[CORE].regions_told(request.match_info.get("region"), context_of(request)))


@operation("Makes a part of an object of shared memory a region", "Nothing", "RegisterRequest", is_required=True)
async def _register(request: web.Request) -> web.Response:
    document = await _document(request)
    key, offset, size = document.get("key"), document.get("offset", 0), document.get("byte_size")
    if not isinstance(key, str) or type(offset) is not int or type(size) is not int:
        raise bad_request('a region has a "key", a string, a "byte_size" and, if it is not 0, an "offset", integers')
    await request.app[CORE].register_region(request.match_info["region"], key, offset, size, context_of(request))
    return web.json_response({})


@operation("Forgets the client's regions", "Nothing", "UnregisterRequest", refusals=(404,))
async def _unregister(request: web.Request) -> web.Response:
    of_all = _flag(await _parameters(request), "all_clients")
    await request.app[CORE].unregister_regions(request.match_info.get("region"), context_of(request), of_all)
    return web.json_response({})


@operation("Regions of CUDA shared memory: none", "Nothings", refusals=(404,))
async def _cuda_regions(request: web.Request) -> web.Response:
    region = request.match_info.get("region")
    return web.json_response(request.app[CORE].cuda_regions_told(region, context_of(request)))


@operation("Is refused", "Nothing", "Nothing")
async def _register_cuda(request: web.Request) -> web.Response:
    await _document(request)
    request.app[CORE].register_cuda_region(request.match_info["region"], context_of(request))
    return web.json_response({})


@operation("Forgets regions of CUDA shared memory, of which there are none", "Nothing", "Nothing", refusals=(404,))
async def _unregister_cuda(request: web.Request) -> web.Response:
    await _document(request)
    request.app[CORE].unregister_cuda_regions(request.match_info.get("region"), context_of(request))
    return web.json_response({})


# ---- inference ------------------------------------------------------------------------------------------------------


@operation(
    "Runs a model",
    {"application/json": "InferResponse", BINARY: "Binary"},
    {"application/json": "InferRequest", BINARY: "Binary"},
    is_required=True,
    refusals=(499, 504),
)
async def _infer(request: web.Request) -> web.StreamResponse:
    with request.app[CORE].begin(*_asked(request)) as call:
        counted(request)
        check_type(request)
        call.check_load()
        body = await read_body(request, request.app[_MAX_BODY], request.app[_BODY_SECONDS])
        began, received = time.monotonic_ns(), len(body)
        length = header_length(header(request, HEADER_LENGTH), len(body))
        asked = [await beside_the_loop(len(body), decode_request, body, length)]
        call.parsed(time.monotonic_ns() - began)
        del body
        response = await call.infer(asked.pop())  # which lets go of the request when it has read it
        began = time.monotonic_ns()
        size = response.size
        if call.in_place:
            names = request.match_info["model"], request.match_info.get("version")
            request.app[_DIRECT].quick.note(*names, received, size)
        answer = await beside_the_loop(size, encoded, response, header(request, "Accept-Encoding"))
        call.encoded(time.monotonic_ns() - began)
    return await _send(request, *answer)


async def _send(
    request: web.Request, parts: tuple[bytes | memoryview, ...], headers: dict[str, str]
) -> web.StreamResponse:
    size = sum(map(len, parts))
    headers["Server"] = SERVER
    if size < _STREAMED:
        return web.Response(body=b"".join(parts), headers=headers)
    trail = CURRENT.get()
    named = {} if trail is None else trail_headers(trail)
    response = web.StreamResponse(headers={**headers, **named, "Content-Length": str(size)})
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
