"""Cases of the operators that are fused from float ones: activations, products, convolutions, norms."""

from __future__ import annotations

from typing import Any

import numpy as np

from .contrib_nodes import Case

__all__ = ["cases"]


def cases() -> list[Case]:
    return [*_activations(), *_products()]


def _activations() -> list[Case]:
    rng = np.random.default_rng(0)
    x = (3 * rng.standard_normal((2, 5, 8))).astype(np.float32)
    bias = rng.standard_normal(8).astype(np.float32)
    out = [Case("Gelu", "Gelu", [x]), Case("Gelu half", "Gelu", [x.astype(np.float16)], tolerance=2e-3)]
    out += [Case(f"FastGelu{' bias' * n}", "FastGelu", [x, bias][: 1 + n]) for n in (0, 1)]
    out += [Case(f"QuickGelu {alpha}", "QuickGelu", [x], {"alpha": alpha}) for alpha in (1.0, 1.702)]
    out += [Case("QuickGelu default", "QuickGelu", [x]), Case("BiasGelu", "BiasGelu", [x, bias])]
    out += [
        Case("BiasGelu dynamic", "BiasGelu", [x, bias], constants=frozenset({1}), dynamic=frozenset({(0, 0), (0, 1)}))
    ]
    return out


def _products() -> list[Case]:
    rng = np.random.default_rng(1)

    def draw(*shape: int) -> Any:
        return rng.standard_normal(shape).astype(np.float32)

    out = []
    for a, b in ((0, 0), (0, 1), (1, 0), (1, 1)):
        p = draw(2, 3, 6, 4) if a else draw(2, 3, 4, 6)
        q = draw(2, 3, 5, 6) if b else draw(2, 3, 6, 5)
        out.append(Case(f"FusedMatMul {a}{b}", "FusedMatMul", [p, q], {"transA": a, "transB": b, "alpha": 0.25}))
    return out
