"""load, Model and Session: a compiled file as a Python callable."""

from __future__ import annotations

import atexit
import json
import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NoReturn, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

import maas_rt._native as _native
from maas_rt._errors import Error, InvalidArgumentError
from maas_rt._native import CancelToken, State
from maas_rt._options import checked_options
from maas_rt._profile import Profile, StepRecord
from maas_rt._program import open_bytes, open_file, open_sealed
from maas_rt._tensor_info import TensorInfo, with_multiples

Array = NDArray[Any]
T = TypeVar("T")


@runtime_checkable
class _ArtifactLike(Protocol):
    """A maas_rt.compiler.Artifact, without importing the compiler."""

    @property
    def manifest(self) -> dict[str, Any]: ...

    def to_bytes(self) -> bytes: ...


class _Runnable(_native.Runner):
    """What Model and Session share. `runner(x, ...)` and `runner.run(...)` are native."""

    _symbols: dict[str, Any] | None = None  # of the manifest, once they were read

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """The inputs of the first entry point, in the order in which a call takes them."""
        return self._described(self._program.inputs(0))

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        """The outputs of the first entry point."""
        return self._described(self._program.outputs(0))

    @property
    def states(self) -> tuple[TensorInfo, ...]:
        """What the model remembers between runs; empty for most."""
        return self._described(self._program.states())

    @property
    def draws(self) -> bool:
        """Whether runs draw random numbers (dropout, sampling, noise): from the seed that run is given, or one of the system's."""
        return self._program.draws

    @property
    def entries(self) -> tuple[str, ...]:
        """Names of the entry points."""
        return self._program.entries

    @property
    def manifest(self) -> dict[str, Any]:
        """What the file says about itself."""
        manifest: dict[str, Any] = json.loads(self._program.manifest)
        return manifest

    def state(self) -> State:
        """A new State with the declared initial values, to be given to run."""
        return State(self._program)

    def _described(self, raw: Any) -> tuple[TensorInfo, ...]:
        if self._symbols is None:
            self._symbols = self.manifest.get("symbols") or {}
        return with_multiples((TensorInfo(*info) for info in raw), self._symbols)

    def __repr__(self) -> str:
        def text(infos: tuple[TensorInfo, ...]) -> str:
            return ", ".join(f"{i.name}: {i.dtype}[{', '.join(map(str, i.shape))}]" for i in infos)

        return f"<maas_rt.{type(self).__name__} {text(self.inputs)} -> {text(self.outputs)}>"


class Session(_Runnable):
    """One execution context: its memory is allocated once and reused, so it serves one run at a time.

    A second run at the same time raises Error with status MRT_ERROR_BUSY.
    """

    def __reduce__(self) -> NoReturn:
        raise InvalidArgumentError("a Session holds memory of its process: copy or send its Model, and make one there")

    @property
    def seed(self) -> int:
        """The seed that the last run drew its random numbers from, given or not: with it a run can be repeated.

        InvalidArgumentError where the model draws none, or nothing was run yet.
        """
        return self._seed()

    def profiled(self, inputs: Mapping[str, Any], **options: Any) -> Profile:
        """Runs once and returns its steps; only for a session that was made with profile=True."""
        self.run(_check_mapping("inputs", inputs), **options)
        return Profile(tuple(StepRecord(*record) for record in self._records()))


class Model(_Runnable):
    """A loaded model. Many threads may call it at once: each run takes a session from a pool.

    `m(x)` takes inputs in order or by name and returns the output, or a dict if there are several. `m.run(dict)` takes
    and returns dicts and has the options `out`, `deadline`, `cancel`, `state`, `entry` and `seed`. Inputs are numpy arrays, or
    anything with __dlpack__ (CPU) or __array_interface__, used in place where their layout allows.

    A model does not change, so a copy is the model itself. It can be pickled and sent to another process: by the path of
    its file, or as bytes if it was loaded from bytes.
    """

    _threads: int
    _profiled: Session | None
    _lock: threading.Lock

    def __copy__(self) -> Model:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Model:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _new_model, (self._program, self._threads)

    def session(self, threads: int | None = None, *, profile: bool = False) -> Session:
        """A session of one's own. threads: of one run; None: as the model was loaded."""
        wanted = self._threads if threads is None else _check_threads(threads)
        return Session(self._program, wanted, True, profile)

    def run_async(
        self,
        inputs: Mapping[str, Any],
        *,
        out: Mapping[str, Any] | None = None,
        deadline: float | None = None,
        cancel: CancelToken | None = None,
        state: State | None = None,
        entry: str | None = None,
        seed: int | None = None,
    ) -> Future[dict[str, Array]]:
        """Has a run made on a thread of the library and returns its future; `asyncio.wrap_future` makes it awaitable.

        Runs begin in the order of the calls, as many at once as there are CPUs. The options are run's; the deadline counts from
        now, and a run that is too late, or cancelled, before its turn is not begun. Inputs and buffers must not be changed until
        it is done. When the interpreter exits, what waits is dropped and what runs is cancelled.

        Raises:
            InvalidArgumentError: as run.
            Error: 65,536 runs of this model wait already, or the state is in use (MRT_ERROR_BUSY).
        """
        given = _check_mapping("inputs", inputs)
        buffers = None if out is None else _check_mapping("out", out)
        if _ended:
            raise _no_more_runs()
        future: Future[dict[str, Array]] = Future()

        def settle(results: dict[str, Array] | None, error: BaseException | None) -> None:
            if not future.set_running_or_notify_cancel():
                return
            if results is None:
                future.set_exception(error)
            else:
                future.set_result(results)

        self._submit(given, settle, out=buffers, deadline=deadline, cancel=cancel, state=state, entry=entry, seed=seed)
        return future

    def profile(self, inputs: Mapping[str, Any], **options: Any) -> Profile:
        """Runs once, on a session kept for this, and returns a record of every step."""
        with self._lock:
            if self._profiled is None:
                self._profiled = self.session(profile=True)
            return self._profiled.profiled(inputs, **options)


def load(
    model: str | os.PathLike[str] | bytes | bytearray | memoryview | _ArtifactLike,
    *,
    threads: int | None = None,
    code: str = "allow",
    verify: str = "default",
    check_signature: Callable[[bytes, bytes], bool] | None = None,
    require_signature: Any = None,
    key: Any = None,
    lock: bool = True,
    copy: bool = False,
    resident: int | None = None,
) -> Model:
    """Loads a compiled model: a path, the file's bytes, or a maas_rt.compiler.Artifact.

    Args:
        threads: threads of one run; None or 0: all CPUs that the process may use.
        code: a file may hold machine code, which runs in this process: "allow", "signed" (only with an accepted
            signature) or "refuse".
        verify: "default" hashes everything but the weights, "full" the weights too.
        check_signature: called with the signed bytes and the signature; returns whether to accept it.
        require_signature: whose signature the file must have: PEM files of public keys or of certificates that may vouch for
            signers, folders of such, or keys of the package cryptography; one or several (docs/trust.md). It is checked
            before anything but the table is read. Needs the extra `trust`.
        key: of an encrypted file: the path of an X25519 private key in PEM or of a shared key, "env:NAME", "command:LINE",
            the key's 32 bytes, or a function that returns it for the id that the file has for it; one or several. Needs the
            extra `trust`.
        lock: the memory that weights and code are decrypted into must be locked, so that it is never swapped to a disk;
            False: where the system allows no more of it (`ulimit -l`), other memory will do.
        copy: read the file instead of mapping it. A mapped file must not be written to while the model is in use (rename a
            new file over it instead): a run notices that and raises FormatError, but a file that is cut short while a run
            reads it ends the process. A copy costs memory and the time to read it, and nothing can happen to it.
        resident: so many bytes of a mapped file's weights may stay in memory: where a run has read as many, the pages are
            handed back to the system and fetched again when they are used. For a model that is larger than its share of
            the memory; it costs time. None: the system decides.

    Raises:
        ModelNotFoundError: there is no such file (it is a FileNotFoundError too).
        FormatError, CodeRefusedError, SignatureError, DecryptionError, TargetError: the file is refused, before any of it
            is run.
        Error: the file cannot be read.
    """
    wanted = 0 if threads is None else _check_threads(threads)
    options = checked_options(
        mapped=isinstance(model, (str, os.PathLike)),
        code=code,
        verify=verify,
        check_signature=check_signature,
        require_signature=require_signature,
        key=key,
        lock=lock,
        copy=copy,
        resident=resident,
    )
    if isinstance(model, (str, os.PathLike)):
        program = open_file(os.fsdecode(model), options)
    elif isinstance(model, (bytes, bytearray, memoryview)):
        if isinstance(model, memoryview) and not model.c_contiguous:
            raise InvalidArgumentError("the memoryview of a model's bytes must be contiguous: give bytes(view)")
        program = open_bytes(model, options)
    elif isinstance(model, _ArtifactLike):
        program = open_bytes(model.to_bytes(), options)
    else:
        raise InvalidArgumentError(
            f"load takes a path, bytes or a maas_rt.compiler.Artifact, and got a {type(model).__name__}"
        )
    return _new_model(program, wanted)


def load_sealed(
    descriptor: int,
    name: str,
    *,
    threads: int | None = None,
    verify: str = "default",
    require_signature: Any = None,
    key: Any = None,
    lock: bool = True,
) -> Model:
    """Loads a file in memory that is sealed, by mapping it: processes that load the same one share its weights, unless they are encrypted.

    `name` is for errors; the rest, and what is raised, is as `load` has it.
    """
    wanted = 0 if threads is None else _check_threads(threads)
    options = checked_options(
        mapped=False,
        code="allow",
        verify=verify,
        require_signature=require_signature,
        key=key,
        lock=lock,
        copy=True,
        resident=None,
    )
    return _new_model(open_sealed(descriptor, name, options), wanted)


def _new_model(program: _native.Program, threads: int) -> Model:
    loaded = Model(program, threads)
    loaded._threads = threads
    loaded._profiled = None
    loaded._lock = threading.Lock()
    return loaded


def _check_threads(threads: int) -> int:
    if isinstance(threads, bool) or not isinstance(threads, (int, np.integer)) or not 0 <= threads < 2**31:
        raise InvalidArgumentError(f"threads is {threads!r} and must be an integer of at least 0 (0: all)")
    return int(threads)


def _check_mapping(name: str, given: object) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        raise InvalidArgumentError(f"{name} is a {type(given).__name__} and must be a dict of arrays by name")
    return dict(given)


def launch_on_thread(work: Callable[[], T]) -> Future[T]:
    """Calls a function that runs models on one of some threads, one for each CPU."""
    try:
        return _executor().submit(work)
    except RuntimeError:
        raise _no_more_runs() from None


def _no_more_runs() -> Error:
    return Error("the interpreter ends and starts no runs any more: call run instead of run_async")


_pool: ThreadPoolExecutor | None = None
_pool_lock = threading.Lock()
_ended = False  # the interpreter is about to end


def _executor() -> ThreadPoolExecutor:
    global _pool
    with _pool_lock:
        if _pool is None:
            _pool = ThreadPoolExecutor(
                _native.cpu_count(), thread_name_prefix="maas_rt", initializer=_native.mark_background_thread
            )
        return _pool


def _at_exit() -> None:
    global _ended
    _ended = True
    _native.stop_background_runs()
    if _pool is not None:
        _pool.shutdown(wait=False, cancel_futures=True)


# Before concurrent.futures' own hook, which was registered first and waits for all that was submitted.
getattr(threading, "_register_atexit", atexit.register)(_at_exit)


def _after_fork() -> None:
    global _pool, _pool_lock
    _pool = None
    _pool_lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

__all__ = ["CancelToken", "Model", "Session", "State", "TensorInfo", "load"]
