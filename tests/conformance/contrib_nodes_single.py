"""Cases of operators that stand alone (crops, hashes, warped time) and of models with several residual streams."""

from __future__ import annotations

from typing import Any

import numpy as np

from .contrib_nodes import Case

__all__ = ["cases"]


def cases() -> list[Case]:
    rng = np.random.default_rng(60)

    def draw(*shape: int) -> Any:
        return rng.standard_normal(shape).astype(np.float32)

    return [*_crops(draw, rng), *_hashes(rng), *_paths(rng), *_streams(draw)]


def _crops(draw: Any, rng: Any) -> list[Case]:
    name, x = "CropAndResize", draw(2, 3, 7, 9)
    boxes = np.array([[0, 0, 1, 1], [0.1, 0.2, 0.7, 0.9], [0.8, 0.9, 0.2, 0.1], [-0.2, 0, 0.5, 1.3]], np.float32)
    images = np.array([1, 0, 1, 0], np.int32)
    out = []
    for mode in ("bilinear", "nearest"):
        for size in ((4, 5), (1, 3), (1, 1)):
            how = {"mode": mode, "extrapolation_value": 0.25}
            given = [x, boxes, images, np.array(size, np.int32)]
            out.append(Case(f"{name} {mode} {size}", name, given, how, constants=frozenset({3})))
    given = [x, boxes, images, np.array([3, 2], np.int32)]
    open_ = frozenset({(0, 0), (0, 2), (1, 0), (2, 0)})
    return [*out, Case(f"{name} dynamic", name, given, dynamic=open_)]


def _hashes(rng: Any) -> list[Case]:
    name = "MurmurHash3"
    texts = np.array([["", "a", "ab"], ["abc", "abcd", "über den Wolken"]], object)
    out = [Case(f"{name} text", name, [texts]), Case(f"{name} seed", name, [texts], {"seed": 7, "positive": 0})]
    for dtype in ("int32", "uint32", "int64", "uint64", "float32", "float64"):
        x = (1000 * rng.standard_normal((2, 3))).astype("int64").astype(dtype)
        out.append(Case(f"{name} {dtype}", name, [x], {"positive": int(dtype[-1] == "4")}))
    return [*out, Case(f"{name} dynamic", name, [np.arange(5)], {"seed": 3}, dynamic=frozenset({(0, 0)}))]


def _paths(rng: Any) -> list[Case]:
    name = "DynamicTimeWarping"
    costs = rng.standard_normal((6, 9)).astype(np.float32)
    return [
        Case(name, name, [costs]),
        Case(f"{name} batch", name, [costs[None, :, :3].copy()]),
        Case(f"{name} ties", name, [rng.integers(0, 2, (7, 5)).astype(np.float32)]),
        Case(f"{name} dynamic", name, [costs], dynamic=frozenset({(0, 0), (0, 1)})),
    ]  # fmt: skip


def _streams(draw: Any) -> list[Case]:
    batch, length, branches, width = 2, 5, 3, 8
    x, block = draw(batch, length, branches, width), draw(batch, length, width)
    flat = x.reshape(batch, length, -1)
    pre, post, norm = "HyperConnectionPreMix", "HyperConnectionPostMix", "BranchwiseRMSNorm"
    how = {"num_branches": branches}
    gates = [draw(batch, length, branches), draw(batch, length, branches, 1), draw(batch, length, branches, width)]
    mix = draw(batch, length, branches, branches)
    out = [Case(f"{pre} gates {g.shape[2:]}", pre, [x, g], {"reduction_scale": 0.5}) for g in gates]
    out += [Case(f"{post} gates {g.shape[2:]}", post, [x, block, g, mix]) for g in gates]
    out += [Case(f"{norm} scale {s}", norm, [x, draw(*s)], {"epsilon": 1e-3}) for s in ((24,), (3, 8), (8,))]
    open_ = frozenset({(0, 0), (0, 1), (1, 0), (1, 1)})
    return [
        *out,
        Case(f"{pre} flat", pre, [flat, gates[2].reshape(flat.shape)], how),
        Case(f"{pre} dynamic", pre, [x, gates[0]], dynamic=open_),
        Case(f"{post} flat", post, [flat, block, gates[0]], how),
        Case(f"{norm} flat", norm, [flat], how),
        Case("ScaledSiLU", "ScaledSiLU", [draw(4, 6)], {"alpha": 1.7}),
        Case("ScaledSiLU scale", "ScaledSiLU", [draw(4, 6), np.array(0.3, np.float32)]),
        Case("ScaledSiLU float16", "ScaledSiLU", [draw(4, 6).astype(np.float16)], {"alpha": 1.7}, tolerance=1e-3),
        Case("EngramGate", "EngramGate", [x, draw(*x.shape), block, draw(3, 8), draw(3, 8)]),
        Case("EngramGate norm", "EngramGate", [x, draw(*x.shape), block, draw(3, 8), draw(3, 8), draw(3, 8)], outputs=(True, True)),
    ]  # fmt: skip
