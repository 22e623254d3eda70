"""LSTM and GRU, a layer at a time; in training with dropout of what a layer hands to the next."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax

from .... import ir
from .._context import Context, Expr
from .._registry import NotConvertible, converts
from .random import thinned

OP = relax.op


@converts("aten.lstm.input", "maas_rt.lstm.default")
def lstm(c: Context, input: Expr, hx: list[Expr], params: list[Expr], has_biases: bool, num_layers: int, dropout: float,
         train: bool, bidirectional: bool, batch_first: bool) -> list[Expr]:  # fmt: skip
    """input [S, B, I] (or [B, S, I]); hx: h0, c0 [layers * directions, B, H]. Returns y, hn, cn."""
    if c.shape(hx[0])[-1] != c.shape(hx[1])[-1]:
        raise NotConvertible("projections")
    return _recurrent(
        c, ir.lstm, "ifgo", input, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first
    )


@converts("aten.gru.input", "maas_rt.gru.default")
def gru(c: Context, input: Expr, hx: Expr, params: list[Expr], has_biases: bool, num_layers: int, dropout: float, train: bool,
        bidirectional: bool, batch_first: bool) -> list[Expr]:  # fmt: skip
    """input [S, B, I] (or [B, S, I]); hx: h0 [layers * directions, B, H]. Returns y, hn."""
    return _recurrent(
        c, ir.gru, "rzn", input, [hx], params, has_biases, num_layers, dropout, train, bidirectional, batch_first
    )


def _recurrent(c: Context, operator: ir.Operator, gates: str, x: Expr, hx: list[Expr], params: list[Expr], has_biases: bool, layers: int,
               dropout: float, train: bool, bidirectional: bool, batch_first: bool) -> list[Expr]:  # fmt: skip
    if c.dtype(x) != "float32":
        raise NotConvertible(f"dtype {c.dtype(x)}")
    unbatched = c.rank(x) == 2
    if unbatched:
        x = c.reshape(x, [c.shape(x)[0], 1, c.shape(x)[1]])
        hx = [c.reshape(h, [c.shape(h)[0], 1, c.shape(h)[1]]) for h in hx]
    elif batch_first:
        x = c.permute(x, [1, 0, 2])
    directions, finals = 2 if bidirectional else 1, []
    for layer in range(layers):
        width = 4 if has_biases else 2
        own = params[layer * directions * width : (layer + 1) * directions * width]
        starts = [_start(c, h, layer * directions, directions) for h in hx]
        x, *last = _layer(c, operator, gates, x, starts, [own[i * width : (i + 1) * width] for i in range(directions)])
        finals.append(last)
        if train and dropout > 0 and layer < layers - 1:
            with c.noise.iteration(layer):  # of the operator's one number, a draw for each layer
                x = thinned(c, x, None, dropout)
    ends = [parts[0] if layers == 1 else c.emit(OP.concat(parts, axis=0)) for parts in (list(p) for p in zip(*finals))]
    if unbatched:
        shape = c.shape(x)
        return [c.reshape(x, [shape[0], shape[2]]), *[c.reshape(e, [c.shape(e)[0], c.shape(e)[2]]) for e in ends]]
    return [c.permute(x, [1, 0, 2]) if batch_first else x, *ends]


def _layer(
    c: Context, operator: ir.Operator, gates: str, x: Expr, starts: list[Any], weights: list[list[Expr]]
) -> list[Expr]:
    """One layer: x [S, B, I] -> y [S, B, directions * H], hn, (cn)."""
    assert c.node is not None
    arrays = [[_weight(c, w) for w in direction] for direction in weights]
    w, r = (np.stack([direction[i] for direction in arrays]) for i in (0, 1))
    bias = np.stack([np.concatenate(direction[2:4]) for direction in arrays]) if len(arrays[0]) == 4 else None
    constants = [c.const(w, "float32"), c.const(r, "float32"), None if bias is None else c.const(bias, "float32")]
    direction = "bidirectional" if len(weights) == 2 else "forward"
    made = c.emit(operator(x, *constants, *starts, direction=direction, gates=gates, place=c.node.name))
    return [c.emit(relax.TupleGetItem(made, i)) for i in range(1 + len(starts))]


def _weight(c: Context, w: Expr) -> Any:
    value = c.constant_value(w)
    if value is None:
        raise NotConvertible("weights that are not constant")
    return value


def _start(c: Context, h: Expr, first: int, count: int) -> Any:
    """A layer's part of the initial state; None where it is zero, which is the kernel's default."""
    value = c.constant_value(h)
    if (value is not None and not value.any()) or _is_zero_fill(c, h):
        return None
    return c.slice(h, 0, first, count)


def _is_zero_fill(c: Context, h: Expr) -> bool:
    call = c.binding(h)
    if not isinstance(call, relax.Call) or getattr(call.op, "name", "") != "relax.full":
        return False
    value = c.constant_value(call.args[1])
    return value is not None and not value.any()
