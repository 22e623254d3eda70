"""A gRPC server on grpcio's C core: one thread takes what the core has, and hands to an event loop what does not end at once.

grpcio's own servers, grpc.server and grpc.aio, make tasks, futures and hops between threads of each of the events that a call consists of, which
takes several times of what the core does itself. They stand on the classes that this one stands on, too (grpc._cython.cygrpc); these are not
documented: `make test-grpcio` holds the oldest grpcio that is allowed, the tests the newest.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any

from ._grpcio import cygrpc
from ._offload import Inbox

SLOW = 1.0  # seconds after which a message that is not there is waited for elsewhere
_NEVER = 1e15  # seconds since 1970: deadlines of calls that have none lie beyond
_OK, _CANCELLED, _UNKNOWN, _EXHAUSTED, _UNIMPLEMENTED = 0, 1, 2, 8, 12
_NO_FLAGS = 0
_LOGGER = logging.getLogger(__name__)

Trailers = tuple[tuple[str, str], ...]
Handler = Callable[["Rpc"], "Coroutine[Any, Any, None] | None"]
"""Called on the engine's thread for each call; a coroutine that it returns goes on with the call on the loop (Rpc.hand_over)."""


class Rpc:
    """One call. It is the engine's thread's until it is handed over, and the loop's from then on.

    Attributes:
        method: as "/inference.GRPCInferenceService/ModelInfer".
        metadata: keys and values of the client's headers; a value is bytes where the key ends in "-bin".
        deadline: in nanoseconds of time.monotonic_ns; None: it has none.
        cancelled: the client has gone away, or the deadline is over.
    """

    __slots__ = (
        "_begun",
        "_call",
        "_closing",
        "_ended",
        "_engine",
        "_left",
        "_reading",
        "_task",
        "cancelled",
        "deadline",
        "metadata",
        "method",
    )

    def __init__(self, engine: Engine, event: Any) -> None:
        details = event.call_details
        seconds = details.deadline
        self.method: bytes = details.method
        self.metadata: tuple[tuple[str, str | bytes], ...] = event.invocation_metadata
        self.deadline = None if seconds > _NEVER else time.monotonic_ns() + max(0, int((seconds - time.time()) * 1e9))
        self.cancelled = False
        self._engine = engine
        self._call = event.call
        self._begun = False  # headers were sent
        self._ended = False  # the status was sent
        self._left = 1  # of the batches that end with the call
        self._reading: _Reading | None = None
        self._closing: Any = None
        self._task: asyncio.Task[None] | None = None

    @property
    def peer(self) -> str:
        """The client, as grpc names it: "ipv4:127.0.0.1:5000"."""
        found: bytes = self._call.peer()
        return found.decode("ascii", "replace")

    def receive(self, then: Callable[[bytes | None], None], late: Callable[[], None]) -> None:
        """Calls `then` on the engine's thread with the next message; None: there is none. If it is not there after SLOW seconds calls `late`
        instead, which hands the call over: there `read` has the message."""
        reading = _Reading(self._engine.inbox, then)
        reading.late = partial(self._be_late, reading, late)
        self._engine._watch(reading)
        self._start((reading.operation,), reading)

    async def read(self) -> bytes | None:
        """The next message; None: there is none."""
        reading, self._reading = self._reading, None
        if reading is None:
            reading = _Reading(self._engine.inbox, None)
            self._start((reading.operation,), reading)
        return await reading.wait()

    async def write(self, message: bytes) -> None:
        """Sends a message, and returns when another one may follow."""
        sent = asyncio.get_running_loop().create_future()
        self._start((*self._headers(), cygrpc.SendMessageOperation(message, _NO_FLAGS)), partial(self._land, sent))
        await sent

    def finish(self, message: bytes | None, trailers: Trailers, code: int = _OK, details: str = "") -> None:
        """Ends the call with its last message, if there is one, and a status. To end it twice is to end it once."""
        if self._ended:
            return
        self._ended = True
        operations = list(self._headers())
        if message is not None:
            operations.append(cygrpc.SendMessageOperation(message, _NO_FLAGS))
        operations.append(cygrpc.SendStatusFromServerOperation(trailers, code, details.encode(), _NO_FLAGS))
        if self._closing is None:
            operations.append(cygrpc.ReceiveCloseOnServerOperation(_NO_FLAGS))
        self._start(tuple(operations), self._leave)

    def hand_over(self, work: Coroutine[Any, Any, None]) -> None:
        """From now on the call is the loop's, where `work` goes on with it, and is cancelled when the client goes away."""
        self._engine.inbox.call(partial(self._go_on, work))

    # ---- on the loop

    def _go_on(self, work: Coroutine[Any, Any, None]) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(work))

    async def _run(self, work: Coroutine[Any, Any, None]) -> None:
        # Not before: a task that is cancelled before its first step has none, and what the call holds would not be given back.
        self._left += 1
        self._closing = cygrpc.ReceiveCloseOnServerOperation(_NO_FLAGS)
        self._start((self._closing,), self._close)
        code = _UNKNOWN
        try:
            await work
        except asyncio.CancelledError:
            code = _CANCELLED
        except Exception as error:
            _LOGGER.error("%s", self.method.decode("ascii", "replace"), exc_info=error)
        finally:
            self.finish(None, (), code)

    def _headers(self) -> tuple[Any, ...]:
        if self._begun:
            return ()
        self._begun = True
        return (cygrpc.SendInitialMetadataOperation(None, _NO_FLAGS),)

    # ---- on the engine's thread

    def _be_late(self, reading: _Reading, told: Callable[[], None]) -> None:
        self._reading = reading
        told()

    def _land(self, future: asyncio.Future[None], _: Any) -> None:
        self._engine.inbox.land(future)

    def _close(self, _: Any) -> None:
        if self._closing.cancelled() and not self._ended:
            self.cancelled = True
            assert self._task is not None
            self._engine.inbox.call(self._task.cancel)
        self._leave(None)

    def _leave(self, _: Any) -> None:
        self._left -= 1
        if self._left == 0:
            self._engine._leave()

    def _start(self, operations: tuple[Any, ...], tag: Callable[[Any], object]) -> None:
        failure = self._call.start_server_batch(operations, tag)
        if failure:
            raise RuntimeError(f"grpcio does not take {[type(each).__name__ for each in operations]}: {failure}")


class _Reading:
    """A message on its way: to a function on the engine's thread, or, without one, to the loop. `due`: when it is late, in seconds of time.monotonic;
    `late`: called then."""

    __slots__ = ("_future", "_inbox", "_landed", "_then", "due", "late", "operation")

    def __init__(self, inbox: Inbox, then: Callable[[bytes | None], None] | None) -> None:
        self.operation = cygrpc.ReceiveMessageOperation(_NO_FLAGS)
        self.due = time.monotonic() + SLOW
        self.late: Callable[[], None] | None = None
        self._then = then
        self._inbox = inbox
        self._landed = False
        self._future: asyncio.Future[None] | None = None

    def __call__(self, _: Any) -> None:
        then, self._then = self._then, None
        if then is None:
            self._inbox.call(self._land)
            return
        operation, self.operation, self.late = self.operation, None, None  # it may be looked at for a while yet
        then(operation.message())

    def go_to_loop(self) -> None:
        """It has not arrived."""
        late, self.late, self._then = self.late, None, None
        assert late is not None
        late()

    def _land(self) -> None:
        self._landed = True
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    async def wait(self) -> bytes | None:
        if not self._landed:
            self._future = asyncio.get_running_loop().create_future()
            await self._future
        found: bytes | None = self.operation.message()
        return found


class Engine:
    """The server. It is made, started and stopped on one loop.

    Args:
        options: of the core, as grpc.server takes them.
        methods: by the paths that are asked for.
        most: calls at once; those above are refused.
    """

    def __init__(self, options: list[tuple[str, int]], methods: Mapping[bytes, Handler], most: int) -> None:
        self._methods = methods
        self._most = most
        self._server = cygrpc.Server(options, False)
        self._queue = cygrpc.CompletionQueue()
        self._server.register_completion_queue(self._queue)
        self._thread = threading.Thread(target=self._work, name="maas-rt gRPC", daemon=True)
        self._waiting: deque[_Reading] = deque()  # by their times
        self._calls = 0
        self._asks = False  # for the next call
        self._stopping = False
        self._closed = False  # all connections

    def listen(self, where: str, credentials: Any = None) -> int:
        """Listens at an address, before `start`; returns the port, 0 if it cannot be had.

        Args:
            where: "127.0.0.1:8001", "[::1]:0".
            credentials: as grpc.ssl_server_credentials gives them; None: there is no TLS.
        """
        own = () if credentials is None else (credentials._credentials,)
        port: int = self._server.add_http2_port(where.encode(), *own)
        return port

    def start(self) -> None:
        """Takes calls from now on."""
        self.inbox = Inbox()
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._server.start(backup_queue=False)
        self._ask()
        self._thread.start()

    async def stop(self, grace: float) -> None:
        """Takes no more calls, and returns when those that are under way have ended; after so many seconds they are cancelled."""
        if not self._stopping:
            self._stopping = True
            self._server.shutdown(self._queue, self._close)
        done, _ = await asyncio.wait([self._over], timeout=grace)
        if not done:
            self._server.cancel_all_calls()
            await self._over
        self._thread.join()
        self._server.destroy()  # here: the core may still be within its shutdown when it tells of it

    # ---- on its thread

    def _work(self) -> None:
        while not (self._closed and not self._asks and not self._calls):
            event = self._queue.poll(self._next_due())
            try:
                if event.tag is not None:  # else the time is over
                    event.tag(event)
                self._look_for_late()
            except Exception as error:
                _LOGGER.error("gRPC", exc_info=error)
            event = None  # it holds its call
        self.inbox.land(self._over)

    def _ask(self) -> None:
        try:
            self._server.request_call(self._queue, self._queue, self._take)
        except ValueError:  # it is told to stop at this moment
            if not self._stopping:
                raise
        else:
            self._asks = True

    def _take(self, event: Any) -> None:
        self._asks = False
        if not event.success:  # the server goes away
            return
        if not self._stopping:
            self._ask()
        self._calls += 1
        rpc = Rpc(self, event)
        method = self._methods.get(rpc.method)
        if method is None:
            rpc.finish(None, (), _UNIMPLEMENTED, "there is no such method")
        elif self._calls > self._most:
            rpc.finish(None, (), _EXHAUSTED, f"the server answers {self._most} calls at once, the most it may")
        else:
            try:
                work = method(rpc)
            except BaseException:
                rpc.finish(None, (), _UNKNOWN)
                raise
            if work is not None:
                rpc.hand_over(work)

    def _close(self, _: Any) -> None:
        self._closed = True

    def _leave(self) -> None:
        self._calls -= 1

    def _watch(self, reading: _Reading) -> None:
        self._waiting.append(reading)

    def _next_due(self) -> float | None:
        """When the first message is late that is not there, in seconds since 1970."""
        waiting = self._waiting
        while waiting and waiting[0].late is None:
            waiting.popleft()
        return time.time() + waiting[0].due - time.monotonic() if waiting else None

    def _look_for_late(self) -> None:
        waiting = self._waiting
        while waiting and (waiting[0].late is None or waiting[0].due <= time.monotonic()):
            reading = waiting.popleft()
            if reading.late is not None:
                reading.go_to_loop()
