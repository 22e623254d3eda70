"""Random operators: noise from a kernel, and their definitions by ordinary operators of it (_drawing.py)."""

from __future__ import annotations

import math
from typing import Any

import onnx
from onnx import helper

from .._dims import Dim
from .._drawing import Draw, Writer, define, key_of
from .._node import Node
from .._registry import op
from .._sharing import draw_number
from .._values import Value, is_float, onnx_dtype

__all__ = ["dropped"]

_OPSET = 21  # of the definitions' operators, whatever the model's is


@op("RandomNormal", since=[1, 22])
def random_normal(n: Node) -> Any:
    return _noise_of_shape(n, "normal", n.ints_attr("shape"), _float_attr(n, "float32"))


@op("RandomUniform", since=[1, 22])
def random_uniform(n: Node) -> Any:
    return _noise_of_shape(n, "uniform", n.ints_attr("shape"), _float_attr(n, "float32"))


@op("RandomNormalLike", since=[1, 22])
def random_normal_like(n: Node) -> Any:
    return _noise_of_shape(n, "normal", n.shape(0), _float_attr(n, n.dtype(0)))


@op("RandomUniformLike", since=[1, 22])
def random_uniform_like(n: Node) -> Any:
    return _noise_of_shape(n, "uniform", n.shape(0), _float_attr(n, n.dtype(0)))


@op("Bernoulli", since=[15, 22])
def bernoulli(n: Node) -> Any:
    n.float_only()
    return _by_definition(n, "uniform", "float64", n.shape(0), n.dtype_attr("dtype", onnx_dtype(n.dtype(0))))


@op("Multinomial", since=[7, 22])
def multinomial(n: Node) -> Any:
    n.float_only()
    if n.rank(0) != 2:
        raise n.broken(f"needs rows of log-probabilities, and has rank {n.rank(0)}")
    samples = n.int_attr("sample_size", 1)
    if samples < 1:
        raise n.broken(f"draws {samples} samples")
    return _by_definition(
        n, "uniform", "float64", [n.shape(0)[0], samples], n.dtype_attr("dtype", onnx.TensorProto.INT32)
    )


def dropped(n: Node) -> Any:
    """Dropout whose training_mode is not known to be false."""
    n.float_only()
    if n.has(1) and n.value(1).const is not None and not 0 <= float(n.scalar(1)) < 1:
        raise n.broken(f"drops a share of {n.scalar(1)}, expected one from 0 to below 1")
    return _by_definition(n, "uniform", "float32", n.shape(0), n.dtype(0))


def _float_attr(n: Node, default: str) -> str:
    dtype = n.dtype_attr("dtype") if n.has_attr("dtype") else default
    if not is_float(dtype):
        raise n.broken(f"gives random numbers of type {dtype}")
    return dtype


def _noise_of_shape(n: Node, kind: str, shape: Any, dtype: str) -> Any:
    for name in ("low", "high") if kind == "uniform" else ("mean", "scale"):
        if not math.isfinite(n.float_attr(name, 0.0)):
            raise n.broken(f"attribute '{name}' is {n.float_attr(name)}")
    return _by_definition(n, kind, "float64" if dtype == "float64" else "float32", shape, dtype)


def _by_definition(n: Node, kind: str, dtype: str, shape: Any, result: str) -> list[Value | None]:
    """The results of the node's definition, on noise of this kind, dtype and shape."""
    graph, number = n.graph, draw_number(n.proto)
    if number is None:
        raise n.refuse("in a function that could not be written out")
    dims: list[Dim] = list(shape)
    count = math.prod(dims) if all(isinstance(d, int) for d in dims) else None
    draw = Draw(kind, dtype, key_of(n.proto), result, count)
    graph.draws[number] = draw
    x = graph.noise.call(n.emit, kind, dims, dtype, number if draw.key is None else 0, key=draw.key, name=n.place)
    inputs = [f"in{i}" if v is not None else "" for i, v in enumerate(n.inputs)]
    outputs = [f"out{i}" if name else "" for i, name in enumerate(n.proto.output)]
    w = Writer("d", _OPSET)
    define(w, n.proto, inputs, "noise", outputs, draw)
    body = helper.make_function(
        "maas_rt", n.op, [*inputs, "noise"], outputs, w.nodes, [helper.make_opsetid("", _OPSET)]
    )
    return graph.call(body, n.proto, n.scope, n.place, [*n.inputs, graph.wrap(x, n.place)])
