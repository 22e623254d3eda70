"""Cases of what newer language models are written with: experts, gates, convolutions and linear attention with a state, positions of images."""

from __future__ import annotations

from typing import Any

import numpy as np

from .contrib_nodes import Case

__all__ = ["cases"]

BATCH, LENGTH, HEADS, KEY, VALUE = 2, 5, 2, 4, 6
TWO = (True, True)
Array = np.ndarray[Any, Any]


def cases() -> list[Case]:
    rng = np.random.default_rng(50)

    def draw(*shape: int, scale: float = 1.0) -> Any:
        return (scale * rng.standard_normal(shape)).astype(np.float32)

    return [*_gates(draw), *_convolutions(draw), *_linear_attention(draw), *_experts(draw), *_positions(draw, rng)]


def _gates(draw: Any) -> list[Case]:
    x, scale, gate, a = draw(BATCH, LENGTH, 12), draw(4), draw(BATCH, LENGTH, 12), draw(BATCH, LENGTH, HEADS)
    norm = "GatedRMSNorm"
    return [
        Case(norm, norm, [x, scale, gate], expected=[_gated_norm(x, scale, gate * _sigmoid(gate))]),
        Case(f"{norm} sigmoid", norm, [x, scale, gate], {"activation": "sigmoid", "epsilon": 1e-3}, expected=[_gated_norm(x, scale, _sigmoid(gate), 1e-3)]),
        Case("GatedAdd", "GatedAdd", [x, gate, draw(BATCH, LENGTH, 1)]),
        Case("LinearAttentionGate", "LinearAttentionGate", [a, draw(HEADS), draw(HEADS), draw(*a.shape)], outputs=TWO),
        Case("LinearAttentionGate decay", "LinearAttentionGate", [30 * a, draw(HEADS), draw(HEADS)]),
    ]  # fmt: skip


def _convolutions(draw: Any) -> list[Case]:
    name = "CausalConvWithState"
    x, w, b, past = draw(BATCH, 6, LENGTH), draw(6, 1, 3), draw(6), draw(BATCH, 6, 2)
    rows, before = draw(BATCH, LENGTH, 2, 3), draw(BATCH, 2, 2, 3)
    return [
        Case(name, name, [x, w, b, past], {"activation": "silu"}, TWO),
        Case(f"{name} without a past", name, [x, w], outputs=TWO),
        Case(f"{name} step", name, [x[:, :, :1], w, None, past], outputs=TWO),
        Case(f"{name} dilation", name, [x, w, b, draw(BATCH, 6, 4)], {"dilation": 2}, TWO),
        Case(f"{name} channels last", name, [rows, w, b, before], {"channels_last": 1}, TWO),
        Case(f"{name} dynamic", name, [x, w, b, past], {"activation": "silu"}, TWO, dynamic=frozenset({(0, 0), (3, 0), (0, 2)})),
    ]  # fmt: skip


def _linear_attention(draw: Any) -> list[Case]:
    out: list[Case] = []
    for queries, heads in ((HEADS, HEADS), (2 * HEADS, HEADS), (HEADS, 2 * HEADS)):
        q, k = draw(BATCH, LENGTH, queries * KEY), draw(BATCH, LENGTH, heads * KEY, scale=0.5)
        v, past = draw(BATCH, LENGTH, heads * VALUE), draw(BATCH, heads, KEY, VALUE)
        decays = -np.abs(draw(BATCH, LENGTH, heads))
        beta = 1 / (1 + np.exp(-draw(BATCH, LENGTH, heads)))
        base = {"q_num_heads": queries, "kv_num_heads": heads}
        for rule in ("linear", "gated", "delta", "gated_delta"):
            given = [q, k, v, past, decays if "gated" in rule else None, beta if "delta" in rule else None]
            label = f"LinearAttention {rule} {queries} {heads}"
            out.append(Case(label, "LinearAttention", given, {**base, "update_rule": rule}, TWO))
    wide = -np.abs(draw(BATCH, LENGTH, heads * KEY))
    one = {"scale": 1.0, **base}
    open_ = frozenset({(i, a) for i in (0, 1, 2, 4, 5) for a in (0, 1)} | {(3, 0)})
    out += [
        Case("LinearAttention a decay each", "LinearAttention", [q, k, v, None, wide, beta], one, TWO),
        Case("LinearAttention one rate", "LinearAttention", [q, k, v, past, decays, beta[..., :1].copy()], one, TWO),
        Case("LinearAttention dynamic", "LinearAttention", [q, k, v, past, decays, beta], one, TWO, dynamic=open_),
    ]  # fmt: skip
    return out


def _experts(draw: Any) -> list[Case]:
    hidden, inner, experts = 16, 32, 4
    x, logits = draw(BATCH, LENGTH, hidden), draw(BATCH * LENGTH, experts)
    w1, b1 = draw(experts, inner, hidden, scale=0.3), draw(experts, inner)
    w2, b2 = draw(experts, hidden, inner, scale=0.3), draw(experts, hidden)
    wide, wide_bias = draw(experts, 2 * inner, hidden, scale=0.3), draw(experts, 2 * inner)
    known = frozenset({2, 3, 4, 5})
    out = [
        Case(f"MoE {name} {k}", "MoE", [x, logits, w1, b1, w2, b2], {"activation_type": name, "k": k}, constants=known, tolerance=1e-4)
        for name, k in (("relu", 1), ("gelu", 2), ("silu", 2), ("identity", 3))
    ]  # fmt: skip
    swiglu = {"activation_type": "swiglu", "k": 2, "normalize_routing_weights": 1, "swiglu_fusion": 1}
    gpt = {**swiglu, "activation_alpha": 1.702, "activation_beta": 1.0, "swiglu_limit": 1.5}
    rows = [x.reshape(-1, hidden), logits]
    out += [
        Case("MoE normalized", "MoE", [x, logits, w1, None, w2], {"k": 2, "normalize_routing_weights": 1}, constants=known),
        Case("MoE swiglu", "MoE", [x, logits, wide, wide_bias, w2, b2], swiglu, constants=known),
        Case("MoE swiglu with a limit", "MoE", [*rows, wide, wide_bias, w2, b2], gpt, constants=known),
    ]  # fmt: skip
    both = {"activation_type": "swiglu", "k": 2}
    left, right = wide[:, 0::2].copy(), wide[:, 1::2].copy()
    same = Case("", "MoE", [x, logits, wide, None, w2], {**both, "swiglu_fusion": 1})
    beside = np.concatenate([left, right], 1)
    out += [
        Case("MoE swiglu side by side", "MoE", [x, logits, beside, None, w2], {**both, "swiglu_fusion": 2}, oracle=same),
        Case("MoE swiglu of two layers", "MoE", [x, logits, left, None, w2, None, right], both, oracle=same),
    ]  # fmt: skip
    rng = np.random.default_rng(51)
    sizes = ((2 * inner, hidden), (hidden, inner))
    for bits, block, zeros in ((4, 0, False), (8, 0, False), (4, 16, False), (4, 16, True), (8, 16, False)):
        weights = [rng.integers(0, 256, (experts, r, c * bits // 8), np.uint8) for r, c in sizes]
        blocks = [c // block if block else 1 for _, c in sizes]
        scales = [np.abs(draw(experts, r, d, scale=4 / 2**bits)) for (r, _), d in zip(sizes, blocks, strict=True)]
        points: list[Array | None] = []
        if zeros:
            points = [None] * 3
            for (r, _), d in zip(sizes, blocks, strict=True):
                points.append(rng.integers(0, 256, (experts, r, -(-d * bits // 8)), np.uint8))
        shown = scales if block else [s[..., 0] for s in scales]
        given = [x, logits, weights[0], shown[0], wide_bias, weights[1], shown[1], b2, *points]
        how = {**gpt, "expert_weight_bits": bits, **({"block_size": block} if block else {})}
        # ONNX Runtime's kernel for blocks of 8 bits rounds the activations to 8 bits too: what the weights stand for is the oracle.
        floats = [_weights(w, s, bits, c // d) for w, s, (_, c), d in zip(weights, scales, sizes, blocks, strict=True)]
        same = Case("", "MoE", [x, logits, floats[0], wide_bias, floats[1], b2], gpt)
        label = f"QMoE {bits} bits, blocks of {block or 'a row'}{', zero points' if zeros else ''}"
        known = frozenset(range(2, len(given)))
        oracle = same if bits == 8 and block else None
        out.append(Case(label, "QMoE", given, how, constants=known, tolerance=1e-4, oracle=oracle))
    return out


def _weights(packed: Array, scale: Array, bits: int, block: int) -> Array:
    """The numbers that rows of `bits` bits, the first in a byte's lowest, stand for."""
    each = 8 // bits
    parts = [(packed >> (bits * i)) & ((1 << bits) - 1) for i in range(each)]
    numbers = np.stack(parts, -1).reshape(*packed.shape[:-1], -1).astype(np.float32) - (1 << (bits - 1))
    return numbers * np.repeat(scale, block, -1)


def _positions(draw: Any, rng: Any) -> list[Case]:
    heads, depth = 2, 12
    cos, sin = (draw(9, depth // 2) for _ in range(2))
    x = draw(BATCH, LENGTH, heads * depth)
    places = rng.integers(0, 9, (3, BATCH, LENGTH))
    name, out = "MRotaryEmbedding", []
    for layout, sections in ((0, [1, 2, 3]), (1, [2, 2, 2])):
        for turn in (0, 1):
            how = {"mrope_section": sections, "mrope_layout": layout, "interleaved": turn, "num_heads": heads}
            out.append(Case(f"{name} {layout} {turn}", name, [x, places, cos, sin], how))
    first = x.reshape(BATCH, LENGTH, heads, depth).transpose(0, 2, 1, 3).copy()
    out.append(Case(f"{name} heads first", name, [first, places, cos, sin], {"mrope_section": [1, 2, 3]}))
    bias, relative = draw(heads * depth), draw(1, heads, LENGTH, LENGTH)
    given = [x, bias, relative, draw(depth, 8), draw(8), draw(1, heads, 1, 1)]
    want = [_gated_bias(given, heads)]
    out.append(
        Case("GatedRelativePositionBias", "GatedRelativePositionBias", given, {"num_heads": heads}, expected=want)
    )
    ids = np.array([[1, 2, 3, 1, 2], [4, 4, 4, 4, 4]])
    for size in (1, 2, 3, 6):
        how = {"ngram_size": size}
        out.append(Case(f"NGramRepeatBlock {size}", "NGramRepeatBlock", [ids, draw(2, 6)], how))
    return out


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def _gated_norm(x: Array, scale: Array, gate: Array, epsilon: float = 1e-5) -> Array:
    parts = x.reshape(*x.shape[:-1], -1, scale.size)
    norm = parts / np.sqrt((parts**2).mean(-1, keepdims=True) + epsilon) * scale
    return (norm.reshape(x.shape) * gate).astype(np.float32)


def _gated_bias(given: list[Array], heads: int) -> Array:
    """As the operator's document has it."""
    x, bias, relative, w, b, a = given
    batch, length, width = x.shape
    q = (x + bias).reshape(batch, length, heads, width // heads).transpose(0, 2, 1, 3)
    u, r = np.moveaxis(_sigmoid((q @ w + b).reshape(batch, heads, length, 2, -1).sum(-1)), -1, 0)[..., None]
    return ((u * (r * a - 1) + 2) * relative).astype(np.float32)
