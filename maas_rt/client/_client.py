"""The client that blocks."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, TypeVar

from .._errors import Error, InvalidArgumentError
from . import _calls
from ._calls import Answer, Call, Version, opened
from ._errors import ClientError
from ._regions import Outputs
from ._result import InferResult
from ._retry import Deadline
from ._sequences import ENDING, Course
from ._target import Options
from ._wire import Pool

T = TypeVar("T")


class Client(Options):
    """A server, for a program that waits for its answers. Any thread may call anything; connections are kept.

        with Client("https://models.example", token=key) as client:
            y = client.infer("digits", {"x": x})["y"]

    Of each call `timeout` is in seconds, by default the client's, and `version` a number or a label, by default the one that the server means by none.
    Where the server refuses, or does not answer, calls raise ClientError (_errors.py draws its tree). What is refused with 429 or 503 is
    tried again, as `retry` says; so is what did not reach the server, and, where to do it twice is as good as once, what may have: everything but
    `unload`, `rollback`, `register_region` and the requests of a sequence.
    """

    def _start(self) -> None:
        self._pool = Pool(self._target, self._connections)

    def close(self) -> None:
        """Ends the connections; those under way when their calls have ended."""
        self._pool.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ---- the server

    def live(self, *, timeout: float | None = None) -> bool:
        """Whether the server runs. One that cannot be reached is ConnectionFailedError."""
        return self._perform(_calls.live(), timeout)

    def ready(self, model: str | None = None, version: Version = None, *, timeout: float | None = None) -> bool:
        """Whether the server is ready, or a model; one that is not there is not."""
        return self._perform(_calls.ready(model, version), timeout)

    def server_metadata(self, *, timeout: float | None = None) -> dict[str, Any]:
        """The server's `name`, `version` and `extensions`."""
        return self._perform(_calls.server_metadata(), timeout)

    # ---- models

    def metadata(self, model: str, version: Version = None, *, timeout: float | None = None) -> dict[str, Any]:
        """A model's `versions`, `inputs` and `outputs` (`name`, `datatype`, `shape`; -1 is a free dimension)."""
        return self._perform(_calls.metadata(model, version), timeout)

    def config(self, model: str, version: Version = None, *, timeout: float | None = None) -> dict[str, Any]:
        """A model's configuration, in the fields of Triton's ModelConfig."""
        return self._perform(_calls.config(model, version), timeout)

    def statistics(
        self, model: str | None = None, version: Version = None, *, timeout: float | None = None
    ) -> list[dict[str, Any]]:
        """Counts and times (ns) of each version, in Triton's fields; without a model those of all."""
        return self._perform(_calls.statistics(model, version), timeout)

    def infer(
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
        """Runs a model.

        Args:
            inputs: an array of numpy, a tensor of torch, or what has `__array__`, `__array_interface__` or `__dlpack__` on the CPU, by each input's name, in
                the model's shape. Its dtype is the datatype: FP16, FP32, FP64, BF16 (ml_dtypes.bfloat16 or torch.bfloat16), INT8 to INT64, UINT8 to UINT64,
                BOOL; str or bytes, also in lists, are BYTES. Nothing is converted. An InRegion is not sent: the server reads it in shared memory.
            outputs: names of those that are wanted; None: all, or, with `classes`, those that it names. A mapping says of each name to which InRegion the
                server is to write it; None: to the answer.
            classes: so many highest entries of an output instead of all (InferResult.classes).
            id: comes back in the answer.
            parameters: of the request: `seed`, `priority` (1 is the highest), or what another server knows. `timeout`, in microseconds, is told by itself.
            json: tensors travel as JSON, in both directions, for servers that do not know binary ones.

        Returns:
            The outputs, arrays by name.

        Raises:
            InvalidArgumentError: an argument is wrong; BadRequestError, which is one, where the server finds it.
            NotFoundError, UnavailableError, RateLimitedError, DeadlineError and the other kinds of ClientError.
        """
        deadline = self._deadline(timeout)
        call = _calls.infer(
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
        return self._perform_until(call, deadline)

    def sequence(self, model: str, version: Version = None, *, id: int | str | None = None) -> Sequence:
        """A sequence of requests to a model with states, each of which goes on with what the one before it left.

            with client.sequence("counter") as sequence:
                for x in steps:
                    y = sequence.infer({"x": x})["y"]

        Args:
            id: an integer from 1 to 2**64 - 1, or text; None: a number that is drawn.
        """
        return Sequence(self, model, version, Course(id))

    # ---- the repository

    def index(self, *, ready: bool = False, timeout: float | None = None) -> list[dict[str, Any]]:
        """All versions of all models: `name`, `version`, `state`, `reason`; with `ready` those that are ready."""
        return self._perform(_calls.index(ready), timeout)

    def load(self, model: str, *, timeout: float | None = None) -> None:
        """Loads a model as it lies in the repository, or loads it again; returns when it is ready."""
        self._perform(_calls.load(model), timeout)

    def unload(self, model: str, *, timeout: float | None = None) -> None:
        """Takes a model away from new requests."""
        self._perform(_calls.unload(model), timeout)

    def labels(self, model: str, *, timeout: float | None = None) -> dict[str, Any]:
        """The version of each label of a model."""
        return self._perform(_calls.labels(model), timeout)

    def set_label(self, model: str, label: str, version: int | str, *, timeout: float | None = None) -> dict[str, Any]:
        """Puts a label on a version that is ready; returns the version of each label."""
        return self._perform(_calls.set_label(model, label, version), timeout)

    def rollback(self, model: str, label: str, *, timeout: float | None = None) -> dict[str, Any]:
        """Puts a label back on the version that it was on before; returns the version of each label."""
        return self._perform(_calls.rollback(model, label), timeout)

    # ---- shared memory, of a server on this machine that was started with it

    def register_region(self, name: str, key: str, size: int, offset: int = 0, *, timeout: float | None = None) -> None:
        """Has the server know `size` bytes of an object of system shared memory, from `offset` on, by a name.

        Args:
            key: the object's name, as multiprocessing.shared_memory.SharedMemory's `name`.
        """
        self._perform(_calls.register_region(name, key, size, offset), timeout)

    def unregister_regions(
        self, name: str | None = None, *, all_clients: bool = False, timeout: float | None = None
    ) -> None:
        """Has it forget a region of this client, or all of them: those of one that died before, too, if it had the same token. `all_clients`: whoever
        has registered it, which needs the verb "admin"."""
        self._perform(_calls.unregister_regions(name, all_clients), timeout)

    def regions(self, name: str | None = None, *, timeout: float | None = None) -> list[dict[str, Any]]:
        """This client's regions, or one: `name`, `key`, `offset`, `byte_size`, and `unlinked`, if its object has no name any more."""
        return self._perform(_calls.regions(name), timeout)

    # ---- how

    def _perform(self, call: Call[T], timeout: float | None) -> T:
        return self._perform_until(call, self._deadline(timeout))

    def _perform_until(self, call: Call[T], deadline: Deadline) -> T:
        number = 0
        while True:
            try:
                return call.read(self._answer(call, deadline))
            except ClientError as error:
                wait = self._retry.wait(number, error, call.repeatable)
                if wait is None or wait >= deadline.left:
                    raise
            time.sleep(wait)
            number += 1

    def _answer(self, call: Call[T], deadline: Deadline) -> Answer:
        if self._pool.is_closed:
            raise InvalidArgumentError("the client is closed: make another")
        headers = self._headers(call, deadline)
        if call.method == "POST":
            headers["Content-Length"] = str(call.size)
        lines = [f"{call.method} {self._target.root}{call.path} HTTP/1.1", *(f"{k}: {v}" for k, v in headers.items())]
        head = "\r\n".join([*lines, "", ""]).encode("ascii")
        answer = self._pool.exchange(head, call.parts, deadline, self._max_answer, call.repeatable)
        return opened(answer, self._max_answer)


class Sequence:
    """A sequence of requests, within a `with`.

    A request that the server refuses leaves the sequence where it was. One whose connection breaks may have moved it on: nobody can tell, so it is
    not tried again. The last request can say that it is the last; a block that ends without one repeats the last request's inputs to end it, so that
    the server need not keep the states until they have been idle for too long.
    """

    def __init__(self, client: Client, model: str, version: Version, course: Course) -> None:
        self._client = client
        self._model = model
        self._version = version
        self._course = course

    @property
    def id(self) -> int | str:
        """By which the server knows it."""
        return self._course.id

    def infer(
        self,
        inputs: Mapping[str, object],
        *,
        last: bool = False,
        parameters: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> InferResult:
        """As Client.infer with its other arguments; `last`: the sequence ends with this request."""
        marked = self._course.parameters(parameters, last)
        result = self._client.infer(self._model, inputs, version=self._version, parameters=marked, **options)
        self._course.answered(inputs, last)
        return result

    def __enter__(self) -> Sequence:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        ending = self._course.ending()
        if ending is not None:
            inputs, marked = ending
            with suppress(Error):  # the server ends it by itself, later
                self._client.infer(self._model, inputs, version=self._version, parameters=marked, timeout=ENDING)
