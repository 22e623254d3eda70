"""Images in blocks of channels (com.microsoft.nchwc), which are plain ones here (_nchwc.py says how)."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from tvm import relax

from .._exprs import constant, dims_of
from .._nchwc import NCHWC, in_order
from .._node import Node
from .._registry import op
from .contrib_fused import behind_conv
from .indexing import take_slice
from .making import pad_tensor
from .nn import conv
from .pool import average_pool, global_average_pool, global_max_pool, max_pool
from .resize import resize


@op("ReorderInput", domain=NCHWC)
def reorder_input(n: Node) -> Any:
    """Channels in front, and as many more, all 0, as fill the last block."""
    rank = n.rank(0)
    x = n.x(0)
    if n.flag("channels_last"):
        x = n.emit(relax.op.permute_dims(x, [0, rank - 1, *range(1, rank - 1)]))
    channels = dims_of(x)[1]
    if not isinstance(channels, int):
        raise n.refuse("of a number of channels that is only known at run time")
    more = -channels % n.int_attr("block")
    return pad_tensor(n, x, [0] * rank, [0, more, *[0] * (rank - 2)], "constant", np.zeros((), np.float32))


@op("ReorderOutput", domain=NCHWC)
def reorder_output(n: Node) -> Any:
    """Without the channels that only fill a block."""
    channels, have = n.int_attr("channels"), n.shape(0)[1]
    if not isinstance(have, int) or not 0 < channels <= have:
        raise n.broken(f"takes {channels} channels of {have}")
    y = take_slice(n, n.x(0), 1, 0, channels)
    return relax.op.permute_dims(y, [0, *range(2, n.rank(0)), 1]) if n.flag("channels_last") else y


@op("Conv", domain=NCHWC)
def nchwc_conv(n: Node) -> Any:
    """activation(conv(X, W) + B + Z), W in blocks."""
    w, block, groups = n.const(1, "filters"), n.int_attr("block"), n.int_attr("group", 1)
    channels = n.shape(0)[1]
    alone = groups > 1 and w.shape[1] == 1 and groups == w.shape[0]
    inner = not alone and w.shape[1] % block == 0
    if not inner and not alone and channels != w.shape[1]:
        raise n.broken(f"has filters of {w.shape[1]} channels for {channels}")
    rest = n.inputs[2:]
    plain = n.with_inputs([n.value(0), n.graph.wrap(constant(in_order(w, block, inner)), n.place), *rest])
    return behind_conv(plain, conv(plain))


for _name, _pool in (
    ("MaxPool", max_pool),
    ("AveragePool", average_pool),
    ("GlobalMaxPool", global_max_pool),
    ("GlobalAveragePool", global_average_pool),
):
    op(_name, domain=NCHWC)(_pool)


@op("Upsample", domain=NCHWC)
def nchwc_upsample(n: Node) -> Any:
    """By whole numbers, nearest (of the pixels before) or linear."""
    how = n.str_attr("coordinate_transformation_mode", "asymmetric")
    proto = onnx.helper.make_node(
        "Resize", ["x", "", "scales"], ["y"], mode=n.str_attr("mode", "nearest"), coordinate_transformation_mode=how, nearest_mode="floor",
    )  # fmt: skip
    scales = n.graph.wrap(np.array(n.ints_attr("scales"), np.float32), n.place)
    return resize(Node(n.graph, n.scope, proto, 13, 13, n.place, [n.value(0), None, scales]))
