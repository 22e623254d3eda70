"""The processes of a run: their group, how a module is laid out over them, and sums over all of them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.rendezvous import rendezvous
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.distributed.tensor.parallel import parallelize_module
from torch.nn.parallel import DistributedDataParallel

from maas_rt._errors import InvalidArgumentError

from ._options import TrainOptions

__all__ = ["Workers", "like", "local", "whole"]


class Workers:
    """This process among those of the run.

    `rank`, `world`: of all processes. `share`, `shares`: which part of each batch is this process's; under a tensor-parallel plan all
    have the whole batch.
    """

    def __init__(self, options: TrainOptions) -> None:
        grouped = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if grouped else 0
        self.world = dist.get_world_size() if grouped else 1
        self._parallel = options.parallel
        if self.world > 1 and options.parallel == "none":
            raise InvalidArgumentError(
                f"TrainOptions: parallel is 'none' but there are {self.world} processes: choose 'ddp', 'fsdp' or a tensor-parallel plan"
            )
        split = not isinstance(options.parallel, Mapping)
        self.share, self.shares = (self.rank, self.world) if split else (0, 1)
        self.device = torch.device("cpu")
        if torch.cuda.is_available():
            self.device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
            torch.cuda.set_device(self.device)
        # Checkpoints are written by a thread, whose messages must not mix with those of the steps.
        self.checkpoint_group = dist.new_group(backend="gloo") if self.world > 1 else None
        self._wrapper: DistributedDataParallel | None = None

    @property
    def first(self) -> bool:
        return self.rank == 0

    def place(self, module: nn.Module) -> nn.Module:
        """`module` as it is to be called: on its device, with the first process's weights, copied, sharded or split by the plan."""
        module.to(self.device)
        if self.world == 1:
            return module
        for value in (*module.parameters(), *module.buffers()):
            dist.broadcast(value.data, 0)
        if isinstance(self._parallel, Mapping):
            plan = dict(self._parallel)
            return parallelize_module(module, init_device_mesh(self.device.type, (self.world,)), plan)
        if self._parallel == "fsdp":
            mesh = init_device_mesh(self.device.type, (self.world,))
            for part in _blocks(module):
                fully_shard(part, mesh=mesh)
            fully_shard(module, mesh=mesh)
            return module
        self._wrapper = DistributedDataParallel(module, forward_sync_buffers=False, init_sync=False)
        return self._wrapper

    def part_of_step(self, placed: nn.Module, last: bool) -> AbstractContextManager[Any]:
        """Gradients of the parts of a step are summed here; they go over all processes with the last."""
        if isinstance(placed, FSDPModule):
            placed.set_requires_gradient_sync(last)
        elif isinstance(placed, DistributedDataParallel) and not last:
            return placed.no_sync()
        return nullcontext()

    def mean_gradients(self, parameters: list[nn.Parameter]) -> None:
        """Of parameters that no wrapper looks after."""
        if self.shares > 1:
            for parameter in parameters:
                if parameter.grad is not None:
                    dist.all_reduce(parameter.grad)
                    parameter.grad /= self.shares

    def total(self, values: Tensor) -> Tensor:
        """The sum over the shares of the batch."""
        if self.shares > 1:
            dist.all_reduce(values)
        return values

    def average_statistics(self, module: nn.Module) -> None:
        """Buffers of floats (a batch norm's statistics) become their means: each process has seen its part of the data."""
        if self.shares > 1:
            for buffer in module.buffers():
                if buffer.is_floating_point() and not isinstance(buffer, DTensor):
                    dist.all_reduce(buffer)
                    buffer /= self.shares

    def told(self, value: Any) -> Any:
        """What the first process has."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, 0)
        return box[0]

    def wait(self) -> None:
        if self.world > 1:
            dist.barrier(group=self.checkpoint_group)

    def leave(self) -> None:
        """Lets go of the reducer, which holds the process group. Who holds a group last joins gloo's threads, one of which may wait for the
        GIL to free a tensor: a reference of Python's is dropped without the GIL, the reducer's with it, and both would wait for ever."""
        if self._wrapper is not None:
            del self._wrapper.reducer, self._wrapper.logger
            self._wrapper = None


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The items of lists of layers: each is gathered by itself, while it computes."""
    for part in module.modules():
        if isinstance(part, nn.ModuleList):
            for item in part:
                if next(item.parameters(), None) is not None:
                    yield item


@contextmanager
def workers_of(options: TrainOptions) -> Iterator[Workers]:
    """This process among those of the run, until its end."""
    with _process_group(options):
        workers = Workers(options)
        try:
            yield workers
        finally:
            workers.leave()


@contextmanager
def _process_group(options: TrainOptions) -> Iterator[None]:
    """The group that torchrun's environment describes, unless the caller has made one."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or dist.is_initialized():
        yield
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    timeout = timedelta(seconds=options.timeout)
    store, rank, world = next(rendezvous("env://", timeout=timeout))
    # torchrun restarts its workers on the same store, where torch 2.13 would find the addresses of those that are gone.
    store = PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=timeout)
    try:
        yield
    finally:
        dist.destroy_process_group()


def local(value: Tensor) -> Tensor:
    """The part of a tensor that is in this process."""
    return value.to_local() if isinstance(value, DTensor) else value


def whole(value: Tensor) -> Tensor:
    """All of a tensor, in every process."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def like(value: Tensor, reference: Tensor) -> Tensor:
    """`value`, which every process has, laid out as `reference`."""
    if not isinstance(reference, DTensor):
        return value.to(reference.device)
    return distribute_tensor(value, reference.device_mesh, reference.placements, src_data_rank=None)
