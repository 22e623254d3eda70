"""What the console shows: all models at a glance, a version's card, and where the time of its runs goes."""

from __future__ import annotations

import time
from typing import Any

from .._container import SectionKind, read_table
from .._drawn import draw_inputs
from .._model import CancelToken, Model
from .._profile import Profile, steps_of
from ._calls import Context
from ._core import Core
from ._errors import ServiceError, bad_request
from ._grants import Verb
from ._metrics import SECONDS, SIZES, Counts, Histogram, Metrics
from ._pipeline import Pipeline
from ._served import Served

_RUNS = 10  # of a profile, the quickest of which is told
_SECONDS = 10.0  # that all of them may take together
_OF_MANIFEST = (
    "producer",
    "targets",
    "verified",
    "source",
    "recipe",
    "tuning",
    "metrics",
    "symbols",
    "states",
    "draws",
)


def overview(core: Core, metrics: Metrics, context: Context) -> dict[str, Any]:
    """The server, and each model that the client may see: labels, versions, what may be done to it, and what was counted since it began.

    Histograms are counts by bound, not added up: who asks twice subtracts.
    """
    counted = metrics.collect()
    models: dict[str, dict[str, Any]] = {}
    for entry in core.index(context):
        name, version = entry["name"], entry["version"]
        if name not in models:
            models[name] = {
                "name": name,
                "labels": _labels(core, name),
                "may": [verb.value for verb in Verb if core.gate.allows(context, verb.value, name)],
                "versions": [],
            }
        counts = counted.get((name, version))
        about = {"version": version, "state": entry["state"], "reason": entry["reason"]}
        models[name]["versions"].append({**about, "counts": None if counts is None else _told(counts)})
    for name, model in models.items():
        waiting = {each.version: each.scheduler.stats().waiting for each in core.repository.ready(name)}
        for each in model["versions"]:
            each["waiting"] = waiting.get(each["version"], 0)
    client = context.client
    return {
        "server": {**core.server_metadata(context), "ready": core.ready, "draining": core.draining},
        "client": client.name if client is not None and client.is_known else None,
        "time": time.monotonic_ns(),
        "bounds": {"seconds": SECONDS, "sizes": SIZES},
        "models": list(models.values()),
    }


def _labels(core: Core, name: str) -> dict[str, str]:
    try:
        return core.repository.labels(name)
    except ServiceError:  # it has gone since it was listed
        return {}


def _told(counts: Counts) -> dict[str, Any]:
    return {
        "requests": counts.requests,
        "errors": {kind.label: number for kind, number in counts.errors.items() if number},
        "rows": counts.rows,
        "in_flight": counts.in_flight,
        **{phase: _histogram(counts.times[phase]) for phase in ("request", "queue", "compute")},
        "batch": _histogram(counts.batches),
    }


def _histogram(found: Histogram) -> dict[str, Any]:
    return {"counts": found.counts, "sum": found.sum}


def card(served: Served) -> dict[str, Any]:
    """What a version is: its tensors, its file, and what the file says of itself; or its steps. Reads the file's table."""
    model = served.model
    signature = served.signature
    found = {
        "name": served.name,
        "version": served.version,
        "inputs": [_tensor(spec.metadata(), spec.shape) for spec in signature.inputs],
        "outputs": [_tensor(spec.metadata(), spec.shape) for spec in signature.outputs],
    }
    if isinstance(model, Pipeline):
        return {**found, "draws": served.draws, "steps": _steps(model)}
    manifest = model.manifest
    return {
        **found,
        "file": _file(model),
        "title": manifest.get("name"),
        **{name: manifest.get(name) for name in _OF_MANIFEST},
    }


def _steps(pipeline: Pipeline) -> list[dict[str, Any]]:
    """Each with its model, the version that it runs now, and what it takes."""
    return [
        {
            "name": step.name,
            "model": step.model,
            "version": member.version,
            "takes": {name: str(source) for name, source in step.inputs.items()},
        }
        for step, member in zip(pipeline.graph.steps, pipeline.members)
    ]


def _tensor(metadata: dict[str, Any], shape: tuple[int | str, ...]) -> dict[str, Any]:
    return {**metadata, "dims": list(shape)}  # with the names of open ones


def _file(model: Model) -> dict[str, Any]:
    """The hash of the table, which covers all sections; sizes, where the file that was loaded still lies where it lay."""
    source = model._program.source
    found: dict[str, Any] = {"hash": source.identity.hex(), "bytes": None, "sections": []}
    if source.path is None:
        return found
    table = read_table(source.path)
    if table is None or table.hash != source.identity:  # it has gone, or another one has taken its place
        return found
    sections = [{"kind": _kind(kind), "target": target, "bytes": size} for kind, target, size in table.sections]
    return {**found, "bytes": table.size, "sections": sections}


def _kind(number: int) -> str:
    return SectionKind(number).name.lower() if number in SectionKind._value2member_map_ else str(number)


def profile(served: Served, cancel: CancelToken) -> dict[str, Any]:
    """The steps of the quickest of some runs at the smallest shapes, on drawn inputs.

    Raises:
        DeadlineExceededError: one run takes longer than all of them may.
        ServiceError: BAD_REQUEST: it is a pipeline.
    """
    model = served.model
    if isinstance(model, Pipeline):
        raise bad_request(f"{served.name} is a pipeline: profile the models that it runs")
    inputs = draw_inputs(model, {})
    session = model.session(profile=True)
    end = time.monotonic() + _SECONDS
    best: Profile | None = None
    for _ in range(_RUNS):
        left = end - time.monotonic()
        if best is not None and left < best.total_ns / 1e9:
            break
        found = session.profiled(
            inputs, state=model.state() if model.states else None, seed=0, deadline=max(left, 0.0), cancel=cancel
        )
        best = found if best is None or found.total_ns < best.total_ns else best
    assert best is not None
    steps = sorted(steps_of(best.records), key=lambda step: -step.ns)
    return {
        "inputs": {name: list(array.shape) for name, array in inputs.items()},
        "total_ns": best.total_ns,
        "steps": [
            {
                "name": each.name,
                "kernel": each.kernel,
                "times": each.times,
                "ns": each.ns,
                "flops": each.flops,
                "bytes": each.bytes,
            }
            for each in steps
        ],
    }
