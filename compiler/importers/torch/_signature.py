"""The names of an exported program: what each placeholder and each output is, and what the user calls it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import (
    ConstantArgument,
    InputKind,
    OutputKind,
    SymBoolArgument,
    SymFloatArgument,
    SymIntArgument,
    TensorArgument,
)
from torch.utils import _pytree as pytree

from maas_rt._errors import ImportModelError

from ._dtypes import to_numpy

__all__ = ["Entry", "OutputEntry", "Signature", "example_inputs", "leaf_names", "read_signature", "symbol_names"]


@dataclass
class Entry:
    """A placeholder. kind: `input` (tensor), `size` (int that varies), `number` (float that varies), `fixed` (a number or text that
    was frozen at export), `constant` (weight), `state` (a buffer that the program changes), `token` (orders calls that have effects)."""

    kind: str
    name: str
    fake: Any = None
    target: str = ""
    tensor: Any = None
    value: Any = None


@dataclass(frozen=True)
class OutputEntry:
    """An output of the graph. kind: `output`, `state` (next value of a buffer), `none` (nothing that a run returns)."""

    kind: str
    name: str
    position: int


@dataclass
class Signature:
    placeholders: list[Entry]
    outputs: list[OutputEntry]
    states: dict[str, torch.Tensor] = field(default_factory=dict)  # initial values, by the buffer's name

    @property
    def user_inputs(self) -> list[Entry]:
        """The leaves of the call's arguments, in order, fixed ones included."""
        return [e for e in self.placeholders if e.kind in ("input", "size", "number", "fixed")]


def read_signature(program: ExportedProgram) -> Signature:
    signature = program.graph_signature
    mutated = {s.target for s in signature.output_specs if s.kind is OutputKind.BUFFER_MUTATION}
    fakes = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    entries: list[Entry] = []
    states: dict[str, torch.Tensor] = {}
    for spec in signature.input_specs:
        name = getattr(spec.arg, "name", "")
        if spec.kind is InputKind.USER_INPUT:
            entries.append(_user_entry(spec.arg, name, fakes.get(name)))
        elif spec.kind in (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR):
            target = str(spec.target)
            tensor = program.state_dict[target] if target in program.state_dict else program.constants[target]
            if target in mutated:
                entries.append(Entry("state", name, fakes.get(name), target, tensor))
                states[target] = tensor
            else:
                entries.append(Entry("constant", name, fakes.get(name), target, tensor))
        elif spec.kind is InputKind.TOKEN:  # orders calls with effects; the only ones that are known are checks
            entries.append(Entry("token", name, value=False))
        else:
            raise ImportModelError(
                f"the exported program takes {name!r}, an input of kind {spec.kind.name.lower()}, which is not supported"
            )
    return Signature(entries, list(_output_entries(program)), states)


def _user_entry(argument: Any, name: str, fake: Any) -> Entry:
    if isinstance(argument, TensorArgument):
        return Entry("input", name, fake)
    if isinstance(argument, SymIntArgument) and isinstance(fake, torch.SymInt):
        return Entry("size", name, fake)
    if isinstance(argument, SymFloatArgument) and isinstance(fake, torch.SymFloat):
        return Entry("number", name, fake)
    if isinstance(argument, ConstantArgument):
        return Entry("fixed", name, value=argument.value)
    if isinstance(fake, (int, float, bool)):
        return Entry("fixed", name, value=fake)
    raise ImportModelError(f"the exported program takes {name!r}, a {type(argument).__name__}, which is not supported")


def _output_entries(program: ExportedProgram) -> Iterator[OutputEntry]:
    names = iter(leaf_names(program.call_spec.out_spec))
    for position, spec in enumerate(program.graph_signature.output_specs):
        if spec.kind in (OutputKind.USER_OUTPUT, OutputKind.LOSS_OUTPUT):
            name = next(names)
            given = isinstance(spec.arg, (TensorArgument, SymIntArgument, SymFloatArgument, SymBoolArgument))
            number = isinstance(spec.arg, ConstantArgument) and isinstance(spec.arg.value, (bool, int, float))
            yield OutputEntry("output" if given or number else "none", name, position)
        elif spec.kind is OutputKind.BUFFER_MUTATION:
            yield OutputEntry("state", str(spec.target), position)
        else:
            yield OutputEntry("none", "", position)


def leaf_names(spec: Any) -> list[str]:
    """A name for each leaf of a model's result: the dictionary keys or field names on the way, `output_0` for positions."""
    tree = pytree.tree_unflatten(list(range(spec.num_leaves)), spec)
    names: list[str] = []
    for path, _ in pytree.tree_flatten_with_path(tree)[0]:
        parts = [_key_text(key) for key in path]
        if not path:
            parts = ["0"]
        name = ".".join(parts)
        name = f"output_{name}" if name[0].isdigit() else name
        while name in names:
            name += "_"
        names.append(name)
    return names


def _key_text(key: Any) -> str:
    for attribute in ("idx", "key", "name"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)


def symbol_names(program: ExportedProgram) -> dict[str, str]:
    """The names that the user gave to dimensions (torch.export.Dim), by torch's symbol; empty where they were not kept."""
    for node in program.graph.nodes:
        fake = node.meta.get("val")
        if isinstance(fake, torch.Tensor):
            for size in fake.shape:
                if isinstance(size, torch.SymInt):
                    return _names_from(size.node.shape_env)
    return {}


def _names_from(shape_env: Any) -> dict[str, str]:
    debug: dict[str, str] = getattr(shape_env, "source_name_to_debug_name", None) or {}
    names: dict[str, str] = {}
    for symbol, sources in (getattr(shape_env, "var_to_sources", None) or {}).items():
        for source in sources:
            text = source.name() if callable(source.name) else source.name
            if text in debug:
                names.setdefault(str(symbol), debug[text])
    return names


def example_inputs(examples: Any, signature: Signature) -> dict[str, np.ndarray[Any, Any]] | None:
    """Example inputs, (args, kwargs) of a call, by the inputs' names; None where there are none."""
    leaves = pytree.tree_flatten(examples)[0] if examples is not None else []
    entries = signature.user_inputs
    if examples is None or len(leaves) != len(entries):
        return None
    found: dict[str, np.ndarray[Any, Any]] = {}
    for entry, leaf in zip(entries, leaves):
        if entry.kind == "input" and isinstance(leaf, torch.Tensor):
            found[entry.name] = to_numpy(leaf)
        elif entry.kind in ("size", "number"):
            found[entry.name] = np.asarray(leaf, "int64" if entry.kind == "size" else "float64")
    return found
