"""One inference from a request to its response, the same for every transport: version, state, tensors, run, outputs."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from types import TracebackType
from typing import Any, Protocol, TypeVar

from ._access import permit
from ._calls import Answered, Context, Handed, NotBegun, NotHeld, Observer, Peers, Withdrawn, check_local
from ._datatypes import Array
from ._errors import Kind, ServiceError, kind_of, shown
from ._grants import Client, Verb
from ._jobs import Job, size_of
from ._leases import Lease
from ._offload import Inbox, beside_the_loop
from ._pipeline import Pipeline
from ._regions import Regions
from ._requests import NO_OPTIONS, InferRequest, InferResponse, Options, OutputTensor, RequestedOutput
from ._scheduler import Scheduler
from ._sequences import Sequence, Sequences, unknown
from ._served import Served
from ._shared_memory import attach, to_regions
from ._statistics import Phases
from ._tracing import CURRENT, Trail

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
_SEED_BITS = 53  # of a seed that the server draws: every client's numbers hold it
_GRACE = 1.0  # seconds after its deadline in which a process that was handed an inference may say so itself


class _Exchange(Protocol[T_co]):
    """A prepared request, as _native has them."""

    @property
    def size(self) -> int: ...

    def run(self, deadline: int) -> None: ...

    def body(self) -> T_co: ...


class Host(Protocol):
    """What an inference needs of the Core that it is made in."""

    @property
    def observe(self) -> Observer | None:
        """Told of it."""
        ...

    @property
    def sequences(self) -> Sequences:
        """States of sequences."""
        ...

    @property
    def regions(self) -> Regions | None:
        """Of shared memory."""
        ...

    @property
    def peers(self) -> Peers | None:
        """The other processes that serve the same."""
        ...

    def landing(self) -> Inbox:
        """What ends in other threads comes back to the running loop by it."""
        ...


class Inference:
    """One inference, from Core.begin on.

    Args:
        version: as it was asked for.
        admission: ends with it.
        client: who has asked, and whose sequences are meant.
        begun: when it came, in nanoseconds of time.monotonic_ns; None: now.
    """

    def __init__(
        self,
        core: Host,
        lease: Lease[Served],
        version: str | None,
        context: Context,
        admission: AbstractContextManager[object],
        client: Client,
        begun: int | None = None,
    ) -> None:
        self._core = core
        self._lease = lease
        self._version = version
        self._context = context
        self._admission = admission
        self._begun = time.monotonic_ns() if begun is None else begun
        self._phases = Phases()
        self._client = client
        self._answered: Answered | None = None  # by another process
        self._is_elsewhere = False  # another process counts it
        self.in_place = False  # its run was over when it was submitted, and it could be made by `infer_in_place`
        self._held = 0  # bytes that were copied from shared memory
        self._was_kept = False
        self.served = lease.value
        if core.observe is not None:
            core.observe.began(self.served)

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
        if self._is_elsewhere:
            if self._answered is not None and self._core.observe is not None:
                response = self._answered.response
                self._core.observe.traced(response.model_name, response.model_version, self._phases)
            return
        if kind is Withdrawn:
            if self._core.observe is not None:
                self._core.observe.left(self.served)
            return
        served, taken = self.served, time.monotonic_ns() - self._begun
        failure = None if error is None else kind_of(error)
        if failure is None:
            served.statistics.answered(self._phases, taken, not self._was_kept)
        else:
            served.statistics.failed(taken)
        if self._core.observe is not None:
            self._core.observe.ended(served, failure, self._phases, taken)

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
            holder = self._holder(options)
            if holder is not None:
                asked = [request]
                del request
                return await self._hand_over(holder, asked, options, deadline)
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
            key = None if served.cache is None else await beside_the_loop(size_of(arrays), served.cache.key, arrays)
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
        usual = not shares and not served.is_pipeline and not served.stateful
        self.in_place = job.finished and served.cache is None and usual
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
            await beside_the_loop(size_of(results), served.cache.put, key, results)
            served.statistics.kept(served.cache.held)
        return await self._answer(results, wanted, identifier, {"seed": seed} if served.draws else {})

    def _holder(self, options: Options) -> int | None:
        peers = self._core.peers
        return None if peers is None else peers.holder((self._client.owner, self.served.name, options.sequence_id))

    async def _hand_over(
        self, holder: int, asked: list[InferRequest], options: Options, deadline: int | None
    ) -> InferResponse:
        """The answer of the process that holds the sequence, which counts the inference from now on."""
        peers, observe, context = self._core.peers, self._core.observe, self._context
        assert peers is not None
        trail = CURRENT.get() or Trail(context.request_id)
        handed = Handed(
            self.served.name,
            self._version,
            self._client,
            deadline,
            self._begun,
            self._phases.compute_input,
            context.address,
            context.call,
            replace(trail, span=None),
        )
        key = self._client.owner, self.served.name, options.sequence_id
        seconds = None if deadline is None else _seconds_to(deadline) + _GRACE
        self._is_elsewhere = True
        if observe is not None:
            observe.left(self.served)
        try:
            self._answered = await asyncio.wait_for(peers.hand_over(holder, key, handed, asked), seconds)
            self._phases = self._answered.phases
            return self._answered.response
        except NotHeld:
            error = self._lost(options)
        except NotBegun as refused:
            error = refused.error()
        except asyncio.TimeoutError:
            error = _late()
        except BaseException:
            if asked:  # it was not sent
                self._come_back()
            raise
        self._come_back()
        raise error from None

    def _come_back(self) -> None:
        self._is_elsewhere = False
        if self._core.observe is not None:
            self._core.observe.began(self.served)

    def _lost(self, options: Options) -> ServiceError:
        """The process that holds the sequence is gone. One that begins may begin in its successor."""
        if not options.sequence_start:
            return unknown(self.served.name, options.sequence_id)
        text = f"the worker that is to hold sequence {shown(options.sequence_id)} of model {shown(self.served.name)} is being started: ask again"
        return ServiceError(Kind.NOT_READY, text, 1)

    @property
    def phases(self) -> Phases:
        """Where its time went, when it was answered."""
        return self._phases

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
        check_local(self._context)
        permit(self._client, Verb.SHARED_MEMORY, None)  # it may have had the grant only when it registered them
        request, size = attach(request, regions, self._client.owner)
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

        results = self._run_in_place(size_of(arrays), options, run)
        began = time.monotonic_ns()
        outputs = served.signature.answer(results, wanted)
        self._phases.compute_output = time.monotonic_ns() - began
        return InferResponse(served.name, served.version, outputs, request.id, {"seed": seed} if served.draws else {})

    def exchange_in_place(self, exchange: _Exchange[T_co]) -> T_co:
        """The same for a request that was prepared: its answer, as its exchange gives it.

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
        if served is not old and self._core.observe is not None:
            self._core.observe.left(old)
            self._core.observe.began(served)

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
            self.served.name, options.sequence_id, options.sequence_start, self._lease.share(), self._client.owner
        )
        if turn.done():
            return turn.result()
        ended = asyncio.get_running_loop().create_future()
        landing = self._core.landing()
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
        landing, sequences = self._core.landing(), self._core.sequences

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
            steps=self._core.observe,
        )


def _seed(served: Served, options: Options) -> int | None:
    """The request's; one that is drawn where it has none and the model draws."""
    return secrets.randbits(_SEED_BITS) if options.seed is None and served.draws else options.seed


def _outputs(
    served: Served, results: dict[str, Array], wanted: tuple[RequestedOutput, ...]
) -> tuple[OutputTensor, ...]:
    return to_regions(served.signature.answer(results, wanted), wanted)


def _seconds_to(deadline: int) -> float:
    return max(0, deadline - time.monotonic_ns()) / 1e9


async def _until(ended: asyncio.Future[None], deadline: int | None) -> None:
    """Waits; raises DEADLINE when the time is over."""
    if deadline is None:
        await ended
        return
    late = asyncio.get_running_loop().call_later(_seconds_to(deadline), _expire, ended)
    try:
        await ended
    finally:
        late.cancel()


def _expire(ended: asyncio.Future[None]) -> None:
    if not ended.done():
        ended.set_exception(_late())


def _late() -> ServiceError:
    return ServiceError(Kind.DEADLINE, "the request's time was over before it was answered")
