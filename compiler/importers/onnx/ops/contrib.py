"""Operators of ONNX Runtime's own domain that public models carry."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax

from .... import ir
from .._exprs import constant
from .._node import Node
from .._registry import op

_MS = "com.microsoft"


@op("DynamicQuantizeLSTM", domain=_MS)
def dynamic_quantize_lstm(n: Node) -> Any:
    """X, W [dirs, I, 4H], R [dirs, H, 4H], B, sequence_lens, initial_h, initial_c, P, and scale and zero point of W and of R.

    The input is quantized to uint8 once, the hidden state anew at each step over the whole batch, as ONNX Runtime does on one thread;
    products are exact in integers.
    """
    names = n.attr("activations", None)
    usual = names is None or [a.lower() for a in names] == ["sigmoid", "tanh", "tanh"] * (len(names) // 3)
    others = {
        "peepholes": n.has(7), "a clip": n.has_attr("clip"), "coupled gates": n.flag("input_forget"), "other activations": not usual,
    }  # fmt: skip
    if any(others.values()):
        raise n.refuse(f"with {' and '.join(name for name, asked in others.items() if asked)}")
    hidden = n.int_attr("hidden_size")
    direction = n.str_attr("direction", "forward")
    if direction not in ("forward", "reverse", "bidirectional"):
        raise n.broken(f"has the unknown direction '{direction}'")
    dirs, rows = 1 + (direction == "bidirectional"), 4 * hidden
    steps, batch, features = n.shape(0)
    w, r = n.const(1, "weights"), n.const(2, "weights")
    if w.shape != (dirs, features, rows) or r.shape != (dirs, hidden, rows) or not w.size:
        raise n.broken(f"has weights of shapes {w.shape} and {r.shape}")
    bias = constant(n.const(3, "bias").astype(np.float32)) if n.has(3) else None
    weights = [constant(np.ascontiguousarray(array.transpose(0, 2, 1))) for array in (w, r)]
    scales = [constant(_rows(n.const(i, "scale").astype(np.float32), dirs, rows)) for i in (8, 10)]
    zeros = [constant(_rows(n.const(i, "zero point"), dirs, rows)) for i in (9, 11)]
    states = [n.x(i) if n.has(i) else None for i in (5, 6)]
    lengths = n.cast(n.x(4), "int32") if n.has(4) else None
    args = [n.x(0), *weights, bias, *states, lengths, *scales, *zeros]
    call = n.emit(ir.dynamic_quantize_lstm(*args, direction=direction, gates="iofc", place=n.place))
    y = n.reshape(n.emit(relax.TupleGetItem(call, 0)), [steps, batch, dirs, hidden])
    return [n.emit(relax.op.permute_dims(y, [0, 2, 1, 3])), *(n.emit(relax.TupleGetItem(call, k)) for k in (1, 2))]


def _rows(p: Any, dirs: int, rows: int) -> Any:
    """A parameter for each direction (and, it may be, each column) as [dirs, rows]."""
    return np.ascontiguousarray(np.broadcast_to(p.reshape(dirs, -1), (dirs, rows)))
