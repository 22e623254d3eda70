"""A server in the test's own loop, with the connections that `maas-rt serve` has."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from maas_rt.service import Repository, create_app
from maas_rt.service._connection import Bounds, Runner
from maas_rt.service._core import Core
from maas_rt.service._guard import CORE, METRICS
from tests import _tiny


def fill(folder: Path, **more: bytes) -> Path:
    """The models that clients are tried on, two versions of one among them, and `more` by their names."""
    models = {"sum": _tiny.accumulator(), "strings": _tiny.strings(), **more}
    files = {"mlp/1": _tiny.mlp("batch"), "mlp/2": _tiny.mlp("batch")} | {
        f"{name}/1": data for name, data in models.items()
    }
    for path, data in files.items():
        (folder / path).mkdir(parents=True)
        (folder / path / "model.mrt").write_bytes(data)
    return folder


class Served:
    """Where it listens, a session of aiohttp's client, and what is behind it."""

    def __init__(self, listener: Any, session: aiohttp.ClientSession, app: web.Application) -> None:
        self.listener = listener
        self.app = app
        self.port: int = listener.getsockname()[1]
        self.session = session
        self.core: Core = app[CORE]
        self.grpc: Any = None  # a GrpcServer, where one was asked for

    async def ask(self, method: str, path: str, **options: Any) -> tuple[int, Any, Any]:
        """The status, the document and the headers of an answer."""
        async with self.session.request(method, path, **options) as response:
            body = await response.read()
            assert response.content_type == "application/json", (path, body)
            return response.status, await response.json(), response.headers


@contextmanager
def serving_beside(directory: Path, **options: Any) -> Iterator[Served]:
    """The same in a thread, for clients that block."""
    started: list[Served] = []
    ready, loop = threading.Event(), asyncio.new_event_loop()
    stop = asyncio.Event()

    async def serve() -> None:
        async with serving(directory, **options) as server:
            started.append(server)
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    try:
        assert ready.wait(120)
        yield started[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


@asynccontextmanager
async def serving(
    directory: Path,
    bounds: Bounds | None = None,
    grpc: dict[str, Any] | None = None,
    memory: int = 0,
    idle: int = 0,
    port: int = 0,
    **options: Any,
) -> AsyncIterator[Served]:
    """A server; with gRPC on 127.0.0.1 besides if there are arguments for it."""
    app = create_app(Repository(directory, memory=memory, idle=idle), **options)
    runner = Runner(app, bounds, shutdown_timeout=1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", port)
        await site.start()
        (listener,) = site._server.sockets  # type: ignore[union-attr]
        async with aiohttp.ClientSession(f"http://127.0.0.1:{listener.getsockname()[1]}") as session:
            served = Served(listener, session, app)
            if grpc is None:
                yield served
                return
            from maas_rt.service._grpc_server import GrpcServer

            options = {"addresses": [("127.0.0.1", 0)], "bounds": bounds, **grpc}
            served.grpc = GrpcServer(app[CORE], app[METRICS], **options)
            await served.grpc.start()
            try:
                yield served
            finally:
                await served.grpc.stop(1)
    finally:
        await runner.cleanup()
