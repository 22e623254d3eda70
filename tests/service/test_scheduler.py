"""When requests run: without a server, mostly without threads, and by a clock of the test's."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import maas_rt
from maas_rt.service._batcher import BatchPolicy
from maas_rt.service._config import ModelConfig, Scheduling
from maas_rt.service._errors import Kind, ServiceError, kind_of
from maas_rt.service._jobs import Job
from maas_rt.service._scheduler import Scheduler
from maas_rt.service._timer import Timer


class _World:
    """A clock, a timer and threads that do nothing by themselves, and a model that doubles x and refuses negative ones."""

    def __init__(self, **scheduling: Any) -> None:
        self.time = 0
        self.takes = 0  # of a run
        self.runs: list[list[float]] = []
        self.tokens: list[Any] = []
        self.left: list[float | None] = []
        self.launched: list[Callable[[], None]] = []
        self.alarms: list[tuple[int, Callable[[], None]]] = []
        self.ended: list[str] = []
        self.scheduler = Scheduler(
            "m", self, Scheduling(**scheduling), self, launch=self.launched.append, now=lambda: self.time
        )

    def run(self, inputs: dict[str, Any], *, deadline: Any = None, cancel: Any = None, state: Any = None, seed: Any = None) -> Any:  # fmt: skip
        x = inputs["x"]
        self.runs.append(x.ravel().tolist())
        self.tokens.append(cancel)
        self.left.append(deadline)
        self.time += self.takes
        if cancel is not None and cancel.cancelled:
            raise maas_rt.CancelledError("cancelled")
        if (x < 0).any():
            raise maas_rt.InvalidArgumentError("a negative one")
        return {"y": x * 2}

    def call_at(self, when: int, function: Callable[[], None]) -> None:
        self.alarms.append((when, function))

    def job(self, name: str, *values: float, **options: Any) -> Job:
        x = np.array(values or (1.0,), np.float32).reshape(-1, 1)
        return Job({"x": x}, lambda _: self.ended.append(name), rows=len(x), alone=False, **options)

    def submit(self, name: str, *values: float, **options: Any) -> Job:
        job = self.job(name, *values, **options)
        self.scheduler.submit(job)
        return job

    def launch(self) -> None:
        """What was launched runs."""
        launched, self.launched[:] = list(self.launched), []
        for each in launched:
            each()


def _kind(world: _World, **options: Any) -> Kind:
    with pytest.raises(ServiceError) as caught:
        world.submit("refused", **options)
    assert (caught.value.retry_after or 1) >= 1
    return caught.value.kind


def test_what_is_quick_runs_in_place_once_that_is_known() -> None:
    world = _World(instances=1)
    first = world.submit("a", 3)
    assert not first.finished and len(world.launched) == 1
    world.launch()
    assert first.finished and first.results["y"].tolist() == [[6.0]] and first.error is None
    second = world.submit("b", 4)
    assert second.finished and not world.launched and second.results["y"].tolist() == [[8.0]]
    assert not world.submit("c", *range(1000)).finished  # of this size nothing is known
    assert world.ended == ["a", "b"]


def test_a_run_in_place_that_takes_too_long_begins_anew_elsewhere() -> None:
    """How long a loop runs may lie in the values of its inputs."""
    world = _World(instances=1)
    world.submit("a")
    world.launch()
    plain = world.run

    def late(inputs: dict[str, Any], **options: Any) -> Any:
        world.left.append(options["deadline"])
        raise maas_rt.DeadlineExceededError("late")

    world.run = late  # type: ignore[method-assign]
    job = world.submit("b", 5)
    assert not job.finished and world.left[-1] == 0.005 and len(world.launched) == 1
    world.run = plain  # type: ignore[method-assign]
    world.launch()
    assert job.results["y"].tolist() == [[10.0]] and world.left[-1] is None
    assert not world.submit("c").finished
    world.launch()
    world.scheduler._times._cpu.clear()
    world.run = late  # type: ignore[method-assign]
    d = world.submit("d", deadline=10)
    world.time = 20
    world.launch()
    assert d.error is not None and kind_of(d.error) is Kind.DEADLINE


def test_the_queue_is_bounded_and_goes_by_priority() -> None:
    world = _World(instances=1, queue=3)
    jobs = [world.submit(*each) for each in (("a", 1), ("b", 2), ("c", 3))]
    jobs.append(world.submit("urgent", 4, priority=0))
    assert _kind(world) is Kind.OVERLOADED
    assert world.scheduler.stats()[:3] == (3, 1, 1)
    for _ in range(4):
        world.launch()
    assert world.ended == ["a", "urgent", "b", "c"] and all(job.error is None for job in jobs)
    assert world.scheduler.stats()[:3] == (0, 0, 1)
    assert _kind(_World(queue=0, instances=1), deadline=0) is Kind.DEADLINE


def test_without_a_queue_a_request_finds_a_runner_or_is_refused() -> None:
    world = _World(instances=1, queue=0)
    world.submit("a")
    assert _kind(world) is Kind.OVERLOADED
    world.launch()
    world.submit("b")
    assert world.ended == ["a", "b"]


def test_what_would_come_too_late_is_refused_at_once() -> None:
    world = _World(instances=1, latency=25_000_000)
    world.takes = 10_000_000
    world.submit("a")
    world.launch()  # 10 ms are known
    world.scheduler._times._cpu.clear()
    world.submit("b")
    world.submit("c")
    with pytest.raises(ServiceError) as early:
        world.scheduler.check_load(None)
    assert early.value.kind is Kind.OVERLOADED and early.value.retry_after == 1
    assert _kind(world) is Kind.OVERLOADED  # 30 ms
    world.launch()
    world.scheduler.check_load(None)
    world.submit("d")


def test_what_has_waited_too_long_is_refused_when_its_turn_comes() -> None:
    """Runs took longer than was expected: those that are answered keep to the bound."""
    world = _World(instances=1, latency=25_000_000)
    world.takes = 5_000_000
    world.submit("a")
    world.launch()  # 5 ms are known
    world.scheduler._times._cpu.clear()
    jobs = [world.submit(name) for name in ("b", "c", "d")]
    world.takes = 18_000_000
    for _ in range(3):
        world.launch()
    assert [job.error for job in jobs[:1]] == [None]  # after 18 ms
    assert world.time == 23_000_000 + 18_000_000  # c began at 18 ms, and was expected to take no more than 7.6
    late = jobs[2].error
    assert isinstance(late, ServiceError) and late.kind is Kind.OVERLOADED and "has waited for 36 ms" in str(late)
    assert jobs[1].error is None and world.scheduler.stats().refused == 1
    world.submit("e")


def test_a_request_that_waits_is_cancelled_at_once_and_never_runs() -> None:
    world = _World(instances=1)
    world.submit("a", 1)
    b, c = world.submit("b", 2), world.submit("c", 3)
    world.scheduler.cancel(b)
    assert world.ended == ["b"] and b.error is not None and kind_of(b.error) is Kind.CANCELLED
    world.scheduler.cancel(b)
    world.launch(), world.launch()
    assert world.ended == ["b", "a", "c"] and world.runs == [[1.0], [3.0]] and c.error is None
    world.scheduler.cancel(c)
    assert c.error is None


def test_a_run_is_cancelled_at_its_next_step() -> None:
    world = _World(instances=1)
    job = world.submit("a")
    world.scheduler.cancel(job, ServiceError(Kind.DEADLINE, "late"))
    assert not job.finished  # its state is in use
    world.launch()
    assert world.tokens[0].cancelled and world.ended == ["a"]
    assert job.error is not None and kind_of(job.error) is Kind.DEADLINE


def test_deadlines() -> None:
    world = _World(instances=1)
    assert _kind(world, deadline=0) is Kind.DEADLINE
    world.submit("a", deadline=2_000_000_000)
    b, c = world.submit("b", deadline=50), world.submit("c")
    world.time = 100
    world.launch(), world.launch()
    assert b.error is not None and kind_of(b.error) is Kind.DEADLINE and c.error is None
    assert len(world.runs) == 2 and world.left[1] is None
    assert world.left[0] is not None and 1.99 < world.left[0] < 2.0  # the run has what is left of it


def _batched(rows: int = 4, delay: int = 0, **options: Any) -> _World:
    return _World(batching=BatchPolicy(rows, delay), instances=1, **options)


def test_what_waits_while_the_runner_is_busy_runs_together() -> None:
    world = _batched()
    jobs = [world.submit(name, value) for name, value in zip("abcdef", range(6))]
    for _ in range(3):
        world.launch()
    assert world.runs == [[0.0], [1.0, 2.0, 3.0, 4.0], [5.0]]
    assert [job.results["y"].tolist() for job in jobs] == [[[2.0 * i]] for i in range(6)]
    assert world.scheduler.stats().left == {"full": 1, "preferred": 0, "delay": 2, "deadline": 0, "drain": 0}
    assert not world.launched


def test_a_request_waits_for_others_as_long_as_it_may() -> None:
    world = _batched(delay=100)
    world.submit("a", 1)
    assert not world.launched and [when for when, _ in world.alarms] == [100]
    world.time = 60
    world.submit("b", 2)
    assert len(world.alarms) == 1
    world.time = 100
    world.alarms[0][1]()
    world.launch()
    assert world.runs == [[1.0, 2.0]] and world.ended == ["a", "b"]


def test_a_bad_member_never_fails_the_batch() -> None:
    world = _batched()
    world.submit("first")
    good, bad, other = world.submit("good", 1, 2), world.submit("bad", -1), world.submit("other", 3)
    world.launch(), world.launch()
    assert world.runs[1:] == [[1.0, 2.0, -1.0, 3.0], [1.0, 2.0], [-1.0], [3.0]]
    assert good.results["y"].tolist() == [[2.0], [4.0]] and other.results["y"].tolist() == [[6.0]]
    assert bad.error is not None and kind_of(bad.error) is Kind.BAD_REQUEST


def test_what_is_more_than_a_batch_runs_in_parts() -> None:
    world = _batched()
    job = world.submit("a", *range(10))
    for _ in range(3):
        world.launch()
    assert [len(run) for run in world.runs] == [4, 4, 2] and world.ended == ["a"]
    assert job.results["y"].ravel().tolist() == [2.0 * i for i in range(10)]
    bad = world.submit("b", *range(5), -1, *range(5))
    for _ in range(4):
        world.launch()
    assert bad.error is not None and world.ended == ["a", "b"] and world.scheduler.stats()[:2] == (0, 0)


def test_a_request_of_too_many_parts_is_refused_before_any_is_made() -> None:
    world = _batched()
    with pytest.raises(ServiceError, match="has 1099511627776 rows, and model 'm' takes 16384 at most") as caught:
        world.scheduler.submit(Job({"x": np.zeros((1 << 40, 0), np.float32)}, print, rows=1 << 40, alone=False))
    assert caught.value.kind is Kind.TOO_LARGE and world.scheduler.stats()[:2] == (0, 0)
    world.submit("a", *range(16384))


def test_a_member_that_goes_away_leaves_the_others_alone() -> None:
    world = _batched()
    world.submit("first")
    a, b, c = (world.submit(name, value) for name, value in (("a", 1), ("b", 2), ("c", 3)))
    world.scheduler.cancel(a)
    world.launch()
    assert world.ended == ["a", "first"] and len(world.launched) == 1
    world.scheduler.cancel(b)
    world.launch()
    assert world.runs[1] == [2.0, 3.0] and not world.tokens[1].cancelled
    assert b.error is not None and c.results["y"].tolist() == [[6.0]]


def test_a_run_that_nobody_waits_for_any_more_stops() -> None:
    world = _batched()
    world.submit("first")
    jobs = [world.submit(name) for name in "ab"]
    world.launch()
    for job in jobs:
        world.scheduler.cancel(job)
    world.launch()
    assert len(world.runs) == 2 and world.tokens[1].cancelled and world.ended == ["first", "a", "b"]


def test_a_request_without_rows_or_with_a_state_is_put_together_with_none() -> None:
    world = _batched()
    world.submit("first")
    empty = world.job("empty")
    empty.arrays, empty.rows = {"x": np.zeros((0, 1), np.float32)}, 0
    world.scheduler.submit(empty)
    alone = world.job("alone", 7)
    alone.alone = True
    world.scheduler.submit(alone)
    world.submit("b", 8)
    for _ in range(4):
        world.launch()
    assert world.runs[1:] == [[], [7.0], [8.0]] and empty.results["y"].shape == (0, 1)


def test_an_end_lets_what_waits_run_and_takes_no_more() -> None:
    world = _batched(delay=10**9)
    job = world.submit("a")
    world.scheduler.close()
    world.launch()
    assert job.error is None and world.ended == ["a"]
    assert _kind(world) is Kind.NOT_READY


def test_threads_that_cannot_be_had_fail_the_request_and_nothing_else() -> None:
    def refuse(_: Any) -> None:
        raise maas_rt.Error("the interpreter ends")

    world = _World(instances=1)
    world.scheduler._launch = refuse
    job = world.submit("a")
    assert str(job.error) == "the interpreter ends" and world.scheduler.stats()[:2] == (0, 0)


def test_many_threads_at_once() -> None:
    """With real threads: each gets its own answer, no more than the instances run at once, and nothing is left over."""
    now = most = 0
    lock = threading.Lock()

    class Model:
        def run(self, inputs: dict[str, Any], **_: Any) -> dict[str, Any]:
            nonlocal now, most
            with lock:
                now += 1
                most = max(most, now)
            found = {"y": inputs["x"] * 2}
            with lock:
                now -= 1
            return found

    timer = Timer()
    scheduler = Scheduler("m", Model(), Scheduling(batching=BatchPolicy(8, 200_000), instances=2), timer)
    failed: list[str] = []

    def ask(first: int) -> None:
        for value in range(first, first + 50):
            ended = threading.Event()
            job = Job({"x": np.full((1, 2), value)}, lambda _: ended.set(), alone=value % 7 == 0)  # noqa: B023
            scheduler.submit(job)
            if not ended.wait(20) or job.results["y"].tolist() != [[value * 2] * 2]:
                failed.append(f"{value}: {job.error}")

    threads = [threading.Thread(target=ask, args=(1000 * i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    timer.close()
    assert not failed and most <= 2 and scheduler.stats()[:2] == (0, 0)
    assert sum(scheduler.stats().left.values()) > 0


def test_a_function_of_the_timer_that_fails_ends_no_other() -> None:
    timer, called = Timer(), threading.Event()
    timer.call_at(0, lambda: 1 // 0)
    timer.call_at(1, called.set)
    assert called.wait(20)
    timer.close()


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ({"max_batch_size": -1}, "max_batch_size is -1 and must be an integer from 0 to 2147483647"),
        ({"max_batch_size": True}, "max_batch_size is True and must be an integer"),
        ({"dynamic_batching": {}, "max_batch_size": 4, "instances": 1.5}, "instances is 1.5 and must be an integer"),
        ({"dynamic_batching": {"max_queue_delay_microseconds": 5}}, "dynamic_batching needs max_batch_size"),
        ({"max_batch_size": 4, "dynamic_batching": {"preferred_batch_size": [8]}}, "preferred_batch_size is [8]"),
        ({"dynamic_batching": 4}, "dynamic_batching is 4 and must be a table, [dynamic_batching]"),
        ({"queue": {"length": 3}}, "queue has length, which is none of: latency_ms, priority, size, timeout_ms"),
        ({"queue": {"priority": 0}}, "priority is 0 and must be an integer from 1"),
    ],
)
def test_configs_that_are_wrong(table: dict[str, Any], sentence: str) -> None:
    with pytest.raises(maas_rt.InvalidArgumentError) as caught:
        ModelConfig.read(table)
    assert sentence in str(caught.value)


def test_a_config() -> None:
    table = {
        "max_batch_size": 16,
        "instances": 2,
        "dynamic_batching": {"preferred_batch_size": [8, 4], "max_queue_delay_microseconds": 500},
        "queue": {"size": 9, "latency_ms": 50, "timeout_ms": 1000, "priority": 3},
    }
    found = ModelConfig.read(table).scheduling
    assert found.batching == BatchPolicy(16, 500_000, (4, 8), 1_000_000_000)
    assert (found.instances, found.queue, found.latency, found.timeout, found.priority) == (2, 9, 50_000_000, 10**9, 3)
    assert ModelConfig.read({}).scheduling == Scheduling()
