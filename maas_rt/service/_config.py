"""A model's config.toml: which versions are served, what they are called, and how requests wait for them.

What Triton's model configuration has, too, has its names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .._errors import InvalidArgumentError
from ._batcher import BatchPolicy
from ._graph import Graph
from ._padding import Pad
from ._tables import MOST, check_names, read_flag, read_number, read_table
from ._versions import Labels, Policy

CONFIG_FILE = "config.toml"


@dataclass(frozen=True)
class Scheduling:
    """How requests wait for a version. Times are nanoseconds.

    Args:
        batching: how they are put together; None: each is run on its own.
        instances: the most runs at once; 0: one for each CPU.
        queue: the most requests that wait; one more is refused.
        latency: what would be answered later is refused at once; 0: no bound.
        timeout: that of a request that has none; 0: none.
        priority: that of a request that has none, 1 or more; 0, of a pipeline: that of each of its models.
        pad: inputs that are padded, by name, so that requests of different lengths are put together.
    """

    batching: BatchPolicy | None = None
    instances: int = 0
    queue: int = 1024
    latency: int = 0
    timeout: int = 0
    priority: int = 1
    pad: Mapping[str, Pad] = field(default_factory=dict)


@dataclass(frozen=True)
class Warmup:
    """Runs before a version serves. `timeout`: nanoseconds of all of them, 0: none; `shapes`: of the inputs, by name, for each run."""

    timeout: int = 1_000_000_000
    shapes: tuple[Mapping[str, tuple[int, ...]], ...] = ()


@dataclass(frozen=True)
class ModelConfig:
    """A model's config.toml.

    Args:
        policy: the versions that are served, all by default.
        replace_incompatible: a version may take the place of one whose inputs and outputs are others.
        cache: bytes of answers that are kept of each version; 0: none.
        pipeline: what is served in a file's place; None: a file is.
    """

    policy: Policy = field(default_factory=Policy)
    labels: Labels = field(default_factory=Labels)
    scheduling: Scheduling = field(default_factory=Scheduling)
    warmup: Warmup = field(default_factory=Warmup)
    replace_incompatible: bool = False
    cache: int = 0
    pipeline: Graph | None = None

    @classmethod
    def read(cls, table: Mapping[str, object]) -> ModelConfig:
        """A parsed file. Raises InvalidArgumentError for what is not known or wrong."""
        if "pipeline" in table:
            return cls._read_pipeline(table)
        check_names(
            table, CONFIG_FILE, {*_KEYS, "versions", "labels", "warmup", "replace_incompatible", "response_cache"}
        )
        return cls(
            Policy.read(table.get("versions", "all")),
            Labels.read(table.get("labels", {})),
            _read_scheduling(table),
            _read_warmup(table),
            read_flag(table, "replace_incompatible"),
            _read_cache(table),
        )

    @classmethod
    def _read_pipeline(cls, table: Mapping[str, object]) -> ModelConfig:
        """What is said of files, of runs and of how requests wait for them is said of the models that it runs."""
        check_names(
            table,
            "config.toml of a pipeline",
            {"pipeline", "labels", "queue", "replace_incompatible", "response_cache"},
        )
        queue = read_table(table, "queue", {"timeout_ms", "priority"})
        return cls(
            labels=Labels.read(table.get("labels", {})),
            scheduling=Scheduling(
                timeout=read_number(queue, "timeout_ms", 0) * 1_000_000, priority=read_number(queue, "priority", 0)
            ),
            replace_incompatible=read_flag(table, "replace_incompatible"),
            cache=_read_cache(table),
            pipeline=Graph.read(table["pipeline"]),
        )


def _read_cache(owner: Mapping[str, object]) -> int:
    table = read_table(owner, "response_cache", {"enable", "size_mib"})
    size = read_number(table, "size_mib", 64, least=1)
    return size << 20 if read_flag(table, "enable") else 0


def _read_warmup(owner: Mapping[str, object]) -> Warmup:
    table = read_table(owner, "warmup", {"timeout_ms", "shapes"})
    shapes = table.get("shapes", [])
    if not isinstance(shapes, list) or not all(_are_shapes(each) for each in shapes):
        raise InvalidArgumentError(
            f"shapes is {shapes!r} and must be a list of tables of the inputs' shapes, as [{{x = [8, 128]}}]"
        )
    runs = tuple({name: tuple(shape) for name, shape in each.items()} for each in shapes)
    return Warmup(read_number(table, "timeout_ms", Warmup.timeout // 1_000_000) * 1_000_000, runs)


def _are_shapes(table: object) -> bool:
    return isinstance(table, dict) and all(
        isinstance(shape, list) and all(type(extent) is int and 0 <= extent <= MOST for extent in shape)
        for shape in table.values()
    )


def _read_scheduling(table: Mapping[str, object]) -> Scheduling:
    dynamic = read_table(table, "dynamic_batching", {"preferred_batch_size", "max_queue_delay_microseconds", "pad"})
    queue = read_table(table, "queue", {"size", "latency_ms", "timeout_ms", "priority"})
    rows = read_number(table, "max_batch_size", 0)
    if dynamic and not rows:
        raise InvalidArgumentError("dynamic_batching needs max_batch_size, the most rows of a batch")
    batching = None
    if rows:
        preferred = dynamic.get("preferred_batch_size", [])
        if not isinstance(preferred, list) or not all(type(each) is int and 1 <= each <= rows for each in preferred):
            raise InvalidArgumentError(
                f"preferred_batch_size is {preferred!r} and must be a list of integers from 1 to max_batch_size"
            )
        delay = read_number(dynamic, "max_queue_delay_microseconds", 0)
        batching = BatchPolicy(rows, delay * 1000, tuple(sorted(preferred)), _AGEING)
    return Scheduling(
        batching,
        read_number(table, "instances", 0),
        read_number(queue, "size", Scheduling.queue),
        read_number(queue, "latency_ms", 0) * 1_000_000,
        read_number(queue, "timeout_ms", 0) * 1_000_000,
        read_number(queue, "priority", Scheduling.priority, least=1),
        _read_pads(dynamic.get("pad", {})),
    )


def _read_pads(table: object) -> dict[str, Pad]:
    if not isinstance(table, dict):
        raise InvalidArgumentError(f"pad is {table!r} and must be a table of inputs, as {{ids = {{to = [16, 32]}}}}")
    return {name: _read_pad(name, each) for name, each in table.items()}


def _read_pad(name: str, table: object) -> Pad:
    what = f"pad of input {name!r}"
    if not isinstance(table, dict):
        raise InvalidArgumentError(
            f"{what} is {table!r} and must be a table, as {{axis = 1, value = 0, to = [16, 32]}}"
        )
    check_names(table, what, {"axis", "value", "to"})
    axis, value, to = table.get("axis", 1), table.get("value", 0), table.get("to")
    if type(axis) is not int or not 1 <= axis <= MOST:
        raise InvalidArgumentError(f"{what}: axis is {axis!r} and must be an integer from 1 on, for rows are on axis 0")
    if not isinstance(value, int | float):
        raise InvalidArgumentError(f"{what}: value is {value!r} and must be a number, or true or false")
    if not isinstance(to, list) or not to or not all(type(each) is int and 1 <= each <= MOST for each in to):
        raise InvalidArgumentError(f"{what}: to is {to!r} and must be a list of lengths from 1 on, as [16, 32]")
    return Pad(axis, value, tuple(sorted(set(to))))


_KEYS = ("max_batch_size", "dynamic_batching", "instances", "queue")
_AGEING = 1_000_000_000  # so that a request of the lowest priority is not passed by for ever
