"""The loop of the fuzzers that work in processes, which are replaced when one crashes or hangs."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from typing import Any


def run_in_processes(
    work: Callable[..., None],
    models: list[bytes],
    *,
    until: float,
    seed: int,
    limit: float,
    report: Callable[[str, Any], None],
) -> int:
    """Call work(seed, until, models, now, found) in a process of its own, with the next seed whenever one ends, until then.

    `work` puts (time, case) into `now` as it begins a case, (time, None) at its end, and (what, case) into `found`. A case that
    takes more than `limit` seconds is killed; this and a crash are reported as findings are. The number of cases begun.
    """
    context = multiprocessing.get_context("spawn")
    done = 0
    while time.monotonic() < until:
        now, found = context.Queue(), context.Queue()
        worker = context.Process(target=work, args=(seed, until, models, now, found))
        worker.start()
        started, case, finished = until + limit, None, False  # until the first case: imports may take long
        while not finished:
            try:
                started, case = now.get(timeout=1)
                done += case is not None
                finished = case is None
            except Exception:  # nothing new for a second
                if not worker.is_alive():
                    report(f"the process ended with {worker.exitcode}", case)
                    break
                if time.monotonic() - started > limit:
                    worker.kill()
                    report(f"no end within {limit} s", case)
                    break
            while not found.empty():
                report(*found.get())
        worker.join(5)
        while not found.empty():
            report(*found.get())
        seed += 1
    return done
