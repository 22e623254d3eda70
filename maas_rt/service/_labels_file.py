"""A model's labels.json: the labels that were set by a command or a request, kept beside the model.

    {"labels": {"production": {"version": 4, "before": [2, 3]}, "canary": {"version": 5, "before": []}}, "config": {"production": 3}}

config.toml is its owner's and is never written to. `config` holds its labels as they were when a label was last set here: what it has
changed since then holds (Labels.follow), so that of the two files the one that was changed last wins, label by label.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .._errors import Error, InvalidArgumentError
from .._whole_file import whole_file
from ._folder_lock import locked_folder
from ._versions import Labels

LABELS_FILE = "labels.json"


@dataclass(frozen=True)
class StoredLabels:
    """What the file holds: labels, and those of the config that they follow."""

    labels: Labels = field(default_factory=Labels)
    config: Labels = field(default_factory=Labels)

    def with_config(self, config: Labels) -> Labels:
        """The labels that hold, where the config's are these now."""
        return self.labels.follow(self.config, config)


def read_labels(path: Path) -> StoredLabels | None:
    """A labels.json; None if there is none. Raises InvalidArgumentError if it is none of ours, OSError if it cannot be read."""
    try:
        text = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise InvalidArgumentError("it is not JSON in UTF-8; `maas-rt repo label` makes such a file") from None
    if not isinstance(document, dict) or set(document) != {"labels", "config"}:
        raise InvalidArgumentError('it must be an object with "labels" and "config"')
    return StoredLabels(_labels(document["labels"]), Labels.read(document["config"]))


def change_labels(folder: Path, change: Callable[[StoredLabels | None], StoredLabels]) -> StoredLabels:
    """Replaces what a model's folder holds by what `change` makes of it; one who changes it at a time.

    Raises:
        InvalidArgumentError: the file is none of ours, or what `change` raises.
        Error: it cannot be read or written.
    """
    path = folder / LABELS_FILE
    with locked_folder(folder):
        try:
            was = read_labels(path)
        except InvalidArgumentError as error:
            raise InvalidArgumentError(f"{path}: {error}") from None
        except OSError as error:
            raise Error(f"{path} cannot be read: {error.strerror or error}") from None
        stored = change(was)
        if stored != was:
            with whole_file(path) as file:
                file.write(_dump(stored))
    return stored


def _labels(value: Any) -> Labels:
    if not isinstance(value, dict):
        raise InvalidArgumentError("labels must be an object")
    labels = Labels()
    for name, fields in value.items():
        if (
            not isinstance(fields, dict)
            or set(fields) != {"version", "before"}
            or not isinstance(fields["before"], list)
        ):
            raise InvalidArgumentError(f'label {name!r} must be an object with "version" and a list "before"')
        for version in (*fields["before"], fields["version"]):
            labels = labels.set(name, version)
    return labels


def _dump(stored: StoredLabels) -> bytes:
    labels = {
        name: {"version": version, "before": list(stored.labels.before.get(name, ()))}
        for name, version in sorted(stored.labels.current.items())
    }
    return (
        json.dumps({"labels": labels, "config": dict(sorted(stored.config.current.items()))}, indent=1) + "\n"
    ).encode()
