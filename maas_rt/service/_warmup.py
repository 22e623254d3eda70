"""A version runs before it serves, on zeros: what a first run sets up (memory, layouts, pages of weights) is there for the first request."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from .._errors import DeadlineExceededError, Error, InvalidArgumentError
from .._model import Model
from .._tensor_info import TensorInfo
from ._config import Scheduling, Warmup
from ._datatypes import Array
from ._errors import Kind, kind_of

_LOGGER = logging.getLogger(__name__)
_Shapes = Mapping[str, Sequence[int]]


def warm_up(name: str, model: Model, scheduling: Scheduling, warmup: Warmup) -> None:
    """Runs the shapes of the config, or one of each batch size that the scheduling names, as small as the model takes them, and the largest that is
    padded.

    Runs that nobody asked for may find fault with zeros, and are over when their time is: neither says anything of the model.

    Raises:
        Error: a run has failed for another reason, or one of the config's has.
    """
    end = time.monotonic() + warmup.timeout / 1e9
    for shapes in warmup.shapes or _smallest(model, scheduling):
        left = end - time.monotonic()
        if left <= 0:
            return
        try:
            inputs = _zeros(model, shapes)
            model.run(
                inputs, deadline=left, state=model.state() if model.states else None, seed=0 if model.draws else None
            )
        except DeadlineExceededError:
            _LOGGER.info("%s: the time of its warm-up is over", name)
            return
        except Exception as error:
            if warmup.shapes:
                raise InvalidArgumentError(f"its warm-up with {_told(shapes)} fails: {error}") from None
            if kind_of(error) is not Kind.BAD_REQUEST:
                raise Error(f"its first run fails: {error or type(error).__name__}") from None
            _LOGGER.info("%s is not warmed up with zeros of %s: %s", name, _told(shapes), error)


def _smallest(model: Model, scheduling: Scheduling) -> Iterator[_Shapes]:
    batching = scheduling.batching
    sizes: list[int | None] = [None]
    if batching is not None:
        sizes = [*sorted({1, *batching.preferred, batching.max_rows})]
    for rows in sizes:
        yield _shapes(model, rows)
    if batching is not None and scheduling.pad:  # what is padded is as long as this
        shapes = _shapes(model, batching.max_rows)
        for name, pad in scheduling.pad.items():
            shapes[name][pad.axis] = pad.to[-1]
        yield shapes


def _shapes(model: Model, rows: int | None) -> dict[str, list[int]]:
    """As small as it takes them, but for the rows."""
    least = {info.name: _least(info) for info in model.inputs}
    return {name: shape if rows is None else [rows, *shape[1:]] for name, shape in least.items()}


def _least(info: TensorInfo) -> list[int]:
    multiples = info.multiples or [1] * len(info.shape)
    return [
        extent if isinstance(extent, int) else -(-max(1, least) // multiple) * multiple
        for extent, (least, _), multiple in zip(info.shape, info.bounds, multiples)
    ]


def _zeros(model: Model, shapes: _Shapes) -> dict[str, Array]:
    known = {info.name: info for info in model.inputs}
    wrong = sorted(set(shapes) ^ set(known))
    if wrong:
        raise InvalidArgumentError(f"it must have a shape for each of {', '.join(known)}, and no other ({wrong[0]!r})")
    return {name: np.zeros(shape, _dtype(known[name])) for name, shape in shapes.items()}


def _dtype(info: TensorInfo) -> np.dtype[np.generic]:
    try:
        return np.dtype(info.dtype)
    except TypeError:
        pass
    try:
        import ml_dtypes

        found: np.dtype[np.generic] = np.dtype(getattr(ml_dtypes, info.dtype))
    except (ModuleNotFoundError, AttributeError):
        raise InvalidArgumentError(f"numpy has no {info.dtype}") from None
    return found


def _told(shapes: _Shapes) -> str:
    return ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
