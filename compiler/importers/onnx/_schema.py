"""What the ONNX specification says of a node, held against it: numbers of inputs and outputs, attributes, element types.

What onnx has no schema for (other domains, unknown operators) is left to the converters, which refuse it by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import onnx
from onnx import AttributeProto, helper, numpy_helper

from ... import oracle
from ..._boundary import first_line
from ._errors import Broken, broken_model
from ._values import Value, onnx_dtype

__all__ = ["SMALL", "check_attributes", "check_counts", "check_types", "infer_types", "refused_by_inference"]

SMALL = 64  # elements of an input that may be a shape, repeats, axes

_VARIADIC = onnx.defs.OpSchema.FormalParameterOption.Variadic
_PRIVATE = "__"  # begins the names of attributes that tools write for themselves
_SINGLE = onnx.defs.OpSchema.FormalParameterOption.Single
# Ranks of inputs that the text fixes and onnx's inference does not hold.
_RANKS: dict[str, tuple[int | None, ...]] = {
    "AffineGrid": (3, 1), "Compress": (None, 1), "ConstantOfShape": (1,), "Conv": (None, None, 1), "ConvTranspose": (None, None, 1),
    "QLinearConv": (*[None] * 8, 1), "LSTM": (3, 3, 3, 2, 1, 3, 3, 2), **dict.fromkeys(["GRU", "RNN"], (3, 3, 3, 2, 1, 3)),
}  # fmt: skip


@dataclass(frozen=True)
class _Rules:
    inputs: tuple[int, int]  # fewest and most
    outputs: tuple[int, int]
    required_attributes: tuple[str, ...]
    kinds: dict[str, int]  # types of attributes
    types: tuple[
        tuple[str, frozenset[str], bool], ...
    ]  # of each input: the constraint's name, what it allows, one for all
    variadic: bool
    required_inputs: tuple[int, ...]  # inputs that are not optional


@lru_cache(maxsize=4096)
def _rules(name: str, opset: int, domain: str) -> _Rules | None:
    try:
        schema = onnx.defs.get_schema(name, opset, domain)
    except onnx.defs.SchemaError:
        return None
    if schema.deprecated:
        return None
    return _Rules(
        (schema.min_input, schema.max_input),
        (schema.min_output, schema.max_output),
        tuple(a.name for a in schema.attributes.values() if a.required),
        {a.name: int(a.type.value) for a in schema.attributes.values()},
        tuple((p.type_str, frozenset(p.types), p.is_homogeneous) for p in schema.inputs),
        bool(schema.inputs) and schema.inputs[-1].option == _VARIADIC,
        tuple(i for i, p in enumerate(schema.inputs) if p.option == _SINGLE),
    )


def check_counts(node: onnx.NodeProto, opset: int, domain: str) -> None:
    """As many inputs and outputs as the operator takes, and all that it needs."""
    rules = _rules(node.op_type, opset, domain)
    if rules is None:
        return
    for what, given, (low, high) in (("input", node.input, rules.inputs), ("output", node.output, rules.outputs)):
        if not low <= len(given) <= high:
            wanted = f"{low}" if low == high else f"{low} or more" if high > 1 << 30 else f"{low} to {high}"
            raise broken_model(
                f"node '{node.name or node.op_type}' ({node.op_type}) has {len(given)} {what}{'s' * (len(given) != 1)}, the operator has {wanted}"
            )
    for i in rules.required_inputs:
        if i < len(node.input) and not node.input[i]:
            raise broken_model(f"node '{node.name or node.op_type}' ({node.op_type}) lacks input {i}, which it needs")


def check_attributes(node: onnx.NodeProto, opset: int, domain: str) -> None:
    """Every attribute once, with the type that the operator declares, none that its version does not have, and all that it needs."""
    label = node.name or node.op_type
    seen: set[str] = set()
    for a in node.attribute:
        if a.name in seen:
            raise broken_model(f"node '{label}' carries attribute '{a.name}' twice")
        seen.add(a.name)
    rules = _rules(node.op_type, opset, domain)
    if rules is None:
        return
    for a in node.attribute:
        declared = rules.kinds.get(a.name)
        if declared is None and not a.name.startswith(
            _PRIVATE
        ):  # of a later version, as a rule: to ignore it changes the result
            raise broken_model(
                f"node '{label}' ({node.op_type}) has the attribute '{a.name}', which the operator does not have in operator set {opset}"
            )
        if declared is not None and not a.ref_attr_name and int(a.type) != declared:
            names = AttributeProto.AttributeType
            have = names.Name(a.type) if a.type in names.values() else f"of the unknown type {a.type}"
            raise broken_model(
                f"attribute '{a.name}' of node '{label}' ({node.op_type}) is {have}, expected {names.Name(declared)}"
            )
    for name in rules.required_attributes:
        if name not in seen:
            raise broken_model(f"node '{label}' ({node.op_type}) has no attribute '{name}'")


def check_types(name: str, opset: int, domain: str, inputs: Sequence[Value | None]) -> None:
    """Element types and ranks of the inputs, as far as they are tensors: each one that the operator takes, equal where it says so."""
    rules = _rules(name, opset, domain)
    if rules is None or not rules.types:
        return
    bound_types: dict[str, str] = {}
    for i, value in enumerate(inputs):
        if i >= len(rules.types) and not rules.variadic:
            return
        variable, allowed, same = rules.types[min(i, len(rules.types) - 1)]
        if value is None or value.poison or value.absent or value.items is not None:
            continue
        rank = _RANKS.get(name, ())[i : i + 1] if not domain else ()
        if rank and rank[0] not in (None, value.rank):
            raise Broken(f"has input {i} of rank {value.rank}, expected {rank[0]}")
        dtype = onnx.TensorProto.DataType.Name(onnx_dtype(value.dtype)).lower()
        if f"tensor({dtype})" not in allowed:
            kinds = sorted(t[7:-1] for t in allowed if t.startswith("tensor("))
            raise Broken(f"has input {i} of {dtype}, expected {', '.join(kinds) or 'no tensor'}")
        if same and bound_types.setdefault(variable, dtype) != dtype:
            raise Broken(f"has inputs of {bound_types[variable]} and {dtype}, which must be of one type")


def infer_types(
    proto: onnx.NodeProto, opset: int, domain: str, inputs: Sequence[Value | None]
) -> dict[str, onnx.TypeProto]:
    """The types of a node's results by name, as far as onnx's inference tells. Raises OracleError where it refuses the node, or fails on it."""
    model = onnx.ModelProto(opset_import=[helper.make_opsetid(domain, opset)])
    model.graph.node.append(proto)
    for name, value in {n: v for n, v in zip(proto.input, inputs, strict=True) if v is not None}.items():
        model.graph.input.add(name=name, type=value.type_proto())
        if value.const is not None and value.const.size <= SMALL:
            model.graph.initializer.append(numpy_helper.from_array(value.const, name))
    found = oracle.infer_types(model.SerializeToString())
    return {name: onnx.TypeProto.FromString(kind) for name, kind in found.items()}


def refused_by_inference(proto: onnx.NodeProto, opset: int, domain: str, inputs: Sequence[Value | None]) -> str:
    """What onnx's own inference has against a node with these inputs, as of a rank that its operator does not take; "" if nothing."""
    if any(a.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) for a in proto.attribute):
        return ""  # their nodes may read what stands around them
    try:
        infer_types(proto, opset, domain, inputs)
    except oracle.OracleEndedError:  # nothing that it says of the node
        return ""
    except oracle.OracleError as why:
        text = first_line(why)
        return text.partition("] ")[2] or text
    return ""
