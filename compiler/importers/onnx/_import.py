"""import_onnx: from a file or a ModelProto to an ImportedModel."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import tvm
from tvm import relax

from maas_rt._errors import ImportModelError, InvalidArgumentError

from ..._boundary import boundary
from ..._deep import deep
from .._dynamic import asked_bounds, contradiction, requested, with_asked_bounds
from .._imported import ImportedModel, SymbolSpec
from .._noise import with_seed
from ._about import about
from ._data import Data, without_data
from ._dims import AmbiguousDims, Dim, ShapeMath
from ._empty import empty_value, is_empty
from ._errors import Broken, Refused, Unsupported, broken_model, unsupported_error
from ._exprs import check_extents, shape_expr
from ._graph import Graph
from ._load import check_model, read_model, sort_nodes
from ._nchwc import NCHWC, foreign, with_blocks
from ._scope import Scope
from ._sharing import numbered
from ._source import OnnxSource
from ._stored import STORED
from ._strings import is_string
from ._values import DTYPES, STRING, Value, onnx_dtype

__all__ = ["import_onnx"]

_MAX_UNIFICATIONS = 256
_NO_NAMES = ("?", "-1", "None", "none")  # what exporters write for a dimension that they know nothing of


@boundary("import")
def import_onnx(
    model: onnx.ModelProto | str | os.PathLike[str],
    *,
    dynamic: Any = None,
    input_shapes: Mapping[str, Any] | None = None,
) -> ImportedModel:
    """Import an ONNX model as one Relax function.

    Args:
        model: a ModelProto whose tensors are all inside, or the path of a file (its external data is read beneath its folder).
        dynamic: symbolic dimensions by input name and axis, {"x": {0: (1, 32)}}; a value is (min, max), a SymbolSpec, a
            symbol's name, or None for no bounds. Dimensions that the model itself names (dim_param) or leaves open are
            symbols without being asked for.
        input_shapes: extents by input name; they fix what the model leaves open. A sequence's is a list of shapes, one for each
            element (that many elements it has in every run, as inputs "name.0", "name.1", ...); an optional's is what it
            has inside, or None if it has nothing. An output that is a sequence becomes "name.0", "name.1", ... too;
            the maps that ZipMap makes of a matrix are the matrix.

    Raises:
        ImportModelError: the file is broken, hostile, or of an operator set that is not known.
        UnsupportedOperatorError: `.operators` lists all operators that are not supported.
        InvalidArgumentError: `dynamic` or `input_shapes` do not fit the model's inputs.
    """
    if isinstance(model, onnx.ModelProto):
        check_model(model)
        return _import_checked(*without_data(model), dynamic, input_shapes)
    proto, data = read_model(Path(model))
    check_model(proto, data)
    return _import_checked(proto, data, dynamic, input_shapes)


def _import_checked(
    proto: onnx.ModelProto, data: Data, dynamic: Any, input_shapes: Mapping[str, Any] | None
) -> ImportedModel:
    proto = numbered(proto)
    fixed_shapes = {name: _shape(name, dims) for name, dims in (input_shapes or {}).items()}
    dynamic_axes = _dynamic(dynamic)
    for name, axes in dynamic_axes.items():
        for axis in axes:
            shape = fixed_shapes.get(name)
            if shape is not None and -len(shape) <= axis < len(shape):
                raise contradiction(name, axis, shape[axis], "lets it vary")
    equal: dict[str, Dim] = {}  # symbols that turned out to equal another symbol or a number
    for _ in range(_MAX_UNIFICATIONS):
        try:
            imported = deep(partial(_import, proto, data, dynamic_axes, fixed_shapes, equal))
            return with_asked_bounds(imported, asked_bounds(dynamic_axes))
        except AmbiguousDims as found:
            other = found.other if isinstance(found.other, int) else str(found.other)
            if found.symbol in equal:
                raise broken_model(f"dimension '{found.symbol}' meets contradictory extents") from None
            if not isinstance(found.other, int) and not hasattr(found.other, "name"):
                raise ImportModelError(
                    f"dimension '{found.symbol}' would have to equal {other} for the model to be valid: fix it with input_shapes"
                ) from None
            equal[found.symbol] = other
    raise broken_model("its symbolic dimensions contradict each other")


def _import(
    proto: onnx.ModelProto,
    data: Data,
    dynamic_axes: dict[str, dict[int, Any]],
    fixed_shapes: dict[str, Any],
    equal: dict[str, Dim],
) -> ImportedModel:
    math = ShapeMath()
    written = proto
    proto = _with_blocks(proto, data)
    graph = Graph(proto, math, data)
    opsets = {("" if o.domain in ("", "ai.onnx") else o.domain): o.version for o in proto.opset_import}
    scope = Scope(opsets)
    initial = {t.name for t in proto.graph.initializer} | {s.values.name for s in proto.graph.sparse_initializer}
    infos = [i for i in proto.graph.input if i.name not in initial]
    names = [i.name for i in infos]
    for given, what in ((dynamic_axes, "dynamic"), (fixed_shapes, "input_shapes")):
        for name in given:
            if name not in names:
                raise InvalidArgumentError(f"{what} names input '{name}', the model has {', '.join(names) or 'none'}")
    specs = _asked_specs(infos, dynamic_axes, equal)
    given_values: dict[str, Value] = {}  # the parameters: tensors, and elements of sequences
    for info in infos:
        if info.type.WhichOneof("value") in ("sequence_type", "optional_type"):
            value = _composite(info, fixed_shapes, given_values, graph)
        else:
            wishes = dynamic_axes.get(info.name, {})
            if info.name in given_values:
                raise broken_model(f"two inputs have the name '{info.name}'")
            value = _input(info, len(given_values), math, wishes, fixed_shapes.get(info.name), equal, specs, graph)
            given_values[info.name] = value
        scope.values[info.name] = value
    parameters = [v.expr for v in given_values.values() if v.expr is not None]
    ordered = onnx.GraphProto()
    nodes = sort_nodes(proto.graph, set())
    with graph.bb.function("main", parameters):
        for value in given_values.values():
            graph.enter(value)
        for tensor in proto.graph.initializer:
            scope.values[tensor.name] = graph.tensor(tensor, f"initializer '{tensor.name}'")
        for sparse in proto.graph.sparse_initializer:
            scope.values[sparse.values.name] = graph.sparse(sparse, f"sparse initializer '{sparse.values.name}'")
        del ordered
        graph.run_nodes(nodes, scope)
        outputs = [graph.result(o.name, scope, proto.graph.name) for o in proto.graph.output]
        results: dict[str, Value] = {}
        for info, value in zip(proto.graph.output, outputs, strict=True):
            _check_declared(info, value)
            if value.items is None:
                results[info.name] = value
            else:
                results.update({f"{info.name}.{k}": item for k, item in enumerate(value.items)})
            if any(v.absent or v.items is not None for v in (value.items if value.items is not None else [value])):
                graph.unsupported.add("optional or nested sequence", "as an output of the model", info.name)
        if graph.unsupported.entries:
            graph.bb.emit_func_output(relax.Tuple([]))
        else:
            graph.bb.emit_func_output(relax.Tuple([graph.leave(v) for v in results.values()]))
    if graph.unsupported.entries:
        raise unsupported_error(graph.unsupported)
    mod = relax.transform.ConvertToDataflow(min_size=1)(with_seed(graph.bb.get(), graph.noise))
    mod = relax.transform.DeadCodeElimination()(mod)

    data.check_unchanged()

    def import_cut(cut: onnx.ModelProto) -> ImportedModel:
        check_model(cut, data)
        return _import_checked(cut, data, {k: dict(v) for k, v in dynamic_axes.items()}, fixed_shapes)

    texts = sorted(name for name, value in {**given_values, **results}.items() if is_string(value))
    return ImportedModel(
        mod=mod,
        input_names=list(given_values),
        output_names=list(results),
        states=[],
        symbols={name: specs.get(name, SymbolSpec()) for name in _used_symbols(mod)},
        sizes={**graph.sizes, **math.relations()},
        source=OnnxSource(
            written, data, names, graph.index_bounds, import_cut, draws=graph.draws, misread=foreign(proto)
        ),
        provenance={
            "framework": "onnx",
            "kind": "onnx",
            "opset": {k or "ai.onnx": v for k, v in sorted(opsets.items())},
            **({"strings": texts} if texts else {}),
            "about": about(written),
        },
    )


def _check_declared(info: onnx.ValueInfoProto, value: Value) -> None:
    """An output has the element type that the model says it has."""
    if not info.type.HasField("tensor_type") or value.items is not None or value.poison or value.absent:
        return
    declared = info.type.tensor_type.elem_type
    if declared and declared != onnx_dtype(value.dtype):
        names = onnx.TensorProto.DataType
        wanted = names.Name(declared).lower() if declared in names.values() else str(declared)
        raise broken_model(f"output '{info.name}' is declared {wanted}, and its node makes {value.dtype}")


def _with_blocks(proto: onnx.ModelProto, data: Data) -> onnx.ModelProto:
    def array(tensor: onnx.TensorProto) -> Any:
        return data.array(tensor) if tensor.name in data else onnx.numpy_helper.to_array(tensor)

    try:
        return with_blocks(proto, array)
    except Refused as why:
        found = Unsupported()
        found.add(f"{NCHWC}::Conv", str(why), "the graph")
        raise unsupported_error(found) from None


def _shape(name: str, given: Any) -> Any:
    """A shape as a tuple, a sequence's as a tuple of such, None as it is."""
    if given is None:
        return None
    items = list(given)
    if items and all(isinstance(i, list | tuple) for i in items):
        return tuple(_shape(name, i) for i in items)
    return tuple(int(d) for d in items)


def _composite(info: onnx.ValueInfoProto, fixed: dict[str, Any], parameters: dict[str, Value], graph: Graph) -> Value:
    """A sequence or an optional, whose structure input_shapes gives; its tensors become parameters."""
    kind = info.type
    if info.name not in fixed:
        what = kind.WhichOneof("value")
        graph.unsupported.add(f"input of {what}", "unless input_shapes says what is in it", info.name)
        return Value("float32", (), poison=True)
    shape = fixed[info.name]
    if kind.WhichOneof("value") == "optional_type":
        if shape is None:
            return Value("float32", (), absent=True)
        kind = kind.optional_type.elem_type
    in_sequence = kind.WhichOneof("value") == "sequence_type"
    if in_sequence:
        kind = kind.sequence_type.elem_type
    shapes = shape if in_sequence else (shape,)
    if kind.WhichOneof("value") != "tensor_type":
        graph.unsupported.add(f"input of {kind.WhichOneof('value')} in another", "it has no tensors", info.name)
        return Value("float32", (), poison=True)
    if shape is None or not all(isinstance(s, tuple) and all(isinstance(d, int) for d in s) for s in shapes):
        raise InvalidArgumentError(f"input_shapes for input '{info.name}' must be a list of shapes, one an element")
    items = []
    for k, each in enumerate(shapes):
        element = onnx.ValueInfoProto(name=f"{info.name}.{k}" if in_sequence else info.name, type=kind)
        if element.name in parameters:
            raise broken_model(f"an input has the name of an element of '{info.name}'")
        value = _input(element, len(parameters), graph.math, {}, each, {}, {}, graph)
        parameters[element.name] = value
        items.append(value)
    if not in_sequence:
        return items[0]
    if any(v.poison for v in items):
        return Value("float32", (), poison=True)
    empty = DTYPES.get(kind.tensor_type.elem_type, "float32")
    return Value(items[0].dtype if items else empty, (), items=items)


def _used_symbols(mod: tvm.IRModule) -> list[str]:
    """Names of the symbols of main's parameters, in order of appearance."""
    out: dict[str, None] = {}
    for parameter in mod["main"].params:
        for d in parameter.ty.shape.values:
            for var in tvm.tirx.analysis.undefined_vars(d):
                out[var.name] = None
    return list(out)


def _input(
    info: onnx.ValueInfoProto,
    number: int,
    math: ShapeMath,
    dynamic: dict[int, Any],
    fixed_shape: tuple[int, ...] | None,
    equal: dict[str, Dim],
    specs: dict[str, SymbolSpec],
    graph: Graph,
) -> Value:
    kind = info.type.WhichOneof("value")
    if kind != "tensor_type":
        graph.unsupported.add(f"input of {kind or 'no type'}", "only tensors can be inputs", info.name)
        return Value("float32", (), poison=True)
    tensor = info.type.tensor_type
    text = tensor.elem_type == onnx.TensorProto.STRING
    if tensor.elem_type not in DTYPES and not text:
        names = onnx.TensorProto.DataType
        name = names.Name(tensor.elem_type) if tensor.elem_type in names.values() else str(tensor.elem_type)
        graph.unsupported.add(f"input of {name}", "element type is not supported", info.name)
        return Value("float32", (), poison=True)
    if not tensor.HasField("shape") and fixed_shape is None:
        raise ImportModelError(
            f"the ONNX model does not say the rank of input '{info.name}': give its shape with input_shapes"
        )
    declared_dims = list(tensor.shape.dim) if tensor.HasField("shape") else [None] * len(fixed_shape or ())
    if fixed_shape is not None and len(fixed_shape) != len(declared_dims):
        raise InvalidArgumentError(
            f"input_shapes gives {len(fixed_shape)} extents for input '{info.name}', which has rank {len(declared_dims)}"
        )
    for axis in dynamic:
        if not -len(declared_dims) <= axis < len(declared_dims):
            raise InvalidArgumentError(
                f"dynamic names axis {axis} of input '{info.name}', which has rank {len(declared_dims)}"
            )
    wishes = {a % len(declared_dims): w for a, w in dynamic.items()}
    dims: list[Dim] = []
    for axis, d in enumerate(declared_dims):
        dims.append(_input_dim(info.name, axis, d, math, wishes, fixed_shape, equal, specs))
    if text:  # see _strings.py
        width = _fresh_symbol(f"{info.name}_bytes", math, specs)
        var = relax.Var(_parameter_name(info.name, number), relax.TensorType(shape_expr([*dims, width]), "uint8"))
        graph.index_bounds[info.name] = (ord("a"), ord("z"))  # for the inputs that verification draws
        return Value(STRING, tuple(dims), expr=var, origin=info.name)
    try:
        check_extents(dims)
    except Broken as why:
        raise broken_model(f"input '{info.name}' {why}") from None
    dtype = DTYPES[tensor.elem_type]
    var = relax.Var(_parameter_name(info.name, number), relax.TensorType(shape_expr(dims), dtype))
    value = Value(dtype, tuple(dims), expr=var, origin=info.name)
    if is_empty(dims) and dtype not in STORED:  # what it holds is known: nothing
        value.const = empty_value(dims, dtype, info.name).const
    return value


def _fresh_symbol(name: str, math: ShapeMath, specs: dict[str, SymbolSpec]) -> Dim:
    while name in specs:
        name += "_"
    specs[name] = SymbolSpec(min=1)
    return math.symbol(name, 1)


def _input_dim(
    name: str,
    axis: int,
    declared_dim: Any,
    math: ShapeMath,
    wishes: dict[int, Any],
    fixed_shape: tuple[int, ...] | None,
    equal: dict[str, Dim],
    specs: dict[str, SymbolSpec],
) -> Dim:
    """The extent of one axis of an input: fixed by the caller, by the model, or a symbol."""
    if fixed_shape is not None:
        value = declared_dim.dim_value if declared_dim is not None and declared_dim.HasField("dim_value") else None
        if fixed_shape[axis] < 0 or (value and value > 0 and value != fixed_shape[axis]):
            raise InvalidArgumentError(
                f"input_shapes gives {fixed_shape[axis]} for axis {axis} of input '{name}', which the model fixes at {value}"
            )
        return fixed_shape[axis]
    wish = wishes.get(axis)
    if (
        axis not in wishes
        and declared_dim is not None
        and declared_dim.HasField("dim_value")
        and declared_dim.dim_value >= 0
    ):
        return int(declared_dim.dim_value)
    _spec(wish)  # refuses what is neither bounds nor a name
    symbol = _resolved(_symbol_name(name, axis, declared_dim, wish), equal)
    if isinstance(symbol, int):
        if axis in wishes:
            raise InvalidArgumentError(
                f"axis {axis} of input '{name}' cannot be dynamic: the model only works where it is {symbol}"
            )
        return symbol
    bounds = specs.setdefault(symbol, SymbolSpec())
    return bounds.min if bounds.min == bounds.max else math.symbol(symbol, bounds.min, bounds.max)


def _symbol_name(name: str, axis: int, declared: Any, wish: Any) -> str:
    """What an open dimension of an input is called: by the caller, by the model, or by its place."""
    symbol = declared.dim_param if declared is not None and declared.HasField("dim_param") else ""
    symbol = "" if symbol in _NO_NAMES else symbol
    return wish if isinstance(wish, str) else symbol or f"{name}_dim{axis}"


def _resolved(symbol: str, equal: dict[str, Dim]) -> Any:
    """The symbol or the number that a symbol turned out to be equal to."""
    seen = set()
    while symbol in equal:
        if symbol in seen:
            raise broken_model(f"dimension '{symbol}' meets contradictory extents")
        seen.add(symbol)
        symbol = equal[symbol]
    return symbol


def _asked_specs(
    infos: Sequence[onnx.ValueInfoProto], wanted: dict[str, dict[int, Any]], equal: dict[str, Dim]
) -> dict[str, SymbolSpec]:
    """The bounds that were asked for, by symbol, so that each axis of one symbol has them; `with_asked_bounds` judges contradictions."""
    specs: dict[str, SymbolSpec] = {}
    for info in infos:
        dims = info.type.tensor_type.shape.dim
        for axis, wish in wanted.get(info.name, {}).items():
            spec = _spec(wish)
            if spec is not None and -len(dims) <= axis < len(dims):
                axis %= len(dims)
                symbol = _resolved(_symbol_name(info.name, axis, dims[axis], wish), equal)
                if not isinstance(symbol, int):
                    specs.setdefault(symbol, spec)
    return specs


def _spec(wish: Any) -> SymbolSpec | None:
    if wish is None or isinstance(wish, str):
        return None
    if isinstance(wish, SymbolSpec):
        return wish
    if isinstance(wish, tuple | list) and len(wish) == 2:
        try:
            return SymbolSpec(min=int(wish[0] or 0), max=None if wish[1] is None else int(wish[1]))
        except ValueError as why:
            raise InvalidArgumentError(f"dynamic: {why}") from None
    raise InvalidArgumentError(f"dynamic: {wish!r} is neither (min, max) nor a symbol's name")


def _dynamic(dynamic: Any) -> dict[str, dict[int, Any]]:
    """`dynamic` in its one form, {input: {axis: wish}}."""
    out: dict[str, dict[int, Any]] = {}
    for name, axes in requested(dynamic).items():
        if not isinstance(axes, Mapping) or not all(isinstance(axis, int) for axis in axes):
            raise InvalidArgumentError(
                f"dynamic['{name}'] must be a mapping from axes to bounds, such as {{0: (1, 32)}}"
            )
        out[name] = dict(axes)
    return out


def _parameter_name(name: str, number: int) -> str:
    text = "".join(c if c.isalnum() and c.isascii() else "_" for c in name)
    return f"{text or 'input'}" if text and not text[0].isdigit() else f"input{number}_{text}"
