"""LSTM and GRU against torch, and against ONNX's formulas where torch has no such option."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from maas_rt import Error, _kernels
from tests.kernels._checks import SEEDS, assert_same, check_kernel, normal, quick
from tests.kernels._support import isas_of

Array = NDArray[np.float32]
PACKING = "rnn_f32_nr16_v1"
# Units around the vectors (4, 8) and panels (16 rows of gates).
HIDDEN = st.one_of(st.integers(1, 10), st.sampled_from([15, 16, 17, 32, 37]))


def cells(kind: str, seed: int, inputs: int, hidden: int, dirs: int, bias: bool) -> dict[str, Any]:
    """Weights of a layer, [dirs, gates * hidden, ...]."""
    rng = np.random.default_rng(seed)
    gates = 4 if kind == "lstm" else 3
    return {
        "w": normal(rng, dirs, gates * hidden, inputs) * np.float32(max(inputs, 1) ** -0.5),
        "r": normal(rng, dirs, gates * hidden, hidden) * np.float32(hidden**-0.5),
        "bias": normal(rng, dirs, 2 * gates * hidden) if bias else None,
    }


def packed(kind: str, weight: Array) -> bytes:
    return _kernels.pack(f"{kind}_f32", PACKING, weight)


def sigma(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-x))


def oracle(
    kind: str,
    x: Array,
    layer: dict[str, Any],
    h0: Array,
    c0: Array,
    order: str,
    reset_after: bool,
    reverse: list[bool],
    lengths: list[int],
) -> list[NDArray[np.float64]]:
    """ONNX's formulas, one sequence and one direction at a time."""
    steps, batch, _ = x.shape
    dirs, _, hidden = layer["r"].shape
    y = np.zeros((steps, batch, dirs, hidden))
    hn, cn = h0.astype(np.float64), c0.astype(np.float64)
    for d in range(dirs):
        w, r = layer["w"][d].astype(np.float64), layer["r"][d].astype(np.float64)
        bias = np.zeros(2 * len(w)) if layer["bias"] is None else layer["bias"][d].astype(np.float64)
        wb, rb = bias[: len(w)], bias[len(w) :]
        for b in range(batch):
            h, c = hn[d, b], cn[d, b]
            times = range(lengths[b])
            for t in reversed(times) if reverse[d] else times:
                pre = dict(zip(order, np.split(w @ x[t, b].astype(np.float64) + wb, len(order)), strict=True))
                rec = dict(zip(order, np.split(r @ h + rb, len(order)), strict=True))
                if kind == "lstm":
                    candidate = "c" if "c" in order else "g"
                    i, f, o = (sigma(pre[g] + rec[g]) for g in "ifo")
                    c = f * c + i * np.tanh(pre[candidate] + rec[candidate])
                    h = o * np.tanh(c)
                else:
                    candidate = order[-1]
                    z, reset = sigma(pre["z"] + rec["z"]), sigma(pre["r"] + rec["r"])
                    part = reset * rec[candidate]
                    if not reset_after:
                        part = r[2 * hidden :] @ (reset * h) + rb[2 * hidden :]
                    h = (1 - z) * np.tanh(pre[candidate] + part) + z * h
                y[t, b, d] = h
            hn[d, b], cn[d, b] = h, c
    return [y.reshape(steps, batch, dirs * hidden), hn] + ([cn] if kind == "lstm" else [])


@pytest.mark.parametrize("kind", ["lstm", "gru"])
@quick
@given(
    steps=st.integers(0, 6),
    batch=st.one_of(st.integers(0, 5), st.just(13)),
    inputs=st.one_of(st.integers(0, 9), st.sampled_from([16, 33])),
    hidden=HIDDEN,
    direction=st.sampled_from(["forward", "reverse", "bidirectional"]),
    torch_order=st.booleans(),
    reset_after=st.booleans(),
    bias=st.booleans(),
    states=st.booleans(),
    ragged=st.booleans(),
    threads=st.integers(1, 3),
    seed=SEEDS,
)
def test_recurrent(
    kind: str,
    steps: int,
    batch: int,
    inputs: int,
    hidden: int,
    direction: str,
    torch_order: bool,
    reset_after: bool,
    bias: bool,
    states: bool,
    ragged: bool,
    threads: int,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    dirs = 2 if direction == "bidirectional" else 1
    layer = cells(kind, seed, inputs, hidden, dirs, bias)
    x = normal(rng, steps, batch, inputs)
    h0, c0 = (normal(rng, dirs, batch, hidden) * np.float32(states) for _ in range(2))
    lengths = rng.integers(0, steps + 1, batch).astype(np.int32) if ragged else None
    order = {"lstm": ["iofc", "ifgo"], "gru": ["zrh", "rzn"]}[kind][int(torch_order)]
    attrs: dict[str, Any] = {"hidden": hidden, "direction": direction, "gates": order}
    if kind == "gru":
        attrs["linear_before_reset"] = int(reset_after)
    want = oracle(
        kind,
        x,
        layer,
        h0,
        c0,
        order,
        reset_after,
        [False, True] if dirs == 2 else [direction == "reverse"],
        [steps] * batch if lengths is None else [int(n) for n in lengths],
    )
    initial = [h0 if states else None] + ([c0 if states else None] if kind == "lstm" else [])
    weights = [packed(kind, layer["w"]), packed(kind, layer["r"]), layer["bias"]]
    check_kernel(f"{kind}_f32", [x, *weights, *initial, lengths], want, attrs, inputs + hidden, threads)


@functools.lru_cache(None)
def torch_layer(kind: str, batch: int, hidden: int, bidirectional: bool) -> tuple[list[Any], list[NDArray[np.float64]]]:
    """Inputs of the contract, and what torch makes of them in double precision; more steps than a chunk."""
    torch.manual_seed(0)
    steps, inputs = 100, 40
    module = (torch.nn.LSTM if kind == "lstm" else torch.nn.GRU)(inputs, hidden, bidirectional=bidirectional)
    suffixes = ["", "_reverse"][: 1 + int(bidirectional)]
    get = {name: p.detach().numpy().copy() for name, p in module.named_parameters()}
    w, r = (np.stack([get[f"weight_{part}_l0{s}"] for s in suffixes]) for part in ("ih", "hh"))
    bias = np.stack([np.concatenate([get[f"bias_ih_l0{s}"], get[f"bias_hh_l0{s}"]]) for s in suffixes])
    x = torch.randn(steps, batch, inputs)
    y, state = module.double()(x.double())
    want = [t.detach().numpy() for t in (y, *(state if kind == "lstm" else [state]))]
    return [x.numpy(), packed(kind, w), packed(kind, r), bias], want


@pytest.mark.parametrize("isa", isas_of("lstm_f32"))
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(
    ("kind", "batch", "hidden"),  # of 230 units threads share the weights of few sequences
    [("lstm", 1, 72), ("lstm", 7, 72), ("gru", 1, 72), ("gru", 7, 72), ("lstm", 3, 230), ("gru", 2, 230)],
)
def test_as_torch(isa: str, threads: int, bidirectional: bool, kind: str, batch: int, hidden: int) -> None:
    inputs, want = torch_layer(kind, batch, hidden, bidirectional)
    attrs = {
        "hidden": hidden,
        "direction": "bidirectional" if bidirectional else "forward",
        "gates": "ifgo" if kind == "lstm" else "rzn",
    }
    outputs = _kernels.run(f"{kind}_f32", inputs, [w.shape for w in want], attrs, isa=isa, threads=threads)
    for got, expected in zip(outputs, want, strict=True):
        assert_same(got, expected, 128)


@pytest.mark.parametrize("isa", ["reference", *isas_of("lstm_f32")])
@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_not_a_number_stays_in_its_sequence(isa: str, kind: str) -> None:
    layer = cells(kind, 0, 5, 9, 1, True)
    x = normal(np.random.default_rng(0), 4, 3, 5)
    x[2, 1, 0] = np.nan
    weights = [packed(kind, layer["w"]), packed(kind, layer["r"]), layer["bias"]]
    (y,) = _kernels.run(f"{kind}_f32", [x, *weights], [(4, 3, 9)], {"hidden": 9}, isa=isa)
    bad = np.zeros((4, 3), bool)
    bad[2:, 1] = True
    np.testing.assert_array_equal(np.isnan(y), np.broadcast_to(bad[..., None], y.shape))


@pytest.mark.parametrize("isa", ["reference", *isas_of("lstm_f32")])
@pytest.mark.parametrize("length", [-1, 5])
def test_a_length_out_of_range_is_named(isa: str, length: int) -> None:
    layer = cells("lstm", 0, 5, 9, 1, False)
    inputs = [normal(np.random.default_rng(0), 4, 3, 5), packed("lstm", layer["w"]), packed("lstm", layer["r"])]
    lengths = np.array([4, length, 0], np.int32)
    with pytest.raises(Error, match="a length is out of range"):
        _kernels.run("lstm_f32", [*inputs, None, None, None, lengths], [(4, 3, 9)], {"hidden": 9}, isa=isa)


def test_refuses() -> None:
    layer = cells("lstm", 0, 5, 9, 1, True)
    x = np.ones((4, 3, 5), np.float32)
    w, r = packed("lstm", layer["w"]), packed("lstm", layer["r"])
    y = (4, 3, 9)
    cases: list[tuple[list[Any], list[Any], dict[str, Any], str]] = [
        ([x, w, r], [y], {}, "'hidden'"),
        ([x, w, r], [y], {"hidden": 0}, "'hidden'"),
        ([x, w, r], [y], {"hidden": 2**40}, "'hidden'"),
        ([x, w, r], [y], {"hidden": 8}, "w holds"),
        ([x, w[:-64], r], [y], {"hidden": 9}, "w holds"),
        ([x, w, r + b"\0" * 64], [y], {"hidden": 9}, "r holds"),
        ([x, w, r], [y], {"hidden": 9, "direction": "bidirectional"}, "w holds"),
        ([x, w, r], [y], {"hidden": 9, "direction": "sideways"}, "sideways"),
        ([x, w, r], [y], {"hidden": 9, "gates": "zrh"}, "zrh"),
        ([x, w, r, layer["bias"][:, :-1].copy()], [y], {"hidden": 9}, "bias"),
        ([x, w, r, None, np.ones((1, 2, 9), np.float32)], [y], {"hidden": 9}, "h0"),
        ([x, w, r, None, None, np.ones((1, 3, 8), np.float32)], [y], {"hidden": 9}, "c0"),
        ([x, w, r, None, None, None, np.ones(3, np.int64)], [y], {"hidden": 9}, "lengths"),
        ([x, w, r, None, None, None, np.ones(2, np.int32)], [y], {"hidden": 9}, "lengths"),
        ([x, w, r], [(4, 3, 8)], {"hidden": 9}, "extent"),
        ([x, w, r], [y, (1, 3, 8)], {"hidden": 9}, "hn"),
        ([x, w, r], [y, (1, 3, 9), (1, 3, 8)], {"hidden": 9}, "cn"),
        ([x, w], [y], {"hidden": 9}, "inputs"),
        ([np.empty((0, 2**54, 5), np.float32), w, r], [(0, 2**54, 9)], {"hidden": 9}, "large"),
    ]
    for inputs, shapes, attrs, words in cases:
        with pytest.raises(Error, match=words):
            _kernels.run("lstm_f32", inputs, shapes, attrs)
    with pytest.raises(Error, match="packing"):
        _kernels.pack("lstm_f32", "rnn_f32_nr32_v9", layer["w"])
    with pytest.raises(Error, match="weight"):
        _kernels.pack("lstm_f32", PACKING, np.ones((1, 35, 5), np.float32))
    with pytest.raises(Error, match="weight"):
        _kernels.pack("gru_f32", PACKING, np.ones((3, 36, 5), np.float32))
