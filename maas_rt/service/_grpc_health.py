"""grpc.health.v1: whether the server is there for requests, asked once or watched. Nobody needs a token for it.

Source: https://github.com/grpc/grpc/blob/master/doc/health-checking.md.
"""

from __future__ import annotations

import asyncio

from ._core import Core
from ._errors import Kind, ServiceError, shown
from ._grpc_calls import Call, Messages, context_of, refuse
from ._grpc_engine import Handler, Rpc
from ._grpc_messages import HEALTH, INFERENCE, MESSAGES
from ._grpc_requests import parse
from ._metrics import Metrics

_LOOK = 0.1  # seconds between two looks of one who watches
_WATCHERS = 1024
_SERVING, _NOT_SERVING, _UNKNOWN = 1, 2, 3
# "liveness": whether the process answers; all else is whether it is there for requests, as ServerLive and ServerReady.
_LIVE, _READY = "liveness", ("", INFERENCE, "readiness")


class Health:
    """The methods of grpc.health.v1.Health."""

    def __init__(self, core: Core, metrics: Metrics, messages: Messages) -> None:
        self._core = core
        self._metrics = metrics
        self._messages = messages
        self._watching = 0
        self._stopping = False

    def methods(self) -> dict[bytes, Handler]:
        """By their paths."""
        methods: dict[str, Handler] = {"Check": self._check, "List": self._list, "Watch": self._watch}
        return {f"/{HEALTH}/{name}".encode(): method for name, method in methods.items()}

    def stop(self) -> None:
        """Ends what watches, soon."""
        self._stopping = True

    def _status(self, service: str) -> int:
        if service == _LIVE:
            return _SERVING
        if service not in _READY:
            return _UNKNOWN
        return _SERVING if self._core.ready else _NOT_SERVING

    async def _asked(self, rpc: Rpc) -> str:
        with self._messages.reading() as held:
            service: str = parse("HealthCheckRequest", await self._messages.only(rpc, held)).service
        return service

    async def _check(self, rpc: Rpc) -> None:
        try:
            service = await self._asked(rpc)
            status = self._status(service)
            if status == _UNKNOWN:
                known = ", ".join(map(shown, (*_READY, _LIVE)))
                raise ServiceError(Kind.NOT_FOUND, f"there is no service {shown(service)}; there are {known}")
        except Exception as error:
            refuse(Call(rpc, context_of(rpc, "Check")), error, self._metrics)
        else:
            rpc.finish(_response(status), ())

    async def _list(self, rpc: Rpc) -> None:
        response = MESSAGES["HealthListResponse"]()
        for service in (*_READY, _LIVE):
            response.statuses[service].status = self._status(service)
        rpc.finish(response.SerializeToString(), ())

    async def _watch(self, rpc: Rpc) -> None:
        self._watching += 1
        try:
            if self._watching > _WATCHERS:
                raise ServiceError(Kind.OVERLOADED, f"{_WATCHERS} clients watch this server already: ask now and then")
            service = await self._asked(rpc)
            told = None
            while not self._stopping:
                status = self._status(service)
                if status != told:
                    await rpc.write(_response(status))
                told = status
                await asyncio.sleep(_LOOK)
            raise ServiceError(Kind.NOT_READY, "the server goes away", 1)
        except Exception as error:
            refuse(Call(rpc, context_of(rpc, "Watch")), error, self._metrics)
        finally:
            self._watching -= 1


def _response(status: int) -> bytes:
    found: bytes = MESSAGES["HealthCheckResponse"](status=status).SerializeToString()
    return found
