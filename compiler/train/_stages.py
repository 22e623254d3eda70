"""A module in stages, one in each process, as torch.distributed.pipelining divides and runs it.

Torch divides a graph that torch.export makes, in one mode and for one shape of micro-batch: each pair of them that a run meets is traced
once. The stages' graphs compute with the parameters and buffers of the user's module itself.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from operator import getitem
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, fx, nn
from torch.distributed.pipelining import Pipe, Schedule1F1B, ScheduleGPipe, pipe_split, pipeline
from torch.utils._pytree import tree_leaves, tree_map

from maas_rt._errors import InvalidArgumentError

from ._balance import balanced_split
from ._options import Pipeline

__all__ = ["Stages"]

_SCHEDULES = {"1f1b": Schedule1F1B, "gpipe": ScheduleGPipe}
Loss = Callable[[Any, int], Tensor]  # of what the module gives for a micro-batch, by its number


class Stages:
    """The stage of this process, and who has which tensor of the module's state.

    `owners`: names of the state to ranks. `parameters`: this stage's, by name. Those of others hold no memory here: the module has
    tensors of the device "meta" in their place.
    """

    def __init__(
        self, module: nn.Module, plan: Pipeline, rank: int, world: int, device: torch.device, *, bf16: bool,
        args: tuple[Any, ...], kwargs: Mapping[str, Any],
    ) -> None:  # fmt: skip
        """`args` and `kwargs`: what the module reads of a micro-batch, as an example."""
        if plan.schedule == "1f1b" and plan.micro_batches < world:
            raise InvalidArgumentError(
                f"Pipeline: micro_batches is {plan.micro_batches} and there are {world} stages, a process each: 1f1b takes at least as many"
            )
        self._module, self._plan, self._rank, self._world = module, plan, rank, world
        self._device, self._bf16 = device, bf16
        self._split = plan.split if plan.split is not None else balanced_split(module, args, kwargs, world)
        self._check_split()
        self._schedules: dict[Any, Any] = {}
        self._loss: Loss | None = None
        module.train()
        pipe = self._pipe(args, kwargs)
        self.owners = self._owned(pipe)
        self.parameters = {name: each for name, each in module.named_parameters() if self.owners[name] == rank}
        self._check_trained()
        self._others = [_Other(module, name, each) for name, each in module.named_parameters(remove_duplicate=False) if self.owners[name] != rank]  # fmt: skip
        self._keep(pipe, self._key(args, kwargs, plan.micro_batches))
        for other in self._others:
            other.leave()

    @property
    def last(self) -> bool:
        return self._rank == self._world - 1

    def run(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], parts: int, loss: Loss) -> None:
        """The batch through all stages, in `parts` micro-batches; in training mode back again, gradients added to those that are there.
        `loss` is called in the last process, where what it returns is what gradients are of."""
        example_args, example_kwargs = tree_map(lambda v: _first(v, parts), (args, dict(kwargs)))
        key = self._key(example_args, example_kwargs, parts)
        if key not in self._schedules:
            with self._lent():
                self._keep(self._pipe(example_args, example_kwargs), key)
        schedule = self._schedules[key]
        self._loss = loss
        go = schedule.step if self._module.training else schedule.eval
        read: dict[str, Any] = {"return_outputs": False} if self._module.training else {}
        numbers = torch.arange(parts) if self.last else None  # its micro-batch's is all that the loss is given
        if self._rank:
            go(target=numbers, **read)
        else:
            go(*args, target=numbers, **read, **kwargs)

    def make_whole(self) -> dict[str, Tensor]:
        """Gives every process's module all of its weights and buffers again; its state."""
        for other in self._others:
            other.come_back()
        state: dict[str, Tensor] = self._module.state_dict()
        for name, value in state.items():
            dist.broadcast(value, self.owners[name])
        return state

    # ---- dividing

    def _check_split(self) -> None:
        for name in self._split:
            try:
                self._module.get_submodule(name)
            except AttributeError:
                raise InvalidArgumentError(
                    f"Pipeline: split names {name!r}, and the module has no such layer: take one of its named_modules"
                ) from None
        if len(self._split) + 1 != self._world:
            raise InvalidArgumentError(
                f"Pipeline: split makes {len(self._split) + 1} stages, a process each, and there are {self._world} processes: start as many as stages (more of them, for data parallel stages, are not served)"
            )

    def _check_trained(self) -> None:
        trained = {self.owners[name] for name, each in self._module.named_parameters() if each.requires_grad}
        for stage in range(self._world):
            if stage not in trained:
                raise InvalidArgumentError(
                    f"Pipeline: stage {stage + 1} of {self._world} has no parameter that is trained (stages begin with {', '.join(self._split)}): name other layers in `split`, or start fewer processes"
                )

    def _pipe(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Pipe:
        """The module in stages, by torch's tracer."""
        hooks = [self._module.register_forward_pre_hook(_copied, with_kwargs=True)]
        hooks += [self._module.get_submodule(name).register_forward_pre_hook(_begins) for name in self._split]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch's own use of what it deprecated
                pipe = pipeline(self._module, args, dict(kwargs))
        except Exception as error:
            reason = (str(error.__cause__ or error).strip().splitlines() or [type(error).__name__])[0]
            raise InvalidArgumentError(
                f"Pipeline: torch.export does not trace the module, which a pipeline divides ({reason[:200]}): train it with 'ddp' or 'fsdp'"
            ) from error
        finally:
            for hook in hooks:
                hook.remove()
        if pipe.num_stages != self._world:
            raise InvalidArgumentError(
                f"Pipeline: split {self._split} makes {pipe.num_stages} stages of the module, expected {self._world}: name layers that it calls once, and not the first"
            )
        _check_crossings(pipe)
        for number in range(self._world):
            _use_tensors_of(self._module, pipe.get_stage_module(number))
        return pipe

    def _owned(self, pipe: Pipe) -> dict[str, int]:
        state = self._module.state_dict(keep_vars=True)
        names, stages = {id(each): name for name, each in state.items()}, dict[int, int]()
        for number in range(self._world):
            part = pipe.get_stage_module(number)
            for each in (*part.parameters(), *part.buffers()):
                if stages.setdefault(id(each), number) != number:
                    raise InvalidArgumentError(
                        f"Pipeline: stages {stages[id(each)] + 1} and {number + 1} both have {names.get(id(each), 'a constant')}: cut so that one has all that read it"
                    )
        return {name: stages.get(id(each), 0) for name, each in state.items()}

    @contextmanager
    def _lent(self) -> Iterator[None]:
        """The module as a whole, to be traced: weights of other stages have their shapes, and nothing in them."""
        for other in self._others:
            other.lend()
        try:
            yield
        finally:
            for other in self._others:
                other.leave()

    # ---- running

    def _key(self, args: Any, kwargs: Any, parts: int) -> Any:
        shapes = tuple((v.shape, v.dtype) if isinstance(v, Tensor) else repr(v) for v in tree_leaves((args, kwargs)))
        return self._module.training, parts, shapes, tuple(kwargs)

    def _keep(self, pipe: Pipe, key: Any) -> None:
        stage = pipe.build_stage(self._rank, self._device)
        if self._bf16:
            _use_bf16(stage, self._device)
        # Torch's 1F1B takes no fewer micro-batches than stages; of so few it would be no other order.
        schedule: Any = _SCHEDULES[self._plan.schedule if key[1] >= self._world else "gpipe"]
        self._schedules[key] = schedule(stage, key[1], loss_fn=self._loss_of, scale_grads=False)

    def _loss_of(self, output: Any, number: Tensor) -> Tensor:
        assert self._loss is not None
        return self._loss(output, int(number))


class _Other:
    """A parameter of another stage: its memory is given back."""

    def __init__(self, module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        path, _, self._name = name.rpartition(".")
        self._parent = module.get_submodule(path)
        self._empty = parameter
        self._bytes = parameter.untyped_storage().nbytes()
        self._meta = nn.Parameter(torch.empty_like(parameter, device="meta"), parameter.requires_grad)

    def leave(self) -> None:
        """Whoever reads it is told by torch; without its memory it would be no number of anyone's."""
        self._empty.untyped_storage().resize_(0)
        setattr(self._parent, self._name, self._meta)

    def lend(self) -> None:
        setattr(self._parent, self._name, self._empty)

    def come_back(self) -> None:
        self._empty.untyped_storage().resize_(self._bytes)
        self.lend()


def _copied(module: nn.Module, args: Any, kwargs: Any) -> Any:
    """An input that later stages read, as a mask: torch sends what the first stage computes, and no inputs."""
    return tree_map(lambda value: value.clone() if isinstance(value, Tensor) else value, (args, kwargs))


def _begins(module: nn.Module, args: Any) -> None:
    pipe_split()


def _first(value: Any, parts: int) -> Any:
    return value[: value.shape[0] // parts] if isinstance(value, Tensor) else value


def _use_tensors_of(module: nn.Module, stage: nn.Module) -> None:
    """Of a weight under several names torch gives each stage copies."""
    for found in (
        dict(module.named_parameters(remove_duplicate=False)),
        dict(module.named_buffers(remove_duplicate=False)),
    ):
        for path, part in stage.named_modules(remove_duplicate=False):
            for name, own in (*part._parameters.items(), *part._buffers.items()):
                full = f"{path}.{name}" if path else name
                if full in found and own is not found[full]:
                    setattr(part, name, found[full])


def _check_crossings(pipe: Pipe) -> None:
    """Torch brings the gradient of a value back from one stage, and has no way for a second."""
    stages = [node for node in pipe.split_gm.graph.nodes if node.op == "call_module"]
    for number, node in enumerate(stages):
        given = _results(pipe.get_stage_module(number))
        parts = [user for user in node.users if user.target is getitem]
        for value, like in [(part, given[part.args[1]]) for part in parts] or [(node, given[0])]:
            readers = [stages.index(user) + 1 for user in value.users if user in stages]
            if len(readers) > 1 and like.is_floating_point():
                raise InvalidArgumentError(
                    f"Pipeline: stages {' and '.join(map(str, sorted(readers)))} read the same result of stage {number + 1}, and torch.distributed.pipelining carries a gradient back from one alone: cut elsewhere"
                )


def _results(stage: nn.Module) -> list[Tensor]:
    """What a stage gives, as it was traced."""
    assert isinstance(stage, fx.GraphModule)
    (output,) = (node for node in stage.graph.nodes if node.op == "output")
    return [node.meta["val"] for node in tree_leaves(output.args)]


def _use_bf16(stage: Any, device: torch.device) -> None:
    """The stage computes as under torch.autocast; what it gives has the dtypes of the trace, which its neighbours expect."""
    compute = stage.submod.forward
    dtypes = [each.dtype for each in _results(stage.submod)]

    def forward(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast(device.type, torch.bfloat16):
            given = compute(*args, **kwargs)
        if isinstance(given, Tensor):
            return given.to(dtypes[0])
        return type(given)(each.to(dtype) for each, dtype in zip(given, dtypes, strict=True))

    stage.submod.forward = forward
