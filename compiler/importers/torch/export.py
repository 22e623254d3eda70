"""ExportedProgram to Relax: functional ATen graph, weights as constants, mutated buffers as states, sizes as symbols."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import sympy
import torch
import tvm
from torch import fx
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree
from tvm import relax

from maas_rt._errors import ImportModelError, InvalidArgumentError

from ..._deep import deep
from .._dynamic import AskedBounds, asked_bounds, requested, with_asked_bounds
from .._imported import ImportedModel, StateSpec
from .._noise import with_seed
from ..checkpoint import FewBits
from . import _complex
from ._conditions import conditioned, with_extents
from ._context import Context, as_expr, is_size
from ._decisions import Decision, decisions_of, environment, sizes_of
from ._decompose import decompose
from ._drawn import numbers_of
from ._dtypes import to_numpy
from ._empty import is_empty, nothing
from ._few_bits import encoded_weight
from ._graph import GraphImporter, StopWalk, place_of
from ._registry import NotConvertible
from ._signature import Entry, Signature, example_inputs, read_signature, symbol_names
from ._symbols import Symbols
from ._trials import trials
from .source import ImportModule, TorchSource

__all__ = ["Program", "import_exported_program"]


def import_exported_program(
    program: ExportedProgram,
    import_module: ImportModule,
    *,
    dynamic: Any = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    run: Callable[[list[Any]], Any] | None = None,
    kind: str = "exported_program",
    guards: Sequence[str] = (),
) -> ImportedModel:
    """Import a program that torch.export made.

    `import_module` imports parts of it for verification. `dynamic` narrows dimensions that the program leaves open. `guards`: see
    `_decisions.decisions_of`. `run` executes the source for verification, from the flat list of its inputs (default: the program itself). Raises
    UnsupportedOperatorError with every operator that has no converter.
    """
    wishes = requested(dynamic)
    if input_shapes:
        raise InvalidArgumentError(
            "an exported program carries its input shapes: export it with example inputs of that shape"
        )
    built = Program(program, decompose(program), run, kind, import_module)
    model = built.build()
    axes = [(name, axis) for name, wish in wishes.items() for axis in (wish if isinstance(wish, Mapping) else ())]
    unknown = [name for name in wishes if name not in model.input_names]
    if unknown:
        raise InvalidArgumentError(
            f"there is no input named {unknown[0]!r} to be dynamic: the inputs are {', '.join(model.input_names)}"
        )
    for name, axis in axes:
        _dynamic_already(model, name, axis)
    return built.with_conditions(
        model,
        asked_bounds(wishes),
        lambda asked, symbol: "the exported program carries its dynamic shapes",
        guards=guards,
    )


def _dynamic_already(model: ImportedModel, name: str, axis: Any) -> None:
    """InvalidArgumentError unless the program was exported with that dimension open."""
    shape = list(model.mod["main"].params[model.input_names.index(name)].ty.shape.values)
    if not isinstance(axis, int) or not -len(shape) <= axis < len(shape):
        raise InvalidArgumentError(f"input {name!r} has {len(shape)} dimensions, and dimension {axis} is to be dynamic")
    fixed = getattr(shape[axis], "value", None)
    if fixed is not None:
        raise InvalidArgumentError(
            f"an exported program carries its dynamic shapes, and this one fixes dimension {axis} of input {name!r} at {fixed}: give "
            f"torch.export.export dynamic_shapes={{{name!r}: {{{axis}: torch.export.Dim.DYNAMIC}}}}, or leave dynamic (--dynamic) out"
        )


class Program:
    """A program, its functional form, and its names; builds the whole model or a prefix of it."""

    def __init__(
        self,
        original: ExportedProgram,
        functional: ExportedProgram,
        run: Callable[[list[Any]], Any] | None,
        kind: str,
        import_module: ImportModule,
        few_bits: FewBits | None = None,
    ) -> None:
        self.original = original
        self.functional = functional
        self.signature: Signature = read_signature(functional)
        self.kind = kind
        self.few_bits = few_bits or {}
        self.examples: Any = original.example_inputs  # (args, kwargs), or None
        self.numbers = numbers_of(functional.graph_module)
        self.source = TorchSource(self, run, import_module)
        self.symbols: Symbols  # of what was built last

    def build(self, stop_after: fx.Node | None = None) -> ImportedModel:
        """The model, or what leads to the results of the node `stop_after`."""
        return deep(partial(self._build, stop_after))

    def with_conditions(
        self,
        model: ImportedModel,
        asked: Sequence[AskedBounds],
        cause: Callable[[AskedBounds, str], str],
        decisions: Sequence[Decision] = (),
        *,
        guards: Sequence[str] = (),
        source_is_module: bool = False,
    ) -> ImportedModel:
        """The whole model, with bounds and conditions that keep it to the sizes for which it is the source: InvalidArgumentError where that
        is less than what was asked for. `decisions` are those recorded while it was traced, `guards` what a file has of them; `source_is_module`: the source is the module
        itself, which can tell whether they count."""
        bounded = with_asked_bounds(model, asked, cause, empty=source_is_module)
        env = environment(self.functional)
        if env is None:
            return bounded
        found: dict[Any, Decision] = {}
        places: dict[Any, str] = {}
        for each in decisions:
            holds = env.replace(each.holds)
            places.setdefault(holds, each.place)
            if each.authored:
                found.setdefault(holds, replace(each, holds=holds))
        for each in decisions_of(self.functional, guards):
            holds = env.replace(each.holds)
            found.setdefault(holds, replace(each, holds=holds, place=places.get(holds, each.place)))
        agrees = trials(self.source, self.signature, model.example_inputs) if source_is_module else None
        narrowed, why = conditioned(bounded, self.symbols, list(found.values()), sizes_of(env), agrees)
        narrowed, more = with_extents(narrowed, self.symbols, _extents(self.functional, env), sizes_of(env))
        why = more | why
        if why:
            with_asked_bounds(narrowed, asked, lambda each, symbol: why.get(symbol, ""), empty=source_is_module)
        return narrowed

    def _build(self, stop_after: fx.Node | None) -> ImportedModel:
        builder = relax.BlockBuilder()
        symbols = Symbols(dict(self.functional.range_constraints), symbol_names(self.functional))
        context = Context(builder, symbols)
        context.numbers = self.numbers
        importer = GraphImporter(context, stop_after)
        try:
            values = self._placeholders(context)
        except NotConvertible as reason:
            raise ImportModelError(f"the exported program has {reason}, which is not supported") from None
        params = [
            values[i]
            for i, entry in enumerate(self.signature.placeholders)
            if entry.kind in ("input", "size", "number")
        ]
        state_vars = {e.target: values[i] for i, e in enumerate(self.signature.placeholders) if e.kind == "state"}
        states = [state_vars[name] for name in self.signature.states]
        with builder.function("main", [*params, *states]):
            self._bind_parameters(context, values)
            names, outputs, following = self._body(importer, values, state_vars)
            outputs = [] if importer.unsupported else [*outputs, *(following[name] for name in self.signature.states)]
            builder.emit_func_output(relax.Tuple(outputs))
        importer.raise_unsupported()
        self.symbols = symbols
        module = relax.transform.ConvertToDataflow(1)(with_seed(builder.get(), context.noise))
        return ImportedModel(
            mod=relax.transform.DeadCodeElimination()(module),
            input_names=[e.name for e in self.signature.placeholders if e.kind in ("input", "size", "number")],
            output_names=names,
            source=self.source,
            states=[StateSpec(name, to_numpy(self.signature.states[name])) for name in self.signature.states],
            symbols=symbols.specs,
            conditions=symbols.conditions,
            provenance={"framework": "torch", "framework_version": torch.__version__.split("+")[0], "kind": self.kind},
            example_inputs=example_inputs(self.examples, self.signature),
        )

    def _placeholders(self, c: Context) -> list[Any]:
        """A value for each placeholder: parameters of the function, constants, or fixed numbers."""
        entries = self.signature.placeholders
        shapes: dict[int, list[Any]] = {}
        for plain in (True, False):  # sizes that are a symbol first, so that derived ones (2*s) find theirs
            for i, entry in enumerate(entries):
                if entry.kind == "input":
                    shapes.setdefault(i, [None] * entry.fake.ndim)
                    for axis, size in enumerate(entry.fake.shape):
                        if shapes[i][axis] is None and (not plain or _is_plain(size)):
                            shapes[i][axis] = c.symbols.declare(size, f"{entry.name}_dim{axis}")
        constants: dict[Any, Any] = {}
        values: list[Any] = []
        for i, entry in enumerate(entries):
            if entry.kind == "input":
                values.append(_variable(entry, shapes[i], entry.fake))
            elif entry.kind == "state":
                values.append(_variable(entry, list(entry.tensor.shape), entry.tensor))
            elif entry.kind in ("size", "number"):
                number = torch.empty([], dtype=torch.int64 if entry.kind == "size" else torch.float64)
                values.append(_variable(entry, [], number))
            elif entry.kind == "constant":
                key = _storage_key(entry.tensor)
                if key not in constants:
                    constants[key] = _complex.constant(c, entry.tensor)
                values.append(constants[key])
            else:
                values.append(entry.value)
        return values

    def _bind_parameters(self, c: Context, values: list[Any]) -> None:
        """Give the symbols of integer inputs their values, which arrive as tensors of rank 0; take complex tensors apart; decode weights that a
        checkpoint has in few bits."""
        for i, entry in enumerate(self.signature.placeholders):
            if entry.kind in ("input", "state") and _complex.is_complex(
                entry.fake if entry.kind == "input" else entry.tensor
            ):
                values[i] = _complex.separated(c, values[i])
            elif entry.kind == "input" and is_empty(entry.fake):
                values[i] = nothing(c, entry.fake)
            elif entry.kind == "constant" and entry.target in self.few_bits:
                found = encoded_weight(self.functional.graph, entry, self.few_bits[entry.target])
                values[i] = values[i] if found is None else c.emit(found.call())
            elif entry.kind == "size":
                values[i] = c.bind_symbol(entry.fake.node.expr, values[i], entry.name)
            elif entry.kind == "number":
                c.scalar_tensors[str(entry.fake.node.expr)] = values[i]

    def _body(
        self, importer: GraphImporter, values: list[Any], state_vars: dict[str, Any]
    ) -> tuple[list[str], list[Any], dict[str, Any]]:
        """Names and values of the outputs, and the next value of each state."""
        c = importer.context
        try:
            results = importer.walk(self.functional.graph_module, values)
        except StopWalk as stop:
            found = [_as_tensor(c, value) for value in stop.values if value is not None]
            return [f"output_{i}" for i in range(len(found))], found, dict(state_vars)
        names: list[str] = []
        outputs: list[Any] = []
        following = dict(state_vars)
        if importer.unsupported:
            return names, outputs, following
        for entry in self.signature.outputs:
            if entry.kind == "output":
                names.append(entry.name)
                outputs.append(_as_tensor(c, results[entry.position]))
            elif entry.kind == "state":
                following[entry.name] = _as_tensor(c, results[entry.position])
        return names, outputs, following


def _variable(entry: Entry, shape: Sequence[Any], like: torch.Tensor) -> Any:
    """A parameter; one for a complex tensor has its parts along a last axis."""
    sizes = [*shape, 2] if _complex.is_complex(like) else shape
    return relax.Var(entry.name, relax.TensorType([as_expr(size) for size in sizes], _complex.part_dtype(like.dtype)))


def _is_plain(size: Any) -> bool:
    return not isinstance(size, torch.SymInt) or bool(size.node.expr.is_Symbol)


def _storage_key(tensor: torch.Tensor) -> Any:
    """Equal for tied weights: the same memory seen the same way."""
    if tensor.layout != torch.strided or tensor.numel() == 0:
        return id(tensor)
    return tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride()


def _as_tensor(c: Context, value: Any) -> Any:
    if isinstance(value, bool):
        return c.const(value, "bool")
    if isinstance(value, float):
        return c.const(value, "float64")
    if isinstance(value, int) or is_size(value):
        return c.tensor(value, "int64")
    if isinstance(value, _complex.Pair):
        return _complex.joined(c, value)
    assert isinstance(value, tvm.ir.Expr)
    return value


def _extents(program: ExportedProgram, env: Any) -> list[Decision]:
    """That each extent which is an expression of one symbol is none below 0, with the place of the first tensor that has it."""
    found: dict[Any, Decision] = {}
    for node in program.graph.nodes:
        fakes = [each for each in pytree.tree_leaves(node.meta.get("val")) if isinstance(each, torch.Tensor)]
        sizes: list[Any] = [size for fake in fakes for size in fake.shape if isinstance(size, torch.SymInt)]
        for size in sizes:
            extent = env.replace(size.node.expr)
            holds = sympy.Ge(extent, 0)
            if len(extent.free_symbols) == 1 and isinstance(holds, sympy.Ge):
                found.setdefault(holds, Decision(holds, place_of(node), True, of_extent=True))
    return list(found.values())
