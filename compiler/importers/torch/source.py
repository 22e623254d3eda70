"""torch as the oracle of verification: runs the program under no_grad, and cuts its graph behind an operator for bisecting."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import fx
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from .._imported import SHARED_NOISE, Array, ImportedModel, IsolatedOperators
from ._apart import IsolatedGraph, Recorder, tensors_of
from ._between import Between, Shaken, cuts_of, is_plain, operators_behind, quantizes
from ._drawn import SharedRun
from ._dtypes import to_numpy
from ._places import operator_name
from ._ranges import input_ranges
from ._signature import Signature

__all__ = ["ImportModule", "PrefixSource", "TorchSource", "TracedProgram", "from_numpy"]

# How a module is imported with its example inputs: parts of a program are modules again.
ImportModule = Callable[[torch.nn.Module, list[Any]], ImportedModel]


class TracedProgram(Protocol):
    """What the source has to know of the program that was imported."""

    original: ExportedProgram
    functional: ExportedProgram
    signature: Signature
    numbers: dict[fx.Node, int]  # of the random operators

    def build(self, stop_after: fx.Node | None = None) -> ImportedModel: ...


def from_numpy(array: Any) -> torch.Tensor:
    """A torch tensor with a copy of the values; understands ml_dtypes.bfloat16."""
    array = np.asarray(array)
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(np.array(array.view(np.int16), copy=True, order="C")).view(torch.bfloat16)
    return torch.from_numpy(np.array(array, copy=True, order="C"))


def as_array(value: Any) -> Array:
    """A result of a model as numpy: tensors, and numbers as arrays of rank 0."""
    if isinstance(value, torch.Tensor):
        return to_numpy(value)
    return np.asarray(value, "bool" if isinstance(value, bool) else "int64" if isinstance(value, int) else "float64")


class TorchSource:
    """Runs the program that was imported (or, for an nn.Module, the module)."""

    def __init__(
        self, program: TracedProgram, run: Callable[[list[Any]], Any] | None, import_module: ImportModule
    ) -> None:
        self._program = program
        self._run = run
        self._import_module = import_module
        self._module: Any = None

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        if self._program.numbers:
            return self._run_shared(inputs)
        leaves = self._leaves(inputs)
        with torch.no_grad():
            result = self._run(leaves) if self._run is not None else self._run_program(leaves)
        values = pytree.tree_flatten(result)[0]
        users = [e for e in self._program.signature.outputs if e.kind == "output" or (e.kind == "none" and e.name)]
        return {entry.name: as_array(value) for entry, value in zip(users, values) if entry.kind == "output"}

    def _run_shared(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The functional graph, in which the random operators are known, with the noise that the kernels make."""
        return self.traced(inputs)

    def traced(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """What the trace of the model gives, whichever branches the model itself would take."""
        return self._run_by(SharedRun(self.graph, self._program.numbers), inputs)

    def _run_by(self, interpreter: SharedRun, inputs: Mapping[str, Array]) -> dict[str, Array]:
        with torch.no_grad():
            values = interpreter.run(*self.placeholder_values(inputs))
        outputs = [e for e in self._program.signature.outputs if e.kind == "output"]
        return {entry.name: as_array(values[entry.position]) for entry in outputs}

    @property
    def noise(self) -> str:
        return SHARED_NOISE if self._program.numbers else ""

    @property
    def reference(self) -> str:
        return f"torch {torch.__version__}"

    def open(self) -> None:
        """Nothing to do: the module is there."""

    def another(self) -> None:
        return None

    def interrupt(self) -> None:
        """Nothing to do: torch's loops are Python's."""

    def with_moved_scales(self, share: float, trial: int = 0) -> _WithMovedScales | None:
        return (
            _WithMovedScales(self._program, self._import_module, share, trial) if quantizes(self.graph.graph) else None
        )

    def input_ranges(self) -> dict[str, tuple[float, float]]:
        return input_ranges(self._program.functional, self._program.signature)

    def operators(self) -> int:
        return len(self._nodes())

    def parts(self) -> int:
        return self.operators()

    def prefix(self, count: int) -> tuple[ImportedModel, str]:
        node = self._nodes()[count - 1]
        model = self._program.build(stop_after=node)
        source = PrefixSource(self, node, model.output_names)
        kept = {f: getattr(model, f) for f in ("mod", "input_names", "output_names", "states", "symbols", "provenance")}
        return ImportedModel(
            **kept, source=source, example_inputs=model.example_inputs
        ), f"{node.name} ({operator_name(node)})"

    def isolated(self, count: int, inputs: Mapping[str, Array]) -> IsolatedOperators | None:
        values, constant = self._recorded(inputs)
        nodes = [n for n in self._nodes()[:count] if isinstance(n.target, torch._ops.OpOverload)]
        together = IsolatedGraph(nodes, values, constant)
        given = [values[n] for n in together.read]
        results = [(operator_name(n), n.name, t) for n in nodes for t in tensors_of(values[n])]
        if not given or any(t.is_complex() for t in (*given, *(t for _, _, t in results))):
            return None
        model = self._import_module(together, given)
        if len(model.output_names) != len(results) or len(model.input_names) != len(given):
            return None
        return IsolatedOperators(
            model,
            {name: as_array(t) for name, t in zip(model.input_names, given)},
            {name: as_array(t) for name, (_, _, t) in zip(model.output_names, results)},
            {name: f"{node} ({kind})" for name, (kind, node, _) in zip(model.output_names, results)},
        )

    def between(self, inputs: Mapping[str, Array]) -> IsolatedOperators | None:
        graph = self.graph.graph
        if not quantizes(graph) or not is_plain(graph) or self._program.numbers:
            return None
        values, constant = self._recorded(inputs)
        cuts = cuts_of(values, constant)
        begins = [n for n in graph.nodes if n.op == "placeholder" and n not in constant]
        (returned,) = (n for n in graph.nodes if n.op == "output")
        ends = [n for n in returned.all_input_nodes if isinstance(values[n], torch.Tensor) and n not in constant]
        given = [values[n] for n in (*begins, *cuts)]
        if not cuts or not all(isinstance(v, torch.Tensor) and not v.is_complex() for v in given):
            return None
        model = self._import_module(Between(graph, values, begins, cuts, ends), given)
        arrays = {name: as_array(t) for name, t in zip(model.input_names, given)}
        operators = {
            name: ", ".join(f"{n.name} ({operator_name(n)})" for n in operators_behind(node, cuts))
            for name, node in zip(model.output_names, (*cuts, *ends))
        }
        return IsolatedOperators(model, arrays, model.source.run(arrays), operators)

    def _recorded(self, inputs: Mapping[str, Array]) -> tuple[dict[fx.Node, Any], set[fx.Node]]:
        """What each node of the functional graph is in a run, and which of them are the same in every run."""
        recorder = Recorder(self.graph)
        with torch.no_grad():
            recorder.run(*self.placeholder_values(inputs))
        kept = {e.name for e in self._program.signature.placeholders if e.kind in ("constant", "state")}
        nodes = self.graph.graph.nodes
        return recorder.values, {n for n in nodes if n.op == "get_attr" or (n.op == "placeholder" and n.name in kept)}

    def placeholder_values(self, inputs: Mapping[str, Array]) -> list[Any]:
        """A value for each placeholder of the functional graph."""
        leaves = iter(self._leaves(inputs))
        values = []
        for entry in self._program.signature.placeholders:
            if entry.kind == "token":
                values.append(entry.value)
            else:
                values.append(entry.tensor.detach().clone() if entry.kind in ("constant", "state") else next(leaves))
        return values

    @property
    def graph(self) -> fx.GraphModule:
        module: fx.GraphModule = self._program.functional.graph_module
        return module

    @property
    def numbers(self) -> Mapping[fx.Node, int]:
        """Of the random operators."""
        return self._program.numbers

    def _nodes(self) -> list[fx.Node]:
        """The operators: nodes whose result is a tensor, or several."""
        return [
            node
            for node in self.graph.graph.nodes
            if node.op == "call_function" and operator_name(node) != "getitem" and _has_tensors(node.meta.get("val"))
        ]

    def _leaves(self, inputs: Mapping[str, Array]) -> list[Any]:
        leaves: list[Any] = []
        for entry in self._program.signature.user_inputs:
            if entry.kind == "fixed":
                leaves.append(entry.value)
            elif entry.kind == "input":
                value = from_numpy(inputs[entry.name])
                leaves.append(torch.view_as_complex(value) if entry.fake.is_complex() else value)
            else:
                leaves.append(np.asarray(inputs[entry.name]).item())
        return leaves

    def _run_program(self, leaves: list[Any]) -> Any:
        if self._module is None:
            self._module = self._program.original.module(check_guards=False)
        spec = self._program.original.call_spec.in_spec
        args, kwargs = pytree.tree_unflatten(leaves, spec) if spec is not None else (tuple(leaves), {})
        before = {name: tensor.detach().clone() for name, tensor in self._module.named_buffers()}
        try:
            return self._module(*args, **kwargs)
        finally:
            for name, tensor in self._module.named_buffers():
                tensor.copy_(before[name])


class PrefixSource:
    """The functional graph, run as far as one node."""

    def __init__(self, whole: TorchSource, node: fx.Node, names: Sequence[str]) -> None:
        self._whole = whole
        self._node = node
        self._names = names

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        interpreter = _Until(self._whole.graph, self._whole.numbers, self._node)
        with torch.no_grad():
            try:
                interpreter.run(*self._whole.placeholder_values(inputs))
            except _ReachedError as reached:
                values = [v for v in pytree.tree_leaves(reached.value) if v is not None]
                return {name: as_array(value) for name, value in zip(self._names, values)}
        raise AssertionError("the node is in the graph")

    @property
    def noise(self) -> str:
        return self._whole.noise

    @property
    def reference(self) -> str:
        return self._whole.reference

    def open(self) -> None: ...

    def another(self) -> None:
        return None

    def interrupt(self) -> None:
        self._whole.interrupt()

    def with_moved_scales(self, share: float, trial: int = 0) -> None:
        return None

    def input_ranges(self) -> dict[str, tuple[float, float]]:
        return self._whole.input_ranges()

    def operators(self) -> int:
        return self._whole._nodes().index(self._node) + 1

    def parts(self) -> int:
        return self.operators()

    def prefix(self, count: int) -> tuple[ImportedModel, str]:
        return self._whole.prefix(count)

    def isolated(self, count: int, inputs: Mapping[str, Array]) -> IsolatedOperators | None:
        return self._whole.isolated(count, inputs)

    def between(self, inputs: Mapping[str, Array]) -> IsolatedOperators | None:
        return None


class _WithMovedScales(TorchSource):
    """The functional graph, in which whatever is rounded is moved before."""

    def __init__(self, program: TracedProgram, import_module: ImportModule, share: float, trial: int) -> None:
        super().__init__(program, None, import_module)
        self._by = share, trial

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        return self._run_by(Shaken(self.graph, self._program.numbers, *self._by), inputs)


class _ReachedError(Exception):
    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value


class _Until(SharedRun):
    def __init__(self, module: fx.GraphModule, numbers: Mapping[fx.Node, int], last: fx.Node) -> None:
        super().__init__(module, numbers)
        self._last = last

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n is self._last:
            raise _ReachedError(value)
        return value


def _has_tensors(value: Any) -> bool:
    return any(isinstance(leaf, torch.Tensor) for leaf in pytree.tree_leaves(value))
