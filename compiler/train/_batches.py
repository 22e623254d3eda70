"""Batches in an order that depends on the seed alone, and this process's part of each.

What a step reads is the same for any number of processes: the loader's batch is divided among them, and each part among the accumulated
ones. A position is a number of batches, so that a run may go on with another number of processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from maas_rt._errors import InvalidArgumentError

__all__ = ["Batches", "Part", "inputs_and_target", "rows", "samples_of", "split_batch"]

Forward = Callable[[Any, Any], tuple[Any, Any]]


@dataclass(frozen=True)
class Part:
    """What a process computes at once. `weight` is its part in the mean over the batch's `samples`: the weights of all parts in all
    processes add up to 1."""

    batch: Any
    weight: float
    samples: int


class Batches:
    """The batches of `data`, epoch for epoch.

    `data`: a DataLoader, a dataset, a sequence of tensors with samples along the first axis, or any iterable of batches that begins
    anew each time. Of a DataLoader over a dataset with indices each process reads its own samples alone.
    """

    def __init__(self, data: Any, batch: int, seed: int, *, shuffle: bool = True) -> None:
        if isinstance(data, Tensor) or (isinstance(data, tuple | list) and data and _all_tensors(data)):
            data = _stacked([data] if isinstance(data, Tensor) else data)
        if isinstance(data, Dataset) and not isinstance(data, IterableDataset):
            data = DataLoader(data, batch, shuffle=shuffle and len(data) > 0)  # type: ignore[arg-type]
        elif isinstance(data, IterableDataset):
            data = DataLoader(data, batch)
        if isinstance(data, tuple | list) and any(isinstance(each, np.ndarray) for each in data):
            raise InvalidArgumentError("the data is numpy arrays, expected tensors: give torch.from_numpy of each")
        if not isinstance(data, Iterable) or isinstance(data, Iterator):
            raise InvalidArgumentError(
                f"the data is a {type(data).__name__}, expected a DataLoader, a dataset, tensors, or an iterable of batches that can begin anew"
            )
        self._data: Any = data
        self._seed = seed
        indexed = isinstance(data, DataLoader) and data.batch_sampler is not None
        self._by_index = indexed and not isinstance(data.dataset, IterableDataset)  # type: ignore[attr-defined]

    def __len__(self) -> int:
        """Batches of an epoch; TypeError where nobody knows."""
        if isinstance(self._data, DataLoader) and isinstance(self._data.dataset, IterableDataset):
            raise TypeError("an iterable dataset has no length")
        return len(self._data)

    def epoch(self, number: int, skip: int, most: int | None, share: int, shares: int, parts: int) -> Iterator[list[Part]]:  # fmt: skip
        """For each batch of the epoch, without the first `skip`, the parts of this share; at most `most` batches."""
        stop = None if most is None else skip + most
        if not self._by_index:
            for batch in islice(self._data, skip, stop):
                yield _parts_of(batch, share, shares, parts)
            return
        wanted = list(islice(self._indices(number), skip, stop))
        cuts = [_cuts(len(each), share, shares, parts) for each in wanted]
        mine = [each[cut] for each, of in zip(wanted, cuts, strict=True) for cut, _ in of]
        loaded = iter(self._reader(mine, number))
        for indices, of in zip(wanted, cuts, strict=True):
            yield [Part(next(loaded), weight, len(indices)) for _, weight in of]

    def example(self, parts: int) -> Any:
        """What one process computes at once of the first batch; nothing random is drawn for it."""
        with torch.random.fork_rng(devices=[]):
            for step in self.epoch(0, 0, 1, 0, 1, parts):
                return step[0].batch
        raise InvalidArgumentError("the data is empty, expected at least one batch to train on")

    def _indices(self, number: int) -> Iterator[list[int]]:
        """The epoch's order of samples: the loader's own sampler's, its random numbers from the seed."""
        loader = self._data
        sampler = getattr(loader.batch_sampler, "sampler", None)
        for owner in (loader, loader.batch_sampler, sampler):
            generator = getattr(owner, "generator", None)
            if isinstance(generator, torch.Generator):
                generator.manual_seed(_mixed(self._seed, number))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_mixed(self._seed, number))
            order = iter(loader.batch_sampler)
            first = next(order, None)  # draws what it draws
        if first is not None:
            yield list(first)
            yield from (list(each) for each in order)

    def _reader(self, indices: Sequence[Sequence[int]], number: int) -> Iterable[Any]:
        """A loader of exactly these, with the workers and functions of the user's."""
        given = self._data
        own = {"prefetch_factor": given.prefetch_factor} if given.num_workers else {}
        return DataLoader(
            given.dataset, batch_sampler=indices, num_workers=given.num_workers, collate_fn=given.collate_fn, pin_memory=given.pin_memory,  # type: ignore[arg-type]
            timeout=given.timeout, worker_init_fn=given.worker_init_fn, multiprocessing_context=given.multiprocessing_context,
            generator=torch.Generator().manual_seed(_mixed(self._seed, number)), **own,
        )  # fmt: skip


def split_batch(module: Any, batch: Any) -> tuple[Any, Any]:
    """(the module's result, the target) of a batch (inputs..., target); inputs that are a mapping go by keyword."""
    args, kwargs, target = inputs_and_target(batch)
    return module(*args, **kwargs), target


def inputs_and_target(batch: Any) -> tuple[tuple[Any, ...], Mapping[str, Any], Any]:
    """What a module is called with of a batch (inputs..., target), by position and by keyword, and the target."""
    if not isinstance(batch, tuple | list) or len(batch) < 2:
        raise InvalidArgumentError(
            f"a batch is a {type(batch).__name__}, expected (inputs..., target): give train `forward`, a function (module, batch) -> (output, target)"
        )
    *inputs, target = batch
    if len(inputs) == 1 and isinstance(inputs[0], Mapping):
        return (), inputs[0], target
    return tuple(inputs), {}, target


def _all_tensors(values: Sequence[Any]) -> bool:
    return all(isinstance(each, Tensor) for each in values)


def _stacked(values: Sequence[Tensor]) -> TensorDataset:
    lengths = [each.shape[0] if each.ndim else None for each in values]
    if len(set(lengths)) > 1 or None in lengths:
        raise InvalidArgumentError(
            f"the data is tensors with {', '.join(map(str, lengths))} samples along their first axis, expected the same number in all"
        )
    return TensorDataset(*values)


def _cuts(samples: int, share: int, shares: int, parts: int) -> list[tuple[slice, float]]:
    """Where the parts of a share lie in a batch, and their weights; as many for every share, none of them empty. A batch of fewer
    samples than shares is computed whole by each."""
    if samples < shares:
        return [(slice(0, samples), 1 / shares)] if samples else []
    parts = min(parts, samples // shares)
    numbers = [part * shares + share for part in range(parts)]
    ends = [samples * number // (parts * shares) for number in range(parts * shares + 1)]
    return [(slice(ends[n], ends[n + 1]), (ends[n + 1] - ends[n]) / samples) for n in numbers]


def _parts_of(batch: Any, share: int, shares: int, parts: int) -> list[Part]:
    samples = samples_of(batch)
    return [Part(rows(batch, cut), weight, samples) for cut, weight in _cuts(samples, share, shares, parts)]


def samples_of(batch: Any) -> int:
    """Along the first axis of all of a batch's tensors."""
    leaves = [each for each in tree_leaves(batch) if isinstance(each, Tensor)]
    lengths = {each.shape[0] if each.ndim else None for each in leaves}
    if len(lengths) != 1 or None in lengths:
        raise InvalidArgumentError(
            f"a batch's tensors have {sorted(map(str, lengths)) or 'no'} samples along their first axis, expected the same number in all"
        )
    return int(leaves[0].shape[0])


def rows(batch: Any, cut: slice) -> Any:
    """These samples of a batch."""
    return tree_map(lambda value: value[cut] if isinstance(value, Tensor) else value, batch)


def _mixed(seed: int, number: int) -> int:
    """Far from the seeds of other epochs."""
    return (seed * 0x9E3779B1 + number * 0x85EBCA77 + 0x5851) % (1 << 62)
