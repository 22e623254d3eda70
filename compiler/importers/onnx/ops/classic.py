"""Classical machine learning (ai.onnx.ml): linear models, encoders, scalers. Trees and support vector
machines have modules of their own.

ZipMap, which makes a sequence of maps from a matrix, gives the matrix: the classes' scores [N, C] in the order of its labels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import numpy_helper
from tvm import relax, te, tirx
from tvm.script.ir_builder import tirx as T

from maas_rt._strings import encode_strings

from .._exprs import constant, dims_of, shape_expr
from .._moved_strings import by_position
from .._node import Node
from .._registry import op, string_op
from .._strings import bytes_of, string_value, width_of
from .._values import is_float, numpy_dtype
from ._loops import imperative, variable
from ._scores import DOMAIN, Labels, first_largest, is_read, rows_of, transformed
from ._te import elementwise, imm, is_nan
from .indexing import check_places
from .strings import equal_strings

Array = npt.NDArray[Any]


@op("ArrayFeatureExtractor", since=1, domain=DOMAIN)
def array_feature_extractor(n: Node) -> Any:
    """Columns of the last axis; of a vector, as a matrix of one row."""
    check_places(n, 1, [n.shape(0)[-1]], wraps=False)
    count = n.math.product(n.shape(1))
    y = n.emit(relax.op.take(n.x(0), n.reshape(n.x(1), [count]), axis=n.rank(0) - 1))
    return y if n.rank(0) > 1 else n.reshape(y, [1, count])


@string_op("ArrayFeatureExtractor", domain=DOMAIN)
def array_string_extractor(n: Node) -> Any:
    return by_position(n, array_feature_extractor)


@op("Binarizer", since=1, domain=DOMAIN)
def binarizer(n: Node) -> Any:
    """1 for what is above the threshold, else 0."""
    kind = n.dtype(0)
    wide = kind if is_float(kind) else "float64"
    threshold = imm(n.float_attr("threshold", 0.0), wide)
    return elementwise(n, lambda v: tirx.Select(v > threshold, imm(1, kind), imm(0, kind)), n.cast(n.x(0), wide))


def _floats(n: Node, name: str) -> Array:
    return np.asarray(n.attr(name, []) or [], np.float32)


def _compute_dtype(n: Node) -> str:
    return "float64" if n.dtype(0) == "float64" else "float32"


# ---- linear models


def _linear(n: Node, x: Any, weights: Array, offset: Array, kind: str) -> Any:
    """x [N, F] times weights [K, F] transposed, and an offset [K]; float32."""
    n.math.require_same(dims_of(x)[1], weights.shape[1])
    y = n.emit(relax.op.matmul(x, constant(np.ascontiguousarray(weights.T.astype(kind)))))
    return n.cast(n.emit(relax.op.add(y, constant(offset.astype(kind)))) if offset.size else y, "float32")


@op("LinearRegressor", since=1, domain=DOMAIN)
def linear_regressor(n: Node) -> Any:
    """[N, F] -> [N, targets]"""
    weights, offset, targets = _floats(n, "coefficients"), _floats(n, "intercepts"), n.int_attr("targets", 1)
    transform = n.str_attr("post_transform", "NONE")
    if targets < 1 or not weights.size or weights.size % targets or offset.size not in (0, targets):
        raise n.broken(f"has {weights.size} coefficients and {offset.size} intercepts for {targets} targets")
    if targets == 1 and transform not in ("NONE", "PROBIT"):
        raise n.refuse(f"with post_transform {transform} of one target, which implementations leave out")
    kind = _compute_dtype(n)
    y = _linear(n, rows_of(n, kind), weights.reshape(targets, -1), offset, kind)
    return transformed(n, y, transform)


@op("LinearClassifier", since=1, domain=DOMAIN)
def linear_classifier(n: Node) -> list[Any]:
    """[N, F] -> (labels [N], scores [N, classes])"""
    weights, offset = _floats(n, "coefficients"), _floats(n, "intercepts")
    labels, count = Labels(n, "classlabels_ints"), offset.size
    if not count:
        raise n.refuse("without intercepts, whose number says that of the classes")
    if count == 1:
        raise n.refuse("with one row of coefficients: implementations disagree on what it means")
    if not weights.size or weights.size % count or labels.count != count:
        raise n.broken(f"has {weights.size} coefficients and {labels.count} labels for {count} intercepts")
    scores = _linear(n, rows_of(n, "float32"), weights.reshape(count, -1), offset, "float32")
    label = labels.at(first_largest(n, scores)) if labels.read else None
    return [label, transformed(n, scores, n.str_attr("post_transform", "NONE")) if is_read(n, 1) else None]


# ---- columns


def _per_column(n: Node, *tables: Array) -> list[Any]:
    """Tables of one number, or of one for each column of input 0, as operands of a broadcast with it."""
    if n.rank(0) < 1:
        raise n.broken("has a scalar as its input")
    size = max(t.size for t in tables)
    if any(t.size != size for t in tables) or not size:
        raise n.broken(f"has lists of {', '.join(str(t.size) for t in tables)} numbers, expected as many in each")
    if size > 1:
        if n.rank(0) > 2:
            raise n.refuse(f"of rank {n.rank(0)}")
        n.math.require_same(n.shape(0)[-1], size)
    return [constant(t) for t in tables]


@op("Scaler", since=1, domain=DOMAIN)
def scaler(n: Node) -> Any:
    """(x - offset) * scale as float32"""
    kind = _compute_dtype(n)
    tables = _per_column(n, *(_floats(n, name).astype(kind) for name in ("offset", "scale")))
    return n.cast(elementwise(n, lambda v, o, s: (v - o) * s, n.cast(n.x(0), kind), *tables), "float32")


@op("Normalizer", since=1, domain=DOMAIN)
def normalizer(n: Node) -> Any:
    """Each row divided by its maximum, by the sum of its magnitudes or by the root of the sum of its squares; as it is, if that is 0."""
    norm, kind = n.str_attr("norm", "MAX"), _compute_dtype(n)
    if norm not in ("MAX", "L1", "L2"):
        raise n.broken(f"has the unknown norm '{norm}'")
    x = rows_of(n, kind)

    def body(t: Any) -> Any:
        rows, columns = t.shape
        k = te.reduce_axis((0, columns), name="k")

        def part(r: Any) -> Any:
            v = t(r, k)
            if norm == "MAX":  # of what is a number
                return te.max(tirx.Select(is_nan(v), tirx.min_value(kind), v), axis=k)
            return te.sum(tirx.abs(v) if norm == "L1" else v * v, axis=k)

        size, zero = te.compute((rows,), part, name="size"), imm(0, kind)

        def element(r: Any, c: Any) -> Any:
            v, by = t(r, c), size(r)
            if norm != "L2":
                return tirx.Select(by == zero, v, v / by)
            root = tirx.sqrt(v * v / by)
            return tirx.Select(by == zero, v, tirx.Select(v < zero, zero - root, root))

        return te.compute((rows, columns), element, name="normalized")

    y = n.cast(n.te(body, x, name="normalized"), "float32")
    return y if n.rank(0) == 2 else n.reshape(y, n.shape(0))


@op("Imputer", since=1, domain=DOMAIN)
def imputer(n: Node) -> Any:
    """What equals replaced_value (or is NaN, if that is) becomes imputed_value, of which there is one or one a column."""
    kind = n.dtype(0)
    suffix = "float" if is_float(kind) else "int64"
    values = n.attr(f"imputed_value_{suffix}s", []) or []
    other = "int64" if suffix == "float" else "float"
    if not values or n.attr(f"imputed_value_{other}s", []):
        raise n.broken(f"needs imputed_value_{suffix}s and no other for inputs of {kind}")
    given = n.attr(f"replaced_value_{suffix}", 0)
    limits = None if suffix == "float" else np.iinfo(numpy_dtype(kind))
    if limits is not None and not all(limits.min <= v <= limits.max for v in (given, *values)):
        raise n.broken(f"has values that are no {kind}")
    (table,) = _per_column(
        n, np.asarray(values, np.float32 if suffix == "float" else np.int64).astype(numpy_dtype(kind))
    )

    def element(v: Any, new: Any) -> Any:
        missing = is_nan(v) if suffix == "float" and np.isnan(given) else v == imm(given, kind)
        return tirx.Select(missing, new, v)

    return elementwise(n, element, n.x(0), table)


@op("FeatureVectorizer", since=1, domain=DOMAIN)
def feature_vectorizer(n: Node) -> Any:
    """The inputs [N, F_i], cut or filled up with zeros to inputdimensions, beside each other as float32."""
    sizes = n.ints_attr("inputdimensions", [])
    if len(sizes) != len(n.inputs) or any(s < 0 for s in sizes):
        raise n.broken(f"has {len(n.inputs)} inputs and inputdimensions {sizes}")
    parts: list[Any] = []
    for i, size in enumerate(sizes):
        if n.rank(i) != 2 or not isinstance(n.shape(i)[1], int):
            raise n.refuse(f"of shape {list(n.shape(i))}")
        x, have = n.cast(n.x(i), "float32"), n.shape(i)[1]
        if have > size:
            x = n.te(lambda t, e: te.compute(e, lambda r, c: t(r, c), name="cut"), x, shape_expr([n.shape(i)[0], size]))
        elif have < size:
            x = n.emit(relax.op.nn.pad(x, [0, 0, 0, size - have]))
        parts.append(x)
    for x in parts[1:]:
        n.math.require_same(dims_of(x)[0], dims_of(parts[0])[0])
    return n.emit(relax.op.concat(parts, axis=1)) if len(parts) > 1 else parts[0]


# ---- encoders


@op("OneHotEncoder", since=1, domain=DOMAIN)
def one_hot_encoder(n: Node) -> Any:
    """[...] -> float32 [..., categories]; a number is cut to an integer. Without `zeros` a run refuses what is of no category."""
    categories, kind = n.ints_attr("cats_int64s", []), n.dtype(0)
    if not categories:
        raise n.broken(f"has no categories for inputs of {kind}")
    if len(set(categories)) != len(categories):
        raise n.refuse("with a category that occurs twice")
    if any(abs(c) > 1 << (24 if kind == "float32" else 53) for c in categories) and is_float(kind):
        raise n.refuse(f"with categories that {kind} does not have")
    inside = "float64" if is_float(kind) else "int64"
    table = constant(np.asarray(categories, np.int64).astype(inside))

    def body(t: Any, cats: Any, extents: Any) -> Any:
        def hit(*index: Any) -> Any:
            v = tirx.Cast(inside, t(*index[:-1]))
            whole = tirx.trunc(v) if inside == "float64" else v
            return tirx.Select(whole == cats(index[-1]), imm(1, "float32"), imm(0, "float32"))

        return te.compute(extents, hit, name="one_hot")

    y = n.te(body, n.x(0), table, shape_expr([*n.shape(0), len(categories)]), name="one_hot")
    if not n.flag("zeros", 1):
        _refuse_unknown(n, y)
    if max(categories) - min(categories) + 1 == len(categories):
        n.graph.limit_values(n.value(0), min(categories), max(categories))
    return y


@string_op("OneHotEncoder", domain=DOMAIN)
def one_hot_strings(n: Node) -> Any:
    categories = n.attr("cats_strings", [])
    if not categories:
        raise n.broken("has no categories for inputs of strings")
    if len(set(categories)) != len(categories):
        raise n.refuse("with a category that occurs twice")
    x = bytes_of(n.value(0))
    each = n.reshape(x, [*n.shape(0), 1, width_of(x)])
    y = n.cast(equal_strings(n, each, constant(encode_strings(categories))), "float32")
    if not n.flag("zeros", 1):
        _refuse_unknown(n, y)
    return y


def _refuse_unknown(n: Node, encoded: Any) -> None:
    """A run refuses rows of zeros."""

    def rows(t: Any) -> Any:
        k = te.reduce_axis((0, t.shape[-1]), name="k")
        return te.compute(t.shape[:-1], lambda *i: te.sum(t(*i, k), axis=k), name="known")

    known = n.te(rows, encoded, name="known")
    if dims_of(known):
        known = n.emit(relax.op.min(known))
    n.check(lambda t: t() > imm(0, "float32"), known, says="is given an element of no category that it knows")


@op("LabelEncoder", since=[2, 4], domain=DOMAIN)
def label_encoder(n: Node) -> Any:
    """Each key's value, elementwise; the default for what is no key. NaN is a key like any other from version 4 on."""
    keys, values = _table(n, "keys"), _table(n, "values")
    if keys.size != values.size or not keys.size:
        raise n.broken(f"has {keys.size} keys and {values.size} values")
    if str(keys.dtype) != n.dtype(0):
        raise n.broken(f"has keys of {keys.dtype} for inputs of {n.dtype(0)}")
    nans = np.isnan(keys) if keys.dtype.kind == "f" else np.zeros(keys.size, bool)
    if nans.any() and n.version < 4:
        raise n.refuse("with a key that is NaN, before version 4")
    if nans.sum() > 1 or len(set(keys[~nans].tolist())) != (~nans).sum():
        raise n.refuse("with a key that occurs twice")
    texts = values if values.dtype == object else None
    if texts is not None:
        values, default = np.arange(keys.size), np.int64(keys.size)
    else:
        default = _default(n, values.dtype)
    order = np.argsort(keys[~nans], kind="stable")
    found = _looked_up(n, keys[~nans][order], values[~nans][order], default, values[nans][0] if nans.any() else default)
    return found if texts is None else _texts(n, found, [*texts, _default_text(n)])


@op("LabelEncoder", since=1, domain=DOMAIN)
def label_encoder_of_classes(n: Node) -> Any:
    """Positions to the classes at them."""
    texts = n.attr("classes_strings")
    count = len(texts)
    found = _looked_up(n, np.arange(count), np.arange(count), np.int64(count), np.int64(0))
    return _texts(n, found, [*texts, n.str_attr("default_string", "_Unused")])


@op("CategoryMapper", since=1, domain=DOMAIN)
def category_mapper(n: Node) -> Any:
    """Integers to strings."""
    keys, texts = np.asarray(n.ints_attr("cats_int64s"), np.int64), n.attr("cats_strings")
    if len(keys) != len(texts) or not texts:
        raise n.broken(f"has {len(keys)} integers and {len(texts)} strings")
    if len(set(keys.tolist())) != len(keys):
        raise n.refuse("with an integer that occurs twice")
    order = np.argsort(keys, kind="stable")
    places = np.arange(len(keys))
    found = _looked_up(n, keys[order], places[order], np.int64(len(keys)), np.int64(0))
    return _texts(n, found, [*texts, n.str_attr("default_string", "_Unused")])


@string_op("CategoryMapper", domain=DOMAIN)
def category_mapper_of_strings(n: Node) -> Any:
    """Strings to integers."""
    keys, texts = n.ints_attr("cats_int64s"), n.attr("cats_strings")
    if len(keys) != len(texts) or not texts:
        raise n.broken(f"has {len(keys)} integers and {len(texts)} strings")
    if len(set(texts)) != len(texts):
        raise n.refuse("with a string that occurs twice")
    x = bytes_of(n.value(0))
    each = n.reshape(x, [*n.shape(0), 1, width_of(x)])
    hits = n.cast(equal_strings(n, each, constant(encode_strings(texts))), "int64")
    last = len(n.shape(0))
    table, other = constant(np.asarray(keys, np.int64)), n.scalar_const(n.int_attr("default_int64", -1), "int64")
    found = n.emit(relax.op.sum(n.emit(relax.op.multiply(hits, table)), axis=[last]))
    return n.emit(relax.op.where(n.cast(n.emit(relax.op.sum(hits, axis=[last])), "bool"), found, other))


def _texts(n: Node, index: Any, texts: list[str]) -> Any:
    """The strings at these positions."""
    rows = constant(encode_strings(texts))
    dims = dims_of(index)
    found = n.emit(relax.op.take(rows, n.reshape(index, [n.math.product(dims)]), axis=0))
    return string_value(n.reshape(found, [*dims, width_of(rows)]), n.place)


def _table(n: Node, name: str) -> Array:
    """keys_* or values_* as an array of its type."""
    given = [s for s in ("floats", "int64s", "strings", "tensor") if n.has_attr(f"{name}_{s}")]
    if len(given) != 1:
        raise n.broken(f"needs one of {name}_floats, {name}_int64s, {name}_strings and {name}_tensor")
    if given[0] == "tensor":
        array = np.asarray(numpy_helper.to_array(n.attr(f"{name}_tensor"))).reshape(-1)
        return array if array.dtype.kind in "fi" else array.astype(object)
    kind = {"floats": np.float32, "int64s": np.int64, "strings": object}[given[0]]
    return np.asarray(n.attr(f"{name}_{given[0]}"), kind)


def _default_text(n: Node) -> str:
    if n.has_attr("default_tensor"):
        array = np.asarray(numpy_helper.to_array(n.attr("default_tensor"))).reshape(-1)
        if array.size != 1 or not isinstance(array.astype(object)[0], str | bytes):
            raise n.broken("has a default_tensor that is not one string")
        text = array.astype(object)[0]
        return text if isinstance(text, str) else text.decode("utf-8", "replace")
    return n.str_attr("default_string", "_Unused")


def _default(n: Node, dtype: np.dtype[Any]) -> Any:
    if n.has_attr("default_tensor"):
        array = np.asarray(numpy_helper.to_array(n.attr("default_tensor"))).reshape(-1)
        if array.dtype != dtype or array.size != 1:
            raise n.broken(f"has a default_tensor of {array.size} {array.dtype} for values of {dtype}")
        return array[0]
    default = n.attr("default_float", -0.0) if dtype.kind == "f" else n.attr("default_int64", -1)
    if dtype.kind == "i" and not np.iinfo(dtype).min <= default <= np.iinfo(dtype).max:
        raise n.broken(f"has a default_int64 that is no {dtype}")
    return dtype.type(default)


def _looked_up(n: Node, keys: Array, values: Array, default: Any, for_nan: Any) -> Any:
    """A search by halves in sorted keys for each element of input 0."""
    kind, out = str(keys.dtype), str(values.dtype)
    steps = int(keys.size).bit_length()
    size = keys.size
    tables = [t if t.size else np.zeros(1, t.dtype) for t in (keys, values)]

    def body(t: Any, table: Any, results: Any) -> Any:
        def write(x: Any, key: Any, value: Any, y: Any) -> None:
            total: Any = imm(1, "int64")
            for e in t.shape:
                total = total * e
            with T.serial(0, total) as i:
                low, high, found = variable("int32"), variable("int32"), variable(out)
                low[0], high[0] = imm(0, "int32"), imm(size, "int32")
                with T.serial(0, steps):  # low: how many keys are less
                    middle = variable("int32")
                    middle[0] = tirx.floordiv(low[0] + high[0], imm(2, "int32"))
                    with T.If(low[0] < high[0]):
                        with T.Then():
                            with T.If(key[middle[0]] < x[i]):
                                with T.Then():
                                    low[0] = middle[0] + imm(1, "int32")
                                with T.Else():
                                    high[0] = middle[0]
                found[0] = imm(default, out)
                with T.If(low[0] < imm(size, "int32")):
                    with T.Then():
                        with T.If(key[low[0]] == x[i]):
                            with T.Then():
                                found[0] = value[low[0]]
                if kind.startswith("float"):
                    with T.If(is_nan(x[i])):
                        with T.Then():
                            found[0] = imm(for_nan, out)
                y[i] = found[0]

        return imperative([t.shape], [out], [t, table, results], write, "label_encoder")[0]

    return n.te(body, n.x(0), *[constant(t) for t in tables], name="label_encoder")


@op("ZipMap", since=1, domain=DOMAIN)
def zip_map(n: Node) -> Any:
    """Scores [N, C] -> the scores, instead of a sequence of N maps from labels to them."""
    labels = n.ints_attr("classlabels_int64s", []) or n.attr("classlabels_strings", [])
    if n.rank(0) != 2:
        raise n.refuse(f"of rank {n.rank(0)}")
    if n.proto.output[0] in n.graph.read_by_nodes:
        raise n.refuse("whose maps another node reads")
    n.math.require_same(n.shape(0)[1], len(labels))
    return n.x(0)
