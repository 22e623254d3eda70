"""Checkpoints as training leaves them, and hostile ones: read without running anything, or refused in one sentence."""

from __future__ import annotations

import io
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from maas_rt.compiler.importers import import_model
from maas_rt.compiler.importers.checkpoint import load_checkpoint, read_checkpoint

import maas_rt
from tests.compiler._make_checkpoints import build

MAKER = Path(__file__).with_name("_make_checkpoints.py")


@pytest.fixture(scope="module", params=[1, 2])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a training run of that many processes wrote."""
    folder = tmp_path_factory.mktemp(f"world{request.param}")
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        str(request.param),
        str(MAKER),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, str(folder)], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


def by_torch(folder: Path) -> dict[str, torch.Tensor]:
    """The same directory by torch's own reader (which unpickles, so for our own files only)."""
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

    target = folder.parent / f"{folder.name}.by_torch.pt"
    dcp_to_torch_save(folder, target)
    return torch.load(target, weights_only=True)  # type: ignore[no-any-return]


def test_sharded_directories_are_put_together(trained: Path) -> None:
    folders = [trained / name for name in ("fsdp2", "tensor_parallel") if (trained / name).is_dir()]
    assert folders
    for folder in folders:
        expected, found = by_torch(folder), read_checkpoint(folder)
        assert set(expected) == set(found)
        assert all(torch.equal(expected[name], found[name]) for name in expected)
        fresh = _blank()
        load_checkpoint(fresh, folder)
        assert all(torch.equal(value, expected[name]) for name, value in fresh.state_dict().items())


def test_other_writers_of_the_same_state(trained: Path) -> None:
    expected = torch.load(trained / "fsdp_full.pt", weights_only=True)
    for name in ("fsdp2_async", "fsdp2_hf"):
        fresh = _blank()
        load_checkpoint(fresh, trained / name)
        assert all(torch.equal(value, expected[key]) for key, value in fresh.state_dict().items())


def test_one_ranks_part_is_told(trained: Path) -> None:
    for name, words in (("dtensor_rank0.pt", "parts of 2 ranks"), ("local_rank1.pt", "tensor parallelism")):
        if (trained / name).exists():
            text = refused(lambda path: load_checkpoint(build(), path), trained / name)
            assert words in text, text


@pytest.mark.parametrize("kind", ["dtensor", "local"])
def test_a_file_of_each_rank_is_joined(trained: Path, kind: str) -> None:
    files = sorted(trained.glob(f"{kind}_rank*.pt"))
    for paths in (files, files[::-1]) if files else ():
        fresh = _blank()
        load_checkpoint(fresh, paths)
        assert all(torch.equal(value, build().state_dict()[key]) for key, value in fresh.state_dict().items())


def test_an_optimizer_beside_the_model_is_left_out(trained: Path) -> None:
    fresh = _blank()
    load_checkpoint(fresh, trained / "fsdp2_nested")
    expected = torch.load(trained / "fsdp_full.pt", weights_only=True)
    assert all(torch.equal(value, expected[name]) for name, value in fresh.state_dict().items())


@pytest.mark.parametrize("name", ["ddp.pt", "nested.pth", "fsdp_full.pt"])
def test_single_files(trained: Path, name: str) -> None:
    fresh = _blank()
    load_checkpoint(fresh, trained / name)
    if name != "fsdp_full.pt":
        assert all(torch.equal(value, build().state_dict()[key]) for key, value in fresh.state_dict().items())


def _blank() -> torch.nn.Module:
    """The architecture with weights that no checkpoint has."""
    model = build()
    for value in model.state_dict().values():
        value.fill_(77)
    return model


def test_safetensors(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file(build().state_dict(), tmp_path / "w.safetensors")
    fresh = _blank()
    load_checkpoint(fresh, tmp_path / "w.safetensors")
    assert torch.equal(fresh.state_dict()["0.weight"], build().state_dict()["0.weight"])


def test_a_checkpoint_compiles_through_its_factory(tmp_path: Path) -> None:
    torch.save({f"module._orig_mod.{k}": v for k, v in build().state_dict().items()}, tmp_path / "w.pt")
    factory = "tests.compiler._make_checkpoints:build"
    model = import_model(tmp_path / "w.pt", (torch.ones(2, 6),), factory=factory)
    expected = build().eval()(torch.ones(2, 6)).detach().numpy()
    assert model.example_inputs is not None
    assert (model.source.run(model.example_inputs)["output_0"] == expected).all()
    assert model.provenance["kind"] == "checkpoint"


def test_every_key_that_does_not_fit_is_named(tmp_path: Path) -> None:
    state = build().state_dict()
    state["0.weight"] = torch.zeros(2, 2)
    del state["2.running_mean"], state["3.weight"]
    state["extra.bias"] = torch.zeros(1)
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(maas_rt.CheckpointError) as caught:
        load_checkpoint(build(), tmp_path / "w.pt")
    error = caught.value
    assert error.missing == ("2.running_mean", "3.weight")
    assert error.surplus == ("extra.bias",)
    assert error.misshapen == ("0.weight (checkpoint (2, 2), model (13, 6))",)
    assert all(name in str(error) for name in ("2.running_mean", "3.weight", "extra.bias", "0.weight"))


def test_names_that_begin_with_module_may_be_the_models_own(tmp_path: Path) -> None:
    outer = torch.nn.Module()
    outer.module = torch.nn.Linear(2, 2)
    torch.save(outer.state_dict(), tmp_path / "w.pt")
    load_checkpoint(outer, tmp_path / "w.pt")


def test_shared_and_strided_tensors(tmp_path: Path) -> None:
    base = torch.arange(24.0).reshape(4, 6)
    state = {
        "a": base,
        "t": base.t(),
        "s": base[1:3, ::2],
        "h": base.bfloat16(),
        "i": torch.tensor(3),
        "e": torch.empty(0, 4),
    }
    torch.save(state, tmp_path / "w.pt")
    found = read_checkpoint(tmp_path / "w.pt")
    assert all(torch.equal(found[name], value) and found[name].dtype == value.dtype for name, value in state.items())


# What must not run, and what must not crash.


class Bomb:
    """Unpickling this runs a command that leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.mark}",)


def refused(read: Callable[[Path], Any], path: Path, kind: type[Exception] = maas_rt.CheckpointError) -> str:
    with pytest.raises(kind) as caught:
        read(path)
    text = str(caught.value)
    assert text and "\n" not in text and len(text) < 400
    return text


def test_a_bomb_in_a_pt_file(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    torch.save({"w": torch.ones(2), "x": Bomb(mark)}, tmp_path / "w.pt")
    assert "system" in refused(read_checkpoint, tmp_path / "w.pt")
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(Bomb(mark)))
    refused(read_checkpoint, tmp_path / "raw.pt")
    torch.save({"x": Bomb(mark)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    refused(read_checkpoint, tmp_path / "old.pt")
    assert not mark.exists()


@pytest.mark.parametrize(
    "payload",
    [
        b'cbuiltins\neval\n(S\'open("MARK","w")\'\ntR.',
        b"cposix\nsystem\n(S'touch MARK'\ntR.",
        b"ctorch.hub\nload\n(S'a/b'\ntR.",
        b"cbuiltins\ngetattr\n(cbuiltins\nset\nS'__class__'\ntR.",
        b"ctorch\n_C\n.",
        b"ctorch.serialization\nload\n(S'MARK'\ntR.",
        b"(S'touch MARK'\niposix\nsystem\n.",
        b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x0atouch MARK\x85R.",
        b"\x80\x02\x82\x01.",
        b"\x80\x02" + b"(" * 100_000 + b".",
        b"\x80\x02]" + b"]a" * 5 + b"0.",
        b"",
        b"\x80\x05\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",
    ],
)
def test_bombs_in_metadata(tmp_path: Path, payload: bytes) -> None:
    mark = tmp_path / "ran"
    folder = tmp_path / "dcp"
    folder.mkdir()
    (folder / ".metadata").write_bytes(payload.replace(b"MARK", str(mark).encode()))
    refused(read_checkpoint, folder)
    assert not mark.exists()


def _directory(tmp_path: Path) -> Path:
    """A real, small checkpoint directory, written without a process group."""
    import torch.distributed.checkpoint as dcp

    folder = tmp_path / "dcp"
    dcp.save({"w": torch.arange(6.0).reshape(2, 3), "b": torch.ones(3)}, checkpoint_id=str(folder), no_dist=True)
    assert set(read_checkpoint(folder)) == {"w", "b"}
    return folder


def test_a_bomb_in_a_shard(tmp_path: Path) -> None:
    folder, mark = _directory(tmp_path), tmp_path / "ran"
    shard = next(folder.glob("*.distcp"))
    size = shard.stat().st_size
    stream = io.BytesIO()
    torch.save(Bomb(mark), stream)
    shard.write_bytes(stream.getvalue().ljust(size, b"\0"))
    refused(read_checkpoint, folder)
    assert not mark.exists()


def test_damaged_directories(tmp_path: Path) -> None:
    folder = _directory(tmp_path)
    shard = next(folder.glob("*.distcp"))
    metadata, data = (folder / ".metadata").read_bytes(), shard.read_bytes()
    for cut in (0, 1, len(data) // 2, len(data) - 1):
        shard.write_bytes(data[:cut])
        refused(read_checkpoint, folder)
    shard.unlink()
    refused(read_checkpoint, folder)
    outside = tmp_path / "outside"
    outside.write_bytes(data)
    shard.symlink_to(outside)
    refused(read_checkpoint, folder)
    shard.unlink()
    shard.write_bytes(data)
    name = shard.name.encode()
    (folder / ".metadata").write_bytes(metadata.replace(name, b"../outside".ljust(len(name), b"x")[: len(name)]))
    refused(read_checkpoint, folder)
    for cut in range(0, len(metadata) - 1, 97):
        (folder / ".metadata").write_bytes(metadata[:cut])
        refused(read_checkpoint, folder)
    (folder / ".metadata").unlink()
    assert ".metadata" in refused(read_checkpoint, folder)


def test_flipped_bits_are_an_error_or_the_same_shape(tmp_path: Path) -> None:
    """A flip in the metadata may go unnoticed (there is no checksum), but never crashes or reads outside."""
    folder = _directory(tmp_path)
    metadata = (folder / ".metadata").read_bytes()
    for position in range(0, len(metadata), 7):
        flipped = bytearray(metadata)
        flipped[position] ^= 0x20
        (folder / ".metadata").write_bytes(bytes(flipped))
        try:
            read_checkpoint(folder)
        except maas_rt.CheckpointError as error:
            assert "\n" not in str(error)


def test_damaged_files(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch.save({"w": torch.arange(1000.0)}, path)
    data = path.read_bytes()
    for cut in (0, 1, 30, len(data) // 2, len(data) - 10):
        path.write_bytes(data[:cut])
        refused(read_checkpoint, path)
    where = data.index(struct.pack("<f", 500.0))
    flipped = bytearray(data)
    flipped[where] ^= 1
    path.write_bytes(bytes(flipped))
    assert "damaged" in refused(read_checkpoint, path)
    for position in range(0, len(data), 61):
        flipped = bytearray(data)
        flipped[position] ^= 0x10
        path.write_bytes(bytes(flipped))
        try:
            read_checkpoint(path)
        except maas_rt.CheckpointError as error:
            assert "\n" not in str(error)
    path.write_bytes(b"hello world " * 20)
    refused(read_checkpoint, path)
    (tmp_path / "w.safetensors").write_bytes(b"\xff" * 40)
    refused(read_checkpoint, tmp_path / "w.safetensors")
    refused(read_checkpoint, tmp_path / "absent.pt")
    (tmp_path / "folder.pt").mkdir()
    refused(read_checkpoint, tmp_path / "folder.pt")


def _archive(path: Path, pickled: bytes, storage: bytes = b"\0" * 64, compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/data/0", storage)
    return path


def _tensor_pickle(offset: int, size: tuple[int, ...], stride: tuple[int, ...], count: int = 16) -> bytes:
    """torch.save's pickle of {"w": tensor} with these numbers."""

    class Storage:
        pass

    class Rebuilt:
        def __reduce__(self) -> Any:
            return torch._utils._rebuild_tensor_v2, (Storage(), offset, size, stride, False, {})

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: Any) -> Any:
            return ("storage", torch.FloatStorage, "0", "cpu", count) if isinstance(obj, Storage) else None

    stream = io.BytesIO()
    Pickler(stream, protocol=2).dump({"w": Rebuilt()})
    return stream.getvalue()


@pytest.mark.parametrize(
    ("offset", "size", "stride", "count"),
    [
        (0, (17,), (1,), 16),
        (15, (2,), (1,), 16),
        (0, (2, 2), (16, 1), 16),
        (0, (4,), (-1,), 16),
        (-1, (4,), (1,), 16),
        (0, (-4,), (1,), 16),
        (0, (2**62, 4), (1, 1), 16),
        (0, (4, 4), (1,), 16),
        (0, (16,), (1,), 10**12),
    ],
)
def test_tensors_that_reach_outside(tmp_path: Path, offset: int, size: Any, stride: Any, count: int) -> None:
    good = _archive(tmp_path / "good.pt", _tensor_pickle(0, (4, 4), (4, 1)))
    assert read_checkpoint(good)["w"].shape == (4, 4)
    refused(read_checkpoint, _archive(tmp_path / "w.pt", _tensor_pickle(offset, size, stride, count)))


def test_compressed_members_are_refused(tmp_path: Path) -> None:
    path = _archive(tmp_path / "w.pt", _tensor_pickle(0, (4, 4), (4, 1)), b"\0" * 10_000_000, zipfile.ZIP_DEFLATED)
    assert "larger" in refused(read_checkpoint, path) or "compressed" in refused(read_checkpoint, path)


@pytest.mark.parametrize("factory", ["nowhere", "no.such.module:build", "math:nothing", "builtins:dict"])
def test_factories_that_are_none(tmp_path: Path, factory: str) -> None:
    torch.save(build().state_dict(), tmp_path / "w.pt")
    refused(lambda path: import_model(path, factory=factory), tmp_path / "w.pt", maas_rt.InvalidArgumentError)


def test_weights_without_their_architecture(tmp_path: Path) -> None:
    torch.save(build().state_dict(), tmp_path / "w.pt")
    assert "--model" in refused(import_model, tmp_path / "w.pt", maas_rt.ImportModelError)
    assert "--model" in refused(import_model, tmp_path, maas_rt.ImportModelError)
