"""Subgraphs: If, Loop and Scan. What is known at import is decided or unrolled there; an If that the run decides stays one."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import onnx
import tvm
from tvm import relax, te, tirx

from .._dims import Dim
from .._node import Node, shape_expr
from .._registry import op
from .._values import Value
from .shape import take_slice

_IF = [1, 11, 13, 16, 19, 21, 23, 24, 25]
_MAX_UNROLLED = 20_000  # nodes


@op("If", since=_IF)
def if_(n: Node) -> Any:
    condition = n.value(0)
    branches = (n.attr("then_branch"), n.attr("else_branch"))
    if condition.const is not None:
        taken = bool(condition.const.reshape(-1)[0])
        return n.graph.subgraph(n, branches[0 if taken else 1], [], "then" if taken else "else")
    flag = n.reshape(n.x(0), []) if n.rank(0) else n.x(0)
    return _runtime_if(n, flag, branches)


def _runtime_if(n: Node, flag: Any, branches: tuple[onnx.GraphProto, onnx.GraphProto]) -> list[Value]:
    """Both branches are converted; where their results' extents differ, a first If computes the extents, which are bound."""
    graph = n.graph
    before = len(graph.unsupported.entries)
    then_block, then = graph.in_block(partial(graph.subgraph, n, branches[0], [], "then"))
    else_block, other = graph.in_block(partial(graph.subgraph, n, branches[1], [], "else"))
    if len(graph.unsupported.entries) > before or any(v.poison for v in (*then, *other)):
        return [Value("float32", (), poison=True) for _ in n.proto.output]
    shapes: list[tuple[Dim, ...]] = []
    differs = False
    for a, b in zip(then, other, strict=True):
        if a.items is not None or b.items is not None or a.absent or b.absent:
            raise n.refuse("whose branches give sequences or optionals, and which the run decides")
        if a.dtype != b.dtype:
            raise n.refuse(f"whose branches give {a.dtype} and {b.dtype}")
        if a.rank != b.rank:
            if _depends_on_data(n, flag):
                raise n.refuse(f"whose branches give ranks {a.rank} and {b.rank}, and which the data decides")
            return _assume_first(n, flag, branches[0])
        outer = all(_outside(n, d) for d in (*a.shape, *b.shape))
        if not outer:
            raise n.refuse("whose branches give sizes that only they know")
        differs |= any(not n.math.same(p, q) for p, q in zip(a.shape, b.shape, strict=True))
        shapes.append(a.shape)
    if differs:
        shapes = _bound_shapes(n, flag, then, other)
    yes = graph.seal(then_block, partial(_fit_all, n, then, shapes))
    no = graph.seal(else_block, partial(_fit_all, n, other, shapes))
    var = graph.emit_if(flag, yes, no, n.place)
    return [graph.wrap(n.emit(relax.TupleGetItem(var, k)), n.place) for k in range(len(then))]


def _depends_on_data(n: Node, expression: Any) -> bool:
    """Whether more than shapes and constants went into a value."""
    pending, seen = [expression], set()
    while pending:
        each = pending.pop()
        if isinstance(each, relax.Var):
            if each in seen:
                continue
            seen.add(each)
            bound = n.graph.bb.lookup_binding(each)
            if bound is None:
                return True
            pending.append(bound)
        elif isinstance(each, relax.Call) and not (isinstance(each.op, tvm.ir.Op) and each.op.name == "relax.shape_of"):
            pending.extend(each.args)
        elif isinstance(each, relax.Tuple):
            pending.extend(each.fields)
        elif isinstance(each, relax.TupleGetItem):
            pending.append(each.tuple_value)
        elif isinstance(each, (relax.If, relax.SeqExpr)):
            return True
    return False


def _assume_first(n: Node, flag: Any, branch: onnx.GraphProto) -> list[Value]:
    """Branches whose results differ in rank (torch's "if this extent is 1, drop it"): the first is taken, and every run checks that
    it is the right one."""

    def body(f: Any) -> Any:
        one = tirx.IntImm("int64", 1)
        return te.compute((1,), lambda i: tirx.Select(f(), one, tirx.IntImm("int64", -1)), name="first_branch")

    n.graph.bind_tensor(n.te(body, flag, name="first_branch"), 1, f"{n.place} takes its first branch")
    return n.graph.subgraph(n, branch, [], "then")


def _outside(n: Node, d: Dim) -> bool:
    """Whether an extent is made of symbols that exist outside of the branches."""
    return isinstance(d, int) or all(v.name not in n.math.local for v in tirx.analysis.undefined_vars(d))


def _bound_shapes(n: Node, flag: Any, then: list[Value], other: list[Value]) -> list[tuple[Dim, ...]]:
    """New symbols for the extents of what the branch that runs gives."""

    def body(f: Any, a: Any, b: Any) -> Any:
        def element(i: Any) -> Any:
            out: Any = tirx.IntImm("int64", 0)
            for k in range(len(a)):
                out = tirx.Select(i == k, tirx.Select(f(), a[k], b[k]), out)
            return out

        return te.compute((len(a),), element, name="branch_extents")

    flat_a = [d for v in then for d in v.shape]
    flat_b = [d for v in other for d in v.shape]
    extents = n.te(body, flag, shape_expr(flat_a), shape_expr(flat_b), name="branch_extents")
    symbols = iter(n.graph.bind_tensor(extents, len(flat_a), n.place))
    out = []
    for a, b in zip(then, other, strict=True):
        made = [next(symbols) for _ in a.shape]
        out.append(tuple(p if n.math.same(p, q) else s for p, q, s in zip(a.shape, b.shape, made, strict=True)))
    return out


def _fit_all(n: Node, values: list[Value], shapes: list[tuple[Dim, ...]]) -> list[Any]:
    return [n.graph.with_extents(n.graph.expr(v), s) for v, s in zip(values, shapes, strict=True)]


# ---- loops


@op("Loop", since=_IF)
def loop(n: Node) -> Any:
    """Unrolled where the number of iterations is known: body(i, condition, carried...) -> (condition, carried..., scanned...)."""
    body: onnx.GraphProto = n.attr("body")
    count: int | None = None
    if n.has(0):
        trips = n.value(0)
        if trips.const is None:
            raise n.refuse("whose number of iterations is only known at run time")
        count = int(trips.const.reshape(-1)[0])
    condition: Value = n.value(1) if n.has(1) else Value.of_array(np.array(True))
    carried = [v for v in n.inputs[2:] if v is not None]
    if len(carried) != len(n.inputs[2:]):
        raise n.broken("lacks a carried value")
    scanned: list[list[Value]] = [[] for _ in range(len(body.output) - 1 - len(carried))]
    done = 0
    while count is None or done < count:
        if condition.const is None:
            raise n.refuse("whose end is only known at run time")
        if not condition.const.reshape(-1)[0]:
            break
        if (done + 1) * max(len(body.node), 1) > _MAX_UNROLLED:
            raise n.refuse(f"of more than {_MAX_UNROLLED} operators when unrolled")
        number = Value.of_array(np.array(done, np.int64))
        results = n.graph.subgraph(n, body, [number, condition, *carried], str(done))
        if any(v.poison for v in results):
            return [Value("float32", (), poison=True) for _ in n.proto.output]
        condition, carried = results[0], results[1 : 1 + len(carried)]
        for store, v in zip(scanned, results[1 + len(carried) :], strict=True):
            store.append(v)
        done += 1
    return [*carried, *[_stacked(n, s, body.output[1 + len(carried) + k]) for k, s in enumerate(scanned)]]


def _stacked(n: Node, values: list[Value], info: onnx.ValueInfoProto, axis: int = 0) -> Any:
    """The values of all iterations along a new axis."""
    from .._values import DTYPES, numpy_dtype

    if not values:
        tensor = info.type.tensor_type
        if not tensor.HasField("shape") or any(not d.HasField("dim_value") for d in tensor.shape.dim):
            raise n.refuse("of no iterations, whose stacked results have no known shape")
        dims = [0, *[d.dim_value for d in tensor.shape.dim]]
        return np.zeros(dims, numpy_dtype(DTYPES[tensor.elem_type]))
    if all(v.const is not None for v in values):
        return np.stack([v.const for v in values], axis)  # type: ignore[misc]
    parts = []
    for v in values:
        dims = list(v.shape)
        dims.insert(axis if axis >= 0 else axis + len(dims) + 1, 1)
        parts.append(n.reshape(n.graph.expr(v), dims))
    return relax.op.concat(parts, axis) if len(parts) > 1 else parts[0]


@op("Scan", since=_IF[1:] + [9])
def scan(n: Node) -> Any:
    """Unrolled over a static extent: body(states..., slices...) -> (states..., rows...)."""
    body: onnx.GraphProto = n.attr("body")
    inputs = n.int_attr("num_scan_inputs")
    states = [v for v in n.inputs[: len(n.inputs) - inputs] if v is not None]
    sources = [n.value(i) for i in range(len(n.inputs) - inputs, len(n.inputs))]
    rows = len(body.output) - len(states)
    in_axes = n.ints_attr("scan_input_axes", [0] * inputs)
    in_reverse = n.ints_attr("scan_input_directions", [0] * inputs)
    out_axes = n.ints_attr("scan_output_axes", [0] * rows)
    out_reverse = n.ints_attr("scan_output_directions", [0] * rows)
    axes = [n.axis(a, v.rank) for a, v in zip(in_axes, sources, strict=True)]
    length = sources[0].shape[axes[0]]
    if not isinstance(length, int):
        raise n.refuse("over a dynamic extent")
    if length * max(len(body.node), 1) > _MAX_UNROLLED:
        raise n.refuse(f"of more than {_MAX_UNROLLED} operators when unrolled")
    collected: list[list[Value]] = [[] for _ in range(rows)]
    for step in range(length):
        slices = []
        for v, axis, reverse in zip(sources, axes, in_reverse, strict=True):
            at = length - 1 - step if reverse else step
            dims = [d for a, d in enumerate(v.shape) if a != axis]
            if v.known:
                part = np.take(v.elements, at, axis=axis)
                slices.append(
                    Value.of_array(part) if v.const is not None else Value.of_symbols(np.asarray(part, object), v.dtype)
                )
            else:
                slices.append(n.graph.wrap(n.reshape(take_slice(n, n.graph.expr(v), axis, at, 1), dims), n.place))
        results = n.graph.subgraph(n, body, [*states, *slices], str(step))
        if any(v.poison for v in results):
            return [Value("float32", (), poison=True) for _ in n.proto.output]
        states = results[: len(states)]
        for store, v in zip(collected, results[len(states) :], strict=True):
            store.append(v)
    out: list[Any] = list(states)
    for k, store in enumerate(collected):
        out.append(_stacked(n, store[::-1] if out_reverse[k] else store, body.output[len(states) + k], out_axes[k]))
    return out
