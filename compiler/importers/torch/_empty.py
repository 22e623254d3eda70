"""Calls on tensors without elements, of fixed sizes: what such a tensor holds is known, so that no code is made for it."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from . import _complex
from ._context import Context
from ._dtypes import tvm_dtype

__all__ = ["is_empty", "nothing", "result_of_nothing"]

_ASSUMED_SIZE = 2  # for a size that varies


def is_empty(value: Any) -> bool:
    """Whether one of a tensor's sizes is known to be 0."""
    return isinstance(value, torch.Tensor) and any(isinstance(size, int) and size == 0 for size in value.shape)


def nothing(c: Context, like: torch.Tensor) -> Any:
    """The tensor without elements that `like` is, as a value."""
    return _broadcast_fill(c, torch.zeros(_assumed_sizes(like), dtype=like.dtype), c.symbols.dims(like.shape))


def result_of_nothing(c: Context, node: fx.Node) -> Any:
    """The call's result as constants and fills, if its results have no elements, or none of its tensors has; else None."""
    arguments = pytree.tree_map_only(fx.Node, lambda n: n.meta.get("val"), (node.args, node.kwargs))
    leaves = pytree.tree_leaves(arguments)
    results = pytree.tree_leaves(c.result)
    given = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    if not results or any(
        isinstance(each, torch.Tensor) and (_complex.is_complex(each) or not all(map(c.symbols.knows, each.shape)))
        for each in (*given, *results)
    ):
        return None
    if all(is_empty(each) for each in results):
        made: Any = [torch.zeros(_assumed_sizes(each), dtype=each.dtype) for each in results]
    elif given and all(is_empty(each) for each in given) and isinstance(node.target, torch._ops.OpOverload):
        if any(isinstance(leaf, (torch.SymInt, torch.SymFloat, torch.SymBool)) for leaf in leaves):
            return None
        args, kwargs = pytree.tree_map_only(
            torch.Tensor, lambda t: torch.zeros(_assumed_sizes(t), dtype=t.dtype), arguments
        )
        try:
            made = pytree.tree_leaves(node.target(*args, **kwargs))
        except Exception:  # its converter says what is wrong
            return None
        if not all(isinstance(each, torch.Tensor) for each in made):
            return None
    else:
        return None
    found = [_broadcast_fill(c, each, c.symbols.dims(result.shape)) for each, result in zip(made, results)]
    if any(each is None for each in found):
        return None
    return found if isinstance(c.result, (tuple, list)) else found[0]


def _assumed_sizes(tensor: torch.Tensor) -> list[int]:
    """The tensor's sizes, with a number for those that vary."""
    return [size if isinstance(size, int) else _ASSUMED_SIZE for size in tensor.shape]


def _broadcast_fill(c: Context, made: torch.Tensor, shape: list[Any]) -> Any:
    """What was computed at the sizes drawn, at the true ones: the same everywhere, as it depends on no data; None if it is not."""
    if all(isinstance(size, int) for size in shape):
        return c.tensor_const(made.contiguous())
    if made.numel() and not torch.equal(made.nan_to_num(0), made.nan_to_num(0).flatten()[0].expand(made.shape)):
        return None
    return c.zeros(shape, tvm_dtype(made.dtype), made.flatten()[0].item() if made.numel() else 0)
