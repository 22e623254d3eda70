"""All steps of a module that have something to choose, dearest first, until they are done or the budget is spent."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tvm
from tvm import relax

from .._configs import Progress, Tune
from ..passes import KernelCall, kernel_outputs, read_kernel_call, remake_kernel_call
from ..passes._rewrite import rewrite
from ._cache import Cache, cpu_name, default_cache
from ._candidates import Task, algorithms, blockings, label, task_of
from ._measure import Bench

__all__ = ["Tuning", "tune"]


@dataclass(frozen=True)
class Tuning:
    """What came of it: by the name of each step what it is done with, and how many steps the budget left to the estimates."""

    threads: int
    steps: dict[str, str]
    untuned: int

    def to_manifest(self) -> dict[str, Any]:
        """Without times: the same cache gives the same bytes."""
        return {"cpu": cpu_name(), "threads": self.threads, "steps": self.steps, "untuned": self.untuned}


def tune(mod: tvm.IRModule, options: Tune, told: Progress) -> tuple[tvm.IRModule, Tuning]:
    """`mod` with the quickest candidate at each step that has several.

    An interruption loses the task that is being timed; what was timed before is in the cache, and is not timed again.
    """
    steps = _steps(mod)
    tasks = {task.text: task for task in steps}
    bench = Bench(options.threads, sum(task.weight.nbytes for task in steps))
    cache = Cache(Path(options.cache) if options.cache else default_cache(), options.threads, bench.swept)
    choices: dict[str, KernelCall] = {}
    for text, task in tasks.items():
        known = _candidate(task, cache.get(task.key))
        if known is not None:
            choices[text] = known
    uses = Counter(task.text for task in steps)
    left = [task for text, task in tasks.items() if text not in choices]
    left.sort(key=lambda task: -task.flops * uses[task.text])
    clock = _Clock(options.budget, sum(_cost(task) for task in left))
    for number, task in enumerate(left, 1):
        if clock.spent():
            break
        told(f"tune {number} of {len(left)}, {clock.left()}", clock.fraction())
        choices[task.text], seconds = _chosen(bench, task)
        cache.put(task.key, label(choices[task.text]), seconds)
        clock.done(_cost(task))
    tuning = Tuning(
        options.threads,
        {task.call.name: label(choices[task.text]) for task in steps if task.text in choices},
        sum(task.text not in choices for task in steps),
    )
    return rewrite(mod, lambda rw, var, value: _replaced(choices, var, value)), tuning


def _cost(task: Task) -> float:
    """In operations; loading, packing and the sweeps between runs are worth about 1e9 of them."""
    return task.flops + 1e9


class _Clock:
    """How far it is, and how long it will take: from what the tasks so far took for their operations."""

    def __init__(self, budget: float, cost: float) -> None:
        self._start, self._budget = time.monotonic(), budget
        self._cost, self._done = max(1.0, cost), 0.0

    def done(self, cost: float) -> None:
        self._done += cost

    def spent(self) -> bool:
        return time.monotonic() - self._start >= self._budget

    def fraction(self) -> float:
        return max(self._done / self._cost, min(1.0, (time.monotonic() - self._start) / self._budget))

    def left(self) -> str:
        elapsed = time.monotonic() - self._start
        if not self._done:
            return f"at most {_duration(self._budget)}"
        return f"about {_duration(min(self._budget - elapsed, elapsed / self._done * (self._cost - self._done)))} left"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def _chosen(bench: Bench, task: Task) -> tuple[KernelCall, dict[str, float]]:
    """First the algorithm, then its blocking; and the times of all that was tried."""
    best, seconds = _quickest(bench, task, algorithms(task))
    best, more = _quickest(bench, task, blockings(best))
    return best, {**seconds, **more}


def _quickest(bench: Bench, task: Task, calls: list[KernelCall]) -> tuple[KernelCall, dict[str, float]]:
    index, times = bench.quickest(task, calls) if len(calls) > 1 else (0, [])
    return calls[index], {label(call): seconds for call, seconds in zip(calls, times)}


def _candidate(task: Task, name: str | None) -> KernelCall | None:
    """The candidate of that label: what a cache says is taken only where it is one."""
    if name is None:
        return None
    every = {label(call): call for algorithm in algorithms(task) for call in blockings(algorithm)}
    return every.get(name)


def _steps(mod: tvm.IRModule) -> list[Task]:
    found: list[Task] = []

    def visit(expr: relax.Expr) -> None:
        task = _task(expr)
        if task is not None:
            found.append(task)

    for _, func in mod.functions_items():
        if isinstance(func, relax.Function):
            relax.analysis.post_order_visit(func.body, visit)
    return found


def _task(value: relax.Expr) -> Task | None:
    call = read_kernel_call(value)
    return None if call is None else task_of(call, kernel_outputs(value)[0])


def _replaced(choices: dict[str, KernelCall], var: relax.Var, value: relax.Expr) -> relax.Expr | None:
    task = _task(value)
    choice = choices.get(task.text) if task is not None else None
    if task is None or choice is None or label(choice) == label(task.call):
        return None
    own = replace(task.call, contract=choice.contract, packing=choice.packing, attrs=choice.attrs, hint=choice.hint)
    return remake_kernel_call(own, var.ty)
