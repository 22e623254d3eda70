"""The models of a repository as a service, the same for every transport: who may do what, and what is done.

This module and _inference belong to asyncio's loop, as transports do; all below them is without one. Blocking work goes to threads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, TypeVar

from .._version import __version__
from ._calls import Answered, Context, Gate, Handed, NotBegun, Observer, OpenGate, Peers, check_local
from ._changes import Changes
from ._errors import Kind, ServiceError, Told, bad_request, shown
from ._inference import Inference
from ._metadata import model_config, model_metadata
from ._offload import Inbox
from ._regions import OFF, Regions, check_name
from ._repository import Repository
from ._requests import InferRequest
from ._sequences import Sequences
from ._served import Served
from ._settings import LogSettings, TraceSettings
from ._statistics import model_stats, summed

T = TypeVar("T")
EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "logging",
    "model_configuration",
    "model_repository",
    "model_repository(unload_dependents)",
    "parameters",
    "schedule_policy",
    "sequence",
    "sequence(string_id)",
    "statistics",
    "trace",
)
_SEED_BITS = 53  # of a seed that the server draws: every client's numbers hold it


class Core:
    """A repository's models as a service.

    Args:
        gate: who may do what.
        sequences: states of sequences.
        regions: of shared memory; None: there is none.
        observe: told of each inference of a version that there is.
        peers: the other processes that serve the same; None: there are none.
        traced: spans are made of requests, which the trace settings say.
    """

    def __init__(
        self,
        repository: Repository,
        *,
        gate: Gate | None = None,
        sequences: Sequences | None = None,
        regions: Regions | None = None,
        observe: Observer | None = None,
        peers: Peers | None = None,
        traced: bool = False,
    ) -> None:
        self.repository = repository
        self.gate: Gate = gate or OpenGate()
        self.sequences = Sequences() if sequences is None else sequences  # an empty one is false
        self.regions = regions
        self.traces = TraceSettings(traced)
        self.logs = LogSettings()
        self.observe = observe
        self._draining = False
        self._inbox: Inbox | None = None
        self._administration = Changes("maas-rt administration")
        self._waking = Changes("maas-rt waking")  # what requests ask for waits in no queue of administrators
        self._labelling = Changes("maas-rt labels")  # a rollback waits for no load
        self.peers = peers
        self.answering: asyncio.Task[None] | None = None  # what goes on beside the application that ends
        self._changes: dict[str, tuple[Changes, Callable[..., Any]]] = {
            "load": (self._administration, lambda model: self.repository.load(model)),
            "wake": (self._waking, lambda *values: self.repository.wake(*values)),
            "unload": (self._administration, lambda model: self.repository.unload(model)),
            "set_label": (self._labelling, lambda *values: self.repository.set_label(*values)),
            "rollback": (self._labelling, lambda *values: self.repository.rollback(*values)),
            "logs": (self._labelling, self.logs.change),
            "traces": (self._labelling, self.traces.change),
        }
        self._sharing = Changes("maas-rt regions")
        if regions is not None:
            self._changes["register"] = (self._sharing, regions.register)
            self._changes["unregister"] = (self._sharing, regions.unregister)

    # ---- the server

    @property
    def ready(self) -> bool:
        """Whether it is there for requests: a model is ready, no process of it is missing, and the server does not go away."""
        return not self._draining and (self.peers is None or self.peers.complete) and bool(self.repository.names())

    @property
    def draining(self) -> bool:
        """Whether the server goes away. What comes is still answered."""
        return self._draining

    def drain(self) -> None:
        """Says from now on that the server is not ready."""
        self._draining = True

    async def settled(self) -> None:
        """Until nobody asks any more, by this transport or another, or by another process for what is held here."""
        if self.answering is not None:
            await asyncio.wait([self.answering])
        if self.peers is not None:
            await self.peers.finished()

    def close(self) -> None:
        """Ends what nobody uses."""
        self.sequences.close()
        if self.regions is not None:
            self.regions.close()
        self._administration.close()
        self._waking.close()
        self._labelling.close()
        self._sharing.close()

    def server_metadata(self, context: Context) -> dict[str, Any]:
        """Name, version and extensions."""
        with self.gate.enter(context, "read", None):
            more = [] if self.regions is None else ["system_shared_memory"]
            return {"name": "maas-rt", "version": __version__, "extensions": sorted([*EXTENSIONS, *more])}

    def log_settings(self, context: Context) -> dict[str, Any]:
        """The logging settings."""
        with self.gate.enter(context, "read", None):
            return self.logs.told()

    async def change_log_settings(self, context: Context, changes: object) -> dict[str, Any]:
        """The logging settings after changes."""
        await self._administer(None, context, "logs", changes)
        return self.logs.told()

    def trace_settings(self, model: str | None, context: Context) -> dict[str, Any]:
        """The trace settings of a model or of the server."""
        with self.gate.enter(context, "read", model):
            self._check_known(model)
            return self.traces.told(model)

    async def change_trace_settings(self, model: str | None, context: Context, changes: object) -> dict[str, Any]:
        """The trace settings of a model or of the server, after changes."""
        await self._administer(model, context, "traces", changes, model, check=partial(self._check_known, model))
        return self.traces.told(model)

    def _check_known(self, model: str | None) -> None:
        if model is not None:
            self.repository.lease(model).end()

    # ---- models

    @contextmanager
    def reading(self, model: str, version: str | None, context: Context) -> Iterator[Served]:
        """A version, to be looked at."""
        with self.gate.enter(context, "read", model), self.repository.lease(model, version) as served:
            yield served

    def model_ready(self, model: str, version: str | None, context: Context) -> dict[str, Any]:
        """Raises ServiceError if it is not."""
        with self.reading(model, version, context) as served:
            return {"name": served.name, "version": served.version, "ready": True}

    def model_metadata(self, model: str, version: str | None, context: Context) -> dict[str, Any]:
        """Its inputs and outputs."""
        with self.reading(model, version, context) as served:
            return model_metadata(served, self.repository.versions(model))

    def model_config(self, model: str, version: str | None, context: Context) -> dict[str, Any]:
        """Its configuration, as Triton has it."""
        with self.reading(model, version, context) as served:
            return model_config(served, self.repository.policy(model), self.sequences.idle)

    async def statistics(self, model: str | None, version: str | None, context: Context) -> dict[str, Any]:
        """Of one version, of all that are ready of a model, or of all; of all processes together."""
        if model is None:
            with self.gate.enter(context, "read", None):
                names = [name for name in self.repository.names() if self.gate.allows(context, "read", name)]
                entries = [entry for name in names for entry in self._statistics_of(name)]
        else:
            with self.reading(model, version, context) as served:
                own = served.statistics.told(served.name, served.version)
                entries = self._statistics_of(model) if version is None else [own]
        if self.peers is not None:
            others = await asyncio.wrap_future(self.peers.statistics())
            entries = summed(entries, others)
        return model_stats(entries)

    def all_statistics(self) -> list[dict[str, Any]]:
        """Of all versions that are ready in this process."""
        return [entry for name in self.repository.names() for entry in self._statistics_of(name)]

    def _statistics_of(self, model: str) -> list[dict[str, Any]]:
        return [each.statistics.told(each.name, each.version) for each in self.repository.ready(model)]

    # ---- the repository

    def index(self, context: Context, ready_only: bool = False) -> list[dict[str, str]]:
        """All versions that the client may see."""
        with self.gate.enter(context, "read", None):
            return [
                {"name": each.name, "version": each.version, "state": each.state.value, "reason": each.reason}
                for each in self.repository.index(ready_only)
                if self.gate.allows(context, "read", each.name)
            ]

    async def load(self, model: str, context: Context, parameters: Iterable[str] = ()) -> None:
        """Loads a model, or loads it again. `parameters`: the names of those that were given."""
        await self._administer(model, context, "load", model, check=partial(_check_own, tuple(parameters)))

    async def unload(self, model: str, context: Context, dependents: bool = False) -> None:
        """Takes a model away from new requests; `dependents`: and the models that it runs, if it is a pipeline."""
        if not dependents:
            await self._administer(model, context, "unload", model)
            return
        with self.gate.enter(context, "admin", model):
            members = self.repository.members(model)
            for each in members:  # all of them, before the first is unloaded
                with self.gate.enter(context, "admin", each):
                    pass
            await self._make_everywhere("unload", model)
            for each in members:
                if self.repository.versions(each):
                    await self._make_everywhere("unload", each)

    def labels(self, model: str, context: Context) -> dict[str, str]:
        """The version of each label of a model."""
        with self.gate.enter(context, "read", model):
            return self.repository.labels(model)

    def labels_note(self, model: str) -> str:
        """Why labels of a model that were set here are lost when the server ends; empty if they are not."""
        return self.repository.unkept(model)

    async def set_label(self, model: str, label: str, version: str, context: Context) -> dict[str, str]:
        """Puts a label on a version that is ready, and returns the version of each label."""
        await self._administer(model, context, "set_label", model, label, version)
        return self.repository.labels(model)

    async def rollback(self, model: str, label: str, context: Context) -> dict[str, str]:
        """Puts a label back on the version that it was on before, and returns the version of each label."""
        await self._administer(model, context, "rollback", model, label)
        return self.repository.labels(model)

    def make(self, what: str, values: tuple[Any, ...]) -> Future[Any]:
        """Begins a change in this process, one after the other of a kind; the future has what it gives or raises. Any thread may call it.

        Raises:
            ServiceError: NOT_READY after `close`.
        """
        by, change = self._changes[what]
        return by.submit(change, *values)

    async def _administer(
        self,
        model: str | None,
        context: Context,
        what: str,
        *values: Any,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """Makes a change in all processes, which the gate notes when it has ended."""
        with self.gate.enter(context, "admin", model):
            check()
            await self._make_everywhere(what, *values)

    async def _make_everywhere(self, what: str, *values: Any) -> None:
        by, change = self._changes[what]
        await by.made(
            partial(by.submit, change, *values) if self.peers is None else partial(self.peers.change, what, values)
        )

    # ---- shared memory, in which clients on this machine register regions of their own

    async def register_region(self, name: str, key: str, offset: int, size: int, context: Context) -> None:
        """Makes a part of an object of system shared memory a region of the client's, in all processes."""
        with self._regions_for(name, context) as (_, owner):
            await self._make_everywhere("register", owner, name, key, offset, size)

    async def unregister_regions(self, name: str | None, context: Context, all_clients: bool = False) -> None:
        """Forgets one of the client's regions, or all of them, in all processes; with `all_clients`, which needs "admin" on the server besides, those
        that others have registered, too."""
        with self._regions_for(name, context) as (_, owner):
            if all_clients and not self.gate.allows(context, "admin", None):
                text = "this token does not grant admin on the whole server, which all clients' regions are unregistered with"
                raise ServiceError(Kind.FORBIDDEN, text)
            await self._make_everywhere("unregister", None if all_clients else owner, name)

    def regions_told(self, name: str | None, context: Context) -> list[dict[str, Any]]:
        """One of the client's regions, or all of them."""
        with self._regions_for(name, context) as (regions, owner):
            return regions.told(owner, name)

    def register_cuda_region(self, name: str, context: Context) -> None:
        """Refuses it."""
        with self._regions_for(name, context):
            raise bad_request(
                f"region {shown(name)} cannot be registered: models run on CPUs here, and take system shared memory"
            )

    def cuda_regions_told(self, name: str | None, context: Context) -> list[dict[str, Any]]:
        """None: clients of Triton's look for, and forget, such regions before they begin, whatever they use then."""
        with self._regions_for(name, context):
            if name is not None:
                raise ServiceError(Kind.NOT_FOUND, f"there is no region {shown(name)} of CUDA shared memory")
            return []

    def unregister_cuda_regions(self, name: str | None, context: Context) -> None:
        """Has nothing to forget."""
        with self._regions_for(name, context):
            return

    @contextmanager
    def _regions_for(self, name: str | None, context: Context) -> Iterator[tuple[Regions, str]]:
        with self.gate.enter(context, "shared-memory", None) as client:
            if self.regions is None:
                raise ServiceError(Kind.NOT_OFFERED, f"there are no regions of shared memory, for {OFF}")
            check_local(context)
            if name is not None:
                check_name(name)
            yield self.regions, client.owner

    # ---- inference

    def begin(self, model: str, version: str | None, context: Context) -> Inference:
        """An inference, which ends with its block. Nothing of the request is needed yet: what is refused here costs no more than this."""
        admission = self.gate.enter(context, "infer", model)
        client = admission.__enter__()
        try:
            return Inference(self, self.repository.lease(model, version), version, context, admission, client)
        except BaseException:
            admission.__exit__(None, None, None)
            raise

    async def take_over(self, handed: Handed, asked: list[InferRequest]) -> Answered:
        """Makes an inference of a sequence that this process holds, for another one, which has let it in. `asked`: the request, which is let go of.

        Raises:
            NotBegun: there is no such version here.
            ServiceError, maas_rt.Error: as Inference.infer.
        """
        context = Context(
            deadline=handed.deadline, address=handed.address, request_id=handed.trail.request_id, call=handed.call
        )
        try:
            lease = self.repository.lease(handed.model, handed.version)
        except ServiceError as error:
            raise NotBegun(Told.of(error)) from None
        with Inference(self, lease, handed.version, context, nullcontext(), handed.client, handed.begun) as inference:
            inference.parsed(handed.parsed)
            response = await inference.infer(asked.pop())
        return Answered(response, inference.phases)

    def landing(self) -> Inbox:
        """What ends in other threads comes back to the running loop by it."""
        inbox = self._inbox
        if inbox is None or inbox.loop is not asyncio.get_running_loop():
            inbox = self._inbox = Inbox()
        return inbox


def _check_own(parameters: Iterable[str]) -> None:
    foreign = [name for name in parameters if name == "config" or name.startswith("file:")]
    if foreign:
        raise bad_request(f"a model is loaded as it lies in the repository: {shown(foreign[0])} cannot be given")
