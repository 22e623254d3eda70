"""A model's operators each by itself: what one reads comes from a run of the whole model, not from the operator before it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import onnx
from onnx import TensorProto, helper, numpy_helper

from .._imported import Array

__all__ = ["info_of", "isolate_operators", "results_of"]

_SMALL = 1024  # elements of an integer tensor that is a constant here: a shape, axes, a number of times
_DRAWN = ("Random", "Bernoulli", "Multinomial", "Dropout")  # operators whose results are other ones each time


def results_of(nodes: Iterable[onnx.NodeProto], constant: set[str]) -> list[str]:
    """The results of nodes, except for those that initializers alone decide, whose names are added to `constant`."""
    names: list[str] = []
    for node in nodes:
        drawn = node.op_type.startswith(_DRAWN)
        if not drawn and not _has_graph(node) and all(name in constant for name in node.input if name):
            constant.update(node.output)
        else:
            names += [name for name in node.output if name]
    return names


def isolate_operators(
    model: onnx.ModelProto, count: int, values: Mapping[str, Array]
) -> tuple[onnx.ModelProto, dict[str, Array], dict[str, Array], dict[str, str]]:
    """(the model, its inputs, what it must give, the operator of each result) for the first `count` operators of `model`, where `values`
    are inputs and results by name. An operator with a graph of its own, or whose tensors are not all among the values, is left out."""
    constant = {t.name for t in model.graph.initializer} | {s.values.name for s in model.graph.sparse_initializer}
    nodes = list(model.graph.node[:count])
    results_of(nodes, constant)
    input_names = {info.name for info in model.graph.input}
    isolated = onnx.ModelProto()
    isolated.CopyFrom(model)
    for field in (isolated.graph.node, isolated.graph.output, isolated.graph.value_info):
        del field[:]
    inputs = {name: value for name, value in values.items() if name in input_names}
    expected: dict[str, Array] = {}
    operators: dict[str, str] = {}
    for node in nodes:
        if all(name in constant for name in node.output if name):
            isolated.graph.node.append(node)
            continue
        read = [name for name in node.input if name and name not in constant]
        results = [name for name in node.output if name]
        if _has_graph(node) or node.op_type.startswith(_DRAWN) or not all(name in values for name in read + results):
            continue
        names: dict[str, str] = {}
        for name in read:
            value = values[name]
            if value.dtype.kind in "iub" and value.size <= _SMALL and value.dtype.itemsize != 1:
                names[name] = f"{name}/value"
                if all(t.name != names[name] for t in isolated.graph.initializer):
                    isolated.graph.initializer.append(numpy_helper.from_array(value, names[name]))
            elif name not in input_names:
                input_names.add(name)
                inputs[name] = value
                isolated.graph.input.append(info_of(name, value))
        copy = isolated.graph.node.add()
        copy.CopyFrom(node)
        for i, name in enumerate(copy.input):
            copy.input[i] = names.get(name, name)
        for i, name in enumerate(copy.output):
            copy.output[i] = f"{name}/alone" if name else ""
        for name in results:
            expected[f"{name}/alone"] = values[name]
            operators[f"{name}/alone"] = f"{node.name or node.output[0]} ({node.op_type})"
            isolated.graph.output.append(info_of(f"{name}/alone", values[name]))
    return isolated, inputs, expected, operators


def _has_graph(node: onnx.NodeProto) -> bool:
    return any(a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for a in node.attribute)


def info_of(name: str, value: Array) -> onnx.ValueInfoProto:
    """A tensor's name and type, as this value has it."""
    kind = TensorProto.BOOL if value.dtype == bool else helper.np_dtype_to_tensor_dtype(value.dtype)
    return helper.make_tensor_value_info(name, kind, list(value.shape))
