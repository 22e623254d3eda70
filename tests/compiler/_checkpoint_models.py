"""Small modules whose weights the checkpoint tests save and load."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from maas_rt.compiler._configs import Weights
from maas_rt.compiler.importers._contents import StoredTensor, leaves
from maas_rt.compiler.importers.checkpoint import load_checkpoint
from torch import nn

import maas_rt

__all__ = ["Extra", "Pair", "Renames", "Tied", "filled", "filled_with", "net", "refusal"]


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


class Pair(nn.Module):
    """A submodule that training wraps, beside one that it does not."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.head = net(), nn.Linear(2, 2)


class Extra(nn.Module):
    """State beside tensors, as get_extra_state gives it."""

    def __init__(self, gain: Any = 1.0) -> None:
        super().__init__()
        self.fc, self.gain = nn.Linear(3, 2), gain

    def get_extra_state(self) -> Any:
        return self.gain

    def set_extra_state(self, state: Any) -> None:
        self.gain = state

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self.fc(x) * self.gain["by"])


class Renames(nn.Module):
    """Takes older checkpoints, whose layer had another name, by a load hook."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 2)
        self.register_load_state_dict_pre_hook(self._rename)

    @staticmethod
    def _rename(module: nn.Module, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        for name in [name for name in state if name.startswith(prefix + "linear.")]:
            state[prefix + "fc." + name[len(prefix) + 7 :]] = state.pop(name)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
        self.b.weight = self.a.weight


def filled(module: nn.Module) -> dict[str, torch.Tensor]:
    """The module's state with values of its own everywhere."""
    torch.manual_seed(5)
    state = {name: value for name, value in module.state_dict().items() if isinstance(value, torch.Tensor)}
    for value in state.values():
        value.copy_(torch.rand(value.shape) + 0.1 if value.is_floating_point() else torch.tensor(3))
    return {name: value.clone() for name, value in state.items()}


def torch_reads(contents: Any) -> None:
    """Each tensor that these contents hold has to be there in torch's own reading."""
    stored = [place for place, leaf in leaves(contents.tree) if isinstance(leaf, StoredTensor)]
    assert all(isinstance(tensor, torch.Tensor) for tensor in contents.read_by_library(stored))


def filled_with(
    path: Path | list[Path],
    expected: Mapping[str, torch.Tensor],
    make: Callable[[], nn.Module] = net,
    weights: Weights | None = None,
) -> None:
    """Load the checkpoint into a module of other values; every weight must become what it was."""
    module = make()
    for value in module.state_dict().values():
        if isinstance(value, torch.Tensor) and not value.is_meta and not hasattr(value, "materialize"):
            value.fill_(77)
    load_checkpoint(module, path, weights)
    found = module.state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def refusal(
    path: Path | list[Path], make: Callable[[], nn.Module] = net, weights: Weights | None = None, longest: int = 500
) -> str:
    """The sentence with which the checkpoint is refused."""
    with pytest.raises(maas_rt.CheckpointError) as caught:
        load_checkpoint(make(), path, weights)
    text = str(caught.value)
    assert text and "\n" not in text and len(text) < longest
    return text
