"""Ensembles of decision trees (ai.onnx.ml): TreeEnsemble, TreeEnsembleRegressor, TreeEnsembleClassifier.

The nodes are tables, one generated function walks them: its code does not grow with the trees. A node's comparison is the set of
outcomes (less, equal, greater, unordered) that go to its true branch; a test of membership is a chain of comparisons with the members.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import numpy_helper
from tvm import te, tirx
from tvm.script.ir_builder import tirx as T

from .._exprs import constant, dims_of, shape_expr
from .._node import Node
from .._registry import op
from ._loops import imperative, variable
from ._scores import DOMAIN, TRANSFORMS, Labels, first_largest, is_read, logistic, rows_of, transformed
from ._te import imm

Array = npt.NDArray[Any]

_LESS, _EQUAL, _GREATER, _UNORDERED = 1, 2, 4, 8
_MODES = ("LEQ", "LT", "GTE", "GT", "EQ", "NEQ", "MEMBER")  # as TreeEnsemble numbers them
_OUTCOMES = {
    "LEQ": _LESS | _EQUAL,
    "LT": _LESS,
    "GTE": _GREATER | _EQUAL,
    "GT": _GREATER,
    "EQ": _EQUAL,
    "NEQ": _LESS | _GREATER | _UNORDERED,  # NaN differs from everything, whatever its track
}
_AGGREGATES = ("AVERAGE", "SUM", "MIN", "MAX")  # as TreeEnsemble numbers them


@dataclass
class _Forest:
    """Node i compares column feature[i] with split[i] and goes on at child[2 i + 1] if the outcome is in outcomes[i], else at child[2 i];
    a leaf, feature[i] < 0, has the weights child[2 i] up to child[2 i + 1]."""

    kind: str
    roots: list[int]
    feature: Array
    split: Array
    outcomes: Array
    child: Array
    target: Array
    weight: Array

    @property
    def leaves(self) -> Array:
        """[leaves, 2]: the ranges of weights."""
        ranges: Array = self.child.reshape(-1, 2)[self.feature < 0]
        return ranges


def _outcomes(mode: str, split: float, missing: bool) -> int:
    allowed = _OUTCOMES[mode]
    if np.isnan(split):  # nothing is ordered with it
        allowed = _LESS | _EQUAL | _GREATER | _UNORDERED if allowed & _UNORDERED else 0
    return allowed | (_UNORDERED if missing else 0)


def _check_trees(n: Node, forest: _Forest) -> None:
    """Every way from a root ends at a leaf."""
    done = [feature < 0 for feature in forest.feature.tolist()]
    entered = [False] * len(done)
    child = forest.child.tolist()
    for root in forest.roots:
        stack = [root]
        while stack:
            at = stack[-1]
            if done[at]:
                stack.pop()
                continue
            entered[at] = True
            ahead = [c for c in child[2 * at : 2 * at + 2] if not done[c]]
            if not ahead:
                done[at] = True
                stack.pop()
            elif entered[ahead[0]]:
                raise n.broken("has a tree with a cycle")
            else:
                stack.append(ahead[0])


def _aggregate(n: Node, forest: _Forest, x: Any, targets: int, how: str) -> tuple[Any, Any]:
    """(scores [N, targets], uint8 [N, targets]: whether a leaf gave a weight for it)."""
    kind = forest.kind
    highest = int(forest.feature.max(initial=-1))
    columns = dims_of(x)[1]
    if isinstance(columns, int):
        if highest >= columns:
            raise n.broken(f"reads column {highest} of {columns}")
    else:
        n.assume(lambda d: d[0] > imm(highest, "int64"), shape_expr([columns]), says=f"has more than {highest} columns")
    if forest.target.size and not 0 <= forest.target.min() <= forest.target.max() < targets:
        raise n.broken(f"has weights for target {forest.target.max()} of {targets}")
    ends = np.asarray(forest.roots, np.int32)
    tables = [
        ends,
        forest.feature,
        forest.split,
        forest.outcomes,
        forest.child,
        _filled(forest.target),
        _filled(forest.weight),
    ]

    def body(t: Any, *rest: Any) -> list[Any]:
        rows, width = t.shape
        trees = len(forest.roots)

        def write(xs: Any, roots: Any, feature: Any, split: Any, outcomes: Any, child: Any, target: Any, weight: Any,
                  scores: Any, seen: Any) -> None:  # fmt: skip
            with T.serial(0, rows * targets) as i:
                scores[i] = imm(0, kind)
                seen[i] = imm(0, "uint8")
            with T.serial(0, rows) as r, T.serial(0, trees) as tree:
                at, value, limit = variable("int32"), variable(kind), variable(kind)
                at[0] = roots[tree]
                with T.While(feature[at[0]] >= imm(0, "int32")):
                    value[0] = xs[r * width + tirx.Cast("int64", feature[at[0]])]
                    limit[0] = split[at[0]]
                    equal_or_unordered = tirx.Select(
                        value[0] == limit[0], imm(_EQUAL, "int32"), imm(_UNORDERED, "int32")
                    )
                    more = tirx.Select(value[0] > limit[0], imm(_GREATER, "int32"), equal_or_unordered)
                    outcome = tirx.Select(value[0] < limit[0], imm(_LESS, "int32"), more)
                    taken = tirx.bitwise_and(outcomes[at[0]], outcome) != imm(0, "int32")
                    at[0] = child[at[0] * 2 + tirx.Cast("int32", taken)]
                with T.serial(0, child[at[0] * 2 + 1] - child[at[0] * 2]) as k:
                    entry = child[at[0] * 2] + k
                    place = r * targets + tirx.Cast("int64", target[entry])
                    if how in ("MIN", "MAX"):
                        better = weight[entry] < scores[place] if how == "MIN" else weight[entry] > scores[place]
                        with T.If(tirx.any(seen[place] == imm(0, "uint8"), better)):
                            with T.Then():
                                scores[place] = weight[entry]
                    else:
                        scores[place] = scores[place] + weight[entry]
                    seen[place] = imm(1, "uint8")

        shape = [rows, targets]
        return imperative([shape, shape], [kind, "uint8"], [t, *rest], write, "trees")

    both = n.te(body, x, *[constant(t) for t in tables], name="trees")
    scores, seen = n.emit(both[0]), n.emit(both[1])
    if how == "AVERAGE":
        count = imm(len(forest.roots), kind)
        scores = n.te(lambda t: te.compute(t.shape, lambda *i: t(*i) / count, name="average"), scores, name="average")
    return scores, seen


def _always_weighted(forest: _Forest, targets: Iterable[int]) -> bool:
    """Whether each target gets a weight in every row: from all leaves of some tree."""
    left = set(targets)
    leaf, child = (forest.feature < 0).tolist(), forest.child.tolist()
    for root in forest.roots:
        common, seen, stack = set(left), {root}, [root]
        while stack and common:
            at = stack.pop()
            if leaf[at]:
                common &= set(forest.target[child[2 * at] : child[2 * at + 1]].tolist())
                continue
            ahead = {*child[2 * at : 2 * at + 2]} - seen
            seen |= ahead
            stack += ahead
        left -= common
    return not left


def _filled(table: Array) -> Array:
    """A table of at least one element: constants have some."""
    return table if table.size else np.zeros(1, table.dtype)


def _sums(n: Node, scores: Any, base: Array, kind: str) -> Any:
    """Scores and the base values, if there are any."""
    if not base.size:
        return scores
    if base.size != dims_of(scores)[1]:
        raise n.refuse(f"with {base.size} base values for {dims_of(scores)[1]} scores")

    def body(t: Any, b: Any) -> Any:
        return te.compute(t.shape, lambda r, c: t(r, c) + b(c), name="based")

    return n.te(body, scores, constant(base.astype(kind)), name="based")


def _regression(n: Node, forest: _Forest, x: Any, targets: int, how: str, transform: str, base: Array, out: str) -> Any:
    if how not in _AGGREGATES:
        raise n.broken(f"has the unknown aggregate_function '{how}'")
    if targets < 1:
        raise n.broken(f"has {targets} targets")
    spans = forest.leaves
    counts = spans[:, 1] - spans[:, 0]
    if targets == 1 and (counts != 1).any():
        raise n.refuse("with a leaf that has not one weight for the one target")
    if targets == 1 and transform not in ("NONE", "PROBIT"):
        raise n.refuse(f"with post_transform {transform} of one target, which implementations leave out")
    if (base.size or how in ("MIN", "MAX")) and not _always_weighted(forest, range(targets)):
        raise n.refuse("with targets that some rows get no weight for, whose value implementations disagree on")
    scores, _ = _aggregate(n, forest, x, targets, how)
    scores = _sums(n, scores, base, forest.kind)
    if transform == "NONE":
        return n.cast(scores, out)
    return n.cast(transformed(n, n.cast(scores, "float32"), transform), out)


# ---- versions 1 to 5 of the regressor and the classifier: trees and nodes by number


def _floats(n: Node, name: str) -> Array:
    """A list of floats, or the tensor that stands for it in float64."""
    if n.has_attr(f"{name}_as_tensor"):
        if n.has_attr(name):
            raise n.broken(f"has both {name} and {name}_as_tensor")
        array = np.asarray(numpy_helper.to_array(n.attr(f"{name}_as_tensor"))).reshape(-1)
        if array.dtype not in (np.float32, np.float64):
            raise n.broken(f"has {name}_as_tensor of {array.dtype}")
        return array
    return np.asarray(n.attr(name, []) or [], np.float32)


def _kind(n: Node, *tables: Array) -> str:
    """float64 for inputs or tables of that type, else float32."""
    double = n.dtype(0) == "float64" or any(t.dtype == np.float64 for t in tables)
    return "float64" if double else "float32"


def _numbered(n: Node, prefix: str, weights: Array, kind: str) -> _Forest:
    """The forest of nodes_* attributes, and of the weights at (prefix_treeids, prefix_nodeids)."""
    names = ("treeids", "nodeids", "featureids", "truenodeids", "falsenodeids")
    trees, nodes, features, yes, no = (n.ints_attr(f"nodes_{name}") for name in names)
    modes, splits = n.attr("nodes_modes"), _floats(n, "nodes_values").astype(kind)
    missing = n.ints_attr("nodes_missing_value_tracks_true", []) or [0] * len(trees)
    count = len(trees)
    if not count or any(len(a) != count for a in (nodes, features, yes, no, modes, splits, missing)):
        raise n.broken("has lists of nodes that are empty or of different lengths")
    number = {key: i for i, key in enumerate(zip(trees, nodes, strict=True))}
    if len(number) != count:
        raise n.broken("has two nodes of one number in a tree")
    ids, at_trees, at_nodes = (n.ints_attr(f"{prefix}_{name}", []) for name in ("ids", "treeids", "nodeids"))
    if not len(ids) == len(at_trees) == len(at_nodes) == len(weights):
        raise n.broken(f"has {prefix} lists of different lengths")
    given: dict[int, list[int]] = {}
    for k, key in enumerate(zip(at_trees, at_nodes, strict=True)):
        if key not in number:
            raise n.broken(f"has a weight at node {key[1]} of tree {key[0]}, which does not exist")
        given.setdefault(number[key], []).append(k)
    roots: list[int] = []
    starts: set[int] = set()
    previous = None
    for i, tree in enumerate(trees):
        if tree != previous and tree in starts:
            raise n.refuse("with the nodes of a tree that do not stand together")
        if tree != previous:
            roots.append(i)
            starts.add(tree)
        previous = tree
    feature, child = np.full(count, -1, np.int32), np.zeros((count, 2), np.int32)
    outcomes = np.zeros(count, np.int32)
    order: list[int] = []  # of the weights: by leaf
    for i, mode in enumerate(modes):
        if mode == "LEAF":
            child[i, 0] = len(order)
            order += given.get(i, [])
            child[i, 1] = len(order)
            continue
        kind_of = mode.removeprefix("BRANCH_")
        if not mode.startswith("BRANCH_") or kind_of not in _OUTCOMES or not 0 <= features[i] < 1 << 31:
            raise n.broken(f"has a node of mode '{mode}' for column {features[i]}")
        for side, ids_of in enumerate((no, yes)):
            if (trees[i], ids_of[i]) not in number:
                raise n.broken(f"goes to node {ids_of[i]} of tree {trees[i]}, which does not exist")
            child[i, side] = number[trees[i], ids_of[i]]
        feature[i], outcomes[i] = features[i], _outcomes(kind_of, float(splits[i]), missing[i] == 1)
    inner = feature >= 0
    if set(roots) & set(child[inner].reshape(-1).tolist()):
        raise n.refuse("with a tree whose first node is not its root")
    splits = np.where(inner & ~np.isnan(splits), splits, 0).astype(kind)
    target = np.asarray([ids[k] for k in order], np.int64)
    if target.size and not 0 <= target.min() <= target.max() < 1 << 31:
        raise n.broken("has a target out of range")
    forest = _Forest(
        kind, roots, feature, splits, outcomes, child.reshape(-1), target.astype(np.int32), weights.astype(kind)[order]
    )  # fmt: skip
    _check_trees(n, forest)
    return forest


@op("TreeEnsembleRegressor", since=[1, 3, 5], domain=DOMAIN)
def tree_ensemble_regressor(n: Node) -> Any:
    """[N, F] -> [N, n_targets]"""
    weights, base = _floats(n, "target_weights"), _floats(n, "base_values")
    kind = _kind(n, weights, base, _floats(n, "nodes_values"))
    forest = _numbered(n, "target", weights, kind)
    how, transform = n.str_attr("aggregate_function", "SUM"), n.str_attr("post_transform", "NONE")
    targets = n.int_attr("n_targets", 1)
    return _regression(n, forest, rows_of(n, kind), targets, how, transform, base, "float32")


@op("TreeEnsembleClassifier", since=[1, 3, 5], domain=DOMAIN)
def tree_ensemble_classifier(n: Node) -> list[Any]:
    """[N, F] -> (labels [N], scores [N, classes]). Two classes whose leaves have weights for class 0 alone: that weight s is the
    second class's; the first has 1 - s where all weights are positive, else -s."""
    weights, base = _floats(n, "class_weights"), _floats(n, "base_values")
    kind = _kind(n, weights, base, _floats(n, "nodes_values"))
    labels, transform = Labels(n, "classlabels_int64s"), n.str_attr("post_transform", "NONE")
    forest = _numbered(n, "class", weights, kind)
    ids = set(n.ints_attr("class_ids", []))
    if labels.count == 2 and len(ids) == 1:
        if ids != {0}:
            raise n.refuse("of two classes with weights for the second alone")
        return _binary(n, forest, labels, bool((weights >= 0).all()), base, transform)
    if labels.count < 2:
        raise n.refuse("with one class")
    scores, seen = _aggregate(n, forest, rows_of(n, kind), labels.count, "SUM")
    if labels.count == 2:
        if base.size or not _always_weighted(forest, range(2)):
            raise n.refuse("of two classes, each with its weights, where some leaves give none or with base values")
        if labels.read:
            raise n.refuse("of two classes, each with its weights, whose label is read: implementations disagree on it")
    scores = _sums(n, scores, base, kind)
    index = first_largest(n, scores, None if base.size else seen) if labels.read else None
    given = transformed(n, n.cast(scores, "float32"), transform) if is_read(n, 1) else None
    return [None if index is None else labels.at(index), given]


def _binary(n: Node, forest: _Forest, labels: Labels, positive: bool, base: Array, transform: str) -> list[Any]:
    if base.size > 1:
        raise n.refuse("of two classes that share one weight, with base values for each")
    if transform != "NONE" and (positive or transform != "LOGISTIC"):
        raise n.refuse(
            f"of two classes that share one weight, with post_transform {transform}"
            + (" where no weight is negative" if positive else "")
            + ": implementations disagree on it"
        )
    kind = forest.kind
    total, _ = _aggregate(n, forest, rows_of(n, kind), 1, "SUM")
    total = _sums(n, total, base, kind)
    limit = imm(0.5 if positive else 0, kind)

    def second(t: Any) -> Any:
        def index(r: Any) -> Any:
            return tirx.Select(t(r, 0) > limit, imm(1, "int64"), imm(0, "int64"))

        return te.compute((t.shape[0],), index, name="label")

    def both(t: Any) -> Any:
        def score(r: Any, c: Any) -> Any:
            s = t(r, 0)
            if positive:
                return tirx.Select(c == 0, imm(1, "float32") - s, s)
            s = tirx.Select(c == 0, imm(0, "float32") - s, s)
            return logistic(s) if transform == "LOGISTIC" else s

        return te.compute((t.shape[0], 2), score, name="scores")

    label = labels.at(n.te(second, total, name="label")) if labels.read else None
    return [label, n.te(both, n.cast(total, "float32"), name="scores") if is_read(n, 1) else None]


# ---- version 5


def _tensor(n: Node, name: str) -> Array:
    return np.asarray(numpy_helper.to_array(n.attr(name))).reshape(-1)


@op("TreeEnsemble", since=5, domain=DOMAIN)
def tree_ensemble(n: Node) -> Any:
    """[N, F] -> [N, n_targets]. float16 is compared and summed up in float32."""
    dtype = n.dtype(0)
    kind = "float64" if dtype == "float64" else "float32"
    how, transform = n.int_attr("aggregate_function", 1), n.int_attr("post_transform", 0)
    if not 0 <= how < len(_AGGREGATES) or not 0 <= transform < len(TRANSFORMS):
        raise n.broken(f"has aggregate_function {how} and post_transform {transform}")
    targets = n.int_attr("n_targets", None) if n.has_attr("n_targets") else 0
    if not targets:
        raise n.refuse("without n_targets")
    forest = _tables(n, kind, np.dtype(dtype))
    empty = np.zeros(0, np.float32)
    return _regression(n, forest, rows_of(n, kind), targets, _AGGREGATES[how], TRANSFORMS[transform], empty, dtype)


def _tables(n: Node, kind: str, dtype: np.dtype[Any]) -> _Forest:
    """The forest of TreeEnsemble's attributes; leaves are numbered behind the nodes."""
    modes, splits, weights = _tensor(n, "nodes_modes"), _tensor(n, "nodes_splits"), _tensor(n, "leaf_weights")
    names = ("featureids", "truenodeids", "falsenodeids", "trueleafs", "falseleafs")
    features, yes, no, yes_leaf, no_leaf = (n.ints_attr(f"nodes_{name}") for name in names)
    missing = n.ints_attr("nodes_missing_value_tracks_true", []) or [0] * len(modes)
    targets, roots = n.ints_attr("leaf_targetids"), n.ints_attr("tree_roots")
    nodes, leaves = len(modes), len(weights)
    if any(len(a) != nodes for a in (splits, features, yes, no, yes_leaf, no_leaf, missing)) or len(targets) != leaves:
        raise n.broken("has lists of nodes or of leaves of different lengths")
    if splits.dtype != dtype or weights.dtype != dtype:
        raise n.broken(f"has splits of {splits.dtype} and weights of {weights.dtype} for inputs of {dtype}")
    if not nodes or not roots or not all(0 <= r < nodes for r in roots):
        raise n.broken("has no nodes, or roots that are none of them")
    if any(not 0 <= m < len(_MODES) for m in modes.tolist()) or any(not 0 <= f < 1 << 31 for f in features):
        raise n.broken("has a node with an unknown mode or a negative column")

    def places(at: Sequence[int], leaf: Sequence[int]) -> list[int]:
        for a, is_leaf in zip(at, leaf, strict=True):
            if not 0 <= a < (leaves if is_leaf else nodes):
                raise n.broken(f"goes to {'leaf' if is_leaf else 'node'} {a}, which does not exist")
        return [a + nodes if is_leaf else a for a, is_leaf in zip(at, leaf, strict=True)]

    left, right = places(no, no_leaf), places(yes, yes_leaf)
    members = _members(n, modes)
    feature, split, outcomes, child = list(features), splits.astype(kind).tolist(), [0] * nodes, []
    for i in range(nodes):
        child.append([left[i], right[i]])
    feature += [-1] * leaves
    split += [0.0] * leaves
    outcomes += [0] * leaves
    child += [[k, k + 1] for k in range(leaves)]
    for i, mode in enumerate(_MODES[m] for m in modes.tolist()):
        if mode != "MEMBER":
            outcomes[i] = _outcomes(mode, split[i], missing[i] == 1)
            continue
        at = i
        for k, member in enumerate(members[i] or [0.0]):
            if k:  # the next of the chain
                child[at][0] = len(feature)
                at = len(feature)
                feature.append(features[i])
                split.append(0.0)
                outcomes.append(0)
                child.append([left[i], right[i]])
            split[at] = member
            outcomes[at] = (_EQUAL if members[i] else 0) | (_UNORDERED if missing[i] == 1 else 0)
    if not all(0 <= t < 1 << 31 for t in targets):
        raise n.broken("has a target out of range")
    numbers = np.asarray(split, kind)
    forest = _Forest(
        kind, roots, np.asarray(feature, np.int32), np.where(np.isnan(numbers), 0, numbers).astype(kind),
        np.asarray(outcomes, np.int32), np.asarray(child, np.int32).reshape(-1), np.asarray(targets, np.int32), weights.astype(kind),
    )  # fmt: skip
    _check_trees(n, forest)
    return forest


def _members(n: Node, modes: Array) -> dict[int, list[float]]:
    """The sets of the nodes that test membership, in the nodes' order; each ends with a NaN."""
    testers = [i for i, m in enumerate(modes.tolist()) if _MODES[m] == "MEMBER"]
    values = _tensor(n, "membership_values").astype(np.float64).tolist() if n.has_attr("membership_values") else []
    sets: list[list[float]] = [[]]
    for value in values:
        if np.isnan(value):
            sets.append([])
        else:
            sets[-1].append(value)
    if sets.pop() or len(sets) != len(testers):
        raise n.broken(f"has membership_values for {len(sets)} sets, {len(testers)} nodes test membership")
    return {i: list(dict.fromkeys(members)) for i, members in zip(testers, sets, strict=True)}
