"""One version of one model that is served."""

from __future__ import annotations

from dataclasses import dataclass

from .._errors import InvalidArgumentError
from .._model import Model
from ._batcher import batches
from ._cache import ResponseCache
from ._compatible import Interface
from ._config import Scheduling
from ._prepared import Preparations
from ._scheduler import Scheduler
from ._signature import Signature
from ._statistics import Statistics
from ._timer import Timer


@dataclass(frozen=True)
class Served:
    """`stateful`: it keeps states between runs; `draws`: its runs draw random numbers; `prepared`: for requests that are like one before."""

    name: str
    version: str
    model: Model
    signature: Signature
    scheduling: Scheduling
    scheduler: Scheduler
    statistics: Statistics
    stateful: bool
    draws: bool
    cache: ResponseCache | None = None
    prepared: Preparations | None = None

    @classmethod
    def of(cls, name: str, version: str, model: Model, scheduling: Scheduling, timer: Timer, cache: int = 0) -> Served:
        """Raises InvalidArgumentError if the model does not take what its config asks for: batches, or a cache of so many bytes."""
        signature, statistics = Signature.of(model), Statistics()
        if scheduling.batching is not None:
            _check_batching(model, signature, scheduling.batching.max_rows)
        if cache and (model.states or model.draws):
            why = "keeps states between runs" if model.states else "draws random numbers"
            raise InvalidArgumentError(
                f"response_cache is enabled, and the model {why}: what it answered it need not answer again"
            )
        scheduler = Scheduler(name, model, scheduling, timer, statistics)
        kept = ResponseCache(cache) if cache else None
        stateful = bool(model.states)
        prepared = None if stateful or model.draws or cache else Preparations(model)
        return cls(
            name, version, model, signature, scheduling, scheduler, statistics, stateful, model.draws, kept, prepared
        )

    @property
    def interface(self) -> Interface:
        """What clients see of it."""
        return Interface.of_model(self.model.inputs, self.model.outputs, self.model.manifest)


def _check_batching(model: Model, signature: Signature, rows: int) -> None:
    if not batches(signature):
        raise InvalidArgumentError(
            f"max_batch_size is {rows}, and the model takes no batches: the first dimension of all its inputs and outputs must be one "
            "open extent"
        )
    most = min((info.bounds[0][1] or rows for info in model.inputs), default=rows)
    if rows > most:
        raise InvalidArgumentError(f"max_batch_size is {rows}, and the model takes {most} rows at most")
