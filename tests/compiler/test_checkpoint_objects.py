"""Weights in objects that are no plain containers, and files that are no checkpoint of torch: read without their code, or told what to do."""

from __future__ import annotations

import argparse
import collections
import copy
import io
import json
import pickle
import struct
import tarfile
import uuid
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from maas_rt.compiler.importers._saved import SavedFile
from torch import nn
from torch.nn.utils import prune

from tests.compiler._checkpoint_models import filled, filled_with, net, refusal, torch_reads

STATE = filled(net())
OTHER = {name: value + 1 for name, value in STATE.items()}


def under(prefix: str, state: dict[str, Any] = STATE) -> dict[str, Any]:
    return {prefix + name: value for name, value in state.items()}


def module(state: dict[str, Any] = STATE) -> nn.Module:
    made = net()
    made.load_state_dict(state)
    return made


class Ordered(collections.OrderedDict):  # type: ignore[type-arg]
    pass


class Plain(dict):  # type: ignore[type-arg]
    pass


class Holder:
    """A trainer, a learner: whatever has its model as an attribute."""

    def __init__(self, **attributes: Any) -> None:
        vars(self).update(attributes)


class Slotted:
    __slots__ = ("model",)


@dataclass
class Snapshot:
    model: dict[str, Any]
    step: int


Parts = collections.namedtuple("Parts", "model step")


def with_attribute(holder: Any) -> Any:
    holder.step = 3
    return holder


def slotted() -> Slotted:
    made = Slotted()
    made.model = STATE
    return made


def in_circles() -> dict[str, Any]:
    nodes = [Holder() for _ in range(40)]
    for node in nodes:
        vars(node).update({f"n{i}": other for i, other in enumerate(nodes)})
    return {"model": STATE, "graph": nodes[0]}


ARRAYS = {name: value.numpy() for name, value in STATE.items()}
OBJECTS: dict[str, Any] = {
    "a class of OrderedDict": Ordered(STATE),
    "a class of dict, with an attribute": with_attribute(Plain(STATE)),
    "UserDict": collections.UserDict(STATE),
    "a named tuple": Parts(STATE, 3),
    "a dataclass": Snapshot(STATE, 3),
    "a namespace": argparse.Namespace(model=under("module."), lr=0.1),
    "slots": slotted(),
    "a learner, pickled whole": Holder(model=module(), opt=None, callbacks=[Holder()]),
    "deep in objects": {"state": Holder(inner=Ordered(net=under("_orig_mod.")))},
    "arrays of numpy": ARRAYS,
    "arrays of numpy, a nest": {"policy": ARRAYS, "rng": np.random.get_state()},
    "arrays by columns and of other byte order": {
        name: np.asfortranarray(value).astype(value.dtype.newbyteorder(">")) for name, value in ARRAYS.items()
    },
    "objects that hold each other": in_circles(),
    "methods, constants": {"model": STATE, "fit": Holder().__init__, "rest": ..., "id": uuid.uuid4()},  # type: ignore[misc]
    "a network among hyperparameters": {"state_dict": under("model."), "hyper_parameters": {"net": module(OTHER)}},
    "Lightning's weight averaging": {
        "state_dict": under("model."),
        "current_model_state": under("model.", OTHER),
        "averaging_state": {"n_averaged": torch.tensor(3)},
    },
}


@pytest.mark.parametrize("what", OBJECTS)
def test_weights_in_objects(tmp_path: Path, what: str) -> None:
    torch.save(OBJECTS[what], tmp_path / "w.pt")
    filled_with(tmp_path / "w.pt", STATE)
    torch_reads(SavedFile(tmp_path / "w.pt"))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickles_of_pickle(tmp_path: Path, protocol: int) -> None:
    for saved in ({"model": ARRAYS, "__author__": "x", "matching_heuristics": True}, STATE, OBJECTS["a namespace"]):
        (tmp_path / "w.pkl").write_bytes(pickle.dumps(saved, protocol))
        filled_with(tmp_path / "w.pkl", STATE)


def test_arrays_that_lie(tmp_path: Path) -> None:
    good = pickle.dumps({"0.weight": np.zeros((4, 3), np.float32)}, 3)
    for before, after in ((b"K\x04K\x03", b"K\x04K\x04"), (b"K\x04K\x03", b"K\x04J\xff\xff\xff\xff"), (b"f4", b"O8")):
        assert before in good
        (tmp_path / "w.pkl").write_bytes(good.replace(before, after))
        assert "array" in refusal(tmp_path / "w.pkl") or "numpy" in refusal(tmp_path / "w.pkl")


def archive(path: Path, *members: tuple[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members:
            file.writestr(name, data)


def nemo(path: Path) -> None:
    """What ends in an archive of torch.save, but is one of tar."""
    data = io.BytesIO()
    torch.save(STATE, data)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as file:
        info = tarfile.TarInfo("model_weights.ckpt")
        info.size = len(data.getvalue())
        file.addfile(info, io.BytesIO(data.getvalue()))


FOREIGN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "m.nemo": (nemo, "tar -xf"),
    "w.npz": (lambda path: np.savez(path, **ARRAYS), "torch.from_numpy"),
    "m.keras": (lambda path: archive(path, ("config.json", b"{}"), ("model.weights.h5", b"x" * 99)), "Keras"),
    "w.zip": (lambda path: archive(path, ("folder/w.safetensors", b"x")), "give folder/w.safetensors"),
    "m.pt2": (lambda path: archive(path, ("m/models/model.json", b"{}")), "without --model"),
    "m.onnx": (lambda path: path.write_bytes(b"\x08\x08\x12\x07pytorch"), "without --model"),
    "m.safetensors": (
        lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid"),
        "git lfs pull",
    ),
    "flax.msgpack": (lambda path: path.write_bytes(b"\x81\xa6params\x80"), "Flax"),
    "m.mrt": (lambda path: path.write_bytes(b"\x89MRT\r\n\x1a\n" + bytes(64)), "as it is"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_what_is_no_checkpoint_of_torch(tmp_path: Path, name: str) -> None:
    write, words = FOREIGN[name]
    write(tmp_path / name)
    assert words in refusal(tmp_path / name)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (["_CHECKPOINT_METADATA", "manifest.ocdbt"], "JAX"),
        (["checkpoint", "m.index", "m.data-00000-of-00001"], "TensorFlow"),
        (["blobs", "snapshots", "refs"], "one revision"),
        ([], "empty"),
    ],
)
def test_folders_of_other_tools(tmp_path: Path, files: list[str], words: str) -> None:
    for name in files:
        (tmp_path / name).write_text("")
    assert words in refusal(tmp_path)


def pruned(made: nn.Module) -> None:
    prune.l1_unstructured(made[0], "weight", 0.5)  # type: ignore[index]


CHANGED: list[tuple[Callable[[nn.Module], Any], str]] = [
    (pruned, "prune.remove"),
    (lambda made: torch.nn.utils.weight_norm(made[0]), "remove_weight_norm"),
    (lambda made: torch.nn.utils.spectral_norm(made[0]), "remove_spectral_norm"),
    (lambda made: torch.nn.utils.parametrizations.weight_norm(made[0]), "remove_parametrizations"),
]


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(("change", "words"), CHANGED)
def test_weights_that_a_module_keeps_as_something_else(
    tmp_path: Path, change: Callable[[nn.Module], Any], words: str
) -> None:
    made = copy.deepcopy(module())
    change(made)
    torch.save(made.state_dict(), tmp_path / "w.pt")
    assert words in refusal(tmp_path / "w.pt", longest=700)


def test_a_header_of_safetensors_is_no_other_file(tmp_path: Path) -> None:
    header = json.dumps({"__metadata__": {}}).encode()
    (tmp_path / "w.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    assert "no tensors" in refusal(tmp_path / "w.safetensors")
