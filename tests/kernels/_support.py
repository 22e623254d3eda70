"""What the kernel tests share: the instruction sets to try, the tolerance, activations in double precision."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from numpy.typing import NDArray

from maas_rt import _kernels

# Everything that this machine can run, the best first; forcing one by name is what proves that it ran.
ISAS = _kernels.isas()


def isas_of(contract: str) -> list[str]:
    """The instruction sets of a contract that this machine can run, best first; never none."""
    built = [kernel["isa"] for kernel in _kernels.describe()["contracts"][contract]["kernels"]]
    able = [isa for isa in built if isa in ISAS]
    assert able, f"no kernel of {contract} can run here: the library has {built}, this machine {ISAS}"
    return able


# name -> act_args choices, function of a float64 tensor
ACTIVATIONS: dict[str, tuple[list[list[float]], Any]] = {
    "none": ([[]], lambda x: x),
    "relu": ([[]], F.relu),
    "clip": ([[-0.3, 0.4], [0.0, 6.0]], lambda x, lo, hi: x.clamp(lo, hi)),
    "leaky_relu": ([[0.1], []], lambda x, slope=0.01: F.leaky_relu(x, slope)),
    "elu": ([[0.7], []], lambda x, alpha=1.0: F.elu(x, alpha)),
    "sigmoid": ([[]], torch.sigmoid),
    "tanh": ([[]], torch.tanh),
    "gelu": ([[]], F.gelu),
    "gelu_tanh": ([[]], lambda x: F.gelu(x, approximate="tanh")),
    "silu": ([[]], F.silu),
    "hardswish": ([[]], F.hardswish),
    "hardsigmoid": ([[1 / 6, 0.5], []], lambda x, a=0.2, b=0.5: (a * x + b).clamp(0, 1)),
    "softplus": ([[]], F.softplus),
    "mish": ([[]], F.mish),
    "exp": ([[]], torch.exp),
    "abs": ([[]], torch.abs),
}


@st.composite
def epilogues(draw: st.DrawFn, residual: bool = True) -> dict[str, Any]:
    """Attributes of an epilogue, and under "_residual" whether there is one."""
    act = draw(st.sampled_from(sorted(ACTIVATIONS)))
    attrs: dict[str, Any] = {"act": act}
    args = draw(st.sampled_from(ACTIVATIONS[act][0]))
    if args:
        attrs["act_args"] = args
    if residual:
        attrs["_residual"] = draw(st.booleans())
        if attrs["_residual"]:
            attrs["residual_after"] = draw(st.integers(0, 1))
    return attrs


def activate(acc: torch.Tensor, attrs: dict[str, Any], residual: torch.Tensor | None = None) -> torch.Tensor:
    """The epilogue after the bias, in double precision."""
    after = attrs.get("residual_after", 0)
    if residual is not None and not after:
        acc = acc + residual
    acc = ACTIVATIONS[attrs.get("act", "none")][1](acc, *attrs.get("act_args", []))
    if residual is not None and after:
        acc = acc + residual
    return acc


def uniform(rng: np.random.Generator, *shape: int) -> NDArray[np.float32]:
    return rng.uniform(-1, 1, shape).astype(np.float32)


def assert_close(got: NDArray[Any], want: NDArray[Any], depth: int = 1) -> None:
    """Worst element against the output's scale; the bound grows as rounding errors of a sum of `depth` terms do."""
    assert got.shape == want.shape
    if got.size == 0:
        return
    scale = max(1e-3, float(np.abs(want).max()))
    bound = 16 * float(np.finfo(np.float32).eps) * (1 + depth**0.5)
    error = float(np.abs(got.astype(np.float64) - want).max()) / scale
    assert error <= bound, f"worst element is off by {error:.3g} of the scale, bound {bound:.3g}"
