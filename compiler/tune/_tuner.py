"""All steps of a module that have something to choose, dearest first, until they are done or the budget is spent."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tvm
from tvm import relax

from .._configs import Progress, TargetSpec, Tune
from ..importers import SymbolSpec
from ..passes import KernelCall, remake_kernel_call
from ..passes._rewrite import Rewriter, rewrite
from ._cache import Cache, cpu_name, default_cache
from ._candidates import Sizes, Task, algorithms, blockings, label, task_of
from ._generated import GENERATED, as_operators
from ._measure import Bench

__all__ = ["Tuning", "tune"]


@dataclass(frozen=True)
class Tuning:
    """What came of it: (name, what it is done with) of each step in the plan's order, and how many the budget left to the estimates."""

    threads: int
    steps: list[tuple[str, str]]
    untuned: int

    def to_manifest(self) -> dict[str, Any]:
        """Without times: the same cache gives the same bytes."""
        steps = [{"name": name, "choice": choice} for name, choice in self.steps]
        return {"cpu": cpu_name(), "threads": self.threads, "steps": steps, "untuned": self.untuned}


def tune(
    mod: tvm.IRModule, symbols: Mapping[str, SymbolSpec], options: Tune, target: TargetSpec, progress: Progress
) -> tuple[tvm.IRModule, Tuning]:
    """`mod` with the quickest candidate at each step that has several; `symbols` bounds its symbolic dimensions, `target` is
    this CPU, which candidates of generated code are made for.

    An interruption loses the task that is being timed; what was timed before is in the cache, and is not timed again.
    """
    sizes = Sizes(mod["main"], symbols)
    steps = _steps(mod, sizes)
    tasks = {task.text: task for task in steps}
    bench = Bench(options.threads, sum(task.weight.nbytes for task in steps), target)
    cache = Cache(Path(options.cache) if options.cache else default_cache(), options.threads, bench.swept)
    choices = {text: known for text, task in tasks.items() if (known := _cached_choice(cache, task)) is not None}
    uses = Counter(task.text for task in steps)
    left = [task for text, task in tasks.items() if text not in choices]
    left.sort(key=lambda task: -task.flops * uses[task.text])
    if left:
        cache.check_writable()
    clock = _Clock(options.budget, sum(_cost(task) for task in left))
    for number, task in enumerate(left, 1):
        progress(f"tune {number} of {len(left)}, {clock.time_left()}", clock.fraction())
        choice = _cached_choice(cache, task)  # perhaps another process has timed it meanwhile
        if choice is None:
            choice = _quickest_candidate(bench, cache, task, clock.until)
        if choice is None:
            break
        choices[task.text] = choice
        clock.add_finished(_cost(task))
    tuning = Tuning(
        options.threads,
        [(task.call.name, label(choices[task.text])) for task in steps if task.text in choices],
        sum(task.text not in choices for task in steps),
    )
    return rewrite(mod, lambda rw, var, value: _replaced(choices, sizes, rw, var, value)), tuning


def _cost(task: Task) -> float:
    """In operations; loading, packing and the sweeps between runs are worth about 1e9 of them."""
    return task.flops + 1e9


class _Clock:
    """How far it is, and how long it will take: from what the tasks so far took for their operations."""

    def __init__(self, budget: float, cost: float) -> None:
        self._start, self._budget = time.monotonic(), budget
        self._cost, self._done = max(1.0, cost), 0.0

    def add_finished(self, cost: float) -> None:
        self._done += cost

    @property
    def until(self) -> float:
        return self._start + self._budget

    def fraction(self) -> float:
        return max(self._done / self._cost, min(1.0, (time.monotonic() - self._start) / self._budget))

    def time_left(self) -> str:
        elapsed = time.monotonic() - self._start
        if not self._done:
            return f"budget {_duration(self._budget)}"
        time_left = min(self._budget - elapsed, elapsed / self._done * (self._cost - self._done))
        return f"about {_duration(max(0.0, time_left))} left"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def _quickest_candidate(bench: Bench, cache: Cache, task: Task, until: float) -> KernelCall | None:
    """First the algorithm, then its blocking, kept with the times of all that was tried; None where the time was not enough."""
    best, seconds = task.call, dict[str, float]()
    for stage in ("algorithm", "blocking"):
        calls = algorithms(task) if stage == "algorithm" else blockings(best)
        found = bench.quickest(task, calls, until) if len(calls) > 1 else (0, [])
        if found is None:
            return None
        best = calls[found[0]]
        seconds.update(zip(map(label, calls), found[1]))
    kept = _cached_choice(cache, task)
    if kept is not None:  # by another process: one choice for all files
        return kept
    cache.put(task.key, label(best), seconds)
    return best


def _cached_choice(cache: Cache, task: Task) -> KernelCall | None:
    """The candidate that the cache names: what it says is taken only where it is one."""
    name = cache.get(task.key)
    if name is None:
        return None
    every = {label(call): call for algorithm in algorithms(task) for call in blockings(algorithm)}
    return every.get(name)


def _steps(mod: tvm.IRModule, sizes: Sizes) -> list[Task]:
    found: list[Task] = []

    def visit(expr: relax.Expr) -> None:
        task = task_of(expr, sizes)
        if task is not None:
            found.append(task)

    for _, func in mod.functions_items():
        if isinstance(func, relax.Function):
            relax.analysis.post_order_visit(func.body, visit)
    return found


def _replaced(
    choices: dict[str, KernelCall], sizes: Sizes, rw: Rewriter, var: relax.Var, value: relax.Expr
) -> relax.Expr | None:
    task = task_of(value, sizes)
    choice = choices.get(task.text) if task is not None else None
    if task is None or choice is None or label(choice) == label(task.call):
        return None
    if choice.contract == GENERATED:
        return as_operators(task.call, task.call.args, rw.emit)
    own = replace(task.call, contract=choice.contract, packing=choice.packing, attrs=choice.attrs, hint=choice.hint)
    return remake_kernel_call(own, var.ty)
