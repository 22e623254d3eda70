"""Operators of ONNX Runtime's own domain that public models carry."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax, tirx
from tvm.script.ir_builder import tirx as T

from .._node import Node, constant
from .._registry import op, same_as
from ._loops import imperative, variable
from ._te import elementwise, imm
from .quant import dynamic_quantize_linear, int_matmul

_MS = "com.microsoft"


@op("DynamicQuantizeLSTM", domain=_MS)
def dynamic_quantize_lstm(n: Node) -> Any:
    """X, W [dirs, I, 4H], R [dirs, H, 4H], B, sequence_lens, initial_h, initial_c, P, and scale and zero point of W and of R.

    The input is quantized to uint8 once, the hidden state anew at each step over the whole batch; products are exact in integers.
    """
    names = n.attr("activations", None)
    usual = names is None or [a.lower() for a in names] == ["sigmoid", "tanh", "tanh"] * (len(names) // 3)
    if n.has(4) or n.has(7) or n.has_attr("clip") or n.flag("input_forget") or not usual:
        raise n.refuse("with lengths, peepholes, clip, coupled gates or other activations")
    hidden = n.int_attr("hidden_size")
    direction = n.str_attr("direction", "forward")
    reverse = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}.get(direction)
    if reverse is None:
        raise n.broken(f"has the unknown direction '{direction}'")
    dirs, rows = len(reverse), 4 * hidden
    steps, batch, features = n.shape(0)
    w, r = n.const(1, "weights"), n.const(2, "weights")
    if w.shape != (dirs, features, rows) or r.shape != (dirs, hidden, rows):
        raise n.broken(f"has weights of shapes {w.shape} and {r.shape}")
    scales = [_rows(n.const(i, "scale").astype(np.float32), dirs, rows) for i in (8, 10)]
    zeros = [_rows(n.const(i, "zero point").astype(np.int32), dirs, rows) for i in (9, 11)]
    bias = n.const(3, "bias").astype(np.float32) if n.has(3) else np.zeros((dirs, 2 * rows), np.float32)
    both = bias[:, :rows] + bias[:, rows:]

    quantized, scale, zero = dynamic_quantize_linear(n)
    centred = elementwise(
        n, lambda v, z: tirx.Cast("int32", v) - tirx.Cast("int32", z), quantized, zero, name="centred"
    )
    flat = n.reshape(centred, [n.math.mul(steps, batch), features])
    parts = []
    for d in range(dirs):
        total = int_matmul(n, flat, constant(w[d].astype(np.int32) - zeros[0][d]))
        factor, offset = constant(scales[0][d]), constant(both[d])
        gates = elementwise(
            n,
            lambda v, s, f, b: tirx.Cast("float32", v) * (s * f) + b,
            total, scale, factor, offset, name="gates",
        )  # fmt: skip
        parts.append(n.reshape(gates, [1, steps, batch, rows]))
    projected = n.emit(relax.op.concat(parts, 0)) if dirs > 1 else parts[0]
    recurrent = constant((r.astype(np.int32) - zeros[1][:, None, :]).astype(np.int16))
    start = [n.x(i) for i in (5, 6) if n.has(i)]
    has_h, has_c = n.has(5), n.has(6)
    f = "float32"

    def body(gates: Any, weight: Any, factor: Any, *state: Any) -> list[Any]:
        length, count = gates.shape[1], gates.shape[2]

        def write(*buffers: Any) -> None:
            g, rw, rs = buffers[:3]
            given = iter(buffers[3:])
            h0 = next(given) if has_h else None
            c0 = next(given) if has_c else None
            y, h, c, q, acc = (next(given) for _ in range(5))
            for d, backwards in enumerate(reverse):
                first = d * count * hidden
                with T.serial(0, count * hidden) as i:
                    h[first + i] = h0[first + i] if h0 is not None else imm(0, f)
                    c[first + i] = c0[first + i] if c0 is not None else imm(0, f)
                with T.serial(0, length) as s:
                    t = length - 1 - s if backwards else s
                    step = _quantize_state(h, q, first, count * hidden)
                    with T.serial(0, count) as b:
                        with T.serial(0, rows) as k:
                            total = variable("int32")
                            total[0] = imm(0, "int32")
                            with T.serial(0, hidden) as i:
                                weight_at = (d * hidden + i) * rows + k
                                total[0] = total[0] + q[b * hidden + i] * tirx.Cast("int32", rw[weight_at])
                            product = tirx.Cast(f, total[0]) * (step[0] * rs[d * rows + k])
                            acc[k] = g[((d * length + t) * count + b) * rows + k] + product
                        with T.serial(0, hidden) as j:
                            at = first + b * hidden + j
                            c[at] = _sigmoid(acc[2 * hidden + j]) * c[at] + _sigmoid(acc[j]) * tirx.tanh(
                                acc[3 * hidden + j]
                            )
                            h[at] = _sigmoid(acc[hidden + j]) * tirx.tanh(c[at])
                            y[((t * dirs + d) * count + b) * hidden + j] = h[at]

        shapes = [[length, dirs, count, hidden], [dirs, count, hidden], [dirs, count, hidden], [count * hidden], [rows]]
        inputs = [gates, weight, factor, *state]
        return imperative(shapes, [f, f, f, "int32", f], inputs, write, "dynamic_quantize_lstm")

    out = n.te(body, projected, recurrent, constant(scales[1]), *start)
    return [n.emit(out[k]) for k in range(3)]


def _rows(p: Any, dirs: int, rows: int) -> Any:
    """A parameter for each direction (and, it may be, each column) as [dirs, rows]."""
    return np.broadcast_to(p.reshape(dirs, -1), (dirs, rows))


def _sigmoid(v: Any) -> Any:
    one = imm(1, "float32")
    return one / (one + tirx.exp(imm(0, "float32") - v))


def _quantize_state(h: Any, q: Any, first: Any, count: Any) -> Any:
    """q = h as uint8 minus the zero point, with scale and zero point from h's range; the scale."""
    f = "float32"
    zero = imm(0, f)
    low, high, scale, origin = (variable(f) for _ in range(4))
    low[0] = zero
    high[0] = zero
    with T.serial(0, count) as i:
        low[0] = tirx.min(low[0], h[first + i])
        high[0] = tirx.max(high[0], h[first + i])
    scale[0] = tirx.Select(high[0] == low[0], imm(1, f), (high[0] - low[0]) / imm(255, f))
    origin[0] = tirx.nearbyint(tirx.max(zero, tirx.min(imm(255, f), (zero - low[0]) / scale[0])))
    with T.serial(0, count) as i:
        level = tirx.nearbyint(h[first + i] / scale[0]) + origin[0]
        q[i] = tirx.Cast("int32", tirx.max(zero, tirx.min(imm(255, f), level)) - origin[0])
    return scale


# What was there before ONNX had it.
same_as(_MS, "GatherND", 12)
same_as(_MS, "GridSample", 16)
same_as(_MS, "Trilu", 14)
