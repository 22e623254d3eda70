"""Operators that the ONNX specification defines by others: their bodies, and the attributes that these refer to."""

from __future__ import annotations

import math
from functools import cache

import onnx

from ._node import Node

__all__ = ["DEFAULT_DOMAINS", "bind_attributes", "function_body", "has_body", "schema_defaults", "schema_version"]

DEFAULT_DOMAINS = ("", "ai.onnx")


@cache
def schema_version(name: str, opset: int, domain: str) -> int:
    """The version of an operator that an operator set has; 0: none."""
    try:
        return int(onnx.defs.get_schema(name, opset, domain).since_version)
    except onnx.defs.SchemaError:
        return 0


def has_body(name: str, opset: int, domain: str) -> bool:
    """Whether function_body may find a definition."""
    try:
        schema = onnx.defs.get_schema(name, opset, domain)
    except onnx.defs.SchemaError:
        return False
    return bool(schema.has_function or schema.has_context_dependent_function)


# Attributes of such operators that are no or yes, whatever the operator: definitions take other numbers for either.
_FLAGS = ("align_corners", "interleaved", "is_causal", "periodic", "saturate")
# Those that bound something, where 0 is no bound.
_BOUNDS = ("softcap",)
# And those that are one of a few words.
_WORDS = {"approximate": ("none", "tanh"), "reduction": ("none", "mean", "sum")}


def function_body(node: Node, domain: str) -> onnx.FunctionProto | None:
    """The operator's definition by other operators, where the specification gives one for this node."""
    for name in _FLAGS:
        node.flag(name)
    for name, words in _WORDS.items():
        if node.str_attr(name, words[0]) not in words:
            raise node.broken(f"attribute '{name}' is '{node.str_attr(name)}', expected {', '.join(words)}")
    for name in _BOUNDS:
        if not 0 <= node.float_attr(name, 0.0) < math.inf:
            raise node.broken(f"attribute '{name}' is {node.float_attr(name):g}, expected a number of at least 0")
    if node.op == "Attention" and node.has(3) and node.dtype(3).startswith(("int", "uint")):
        # The schema takes them, and the definition then casts -inf to them: what is not to be attended to gets any weight.
        raise node.broken(f"has a mask of {node.dtype(3)}, expected bool, or floats that are added to the products")
    try:
        schema = onnx.defs.get_schema(node.op, node.opset, domain)
    except onnx.defs.SchemaError:
        return None
    if schema.has_function:
        body = schema.get_function_with_opset_version(_newest(schema.function_opset_versions, node.opset))
        return onnx.FunctionProto.FromString(body) if isinstance(body, bytes) else body
    if not schema.has_context_dependent_function:
        return None
    versions = schema.context_dependent_function_opset_versions
    types = [(v.type_proto() if v is not None else onnx.TypeProto()).SerializeToString() for v in node.inputs]
    raw = schema.get_context_dependent_function_with_opset_version(
        _newest(versions, node.opset), node.proto.SerializeToString(), types
    )
    body = onnx.FunctionProto.FromString(raw)
    return body if body.node else None


def _newest(versions: list[int], limit: int) -> int:
    fitting = [v for v in versions if v <= limit]
    return max(fitting) if fitting else min(versions)


def bind_attributes(proto: onnx.NodeProto, given: dict[str, onnx.AttributeProto] | None) -> onnx.NodeProto:
    """Inside a function body: attributes that refer to those of the call, `given`, take their values, or vanish."""
    if given is None or not any(a.ref_attr_name for a in proto.attribute):
        return proto
    out = onnx.NodeProto()
    out.CopyFrom(proto)
    del out.attribute[:]
    for a in proto.attribute:
        if not a.ref_attr_name:
            out.attribute.append(a)
        elif a.ref_attr_name in given:
            value = onnx.AttributeProto()
            value.CopyFrom(given[a.ref_attr_name])
            value.name = a.name
            out.attribute.append(value)
    return out


def schema_defaults(proto: onnx.NodeProto, opsets: dict[str, int]) -> dict[str, onnx.AttributeProto]:
    """Default values of an operator's attributes, which its body may refer to."""
    domain = "" if proto.domain in DEFAULT_DOMAINS else proto.domain
    try:
        schema = onnx.defs.get_schema(proto.op_type, opsets.get(domain, 1), domain)
    except onnx.defs.SchemaError:
        return {}
    return {name: a.default_value for name, a in schema.attributes.items() if a.default_value.name}
