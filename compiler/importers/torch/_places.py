"""How errors name a node of an fx graph: its operator, and the line that its author wrote."""

from __future__ import annotations

import os
import re

import torch
from torch import fx

__all__ = ["operator_name", "place_of"]


def operator_name(node: fx.Node) -> str:
    """The node's operator, as "aten.add.Tensor"."""
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        return str(target)
    if isinstance(target, torch._ops.HigherOrderOperator):
        return f"higher_order.{target.name()}"
    return str(getattr(target, "__name__", target))


def place_of(node: fx.Node) -> str:
    """Where the model's author wrote the operator: file and line, and the module's path in the model."""
    lines = re.findall(r'File "([^"]+)", line (\d+)', node.meta.get("stack_trace") or "")
    lines = [line for line in lines if "/site-packages/torch/" not in line[0].replace(os.sep, "/")] or lines
    where = f"{os.path.basename(lines[-1][0])}:{lines[-1][1]}" if lines else ""
    stack = [path for path, _ in (node.meta.get("nn_module_stack") or {}).values()]
    module = stack[-1].removeprefix("L['self'].").removeprefix("L['self']") if stack else ""
    return " in ".join(part for part in (where, module) if part)
