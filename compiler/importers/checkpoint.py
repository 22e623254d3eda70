"""Weights from what training left behind, without running anything that a file carries: safetensors, .pt, DDP, FSDP, DCP."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from maas_rt._errors import CheckpointError

from ._torch_file import read_torch_file
from .dcp import read_dcp

__all__ = ["load_checkpoint", "read_checkpoint"]

# Wrappers that training puts around the model, each a prefix of every name inside it.
_PREFIXES = ("module.", "_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
# Keys under which training scripts keep the model's weights beside an optimizer's state.
_NESTS = ("state_dict", "model", "model_state_dict", "module", "net", "ema", "app")
_LISTED = 20


def load_checkpoint(module: torch.nn.Module, path: Path) -> None:
    """Fill the module from a checkpoint; every missing, surplus and misshapen key is listed in one CheckpointError."""
    found = _fitted(module, read_checkpoint(path))
    wanted = {name: value for name, value in module.state_dict().items() if isinstance(value, torch.Tensor)}
    missing = sorted(name for name in wanted if name not in found)
    surplus = sorted(name for name in found if name not in wanted)
    misshapen = sorted(
        f"{name} (checkpoint {tuple(found[name].shape)}, model {tuple(value.shape)})"
        for name, value in wanted.items()
        if name in found and found[name].shape != value.shape
    )
    missing = [name for name in missing if not _is_tied(name, wanted, found)]
    if missing or surplus or misshapen:
        parts = [
            (_listing("lacks", missing)),
            (_listing("has no use for", surplus)),
            (_listing("has another shape of", misshapen)),
        ]
        text = "; ".join(part for part in parts if part)
        raise CheckpointError(
            f"the checkpoint {path.name} does not fit the model: it {text}", missing, surplus, misshapen
        )
    module.load_state_dict(found, strict=False, assign=False)


def _listing(what: str, names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"{what} {', '.join(names[:_LISTED])}{more}"


def _is_tied(name: str, wanted: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor]) -> bool:
    """Whether the model keeps this weight in the same memory as one that the checkpoint has."""
    tensor = wanted[name]
    return any(
        other in found and value.data_ptr() == tensor.data_ptr() and value.shape == tensor.shape and tensor.numel() > 0
        for other, value in wanted.items()
        if other != name
    )


def read_checkpoint(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint by name, wrappers' prefixes still on them."""
    path = Path(path)
    if path.is_dir():
        return read_dcp(path)
    if path.suffix.lower() == ".safetensors":
        return _read_safetensors(path)
    return _tensors(_unnested(read_torch_file(path)), path)


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(str(path)))
    except (SafetensorError, ValueError, KeyError, OSError) as error:
        raise CheckpointError(f"{path.name} is not a readable .safetensors file: {_one_line(error)}") from error


def _one_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _unnested(value: Any) -> Any:
    """The model's weights where a training script saved them beside other things."""
    while isinstance(value, Mapping) and not any(isinstance(v, torch.Tensor) for v in value.values()):
        nest = next((key for key in _NESTS if isinstance(value.get(key), Mapping)), None)
        if nest is None:
            return value
        value = value[nest]
    return value


def _tensors(value: Any, path: Path) -> dict[str, torch.Tensor]:
    if not isinstance(value, Mapping):
        raise CheckpointError(f"{path.name} holds a {type(value).__name__}: expected a state dict, names with tensors")
    tensors = {str(name): tensor for name, tensor in value.items() if isinstance(tensor, torch.Tensor)}
    if not tensors:
        raise CheckpointError(f"{path.name} holds no tensors under names: expected a state dict")
    return tensors


def _fitted(module: torch.nn.Module, found: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The checkpoint's names in the model's words: wrappers' prefixes, and a common prefix such as `model.`, are taken off."""
    wanted = set(module.state_dict())
    unwrapped = {_unwrapped(name): tensor for name, tensor in found.items()}
    candidates = [found, unwrapped]
    for nest in _NESTS:
        inner = {name[len(nest) + 1 :]: tensor for name, tensor in unwrapped.items() if name.startswith(nest + ".")}
        candidates.append({_unwrapped(name): tensor for name, tensor in inner.items()})
    return max(candidates, key=lambda names: len(wanted & set(names)))


def _unwrapped(name: str) -> str:
    """The name without wrappers' prefixes, wherever in it they stand; `module.` only in front."""
    changed = True
    while changed:
        changed = False
        for prefix in _PREFIXES:
            if name.startswith(prefix):
                name, changed = name[len(prefix) :], True
    for prefix in _PREFIXES[1:]:
        name = name.replace("." + prefix, ".")
    return name
