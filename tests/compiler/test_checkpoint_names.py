"""Where in a checkpoint the model's weights are: nests, prefixes, wrappers, what lies beside, and values that are no tensors."""

from __future__ import annotations

import argparse
import collections
import datetime
import enum
import functools
import io
import pickle
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from maas_rt.compiler._configs import Weights
from maas_rt.compiler.importers import import_model
from maas_rt.compiler.importers._layouts import open_contents
from maas_rt.compiler.importers._saved import SavedFile
from maas_rt.compiler.importers.checkpoint import load_checkpoint
from torch import nn
from torch.optim.swa_utils import AveragedModel

import maas_rt
from tests.compiler._checkpoint_models import Extra, Pair, Renames, Tied, filled, filled_with, net, refusal, torch_reads

STATE = filled(net())
OTHER = {name: value + 1 for name, value in STATE.items()}
PAIR = filled(Pair())


def under(prefix: str, state: dict[str, torch.Tensor] = STATE) -> dict[str, torch.Tensor]:
    return {prefix + name: value for name, value in state.items()}


def optimizer() -> dict[str, Any]:
    module = net()
    chosen = torch.optim.Adam(module.parameters())
    module(torch.ones(5, 3)).sum().backward()
    chosen.step()
    return chosen.state_dict()


class Kind(enum.Enum):
    ONE = 1


class Mine:
    """A class that only the training script has."""

    class Inner:
        pass

    def __init__(self) -> None:
        self.lr = 0.1


def beside() -> dict[str, Any]:
    """What scripts save with the weights, pickled as objects."""
    return {
        "args": argparse.Namespace(lr=0.1, out=Path("/runs/1"), mine=Mine()),
        "milestones": collections.Counter([1, 2]),
        "started": datetime.datetime(2024, 1, 2),
        "took": datetime.timedelta(3),
        "score": np.float32(0.5),
        "numpy_rng": np.random.RandomState(0).get_state(),
        "python_rng": random.getstate(),
        "seen": collections.defaultdict(list, {"a": [1]}),
        "last": collections.deque([1, 2]),
        "array": np.arange(3),
        "enum": Kind.ONE,
        "nested": Mine.Inner(),
        "function": nn.functional.relu,
        "partial": functools.partial(nn.Linear, 3),
        "pattern": re.compile("a"),
        "generator": np.random.default_rng(0),
        "error": ValueError("x"),
        "keys": {(1, 2): 3, 1.5: 2, None: 1, b"x": 0},
        "types": (Mine, float, torch.float16, complex(1, 2), slice(1, 2), {1, 2}),
    }


NESTED: dict[str, Any] = {
    "a loose tensor beside": {"model": STATE, "loss": torch.tensor(0.3)},
    "the ImageNet example": {
        "epoch": 1,
        "arch": "resnet18",
        "state_dict": under("module."),
        "best_acc1": torch.tensor(5.0),
        "optimizer": optimizer(),
        "scheduler": {"milestones": collections.Counter([1]), "last_epoch": 3},
    },
    "objects beside": {"model": STATE, **beside()},
    "an averaged model": {"module.module." + name: value for name, value in STATE.items()}
    | {"n_averaged": torch.tensor(2)},
    "four keys deep": {"a": {"b": {"c": {"model": under("model.")}}}},
    "the DCP tutorial": {"app": {"model": STATE, "optim": optimizer()}},
    "torchtitan, flat": {
        **STATE,
        "optimizer": {"state": {name: {"exp_avg": value} for name, value in STATE.items()}},
        "train_state": {"step": torch.tensor(3)},
        "lr_scheduler": {"last_epoch": 3},
    },
    "Lightning": {
        "state_dict": under("model.") | {"loss_fn.weight": torch.ones(2)},
        "optimizer_states": [optimizer()],
        "hyper_parameters": argparse.Namespace(width=4),
        "loops": {"fit_loop": {"state_dict": {}}},
    },
    "compiled and distributed": under("_orig_mod.module."),
    "activation checkpointing within": {
        name.replace("0.", "0._checkpoint_wrapped_module."): value for name, value in STATE.items()
    },
    "a tuple": (STATE, 3),
    "a list with the optimizer's": [STATE, optimizer()],
    "thop's counters": {**STATE, "total_ops": torch.ones(1), "0.total_params": torch.ones(1)},
    "a nest and its average": {"model": STATE, "model_ema": OTHER, "ema": {"shadow": OTHER, "decay": 0.9}},
    "twice the same": {"model": STATE, "best": STATE},
    "a nest with another's statistics": {"generator": STATE, "discriminator": {"main.0.weight": torch.ones(3)}},
    "master weights in the optimizer": {"model": STATE, "optimizer": {"fp32_param": OTHER, "exp_avg": OTHER}},
    **{
        f"under {key}": {key: STATE}
        for key in (
            "model_state weights params network generator student backbone model_ema state_dict_ema ema_state_dict net policy"
        ).split()
    },
}


@pytest.mark.parametrize("what", NESTED)
def test_weights_are_found(tmp_path: Path, what: str) -> None:
    """By the model's own names; torch's reading agrees on each of them."""
    torch.save(NESTED[what], tmp_path / "w.pt")
    filled_with(tmp_path / "w.pt", STATE)
    torch_reads(open_contents(tmp_path / "w.pt"))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("what", ["the DCP tutorial", "torchtitan, flat", "four keys deep", "a nest and its average"])
def test_weights_are_found_in_directories(tmp_path: Path, what: str) -> None:
    dcp.save(NESTED[what], checkpoint_id=str(tmp_path / "dcp"), no_dist=True)
    filled_with(tmp_path / "dcp", STATE)


def test_averaged_models_and_wrapped_submodules(tmp_path: Path) -> None:
    averaged = AveragedModel(net())
    torch.save(averaged.state_dict(), tmp_path / "w.pt")
    filled_with(tmp_path / "w.pt", averaged.module.state_dict())
    wrapped = {name.replace("encoder.", "encoder.module."): value for name, value in PAIR.items()}
    parts = {
        "encoder": {name[8:]: value for name, value in PAIR.items() if name.startswith("encoder.")},
        "head": {name[5:]: value for name, value in PAIR.items() if name.startswith("head.")},
        "optimizer": optimizer(),
    }
    for saved in (wrapped, parts):
        torch.save(saved, tmp_path / "w.pt")
        filled_with(tmp_path / "w.pt", PAIR, Pair)


class Outer(nn.Module):
    """As a factory wraps a model to choose its outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = net()


def test_a_model_that_wraps_what_was_saved(tmp_path: Path) -> None:
    torch.save({"model": under("module."), "step": 3}, tmp_path / "w.pt")
    filled_with(tmp_path / "w.pt", under("inner."), Outer)


class Alike(nn.Module):
    """Names that differ by a wrapper's word alone."""

    def __init__(self) -> None:
        super().__init__()
        self.module = nn.Linear(2, 2)
        self.weight, self.bias = nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(2))
        self.register_buffer("position_ids", torch.arange(4), persistent=False)


def test_names_that_are_the_models_own(tmp_path: Path) -> None:
    """A submodule that is called `module`, wrapped or not; a buffer that was saved once, and is made by the model now."""
    state = filled(Alike())
    wrapped = {f"module.{name}": value for name, value in state.items()}
    for saved in (state, wrapped, {"model": wrapped, "epoch": 1}, {**state, "position_ids": torch.arange(4)}):
        torch.save(saved, tmp_path / "w.pt")
        filled_with(tmp_path / "w.pt", state, Alike)
    torch.save({**state, "position_ids": torch.arange(4) + 1}, tmp_path / "w.pt")
    assert "position_ids" in refusal(tmp_path / "w.pt", Alike)


CHOSEN: list[tuple[Any, Weights]] = [
    ({"model": OTHER, "model_ema": STATE}, Weights(key="model_ema")),
    ({"a": {"model": OTHER, "ema": STATE}}, Weights(key="a.ema")),
    ({"generator": OTHER, "discriminator": under("module.")}, Weights(key="discriminator")),
    ({**under("trunk."), "head.weight": torch.ones(1)}, Weights(prefix="trunk.")),
    ({**OTHER, **under("module.")}, Weights(prefix="module.")),
    ({**STATE, "head.weight": torch.ones(1)}, Weights(ignore_surplus=True)),
    ({"model": {**under("x."), "y": torch.ones(1)}}, Weights(key="model", prefix="x.")),
]


@pytest.mark.parametrize(("saved", "weights"), CHOSEN)
def test_what_is_ambiguous_is_chosen_by_the_user(tmp_path: Path, saved: Any, weights: Weights) -> None:
    torch.save(saved, tmp_path / "w.pt")
    filled_with(tmp_path / "w.pt", STATE, weights=weights)


REFUSED: list[tuple[Any, Weights | None, list[str]]] = [
    ({"best": OTHER, "last": STATE}, None, ["--key", "best", "last"]),
    ({"generator": STATE, "discriminator": OTHER}, None, ["--key", "generator", "discriminator"]),
    ({**STATE, **under("module.", OTHER)}, None, ["module.0.weight", "--ignore-surplus"]),
    ({**under("trunk."), "head.weight": torch.ones(1)}, None, ["head.weight", "--ignore-surplus"]),
    ({"model": STATE}, Weights(key="ema"), ["'ema'", "model"]),
    ({"model": under("layers.")} | {"x": {"y": torch.ones(1)}}, Weights(prefix="x."), ["0.weight"]),
    ({name.replace("0.", "first."): value for name, value in STATE.items()}, None, ["first.weight", "0.weight"]),
    ({"optimizer": optimizer()}, None, ["optimizer", "--key"]),
    ({**STATE, "0.weight": STATE["0.weight"].to_sparse()}, None, ["0.weight", "sparse", "to_dense"]),
    ({name: value[:2] if name.startswith("2.w") else value for name, value in STATE.items()} | {"2.weight": STATE["2.weight"][:1]}, None, ["1/2", "tensor parallelism"]),
    ({**STATE, "0.bias": torch.zeros(4, dtype=torch.complex64)}, None, ["0.bias", "complex"]),
    ({**STATE, "lora_A.weight": torch.ones(1)}, None, ["PEFT", "merge_and_unload"]),
    (torch.ones(1), None, ["tensor", "state dict"]),
    ("text", None, ["str", "state dict"]),
    ({}, None, ["state dict"]),
]  # fmt: skip


@pytest.mark.parametrize(("saved", "weights", "words"), REFUSED)
def test_what_does_not_fit_is_told(tmp_path: Path, saved: Any, weights: Weights | None, words: list[str]) -> None:
    torch.save(saved, tmp_path / "w.pt")
    text = refusal(tmp_path / "w.pt", weights=weights)
    assert all(word in text for word in words), text


# State that is no tensor.

PLAIN = [None, 3, "x", [1, (2, torch.ones(1))], {"a": {"b": torch.ones(2)}, "l": [1.5]}, {1, 2}, b"abc", torch.ones(3)]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("value", PLAIN)
def test_extra_state_of_plain_data(tmp_path: Path, value: Any) -> None:
    torch.save({"model": Extra(value).state_dict()}, tmp_path / "w.pt")
    dcp.save({"model": Extra(value).state_dict()}, checkpoint_id=str(tmp_path / "dcp"), no_dist=True)
    for path in (tmp_path / "w.pt", tmp_path / "dcp"):
        module = Extra()
        load_checkpoint(module, path)
        assert repr(module.gain) == repr(value)


@pytest.mark.parametrize(
    "value", [Mine(), np.float32(2), io.BytesIO(b"x"), pickle.dumps(3), {"a": [Mine()]}, torch.frombuffer(bytearray(pickle.dumps(3)), dtype=torch.uint8)]
)  # fmt: skip
def test_extra_state_that_is_not_is_refused_by_name(tmp_path: Path, value: Any) -> None:
    torch.save(Extra(value).state_dict(), tmp_path / "w.pt")
    assert "_extra_state" in refusal(tmp_path / "w.pt", Extra)


def gain() -> nn.Module:
    return Extra({"by": 1.0})


def test_extra_state_reaches_the_numbers(tmp_path: Path) -> None:
    trained = Extra({"by": 3.0})
    torch.save(trained.state_dict(), tmp_path / "w.pt")
    model = import_model(tmp_path / "w.pt", (torch.ones(2, 3),), factory=f"{__name__}:gain")
    assert model.example_inputs is not None
    found = model.source.run(model.example_inputs)["output_0"]
    assert (found == trained(torch.ones(2, 3)).detach().numpy()).all()


def test_conjugate_and_negative_views(tmp_path: Path) -> None:
    class Views(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("c", torch.zeros(6, dtype=torch.complex64))
            self.register_buffer("n", torch.zeros(6))
            self.register_buffer("b", torch.zeros(6, dtype=torch.complex64))

    z = torch.randn(3, 6, dtype=torch.complex64).unbind()
    z = [each.clone() for each in z]
    state = {"c": z[0].conj(), "n": z[1].conj().imag, "b": torch._neg_view(z[2].conj())}
    assert state["c"].is_conj() and state["n"].is_neg() and state["b"].is_neg()
    torch.save(state, tmp_path / "w.pt")
    filled_with(tmp_path / "w.pt", state, Views)


# What modules do while they load.


class WeightNormed(nn.Module):
    def __init__(self, old: bool = False) -> None:
        super().__init__()
        norm = nn.utils.weight_norm if old else nn.utils.parametrizations.weight_norm
        self.fc = norm(nn.Linear(3, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self.fc(x))


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_load_hooks_run_before_names_are_compared(tmp_path: Path) -> None:
    state = filled(Renames())
    renamed = {name.replace("fc.", "module.linear."): value for name, value in state.items()}
    torch.save({"epoch": 1, "model": renamed, "optimizer": optimizer()}, tmp_path / "w.pt")
    filled_with(tmp_path / "w.pt", state, Renames)
    old = WeightNormed(old=True)
    torch.save(old.state_dict(), tmp_path / "w.pt")
    new = WeightNormed()
    load_checkpoint(new, tmp_path / "w.pt")
    assert torch.allclose(new(torch.ones(2, 3)), old(torch.ones(2, 3)))


def test_versions_reach_the_module(tmp_path: Path) -> None:
    class Versioned(nn.Linear):
        _version = 2

        def _load_from_state_dict(self, state: Any, prefix: str, metadata: Any, *rest: Any) -> None:
            if metadata.get("version", 0) < 2:
                state[prefix + "bias"] = state[prefix + "bias"] * 2
            super()._load_from_state_dict(state, prefix, metadata, *rest)

    module = nn.Sequential(Versioned(2, 2))
    expected = filled(module)
    torch.save(module.state_dict(), tmp_path / "w.pt")
    filled_with(tmp_path / "w.pt", expected, lambda: nn.Sequential(Versioned(2, 2)))


def meta(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        with torch.device("meta"):
            return make()

    return build


def test_factories_on_the_meta_device(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "w.pt")
    filled_with(tmp_path / "w.pt", STATE, meta(net))
    tied = filled(Tied())
    torch.save({"b.weight": tied["b.weight"]}, tmp_path / "w.pt")
    filled_with(tmp_path / "w.pt", tied, meta(Tied))

    class Unsaved(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 2)
            self.register_buffer("table", torch.ones(2), persistent=False)

    torch.save(filled(Unsaved()), tmp_path / "w.pt")
    assert "table" in refusal(tmp_path / "w.pt", meta(Unsaved))


def lazy() -> nn.Module:
    return nn.Sequential(nn.LazyLinear(4), nn.LazyBatchNorm1d(), nn.Linear(4, 2))


def test_lazy_modules(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "w.pt")
    filled_with(tmp_path / "w.pt", STATE, lazy)
    model = import_model(tmp_path / "w.pt", (torch.ones(2, 3),), factory=f"{__name__}:lazy")
    plain = net().eval()
    plain.load_state_dict(STATE)
    assert model.example_inputs is not None
    found = model.source.run(model.example_inputs)["output_0"]
    assert (found == plain(torch.ones(2, 3)).detach().numpy()).all()
    torch.save({name: value for name, value in STATE.items() if name != "0.weight"}, tmp_path / "w.pt")
    assert "0.weight" in refusal(tmp_path / "w.pt", lazy)


def test_ties_that_the_checkpoint_does_not_have(tmp_path: Path) -> None:
    state = filled(Tied())
    torch.save(state, tmp_path / "w.pt")
    filled_with(tmp_path / "w.pt", state, Tied)
    torch.save({"a.weight": state["a.weight"], "b.weight": state["b.weight"] + 1}, tmp_path / "w.pt")
    assert "same memory" in refusal(tmp_path / "w.pt", Tied)


def test_two_readers_must_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(STATE, tmp_path / "w.pt")
    monkeypatch.setattr(SavedFile, "read_by_library", lambda self, locations: [torch.zeros(1) for _ in locations])
    assert "two ways" in refusal(tmp_path / "w.pt")


def test_files_from_before_torch_1_6(tmp_path: Path) -> None:
    saved = {"model": STATE, "args": argparse.Namespace(lr=1), "t": STATE["0.weight"].t()}
    torch.save(saved, tmp_path / "w.pt", _use_new_zipfile_serialization=False)
    filled_with(tmp_path / "w.pt", STATE)
    data = (tmp_path / "w.pt").read_bytes()
    for cut in (20, len(data) // 2, len(data) - 9):
        (tmp_path / "w.pt").write_bytes(data[:cut])
        refusal(tmp_path / "w.pt")


def test_weights_are_for_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(maas_rt.InvalidArgumentError, match="--model"):
        import_model(net(), (torch.ones(2, 3),), weights=Weights(key="model"))
