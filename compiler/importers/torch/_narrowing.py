"""Which operator made torch.export narrow a dimension: the model is run once more, on fake tensors, and its operators are watched."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

__all__ = ["narrowed_by"]


def narrowed_by(trace: Callable[[], ExportedProgram], name: str, axis: int) -> str:
    """Why dimension `axis` of input `name` has narrower bounds in the program of `trace()`: the first operator behind which any
    dimension's bounds are others, else a comparison in the model's own code; "" if that cannot be told."""
    watch = _Watch()
    try:
        with watch:
            program = trace()
        return watch.found or _compared(program, name, axis)
    except Exception:  # only the reason was wanted
        return watch.found


def _compared(program: ExportedProgram, name: str, axis: int) -> str:
    """Where Python compared the dimension, as torch remembers it."""
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name == name:
            size = node.meta["val"].shape[axis]
            symbol = size.node.expr
            for guard in size.node.shape_env.guards:
                frame = getattr(guard.sloc, "framework_loc", None)
                if symbol in guard.expr.free_symbols and frame is not None:
                    return f"its size is compared ({guard.expr}) at {_short(frame)}"
    return ""


class _Watch(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.found = ""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.found:
            return func(*args, **kwargs)
        before = {id(env): dict(env.var_to_range) for env in _environments(args, kwargs)}
        result = func(*args, **kwargs)
        after = {id(env): env.var_to_range for env in _environments(args, kwargs)}
        if any(ranges.get(s) != bounds for e, ranges in after.items() for s, bounds in before.get(e, {}).items()):
            self.found = f"{getattr(func, '__name__', func)} at {_place()} narrows it"
        return result


def _environments(*values: Any) -> Iterator[Any]:
    for leaf in pytree.tree_leaves(values):
        for size in leaf.shape if isinstance(leaf, torch.Tensor) else [leaf]:
            if isinstance(size, torch.SymInt):
                yield size.node.shape_env


def _place() -> str:
    """Where the model's author wrote what is called now."""
    frames = [f for f in traceback.extract_stack()[:-2] if "/torch/" not in f.filename.replace("\\", "/")]
    return _short(frames[-1]) if frames else "an unknown place"


def _short(frame: Any) -> str:
    return f"{frame.filename.rpartition('/')[2]}:{frame.lineno}"
