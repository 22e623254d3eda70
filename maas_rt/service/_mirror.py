"""A repository behind a URL: what lies there is copied to a folder of this machine, which is served.

Any URL that fsspec reads will do (s3://bucket/models, gs://, abfs://, https://, ...). A file is fetched when its size or its tag (ETag, hash,
time of its last change) is another than when it was fetched last; it appears when it is whole, was not changed meanwhile, and has the size
that it should have. What cannot be read, or is empty all of a sudden, changes nothing. A URL that hangs keeps nobody waiting: each look has
a thread of its own, which is left behind when nothing comes for so long.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import re
import secrets
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

from .._errors import Error, MissingExtraError
from .._whole_file import whole_file
from ._config import CONFIG_FILE
from ._errors import Kind, ServiceError
from ._labels_file import LABELS_FILE
from ._layout import SUFFIX

_LOGGER = logging.getLogger(__name__)
_STATE = ".mirror.json"
_LOCK = ".lock"
_PIECE = 1 << 20
_MOST_LEFT = 4  # looks that hang, beyond which no other is begun
_PLACES = 64  # of one URL on one machine
_PAPERS = (CONFIG_FILE, LABELS_FILE)
_TAGS = (
    "ETag",
    "etag",
    "md5Hash",
    "md5",
    "checksum",
    "generation",
    "mtime",
    "LastModified",
    "last_modified",
    "updated",
    "created",
)
_Tags = Mapping[str, str]


def is_url(directory: str) -> bool:
    """Whether it is a URL, and no folder of this machine."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*(::[^/]*)?://", directory) is not None


def shown_url(url: str) -> str:
    """A URL without the password that may be in it."""
    return re.sub(r"://[^/@]*@", "://", url)


class Mirror:
    """The copy of what a URL leads to. Any thread may call anything.

    Args:
        cache: the folder for copies; None: maas-rt in the user's folder for such things.
        patience: seconds in which something must come.
        options: for fsspec, as the endpoint of an S3 server.

    Raises:
        MissingExtraError: fsspec, or what it needs for this URL, is not installed.
        Error: the copy has no place.
    """

    def __init__(
        self, url: str, cache: Path | None = None, *, patience: float = 60.0, options: Mapping[str, Any] | None = None
    ) -> None:
        self._url = url
        self._patience = patience
        self._options = dict(options or {})
        self._open()  # what is missing is told now
        self._lock_descriptor, self.folder = _place(cache or _default_cache(), url)
        self._changing = threading.Lock()
        self._generation = 0  # of the look that may change the folder
        self._progress = 0.0
        self._left: list[threading.Thread] = []
        self._told = ""
        self._closed = threading.Event()

    @property
    def url(self) -> str:
        """For people."""
        return shown_url(self._url)

    def start(self, interval: float) -> None:
        """The first look, and more of them every so many seconds; 0: no more.

        Raises:
            Error: nothing could be read, and there is no copy from before.
        """
        error = self.look()
        if error and not (self.folder / _STATE).is_file():
            raise Error(f"{self.url} cannot be read: {error}")
        if error:
            _LOGGER.warning("%s cannot be read (%s); what was copied is served", self.url, error)
        if interval:
            threading.Thread(target=self._watch, args=(interval,), name="maas_rt_mirror", daemon=True).start()

    def close(self) -> None:
        """No more looks. One that is under way changes nothing any more."""
        self._closed.set()
        self._generation += 1
        os.close(self._lock_descriptor)

    def refresh(self) -> None:
        """A look now, for what is asked to be loaded.

        Raises:
            ServiceError: NOT_READY.
        """
        error = self.look()
        if error:
            raise ServiceError(Kind.NOT_READY, f"the repository cannot be read ({error}); what is loaded goes on", 5)

    def look(self) -> str:
        """Copies what has changed, for as long as something comes. Returns why it could not; empty if all is as it is there."""
        with self._changing:
            self._left = [thread for thread in self._left if thread.is_alive()]
            if len(self._left) >= _MOST_LEFT:
                return f"{len(self._left)} attempts hang"
            self._generation += 1
            ended: list[str] = []
            self._progress = time.monotonic()
            thread = threading.Thread(
                target=self._attempt, args=(self._generation, ended), name="maas_rt_mirror_look", daemon=True
            )
            thread.start()
            while thread.is_alive():
                if time.monotonic() - self._progress > self._patience:
                    self._generation += 1
                    self._left.append(thread)
                    return f"nothing came for {self._patience:g} s"
                thread.join(0.05)
            return ended[0]

    def _watch(self, interval: float) -> None:
        while not self._closed.wait(interval):
            error = self.look()
            if error and error != self._told:
                _LOGGER.warning("%s cannot be read (%s); what is loaded goes on", self.url, error)
            self._told = error

    def _attempt(self, generation: int, ended: list[str]) -> None:
        try:
            self._copy(generation)
            ended.append("")
        except (Exception, SystemExit) as error:  # whatever the file system's library raises
            ended.append(_reason(error).replace(self._url, self.url))

    def _copy(self, generation: int) -> None:
        files, root = self._open()
        files.invalidate_cache()
        found = dict(self._listed(files, root))
        self._came(generation)
        if not found:
            raise Error("it holds no model")
        state = self._state()
        changing = [name for name, (_, size, tags) in found.items() if not self._is_here(name, size, tags, state)]
        failed = []
        # A model's file before what labels it.
        for name in sorted(changing, key=lambda each: (PurePosixPath(each).name in _PAPERS, each)):
            path, size, tags = found[name]
            try:
                if self._fetch(generation, files, path, name, size):
                    state[name] = [size, tags, (self.folder / name).stat().st_mtime_ns]
                    self._save(generation, state)
            except Exception as error:  # the others are not left as they were for one
                failed.append(f"{name}: {_reason(error)}")
        self._came(generation)
        for name in set(self._names()) - set(found):
            (self.folder / name).unlink(missing_ok=True)
            for parent in (self.folder / name).parents:
                if parent == self.folder:
                    break
                with suppress(OSError):  # something is left in it
                    parent.rmdir()
        self._save(generation, {name: state[name] for name in found if name in state})
        if failed:
            raise Error("; ".join(failed[:3]) + (f" and {len(failed) - 3} more" if len(failed) > 3 else ""))

    def _listed(self, files: Any, root: str) -> Iterator[tuple[str, tuple[str, int, _Tags]]]:
        """Name, path, size and tags of each file that a repository has."""
        for path, info in files.find(root, detail=True).items():
            if not str(path).startswith(f"{root}/"):
                continue
            name = PurePosixPath(str(path)[len(root) :].lstrip("/"))
            parts = name.parts
            if not 1 <= len(parts) <= 3 or any(part.startswith(".") or "\0" in part for part in parts):
                continue
            if name.suffix == SUFFIX or name.name in _PAPERS:
                yield str(name), (path, int(info["size"]), _tags(info))

    def _fetch(self, generation: int, files: Any, path: str, name: str, size: int) -> bool:
        """Whether the file is here now; not if it has changed meanwhile: the next look takes it."""
        beside = self.folder / f".{secrets.token_hex(8)}.part"
        try:
            before = files.info(path)
            with files.open(path, "rb") as source, open(beside, "xb") as target:
                while piece := source.read(_PIECE):
                    self._came(generation)
                    target.write(piece)
                target.flush()
                os.fsync(target.fileno())
                fetched = target.tell()
            files.invalidate_cache()
            after = files.info(path)
            if fetched != size or int(after["size"]) != size or _tags(before) != _tags(after):
                _LOGGER.info("%s of %s has changed while it was read", name, self.url)
                return False
            self._came(generation)
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(beside, self.folder / name)
            return True
        finally:
            beside.unlink(missing_ok=True)

    def _came(self, generation: int) -> None:
        """Something has come; ends a look that was left behind."""
        if generation != self._generation:
            raise SystemExit
        self._progress = time.monotonic()

    def _is_here(self, name: str, size: int, tags: _Tags, state: Mapping[str, Any]) -> bool:
        """Whether the copy is of this file, and nobody was at it."""
        try:
            status = (self.folder / name).stat()
        except OSError:
            return False
        return status.st_size == size and bool(state.get(name) == [size, tags, status.st_mtime_ns])

    def _names(self) -> Iterator[str]:
        for path in self.folder.rglob("*"):
            name = path.relative_to(self.folder)
            if path.is_file() and not any(part.startswith(".") for part in name.parts):
                yield name.as_posix()

    def _state(self) -> dict[str, Any]:
        """Of what was fetched: size, tags, and the time of the copy's last change."""
        try:
            found = json.loads((self.folder / _STATE).read_bytes())
            return found if isinstance(found, dict) else {}
        except (OSError, ValueError):
            return {}

    def _save(self, generation: int, state: Mapping[str, Any]) -> None:
        self._came(generation)
        with whole_file(self.folder / _STATE) as file:
            file.write(json.dumps(state, indent=1, sort_keys=True).encode())

    def _open(self) -> tuple[Any, str]:
        """The file system and the path in it; anew each time, for one that hangs may not be the same again."""
        try:
            from fsspec.core import url_to_fs
        except ModuleNotFoundError as error:
            raise MissingExtraError(f"a repository at {self.url}", "remote", error.name or "fsspec") from None
        try:
            files, root = url_to_fs(self._url, skip_instance_cache=True, **self._options)
        except (ImportError, ValueError) as error:
            raise Error(f"{self.url} cannot be read: {error}") from None
        return files, str(root).rstrip("/")


def _reason(error: BaseException) -> str:
    return str(getattr(error, "strerror", None) or str(error).partition("\n")[0] or type(error).__name__)


def _tags(info: Mapping[str, Any]) -> _Tags:
    return {name: str(info[name]) for name in _TAGS if info.get(name) is not None}


def _default_cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(home) / "maas-rt" / "mirror"


def _place(cache: Path, url: str) -> tuple[int, Path]:
    """A folder for the copy that no other process uses, and the lock that keeps it so: the same one again, if it is free."""
    name = hashlib.sha256(url.encode()).hexdigest()[:16]
    for number in range(_PLACES):
        folder = cache / (name if number == 0 else f"{name}-{number}")
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise Error(
                f"{folder} cannot be written: {error.strerror or error}; give another folder with --cache"
            ) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            continue
        for left in folder.glob(".*.part"):
            left.unlink(missing_ok=True)
        return descriptor, folder
    raise Error(f"{cache} has {_PLACES} copies of {shown_url(url)} that are in use: give another folder with --cache")
