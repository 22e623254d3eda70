"""What a profiled run tells: its steps, a table of them, and a trace for Perfetto."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass

from maas_rt._whole_file import whole_file


@dataclass(frozen=True)
class StepRecord:
    """One execution of a step.

    `start_ns` counts on the monotonic clock. `flops` follows the operator's formula (0: unknown), `bytes` counts each
    operand read or written once. Steps that treat every image of a batch alone may run several times, each time on a few
    images, by `lanes` threads side by side, of which this was number `lane`.
    """

    name: str
    kernel: str
    start_ns: int
    duration_ns: int
    flops: float
    bytes: float
    lane: int = 0
    lanes: int = 1


@dataclass(frozen=True)
class Profile:
    """The steps of one run, in order."""

    records: tuple[StepRecord, ...]

    @property
    def total_ns(self) -> int:
        """From the start of the first step to the end of the last."""
        if not self.records:
            return 0
        return max(r.start_ns + r.duration_ns for r in self.records) - min(r.start_ns for r in self.records)

    def table(self, rates: tuple[float, float] | None = None) -> str:
        """The steps as text, slowest first: time, share, work per second, share of the roofline, kernel, name.

        A step that ran several times has one line, and what its lanes did at the same time counts once.
        `rates` are the machine's GFLOP/s and GB/s. A step's share of the roofline is the least time that they allow for its
        operations and bytes, over its own (S. Williams and others, "Roofline", 2009): more than 100 % says that its data was
        still in a cache, or that its algorithm (Winograd's) takes fewer operations than the operator's formula.
        """
        steps = steps_of(self.records)
        total = sum(step.ns for step in steps) or 1
        rows = [("time", "share", "GFLOP/s", "GB/s", "roofline", "kernel", "step")]
        for step in sorted(steps, key=lambda step: -step.ns):
            ns = max(step.ns, 1)
            rows.append(
                (
                    f"{step.ns / 1e3:.1f} µs",
                    f"{100 * step.ns / total:.1f} %",
                    f"{step.flops / ns:.1f}" if step.flops else "",
                    f"{step.bytes / ns:.1f}" if step.bytes else "",
                    f"{100 * _least_ns(step, rates) / ns:.0f} %" if rates and (step.flops or step.bytes) else "",
                    step.kernel,
                    step.name if step.times == 1 else f"{step.name} ({step.times} times)",
                )
            )
        rows.append((f"{total / 1e3:.1f} µs", "100.0 %", "", "", "", "", f"{len(steps)} steps"))
        widths = [max(len(row[i]) for row in rows) for i in range(7)]
        shown = [i for i in range(7) if rates or i != 4]
        lines = []
        for row in rows:
            cells = [row[i].rjust(widths[i]) if i < 5 else row[i].ljust(widths[i]) for i in shown]
            lines.append("  ".join(cells).rstrip())
        return "\n".join(lines)

    def trace(self, path: str | os.PathLike[str]) -> None:
        """Writes the steps in Chrome's trace event format, which Perfetto (ui.perfetto.dev) opens."""
        begin = min((r.start_ns for r in self.records), default=0)
        events = [
            {
                "ph": "X",
                "pid": 1,
                "tid": 1 + r.lane,
                "name": r.name or r.kernel,
                "cat": "step",
                "ts": (r.start_ns - begin) / 1e3,
                "dur": r.duration_ns / 1e3,
                "args": {"kernel": r.kernel, "flops": r.flops, "bytes": r.bytes},
            }
            for r in self.records
        ]
        with whole_file(path) as file:
            file.write(json.dumps({"traceEvents": events, "displayTimeUnit": "ns"}).encode())


@dataclass
class Step:
    """All executions of the steps of one name and kernel, together."""

    name: str
    kernel: str
    times: int = 0
    ns: float = 0
    flops: float = 0
    bytes: float = 0


def steps_of(records: tuple[StepRecord, ...]) -> list[Step]:
    """One for each name and kernel; what the lanes of a step did at the same time counts once."""
    steps: dict[tuple[str, str], Step] = {}
    for r in records:
        step = steps.setdefault((r.name, r.kernel), Step(r.name, r.kernel))
        step.times += 1
        step.ns += r.duration_ns / r.lanes
        step.flops += r.flops
        step.bytes += r.bytes
    return list(steps.values())


def _least_ns(step: Step, rates: tuple[float, float]) -> float:
    gflops, gbps = rates
    return max(step.flops / gflops, step.bytes / gbps)
