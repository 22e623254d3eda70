"""LoRA adapters of PEFT, merged as its merge_and_unload() does, bit for bit; other kinds of adapters are told."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tests.compiler._checkpoint_models import filled, filled_with, refusal


class Layers(nn.Module):
    """Layers of each kind that LoRA adapts; of two names one ends the other."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(11, 8), nn.Linear(8, 3)
        self.body = nn.ModuleDict(
            {"q": nn.Linear(8, 8), "v": nn.Linear(8, 12), "deep": nn.ModuleDict({"v": nn.Linear(12, 8)})}
        )
        self.conv, self.one, self.line = nn.Conv2d(3, 5, 3), nn.Conv2d(5, 4, 1), nn.Conv1d(3, 4, 3)


STATE = filled(Layers())
CONFIG = {
    "peft_type": "LORA",
    "r": 2,
    "lora_alpha": 6,
    "lora_dropout": 0.1,
    "bias": "none",
    "init_lora_weights": True,
    "task_type": None,
}


def adapter(folder: Path, tensors: Mapping[str, torch.Tensor], **config: Any) -> Path:
    """What PeftModel.save_pretrained writes (peft/utils/save_and_load.py)."""
    folder.mkdir(exist_ok=True)
    save_file(
        {f"base_model.model.{name}": value for name, value in tensors.items()}, folder / "adapter_model.safetensors"
    )
    (folder / "adapter_config.json").write_text(json.dumps({**CONFIG, **config}))
    return folder


def low_rank(path: str, rows: int, columns: int, rank: int = 2) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {f"{path}.lora_A.weight": torch.rand(rank, columns), f"{path}.lora_B.weight": torch.rand(rows, rank)}


def base(path: Path, prefix: str = "") -> Path:
    torch.save({f"{prefix}{name}": value for name, value in STATE.items()}, path)
    return path


@pytest.mark.parametrize("prefix", ["", "net.", "state_dict.module."])
def test_an_adapter_beside_its_weights(tmp_path: Path, prefix: str) -> None:
    tensors = low_rank("body.v", 12, 8)
    folder = adapter(tmp_path / "adapter", {**tensors, "head.weight": torch.ones(3, 8)})
    merged = STATE["body.v.weight"] + tensors["body.v.lora_B.weight"] @ tensors["body.v.lora_A.weight"] * 3.0
    expected = {**STATE, "body.v.weight": merged, "head.weight": torch.ones(3, 8)}
    for paths in ([base(tmp_path / "w.pt", prefix), folder], [folder, tmp_path / "w.pt"]):
        filled_with(paths, expected, Layers)
    assert "w.pt" in refusal([tmp_path / "w.pt", folder, folder], Layers)
    assert "compile BASE adapter" in refusal(folder, Layers)


def test_names_of_an_inner_model(tmp_path: Path) -> None:
    """Weights of the inner model (BertModel), and an adapter of one around it (BertForSequenceClassification), with a head of its own."""

    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.score = Layers(), nn.Linear(3, 2)

    tensors = low_rank("inner.body.deep.v", 8, 12)
    score = {"score.weight": torch.ones(2, 3), "score.bias": torch.ones(2)}
    folder = adapter(tmp_path / "adapter", {**tensors, **score})
    product = tensors["inner.body.deep.v.lora_B.weight"] @ tensors["inner.body.deep.v.lora_A.weight"]
    expected = {
        **{f"inner.{n}": v for n, v in STATE.items()},
        **score,
        "inner.body.deep.v.weight": STATE["body.deep.v.weight"] + product * 3.0,
    }
    filled_with([base(tmp_path / "w.pt"), folder], expected, Around)


def test_a_wrapped_state_dict(tmp_path: Path) -> None:
    """torch.save(peft_model.state_dict()): base_layer in the names of what is adapted, the adapter's name in those of adapters."""
    tensors = low_rank("body.q", 8, 8)
    wrapped = {
        f"model.base_model.model.{n.replace('body.q.', 'body.q.base_layer.')}": v
        for n, v in STATE.items()
        if not n.startswith("head")
    }
    wrapped |= {f"model.base_model.model.{n[:-7]}.default.weight": v for n, v in tensors.items()}
    for name in ("weight", "bias"):
        wrapped[f"model.base_model.model.head.original_module.{name}"] = STATE[f"head.{name}"] + 1
        wrapped[f"model.base_model.model.head.modules_to_save.default.{name}"] = STATE[f"head.{name}"]
    merged = STATE["body.q.weight"] + tensors["body.q.lora_B.weight"] @ tensors["body.q.lora_A.weight"] * 3.0
    folder = tmp_path / "run"
    folder.mkdir()
    torch.save({"state_dict": wrapped}, folder / "w.ckpt")
    assert "PEFT" in refusal(folder / "w.ckpt", Layers, longest=3000)
    (folder / "adapter_config.json").write_text(json.dumps({**CONFIG, "init_lora_weights": "pissa"}))
    for paths in (folder, [folder / "w.ckpt", folder / "adapter_config.json"]):
        filled_with(paths, {**STATE, "body.q.weight": merged}, Layers)
    wrapped["model.base_model.model.body.q.lora_A.other.weight"] = tensors["body.q.lora_A.weight"]
    torch.save({"state_dict": wrapped}, folder / "w.ckpt")
    assert "several adapters" in refusal(folder, Layers)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"peft_type": "LOHA"}, "LOHA"),
        ({"peft_type": None}, "None"),
        ({"init_lora_weights": "pissa"}, "pissa"),
        ({"use_qalora": True}, "use_qalora"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"something_new": 3}, "something_new"),
        ({"r": 1_000_000_000}, "rank"),
        ({"r": 0}, "rank"),
        ({"r": "2"}, "rank"),
        ({"rank_pattern": {"v": 3}}, "rank"),
        ({"rank_pattern": {"(a+)+$": 3}}, "regular expressions"),
        ({"rank_pattern": [3]}, "rank_pattern"),
        ({"alpha_pattern": {"v": "x"}}, "lora_alpha"),
        ({"lora_alpha": 1e400}, "lora_alpha"),
    ],
)
def test_configurations_that_are_told(tmp_path: Path, config: Mapping[str, Any], words: str) -> None:
    folder = adapter(tmp_path / "adapter", low_rank("body.v", 12, 8), **config)
    assert words in refusal([base(tmp_path / "w.pt"), folder], Layers)


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        (low_rank("body.nothing", 12, 8), "body.nothing"),
        (low_rank("body.v", 12, 9), "shape of the weight"),
        ({"body.v.lora_A.weight": torch.ones(2, 8)}, "shape of the weight"),
        ({"body.v.lora_A.weight": torch.ones(2, 8), "body.v.lora_B.weight": torch.ones(12, 3)}, "shape of the weight"),
        ({"body.v.lora_A.weight": torch.ones(2, 8), "body.v.lora_B.weight": torch.ones(12)}, "shape of the weight"),
        ({"conv.lora_A.weight": torch.ones(2, 3, 3, 3), "conv.lora_B.weight": torch.ones(5, 2, 3, 3)}, "shape of the weight"),
        ({"conv.lora_A.weight": torch.ones(2, 3, 3, 3), "conv.lora_B.weight": torch.ones(5, 2, 1, 1), "conv.lora_magnitude_vector": torch.ones(1, 5, 1, 1)}, "DoRA"),
        ({**low_rank("body.v", 12, 8), "head.weight": torch.ones(3, 8, 1)}, "head.weight"),
        ({}, "no tensors"),
    ],
)  # fmt: skip
def test_adapters_that_do_not_fit(tmp_path: Path, tensors: Mapping[str, torch.Tensor], words: str) -> None:
    assert words in refusal([base(tmp_path / "w.pt"), adapter(tmp_path / "adapter", tensors)], Layers, longest=800)


def test_a_configuration_that_is_none(tmp_path: Path) -> None:
    folder = adapter(tmp_path / "adapter", low_rank("body.v", 12, 8))
    for text in ("[]", "{", '{"r": ' + "[" * 100_000):
        (folder / "adapter_config.json").write_text(text)
        refusal([base(tmp_path / "w.pt"), folder], Layers)
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG))
    (folder / "adapter_model.safetensors").unlink()
    assert "adapter_model" in refusal([tmp_path / "w.pt", folder], Layers)


CASES: dict[str, dict[str, Any]] = {
    "linear": {"target_modules": ["q", "v"], "r": 4, "lora_alpha": 7},
    "rank-stabilized": {"target_modules": ["q", "v"], "r": 3, "lora_alpha": 16, "use_rslora": True},
    "embedding": {"target_modules": ["embed", "v"], "r": 3, "lora_alpha": 16},
    "convolution": {"target_modules": ["conv", "one", "line"], "r": 3, "lora_alpha": 5},
    "DoRA": {"target_modules": ["q", "v"], "r": 3, "lora_alpha": 5, "use_dora": True},
    "biases": {"target_modules": ["q"], "r": 3, "bias": "all"},
    "biases of adapters": {"target_modules": ["q"], "r": 3, "lora_bias": True},
    "patterns": {
        "target_modules": ["q", "v"],
        "r": 3,
        "rank_pattern": {"deep.v": 5},
        "alpha_pattern": {"^body.v": 9, "q": 2},
    },
    "a module beside": {"target_modules": ["q"], "r": 3, "modules_to_save": ["head"]},
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CASES)
def test_peft_itself(tmp_path: Path, case: str) -> None:
    peft = pytest.importorskip("peft", reason="pip install peft")
    module = Layers()
    module.load_state_dict(STATE)
    wrapped = peft.get_peft_model(module, peft.LoraConfig(**CASES[case]))
    torch.manual_seed(3)
    for name, value in wrapped.named_parameters():
        if value.requires_grad:
            value.data.copy_(torch.rand_like(value) + 0.1 if "lora" in name else value + 1)
    wrapped.save_pretrained(tmp_path / "adapter")
    torch.save(wrapped.state_dict(), tmp_path / "wrapped.pt")
    expected = wrapped.merge_and_unload().state_dict()
    filled_with([base(tmp_path / "w.pt"), tmp_path / "adapter"], expected, Layers)
    filled_with([tmp_path / "wrapped.pt", tmp_path / "adapter"], expected, Layers)
