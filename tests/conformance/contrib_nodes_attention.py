"""Cases of attention: masks in their forms, packed and cached keys and values, rotary positions, grouped queries."""

from __future__ import annotations

from typing import Any

import numpy as np

from .contrib_nodes import Case

__all__ = ["cases"]

Array = np.ndarray[Any, Any]
BATCH, LENGTH, HEADS, DEPTH = 2, 5, 2, 8
HIDDEN = HEADS * DEPTH
PAST = 3
PRESENT = (True, True, True)


def cases() -> list[Case]:
    return [*_attention(), *_multi_head(), *_rotary(), *_group_query(), *_masked_decoder()]


class _Draw:
    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def __call__(self, *shape: int, scale: float = 1.0) -> Array:
        return (scale * self.rng.standard_normal(shape)).astype(np.float32)


def _masks(total: int, length: int = LENGTH) -> dict[str, Array]:
    """Each form of a mask of padding."""
    raw = np.ones((BATCH, total), np.int32)
    raw[0, total - 2 :] = 0
    square = np.tril(np.ones((length, total), np.int32), total - length)
    return {
        "raw": raw,
        "raw, all padding": np.concatenate([np.zeros((1, total), np.int32), raw[:1]]),
        "square": np.stack([square, raw[0] * square]).astype(np.int32),
        "ends": np.array([total - 2, total], np.int32),
        "ends and starts": np.array([total - 1, total, 1, 0], np.int32),
    }


def _attention() -> list[Case]:
    draw = _Draw(10)
    x, w, b = draw(BATCH, LENGTH, 12), draw(12, 3 * HIDDEN, scale=0.3), draw(3 * HIDDEN)
    past = draw(2, BATCH, HEADS, PAST, DEPTH)
    heads = {"num_heads": HEADS}
    weights, both = frozenset({1, 2}), (True, True)
    out = [
        Case("Attention", "Attention", [x, w, b], heads, constants=weights),
        # ONNX Runtime's own kernel crashes without a bias.
        Case("Attention no bias", "Attention", [x, w], heads, constants=weights, oracle=Case("", "Attention", [x, w, 0 * b], heads)),
        Case("Attention weights given", "Attention", [x, w, b], heads),
        Case("Attention unidirectional", "Attention", [x, w, b], {**heads, "unidirectional": 1}, constants=weights),
        Case("Attention scale", "Attention", [x, w, b], {**heads, "scale": 0.5}, constants=weights),
        Case("Attention sizes", "Attention", [x, draw(12, 2 * HIDDEN + 12), draw(2 * HIDDEN + 12)], {**heads, "qkv_hidden_sizes": [HIDDEN, HIDDEN, 12]}, constants=weights),
        Case("Attention half", "Attention", [v.astype(np.float16) for v in (x, w, b)], heads, constants=weights, tolerance=5e-3),
    ]  # fmt: skip
    for name, mask in _masks(LENGTH).items():
        out.append(Case(f"Attention mask {name}", "Attention", [x, w, b, mask], heads, constants=weights))
        if name != "square":
            more = {**heads, "unidirectional": 1, "mask_filter_value": -3000.0}
            out.append(
                Case(f"Attention unidirectional mask {name}", "Attention", [x, w, b, mask], more, constants=weights)
            )
    for one in (0, 1):
        more = {**heads, "unidirectional": one}
        out.append(Case(f"Attention past {one}", "Attention", [x, w, b, None, past], more, both, weights))
        masked = [x, w, b, _masks(PAST + LENGTH)["raw"], past]
        out.append(Case(f"Attention past {one} mask", "Attention", masked, more, both, weights))
    out.append(Case("Attention present", "Attention", [x, w, b], heads, both, weights))
    for shape in ((BATCH, HEADS), (1, HEADS), (BATCH, 1), (1, 1)):
        bias = draw(*shape, LENGTH, LENGTH)
        out.append(Case(f"Attention bias {shape}", "Attention", [x, w, b, None, None, bias], heads, constants=weights))
    mask, bias = _masks(LENGTH)["raw"], draw(1, HEADS, LENGTH, LENGTH)
    out.append(Case("Attention bias and mask", "Attention", [x, w, b, mask, None, bias], heads, constants=weights))
    axes = frozenset({(0, 0), (0, 1), (3, 0), (3, 1)})
    out.append(Case("Attention dynamic", "Attention", [x, w, b, mask], heads, both, weights, axes))
    axes = frozenset({(0, 0), (0, 1), (4, 1), (4, 3)})
    out.append(
        Case(
            "Attention past dynamic",
            "Attention",
            [x, w, b, None, past],
            {**heads, "unidirectional": 1},
            both,
            weights,
            axes,
        )
    )
    return out


def _multi_head() -> list[Case]:
    draw = _Draw(11)
    name, heads, keys = "MultiHeadAttention", {"num_heads": HEADS}, 7
    q, k, v, bias = draw(BATCH, LENGTH, HIDDEN), draw(BATCH, keys, HIDDEN), draw(BATCH, keys, HIDDEN), draw(3 * HIDDEN)
    k5, v5 = draw(BATCH, LENGTH, HIDDEN), draw(BATCH, LENGTH, HIDDEN)
    packed, packed_kv = draw(BATCH, LENGTH, HEADS, 3, DEPTH), draw(BATCH, keys, HEADS, 2, DEPTH)
    split = [packed[:, :, :, j].reshape(BATCH, LENGTH, HIDDEN) for j in range(3)]
    split_kv = [packed_kv[:, :, :, j].reshape(BATCH, keys, HIDDEN) for j in range(2)]
    cached = [draw(BATCH, HEADS, keys, DEPTH) for _ in range(2)]
    past = [draw(BATCH, HEADS, PAST, DEPTH) for _ in range(2)]
    out = [
        Case(f"{name} cross", name, [q, k, v], heads),
        Case(f"{name} self", name, [q, k5, v5], heads),
        Case(f"{name} bias", name, [q, k, v, bias], heads, constants=frozenset({3})),
        Case(f"{name} wide values", name, [q, k, draw(BATCH, keys, 12), draw(2 * HIDDEN + 12)], heads),
        Case(f"{name} scale", name, [q, k, v], {**heads, "scale": 0.25}),
        Case(f"{name} unidirectional", name, [q, k5, v5], {**heads, "unidirectional": 1}),
        Case(f"{name} packed", name, [packed], heads, oracle=Case("", name, split, heads)),
        Case(f"{name} packed, bias", name, [packed, None, None, bias], heads, oracle=Case("", name, [*split, bias], heads)),
        Case(f"{name} packed keys and values", name, [q, packed_kv], heads, oracle=Case("", name, [q, *split_kv], heads)),
        Case(f"{name} cached keys and values", name, [q, *cached], heads),
        Case(f"{name} cached keys and values, bias", name, [q, *cached, bias], heads),
        Case(f"{name} present", name, [q, k5, v5], heads, PRESENT),
        Case(f"{name} past", name, [q, k5, v5, None, None, None, *past], heads, PRESENT),
        Case(f"{name} past, bias", name, [q, k5, v5, bias, None, None, *past], heads, PRESENT),
        Case(f"{name} past, unidirectional", name, [q, k5, v5, None, None, None, *past], {**heads, "unidirectional": 1}, PRESENT),
        Case(f"{name} products", name, [q, k5, v5, bias], heads, (True, False, False, True), floats=frozenset({3})),
        Case(f"{name} products, mask", name, [q, k, v, bias, _masks(keys)["raw"]], heads, (True, False, False, True), floats=frozenset({3})),
    ]  # fmt: skip
    for label, mask in _masks(keys).items():
        if label != "ends and starts":
            out.append(Case(f"{name} mask {label}", name, [q, k, v, None, mask], heads))
    for shape in ((BATCH, HEADS), (1, HEADS), (BATCH, 1), (1, 1)):
        out.append(
            Case(f"{name} attention bias {shape}", name, [q, k, v, None, None, draw(*shape, LENGTH, keys)], heads)
        )
    masked = [q, k5, v5, bias, _masks(PAST + LENGTH)["raw"], draw(1, HEADS, LENGTH, PAST + LENGTH), *past]
    out.append(Case(f"{name} everything", name, masked, heads, PRESENT))
    axes = frozenset({(i, a) for i in (0, 1, 2) for a in (0, 1)})
    out.append(Case(f"{name} dynamic", name, [q, k5, v5, bias], heads, constants=frozenset({3}), dynamic=axes))
    axes |= {(i, a) for i in (6, 7) for a in (0, 2)}
    out.append(Case(f"{name} past dynamic", name, [q, k5, v5, None, None, None, *past], heads, PRESENT, dynamic=axes))
    return out


def _tables(half: int, rows: int = 16) -> list[Array]:
    angles = np.arange(rows)[:, None] / 10.0 ** (np.arange(half) / half)
    return [np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)]


def _rotary() -> list[Case]:
    draw = _Draw(12)
    name, tables = "RotaryEmbedding", _tables(DEPTH // 2)
    x, x4 = draw(BATCH, LENGTH, HIDDEN), draw(BATCH, HEADS, LENGTH, DEPTH)
    first = np.array([4], np.int64)
    each = draw.rng.integers(0, 16, (BATCH, LENGTH)).astype(np.int64)
    out = []
    for interleaved in (0, 1):
        how = {"interleaved": interleaved}
        for label, data in (("rank 3", x), ("rank 4", x4)):
            for kind, positions in (("first", first), ("each", each)):
                out.append(Case(f"{name} {label} {kind} {interleaved}", name, [data, positions, *tables], how))
        part = {**how, "rotary_embedding_dim": 4, "num_heads": HEADS}
        out.append(Case(f"{name} part {interleaved}", name, [x, each, *_tables(2)], part))
        out.append(Case(f"{name} part rank 4 {interleaved}", name, [x4, each, *_tables(2)], part))
    out.append(Case(f"{name} scale", name, [x, each, *tables], {"scale": 2.0}))
    axes = frozenset({(0, 0), (0, 1), (1, 0), (1, 1)})
    out.append(Case(f"{name} dynamic", name, [x, each, *tables], constants=frozenset({2, 3}), dynamic=axes))
    return out


def _group_query() -> list[Case]:
    draw, depth = _Draw(13), 16  # ONNX Runtime rotates no others
    name, groups, heads = "GroupQueryAttention", 2, 4
    attributes: dict[str, Any] = {"num_heads": heads, "kv_num_heads": groups}
    tables = _tables(depth // 2)
    past = [draw(BATCH, groups, PAST, depth) for _ in range(2)]
    buffers = [draw(BATCH, groups, 12, depth) for _ in range(2)]

    def new(length: int) -> list[Array]:
        return [draw(BATCH, length, h * depth) for h in (heads, groups, groups)]

    def lengths(*totals: int) -> list[Array]:
        return [np.array(totals, np.int32) - 1, np.array(max(totals), np.int32)]

    none = [draw(BATCH, groups, 0, depth)] * 2
    wide = [draw(BATCH, LENGTH, h * 2 * depth) for h in (heads, groups, groups)]
    prompt, step, more = new(LENGTH), new(1), new(LENGTH)
    whole, grown = lengths(LENGTH, LENGTH), lengths(PAST + 1, PAST + 1)
    packed = draw(BATCH, LENGTH, (heads + 2 * groups) * depth)
    sink = draw(heads)
    turned = {**attributes, "do_rotary": 1}
    each = np.arange(LENGTH)[None] + np.array([[0], [2]])
    out = [
        Case(f"{name} prompt", name, [*prompt, None, None, *whole], attributes, PRESENT),
        Case(f"{name} prompt, empty past", name, [*prompt, *none, *whole], attributes, PRESENT),
        Case(f"{name} prompt, packed", name, [packed, None, None, None, None, *whole], attributes, PRESENT),
        Case(f"{name} prompt, packed, rotary", name, [packed, None, None, None, None, *whole, *tables], turned, PRESENT),
        Case(f"{name} prompt, rotary", name, [*prompt, None, None, *whole, *tables], turned, PRESENT),
        Case(f"{name} prompt, rotary interleaved", name, [*prompt, None, None, *whole, *tables], {**turned, "rotary_interleaved": 1}, PRESENT),
        Case(f"{name} prompt, rotary part", name, [*wide, None, None, *whole, *tables], turned, PRESENT),
        Case(f"{name} prompt, positions", name, [*prompt, None, None, *whole, *tables, each], turned, PRESENT),
        Case(f"{name} prompt in buffer", name, [*prompt, *buffers, *whole], attributes, PRESENT),
        Case(f"{name} step", name, [*step, *past, *grown], attributes, PRESENT),
        Case(f"{name} step, rotary", name, [*step, *past, *grown, *tables], turned, PRESENT),
        Case(f"{name} step, positions", name, [*step, *past, *grown, *tables, np.array([[3], [3]])], turned, PRESENT),
        Case(f"{name} step in buffer", name, [*step, *buffers, *grown, *tables], turned, PRESENT),
        Case(f"{name} step, other lengths", name, [*step, *buffers, *lengths(4, 7), *tables], turned, PRESENT),
        Case(f"{name} second prompt", name, [*(x[:1] for x in (*more, *past)), *(x[:1] for x in lengths(PAST + LENGTH)[:1]), np.array(PAST + LENGTH, np.int32), *tables], turned, PRESENT),
        Case(f"{name} second prompt, positions", name, [*(x[:1] for x in (*more, *past)), *(x[:1] for x in lengths(PAST + LENGTH)[:1]), np.array(PAST + LENGTH, np.int32), *tables, each[1:] + 1], turned, PRESENT),
        Case(f"{name} scale", name, [*prompt, None, None, *whole], {**attributes, "scale": 0.2}, PRESENT),
        Case(f"{name} softcap", name, [*prompt, None, None, *whole], {**attributes, "softcap": 1.5}, PRESENT),
        Case(f"{name} softcap, step", name, [*step, *past, *grown], {**attributes, "softcap": 1.5}, PRESENT),
        Case(f"{name} smooth", name, [*prompt, None, None, *whole], {**attributes, "smooth_softmax": 1}, PRESENT),
        Case(f"{name} sink", name, [*prompt, None, None, *whole, None, None, None, None, sink], attributes, PRESENT),
        Case(f"{name} bias", name, [*prompt, None, None, *whole, None, None, None, draw(1, heads, LENGTH, LENGTH)], attributes, PRESENT),
        Case(f"{name} bias, step", name, [*step, *past, *grown, None, None, None, draw(BATCH, 1, 1, PAST + 1)], attributes, PRESENT),
        Case(f"{name} softcap and bias", name, [*prompt, None, None, *whole, None, None, None, draw(1, heads, LENGTH, LENGTH)], {**attributes, "softcap": 1.5}, PRESENT),
        Case(f"{name} bidirectional", name, [*prompt, None, None, *whole], {**attributes, "causal": 0}, PRESENT),
        Case(f"{name} products before", name, [*prompt, None, None, *whole], {**attributes, "qk_output": 1}, (*PRESENT, True)),
        Case(f"{name} products before, bias", name, [*prompt, None, None, *whole, None, None, None, draw(1, heads, LENGTH, LENGTH)], {**attributes, "qk_output": 1, "softcap": 2.0}, (*PRESENT, True)),
        Case(f"{name} products after", name, [*prompt, None, None, *whole], {**attributes, "qk_output": 2}, (*PRESENT, True)),
        Case(f"{name} half", name, [*[x.astype(np.float16) for x in prompt], None, None, *whole], attributes, PRESENT, tolerance=5e-3),
    ]  # fmt: skip
    for window in (2, 3, 8):
        local = {**turned, "local_window_size": window}
        out.append(Case(f"{name} window {window}", name, [*prompt, None, None, *whole, *tables], local, PRESENT))
        out.append(Case(f"{name} window {window}, step", name, [*step, *past, *grown, *tables], local, PRESENT))
    slide = {**turned, "sliding_window_cache": 1, "local_window_size": 4}
    window = [draw(BATCH, groups, 6, depth) for _ in range(2)]
    for total in (6, 9, 12):  # those that fill it: what is behind the rows that count is not defined
        out.append(
            Case(
                f"{name} window cache, step to {total}",
                name,
                [*step, *window, *lengths(total, total), *tables],
                slide,
                PRESENT,
            )
        )
    for count in (6, 9):
        first = new(count)
        out.append(
            Case(
                f"{name} window cache, prompt of {count}",
                name,
                [*first, *window, *lengths(count, count), *tables],
                slide,
                PRESENT,
            )
        )
    axes = frozenset({(i, 1) for i in range(3)} | {(3, 2), (4, 2)})
    tables_known = frozenset({7, 8})
    out.append(
        Case(f"{name} dynamic prompt", name, [*prompt, *none, *whole, *tables], turned, PRESENT, tables_known, axes)
    )
    out.append(Case(f"{name} dynamic step", name, [*step, *past, *grown, *tables], turned, PRESENT, tables_known, axes))
    return out


def _masked_decoder() -> list[Case]:
    draw = _Draw(14)
    name, heads = "DecoderMaskedMultiHeadAttention", {"num_heads": HEADS}
    q, k, v, bias = draw(BATCH, 1, HIDDEN), draw(BATCH, 1, HIDDEN), draw(BATCH, 1, HIDDEN), draw(3 * HIDDEN)
    cached = [draw(BATCH, HEADS, 6, DEPTH) for _ in range(2)]
    buffers = [draw(BATCH, HEADS, 8, DEPTH) for _ in range(2)]
    past = [np.ascontiguousarray(b[:, :, :PAST]) for b in buffers]
    mask = _masks(PAST + 1, 1)["raw"]
    shared = {**heads, "past_present_share_buffer": 1}
    length = np.array([PAST], np.int32)
    rest = [None, None, None, None, None]
    same = Case("", "MultiHeadAttention", [q, k, v, bias, mask, None, *past], heads, PRESENT)
    return [
        Case(f"{name} self", name, [q, k, v, mask, None, *past, None, None, None, bias], heads, PRESENT, oracle=same),
        Case(f"{name} buffer", name, [q, k, v, None, None, *buffers, length], shared, PRESENT),
        Case(f"{name} buffer, mask", name, [q, k, v, mask, None, *buffers, length], shared, PRESENT),
        Case(f"{name} buffer, bias", name, [q, k, v, None, None, *buffers, length, None, None, bias], shared, PRESENT),
        Case(f"{name} cross", name, [q, *cached], heads),
        Case(f"{name} cross, mask", name, [q, *cached, _masks(6, 1)["raw"]], heads),
        Case(f"{name} cross, bias", name, [q, *cached, None, None, *rest, bias], heads),
    ]  # fmt: skip
