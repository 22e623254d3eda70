"""The same noise for the reference: a random node of the model becomes a look-up in a table, an additional input of the model.

Nodes are numbered before the model is imported, functions that draw are written out. In loops the table has an axis for each loop's
iterations. How large a table must be is not known before the model ran: a run that finds its end is run again on a larger one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import helper, inliner

from ...ir._philox import SHARED_SEED, combined, drawn
from ._definitions import DEFAULT_DOMAINS
from ._drawing import Draw, Writer, attribute, define, sizes_of
from ._errors import broken_model
from ._load import MAX_NODES
from ._values import onnx_dtype

__all__ = ["CannotShareError", "Tables", "draw_number", "numbered", "with_shared_noise"]

_NUMBER = "maas_rt.random"
_PREFIX = "maas_rt/noise"
_RANDOM = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)
_SLICE = 10  # the operator set since which its bounds are inputs
_SCAN = 9  # and since which it has no batch
_FIRST, _FIRST_IN_LOOP, _FIRST_ITERATIONS = 1 << 16, 1 << 12, 64
_GROWTH = 8
_MAX_ELEMENTS = 1 << 26  # elements of a table
_MAX_DEPTH = 64  # of functions in each other


class CannotShareError(Exception):
    """A random operator is where no table reaches it; says which, and where."""


def numbered(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with a number in each node that may draw, from 1; the model itself if there is none."""
    if any(_may_draw(node) for function in model.functions for node in _nodes(function)):
        model = _written_out(model)
    if not any(_may_draw(node) for node in _nodes(model.graph)):
        return model
    out = onnx.ModelProto()
    out.CopyFrom(model)
    for number, node in enumerate(filter(_may_draw, _nodes(out.graph)), 1):
        del node.metadata_props[:]
        node.metadata_props.add(key=_NUMBER, value=str(number))
    return out


def _written_out(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without its functions, as far as their operator sets are, or can be made, the model's own."""
    functions = {(f.domain, f.name, getattr(f, "overload", "")): f for f in model.functions}
    sizes: dict[
        tuple[str, str, str], int
    ] = {}  # nodes, when those that it calls are written out too; 0 while it is counted

    def size(graph: onnx.GraphProto | onnx.FunctionProto, depth: int) -> int:
        if depth > _MAX_DEPTH:
            raise broken_model(f"its functions call each other deeper than {_MAX_DEPTH}")
        total = 0
        for node in _nodes(graph):
            key = (node.domain, node.op_type, getattr(node, "overload", ""))
            if key in functions and key not in sizes:
                sizes[key] = 0
                sizes[key] = size(functions[key], depth + 1)
            if sizes.get(key) == 0 and functions[key].node:
                raise broken_model(f"function '{node.op_type}' calls itself")
            total += sizes.get(key, 1)
        return total

    if size(model.graph, 0) > MAX_NODES:
        raise broken_model(f"it has more than {MAX_NODES} nodes when its functions are written out")
    for convert in (False, True):
        out = inliner.inline_local_functions(model, convert)
        if not out.functions:
            break
    return out


def draw_number(node: onnx.NodeProto) -> int | None:
    """The number that `numbered` gave to the node."""
    return next((int(p.value) for p in node.metadata_props if p.key == _NUMBER), None)


def _may_draw(node: onnx.NodeProto) -> bool:
    if node.domain not in DEFAULT_DOMAINS:
        return False
    return node.op_type in _RANDOM or (node.op_type == "Dropout" and len(node.input) > 2 and bool(node.input[2]))


def _nodes(graph: onnx.GraphProto | onnx.FunctionProto) -> Iterator[onnx.NodeProto]:
    """The graph's nodes and those of graphs in them, as they are written."""
    for node in graph.node:
        yield node
        for each in _graphs(node):
            yield from _nodes(each)


def _graphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for a in node.attribute:
        if a.type == onnx.AttributeProto.GRAPH:
            yield a.g
        elif a.type == onnx.AttributeProto.GRAPHS:
            yield from a.graphs


class Tables:
    """The noise of each node that draws, as arrays for the additional inputs; they grow where a run asks for more."""

    def __init__(self, depths: Mapping[int, int], draws: Mapping[int, Draw]) -> None:
        """`depths`: in how many loops each node is."""
        self._draws = {number: draws[number] for number in depths}
        self._shapes = {number: self._first(number, depth) for number, depth in depths.items()}
        self._arrays: dict[int, Any] = {}

    def _first(self, number: int, depth: int) -> tuple[int, ...]:
        count = self._draws[number].count
        usual = _FIRST_IN_LOOP if depth else _FIRST
        return (*[_FIRST_ITERATIONS] * depth, usual if count is None else count)

    def inputs(self) -> dict[str, Any]:
        return {f"{_PREFIX}{number}": self._array(number) for number in self._draws}

    def _array(self, number: int) -> Any:
        if number not in self._arrays:
            draw, shape = self._draws[number], self._shapes[number]
            place = {
                "key": SHARED_SEED if draw.key is None else draw.key,
                "number": 0 if draw.key is not None else number,
            }
            rows = [
                drawn(draw.kind, shape[-1], draw.dtype, draw=combined(at), **place) for at in np.ndindex(*shape[:-1])
            ]
            self._arrays[number] = np.stack(rows).reshape(shape)
        return self._arrays[number]

    def grow(self, complaint: str) -> bool:
        """Make those larger that a run's complaint names, or all that it may mean; whether there is anything to try again."""
        if "eshape" not in complaint:
            return False
        named = [number for number in self._draws if f"'{_PREFIX}{number}'" in complaint]
        grown = False
        for number in named or self._draws:
            shape, fixed = self._shapes[number], self._draws[number].count is not None
            larger = (*[n * _GROWTH for n in shape[:-1]], shape[-1] * (1 if fixed else _GROWTH))
            if larger != shape and np.prod(larger) <= _MAX_ELEMENTS:
                self._shapes[number], grown = larger, True
                self._arrays.pop(number, None)
        return grown


def with_shared_noise(model: onnx.ModelProto, draws: Mapping[int, Draw]) -> tuple[onnx.ModelProto, Tables]:
    """The model with look-ups in the places of the nodes that draw, and the tables. Raises CannotShareError."""
    out = onnx.ModelProto()
    out.CopyFrom(model)
    opset = next((o.version for o in out.opset_import if o.domain in DEFAULT_DOMAINS), 1)
    sharing = _Sharing(draws, opset)
    sharing.rewrite(out.graph, [])
    for number in sharing.depths:
        dims = [None] * (sharing.depths[number] + 1)
        out.graph.input.append(
            helper.make_tensor_value_info(f"{_PREFIX}{number}", onnx_dtype(draws[number].dtype), dims)
        )
    return out, Tables(sharing.depths, draws)


class _Sharing:
    def __init__(self, draws: Mapping[int, Draw], opset: int) -> None:
        self._draws = draws
        self._opset = opset
        self._loops = 0
        self.depths: dict[int, int] = {}

    def rewrite(self, graph: onnx.GraphProto, loops: list[str]) -> None:
        """`loops`: the iterations' numbers, int64 [1], of the loops around."""
        nodes: list[onnx.NodeProto] = []
        for node in graph.node:
            number = draw_number(node)
            if number is not None and number in self._draws:
                nodes += self._looked_up(node, number, loops)
                continue
            if any(draw_number(inner) in self._draws for each in _graphs(node) for inner in _nodes(each)):
                nodes += self._inside(node, loops)
            nodes.append(node)
        _replace(graph.node, nodes)

    def _inside(self, node: onnx.NodeProto, loops: list[str]) -> list[onnx.NodeProto]:
        """Rewrite the graphs in a node; what has to stand in front of it."""
        if node.op_type == "If" and node.domain in DEFAULT_DOMAINS:
            for each in _graphs(node):
                self.rewrite(each, loops)
            return []
        if node.op_type not in ("Loop", "Scan") or (node.op_type == "Scan" and self._opset < _SCAN):
            raise CannotShareError(f"a random operator in the graph of {node.op_type} '{node.name or node.output[0]}'")
        body: onnx.GraphProto = attribute(node, "body")
        self._loops += 1
        before = Writer(f"{_PREFIX}/loop{self._loops}/start", self._opset)
        w = Writer(f"{_PREFIX}/loop{self._loops}", self._opset)
        number = body.input[0].name if node.op_type == "Loop" else _iteration_state(node, body, before, w)
        iteration = w("Reshape", number, w.const([1], "int64"))
        self.rewrite(body, [*loops, iteration])
        _replace(body.node, [*w.nodes, *body.node])
        return before.nodes

    def _looked_up(self, node: onnx.NodeProto, number: int, loops: list[str]) -> list[onnx.NodeProto]:
        draw, table = self._draws[number], f"{_PREFIX}{number}"
        w = Writer(table, self._opset)
        shape, count = sizes_of(w, node, node.input)
        if loops or draw.count is None:
            if self._opset < _SLICE:
                raise CannotShareError(
                    f"{node.op_type} '{node.name or node.output[0]}' of a shape that a run decides, before operator set 10"
                )
            zero, one = w.const([0], "int64"), w.const([1], "int64")
            begin, end = zero, count
            if loops:
                begin = w("Concat", *loops, zero, axis=0)
                end = w("Concat", *[w("Add", each, one) for each in loops], count, axis=0)
            noise = w("Slice", table, begin, end)
        else:
            noise = table
        noise = w("Reshape", noise, shape)
        w.nodes[-1].name = table  # by which a run that finds the table's end tells which it is
        self.depths[number] = len(loops)
        define(w, node, node.input, noise, node.output, draw)
        return w.nodes


def _iteration_state(node: onnx.NodeProto, body: onnx.GraphProto, before: Writer, w: Writer) -> str:
    """The number of a Scan's iteration, int64 [1]: one more state of it."""
    start, now = before.const([0], "int64"), w("Identity", f"{w.prefix}/state")
    following = w("Add", now, w.const([1], "int64"))
    infos = [
        helper.make_tensor_value_info(name, onnx.TensorProto.INT64, [1]) for name in (f"{w.prefix}/state", following)
    ]
    _replace(body.input, [infos[0], *body.input])
    _replace(body.output, [infos[1], *body.output])
    node.input.insert(0, start)
    node.output.insert(0, f"{before.prefix}/end")
    return now


def _replace(messages: Any, by: Iterable[Any]) -> None:
    """The contents of a repeated field."""
    kept = [type(each).FromString(each.SerializeToString()) for each in by]
    del messages[:]
    messages.extend(kept)
