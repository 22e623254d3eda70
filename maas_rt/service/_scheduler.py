"""When the requests to a version run: a bounded queue, batches, and the most runs at once. Nothing here waits.

A run that takes less than a hop between threads would is made in place, on the thread that submits it, and elsewhere once it took much
longer than such runs do; all others on the runtime's threads (`launch`). Which requests run together is _batcher's to say; a batch waits no longer than its policy has it, and longer only where all
runners are busy. Times are nanoseconds of one clock.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Generic, NamedTuple, Protocol, TypeVar

import numpy as np

from .._errors import DeadlineExceededError, Error
from .._model import CancelToken, State, launch_on_thread
from .._native import cpu_count
from ._batcher import Batch, Batcher, Left, Part
from ._config import Scheduling
from ._errors import Kind, ServiceError, kind_of
from ._jobs import Arrays, Job, size_of
from ._padding import Padding
from ._statistics import Statistics
from ._timer import Timer

T = TypeVar("T")
_HOP = 200_000  # ns: what a run on another thread costs beside the run, measured through asyncio on two cores
_IN_PLACE = 5_000_000  # ns that a run in place may take: how long a loop runs may lie in the values of its inputs
_MOST_PARTS = 4096  # of a request: its rows are the client's to say, and where another extent is 0 they take no bytes
_MEASURED = 16  # of so many quick runs the CPU of one is measured
_FILLED = 0.8  # of the bound on latency by what is expected: runs differ from their averages
_WEIGHT = 0.2  # of the newest time in an average


class Runnable(Protocol):
    """What runs: a Model."""

    def run(
        self,
        inputs: Arrays,
        *,
        deadline: float | None = None,
        cancel: CancelToken | None = None,
        state: State | None = None,
        seed: int | None = None,
    ) -> Arrays:
        """As Model.run; `deadline` in seconds from now."""
        ...


@dataclass(slots=True)
class Ran(Generic[T]):
    """What a run in place gave, and when it was asked for, began and ended."""

    value: T
    submitted: int
    started: int
    ended: int


class QueueStats(NamedTuple):
    """A look at a scheduler."""

    waiting: int  # requests
    running: int  # runs
    refused: int  # requests, since it began
    left: dict[str, int]  # how many batches left for which reason


@dataclass(eq=False)
class _Run:
    parts: tuple[Part[Job], ...]
    token: CancelToken | None = None

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)


class Scheduler:
    """Of one version. Any thread may call anything.

    Args:
        name: of the model, for messages.
        scheduling: batching only for a model that takes batches (_batcher.batches).
        padding: of requests that are put together.
        launch: calls a function on another thread, soon.
    """

    def __init__(
        self,
        name: str,
        model: Runnable,
        scheduling: Scheduling | None = None,
        timer: Timer | None = None,
        statistics: Statistics | None = None,
        padding: Padding | None = None,
        launch: Callable[[Callable[[], None]], object] = launch_on_thread,
        now: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._name = name
        self._model = model
        self._policy = scheduling or Scheduling()
        self._timer = timer or Timer()
        self._statistics = statistics or Statistics()
        self._padding = padding or Padding()
        self._launch = launch
        self._now = now
        self._instances = self._policy.instances or cpu_count()
        self._times = _Times()
        self._batcher: Batcher[Job] | None = None
        self._most_rows = 1
        if self._policy.batching is not None:
            self._batcher = Batcher(self._policy.batching, self._times.of_rows)
            self._most_rows = self._policy.batching.max_rows
        self._lock = threading.Lock()
        self._ready: list[tuple[int, int, _Run]] = []  # a heap: by priority, then by arrival
        self._number = itertools.count()
        self._active: set[_Run] = set()
        self._waiting = 0  # jobs of which a part waits
        self._backlog = 0  # estimates of the jobs that wait or run
        self._armed: int | None = None
        self._closed = False
        self._refused = 0
        self._left = {each.value: 0 for each in Left}

    @property
    def batches(self) -> bool:
        """Whether requests are put together."""
        return self._batcher is not None

    def submit(self, job: Job) -> None:
        """Takes a job, which may be done when this returns.

        Raises:
            ServiceError: OVERLOADED: the queue is full, or the answer would come too late. TOO_LARGE, DEADLINE, NOT_READY.
        """
        after: list[Callable[[], object]] = []
        with self._lock:
            now = job.submitted = self._now()
            together = self._batcher is not None and not job.alone and job.rows > 0
            if together and job.rows > _MOST_PARTS * self._most_rows:
                most = _MOST_PARTS * self._most_rows
                text = f"the request has {job.rows} rows, and model {self._name!r} takes {most} at most: send them in several"
                raise ServiceError(Kind.TOO_LARGE, text)
            job._size = size_of(job.arrays)
            job._estimate = self._estimate(job, together)
            self._check(job.deadline, job._estimate, now)
            self._backlog += job._estimate
            if not together and not self._waiting and len(self._active) < self._instances:
                run = _Run((Part(job, 0, job.rows, job.priority, now, job.deadline),))
                job._waiting = self._waiting = 1
                self._begin(run)
                if not self._times.quick(job._size):
                    after.append(partial(self._start, run))
                    run.token = CancelToken()
                else:
                    after.append(partial(self._execute_in_place, run))
            else:
                self._enqueue(job, now, together)
                self._go_on(now, after)
        for each in after:
            each()

    def check_load(self, deadline: int | None) -> None:
        """Raises what `submit` would raise for the least of requests that are known."""
        least = 0 if self.batches else self._times.of_size(0)
        with self._lock:
            self._check(deadline, least, self._now())

    def run_in_place(self, size: int, deadline: int | None, work: Callable[[int], T]) -> Ran[T] | None:
        """Runs a request alone on this thread, if it is one of those that `submit` would run in place and it does not take much longer than
        they do. None: nothing has come of it.

        Args:
            size: bytes of its inputs.
            work: runs it until the given time, and raises DeadlineExceededError then.

        Raises:
            ServiceError: as `submit`.
            Exception: what `work` raises.
        """
        with self._lock:
            submitted = self._now()
            self._check(deadline, self._times.of_size(size), submitted)
            busy = self._waiting or len(self._active) >= self._instances
            if self.batches or busy or not self._times.quick(size):
                return None
            run = _Run(())
            self._active.add(run)
        started = self._now()
        last = started + _IN_PLACE
        try:
            value = self._timed(size, 1, 0, partial(work, last if deadline is None else min(last, deadline)))
        except DeadlineExceededError:
            if deadline is None or self._now() < deadline:
                self._times.slow(size)
                return None
            raise
        finally:
            after: list[Callable[[], object]] = []
            with self._lock:
                ended = self._now()
                self._active.discard(run)
                if self._waiting:
                    self._go_on(ended, after)
            for each in after:
                each()
        return Ran(value, submitted, started, ended)

    def cancel(self, job: Job, error: ServiceError | None = None) -> None:
        """Ends a job with an error: at once if it waits, else when its run has stopped, which it does at its next step.

        A run that others share goes on.
        """
        after: list[Callable[[], object]] = []
        with self._lock:
            if job.finished or job._given_up is not None:
                return
            job._given_up = error or ServiceError(Kind.CANCELLED, "the request was cancelled")
            self._forget(job)
            if job._running == 0:
                self._end(job, job._given_up, after)
            for run in self._active:
                if run.token is not None and all(part.request._given_up is not None for part in run.parts):
                    run.token.cancel()
        for each in after:
            each()

    def close(self) -> None:
        """Takes no more; what waits for others to come does not wait any longer."""
        after: list[Callable[[], object]] = []
        with self._lock:
            self._closed = True
            now = self._now()
            if self._batcher is not None:
                for batch in self._batcher.drain(now):
                    self._push(batch)
            self._go_on(now, after)
        for each in after:
            each()

    def stats(self) -> QueueStats:
        """A look at it."""
        with self._lock:
            return QueueStats(self._waiting, len(self._active), self._refused, dict(self._left))

    # ---- with the lock

    def _check(self, deadline: int | None, own: int, now: int) -> None:
        if self._closed:
            raise ServiceError(Kind.NOT_READY, f"model {self._name!r} is going away: ask again", 1)
        if deadline is not None and deadline <= now:
            raise _too_late()
        estimate = (self._backlog + own) // self._instances
        wait = max(1, round(estimate / 1e9))
        if self._waiting >= self._policy.queue and (self._waiting or len(self._active) >= self._instances):
            self._refused += 1
            text = f"{self._waiting} requests wait for model {self._name!r}, the most that may: ask again later"
            raise ServiceError(Kind.OVERLOADED, text, wait)
        if self._policy.latency and self._backlog and estimate > _FILLED * self._policy.latency:
            self._refused += 1
            text = (
                f"an answer of model {self._name!r} would take {estimate / 1e6:.0f} ms, and its bound is "
                f"{self._policy.latency / 1e6:.0f} ms: ask again later"
            )
            raise ServiceError(Kind.OVERLOADED, text, wait)

    def _estimate(self, job: Job, together: bool) -> int:
        """Its share of a run."""
        if not together:
            return self._times.of_size(job._size)
        most = self._most_rows
        self._times.rows(job.rows, job._size)
        return self._times.of_rows(most) * job.rows // most

    def _enqueue(self, job: Job, now: int, together: bool) -> None:
        self._waiting += 1
        if together:
            assert self._batcher is not None
            job._waiting = -(-job.rows // self._most_rows)
            key = self._padding.key(job.arrays)
            for batch in self._batcher.add(job, job.rows, key, now, job.priority, job.deadline):
                self._push(batch)
        else:
            job._waiting = 1
            part = Part(job, 0, job.rows, job.priority, now, job.deadline)
            heapq.heappush(self._ready, (job.priority, next(self._number), _Run((part,))))

    def _push(self, batch: Batch[Job]) -> None:
        self._left[batch.left.value] += 1
        priority = min(part.priority for part in batch.parts)
        heapq.heappush(self._ready, (priority, next(self._number), _Run(batch.parts)))

    def _go_on(self, now: int, after: list[Callable[[], object]]) -> None:
        """Begins what can be begun."""
        while len(self._active) < self._instances:
            if not self._ready and self._batcher is not None:
                for batch in self._batcher.due(now):
                    self._push(batch)
            if not self._ready:
                break
            run = heapq.heappop(self._ready)[2]
            late: dict[Job, ServiceError] = {}
            for part in run.parts:
                if part.deadline is not None and part.deadline <= now:
                    late[part.request] = _too_late()
                elif self._is_overdue(part.request, now):
                    late[part.request] = self._overdue(now - part.request.submitted)
            run.parts = tuple(part for part in run.parts if part.request not in late)
            for job, why in late.items():
                job._waiting -= 1  # the part that was taken from the heap
                self._waiting -= job._waiting == 0
                self._forget(job)
                job._given_up = job._given_up or why
                if job._running == 0:
                    self._end(job, job._given_up, after)
            if run.parts:
                self._begin(run)
                run.token = CancelToken()
                after.append(partial(self._start, run))
        if self._batcher is not None and len(self._active) < self._instances:
            self._arm(self._batcher.next_due())

    def _is_overdue(self, job: Job, now: int) -> bool:
        """Whether its answer would come later than the bound on latency has it: the runs before it took longer than was expected."""
        begun = job._running or job._pieces or job.submitted == now
        return bool(self._policy.latency and not begun) and now + job._estimate > job.submitted + self._policy.latency

    def _overdue(self, waited: int) -> ServiceError:
        self._refused += 1
        return ServiceError(
            Kind.OVERLOADED,
            f"the request has waited for {waited / 1e6:.0f} ms, and an answer of model {self._name!r} would come later than its bound, "
            f"{self._policy.latency / 1e6:.0f} ms: ask again later",
            max(1, round(self._backlog / self._instances / 1e9)),
        )

    def _arm(self, when: int | None) -> None:
        if when is not None and (self._armed is None or when < self._armed):
            self._armed = when
            self._timer.call_at(when, self._wake)

    def _begin(self, run: _Run) -> None:
        self._active.add(run)
        for part in run.parts:
            job = part.request
            job._waiting -= 1
            job._running += 1
            self._waiting -= job._waiting == 0

    def _forget(self, job: Job) -> None:
        """Takes what waits of a job out of the queue."""
        if job._waiting == 0:
            return
        job._waiting = 0
        self._waiting -= 1
        if self._batcher is not None:
            self._batcher.remove(job)
        for _, _, run in self._ready:
            run.parts = tuple(part for part in run.parts if part.request is not job)
        if any(not run.parts for _, _, run in self._ready):
            self._ready = [entry for entry in self._ready if entry[2].parts]
            heapq.heapify(self._ready)

    def _end(self, job: Job, error: BaseException | None, after: list[Callable[[], object]]) -> None:
        job.error = error
        if error is None:
            pieces = [results for _, results in sorted(job._pieces, key=lambda piece: piece[0])]
            job.results = pieces[0] if len(pieces) == 1 else _joined(pieces)
        job._pieces = []
        job.ended = self._now()
        job.finished = True
        self._backlog -= job._estimate
        after.append(partial(job.done, job))

    # ---- without the lock

    def _start(self, run: _Run) -> None:
        try:
            self._launch(partial(self._execute, run))
        except Error as error:  # the interpreter ends
            self._finish(run, [error] * len(run.parts))

    def _wake(self) -> None:
        after: list[Callable[[], object]] = []
        with self._lock:
            self._armed = None
            self._go_on(self._now(), after)
        for each in after:
            each()

    def _execute_in_place(self, run: _Run) -> None:
        """A job alone. If it takes too long it is stopped, which leaves its state as it was, and begins anew on another thread."""
        job = run.parts[0].request
        job.started = self._now()
        try:
            outcomes: list[Arrays | BaseException] = list(self._results(run.parts, None, _IN_PLACE))
        except DeadlineExceededError as error:
            if job.deadline is None or self._now() < job.deadline:
                self._times.slow(job._size)
                with self._lock:
                    run.token = CancelToken()
                self._start(run)
                return
            outcomes = [error]
        except Exception as error:
            outcomes = [error]
        except BaseException as error:
            self._finish(run, [error])
            raise
        self._finish(run, outcomes)

    def _execute(self, run: _Run) -> None:
        started = self._now()
        for part in run.parts:
            part.request.started = part.request.started or started
        outcomes: list[Arrays | BaseException] = []
        try:
            outcomes = list(self._results(run.parts, run.token))
        except Exception as error:
            outcomes = [error] * len(run.parts)
            if len(run.parts) > 1 and kind_of(error) not in (Kind.CANCELLED, Kind.DEADLINE):
                outcomes = [self._alone(part, run.token) for part in run.parts]  # one of them must not fail the others
        except BaseException as error:
            self._finish(run, [error] * len(run.parts))
            raise
        self._finish(run, outcomes)

    def _alone(self, part: Part[Job], token: CancelToken | None) -> Arrays | BaseException:
        try:
            return self._results((part,), token)[0]
        except Exception as error:
            return error

    def _results(
        self, parts: tuple[Part[Job], ...], token: CancelToken | None, most: int | None = None
    ) -> list[Arrays]:
        """Runs parts together, for `most` nanoseconds; raises what the run raises."""
        first = parts[0].request
        assembling = self._now()
        whole = len(parts) == 1 and parts[0].rows == first.rows
        given = [(each.request.arrays, each.first, each.rows) for each in parts]
        arrays = first.arrays if whole else self._padding.stacked(given)
        rows = sum(part.rows for part in parts)
        deadlines = [part.deadline for part in parts if part.deadline is not None]
        begin = self._now()
        left = max(deadlines) - begin if len(deadlines) == len(parts) else None
        if most is not None:
            left = most if left is None else min(left, most)
        seconds = None if left is None else max(left, 0) / 1e9
        size = first._size if whole else size_of(arrays)
        run = partial(self._model.run, arrays, deadline=seconds, cancel=token, state=first.state, seed=first.seed)
        results = self._timed(size, rows, begin - assembling, run)
        return [results] if len(parts) == 1 else self._padding.shared_out(results, given)

    def _timed(self, size: int, rows: int, assembled: int, run: Callable[[], T]) -> T:
        """What a run gives, of which notice is taken. `assembled`: ns in which it was put together."""
        cpu = time.thread_time_ns() if self._times.wants_cpu(size) else None
        begin = self._now()
        results = run()
        taken = self._now() - begin
        if cpu is not None:
            cpu = time.thread_time_ns() - cpu
        self._times.learn(size, taken, cpu)
        self._statistics.executed(rows, taken, assembled)
        return results

    def _finish(self, run: _Run, outcomes: list[Arrays | BaseException]) -> None:
        after: list[Callable[[], object]] = []
        with self._lock:
            self._active.discard(run)
            for part, outcome in zip(run.parts, outcomes):
                job = part.request
                job._running -= 1
                if isinstance(outcome, BaseException):
                    job._given_up = job._given_up or outcome
                    self._forget(job)
                else:
                    job._pieces.append((part.first, outcome))
                if job._waiting == 0 and job._running == 0:
                    self._end(job, job._given_up, after)
            self._go_on(self._now(), after)
        for each in after:
            each()


class _Times:
    """What runs took: averages by the size of their inputs, in powers of two. Any thread may call anything."""

    def __init__(self) -> None:
        self._wall: dict[int, float] = {}
        self._cpu: dict[int, float] = {}
        self._row = 0  # bytes of one
        self._until = 0  # runs from now to the next whose CPU is measured

    def wants_cpu(self, size: int) -> bool:
        """Whether the CPU of a run of this size is to be measured. Of quick ones it is that of a few, for the clock takes longer than they do."""
        self._until -= 1
        if self._until > 0 and self.quick(size):
            return False
        self._until = _MEASURED
        return True

    def learn(self, size: int, wall: int, cpu: int | None) -> None:
        """A run took so long, and so long of its thread's CPU, which is not the longer for others that wanted it, too."""
        bucket = size.bit_length()
        for table, value in ((self._wall, wall), (self._cpu, cpu)):
            if value is not None:
                old = table.get(bucket)
                table[bucket] = value if old is None else old + (value - old) * _WEIGHT

    def slow(self, size: int) -> None:
        """A run of this size was too long to be made in place."""
        self._cpu[size.bit_length()] = _IN_PLACE

    def rows(self, rows: int, size: int) -> None:
        """So many rows have so many bytes."""
        self._row = size // rows

    def quick(self, size: int) -> bool:
        """Whether a run takes less than a hop between threads; not if it is the first of its size."""
        return self._cpu.get(size.bit_length(), _HOP) < _HOP

    def of_size(self, size: int) -> int:
        """What a run of this size takes; of a size that was not met, as that of the nearest; 0 if nothing is known."""
        bucket = size.bit_length()
        known = self._wall.get(bucket)
        if known is None:
            table = list(self._wall.items())
            known = min(table, key=lambda entry: abs(entry[0] - bucket))[1] if table else 0.0
        return int(known)

    def of_rows(self, rows: int) -> int:
        """The same by rows."""
        return self.of_size(rows * self._row)


def _joined(pieces: list[Arrays]) -> Arrays:
    return {name: np.concatenate([each[name] for each in pieces]) for name in pieces[0]}


def _too_late() -> ServiceError:
    return ServiceError(Kind.DEADLINE, "the request's time was over before it ran")
