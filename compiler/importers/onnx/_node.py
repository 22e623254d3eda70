"""What a converter sees of one ONNX node: its attributes, its inputs in the form that it needs, and ways to emit results."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import AttributeProto
from tvm import relax

from .._run_checks import RunCheck
from ._dims import Dim, ShapeMath
from ._emit import Emitter
from ._errors import Broken, Refused
from ._exprs import constant, dims_of, dtype_of, shape_expr
from ._scope import Scope
from ._stored import STORED
from ._values import DTYPES, Value, is_float, numpy_dtype

__all__ = ["Node"]

_REQUIRED: Any = object()


class Node:
    """One node during conversion. `version` is its operator's schema version, `opset` that of the graph it stands in."""

    def __init__(
        self,
        graph: Emitter,
        scope: Scope,
        proto: onnx.NodeProto,
        version: int,
        opset: int,
        place: str,
        inputs: list[Value | None],
    ) -> None:
        self.graph = graph
        self.scope = scope
        self.proto = proto
        self.op = proto.op_type
        self.version = version
        self.opset = opset
        self.place = place
        self.inputs = inputs
        self.math: ShapeMath = graph.math
        self._attributes = {a.name: a for a in proto.attribute}

    def with_inputs(self, inputs: list[Value | None]) -> Node:
        """The same node with other inputs."""
        return Node(self.graph, self.scope, self.proto, self.version, self.opset, self.place, inputs)

    # ---- refusing

    def refuse(self, why: str) -> Refused:
        return Refused(why)

    def broken(self, why: str) -> Broken:
        return Broken(why)

    def check(self, condition: Callable[..., Any], *args: Any, says: str) -> None:
        """Every run refuses inputs whose values make condition(args as te sees them) false: this operator `says` why."""
        self.graph.check(condition, *args, says=RunCheck("refused", f"{self.graph.at} {says}"))

    def assume(self, condition: Callable[..., Any], *args: Any, says: str) -> None:
        """The same where other shapes of the inputs would need another compile."""
        self.graph.check(condition, *args, says=RunCheck("assumed", f"{self.graph.at} {says}"))

    # ---- attributes

    def has_attr(self, name: str) -> bool:
        return name in self._attributes

    def attr(self, name: str, default: Any = _REQUIRED) -> Any:
        """int, float, str, list of these, TensorProto or GraphProto; the default if the node does not carry it."""
        a = self._attributes.get(name)
        if a is None:
            if default is _REQUIRED:
                raise self.broken(f"has no attribute '{name}'")
            return default
        if a.type == AttributeProto.INT:
            return int(a.i)
        if a.type == AttributeProto.FLOAT:
            return float(np.float32(a.f))
        if a.type == AttributeProto.STRING:
            return a.s.decode("utf-8", "replace")
        if a.type == AttributeProto.INTS:
            return [int(v) for v in a.ints]
        if a.type == AttributeProto.FLOATS:
            return [float(v) for v in a.floats]
        if a.type == AttributeProto.STRINGS:
            return [v.decode("utf-8", "replace") for v in a.strings]
        if a.type == AttributeProto.TENSOR:
            return a.t
        if a.type == AttributeProto.GRAPH:
            return a.g
        raise self.refuse(f"attribute '{name}' has a type that is not supported")

    def int_attr(self, name: str, default: Any = _REQUIRED) -> int:
        return int(self._typed_attr(name, default, int))

    def flag(self, name: str, default: int = 0) -> bool:
        value = self._typed_attr(name, default, int)
        if value not in (0, 1):  # implementations do not agree on what others mean
            raise self.broken(f"attribute '{name}' is {value}, expected 0 or 1")
        return bool(value)

    def float_attr(self, name: str, default: Any = _REQUIRED) -> float:
        return float(np.float32(self._typed_attr(name, default, (float, int))))  # as attributes are kept, defaults too

    def str_attr(self, name: str, default: Any = _REQUIRED) -> str:
        return str(self._typed_attr(name, default, str))

    def choice(self, name: str, default: str, *others: str) -> str:
        """A string attribute that is one of some words."""
        value = self.str_attr(name, default)
        if value not in (default, *others):
            raise self.broken(f"has the unknown {name} '{value}'")
        return value

    def ints_attr(self, name: str, default: Any = _REQUIRED) -> Any:
        return self._typed_attr(name, default, list)

    def _typed_attr(self, name: str, default: Any, kind: Any) -> Any:
        value = self.attr(name, default)
        if value is not None and value is not default and not isinstance(value, kind):
            raise self.broken(f"attribute '{name}' has the wrong type")
        return value

    def dtype_attr(self, name: str, default: Any = _REQUIRED, *, stored: bool = False) -> str:
        """An attribute that names an element type, as text; with `stored` also those that no arithmetic knows."""
        number = self.int_attr(name, default)
        if number not in DTYPES or (DTYPES[number] in STORED and not stored):
            known = number in onnx.TensorProto.DataType.values()
            text = onnx.TensorProto.DataType.Name(number) if known else f"number {number}"
            raise (self.refuse if known else self.broken)(f"element type {text} is not supported")
        return DTYPES[number]

    # ---- inputs

    def has(self, i: int) -> bool:
        return i < len(self.inputs) and self.inputs[i] is not None

    def value(self, i: int) -> Value:
        if not self.has(i):
            raise self.broken(f"lacks input {i}")
        out = self.inputs[i]
        assert out is not None
        if out.items is not None:
            raise self.broken(f"input {i} is a sequence where a tensor is expected")
        if out.absent:
            raise self.refuse(f"input {i} is an optional without a value")
        return out

    def sequence(self, i: int) -> list[Value]:
        if not self.has(i) or self.inputs[i].items is None:  # type: ignore[union-attr]
            raise self.broken(f"input {i} is not a sequence")
        return self.inputs[i].items  # type: ignore[union-attr,return-value]

    def x(self, i: int) -> Any:
        """Input i as a Relax expression."""
        return self.graph.expr(self.value(i))

    def xs(self) -> list[Any]:
        return [self.x(i) for i in range(len(self.inputs))]

    def shape(self, i: int) -> tuple[Dim, ...]:
        return self.value(i).shape

    def rank(self, i: int) -> int:
        return len(self.value(i).shape)

    def dtype(self, i: int) -> str:
        return self.value(i).dtype

    def const(self, i: int, what: str = "") -> npt.NDArray[Any]:
        """Input i where it must be known at compile time."""
        v = self.value(i)
        if v.const is None:
            raise self.refuse(f"{what or f'input {i}'} that is computed at run time")
        return v.const

    def scalar(self, i: int, what: str = "") -> Any:
        c = self.const(i, what)
        if c.size != 1:
            raise self.broken(f"{what or f'input {i}'} must be one number, not {c.size}")
        return c.reshape(()).item()

    def ints(self, i: int, what: str = "") -> list[int]:
        """Input i as a list of integers known at compile time."""
        return [int(v) for v in self.const(i, what).reshape(-1)]

    def dims(self, i: int, what: str = "") -> list[Dim]:
        """Input i as a list of extents: integers, or expressions of symbols. What only a run computes becomes new symbols."""
        v = self.value(i)
        if v.known:
            return [e if not isinstance(e, np.generic) else int(e) for e in v.elements.reshape(-1)]
        return self.graph.bind(v, self.place, what or f"input {i}")

    def extent(self, i: int, what: str = "") -> Dim:
        """Input i as one extent."""
        dims = self.dims(i, what)
        if len(dims) != 1:
            raise self.broken(f"has a {what or f'input {i}'} of {len(dims)} numbers, expected one")
        return dims[0]

    def require_ranks(self, rank: int, *inputs: int) -> None:
        """Refuse the node unless these inputs have this rank."""
        for i in inputs:
            if self.rank(i) != rank:
                raise self.broken(f"has input {i} of rank {self.rank(i)}, expected {rank}")

    def axis(self, value: int, rank: int) -> int:
        """A possibly negative axis, checked."""
        if not -rank <= value < rank:
            raise self.broken(f"axis {value} is out of range for rank {rank}")
        return value + rank if value < 0 else value

    def axes(self, values: Sequence[int], rank: int) -> list[int]:
        out = [self.axis(v, rank) for v in values]
        if len(set(out)) != len(out):
            raise self.broken(f"axes {list(values)} repeat one")
        return out

    def float_only(self, i: int = 0) -> None:
        if not is_float(self.dtype(i)):
            raise self.broken(f"input {i} must be floating point, not {self.dtype(i)}")

    # ---- other nodes in its place

    def with_arguments(self, *inputs: Any, **attributes: Any) -> Node:
        """This node with other inputs (values, expressions, or None for one that is left out) and other attributes: for a converter
        of an operator that this one is made of."""
        proto = self.proto
        if attributes:
            proto = onnx.NodeProto()
            proto.CopyFrom(self.proto)
            del proto.attribute[:]
            proto.attribute.extend(a for a in self.proto.attribute if a.name not in attributes)
            proto.attribute.extend(onnx.helper.make_attribute(name, value) for name, value in attributes.items())
        values = [None if x is None else self.graph.wrap(x, self.place) for x in inputs]
        return Node(self.graph, self.scope, proto, self.version, self.opset, self.place, values)

    def subgraph(self, graph: onnx.GraphProto, inputs: list[Value], label: str) -> list[Value]:
        """Convert an attribute's graph here, with these values as its inputs."""
        return self.graph.subgraph(graph, self.scope, self.place, inputs, label)

    def expr_of(self, result: Any) -> Any:
        """What a converter gave, which has one result, as a Relax expression."""
        return self.graph.expr(self.graph.wrap(result, self.place))

    # ---- emitting

    def emit(self, expression: Any) -> Any:
        """Bind a Relax expression to a variable."""
        return self.graph.emit(expression, self.place)

    def te(self, function: Callable[..., Any], *args: Any, name: str = "") -> Any:
        """Emit a generated function: `function` gets te tensors for Relax expressions, and a list of extents for each
        `relax.ShapeExpr`; extents used in its body must arrive so."""
        return self.graph.te(function, *args, name=name or self.op.lower(), place=self.place)

    def scalar_const(self, value: float | int | bool, dtype: str) -> Any:
        return constant(np.array(value, dtype=numpy_dtype(dtype)))

    def cast(self, expression: Any, dtype: str) -> Any:
        """Convert with numpy's rules, except that float to integer is what the CPU's truncation gives."""
        return self.graph.cast(expression, dtype, self.place)

    def align(self, *expressions: Any) -> list[Any]:
        """Operands of one broadcast, with the same expressions for extents that have to be equal."""
        dims = self.math.broadcast(*(dims_of(e) for e in expressions))
        return [self.graph.align(e, dims) for e in expressions]

    def reshape(self, expression: Any, dims: Sequence[Dim]) -> Any:
        have = dims_of(expression)
        if all(isinstance(d, int) and d >= 0 for d in (*have, *dims)) and math.prod(have) != math.prod(dims):
            raise self.broken(f"would need {list(have)} as {list(dims)}, which has another number of elements")
        if any(isinstance(d, int) and d == 0 for d in dims):  # which Relax reads as "the extent that it has"
            return self.emit(relax.op.zeros(shape_expr(dims), dtype_of(expression)))
        return self.emit(relax.op.reshape(expression, shape_expr(dims)))

    def broadcast_to(self, expression: Any, dims: Sequence[Dim]) -> Any:
        have = dims_of(expression)
        if len(have) == len(dims) and all(self.math.certain(a, b) for a, b in zip(have, dims, strict=True)):
            return expression
        return self.emit(relax.op.broadcast_to(expression, shape_expr(dims)))
