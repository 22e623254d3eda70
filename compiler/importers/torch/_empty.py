"""Calls on tensors without elements, of fixed sizes: what such a tensor holds is known, so that no code is made for it."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from . import _complex
from ._context import Context

__all__ = ["is_empty", "result_of_nothing"]


def is_empty(value: Any) -> bool:
    """Whether a tensor's sizes are all known, and one is 0."""
    return isinstance(value, torch.Tensor) and all(isinstance(size, int) for size in value.shape) and 0 in value.shape


def result_of_nothing(c: Context, node: fx.Node) -> Any:
    """The call's result as constants, if its results have no elements, or none of its tensors has; else None."""
    arguments = pytree.tree_map_only(fx.Node, lambda n: n.meta.get("val"), (node.args, node.kwargs))
    leaves = pytree.tree_leaves(arguments)
    results = pytree.tree_leaves(c.result)
    given = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    if any(_complex.is_complex(each) for each in (*given, *results) if isinstance(each, torch.Tensor)):
        return None
    if results and all(is_empty(each) for each in results):
        made: Any = [torch.zeros(each.shape, dtype=each.dtype) for each in results]
    elif given and all(is_empty(each) for each in given) and isinstance(node.target, torch._ops.OpOverload):
        if any(isinstance(leaf, (torch.SymInt, torch.SymFloat, torch.SymBool)) for leaf in leaves):
            return None
        args, kwargs = pytree.tree_map_only(torch.Tensor, lambda t: torch.zeros(t.shape, dtype=t.dtype), arguments)
        try:
            made = pytree.tree_leaves(node.target(*args, **kwargs))
        except Exception:  # its converter says what is wrong
            return None
        if not all(isinstance(each, torch.Tensor) for each in made):
            return None
    else:
        return None
    constants = [c.tensor_const(each.contiguous()) for each in made]
    return constants if isinstance(c.result, (tuple, list)) else constants[0]
