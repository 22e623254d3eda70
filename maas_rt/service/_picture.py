"""What a repository serves, as one process tells it to others: they become the same without a look at the folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ._config import ModelConfig, Scheduling, Warmup
from ._labels_file import StoredLabels
from ._versions import Labels

Stamp = tuple[int, int, int]
Look = tuple[Stamp, object]  # at a file, and at what of the config its load depends on


@dataclass(frozen=True)
class Taken:
    """A version that serves: its file, by a key, the bytes of memory that it counts for, and what of its config it was taken with."""

    key: str
    path: Path
    size: int
    scheduling: Scheduling
    warmup: Warmup
    cache: int


@dataclass(frozen=True)
class ModelPicture:
    """A model. The fields are those of its Record."""

    taken: Mapping[int, Taken]
    dormant: Mapping[int, Path]
    looked: Mapping[int, Look]
    reasons: Mapping[int, str]
    config: ModelConfig
    stored: StoredLabels | None
    said: Labels
    labels: Labels
    unkept: str
    unloaded: bool
    bound: ModelConfig | None


@dataclass(frozen=True)
class Picture:
    """All models, and what the folder holds that is not served."""

    models: Mapping[str, ModelPicture]
    told: tuple[str, ...]

    @property
    def keys(self) -> frozenset[str]:
        """The files that it names."""
        return frozenset(taken.key for model in self.models.values() for taken in model.taken.values())
