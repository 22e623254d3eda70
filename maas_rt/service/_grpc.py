"""The Open Inference Protocol over gRPC and its extensions, one method each.

A method turns its message into a call of Core, and what that gives or raises into an answer or a status; it decides nothing else. Who calls is
known before anything is read. Small inferences are answered in _grpc_direct.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from ._calls import Context
from ._core import Core
from ._errors import Kind, ServiceError, bad_request, kind_of, shown
from ._grpc_calls import Call, Held, Messages, context_of, message_of, refuse, uncancel
from ._grpc_direct import Admitted, Direct
from ._grpc_engine import Handler, Rpc
from ._grpc_messages import INFERENCE, MESSAGES
from ._grpc_requests import Asked, chosen, decode_message, encode_message, encode_refusal, parse
from ._grpcio import json_format
from ._metrics import Metrics
from ._offload import beside_the_loop
from ._quick import Quick

_AT_ONCE = 16  # requests of one stream that are under way
_Told = dict[str, Any]


@dataclass(frozen=True)
class Method:
    """What answers a message, and the verb that the gate is asked for; None: it is for everybody.

    Args:
        model: the field of the message that names the model, for logs.
        changes: whether a message of an administrative method changes anything; one that does not is read.
        reads: none of its messages does.
    """

    verb: str | None
    answer: Callable[[Core, Any, Context], _Told | Awaitable[_Told]]
    model: str = ""
    changes: Callable[[Any], bool] = lambda message: True
    reads: bool = False


class Service:
    """The methods of inference.GRPCInferenceService."""

    def __init__(self, core: Core, metrics: Metrics, messages: Messages) -> None:
        self._core = core
        self._metrics = metrics
        self._messages = messages
        self._quick = Quick()
        self._direct = Direct(core, metrics, messages, self._quick, self._infer)
        self._idle: set[asyncio.Task[Any] | None] = set()  # streams that wait for their clients
        self._stopping = False

    def methods(self) -> dict[bytes, Handler]:
        """By their paths."""
        methods: dict[str, Handler] = {name: partial(self._one, name, method) for name, method in METHODS.items()}
        methods |= {"ModelInfer": self._direct.take, "ModelStreamInfer": self._stream}
        return {f"/{INFERENCE}/{name}".encode(): method for name, method in methods.items()}

    def stop(self) -> None:
        """Ends streams, once they have answered what they were asked."""
        self._stopping = True
        for task in self._idle:
            if task is not None:
                task.cancel()

    # ---- one message, one answer

    async def _one(self, name: str, method: Method, rpc: Rpc) -> None:
        call = Call(rpc, replace(context_of(rpc, name), reads=method.reads))
        try:
            with self._messages.reading() as held:
                answer = await self._answer(name, method, call, held)
        except Exception as error:
            refuse(call, error, self._metrics)
        else:
            call.answer(answer)

    async def _answer(self, name: str, method: Method, call: Call, held: Held) -> bytes:
        if method.verb is None:
            message = parse(f"{name}Request", await self._messages.only(call.rpc, held))
            return await _told(name, method.answer(self._core, message, call.context))
        entry = self._core.gate.admit(call.context, method.verb)
        with entry as client:
            message = parse(f"{name}Request", await self._messages.only(call.rpc, held))
            what = f"{name} {shown(getattr(message, method.model))}" if method.model else name
            entry.about(what, method.verb if method.changes(message) else "read")
            return await _told(name, method.answer(self._core, message, replace(call.context, client=client)))

    # ---- inference

    async def _infer(self, admitted: Admitted, message: list[bytes]) -> None:
        """A call that was let in; the list, which is emptied, has its message if that is there."""
        call, held = admitted.call, admitted.held
        try:
            with held, admitted.entry:
                if message:
                    found = [await self._messages.opened(message.pop(), held)]
                else:
                    found = [await self._messages.only(call.rpc, held, late=True)]
                began = time.monotonic_ns()
                asked = [await beside_the_loop(len(found[0]), decode_message, found.pop())]
                answer = await self._run(call, asked, began)
        except Exception as error:
            refuse(call, error, self._metrics)
        else:
            call.answer(answer)

    async def _run(self, call: Call, asked: list[Asked], began: int, streamed: bool = False) -> bytes:
        """The answer to a request, the one in a list that is emptied: its data are let go of when they were read."""
        model, version, _, as_contents, received = asked[0]
        with self._core.begin(model, version, call.context) as inference:
            call.counted = True
            inference.parsed(time.monotonic_ns() - began)
            response = await inference.infer(asked.pop().request)
            began = time.monotonic_ns()
            size = response.size
            if inference.in_place:
                self._quick.note(model, version, received, size)
            answer = await beside_the_loop(size, encode_message, response, as_contents, streamed)
            inference.encoded(time.monotonic_ns() - began)
            return answer

    # ---- streams

    async def _stream(self, rpc: Rpc) -> None:
        """Requests of a stream run beside each other, those of one sequence in turn. Answers come in the order of the requests."""
        call = Call(rpc, context_of(rpc, "ModelStreamInfer"))
        answers: asyncio.Queue[asyncio.Task[bytes] | None] = asyncio.Queue(_AT_ONCE)
        writing = asyncio.create_task(_write(rpc, answers))
        running: set[asyncio.Task[bytes]] = set()
        ending: Exception | None = None
        try:
            try:
                # Each request is let in on its own: here is only looked whether there is somebody behind the token.
                self._core.gate.allows(call.context, "infer", None)
                while (task := await self._next(rpc, call)) is not None:
                    running.add(task)
                    task.add_done_callback(running.discard)
                    await answers.put(task)
            except Exception as error:
                ending = error
            await answers.put(None)  # what was asked before is answered
            await writing
            if ending is not None:
                refuse(call, ending, self._metrics)
            else:
                rpc.finish(None, ())
        finally:
            for each in (writing, *running):
                each.cancel()

    async def _next(self, rpc: Rpc, call: Call) -> asyncio.Task[bytes] | None:
        """What answers the next message of a stream; None: there is none."""
        held = self._messages.reading()
        try:
            message = await self._wait(rpc, held)
            if message is None:
                return None
            began = time.monotonic_ns()
            # Before the next one is read: what belongs to one sequence keeps its order.
            asked = await self._decoded(message)
            task = asyncio.create_task(self._streamed(call, asked, began))
        except BaseException:
            held.end()
            raise
        task.add_done_callback(lambda _: held.end())
        return task

    async def _wait(self, rpc: Rpc, held: Held) -> list[bytes | bytearray | ServiceError] | None:
        """The next message of a stream in a list, or what is wrong with it."""
        task = asyncio.current_task()
        self._idle.add(task)
        try:
            if self._stopping:
                raise asyncio.CancelledError
            message = await self._messages.read(rpc, held, idle=True)
        except ServiceError as error:
            return [error]
        except asyncio.CancelledError:
            if not self._stopping or rpc.cancelled:
                raise
            uncancel(task)
            raise ServiceError(Kind.NOT_READY, "the server goes away", 1) from None
        finally:
            self._idle.discard(task)
        return None if message is None else [message]

    async def _decoded(self, message: list[bytes | bytearray | ServiceError]) -> list[Asked] | ServiceError:
        found = message.pop()
        if isinstance(found, ServiceError):
            return found
        try:
            return [await beside_the_loop(len(found), decode_message, found)]
        except ServiceError as error:
            return error

    async def _streamed(self, stream: Call, asked: list[Asked] | ServiceError, began: int) -> bytes:
        """The answer to one request of a stream, be it that it was refused."""
        call = replace(stream, counted=False)
        identifier = None
        try:
            if isinstance(asked, ServiceError):
                raise asked
            identifier = asked[0].request.id
            return await self._run(call, asked, began, streamed=True)
        except Exception as error:
            if not call.counted:
                self._metrics.server.refuse(kind_of(error))
            return encode_refusal(message_of(error, call.context.call), identifier)


async def _write(rpc: Rpc, answers: asyncio.Queue[asyncio.Task[bytes] | None]) -> None:
    while (answer := await answers.get()) is not None:
        await rpc.write(await answer)


# ---- all other methods ----------------------------------------------------------------------------------------------


async def _told(name: str, answer: _Told | Awaitable[_Told]) -> bytes:
    told = answer if isinstance(answer, dict) else await answer
    found: bytes = json_format.ParseDict(told, MESSAGES[f"{name}Response"]()).SerializeToString()
    return found


def _of(message: Any) -> tuple[str, str | None]:
    return message.name, message.version or None


def _model_ready(core: Core, message: Any, context: Context) -> _Told:
    try:
        return {"ready": core.model_ready(*_of(message), context)["ready"]}
    except ServiceError as error:
        if error.kind not in (Kind.NOT_FOUND, Kind.NOT_READY):
            raise
        return {"ready": False}


def _check_repository(message: Any) -> None:
    if message.repository_name:
        raise bad_request(
            f"there is one repository, without a name, and {shown(message.repository_name)} was asked for"
        )


def _index(core: Core, message: Any, context: Context) -> _Told:
    _check_repository(message)
    return {"models": core.index(context, message.ready)}


async def _load(core: Core, message: Any, context: Context) -> _Told:
    _check_repository(message)
    await core.load(message.model_name, context, message.parameters)
    return {"model_name": message.model_name, "isLoaded": True}


async def _unload(core: Core, message: Any, context: Context) -> _Told:
    _check_repository(message)
    dependents = chosen(message.parameters["unload_dependents"]) if "unload_dependents" in message.parameters else False
    if not isinstance(dependents, bool):
        raise bad_request(f'"unload_dependents" is {shown(dependents)} and must be a bool')
    await core.unload(message.model_name, context, dependents)
    return {"model_name": message.model_name, "isUnloaded": True}


async def _trace(core: Core, message: Any, context: Context) -> _Told:
    changes: _Told = {}
    for name, setting in message.settings.items():
        values = list(setting.value)
        changes[name] = (values if name == "trace_level" or len(values) > 1 else values[0]) if values else None
    model = message.model_name or None
    told = await core.change_trace_settings(model, context, changes) if changes else core.trace_settings(model, context)
    return {
        "settings": {name: {"value": value if isinstance(value, list) else [value]} for name, value in told.items()}
    }


async def _log(core: Core, message: Any, context: Context) -> _Told:
    changes = {name: chosen(setting) for name, setting in message.settings.items()}
    told = await core.change_log_settings(context, changes) if changes else core.log_settings(context)
    settings = {}
    for name, value in told.items():
        kind = "bool" if isinstance(value, bool) else "uint32" if isinstance(value, int) else "string"
        settings[name] = {f"{kind}_param": value}
    return {"settings": settings}


def _regions(core: Core, message: Any, context: Context) -> _Told:
    regions = core.regions_told(message.name or None, context)
    for each in regions:
        del each["unlinked"]  # the protocol's message has no field for it
    return {"regions": {each["name"]: each for each in regions}}


async def _register(core: Core, message: Any, context: Context) -> _Told:
    await core.register_region(message.name, message.key, message.offset, message.byte_size, context)
    return {}


async def _unregister(core: Core, message: Any, context: Context) -> _Told:
    await core.unregister_regions(message.name or None, context)
    return {}


def _cuda_regions(core: Core, message: Any, context: Context) -> _Told:
    core.cuda_regions_told(message.name or None, context)
    return {}


def _register_cuda(core: Core, message: Any, context: Context) -> _Told:
    core.register_cuda_region(message.name, context)
    return {}


def _unregister_cuda(core: Core, message: Any, context: Context) -> _Told:
    core.unregister_cuda_regions(message.name or None, context)
    return {}


METHODS = {
    "ServerLive": Method(None, lambda core, message, context: {"live": True}),
    "ServerReady": Method(None, lambda core, message, context: {"ready": core.ready}),
    "ModelReady": Method("read", _model_ready),
    "ServerMetadata": Method("read", lambda core, message, context: core.server_metadata(context)),
    "ModelMetadata": Method("read", lambda core, message, context: core.model_metadata(*_of(message), context)),
    "ModelConfig": Method("read", lambda core, message, context: {"config": core.model_config(*_of(message), context)}),
    "ModelStatistics": Method(
        "read",
        lambda core, message, context: core.statistics(message.name or None, message.version or None, context),
    ),
    "RepositoryIndex": Method("read", _index),
    "RepositoryModelLoad": Method("admin", _load, "model_name"),
    "RepositoryModelUnload": Method("admin", _unload, "model_name"),
    "TraceSetting": Method("admin", _trace, "model_name", lambda message: bool(message.settings)),
    "LogSettings": Method("admin", _log, changes=lambda message: bool(message.settings)),
    "SystemSharedMemoryStatus": Method("shared-memory", _regions, "name", reads=True),
    "SystemSharedMemoryRegister": Method("shared-memory", _register, "name"),
    "SystemSharedMemoryUnregister": Method("shared-memory", _unregister, "name"),
    "CudaSharedMemoryStatus": Method("shared-memory", _cuda_regions, "name", reads=True),
    "CudaSharedMemoryRegister": Method("shared-memory", _register_cuda, "name"),
    "CudaSharedMemoryUnregister": Method("shared-memory", _unregister_cuda, "name"),
}
