"""Classical machine learning from ONNX (ai.onnx.ml) against ONNX Runtime and ONNX's reference: trees, vectors, linear models, encoders."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from maas_rt.compiler import compile as compile_model
from maas_rt.compiler.importers.onnx import import_onnx
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

import maas_rt
from tests.compiler._imported_oracle import run_imported

F, D, I32, I64, TEXT = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT32, TensorProto.INT64, TensorProto.STRING)
NUMPY = {F: np.float32, D: np.float64, I32: np.int32, I64: np.int64}
MODES = ["BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ"]


def node(op: str, inputs: str, outputs: str, domain: str = "ai.onnx.ml", **attributes: Any) -> Any:
    return helper.make_node(op, inputs.split(), outputs.split(), domain=domain, **attributes)


def model(
    nodes: list[Any], inputs: dict[str, tuple[int, list[Any]]], outputs: dict[str, int], version: int = 3
) -> onnx.ModelProto:
    """A model whose outputs have a type, no shape."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(name, kind, dims) for name, (kind, dims) in inputs.items()],
        [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs.items()],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", version)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def check(proto: onnx.ModelProto, inputs: dict[str, Any], *, compiled: bool = False, reference: bool = False) -> None:
    """Import and run (in TVM's machine, or compiled), compare with ONNX Runtime or with ONNX's reference."""
    names = [o.name for o in proto.graph.output]
    if reference:
        results = ReferenceEvaluator(proto).run(None, inputs)
    else:
        results = onnxruntime.InferenceSession(proto.SerializeToString()).run(None, inputs)
    given = {k: maas_rt.encode_strings(v) if v.dtype == object else v for k, v in inputs.items()}
    if compiled:
        found = maas_rt.load(compile_model(proto, verify=False).to_bytes(), threads=1).run(given)
    else:
        found = run_imported(import_onnx(proto), given)
    for name, want in zip(names, results, strict=True):
        got = found[name]
        if isinstance(want, list):  # of maps, whose keys ONNX Runtime sorts
            want = np.array([list(row.values()) for row in want], np.float32)
        if want.dtype.kind in "OU":
            assert maas_rt.decode_strings(got).tolist() == want.tolist(), name
            continue
        assert (got.dtype, got.shape) == (want.dtype, want.shape), name
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6, err_msg=name)


def refuses(proto: onnx.ModelProto, match: str) -> None:
    with pytest.raises(maas_rt.UnsupportedOperatorError, match=match):
        import_onnx(proto)


def numbers(rng: Any, *shape: int, dtype: Any = np.float32) -> Any:
    """Normal numbers, some of them whole, some NaN where the type has it."""
    x = rng.standard_normal(shape)
    x = np.where(rng.random(shape) < 0.4, np.round(x), x)
    if np.dtype(dtype).kind == "f":
        return np.where(rng.random(shape) < 0.15, np.nan, x).astype(dtype)
    return np.round(x).astype(dtype)


# ---- trees


def forest(
    rng: Any, kind: str, ids: list[int], *, trees: int = 4, modes: list[str] = MODES, depth: int = 3, **how: Any
) -> dict[str, Any]:
    """Random trees over 4 columns; every leaf has a weight for each of ids (or tree k for the k-th, with `turns`)."""
    nodes: dict[str, list[Any]] = {
        f"nodes_{key}": []
        for key in ("treeids", "nodeids", "featureids", "modes", "values", "truenodeids", "falsenodeids")
    }
    nodes["nodes_missing_value_tracks_true"] = []
    leaves: dict[str, list[Any]] = {f"{kind}_{key}": [] for key in ("treeids", "nodeids", "ids", "weights")}
    for tree, at in ((tree, at) for tree in range(trees) for at in range(2 ** (depth + 1) - 1)):
        leaf = at >= 2**depth - 1
        split = float(np.float32(rng.choice([-1.0, 0.0, 1.0, rng.standard_normal()])))
        mode, ahead = ("LEAF", (0, 0)) if leaf else (str(rng.choice(modes)), (2 * at + 1, 2 * at + 2))
        row = [tree, at, int(rng.integers(4)), mode, split, *ahead, 0 if leaf else int(rng.integers(2))]
        for key, value in zip(nodes, row, strict=True):
            nodes[key].append(value)
        for target in ([ids[tree % len(ids)]] if how.get("turns") else ids) if leaf else []:
            weight = float(np.float32(rng.standard_normal()))
            row = [tree, at, target, abs(weight) if how.get("positive") else weight]
            for key, value in zip(leaves, row, strict=True):
                leaves[key].append(value)
    out = {**nodes, **leaves}
    if how.get("double"):
        for key in ("nodes_values", f"{kind}_weights"):
            values = out.pop(key)
            out[f"{key}_as_tensor"] = helper.make_tensor(key, D, [len(values)], [v + 1e-12 for v in values])
    return out


def regressor(attributes: dict[str, Any], targets: int, kind: int = F, **more: Any) -> onnx.ModelProto:
    made = node("TreeEnsembleRegressor", "x", "y", n_targets=targets, **attributes, **more)
    return model([made], {"x": (kind, ["n", 4])}, {"y": F})


def test_trees_of_each_mode_with_missing_values() -> None:
    rng = np.random.default_rng(0)
    nodes = [
        node("TreeEnsembleRegressor", "x", f"y{k}", n_targets=2, **forest(rng, "target", [0, 1], modes=modes))
        for k, modes in enumerate([*([mode] for mode in MODES), MODES])
    ]
    proto = model(nodes, {"x": (F, ["n", 4])}, {f"y{k}": F for k in range(len(nodes))})
    x = numbers(rng, 70, 4)
    check(proto, {"x": x})
    check(proto, {"x": x[:1]}, compiled=True)


def test_trees_whose_nan_goes_where_the_comparison_says() -> None:
    # A threshold of NaN is neither met nor missed by order; only BRANCH_NEQ is true of it.
    rng = np.random.default_rng(1)
    attributes = forest(rng, "target", [0, 1])
    attributes["nodes_values"] = [float("nan") if k % 3 == 0 else v for k, v in enumerate(attributes["nodes_values"])]
    check(regressor(attributes, 2), {"x": numbers(rng, 60, 4)}, compiled=True)


def test_aggregates_base_values_and_transforms() -> None:
    rng = np.random.default_rng(2)
    nodes = []
    for how in ("SUM", "AVERAGE", "MIN", "MAX"):
        for ids, transforms in (([0], ["NONE"]), ([0, 1, 2], ["NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO"])):
            for transform in transforms:
                base = {} if transform == "LOGISTIC" else {"base_values": [0.25] * len(ids)}
                more = {"aggregate_function": how, "post_transform": transform, "n_targets": len(ids), **base}
                nodes.append(node("TreeEnsembleRegressor", "x", f"y{len(nodes)}", **forest(rng, "target", ids), **more))
    proto = model(nodes, {"x": (F, ["n", 4])}, {f"y{k}": F for k in range(len(nodes))})
    check(proto, {"x": numbers(rng, 40, 4)})


def test_double_tables_are_compared_in_double() -> None:
    rng = np.random.default_rng(3)
    attributes = forest(rng, "target", [0, 1], double=True, modes=["BRANCH_LEQ", "BRANCH_EQ"])
    x = numbers(rng, 60, 4, dtype=np.float64) + 1e-12  # in float32 these are the thresholds without the 1e-12
    check(regressor(attributes, 2, D), {"x": x})


def test_what_trees_are_refused_or_broken() -> None:
    rng = np.random.default_rng(4)
    one = forest(rng, "target", [0])
    refuses(regressor(one, 1, post_transform="LOGISTIC"), "LOGISTIC of one target")
    refuses(regressor(forest(rng, "target", [0, 1], turns=True, trees=1), 2, base_values=[1.0, 1.0]), "no weight")
    both = node("TreeEnsembleClassifier", "x", "y z", classlabels_int64s=[0, 1], **forest(rng, "class", [0, 1]))
    refuses(model([both], {"x": (F, ["n", 4])}, {"y": I64, "z": F}), "label is read")
    check(model([both], {"x": (F, ["n", 4])}, {"z": F}), {"x": numbers(rng, 9, 4)})
    for change, match in (
        ({"nodes_truenodeids": [1 if v == 3 else v for v in one["nodes_truenodeids"]]}, "cycle"),
        ({"nodes_featureids": [9] * len(one["nodes_featureids"])}, "column 9 of 4"),
        ({"nodes_falsenodeids": [99] * len(one["nodes_falsenodeids"])}, "does not exist"),
        ({"nodes_values": one["nodes_values"][:-1]}, "different lengths"),
    ):
        with pytest.raises(maas_rt.ImportModelError, match=match):
            import_onnx(regressor({**one, **change}, 1))


def test_a_run_has_the_columns_that_trees_read() -> None:
    rng = np.random.default_rng(5)
    made = node("TreeEnsembleRegressor", "x", "y", n_targets=1, **forest(rng, "target", [0]))
    program = maas_rt.load(compile_model(model([made], {"x": (F, ["n", "f"])}, {"y": F}), verify=False).to_bytes())
    assert program.run({"x": numbers(rng, 3, 5)})["y"].shape == (3, 1)
    with pytest.raises(maas_rt.Error, match="columns"):
        program.run({"x": numbers(rng, 3, 2)})


@pytest.mark.parametrize("kind", [F, I64])
def test_tree_classifiers(kind: int) -> None:
    rng = np.random.default_rng(6)
    cases: list[tuple[dict[str, Any], dict[str, Any]]] = [
        (forest(rng, "class", [0], positive=True), {"classlabels_int64s": [4, 7]}),
        (forest(rng, "class", [0]), {"classlabels_int64s": [4, 7], "base_values": [0.25]}),
        (forest(rng, "class", [0]), {"classlabels_int64s": [4, 7], "post_transform": "LOGISTIC"}),
        (forest(rng, "class", [0, 1, 2], turns=True), {"classlabels_int64s": [9, 4, 7], "post_transform": "SOFTMAX"}),
        (forest(rng, "class", [0, 1, 2], turns=True, trees=2), {"classlabels_int64s": [9, 4, 7]}),  # one is never seen
        (forest(rng, "class", [0, 1, 2]), {"classlabels_strings": ["a", "bb", "é"], "base_values": [0.5, 0.25, 0.0]}),
    ]
    nodes, outputs = [], {}
    for k, (attributes, more) in enumerate(cases):
        nodes.append(node("TreeEnsembleClassifier", "x", f"y{k} z{k}", **attributes, **more))
        outputs |= {f"y{k}": TEXT if "classlabels_strings" in more else I64, f"z{k}": F}
    proto = model(nodes, {"x": (kind, ["n", 4])}, outputs)
    check(proto, {"x": numbers(rng, 50, 4, dtype=NUMPY[kind])}, compiled=kind == F)


def ensemble(rng: Any, kind: int, targets: int, how: int) -> onnx.ModelProto:
    """TreeEnsemble of random nodes, tests of membership among them."""
    rows: list[list[Any]] = []  # mode, split, feature, true node, is a leaf, false node, is a leaf, track
    members: list[float] = []
    leaves: list[tuple[int, float]] = []

    def grow(depth: int) -> int:
        at, mode = len(rows), int(rng.integers(7))
        rows.append([mode, float(rng.integers(-1, 2)), int(rng.integers(3))])
        if mode == 6:
            members.extend([*(float(m) for m in rng.choice([-2, -1, 1, 2, 0.5], 2, replace=False)), float("nan")])
        for _ in range(2):
            if depth == 0 or rng.random() < 0.2:
                leaves.append((int(rng.integers(targets)), float(rng.standard_normal())))
                rows[at] += [len(leaves) - 1, 1]
            else:
                rows[at] += [grow(depth - 1), 0]
        rows[at].append(int(rng.integers(2)))
        return at

    roots = [grow(3) for _ in range(4)]
    modes, splits, features, yes, yes_leaf, no, no_leaf, track = map(list, zip(*rows, strict=True))

    def tensor(name: str, values: list[float]) -> Any:
        return helper.make_tensor(name, kind, [len(values)], values)

    made = node(
        "TreeEnsemble", "x", "y", tree_roots=roots, n_targets=targets, aggregate_function=how, nodes_featureids=features,
        nodes_modes=helper.make_tensor("modes", TensorProto.UINT8, [len(modes)], modes), nodes_splits=tensor("splits", splits),
        nodes_truenodeids=yes, nodes_trueleafs=yes_leaf, nodes_falsenodeids=no, nodes_falseleafs=no_leaf,
        nodes_missing_value_tracks_true=track, membership_values=tensor("members", members),
        leaf_targetids=[t for t, _ in leaves], leaf_weights=tensor("weights", [w for _, w in leaves]),
    )  # fmt: skip
    return model([made], {"x": (kind, ["n", 3])}, {"y": kind}, version=5)


@pytest.mark.parametrize(("kind", "targets", "how"), [(F, 3, 1), (D, 2, 0), (F, 1, 2), (D, 1, 3)])
def test_tree_ensembles_with_membership(kind: int, targets: int, how: int) -> None:
    rng = np.random.default_rng(7 + how)
    x = numbers(rng, 50, 3, dtype=NUMPY[kind])
    check(ensemble(rng, kind, targets, how), {"x": x}, reference=True)


# ---- linear models and support vectors


def test_linear_models() -> None:
    rng = np.random.default_rng(8)
    weights, offset = rng.standard_normal(12).tolist(), [0.5, -0.25, 0.125]
    nodes = [node("LinearRegressor", "x", "r0", coefficients=weights[:4], intercepts=[1.5], targets=1)]
    outputs = {"r0": F}
    for transform in ("NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO"):
        how = {"coefficients": weights, "intercepts": offset, "post_transform": transform}
        nodes.append(node("LinearRegressor", "x", f"r{transform}", targets=3, **how))
        nodes.append(node("LinearClassifier", "x", f"y{transform} z{transform}", classlabels_ints=[5, 2, 8], **how))
        outputs |= {f"r{transform}": F, f"y{transform}": I64, f"z{transform}": F}
    nodes.append(
        node(
            "LinearClassifier",
            "x",
            "yt zt",
            coefficients=weights,
            intercepts=offset,
            classlabels_strings=["c", "a", "b"],
        )
    )
    nodes.append(node("ZipMap", "zt", "maps", classlabels_int64s=[1, 2, 3]))
    proto = model(nodes, {"x": (F, ["n", 4])}, {**outputs, "yt": TEXT})
    proto.graph.output.append(helper.make_value_info("maps", _maps()))
    x = rng.standard_normal((20, 4)).astype(np.float32)
    check(proto, {"x": x})
    assert compile_model(proto, example_inputs={"x": x}).to_bytes()  # verified: the oracle's maps are the matrix too
    one = node("LinearClassifier", "x", "y z", coefficients=weights[:4], intercepts=[0.5], classlabels_ints=[0, 1])
    refuses(model([one], {"x": (F, ["n", 4])}, {"y": I64, "z": F}), "one row of coefficients")


def _maps() -> Any:
    tensor = helper.make_tensor_type_proto(F, [])
    return helper.make_sequence_type_proto(helper.make_map_type_proto(I64, tensor))


def test_maps_that_another_node_reads_are_refused() -> None:
    nodes = [node("ZipMap", "x", "maps", classlabels_int64s=[1, 2]), node("SequenceLength", "maps", "y", domain="")]
    refuses(model(nodes, {"x": (F, ["n", 2])}, {"y": I64}), "whose maps another node reads")


KERNELS: list[tuple[str, list[float]]] = [
    ("LINEAR", []), ("POLY", [0.5, 0.25, 3.0]), ("RBF", [0.5, 0.0, 3.0]), ("SIGMOID", [0.25, 0.125, 3.0]),
]  # fmt: skip


def test_support_vector_regressors() -> None:
    rng = np.random.default_rng(9)
    vectors, weights = rng.standard_normal(20).tolist(), rng.standard_normal(5).tolist()
    how = {"coefficients": weights, "rho": [0.25], "n_supports": 5, "support_vectors": vectors}
    nodes = [
        node("SVMRegressor", "x", kernel, kernel_type=kernel, kernel_params=params or [0.0, 0.0, 3.0], **how)
        for kernel, params in KERNELS
    ]
    nodes.append(node("SVMRegressor", "x", "one", kernel_type="RBF", kernel_params=[0.5, 0.0, 3.0], one_class=1, **how))
    nodes.append(node("SVMRegressor", "x", "bare", coefficients=weights[:4], rho=[0.25], kernel_params=[0.0, 0.0, 3.0]))
    proto = model(nodes, {"x": (F, ["n", 4])}, {n.output[0]: F for n in nodes})
    check(proto, {"x": rng.standard_normal((30, 4)).astype(np.float32)})


@pytest.mark.parametrize("classes", [2, 4])
def test_support_vector_classifiers(classes: int) -> None:
    rng = np.random.default_rng(10 + classes)
    sizes = [3, 2, 4, 1][:classes]
    total, pairs = sum(sizes), classes * (classes - 1) // 2
    nodes, outputs = [], {}
    for kernel, params in KERNELS:
        for chances in (False, True):
            name = f"{kernel}{chances:d}"
            more = {"prob_a": [-1.5] * pairs, "prob_b": [0.25] * pairs} if chances else {}
            nodes.append(node(
                "SVMClassifier", "x", f"y{name} z{name}", kernel_type=kernel, kernel_params=params or [0.0, 0.0, 3.0],
                classlabels_ints=[3, 1, 4, 2][:classes], vectors_per_class=sizes, rho=rng.standard_normal(pairs).tolist(),
                support_vectors=rng.standard_normal(total * 4).tolist(),
                coefficients=rng.standard_normal((classes - 1) * total).tolist(), **more,
            ))  # fmt: skip
            outputs |= {f"y{name}": I64, f"z{name}": F}
    proto = model(nodes, {"x": (F, ["n", 4])}, outputs)
    check(proto, {"x": rng.standard_normal((30, 4)).astype(np.float32)}, compiled=classes == 4)


# ---- columns and encoders


@pytest.mark.parametrize("kind", [F, D, I32, I64])
def test_scaling_normalising_and_imputing(kind: int) -> None:
    rng = np.random.default_rng(14)
    nodes = [
        node("Scaler", "x", "scaled", offset=[0.5, 1.0, -2.0], scale=[2.0, 0.5, 1.5]),
        node("Scaler", "x", "one", offset=[0.5], scale=[2.0]),
        *(node("Normalizer", "x", norm, norm=norm) for norm in ("MAX", "L1", "L2")),
        node("FeatureVectorizer", "x x", "beside", inputdimensions=[2, 5]),
    ]
    outputs = {n.output[0]: F for n in nodes}
    if kind in (F, I64):  # ONNX Runtime has no more
        suffix, missing = ("float", float("nan")) if kind == F else ("int64", 1)
        for name, old, new in (("imputed", missing, [7, 8, 9]), ("zeros", 0, [7])):
            given = [float(v) if kind == F else v for v in (old, *new)]
            nodes.append(
                node(
                    "Imputer",
                    "x",
                    name,
                    **{f"replaced_value_{suffix}": given[0], f"imputed_value_{suffix}s": given[1:]},
                )
            )
        outputs |= {"imputed": kind, "zeros": kind}
    x = numbers(rng, 20, 3, dtype=NUMPY[kind])
    x[:2] = 0
    check(model(nodes, {"x": (kind, ["n", 3])}, outputs), {"x": x})


def test_encoders_of_numbers() -> None:
    def encoder(name: str, keys: Any, values: Any, default: Any) -> Any:
        tensors = {"keys_tensor": keys, "values_tensor": values, "default_tensor": default}
        made = {k: onnx.numpy_helper.from_array(np.asarray(v), k) for k, v in tensors.items()}
        return node("LabelEncoder", "x" if keys.dtype == np.float32 else "i", name, **made)

    keys = np.array([0.5, -1, np.nan, 2, 0], np.float32)
    nodes = [
        encoder("nan", keys, np.array([1, 2, 3, 4, 5], np.float32), np.array([-7], np.float32)),
        encoder(
            "whole", np.array([3, -2, 0, 8], np.int64), np.array([30, 20, 0, 80], np.int64), np.array([5], np.int64)
        ),
        node("LabelEncoder", "i", "text", keys_int64s=[1, 2, 0], values_strings=["one", "two", "é"]),
        node("LabelEncoder", "i", "real", keys_int64s=[1, 2], values_floats=[0.5, 1.5], default_float=-1.0),
        node("OneHotEncoder", "i", "hot", cats_int64s=[2, 0, -1]),
        node("OneHotEncoder", "x", "cut", cats_int64s=[2, 0, -1]),
        node("CategoryMapper", "i", "name", cats_int64s=[2, 0], cats_strings=["two", "nought"]),
    ]
    kinds = [F, I64, TEXT, F, F, F, TEXT]
    outputs = {n.output[0]: kind for n, kind in zip(nodes, kinds, strict=True)}
    proto = model(nodes, {"x": (F, ["n", 3]), "i": (I64, ["n", 3])}, outputs, version=4)
    x = np.array([[0.5, -1, np.nan], [2, 0, 7], [-0.0, 0.7, -1.2]], np.float32)
    i = np.array([[3, -2, 0], [8, 1, 2], [9, -9, -1]], np.int64)
    x_cut = np.nan_to_num(x, nan=9.0)  # what the integer of NaN is, nobody says
    check(proto, {"x": x_cut, "i": i}, compiled=True)
    check(model(nodes[:1], {"x": (F, ["n", 3])}, {"nan": F}, version=4), {"x": x})


def test_encoders_of_strings() -> None:
    nodes = [
        node("OneHotEncoder", "s", "hot", cats_strings=["a", "bb", "é"], zeros=0),
        node("CategoryMapper", "s", "number", cats_int64s=[2, 5], cats_strings=["bb", "a"]),
        helper.make_node("Constant", [], ["second"], value=helper.make_tensor("second", I64, [1], [1])),
        node("ArrayFeatureExtractor", "s second", "column"),
    ]
    proto = model(nodes, {"s": (TEXT, ["n", 2])}, {"hot": F, "number": I64, "column": TEXT})
    check(proto, {"s": np.array([["a", "é"], ["bb", "a"]], object)})
    program = maas_rt.load(compile_model(proto, verify=False).to_bytes())
    with pytest.raises(maas_rt.Error, match="category"):
        program.run({"s": maas_rt.encode_strings([["a", "q"]])})


def test_encoders_of_the_first_version_and_binarizers() -> None:
    nodes = [
        node("LabelEncoder", "s", "place", classes_strings=["bb", "a"]),
        node("LabelEncoder", "i", "text", classes_strings=["bb", "a"], default_string="none"),
    ]
    proto = model(nodes, {"s": (TEXT, ["n"]), "i": (I64, ["n"])}, {"place": I64, "text": TEXT}, version=1)
    check(proto, {"s": np.array(["a", "x", "bb"], object), "i": np.array([1, 5, 0])})
    whole = model([node("Binarizer", "x", "y", threshold=1.5)], {"x": (I32, ["n"])}, {"y": I32})
    check(whole, {"x": np.array([1, 2, -3], np.int32)}, reference=True)
