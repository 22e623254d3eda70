"""Shapes of what torch's operators give, where torch has no rule itself and an export with dynamic dimensions asks for one."""

from __future__ import annotations

import torch

__all__: list[str] = []

_SWITCHED = "_fake_quantize_per_tensor_affine_cachemask_tensor_qparams"  # fake_quantize_per_tensor_affine with tensors for scale and zero


def _switched(
    x: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, enabled: torch.Tensor, low: int, high: int
) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.empty_like(x), torch.empty_like(x, dtype=torch.bool)


_RULES = torch.library.Library("aten", "IMPL")  # its end would be that of the rules
if not torch._C._dispatch_has_kernel_for_dispatch_key(f"aten::{_SWITCHED}", "Meta"):
    _RULES.impl(_SWITCHED, _switched, "Meta")
