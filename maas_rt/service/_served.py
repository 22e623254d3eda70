"""One version of one model, or a pipeline of models, that is served."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .._errors import InvalidArgumentError
from .._model import Model, State
from ._batcher import batches
from ._cache import ResponseCache
from ._compatible import Interface, differences
from ._config import ModelConfig, Scheduling
from ._datatypes import BYTES, Array
from ._graph import Graph
from ._padding import Padding
from ._pipeline import Pipeline
from ._pipeline_scheduler import PipelineScheduler
from ._prepared import MessagePreparations, Preparations
from ._scheduler import Scheduler
from ._signature import Signature
from ._statistics import Statistics
from ._timer import Timer


@dataclass(frozen=True)
class Served:
    """`interface`: what clients see of it; `stateful`: it keeps states between runs; `draws`: its runs draw random numbers; `prepared`, `messages`: for
    requests that are like one before."""

    name: str
    version: str
    model: Model | Pipeline
    signature: Signature
    interface: Interface
    scheduling: Scheduling
    scheduler: Scheduler | PipelineScheduler
    statistics: Statistics
    stateful: bool
    draws: bool
    cache: ResponseCache | None = None
    prepared: Preparations | None = None
    messages: MessagePreparations | None = None

    @classmethod
    def of(cls, name: str, version: str, model: Model, scheduling: Scheduling, timer: Timer, cache: int = 0) -> Served:
        """Raises InvalidArgumentError if the model does not take what its config asks for: batches, or a cache of so many bytes."""
        signature, statistics = Signature.of(model), Statistics()
        if scheduling.batching is not None:
            _check_batching(model, signature, scheduling.batching.max_rows)
        strings = [spec.name for spec in signature.inputs if spec.datatype is BYTES]
        padding = Padding.of(model.inputs, model.outputs, scheduling.pad, strings)
        if cache and (model.states or model.draws):
            why = "keeps states between runs" if model.states else "draws random numbers"
            raise InvalidArgumentError(
                f"response_cache is enabled, and the model {why}: what it answered it need not answer again"
            )
        interface = Interface.of_model(model.inputs, model.outputs, model.manifest)
        scheduler = Scheduler(name, model, scheduling, timer, statistics, padding)
        kept = ResponseCache(cache) if cache else None
        stateful = bool(model.states)
        is_plain = not (stateful or model.draws or cache)
        return cls(
            name,
            version,
            model,
            signature,
            interface,
            scheduling,
            scheduler,
            statistics,
            stateful,
            model.draws,
            kept,
            Preparations(model) if is_plain else None,
            MessagePreparations(model) if is_plain else None,
        )

    @classmethod
    def of_pipeline(
        cls,
        name: str,
        version: str,
        graph: Graph,
        members: Sequence[Served],
        config: ModelConfig,
        statistics: Statistics | None = None,
    ) -> Served:
        """A pipeline on these versions, one for each of its steps; what was counted so far goes on if it is given.

        Raises InvalidArgumentError if they do not fit together, or a cache is asked for and one of them draws random numbers.
        """
        pipeline = Pipeline.of(graph, members)
        if config.cache and pipeline.draws:
            step = next(step.name for step, member in zip(graph.steps, members) if member.draws)
            raise InvalidArgumentError(
                f"response_cache is enabled, and step {step!r} draws random numbers: what it answered it need not answer again"
            )
        counted = statistics or Statistics()
        scheduler = PipelineScheduler(name, pipeline, counted)
        kept = ResponseCache(config.cache) if config.cache else None
        return cls(
            name,
            version,
            pipeline,
            pipeline.signature,
            pipeline.interface,
            config.scheduling,
            scheduler,
            counted,
            stateful=False,
            draws=pipeline.draws,
            cache=kept,
        )

    @property
    def is_pipeline(self) -> bool:
        """Whether its model is one."""
        return isinstance(self.model, Pipeline)

    def state(self) -> State:
        """A new one, as it is declared, of a model that keeps states."""
        assert isinstance(self.model, Model)
        return self.model.state()

    def rows(self, arrays: dict[str, Array]) -> int | None:
        """The rows of a request that others may be put together with; None: it runs alone."""
        if not self.scheduler.batches or self.draws:
            return None
        extents = {array.shape[0] for array in arrays.values()}
        return extents.pop() if len(extents) == 1 else None


def check_compatible(old: Served, new: Served) -> None:
    """Raises InvalidArgumentError if clients of the one cannot go on with the other."""
    found = differences(old.interface, new.interface)
    if found:
        raise InvalidArgumentError(
            f"it cannot take the place of version {old.version}, which goes on: {'; '.join(found)}; replace_incompatible = true in config.toml "
            "would let it, and so would another name"
        )


def _check_batching(model: Model, signature: Signature, rows: int) -> None:
    if not batches(signature):
        raise InvalidArgumentError(
            f"max_batch_size is {rows}, and the model takes no batches: the first dimension of all its inputs and outputs must be one "
            "open extent"
        )
    most = min((info.bounds[0][1] or rows for info in model.inputs), default=rows)
    if rows > most:
        raise InvalidArgumentError(f"max_batch_size is {rows}, and the model takes {most} rows at most")
