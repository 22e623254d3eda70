"""When the steps of a pipeline run: each as soon as what it takes is there, by the scheduler of its own model. Nothing here waits.

So steps that do not need one another run side by side, and each waits, is batched, refused and counted as a request to its model is. Tensors go
from step to step as the arrays that a run gave. Which versions run was settled when the request got its lease.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial

from ._datatypes import Array
from ._errors import Kind, ServiceError, kind_of
from ._graph import Source
from ._jobs import Arrays, Job
from ._pipeline import Pipeline
from ._scheduler import QueueStats
from ._statistics import Phases, Statistics

_SEEDS = 1 << 64


class PipelineScheduler:
    """Of one pipeline, in the place that a model's Scheduler has. Any thread may call anything."""

    batches = False  # its steps may

    def __init__(
        self, name: str, pipeline: Pipeline, statistics: Statistics, now: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self._name = name
        self._pipeline = pipeline
        self._statistics = statistics
        self._now = now
        self._lock = threading.Lock()
        self._flows: dict[Job, _Flow] = {}
        self._closed = False

    def check_load(self, deadline: int | None) -> None:
        """Raises what the schedulers of the steps that run first raise for the least of requests that are known."""
        for step, member in zip(self._pipeline.graph.steps, self._pipeline.members):
            if not step.needs():
                try:
                    member.scheduler.check_load(deadline)
                except ServiceError as error:
                    raise _named(step.name, error) from None

    def submit(self, job: Job) -> None:
        """Takes a job, which may be done when this returns. What a step's scheduler refuses is the job's error.

        Raises:
            ServiceError: NOT_READY.
        """
        flow = self._flow(job)
        with self._lock:
            self._flows[job] = flow
        flow.go_on()

    def cancel(self, job: Job, error: ServiceError | None = None) -> None:
        """Ends a job with an error, once its steps have stopped; those that wait or run beside others' do at once."""
        with self._lock:
            flow = self._flows.get(job)
        if flow is not None:
            flow.fail(error or ServiceError(Kind.CANCELLED, "the request was cancelled"))

    def close(self) -> None:
        """Takes no more."""
        self._closed = True

    def stats(self) -> QueueStats:
        """A look at it. What waits, waits for its models."""
        with self._lock:
            return QueueStats(0, len(self._flows), 0, {})

    def _flow(self, job: Job) -> _Flow:
        job.submitted = self._now()
        if self._closed:
            raise ServiceError(Kind.NOT_READY, f"pipeline {self._name!r} is going away: ask again", 1)
        return _Flow(self._pipeline, job, self._ended)

    def _ended(self, job: Job, error: BaseException | None) -> None:
        """Without a lock, once."""
        with self._lock:
            self._flows.pop(job, None)
        job.error = error
        job.ended = self._now()
        job.started = job.started or job.ended
        if error is None:
            self._statistics.executed(1, job.ended - job.started)
        job.finished = True


class _Flow:
    """One job on its way through the steps."""

    def __init__(self, pipeline: Pipeline, job: Job, ended: Callable[[Job, BaseException | None], None]) -> None:
        self._pipeline = pipeline
        self._job = job
        self._ended = ended
        self._lock = threading.Lock()
        self._values: dict[Source, Array] = {Source(None, name): array for name, array in job.arrays.items()}
        self._uses = dict(pipeline.uses)  # of each tensor, those to come
        self._needs = [len(step.needs()) for step in pipeline.graph.steps]  # of each step, those that have not ended
        self._ready = deque(number for number, needs in enumerate(self._needs) if not needs)
        self._running: set[int] = set()  # steps that were begun and have not ended
        self._submitted: dict[int, Job] = {}  # those of them that their schedulers know
        self._left = len(self._needs)
        self._threads: set[int] = set()  # that begin steps
        self._error: BaseException | None = None
        self._stopped: ServiceError | None = None  # what steps are told that run when it fails
        self._over = False

    def go_on(self) -> None:
        """Begins all steps that can be begun."""
        thread = threading.get_ident()
        with self._lock:
            if thread in self._threads:
                return  # a step has run in place: the loop that began it goes on, and no stack grows with the steps
            self._threads.add(thread)
        try:
            while (step := self._next()) is not None:
                self._begin(*step)
        finally:
            with self._lock:
                self._threads.discard(thread)
                is_over = not (self._over or self._running or (self._left and self._error is None))
                self._over = self._over or is_over
            if is_over:
                self._end()
                self._job.done(self._job)

    def fail(self, error: ServiceError) -> None:
        """No further step begins, and those that run stop."""
        with self._lock:
            running = self._given_up(error, error)
        self._stop(running, error)
        self.go_on()

    # ---- a step

    def _next(self) -> tuple[int, Arrays] | None:
        """One that can be begun, and what it takes; a tensor is kept no longer than until the last that takes it has it."""
        with self._lock:
            if not self._ready or self._error is not None:
                return None
            number = self._ready.popleft()
            self._running.add(number)
            arrays = {}
            for name, source in self._pipeline.graph.steps[number].inputs.items():
                self._uses[source] -= 1
                arrays[name] = self._values[source] if self._uses[source] else self._values.pop(source)
            return number, arrays

    def _begin(self, number: int, arrays: Arrays) -> None:
        member, job = self._pipeline.members[number], self._made(number, arrays, partial(self._step_ended, number))
        try:
            if self._job.steps is not None:
                self._job.steps.began(member)
            member.scheduler.submit(job)
        except Exception as error:
            job.error = error
            self._step_ended(number, job)
            return
        with self._lock:
            if number not in self._running:
                return
            self._submitted[number] = job
            stopped = self._stopped  # meanwhile, when its scheduler did not know it yet
        if stopped is not None:
            member.scheduler.cancel(job, stopped)

    def _made(self, number: int, arrays: Arrays, done: Callable[[Job], None]) -> Job:
        """The request to a step's model, with the time, priority and seed of the pipeline's; the model's own where that has none."""
        member, whole = self._pipeline.members[number], self._job
        deadline = whole.deadline
        if deadline is None and member.scheduling.timeout:
            deadline = time.monotonic_ns() + member.scheduling.timeout
        rows = member.rows(arrays)
        return Job(
            arrays,
            done,
            rows=1 if rows is None else rows,
            # Each step draws numbers of its own, the same whenever the request's seed is.
            seed=None if whole.seed is None or not member.draws else (whole.seed + number) % _SEEDS,
            priority=whole.priority or member.scheduling.priority,
            deadline=deadline,
            alone=rows is None,
        )

    def _step_ended(self, number: int, job: Job) -> None:
        self._take(number, job)
        self.go_on()

    def _take(self, number: int, job: Job) -> None:
        """What a step has given, or how it has failed."""
        name = self._pipeline.graph.steps[number].name
        self._count(number, job)
        error = None if job.error is None else _named(name, job.error)
        with self._lock:
            self._running.discard(number)
            self._submitted.pop(number, None)
            self._left -= 1
            if job.started:
                self._job.started = min(self._job.started or job.started, job.started)
            if error is None and self._error is None:
                found = {Source(name, output): array for output, array in job.results.items()}
                self._values |= {source: array for source, array in found.items() if self._uses.get(source)}
                for follower in self._pipeline.followers[number]:
                    self._needs[follower] -= 1
                    if not self._needs[follower]:
                        self._ready.append(follower)
            stopped = ServiceError(Kind.CANCELLED, "another step of the pipeline has failed")
            running = [] if error is None else self._given_up(error, stopped)
        self._stop(running, stopped)

    def _count(self, number: int, job: Job) -> None:
        """Of the model, as of any request to it."""
        member = self._pipeline.members[number]
        ended = job.ended or time.monotonic_ns()
        taken = ended - (job.submitted or ended)
        phases = Phases()
        if job.error is None:
            phases = Phases(queue=job.started - job.submitted, compute_infer=job.ended - job.started)
            member.statistics.answered(phases, taken)
        else:
            member.statistics.failed(taken)
        if self._job.steps is not None:
            self._job.steps.ran(member, None if job.error is None else kind_of(job.error), phases, taken)

    def _given_up(self, error: BaseException, stopped: ServiceError) -> list[tuple[int, Job]]:
        """With the lock: it has failed, if it has not before; returns the steps to be stopped."""
        if self._over or self._error is not None:
            return []
        self._error, self._stopped = error, stopped
        self._values.clear()
        return list(self._submitted.items())

    def _stop(self, running: list[tuple[int, Job]], stopped: ServiceError) -> None:
        for number, job in running:
            self._pipeline.members[number].scheduler.cancel(job, stopped)

    def _end(self) -> None:
        if self._error is None:
            self._job.results = self._results()
        self._values.clear()
        self._ended(self._job, self._error)

    def _results(self) -> Arrays:
        return {name: self._values[source] for name, source in self._pipeline.graph.outputs.items()}


def _named(step: str, error: BaseException) -> BaseException:
    """The error of a step, which says of which; a fault of the server's own is left as it is, for its log."""
    kind = kind_of(error)
    if kind is Kind.INTERNAL:
        return error
    return ServiceError(kind, f"step {step!r}: {error}", error.retry_after if isinstance(error, ServiceError) else None)
