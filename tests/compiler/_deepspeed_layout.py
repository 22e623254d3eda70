"""Folders as DeepSpeed's save_checkpoint writes them, by hand: the layout is the one that its script zero_to_fp32.py reads."""

from __future__ import annotations

import enum
import math
from pathlib import Path
from typing import Any

import torch

__all__ = ["write_zero"]


class ZeroStageEnum(int, enum.Enum):
    optimizer_states = 1
    gradients = 2
    weights = 3


class LossScaler:
    """DeepSpeed pickles objects of its own beside the tensors."""

    def __init__(self) -> None:
        self.scale = 1.0


def write_zero(
    folder: Path,
    stage: int,
    world: int,
    parameters: list[dict[str, torch.Tensor]],
    buffers: dict[str, torch.Tensor],
    *,
    frozen: dict[str, torch.Tensor] | None = None,
    shared: dict[str, str] | None = None,
    dtype: torch.dtype = torch.bfloat16,
) -> dict[str, torch.Tensor]:
    """Write `folder`/latest and its step for groups of float32 parameters; returns the float32 state that was split."""
    step = folder / "global_step3"
    step.mkdir(parents=True)
    (folder / "latest").write_text("global_step3")
    (folder / "zero_to_fp32.py").write_text("# DeepSpeed copies its script here\n")
    frozen, shared = frozen or {}, shared or {}
    flat_groups = [torch.cat([value.reshape(-1) for value in group.values()]) for group in parameters]
    everything = {name: value for group in parameters for name, value in group.items()}
    common: dict[str, Any] = {
        "buffer_names": list(buffers),
        "param_shapes": [{name: value.shape for name, value in group.items()} for group in parameters],
        "frozen_param_shapes": {name: value.shape for name, value in frozen.items()} or None,
        "shared_params": shared,
        "ds_version": "0.19.8",
        "ds_config": {"zero_optimization": {"stage": stage}},
        "lr_scheduler": None,
        "optimizer": None,
        "scaler": LossScaler(),
    }
    for rank in range(world):
        whole = {name: value.to(dtype) for name, value in {**everything, **frozen}.items()} | buffers
        whole |= {name: whole[other] for name, other in shared.items()}
        fragments = frozen
        if stage == 3:
            whole = {name: torch.empty(0, dtype=dtype) for name in {**everything, **frozen}} | buffers
            fragments = {name: _cut(value, world)[rank] for name, value in frozen.items()}
        if rank == 0 or stage == 3:
            name = f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt" if stage == 3 else "mp_rank_00_model_states.pt"
            torch.save({**common, "module": whole, "frozen_param_fragments": fragments or None}, step / name)
        if stage == 3:
            groups = [torch.cat([_cut(value, world)[rank] for value in group.values()]) for group in parameters]
        else:
            groups = [_padded(flat, 2 * world).chunk(world)[rank].clone() for flat in flat_groups]
        optimizer = {
            "zero_stage": ZeroStageEnum(stage),
            "partition_count": world if stage == 3 else [world] * len(groups),
            "fp32_flat_groups" if stage == 3 else "single_partition_of_fp32_groups": groups,
            "loss_scaler": LossScaler(),
            "base_optimizer_state": {"state": {}, "param_groups": []},
        }
        torch.save(
            {"optimizer_state_dict": optimizer, "ds_config": {}, "ds_version": "0.19.8"},
            step / f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt",
        )
    floats = {name: value.float() if value.is_floating_point() else value for name, value in buffers.items()}
    state = {**floats, **everything, **frozen}
    return state | {name: state[other] for name, other in shared.items()}


def _padded(flat: torch.Tensor, multiple: int) -> torch.Tensor:
    return torch.nn.functional.pad(flat, (0, -len(flat) % multiple))


def _cut(value: torch.Tensor, world: int) -> list[torch.Tensor]:
    """A weight's parts by rank under ZeRO 3, each rounded up."""
    part = math.ceil(value.numel() / world)
    flat = torch.nn.functional.pad(value.reshape(-1), (0, part * world - value.numel()))
    return [piece.clone() for piece in flat.split(part)] if part else [flat.clone()] * world
