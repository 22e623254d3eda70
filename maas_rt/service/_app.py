"""The aiohttp application: routes of the Open Inference Protocol, one handler each."""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, TypeVar

from .._errors import Error, InvalidArgumentError, MissingExtraError
from .._model import State
from .._version import __version__
from ._errors import ServiceError, kind_of
from ._leases import Lease
from ._repository import Repository, Served
from ._requests import HEADER_LENGTH, InferRequest, InferResponse, decode_request, encode_response, header_length
from ._sequences import Sequences

try:
    from aiohttp import web
except ModuleNotFoundError as _missing:
    raise MissingExtraError("the service", "serve", "aiohttp") from _missing

_T = TypeVar("_T")
_REPOSITORY = web.AppKey("repository", Repository)
_SEQUENCES = web.AppKey("sequences", Sequences)
_EXPIRY = 5.0  # seconds between two looks for sequences that were idle too long
_EXTENSIONS = ["binary_tensor_data", "classification", "parameters", "sequence", "sequence(string_id)"]
_IN_PLACE_BYTES = 1 << 16  # reading or writing less takes a fraction of a millisecond
_SEED_BITS = 53  # of a seed that the server draws: every client's numbers hold it


def create_app(repository: Repository, max_body: int = 64 << 20) -> web.Application:
    """The application for a repository; requests over `max_body` bytes get 413."""
    app = web.Application(client_max_size=max_body, middlewares=[_errors_as_json])
    app[_REPOSITORY] = repository
    app[_SEQUENCES] = Sequences()
    app.cleanup_ctx.append(_expire_sequences)
    app.router.add_get("/v2", _server)
    app.router.add_get("/v2/health/live", _alive)
    app.router.add_get("/v2/health/ready", _alive)
    for prefix in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
        app.router.add_get(prefix, _metadata)
        app.router.add_get(prefix + "/ready", _model_ready)
        app.router.add_post(prefix + "/infer", _infer)
    return app


async def _expire_sequences(app: web.Application) -> AsyncIterator[None]:
    async def expire() -> None:
        while True:
            await asyncio.sleep(_EXPIRY)
            app[_SEQUENCES].expire()

    task = asyncio.create_task(expire())
    yield
    task.cancel()
    app[_SEQUENCES].close()


def serve(
    directory: str, *, host: str = "127.0.0.1", port: int = 8000, threads: int = 0, max_body: int = 64 << 20
) -> int:
    """Serve a directory until SIGINT or SIGTERM; running requests are finished first. Returns the exit status."""
    if not 0 <= port <= 65535:
        raise InvalidArgumentError(f"port is {port} and must be 0 to 65535; 0 picks a free one")
    repository = Repository(directory, threads)
    for name in repository.names():
        print(f"serving {name}, versions {', '.join(repository.versions(name))}", file=sys.stderr)
    for line in repository.told + tuple(entry.reason for entry in repository.index() if entry.reason):
        print(f"not served: {line}", file=sys.stderr)
    asyncio.run(_serve(create_app(repository, max_body), host, port))
    return 0


async def _serve(app: web.Application, host: str, port: int) -> None:
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        try:
            await site.start()
        except OSError as error:
            raise InvalidArgumentError(
                f"cannot listen on {host}:{port}: {error.strerror or error}; choose another --port"
            ) from None
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        bound = runner.addresses[0]
        print(f"listening on http://{bound[0]}:{bound[1]}/v2 (stop with Ctrl-C)", file=sys.stderr, flush=True)
        await stop.wait()
    finally:
        await runner.cleanup()


@web.middleware
async def _errors_as_json(request: web.Request, handler: Any) -> web.StreamResponse:
    """Every error is a JSON object with `error`, as the protocol asks."""
    try:
        response: web.StreamResponse = await handler(request)
        return response
    except ServiceError as error:
        wait = {} if error.retry_after is None else {"Retry-After": str(math.ceil(error.retry_after))}
        return _error(error.kind.http, str(error), wait)
    except Error as error:
        return _error(kind_of(error).http, str(error))
    except web.HTTPRequestEntityTooLarge as error:
        return _error(413, f"the request is larger than this server accepts: {error.text}")
    except (web.RequestPayloadError, ConnectionError) as error:  # its compression, or an end before its length
        return _error(400, f"the body cannot be read: {' '.join(str(error).split())[:200]}")
    except web.HTTPException as error:
        if error.status < 400:
            raise
        allow = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
        return _error(error.status, f"{request.method} {request.path!r}: {error.reason}", allow)
    except Exception as error:
        logging.getLogger(__name__).exception("%s %s", request.method, request.path)
        return _error(500, f"the server failed on this request ({type(error).__name__}): its log says more")


def _error(status: int, message: str, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.json_response({"error": message}, status=status, headers=headers)


def _lease(request: web.Request) -> Lease[Served]:
    return request.app[_REPOSITORY].lease(request.match_info["model"], request.match_info.get("version"))


async def _server(request: web.Request) -> web.Response:
    return web.json_response({"name": "maas-rt", "version": __version__, "extensions": _EXTENSIONS})


async def _alive(request: web.Request) -> web.Response:
    return web.json_response({"live": True} if request.path.endswith("live") else {"ready": True})


async def _model_ready(request: web.Request) -> web.Response:
    with _lease(request) as served:
        return web.json_response({"name": served.name, "ready": True})


async def _metadata(request: web.Request) -> web.Response:
    with _lease(request) as served:
        return web.json_response(
            {
                "name": served.name,
                "versions": request.app[_REPOSITORY].versions(served.name),
                "platform": "maas_rt",
                "inputs": [spec.metadata() for spec in served.signature.inputs],
                "outputs": [spec.metadata() for spec in served.signature.outputs],
            }
        )


async def _infer(request: web.Request) -> web.Response:
    with _lease(request) as served:
        body = await request.read()
        length = header_length(request.headers.get(HEADER_LENGTH), len(body))
        asked = await _beside_the_loop(len(body), decode_request, body, length)
        if not served.model.states:
            return await _answer(served, asked)
        if not asked.options.sequence_id:
            return await _answer(served, asked, served.model.state())  # begins anew
    return await _answer_in_sequence(request, served.name, asked)


async def _answer_in_sequence(request: web.Request, model: str, asked: InferRequest) -> web.Response:
    sequences, options = request.app[_SEQUENCES], asked.options
    future = sequences.take(model, options.sequence_id, options.sequence_start, _lease(request))
    try:
        sequence = await asyncio.wrap_future(future)
    except asyncio.CancelledError:
        if not future.cancel():  # it was this request's turn in the meantime
            sequences.give_back(future.result())
        raise

    def done(succeeded: bool) -> None:
        sequences.give_back(sequence, succeeded and options.sequence_end)

    return await _answer(sequence.served, asked, sequence.state, done)


async def _answer(
    served: Served, asked: InferRequest, state: State | None = None, done: Callable[[bool], None] | None = None
) -> web.Response:
    """Runs a request. `done` is called once the run has ended, and with it the use of the state: with whether it succeeded."""
    try:
        inputs = await _beside_the_loop(asked.size, served.signature.arrays, asked)
        wanted = served.signature.requested(asked)
        seed = asked.options.seed
        if seed is None and served.model.draws:
            seed = secrets.randbits(_SEED_BITS)
        run = served.model.run_async(inputs, state=state, seed=seed)
    except BaseException:
        if done is not None:
            done(False)
        raise
    if done is not None:
        run.add_done_callback(lambda run: done(not run.cancelled() and run.exception() is None))
    results = await asyncio.wrap_future(run)
    parameters = {"seed": seed} if served.model.draws else {}

    def encoded() -> tuple[bytes, int | None]:
        outputs = served.signature.answer(results, wanted)
        response = InferResponse(served.name, served.version, outputs, asked.id, parameters)
        answer = encode_response(response)
        return answer.joined(), answer.header_length

    body, length = await _beside_the_loop(sum(results[output.name].nbytes for output in wanted), encoded)
    if length is None:
        return web.Response(body=body, content_type="application/json", charset="utf-8")
    return web.Response(body=body, content_type="application/octet-stream", headers={HEADER_LENGTH: str(length)})


async def _beside_the_loop(size: int, work: Callable[..., _T], *args: Any) -> _T:
    """What works on so many bytes: in place, or in a thread where other requests would wait for it."""
    return work(*args) if size < _IN_PLACE_BYTES else await asyncio.to_thread(work, *args)
