"""Walks an fx graph node by node, converts each through the table, and collects everything that cannot be converted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import fx

from maas_rt._errors import CompileError, UnsupportedOperatorError

from ..._boundary import first_line
from ..._deep import heed
from . import _complex, _scalars
from ._context import Context, is_size
from ._empty import result_of_nothing
from ._places import operator_name, place_of
from ._registry import NotConvertible, argument_name, bind_arguments, find_converter

__all__ = ["GraphImporter", "StopWalk", "place_of"]

# What torch.export writes into graphs and imports hold to anyway: types, and bounds of sizes, which are bounds of symbols here.
_KEPT = frozenset(
    {
        "aten._assert_tensor_metadata.default",
        "aten.sym_constrain_range.default",
        "aten.sym_constrain_range_for_size.default",
    }
)


class StopWalk(Exception):
    """The node behind which a prefix ends was converted; `values` are its results."""

    def __init__(self, values: list[Any]) -> None:
        super().__init__()
        self.values = values


class _Poison:
    """The value of a node that could not be converted, and of what depends on it."""


_POISON = _Poison()


class GraphImporter:
    """Converts graphs (nested ones too) into the current block of `context.bb`."""

    def __init__(self, context: Context, stop_after: fx.Node | None = None) -> None:
        self.context = context
        self.stop_after = stop_after
        self.unsupported: dict[str, tuple[str, int]] = {}
        self._depth = 0
        self._fault: Exception | None = None  # the first that a converter did not mean to raise
        context.walk = self.walk

    def walk(self, module: fx.GraphModule, arguments: Sequence[Any]) -> list[Any]:
        """The values of the graph's outputs, flat, for values of its placeholders."""
        env: dict[Any, Any] = {}
        given = iter(arguments)
        outer = self.context.node, self.context.fakes, self.context.result
        self._depth += 1
        context = self.context
        context.nested = self._depth > 1
        try:
            for node in module.graph.nodes:
                heed()
                if node.op == "placeholder":
                    env[node] = next(given)
                elif node.op == "get_attr":
                    env[node] = self._attribute(module, str(node.target))
                elif node.op == "call_function":
                    env[node] = self._convert(node, env)
                    if node is self.stop_after:
                        raise StopWalk(_flat(env[node]))
                elif node.op == "output":
                    return _flat(fx.map_arg(node.args[0], env.__getitem__))
                else:
                    self._refuse(node, f"{node.op} {node.target}", "")
                    env[node] = _POISON
        finally:
            self.context.node, self.context.fakes, self.context.result = outer
            self._depth -= 1
            context.nested = self._depth > 1
        return []

    def raise_unsupported(self) -> None:
        """Raise one error with every operator that could not be converted, if there was any."""
        if not self.unsupported:
            return
        operators = [(name, place, count) for name, (place, count) in self.unsupported.items()]
        listed = ", ".join(
            f"{name} ({place}, {count} x)" if place else f"{name} ({count} x)" for name, place, count in operators
        )
        plural = "operators that are" if len(operators) > 1 else "an operator that is"
        raise UnsupportedOperatorError(f"the model uses {plural} not supported: {listed}", operators) from self._fault

    def _attribute(self, module: fx.GraphModule, path: str) -> Any:
        value: Any = module
        for part in path.split("."):
            value = getattr(value, part)
        return _complex.constant(self.context, value) if isinstance(value, torch.Tensor) else value

    def _convert(self, node: fx.Node, env: dict[fx.Node, Any]) -> Any:
        context = self.context
        name = operator_name(node)
        if name in _KEPT:
            return None
        if name == "getitem":
            return self._item(env[node.all_input_nodes[0]], node)
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: env[n])
        if any(value is _POISON for value in _flat((args, list(kwargs.values())))):
            return _POISON
        context.node, context.result = node, node.meta.get("val")
        try:
            if _scalars.is_scalar(context.result) and find_converter(node.target) is None:
                return _scalars.value(context, context.result)
            return self._call(node, name, args, kwargs)
        except NotConvertible as reason:
            self._refuse(node, name, str(reason))
        except (StopWalk, CompileError):
            raise
        except Exception as error:
            # A use that its converter did not foresee: refused by name, like any other.
            self._fault = self._fault or error
            what = f"{type(error).__name__}: {first_line(error, 160)}"
            self._refuse(node, name, f"{what}; this is a fault of maas_rt, please report it with the model")
        return _POISON

    def _call(self, node: fx.Node, name: str, args: Any, kwargs: Any) -> Any:
        context = self.context
        converter = find_converter(node.target)
        values = _flat((args, list(kwargs.values())))
        if isinstance(node.target, torch._ops.HigherOrderOperator) and converter is not None:
            if any(isinstance(value, _complex.Pair) for value in values):
                raise NotConvertible("complex numbers")
            return converter.function(context, *args)
        fakes = fx.map_arg((node.args, node.kwargs), lambda n: n.meta.get("val", n))
        names = [argument_name(a.name) for a in cast(Any, node.target)._schema.arguments]
        renamed = {argument_name(key): value for key, value in fakes[1].items()}
        context.fakes = {**dict(zip(names, fakes[0])), **renamed}
        nothing = None if converter is not None and converter.bounds else result_of_nothing(context, node)
        if nothing is not None:
            return self._checked(name, nothing)
        if _complex.concerned(node.target, values, context.result):
            return self._checked(name, _complex.convert(context, node.target, args, kwargs))
        if converter is None:
            raise NotConvertible("")
        bound = bind_arguments(converter, node.target, args, kwargs)
        return self._checked(name, converter.function(context, **bound))

    def _checked(self, name: str, value: Any) -> Any:
        """Hold a converted value to the dtype and shape that torch promises; a converter that differs is refused, not trusted."""
        results, expected = _flat(value), self.context.result
        fakes = list(expected) if isinstance(expected, (tuple, list)) else [expected]
        if len(results) != len(fakes):
            raise NotConvertible(f"it has {len(fakes)} results, of which the converter made {len(results)}")
        for result, fake in zip(results, fakes):
            if result is None or is_size(result) or not isinstance(fake, torch.Tensor):
                continue
            if isinstance(result, _complex.Pair) != _complex.is_complex(fake):
                raise NotConvertible(
                    f"a {'complex' if _complex.is_complex(fake) else 'real'} result that it does not give"
                )
            parts = [result.real, result.imag] if isinstance(result, _complex.Pair) else [result]
            for part in parts:
                if part is None:
                    continue
                if self.context.dtype(part) != _complex.part_dtype(fake.dtype):
                    raise NotConvertible(f"result of dtype {self.context.dtype(part)} where torch has {fake.dtype}")
                self._check_shape(part, fake)
        return value

    def _check_shape(self, result: Any, fake: torch.Tensor) -> None:
        context = self.context
        if result.ty.shape is None or len(context.shape(result)) != fake.ndim:
            raise NotConvertible("a result whose shape is not known")
        for have, size in zip(context.shape(result), fake.shape):
            if not context.symbols.knows(size):
                expression = size.node.expr  # type: ignore[attr-defined]
                if expression.is_Symbol:  # a size that the converter computed, which torch only gave a name
                    context.symbols.define(expression, have)
            elif (
                not context.same_dims([have], [context.dim(size)])
                and isinstance(have, int)
                and isinstance(context.dim(size), int)
            ):
                raise NotConvertible(f"a result of shape {context.shape(result)} where torch has {tuple(fake.shape)}")

    def _item(self, value: Any, node: fx.Node) -> Any:
        if value is _POISON:
            return _POISON
        item = value[node.args[1]]
        if item is None and isinstance(node.meta.get("val"), torch.Tensor) and node.users:
            source = node.args[0]
            assert isinstance(source, fx.Node)
            self._refuse(source, operator_name(source), f"result {node.args[1]}")
            return _POISON
        return item

    def _refuse(self, node: fx.Node, name: str, reason: str) -> None:
        source = node.meta.get("original_aten")
        if isinstance(source, torch._ops.OpOverload) and str(source) != name:  # part of what the model's author wrote
            name, reason = str(source), reason or name
        key = f"{name} [{reason}]" if reason else name
        place, count = self.unsupported.get(key, (place_of(node), 0))
        self.unsupported[key] = (place, count + 1)


def _flat(value: Any) -> list[Any]:
    if isinstance(value, (tuple, list)):
        return [leaf for item in value for leaf in _flat(item)]
    return [value]
