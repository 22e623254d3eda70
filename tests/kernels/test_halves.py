"""Products with weights in float16 and bfloat16: those of gemm_f32 with the floats that they are."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from maas_rt import Error, _kernels
from tests.kernels._support import isas_of

PACKING = "gemm_f32h_nr16_v1"
F = np.float32


def weights(k: int, n: int, dtype: Any) -> Any:
    """Of all sizes, subnormal numbers, the largest and both zeros included."""
    rng = np.random.default_rng([k, n])
    w = (rng.standard_normal((k, n)) / np.sqrt(max(k, 1))).astype(F)
    special = [0.0, -0.0, 6e-8, -3e-5, 1.0, -2.0]
    w.reshape(-1)[: len(special)] = special[: w.size]
    return w.astype(dtype)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize(("k", "n"), [(1, 1), (7, 16), (64, 33), (300, 48), (33, 130), (0, 5)])
@pytest.mark.parametrize("m", [0, 1, 2, 3, 4, 5, 17, 70])
def test_product(m: int, k: int, n: int, dtype: Any) -> None:
    rng = np.random.default_rng(m)
    w, a = weights(k, n, dtype), rng.standard_normal((m, k)).astype(F)
    bias, residual = rng.standard_normal(n).astype(F), rng.standard_normal((m, n)).astype(F)
    attrs = {"n": n, "k": k, "act": "relu", "numbers": np.dtype(dtype).name}
    want = np.maximum(a.astype(np.float64) @ w.astype(np.float64) + bias + residual, 0)
    dense = {True: np.ascontiguousarray(w.T), False: w}
    for trans, source in dense.items():
        packed = _kernels.pack("gemm_f32h", PACKING, source, {**attrs, "w_trans": int(trans)})
        for isa in ["reference", *isas_of("gemm_f32h")]:
            for threads in (1, 2):
                (y,) = _kernels.run(
                    "gemm_f32h", [a, packed, bias, residual], [((m, n), F)], attrs, isa=isa, threads=threads
                )
                np.testing.assert_allclose(y, want, rtol=0, atol=1e-6 * (1 + np.sqrt(k)) * 4, err_msg=isa)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_numbers_beyond_the_finite(dtype: Any) -> None:
    w = np.array([[np.inf, -np.inf, np.nan, 1]], F).astype(dtype)
    attrs = {"n": 4, "k": 1, "numbers": np.dtype(dtype).name}
    packed = _kernels.pack("gemm_f32h", PACKING, w, attrs)
    for m in (1, 3, 9):
        for isa in ["reference", *isas_of("gemm_f32h")]:
            (y,) = _kernels.run("gemm_f32h", [np.ones((m, 1), F), packed, None, None], [((m, 4), F)], attrs, isa=isa)
            np.testing.assert_array_equal(y, np.repeat(w.astype(F), m, 0), err_msg=isa)


def test_refuses_weights_of_another_type() -> None:
    with pytest.raises(Error, match="another type than the attribute numbers"):
        _kernels.pack("gemm_f32h", PACKING, weights(4, 4, np.float16), {"n": 4, "k": 4, "numbers": "bfloat16"})


def test_refuses_a_packing_of_another_size() -> None:
    with pytest.raises(Error, match="gemm_f32h"):
        _kernels.run("gemm_f32h", [np.ones((2, 3), F), b"\0" * 16, None, None], [((2, 4), F)], {"n": 4, "k": 3})
