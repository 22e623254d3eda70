"""A repository's folder: which models and versions lie in it, and what lies in it that is neither.

    ROOT/NAME/VERSION/model.mrt    as Triton and KServe lay it out
    ROOT/NAME/VERSION.mrt
    ROOT/NAME.mrt                  version 1
    ROOT/NAME/config.toml          which versions are served and how (_config); alone, and with [pipeline] in it: version 1, a pipeline
    ROOT/NAME/labels.json          labels that were set by a command or a request (_labels_file)

What begins with a dot is passed over: editors, copies under way and Kubernetes' ConfigMaps (..data) name their own things so.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from .._errors import InvalidArgumentError
from ._config import CONFIG_FILE, ModelConfig
from ._labels_file import LABELS_FILE
from ._versions import version_number

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MODEL_FILE = "model.mrt"
SUFFIX = ".mrt"


@dataclass(frozen=True)
class Surplus:
    """Something in the folder that is not served, and why."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Contents:
    """What a folder holds: the files of each model's versions, each model's config file and file of labels, and the rest."""

    models: Mapping[str, Mapping[int, Path]]
    configs: Mapping[str, Path]
    labels: Mapping[str, Path]
    surplus: tuple[Surplus, ...]
    unread: frozenset[str]  # models with a folder that cannot be read: what else they hold nobody knows

    def with_pipelines(self) -> Contents:
        """With the config files as the first versions of what they describe, where they lie alone and describe a pipeline, or nobody can
        say whether they do."""
        alone = {name: path for name, path in self.configs.items() if name not in {*self.models, *self.unread}}
        pipelines = {name: {1: path} for name, path in alone.items() if _may_be_pipeline(path)}
        return replace(self, models={**self.models, **pipelines})


def scan(root: Path) -> Contents:
    """Reads the folder's names, and no file. What cannot be read in it is told, and keeps nothing else from being found.

    Raises OSError if the folder itself cannot be read: that says nothing of what it holds.
    """
    found = _Found()
    for path, is_folder in _entries(root):
        if is_folder:
            with found.telling(path, path.name):
                _scan_model(path, found)
        elif path.suffix == SUFFIX:
            found.add(path.stem, 1, path)
    return found.contents()


def _scan_model(folder: Path, found: _Found) -> None:
    for path, is_folder in _entries(folder):
        if path.name == CONFIG_FILE and not is_folder:
            found.configs[folder.name] = path
            continue
        if path.name == LABELS_FILE and not is_folder:
            found.labels[folder.name] = path
            continue
        if not is_folder and path.suffix != SUFFIX:
            continue  # a model's own papers
        number = version_number(path.name if is_folder else path.stem)
        if number is None:
            found.tell(path, "its name is no version, a number from 1 on without leading zeros")
        elif not is_folder:
            found.add(folder.name, number, path)
        else:
            with found.telling(path, folder.name):
                if any(each.name == MODEL_FILE and not inner for each, inner in _entries(path)):
                    found.add(folder.name, number, path / MODEL_FILE)
                else:
                    found.tell(path, f"the folder holds no file {MODEL_FILE}")


def _entries(folder: Path) -> list[tuple[Path, bool]]:
    """The paths in a folder, and whether they are folders, in the order of their names."""
    with os.scandir(folder) as entries:
        return sorted((folder / entry.name, entry.is_dir()) for entry in entries if not entry.name.startswith("."))


def read_config(path: Path) -> ModelConfig:
    """A config.toml. Raises InvalidArgumentError for what is not TOML, not known or wrong; OSError if it cannot be read."""
    try:
        return ModelConfig.read(tomllib.loads(path.read_text(encoding="utf-8")))
    except UnicodeDecodeError:
        raise InvalidArgumentError("it is not UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise InvalidArgumentError(f"it is not TOML: {error}") from None


def _may_be_pipeline(path: Path) -> bool:
    try:
        return read_config(path).pipeline is not None
    except (InvalidArgumentError, OSError):
        return True


class _Found:
    """Collects what a scan finds."""

    def __init__(self) -> None:
        self.configs: dict[str, Path] = {}
        self.labels: dict[str, Path] = {}
        self._files: dict[str, dict[int, list[Path]]] = {}
        self._surplus: list[Surplus] = []
        self._unread: set[str] = set()

    def add(self, name: str, version: int, path: Path) -> None:
        if not name.isprintable():
            self.tell(path, f"{name!r} cannot be a model's name, for not all of it can be printed")
        else:
            self._files.setdefault(name, {}).setdefault(version, []).append(path)

    def tell(self, path: Path, reason: str) -> None:
        self._surplus.append(Surplus(path, reason))

    @contextmanager
    def telling(self, path: Path, name: str) -> Iterator[None]:
        """Tells of a folder of a model that cannot be read."""
        try:
            yield
        except OSError as error:
            self._unread.add(name)
            self.tell(path, f"the folder cannot be read: {error.strerror or error}")

    def contents(self) -> Contents:
        models: dict[str, dict[int, Path]] = {}
        for name, versions in self._files.items():
            for version, paths in sorted(versions.items()):
                if len(paths) == 1:
                    models.setdefault(name, {})[version] = paths[0]
                else:  # which one is meant, nobody knows
                    for path in paths:
                        others = ", ".join(str(each) for each in paths if each != path)
                        self.tell(path, f"version {version} of model {name!r} is {others}, too: remove one")
        return Contents(models, self.configs, self.labels, tuple(self._surplus), frozenset(self._unread))
