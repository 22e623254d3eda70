"""Tiny random-weight models of twelve families, exported to ONNX the way that ONNX Runtime's tools expect them.

Most of the tools' patterns were written for what torch's older exporter gives; so that one is used.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

__all__ = ["FAMILIES", "Family"]

OPSET = 17
HEADS, HIDDEN = 4, 64
_SMALL = {
    "vocab_size": 100,
    "hidden_size": HIDDEN,
    "num_hidden_layers": 2,
    "num_attention_heads": HEADS,
    "intermediate_size": 96,
}
_TOWER = {key: value for key, value in _SMALL.items() if key != "vocab_size"}
_HALF = {
    "d_model": HIDDEN,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": HEADS,
    "decoder_attention_heads": HEADS,
    "encoder_ffn_dim": 96,
    "decoder_ffn_dim": 96,
}


@dataclass(frozen=True)
class Family:
    """`build` gives a module that takes tensors in the order of `inputs`; `axes` are the dynamic dimensions by input."""

    name: str
    build: Callable[[], torch.nn.Module]
    inputs: Callable[[], dict[str, torch.Tensor]]
    axes: dict[str, dict[int, str]]
    model_type: str = ""  # of onnxruntime.transformers.optimizer; "": it has none
    transformer: bool = True

    def export(self, path: Path) -> None:
        """Write the model, the same each time."""
        torch.manual_seed(0)
        module = self.build().eval()
        inputs = self.inputs()
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")
            logging.disable(logging.WARNING)
            try:
                torch.onnx.export(
                    module, tuple(inputs.values()), str(path), dynamo=False, opset_version=OPSET,
                    input_names=list(inputs), dynamic_axes=self.axes,
                )  # fmt: skip
            finally:
                logging.disable(logging.NOTSET)

    def feeds(self, seed: int = 0) -> dict[str, np.ndarray[Any, Any]]:
        torch.manual_seed(seed)
        return {name: value.numpy() for name, value in self.inputs().items()}


class _Output(torch.nn.Module):
    """A transformers model as a function of tensors: the inputs by name, outputs by attribute."""

    def __init__(self, model: torch.nn.Module, names: list[str], outputs: list[str], **options: Any) -> None:
        super().__init__()
        self.model, self.names, self.outputs, self.options = model, names, outputs, options

    def forward(self, *inputs: torch.Tensor) -> Any:
        given = dict(zip(self.names, inputs, strict=True))
        if "decoder_input_ids" in given:  # or transformers looks for packed sequences, which this exporter cannot write
            given["decoder_attention_mask"] = torch.ones_like(given["decoder_input_ids"])
        result = self.model(**given, **self.options)
        return tuple(getattr(result, name) for name in self.outputs)


class _Decoder(torch.nn.Module):
    """A causal model with its cache as tensors: ids, mask, then keys and values of each layer before; logits and the same behind."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor, mask: torch.Tensor, *past: torch.Tensor) -> Any:
        from transformers import DynamicCache

        cache = DynamicCache()
        for layer, (key, value) in enumerate(zip(past[::2], past[1::2], strict=True)):
            cache.update(key, value, layer)
        result = self.model(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True)
        present = [tensor for layer in result.past_key_values.layers for tensor in (layer.keys, layer.values)]
        return (result.logits, *present)


class _Tagger(torch.nn.Module):
    """Words to tags: an embedding, a bidirectional LSTM, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(100, 32)
        self.lstm = torch.nn.LSTM(32, 24, batch_first=True, bidirectional=True)
        self.tags = torch.nn.Linear(48, 9)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.tags(self.lstm(self.embedding(ids))[0])
        return scores


def _ids(length: int = 12, batch: int = 2) -> torch.Tensor:
    return torch.randint(3, 99, (batch, length))


def _text() -> dict[str, torch.Tensor]:
    mask = torch.ones(2, 12, dtype=torch.int64)
    mask[1, 7:] = 0
    return {"input_ids": _ids(), "attention_mask": mask}


_SEQUENCE = {0: "batch", 1: "sequence"}
_PIXELS = {"pixel_values": {0: "batch"}}


def _encoder(name: str, model: str, config: str, model_type: str = "bert", **extra: Any) -> Family:
    def build() -> torch.nn.Module:
        import transformers as t

        settings = getattr(t, config)(**{**(extra or _SMALL), "attn_implementation": "eager"})
        return _Output(getattr(t, model)(settings), ["input_ids", "attention_mask"], ["last_hidden_state"])

    return Family(name, build, _text, {"input_ids": _SEQUENCE, "attention_mask": _SEQUENCE}, model_type)


def _causal(name: str, model: str, config: str, model_type: str, heads: int, **settings: Any) -> Family:
    def build() -> torch.nn.Module:
        import transformers as t

        return _Decoder(getattr(t, model)(getattr(t, config)(**settings, attn_implementation="eager")))

    def inputs() -> dict[str, torch.Tensor]:
        past = {
            f"past_{layer}_{part}": torch.randn(2, heads, 5, HIDDEN // HEADS)
            for layer in range(2)
            for part in ("key", "value")
        }
        return {"input_ids": _ids(3), "attention_mask": torch.ones(2, 8, dtype=torch.int64), **past}

    axes = {f"past_{i}_{part}": {0: "batch", 2: "past"} for i in range(2) for part in ("key", "value")}
    axes |= {"input_ids": _SEQUENCE, "attention_mask": {0: "batch", 1: "total"}}
    return Family(name, build, inputs, axes, model_type)


def _t5() -> torch.nn.Module:
    import transformers as t

    config = t.T5Config(
        vocab_size=100, d_model=HIDDEN, d_kv=16, d_ff=96, num_layers=2, num_heads=HEADS,
        decoder_start_token_id=0, attn_implementation="eager",
    )  # fmt: skip
    names = ["input_ids", "decoder_input_ids"]
    return _Output(t.T5ForConditionalGeneration(config), names, ["logits"], use_cache=False)


def _whisper() -> torch.nn.Module:
    import transformers as t

    config = t.WhisperConfig(
        vocab_size=100, num_mel_bins=8, max_source_positions=30, max_target_positions=16, pad_token_id=0,
        bos_token_id=1, eos_token_id=2, decoder_start_token_id=1, **_HALF, attn_implementation="eager",
    )  # fmt: skip
    names = ["input_features", "decoder_input_ids"]
    return _Output(t.WhisperForConditionalGeneration(config), names, ["logits"], use_cache=False)


def _clip() -> torch.nn.Module:
    import transformers as t

    config = t.CLIPConfig(
        text_config={**_TOWER, "vocab_size": 100, "max_position_embeddings": 64, "eos_token_id": 2},
        vision_config={**_TOWER, "image_size": 32, "patch_size": 8},
        projection_dim=16, attn_implementation="eager",
    )  # fmt: skip
    return _Output(t.CLIPModel(config), ["input_ids", "pixel_values"], ["logits_per_image"])


def _image(model: str, config: str, size: int, **settings: Any) -> tuple[Callable[[], torch.nn.Module], Any]:
    def build() -> torch.nn.Module:
        import transformers as t

        made = getattr(t, config)(**settings)
        made._attn_implementation = "eager"
        return _Output(getattr(t, model)(made), ["pixel_values"], ["last_hidden_state"])

    return build, lambda: {"pixel_values": torch.randn(2, 3, size, size)}


_DISTIL = {"vocab_size": 100, "dim": HIDDEN, "n_layers": 2, "n_heads": HEADS, "hidden_dim": 96}
_LLAMA = {**_SMALL, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 64, "pad_token_id": 0}
_RESNET = {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [2, 2], "layer_type": "basic"}

FAMILIES = [
    _encoder("bert", "BertModel", "BertConfig"),
    _encoder("distilbert", "DistilBertModel", "DistilBertConfig", **_DISTIL),
    _encoder("roberta", "RobertaModel", "RobertaConfig"),
    _causal("gpt2", "GPT2LMHeadModel", "GPT2Config", "gpt2", HEADS, vocab_size=100, n_embd=HIDDEN, n_layer=2, n_head=HEADS, n_positions=64),
    Family(
        "t5", _t5, lambda: {"input_ids": _ids(), "decoder_input_ids": _ids(5)},
        {"input_ids": _SEQUENCE, "decoder_input_ids": {0: "batch", 1: "target"}}, "t5",
    ),
    Family(
        "whisper", _whisper, lambda: {"input_features": torch.randn(2, 8, 60), "decoder_input_ids": _ids(5)},
        {"input_features": {0: "batch"}, "decoder_input_ids": {0: "batch", 1: "target"}}, "bart",
    ),
    Family("vit", *_image("ViTModel", "ViTConfig", 32, **_TOWER, image_size=32, patch_size=8), _PIXELS, "vit"),
    Family(
        "clip", _clip, lambda: {"input_ids": _ids(), "pixel_values": torch.randn(2, 3, 32, 32)},
        {"input_ids": {0: "batch"}, "pixel_values": {0: "images"}}, "clip",
    ),
    _causal("llama", "LlamaForCausalLM", "LlamaConfig", "gpt2", 2, **_LLAMA),
    Family("resnet", *_image("ResNetModel", "ResNetConfig", 64, **_RESNET), _PIXELS, transformer=False),
    Family(
        "mobilenet", *_image("MobileNetV2Model", "MobileNetV2Config", 64, depth_multiplier=0.35, tf_padding=False),
        _PIXELS, transformer=False,
    ),
    Family("lstm", _Tagger, lambda: {"ids": _ids()}, {"ids": _SEQUENCE}, transformer=False),
]  # fmt: skip
