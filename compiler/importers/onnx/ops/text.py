"""Counting n-grams of numbers or strings: TfIdfVectorizer."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import te, tirx

from .._exprs import constant, dims_of, shape_expr
from .._node import Node
from .._registry import op, string_op
from .strings import places_of


def _pool(n: Node) -> tuple[list[tuple[int, ...]], list[int]]:
    """The n-grams that are looked for, and the column of each."""
    starts, columns = n.ints_attr("ngram_counts"), n.ints_attr("ngram_indexes")
    pool = n.ints_attr("pool_int64s") if not n.has_attr("pool_strings") else _numbered(n)[1]
    shortest, longest = n.int_attr("min_gram_length"), n.int_attr("max_gram_length")
    if not 1 <= shortest <= longest <= len(starts):
        raise n.broken(f"has n-grams of {len(starts)} lengths and counts those of length {shortest} to {longest}")
    grams: list[tuple[int, ...]] = []
    kept: list[int] = []
    number = 0
    for size, (start, end) in enumerate(zip(starts, [*starts[1:], len(pool)], strict=True), start=1):
        if not 0 <= start <= end <= len(pool) or (end - start) % size:
            raise n.broken(f"has {end - start} numbers for its {size}-grams")
        for at in range(start, end, size):
            if number >= len(columns) or columns[number] < 0:
                raise n.broken("has n-grams without a column")
            if shortest <= size <= longest:
                grams.append(tuple(pool[at : at + size]))
                kept.append(columns[number])
            number += 1
    if len(set(grams)) != len(grams) or len(set(kept)) != len(kept):
        raise n.refuse("with an n-gram or a column that occurs twice")
    return grams, kept


def _numbered(n: Node) -> tuple[list[str], list[int]]:
    """The words of a pool of strings, each once, and the pool as their numbers."""
    pool = list(n.attr("pool_strings"))
    words = list(dict.fromkeys(pool))
    number = {word: k for k, word in enumerate(words)}
    return words, [number[word] for word in pool]


@string_op("TfIdfVectorizer")
def tf_idf_vectorizer_of_strings(n: Node) -> Any:
    if not n.has_attr("pool_strings"):
        raise n.broken("counts numbers in strings")
    words = n.graph.wrap(places_of(n, n.value(0), _numbered(n)[0]), n.place)
    return tf_idf_vectorizer(n.with_inputs([words]))


@op("TfIdfVectorizer", since=9)
def tf_idf_vectorizer(n: Node) -> Any:
    """[C] or [N, C] -> [columns] or [N, columns]: how often each n-gram occurs, its parts 1 to max_skip_count + 1 apart."""
    mode, skips = n.str_attr("mode"), n.int_attr("max_skip_count")
    if mode not in ("TF", "IDF", "TFIDF") or n.rank(0) not in (1, 2) or skips < 0:
        raise n.broken(f"has mode '{mode}', rank {n.rank(0)} and max_skip_count {skips}")
    grams, columns = _pool(n)
    width = max(n.ints_attr("ngram_indexes")) + 1
    weights = np.asarray(n.attr("weights", []) or [], np.float32)
    if weights.size not in (0, len(n.ints_attr("ngram_indexes"))):
        raise n.broken(f"has {weights.size} weights for {len(n.ints_attr('ngram_indexes'))} n-grams")
    longest = max((len(g) for g in grams), default=1)
    table, lengths = np.zeros((width, longest), np.int64), np.zeros(width, np.int64)
    for gram, column in zip(grams, columns, strict=True):
        table[column, : len(gram)], lengths[column] = gram, len(gram)
    factor = np.ones(width, np.float32)
    if mode != "TF" and weights.size:
        factor[n.ints_attr("ngram_indexes")] = weights  # in the order of the pool, as the n-grams are
    x = n.x(0) if n.rank(0) == 2 else n.reshape(n.x(0), [1, n.shape(0)[0]])

    def body(t: Any, gram: Any, length: Any, weight: Any, shape: Any) -> Any:
        tokens = tirx.Cast("int64", t.shape[1])
        at = te.reduce_axis((0, t.shape[1]), name="at")
        skip = te.reduce_axis((0, skips + 1), name="skip")

        def found(row: Any, column: Any) -> Any:
            size = length(column)
            apart = tirx.Cast("int64", skip.var) + 1
            first = tirx.Cast("int64", at.var)
            # What is of length 1 is not further apart with more skips: it counts once. Length 0: no n-gram has this column.
            hit = tirx.all(size > 0, first + apart * (size - 1) < tokens, tirx.any(size > 1, apart == 1))
            for k in range(longest):
                place = tirx.min(first + apart * k, tokens - 1)
                hit = tirx.all(hit, tirx.any(size <= k, tirx.Cast("int64", t(row, place)) == gram(column, k)))
            return te.sum(
                tirx.Select(hit, tirx.FloatImm("float32", 1.0), tirx.FloatImm("float32", 0.0)), axis=[at, skip]
            )

        count = te.compute(shape, found, name="ngrams")

        def value(row: Any, column: Any) -> Any:
            often = count(row, column)
            if mode == "IDF":
                often = tirx.min(often, tirx.FloatImm("float32", 1.0))
            return often * weight(column)

        return te.compute(shape, value, name="weighted")

    rows = dims_of(x)[0]
    y = n.te(
        body, x, constant(table), constant(lengths), constant(factor), shape_expr([rows, width]), name="ngrams"
    )  # fmt: skip
    return y if n.rank(0) == 2 else n.reshape(y, [width])
