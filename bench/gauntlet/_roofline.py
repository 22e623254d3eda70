"""The least time that a model can take on a machine: its arithmetic at the rate of the FMA loop, or its bytes at the rate of reading."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Work:
    """Of one call: `flops` counts a multiply-add as two; `bytes` is weights + inputs + outputs, of a table only the rows that are read."""

    flops: float
    bytes: float

    def least_seconds(self, peak_gflops: float, bandwidth: dict[int, float]) -> float:
        """The roofline's bound. `bandwidth`: GB/s by buffer size; the largest size that these bytes fill counts, since they may stay in
        the caches from call to call."""
        sizes = [size for size in bandwidth if size <= self.bytes] or [min(bandwidth)]
        return max(self.flops / (peak_gflops * 1e9), self.bytes / (bandwidth[max(sizes)] * 1e9))
