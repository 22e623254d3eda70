"""What torch is given in place of functions of its own while a model is traced: those that make a number of a dynamic size, or branch on
one, where a formula or an operator for any size says the same.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch

__all__ = ["traceable_pools", "traceable_sizes"]

_own_linspace, _own_lstm, _own_gru = torch.linspace, torch.lstm, torch.gru
_Tensors = list[torch.Tensor]


@torch.library.custom_op("maas_rt::lstm", mutates_args=())
def lstm(input: torch.Tensor, hx: _Tensors, params: _Tensors, has_biases: bool, num_layers: int, dropout: float, train: bool,
         bidirectional: bool, batch_first: bool) -> _Tensors:  # fmt: skip
    """aten.lstm.input, whose trace has each step by itself."""
    return list(_own_lstm(input, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first))


@torch.library.custom_op("maas_rt::gru", mutates_args=())
def gru(input: torch.Tensor, hx: torch.Tensor, params: _Tensors, has_biases: bool, num_layers: int, dropout: float, train: bool,
        bidirectional: bool, batch_first: bool) -> _Tensors:  # fmt: skip
    """aten.gru.input, likewise."""
    return list(_own_gru(input, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first))


@lstm.register_fake
def _(input: torch.Tensor, hx: _Tensors, params: _Tensors, has_biases: bool, num_layers: int, dropout: float, train: bool,
      bidirectional: bool, batch_first: bool) -> _Tensors:  # fmt: skip
    width = hx[0].shape[-1] * (2 if bidirectional else 1)
    return [input.new_empty([*input.shape[:-1], width]), *[torch.empty_like(h) for h in hx]]


@gru.register_fake
def _(input: torch.Tensor, hx: torch.Tensor, params: _Tensors, has_biases: bool, num_layers: int, dropout: float, train: bool,
      bidirectional: bool, batch_first: bool) -> _Tensors:  # fmt: skip
    width = hx.shape[-1] * (2 if bidirectional else 1)
    return [input.new_empty([*input.shape[:-1], width]), torch.empty_like(hx)]


def _over_time(own: Any, operator: Any) -> Any:
    """torch's function; the operator in its place where the number of steps is dynamic and nothing is drawn."""

    def recurrent(input: Any, *rest: Any) -> Any:
        plain = len(rest) == 8 and not isinstance(rest[2], torch.Tensor)  # and no packed sequence
        steps = input.shape[1 if plain and rest[-1] and input.dim() == 3 else 0]
        if not plain or not isinstance(steps, torch.SymInt) or (rest[4] > 0 and rest[5]):
            return own(input, *rest)
        first, *more = rest
        return tuple(operator(input, list(first) if isinstance(first, tuple) else first, *more))

    return recurrent


def _pool_extent(
    inputSize: Any, kernelSize: Any, pad_l: Any, pad_r: Any, stride: Any, dilation: Any, ceil_mode: Any
) -> Any:
    """torch's extent of a pooling, which asks in ceil mode whether the last window begins behind the input and the padding in front."""
    reach = dilation * (kernelSize - 1) + 1
    count = (inputSize + pad_l + pad_r - reach + (stride - 1 if ceil_mode else 0)) // stride + 1
    if not ceil_mode or stride + pad_r <= reach:  # then none does
        return count
    return torch.sym_min(count, (inputSize + pad_l + stride - 1) // stride)


def _max_pool1d(input: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False,
                return_indices: bool = False) -> Any:  # fmt: skip
    """The pool over two dimensions, one of which is 1."""
    pool: Any = torch.nn.functional.max_pool2d
    over = [(1, _one(kernel_size)), (1, _one(kernel_size if stride in (None, (), []) else stride))]
    over += [(0, _one(padding)), (1, _one(dilation))]
    found = pool(input.unsqueeze(-2), *over, ceil_mode, return_indices)
    return tuple(each.squeeze(-2) for each in found) if return_indices else found.squeeze(-2)


def _one(extent: Any) -> Any:
    return extent[0] if isinstance(extent, (tuple, list)) else extent


def _linspace(start: Any, end: Any, steps: Any = None, **more: Any) -> Any:
    """From both ends to the middle, as torch computes it."""
    dtype = more.get("dtype") or torch.get_default_dtype()
    if not isinstance(steps, torch.SymInt) or more.get("out") is not None or not dtype.is_floating_point:
        return _own_linspace(start, end, steps, **more)
    first, last = (
        x.to(dtype) if isinstance(x, torch.Tensor) else torch.scalar_tensor(x, dtype=dtype) for x in (start, end)
    )
    step = (last - first) / torch.sym_max(steps - 1, 1)
    at = torch.arange(steps)  # type: ignore[call-overload]
    behind = last - (steps - 1 - at).to(dtype) * step
    return torch.where((at == 0) | (at < steps // 2), first + at.to(dtype) * step, behind)


@contextlib.contextmanager
def traceable_pools() -> Iterator[None]:
    """Pools in ceil mode, for the time that operators run on symbolic sizes."""
    with mock.patch.object(torch._meta_registrations, "pooling_output_shape_pad_lr", _pool_extent):
        yield


@contextlib.contextmanager
def traceable_sizes() -> Iterator[None]:
    """All of it, for the time of an export."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(traceable_pools())
        for place in (torch, torch.nn.functional):
            stack.enter_context(mock.patch.object(place, "max_pool1d", _max_pool1d))
        stack.enter_context(mock.patch.object(torch, "linspace", _linspace))
        for name, own, operator in (("lstm", _own_lstm, lstm), ("gru", _own_gru, gru)):
            for place in (torch, torch._VF):
                stack.enter_context(mock.patch.object(place, name, _over_time(own, operator)))
        yield
