"""Cases of the operators that are fused from float ones: activations, products, convolutions, norms."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .contrib_nodes import Case

__all__ = ["cases"]

Array = np.ndarray[Any, Any]


def cases() -> list[Case]:
    return [*_activations(), *_products(), *_convolutions(), *_norms(), *_embeddings(), *_without_kernel()]


class _Draw:
    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def __call__(self, *shape: int, scale: float = 1.0) -> Array:
        return (scale * self.rng.standard_normal(shape)).astype(np.float32)


def _activations() -> list[Case]:
    draw = _Draw(0)
    x, bias = draw(2, 5, 8, scale=3), draw(8)
    out = [Case("Gelu", "Gelu", [x]), Case("Gelu half", "Gelu", [x.astype(np.float16)], tolerance=2e-3)]
    out += [Case(f"FastGelu{' bias' * n}", "FastGelu", [x, bias][: 1 + n]) for n in (0, 1)]
    out += [Case(f"QuickGelu {alpha}", "QuickGelu", [x], {"alpha": alpha}) for alpha in (1.0, 1.702)]
    out += [Case("QuickGelu default", "QuickGelu", [x]), Case("BiasGelu", "BiasGelu", [x, bias])]
    out += [
        Case("BiasGelu dynamic", "BiasGelu", [x, bias], constants=frozenset({1}), dynamic=frozenset({(0, 0), (0, 1)})),
    ]
    return out


def _without_kernel() -> list[Case]:
    """What ONNX Runtime has no CPU kernel for, by the formulas of its documentation."""
    draw = _Draw(6)
    x, bias, skip = draw(2, 5, 8), draw(8), draw(2, 5, 8)
    ratio = np.array(0.3, np.float32)
    left, right = np.split(x + bias, 2, axis=-1)
    out = [
        Case("BiasDropout", "BiasDropout", [x, bias], expected=[x + bias]),
        Case("BiasDropout residual", "BiasDropout", [x, bias, skip], expected=[x + bias + skip]),
        Case("BiasDropout mask", "BiasDropout", [x, bias, skip, ratio], outputs=(True, True), expected=[x + bias + skip, np.ones(x.shape, bool)]),
        Case("BiasAdd", "BiasAdd", [x, bias, skip], expected=[x + bias + skip]),
        Case("BiasSplitGelu", "BiasSplitGelu", [x, bias], expected=[left * _gelu(right)]),
    ]  # fmt: skip
    scores = draw(2, 3, 4, 6)
    for axis, inner, shape in (
        (3, 1, (2, 1, 1, 6)),
        (3, 0, (1, 1, 4, 6)),
        (3, 0, (4, 6)),
        (2, 0, (1, 1, 4, 6)),
        (1, 0, (3, 4, 6)),
        (-1, 1, (2, 1, 1, 6)),
    ):
        attributes = {"axis": axis, "is_inner_broadcast": inner}
        added = draw(*shape)
        flat = (scores + added).reshape(*scores.shape[:axis], -1)
        want = _softmax(flat).reshape(scores.shape)
        name = f"BiasSoftmax {axis} {inner} {shape}"
        out.append(Case(name, "BiasSoftmax", [scores, added], attributes, expected=[want]))
    return [*out, *_nhwc_convolutions(), *_groups()]


def _gelu(x: Array) -> Array:
    return (0.5 * x * (1 + np.array([math.erf(v / math.sqrt(2)) for v in x.flat]).reshape(x.shape))).astype(np.float32)


def _softmax(x: Array) -> Array:
    raised = np.exp(x - x.max(-1, keepdims=True))
    return raised / raised.sum(-1, keepdims=True)


def _nhwc_convolutions() -> list[Case]:
    draw = _Draw(7)
    x, w, b, z = draw(2, 5, 6, 4), draw(3, 4, 1, 1), draw(3), draw(2, 5, 6, 3)
    plain = np.einsum("nhwc,mc->nhwm", x, w[:, :, 0, 0])
    weights = frozenset({1, 2})
    relu, nothing = {"activation": "Relu"}, np.float32(0)
    # As onnxruntime.transformers writes NhwcConv for GPUs, its weights have channels last too.
    last, cube = np.ascontiguousarray(w.transpose(0, 2, 3, 1)), draw(2, 3, 3, 3)
    windows = np.lib.stride_tricks.sliding_window_view(x[..., :3], (3, 3), (1, 2))
    wide = np.einsum("nhwcij,mijc->nhwm", windows, cube)
    three = np.ascontiguousarray(x[..., :3])
    return [
        Case("NhwcConv", "NhwcConv", [x, last], expected=[plain], constants=weights),
        Case("NhwcConv bias", "NhwcConv", [x, last, b], {"kernel_shape": [1, 1]}, expected=[plain + b], constants=weights),
        Case("NhwcConv of three by three by three", "NhwcConv", [three, cube], {"kernel_shape": [3, 3]}, expected=[wide], constants=weights),
        Case("NhwcConv weights given", "NhwcConv", [x, last], expected=[plain]),
        Case("NhwcFusedConv", "NhwcFusedConv", [x, w, b], relu, expected=[np.maximum(plain + b, nothing)], constants=weights),
        Case("NhwcFusedConv Z", "NhwcFusedConv", [x, w, b, z], relu, expected=[np.maximum(plain + b + z, nothing)], constants=weights),
        Case("NhwcFusedConv Z without bias", "NhwcFusedConv", [x, w, None, z], relu, expected=[np.maximum(plain + z, nothing)], constants=weights),
    ]  # fmt: skip


def _products() -> list[Case]:
    draw = _Draw(1)
    out = []
    for a in (0, 1):
        for b in (0, 1):
            p = draw(2, 3, 6, 4) if a else draw(2, 3, 4, 6)
            q = draw(2, 3, 5, 6) if b else draw(2, 3, 6, 5)
            flags = {"transA": a, "transB": b, "alpha": 0.25}
            out.append(Case(f"FusedMatMul {a}{b}", "FusedMatMul", [p, q], flags))
            weight = draw(5, 6) if b else draw(6, 5)
            out.append(Case(f"FusedMatMul {a}{b} weights", "FusedMatMul", [p, weight], flags, constants=frozenset({1})))
            out.append(Case(f"TransposeMatMul {a}{b}", "TransposeMatMul", [p, q], flags))
            for activation in ("Relu", "Sigmoid", "LeakyRelu"):
                x, w = draw(6, 4) if a else draw(4, 6), draw(5, 6) if b else draw(6, 5)
                more = {
                    "activation": activation,
                    "activation_alpha": 0.1,
                    "transA": a,
                    "transB": b,
                    "alpha": 0.5,
                    "beta": 2.0,
                }
                out.append(
                    Case(
                        f"FusedGemm {a}{b} {activation}",
                        "FusedGemm",
                        [x, w, draw(5)],
                        more,
                        constants=frozenset({1, 2}),
                    )
                )
    for batch_a, batch_b in ((0, 1), (1, 0), (1, 1)):
        p = draw(4, 2, 3, 6) if batch_a else draw(2, 3, 4, 6)
        q = draw(6, 2, 3, 5) if batch_b else draw(2, 3, 6, 5)
        flags = {"transBatchA": batch_a, "transBatchB": batch_b}
        out.append(Case(f"FusedMatMul batches {batch_a}{batch_b}", "FusedMatMul", [p, q], flags))
        p = draw(6, 2, 3, 4) if batch_a else draw(2, 3, 6, 4)
        q = draw(5, 2, 3, 6) if batch_b else draw(2, 3, 5, 6)
        flags = {**flags, "transA": 1, "transB": 1}
        out.append(Case(f"FusedMatMul batches {batch_a}{batch_b} turned", "FusedMatMul", [p, q], flags))
    x, w, c = draw(4, 6), draw(6, 5), draw(4, 5)
    numbers: dict[str, dict[str, float]] = {
        "Tanh": {}, "HardSigmoid": {"alpha": 0.3, "beta": 0.4}, "Elu": {"alpha": 0.7}, "Softplus": {}, "Softsign": {},
        "ThresholdedRelu": {"alpha": 0.4}, "LeakyRelu": {"alpha": 0.2}, "Celu": {"alpha": 0.8}, "Selu": {"alpha": 1.5, "gamma": 1.1},
    }  # fmt: skip
    for name, given in numbers.items():
        attributes = {"activation": name, **{f"activation_{key}": value for key, value in given.items()}}
        out.append(Case(f"FusedGemm {name}", "FusedGemm", [x, w, c], attributes))
    out.append(Case("FusedGemm no bias", "FusedGemm", [x, w], {"activation": "Relu"}))
    return out


def _convolutions() -> list[Case]:
    draw = _Draw(2)
    x, w, b, z = draw(2, 4, 8, 8), draw(6, 4, 3, 3, scale=0.3), draw(6), draw(2, 6, 8, 8)
    pads: dict[str, Any] = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    activations: dict[str, list[float]] = {
        "Relu": [], "Tanh": [], "Sigmoid": [], "LeakyRelu": [0.1], "Clip": [-0.5, 0.75], "HardSigmoid": [0.2, 0.5],
    }  # fmt: skip
    out = []
    weights = frozenset({1, 2})
    for name, numbers in activations.items():
        extra = {"activation": name, **({"activation_params": numbers} if numbers else {})}
        out.append(Case(f"FusedConv {name}", "FusedConv", [x, w, b], {**pads, **extra}, constants=weights))
        out.append(Case(f"FusedConv {name} Z", "FusedConv", [x, w, b, z], {**pads, **extra}, constants=weights))
    out += [
        Case("FusedConv no bias", "FusedConv", [x, w], {**pads, "activation": "Relu"}, constants=weights),
        Case("FusedConv no bias Z", "FusedConv", [x, w, None, z], {**pads, "activation": "Relu"}, constants=weights),
        Case("FusedConv depthwise", "FusedConv", [x, draw(4, 1, 3, 3), draw(4)], {**pads, "group": 4, "activation": "Clip", "activation_params": [0.0, 6.0]}, constants=weights),
        Case("FusedConv strides", "FusedConv", [x, w, b], {"strides": [2, 2], "auto_pad": "SAME_UPPER", "activation": "Relu"}, constants=weights),
        Case("FusedConv dynamic", "FusedConv", [x, w, b], {**pads, "activation": "Relu"}, constants=weights, dynamic=frozenset({(0, 0)})),
    ]  # fmt: skip
    return out


def _norms() -> list[Case]:
    draw = _Draw(3)
    x, skip, gamma, beta, bias = draw(2, 5, 16), draw(2, 5, 16), draw(16), draw(16), draw(16)
    sums = (True, False, False, True)
    vectors = frozenset({2, 3, 4})
    out = [
        Case("SkipLayerNormalization", "SkipLayerNormalization", [x, skip, gamma, beta], {"epsilon": 1e-5}),
        Case("SkipLayerNormalization bias", "SkipLayerNormalization", [x, skip, gamma, beta, bias], constants=vectors),
        Case("SkipLayerNormalization no beta", "SkipLayerNormalization", [x, skip, gamma]),
        Case("SkipLayerNormalization bias without beta", "SkipLayerNormalization", [x, skip, gamma, None, bias]),
        Case("SkipLayerNormalization sum", "SkipLayerNormalization", [x, skip, gamma, beta, bias], outputs=sums),
        Case("SkipLayerNormalization one skip", "SkipLayerNormalization", [x, skip[:1], gamma, beta], outputs=sums),
        Case("SkipLayerNormalization rank 2 skip", "SkipLayerNormalization", [x, skip[0], gamma, beta]),
        Case("SkipLayerNormalization rank 2", "SkipLayerNormalization", [x[0], skip[0], gamma, beta]),
        Case("SkipLayerNormalization dynamic", "SkipLayerNormalization", [x, skip, gamma, beta, bias], outputs=sums, constants=vectors, dynamic=frozenset({(0, 0), (0, 1), (1, 0), (1, 1)})),
        Case("SkipLayerNormalization half", "SkipLayerNormalization", [v.astype(np.float16) for v in (x, skip, gamma, beta)], tolerance=2e-3),
        Case("SkipSimplifiedLayerNormalization", "SkipSimplifiedLayerNormalization", [x, skip, gamma], {"epsilon": 1e-5}),
        Case("SkipSimplifiedLayerNormalization bias", "SkipSimplifiedLayerNormalization", [x, skip, gamma, bias], outputs=sums),
        Case("SkipSimplifiedLayerNormalization rank 2", "SkipSimplifiedLayerNormalization", [x[0], skip[0], gamma], outputs=sums),
        Case("SkipSimplifiedLayerNormalization half", "SkipSimplifiedLayerNormalization", [v.astype(np.float16) for v in (x, skip, gamma)], tolerance=2e-3),
    ]  # fmt: skip
    for domain in ("", "com.microsoft"):
        if not domain:
            out.append(
                Case(
                    "SimplifiedLayerNormalization",
                    "SimplifiedLayerNormalization",
                    [x, gamma],
                    {"axis": -1, "epsilon": 1e-6},
                    domain=domain,
                )
            )
            out.append(
                Case(
                    "SimplifiedLayerNormalization axis 1",
                    "SimplifiedLayerNormalization",
                    [x, draw(5, 16)],
                    {"axis": 1},
                    domain=domain,
                )
            )
            out.append(
                Case(
                    "SimplifiedLayerNormalization statistics",
                    "SimplifiedLayerNormalization",
                    [x, gamma],
                    domain=domain,
                    outputs=(True, True),
                )
            )
            for opset in (11, 13, 17):
                out.append(
                    Case(
                        f"LayerNormalization opset {opset}",
                        "LayerNormalization",
                        [x, gamma, beta],
                        {"epsilon": 1e-6},
                        domain=domain,
                        opset=opset,
                    )
                )
            out.append(
                Case(
                    "LayerNormalization opset 13, axis 1",
                    "LayerNormalization",
                    [x, draw(5, 16), draw(5, 16)],
                    {"axis": 1},
                    domain=domain,
                    opset=13,
                )
            )
            out.append(
                Case(
                    "LayerNormalization opset 13, statistics",
                    "LayerNormalization",
                    [x, gamma],
                    domain=domain,
                    opset=13,
                    outputs=(True, True, True),
                )
            )
    return out


def _embeddings() -> list[Case]:
    draw = _Draw(4)
    words, places, segments, gamma, beta = draw(30, 8), draw(12, 8), draw(2, 8), draw(8), draw(8)
    ids = draw.rng.integers(0, 30, (2, 6)).astype(np.int32)
    segment = draw.rng.integers(0, 2, (2, 6)).astype(np.int32)
    mask = np.array([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]], np.int32)
    positions = draw.rng.integers(0, 12, (2, 6)).astype(np.int32)
    tables = frozenset({2, 3, 4, 5, 6})
    name = "EmbedLayerNormalization"
    every = [ids, segment, words, places, segments, gamma, beta]
    return [
        Case(f"{name} mask", name, [*every, mask], {"epsilon": 1e-12}, (True, True), tables),
        Case(f"{name} no mask", name, every, outputs=(True, True), constants=tables),
        Case(f"{name} sum", name, [*every, mask], outputs=(True, True, True), constants=tables),
        Case(f"{name} positions", name, [*every, mask, positions], outputs=(True, True, True), constants=tables),
        Case(f"{name} no segments", name, [ids, None, words, places, None, gamma, beta], outputs=(True, True), constants=tables),
        Case(f"{name} dynamic", name, [*every, mask], outputs=(True, True), constants=tables, dynamic=frozenset({(k, a) for k in (0, 1, 7) for a in (0, 1)})),
    ]  # fmt: skip


def _groups() -> list[Case]:
    draw = _Draw(5)
    x, gamma, beta, bias = draw(2, 5, 4, 6), draw(6), draw(6), draw(6)
    out = []
    vectors = frozenset({1, 2})
    for last in (1, 0):
        for silu in (0, 1):
            settings = {"groups": 3, "epsilon": 1e-5, "activation": silu, "channels_last": last}
            name = f"{'NHWC' if last else 'NCHW'}{' SiLU' * silu}"

            def given(value: Array, last: int = last) -> Array:
                return value if last else np.ascontiguousarray(np.moveaxis(value, -1, 1))

            want = given(_group_norm(x, gamma, beta, 3, silu))
            out.append(
                Case(
                    f"GroupNorm {name}",
                    "GroupNorm",
                    [given(x), gamma, beta],
                    settings,
                    constants=vectors,
                    expected=[want],
                )
            )
            for label, skip in (
                ("", draw(2, 5, 4, 6)),
                (" a channel", draw(2, 6)),
                (" a channel, rank 4", draw(2, 1, 1, 6)),
            ):
                total = x + (skip.reshape(2, 1, 1, 6) if skip.ndim == 2 else skip) + bias
                want = given(_group_norm(total, gamma, beta, 3, silu))
                inputs = [given(x), gamma, beta, skip if skip.ndim == 2 else given(skip), bias]
                out.append(
                    Case(
                        f"SkipGroupNorm{label} {name}",
                        "SkipGroupNorm",
                        inputs,
                        settings,
                        (True, True),
                        vectors,
                        expected=[want, given(total)],
                    )
                )
    return out


def _group_norm(x: Array, gamma: Array, beta: Array, groups: int, silu: int) -> Array:
    """[N, H, W, C], with channels last."""
    split = x.reshape(*x.shape[:3], groups, -1).astype(np.float64)
    mean, var = split.mean((1, 2, 4), keepdims=True), split.var((1, 2, 4), keepdims=True)
    y = ((split - mean) / np.sqrt(var + 1e-5)).reshape(x.shape) * gamma + beta
    return (y / (1 + np.exp(-y)) if silu else y).astype(np.float32)
