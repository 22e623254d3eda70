"""What a profiled run tells: its steps, a table of them, and a trace for Perfetto."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class StepRecord:
    """One executed step.

    `start_ns` counts on the monotonic clock. `flops` follows the operator's formula (0: unknown), `bytes` counts each
    operand read or written once.
    """

    name: str
    kernel: str
    start_ns: int
    duration_ns: int
    flops: float
    bytes: float


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

        `rates` are the machine's GFLOP/s and GB/s. A step's share of the roofline is the least time that they allow for its
        operations and bytes, over its own (S. Williams and others, "Roofline", 2009): more than 100 % says that its data was
        still in a cache, or that its algorithm (Winograd's) takes fewer operations than the operator's formula.
        """
        total = sum(r.duration_ns for r in self.records) or 1
        rows = [("time", "share", "GFLOP/s", "GB/s", "roofline", "kernel", "step")]
        for r in sorted(self.records, key=lambda r: -r.duration_ns):
            ns = max(r.duration_ns, 1)
            rows.append(
                (
                    f"{r.duration_ns / 1e3:.1f} µs",
                    f"{100 * r.duration_ns / total:.1f} %",
                    f"{r.flops / ns:.1f}" if r.flops else "",
                    f"{r.bytes / ns:.1f}" if r.bytes else "",
                    f"{100 * _least_ns(r, rates) / ns:.0f} %" if rates and (r.flops or r.bytes) else "",
                    r.kernel,
                    r.name,
                )
            )
        rows.append((f"{total / 1e3:.1f} µs", "100.0 %", "", "", "", "", f"{len(self.records)} steps"))
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
                "tid": 1,
                "name": r.name or r.kernel,
                "cat": "step",
                "ts": (r.start_ns - begin) / 1e3,
                "dur": r.duration_ns / 1e3,
                "args": {"kernel": r.kernel, "flops": r.flops, "bytes": r.bytes},
            }
            for r in self.records
        ]
        Path(path).write_text(json.dumps({"traceEvents": events, "displayTimeUnit": "ns"}), encoding="utf-8")


def _least_ns(record: StepRecord, rates: tuple[float, float]) -> float:
    gflops, gbps = rates
    return max(record.flops / gflops, record.bytes / gbps)
