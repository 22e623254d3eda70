"""The worker seen from here: started on first use, kept for the next model, killed where it takes too long, and told of in words."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ._wire import Array, ClosedError, receive, send
from ._worker import IDLE_EXIT

__all__ = ["Oracle", "OracleEndedError", "OracleError", "infer_types", "start_worker"]

# The import path is this process's own: what lies in the current directory is not imported by accident.
_START = "import sys; fd = int(sys.argv[1]); sys.path[:] = sys.argv[2:]; from maas_rt.compiler.oracle._worker import main; main(fd)"
_INFERENCE = 10.0  # seconds that the inference of one node may take
_SHARE = 0.8  # of the memory that is free may be the worker's


class OracleError(Exception):
    """The implementation does not take the model, or not these inputs; its own words, in one line. `opening`: whatever the inputs are."""

    def __init__(self, text: str, *, opening: bool = False) -> None:
        super().__init__(text)
        self.opening = opening


class OracleEndedError(OracleError):
    """The implementation ended its process."""


class _Worker:
    """One process. Used by one thread at a time; killed from any."""

    def __init__(self) -> None:
        if not sys.executable:
            raise OracleError(
                "this Python does not know its own executable, which would run the source framework", opening=True
            )
        ours, theirs = socket.socketpair()
        self._link = ours
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, str(theirs.fileno()), *sys.path],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        theirs.close()
        self._numbers = itertools.count(1)
        self._closed_sessions: list[int] = []  # sessions that nobody asks any more, told with the next request
        self.owner = os.getpid()
        self.busy = True
        self.end = weakref.finalize(self, _end, self._process, ours, self.owner)

    def number(self) -> int:
        """For a new session."""
        return next(self._numbers)

    def forget(self, session: int) -> None:
        self._closed_sessions.append(session)

    def usable(self) -> bool:
        return self.owner == os.getpid() and self._process.poll() is None

    def kill(self) -> None:
        self._process.kill()

    def ask(
        self, message: dict[str, Any], arrays: Sequence[Array] = (), files: Sequence[int] = ()
    ) -> tuple[dict[str, Any], list[Array]]:
        """The answer. Raises OracleEndedError if the worker ends instead."""
        closed, self._closed_sessions = self._closed_sessions, []
        try:
            send(self._link, {**message, "closed": closed}, arrays, files)
            answer, results, _ = receive(self._link)
        except ClosedError:
            raise OracleEndedError(self._how_it_ended()) from None
        except BaseException:  # an interrupt between a request and its answer: the next one would be given this answer
            self.end()
            raise
        return answer, results

    def idled_out(self) -> bool:
        return self._process.poll() == IDLE_EXIT

    def _how_it_ended(self) -> str:
        self._link.close()
        try:
            status = self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        if status < 0:
            return f"ended with {signal.Signals(-status).name}"
        return f"ended its process with status {status}"


def _end(process: subprocess.Popen[bytes], link: socket.socket, owner: int) -> None:
    link.close()
    if owner == os.getpid():  # a fork's copy leaves the process to whom it belongs
        process.kill()
        process.wait()


_workers: list[_Worker] = []  # those that are there; more than one where several threads ask at once
_lock = threading.Lock()


def _forget() -> None:
    """In a fork: the workers are the other process's."""
    global _lock
    _lock = threading.Lock()
    _workers.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def start_worker() -> None:
    """Have a worker begin to start, if there is none: its imports then overlap with what is done meanwhile."""
    if sys.executable:
        _borrowed(None).busy = False


def infer_types(model: bytes) -> dict[str, bytes]:
    """The types (serialized onnx.TypeProto) that ONNX's own inference gives to the results of a model's only node, by name, as far as it
    tells.

    Raises OracleError in its words where it refuses the node, OracleEndedError where it ends its process or does not come to an end.
    """
    worker = _borrowed(None)
    limit = threading.Timer(_INFERENCE, worker.kill)
    limit.start()
    try:
        answer, types = worker.ask({"do": "infer"}, [np.frombuffer(model, np.uint8)])
    except OracleEndedError:
        if worker.idled_out():
            return infer_types(model)
        raise
    finally:
        limit.cancel()
        worker.busy = False
    if "error" in answer:
        raise OracleError(answer["error"])
    return {name: kind.tobytes() for name, kind in zip(answer["names"], types, strict=True)}


def _borrowed(preferred: _Worker | None) -> _Worker:
    """A worker that nobody else asks; the preferred one if it can be."""
    with _lock:
        _workers[:] = [worker for worker in _workers if worker.usable()]
        free = [worker for worker in _workers if not worker.busy]
        if not free:
            worker = _Worker()
            _workers.append(worker)
            return worker
        worker = preferred if preferred in free else free[0]
        worker.busy = True
        return worker


class Oracle:
    """A model opened by one implementation ("onnxruntime", "onnx.reference") in the worker."""

    def __init__(
        self,
        implementation: str,
        model: bytes,
        outputs: Sequence[str],
        texts: Sequence[str],
        weights: Sequence[Sequence[Any]] = (),
        files: Sequence[int] = (),
    ) -> None:
        """`model` is a serialized onnx.ModelProto; `texts` are its inputs of strings, which are given and come as encoded ones;
        `weights` are the initializers whose data is not in it: name, element type, dimensions, which of `files`, offset, bytes."""
        self.implementation = implementation
        self.version = ""  # known once it is open
        self._request = {
            "do": "open",
            "implementation": implementation,
            "outputs": list(outputs),
            "texts": list(texts),
            "weights": list(weights),
        }
        self._model = model
        self._files = list(files)
        self._worker: _Worker | None = None
        self._session = 0
        self._drop: weakref.finalize[[int], Oracle] | None = None

    def open(self) -> None:
        """Raises OracleError, with `opening`, where the implementation does not take the model; OracleEndedError where it ends itself."""
        self._ask(None, [])

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Array]:
        """Outputs by name; a sequence's elements as "name.0", "name.1". An input is an array, a list of arrays, or None.

        Raises OracleError with the implementation's words, OracleEndedError where it ended its process.
        """
        given, arrays = [], []
        for name, value in inputs.items():
            several = value if isinstance(value, list) else [] if value is None else [value]
            kind = "list" if isinstance(value, list) else "none" if value is None else "array"
            given.append([name, kind, len(several)])
            arrays += several
        return self._ask({"do": "run", "inputs": given}, arrays)

    def _ask(self, request: dict[str, Any] | None, arrays: Sequence[Array]) -> dict[str, Array]:
        """Have the model open in a worker, and this request answered there."""
        worker = _borrowed(self._worker)
        opening = True
        try:
            if worker is not self._worker:
                self._open_in(worker)
            opening = False
            if request is None:
                return {}
            answer, results = worker.ask({**request, "session": self._session}, arrays)
        except OracleEndedError as error:
            self._worker = None
            if worker.idled_out():
                return self._ask(request, arrays)
            place = "when it opened the model" if opening else "on these inputs"
            raise OracleEndedError(f"{self.implementation} {error} {place}", opening=opening) from None
        finally:
            worker.busy = False
        if "error" in answer:
            raise OracleError(f"{self.implementation}: {answer['error']}")
        return dict(zip(answer["names"], results, strict=True))

    def _open_in(self, worker: _Worker) -> None:
        if self._drop is not None:
            self._drop()  # the session that it has elsewhere
        session = worker.number()
        request = {**self._request, "session": session, "memory": int(free_memory() * _SHARE)}
        self._worker = worker  # to be interrupted from now on
        answer, _ = worker.ask(request, [np.frombuffer(self._model, np.uint8)], self._files)
        if "error" in answer:
            self._worker = None
            raise OracleError(f"{self.implementation}: {answer['error']}", opening=True)
        self.version, self._session = answer["version"], session
        self._drop = weakref.finalize(self, worker.forget, session)

    def interrupt(self) -> None:
        """From another thread: what it does now ends, by the end of its process."""
        worker = self._worker
        if worker is not None and worker.busy:
            worker.kill()


def free_memory() -> int:
    """Bytes that this machine, or the control group that this process is in, has left."""
    return min([_meminfo("MemAvailable"), *_group_left()])


def _meminfo(key: str) -> int:
    try:
        with open("/proc/meminfo") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith(f"{key}:"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _group_left() -> list[int]:
    """What is left under each limit of control groups (version 2, and the usual place of version 1)."""
    left = []
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            with open(limit) as top, open(used) as now:
                left.append(max(int(top.read()) - int(now.read()), 1 << 28))
        except (OSError, ValueError):  # no such group, or "max"
            continue
    return left
