"""What classifiers and regressors of ai.onnx.ml do with their scores: post_transform, and the labels of the classes.

The specification names the transforms and says little of them; where ONNX Runtime and ONNX's reference disagree on a case, it is
refused by its converter.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax, te, tirx
from tvm.script.ir_builder import tirx as T

from maas_rt._strings import encode_strings

from .._exprs import constant, dims_of
from .._node import Node
from .._strings import string_value
from ._loops import imperative, variable
from ._te import elementwise, imm

__all__ = ["DOMAIN", "TRANSFORMS", "Labels", "first_largest", "is_read", "logistic", "rows_of", "transformed"]

DOMAIN = "ai.onnx.ml"
TRANSFORMS = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")  # as TreeEnsemble numbers them
_F = "float32"


def is_read(n: Node, i: int) -> bool:
    """Whether something reads output i."""
    return i < len(n.proto.output) and n.proto.output[i] in n.graph.read


def rows_of(n: Node, kind: str) -> Any:
    """Input 0 as a matrix [N, F] of this type; a vector is one row."""
    if n.rank(0) not in (1, 2):
        raise n.refuse(f"of rank {n.rank(0)}")
    x = n.cast(n.x(0), kind)
    return x if n.rank(0) == 2 else n.reshape(x, [1, *dims_of(x)])


def transformed(n: Node, scores: Any, name: str) -> Any:
    """post_transform of float32 scores [N, C]. PROBIT is an approximation (Winitzki's inverse of erf) in all implementations."""
    if name not in TRANSFORMS:
        raise n.broken(f"has the unknown post_transform '{name}'")
    if name == "NONE":
        return scores
    if name == "SOFTMAX":
        return n.emit(relax.op.nn.softmax(scores, axis=-1))
    if name == "SOFTMAX_ZERO":
        return n.te(_softmax_zero, scores, name="softmax_zero")
    return elementwise(n, logistic if name == "LOGISTIC" else _probit, scores, name=name.lower())


def logistic(v: Any) -> Any:
    one = imm(1, _F)
    small = tirx.exp(imm(0, _F) - tirx.abs(v))
    return tirx.Select(v < imm(0, _F), small, one) / (one + small)


def _probit(v: Any) -> Any:
    one, half = imm(1, _F), imm(0.5, _F)
    x = imm(2, _F) * v - one
    log = tirx.log((one - x) * (one + x))
    scale = np.float32(0.147)  # the constants as ONNX Runtime rounds them: near 0.5 the result hangs on them
    a = imm(np.float32(2) / (np.float32(3.14159) * scale), _F) + half * log
    root = tirx.sqrt(tirx.sqrt(a * a - imm(np.float32(1) / scale, _F) * log) - a)
    return imm(1.41421356, _F) * tirx.Select(x < imm(0, _F), imm(0, _F) - root, root)


def _softmax_zero(scores: Any) -> Any:
    """softmax in which scores of zero stay (nearly) zero and do not count."""
    rows, columns = scores.shape
    k = te.reduce_axis((0, columns), name="k")
    top = te.compute((rows,), lambda r: te.max(scores(r, k), axis=k), name="top")

    def counts(v: Any) -> Any:
        return tirx.any(v > imm(1e-7, _F), v < imm(-1e-7, _F))

    def power(r: Any, c: Any) -> Any:
        v = scores(r, c)
        return tirx.Select(counts(v), tirx.exp(v - top(r)), v * tirx.exp(imm(0, _F) - top(r)))

    powers = te.compute((rows, columns), power, name="powers")
    j = te.reduce_axis((0, columns), name="j")
    total = te.compute(
        (rows,),
        lambda r: te.sum(tirx.Select(counts(scores(r, j)), powers(r, j), imm(0, _F)), axis=j),
        name="total",
    )
    return te.compute((rows, columns), lambda r, c: powers(r, c) / total(r), name="softmax_zero")


def first_largest(n: Node, scores: Any, seen: Any = None) -> Any:
    """int64 [N]: the column of each row's largest score, the first of equals; of those that are `seen` (uint8), if it is given."""

    def body(t: Any, *mask: Any) -> Any:
        rows, columns = t.shape

        def write(*buffers: Any) -> None:
            values, *given, out = buffers
            with T.serial(0, rows) as r:
                best, none = variable("int64"), variable("bool")
                best[0] = imm(0, "int64")
                none[0] = imm(True, "bool")
                with T.serial(0, columns) as c:
                    at = r * columns + c
                    better = tirx.any(none[0], values[at] > values[r * columns + best[0]])
                    if given:
                        better = tirx.all(given[0][at] > imm(0, "uint8"), better)
                    with T.If(better):
                        with T.Then():
                            best[0] = tirx.Cast("int64", c)
                            none[0] = imm(False, "bool")
                out[r] = best[0]

        return imperative([[rows]], ["int64"], [t, *mask], write, "largest")[0]

    return n.te(body, scores, *([] if seen is None else [seen]), name="largest")


class Labels:
    """The labels of a classifier's classes, integers or strings."""

    def __init__(self, n: Node, integers: str) -> None:
        self.n = n
        whole, text = n.ints_attr(integers, []), n.attr("classlabels_strings", [])
        if bool(whole) == bool(text):
            raise n.broken(f"needs either {integers} or classlabels_strings")
        self.count = len(whole or text)
        self._whole, self._texts = whole, text
        self.read = is_read(n, 0)

    def at(self, index: Any) -> Any:
        """The labels at the positions `index` [N]."""
        if not self._whole:
            rows = constant(encode_strings(self._texts))
            return string_value(self.n.emit(relax.op.take(rows, index, axis=0)), self.n.place)
        return self.n.emit(relax.op.take(constant(np.asarray(self._whole, np.int64)), index, axis=0))
