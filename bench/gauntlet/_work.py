"""Counts the least work of a model: floating-point operations by the formulas of its operators, and bytes that no program can avoid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.gauntlet._roofline import Work


def work_of(module: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> Work:
    """Counted while eager torch runs the model: matrix products, convolutions, attention and recurrent layers."""
    rows = _RowsRead(module)
    counter = FlopCounterMode(display=False, custom_mapping=_FORMULAS)
    with torch.no_grad(), counter:  # not inference_mode, under which layers are seen by other names
        result = module(**inputs)
    outputs = result if isinstance(result, tuple) else (result,)
    tables = {id(table.weight) for table in rows.tables}
    weights = sum(_bytes(p) for p in module.parameters() if id(p) not in tables)
    values = sum(_bytes(t) for t in (*inputs.values(), *outputs))
    rows.remove()
    return Work(float(counter.get_total_flops()), float(weights + values + rows.bytes))


class _RowsRead:
    """Counts the bytes of the distinct rows that a model's embeddings read, once a table."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.bytes = 0
        self.tables = [part for part in module.modules() if isinstance(part, torch.nn.Embedding)]
        self._handles = [table.register_forward_pre_hook(self._count) for table in self.tables]

    def _count(self, table: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        assert isinstance(table, torch.nn.Embedding)
        self.bytes += int(torch.unique(args[0]).numel()) * table.embedding_dim * table.weight.element_size()

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _attention(q: Sequence[int], k: Sequence[int], v: Sequence[int], *_: Any, **__: Any) -> int:
    """Both products of attention; q [B, H, Sq, D], k [B, H, Sk, D], v [B, H, Sk, Dv]."""
    batch, heads, queries, width = q
    return 2 * batch * heads * queries * k[2] * (width + v[3])


def _lstm_layer(x: Sequence[int], w: Sequence[int], r: Sequence[int], *_: Any, **__: Any) -> int:
    """One direction of one layer; x [S, B, I] (batch first or not), w [4H, I], r [4H, H]."""
    return 2 * x[0] * x[1] * (w[0] * w[1] + r[0] * r[1])


_FORMULAS = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten.mkldnn_rnn_layer: _lstm_layer,
}
