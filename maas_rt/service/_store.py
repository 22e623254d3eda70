"""A repository's folder as a store of versions: what `maas-rt repo` does to it, while servers may read it.

Everything appears and goes in one step: a version is copied into a folder with a hidden name, on the same disk, flushed and renamed; one that
is removed is renamed first. Who changes a model has its folder locked, for moments: not while a file is copied.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from .. import _container
from .._errors import DecryptionError, Error, FormatError, InvalidArgumentError
from ._compatible import Interface, differences
from ._config import ModelConfig
from ._folder_lock import locked_folder
from ._labels_file import StoredLabels, change_labels, read_labels
from ._layout import MODEL_FILE, Contents, read_config, scan
from ._versions import DEFAULT_LABEL, Labels, Policy, served, version_number

T = TypeVar("T")
RECORD_FILE = "version.json"
_HIDDEN = ".maas-rt.repo."
_PIECE = 1 << 20


@dataclass(frozen=True)
class Record:
    """A version.json, which `add` puts beside the file: its hash, when and from which file it was added, and what was said of it."""

    sha256: str
    bytes: int
    added: int  # seconds since 1970
    source: str = ""
    note: str = ""


@dataclass(frozen=True)
class Version:
    """A version that lies in a repository. `manifest` is None where `problem` says why it cannot be read."""

    name: str
    version: int
    path: Path
    bytes: int
    sha256: str
    labels: tuple[str, ...] = ()
    is_served: bool = True
    added: int | None = None
    source: str = ""
    note: str = ""
    manifest: dict[str, Any] | None = None
    problem: str = ""


@dataclass(frozen=True)
class _Model:
    """A model as its folder has it."""

    files: dict[int, Path] = field(default_factory=dict)
    config: ModelConfig = field(default_factory=ModelConfig)
    labels: Labels = field(default_factory=Labels)

    @property
    def served(self) -> tuple[int, ...]:
        return served(self.files, self.config.policy, self.labels)


class Store:
    """A repository's folder.

    Raises:
        InvalidArgumentError: there is no such folder; of every method: what does not fit, and nothing has changed.
        Error, of every method: something cannot be read or written.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        if not root.is_dir():
            raise InvalidArgumentError(f"{root} is not a directory: make one, or give that of the repository")

    def names(self) -> list[str]:
        """The models of which there is a version, sorted."""
        return sorted(self._contents().models)

    def versions(self, name: str | None = None, *, key: Any = None, check: bool = False) -> list[Version]:
        """The versions of a model or of all, by name and number.

        Args:
            key: for what encrypted files say of themselves.
            check: read the files, and say which of them are not what was added.
        """
        contents = self._contents()
        names = sorted(contents.models) if name is None else [name]
        found = []
        for each in names:
            model = self._model(each, contents)
            found += [_described(each, number, model, key, check) for number in sorted(model.files)]
        return found

    def labels(self, name: str) -> Labels:
        """A model's."""
        return self._model(name, self._contents()).labels

    def add(
        self,
        name: str,
        file: Path,
        *,
        version: int | None = None,
        labels: Collection[str] = (),
        force: bool = False,
        key: Any = None,
        note: str = "",
        now: int | None = None,
    ) -> Version:
        """Copies a file into the repository: as the version after the highest, or as this one, which must not be there.

        A file that is damaged is refused; so is one that could not answer what the version can be asked that is labelled production (else
        the highest), unless `force`.
        """
        _check_name(name)
        for label in labels:
            Labels().set(label, 1)
        if not force:
            self._check_compatible(name, file, key)
        folder = self._root / name
        new_folder = not folder.exists()
        try:
            folder.mkdir(exist_ok=True)
            with _hidden_folder(folder) as beside:
                record = _copy(file, beside / MODEL_FILE, note, time.time_ns() // 10**9 if now is None else now)
                _check_whole(beside / MODEL_FILE, file)
                _write(beside / RECORD_FILE, (json.dumps(asdict(record), indent=1) + "\n").encode())
                _flush(beside)
                with locked_folder(folder):
                    number = self._free_number(name, version)
                    os.rename(beside, folder / str(number))
                    _flush(folder)
        except OSError as error:
            if isinstance(error, Error):
                raise
            place = error.filename or folder
            raise Error(f"{place} could not be written: {error.strerror or error}; nothing was added") from None
        finally:
            if new_folder:
                with suppress(OSError):  # what was made for nothing
                    folder.rmdir()
        for label in labels:
            self.set_label(name, label, number)
        (added,) = (each for each in self.versions(name, key=key) if each.version == number)
        return added

    def set_label(self, name: str, label: str, version: int) -> Labels:
        """Puts a label on a version that is there."""

        def change(labels: Labels, files: Collection[int]) -> Labels:
            if version not in files:
                there = ", ".join(map(str, sorted(files)))
                raise InvalidArgumentError(f"there is no version {version} of model {name!r}; it has {there}")
            return labels.set(label, version)

        return self._relabel(name, change)

    def remove_label(self, name: str, label: str) -> Labels:
        """Takes a label away."""
        return self._relabel(name, lambda labels, files: labels.remove(label))

    def rollback(self, name: str, label: str = DEFAULT_LABEL) -> Labels:
        """Puts a label back on the version that it was on before, of those that are there."""
        return self._relabel(name, lambda labels, files: labels.rollback(label, files))

    def remove(self, name: str, versions: Sequence[int], dry_run: bool = False) -> list[Path]:
        """Removes versions that have no label, all or none, and returns what is gone, or would be."""
        with self._locked(name) as model:
            for number in versions:
                if number not in model.files:
                    there = ", ".join(map(str, sorted(model.files)))
                    raise InvalidArgumentError(f"there is no version {number} of model {name!r}; it has {there}")
                named = sorted(label for label, at in model.labels.current.items() if at == number)
                if named:
                    raise InvalidArgumentError(
                        f"version {number} of model {name!r} is labelled {', '.join(named)}: put that on another version first"
                    )
            found = [_whole(model.files[number]) for number in dict.fromkeys(versions)]
            hidden = [] if dry_run else [_hide(path) for path in found]
        self._erase(hidden, name)
        return found

    def gc(self, name: str | None = None, *, keep: int | None = None, dry_run: bool = False) -> list[Path]:
        """Removes the versions that are not served, and what commands that were killed have left; returns what is gone, or would be.

        Served are those of config.toml's policy and those that have a label. The version that a rollback of a label would go to is
        kept, too.

        Args:
            keep: so many latest versions in the policy's place.
        """
        found = []
        for each in self.names() if name is None else [name]:
            with self._locked(each) as model:
                policy = model.config.policy if keep is None else Policy(latest=keep)
                kept = {*served(model.files, policy, model.labels), *_rollback_targets(model)}
                gone = [_whole(path) for number, path in sorted(model.files.items()) if number not in kept]
                left = [path for path in (self._root / each).glob(f"{_HIDDEN}*") if _is_left(path)]
                hidden = [] if dry_run else [*(_hide(path) for path in gone), *left]
            self._erase(hidden, each)
            found += gone + left
        return found

    # ---- what they share

    def _contents(self) -> Contents:
        try:
            return scan(self._root)
        except OSError as error:
            raise Error(f"{self._root} cannot be read: {error.strerror or error}") from None

    def _model(self, name: str, contents: Contents) -> _Model:
        if name not in contents.models:
            raise InvalidArgumentError(
                f"there is no model {name!r} in {self._root}; it has {', '.join(sorted(contents.models)) or 'none'}"
            )
        if name in contents.unread:
            raise Error(f"a folder of model {name!r} cannot be read: who changes it must be able to")
        config = _own(read_config, contents.configs.get(name)) or ModelConfig()
        labels = _own(read_labels, contents.labels.get(name)) or StoredLabels()
        return _Model(dict(contents.models[name]), config, labels.with_config(config.labels))

    @contextmanager
    def _locked(self, name: str) -> Iterator[_Model]:
        """A model that nobody else changes meanwhile."""
        self._model(name, self._contents())  # it is there
        folder = self._root / name
        if not folder.is_dir():  # it is a file beside the folders
            folder = self._root
        with locked_folder(folder):
            yield self._model(name, self._contents())

    def _relabel(self, name: str, change: Callable[[Labels, Collection[int]], Labels]) -> Labels:
        model = self._model(name, self._contents())
        folder = self._root / name
        folder.mkdir(exist_ok=True)  # it may be a file alone

        def stored(before: StoredLabels | None) -> StoredLabels:
            files = self._contents().models.get(name, {})
            labels = (before or StoredLabels()).with_config(model.config.labels)
            return StoredLabels(change(labels, files), model.config.labels)

        return change_labels(folder, stored).labels

    def _free_number(self, name: str, wanted: int | None) -> int:
        files = self._contents().models.get(name, {})
        taken = {*files, *(n for n in map(version_number, os.listdir(self._root / name)) if n is not None)}
        number = max(taken, default=0) + 1 if wanted is None else wanted
        if number in taken:
            raise InvalidArgumentError(
                f"version {number} of model {name!r} is there: what was served once stays as it was; add the next one"
            )
        return number

    def _check_compatible(self, name: str, file: Path, key: Any) -> None:
        contents = self._contents()
        if name not in contents.models:
            return
        model = self._model(name, contents)
        number = model.labels.current.get(DEFAULT_LABEL, max(model.files))
        if number not in model.files:
            return
        try:
            old, new = (_manifest(path, key) for path in (model.files[number], file))
        except DecryptionError as error:
            raise DecryptionError(
                f"{error}, so that it can be compared with version {number}; or give --force"
            ) from None
        for path, manifest in ((model.files[number], old), (file, new)):
            if "inputs" not in manifest:
                raise InvalidArgumentError(f"{path} does not say what it takes, and cannot be compared: give --force")
        found = differences(Interface.of_manifest(old), Interface.of_manifest(new))
        if found:
            raise InvalidArgumentError(
                f"{file} cannot take the place of version {number} of model {name!r}: {'; '.join(found)}; give --force to add it "
                "nevertheless, or another name"
            )

    def _erase(self, hidden: Sequence[Path], name: str) -> None:
        """What nobody sees any more."""
        for path in hidden:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        with suppress(OSError):  # unless something is left in it
            (self._root / name).rmdir()


def _own(read: Callable[[Path], T], path: Path | None) -> T | None:
    """What a file of a model's own says, if there is one."""
    try:
        return None if path is None else read(path)
    except (InvalidArgumentError, OSError) as error:
        raise InvalidArgumentError(f"{path}: {getattr(error, 'strerror', None) or error}") from None


def _check_name(name: str) -> None:
    if (
        not name
        or "/" in name
        or "\0" in name
        or name.startswith(".")
        or not name.isprintable()
        or len(name.encode()) > 200
    ):
        raise InvalidArgumentError(
            f"{name!r} cannot be a model's name: it has no '/', does not begin with '.', can be printed and has 200 bytes at most"
        )


def _manifest(path: Path, key: Any) -> dict[str, Any]:
    """What a file says of itself. Nothing of it is run."""
    container = _container.read(path)
    kind = _container.SectionKind.MANIFEST
    if container.find(_container.SectionKind.ENCRYPTION) is None:
        text = bytes(container.section(kind))
    elif key is None:
        raise DecryptionError(f"{path} is encrypted: give the key that opens it")
    else:
        from ..trust import plain_sections

        (text,) = (b"".join(each.pieces()) for each in plain_sections(container, key) if each.kind == kind)
    manifest = json.loads(text)
    if not isinstance(manifest, dict):
        raise FormatError(f"{path} is damaged: its manifest is no object")
    return manifest


def _described(name: str, number: int, model: _Model, key: Any, check: bool) -> Version:
    path = model.files[number]
    labels = tuple(sorted(label for label, at in model.labels.current.items() if at == number))
    manifest, problem, record = None, "", _record(path)
    try:
        manifest = _manifest(path, key)
    except Error as error:
        problem = str(error)
    try:
        size = path.stat().st_size
        digest = _sha256(path) if record is None or check else record.sha256
    except OSError as error:
        raise Error(f"{path} cannot be read: {error.strerror or error}") from None
    if record is not None and (digest, size) != (record.sha256, record.bytes):
        problem = f"{path} is not what was added: it has changed since"
    added, source, note = (record.added, record.source, record.note) if record else (None, "", "")
    return Version(
        name, number, path, size, digest, labels, number in model.served, added, source, note, manifest, problem
    )


def _record(path: Path) -> Record | None:
    """What stands beside a file; None if that is nothing, or not ours."""
    if path.name != MODEL_FILE:
        return None
    try:
        return Record(**json.loads((path.parent / RECORD_FILE).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def _copy(source: Path, target: Path, note: str, now: int) -> Record:
    digest, size = hashlib.sha256(), 0
    with _readable(source) as opened, open(target, "xb") as file:
        while piece := opened.read(_PIECE):
            digest.update(piece)
            size += len(piece)
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    return Record(digest.hexdigest(), size, now, source.name, note)


def _readable(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise Error(f"{path} cannot be read: {error.strerror or error}") from None


def _check_whole(copy: Path, source: Path) -> None:
    """That what was copied is a good file, all its hashes included: the source may have been written to meanwhile."""
    try:
        _container.read(copy, verify_weights=True)
    except FormatError as error:
        raise FormatError(str(error).replace(str(copy), str(source))) from None


def _write(path: Path, data: bytes) -> None:
    with open(path, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _flush(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()


@contextmanager
def _hidden_folder(parent: Path) -> Iterator[Path]:
    """A folder that nobody looks at, locked so that it can be told from one whose command was killed; gone at the end, unless it was renamed."""
    path = _hidden_name(parent)
    with locked_folder(parent):  # or it could be taken for one that was left
        path.mkdir()
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(descriptor)


def _hidden_name(parent: Path) -> Path:
    return parent / f"{_HIDDEN}{secrets.token_hex(8)}"


def _is_left(path: Path) -> bool:
    """Whether nobody is at it any more."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EWOULDBLOCK, errno.EACCES)
    finally:
        os.close(descriptor)
    return True


def _whole(path: Path) -> Path:
    """What goes with a version: its folder, or a file alone."""
    return path.parent if path.name == MODEL_FILE else path


def _hide(path: Path) -> Path:
    """Out of sight in one step: nobody sees half of it."""
    hidden = _hidden_name(path.parent)
    os.rename(path, hidden)
    return hidden


def _rollback_targets(model: _Model) -> set[int]:
    found = set()
    for label in model.labels.current:
        with suppress(InvalidArgumentError):  # it was on no other
            found.add(model.labels.rollback(label, model.files).current[label])
    return found
