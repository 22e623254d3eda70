"""The models of a folder: loaded, leased to requests, and replaced or unloaded while requests use them."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from .. import _container
from .._errors import Error, InvalidArgumentError
from .._model import Model, load, load_sealed
from ._compatible import differences
from ._config import CONFIG_FILE, ModelConfig, Scheduling
from ._errors import Kind, ServiceError, shown
from ._graph import Graph
from ._labels_file import StoredLabels, change_labels, read_labels
from ._layout import SUFFIX, Contents, read_config, scan
from ._leases import Lease, Leased
from ._loader import Loader
from ._picture import Look, ModelPicture, Picture, Stamp, Taken
from ._pipeline import Pipeline
from ._record import Entry, Record, State
from ._served import Served
from ._shelf import Shelf
from ._timer import Timer
from ._versions import Labels, Policy, resolve, served
from ._warmup import warm_up

T = TypeVar("T")
_Run = Callable[[Callable[[], None]], None]  # calls what runs a model
_Loaded = tuple[str, int, Leased[Served]]  # a version: model and number
_ASLEEP = "it is loaded when it is asked for"
_LAST_USES = 500_000_000  # ns after which nobody holds what its last request has given back


class Repository:
    """The models of a folder (laid out as _layout says). Any thread may call anything; requests never wait for a load.

    A pipeline is bound to the versions that its steps mean, anew whenever these change, in the same moment: a lease of it is one of each of them.

    Raises InvalidArgumentError if the folder holds no model, and the loader's error, with the file's name, if none of its files is good.
    `require_signature`, `key` and `lock` are load's; the key is for those of the files that are encrypted. `unwritable` says why nothing is
    written to the folder; it is empty if labels may be kept there. `memory`: bytes of the files that may be loaded at once, 0: any; what has no
    room is loaded when it is asked for, and what was used least recently goes for it. `idle`: nanoseconds after which `unload_idle` unloads a version that
    nobody uses, 0: never. `refresh` brings the folder up to date before a request has a
    model loaded, where it is a copy of something else.
    """

    def __init__(
        self,
        directory: str | Path,
        threads: int = 0,
        *,
        require_signature: Any = None,
        key: Any = None,
        lock: bool = True,
        unwritable: str = "",
        memory: int = 0,
        idle: int = 0,
        refresh: Callable[[], None] | None = None,
        shelf: Shelf | None = None,
        begun: Picture | None = None,
        cpus: int = 0,
    ) -> None:
        self._root = Path(directory)
        self._options: dict[str, Any] = {"threads": threads, "require_signature": require_signature, "lock": lock}
        self._key = key
        self._unwritable = unwritable
        self._memory = memory
        self._idle = idle
        self._refresh = refresh
        self._shelf = shelf
        self._cpus = cpus
        self._timer = Timer()
        self._loader = Loader()
        self._models: dict[str, Record] = {}
        self._told: tuple[str, ...] = ()
        self._lock = threading.Lock()  # of the table, held for moments
        self._changing = threading.Lock()  # one change at a time, held while files are read
        self._labelling = threading.Lock()  # one change of labels at a time, which waits for no load
        if begun is not None:
            self._follow_picture(begun, _in_place)
            return
        if not self._root.is_dir():
            raise InvalidArgumentError(
                f"{self._root} is not a directory; serve takes one that holds NAME.mrt or NAME/VERSION/model.mrt"
            )
        errors = self._reload(lambda contents: contents, _in_place)  # here: there are no requests yet to be kept from
        if not self.names():
            if errors:
                raise errors[0]
            raise InvalidArgumentError(
                f"{self._root} holds no model: put NAME.mrt or NAME/VERSION/model.mrt (as digits/2/model.mrt) there"
            )

    # ---- for requests

    def names(self) -> list[str]:
        """The models of which a version is ready, or is loaded when it is asked for, sorted."""
        with self._lock:
            return sorted(name for name, record in self._models.items() if record.available())

    def versions(self, name: str) -> list[str]:
        """Such versions of a model, lowest first; empty if there is no such model."""
        with self._lock:
            record = self._models.get(name)
            return [str(number) for number in sorted(record.available())] if record else []

    def ready(self, name: str) -> list[Served]:
        """Those that are loaded, to be looked at: for a run a version has to be leased."""
        with self._lock:
            record = self._models.get(name)
            return [record.ready[number].value for number in sorted(record.ready)] if record else []

    def policy(self, name: str) -> Policy:
        """Which versions of a model are served."""
        with self._lock:
            record = self._models.get(name)
            return record.config.policy if record else Policy()

    def lease(self, name: str, wanted: str | None = None) -> Lease[Served]:
        """A version by its number, its label or by default (_versions.resolve), which stays until the lease ends. One that is not loaded
        is from now on, for the next request.

        Raises:
            ServiceError: NOT_FOUND, NOT_READY.
        """
        with self._lock:
            record = self._models.get(name)
            if record is None:
                raise ServiceError(Kind.NOT_FOUND, f"no model {shown(name)}")
            if record.waits and not record.available():
                raise ServiceError(Kind.NOT_READY, f"pipeline {shown(name)} is not ready: {record.waits}", 1)
            number = resolve(name, wanted, record.available(), record.labels, record.known())
            found = record.ready.get(number)
            lease = None if found is None else found.lease()
            if lease is not None:
                return lease
            assert number in record.dormant  # only what has left the table is retired
            is_first = number not in record.loading
            record.loading.add(number)
            failed = number in record.reasons
        if is_first:
            self._loader.later(partial(self._wake, name, number))
        what = f"version {number} of model {shown(name)}"
        if failed:
            raise ServiceError(Kind.NOT_READY, f"{what} could not be loaded yet, and is tried again", 5)
        raise ServiceError(Kind.NOT_READY, f"{what} is being loaded", 1)

    def unload_idle(self, now: int | None = None) -> None:
        """Unloads the versions that nobody has used for the time that was given; a request loads them again. To be called now and then; while
        something else is changed it does nothing. `now` is a time of time.monotonic_ns."""
        if not self._idle or not self._changing.acquire(blocking=False):
            return
        try:
            before = (time.monotonic_ns() if now is None else now) - self._idle
            with self._changed() as gone:
                gone += self._put_to_sleep([each for each in self._unused() if each[2].used <= before])
        finally:
            self._changing.release()

    # ---- for administration

    def index(self, ready_only: bool = False) -> list[Entry]:
        """All versions that are known, by name and number."""
        entries = []
        with self._lock:
            for name, record in sorted(self._models.items()):
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
        return [entry for entry in entries if entry.state is State.READY or not ready_only]

    @property
    def told(self) -> tuple[str, ...]:
        """What the folder held at the last look that is not served, a sentence each."""
        return self._told

    def reload(self, settle: Callable[[Contents], Contents] = lambda contents: contents) -> list[Error]:
        """Takes what is new or changed in the folder, and lets go of what is gone. Returns why files were refused.

        `settle` leaves out what is not to be looked at yet. Where a file is refused, the version that it was to replace goes on. A folder that cannot be read, or is empty all of a sudden,
        changes nothing: storage that goes away unloads no model.
        """
        return self._loader.call(partial(self._reload, settle, self._loader.run))

    def _reload(self, settle: Callable[[Contents], Contents], run: _Run) -> list[Error]:
        with self._changing:
            contents = settle(self._scan())
            errors: list[Error] = []
            for name in contents.models:
                if not self._record(name).unloaded:
                    errors += self._bring(name, contents, run)
            for name in set(self._models) - set(contents.models):
                if name not in contents.unread:
                    self._retire(name, set(self._models[name].available()), forget=True)
            return errors

    def load(self, name: str) -> None:
        """Loads a model's versions, those that are loaded too.

        Raises:
            ServiceError: NOT_FOUND, or BAD_REQUEST if a file is refused; what was loaded before goes on.
        """
        if self._refresh is not None:
            self._refresh()
        errors = self._loader.call(partial(self._load_again, name))
        if errors:
            raise ServiceError(Kind.BAD_REQUEST, str(errors[0]))

    def _load_again(self, name: str) -> list[Error]:
        with self._changing:
            contents = self._scan()
            if name not in contents.models:
                raise ServiceError(Kind.NOT_FOUND, f"no model {shown(name)} in the repository")
            self._record(name).unloaded = False
            return self._bring(name, contents, self._loader.run, anew=True)

    def unload(self, name: str) -> None:
        """Takes a model away from new requests, until it is loaded again.

        Raises:
            ServiceError: NOT_FOUND.
        """
        with self._changing:
            if name not in self._models:
                raise ServiceError(Kind.NOT_FOUND, f"no model {shown(name)}")
            record = self._models[name]
            with self._lock:
                record.unloaded = True
                record.waits = ""
                record.reasons.update(dict.fromkeys(record.available(), "it was unloaded"))
            self._retire(name, set(record.available()))

    def members(self, name: str) -> tuple[str, ...]:
        """The models of a pipeline, each once; none of what is no pipeline."""
        with self._lock:
            record = self._models.get(name)
            graph = None if record is None else record.config.pipeline
            return () if graph is None else tuple(dict.fromkeys(step.model for step in graph.steps))

    def set_label(self, name: str, label: str, version: str) -> None:
        """Puts a label on a version that requests may mean. It is kept in the model's folder where that can be written to (`unkept`).

        Raises:
            ServiceError: NOT_FOUND, NOT_READY.
            InvalidArgumentError: it is no label.
        """
        with self._lock:
            record = self._models.get(name)
            if record is None:
                raise ServiceError(Kind.NOT_FOUND, f"no model {shown(name)}")
            number = resolve(name, version, record.available(), record.labels, record.known())
        self._relabel(name, lambda labels, _: labels.set(label, number))

    def labels(self, name: str) -> dict[str, str]:
        """The version of each label of a model.

        Raises:
            ServiceError: NOT_FOUND.
        """
        with self._lock:
            if name not in self._models:
                raise ServiceError(Kind.NOT_FOUND, f"no model {shown(name)}")
            return {label: str(version) for label, version in sorted(self._models[name].labels.current.items())}

    def rollback(self, name: str, label: str = "production") -> str:
        """Puts a label on the version that it was on before, of those that requests may mean, and returns it.

        Raises:
            ServiceError: NOT_FOUND.
            InvalidArgumentError: there is no such label, or it was on no other version.
        """
        return str(self._relabel(name, lambda labels, available: labels.rollback(label, available)).current[label])

    def unkept(self, name: str) -> str:
        """Why labels of a model that were set last only until the repository is closed; empty if they are kept."""
        with self._lock:
            record = self._models.get(name)
            return record.unkept if record else ""

    def close(self, seconds: float | None = None) -> bool:
        """Takes all models away, and waits until no request uses one; False if that takes longer."""
        with self._changing:
            leases = [each for record in self._models.values() for each in record.ready.values()]
            for record in self._models.values():
                record.unloaded = True  # pipelines, too, come back no more
            for name in list(self._models):
                self._retire(name, set(self._models[name].available()))
        self._timer.close()
        self._loader.close()
        end = None if seconds is None else time.monotonic() + seconds
        return all(each.wait_closed(None if end is None else max(0.0, end - time.monotonic())) for each in leases)

    # ---- for other processes that serve the same

    def look_in(self, directory: Path, refresh: Callable[[], None] | None) -> None:
        """Where the folder is that this process looks at from now on, in the place of the one that it has followed."""
        self._root, self._refresh = directory, refresh

    def picture(self) -> Picture:
        """What is served; for a repository with a shelf."""
        with self._lock:
            models = {name: record.picture() for name, record in self._models.items()}
        return Picture(models, self._told)

    def follow(self, picture: Picture) -> None:
        """Serves what another process does. Versions that are new here are mapped and warmed up before they take the place of others, all in one step.

        Raises:
            Superseded: there is a newer picture.
            Error, OSError: this process cannot; it serves what it did before.
        """
        self._loader.call(partial(self._follow_picture, picture, self._loader.run))

    def _follow_picture(self, picture: Picture, run: _Run) -> None:
        with self._changing:
            fresh = [
                (name, number, taken, self._leased(name, number, taken, run))
                for name, model in picture.models.items()
                for number, taken in model.taken.items()
                if (record := self._models.get(name)) is None or record.taken.get(number) != taken
            ]
            with self._changed() as gone:
                for name in {*self._models, *picture.models}:
                    record = self._models.setdefault(name, Record())
                    gone += self._follow_model(record, picture.models.get(name))
                    if name not in picture.models:
                        del self._models[name]
                for name, number, taken, leased in fresh:
                    gone += self._serve(name, number, leased, taken.size, taken.path)
                    self._models[name].taken[number] = taken
                for name, model in picture.models.items():  # `_serve` has taken away what was said of others
                    self._models[name].reasons = dict(model.reasons)
                self._told = picture.told

    def _leased(self, name: str, number: int, taken: Taken, run: _Run) -> Leased[Served]:
        """A version that is new here, warm."""
        record = self._models.get(name)
        before = None if record is None else record.taken.get(number)
        if record is not None and before is not None and before.key == taken.key:
            kept = record.ready[number].value.model
            assert isinstance(kept, Model)
            model = kept
        else:
            assert self._shelf is not None
            try:
                model = self._map(self._shelf.get(taken.key), taken.path, "default")
            finally:
                self._shelf.drop(taken.key)
            run(partial(warm_up, name, model, taken.scheduling, taken.warmup))
        return Leased(Served.of(name, str(number), model, taken.scheduling, self._timer, taken.cache), self._drained)

    def _follow_model(self, record: Record, picture: ModelPicture | None) -> list[Leased[Served]]:
        """Becomes what a picture says of a model, but for its versions that are new; returns what requests get no more. What is served of a
        pipeline, `_bind` says, as it does where the picture comes from."""
        is_pipeline = picture is not None and picture.bound is not None and not picture.unloaded
        kept = set() if picture is None else {*picture.taken, *([1] if is_pipeline else [])}
        gone = [self._end(record, number) for number in record.ready.keys() - kept]
        if picture is not None:
            bound = record.bound if is_pipeline and 1 in record.ready else picture.bound
            record.become(picture)
            record.bound = bound
        return gone

    # ---- changes, made by one thread at a time

    def _scan(self) -> Contents:
        try:
            contents = scan(self._root).with_pipelines()
        except OSError as error:
            text = f"the repository cannot be read ({error.strerror or error}); what is loaded goes on"
            raise ServiceError(Kind.NOT_READY, text, 5) from None
        if not contents.models and any(record.available() for record in self._models.values()):
            raise ServiceError(Kind.NOT_READY, "the repository is empty all of a sudden; what is loaded goes on", 5)
        self._told = tuple(f"{each.path}: {each.reason}" for each in contents.surplus)
        return contents

    def _record(self, name: str) -> Record:
        with self._lock:
            return self._models.setdefault(name, Record())

    def _bring(self, name: str, contents: Contents, run: _Run, anew: bool = False) -> list[Error]:
        """A model's versions to what the folder and its config say; `anew`: those whose files are the same, too. `run` calls what runs
        models."""
        record = self._record(name)
        files = contents.models[name]
        errors: list[Error] = []
        try:
            with self._labelling:
                wanted = self._follow(name, contents)
        except Error as error:
            errors.append(error)
            if record.config.pipeline is not None or not record.available():
                with self._lock:
                    record.reasons = dict.fromkeys(files, str(errors[0]))
                return errors
            wanted = served(files, record.config.policy, record.said)  # as they were
        with self._lock:
            record.reasons = {number: why for number, why in record.reasons.items() if number in wanted}
        is_serving = bool(record.available())
        for number in wanted:
            refused = self._take(name, number, files[number], run, is_serving, anew)
            if refused is not None:
                errors.append(refused)
        with self._changed():
            record.settle_labels()
            held = record.held()
        for label, at in held.items():
            version = record.said.current[label]
            errors.append(
                Error(f"label {label!r} of model {name!r} is on version {at}, for version {version} is not ready")
            )
        if name not in contents.unread:
            self._retire(name, set(record.available()) - {*wanted, *held.values()})
        return errors

    def _follow(self, name: str, contents: Contents) -> tuple[int, ...]:
        """Takes what a model's config and labels say now, and returns the versions that are to be served."""
        record, files = self._models[name], contents.models[name]
        config = _read(read_config, contents.configs.get(name)) or ModelConfig()
        if config.pipeline is not None and not _is_pipeline(files.get(1)):
            beside = next(iter(files.values()))
            raise InvalidArgumentError(
                f"{contents.configs[name]} describes a pipeline, and beside it lies {beside}: take one of them away"
            )
        stored = _read(read_labels, contents.labels.get(name))
        if stored == record.stored:
            said = record.said.follow(record.config.labels, config.labels)
        else:
            said = (stored or StoredLabels()).with_config(config.labels)
        with self._lock:
            record.config, record.stored, record.said = config, stored, said
            record.settle_labels()
        return served(files, config.policy, said)

    def _relabel(self, name: str, change: Callable[[Labels, Collection[int]], Labels]) -> Labels:
        """Changes the labels of a model, here and, if it can be written to, in its folder; what `change` raises changes nothing."""
        with self._labelling:
            with self._lock:
                record = self._models.get(name)
                if record is None:
                    raise ServiceError(Kind.NOT_FOUND, f"no model {shown(name)}")
                available, config = set(record.available()), record.config.labels

            def stored_with_it(stored: StoredLabels | None) -> StoredLabels:
                labels = record.said
                if stored is not None and stored != record.stored:  # a command has changed it since
                    labels = stored.with_config(config)
                return StoredLabels(change(labels, available), config)

            unkept = self._unwritable
            if not unkept:
                try:
                    changed = change_labels(self._labels_folder(name), stored_with_it)
                except InvalidArgumentError:
                    raise
                except Error as error:
                    unkept = str(error)
            if unkept:
                changed = StoredLabels(change(record.said, available), config)
                logging.getLogger(__name__).warning("labels of %s are not kept: %s", name, unkept)
            with self._changed():
                record.unkept = unkept
                record.said = changed.labels
                if not unkept:
                    record.stored = changed
                record.settle_labels()
                return record.labels

    def _labels_folder(self, name: str) -> Path:
        folder = self._root / name
        if (self._root / f"{name}{SUFFIX}").is_file():  # it may be a file alone
            with suppress(OSError):
                folder.mkdir(exist_ok=True)
        return folder

    def _take(
        self,
        name: str,
        number: int,
        path: Path,
        run: _Run,
        is_serving: bool = False,
        anew: bool = False,
        asked: bool = False,
    ) -> Error | None:
        """Loads a version's file where it is not the one that is loaded, warms it up and lets it serve; returns why it was refused.

        `is_serving`: requests may mean versions of its model already; `asked`: one waits for it.
        """
        record = self._models[name]
        if _is_pipeline(path) and record.config.pipeline is None:
            return None  # what it says was refused, and the model that it was goes on
        try:
            stamp = _stamp(path)
        except OSError as error:
            return self._refuse(name, number, _about(path, error))
        if record.config.pipeline is not None:
            return self._take_pipeline(name, stamp, run, is_serving or anew or asked, anew or asked)
        if number in record.dormant and not (anew or asked):
            record.dormant[number] = path
            return None
        before, config = record.ready.get(number), record.config
        look = stamp, (config.scheduling, config.warmup, config.replace_incompatible, config.cache)
        last = None if anew or asked else record.looked.get(number)
        if last == look:
            return None
        # Of a version that is replaced there are two for a moment, room or not; nothing else of its model goes for it, unless it is asked for.
        is_wanted = asked or anew or is_serving
        kept = before is not None and last is not None and last[0] == stamp and number not in record.reasons
        if not (kept or self._make_room(stamp[1], is_wanted, None if asked else name) or before is not None):
            if not is_wanted and stamp[1] <= self._memory:
                with self._lock:
                    record.dormant[number] = path
                return None
            text = f"{path} takes {stamp[1]} bytes, and of the {self._memory} for models the others that are in use leave less"
            return self._refuse(name, number, Error(text))
        with self._lock:
            record.loading.add(number)
        try:
            if before is not None and kept:
                assert isinstance(before.value.model, Model)
                key, model = (record.taken[number].key if self._shelf else ""), before.value.model
            else:
                key, model = self._load(path)
            scheduling = self._scheduling(config)
            found = Served.of(name, str(number), model, scheduling, self._timer, config.cache)
            replaced = record.replaced_by(number) if is_serving else None
            if replaced is not None and not kept and not config.replace_incompatible:
                _check_compatible(replaced, found)
            if not kept:
                run(partial(warm_up, name, model, config.scheduling, config.warmup))
        except Exception as error:
            return self._refuse(name, number, _about(path, error), look)
        with self._changed() as gone:
            gone += self._serve(name, number, Leased(found, self._drained), stamp[1], path)
            if self._shelf is not None:
                record.taken[number] = Taken(key, path, stamp[1], scheduling, config.warmup, config.cache)
            record.looked[number] = look
            record.bound = None
            record.loading.discard(number)
        return None

    def _wake(self, name: str, number: int) -> None:
        """Loads a version that a request has asked for."""
        with self._changing:
            refused = self._take_dormant(name, number, self._loader.run)
        if refused is not None:
            logging.getLogger(__name__).warning("not served: %s", refused)

    def _take_dormant(self, name: str, number: int, run: _Run) -> Error | None:
        record = self._models.get(name)
        if record is None:  # it has gone
            return None
        path = record.dormant.get(number)
        refused = None if path is None else self._take(name, number, path, run, asked=True)
        with self._changed():
            record.loading.discard(number)
            if refused is not None and number in record.looked and record.config.pipeline is None:
                record.dormant.pop(number, None)  # the file is at fault: until it changes
        return refused

    def _make_room(self, size: int, evict: bool, spared: str | None) -> bool:
        """Whether so many more bytes fit into the memory for models; `evict`: if need be without versions that nobody uses now, those that
        were used least recently first; none of the model `spared`.
        """
        if not self._memory:
            return True
        gone = []
        with self._changed() as ended:
            missing = size - self._memory + sum(sum(record.sizes.values()) for record in self._models.values())
            for each in sorted(self._unused(), key=lambda each: each[2].used) if evict else []:
                name, number, _ = each
                if missing > 0 and name != spared:
                    gone.append(each)
                    missing -= self._models[name].sizes[number]
            if missing > 0:
                return False
            ended += self._put_to_sleep(gone)
        return True

    def _unused(self) -> list[_Loaded]:
        """What nobody uses now, a sequence among others. Pipelines, which hold no file, sleep with their models."""
        return [
            (name, number, leased)
            for name, record in self._models.items()
            for number, leased in record.ready.items()
            if not leased.users and not isinstance(leased.value.model, Pipeline)
        ]

    def _put_to_sleep(self, gone: Sequence[_Loaded]) -> list[Leased[Served]]:
        """From now on a request loads these; returns what requests get no more."""
        for name, number, _ in gone:
            record = self._models[name]
            record.dormant[number] = record.paths[number]
            self._end(record, number)
            record.looked.pop(number, None)
        return [leased for _, _, leased in gone]

    def _scheduling(self, config: ModelConfig) -> Scheduling:
        given = config.scheduling
        return replace(given, instances=self._cpus) if self._cpus and not given.instances else given

    def _load(self, path: Path) -> tuple[str, Model]:
        """A file, and its key on the shelf, if there is one."""
        if self._shelf is not None:
            key, descriptor = self._shelf.put(path)
            try:
                model = self._map(descriptor, path, "full")
            except BaseException:
                self._shelf.drop(key)
                raise
            weakref.finalize(model, self._shelf.drop, key)  # if nobody was told of it until then
            return key, model
        return "", load(path, verify="full", copy=True, key=self._key_of(path), **self._options)

    def _map(self, descriptor: int, path: Path, verify: str) -> Model:
        key = self._key_of(f"/proc/self/fd/{descriptor}")
        return load_sealed(descriptor, str(path), verify=verify, key=key, **self._options)

    def _key_of(self, path: Path | str) -> Any:
        return self._key if self._key is not None and _container.is_encrypted(path) else None

    def _refuse(self, name: str, number: int, error: Error, look: Look | None = None) -> Error:
        record = self._models[name]
        with self._lock:
            record.loading.discard(number)
            record.reasons[number] = str(error)
            if look is not None:
                record.looked[number] = look  # again when it has changed
        return error

    def _retire(self, name: str, numbers: Collection[int], forget: bool = False) -> None:
        """Takes versions away from new requests; `forget`: and all that is known of the model."""
        with self._changed() as gone:
            record = self._models[name]
            for number in numbers:
                record.dormant.pop(number, None)
            for number in sorted(set(numbers) & set(record.ready)):
                gone.append(self._end(record, number))
                record.looked.pop(number, None)
            if 1 in numbers:
                record.bound = None
            if forget:
                del self._models[name]

    # ---- the table, with the lock

    @contextmanager
    def _changed(self) -> Iterator[list[Leased[Served]]]:
        """A change of what is served, with the lock. Pipelines follow it before requests see it; what is put into the list is retired when
        the lock is free."""
        gone: list[Leased[Served]] = []
        waiting = []
        with self._lock:
            yield gone
            for name, record in self._models.items():
                if (record.config.pipeline or record.bound) and not record.unloaded:
                    was_served = 1 in record.ready
                    gone += self._bind(name, record)
                    if was_served and record.waits:
                        waiting.append((name, record.waits))
        for each in gone:
            each.retire()
        for name, why in waiting:
            logging.getLogger(__name__).warning("no longer serving pipeline %s: %s", name, why)

    def _serve(self, name: str, number: int, leased: Leased[Served], size: int, path: Path) -> list[Leased[Served]]:
        """Requests get it from now on. Returns what they got before."""
        record = self._models[name]
        old = [self._end(record, number)] if number in record.ready else []
        record.ready[number] = leased
        record.sizes[number], record.paths[number] = size, path
        record.dormant.pop(number, None)
        record.reasons.pop(number, None)
        return old

    def _end(self, record: Record, number: int) -> Leased[Served]:
        """Requests get it no more."""
        del record.sizes[number], record.paths[number]
        record.taken.pop(number, None)
        record.draining.append(number)
        return record.ready.pop(number)

    # ---- pipelines

    def _take_pipeline(self, name: str, stamp: Stamp, run: _Run, is_wanted: bool, anew: bool) -> Error | None:
        """Serves what a config says of a pipeline, where its models are there and it fits them; `is_wanted`: those that sleep are loaded."""
        record, look = self._models[name], (stamp, None)
        if record.looked.get(1) == look and not anew:
            return None
        refused: Error | None = None
        for _, graph in _candidates(record):
            held: list[Lease[Served]] = []
            try:
                refused = self._hold_members(graph, run, held) if is_wanted else None
                with self._changed():
                    record.looked[1] = look
            finally:
                for each in held:
                    each.end()
            if 1 in record.ready:
                break
        with self._lock:
            if refused is not None and 1 in record.dormant:
                record.reasons[1] = str(refused)
            return Error(record.reasons[1]) if 1 in record.reasons else None

    def _hold_members(self, graph: Graph, run: _Run, held: list[Lease[Served]]) -> Error | None:
        """Leases the models of a pipeline, so that none goes for another, and loads those that sleep; returns why one was refused. What is
        not there is for `_bind` to tell."""
        for step in graph.steps:
            with suppress(ServiceError):
                refused = None
                with self._lock:
                    number = self._meant(step.model, step.version)
                    is_asleep = number not in self._models[step.model].ready
                if is_asleep:
                    refused = self._take_dormant(step.model, number, run)
                if refused is not None:
                    return refused
                with self._lock:
                    leased = self._models[step.model].ready.get(number)
                    lease = None if leased is None else leased.lease()
                    if lease is not None:
                        held.append(lease)
        return None

    def _meant(self, name: str, wanted: str | None) -> int:
        """The version that a step means, with the lock. Raises ServiceError as `lease`, but for one that sleeps."""
        record = self._models.get(name)
        if record is None:
            raise ServiceError(Kind.NOT_FOUND, f"no model {shown(name)}")
        return resolve(name, wanted, record.available(), record.labels, record.known())

    def _bind(self, name: str, record: Record) -> list[Leased[Served]]:
        """Binds a pipeline to the versions that its steps mean now, with the lock: as its config says, or as it was where that cannot be.
        Returns what requests get no more."""
        path, before = self._root / name / CONFIG_FILE, record.ready.get(1)
        refused, sleeps = "", False
        for config, graph in _candidates(record):
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
        return [] if before is None else [self._end(record, 1)]

    def _members(self, graph: Graph) -> list[Leased[Served]] | None:
        """What the steps of a pipeline mean now; None where one of them sleeps. Raises ServiceError where there is none."""
        found = []
        for step in graph.steps:
            try:
                number = self._meant(step.model, step.version)
            except ServiceError as error:
                raise ServiceError(error.kind, f"step {step.name!r}: {error}") from None
            found.append(self._models[step.model].ready.get(number))
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
            _check_compatible(old, found)
        leased = Leased(found, self._drained, tuple(dict.fromkeys(members)))
        return self._serve(name, 1, leased, 0, self._root / name / CONFIG_FILE)

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
        with self._lock:
            record = self._models.get(gone.name)
            if record is not None and int(gone.version) in record.draining:
                record.draining.remove(int(gone.version))


def _candidates(record: Record) -> list[tuple[ModelConfig, Graph]]:
    """What a pipeline may be, the first of them that can be: what its config says, else what it was."""
    configs = [record.config, *([] if record.bound in (None, record.config) else [record.bound])]
    return [(each, each.pipeline) for each in configs if each is not None and each.pipeline is not None]


def _is_pipeline(path: Path | None) -> bool:
    return path is not None and path.name == CONFIG_FILE


def _in_place(work: Callable[[], None]) -> None:
    work()


def _check_compatible(old: Served, new: Served) -> None:
    found = differences(old.interface, new.interface)
    if found:
        raise InvalidArgumentError(
            f"it cannot take the place of version {old.version}, which goes on: {'; '.join(found)}; replace_incompatible = true in config.toml "
            "would let it, and so would another name"
        )


def _stamp(path: Path) -> Stamp:
    status = os.stat(path)
    return status.st_mtime_ns, status.st_size, status.st_ino


def _read(read: Callable[[Path], T], path: Path | None) -> T | None:
    """What `read` makes of a file, if there is one. Whatever goes wrong with it is an Error, so that other models do not stay as they were
    for it."""
    if path is None:
        return None
    try:
        return read(path)
    except Exception as error:
        raise _about(path, error) from None


def _about(path: Path, error: Exception) -> Error:
    """The error with the file's name in its sentence; one that nobody foresaw is told to the log as well."""
    if not isinstance(error, Error | OSError):
        logging.getLogger(__name__).error("%s cannot be loaded", path, exc_info=error)
        return Error(f"{path}: it cannot be loaded ({type(error).__name__})")
    if not isinstance(error, Error):
        return Error(f"{path} cannot be read: {error.strerror or error}")
    if str(path) in str(error):
        return error
    named = type(error)(f"{path}: {error}")
    named.status = error.status
    return named
