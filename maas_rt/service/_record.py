"""What a repository knows of each model."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from ._config import ModelConfig
from ._labels_file import StoredLabels
from ._leases import Leased
from ._picture import Look, ModelPicture, Taken
from ._served import Served
from ._versions import DEFAULT_LABEL, Labels


class State(Enum):
    """Of a version, in the words of Triton's repository index."""

    LOADING = "LOADING"
    READY = "READY"
    UNLOADING = "UNLOADING"  # requests that began with it still use it
    UNAVAILABLE = "UNAVAILABLE"


@dataclass(frozen=True)
class Entry:
    """A line of the index; `reason` says why a version is as it is, or why a newer file of it was not taken."""

    name: str
    version: str
    state: State
    reason: str = ""


@dataclass
class Record:
    """A model: its versions that are served, and what is told of the others. Whoever has the catalogue's lock may read it."""

    ready: dict[int, Leased[Served]] = field(default_factory=dict)
    dormant: dict[int, Path] = field(default_factory=dict)  # the files of those that a request loads
    sizes: dict[int, int] = field(default_factory=dict)  # bytes of memory that what is ready counts for
    paths: dict[int, Path] = field(default_factory=dict)  # and where they lie
    taken: dict[int, Taken] = field(
        default_factory=dict
    )  # of those whose files are shared, all there is to tell others
    looked: dict[int, Look] = field(default_factory=dict)  # at what was taken or refused
    reasons: dict[int, str] = field(default_factory=dict)  # of versions whose file was refused
    loading: set[int] = field(default_factory=set)
    draining: list[int] = field(default_factory=list)
    config: ModelConfig = field(default_factory=ModelConfig)
    stored: StoredLabels | None = None  # as the folder has them
    said: Labels = field(default_factory=Labels)  # where the labels are to be: the config's, and what was set
    labels: Labels = field(default_factory=Labels)  # where they are: on what is ready, wherever there is such a version
    unkept: str = ""  # why labels that were set are not in the folder
    unloaded: bool = False  # by a request: only a request loads it again
    bound: ModelConfig | None = None  # of a pipeline: what is served, or is when its models are there
    waits: str = ""  # why what its config says of a pipeline is not

    def picture(self) -> ModelPicture:
        """What others are told of it."""
        return ModelPicture(
            dict(self.taken),
            dict(self.dormant),
            dict(self.looked),
            dict(self.reasons),
            self.config,
            self.stored,
            self.said,
            self.labels,
            self.unkept,
            self.unloaded,
            self.bound,
        )

    def become(self, picture: ModelPicture) -> None:
        """All but the versions that serve, and what is bound."""
        self.dormant = dict(picture.dormant)
        self.looked, self.reasons = dict(picture.looked), dict(picture.reasons)
        self.config, self.stored, self.said, self.labels = picture.config, picture.stored, picture.said, picture.labels
        self.unkept, self.unloaded = picture.unkept, picture.unloaded

    def known(self) -> set[int]:
        return {*self.ready, *self.dormant, *self.reasons, *self.loading}

    def available(self) -> Collection[int]:
        """Those that requests may mean: what is ready, and what they load."""
        return {*self.ready, *self.dormant} if self.dormant else self.ready

    def replaced_by(self, number: int) -> Served | None:
        """The version whose requests this one will get: itself, as its file was before, or the one that those get that name none."""
        if number in self.ready:
            return self.ready[number].value
        highest = max(self.available(), default=0)
        if DEFAULT_LABEL in self.labels.current or number < highest or highest not in self.ready:
            return None
        return self.ready[highest].value

    def settle_labels(self) -> None:
        """Moves the labels to where they are to be, but for those whose version is not ready yet while the one that they are on is."""
        current, available = {}, self.available()
        for label, version in self.said.current.items():
            before = self.labels.current.get(label)
            if before is not None and before in available and version not in available:
                version = before
            current[label] = version
        self.labels = Labels(current, self.said.before)

    def held(self) -> dict[str, int]:
        """The labels that wait for their version, and the version that they are on."""
        return {label: at for label, at in self.labels.current.items() if at != self.said.current[label]}
