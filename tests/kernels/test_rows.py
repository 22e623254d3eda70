"""Softmax, layer norm and RMS norm: rows of every length, NaN and infinities, large and small numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from maas_rt import Error, _kernels
from tests.kernels._checks import SEEDS, SIZES, assert_same, check_kernel, normal, quick
from tests.kernels._support import isas_of

ROWS = st.integers(0, 5)


@quick
@given(
    rows=ROWS,
    d=SIZES,
    log=st.booleans(),
    special=st.booleans(),
    scale=st.sampled_from([1e-3, 1.0, 30.0, 1e30]),
    threads=st.integers(1, 2),
    seed=SEEDS,
)
def test_softmax(rows: int, d: int, log: bool, special: bool, scale: float, threads: int, seed: int) -> None:
    x = normal(np.random.default_rng(seed), rows, d, special=special) * np.float32(scale)
    t = torch.from_numpy(x).double()
    want = (torch.log_softmax(t, -1) if log else torch.softmax(t, -1)).numpy()
    check_kernel("softmax_f32", [x], [want.astype(np.float32)], {"log": int(log)}, d, threads)


def test_softmax_splits_rows_over_threads() -> None:
    x = normal(np.random.default_rng(1), 61, 7, 257)
    check_kernel("softmax_f32", [x], [torch.softmax(torch.from_numpy(x).double(), -1).numpy()], {}, 257, 2)


@pytest.mark.parametrize("isa", ["reference", *isas_of("softmax_f32")])
@pytest.mark.parametrize("d", [1, 5, 8, 19])
def test_softmax_of_masked_rows(isa: str, d: int) -> None:
    x = np.full((3, d), -np.inf, np.float32)
    x[1, -1] = 2
    x[2, 0] = -3.4e38
    (got,) = _kernels.run("softmax_f32", [x], [x.shape], {}, isa=isa)
    assert_same(got, torch.softmax(torch.from_numpy(x), -1).numpy())


def norm_oracle(
    contract: str, s: torch.Tensor, gamma: torch.Tensor | None, beta: torch.Tensor | None, epsilon: float
) -> torch.Tensor:
    s = s.double()
    if contract == "layer_norm_f32":
        centred = s - s.mean(-1, keepdim=True)
        y = centred / (centred.square().mean(-1, keepdim=True) + epsilon).sqrt()
    else:
        y = s / (s.square().mean(-1, keepdim=True) + epsilon).sqrt()
    if gamma is not None:
        y = y * gamma.double()
    return y if beta is None else y + beta.double()


@pytest.mark.parametrize("contract", ["layer_norm_f32", "rms_norm_f32"])
@quick
@given(
    rows=ROWS,
    d=SIZES.filter(lambda n: n > 0),
    gamma=st.booleans(),
    beta=st.booleans(),
    residual=st.booleans(),
    both=st.booleans(),
    special=st.booleans(),
    offset=st.sampled_from([0.0, 3.0]),
    epsilon=st.sampled_from([1e-12, 1e-5, 0.1]),
    threads=st.integers(1, 2),
    seed=SEEDS,
)
def test_norm(
    contract: str,
    rows: int,
    d: int,
    gamma: bool,
    beta: bool,
    residual: bool,
    both: bool,
    special: bool,
    offset: float,
    epsilon: float,
    threads: int,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    x = normal(rng, rows, d, special=special) + np.float32(offset)
    r = normal(rng, rows, d) if residual else None
    g = normal(rng, d) if gamma else None
    b = normal(rng, d) if beta and contract == "layer_norm_f32" else None
    s = x if r is None else x + r
    if contract == "layer_norm_f32" and d < 3:
        epsilon = 0.1  # one or two numbers are their own mean but for rounding, which a small epsilon blows up
    tensors = [None if v is None else torch.from_numpy(v) for v in (g, b)]
    want = [norm_oracle(contract, torch.from_numpy(s), *tensors, epsilon).numpy(), s]
    inputs = [x, g, b, r] if contract == "layer_norm_f32" else [x, g, r]
    # Numbers far from 0 lose digits in the subtraction of their mean.
    check_kernel(contract, inputs, want if both else want[:1], {"epsilon": epsilon}, 16 * d, threads)


@pytest.mark.parametrize("isa", ["reference", *isas_of("layer_norm_f32")])
def test_layer_norm_of_a_large_offset_does_not_cancel(isa: str) -> None:
    x = (normal(np.random.default_rng(0), 4, 384) + np.float32(1000)).astype(np.float32)
    (got,) = _kernels.run("layer_norm_f32", [x], [x.shape], {}, isa=isa)
    np.testing.assert_allclose(got, norm_oracle("layer_norm_f32", torch.from_numpy(x), None, None, 1e-5), atol=1e-3)


@pytest.mark.parametrize(
    ("contract", "inputs", "shape", "attrs", "words"),
    [
        ("softmax_f32", [np.float32(1)], [()], {}, "no dimensions"),
        ("softmax_f32", [np.ones((2, 3), np.float32)], [(3, 2)], {}, "extent"),
        ("softmax_f32", [np.ones((2, 3))], [(2, 3)], {}, "float32"),
        ("softmax_f32", [np.ones((2, 3), np.float32)], [(2, 3)], {"log": 2}, "'log'"),
        ("softmax_f32", [np.ones(2, np.float32)] * 2, [(2,)], {}, "inputs"),
        ("layer_norm_f32", [np.ones((2, 3), np.float32), np.ones(4, np.float32)], [(2, 3)], {}, "gamma"),
        ("layer_norm_f32", [np.ones((2, 3), np.float32)], [(2, 3)], {"epsilon": -1.0}, "epsilon"),
        ("layer_norm_f32", [np.ones((2, 3), np.float32)], [(2, 3)], {"epsilon": float("nan")}, "finite"),
        ("layer_norm_f32", [np.ones((2, 3), np.float32)], [(2, 3), (2, 2)], {}, "sum"),
        ("rms_norm_f32", [np.ones((2, 3), np.float32), None, np.ones(3, np.float32)], [(2, 3)], {}, "residual"),
        ("rms_norm_f32", [None], [(2, 3)], {}, "absent"),
    ],
)
def test_refuses(contract: str, inputs: list, shape: list, attrs: dict, words: str) -> None:
    with pytest.raises(Error, match=words):
        _kernels.run(contract, inputs, shape, attrs)
