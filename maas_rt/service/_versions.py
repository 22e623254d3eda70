"""Versions of a model: which of those that are there are served, what they are called, and which one a request means."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from .._errors import InvalidArgumentError
from ._errors import Kind, ServiceError, shown

V = TypeVar("V")
DEFAULT_LABEL = "production"  # what a request means that names no version, where the label is set
_LABEL = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,62}")
_DIGITS = re.compile(r"[1-9][0-9]{0,17}")


def version_number(text: str) -> int | None:
    """A version as folders and requests write it: digits, from 1 on, without leading zeros; None for anything else."""
    return int(text) if _DIGITS.fullmatch(text) else None


@dataclass(frozen=True)
class Policy:
    """Which versions are served: the `latest` so many, those in `specific`, or all if both are None."""

    latest: int | None = None
    specific: frozenset[int] | None = None

    @classmethod
    def read(cls, value: object) -> Policy:
        """A config's `versions`: "all", {latest = 2} or [3, 7]."""
        if value == "all":
            return cls()
        if isinstance(value, dict) and set(value) == {"latest"} and _is_version(value["latest"]):
            return cls(latest=value["latest"])
        if isinstance(value, list) and value and all(_is_version(each) for each in value):
            return cls(specific=frozenset(value))
        raise InvalidArgumentError(
            f'versions is {value!r} and must be "all", {{latest = 2}} or a list of versions, as [3, 7]'
        )

    def select(self, present: Iterable[int]) -> tuple[int, ...]:
        """Those of the versions that are there which are served, lowest first."""
        versions = sorted(set(present))
        if self.latest is not None:
            return tuple(versions[-self.latest :])
        return tuple(each for each in versions if self.specific is None or each in self.specific)


@dataclass(frozen=True)
class Labels:
    """Names for versions, and which version each named before, the last one last. A change makes a new object."""

    current: Mapping[str, int] = field(default_factory=dict)
    before: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @classmethod
    def read(cls, value: object) -> Labels:
        """A config's `labels`: a table of versions by label."""
        if not isinstance(value, dict):
            raise InvalidArgumentError(f"labels is {value!r} and must be a table of versions, as {{production = 3}}")
        labels = cls()
        for label, version in value.items():
            labels = labels.set(label, version)
        return labels

    def set(self, label: str, version: int) -> Labels:
        """With the label on this version."""
        if not _LABEL.fullmatch(label):
            raise InvalidArgumentError(
                f"{label!r} is no label: it begins with a letter and has letters, digits, '_', '.' and '-', 63 at most"
            )
        if not _is_version(version):
            raise InvalidArgumentError(
                f"label {label!r} is on {version!r} and must be on a version, a number from 1 on"
            )
        old = self.current.get(label)
        if old is None or old == version:
            return Labels({**self.current, label: version}, self.before)
        before = (*self.before.get(label, ()), old)[-_KEPT:]
        return Labels({**self.current, label: version}, {**self.before, label: before})

    def remove(self, label: str) -> Labels:
        """Without the label."""
        self._version(label)
        return Labels(_without(self.current, label), _without(self.before, label))

    def rollback(self, label: str = DEFAULT_LABEL, present: Collection[int] | None = None) -> Labels:
        """With the label on the version that it was on before; `present`: on the last one of these."""
        now = self._version(label)
        before = self.before.get(label, ())
        for end in range(len(before) - 1, -1, -1):
            if before[end] != now and (present is None or before[end] in present):
                return Labels({**self.current, label: before[end]}, {**self.before, label: before[:end]})
        raise InvalidArgumentError(
            f"label {label!r} is on version {now}, and was on no other before that is still there"
        )

    def follow(self, old: Labels, new: Labels) -> Labels:
        """With the changes from `old` to `new` made to these: what a file has changed holds, what else was set here stays."""
        labels = self
        for label, version in new.current.items():
            if old.current.get(label) != version:
                labels = labels.set(label, version)
        for label in old.current:
            if label not in new.current and label in labels.current:
                labels = labels.remove(label)
        return labels

    def _version(self, label: str) -> int:
        if label not in self.current:
            raise InvalidArgumentError(f"there is no label {label!r}{_listed('; the labels are ', self.current)}")
        return self.current[label]


_KEPT = 32  # versions that a label can be rolled back to


def served(present: Collection[int], policy: Policy, labels: Labels) -> tuple[int, ...]:
    """The versions that are served: those of the policy, and those that have a label, lowest first."""
    labelled = set(labels.current.values()) & set(present)
    return tuple(sorted({*policy.select(present), *labelled}))


def resolve(
    model: str, wanted: str | None, ready: Collection[int], labels: Labels, present: Collection[int] = ()
) -> int:
    """The version that a request means by a number, a label or nothing.

    Nothing is the label "production" if it is set, else the highest that is ready. `present` are versions that are known and perhaps
    not ready.

    Raises:
        ServiceError: NOT_FOUND for what is not known, NOT_READY for what is.
    """
    known = {*ready, *present}
    if wanted is None and DEFAULT_LABEL not in labels.current:
        if not ready:
            raise ServiceError(Kind.NOT_READY, f"no version of model {shown(model)} is ready", 1)
        return max(ready)
    name = DEFAULT_LABEL if wanted is None else wanted
    number = labels.current.get(name, version_number(name))
    what = (
        f"version {shown(name)}"
        if number is None or name not in labels.current
        else f"version {number}, labelled {shown(name)},"
    )
    if number is None or number not in known:
        told = _listed("; it has ", [str(each) for each in sorted(known)] + sorted(labels.current))
        raise ServiceError(Kind.NOT_FOUND, f"no {what} of model {shown(model)}{told}")
    if number not in ready:
        raise ServiceError(Kind.NOT_READY, f"{what} of model {shown(model)} is not ready", 1)
    return number


def _is_version(value: object) -> bool:
    return type(value) is int and 0 < value < 10**18


def _without(table: Mapping[str, V], key: str) -> dict[str, V]:
    return {name: value for name, value in table.items() if name != key}


def _listed(prefix: str, names: Iterable[str]) -> str:
    shown = list(names)
    return f"{prefix}{', '.join(shown)}" if shown else ""
