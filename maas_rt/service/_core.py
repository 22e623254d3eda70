"""One call from a request to its response, the same for every transport: access, version, state, tensors, run, outputs.

Everything below this module is without a loop; this one belongs to asyncio's, as its transports do. Blocking work goes to threads.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Any, Protocol, TypeVar

from .._native import Exchange
from .._version import __version__
from ._callers import is_local
from ._changes import Changes
from ._datatypes import Array
from ._errors import Kind, ServiceError, bad_request, kind_of, shown
from ._grants import ALL, Client
from ._jobs import Job, Steps
from ._leases import Lease
from ._metadata import model_config, model_metadata
from ._offload import Inbox, beside_the_loop
from ._pipeline import Pipeline
from ._regions import OFF, Regions, check_name
from ._repository import Repository
from ._requests import NO_OPTIONS, InferRequest, InferResponse, Options, OutputTensor, RequestedOutput
from ._scheduler import Scheduler
from ._sequences import Sequence, Sequences
from ._served import Served
from ._settings import LogSettings, TraceSettings
from ._shared_memory import attach, to_regions
from ._shelf import Shelf
from ._statistics import Phases, model_stats, summed

T = TypeVar("T")
EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "logging",
    "model_configuration",
    "model_repository",
    "model_repository(unload_dependents)",
    "parameters",
    "schedule_policy",
    "sequence",
    "sequence(string_id)",
    "statistics",
    "trace",
)
_SEED_BITS = 53  # of a seed that the server draws: every client's numbers hold it


@dataclass(slots=True)
class Context:
    """What a transport knows of a call beside its message.

    Args:
        credential: as the client gave it; None: it gave none.
        deadline: when the answer is of no use any more, in nanoseconds of time.monotonic_ns.
        address: the client's; "" if it has none.
        request_id, call: for logs, as "POST /v2/repository/models/digits/load".
        client: where the transport has entered the gate already, as one does that has a body yet to read.
    """

    credential: str | None = field(default=None, repr=False)
    deadline: int | None = None
    address: str = ""
    request_id: str = ""
    call: str = ""
    client: Client | None = None


class Withdrawn(Exception):
    """The end of a call that is made again, of which nothing is counted: it cannot be answered in the way that was tried."""


class Entry(AbstractContextManager[Client]):
    """A call that was let in, until its block ends."""

    __slots__ = ()

    def about(self, call: str, verb: str) -> None:
        """What the call is, where that is known only now: for logs, in which administrative ones are noted."""


class Gate(Protocol):
    """Who may do what. Verbs are "infer", "read", "admin", "metrics" and "shared-memory"; without a model they are on the whole server."""

    def enter(self, context: Context, verb: str, model: str | None) -> AbstractContextManager[Client]:
        """Lets a call in until its block ends. A context with a client in it has been let in, and counted, before.

        Raises:
            ServiceError: UNAUTHENTICATED, FORBIDDEN, RATE_LIMITED, NOT_READY.
        """
        ...

    def admit(self, context: Context, verb: str) -> Entry:
        """`enter` for a transport that learns the model from a message which it has yet to read: who calls, and how often, is looked at; for
        the rest it enters with the client that it gets."""
        ...

    def allows(self, context: Context, verb: str, model: str | None) -> bool:
        """Whether `enter` would let it in, for lists of what a client may see."""
        ...


_ANYBODY = Client("", ALL, is_known=False)


class _Anybody(Entry):
    """Somebody of whom nothing is known."""

    def __enter__(self) -> Client:
        return _ANYBODY

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


class OpenGate:
    """Everybody may do everything."""

    def enter(self, context: Context, verb: str, model: str | None) -> AbstractContextManager[Client]:
        """Lets it in."""
        return _Anybody()

    def admit(self, context: Context, verb: str) -> Entry:
        """Lets it in."""
        return _Anybody()

    def allows(self, context: Context, verb: str, model: str | None) -> bool:
        """True."""
        return True


class Observer(Steps, Protocol):
    """Told of each inference of a version that there is, and of the steps of those of pipelines, on any thread."""

    def left(self, served: Served) -> None:
        """It goes on with another one, its sequence's, which `began` is told of."""
        ...

    def ended(self, served: Served, kind: Kind | None, phases: Phases, ns: int) -> None:
        """How it has failed, if it has, its phases, and its nanoseconds in all."""
        ...


class Peers(Shelf, Protocol):
    """The other processes that serve the same."""

    @property
    def complete(self) -> bool:
        """Whether all of them are there."""
        ...

    def change(self, what: str, values: tuple[Any, ...]) -> Future[Any]:
        """Has a change (Core.make) made in all of them and here; the future ends when it is, or has the error."""
        ...

    def statistics(self) -> Future[list[dict[str, Any]]]:
        """Those of all of them (Core.all_statistics), one after the other."""
        ...


class Core:
    """A repository's models as a service.

    Args:
        gate: who may do what.
        sequences: states of sequences.
        regions: of shared memory; None: there is none.
        observe: told of each inference of a version that there is.
        peers: the other processes that serve the same; None: there are none.
    """

    def __init__(
        self,
        repository: Repository,
        *,
        gate: Gate | None = None,
        sequences: Sequences | None = None,
        regions: Regions | None = None,
        observe: Observer | None = None,
        peers: Peers | None = None,
    ) -> None:
        self.repository = repository
        self.gate: Gate = gate or OpenGate()
        self.sequences = Sequences() if sequences is None else sequences  # an empty one is false
        self.regions = regions
        self.traces = TraceSettings()
        self.logs = LogSettings()
        self._observe = observe
        self._draining = False
        self._inbox: Inbox | None = None
        self._administration = Changes("maas-rt administration")
        self._labelling = Changes("maas-rt labels")  # a rollback waits for no load
        self.peers = peers
        self._changes: dict[str, tuple[Changes, Callable[..., Any]]] = {
            "load": (self._administration, lambda model: self.repository.load(model)),
            "unload": (self._administration, lambda model: self.repository.unload(model)),
            "set_label": (self._labelling, lambda *values: self.repository.set_label(*values)),
            "rollback": (self._labelling, lambda *values: self.repository.rollback(*values)),
            "logs": (self._labelling, self.logs.change),
            "traces": (self._labelling, self.traces.change),
        }
        self._sharing = Changes("maas-rt regions")
        if regions is not None:
            self._changes["register"] = (self._sharing, regions.register)
            self._changes["unregister"] = (self._sharing, regions.unregister)

    # ---- the server

    @property
    def ready(self) -> bool:
        """Whether it is there for requests: a model is ready, no process of it is missing, and the server does not go away."""
        return not self._draining and (self.peers is None or self.peers.complete) and bool(self.repository.names())

    @property
    def draining(self) -> bool:
        """Whether the server goes away. What comes is still answered."""
        return self._draining

    def drain(self) -> None:
        """Says from now on that the server is not ready."""
        self._draining = True

    def close(self) -> None:
        """Ends what nobody uses."""
        self.sequences.close()
        if self.regions is not None:
            self.regions.close()
        self._administration.close()
        self._labelling.close()
        self._sharing.close()

    def server_metadata(self, context: Context) -> dict[str, Any]:
        """Name, version and extensions."""
        with self.gate.enter(context, "read", None):
            own = [each for each in EXTENSIONS if self.peers is None or not each.startswith("sequence")]
            more = [] if self.regions is None else ["system_shared_memory"]
            return {"name": "maas-rt", "version": __version__, "extensions": sorted([*own, *more])}

    def log_settings(self, context: Context) -> dict[str, Any]:
        """The logging settings."""
        with self.gate.enter(context, "read", None):
            return self.logs.told()

    async def change_log_settings(self, context: Context, changes: object) -> dict[str, Any]:
        """The logging settings after changes."""
        await self._administer(None, context, "logs", changes)
        return self.logs.told()

    def trace_settings(self, model: str | None, context: Context) -> dict[str, Any]:
        """The trace settings of a model or of the server."""
        with self.gate.enter(context, "read", model):
            self._check_known(model)
            return self.traces.told(model)

    async def change_trace_settings(self, model: str | None, context: Context, changes: object) -> dict[str, Any]:
        """The trace settings of a model or of the server, after changes."""
        await self._administer(model, context, "traces", changes, model, check=partial(self._check_known, model))
        return self.traces.told(model)

    def _check_known(self, model: str | None) -> None:
        if model is not None:
            self.repository.lease(model).end()

    # ---- models

    @contextmanager
    def reading(self, model: str, version: str | None, context: Context) -> Iterator[Served]:
        """A version, to be looked at."""
        with self.gate.enter(context, "read", model), self.repository.lease(model, version) as served:
            yield served

    def model_ready(self, model: str, version: str | None, context: Context) -> dict[str, Any]:
        """Raises ServiceError if it is not."""
        with self.reading(model, version, context) as served:
            return {"name": served.name, "version": served.version, "ready": True}

    def model_metadata(self, model: str, version: str | None, context: Context) -> dict[str, Any]:
        """Its inputs and outputs."""
        with self.reading(model, version, context) as served:
            return model_metadata(served, self.repository.versions(model))

    def model_config(self, model: str, version: str | None, context: Context) -> dict[str, Any]:
        """Its configuration, as Triton has it."""
        with self.reading(model, version, context) as served:
            return model_config(served, self.repository.policy(model), self.sequences.idle)

    async def statistics(self, model: str | None, version: str | None, context: Context) -> dict[str, Any]:
        """Of one version, of all that are ready of a model, or of all; of all processes together."""
        if model is None:
            with self.gate.enter(context, "read", None):
                names = [name for name in self.repository.names() if self.gate.allows(context, "read", name)]
                entries = [entry for name in names for entry in self._statistics_of(name)]
        else:
            with self.reading(model, version, context) as served:
                own = served.statistics.told(served.name, served.version)
                entries = self._statistics_of(model) if version is None else [own]
        if self.peers is not None:
            others = await asyncio.wrap_future(self.peers.statistics())
            entries = summed(entries, others)
        return model_stats(entries)

    def all_statistics(self) -> list[dict[str, Any]]:
        """Of all versions that are ready in this process."""
        return [entry for name in self.repository.names() for entry in self._statistics_of(name)]

    def _statistics_of(self, model: str) -> list[dict[str, Any]]:
        return [each.statistics.told(each.name, each.version) for each in self.repository.ready(model)]

    # ---- the repository

    def index(self, context: Context, ready_only: bool = False) -> list[dict[str, str]]:
        """All versions that the client may see."""
        with self.gate.enter(context, "read", None):
            return [
                {"name": each.name, "version": each.version, "state": each.state.value, "reason": each.reason}
                for each in self.repository.index(ready_only)
                if self.gate.allows(context, "read", each.name)
            ]

    async def load(self, model: str, context: Context, parameters: Iterable[str] = ()) -> None:
        """Loads a model, or loads it again. `parameters`: the names of those that were given."""
        await self._administer(model, context, "load", model, check=partial(_check_own, tuple(parameters)))

    async def unload(self, model: str, context: Context, dependents: bool = False) -> None:
        """Takes a model away from new requests; `dependents`: and the models that it runs, if it is a pipeline."""
        members = self.repository.members(model) if dependents else ()
        for each in (model, *members):
            await self._administer(each, context, "unload", each)

    def labels(self, model: str, context: Context) -> dict[str, str]:
        """The version of each label of a model."""
        with self.gate.enter(context, "read", model):
            return self.repository.labels(model)

    def labels_note(self, model: str) -> str:
        """Why labels of a model that were set here are lost when the server ends; empty if they are not."""
        return self.repository.unkept(model)

    async def set_label(self, model: str, label: str, version: str, context: Context) -> dict[str, str]:
        """Puts a label on a version that is ready, and returns the version of each label."""
        await self._administer(model, context, "set_label", model, label, version)
        return self.repository.labels(model)

    async def rollback(self, model: str, label: str, context: Context) -> dict[str, str]:
        """Puts a label back on the version that it was on before, and returns the version of each label."""
        await self._administer(model, context, "rollback", model, label)
        return self.repository.labels(model)

    def make(self, what: str, values: tuple[Any, ...]) -> Future[Any]:
        """Begins a change in this process, one after the other of a kind; the future has what it gives or raises. Any thread may call it.

        Raises:
            ServiceError: NOT_READY after `close`.
        """
        by, change = self._changes[what]
        return by.submit(change, *values)

    async def _administer(
        self,
        model: str | None,
        context: Context,
        what: str,
        *values: Any,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """Makes a change in all processes, which the gate notes when it has ended."""
        with self.gate.enter(context, "admin", model):
            check()
            await self._make_everywhere(what, *values)

    async def _make_everywhere(self, what: str, *values: Any) -> None:
        by, change = self._changes[what]
        await by.made(
            partial(by.submit, change, *values) if self.peers is None else partial(self.peers.change, what, values)
        )

    # ---- shared memory, in which clients on this machine register regions of their own

    async def register_region(self, name: str, key: str, offset: int, size: int, context: Context) -> None:
        """Makes a part of an object of system shared memory a region of the client's, in all processes."""
        with self._regions_for(name, context) as (_, owner):
            await self._make_everywhere("register", owner, name, key, offset, size)

    async def unregister_regions(self, name: str | None, context: Context) -> None:
        """Forgets one of the client's regions, or all of them, in all processes."""
        with self._regions_for(name, context) as (_, owner):
            await self._make_everywhere("unregister", owner, name)

    def regions_told(self, name: str | None, context: Context) -> list[dict[str, Any]]:
        """One of the client's regions, or all of them."""
        with self._regions_for(name, context) as (regions, owner):
            return regions.told(owner, name)

    def register_cuda_region(self, name: str, context: Context) -> None:
        """Refuses it."""
        with self._regions_for(name, context):
            raise bad_request(
                f"region {shown(name)} cannot be registered: models run on CPUs here, and take system shared memory"
            )

    def cuda_regions_told(self, name: str | None, context: Context) -> list[dict[str, Any]]:
        """None: clients of Triton's look for, and forget, such regions before they begin, whatever they use then."""
        with self._regions_for(name, context):
            if name is not None:
                raise ServiceError(Kind.NOT_FOUND, f"there is no region {shown(name)} of CUDA shared memory")
            return []

    def unregister_cuda_regions(self, name: str | None, context: Context) -> None:
        """Has nothing to forget."""
        with self._regions_for(name, context):
            return

    @contextmanager
    def _regions_for(self, name: str | None, context: Context) -> Iterator[tuple[Regions, str]]:
        with self.gate.enter(context, "shared-memory", None) as client:
            if self.regions is None:
                raise ServiceError(Kind.NOT_OFFERED, f"there are no regions of shared memory, for {OFF}")
            _check_local(context)
            if name is not None:
                check_name(name)
            yield self.regions, client.owner

    # ---- inference

    def begin(self, model: str, version: str | None, context: Context) -> Inference:
        """An inference, which ends with its block. Nothing of the request is needed yet: what is refused here costs no more than this."""
        admission = self.gate.enter(context, "infer", model)
        client = admission.__enter__()
        try:
            return Inference(self, self.repository.lease(model, version), context, admission, client.owner)
        except BaseException:
            admission.__exit__(None, None, None)
            raise

    def _landing(self) -> Inbox:
        inbox = self._inbox
        if inbox is None or inbox.loop is not asyncio.get_running_loop():
            inbox = self._inbox = Inbox()
        return inbox


class Inference:
    """One inference, from Core.begin on."""

    def __init__(
        self,
        core: Core,
        lease: Lease[Served],
        context: Context,
        admission: AbstractContextManager[object],
        owner: str,
    ) -> None:
        self._core = core
        self._lease = lease
        self._context = context
        self._admission = admission
        self._begun = time.monotonic_ns()
        self._phases = Phases()
        self._owner = owner
        self.in_place = False  # its run was over when it was submitted, and it could be made by `infer_in_place`
        self._held = 0  # bytes that were copied from shared memory
        self._was_kept = False
        self.served = lease.value
        if core._observe is not None:
            core._observe.began(self.served)

    def __enter__(self) -> Inference:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lease.end()
        self._admission.__exit__(kind, error, trace)
        if self._held:
            assert self._core.regions is not None
            self._core.regions.release(self._held)
        if kind is Withdrawn:
            if self._core._observe is not None:
                self._core._observe.left(self.served)
            return
        served, taken = self.served, time.monotonic_ns() - self._begun
        failure = None if error is None else kind_of(error)
        if failure is None:
            served.statistics.answered(self._phases, taken, not self._was_kept)
        else:
            served.statistics.failed(taken)
        if self._core._observe is not None:
            self._core._observe.ended(served, failure, self._phases, taken)

    async def infer(self, request: InferRequest) -> InferResponse:
        """Runs a request.

        Raises:
            ServiceError: whatever it is refused for.
            maas_rt.Error: its run has failed (kind_of).
        """
        options = request.options
        deadline = self._deadline(options)
        sequence = None
        if self.served.stateful and options.sequence_id:
            if self._core.peers is not None:
                text = f"sequence {shown(options.sequence_id)} cannot be begun: this server has several workers, each of which would have states of its own"
                raise bad_request(f"{text}; start it with --workers 1")
            sequence = await self._turn(options, deadline)
            self._move(sequence.served)
        job = None
        try:
            began = time.monotonic_ns()
            served = self.served
            shares = request.shares
            if shares:
                request = self._attached(request)
            arrays = await beside_the_loop(request.size, served.signature.arrays, request)
            wanted = served.signature.requested(request)
            identifier = request.id
            del request  # its data may be large, and the arrays have what they need of it
            self._phases.compute_input += time.monotonic_ns() - began
            began = time.monotonic_ns()
            key = None if served.cache is None else await beside_the_loop(_size(arrays), served.cache.key, arrays)
            kept = self._kept(key, began)
            if kept is not None:
                return await self._answer(kept, wanted, identifier, {})
            seed = _seed(served, options)
            ended = asyncio.get_running_loop().create_future()
            job = self._job(arrays, options, seed, deadline, sequence, ended)
            served.scheduler.submit(job)
        except BaseException:
            if sequence is not None and (job is None or not job.finished):
                self._core.sequences.give_back(sequence)
            raise
        self.in_place = job.finished and served.cache is None and not shares and not isinstance(served.model, Pipeline)
        if not job.finished:
            try:
                await _until(ended, deadline)
            except BaseException as error:
                served.scheduler.cancel(job, error if isinstance(error, ServiceError) else None)
                raise
        self._phases.queue = job.started - job.submitted
        self._phases.compute_infer = job.ended - job.started
        if job.error is not None:
            raise job.error
        results = job.results
        del job, arrays
        if key is not None:
            assert served.cache is not None
            await beside_the_loop(_size(results), served.cache.put, key, results)
            served.statistics.kept(served.cache.held)
        return await self._answer(results, wanted, identifier, {"seed": seed} if served.draws else {})

    async def _answer(
        self,
        results: dict[str, Array],
        wanted: tuple[RequestedOutput, ...],
        identifier: str | None,
        parameters: dict[str, Any],
    ) -> InferResponse:
        served, began = self.served, time.monotonic_ns()
        size = sum(results[each.name].nbytes for each in wanted)
        outputs = await beside_the_loop(size, _outputs, served, results, wanted)
        self._phases.compute_output = time.monotonic_ns() - began
        return InferResponse(served.name, served.version, outputs, identifier, parameters)

    def _attached(self, request: InferRequest) -> InferRequest:
        """With the places in shared memory of its tensors, which are held from now on."""
        regions = self._core.regions
        if regions is None:
            return request  # the tensors say so
        _check_local(self._context)
        request, size = attach(request, regions, self._owner)
        regions.hold(size)
        self._held = size
        return request

    def check_load(self) -> None:
        """Refuses, before anything of the request is read, what would be refused when it was.

        Raises:
            ServiceError: OVERLOADED, NOT_READY, DEADLINE.
        """
        # A sequence may be another version's, and an answer that is kept needs no run.
        if not self.served.stateful and self.served.cache is None:
            self.served.scheduler.check_load(self._deadline(NO_OPTIONS))

    def infer_in_place(self, request: InferRequest) -> InferResponse:
        """The same without a wait, for one whose model keeps no states and runs at once.

        Raises:
            Withdrawn: `infer` has to be asked.
            ServiceError, maas_rt.Error: as `infer`.
        """
        served, options = self.served, request.options
        model = served.model
        if isinstance(model, Pipeline) or served.stateful or served.cache is not None or request.shares:
            raise Withdrawn
        began = time.monotonic_ns()
        arrays = served.signature.arrays(request)
        wanted = served.signature.requested(request)
        self._phases.compute_input += time.monotonic_ns() - began
        seed = _seed(served, options)
        drawn = seed if served.draws else None

        def run(deadline: int) -> dict[str, Array]:
            return model.run(arrays, deadline=_seconds_to(deadline), seed=drawn)

        results = self._run_in_place(_size(arrays), options, run)
        began = time.monotonic_ns()
        outputs = served.signature.answer(results, wanted)
        self._phases.compute_output = time.monotonic_ns() - began
        return InferResponse(served.name, served.version, outputs, request.id, {"seed": seed} if served.draws else {})

    def exchange_in_place(self, exchange: Exchange) -> tuple[bytes, int | None]:
        """The same for a request that was prepared: the body of its answer, and how long the document in it is if there is more.

        Raises:
            Withdrawn, ServiceError, maas_rt.Error: as infer_in_place.
        """
        self._run_in_place(exchange.size, NO_OPTIONS, exchange.run)
        began = time.monotonic_ns()
        body = exchange.body()
        self._phases.compute_output = time.monotonic_ns() - began
        return body

    def _run_in_place(self, size: int, options: Options, work: Callable[[int], T]) -> T:
        scheduler = self.served.scheduler
        assert isinstance(scheduler, Scheduler)
        ran = scheduler.run_in_place(size, self._deadline(options), work)
        if ran is None:
            raise Withdrawn
        self._phases.queue = ran.started - ran.submitted
        self._phases.compute_infer = ran.ended - ran.started
        return ran.value

    def _kept(self, key: bytes | None, began: int) -> dict[str, Array] | None:
        """The results of the same request before this one, if they are kept."""
        cache = self.served.cache
        if cache is None or key is None:
            return None
        found = cache.get(key)
        self._was_kept = found is not None
        self.served.statistics.looked_up(self._was_kept, cache.held, time.monotonic_ns() - began)
        return found

    def parsed(self, ns: int) -> None:
        """The transport has taken so long to read the message."""
        self._phases.compute_input += ns

    def encoded(self, ns: int) -> None:
        """It has taken so long to write the answer."""
        self._phases.compute_output += ns

    def _move(self, served: Served) -> None:
        old, self.served = self.served, served
        if served is not old and self._core._observe is not None:
            self._core._observe.left(old)
            self._core._observe.began(served)

    def _deadline(self, options: Options) -> int | None:
        """The earliest of those that the request has; the model's, if it has none."""
        now = time.monotonic_ns()
        own = [] if self._context.deadline is None else [self._context.deadline]
        if options.timeout:
            own.append(now + options.timeout * 1000)
        if not own and self.served.scheduling.timeout:
            own.append(now + self.served.scheduling.timeout)
        return min(own, default=None)

    async def _turn(self, options: Options, deadline: int | None) -> Sequence:
        sequences = self._core.sequences
        turn = sequences.take(
            self.served.name, options.sequence_id, options.sequence_start, self._lease.share(), self._owner
        )
        if turn.done():
            return turn.result()
        ended = asyncio.get_running_loop().create_future()
        landing = self._core._landing()
        turn.add_done_callback(lambda _: landing.land(ended))
        try:
            await _until(ended, deadline)
        except BaseException:
            if not turn.cancel():  # it was this request's turn in the meantime
                sequences.give_back(turn.result())
            raise
        return turn.result()

    def _job(
        self,
        arrays: dict[str, Array],
        options: Options,
        seed: int | None,
        deadline: int | None,
        sequence: Sequence | None,
        ended: asyncio.Future[None],
    ) -> Job:
        served = self.served
        state = sequence.state if sequence is not None else served.state() if served.stateful else None
        rows = served.rows(arrays) if state is None else None
        landing, sequences = self._core._landing(), self._core.sequences

        def done(job: Job) -> None:
            if sequence is not None:
                sequences.give_back(sequence, job.error is None and options.sequence_end)
            landing.land(ended)

        return Job(
            arrays,
            done,
            rows=1 if rows is None else rows,
            state=state,
            seed=seed if served.draws else None,
            priority=options.priority or served.scheduling.priority,
            deadline=deadline,
            alone=rows is None,
            steps=self._core._observe,
        )


def _check_own(parameters: Iterable[str]) -> None:
    foreign = [name for name in parameters if name == "config" or name.startswith("file:")]
    if foreign:
        raise bad_request(f"a model is loaded as it lies in the repository: {shown(foreign[0])} cannot be given")


def _seed(served: Served, options: Options) -> int | None:
    """The request's; one that is drawn where it has none and the model draws."""
    return secrets.randbits(_SEED_BITS) if options.seed is None and served.draws else options.seed


def _outputs(
    served: Served, results: dict[str, Array], wanted: tuple[RequestedOutput, ...]
) -> tuple[OutputTensor, ...]:
    return to_regions(served.signature.answer(results, wanted), wanted)


def _check_local(context: Context) -> None:
    """Another machine has no shared memory with this one, and nothing to look for in it."""
    if not is_local(context.address):
        raise ServiceError(Kind.FORBIDDEN, "shared memory is for clients on this machine")


def _seconds_to(deadline: int) -> float:
    return max(0, deadline - time.monotonic_ns()) / 1e9


def _size(arrays: dict[str, Array]) -> int:
    return sum(array.nbytes for array in arrays.values())


async def _until(ended: asyncio.Future[None], deadline: int | None) -> None:
    """Waits; raises DEADLINE when the time is over."""
    if deadline is None:
        await ended
        return
    left = max(0, deadline - time.monotonic_ns()) / 1e9
    late = asyncio.get_running_loop().call_later(left, _expire, ended)
    try:
        await ended
    finally:
        late.cancel()


def _expire(ended: asyncio.Future[None]) -> None:
    if not ended.done():
        ended.set_exception(ServiceError(Kind.DEADLINE, "the request's time was over before it was answered"))
