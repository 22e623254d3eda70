"""Run by test_recipes.py with a library that has the kernel of tests/data/recipes/isa.patch: it is listed, and computes what it should."""

from __future__ import annotations

import json

import numpy as np

from maas_rt import _native

kernels = json.loads(_native.kernels_json())["contracts"]["resize2d_f32"]["kernels"]
assert [kernel["isa"] for kernel in kernels] == ["avx512", "avx2", "scalar"], kernels
if _native.cpu_isa() == "avx512":
    x = np.random.default_rng(0).uniform(-1, 1, (1, 5, 4, 37)).astype(np.float32)
    got, want = (np.empty((1, 9, 7, 37), np.float32) for _ in range(2))
    _native.kernel_run("resize2d_f32", "avx512", [x], [got], {"mode": "linear"}, 1)
    _native.kernel_run("resize2d_f32", "reference", [x], [want], {"mode": "linear"}, 1)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
