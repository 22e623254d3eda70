"""A model cut at its quantized tensors: each is a result, and what reads it reads one that is given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import onnx

from .._imported import Array
from ._apart import info_of

__all__ = ["cut_at", "operators_behind"]

GIVEN = "/given"


def cut_at(model: onnx.ModelProto, values: Mapping[str, Array], inputs: Mapping[str, Array]) -> onnx.ModelProto:
    """`values` are the tensors to cut at, as they were when the whole model ran on `inputs`, whose shapes are the new model's."""
    cut = onnx.ModelProto()
    cut.CopyFrom(model)
    outputs = [o.name for o in model.graph.output]
    del cut.graph.value_info[:], cut.graph.input[:], cut.graph.output[:]
    cut.graph.input.extend(info_of(name, value) for name, value in inputs.items())
    _rename(cut.graph, {name: name + GIVEN for name in values})
    cut.graph.input.extend(info_of(name + GIVEN, value) for name, value in values.items())
    cut.graph.output.extend(info_of(name, value) for name, value in values.items())
    cut.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs if name not in values)
    return cut


def _rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """What nodes read, those of graphs in the graph too."""
    for node in graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = names.get(name, name)
        for attribute in node.attribute:
            for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                hidden = {info.name for info in inner.input} | {name for each in inner.node for name in each.output}
                seen = {old: new for old, new in names.items() if old not in hidden}
                _rename(inner, seen)
                for info in inner.output:
                    info.name = seen.get(info.name, info.name)


def operators_behind(nodes: Sequence[onnx.NodeProto], result: str, cut: Iterable[str]) -> list[str]:
    """The operators between the tensors that are cut at and this result, in the model's order."""
    ends, wanted, found = set(cut), {result}, []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            wanted.update(name for name in node.input if name not in ends)
            found.append(f"{node.name or node.output[0]} ({node.op_type})")
    return found[::-1]
