"""The metrics as text for Prometheus, or as OpenMetrics for those who ask for it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence

from .._version import __version__
from ._metrics import KINDS, SECONDS, SIZES, Counts, Histogram, Metrics

PLAIN = "text/plain; version=0.0.4; charset=utf-8"
OPEN = "application/openmetrics-text; version=1.0.0; charset=utf-8"
_Labels = tuple[tuple[str, str], ...]
_Sample = tuple[str, _Labels, str]  # what the name ends in, labels, value

_TIMES = {
    "request": "From the lease of the version to the answer.",
    "parse": "Time to read the tensors of a request.",
    "queue": "Time that requests waited for a session.",
    "compute": "Time of runs.",
    "serialise": "Time to write the answer.",
    "batch": "Time to put the requests of a run together.",
}


def content_type(accept: str | None) -> str:
    """PLAIN or OPEN, whichever an Accept header asks for."""
    return OPEN if accept and "application/openmetrics-text" in accept else PLAIN


def render(metrics: Metrics, kind: str = PLAIN) -> bytes:
    """All families, in the form of a content type."""
    is_open = kind == OPEN
    lines: list[str] = []
    for name, type_, text, samples in _families(metrics):
        # A counter's samples end in _total; OpenMetrics names its family without that.
        family = name if is_open or type_ != "counter" else f"{name}_total"
        lines += [f"# HELP {family} {text}", f"# TYPE {family} {'gauge' if type_ == 'info' else type_}"]
        end = "_total" if type_ == "counter" else ""
        lines += [f"{name}{suffix or end}{_braces(labels)} {value}" for suffix, labels, value in samples]
    if is_open:
        lines.append("# EOF")
    return ("\n".join(lines) + "\n").encode("utf-8", "replace")


def _families(metrics: Metrics) -> Iterator[tuple[str, str, str, Iterable[_Sample]]]:
    found = [
        ((("model", model), ("version", version)), counts) for (model, version), counts in metrics.collect().items()
    ]
    server = metrics.collect_server()

    def each(value: str) -> list[_Sample]:
        return [("", labels, str(getattr(counts, value))) for labels, counts in found]

    yield "maas_rt_requests", "counter", "Requests that a version answered, with an error or without.", each("requests")
    yield (
        "maas_rt_errors",
        "counter",
        "Those of them that were answered with an error.",
        (("", (*labels, ("kind", kind.label)), str(counts.errors[kind])) for labels, counts in found for kind in KINDS),
    )
    yield (
        "maas_rt_refused",
        "counter",
        "Requests that were refused before they came to a version.",
        (("", (("kind", kind.label),), str(server.errors[kind])) for kind in KINDS),
    )
    yield "maas_rt_inferences", "counter", "Rows that were run.", each("rows")
    for phase, text in _TIMES.items():
        yield f"maas_rt_{phase}_seconds", "histogram", text, _histograms(found, phase)
    yield (
        "maas_rt_batch_size",
        "histogram",
        "Rows of batches that ran.",
        (sample for labels, counts in found for sample in _histogram(labels, counts.batches, SIZES, 1)),
    )
    yield "maas_rt_cache_hits", "counter", "Requests that the cache of answers has answered.", each("hits")
    yield "maas_rt_cache_misses", "counter", "Requests that it could not answer.", each("misses")
    yield "maas_rt_cache_bytes", "gauge", "Bytes of the answers that are kept.", each("cached")
    yield "maas_rt_requests_in_flight", "gauge", "Requests that a version is answering.", each("in_flight")
    workers = [((("worker", str(each.number)),), each) for each in metrics.workers()]
    yield (
        "maas_rt_worker_up",
        "gauge",
        "Whether a worker answers.",
        (("", labels, str(int(each.is_up))) for labels, each in workers),
    )
    yield (
        "maas_rt_worker_restarts",
        "counter",
        "How often a worker was started in the place of one that had died.",
        (("", labels, str(each.restarts)) for labels, each in workers),
    )
    yield (
        "maas_rt_worker_start_time_seconds",
        "gauge",
        "When a worker began, since 1970.",
        (("", labels, _decimal(each.start, 10**9)) for labels, each in workers),
    )
    resident = [(labels, _resident(each.pid)) for labels, each in workers]
    yield (
        "maas_rt_worker_resident_memory_bytes",
        "gauge",
        "Memory of a worker, what it shares with others included.",
        (("", labels, str(size)) for labels, size in resident if size is not None),
    )
    yield "maas_rt_info", "info", "The version of the server.", [("", (("server_version", __version__),), "1")]


def _histograms(found: Sequence[tuple[_Labels, Counts]], phase: str) -> Iterator[_Sample]:
    for labels, counts in found:
        yield from _histogram(labels, counts.times[phase], SECONDS, 10**9)


def _histogram(labels: _Labels, values: Histogram, bounds: Sequence[float], unit: int) -> Iterator[_Sample]:
    below = 0
    for bound, count in zip((*map(float, bounds), float("inf")), values.counts):
        below += count
        yield "_bucket", (*labels, ("le", "+Inf" if bound == float("inf") else repr(bound))), str(below)
    yield "_count", labels, str(below)
    yield "_sum", labels, _decimal(values.sum, unit)


def _decimal(value: int, unit: int) -> str:
    """value / unit, exactly, where unit is a power of ten."""
    whole, rest = divmod(value, unit)
    return f"{whole}.{rest:0{len(str(unit)) - 1}d}" if unit > 1 else str(whole)


def _braces(labels: _Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels) + "}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _resident(pid: int) -> int | None:
    """The resident memory of a process; None if it is gone, or nobody tells."""
    try:
        with open(f"/proc/{pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None
