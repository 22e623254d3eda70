"""What a damaged file may ask of a kernel: every contract, started from a good call and bent in many ways.

The kernel refuses, or it runs; it never touches memory that is not there. Built with the address sanitizer, this is the
test that `check` of every contract sees everything.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from maas_rt import Error, _kernels
from tests.kernels._support import isas_of


def ones(*shape: int) -> NDArray[np.float32]:
    return np.ones(shape, np.float32)


CONTRACTS: dict[str, Any] = _kernels.describe()["contracts"]


def weight(contract: str, packing: str, attrs: dict[str, Any], *shape: int) -> bytes:
    return _kernels.pack(
        contract,
        packing,
        ones(*shape).astype(next(row["dtypes"][0] for row in CONTRACTS[contract]["inputs"] if row.get("packed"))),
        attrs,
    )


GEMM = {"n": 17, "k": 9}
CONV = {"strides": [2, 1], "pads": [1, 0, 1, 2], "dilations": [1, 1], "groups": 2, "kernel": [3, 2], "channels": [4, 6]}
WINOGRAD = {"pads": [1, 0, 1, 2], "kernel": [3, 3], "channels": [4, 6], "tile": 2}
DEPTHWISE = {**CONV, "groups": 5, "channels": [5, 5]}
REPEATED = {**DEPTHWISE, "channels": [5, 15]}
TRANSPOSED = {**CONV, "output_padding": [1, 0]}
LSTM = {"hidden": 5, "direction": "bidirectional"}
RNN = "rnn_f32_nr16_v1"
RANDOM = {"uniform_f32": "f4", "uniform_f64": "f8", "normal_f32": "f4", "normal_f64": "f8", "bits_u64": "u8"}

# contract -> inputs, shapes of the outputs, attributes
CALLS: dict[str, tuple[list[Any], list[tuple[int, ...]], dict[str, Any]]] = {
    "gemm_f32": (
        [ones(3, 9), weight("gemm_f32", "gemm_f32_nr16_v1", GEMM, 9, 17), ones(17), ones(3, 17)],
        [(3, 17)],
        {**GEMM, "act": "clip", "act_args": [0.0, 6.0], "residual_after": 1, "hint": "depth=64 rows_kib=16"},
    ),
    "matmul_f32": ([ones(2, 3, 5), ones(1, 5, 7), ones(7)], [(2, 3, 7)], {"trans_a": 0, "trans_b": 0, "alpha": 0.5}),
    "conv2d_f32": (
        [ones(1, 5, 6, 4), weight("conv2d_f32", "conv2d_f32_nr16_v1", CONV, 6, 2, 3, 2), ones(6)],
        [(1, 3, 7, 6)],
        {**CONV, "hint": "depth=4096"},
    ),
    "conv2d_winograd_f32": (
        [
            ones(1, 5, 6, 4),
            weight("conv2d_winograd_f32", "conv2d_winograd_f32_nr16_v1", WINOGRAD, 6, 4, 3, 3),
            ones(6),
        ],
        [(1, 5, 6, 6)],
        {**WINOGRAD, "hint": "block_kib=64"},
    ),
    "gemm_f32q": (
        [
            ones(3, 9),
            weight("gemm_f32q", "gemm_f32q_nr16_v1", {**GEMM, "bits": 4}, 9, 17),
            ones(3, 17),
            np.ones((3, 17), np.int8),
            ones(17),
            ones(3, 17),
        ],
        [(3, 17)],
        {**GEMM, "bits": 4, "group": 4, "act": "clip", "act_args": [0.0, 6.0], "residual_after": 1},
    ),
    "gemm_u8s8": (
        [
            np.ones((3, 9), np.uint8),
            weight("gemm_u8s8", "gemm_u8s8_nr16_v2", GEMM, 9, 17),
            ones(17),
            ones(17),
            ones(3, 17),
            np.ones((), np.float32),
            np.ones((), np.uint8),
            np.ones(17, np.int8),
        ],
        [(3, 17)],
        {**GEMM, "a_zero": 3, "act": "clip", "act_args": [0.0, 6.0], "residual_after": 1, "y_scale": 0.5, "y_zero": 9},
    ),
    "conv2d_u8s8": (
        [np.ones((1, 5, 6, 4), np.uint8), weight("conv2d_u8s8", "conv2d_u8s8_nr16_v2", CONV, 6, 2, 3, 2), ones(6)]
        + [ones(6), ones(1, 3, 7, 6), np.ones((), np.float32), np.ones((), np.uint8), np.ones(6, np.int8)],
        [(1, 3, 7, 6)],
        {**CONV, "a_zero": 3, "y_scale": 0.5, "y_zero": 9},
    ),
    "depthwise_conv2d_u8s8": (
        [
            np.ones((1, 5, 6, 5), np.uint8),
            weight("depthwise_conv2d_u8s8", "depthwise_u8s8_c8_v1", DEPTHWISE, 5, 1, 3, 2),
            ones(5),
        ],
        [(1, 3, 7, 5)],
        {**DEPTHWISE, "a_zero": 3, "y_scale": 0.5, "y_zero": 9},
    ),
    "depthwise_conv2d_f32": (
        [ones(1, 5, 6, 5), weight("depthwise_conv2d_f32", "depthwise_f32_c8_v1", REPEATED, 15, 1, 3, 2), ones(15)],
        [(1, 3, 7, 15)],
        REPEATED,
    ),
    "conv_transpose2d_f32": (
        [ones(1, 3, 4, 4), weight("conv_transpose2d_f32", "conv_transpose2d_f32_v1", TRANSPOSED, 4, 3, 3, 2), ones(6)],
        [(1, 6, 3, 6)],
        TRANSPOSED,
    ),
    "pool2d_f32": (
        [ones(1, 5, 6, 9)],
        [(1, 5, 3, 9)],
        {"mode": "avg", "kernel": [3, 2], "strides": [1, 2], "pads": [1, 0, 1, 1], "dilations": [1, 1]},
    ),
    "dynamic_quantize_u8": ([ones(3, 17)], [((3, 17), np.uint8), (), ((), np.uint8)], {}),
    "max_pool2d_u8": (
        [np.ones((1, 5, 6, 9), np.uint8)],
        [((1, 5, 3, 9), np.uint8)],
        {"kernel": [3, 2], "strides": [1, 2], "pads": [1, 0, 1, 1], "dilations": [1, 1]},
    ),
    "global_avg_pool_f32": ([ones(2, 3, 4, 9)], [(2, 9)], {}),
    "layer_norm_f32": ([ones(3, 9), ones(9), ones(9), ones(3, 9)], [(3, 9), (3, 9)], {"epsilon": 1e-5}),
    "rms_norm_f32": ([ones(3, 9), ones(9), ones(3, 9)], [(3, 9), (3, 9)], {"epsilon": 1e-5}),
    "softmax_f32": ([ones(3, 9)], [(3, 9)], {"log": 1}),
    "attention_f32": (
        [ones(2, 5, 4, 8), ones(2, 7, 2, 8), ones(2, 7, 2, 3), ones(1, 5, 7)],
        [(2, 5, 4, 3)],
        {"scale": 0.5, "causal": 2, "safe": 1, "layout": "bshd"},
    ),
    "qkv_attention_f32": ([ones(2, 5, 3, 4, 8), ones(5, 5)], [(2, 5, 4, 8)], {"scale": 0.5, "causal": 1}),
    "lstm_f32": (
        [ones(4, 3, 6), weight("lstm_f32", RNN, {}, 2, 20, 6), weight("lstm_f32", RNN, {}, 2, 20, 5), ones(2, 40)]
        + [ones(2, 3, 5), ones(2, 3, 5), np.array([4, 0, 2], np.int32)],
        [(4, 3, 10), (2, 3, 5), (2, 3, 5)],
        LSTM,
    ),
    "lstm_u8s8": (
        [ones(4, 3, 6)]
        + [weight("lstm_u8s8", "rnn_u8s8_nr16_v1", LSTM, 2, 20, k) for k in (6, 5)]
        + [ones(2, 40), ones(2, 3, 5), ones(2, 3, 5), np.array([4, 0, 2], np.int32), ones(2, 20), ones(2, 20)]
        + [np.ones((2, 20), np.int8)] * 2,
        [(4, 3, 10), (2, 3, 5), (2, 3, 5)],
        LSTM,
    ),
    "gru_f32": (
        [ones(4, 3, 6), weight("gru_f32", RNN, {}, 2, 15, 6), weight("gru_f32", RNN, {}, 2, 15, 5), ones(2, 30)]
        + [ones(2, 3, 5), np.array([4, 0, 2], np.int32)],
        [(4, 3, 10), (2, 3, 5)],
        {**LSTM, "linear_before_reset": 0},
    ),
    "transpose": ([ones(3, 4, 5)], [(5, 3, 4)], {"perm": [2, 0, 1]}),
    "concat": ([ones(3, 4), ones(3, 2), ones(3, 0)], [(3, 6)], {"axis": 1}),
    "slice": ([ones(6, 7, 3)], [(2, 3, 3)], {"starts": [4, 1, 0], "steps": [-3, 2, 1]}),
    "pad": ([ones(3, 4, 2)], [(5, 7, 2)], {"before": [1, 2, 0], "mode": "reflect", "value": 1.0}),
    "gather": ([ones(5, 4, 3), np.array([[0, -4], [3, 1]], np.int64)], [(5, 2, 2, 3)], {"axis": 1}),
    "matmul_u8": (
        [np.ones((2, 5, 7), np.uint8), np.ones((2, 7, 18), np.uint8)]
        + [np.ones((), np.float32), np.ones((), np.uint8), np.ones((), np.uint8)],
        [(2, 5, 18)],
        {"a_zero": 3, "b_zero": 250, "scale": 0.5, "y_scale": 0.5, "y_zero": 9},
    ),
    "lookup": ([np.ones((3, 5), np.uint8), np.ones(256, np.uint8)], [((3, 5), np.uint8)], {}),
    "top_k": ([ones(3, 40, 2)], [(3, 7, 2), ((3, 7, 2), np.int64)], {"axis": 1, "largest": 1, "pick": "first", "k": 2}),
    **{
        f"random_{kind}": (
            [np.ones(1, np.uint64), np.ones(1, np.int64)],
            [((3, 100), np.dtype(dtype))],
            {"number": 3},
        )
        for kind, dtype in RANDOM.items()
    },
    "resize2d_f32": (
        [ones(1, 4, 5, 3)],
        [(1, 7, 9, 3)],
        {"mode": "cubic", "coordinates": "half_pixel", "scales": [1.7, 1.9]},
    ),
}

EXTREME = st.sampled_from([0, 1, -1, 2, -2, 3, 16, 17, 2**20, -(2**20), 2**31, 2**32 + 1, 2**62, -(2**62), 2**63 - 1])
NUMBERS = st.sampled_from([0.0, -1.0, 1e-30, 1e30, 3.7, float("inf"), float("-inf"), float("nan")])


def bent_array(draw: st.DrawFn, x: Any) -> Any:
    if isinstance(x, bytes):
        return x[: draw(st.sampled_from([0, 4, 64, max(0, len(x) - 4)]))] + b"\0" * draw(st.sampled_from([0, 0, 64]))
    shape = list(x.shape)
    how = draw(st.sampled_from(["extent", "rank", "dtype", "drop", "values"]))
    if how == "extent" and shape:
        shape[draw(st.integers(0, len(shape) - 1))] = draw(st.integers(0, 9))
    elif how == "rank":
        shape = shape[1:] if draw(st.booleans()) else [1, *shape]
    elif how == "dtype":
        return np.ones(shape, draw(st.sampled_from([np.float64, np.int32, np.uint8, np.float16, np.complex128])))
    elif how == "drop":
        return None
    elif x.dtype.kind in "iu":
        number = draw(st.sampled_from([-(2**31), -6, -1, 0, 5, 2**31 - 1]))
        return np.full_like(x, np.clip(number, max(-(2**31), np.iinfo(x.dtype).min), np.iinfo(x.dtype).max))
    return np.ones(shape, x.dtype)


def output(given: Any) -> tuple[tuple[int, ...], Any]:
    """Shape and dtype of an output: float32 where only a shape is given."""
    return given if given and isinstance(given[0], tuple) else (tuple(given), np.float32)


@st.composite
def bent(draw: st.DrawFn, contract: str) -> tuple[list[Any], list[Any], dict[str, Any]]:
    """A good call with one to three things wrong with it."""
    inputs, shapes, attrs = (part.copy() for part in CALLS[contract])
    for _ in range(draw(st.integers(1, 3))):
        what = draw(st.sampled_from(["input", "output", "attr", "attr", "count"]))
        if what == "input" and inputs:
            i = draw(st.integers(0, len(inputs) - 1))
            if inputs[i] is not None:
                inputs[i] = bent_array(draw, inputs[i])
        elif what == "output" and shapes:
            i = draw(st.integers(0, len(shapes) - 1))
            given, dtype = output(shapes[i])
            shape = list(given)
            if shape and draw(st.booleans()):
                shape[draw(st.integers(0, len(shape) - 1))] = draw(st.integers(0, 9))
            else:
                shape = shape[1:] if draw(st.booleans()) else [1, *shape]
            shapes[i] = (tuple(shape), dtype)
        elif what == "count":
            inputs = inputs[: draw(st.integers(0, len(inputs)))] + [None] * draw(st.integers(0, 2))
        elif attrs or CONTRACTS[contract]["attributes"]:
            key = draw(st.sampled_from(sorted({*attrs, *CONTRACTS[contract]["attributes"]})))
            value = attrs.pop(key, 0)
            if isinstance(value, (list, tuple)) and value:
                more = list(value)
                more[draw(st.integers(0, len(more) - 1))] = draw(EXTREME if isinstance(more[0], int) else NUMBERS)
                attrs[key] = more[: draw(st.integers(0, len(more)))] + more[: draw(st.integers(0, 1))]
                if draw(st.booleans()):
                    attrs[key] = more
            elif isinstance(value, int):
                attrs[key] = draw(EXTREME)
            elif isinstance(value, float):
                attrs[key] = draw(NUMBERS)
            elif draw(st.booleans()):
                attrs[key] = draw(st.sampled_from(["", "x" * 300, "constant", "max", "nearest", "reverse", "bhsd"]))
    return inputs, shapes, attrs


@pytest.mark.parametrize("contract", sorted(CALLS))
def test_the_good_call_runs(contract: str) -> None:
    inputs, shapes, attrs = CALLS[contract]
    for isa in ["reference", *isas_of(contract)]:
        for threads in (1, 2):
            _kernels.run(contract, inputs, shapes, attrs, isa=isa, threads=threads)


@pytest.mark.parametrize("contract", sorted(CALLS))
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_bent_calls_are_refused_or_run(contract: str, data: st.DataObject) -> None:
    inputs, shapes, attrs = data.draw(bent(contract))
    isa = data.draw(st.sampled_from(["reference", *isas_of(contract)]))
    try:
        outputs = _kernels.run(contract, inputs, shapes, attrs, isa=isa, threads=data.draw(st.integers(1, 2)))
    except Error as error:
        message = str(error)
        assert message and "\n" not in message, message
    else:
        assert [y.shape for y in outputs] == [output(s)[0] for s in shapes]


def test_every_contract_is_here() -> None:
    assert set(CALLS) == set(CONTRACTS)


BOUNDS = [
    (contract, key, bound + step)
    for contract, stated in sorted(CONTRACTS.items())
    for key, row in stated["attributes"].items()
    if row["kind"] == "integers" and not row.get("packing_only")
    for bound, step in ((row.get("lo"), -1), (row.get("hi"), 1))
    if bound is not None
]


@pytest.mark.parametrize(("contract", "key", "value"), BOUNDS)
def test_a_number_beyond_a_bound_is_refused(contract: str, key: str, value: int) -> None:
    inputs, shapes, attrs = CALLS[contract]
    row = CONTRACTS[contract]["attributes"][key]
    count = len(attrs[key]) if row.get("listed") and key in attrs else row["count"]
    with pytest.raises(Error, match=f"attribute '{key}' holds {value}, expected a value from"):
        _kernels.run(contract, inputs, shapes, {**attrs, key: [value] * count})


@pytest.mark.parametrize("contract", sorted(CALLS))
def test_what_a_contract_states_is_held(contract: str) -> None:
    """An unknown attribute, a needed one that is absent, a choice that there is not, a type that an input cannot have."""
    inputs, shapes, attrs = CALLS[contract]
    with pytest.raises(Error, match=f"{contract}: there is no attribute 'sparsity'"):
        _kernels.run(contract, inputs, shapes, {**attrs, "sparsity": 2})
    for key, row in CONTRACTS[contract]["attributes"].items():
        if row.get("needed"):
            with pytest.raises(Error, match=f"attribute '{key}' is absent, but it is needed"):
                _kernels.run(contract, inputs, shapes, {k: v for k, v in attrs.items() if k != key})
        if row["kind"] == "choice":
            with pytest.raises(Error, match=f"attribute '{key}' is 'nothing', expected one of: {row['choices'][0]}"):
                _kernels.run(contract, inputs, shapes, {**attrs, key: "nothing"})
    for i, (row, tensor) in enumerate(zip(CONTRACTS[contract]["inputs"], inputs, strict=False)):
        if row.get("packed") or not row.get("dtypes"):
            continue
        bent = [*inputs[:i], tensor.astype(np.complex64), *inputs[i + 1 :]]
        with pytest.raises(Error, match=rf"{row['name']} is .*, expected .*{row['dtypes'][-1]}"):
            _kernels.run(contract, bent, shapes, attrs)
