"""Going through an ONNX graph node by node: which converter, function body or fold gives a node's results, and refusals."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import onnx

from maas_rt._errors import Error

from ..._boundary import fault, first_line
from ..._deep import heed
from . import _registry
from ._data import Data
from ._definitions import (
    DEFAULT_DOMAINS,
    bind_attributes,
    function_body,
    has_body,
    schema_defaults,
    schema_version,
)
from ._dims import AmbiguousDims, ShapeMath, UndecidedDims
from ._emit import Emitter, cited_name
from ._empty import empty_results
from ._errors import Broken, Refused, broken_model
from ._fold import check_flags, fold
from ._load import MAX_NODES
from ._moved_strings import MOVES_STRINGS, by_position
from ._node import Node
from ._schema import check_types, refused_by_inference
from ._scope import Scope
from ._shapes import check_shapes
from ._stored import STORED, from_storage
from ._strings import is_string
from ._values import Value

__all__ = ["MOVING_OPS", "STORED_OPS", "Graph"]

_FOLDED = 1 << 30  # bytes of results of constants that any model may come to
_MAX_DEPTH = 64  # of subgraphs and functions in each other
# What takes types that are only stored: converters that know of them, and those that only move elements.
STORED_OPS = frozenset(
    {"Cast", "CastLike", "DequantizeLinear", "GatherBlockQuantized", "QuantizeLinear", "Shape", "Size"}
)
STRING_OPS = frozenset({"RegexFullMatch", "StringConcat", "StringNormalizer", "StringSplit"})
MOVING_OPS = frozenset({"Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})


# What to do instead of operators that no converter is meant for, by domain, and by name in com.microsoft.
_EXTENSIONS = (
    "a step of onnxruntime-extensions before or behind the model: do it in the program, and export the model without it"
)
_DOMAINS = {
    "ai.onnx.contrib": _EXTENSIONS,
    "com.microsoft.extensions": _EXTENSIONS,
    "com.ms.internal.nhwc": "a layout of ONNX Runtime's for one kind of device: save the optimized model at level ORT_ENABLE_EXTENDED",
}
_INSTEAD = {
    **dict.fromkeys(
        ["BeamSearch", "GreedySearch", "Sampling", "WhisperBeamSearch"],
        "a whole decoding loop: export the decoder by itself, with its past key values, and choose tokens in the program",
    ),
    **dict.fromkeys(["EPContext", "Snpe"], "compiled for another device: give the model that it was made from"),
    **dict.fromkeys(
        ["PackedAttention", "PackedMultiHeadAttention", "RemovePadding", "RestorePadding"],
        "a form for GPUs that has no padding: give the model as it was before convert_to_packing_mode",
    ),
    "PagedAttention": "a form for GPUs whose cache a server pages: give the model with GroupQueryAttention",
    **dict.fromkeys(
        ["ComplexMul", "ComplexMulConj", "Irfft", "Rfft"],
        "a transform that ONNX Runtime has for GPUs alone: export it as ONNX's DFT and ordinary products",
    ),
}


class Graph(Emitter):
    """One import: its graphs and function bodies, node by node."""

    def __init__(self, model: onnx.ModelProto, math: ShapeMath, data: Data) -> None:
        super().__init__(model, math, data)
        self.functions = {(f.domain, f.name, getattr(f, "overload", "")): f for f in model.functions}
        self._folded_bytes = 0  # bytes of results that are known without a run
        self._may_fold = max(_FOLDED, 4 * (data.nbytes + sum(t.ByteSize() for t in model.graph.initializer)))
        self._converted = 0  # nodes, each time that one is written out
        self._specified = 0  # how many bodies of the specification's own enclose what is converted now

    def run_graph(self, graph: onnx.GraphProto, scope: Scope) -> list[Value]:
        """Convert the nodes of a graph whose inputs are already in scope; the values of its outputs."""
        if scope.depth > _MAX_DEPTH:
            raise broken_model(f"graph '{graph.name}' is nested deeper than {_MAX_DEPTH}")
        for tensor in graph.initializer:
            if tensor.name not in scope.values:
                scope.values[tensor.name] = self.tensor(tensor, f"initializer '{tensor.name}'")
        for sparse in graph.sparse_initializer:
            scope.values[sparse.values.name] = self.sparse(sparse, f"sparse initializer '{sparse.values.name}'")
        self.run_nodes(graph.node, scope)
        return [self.result(o.name, scope, graph.name) for o in graph.output]

    def result(self, name: str, scope: Scope, where: str) -> Value:
        value = scope.find(name)
        if value is None:
            raise broken_model(f"output '{name}' of graph '{where}' is made by no node")
        return value

    def run_nodes(self, nodes: Iterable[onnx.NodeProto], scope: Scope) -> None:
        for number, proto in enumerate(nodes):
            heed()
            self.run_node(proto, scope, number)

    def run_node(self, proto: onnx.NodeProto, scope: Scope, number: int) -> None:
        self._converted += 1
        if self._converted > MAX_NODES:
            raise broken_model(f"it has more than {MAX_NODES} nodes when its functions and loops are written out")
        label = proto.name or (proto.output[0] if proto.output else "") or f"{proto.op_type}_{number}"
        place = scope.prefix + label
        inputs: list[Value | None] = []
        for name in proto.input:
            value = scope.find(name) if name else None
            if name and value is None:
                raise broken_model(f"node '{place}' ({proto.op_type}) reads '{name}', which nothing defines before it")
            inputs.append(value)
        outer, self.at = self.at, f"{proto.op_type} '{cited_name(place)}'"
        try:
            results = self._convert(proto, scope, place, inputs)
        except (Refused, UndecidedDims) as why:
            self.unsupported.add(_qualified(proto), str(why), place)
            results = None
        except Broken as why:
            raise broken_model(f"node '{place}' ({proto.op_type}) {why}") from None
        except (AmbiguousDims, Error):
            raise
        except ValueError as why:
            text = first_line(why)
            if "ir.Op(" in text:  # TVM's complaint, of its own operators
                text = _refusal(proto, scope, inputs) or "its inputs do not fit each other"
            raise broken_model(f"node '{place}' ({proto.op_type}): {text}") from why
        except Exception as why:
            refusal = _refusal(proto, scope, inputs)
            if refusal:
                raise broken_model(f"node '{place}' ({proto.op_type}): {refusal}") from why
            raise fault(why, "import", f"node '{place}' ({_qualified(proto)})") from why
        finally:
            self.at = outer
        for i, name in enumerate(proto.output):
            if not name:
                continue
            if results is not None and i >= len(results):
                raise broken_model(f"node '{place}' ({proto.op_type}) has more outputs than its operator")
            out = Value("float32", (), poison=True) if results is None else results[i]
            scope.values[name] = out if out is not None else Value("float32", (), poison=True)

    def _convert(
        self, proto: onnx.NodeProto, scope: Scope, place: str, inputs: list[Value | None]
    ) -> list[Value | None] | None:
        domain = "" if proto.domain in DEFAULT_DOMAINS else proto.domain
        function = self.functions.get((proto.domain, proto.op_type, getattr(proto, "overload", "")))
        poisoned = any(v is not None and v.poison for v in inputs)
        if function is not None:
            return None if poisoned else self.call(function, proto, scope, place, inputs)
        opset = scope.opsets.get(domain)
        if opset is None:
            if domain == "":
                raise broken_model(
                    f"node '{place}' ({proto.op_type}) uses the default operator set, which the model does not import"
                )
            opset = 1
        same = _registry.find_equivalent(domain, proto.op_type)
        if same is not None:
            proto, domain, opset = _renamed(proto, same.name), "", same.version
        version = schema_version(proto.op_type, opset, domain)
        converter = _registry.find(domain, proto.op_type, version)
        if not self._specified:
            check_types(proto.op_type, opset, domain, inputs)
        if poisoned:
            # Whether it would be supported is all that can be said of it.
            if (
                converter is None
                and not has_body(proto.op_type, opset, domain)
                and not (domain == "" and _registry.find_shape_op(proto.op_type))
            ):
                raise Refused(_no_converter(domain, proto.op_type, version))
            return None
        node = Node(self, scope, bind_attributes(proto, scope.attributes), version, opset, place, inputs)
        if domain == "":
            check_flags(node)
        known = empty_results(node.proto, opset, place, node.inputs)
        if known is None:
            known = self._fold(node)
        if known is not None:
            return known
        if any(is_string(v) or any(is_string(i) for i in v.items or []) for v in inputs if v is not None):
            return self._convert_strings(node, domain, converter)
        check_shapes(node, domain)
        if converter is None:
            body = function_body(node, domain)
            if body is None:
                raise Refused(_no_converter(domain, proto.op_type, version))
            self._specified += 1
            try:
                return self.call(body, node.proto, scope, place, inputs)
            finally:
                self._specified -= 1
        moved = self._only_moved(node)
        result = converter.convert(node)
        results = list(result) if isinstance(result, tuple | list) else [result]
        values = [None if r is None else self.wrap(r, place) for r in results]
        return [None if v is None else _as_stored(v, moved) for v in values] if moved else values

    def _convert_strings(self, node: Node, domain: str, converter: _registry.Converter | None) -> list[Value | None]:
        """A node that some of its inputs are strings of."""
        special = _registry.find_string_op(domain, node.op)
        if converter is not None and node.op in STRING_OPS:
            special = converter.convert
        elif (
            special is None
            and converter is not None
            and node.op in MOVES_STRINGS
            and domain == ""
            and is_string(node.inputs[0])
        ):
            return list(by_position(node, converter.convert))
        if special is None:
            raise Refused("of strings")
        result = special(node)
        results = list(result) if isinstance(result, tuple | list) else [result]
        return [None if r is None else self.wrap(r, node.place) for r in results]

    def _only_moved(self, node: Node) -> str:
        """The type of input 0, if no arithmetic knows it and the operator does without; "" for usual types."""
        given = [v for v in node.inputs if v is not None]
        odd = [v.dtype for g in given for v in [g, *(g.items or [])] if v.dtype in STORED]
        if not odd or (node.op in STORED_OPS and node.proto.domain in (*DEFAULT_DOMAINS, "com.microsoft")):
            return ""
        if node.op in MOVING_OPS and node.proto.domain in DEFAULT_DOMAINS and node.dtype(0) in STORED:
            return node.dtype(0)
        raise Refused(f"of {odd[0]}")

    def _fold(self, node: Node) -> list[Value | None] | None:
        """The results, if they are known without a run."""
        if not all(v is None or v.known for v in node.inputs):
            return None
        evaluate = _registry.find_shape_op(node.op) if node.proto.domain in DEFAULT_DOMAINS else None
        if evaluate is not None and node.inputs:
            out = evaluate(node)
            if out is not None:
                outs = out if isinstance(out, tuple | list) else [out]
                return [
                    Value.of_symbols(o, node_dtype(node, o), node.place)
                    if o.dtype == object
                    else Value.of_array(o, node.place)
                    for o in outs
                ]
        if (
            self._folded_bytes < self._may_fold
            and node.inputs
            and all(v is None or v.const is not None for v in node.inputs)
        ):
            folded = fold(node)
            if folded is not None:
                self._folded_bytes += sum(a.nbytes for a in folded)
                return [Value.of_array(a, node.place) for a in folded]
        return None

    def call(
        self, function: onnx.FunctionProto, proto: onnx.NodeProto, scope: Scope, place: str, inputs: list[Value | None]
    ) -> list[Value | None]:
        if scope.depth >= _MAX_DEPTH:
            raise broken_model(
                f"function '{function.name}' calls itself, or functions are nested deeper than {_MAX_DEPTH}"
            )
        opsets = {("" if o.domain in DEFAULT_DOMAINS else o.domain): o.version for o in function.opset_import}
        inner = Scope({**scope.opsets, **opsets}, None, scope.depth + 1, f"{place}/")
        inner.attributes = {a.name: a for a in function.attribute_proto}
        for name, a in schema_defaults(proto, scope.opsets).items():
            inner.attributes.setdefault(name, a)
        inner.attributes.update({a.name: a for a in bind_attributes(proto, scope.attributes).attribute})
        for i, name in enumerate(function.input):
            if i < len(inputs) and inputs[i] is not None:
                inner.values[name] = inputs[i]  # type: ignore[assignment]
            else:
                inner.values[name] = Value("float32", (), absent=True)
        for number, node in enumerate(function.node):
            self._run_in_function(node, inner, number)
        out: list[Value | None] = []
        for i, name in enumerate(function.output):
            value = inner.find(name)
            wanted = i < len(proto.output) and proto.output[i]
            if value is None and wanted:
                raise broken_model(f"function '{function.name}' does not make its output '{name}'")
            out.append(value)
        return out

    def _run_in_function(self, node: onnx.NodeProto, inner: Scope, number: int) -> None:
        """A function's optional input that the caller left out is an absent input of the nodes in the body."""
        missing = [n for n in node.input if n and (v := inner.find(n)) is not None and v.absent and v.items is None]
        if missing:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            names = ["" if n in missing else n for n in node.input]
            while names and not names[-1]:
                names.pop()
            del copy.input[:]
            copy.input.extend(names)
            node = copy
        self.run_node(node, inner, number)

    def subgraph(
        self, graph: onnx.GraphProto, scope: Scope, place: str, inputs: list[Value], label: str
    ) -> list[Value]:
        inner = Scope(scope.opsets, scope, scope.depth + 1, f"{place}/{label}/")
        inner.attributes = scope.attributes
        if len(inputs) != len(graph.input):
            raise Broken(f"gives {len(inputs)} inputs to a graph that has {len(graph.input)}")
        for info, value in zip(graph.input, inputs, strict=True):
            inner.values[info.name] = value
        results = self.run_graph(graph, inner)
        odd = [v.dtype for v in results if v.dtype in STORED]
        if odd:
            raise Refused(f"whose subgraph gives {odd[0]}")
        return results


def _refusal(proto: onnx.NodeProto, scope: Scope, inputs: list[Value | None]) -> str:
    """What onnx itself has against a node that gets these inputs; "" if nothing."""
    domain = "" if proto.domain in DEFAULT_DOMAINS else proto.domain
    return refused_by_inference(proto, scope.opsets.get(domain, 1), domain, inputs)


def _as_stored(value: Value, dtype: str) -> Value:
    """What a converter made of the stored form of a tensor, as that type again."""
    if value.dtype == dtype:
        return value
    if value.const is not None:
        return Value.of_array(from_storage(value.const, dtype), value.origin)
    return Value(dtype, value.shape, expr=value.expr, origin=value.origin)


def node_dtype(node: Node, array: Any) -> str:
    """Element type of a shape evaluator's symbolic result: that of its data input, int64 where the operator says so."""
    if node.op in ("Shape", "Size"):
        return "int64"
    if node.op == "Cast":
        return node.dtype_attr("to", stored=True)
    return node.dtype(1) if node.op == "Where" else node.dtype(0)


def _qualified(proto: onnx.NodeProto) -> str:
    return proto.op_type if proto.domain in DEFAULT_DOMAINS else f"{proto.domain}::{proto.op_type}"


def _renamed(proto: onnx.NodeProto, name: str) -> onnx.NodeProto:
    """The node as one of the default domain."""
    out = onnx.NodeProto()
    out.CopyFrom(proto)
    out.op_type, out.domain = name, ""
    return out


def _no_converter(domain: str, name: str, version: int) -> str:
    if domain in _DOMAINS:
        return _DOMAINS[domain]
    if domain == "com.microsoft" and name in _INSTEAD:
        return _INSTEAD[name]
    if _registry.has_converter(domain, name):
        return f"version {version} of this operator has no converter"
    return "no converter" if version or domain else "no such operator in this operator set"
