"""The client for asyncio, on aiohttp."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from types import SimpleNamespace, TracebackType
from typing import Any, TypeVar

from .._errors import Error, InvalidArgumentError, MissingExtraError
from ..service._offload import beside_the_loop
from . import _calls
from ._calls import Answer, Call, Part, Version, opened
from ._errors import ClientError, ConnectionFailedError, InvalidAnswerError, TlsError
from ._regions import Outputs
from ._result import InferResult
from ._retry import Deadline
from ._sequences import ENDING, Course
from ._target import Options

try:
    import aiohttp
    from yarl import URL
except ModuleNotFoundError as _error:
    raise MissingExtraError("maas_rt.client.AsyncClient", "client", "aiohttp") from _error

T = TypeVar("T")
_KEPT = 30.0  # seconds: less than servers keep a connection that nobody uses
_TOGETHER = 1 << 16  # bytes of a body that is sent as one
_PIECE = 1 << 18


class AsyncClient(Options):
    """A server, for coroutines: Client's calls, to be awaited. It belongs to the loop that it is first used on.

        async with AsyncClient("https://models.example", token=key) as client:
            result = await client.infer("digits", {"x": x})

    Where a coroutine is cancelled its connection is closed, and the server ends the run. Large tensors are read and written beside the loop: arrays must
    stay as they are until the call has ended.
    """

    def _start(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._session: aiohttp.ClientSession | None = None
        self._closed = False

    async def close(self) -> None:
        """Ends the connections."""
        self._closed = True
        if self._session is not None:
            await self._session.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # ---- the server

    async def live(self, *, timeout: float | None = None) -> bool:
        """As Client.live."""
        return await self._perform(_calls.live(), timeout)

    async def ready(self, model: str | None = None, version: Version = None, *, timeout: float | None = None) -> bool:
        """As Client.ready."""
        return await self._perform(_calls.ready(model, version), timeout)

    async def server_metadata(self, *, timeout: float | None = None) -> dict[str, Any]:
        """As Client.server_metadata."""
        return await self._perform(_calls.server_metadata(), timeout)

    # ---- models

    async def metadata(self, model: str, version: Version = None, *, timeout: float | None = None) -> dict[str, Any]:
        """As Client.metadata."""
        return await self._perform(_calls.metadata(model, version), timeout)

    async def config(self, model: str, version: Version = None, *, timeout: float | None = None) -> dict[str, Any]:
        """As Client.config."""
        return await self._perform(_calls.config(model, version), timeout)

    async def statistics(
        self, model: str | None = None, version: Version = None, *, timeout: float | None = None
    ) -> list[dict[str, Any]]:
        """As Client.statistics."""
        return await self._perform(_calls.statistics(model, version), timeout)

    async def infer(
        self,
        model: str,
        inputs: Mapping[str, object],
        *,
        outputs: Outputs = None,
        classes: Mapping[str, int] | None = None,
        version: Version = None,
        id: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        json: bool = False,
        timeout: float | None = None,
    ) -> InferResult:
        """As Client.infer."""
        deadline = self._deadline(timeout)

        def made() -> Call[InferResult]:
            return _calls.infer(
                model,
                inputs,
                outputs=outputs,
                classes=classes,
                version=version,
                id=id,
                parameters=parameters,
                as_json=json,
                left=deadline.left,
                packing=self._compress,
            )

        size = sum(int(getattr(each, "nbytes", 0)) for each in inputs.values())
        return await self._perform_until(await beside_the_loop(size, made), deadline)

    def sequence(self, model: str, version: Version = None, *, id: int | str | None = None) -> AsyncSequence:
        """As Client.sequence, with `async with` and `await`."""
        return AsyncSequence(self, model, version, Course(id))

    # ---- the repository

    async def index(self, *, ready: bool = False, timeout: float | None = None) -> list[dict[str, Any]]:
        """As Client.index."""
        return await self._perform(_calls.index(ready), timeout)

    async def load(self, model: str, *, timeout: float | None = None) -> None:
        """As Client.load."""
        await self._perform(_calls.load(model), timeout)

    async def unload(self, model: str, *, timeout: float | None = None) -> None:
        """As Client.unload."""
        await self._perform(_calls.unload(model), timeout)

    async def labels(self, model: str, *, timeout: float | None = None) -> dict[str, Any]:
        """As Client.labels."""
        return await self._perform(_calls.labels(model), timeout)

    async def set_label(
        self, model: str, label: str, version: int | str, *, timeout: float | None = None
    ) -> dict[str, Any]:
        """As Client.set_label."""
        return await self._perform(_calls.set_label(model, label, version), timeout)

    async def rollback(self, model: str, label: str, *, timeout: float | None = None) -> dict[str, Any]:
        """As Client.rollback."""
        return await self._perform(_calls.rollback(model, label), timeout)

    # ---- shared memory, of a server on this machine that was started with it

    async def register_region(
        self, name: str, key: str, size: int, offset: int = 0, *, timeout: float | None = None
    ) -> None:
        """As Client.register_region."""
        await self._perform(_calls.register_region(name, key, size, offset), timeout)

    async def unregister_regions(
        self, name: str | None = None, *, all_clients: bool = False, timeout: float | None = None
    ) -> None:
        """As Client.unregister_regions."""
        await self._perform(_calls.unregister_regions(name, all_clients), timeout)

    async def regions(self, name: str | None = None, *, timeout: float | None = None) -> list[dict[str, Any]]:
        """As Client.regions."""
        return await self._perform(_calls.regions(name), timeout)

    # ---- how

    async def _perform(self, call: Call[T], timeout: float | None) -> T:
        return await self._perform_until(call, self._deadline(timeout))

    async def _perform_until(self, call: Call[T], deadline: Deadline) -> T:
        number = 0
        while True:
            try:
                answer = await self._answer(call, deadline)
                return await beside_the_loop(len(answer.body), call.read, answer)
            except ClientError as error:
                wait = self._retry.wait(number, error, call.repeatable)
                if wait is None or wait >= deadline.left:
                    raise
            await asyncio.sleep(wait)
            number += 1

    async def _answer(self, call: Call[T], deadline: Deadline) -> Answer:
        """One try; and another at once, where the connection was one that was kept and turns out to be closed."""
        try:
            used = SimpleNamespace(kept=False)
            answer = await self._exchange(call, deadline, used)
        except ConnectionFailedError:
            if not (used.kept and call.repeatable):
                raise
            answer = await self._exchange(call, deadline, used)
        return await beside_the_loop(len(answer.body), opened, answer, self._max_answer)

    async def _exchange(self, call: Call[T], deadline: Deadline, used: SimpleNamespace) -> Answer:
        session = self._opened()
        headers = self._headers(call, deadline)
        body: bytes | AsyncIterator[Part] | None = None
        if call.method == "POST":
            headers["Content-Length"] = str(call.size)
            body = b"".join(call.parts) if call.size <= _TOGETHER else _pieces(call.parts)
        url = URL(self._target.url + call.path, encoded=True)
        bound = aiohttp.ClientTimeout(total=deadline.check())
        try:
            async with session.request(
                call.method,
                url,
                headers=headers,
                data=body,
                timeout=bound,
                allow_redirects=False,
                trace_request_ctx=used,
            ) as response:
                names = {name.lower() for name in response.headers}
                told = {name: ", ".join(response.headers.getall(name)) for name in names}
                return Answer(response.status, response.reason or "", told, await self._body(response))
        except asyncio.TimeoutError:
            raise deadline.over() from None
        except (aiohttp.ClientConnectorCertificateError, aiohttp.ClientSSLError) as error:
            raise TlsError(f"there is no TLS with {self._target.authority}: {error}") from None
        except aiohttp.ClientConnectorError as error:
            raise ConnectionFailedError(f"there is no connection: {error}") from None
        except (aiohttp.ClientResponseError, aiohttp.InvalidURL) as error:
            raise InvalidAnswerError(f"what came is no HTTP answer: {' '.join(str(error).split())[:200]}") from None
        except (aiohttp.ClientError, OSError) as error:
            broken = ConnectionFailedError(f"the connection broke: {' '.join(str(error).split())[:200]}")
            broken.reached = True
            raise broken from None

    async def _body(self, response: aiohttp.ClientResponse) -> bytearray:
        limit, length = self._max_answer, response.content_length
        if length is not None and length > limit:
            raise InvalidAnswerError(f"the answer has {length} bytes, and {limit} are the most that this client takes")
        body = bytearray()
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) > limit:
                raise InvalidAnswerError(f"the answer has more than the {limit} bytes that this client takes")
        return body

    def _opened(self) -> aiohttp.ClientSession:
        loop = asyncio.get_running_loop()
        if self._closed:
            raise InvalidArgumentError("the client is closed: make another")
        if self._session is None:
            self._loop, self._session = loop, self._session_on(loop)
        elif self._loop is not loop:
            raise InvalidArgumentError(
                "an AsyncClient belongs to the loop that it was first used on: make another for this one"
            )
        return self._session

    def _session_on(self, loop: asyncio.AbstractEventLoop) -> aiohttp.ClientSession:
        connector: aiohttp.BaseConnector
        if self._target.socket is not None:
            connector = aiohttp.UnixConnector(self._target.socket, limit=self._connections, keepalive_timeout=_KEPT)
        else:
            tls = self._target.tls if self._target.tls is not None else True
            connector = aiohttp.TCPConnector(limit=self._connections, keepalive_timeout=_KEPT, ssl=tls)

        async def kept(session: aiohttp.ClientSession, context: SimpleNamespace, _: object) -> None:
            context.trace_request_ctx.kept = True

        trace = aiohttp.TraceConfig()
        trace.on_connection_reuseconn.append(kept)
        return aiohttp.ClientSession(
            connector=connector,
            auto_decompress=False,
            skip_auto_headers=("Accept-Encoding", "User-Agent", "Content-Type"),
            cookie_jar=aiohttp.DummyCookieJar(),
            trace_configs=[trace],
        )


async def _pieces(parts: Sequence[Part]) -> AsyncIterator[Part]:
    for part in parts:
        for at in range(0, len(part), _PIECE):
            yield memoryview(part)[at : at + _PIECE]


class AsyncSequence:
    """As Sequence, for coroutines."""

    def __init__(self, client: AsyncClient, model: str, version: Version, course: Course) -> None:
        self._client = client
        self._model = model
        self._version = version
        self._course = course

    @property
    def id(self) -> int | str:
        """By which the server knows it."""
        return self._course.id

    async def infer(
        self,
        inputs: Mapping[str, object],
        *,
        last: bool = False,
        parameters: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> InferResult:
        """As Client.infer with its other arguments; `last`: the sequence ends with this request."""
        marked = self._course.parameters(parameters, last)
        result = await self._client.infer(self._model, inputs, version=self._version, parameters=marked, **options)
        self._course.answered(inputs, last)
        return result

    async def __aenter__(self) -> AsyncSequence:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        ending = self._course.ending()
        if ending is not None:
            inputs, marked = ending
            with suppress(Error):  # the server ends it by itself, later
                await self._client.infer(self._model, inputs, version=self._version, parameters=marked, timeout=ENDING)
