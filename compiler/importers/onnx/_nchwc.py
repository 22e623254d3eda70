"""What ONNX Runtime saves at its last level, ORT_ENABLE_ALL: images as [N, C / b, H, W, b], in blocks of b channels (com.microsoft.nchwc).

Here such a tensor is [N, C, H, W], C rounded up to blocks, as its shape says in the file too. So only filters are put back in order, and
what the file reshapes into blocks and back stays as it is. b is as wide as the vectors of the machine that saved the file, and the
file does not hold it: it follows from numbers of channels, else from the filters themselves, unless nobody trained them: then the file
is taken to be of this machine, as ONNX Runtime takes all.
"""

from __future__ import annotations

import platform
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from ._errors import Refused
from ._load import graphs_of, sort_nodes

__all__ = ["NCHWC", "foreign", "in_order", "with_blocks"]

NCHWC = "com.microsoft.nchwc"
_SIZES = (8, 16)
_ELEMENTWISE = frozenset({
    "Add", "Clip", "Elu", "FastGelu", "Gelu", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Mul", "QuickGelu", "Relu", "Selu",
    "Sigmoid", "Softplus", "Softsign", "Sum", "Tanh", "ThresholdedRelu",
})  # fmt: skip
# Standard deviations of a likelihood, of weights with longer tails than a Gaussian's.
_CERTAIN = 20
_LEANING = 4

Array = npt.NDArray[Any]


def with_blocks(model: onnx.ModelProto, array: Callable[[onnx.TensorProto], Array]) -> onnx.ModelProto:
    """The model, each Conv and ReorderInput of these with the attribute `block`, and no reshaping into blocks. Raises Refused."""
    if not any(o.domain == NCHWC for o in model.opset_import):
        return model
    out = onnx.ModelProto()
    out.CopyFrom(model)
    graphs = [graph for graph, _ in graphs_of(out)]
    tensors = {t.name: t for graph in graphs for t in graph.initializer}
    sizes = set(_SIZES)
    blocked: dict[str, int] = {}
    for graph in graphs:
        for node in sort_nodes(graph, set()) if graph is graphs[0] else graph.node:
            _follow(node, blocked, tensors, array, sizes)
    block = _block_size(sizes, graphs, tensors, array)
    for graph in graphs:
        for node in graph.node:
            if node.domain == NCHWC and node.op_type in ("Conv", "ReorderInput"):
                node.attribute.append(helper.make_attribute("block", block))
    return out


def _follow(
    node: onnx.NodeProto,
    blocked: dict[str, int],
    tensors: dict[str, onnx.TensorProto],
    array: Callable[[onnx.TensorProto], Array],
    sizes: set[int],
) -> None:
    """Note which results are in blocks, with their channels (0: not known), and drop the sizes of a block that the node contradicts."""
    inside = [name for name in node.input if name in blocked]
    channels = blocked[inside[0]] if inside else 0
    if node.domain == NCHWC:
        if node.op_type == "ReorderOutput":
            count = next((a.i for a in node.attribute if a.name == "channels"), 0)
            sizes -= {b for b in _SIZES if channels and -(-count // b) * b != channels}
            return
        if node.op_type == "Conv":
            dims, groups = _filter(node, tensors)
            sizes -= {b for b in _SIZES if not _fits(b, dims, groups, blocked=node.input[0] in blocked)}
            channels = dims[0]
    elif not inside:
        return
    elif (
        node.op_type == "Reshape"
    ):  # [0, C / b, 0, 0, b] around an addition that may broadcast, and [0, C, 0, 0] behind it
        shape = array(tensors[node.input[1]]).reshape(-1).tolist() if node.input[1] in tensors else []
        if len(shape) == 5:
            sizes &= {shape[4]}
        if len(shape) not in (4, 5):
            raise Refused(f"'{_label(node)}' is a tensor in blocks of channels, in another shape")
        node.op_type = "Identity"
        del node.input[1:], node.attribute[:]
    elif node.op_type == "Concat" and any(a.name == "axis" and a.i == 1 for a in node.attribute):
        each = [blocked.get(name, 0) for name in node.input]
        channels = sum(each) if all(each) else 0
    elif node.op_type not in _ELEMENTWISE:
        raise Refused(f"'{_label(node)}' is {node.op_type} of a tensor in blocks of channels")
    blocked.update(dict.fromkeys(node.output, channels))


def _label(node: onnx.NodeProto) -> str:
    return node.name or next(iter(node.output), "")


def _filter(node: onnx.NodeProto, tensors: dict[str, onnx.TensorProto]) -> tuple[list[int], int]:
    """(dimensions of a Conv's filters, its groups)"""
    known = len(node.input) > 1 and node.input[1] in tensors
    dims = list(tensors[node.input[1]].dims) if known else []
    if len(dims) != 4 or min(dims) < 1:
        raise Refused(f"'{_label(node)}' has no filters of rank 4")
    return dims, next((a.i for a in node.attribute if a.name == "group"), 1)


def _fits(block: int, dims: list[int], groups: int, *, blocked: bool) -> bool:
    rows, columns = dims[:2]
    if rows % block:
        return False
    if groups > 1:
        return (columns == 1 and groups == rows) or not (columns % block or rows % groups or rows // groups % block)
    return columns % block == 0 if blocked else columns < block


def _block_size(
    sizes: set[int],
    graphs: list[onnx.GraphProto],
    tensors: dict[str, onnx.TensorProto],
    array: Callable[[onnx.TensorProto], Array],
) -> int:
    """The one size of a block that is left. Of two, the one whose channels differ more in their filters' magnitudes: in the other,
    each is a mixture of two."""
    if not sizes:
        raise Refused("convolutions contradict each other in how wide their blocks of channels are")
    names = {n.input[1]: None for g in graphs for n in g.node if n.domain == NCHWC and n.op_type == "Conv"}
    if len(sizes) == 1 or not names:  # without filters nothing depends on it
        return max(sizes)
    filters = [array(tensors[name]) for name in names]
    wide, narrow = (sum(_likelihood(w, b) for w in filters) for b in (16, 8))
    lead, deviation = abs(wide - narrow), np.sqrt(sum(w.shape[0] for w in filters))
    likely = 16 if wide > narrow else 8
    if lead > _CERTAIN * deviation:
        return likely
    own = _own_size()
    if likely != own and lead > _LEANING * deviation:
        raise Refused(
            "its filters could be in blocks of 8 or of 16 channels, which the file does not say: save the optimized model at level "
            "ORT_ENABLE_EXTENDED"
        )
    warnings.warn(
        f"the file does not say how wide its blocks of channels are, and its filters do not tell: taken as {own}, as ONNX Runtime does "
        "on this machine",
        stacklevel=2,
    )
    return own


def _own_size() -> int:
    """How wide ONNX Runtime's blocks are on this machine."""
    try:
        processor = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        processor = ""
    return 16 if "avx512f" in processor or platform.machine() == "aarch64" else 8


def foreign(model: onnx.ModelProto) -> str:
    """Of a model with its blocks: why ONNX Runtime on this machine would read other filters; "" if it reads these."""
    nodes = [
        node for graph, _ in graphs_of(model) for node in graph.node if node.domain == NCHWC and node.op_type == "Conv"
    ]
    block = next((a.i for node in nodes for a in node.attribute if a.name == "block"), _own_size())
    if block == _own_size():
        return ""
    return (
        f"it was saved at ORT_ENABLE_ALL for CPUs with blocks of {block} channels, onnxruntime reads {_own_size()} here: compile on such a CPU, or save at "
        "ORT_ENABLE_EXTENDED"
    )


def _likelihood(w: Array, block: int) -> float:
    """The logarithm, but for what no block changes, where each output channel is a Gaussian of its own width."""
    squares = (w.astype(np.float64) ** 2).reshape(w.shape[0] // block, -1, block)
    widths = squares.mean(axis=1)
    return float(-0.5 * squares.shape[1] * np.log(widths + 1e-6 * widths.mean() + 1e-30).sum())


def in_order(w: Array, block: int, inner: bool) -> Array:
    """Filters [O, I, kH, kW] that are stored as [O / b, I, kH, kW, b] or, where their input is in blocks, [O / b, I / b, kH, kW, b, b]."""
    rows, columns, *kernel = w.shape
    if not inner:
        stored = w.reshape(rows // block, columns, *kernel, block)
        return np.ascontiguousarray(stored.transpose(0, 4, 1, 2, 3)).reshape(w.shape)
    stored = w.reshape(rows // block, columns // block, *kernel, block, block)
    return np.ascontiguousarray(stored.transpose(0, 5, 1, 4, 2, 3)).reshape(w.shape)
