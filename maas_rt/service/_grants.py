"""Who asks, and what they may do: verbs, on models that a pattern names."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from .._errors import InvalidArgumentError
from ._limiter import Limits


class Verb(Enum):
    """What a call does. None of them includes another."""

    INFER = "infer"  # run a model
    READ = "read"  # its metadata, configuration, statistics and readiness
    ADMIN = "admin"  # load, unload, label; with no model: settings of the whole server
    METRICS = "metrics"  # those of the whole server
    SHARED_MEMORY = "shared-memory"  # objects of the machine's shared memory are read and written for the client


@dataclass(frozen=True)
class Grant:
    """A verb on the models whose names fit a pattern, in which * is any text and all else is itself. Written "infer:team-*"."""

    verb: Verb
    models: str = "*"

    @classmethod
    def read(cls, text: str) -> Grant:
        """A written grant; the verb alone is for all models. Raises InvalidArgumentError."""
        word, colon, models = text.partition(":")
        try:
            verb = Verb(word)
        except ValueError:
            verbs = ", ".join(each.value for each in Verb)
            raise InvalidArgumentError(
                f"{text!r} is no grant: write VERB or VERB:MODELS, as infer:team-*; the verbs are {verbs}"
            ) from None
        if colon and not models:
            raise InvalidArgumentError(f"{text!r} names no models after its colon; {word} alone is for all of them")
        return cls(verb, models or "*")

    def __str__(self) -> str:
        return self.verb.value if self.models == "*" else f"{self.verb.value}:{self.models}"

    def covers(self, verb: Verb, model: str | None) -> bool:
        """Whether it allows a verb on a model; on none: what concerns the whole server.

        Reading of the server is for all who may read anything: it shows them what they may see.
        """
        if verb is not self.verb:
            return False
        if model is None:
            return self.models == "*" or verb is Verb.READ
        return _fits(model, self.models)


ALL = tuple(Grant(verb) for verb in Verb)


@dataclass(frozen=True)
class Client:
    """Somebody who calls.

    Args:
        name: for limits and logs, as "key:9a1f5c0e7b21d4f3"; of no use as a credential.
        limits: its own; None: those that all share.
        is_known: a credential says who it is; without, several may go by its name.
    """

    name: str
    grants: tuple[Grant, ...]
    limits: Limits | None = None
    is_known: bool = True

    @property
    def owner(self) -> str:
        """Whose things they are that it makes; "" for those of nobody in particular."""
        return self.name if self.is_known else ""

    def may(self, verb: Verb, model: str | None = None) -> bool:
        """Whether one of its grants covers it."""
        return any(grant.covers(verb, model) for grant in self.grants)


def read_grants(words: Iterable[str]) -> tuple[Grant, ...]:
    """Written grants. Raises InvalidArgumentError."""
    return tuple(map(Grant.read, words))


def _fits(name: str, pattern: str) -> bool:
    """Whether a name is what the pattern says, in a time that grows with the product of their lengths at most, whatever they hold."""
    if pattern == "*":
        return True
    first, *rest = pattern.split("*")
    if not rest:
        return name == first
    *middle, last = rest
    if len(name) < len(first) + len(last) or not name.startswith(first) or not name.endswith(last):
        return False
    at, end = len(first), len(name) - len(last)
    for part in middle:  # each as far to the left as it can be
        found = name.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return True
