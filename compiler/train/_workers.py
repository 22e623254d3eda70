"""The processes of a run: their group, how a module is laid out over them, and sums over all of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
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
from torch.utils._pytree import tree_map

from maas_rt._errors import InvalidArgumentError

from ._batches import inputs_and_target, samples_of
from ._options import Pipeline, TrainOptions
from ._stages import Stages

__all__ = ["Workers", "like", "local", "whole"]


class Workers:
    """This process among those of the run.

    `rank`, `world`: of all processes. `share`, `shares`: which part of each batch is this process's; under a tensor-parallel plan and in
    a pipeline all have the whole batch. `stages`: of a pipeline, once a module is placed.
    """

    def __init__(self, options: TrainOptions) -> None:
        grouped = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if grouped else 0
        self.world = dist.get_world_size() if grouped else 1
        self._parallel, self._bf16 = options.parallel, options.bf16
        if self.world > 1 and options.parallel == "none":
            raise InvalidArgumentError(
                f"TrainOptions: parallel is 'none' but there are {self.world} processes: choose 'ddp', 'fsdp', a Pipeline or a tensor-parallel plan"
            )
        split = not isinstance(options.parallel, Mapping | Pipeline)
        self.share, self.shares = (self.rank, self.world) if split else (0, 1)
        self.device = torch.device("cpu")
        if torch.cuda.is_available():
            self.device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
            torch.cuda.set_device(self.device)
        # Checkpoints are written by a thread, whose messages must not mix with those of the steps.
        self.checkpoint_group = dist.new_group(backend="gloo") if self.world > 1 else None
        self._wrapper: DistributedDataParallel | None = None
        self.stages: Stages | None = None

    @property
    def first(self) -> bool:
        return self.rank == 0

    def place(self, module: nn.Module, example: Callable[[], Any]) -> nn.Module:
        """`module` as it is to be called: on its device, with the first process's weights, copied, sharded or split by the plan. `example`
        gives what goes through it at once."""
        module.to(self.device)
        if self.world == 1:
            return module
        for value in (*module.parameters(), *module.buffers()):
            dist.broadcast(value.data, 0)
        if isinstance(self._parallel, Mapping):
            plan = dict(self._parallel)
            return parallelize_module(module, init_device_mesh(self.device.type, (self.world,)), plan)
        if isinstance(self._parallel, Pipeline):
            self.stages = self._staged(module, self._parallel, example())
            return module
        if self._parallel == "fsdp":
            mesh = init_device_mesh(self.device.type, (self.world,))
            for part in _blocks(module):
                fully_shard(part, mesh=mesh)
            fully_shard(module, mesh=mesh)
            return module
        self._wrapper = DistributedDataParallel(module, forward_sync_buffers=False, init_sync=False)
        return self._wrapper

    def _staged(self, module: nn.Module, plan: Pipeline, batch: Any) -> Stages:
        wide = max(samples_of(batch) // plan.micro_batches, 1)
        moved = tree_map(lambda v: v[:wide].to(self.device) if isinstance(v, Tensor) else v, batch)
        args, kwargs, _ = inputs_and_target(moved)
        return Stages(module, plan, self.rank, self.world, self.device, bf16=self._bf16, args=args, kwargs=kwargs)

    def parameters(self, module: nn.Module) -> dict[str, nn.Parameter]:
        """Those that this process trains."""
        return self.stages.parameters if self.stages is not None else dict(module.named_parameters())

    def state(self, module: nn.Module) -> dict[str, Any]:
        """What this process has of the module's state."""
        state = module.state_dict()
        if self.stages is not None:
            state = {name: value for name, value in state.items() if self.stages.owners[name] == self.rank}
        return state

    def whole_state(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """All of what `state` gave, whole, on the CPU, in the first process. A pipeline's module is whole again in each."""
        if self.stages is not None:
            state = self.stages.make_whole()
        found: dict[str, Tensor] = {}
        for name, value in state.items():
            full = whole(value).detach()
            if self.first:
                found[name] = full.cpu().clone()
        return found

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
        """The sum over the shares of the batch; in a pipeline, over the stages."""
        if self.shares > 1:
            dist.all_reduce(values)
        return self.over_stages(values)

    def over_stages(self, values: Tensor) -> Tensor:
        """The sum over a pipeline's stages, of what each has of the module."""
        if self.stages is not None:
            dist.all_reduce(values)
        return values

    def told_by_stages(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """What each of a pipeline's stages has to tell; of a name that several have, the last one's."""
        if self.stages is None:
            return dict(values)
        found: list[Mapping[str, Any]] = [{}] * self.world
        dist.all_gather_object(found, dict(values))
        return {name: value for each in found for name, value in each.items()}

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
