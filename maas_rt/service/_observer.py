"""From what Core tells of inferences to the metrics, and to the span of the request."""

from __future__ import annotations

from ._errors import Kind
from ._jobs import Member
from ._metrics import Metrics, Phases, Series
from ._statistics import Phases as Spent
from ._tracing import CURRENT


class Counting:
    """A Core's Observer."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def began(self, served: Member) -> None:
        """A request has its version."""
        series = self._series(served)
        if served.statistics.listener is None:
            served.statistics.listener = series.ran
            served.statistics.cache_listener = series.looked_up
        series.begin()

    def left(self, served: Member) -> None:
        """It goes on with another one."""
        self._series(served).leave()

    def ended(self, served: Member, kind: Kind | None, phases: Spent, ns: int) -> None:
        """It was answered."""
        if kind is None:
            self.traced(served.name, served.version, phases)
        self.ran(served, kind, phases, ns)

    def traced(self, model: str, version: str, phases: Spent) -> None:
        """It was answered, here or by another process."""
        trail = CURRENT.get()
        if trail is not None and trail.span is not None:
            spent = {"parse": phases.compute_input, "queue": phases.queue, "compute": phases.compute_infer}
            trail.span.phases(model, version, **spent, serialise=phases.compute_output)

    def ran(self, served: Member, kind: Kind | None, phases: Spent, ns: int) -> None:
        """It was answered, or was a step of a pipeline, whose span is the request's."""
        if kind is not None:  # in which phase, is not known
            self._series(served).end(kind, Phases(ns))
            return
        times = Phases(ns, phases.compute_input, phases.queue, phases.compute_infer, phases.compute_output)
        self._series(served).end(None, times)

    def _series(self, served: Member) -> Series:
        return self._metrics.series(served.name, served.version)
