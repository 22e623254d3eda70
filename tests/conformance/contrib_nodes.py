"""Single operators of com.microsoft over their attributes, optional inputs and shapes; ONNX Runtime's CPU kernel is the oracle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

__all__ = ["Case", "cases"]

DOMAIN = "com.microsoft"
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Case:
    """`inputs` are arrays or None for what is left out; those whose numbers are in `constants` are initializers; `outputs` says which
    are asked for; an axis of a graph input that is in `dynamic` is open, as (input, axis). `expected` are the results where ONNX Runtime has no
    kernel for CPUs; `oracle` is a case that says the same and that it has a kernel for; outputs in `floats` have to be declared as float32."""

    name: str
    op: str
    inputs: Sequence[Array | None]
    attributes: dict[str, Any] = field(default_factory=dict)
    outputs: Sequence[bool] = (True,)
    constants: frozenset[int] = frozenset()
    dynamic: frozenset[tuple[int, int]] = frozenset()
    domain: str = DOMAIN
    opset: int = 17
    tolerance: float = 2e-5
    expected: Sequence[Array] = ()
    oracle: Case | None = None
    floats: frozenset[int] = frozenset()

    def model(self) -> onnx.ModelProto:
        node = helper.make_node(
            self.op,
            [f"i{k}" if x is not None else "" for k, x in enumerate(self.inputs)],
            [f"o{k}" if wanted else "" for k, wanted in enumerate(self.outputs)],
            domain=self.domain,
            **self.attributes,
        )
        graph = helper.make_graph(
            [node],
            "case",
            [self._info(k, x) for k, x in enumerate(self.inputs) if x is not None and k not in self.constants],
            [self._result(k) for k, wanted in enumerate(self.outputs) if wanted],
            [numpy_helper.from_array(x, f"i{k}") for k, x in enumerate(self.inputs) if x is not None and k in self.constants],
        )  # fmt: skip
        opsets = [helper.make_opsetid("", self.opset), helper.make_opsetid(DOMAIN, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=9)

    def feeds(self) -> dict[str, Array]:
        return {f"i{k}": x for k, x in enumerate(self.inputs) if x is not None and k not in self.constants}

    def _result(self, k: int) -> onnx.ValueInfoProto:
        if k in self.floats:
            return helper.make_tensor_value_info(f"o{k}", onnx.TensorProto.FLOAT, None)
        return onnx.ValueInfoProto(name=f"o{k}")

    def _info(self, k: int, x: Array) -> onnx.ValueInfoProto:
        dims = [f"d{k}_{a}" if (k, a) in self.dynamic else d for a, d in enumerate(x.shape)]
        kind = onnx.TensorProto.STRING if x.dtype.kind in "OUS" else helper.np_dtype_to_tensor_dtype(x.dtype)
        return helper.make_tensor_value_info(f"i{k}", kind, dims)


def cases() -> list[Case]:
    """All of them, in a fixed order; numbers are drawn anew for each theme, so that one case more changes no other theme."""
    from . import (
        contrib_nodes_attention,
        contrib_nodes_float,
        contrib_nodes_rare,
        contrib_nodes_recent,
        contrib_nodes_single,
    )

    themes = (
        contrib_nodes_float,
        contrib_nodes_attention,
        contrib_nodes_rare,
        contrib_nodes_recent,
        contrib_nodes_single,
    )
    return [case for theme in themes for case in theme.cases()]
