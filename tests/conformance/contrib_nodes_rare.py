"""Cases of what stands beside the fused operators: matrices, distances, ranges, windows, positions, strings."""

from __future__ import annotations

from typing import Any

import numpy as np

from .contrib_nodes import Case

__all__ = ["cases"]


def cases() -> list[Case]:
    rng = np.random.default_rng(20)

    def draw(*shape: int) -> Any:
        return rng.standard_normal(shape).astype(np.float32)

    square = draw(2, 3, 5, 5) + 3 * np.eye(5, dtype=np.float32)
    turned = square[..., ::-1, :].copy()  # pivots off the diagonal
    x, table = draw(2, 3, 6, 7), draw(32, 4)
    size = np.array(9, np.int64)
    ids = rng.integers(0, 32, (2, 5))
    known = frozenset({1, 2})
    out = [
        Case("Inverse", "Inverse", [square], tolerance=1e-4),
        Case("Inverse pivots", "Inverse", [turned], tolerance=1e-4),
        Case("Inverse double", "Inverse", [square.astype(np.float64)], tolerance=1e-10),
        Case("Inverse rank 2", "Inverse", [square[0, 0]], tolerance=1e-4),
        Case("Inverse dynamic", "Inverse", [square], tolerance=1e-4, dynamic=frozenset({(0, 0)})),
        Case("ExpandDims", "ExpandDims", [x, np.array(1, np.int32)], constants=frozenset({1})),
        Case("ExpandDims from the end", "ExpandDims", [x, np.array(-1, np.int32)], constants=frozenset({1})),
        Case("Pad", "Pad", [x, np.array([0, 0, 1, 2, 0, 0, 3, 1]), np.float32([0.5])], {"mode": "constant"}, constants=known),
        Case("Pad reflect", "Pad", [x, np.array([0, 0, 1, 2, 0, 0, 3, 1])], {"mode": "reflect"}, constants=known),
        Case("GatherND", "GatherND", [x, np.array([[0, 1], [1, 2]])]),
        Case("IsAllFinite", "IsAllFinite", [x], expected=[np.array(True)]),
        Case("IsAllFinite NaN", "IsAllFinite", [np.float32([1, np.nan]), x], expected=[np.array(False)]),
        Case("IsAllFinite NaN, infinities only", "IsAllFinite", [np.float32([1, np.nan])], {"isinf_only": 1}, expected=[np.array(True)]),
        Case("TorchEmbedding", "TorchEmbedding", [table, ids], expected=[table[ids]]),
        Case("Unique", "Unique", [np.float32([2, 1, 1, 3, 4, 3])], outputs=(True, True, True)),
        Case("ConvTransposeWithDynamicPads", "ConvTransposeWithDynamicPads", [draw(1, 3, 5, 5), draw(3, 2, 3, 3), np.array([1, 0, 1, 1])], {"strides": [2, 2], "kernel_shape": [3, 3]}, constants=known),
    ]  # fmt: skip
    out += [Case(f"CDist {m}", "CDist", [draw(7, 5), draw(4, 5)], {"metric": m}) for m in ("euclidean", "sqeuclidean")]
    for upper in (0, 1):
        for k in (-1, 0, 2):
            out.append(
                Case(f"Trilu {upper} {k}", "Trilu", [x, np.array(k)], {"upper": upper}, constants=frozenset({1}))
            )
    for mode in ("bilinear", "nearest", "bicubic"):
        grid = rng.uniform(-1.2, 1.2, (2, 4, 5, 2)).astype(np.float32)
        out.append(Case(f"GridSample {mode}", "GridSample", [x, grid], {"mode": mode}))
    for dtype in (np.float32, np.int64):
        limits = [np.array(v, dtype) for v in (1, 11, 3)]
        out.append(Case(f"Range {dtype.__name__}", "Range", limits))
        out.append(Case(f"Range {dtype.__name__} without a step", "Range", limits[:2]))
        out.append(Case(f"Range {dtype.__name__} known", "Range", limits, constants=frozenset({0, 1, 2})))
    stored = table.T.reshape(table.shape)  # column by column, as the transformers optimizer writes it
    for both in (0, 1):
        for furthest in (20, 128):
            how = {"is_bidirectional": both, "max_distance": furthest}
            for label, length in (("", size), (" long", np.array(150))):
                name = f"RelativePositionBias {both} {furthest}{label}"
                want = _position_bias(table, int(length), both, furthest)
                out.append(
                    Case(name, "RelativePositionBias", [stored, length, length], how, constants=known, expected=[want])
                )
            want = _position_bias(table, int(size), both, furthest)
            out.append(
                Case(
                    f"RelativePositionBias {both} {furthest} at run time",
                    "RelativePositionBias",
                    [stored, size, size],
                    how,
                    expected=[want],
                )
            )
    for axis, window, step in ((-1, 3, 2), (2, 2, 1), (1, 1, 1)):
        how = {"dim": axis, "size": window, "step": step}
        out.append(Case(f"UnfoldTensor {axis} {window} {step}", "UnfoldTensor", [x], how))
    return [*out, *_texts()]


def _texts() -> list[Case]:
    texts = np.array([["The quick, brown fox!", "a b"], ["née  Ünal. so? so", "one"]], dtype=object)
    how: dict[str, Any] = {"mark": 0, "pad_value": "#", "mincharnum": 1}
    word, usual = "[a-zA-Z0-9_]+", [" ", "[.]", "\\?", ",", ";", ":", "\\!"]
    out = [
        Case("Tokenizer words", "Tokenizer", [texts], {**how, "tokenexp": word}),
        Case("Tokenizer words of two", "Tokenizer", [texts], {**how, "tokenexp": word, "mincharnum": 2}),
        Case("Tokenizer \\w", "Tokenizer", [texts[:, 0].copy()], {**how, "tokenexp": "\\w+"}),
        Case("Tokenizer separators", "Tokenizer", [texts], {**how, "separators": usual}),
        Case("Tokenizer long padding", "Tokenizer", [texts], {**how, "separators": [" "], "pad_value": "a rather long word, in fact"}),
    ]  # fmt: skip
    words = np.array([["the", "fox", "the", "x"], ["fox", "fox", "the", "fox"]], dtype=object)
    grams = {
        "pool_strings": ["the", "fox", "the", "fox", "fox", "the"],
        "ngram_counts": [0, 2],
        "ngram_indexes": [0, 1, 2, 3],
    }
    for mode in ("TF", "IDF", "TFIDF"):
        more = {
            **grams,
            "mode": mode,
            "min_gram_length": 1,
            "max_gram_length": 2,
            "max_skip_count": 0,
            "weights": [1.0, 2.0, 0.5, 3.0],
        }
        out.append(Case(f"TfIdfVectorizer of strings {mode}", "TfIdfVectorizer", [words], more, domain=""))
    return out


def _position_bias(table: Any, length: int, both: int, furthest: int) -> Any:
    """As transformers' T5 computes it, from its embedding [buckets, heads]."""
    import torch

    buckets = table.shape[0]
    ahead = torch.arange(length)[None] - torch.arange(length)[:, None]
    place = torch.zeros_like(ahead)
    if both:
        buckets //= 2
        place += (ahead > 0) * buckets
        far = ahead.abs()
    else:
        far = -torch.minimum(ahead, torch.zeros_like(ahead))
    exact = buckets // 2
    logs = torch.log(far.float() / exact) / np.log(furthest / exact) * (buckets - exact)
    wide = torch.clamp(exact + torch.where(far > 0, logs, 0.0).to(torch.long), max=buckets - 1)
    place = place + torch.where(far < exact, far, wide)
    return np.ascontiguousarray(table[place.numpy()].transpose(2, 0, 1)[None])
