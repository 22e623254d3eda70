"""The models of a folder: loaded, leased to requests, and replaced or unloaded while requests use them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from .._errors import Error, InvalidArgumentError
from .._model import Model
from ._catalogue import Catalogue, candidates
from ._config import CONFIG_FILE, ModelConfig, Scheduling
from ._errors import Kind, ServiceError, shown
from ._graph import Graph
from ._labels_file import LABELS_FILE, StoredLabels, change_labels, read_labels
from ._layout import SUFFIX, Contents, read_config, scan
from ._leases import Lease, Leased
from ._loader import Loader
from ._model_files import ModelFiles, about_file, read_file, stamp_of
from ._picture import Picture, Stamp, Taken
from ._record import Entry, State
from ._room import Room
from ._served import Served, check_compatible
from ._shelf import Shelf
from ._timer import Timer
from ._uses import Others, Uses
from ._versions import Labels, Policy, served
from ._warmup import warm_up

_Run = Callable[[Callable[[], None]], None]  # calls what runs a model


class Repository:
    """The models of a folder (laid out as _layout says). Any thread may call anything; requests never wait for a load.

    A pipeline is bound to the versions that its steps mean, anew whenever these change, in the same moment: a lease of it is one of each of them.

    Raises InvalidArgumentError if the folder holds no model, and the loader's error, with the file's name, if none of its files is good.
    `require_signature`, `key` and `lock` are load's; the key is for those of the files that are encrypted. `unwritable` says why nothing is
    written to the folder; it is empty if labels may be kept there. `memory`: bytes of the files that may be loaded at once, 0: any; what has no
    room is loaded when it is asked for, and what was used least recently goes for it. `idle`: nanoseconds after which `unload_idle` unloads a version that
    nobody uses, 0: never. `refresh` brings the folder up to date before a request has a
    model loaded, where it is a copy of something else. `others`: the other processes that serve the same, by a `shelf`; what is loaded decides the one that
    has not `begun` with the picture of another, or is told to `lead`.
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
        others: Others | None = None,
    ) -> None:
        self._files = ModelFiles(shelf, key, threads=threads, require_signature=require_signature, lock=lock)
        self._unwritable = unwritable
        self._memory = memory
        self._idle = idle
        self._others = others
        self._leads = begun is None
        self._refresh = refresh
        self._cpus = cpus
        self._timer = Timer()
        self._loader = Loader()
        self._catalogue = Catalogue(Path(directory), self._timer, self._loader)
        self._room = Room(self._catalogue, memory, others)
        self._changing = threading.Lock()  # one change at a time, held while files are read
        self._labelling = threading.Lock()  # one change of labels at a time, which waits for no load
        if begun is not None:
            self._follow_picture(begun, _in_place)
            return
        root = self._catalogue.root
        if not root.is_dir():
            raise InvalidArgumentError(
                f"{root} is not a directory; serve takes one that holds NAME.mrt or NAME/VERSION/model.mrt"
            )
        errors = self._reload(lambda contents: contents, _in_place)  # here: there are no requests yet to be kept from
        if not self.names():
            if errors:
                raise errors[0]
            raise InvalidArgumentError(
                f"{root} holds no model: put NAME.mrt or NAME/VERSION/model.mrt (as digits/2/model.mrt) there"
            )

    # ---- for requests

    def names(self) -> list[str]:
        """The models of which a version is ready, or is loaded when it is asked for, sorted."""
        return self._catalogue.names()

    def versions(self, name: str) -> list[str]:
        """Such versions of a model, lowest first; empty if there is no such model."""
        return self._catalogue.versions(name)

    def ready(self, name: str) -> list[Served]:
        """Those that are loaded, to be looked at: for a run a version has to be leased."""
        return self._catalogue.ready(name)

    def policy(self, name: str) -> Policy:
        """Which versions of a model are served."""
        return self._catalogue.policy(name)

    def lease(self, name: str, wanted: str | None = None) -> Lease[Served]:
        """A version by its number, its label or by default (_versions.resolve), which stays until the lease ends. One that is not loaded
        is from now on, for the next request.

        Raises:
            ServiceError: NOT_FOUND, NOT_READY.
        """
        found = self._catalogue.lease(name, wanted)
        if isinstance(found, Lease):
            return found
        if found.is_first and self._others is not None:
            self._others.wake(name, found.number).add_done_callback(partial(self._woken, name, found.number))
        elif found.is_first:
            self._loader.later(partial(self._wake, name, found.number))
        what = f"version {found.number} of model {shown(name)}"
        if found.failed:
            raise ServiceError(Kind.NOT_READY, f"{what} could not be loaded yet, and is tried again", 5)
        raise ServiceError(Kind.NOT_READY, f"{what} is being loaded", 1)

    def unload_idle(self, now: int | None = None) -> None:
        """Unloads the versions that nobody has used for the time that was given; a request loads them again. To be called now and then; while
        something else is changed it does nothing. Where other processes serve the same, the leader asks them, and waits for it; the others do nothing.
        `now` is a time of time.monotonic_ns."""
        if not self._idle or not self._leads or not self._changing.acquire(blocking=False):
            return
        try:
            self._room.leave_idle((time.monotonic_ns() if now is None else now) - self._idle)
        finally:
            self._changing.release()

    # ---- for administration

    def index(self, ready_only: bool = False) -> list[Entry]:
        """All versions that are known, by name and number."""
        return [entry for entry in self._catalogue.index() if entry.state is State.READY or not ready_only]

    @property
    def told(self) -> tuple[str, ...]:
        """What the folder held at the last look that is not served, a sentence each."""
        return self._catalogue.told

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
                if not self._catalogue.record(name).unloaded:
                    errors += self._bring(name, contents, run)
            for name in set(self._catalogue.models) - set(contents.models):
                if name not in contents.unread:
                    self._catalogue.retire(name, set(self._catalogue.models[name].available()), forget=True)
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
            self._catalogue.record(name).unloaded = False
            return self._bring(name, contents, self._loader.run, anew=True)

    def unload(self, name: str) -> None:
        """Takes a model away from new requests, until it is loaded again.

        Raises:
            ServiceError: NOT_FOUND.
        """
        with self._changing:
            self._catalogue.unload(name)

    def members(self, name: str) -> tuple[str, ...]:
        """The models of a pipeline, each once; none of what is no pipeline."""
        return self._catalogue.members(name)

    def set_label(self, name: str, label: str, version: str) -> None:
        """Puts a label on a version that requests may mean. It is kept in the model's folder where that can be written to (`unkept`).

        Raises:
            ServiceError: NOT_FOUND, NOT_READY.
            InvalidArgumentError: it is no label.
        """
        with self._catalogue.lock:
            number = self._catalogue.meant(name, version)
        self._relabel(name, lambda labels, _: labels.set(label, number))

    def labels(self, name: str) -> dict[str, str]:
        """The version of each label of a model.

        Raises:
            ServiceError: NOT_FOUND.
        """
        return self._catalogue.labels(name)

    def rollback(self, name: str, label: str = "production") -> str:
        """Puts a label on the version that it was on before, of those that requests may mean, and returns it.

        Raises:
            ServiceError: NOT_FOUND.
            InvalidArgumentError: there is no such label, or it was on no other version.
        """
        return str(self._relabel(name, lambda labels, available: labels.rollback(label, available)).current[label])

    def unkept(self, name: str) -> str:
        """Why labels of a model that were set last only until the repository is closed; empty if they are kept."""
        return self._catalogue.unkept(name)

    def close(self, seconds: float | None = None) -> bool:
        """Takes all models away, and waits until no request uses one; False if that takes longer."""
        with self._changing:
            leases = self._catalogue.close()
        self._timer.close()
        self._loader.close()
        end = None if seconds is None else time.monotonic() + seconds
        return all(each.wait_closed(None if end is None else max(0.0, end - time.monotonic())) for each in leases)

    # ---- for other processes that serve the same

    def lead(self) -> None:
        """Decides from now on what is loaded: the process that did is gone."""
        self._leads = True

    def uses(self) -> Uses:
        """What is used here of what is served."""
        return self._catalogue.uses()

    def wake(self, name: str, number: int) -> None:
        """Loads a version that a request has asked for, here or in another process."""
        self._loader.call(partial(self._wake, name, number))

    def look_in(self, directory: Path, refresh: Callable[[], None] | None) -> None:
        """Where the folder is that this process looks at from now on, in the place of the one that it has followed."""
        self._catalogue.root, self._refresh = directory, refresh

    def picture(self) -> Picture:
        """What is served; for a repository with a shelf."""
        return self._catalogue.picture()

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
                if (record := self._catalogue.models.get(name)) is None or record.taken.get(number) != taken
            ]
            self._catalogue.follow(picture, fresh)

    def _leased(self, name: str, number: int, taken: Taken, run: _Run) -> Leased[Served]:
        """A version that is new here, warm."""
        record = self._catalogue.models.get(name)
        before = None if record is None else record.taken.get(number)
        if record is not None and before is not None and before.key == taken.key:
            kept = record.ready[number].value.model
            assert isinstance(kept, Model)
            model = kept
        else:
            model = self._files.load_shared(taken)
            run(partial(warm_up, name, model, taken.scheduling, taken.warmup))
        return self._catalogue.leased(Served.of(name, str(number), model, taken.scheduling, self._timer, taken.cache))

    # ---- changes, made by one thread at a time

    def _scan(self) -> Contents:
        try:
            contents = scan(self._catalogue.root).with_pipelines()
        except OSError as error:
            text = f"the repository cannot be read ({error.strerror or error}); what is loaded goes on"
            raise ServiceError(Kind.NOT_READY, text, 5) from None
        if not contents.models and any(record.available() for record in self._catalogue.models.values()):
            raise ServiceError(Kind.NOT_READY, "the repository is empty all of a sudden; what is loaded goes on", 5)
        self._catalogue.told = tuple(f"{each.path}: {each.reason}" for each in contents.surplus)
        return contents

    def _bring(self, name: str, contents: Contents, run: _Run, anew: bool = False) -> list[Error]:
        """A model's versions to what the folder and its config say; `anew`: those whose files are the same, too. `run` calls what runs
        models."""
        record = self._catalogue.record(name)
        files = contents.models[name]
        errors: list[Error] = []
        try:
            with self._labelling:
                wanted = self._follow(name, contents)
        except Error as error:
            errors.append(error)
            if record.config.pipeline is not None or not record.available():
                with self._catalogue.lock:
                    record.reasons = dict.fromkeys(files, str(errors[0]))
                return errors
            wanted = served(files, record.config.policy, record.said)  # as they were
        with self._catalogue.lock:
            record.reasons = {number: why for number, why in record.reasons.items() if number in wanted}
        is_serving = bool(record.available())
        for number in wanted:
            refused = self._take(name, number, files[number], run, is_serving, anew)
            if refused is not None:
                errors.append(refused)
        with self._catalogue.change():
            record.settle_labels()
            held = record.held()
        for label, at in held.items():
            version = record.said.current[label]
            errors.append(
                Error(f"label {label!r} of model {name!r} is on version {at}, for version {version} is not ready")
            )
        if name not in contents.unread:
            self._catalogue.retire(name, set(record.available()) - {*wanted, *held.values()})
        return errors

    def _follow(self, name: str, contents: Contents) -> tuple[int, ...]:
        """Takes what a model's config and labels say now, and returns the versions that are to be served."""
        record, files = self._catalogue.models[name], contents.models[name]
        config = read_file(read_config, contents.configs.get(name)) or ModelConfig()
        if config.pipeline is not None and not _is_pipeline(files.get(1)):
            beside = next(iter(files.values()))
            raise InvalidArgumentError(
                f"{contents.configs[name]} describes a pipeline, and beside it lies {beside}: take one of them away"
            )
        # As it is now: one that was set since the folder was looked at is not to be taken back.
        stored = read_file(read_labels, contents.labels.get(name, self._catalogue.root / name / LABELS_FILE))
        if stored == record.stored:
            said = record.said.follow(record.config.labels, config.labels)
        else:
            said = (stored or StoredLabels()).with_config(config.labels)
        with self._catalogue.lock:
            record.config, record.stored, record.said = config, stored, said
            record.settle_labels()
        return served(files, config.policy, said)

    def _relabel(self, name: str, change: Callable[[Labels, Collection[int]], Labels]) -> Labels:
        """Changes the labels of a model, here and, if it can be written to, in its folder; what `change` raises changes nothing."""
        with self._labelling:
            with self._catalogue.lock:
                record = self._catalogue.known(name)
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
            with self._catalogue.change():
                record.unkept = unkept
                record.said = changed.labels
                if not unkept:
                    record.stored = changed
                record.settle_labels()
                return record.labels

    def _labels_folder(self, name: str) -> Path:
        folder = self._catalogue.root / name
        if (self._catalogue.root / f"{name}{SUFFIX}").is_file():  # it may be a file alone
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
        record = self._catalogue.models[name]
        if _is_pipeline(path) and record.config.pipeline is None:
            return None  # what it says was refused, and the model that it was goes on
        try:
            stamp = stamp_of(path)
        except OSError as error:
            return self._catalogue.refuse(name, number, about_file(path, error))
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
        size = self._files.footprint(path, stamp[1], 1 if self._others is None else self._others.processes)
        if not (kept or self._room.make(size, is_wanted, None if asked else name) or before is not None):
            if not is_wanted and size <= self._memory:
                with self._catalogue.lock:
                    record.dormant[number] = path
                return None
            text = (
                f"{path} takes {size} bytes, and of the {self._memory} for models the others that are in use leave less"
            )
            return self._catalogue.refuse(name, number, Error(text))
        with self._catalogue.lock:
            record.loading.add(number)
        try:
            if before is not None and kept:
                assert isinstance(before.value.model, Model)
                key, model = (record.taken[number].key if self._files.are_shared else ""), before.value.model
            else:
                key, model = self._files.load(path)
            scheduling = self._scheduling(config)
            found = Served.of(name, str(number), model, scheduling, self._timer, config.cache)
            replaced = record.replaced_by(number) if is_serving else None
            if replaced is not None and not kept and not config.replace_incompatible:
                check_compatible(replaced, found)
            if not kept:
                run(partial(warm_up, name, model, config.scheduling, config.warmup))
        except Exception as error:
            return self._catalogue.refuse(name, number, about_file(path, error), look)
        with self._catalogue.change() as gone:
            gone += self._catalogue.serve(name, number, self._catalogue.leased(found), size, path)
            if self._files.are_shared:
                record.taken[number] = Taken(key, path, size, scheduling, config.warmup, config.cache)
            record.looked[number] = look
            record.bound = None
            record.loading.discard(number)
        return None

    def _wake(self, name: str, number: int) -> None:
        """Loads a version that a request has asked for. Why it cannot be is logged once, however many ask, until that is another reason."""
        with self._changing:
            record = self._catalogue.models.get(name)
            before = None if record is None else record.reasons.get(number)
            refused = self._take_dormant(name, number, self._loader.run)
        if refused is not None and str(refused) != before:
            logging.getLogger(__name__).warning("not served: %s", refused)

    def _woken(self, name: str, number: int, _: object) -> None:
        """The leader has loaded a version that this process has asked for, or has not: whoever asks for it next asks again."""
        with self._catalogue.lock:
            record = self._catalogue.models.get(name)
            if record is not None:
                record.loading.discard(number)

    def _take_dormant(self, name: str, number: int, run: _Run) -> Error | None:
        record = self._catalogue.models.get(name)
        if record is None:  # it has gone
            return None
        path = record.dormant.get(number)
        refused = None if path is None else self._take(name, number, path, run, asked=True)
        with self._catalogue.change():
            record.loading.discard(number)
            if refused is not None and number in record.looked and record.config.pipeline is None:
                record.dormant.pop(number, None)  # the file is at fault: until it changes
        return refused

    def _scheduling(self, config: ModelConfig) -> Scheduling:
        given = config.scheduling
        return replace(given, instances=self._cpus) if self._cpus and not given.instances else given

    # ---- pipelines

    def _take_pipeline(self, name: str, stamp: Stamp, run: _Run, is_wanted: bool, anew: bool) -> Error | None:
        """Serves what a config says of a pipeline, where its models are there and it fits them; `is_wanted`: those that sleep are loaded."""
        record, look = self._catalogue.models[name], (stamp, None)
        if record.looked.get(1) == look and not anew:
            return None
        refused: Error | None = None
        for _, graph in candidates(record):
            held: list[Lease[Served]] = []
            try:
                refused = self._hold_members(graph, run, held) if is_wanted else None
                with self._catalogue.change():
                    record.looked[1] = look
            finally:
                for each in held:
                    each.end()
            if 1 in record.ready:
                break
        with self._catalogue.lock:
            if refused is not None and 1 in record.dormant:
                record.reasons[1] = str(refused)
            return Error(record.reasons[1]) if 1 in record.reasons else None

    def _hold_members(self, graph: Graph, run: _Run, held: list[Lease[Served]]) -> Error | None:
        """Leases the models of a pipeline, so that none goes for another, and loads those that sleep; returns why one was refused. What is
        not there is for the catalogue to tell."""
        for step in graph.steps:
            with suppress(ServiceError):
                refused = None
                with self._catalogue.lock:
                    number = self._catalogue.meant(step.model, step.version)
                    is_asleep = number not in self._catalogue.models[step.model].ready
                if is_asleep:
                    refused = self._take_dormant(step.model, number, run)
                if refused is not None:
                    return refused
                lease = self._catalogue.lease_ready(step.model, number)
                if lease is not None:
                    held.append(lease)
        return None


def _is_pipeline(path: Path | None) -> bool:
    return path is not None and path.name == CONFIG_FILE


def _in_place(work: Callable[[], None]) -> None:
    work()
