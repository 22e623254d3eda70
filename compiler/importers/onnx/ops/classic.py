"""Classical machine learning (ai.onnx.ml), as far as it is about numbers: ArrayFeatureExtractor, Binarizer."""

from __future__ import annotations

from typing import Any

from tvm import relax, tirx

from .._node import Node
from .._registry import op
from ._te import elementwise, imm

_DOMAIN = "ai.onnx.ml"


@op("ArrayFeatureExtractor", since=1, domain=_DOMAIN)
def array_feature_extractor(n: Node) -> Any:
    """Columns of the last axis; of a vector, as a matrix of one row."""
    extent, value = n.shape(0)[-1], n.value(1)
    if value.const is not None and value.const.size and isinstance(extent, int):
        if value.const.min() < 0 or value.const.max() >= extent:
            raise n.broken(f"picks columns outside of {extent}")
    n.graph.limit_index(value, extent)
    count = n.math.product(n.shape(1))
    # The kernel behind it refuses what is out of range.
    y = n.emit(relax.op.take(n.x(0), n.reshape(n.x(1), [count]), axis=n.rank(0) - 1))
    return y if n.rank(0) > 1 else n.reshape(y, [1, count])


@op("Binarizer", since=1, domain=_DOMAIN)
def binarizer(n: Node) -> Any:
    kind, threshold = n.dtype(0), n.float_attr("threshold", 0.0)
    if kind not in ("float32", "float64"):
        raise n.refuse(f"of {kind}")
    return elementwise(n, lambda v: tirx.Select(v > imm(threshold, kind), imm(1, kind), imm(0, kind)), n.x(0))
