"""Subgraphs: If, Loop and Scan. What is known at import is decided or unrolled there; what the run decides stays what it is."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnx
import tvm
from tvm import relax, te, tirx

from .._dims import Dim
from .._errors import Refused
from .._exprs import shape_expr
from .._load import names_read
from .._loops import Results, run_loop
from .._node import Node
from .._registry import op
from .._values import DTYPES, Value, numpy_dtype
from .indexing import take_slice

_IF = [1, 11, 13, 16, 19, 21, 23, 24, 25]
_UNROLLED = 2_000  # nodes: above it a loop stays a loop, where it can
_MAX_UNROLLED = 20_000  # nodes
_MAX_BATCH = 64  # of a Scan whose sequences are scanned one by one


def _truth(n: Node, value: Value) -> Value:
    """A condition, checked: one bool."""
    count = n.math.product(value.shape)
    if not value.poison and (value.dtype != "bool" or (isinstance(count, int) and count != 1)):
        shape = [str(d) for d in value.shape]
        raise n.broken(f"has a condition of type {value.dtype} and shape [{', '.join(shape)}], expected one bool")
    return value


@op("If", since=_IF)
def if_(n: Node) -> Any:
    condition = _truth(n, n.value(0))
    branches = (n.attr("then_branch"), n.attr("else_branch"))
    if condition.const is not None:
        taken = bool(condition.const.reshape(-1)[0])
        return n.subgraph(branches[0 if taken else 1], [], "then" if taken else "else")
    flag = n.reshape(n.x(0), []) if n.rank(0) else n.x(0)
    return _runtime_if(n, flag, branches)


def _runtime_if(n: Node, flag: Any, branches: tuple[onnx.GraphProto, onnx.GraphProto]) -> list[Value]:
    """Both branches are converted; where their results' extents differ, a first If computes the extents, which are bound."""
    graph = n.graph
    before = len(graph.unsupported.entries)
    assumed = list(n.math.assumed)
    then_block, then = graph.in_block(partial(n.subgraph, branches[0], [], "then"), choice=True)
    n.math.assumed = list(assumed)  # what a branch checks holds where it ran
    else_block, other = graph.in_block(partial(n.subgraph, branches[1], [], "else"), choice=True)
    n.math.assumed = assumed
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
            if not _depends_on_data(n, flag):
                return _assume_first(n, flag, branches[0])
            rank = _declared_rank(branches, len(shapes))
            if rank is None or any(n.math.product(v.shape) != 1 for v in (a, b)):
                raise n.refuse(f"whose branches give ranks {a.rank} and {b.rank}, and which the data decides")
            shapes.append((1,) * rank)
            continue
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
            if isinstance(each.ty, tvm.ir.PrimType):  # a symbol among a generated function's arguments
                if n.math.depends_on_run(each):
                    return True
                continue
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


def _declared_rank(branches: tuple[onnx.GraphProto, onnx.GraphProto], k: int) -> int | None:
    """The rank that both branches declare for result k: exporters that do not tell a number from a list of one write such."""
    ranks = {_rank(b.output[k]) for b in branches}
    return ranks.pop() if len(ranks) == 1 else None


def _rank(info: onnx.ValueInfoProto) -> int | None:
    tensor = info.type.tensor_type
    return len(tensor.shape.dim) if tensor.HasField("shape") else None


def _assume_first(n: Node, flag: Any, branch: onnx.GraphProto) -> list[Value]:
    """Branches whose results differ in rank (torch's "if this extent is 1, drop it"): the first is taken, and every run checks that
    it is the right one."""
    n.assume(lambda f: f(), flag, says="takes its first branch")
    return n.subgraph(branch, [], "then")


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
    """body(i, condition, carried...) -> (condition, carried..., scanned...): unrolled where it is short and its end is known."""
    body: onnx.GraphProto = n.attr("body")
    trips: Value | None = n.value(0) if n.has(0) else None
    condition = _truth(n, n.value(1)) if n.has(1) else Value.of_array(np.array(True))
    carried = [v for v in n.inputs[2:] if v is not None]
    if len(carried) != len(n.inputs[2:]):
        raise n.broken("lacks a carried value")
    if len(body.output) < 1 + len(carried):
        raise n.broken(f"carries {len(carried)} values, and its body gives {len(body.output) - 1}")
    known = (trips is None or trips.const is not None) and condition.const is not None
    if not known or not _ends_at_import(n, body, condition, carried):
        return _run_loop(n, body, trips, condition, carried)
    count = None if trips is None else int(trips.const.reshape(-1)[0])  # type: ignore[union-attr]
    if any(v.items is not None for v in carried):
        return _unrolled(n, body, count, condition, carried, _MAX_UNROLLED)
    if count is not None and count * max(len(body.node), 1) > _UNROLLED:
        try:
            return _run_loop(n, body, trips, condition, carried)
        except Refused:
            pass
    return _unrolled(n, body, count, condition, carried, _MAX_UNROLLED)


def _ends_at_import(n: Node, body: onnx.GraphProto, condition: Value, carried: list[Value]) -> bool:
    """Whether the body's condition is known without a run; tried out on the first iteration, of which nothing is kept."""
    if _source(body, body.output[0].name) == body.input[1].name if len(body.input) > 1 else False:
        return True
    graph, values = n.graph, [Value.of_array(np.array(0, np.int64)), condition, *carried]
    entries, assumed = {k: list(v) for k, v in graph.unsupported.entries.items()}, list(n.math.assumed)
    with graph.noise.iteration(0):
        _, results = graph.in_block(partial(n.subgraph, body, values, "0"))
    graph.unsupported.entries, n.math.assumed = entries, assumed
    return results[0].const is not None or results[0].poison


def _source(body: onnx.GraphProto, name: str) -> str:
    """The value that `name` is, behind Identity nodes."""
    makers = {o: node for node in body.node for o in node.output}
    while name in makers and makers[name].op_type == "Identity":
        name = makers[name].input[0]
    return name


def _run_loop(
    n: Node, body: onnx.GraphProto, trips: Value | None, condition: Value, carried: list[Value]
) -> list[Value | None]:
    """As a loop of the plan. What the body hands on as it came is not carried but seen from outside; what neither the body nor
    anything after the loop reads (exporters carry whatever the loop's body defines) is not carried at all."""
    names = [info.name for info in body.input[2:]]
    fixed = {k for k, name in enumerate(names) if _source(body, body.output[1 + k].name) == name}
    read = names_read(body)
    unread = {k for k, name in enumerate(names) if name not in read}
    not_carried = fixed | {k for k in unread if n.proto.output[k] not in n.graph.read}
    places = [k for k in range(len(carried)) if k not in not_carried]
    moving = [carried[k] for k in places]

    def convert(number: Value, values: list[Value]) -> Results:
        given = iter(values)
        inputs = [v if k in not_carried else next(given) for k, v in enumerate(carried)]
        always = Value.of_array(np.array(True))  # or the iteration would not run
        with n.graph.noise.iteration(number.expr):
            results = n.subgraph(body, [number, always, *inputs], "body")
        changed = [_of_rank(n, results[1 + k], carried[k].rank, body.output[1 + k]) for k in places]
        shapes = _declared_shapes(body)[1:]
        kept = [d for k, d in enumerate(shapes[: len(carried)]) if k not in not_carried]
        return Results(_truth(n, results[0]), changed, results[1 + len(carried) :], kept, shapes[len(carried) :])

    always_true = condition.const is not None and bool(condition.const.reshape(-1)[0])
    extent: Dim | None = None
    if always_true and trips is not None and trips.known:
        extent = n.math.max(n.math.simplify(trips.elements.reshape(-1)[0]), 0)
    out = run_loop(
        n,
        convert,
        moving,
        trips=trips,
        condition=None if always_true else condition,
        extent=extent,
        unread=[at for at, k in enumerate(places) if k in unread],
    )
    if out is None:
        return [Value("float32", (), poison=True) for _ in n.proto.output]
    given = iter(out.carried)
    return [*[v if k in not_carried else next(given) for k, v in enumerate(carried)], *out.slices]


def _of_rank(n: Node, value: Value, rank: int, declared: onnx.ValueInfoProto) -> Value:
    """One element with the rank of what it replaces, if the body declares that rank (see _declared_rank)."""
    if value.items is not None or value.absent or value.poison or value.rank == rank or _rank(declared) != rank:
        return value
    return (
        n.graph.wrap(n.reshape(n.graph.expr(value), [1] * rank), n.place) if n.math.product(value.shape) == 1 else value
    )


def _declared_shapes(body: onnx.GraphProto) -> list[tuple[Dim, ...]]:
    """The shapes that a body declares for its outputs; () where it declares none."""
    shapes: list[tuple[Dim, ...]] = []
    for info in body.output:
        dims = info.type.tensor_type.shape.dim
        shapes.append(tuple(int(d.dim_value) if d.HasField("dim_value") else None for d in dims))
    return shapes


def _unrolled(
    n: Node, body: onnx.GraphProto, count: int | None, condition: Value, carried: list[Value], limit: int
) -> list[Value | None]:
    scanned: list[list[Value]] = [[] for _ in range(len(body.output) - 1 - len(carried))]
    done = 0
    while count is None or done < count:
        if condition.const is None:
            raise n.refuse(f"whose end the data decides, though not in the first {done} iterations")
        if not condition.const.reshape(-1)[0]:
            break
        if (done + 1) * max(len(body.node), 1) > limit:
            raise n.refuse(f"of more than {limit} operators when unrolled")
        number = Value.of_array(np.array(done, np.int64))
        with n.graph.noise.iteration(done):
            results = n.subgraph(body, [number, condition, *carried], str(done))
        if any(v.poison for v in results):
            return [Value("float32", (), poison=True) for _ in n.proto.output]
        condition, carried = _truth(n, results[0]), results[1 : 1 + len(carried)]
        for store, v in zip(scanned, results[1 + len(carried) :], strict=True):
            store.append(v)
        done += 1
    return [
        *carried,
        *[n.graph.wrap(_stacked(n, s, body.output[1 + len(carried) + k]), n.place) for k, s in enumerate(scanned)],
    ]


def _stacked(n: Node, values: list[Value], info: onnx.ValueInfoProto, axis: int = 0) -> Any:
    """The values of all iterations along a new axis."""
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
    """body(states..., slices...) -> (states..., rows...) over an extent: unrolled where it is short."""
    body: onnx.GraphProto = n.attr("body")
    inputs = n.int_attr("num_scan_inputs")
    if not 0 < inputs <= len(n.inputs) or len(body.input) != len(n.inputs):
        raise n.broken(f"scans {inputs} of {len(n.inputs)} inputs with a body that takes {len(body.input)}")
    states = [v for v in n.inputs[: len(n.inputs) - inputs] if v is not None]
    sources = [n.value(i) for i in range(len(n.inputs) - inputs, len(n.inputs))]
    rows = len(body.output) - len(states)
    in_axes = n.ints_attr("scan_input_axes", [0] * inputs)
    in_reverse = n.ints_attr("scan_input_directions", [0] * inputs)
    out_axes = n.ints_attr("scan_output_axes", [0] * rows)
    out_reverse = n.ints_attr("scan_output_directions", [0] * rows)
    axes = [n.axis(a, v.rank) for a, v in zip(in_axes, sources, strict=True)]
    length = sources[0].shape[axes[0]]
    for v, axis in zip(sources[1:], axes[1:], strict=True):
        length = n.math.require_same(length, v.shape[axis])
    return _scan(n, Scanned(body, states, sources, axes, in_reverse, out_axes, out_reverse, length))


def _scan(n: Node, whole: Scanned, label: str = "") -> list[Any]:
    nodes = whole.length * max(len(whole.body.node), 1) if isinstance(whole.length, int) else None
    if nodes is None or nodes > _UNROLLED:
        try:
            return _run_scan(n, whole, f"{label}body")
        except Refused:
            if nodes is None or nodes > _MAX_UNROLLED:
                raise
    return _unrolled_scan(n, whole, label)


@op("Scan", since=8)
def scan_of_batches(n: Node) -> Any:
    """The first form: everything has a batch axis in front, and the sequence is the axis behind it. One Scan for each of the batch."""
    if n.has(0):
        raise n.refuse("with lengths of the sequences")
    body: onnx.GraphProto = n.attr("body")
    inputs = n.int_attr("num_scan_inputs")
    given = [n.value(i) for i in range(1, len(n.inputs))]
    count = len(given) - inputs
    rows = len(body.output) - count
    reverse = n.ints_attr("directions", [0] * inputs)
    batch, length = (n.math.simplify(d) for d in given[-1].shape[:2])
    if not isinstance(batch, int) or not 0 < batch <= _MAX_BATCH:
        raise n.refuse(f"over a batch of {batch}")
    for v in given:
        n.math.require_same(batch, v.shape[0])
    columns: list[list[Value]] = [[] for _ in body.output]
    for b in range(batch):
        one = [n.graph.wrap(n.reshape(take_slice(n, n.graph.expr(v), 0, b, 1), v.shape[1:]), n.place) for v in given]
        zeros = [0] * max(inputs, rows)
        whole = Scanned(body, one[:count], one[count:], zeros[:inputs], reverse, zeros[:rows], zeros[:rows], length)
        with n.graph.noise.iteration(b):
            scanned = _scan(n, whole, f"{b}/")
        for column, result in zip(columns, scanned, strict=True):
            column.append(n.graph.wrap(result, n.place))
    if any(v.poison for column in columns for v in column):
        return [Value("float32", (), poison=True) for _ in n.proto.output]
    return [_stacked(n, column, info) for column, info in zip(columns, body.output, strict=True)]


@dataclass
class Scanned:
    """A Scan, its attributes spelled out: for each source its axis and whether it is walked from its end, for each result the same."""

    body: onnx.GraphProto
    states: list[Value]
    sources: list[Value]
    axes: list[int]
    in_reverse: list[int]
    out_axes: list[int]
    out_reverse: list[int]
    length: Dim

    def slices(self, n: Node, step: Dim) -> list[Value]:
        out = []
        for v, axis, reverse in zip(self.sources, self.axes, self.in_reverse, strict=True):
            at = self.length - 1 - step if reverse else step
            dims = [d for a, d in enumerate(v.shape) if a != axis]
            if v.known and isinstance(at, int):
                part = np.take(v.elements, at, axis=axis)
                out.append(
                    Value.of_array(part) if v.const is not None else Value.of_symbols(np.asarray(part, object), v.dtype)
                )
            else:
                out.append(n.graph.wrap(n.reshape(take_slice(n, n.graph.expr(v), axis, at, 1), dims), n.place))
        return out


def _run_scan(n: Node, scan: Scanned, label: str) -> list[Any]:
    """As a loop of the plan."""
    count = len(scan.states)

    def convert(number: Value, states: list[Value]) -> Results:
        inputs = [*states, *scan.slices(n, number.elements.reshape(-1)[0])]
        with n.graph.noise.iteration(number.expr):
            results = n.subgraph(scan.body, inputs, label)
        shapes = _declared_shapes(scan.body)
        return Results(None, results[:count], results[count:], shapes[:count], shapes[count:])

    length = np.array(scan.length, dtype=object)
    trips = Value.of_symbols(length, "int64", n.place)
    out = run_loop(n, convert, scan.states, trips=trips, condition=None, extent=scan.length)
    if out is None:
        return [Value("float32", (), poison=True) for _ in n.proto.output]
    rows = []
    for v, axis, reverse in zip(out.slices, scan.out_axes, scan.out_reverse, strict=True):
        x = _reversed(n, v.expr, scan.length) if reverse else v.expr
        order = list(range(1, v.rank))
        order.insert(axis if axis >= 0 else axis + v.rank, 0)
        rows.append(x if order == list(range(v.rank)) else relax.op.permute_dims(x, order))
    return [*out.carried, *rows]


def _reversed(n: Node, x: Any, length: Dim) -> Any:
    def body(t: Any, extents: Any) -> Any:
        return te.compute(t.shape, lambda i, *rest: t(extents[0] - 1 - i, *rest), name="reversed")

    return n.te(body, x, shape_expr([length]), name="reversed")


def _unrolled_scan(n: Node, scan: Scanned, label: str) -> list[Any]:
    states, count = scan.states, len(scan.states)
    collected: list[list[Value]] = [[] for _ in scan.out_axes]
    for step in range(scan.length):
        with n.graph.noise.iteration(step):
            results = n.subgraph(scan.body, [*states, *scan.slices(n, step)], f"{label}{step}")
        if any(v.poison for v in results):
            return [Value("float32", (), poison=True) for _ in n.proto.output]
        states = results[:count]
        for store, v in zip(collected, results[count:], strict=True):
            store.append(v)
    out: list[Any] = list(states)
    for k, store in enumerate(collected):
        parts = store[::-1] if scan.out_reverse[k] else store
        out.append(_stacked(n, parts, scan.body.output[count + k], scan.out_axes[k]))
    return out
