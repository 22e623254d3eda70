"""Directories and sets of files that training tools leave: read as the tool itself reads them, or told what to do.

Written by the tool where the tests' environment has it (torch, safetensors; transformers, accelerate, PEFT where installed), else by hand
in the layout that the tool documents, which is named.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from maas_rt.compiler.importers._contents import StoredTensor, leaves
from maas_rt.compiler.importers._layouts import open_contents
from safetensors.torch import save_file
from torch import nn

from maas_rt._cli import main
from tests.compiler._checkpoint_models import filled, filled_with, net, refusal
from tests.compiler._deepspeed_layout import write_zero

STATE = filled(net())
NAMES = list(STATE)


def read_twice(path: Path | list[Path]) -> None:
    """The library that wrote the files can read each tensor too."""
    contents = open_contents(path)
    stored = [location for location, leaf in leaves(contents.tree) if isinstance(leaf, StoredTensor)]
    assert stored and all(tensor is not None for tensor in contents.read_by_library(stored))


def sharded(folder: Path, kind: str = "safetensors", stem: str = "model", index: bool = True) -> list[Path]:
    """save_pretrained's parts (transformers, docs/big_models: weight_map of the index.json), two files and an index."""
    folder.mkdir()
    places: dict[str, str] = {}
    for number, names in enumerate((NAMES[:4], NAMES[4:]), 1):
        file = f"{stem}-{number:05d}-of-00002.{kind}"
        part = {name: STATE[name] for name in names}
        save_file(part, folder / file) if kind == "safetensors" else torch.save(part, folder / file)
        places |= dict.fromkeys(names, file)
    (folder / "config.json").write_text("{}")
    if index:
        text = json.dumps({"metadata": {"total_size": 3}, "weight_map": places})
        (folder / f"{stem}.{kind}.index.json").write_text(text)
    return sorted(folder.glob(f"*-of-*.{kind}"))


@pytest.mark.parametrize(("kind", "stem"), [("safetensors", "model"), ("bin", "pytorch_model")])
def test_parts_with_an_index(tmp_path: Path, kind: str, stem: str) -> None:
    folder = tmp_path / "parts"
    files = sharded(folder, kind, stem)
    for path in (folder, folder / f"{stem}.{kind}.index.json", files):
        filled_with(path, STATE)
        read_twice(path)
    absent = files[1].read_bytes()
    files[1].unlink()
    assert files[1].name in refusal(folder)
    files[1].write_bytes(absent)
    (folder / f"{stem}.{kind}.index.json").unlink()
    filled_with(folder, STATE)
    files[0].unlink()
    assert "1 of the 2 parts" in refusal(folder)


def test_an_index_that_lies(tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    files = sharded(folder)
    index = folder / "model.safetensors.index.json"
    for text in (
        "{",
        "[]",
        '{"weight_map": {}}',
        '{"weight_map": {"w": 3}}',
        '{"weight_map": {"w": "../x.safetensors"}}',
    ):
        index.write_text(text)
        refusal(folder)
    index.write_text(json.dumps({"weight_map": {"nothing": files[0].name}}))
    assert "nothing" in refusal(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "diffusion_pytorch_model.safetensors"])
def test_one_file_beside_what_is_no_weights(tmp_path: Path, name: str) -> None:
    """accelerate's save_state and transformers' Trainer: names from accelerate/utils/constants.py and transformers/trainer.py."""
    folder = tmp_path / "checkpoint-500"
    folder.mkdir()
    save_file(STATE, folder / name) if name.endswith("safetensors") else torch.save(STATE, folder / name)
    for other in ("optimizer.bin", "optimizer.pt", "scheduler.pt", "scaler.pt", "training_args.bin", "rng_state.pth"):
        torch.save({"state": {}}, folder / other)
    (folder / "random_states_0.pkl").write_bytes(b"")
    (folder / "trainer_state.json").write_text("{}")
    filled_with(folder, STATE)
    assert "checkpoint-500" in refusal(tmp_path)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_folder_for_the_model(tmp_path: Path) -> None:
    """accelerate with FSDP: pytorch_model_fsdp_0/ and optimizer_0/, each of torch.distributed.checkpoint (accelerate/utils/fsdp_utils.py)."""
    dcp.save({"model": STATE}, checkpoint_id=str(tmp_path / "run/pytorch_model_fsdp_0"), no_dist=True)
    dcp.save({"optimizer": {"a": torch.ones(1)}}, checkpoint_id=str(tmp_path / "run/optimizer_0"), no_dist=True)
    filled_with(tmp_path / "run", STATE)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_lightning_directories(tmp_path: Path) -> None:
    """Its sharded form (lightning/pytorch/strategies/fsdp.py): DCP with "model" and "optimizer_0", beside meta.pt; and a run's folder."""
    saved = {"model": {f"net.{name}": value for name, value in STATE.items()}, "optimizer_0": {"state": torch.ones(1)}}
    dcp.save(saved, checkpoint_id=str(tmp_path / "last.ckpt"), no_dist=True)
    torch.save({"epoch": 3, "hyper_parameters": {}}, tmp_path / "last.ckpt/meta.pt")
    filled_with(tmp_path / "last.ckpt", STATE)
    (tmp_path / "version_0/checkpoints").mkdir(parents=True)
    torch.save({"state_dict": saved["model"]}, tmp_path / "version_0/checkpoints/epoch=1-step=4.ckpt")
    filled_with(tmp_path / "version_0", STATE)
    torch.save({"state_dict": saved["model"]}, tmp_path / "version_0/checkpoints/last.ckpt")
    assert "epoch=1-step=4.ckpt" in refusal(tmp_path / "version_0")


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("distributed", [False, True])
def test_hugging_face_storage_writer(tmp_path: Path, distributed: bool) -> None:
    writer = dcp.HuggingFaceStorageWriter(path=str(tmp_path / "hf"), save_distributed=distributed)
    dcp.save(dict(STATE), storage_writer=writer, no_dist=True)
    filled_with(tmp_path / "hf", STATE)
    read_twice(tmp_path / "hf")


def test_chunks_in_safetensors(tmp_path: Path) -> None:
    """What two ranks of HuggingFaceStorageWriter(save_distributed=True) leave: torch/distributed/checkpoint/_hf_utils.py."""
    folder = tmp_path / "hf"
    folder.mkdir()
    for rank in range(2):
        part: dict[str, torch.Tensor] = {}
        offsets: dict[str, Any] = {}
        for name, value in STATE.items():
            if value.ndim == 0 and rank:
                continue
            part[name] = value.chunk(2)[rank].clone() if value.ndim else value
            offsets[name] = {
                "saved_offsets": [rank * part[name].shape[0], *[0] * (value.ndim - 1)] if value.ndim else []
            }
        metadata = {"DCP_SHARDING_INFO": json.dumps(offsets), "format": "pt"}
        save_file(part, folder / f"shard-{rank + 1:05d}-model-00001-of-00001.safetensors", metadata=metadata)
    filled_with(folder, STATE)
    read_twice(folder)
    (folder / "shard-00001-model-00001-of-00001.safetensors").unlink()
    refusal(folder)


def wide() -> nn.Module:
    return nn.ModuleDict({"a": nn.Linear(3, 5), "bn": nn.BatchNorm1d(5), "b": nn.Linear(5, 7), "t": nn.Linear(5, 7)})


def test_deepspeed_without_zero(tmp_path: Path) -> None:
    """Stage 0: one file with the module and the optimizer, under the tag that accelerate gives it."""
    (tmp_path / "pytorch_model").mkdir()
    (tmp_path / "latest").write_text("pytorch_model")
    torch.save({"module": STATE, "optimizer": {"state": {}}}, tmp_path / "pytorch_model/mp_rank_00_model_states.pt")
    filled_with(tmp_path, STATE)


@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("world", [1, 3])
def test_deepspeed(tmp_path: Path, stage: int, world: int) -> None:
    """ZeRO 1 to 3: groups, padding, frozen and shared weights; equal to what DeepSpeed's zero_to_fp32.py makes of the same files."""
    state = filled(wide())
    buffers = {name: value for name, value in state.items() if "running" in name or "num" in name}
    names = [name for name in state if name not in buffers and not name.startswith("t.")]
    groups = [{name: state[name] for name in names[:3]}, {name: state[name] for name in names[3:5]}]
    frozen = {name: state[name] for name in names[5:]}
    shared = {"t.weight": "b.weight", "t.bias": "b.bias"}
    expected = write_zero(tmp_path / "run", stage, world, groups, buffers, frozen=frozen, shared=shared)
    filled_with(tmp_path / "run", expected, wide)
    filled_with(tmp_path / "run/global_step3", expected, wide)
    shard = next((tmp_path / "run/global_step3").glob("*_optim_states.pt"))
    shard.unlink()
    if world > 1:
        assert "2 ranks" in refusal(tmp_path / "run", wide)
    (tmp_path / "run/latest").write_text("global_step4")
    assert "global_step4" in refusal(tmp_path / "run", wide)


def test_deepspeed_partitions_that_do_not_round_to_the_module(tmp_path: Path) -> None:
    write_zero(tmp_path / "run", 2, 2, [{"weight": torch.ones(2, 2), "bias": torch.ones(2)}], {})
    file = tmp_path / "run/global_step3/mp_rank_00_model_states.pt"
    saved = torch.load(file, weights_only=False)
    saved["module"]["weight"][0, 0] = 5
    torch.save(saved, file)
    assert "weight" in refusal(tmp_path / "run", lambda: nn.Linear(2, 2))


def test_megatron(tmp_path: Path) -> None:
    """Megatron-LM's folders (megatron/training/checkpointing.py, get_checkpoint_name): one rank is read, several have to be joined."""
    (tmp_path / "iter_0000500/mp_rank_00").mkdir(parents=True)
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("500")
    torch.save(
        {"model": STATE, "optimizer": {}, "iteration": 500}, tmp_path / "iter_0000500/mp_rank_00/model_optim_rng.pt"
    )
    filled_with(tmp_path, STATE)
    (tmp_path / "iter_0000500/mp_rank_01").mkdir()
    assert "convert.py" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (["adapter_config.json", "adapter_model.safetensors"], "merge_and_unload"),
        (["saved_model.pb"], "tf2onnx"),
        (["flax_model.msgpack"], "from_flax"),
        (["a.pt", "b.pt"], "a.pt, b.pt"),
        (["mp_rank_00_model_states.pt", "mp_rank_01_model_states.pt"], "tensor parallelism"),
        (["layer_00-model_states.pt", "mp_rank_00_model_states.pt"], "pipeline"),
        (["__0_0.distcp"], ".metadata"),
        (["unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors"], "unet, vae"),
        (["weights_of_today/model.safetensors.index.json"], "weights_of_today"),
        ([], "no weights"),
    ],
)
def test_directories_that_are_something_else(tmp_path: Path, files: list[str], words: str) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        torch.save({}, tmp_path / name)
    assert words in refusal(tmp_path, longest=700)


@pytest.mark.parametrize(
    "beside", [["recipe_state.pt"], ["tokenizer.model", "params.json"], ["optimizer.bin", "random_states_0.pkl"]]
)
def test_the_only_file_of_weights(tmp_path: Path, beside: list[str]) -> None:
    torch.save(filled(net()), tmp_path / "consolidated.00.pth")
    for name in beside:
        torch.save({"w": torch.ones(1)}, tmp_path / name)
    filled_with(tmp_path, filled(net()))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_files_of_a_directory(tmp_path: Path) -> None:
    dcp.save({"model": filled(net())}, checkpoint_id=str(tmp_path))
    filled_with(tmp_path / ".metadata", filled(net()))
    assert "give its folder" in refusal(tmp_path / "__0_0.distcp")
    (tmp_path / "__0_0.distcp").unlink()
    assert "missing, or was cut short" in refusal(tmp_path)


def test_parts_that_name_a_tensor_twice(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "a.pt")
    torch.save({NAMES[0]: STATE[NAMES[0]]}, tmp_path / "b.pt")
    assert NAMES[0] in refusal([tmp_path / "a.pt", tmp_path / "b.pt"])


def build() -> tuple[nn.Module, Any]:
    return net(), (torch.ones(2, 3),)


def test_options_of_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = {name: value + 1 for name, value in STATE.items()}
    torch.save({"generator": STATE, "critic": other}, tmp_path / "w.pt")
    command = ["compile", "-o", str(tmp_path / "m.mrt"), "--model", f"{__name__}:build", "--quiet", "--no-verify"]
    assert main([*command, str(tmp_path / "w.pt")]) == 1
    assert "--key" in capsys.readouterr().err
    assert main([*command, str(tmp_path / "w.pt"), "--key", "critic"]) == 0
    parts = sharded(tmp_path / "parts", index=False)
    assert main([*command, *map(str, parts)]) == 0
    torch.save({**{f"x.{name}": value for name, value in STATE.items()}, "y": torch.ones(1)}, tmp_path / "w.pt")
    assert main([*command, str(tmp_path / "w.pt")]) == 1
    assert main([*command, str(tmp_path / "w.pt"), "--prefix", "x."]) == 0
    assert main([*command, str(tmp_path / "w.pt"), "--ignore-surplus"]) == 0


# The tools themselves, where they are installed.


def test_transformers_and_accelerate(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="pip install transformers")
    config = transformers.BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, vocab_size=50
    )

    def bert() -> nn.Module:
        return transformers.BertForMaskedLM(config)  # type: ignore[no-any-return]

    model = bert()
    state: Mapping[str, torch.Tensor] = model.state_dict()  # its decoder is tied to the embedding, and saved once
    model.save_pretrained(tmp_path / "one")
    model.save_pretrained(tmp_path / "parts", max_shard_size="8KB")
    for folder in ("one", "parts"):
        filled_with(tmp_path / folder, state, bert)
    accelerate = pytest.importorskip("accelerate", reason="pip install accelerate")
    accelerator = accelerate.Accelerator(cpu=True)
    module = net()
    wrapped = accelerator.prepare(module, torch.optim.AdamW(module.parameters()))[0]
    for name, safe in (("safe", True), ("pickled", False)):
        accelerator.save_state(str(tmp_path / name), safe_serialization=safe)
        filled_with(tmp_path / name, wrapped.state_dict())
