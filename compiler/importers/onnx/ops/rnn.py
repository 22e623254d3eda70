"""LSTM, GRU and RNN: the operators of the IR where they say the same, else the formula as a loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import relax, te, tirx
from tvm.script.ir_builder import tirx as T

from .... import ir
from ... import _elementary as elementary
from .._exprs import constant, dims_of
from .._node import Node
from .._registry import op
from ._loops import imperative, variable
from ._te import imm

_GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
_DEFAULTS = {"RNN": ["Tanh"], "GRU": ["Sigmoid", "Tanh"], "LSTM": ["Sigmoid", "Tanh", "Tanh"]}
_DIRECTIONS = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}


class _Cell:
    """What the three operators have in common: checked attributes, and the inputs with time first, in float32 or float64."""

    def __init__(self, n: Node) -> None:
        n.float_only()
        self.n = n
        self.gates = _GATES[n.op]
        direction = n.str_attr("direction", "forward")
        if direction not in _DIRECTIONS:
            raise n.broken(f"has the unknown direction '{direction}'")
        self.direction = direction
        self.reverse = _DIRECTIONS[direction]
        self.dirs = len(self.reverse)
        self.batch_first = n.flag("layout") if n.version >= 14 else False
        self.clip = n.float_attr("clip") if n.has_attr("clip") else None
        if self.clip is not None and not self.clip >= 0:
            raise n.broken(f"limits what it activates to clip = {self.clip:g}, expected a number of at least 0")
        self.dtype = n.dtype(0)
        self.compute_dtype = "float64" if self.dtype == "float64" else "float32"
        weight = n.shape(1)
        hidden = n.int_attr("hidden_size", weight[1] // self.gates if isinstance(weight[1], int) else 0)
        if (
            n.rank(0) != 3
            or len(weight) != 3
            or weight[0] != self.dirs
            or weight[1] != self.gates * hidden
            or hidden < 1
        ):
            raise n.broken(f"has weights of shape {list(weight)} for {self.dirs} directions and hidden_size {hidden}")
        self.hidden: int = hidden
        x = n.cast(n.x(0), self.compute_dtype)
        self.x = n.emit(relax.op.permute_dims(x, [1, 0, 2])) if self.batch_first else x
        self.steps, self.batch, self.features = dims_of(self.x)
        n.math.require_same(weight[2], self.features)
        self.initial_h = self._state(5)

    def _state(self, i: int) -> Any:
        """An initial state [dirs, B, H], or None."""
        if not self.n.has(i):
            return None
        s = self.n.cast(self.n.x(i), self.compute_dtype)
        s = self.n.emit(relax.op.permute_dims(s, [1, 0, 2])) if self.batch_first else s
        if self.n.rank(i) != 3:
            raise self.n.broken(f"has an initial state of rank {self.n.rank(i)}")
        for have, want in zip(dims_of(s), (self.dirs, self.batch, self.hidden), strict=True):
            self.n.math.require_same(have, want)
        return s

    def activations(self) -> list[list[Callable[[Any], Any]]]:
        """Functions of each direction, with their alpha and beta."""
        names = self.n.attr("activations", None) or _DEFAULTS[self.n.op] * self.dirs
        if len(names) != len(_DEFAULTS[self.n.op]) * self.dirs:
            raise self.n.broken(f"has {len(names)} activations")
        alphas, betas = (
            list(self.n.attr("activation_alpha", None) or []),
            list(self.n.attr("activation_beta", None) or []),
        )
        made = [_activation(self.n, name, alphas, betas, self.compute_dtype) for name in names]
        per = len(made) // self.dirs
        return [made[d * per : (d + 1) * per] for d in range(self.dirs)]

    def plain(self) -> bool:
        """Whether nothing but the defaults is asked for, and the weights can be packed."""
        names = self.n.attr("activations", None)
        usual = names is None or [a.lower() for a in names] == [a.lower() for a in _DEFAULTS[self.n.op]] * self.dirs
        weights = all(self.n.value(i).const is not None for i in (1, 2))
        bias = not self.n.has(3) or self.n.value(3).const is not None
        extras = self.n.has_attr("activation_alpha") or self.n.has_attr("activation_beta")
        return usual and weights and bias and self.clip is None and self.compute_dtype == "float32" and not extras

    def weights(self) -> tuple[Any, Any, Any]:
        """(W [dirs, G*H, I], R [dirs, G*H, H], bias [dirs, 2*G*H])"""
        n = self.n
        w, r = (self._const(i) for i in (1, 2))
        if n.has(3):
            b = self._const(3)
        else:
            b = constant(np.zeros((self.dirs, 2 * self.gates * self.hidden), self.compute_dtype))
        return w, r, b

    def _const(self, i: int) -> Any:
        value = self.n.value(i)
        if value.const is not None and value.dtype != self.compute_dtype:
            return constant(value.const.astype(self.compute_dtype))
        return self.n.cast(self.n.x(i), self.compute_dtype)

    def check_lengths(self) -> None:
        """Refuse lengths beyond the steps, as the kernels do."""
        if not self.n.has(4):
            return
        steps, known = dims_of(self.x)[0], self.n.value(4).const
        if known is None or not isinstance(steps, int):
            self.n.graph.check_indices(self.n.x(4), [self.n.math.add(steps, 1)], self.n.place, wraps=False)
        elif known.size and not 0 <= known.min() <= known.max() <= steps:
            raise self.n.broken(f"has lengths {known.tolist()} for {steps} steps")

    def lengths(self) -> Any:
        return self.n.cast(self.n.x(4), "int32") if self.n.has(4) else None

    def outputs(self, y: Any, *states: Any) -> list[Any]:
        """y [S, dirs, B, H] and states [dirs, B, H] in the node's layout and type."""
        n = self.n
        if n.has(4):
            states = tuple(self._of_steps(s) for s in states)
        if self.batch_first:
            y = n.emit(relax.op.permute_dims(y, [2, 0, 1, 3]))
            states = tuple(n.emit(relax.op.permute_dims(s, [1, 0, 2])) for s in states)
        return [n.cast(v, self.dtype) for v in (y, *states)]

    def _of_steps(self, state: Any) -> Any:
        """A last state [dirs, B, H], which ONNX Runtime leaves at 0 for a sequence without a step; ONNX's text says nothing of it."""

        def body(s: Any, lengths: Any) -> Any:
            return te.compute(
                s.shape, lambda d, b, h: tirx.Select(lengths(b) == 0, imm(0, s.dtype), s(d, b, h)), name="last_state"
            )

        return self.n.te(body, state, self.lengths())

    def as_layer(self, layer: ir.Operator, states: list[Any], **attrs: int | str) -> list[Any]:
        n = self.n
        w, r, b = self.weights()
        args = [self.x, w, r, b if n.has(3) else None, *states, self.lengths()]
        call = n.emit(layer(*args, direction=self.direction, place=n.place, **attrs))
        parts = [n.emit(relax.TupleGetItem(call, k)) for k in range(1 + len(states))]
        y = n.reshape(parts[0], [self.steps, self.batch, self.dirs, self.hidden])
        return self.outputs(n.emit(relax.op.permute_dims(y, [0, 2, 1, 3])), *parts[1:])


@op("LSTM", since=[7, 14, 22])
def lstm(n: Node) -> Any:
    cell = _Cell(n)
    initial_c = cell._state(6)
    if cell.plain() and not n.has(7) and not n.flag("input_forget"):
        return cell.as_layer(ir.lstm, [cell.initial_h, initial_c], gates="iofc")
    peephole = n.cast(n.x(7), cell.compute_dtype) if n.has(7) else None
    return _loop(cell, initial_c, peephole, coupled=n.flag("input_forget"))


@op("GRU", since=[7, 14, 22])
def gru(n: Node) -> Any:
    cell = _Cell(n)
    after = n.flag("linear_before_reset")
    if cell.plain():
        return cell.as_layer(ir.gru, [cell.initial_h], gates="zrh", linear_before_reset=int(after))
    return _loop(cell, None, None, after=after)


@op("RNN", since=[7, 14, 22])
def rnn(n: Node) -> Any:
    return _loop(_Cell(n), None, None)


def _loop(cell: _Cell, initial_c: Any, peephole: Any, *, coupled: bool = False, after: bool = False) -> list[Any]:
    """All directions, sequences and steps one after the other, as the operator's definition has it."""
    n, hidden, gates, kind = cell.n, cell.hidden, cell.gates, cell.compute_dtype
    functions = cell.activations()
    memory = n.op == "LSTM"
    w, r, b = cell.weights()
    cell.check_lengths()
    optional = [cell.initial_h, initial_c, peephole, cell.lengths()]
    present = [o is not None for o in optional]

    def body(x: Any, wt: Any, rt: Any, bt: Any, *rest: Any) -> list[Any]:
        steps, batch, features = x.shape

        def write(*buffers: Any) -> None:
            xb, wb, rb, bb = buffers[:4]
            given = iter(buffers[4:])
            h0, c0, peep, lengths = (next(given) if p else None for p in present)
            y, hn, cn, pre, rec, gated = (next(given) for _ in range(6))
            for d, reverse in enumerate(cell.reverse):
                with T.serial(0, batch) as q:
                    state = (d * batch + q) * hidden
                    with T.serial(0, hidden) as j:
                        hn[state + j] = h0[state + j] if h0 is not None else imm(0, kind)
                        cn[state + j] = c0[state + j] if c0 is not None else imm(0, kind)
                    length = tirx.Cast("int64", lengths[q]) if lengths is not None else steps
                    with T.serial(0, steps) as s:
                        with T.If(s < length):
                            with T.Then():
                                t = length - 1 - s if reverse else s
                                _projections(
                                    xb, wb, rb, bb, hn, pre, rec, d, q, t, state, batch, features, hidden, gates, kind
                                )
                                _step(
                                    n.op,
                                    functions[d],
                                    cell.clip,
                                    hn,
                                    cn,
                                    pre,
                                    rec,
                                    gated,
                                    rb,
                                    bb,
                                    peep,
                                    d,
                                    state,
                                    hidden,
                                    kind,
                                    coupled,
                                    after,
                                )
                                with T.serial(0, hidden) as j:
                                    y[((t * len(cell.reverse) + d) * batch + q) * hidden + j] = hn[state + j]
                            with T.Else():
                                with T.serial(0, hidden) as j:
                                    y[((s * len(cell.reverse) + d) * batch + q) * hidden + j] = imm(0, kind)

        dirs = len(cell.reverse)
        shapes = [
            [steps, dirs, batch, hidden],
            [dirs, batch, hidden],
            [dirs, batch, hidden],
            [gates * hidden],
            [gates * hidden],
            [hidden],
        ]
        return imperative(shapes, [kind] * 6, [x, wt, rt, bt, *rest], write, n.op.lower())

    parts = n.te(body, cell.x, w, r, b, *[o for o in optional if o is not None])
    results = [n.emit(parts[k]) for k in range(3)]
    return cell.outputs(*results)[: 3 if memory else 2]


def _projections(
    x: Any, w: Any, r: Any, b: Any, h: Any, pre: Any, rec: Any, d: int, q: Any, t: Any, state: Any, batch: Any, features: Any,
    hidden: int, gates: int, kind: str,
) -> None:  # fmt: skip
    """pre = W x + Wb, rec = R h + Rb for all gates."""
    rows = gates * hidden
    with T.serial(0, rows) as g:
        total = variable(kind)
        total[0] = b[d * 2 * rows + g]
        with T.serial(0, features) as i:
            total[0] = total[0] + w[(d * rows + g) * features + i] * x[(t * batch + q) * features + i]
        pre[g] = total[0]
        total[0] = b[d * 2 * rows + rows + g]
        with T.serial(0, hidden) as i:
            total[0] = total[0] + r[(d * rows + g) * hidden + i] * h[state + i]
        rec[g] = total[0]


def _step(
    name: str, f: list[Callable[[Any], Any]], clip: float | None, h: Any, c: Any, pre: Any, rec: Any, gated: Any, r: Any, b: Any,
    peep: Any, d: int, state: Any, hidden: int, kind: str, coupled: bool, after: bool,
) -> None:  # fmt: skip
    """One time step of one sequence: new h (and c) from the projections."""

    def limit(v: Any) -> Any:
        return v if clip is None else tirx.max(imm(-clip, kind), tirx.min(imm(clip, kind), v))

    one = imm(1, kind)
    if name == "RNN":
        with T.serial(0, hidden) as j:
            h[state + j] = f[0](limit(pre[j] + rec[j]))
        return
    if name == "GRU":
        with T.serial(0, hidden) as j:
            gated[j] = f[0](limit(pre[hidden + j] + rec[hidden + j])) * (one if after else h[state + j])
        with T.serial(0, hidden) as j:
            total = variable(kind)
            if after:
                total[0] = gated[j] * rec[2 * hidden + j]
            else:
                total[0] = b[d * 6 * hidden + 5 * hidden + j]
                with T.serial(0, hidden) as i:
                    total[0] = total[0] + r[(d * 3 * hidden + 2 * hidden + j) * hidden + i] * gated[i]
            rec[2 * hidden + j] = f[1](limit(pre[2 * hidden + j] + total[0]))
        with T.serial(0, hidden) as j:
            z = variable(kind)
            z[0] = f[0](limit(pre[j] + rec[j]))
            h[state + j] = (one - z[0]) * rec[2 * hidden + j] + z[0] * h[state + j]
        return

    def look(gate: int, j: Any) -> Any:
        return peep[(d * 3 + gate) * hidden + j] if peep is not None else imm(0, kind)

    with T.serial(0, hidden) as j:
        i_gate, f_gate, o_gate = variable(kind), variable(kind), variable(kind)
        i_gate[0] = f[0](limit(pre[j] + rec[j] + look(0, j) * c[state + j]))
        if coupled:
            f_gate[0] = one - i_gate[0]
        else:
            f_gate[0] = f[0](limit(pre[2 * hidden + j] + rec[2 * hidden + j] + look(2, j) * c[state + j]))
        c[state + j] = f_gate[0] * c[state + j] + i_gate[0] * f[1](limit(pre[3 * hidden + j] + rec[3 * hidden + j]))
        o_gate[0] = f[0](limit(pre[hidden + j] + rec[hidden + j] + look(1, j) * c[state + j]))
        h[state + j] = o_gate[0] * f[2](c[state + j])


def _activation(n: Node, name: str, alphas: list[float], betas: list[float], kind: str) -> Callable[[Any], Any]:
    """A function by its ONNX name; takes its parameters from the front of the lists, as the specification says."""
    key = name.lower()
    defaults: dict[str, tuple[float | None, float | None]] = {
        "affine": (1.0, 0.0), "leakyrelu": (0.01, None), "thresholdedrelu": (1.0, None), "scaledtanh": (1.0, 1.0),
        "hardsigmoid": (0.2, 0.5), "elu": (1.0, None),
    }  # fmt: skip
    a, b = defaults.get(key, (None, None))
    if a is not None and alphas:
        a = alphas.pop(0)
    if b is not None and betas:
        b = betas.pop(0)

    def k(v: float | None) -> Any:
        return imm(0.0 if v is None else v, kind)

    one, zero = imm(1, kind), imm(0, kind)
    table: dict[str, Callable[[Any], Any]] = {
        "relu": lambda v: tirx.max(v, zero),
        "tanh": lambda v: tirx.tanh(v),
        "sigmoid": lambda v: one / (one + tirx.exp(zero - v)),
        "affine": lambda v: k(a) * v + k(b),
        "leakyrelu": lambda v: tirx.Select(v < zero, k(a) * v, v),
        "thresholdedrelu": lambda v: tirx.Select(v > k(a), v, zero),
        "scaledtanh": lambda v: k(a) * tirx.tanh(k(b) * v),
        "hardsigmoid": lambda v: tirx.max(zero, tirx.min(one, k(a) * v + k(b))),
        "elu": lambda v: elementary.elu(v, 1.0 if a is None else a),
        "softsign": lambda v: v / (one + tirx.abs(v)),
        "softplus": elementary.softplus,
    }
    if key not in table:
        raise n.refuse(f"activation '{name}'")
    return table[key]
