"""Which layers are the first that an input reaches and the last before an output: the ones that pruning harms most."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import tvm
from tvm import relax

__all__ = ["first_and_last"]


def first_and_last(mod: tvm.IRModule, layers: Sequence[relax.Var]) -> dict[relax.Var, str]:
    """Of such layers, what they are. The first of an input: of those that it reaches without another layer between the earliest; the last
    of an output: of those that reach it so the latest, for a residual connection reaches past all of them."""
    func = mod["main"]
    bindings = [binding for block in func.body.blocks for binding in block.bindings]
    reads = {binding.var: list(relax.analysis.free_vars(binding.value)) for binding in bindings}
    found: dict[relax.Var, str] = {}
    order = {binding.var: i for i, binding in enumerate(bindings)}
    known = [layer for layer in layers if layer in order]
    readers: dict[relax.Var, list[relax.Var]] = {}
    for var, read in reads.items():
        for each in read:
            readers.setdefault(each, []).append(var)
    for param in func.params:
        reached = _reached([param], readers, known)
        if reached:
            found[min(reached, key=lambda var: order[var])] = "it is the first layer of an input"
    for output in _outputs(func):
        reached = _reached([output], reads, known)
        if reached:
            found[max(reached, key=lambda var: order[var])] = "it is the last layer of an output"
    return found


def _outputs(func: relax.Function) -> list[relax.Expr]:
    body = func.body.body
    tuples = {b.var: b.value for block in func.body.blocks for b in block.bindings if isinstance(b.value, relax.Tuple)}
    body = tuples.get(body, body)
    return list(body.fields) if isinstance(body, relax.Tuple) else [body]


def _reached(
    start: Sequence[relax.Expr], steps: dict[relax.Var, list[relax.Var]], layers: Iterable[relax.Var]
) -> list[relax.Var]:
    """The layers that are reached without another between."""
    ends, seen, todo, found = set(layers), set(start), list(start), []
    while todo:
        var = todo.pop()
        if var in ends:
            found.append(var)
            continue
        for step in steps.get(var, []):
            if step not in seen:
                seen.add(step)
                todo.append(step)
    return found
