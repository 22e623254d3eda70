"""Support vector machines (ai.onnx.ml): SVMRegressor, SVMClassifier. All in float32, as their attributes are."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import relax, te, tirx
from tvm.script.ir_builder import tirx as T

from .._exprs import constant, dims_of, shape_expr
from .._node import Node
from .._registry import op
from ._loops import imperative, variable
from ._scores import DOMAIN, Labels, first_largest, is_read, logistic, rows_of, transformed
from ._te import elementwise, imm

Array = npt.NDArray[Any]
_F = "float32"
_ROUNDS = 100  # of the iteration that couples pairs' probabilities, as in LIBSVM


def _floats(n: Node, name: str) -> Array:
    return np.asarray(n.attr(name, []) or [], np.float32)


def _product(n: Node, x: Any, weights: Array, offset: Array | None = None) -> Any:
    """x [N, F] times weights [F, K], and an offset [K]."""
    n.math.require_same(dims_of(x)[1], weights.shape[0])
    y = n.emit(relax.op.matmul(x, constant(np.ascontiguousarray(weights))))
    return y if offset is None else n.emit(relax.op.add(y, constant(offset.astype(np.float32))))


def _kernels(n: Node, x: Any, vectors: Array) -> Any:
    """The kernel function of each row of x [N, F] and each support vector [V, F]: [N, V]."""
    kind = n.str_attr("kernel_type", "LINEAR")
    if kind == "LINEAR":
        return _product(n, x, vectors.T)
    params = _floats(n, "kernel_params")
    if params.size != 3:
        raise n.broken(f"has {params.size} kernel_params for kernel {kind}, expected gamma, coef0 and degree")
    gamma, shift, degree = (float(p) for p in params)
    if kind == "RBF":
        n.math.require_same(dims_of(x)[1], vectors.shape[1])

        def distances(t: Any, v: Any) -> Any:
            k = te.reduce_axis((0, vectors.shape[1]), name="k")
            shape = (t.shape[0], vectors.shape[0])

            def square(r: Any, c: Any) -> Any:
                gap = t(r, k) - v(c, k)
                return te.sum(gap * gap, axis=k)

            squares = te.compute(shape, square, name="squares")
            return te.compute(shape, lambda r, c: tirx.exp(imm(-gamma, _F) * squares(r, c)), name="rbf")

        return n.te(distances, x, constant(vectors), name="rbf")
    dots = _product(n, x, vectors.T)
    if kind == "SIGMOID":
        return elementwise(n, lambda v: tirx.tanh(imm(gamma, _F) * v + imm(shift, _F)), dots, name="sigmoid")
    if kind != "POLY":
        raise n.broken(f"has the unknown kernel_type '{kind}'")
    if degree != int(degree) or not 0 <= degree <= 16:
        raise n.refuse(f"with a polynomial kernel of degree {degree:g}")

    def power(v: Any) -> Any:
        base = imm(gamma, _F) * v + imm(shift, _F)
        out: Any = imm(1, _F)
        for _ in range(int(degree)):
            out = out * base
        return out

    return elementwise(n, power, dots, name="poly")


@op("SVMRegressor", since=1, domain=DOMAIN)
def svm_regressor(n: Node) -> Any:
    """[N, F] -> [N, 1]"""
    if n.str_attr("post_transform", "NONE") != "NONE":
        raise n.refuse(f"with post_transform {n.str_attr('post_transform')}, which implementations leave out")
    weights, rho = _floats(n, "coefficients"), _floats(n, "rho")
    vectors, count = _floats(n, "support_vectors"), n.int_attr("n_supports", 0)
    if rho.size != 1 or not weights.size or count < 0:
        raise n.broken(f"has {rho.size} numbers in rho and {weights.size} coefficients")
    x = rows_of(n, _F)
    if count:
        if weights.size != count or vectors.size % count:
            raise n.broken(f"has {weights.size} coefficients and {vectors.size} numbers for {count} support vectors")
        x = _kernels(n, x, vectors.reshape(count, -1))
    y = _product(n, x, weights.reshape(-1, 1), rho)
    if not n.flag("one_class"):
        return y
    zero, one = imm(0, _F), imm(1, _F)
    return elementwise(n, lambda v: tirx.Select(v > zero, one, zero - one), y, name="one_class")


@op("SVMClassifier", since=1, domain=DOMAIN)
def svm_classifier(n: Node) -> list[Any]:
    """[N, F] -> (labels [N], scores). The scores are those of the classes with prob_a and prob_b or without support vectors; else
    of the pairs of classes, and [-s, s] for the one pair of two classes."""
    labels, transform = Labels(n, "classlabels_ints"), n.str_attr("post_transform", "NONE")
    sizes = n.ints_attr("vectors_per_class", [])
    if labels.count < 2:
        raise n.refuse("with one class")
    if sum(sizes):
        return _voted(n, labels, transform, sizes)
    weights, rho = _floats(n, "coefficients"), _floats(n, "rho")
    if weights.size % labels.count or not weights.size or rho.size < 1:
        raise n.broken(f"has {weights.size} coefficients and {rho.size} numbers in rho for {labels.count} classes")
    if len(set(rho.tolist())) != 1:
        raise n.refuse("without support vectors, with several numbers in rho")
    if labels.count == 2 and labels.read:
        raise n.refuse("of two classes without support vectors, whose label is read: implementations disagree on it")
    offset = np.full(labels.count, rho[0], np.float32)
    scores = _product(n, rows_of(n, _F), weights.reshape(labels.count, -1).T, offset)
    label = labels.at(first_largest(n, scores)) if labels.read else None
    return [label, transformed(n, scores, transform) if is_read(n, 1) else None]


def _voted(n: Node, labels: Labels, transform: str, sizes: list[int]) -> list[Any]:
    weights, rho, vectors = (_floats(n, name) for name in ("coefficients", "rho", "support_vectors"))
    a, b = _floats(n, "prob_a"), _floats(n, "prob_b")
    count, total = labels.count, sum(sizes)
    pairs = [(i, j) for i in range(count) for j in range(i + 1, count)]
    if len(sizes) != count or min(sizes) < 0 or weights.size != (count - 1) * total or vectors.size % total:
        raise n.broken(f"has {weights.size} coefficients for {count} classes and {total} support vectors")
    if rho.size != len(pairs) or a.size != b.size or a.size not in (0, len(pairs)):
        raise n.broken(f"has {rho.size} numbers in rho, {a.size} in prob_a and {b.size} in prob_b for {count} classes")
    if count == 2 and not a.size and transform != "NONE":
        raise n.refuse(f"of two classes with post_transform {transform}: implementations disagree on it")
    if count == 2 and not a.size and (weights >= 0).all():
        raise n.refuse("of two classes whose coefficients are all positive: implementations disagree on it")
    starts = np.cumsum([0, *sizes])
    spans = [slice(int(s), int(e)) for s, e in pairwise(starts)]
    table = weights.reshape(count - 1, total)
    mixed = np.zeros((total, len(pairs)), np.float32)
    for p, (i, j) in enumerate(pairs):
        mixed[spans[i], p] = table[j - 1, spans[i]]
        mixed[spans[j], p] = table[i, spans[j]]
    scores = _product(n, _kernels(n, rows_of(n, _F), vectors.reshape(total, -1)), mixed, rho)
    label = labels.at(first_largest(n, _votes(n, scores, pairs, count))) if labels.read else None
    if not is_read(n, 1):
        return [label, None]
    if a.size:
        return [label, transformed(n, _coupled(n, scores, a, b, pairs, count), transform)]
    if count > 2:
        return [label, transformed(n, scores, transform)]

    def both(t: Any) -> Any:
        return te.compute((t.shape[0], 2), lambda r, c: tirx.Select(c == 0, -t(r, 0), t(r, 0)), name="both")

    return [label, n.te(both, scores, name="both")]


def _votes(n: Node, scores: Any, pairs: list[tuple[int, int]], count: int) -> Any:
    """int32 [N, count]: how many of its pairs each class won."""
    sides = [constant(np.asarray(side, np.int32)) for side in zip(*pairs, strict=True)]

    def body(t: Any, first: Any, second: Any, extents: Any) -> Any:
        p = te.reduce_axis((0, len(pairs)), name="p")

        def won(r: Any, c: Any) -> Any:
            winner = tirx.Select(t(r, p) > imm(0, _F), first(p), second(p))
            hit = winner == tirx.Cast("int32", c)
            return te.sum(tirx.Select(hit, imm(1, "int32"), imm(0, "int32")), axis=p)

        return te.compute(extents, won, name="votes")

    return n.te(body, scores, *sides, shape_expr([dims_of(scores)[0], count]), name="votes")


def _coupled(n: Node, scores: Any, a: Array, b: Array, pairs: list[tuple[int, int]], count: int) -> Any:
    """Probabilities [N, count] from the pairs' scores: Wu, Lin and Weng, "Probability estimates for multi-class classification by
    pairwise coupling" (2004), the second method, with LIBSVM's rule for stopping."""
    sides = [constant(np.asarray(side, np.int32)) for side in zip(*pairs, strict=True)]
    small = imm(1e-7, _F)
    zero, one = imm(0, _F), imm(1, _F)

    def body(t: Any, first: Any, second: Any, slope: Any, shift: Any) -> list[Any]:
        rows = t.shape[0]

        def write(s: Any, firsts: Any, seconds: Any, slopes: Any, shifts: Any, p: Any, q: Any, qp: Any, r: Any) -> None:
            with T.serial(0, rows) as row:
                base = row * count
                with T.serial(0, len(pairs)) as k:
                    chance = one - logistic(s[row * len(pairs) + k] * slopes[k] + shifts[k])
                    r[firsts[k] * count + seconds[k]] = tirx.min(tirx.max(chance, small), one - small)
                    r[seconds[k] * count + firsts[k]] = one - r[firsts[k] * count + seconds[k]]
                with T.serial(0, count) as i:
                    p[base + i] = imm(1.0 / count, _F)
                    q[i * count + i] = zero
                    with T.serial(0, count) as j:
                        with T.If(i != j):
                            with T.Then():
                                q[i * count + i] = q[i * count + i] + r[j * count + i] * r[j * count + i]
                                q[i * count + j] = zero - r[j * count + i] * r[i * count + j]
                rounds, total, worst = variable("int32"), variable(_F), variable(_F)
                rounds[0] = imm(0, "int32")
                with T.While(rounds[0] < imm(_ROUNDS, "int32")):
                    total[0] = zero
                    with T.serial(0, count) as i:
                        qp[i] = zero
                        with T.serial(0, count) as j:
                            qp[i] = qp[i] + q[i * count + j] * p[base + j]
                        total[0] = total[0] + p[base + i] * qp[i]
                    worst[0] = zero
                    with T.serial(0, count) as i:
                        worst[0] = tirx.max(worst[0], tirx.abs(qp[i] - total[0]))
                    rounds[0] = rounds[0] + imm(1, "int32")
                    with T.If(worst[0] < imm(0.005 / count, _F)):
                        with T.Then():
                            rounds[0] = imm(_ROUNDS, "int32")
                        with T.Else():
                            _step(count, p, base, q, qp, total)

        shapes = [[rows, count], [count, count], [count], [count, count]]
        return imperative(shapes, [_F] * 4, [t, first, second, slope, shift], write, "coupled")

    parts = n.te(body, scores, *sides, constant(a), constant(b), name="coupled")
    return n.emit(parts[0])


def _step(count: int, p: Any, base: Any, q: Any, qp: Any, total: Any) -> None:
    one, two = imm(1, _F), imm(2, _F)
    with T.serial(0, count) as i:
        by, scale = variable(_F), variable(_F)
        own = q[i * count + i]
        by[0] = (total[0] - qp[i]) / own
        scale[0] = one + by[0]
        p[base + i] = p[base + i] + by[0]
        total[0] = (total[0] + by[0] * (by[0] * own + two * qp[i])) / scale[0] / scale[0]
        with T.serial(0, count) as j:
            qp[j] = (qp[j] + by[0] * q[i * count + j]) / scale[0]
            p[base + j] = p[base + j] / scale[0]
