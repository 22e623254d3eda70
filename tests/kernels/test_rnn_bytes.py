"""LSTM and GRU with weights of 8 bits: ONNX Runtime's DynamicQuantizeLSTM and the same of a GRU, sums exact, against the formulas in numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from maas_rt import Error, _kernels
from tests.kernels._support import isas_of
from tests.kernels.test_dynamic_quantize import onnx_formula
from tests.kernels.test_rnn import sigma

Array = NDArray[Any]
F = np.float32


def product(x: Array, w: Array, scale: Array, zero: Array | None, of: Array | None = None) -> Array:
    """x [rows, k], quantized by its own range or by that of `of`, times w [gates, k]."""
    q, step, origin = onnx_formula(x if of is None else of)
    if of is not None:
        q = np.clip(np.rint(x / step) + int(origin), 0, 255)
    centred = w.astype(np.int64) - (0 if zero is None else zero.astype(np.int64)[:, None])
    return ((q.astype(np.int64) - int(origin)) @ centred.T).astype(F) * (scale * step)


def drawn_layer(
    rng: np.random.Generator, w: tuple[int, ...], r: tuple[int, ...], bias: bool, zeros: bool
) -> dict[str, Any]:
    """Weights of these shapes, [dirs, rows of gates, inputs or hidden], and what belongs to them."""
    return {
        "w": rng.integers(-128, 128, w).astype(np.int8),
        "r": rng.integers(-128, 128, r).astype(np.int8),
        "bias": rng.normal(0, 1, (w[0], 2 * w[1])).astype(F) if bias else None,
        "w_scale": rng.uniform(0.002, 0.004, w[:2]).astype(F),
        "r_scale": rng.uniform(0.002, 0.004, w[:2]).astype(F),
        "w_zero": rng.integers(-9, 10, w[:2]).astype(np.int8) if zeros else None,
        "r_zero": rng.integers(-128, 128, w[:2]).astype(np.int8) if zeros else None,
    }


def formula(x: Array, layer: dict[str, Any], h: Array, c: Array, reverse: list[bool], order: str) -> list[Array]:
    steps, batch, inputs = x.shape
    dirs, _, hidden = h.shape
    y, h, c = np.zeros((steps, batch, dirs, hidden), F), h.copy(), c.copy()
    for d in range(dirs):
        of = {name: None if array is None else array[d] for name, array in layer.items()}
        pre = product(x.reshape(steps * batch, inputs), of["w"], of["w_scale"], of["w_zero"]).reshape(
            steps, batch, 4 * hidden
        )
        bias = 0 if of["bias"] is None else of["bias"][: 4 * hidden] + of["bias"][4 * hidden :]
        for t in reversed(range(steps)) if reverse[d] else range(steps):
            total = pre[t] + bias + product(h[d], of["r"], of["r_scale"], of["r_zero"])
            gates = dict(zip(order, np.split(total.astype(np.float64), 4, axis=1), strict=True))
            candidate = gates["c" if "c" in order else "g"]
            c[d] = sigma(gates["f"]) * c[d] + sigma(gates["i"]) * np.tanh(candidate)
            h[d] = sigma(gates["o"]) * np.tanh(c[d])
            y[t, :, d] = h[d]
    return [y.reshape(steps, batch, dirs * hidden), h, c]


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize(
    ("steps", "batch", "inputs", "hidden"),
    [(1, 1, 5, 7), (1, 1, 64, 32), (1, 2, 33, 17), (1, 9, 16, 16), (1, 101, 3, 5), (1, 1, 259, 37), (5, 3, 20, 24)]
    + [(130, 1, 9, 8), (1, 0, 4, 4), (0, 2, 4, 4), (1, 2, 0, 4)],
)
def test_lstm(steps: int, batch: int, inputs: int, hidden: int, direction: str, zeros: bool) -> None:
    rng = np.random.default_rng(steps + batch + inputs)
    dirs, rows = 1 + (direction == "bidirectional"), 4 * hidden
    order = "iofc" if zeros else "ifgo"
    layer = drawn_layer(rng, (dirs, rows, inputs), (dirs, rows, hidden), batch != 1, zeros)
    x = rng.normal(0, 1, (steps, batch, inputs)).astype(F)
    h0, c0 = (rng.uniform(-1, 1, (dirs, batch, hidden)).astype(F) for _ in range(2))
    reverse = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}[direction]
    want = formula(x, layer, h0, c0, reverse, order)
    attrs = {"hidden": hidden, "direction": direction, "gates": order}
    packed = [_kernels.pack("lstm_u8s8", "rnn_u8s8_nr16_v1", layer[name], attrs) for name in "wr"]
    rest = [layer[name] for name in ("w_scale", "r_scale", "w_zero", "r_zero")]
    inputs_ = [x, *packed, layer["bias"], h0, c0, None, *rest]
    # One step is exact but for the gates; later ones quantize an h that was rounded, and may take the other side of a tie.
    tolerance = 2e-6 if steps <= 1 else 0.02
    for isa in ["reference", *isas_of("lstm_u8s8")]:
        for threads in (1, 2):
            outputs = [(w.shape, F) for w in want]
            got = _kernels.run("lstm_u8s8", inputs_, outputs, attrs, isa=isa, threads=threads)
            for g, w in zip(got, want, strict=True):
                np.testing.assert_allclose(g, w, rtol=0, atol=tolerance, err_msg=isa)


def gru_formula(
    x: Array, layer: dict[str, Any], h: Array, reverse: list[bool], order: str, after: bool, lengths: list[int]
) -> list[Array]:
    steps, batch, inputs = x.shape
    dirs, _, hidden = h.shape
    y, h = np.zeros((steps, batch, dirs, hidden), F), h.copy()
    z, g, n = (order.index(each) for each in ("zrh" if "h" in order else "zrn"))
    for d in range(dirs):
        of = {name: None if array is None else array[d] for name, array in layer.items()}
        pre = product(x.reshape(steps * batch, inputs), of["w"], of["w_scale"], of["w_zero"])
        b_w, b_r = (0, 0) if of["bias"] is None else np.split(of["bias"], 2)
        pre = (pre + b_w).reshape(steps, batch, 3 * hidden).astype(np.float64)
        for t in reversed(range(steps)) if reverse[d] else range(steps):
            from_w = np.split(pre[t], 3, axis=1)
            from_r = np.split((product(h[d], of["r"], of["r_scale"], of["r_zero"]) + b_r).astype(np.float64), 3, axis=1)
            update, reset = sigma(from_w[z] + from_r[z]), sigma(from_w[g] + from_r[g])
            part = reset * from_r[n]
            if not after:
                left = (reset * h[d]).astype(F)
                part = np.split(product(left, of["r"], of["r_scale"], of["r_zero"], h[d]) + b_r, 3, axis=1)[n]
            there = t < np.array(lengths)
            following = ((1 - update) * np.tanh(from_w[n] + part) + update * h[d]).astype(F)
            h[d][there] = following[there]
            y[t, there, d] = following[there]
    return [y.reshape(steps, batch, dirs * hidden), h]


@pytest.mark.parametrize("after", [True, False])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize(
    ("steps", "batch", "inputs", "hidden"),
    [(1, 1, 5, 7), (1, 1, 64, 32), (1, 2, 33, 17), (1, 9, 16, 16), (1, 101, 3, 5), (1, 1, 259, 37), (5, 3, 20, 24)]
    + [(130, 1, 9, 8), (1, 0, 4, 4), (0, 2, 4, 4), (1, 2, 0, 4)],
)
def test_gru(steps: int, batch: int, inputs: int, hidden: int, direction: str, after: bool) -> None:
    rng = np.random.default_rng(steps + batch + inputs)
    dirs, rows, zeros = 1 + (direction == "bidirectional"), 3 * hidden, bool(batch % 2)
    layer = drawn_layer(rng, (dirs, rows, inputs), (dirs, rows, hidden), batch != 1, zeros)
    x = rng.normal(0, 1, (steps, batch, inputs)).astype(F)
    h0 = rng.uniform(-1, 1, (dirs, batch, hidden)).astype(F)
    lengths = rng.integers(0, steps + 1, batch).astype(np.int32)
    order = "zrh" if zeros else "rzn"
    reverse = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}[direction]
    want = gru_formula(x, layer, h0, reverse, order, after, list(lengths))
    attrs = {"hidden": hidden, "direction": direction, "gates": order, "linear_before_reset": int(after)}
    packed = [_kernels.pack("gru_u8s8", "rnn_u8s8_nr16_v1", layer[name], attrs) for name in "wr"]
    rest = [layer[name] for name in ("w_scale", "r_scale", "w_zero", "r_zero")]
    # What a reset gate leaves is rounded before it is quantized, and may take the other side of a tie in one step, too.
    tolerance = 2e-6 if steps <= 1 and after else 0.02
    for isa in ["reference", *isas_of("gru_u8s8")]:
        for threads in (1, 2):
            outputs = [(w.shape, F) for w in want]
            got = _kernels.run(
                "gru_u8s8", [x, *packed, layer["bias"], h0, lengths, *rest], outputs, attrs, isa=isa, threads=threads
            )
            for g, w in zip(got, want, strict=True):
                np.testing.assert_allclose(g, w, rtol=0, atol=tolerance, err_msg=isa)


def test_sums_are_exact_at_the_worst() -> None:
    """All weights -128, all inputs at the end of their range: a sum of pairs in 16 bits would saturate."""
    hidden, inputs = 16, 300
    w = np.full((1, 4 * hidden, inputs), -128, np.int8)
    r = np.full((1, 4 * hidden, hidden), -128, np.int8)
    ones = np.full((1, 4 * hidden), 1e-5, F)
    x = np.ones((1, 1, inputs), F)
    packed = [_kernels.pack("lstm_u8s8", "rnn_u8s8_nr16_v1", a, {"hidden": hidden}) for a in (w, r)]
    layer = {"w": w, "r": r, "bias": None, "w_scale": ones, "r_scale": ones, "w_zero": None, "r_zero": None}
    state = np.full((1, 1, hidden), 0.5, F)
    want = formula(x, layer, state, state, [False], "iofc")
    for isa in ["reference", *isas_of("lstm_u8s8")]:
        inputs_ = [x, *packed, None, state, state, None, ones, ones]
        got = _kernels.run("lstm_u8s8", inputs_, [(a.shape, F) for a in want], {"hidden": hidden}, isa=isa)
        np.testing.assert_allclose(got[0], want[0], atol=2e-6, err_msg=isa)


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [(7, None, "w_scale"), (8, np.ones((1, 9), F), "r_scale"), (9, np.ones((1, 8), F), "w_zero"), (1, b"", "w holds")],
)
def test_refuses(place: int, value: Any, words: str) -> None:
    attrs = {"hidden": 2}
    packed = [_kernels.pack("lstm_u8s8", "rnn_u8s8_nr16_v1", np.ones((1, 8, k), np.int8), attrs) for k in (3, 2)]
    scales = [np.ones((1, 8), F)] * 2
    inputs: list[Any] = [np.ones((2, 1, 3), F), *packed, None, None, None, None, *scales, None, None]
    inputs[place] = value
    with pytest.raises(Error, match=words):
        _kernels.run("lstm_u8s8", inputs, [((2, 1, 2), F)], attrs)
