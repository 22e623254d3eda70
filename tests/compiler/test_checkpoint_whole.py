"""Modules that were saved whole, pickled or scripted, and files that were compressed: read as the state dict that they hold."""

from __future__ import annotations

import bz2
import gzip
import lzma
import pickle
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from maas_rt.compiler.importers._contents import StoredTensor, leaves
from maas_rt.compiler.importers._layouts import open_contents
from safetensors.torch import save
from torch import nn

from tests.compiler._checkpoint_models import Tied, filled, filled_with, net, refusal

SECONDS = 15.0


class Whole(nn.Module):
    """Buffers that are saved and not, a tie, a function among the attributes, a module in a module list."""

    def __init__(self) -> None:
        super().__init__()
        self.parts, self.tied, self.act = nn.ModuleList([net(), nn.Linear(2, 2)]), Tied(), torch.tanh
        self.register_buffer("table", torch.ones(2))
        self.register_buffer("cache", torch.ones(3), persistent=False)
        self.register_parameter("none", None)


class Versioned(nn.Linear):
    _version = 2

    def _load_from_state_dict(self, state: Any, prefix: str, metadata: Any, *rest: Any) -> None:
        if metadata.get("version", 0) < 2:
            state[prefix + "bias"] = state[prefix + "bias"] * 2
        super()._load_from_state_dict(state, prefix, metadata, *rest)


def trained(make: Callable[[], nn.Module]) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    module = make()
    return module, filled(module)


def read_twice(path: Path) -> None:
    contents = open_contents(path)
    stored = [location for location, leaf in leaves(contents.tree) if isinstance(leaf, StoredTensor)]
    assert stored and all(tensor is not None for tensor in contents.read_by_library(stored))


@pytest.mark.parametrize("legacy", [False, True])
def test_pickled_modules(tmp_path: Path, legacy: bool) -> None:
    for wrap in (lambda m: m, nn.DataParallel, lambda m: {"epoch": 1, "model": m, "ema": None}, lambda m: (m, 3)):
        module, state = trained(Whole)
        torch.save(wrap(module), tmp_path / "w.pt", _use_new_zipfile_serialization=not legacy)  # type: ignore[no-untyped-call]
        filled_with(tmp_path / "w.pt", state, Whole)
        if not legacy:  # torch looks for the sources of classes there
            read_twice(tmp_path / "w.pt")
    module, state = trained(lambda: nn.Sequential(Versioned(2, 2)))
    torch.save(module, tmp_path / "w.pt")
    filled_with(tmp_path / "w.pt", state, lambda: nn.Sequential(Versioned(2, 2)))


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_pickled_modules_with_weight_norm(tmp_path: Path) -> None:
    def make() -> nn.Module:
        return nn.Sequential(nn.utils.weight_norm(nn.Linear(3, 2)))

    module, state = trained(make)
    torch.save(module, tmp_path / "w.pt")
    filled_with(tmp_path / "w.pt", state, make)


def test_two_pickled_modules_that_differ(tmp_path: Path) -> None:
    torch.save({"model": trained(net)[0], "ema": net()}, tmp_path / "w.pt")
    filled_with(tmp_path / "w.pt", filled(net()))  # an average is taken if it is asked for
    torch.save({"first": trained(net)[0], "second": net()}, tmp_path / "w.pt")
    assert "--key" in refusal(tmp_path / "w.pt")


class Scripted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.more = net(), nn.ModuleList([nn.Linear(2, 2)])
        self.register_buffer("table", torch.ones(2))
        self.register_buffer("cache", torch.ones(2), persistent=False)
        self.plain, self.sizes, self.names = torch.ones(2), [1, 2], ["a"]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.body(x) * self.table * self.plain * self.cache * self.sizes[0]
        for layer in self.more:
            y = layer(y)
        return y


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_torchscript(tmp_path: Path) -> None:
    module, state = trained(Scripted)
    module.eval()
    for script in (torch.jit.script(module), torch.jit.trace(module, torch.ones(2, 3))):
        torch.jit.save(script, tmp_path / "w.pt")  # type: ignore[no-untyped-call]
        filled_with(tmp_path / "w.pt", state, Scripted)
        read_twice(tmp_path / "w.pt")
    torch.jit.save(torch.jit.freeze(torch.jit.script(module)), tmp_path / "w.pt")  # type: ignore[no-untyped-call]
    assert "freeze" in refusal(tmp_path / "w.pt", Scripted)
    quantized = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(3, 2)), {nn.Linear})
    torch.jit.save(torch.jit.script(quantized), tmp_path / "w.pt")  # type: ignore[no-untyped-call]
    refusal(tmp_path / "w.pt", lambda: nn.Sequential(nn.Linear(3, 2)))


PACKERS = {"w.pt.gz": gzip.compress, "w.pth.xz": lzma.compress, "w.bz2": bz2.compress, "w.bin": gzip.compress}


@pytest.mark.parametrize("name", PACKERS)
def test_compressed_files(tmp_path: Path, name: str) -> None:
    state = filled(net())
    torch.save({"model": state}, tmp_path / "plain")
    packed = PACKERS[name]((tmp_path / "plain").read_bytes())
    (tmp_path / name).write_bytes(packed)
    filled_with(tmp_path / name, state)
    read_twice(tmp_path / name)
    (tmp_path / name).write_bytes(PACKERS[name](save(state)))
    filled_with(tmp_path / name, state)
    (tmp_path / name).write_bytes(packed[: len(packed) // 2])
    assert "cut short" in refusal(tmp_path / name)
    (tmp_path / name).write_bytes(PACKERS[name](packed))
    assert "compressed" in refusal(tmp_path / name)


def test_zstd(tmp_path: Path) -> None:
    zstandard = pytest.importorskip("zstandard", reason="pip install zstandard")
    state = filled(net())
    torch.save(state, tmp_path / "plain")
    (tmp_path / "w.pt.zst").write_bytes(zstandard.compress((tmp_path / "plain").read_bytes()))
    filled_with(tmp_path / "w.pt.zst", state)


@pytest.mark.parametrize("name", ["w.pt.gz", "w.pth.xz", "w.bz2"])
def test_files_that_unpack_to_far_more(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maas_rt.compiler.importers._compressed._ALWAYS", 1 << 20)
    (tmp_path / name).write_bytes(PACKERS[name](bytes(1 << 24)))
    assert "64 times" in refusal(tmp_path / name)


# Hostile modules: what stands for them is made with the inert stand-ins alone, so no class is needed.


def written(path: Path, value: Any) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", value if isinstance(value, bytes) else pickle.dumps(value, protocol=2))
    return path


def bare(**modules: Any) -> nn.Module:
    module = nn.Module()
    module.__dict__["_modules"] = modules
    return module


def test_modules_that_contain_each_other(tmp_path: Path) -> None:
    one, other = bare(), bare()
    one.__dict__["_modules"], other.__dict__["_modules"] = {"a": other}, {"a": one, "b": one}
    began = time.monotonic()
    assert "nested too deeply" in refusal(written(tmp_path / "w.pt", one))
    shared = bare()
    for _ in range(60):
        shared = bare(a=shared, b=shared)
    assert "more modules" in refusal(written(tmp_path / "w.pt", shared))
    assert "more modules" in refusal(written(tmp_path / "w.pt", {"x": {"y": shared}}))
    long = bare()
    for _ in range(20):
        long = bare(**{"n" * 100_000: long, "m" * 100_000: long})
    assert "more modules" in refusal(written(tmp_path / "w.pt", long))
    assert time.monotonic() - began < SECONDS


def test_very_many_submodules(tmp_path: Path) -> None:
    leaf = bare()
    began = time.monotonic()
    refusal(written(tmp_path / "w.pt", bare(**{str(i): leaf for i in range(100_000)})))
    assert time.monotonic() - began < SECONDS


def test_attributes_that_a_module_does_not_have(tmp_path: Path) -> None:
    for changes in ({"_parameters": {"weight": 3}}, {"_buffers": 7}, {"_modules": {"a": 3}}, {"_parameters": {3: 4}}):
        module = bare()
        module.__dict__.update(changes)
        refusal(written(tmp_path / "w.pt", module))
    refusal(written(tmp_path / "w.pt", pickle_of_nests(5000)))


def pickle_of_nests(depth: int) -> bytes:
    return b"\x80\x02" + b"}X\x01\x00\x00\x00a" * depth + b"}" + b"s" * depth + b"."


def test_names_that_are_long_in_sum(tmp_path: Path) -> None:
    """A name of a megabyte that a thousand mappings share, each of a thousand leaves."""
    key = b"X" + struct.pack("<I", 1 << 20) + b"a" * (1 << 20) + b"q\x00"
    leaves = b"}(" + b"".join(b"X\x04\x00\x00\x00%04dh\x01" % i for i in range(1000)) + b"uq\x02"
    maps = b"}(" + b"".join(b"X\x04\x00\x00\x00%04d}h\x00h\x02s" % i for i in range(1000)) + b"u."
    start = b"\x80\x02" + key + b"0cargparse\nNamespace\n)\x81q\x010"
    began = time.monotonic()
    refusal(written(tmp_path / "w.pt", start + leaves + b"0" + maps))
    assert time.monotonic() - began < SECONDS
