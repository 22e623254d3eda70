"""Operators of ONNX Runtime's own domain that public models carry."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax

from ....passes._integers import split_weights
from ....passes._kernel_call import make_kernel_call
from .._exprs import constant, shape_expr
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
    if w.shape != (dirs, features, rows) or r.shape != (dirs, hidden, rows):
        raise n.broken(f"has weights of shapes {w.shape} and {r.shape}")
    bias = constant(n.const(3, "bias").astype(np.float32)) if n.has(3) else None
    (w_values, w_zero), (r_values, r_zero) = (_split(n, array, i, dirs, rows) for array, i in ((w, 9), (r, 11)))
    w_scale, r_scale = (constant(_rows(n.const(i, "scale").astype(np.float32), dirs, rows)) for i in (8, 10))
    states = [n.x(i) if n.has(i) else None for i in (5, 6)]
    lengths = n.cast(n.x(4), "int32") if n.has(4) else None
    args = [n.x(0), w_values, r_values, bias, *states, lengths, w_scale, r_scale, w_zero, r_zero]
    state = relax.TensorType(shape_expr([dirs, batch, hidden]), "float32")
    out = [relax.TensorType(shape_expr([steps, batch, dirs * hidden]), "float32"), state, state]
    attrs: dict[str, str | int] = {"hidden": hidden, "direction": direction, "gates": "iofc"}
    call = n.emit(make_kernel_call("lstm_u8s8", args, out, attrs, packing="rnn_u8s8_nr16_v1", name=n.place))
    y = n.reshape(n.emit(relax.TupleGetItem(call, 0)), [steps, batch, dirs, hidden])
    return [n.emit(relax.op.permute_dims(y, [0, 2, 1, 3])), *(n.emit(relax.TupleGetItem(call, k)) for k in (1, 2))]


def _rows(p: Any, dirs: int, rows: int) -> Any:
    """A parameter for each direction (and, it may be, each column) as [dirs, rows]."""
    return np.ascontiguousarray(np.broadcast_to(p.reshape(dirs, -1), (dirs, rows)))


def _split(n: Node, weights: Any, zero: int, dirs: int, rows: int) -> tuple[Any, Any]:
    """Weights [dirs, K, rows] of either sign as int8 [dirs, rows, K] and, where they need them, zero points [dirs, rows]."""
    offsets = _rows(n.const(zero, "zero point").astype(np.int32), dirs, rows)
    centred = weights.astype(np.int32).transpose(0, 2, 1) - offsets[:, :, None]
    depth = centred.shape[2]
    split = split_weights(centred.reshape(dirs * rows, depth), 0)
    if split is None:
        raise n.refuse("with weights that do not fit in 8 bits beside their zero points")
    zeros = None if split.zeros is None else constant(split.zeros.reshape(dirs, rows))
    return constant(np.ascontiguousarray(split.values.reshape(dirs, rows, depth))), zeros
