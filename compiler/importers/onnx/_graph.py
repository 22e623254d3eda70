"""Going through an ONNX graph node by node and building the Relax function: scopes, constants, folding, refusals."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
import tvm
from onnx import numpy_helper
from tvm import relax, tirx

from maas_rt._errors import Error

from ..._boundary import fault, first_line
from ..._deep import heed
from .._noise import Noise
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
from ._dims import AmbiguousDims, Dim, ShapeMath, UndecidedDims
from ._drawing import Draw
from ._empty import empty_results, empty_value, is_empty
from ._errors import broken_model
from ._fold import fold
from ._load import MAX_NODES, names_read
from ._node import Broken, Node, Refused, check_extents, constant, dims_of, dtype_of, shape_expr
from ._schema import check_types, refused_by_inference
from ._shapes import check_shapes
from ._stored import STORED, from_storage, storage
from ._strings import MOVED, bytes_of, canonical, is_string, moved
from ._values import DTYPES, STRING, Value, bits_of, numpy_dtype

__all__ = ["MOVING_OPS", "STORED_OPS", "Graph", "Scope", "Unsupported"]

_MAX_BOUND = 64  # numbers of one value that a run may turn into extents
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


class Unsupported:
    """Operators that were refused: (operator, reason) -> places."""

    def __init__(self) -> None:
        self.entries: dict[tuple[str, str], list[str]] = {}

    def add(self, operator: str, reason: str, place: str) -> None:
        self.entries.setdefault((operator, reason), []).append(place)


class Scope:
    """Names of one graph or function body; a subgraph sees the names of what encloses it."""

    def __init__(self, opsets: dict[str, int], parent: Scope | None = None, depth: int = 0, prefix: str = "") -> None:
        self.opsets = opsets
        self.parent = parent
        self.depth = depth
        self.prefix = prefix
        self.values: dict[str, Value] = {}
        self.attributes: dict[str, onnx.AttributeProto] | None = None  # of the call, inside a function body

    def find(self, name: str) -> Value | None:
        scope: Scope | None = self
        while scope is not None:
            if name in scope.values:
                return scope.values[name]
            scope = scope.parent
        return None

    def root(self) -> Scope:
        """The scope of the model's own graph."""
        return self if self.parent is None else self.parent.root()


class Graph:
    """The state of one import: the block builder, the symbols, what was refused so far."""

    def __init__(self, model: onnx.ModelProto, math: ShapeMath, data: Data) -> None:
        self.bb = relax.BlockBuilder()
        self.data = data
        self.math = math
        math.on_assume = self.check_equal
        self.unsupported = Unsupported()
        self.functions = {(f.domain, f.name, getattr(f, "overload", "")): f for f in model.functions}
        self.read = names_read(model.graph, *model.functions)  # to tell results that nobody wants
        self.read_by_nodes = names_read(model.graph, *model.functions, results=False)
        self.noise = Noise()
        self.draws: dict[int, Draw] = {}  # what each node that draws draws, by its number
        self.index_bounds: dict[str, tuple[float, float]] = {}  # graph input -> values that its consumers accept
        self.sizes: dict[
            str, Dim
        ] = {}  # a symbol of the inputs -> an extent of it that suits the model, for verification's inputs
        self._names: dict[str, int] = {}
        self._bound: dict[int, tuple[Value, list[Dim]]] = {}
        self._symbol_count = 0
        self._folded = 0  # bytes of results that are known without a run
        self._may_fold = max(_FOLDED, 4 * (data.nbytes + sum(t.ByteSize() for t in model.graph.initializer)))
        self._converted = 0  # nodes, each time that one is written out
        self._specified = 0  # how many bodies of the specification's own enclose what is converted now
        self._materialised: list[Value] = []  # values whose tensor a generated function made, while inside a branch

    # ---- emitting

    def emit(self, expression: Any, place: str = "") -> Any:
        var = self.bb.emit(expression, self._name(place))
        if isinstance(var.ty, relax.TensorType):
            if not isinstance(var.ty.shape, relax.ShapeExpr):
                raise Refused("its result's shape could not be determined")
            check_extents(dims_of(var))
        return var

    def te(self, function: Callable[..., Any], *args: Any, name: str, place: str = "") -> Any:
        var = self.bb.emit_te(function, *args, primfunc_name_hint=_identifier(name), name_hint=self._name(place))
        for each in var.ty.fields if isinstance(var.ty, relax.TupleType) else [var.ty]:
            check_extents([int(d) if isinstance(d, tirx.IntImm) else d for d in each.shape.values])
        return var

    def _name(self, place: str) -> str:
        return _identifier(place) or "v"

    def expr(self, value: Value) -> Any:
        """A value as a Relax tensor expression."""
        if value.expr is None:
            if value.const is not None:
                if value.dtype == STRING:
                    return bytes_of(value)
                value.expr = constant(storage(value.const) if value.dtype in STORED else value.const)
            elif value.sym is not None:
                value.expr = self._materialise(value)
                if self.math.branches:
                    self._materialised.append(value)
            else:
                raise Broken("a sequence or an optional stands where a tensor is expected")
        return value.expr

    def enter(self, value: Value) -> None:
        """A parameter of a type that is only stored, as what stands for it inside."""
        if value.dtype not in STORED or value.expr is None:
            return
        inside, bits = STORED[value.dtype], bits_of(value.dtype)
        raw = self.emit(relax.op.memory.view(value.expr, None, "uint8"), value.origin)
        if bits == 8:
            value.expr = raw
            return

        def body(x: Any) -> Any:
            def element(*i: Any) -> Any:
                low = tirx.bitwise_and(x(*i), tirx.IntImm("uint8", (1 << bits) - 1))
                if inside == "uint8":
                    return low
                half = tirx.IntImm("int8", 1 << (bits - 1))
                return tirx.bitwise_xor(tirx.Cast("int8", low), half) - half

            return tvm.te.compute(x.shape, element, name="unpadded")

        value.expr = self.te(body, raw, name="unpadded", place=value.origin)

    def leave(self, value: Value) -> Any:
        """An output's expression, of its own type; the bits that a small integer does not have are 0."""
        x = self.expr(value)
        if value.dtype == STRING and value.const is None:
            return canonical(
                lambda *a, name: self.te(*a, name=name, place=value.origin),
                lambda t: self.bind_tensor(t, 1, f"{value.origin}_bytes")[0],
                lambda t, dims: self.emit(relax.op.reshape(t, shape_expr(dims)), value.origin),
                x,
            )
        if value.dtype not in STORED:
            return x
        bits = bits_of(value.dtype)

        def body(x: Any) -> Any:
            ones = tirx.IntImm("uint8", (1 << bits) - 1)
            return tvm.te.compute(x.shape, lambda *i: tirx.bitwise_and(tirx.Cast("uint8", x(*i)), ones), name="padded")

        if bits < 8:
            x = self.te(body, x, name="padded", place=value.origin)
        elif not isinstance(x, relax.Var):
            x = self.emit(x, value.origin)
        return self.emit(relax.op.memory.view(x, None, value.dtype), value.origin)

    def _materialise(self, value: Value) -> Any:
        """A generated function that stores the values of symbol expressions into a small tensor."""
        assert value.sym is not None
        shape, dtype = value.sym.shape, value.dtype
        elements = [tirx.IntImm("int64", int(e)) if isinstance(e, int | np.integer) else e for e in value.sym.flat]

        def body(items: list[Any]) -> Any:
            def element(*index: Any) -> Any:
                flat: Any = tirx.IntImm("int64", 0)
                for i, extent in zip(index, shape, strict=True):
                    flat = flat * extent + i
                out = tirx.Cast(dtype, items[-1]) if dtype != "int64" else items[-1]
                for k in range(len(items) - 2, -1, -1):
                    item = tirx.Cast(dtype, items[k]) if dtype != "int64" else items[k]
                    out = tirx.Select(flat == k, item, out)
                return out

            return tvm.te.compute(shape, element, name="extents")

        return self.te(body, relax.ShapeExpr(elements), name="extents", place=value.origin or "extents")

    def cast(self, expression: Any, dtype: str, place: str = "") -> Any:
        have = dtype_of(expression)
        if have == dtype:
            return expression
        if dtype == "bool":
            zero = constant(np.array(0, numpy_dtype(have)))
            return self.emit(relax.op.not_equal(expression, zero), place)
        return self.emit(relax.op.astype(expression, dtype), place)

    def wrap(self, result: Any, place: str) -> Value:
        """A converter's result as a Value."""
        if isinstance(result, Value):
            return result
        if isinstance(result, np.ndarray | np.generic):
            return Value.of_array(np.asarray(result), place)
        if isinstance(result, tvm.ir.expr.GenericConst):
            return Value.of_array(result.value.numpy(), place)
        if not isinstance(result, relax.Var):
            result = self.emit(result, place)
        if is_empty(dims_of(result)):
            return empty_value(dims_of(result), dtype_of(result), place)
        return Value(dtype_of(result), dims_of(result), expr=result, origin=place)

    def bind(self, value: Value, node: Node, what: str) -> list[Dim]:
        """New symbols for the elements of a small integer tensor that a run computes; the run refuses negative ones."""
        if not value.dtype.startswith(("int", "uint")) or value.rank > 1:
            raise Broken(f"needs {what} as a list of integers")
        count = value.shape[0] if value.shape else 1
        if not isinstance(count, int) or count > _MAX_BOUND:
            raise Refused(f"{what} whose length is only known at run time")
        if not count:
            return []
        if id(value) not in self._bound:
            x = self.cast(self.expr(value), "int64")
            if not value.shape:
                x = self.emit(relax.op.reshape(x, shape_expr([1])))
            self._bound[id(value)] = (value, self.bind_tensor(x, count, node.place))
        return list(self._bound[id(value)][1])

    def bind_tensor(self, x: Any, count: int, place: str) -> list[Dim]:
        """New symbols for the elements of an int64 tensor of shape [count]."""
        names = []
        for i in range(count):
            self._symbol_count += 1
            names.append(f"{_identifier(place) or 'bound'}_{i}_{self._symbol_count}")
        symbols = [self.math.symbol(name, derived=True) for name in names]
        shape = self.bb.emit(relax.op.tensor_to_shape(x), self._name(f"{place}_shape"))
        self.bb.match_cast(shape, relax.ShapeType(symbols))
        return symbols

    def check_equal(self, a: Dim, b: Dim) -> None:
        """Every run that comes here refuses inputs for which a != b."""
        everywhere = not self.math.choices  # what inputs' extents alone decide is checked when a run begins
        if everywhere and not self.math.depends_on_run(a) and not self.math.depends_on_run(b):
            if isinstance(b, tirx.Var):
                a, b = b, a  # a lone variable as the pattern would be a definition
            self.bb.match_cast(shape_expr([a]), relax.ShapeType(list(shape_expr([b]).values)))
            return

        self.check(lambda dims: dims[0] == dims[1], shape_expr([a, b]), place=f"{_text(a)} is {_text(b)}")

    def check(self, condition: Callable[..., Any], *args: Any, place: str) -> None:
        """Every run refuses inputs for which condition(args as te sees them) is false: a negative extent, which no run binds. The
        runtime knows such a check by its name, and cites the rest of it (csrc/runtime/executor.cc)."""

        def body(*given: Any) -> Any:
            one, never = tirx.IntImm("int64", 1), tirx.IntImm("int64", -1)
            return tvm.te.compute((1,), lambda i: tirx.Select(condition(*given), one, never), name="check")

        self.bind_tensor(self.te(body, *args, name="check", place=place), 1, f"assumed {place[-45:]}")

    def align(self, x: Any, dims: Sequence[Dim]) -> Any:
        """x, whose extents are known to be those of dims (aligned at the end) or 1, with the same expressions for them."""
        have = dims_of(x)
        want = [1 if self.math.same(h, 1) else d for h, d in zip(have, dims[len(dims) - len(have) :], strict=True)]
        return self.with_extents(x, want)

    def with_extents(self, x: Any, dims: Sequence[Dim]) -> Any:
        """x with these expressions for its extents, which are known to be equal to those that it has: a view."""
        have = dims_of(x)
        if len(have) == len(dims) and all(self.math.certain(h, d) for h, d in zip(have, dims, strict=True)):
            return x
        return self.emit(relax.op.reshape(x, shape_expr(dims)), "same_extents")

    # ---- branches

    def in_block(self, convert: Callable[[], list[Value]], *, choice: bool = False) -> tuple[Any, list[Value]]:
        """Convert into a block of bindings of its own: (the block, the values). Expressions made in it stay in it. A `choice` is
        a block that a run may leave out."""
        before = dict(self._bound)
        values: list[Value] = []
        self.math.choices += choice
        try:
            with self._branch() as block:
                values = convert()
        finally:
            self.math.choices -= choice
        self._bound = before
        return block[0], values

    @contextmanager
    def _branch(self) -> Iterator[list[Any]]:
        """A block of bindings, given in the list when it ends. Extents of outer values that were turned into tensors in it are
        not visible outside, so that is forgotten."""
        block: list[Any] = []
        self.math.branches += 1
        outer, self._materialised = self._materialised, []
        self.bb._begin_binding_block()
        try:
            yield block
        finally:
            block.append(self.bb._end_block())
            for value in self._materialised:
                value.expr = None
            self._materialised = outer
            self.math.branches -= 1

    def seal(self, block: Any, finish: Callable[[], list[Any]]) -> Any:
        """The body of a branch: its block, then what `finish` emits, and a tuple of the results."""
        with self._branch() as last:
            results = [self.bb.emit(r) if isinstance(r, tvm.ir.expr.GenericConst) else r for r in finish()]
        return relax.SeqExpr([block, last[0]], relax.Tuple(results))

    def emit_if(self, condition: Any, then: Any, other: Any, place: str) -> Any:
        return self.bb.emit(relax.If(condition, then, other), self._name(place))

    def limit_index(self, value: Value, extent: Dim) -> None:
        """Remember that a graph input is used as an index below `extent`, for the random inputs of verification."""
        if value.expr is None or not isinstance(extent, int):
            return
        name = value.origin
        low, high = self.index_bounds.get(name, (0, extent - 1))
        self.index_bounds[name] = (0, min(high, extent - 1)) if name else (low, high)

    def suggest_size(self, extent: Dim, size: Dim) -> None:
        """Remember an extent that suits the model, where it is a symbol of the inputs, for the random inputs of verification."""
        if isinstance(extent, tirx.Var) and extent.name not in self.math.derived:
            self.sizes.setdefault(extent.name, size)

    def suggest_values(self, x: Any, value: int, inputs: Iterable[Value]) -> None:
        """The same of the elements of the inputs that an expression is computed of."""
        if isinstance(x, relax.Var):
            made = self.bb.lookup_binding(x)
            if made is not None:
                self.suggest_values(made, value, inputs)
            else:
                origins = [v.origin for v in inputs if v.expr is not None and v.expr.same_as(x)]
                self.index_bounds.update(dict.fromkeys(origins, (value, value)))
        elif isinstance(x, relax.Call | relax.Tuple):
            for part in x.args if isinstance(x, relax.Call) else x.fields:
                self.suggest_values(part, value, inputs)

    # ---- graphs

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
            raise broken_model(f"node '{place}' ({proto.op_type}): {first_line(why)}") from why
        except Exception as why:
            domain = "" if proto.domain in DEFAULT_DOMAINS else proto.domain
            refusal = refused_by_inference(proto, scope.opsets.get(domain, 1), domain, inputs)
            if refusal:
                raise broken_model(f"node '{place}' ({proto.op_type}): {refusal}") from why
            raise fault(why, "import", f"node '{place}' ({_qualified(proto)})") from why
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
        same = _registry.same(domain, proto.op_type)
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
        known = empty_results(node)
        if known is None:
            known = self._fold(node)
        if known is not None:
            return known
        if any(is_string(v) or any(is_string(i) for i in v.items or []) for v in inputs if v is not None):
            return self._convert_strings(node, domain, converter)
        if domain == "":
            check_shapes(node)
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
            and node.op in MOVED
            and domain == ""
            and is_string(node.inputs[0])
        ):
            return list(moved(node, converter.convert))
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
        if self._folded < self._may_fold and node.inputs and all(v is None or v.const is not None for v in node.inputs):
            folded = fold(node)
            if folded is not None:
                self._folded += sum(a.nbytes for a in folded)
                return [Value.of_array(a, node.place) for a in folded]
        return None

    def call(
        self, function: onnx.FunctionProto, proto: onnx.NodeProto, scope: Scope, place: str, inputs: list[Value | None]
    ) -> list[Value | None]:
        """Convert a function's body in place of the node that calls it."""
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

    def subgraph(self, node: Node, graph: onnx.GraphProto, inputs: list[Value], label: str) -> list[Value]:
        """Convert an attribute's graph here, with these values as its inputs."""
        scope = Scope(node.scope.opsets, node.scope, node.scope.depth + 1, f"{node.place}/{label}/")
        scope.attributes = node.scope.attributes
        if len(inputs) != len(graph.input):
            raise Broken(f"gives {len(inputs)} inputs to a graph that has {len(graph.input)}")
        for info, value in zip(graph.input, inputs, strict=True):
            scope.values[info.name] = value
        results = self.run_graph(graph, scope)
        odd = [v.dtype for v in results if v.dtype in STORED]
        if odd:
            raise Refused(f"whose subgraph gives {odd[0]}")
        return results

    # ---- constants

    def tensor(self, tensor: onnx.TensorProto, where: str) -> Value:
        if tensor.data_type == onnx.TensorProto.STRING:
            return Value.of_array(np.array(numpy_helper.to_array(tensor), dtype=object), where)
        if tensor.data_type not in DTYPES:
            return Value("float32", (), poison=True) if self._refuse_tensor(tensor, where) else Value("float32", ())
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            return Value.of_array(self.data.array(tensor), where)
        return Value.of_array(np.asarray(numpy_helper.to_array(tensor)), where)

    def _refuse_tensor(self, tensor: onnx.TensorProto, where: str) -> bool:
        names = onnx.TensorProto.DataType
        kind = names.Name(tensor.data_type) if tensor.data_type in names.values() else str(tensor.data_type)
        self.unsupported.add(f"constant of {kind}", "element type is not supported", where)
        return True

    def sparse(self, sparse: onnx.SparseTensorProto, where: str) -> Value:
        values = np.asarray(numpy_helper.to_array(sparse.values)).reshape(-1)
        indices = np.asarray(numpy_helper.to_array(sparse.indices))
        dims = tuple(int(d) for d in sparse.dims)
        total = int(np.prod(dims, dtype=object)) if dims else 1
        if any(d < 0 for d in dims) or total > 1 << 31:
            raise broken_model(f"{where} has impossible dimensions {list(dims)}")
        dense = np.zeros(total, dtype=values.dtype)
        flat = indices if indices.ndim == 1 else np.ravel_multi_index(tuple(indices.T), dims)
        if flat.shape != values.shape or (flat.size and (flat.min() < 0 or flat.max() >= total)):
            raise broken_model(f"{where} has indices outside of its dimensions")
        dense[flat] = values
        return Value.of_array(dense.reshape(dims), where)


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
    if _registry.known(domain, name):
        return f"version {version} of this operator has no converter"
    return "no converter" if version or domain else "no such operator in this operator set"


def _text(extent: Dim) -> str:
    return str(extent).replace("T.int64", "")


def _identifier(text: str) -> str:
    out = "".join(c if c.isalnum() and c.isascii() else "_" for c in text)[-60:].strip("_")
    return f"_{out}" if out[:1].isdigit() or out == "main" else out  # the function itself is called main
