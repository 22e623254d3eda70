"""Random operators by ordinary ones: what a node computes of the noise that it is given, as nodes of ONNX.

The importer converts these nodes in the operator's place, with a kernel's result as the noise; the reference of verification runs them on
the same noise from a table (_sharing.py). docs/random.md states the definitions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ._values import onnx_dtype

__all__ = ["Draw", "Writer", "attribute", "define", "key_of", "sizes_of"]

_HALF = {
    "float16": 2048.0,
    "bfloat16": 256.0,
}  # uniform numbers in a half type are multiples of 1 over this, as in torch: never 1


@dataclass(frozen=True)
class Draw:
    """What one node draws: `kind` "uniform" or "normal" of `dtype`, with the key that the node itself has, or None. `result` is the
    element type of its (first) result; `count` how many numbers, where that is known."""

    kind: str
    dtype: str
    key: int | None
    result: str
    count: int | None


class Writer:
    """Makes nodes, one after the other, whose results have names that begin with `prefix`."""

    def __init__(self, prefix: str, opset: int) -> None:
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.prefix = prefix

    def __call__(self, operator: str, *inputs: str, out: str = "", **attributes: Any) -> str:
        """The name of the node's result."""
        name = out or f"{self.prefix}/{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def const(self, value: Any, dtype: str) -> str:
        return self("Constant", value=numpy_helper.from_array(np.array(value, dtype)))

    def cast(self, x: str, dtype: str, out: str = "") -> str:
        return self("Cast", x, out=out, to=onnx_dtype(dtype))

    def scalar(self, x: str) -> str:
        """A number that may come as a list of one."""
        return self("Reshape", x, self.const(np.zeros(0), "int64"))

    def reduced(self, operator: str, x: str) -> str:
        """Over the last axis, which stays."""
        if self.opset >= (13 if operator == "ReduceSum" else 18):
            return self(operator, x, self.const([-1], "int64"), keepdims=1)
        return self(operator, x, axes=[-1], keepdims=1)


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    found = next((a for a in node.attribute if a.name == name), None)
    return default if found is None else helper.get_attribute_value(found)


def key_of(node: onnx.NodeProto) -> int | None:
    """The key that the node's own seed is: its 32 bits, of Dropout's integer its 64; None where the run's seed is asked."""
    seed = next((a for a in node.attribute if a.name == "seed"), None)
    if seed is None:
        return None
    if seed.type == onnx.AttributeProto.INT:
        return int(seed.i) & 0xFFFFFFFFFFFFFFFF
    return int(np.float32(seed.f).view(np.uint32))


def sizes_of(w: Writer, node: onnx.NodeProto, inputs: Sequence[str]) -> tuple[str, str]:
    """(the shape, the number of elements as int64 [1]) of the noise that a node takes."""
    shape = attribute(node, "shape")
    if shape is not None and node.op_type in ("RandomNormal", "RandomUniform"):
        return w.const(list(shape), "int64"), w.const([int(np.prod(shape, dtype=np.int64))], "int64")
    if node.op_type == "Multinomial":
        samples = w.const([attribute(node, "sample_size", 1)], "int64")
        one = w.const([1], "int64")
        rows = w("Slice", w("Shape", inputs[0]), w.const([0], "int64"), one)
        return w("Concat", rows, samples, axis=0), w("Mul", rows, samples)
    return w("Shape", inputs[0]), w("Reshape", w("Size", inputs[0]), w.const([1], "int64"))


def define(
    w: Writer, node: onnx.NodeProto, inputs: Sequence[str], noise: str, outputs: Sequence[str], draw: Draw
) -> None:
    """Nodes that make the node's outputs; an input or output of no name is not there."""
    _DEFINITIONS[node.op_type](w, node, inputs, noise, outputs, draw)


def _uniform(
    w: Writer, node: onnx.NodeProto, inputs: Sequence[str], u: str, outputs: Sequence[str], draw: Draw
) -> None:
    low, high = np.float32(attribute(node, "low", 0.0)), np.float32(attribute(node, "high", 1.0))
    parts = _HALF.get(draw.result)
    if parts is not None:
        u = w("Mul", w("Floor", w("Mul", u, w.const(parts, draw.dtype))), w.const(1 / parts, draw.dtype))
    y = w("Mul", u, w.const(np.float64(high) - np.float64(low), draw.dtype))
    w.cast(w("Add", y, w.const(low, draw.dtype)), draw.result, outputs[0])


def _normal(w: Writer, node: onnx.NodeProto, inputs: Sequence[str], z: str, outputs: Sequence[str], draw: Draw) -> None:
    mean, scale = attribute(node, "mean", 0.0), attribute(node, "scale", 1.0)
    y = w("Add", w("Mul", z, w.const(scale, draw.dtype)), w.const(mean, draw.dtype))
    w.cast(y, draw.result, outputs[0])


def _bernoulli(
    w: Writer, node: onnx.NodeProto, inputs: Sequence[str], u: str, outputs: Sequence[str], draw: Draw
) -> None:
    w.cast(w("Less", u, w.cast(inputs[0], draw.dtype)), draw.result, outputs[0])


def _dropout(
    w: Writer, node: onnx.NodeProto, inputs: Sequence[str], u: str, outputs: Sequence[str], draw: Draw
) -> None:
    """x * mask / (1 - ratio), mask = u >= ratio; x itself where training_mode is false."""
    x, given = inputs[0], [*inputs, "", ""]
    wide = "float64" if draw.result == "float64" else "float32"
    ratio = w.scalar(w.cast(given[1], wide)) if given[1] else w.const(0.5, wide)
    training = w.scalar(given[2])
    kept = w("Or", w("Not", w("Less", u, w.cast(ratio, draw.dtype))), w("Not", training))
    scale = w("Div", w.const(1.0, wide), w("Sub", w.const(1.0, wide), ratio))
    y = w.cast(w("Mul", w("Mul", w.cast(x, wide), w.cast(kept, wide)), scale), draw.result)
    w("Where", training, y, x, out=outputs[0])
    if len(outputs) > 1 and outputs[1]:
        w("Identity", kept, out=outputs[1])


def _multinomial(
    w: Writer, node: onnx.NodeProto, inputs: Sequence[str], u: str, outputs: Sequence[str], draw: Draw
) -> None:
    """How many of the running sums of exp(x) are at most u times the whole sum; all in float64."""
    x = w.cast(inputs[0], "float64")
    weights = w("Exp", w("Sub", x, w.reduced("ReduceMax", x)))
    sums = w("CumSum", weights, w.const(1, "int64"))  # [rows, classes]
    whole = w("Gather", sums, w.const([-1], "int64"), axis=-1)
    aims = w("Mul", u, whole)  # [rows, samples]
    shape = w("Shape", sums)
    one, zero, two = (w.const([k], "int64") for k in (1, 0, 2))
    rows, classes = w("Slice", shape, zero, one), w("Slice", shape, one, two)
    sums = w("Reshape", sums, w("Concat", rows, one, classes, axis=0))
    below = w("Not", w("Greater", sums, w("Reshape", aims, w("Concat", w("Shape", aims), one, axis=0))))
    count = w.reduced("ReduceSum", w.cast(below, "int64"))  # [rows, samples, 1]
    w.cast(w("Reshape", count, w("Shape", aims)), draw.result, outputs[0])


_DEFINITIONS: dict[str, Callable[..., None]] = {
    "Bernoulli": _bernoulli,
    "Dropout": _dropout,
    "Multinomial": _multinomial,
    "RandomNormal": _normal,
    "RandomNormalLike": _normal,
    "RandomUniform": _uniform,
    "RandomUniformLike": _uniform,
}
