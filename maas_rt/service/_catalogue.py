"""What is known of each model, and what requests get of it."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from .._errors import Error
from ._config import CONFIG_FILE, ModelConfig
from ._errors import Kind, ServiceError, shown
from ._graph import Graph
from ._leases import Lease, Leased
from ._loader import Loader
from ._picture import Look, ModelPicture, Picture, Taken
from ._pipeline import Pipeline
from ._record import Entry, Record, State
from ._served import Served, check_compatible
from ._timer import Timer
from ._uses import Uses
from ._versions import Policy, resolve

Loaded = tuple[str, int, Leased[Served]]  # a version: model and number
_ASLEEP = "it is loaded when it is asked for"
_LAST_USES = 500_000_000  # ns after which nobody holds what its last request has given back


@dataclass(frozen=True)
class Asleep:
    """A version that is to be loaded. `is_first`: nobody has asked for it before; `failed`: it was tried, and refused."""

    number: int
    is_first: bool
    failed: bool


class Catalogue:
    """The Record of each model, and one lock, which is held for moments: no file is read and no model runs with it.

    Any thread may look. Who changes a Record does so with `lock`, and in `change` if requests or pipelines see it; of those who change versions
    there is one at a time, and so of those who change labels, for which the repository has locks of its own.

    `root`: the folder, in which the configs of pipelines lie; `told`: what it held at the last look that is not served, a sentence each.
    """

    def __init__(self, root: Path, timer: Timer, loader: Loader) -> None:
        self.root = root
        self.told: tuple[str, ...] = ()
        self.models: dict[str, Record] = {}
        self.lock = threading.Lock()
        self._timer = timer
        self._loader = loader

    # ---- looks

    def names(self) -> list[str]:
        """The models of which a version is ready, or is loaded when it is asked for, sorted."""
        with self.lock:
            return sorted(name for name, record in self.models.items() if record.available())

    def versions(self, name: str) -> list[str]:
        """Such versions of a model, lowest first; empty if there is no such model."""
        with self.lock:
            record = self.models.get(name)
            return [str(number) for number in sorted(record.available())] if record else []

    def ready(self, name: str) -> list[Served]:
        """Those that are loaded, lowest first."""
        with self.lock:
            record = self.models.get(name)
            return [record.ready[number].value for number in sorted(record.ready)] if record else []

    def policy(self, name: str) -> Policy:
        """Which versions of a model are served."""
        with self.lock:
            record = self.models.get(name)
            return record.config.policy if record else Policy()

    def members(self, name: str) -> tuple[str, ...]:
        """The models of a pipeline, each once; none of what is no pipeline."""
        with self.lock:
            record = self.models.get(name)
            graph = None if record is None else record.config.pipeline
            return () if graph is None else tuple(dict.fromkeys(step.model for step in graph.steps))

    def labels(self, name: str) -> dict[str, str]:
        """The version of each label of a model. Raises ServiceError NOT_FOUND."""
        with self.lock:
            return {label: str(version) for label, version in sorted(self.known(name).labels.current.items())}

    def unkept(self, name: str) -> str:
        """Why labels of a model that were set are not in its folder; empty if they are."""
        with self.lock:
            record = self.models.get(name)
            return record.unkept if record else ""

    def index(self) -> list[Entry]:
        """All versions that are known, by name and number."""
        entries = []
        with self.lock:
            for name, record in sorted(self.models.items()):
                for number in sorted({*record.known(), *record.draining}):
                    state = (
                        State.READY
                        if number in record.ready
                        else State.LOADING
                        if number in record.loading
                        else State.UNLOADING
                        if number in record.draining
                        else State.UNAVAILABLE
                    )
                    asleep = _ASLEEP if number in record.dormant else ""
                    entries.append(Entry(name, str(number), state, record.reasons.get(number, asleep)))
        return entries

    def picture(self) -> Picture:
        """What is served, for other processes."""
        with self.lock:
            models = {name: record.picture() for name, record in self.models.items()}
        return Picture(models, self.told)

    def lease(self, name: str, wanted: str | None) -> Lease[Served] | Asleep:
        """A version by its number, its label or by default (_versions.resolve). One that sleeps is from now on told to be loading: whoever is
        the first to ask has it loaded.

        Raises:
            ServiceError: NOT_FOUND, NOT_READY.
        """
        with self.lock:
            record = self.known(name)
            if record.waits and not record.available():
                raise ServiceError(Kind.NOT_READY, f"pipeline {shown(name)} is not ready: {record.waits}", 1)
            number = resolve(name, wanted, record.available(), record.labels, record.known())
            found = record.ready.get(number)
            lease = None if found is None else found.lease()
            if lease is not None:
                return lease
            assert number in record.dormant  # only what has left the catalogue is retired
            is_first = number not in record.loading
            record.loading.add(number)
            return Asleep(number, is_first, number in record.reasons)

    def uses(self) -> Uses:
        """What is used of all that is loaded here, and when the rest was."""
        with self.lock:
            unused = {(name, number): leased.used for name, number, leased in self.unused()}
            known = (
                (name, number) for name, record in self.models.items() for number in (*record.ready, *record.draining)
            )
            return Uses(unused, frozenset(known) - unused.keys())

    def lease_ready(self, name: str, number: int) -> Lease[Served] | None:
        """A version, if it is loaded."""
        with self.lock:
            leased = self.models[name].ready.get(number)
            return None if leased is None else leased.lease()

    # ---- with the lock

    def known(self, name: str) -> Record:
        """A model's record, with the lock. Raises ServiceError NOT_FOUND."""
        record = self.models.get(name)
        if record is None:
            raise ServiceError(Kind.NOT_FOUND, f"no model {shown(name)}")
        return record

    def meant(self, name: str, wanted: str | None) -> int:
        """The version that a request or a step means, with the lock. Raises ServiceError as `lease`."""
        record = self.known(name)
        return resolve(name, wanted, record.available(), record.labels, record.known())

    def size(self) -> int:
        """Bytes of memory that what is loaded counts for, with the lock."""
        return sum(sum(record.sizes.values()) for record in self.models.values())

    def unused(self) -> list[Loaded]:
        """What nobody uses now, a sequence among others, with the lock. Pipelines, which hold no file, sleep with their models."""
        return [
            (name, number, leased)
            for name, record in self.models.items()
            for number, leased in record.ready.items()
            if not leased.users and not isinstance(leased.value.model, Pipeline)
        ]

    # ---- within a change

    @contextmanager
    def change(self) -> Iterator[list[Leased[Served]]]:
        """A change of what is served, with the lock. Pipelines follow it before requests see it; what is put into the list is retired when
        the lock is free."""
        gone: list[Leased[Served]] = []
        waiting = []
        with self.lock:
            yield gone
            for name, record in self.models.items():
                if (record.config.pipeline or record.bound) and not record.unloaded:
                    was_served = 1 in record.ready
                    gone += self._bind(name, record)
                    if was_served and record.waits:
                        waiting.append((name, record.waits))
        for each in gone:
            each.retire()
        for name, why in waiting:
            logging.getLogger(__name__).warning("no longer serving pipeline %s: %s", name, why)

    def serve(self, name: str, number: int, leased: Leased[Served], size: int, path: Path) -> list[Leased[Served]]:
        """Requests get it from now on. Returns what they got before."""
        record = self.models[name]
        old = [_end(record, number)] if number in record.ready else []
        record.ready[number] = leased
        record.sizes[number], record.paths[number] = size, path
        record.dormant.pop(number, None)
        record.reasons.pop(number, None)
        return old

    def put_to_sleep(self, gone: Sequence[Loaded]) -> list[Leased[Served]]:
        """From now on a request loads these; returns what requests get no more."""
        for name, number, _ in gone:
            record = self.models[name]
            record.dormant[number] = record.paths[number]
            _end(record, number)
            record.looked.pop(number, None)
        return [leased for _, _, leased in gone]

    # ---- changes

    def record(self, name: str) -> Record:
        """A model's record, an empty one if it is new."""
        with self.lock:
            return self.models.setdefault(name, Record())

    def leased(self, found: Served, parts: Sequence[Leased[Served]] = ()) -> Leased[Served]:
        """A version that can be served here."""
        return Leased(found, self._drained, parts)

    def refuse(self, name: str, number: int, error: Error, look: Look | None = None) -> Error:
        """Tells why a version's file was not taken, and returns it."""
        record = self.models[name]
        with self.lock:
            record.loading.discard(number)
            record.reasons[number] = str(error)
            if look is not None:
                record.looked[number] = look  # again when it has changed
        return error

    def retire(self, name: str, numbers: Collection[int], forget: bool = False) -> None:
        """Takes versions away from new requests; `forget`: and all that is known of the model."""
        with self.change() as gone:
            record = self.models[name]
            for number in numbers:
                record.dormant.pop(number, None)
            for number in sorted(set(numbers) & set(record.ready)):
                gone.append(_end(record, number))
                record.looked.pop(number, None)
            if 1 in numbers:
                record.bound = None
            if forget:
                del self.models[name]

    def unload(self, name: str) -> None:
        """Takes a model away from new requests, until it is to be loaded again. Raises ServiceError NOT_FOUND."""
        with self.lock:
            record = self.known(name)
            record.unloaded = True
            record.waits = ""
            record.reasons.update(dict.fromkeys(record.available(), "it was unloaded"))
        self.retire(name, set(record.available()))

    def close(self) -> list[Leased[Served]]:
        """Takes all models away, and returns what requests may still use."""
        leases = [each for record in self.models.values() for each in record.ready.values()]
        for record in self.models.values():
            record.unloaded = True  # pipelines, too, come back no more
        # Pipelines first: nobody leases one whose models are gone.
        for name in sorted(self.models, key=lambda name: self.models[name].config.pipeline is None):
            self.retire(name, set(self.models[name].available()))
        return leases

    def follow(self, picture: Picture, fresh: Iterable[tuple[str, int, Taken, Leased[Served]]]) -> None:
        """Becomes what a picture says, all in one step. `fresh`: its versions that are new here."""
        with self.change() as gone:
            for name in {*self.models, *picture.models}:
                record = self.models.setdefault(name, Record())
                gone += _follow_model(record, picture.models.get(name))
                if name not in picture.models:
                    del self.models[name]
            for name, number, taken, leased in fresh:
                gone += self.serve(name, number, leased, taken.size, taken.path)
                self.models[name].taken[number] = taken
                self.models[name].loading.discard(number)
            for name, model in picture.models.items():  # `serve` has taken away what was said of others
                self.models[name].reasons = dict(model.reasons)
            self.told = picture.told

    # ---- pipelines

    def _bind(self, name: str, record: Record) -> list[Leased[Served]]:
        """Binds a pipeline to the versions that its steps mean now, with the lock: as its config says, or as it was where that cannot be.
        Returns what requests get no more."""
        path, before = self.root / name / CONFIG_FILE, record.ready.get(1)
        refused, sleeps = "", False
        for config, graph in candidates(record):
            try:
                members = self._members(graph)
                if members is None:
                    sleeps = True
                    continue
                gone = self._bind_to(name, record, config, graph, members)
            except Exception as error:
                if not isinstance(error, Error | ServiceError):
                    logging.getLogger(__name__).error("%s cannot be bound", path, exc_info=error)
                refused = refused or str(error) or type(error).__name__
                continue
            record.bound, record.waits = config, ""
            record.dormant.pop(1, None)
            record.reasons.pop(1, None)
            if refused:
                record.reasons[1] = f"{path}: {refused}"
            return gone
        if refused:
            record.reasons[1] = f"{path}: {refused}"
        elif 1 not in record.dormant:
            record.reasons.pop(1, None)
        record.waits = "" if sleeps else refused
        record.dormant.pop(1, None)
        if sleeps:
            record.dormant[1] = path
        return [] if before is None else [_end(record, 1)]

    def _members(self, graph: Graph) -> list[Leased[Served]] | None:
        """What the steps of a pipeline mean now; None where one of them sleeps. Raises ServiceError where there is none."""
        found = []
        for step in graph.steps:
            try:
                number = self.meant(step.model, step.version)
            except ServiceError as error:
                raise ServiceError(error.kind, f"step {step.name!r}: {error}") from None
            found.append(self.models[step.model].ready.get(number))
        members = [each for each in found if each is not None]
        return members if len(members) == len(found) else None

    def _bind_to(
        self, name: str, record: Record, config: ModelConfig, graph: Graph, members: Sequence[Leased[Served]]
    ) -> list[Leased[Served]]:
        """Raises InvalidArgumentError if they do not fit together, or what they make cannot take the place of what is served."""
        before = record.ready.get(1)
        old = None if before is None else before.value
        was = old.model if old is not None and isinstance(old.model, Pipeline) else None
        versions = [each.value for each in members]
        if was is not None and config == record.bound and all(a is b for a, b in zip(was.members, versions)):
            return []
        counted = None if old is None or was is None else old.statistics
        found = Served.of_pipeline(name, "1", graph, versions, config, counted)
        if old is not None and config != record.bound and not config.replace_incompatible:
            check_compatible(old, found)
        leased = self.leased(found, tuple(dict.fromkeys(members)))
        return self.serve(name, 1, leased, 0, self.root / name / CONFIG_FILE)

    # ---- the end of a version

    def _drained(self, gone: Served) -> None:
        gone.scheduler.close()
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            pass  # it is freed here, where nobody waits
        else:
            # What the last request still holds is gone in a moment: then memory of gigabytes is given back elsewhere.
            last = [gone]
            self._timer.call_at(time.monotonic_ns() + _LAST_USES, partial(self._loader.later, last.clear))
        with self.lock:
            record = self.models.get(gone.name)
            if record is not None and int(gone.version) in record.draining:
                record.draining.remove(int(gone.version))


def candidates(record: Record) -> list[tuple[ModelConfig, Graph]]:
    """What a pipeline may be, the first of them that can be: what its config says, else what it was."""
    configs = [record.config, *([] if record.bound in (None, record.config) else [record.bound])]
    return [(each, each.pipeline) for each in configs if each is not None and each.pipeline is not None]


def _end(record: Record, number: int) -> Leased[Served]:
    """Requests get it no more."""
    del record.sizes[number], record.paths[number]
    record.taken.pop(number, None)
    record.draining.append(number)
    return record.ready.pop(number)


def _follow_model(record: Record, picture: ModelPicture | None) -> list[Leased[Served]]:
    """Becomes what a picture says of a model, but for its versions that are new; returns what requests get no more. What is served of a
    pipeline, `Catalogue.change` says, as it does where the picture comes from."""
    is_pipeline = picture is not None and picture.bound is not None and not picture.unloaded
    kept = set() if picture is None else {*picture.taken, *([1] if is_pipeline else [])}
    gone = [_end(record, number) for number in record.ready.keys() - kept]
    if picture is not None:
        bound = record.bound if is_pipeline and 1 in record.ready else picture.bound
        record.become(picture)
        record.bound = bound
    return gone
