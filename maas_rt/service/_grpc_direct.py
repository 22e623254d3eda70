"""Small inferences over gRPC, answered on the thread that takes them off the wire.

As those over HTTP are (_direct): a message of some kilobytes for a model that runs in less time than a hop to the event loop takes is read, run and
answered at once. Whatever is out of the ordinary goes to the loop, and nothing has come of it before. Both ways ask the same functions.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any

from .._native import Message
from ._calls import Entry, Withdrawn
from ._core import Core
from ._grpc_calls import Call, Held, Messages, context_of, no_message, refuse
from ._grpc_engine import Rpc
from ._grpc_requests import decode_message, encode_message
from ._inference import Inference
from ._metrics import Metrics
from ._quick import MOST_BYTES, Quick


@dataclass(slots=True)
class Admitted:
    """A call that the gate has let in, and what it holds."""

    call: Call
    entry: Entry
    held: Held

    def refuse(self, error: Exception, metrics: Metrics) -> None:
        """Ends it with the status of an error."""
        self.held.end()
        self.entry.__exit__(type(error), error, error.__traceback__)
        refuse(self.call, error, metrics)


class Direct:
    """The short way.

    Args:
        usual: the other one, given the message in a list if it is there.
    """

    def __init__(
        self,
        core: Core,
        metrics: Metrics,
        messages: Messages,
        quick: Quick,
        usual: Callable[[Admitted, list[bytes]], Coroutine[Any, Any, None]],
    ) -> None:
        self._core = core
        self._metrics = metrics
        self._messages = messages
        self._quick = quick
        self._usual = usual

    def take(self, rpc: Rpc) -> None:
        """A call of ModelInfer, on the engine's thread."""
        call = Call(rpc, context_of(rpc, "ModelInfer"))
        try:
            entry = self._core.gate.admit(call.context, "infer")
        except Exception as error:
            refuse(call, error, self._metrics)
            return
        call.context.client = entry.__enter__()
        admitted = Admitted(call, entry, self._messages.reading())
        rpc.receive(partial(self._arrived, admitted), lambda: rpc.hand_over(self._usual(admitted, [])))

    def _arrived(self, admitted: Admitted, message: bytes | None) -> None:
        call = admitted.call
        try:
            if message is None:
                raise no_message()
            self._messages.hold(admitted.held, len(message))
            answer = self._answer(call, message)
        except Exception as error:
            admitted.refuse(error, self._metrics)
            return
        if answer is None:
            call.rpc.hand_over(self._usual(admitted, [message]))
            return
        admitted.held.end()
        admitted.entry.__exit__(None, None, None)
        call.answer(answer)

    def _answer(self, call: Call, data: bytes) -> bytes | None:
        """None if it is to go the usual way."""
        if len(data) > MOST_BYTES:
            return None
        began = time.monotonic_ns()
        message = Message.read(data)  # of what is packed there is none
        if message is None:
            return None
        kind = message.model, message.version, len(data)
        if not self._quick.has(*kind):
            return None
        try:
            with self._core.begin(message.model, message.version, call.context) as inference:
                call.counted = True
                return _exchange(inference, message, data, began)
        except Withdrawn:
            call.counted = False
            self._quick.forget(*kind)
            return None


def _exchange(inference: Inference, message: Message, data: bytes, began: int) -> bytes:
    """The answer. Raises Withdrawn if it is to go the usual way."""
    prepared = inference.served.messages
    exchange = None if prepared is None else prepared.read(message)
    if exchange is not None:
        inference.parsed(time.monotonic_ns() - began)
        return inference.exchange_in_place(exchange)
    asked = decode_message(data)
    inference.parsed(time.monotonic_ns() - began)
    response = inference.infer_in_place(asked.request)
    began = time.monotonic_ns()
    if response.size > MOST_BYTES:
        raise Withdrawn
    if prepared is not None:
        prepared.learn(message, asked.request, response)
    answer = encode_message(response, asked.as_contents)
    inference.encoded(time.monotonic_ns() - began)
    return answer
