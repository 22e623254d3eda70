"""What is served: a directory of NAME.mrt and NAME/VERSION.mrt files, loaded once at start."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .._errors import Error, InvalidArgumentError
from .._model import Model, load
from ._signature import Signature


@dataclass(frozen=True)
class Served:
    """One version of one model."""

    name: str
    version: str
    model: Model
    signature: Signature


class Repository:
    """The models of a directory. Raises InvalidArgumentError if it holds none, and the loader's error, with the file's name, for a bad one."""

    def __init__(self, directory: str | Path, threads: int = 0) -> None:
        root = Path(directory)
        if not root.is_dir():
            raise InvalidArgumentError(
                f"{root} is not a directory; serve takes one that holds NAME.mrt or NAME/VERSION.mrt"
            )
        self._models: dict[str, dict[str, Served]] = {}
        for path in sorted(root.glob("*.mrt")):
            self._add(path, path.stem, "1", threads)
        for path in sorted(root.glob("*/*.mrt")):
            if path.stem.isdigit():
                self._add(path, path.parent.name, path.stem, threads)
        if not self._models:
            raise InvalidArgumentError(
                f"{root} holds no model: put NAME.mrt or NAME/VERSION.mrt (as digits/2.mrt) there"
            )

    def _add(self, path: Path, name: str, version: str, threads: int) -> None:
        versions = self._models.setdefault(name, {})
        if version in versions:
            raise InvalidArgumentError(
                f"{path} and another file are both version {version} of model {name!r}; remove one"
            )
        try:
            model = load(path, threads=threads, copy=True)
        except Error as error:
            raise type(error)(f"{path}: {error}") if str(path) not in str(error) else error from None
        versions[version] = Served(name, version, model, Signature.of(model))

    def names(self) -> list[str]:
        """All models, sorted."""
        return sorted(self._models)

    def versions(self, name: str) -> list[str]:
        """A model's versions, lowest first; empty if there is no such model."""
        return sorted(self._models.get(name, {}), key=int)

    def find(self, name: str, version: str | None = None) -> Served | None:
        """A version of a model, by default the highest."""
        versions = self.versions(name)
        if not versions:
            return None
        return self._models[name].get(version or versions[-1])
