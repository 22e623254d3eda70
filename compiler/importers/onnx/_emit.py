"""Values of an ONNX graph as Relax: bindings, generated functions, extents that a run computes, branches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
import tvm
from onnx import numpy_helper
from tvm import relax, tirx

from maas_rt._plan import MAX_RANK

from .._noise import Noise
from .._run_checks import RunCheck, readable
from ._data import Data
from ._dims import Dim, ShapeMath
from ._drawing import Draw
from ._empty import empty_value, is_empty
from ._errors import Broken, Refused, Unsupported, broken_model
from ._exprs import check_extents, constant, dims_of, dtype_of, shape_expr
from ._load import names_read
from ._scope import Scope
from ._stored import STORED, storage
from ._strings import bytes_of, canonical
from ._values import DTYPES, STRING, Value, bits_of, is_float, numpy_dtype

__all__ = ["Emitter", "cited_name"]

# What leaves a mask one.
_MOVES = frozenset(
    f"relax.{name}" for name in ("astype", "reshape", "expand_dims", "squeeze", "broadcast_to", "permute_dims")
)

_MAX_BOUND = 2 * MAX_RANK  # numbers of one list that a run may turn into extents: a pad's, on both sides of each axis


class Emitter(ABC):
    """The state of one import, as converters see it: the block builder, the symbols, what was refused so far."""

    def __init__(self, model: onnx.ModelProto, math: ShapeMath, data: Data) -> None:
        self.bb = relax.BlockBuilder()
        self.data = data
        self.math = math
        math.on_assume = self.check_equal
        self.unsupported = Unsupported()
        self.read = names_read(model.graph, *model.functions)  # to tell results that nobody wants
        self.read_by_nodes = names_read(model.graph, *model.functions, results=False)
        self.noise = Noise()
        self.at = "the model"  # the node that is converted now, as errors name it
        self.draws: dict[int, Draw] = {}  # what each node that draws draws, by its number
        self.index_bounds: dict[str, tuple[float, float]] = {}  # graph input -> values that its consumers accept
        self.sizes: dict[
            str, Dim
        ] = {}  # a symbol of the inputs -> an extent of it that suits the model, for verification's inputs
        self.loop_axes: dict[
            str, list[tuple[int, int]]
        ] = {}  # by a loop's place: (carried value, axis) that its body changes
        self._names: dict[str, int] = {}
        self._bound_dims: dict[int, tuple[Value, list[Dim]]] = {}
        self._symbol_count = 0
        self._materialised: list[Value] = []  # values whose tensor a generated function made, while inside a branch

    @abstractmethod
    def subgraph(
        self, graph: onnx.GraphProto, scope: Scope, place: str, inputs: list[Value], label: str
    ) -> list[Value]:
        """Convert an attribute's graph of the node at `place`, with these values as its inputs."""

    @abstractmethod
    def call(
        self, function: onnx.FunctionProto, proto: onnx.NodeProto, scope: Scope, place: str, inputs: list[Value | None]
    ) -> list[Value | None]:
        """Convert a function's body in place of the node that calls it."""

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

    def bind(self, value: Value, place: str, what: str) -> list[Dim]:
        """New symbols for the elements of a small integer tensor that a run computes; the run refuses negative ones."""
        if not value.dtype.startswith(("int", "uint")) or value.rank > 1:
            raise Broken(f"needs {what} as a list of integers")
        count = value.shape[0] if value.shape else 1
        if not isinstance(count, int):
            raise Refused(f"{what} whose length is only known at run time")
        if count > _MAX_BOUND:
            raise Refused(f"{what} as a list of {count} numbers that a run computes")
        if not count:
            return []
        if id(value) not in self._bound_dims:
            x = self.cast(self.expr(value), "int64")
            if not value.shape:
                x = self.emit(relax.op.reshape(x, shape_expr([1])))
            says = RunCheck("number", f"a number of the {what} of {self.at}")
            self._bound_dims[id(value)] = (value, self.bind_tensor(x, count, place, says))
        return list(self._bound_dims[id(value)][1])

    def bind_tensor(self, x: Any, count: int, place: str, says: RunCheck | None = None) -> list[Dim]:
        """New symbols for the elements of an int64 tensor of shape [count]; a run refuses negative ones, and `says` so."""
        names = []
        for i in range(count):
            self._symbol_count += 1
            names.append(f"{_identifier(place) or 'bound'}_{i}_{self._symbol_count}")
        symbols = [self.math.symbol(name, derived=True) for name in names]
        says = says or RunCheck("number", f"a size that {self.at} computes")
        shape = self.bb.emit(says.sizes(x), self._name(f"{place}_shape"))
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

        if self.math.depends_on_run(a) or self.math.depends_on_run(b):
            says = RunCheck(
                "refused", f"{self.at} needs two extents to be equal, which the inputs' numbers make different"
            )
        else:
            says = RunCheck("assumed", f"{readable(a)} is {readable(b)}")
        self.check(lambda dims: dims[0] == dims[1], shape_expr([a, b]), says=says)

    def check(self, condition: Callable[..., Any], *args: Any, says: RunCheck) -> None:
        """Every run refuses inputs for which condition(args as te sees them) is false, and `says` why: a negative extent, which no run binds."""

        def body(*given: Any) -> Any:
            one, never = tirx.IntImm("int64", 1), tirx.IntImm("int64", -1)
            return tvm.te.compute((1,), lambda i: tirx.Select(condition(*given), one, never), name="check")

        self.bind_tensor(self.te(body, *args, name="check", place="check"), 1, "check", says)

    def check_indices(self, x: Any, extents: Sequence[Dim], place: str, *, wraps: bool = True) -> None:
        """Every run refuses elements of x that are no positions in an axis of this extent; where it `wraps` they may be counted from the
        end. Of several extents there is one for each index of x's last axis."""

        def body(t: Any, dims: Any) -> Any:
            ks = [tvm.te.reduce_axis((0, d), name=f"k{a}") for a, d in enumerate(t.shape)]

            def legal(at: Any, extent: Any) -> Any:
                lowest = tirx.IntImm("int64", 0) - extent if wraps else tirx.IntImm("int64", 0)
                return tirx.all(at >= lowest, at < extent)

            at = tirx.Cast("int64", t(*ks))
            extent = dims[0]
            for k in range(1, len(extents)):
                extent = tirx.Select(ks[-1] == k, dims[k], extent)
            found = tirx.Select(legal(at, extent), tirx.IntImm("int64", 1), tirx.IntImm("int64", -1))
            return tvm.te.compute((1,), lambda _: tvm.te.min(found, axis=ks) if ks else found, name="check")

        made = self.te(body, x, shape_expr(extents), name="check_indices", place=place)
        self.bind_tensor(made, 1, place, RunCheck("indices", cited_name(place)))

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
        before = dict(self._bound_dims)
        values: list[Value] = []
        self.math.choices += choice
        try:
            with self._branch() as block:
                values = convert()
        finally:
            self.math.choices -= choice
        self._bound_dims = before
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

    def limit_values(self, value: Value, lowest: float, highest: float) -> None:
        """Remember the values that are accepted of a graph input, for the random inputs of verification."""
        if value.expr is not None and value.origin:
            low, high = self.index_bounds.get(value.origin, (lowest, highest))
            self.index_bounds[value.origin] = (max(low, lowest), min(high, highest))

    def limit_mask(self, x: Any, inputs: Iterable[Value]) -> None:
        """Remember that an integer input which an expression is the floats of is a mask of zeros and ones, for those random inputs."""
        while isinstance(x, relax.Var) and (made := self.bb.lookup_binding(x)) is not None:
            if not isinstance(made, relax.Call) or getattr(made.op, "name", "") not in _MOVES:
                return
            x = made.args[0]
        for value in inputs:
            if value.expr is not None and value.expr.same_as(x) and not is_float(value.dtype):
                self.limit_values(value, 0, 1)

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


def cited_name(place: str) -> str:
    """A node's name as errors cite it: of a long one, the end."""
    return place if len(place) <= 80 else f"...{place[-77:]}"


def _identifier(text: str) -> str:
    out = "".join(c if c.isalnum() and c.isascii() else "_" for c in text)[-60:].strip("_")
    return f"_{out}" if out[:1].isdigit() or out == "main" else out  # the function itself is called main
