"""Architectures of Hugging Face's transformers in tiny configurations, with random weights: each compiles and agrees with eager torch.

    python -m tests.conformance transformers [--match bert] [--update] [-v]    results/transformers.json

Each is tried with fixed shapes and again with a dynamic batch (and sequence, where it has one), then run at other sizes than it was traced
at. Outcomes: pass; refused (by name); wrong (a result differs by more than 1e-4 of its scale); not exported (torch.export itself refuses);
crash. Needs `pip install transformers`.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

RESULTS = Path(__file__).resolve().parent / "results" / "transformers.json"
TOLERANCE = 1e-4
SIZES = ((2, 16), (3, 11))  # (batch, sequence): traced at the first, run at both where they are dynamic
Inputs = dict[str, torch.Tensor]
Sequence = {0: (1, 8), 1: (4, 32)}
Batch = {0: (1, 8)}


class Part(torch.nn.Module):
    """A model without its cache and its output class: tensors in, the main output's tensor out."""

    def __init__(self, model: torch.nn.Module, output: str, options: dict[str, Any]) -> None:
        super().__init__()
        self.model, self.output, self.options = model, output, options

    def forward(self, **inputs: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = getattr(self.model(**inputs, **self.options), self.output)
        return result


@dataclass(frozen=True)
class Case:
    """`build` makes the model; `inputs` draws its inputs for (batch, sequence); `dynamic` are the dimensions that may vary."""

    name: str
    build: Callable[[], torch.nn.Module]
    inputs: Callable[[int, int], Inputs]
    dynamic: dict[str, Any]
    output: str = "last_hidden_state"
    options: tuple[tuple[str, Any], ...] = ()


@dataclass
class Outcome:
    name: str
    fixed: str
    dynamic: str
    message: str = ""


def _ids(batch: int, length: int, name: str = "input_ids") -> Inputs:
    return {name: torch.randint(3, 99, (batch, length))}


def _masked(batch: int, length: int) -> Inputs:
    mask = torch.ones(batch, length, dtype=torch.int64)
    mask[0, length // 2 :] = 0
    return {**_ids(batch, length), "attention_mask": mask}


def _pixels(size: int) -> Callable[[int, int], Inputs]:
    return lambda batch, _: {"pixel_values": torch.randn(batch, 3, size, size)}


def cases() -> list[Case]:
    import transformers as t

    small = {
        "vocab_size": 100,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
    }
    decoder = {**small, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64, "pad_token_id": 0}
    text = {"input_ids": Sequence, "attention_mask": Sequence}
    no_cache = (("use_cache", False),)

    def encoder(name: str, config: Any, model: Any) -> Case:
        return Case(name, lambda: model(config), _masked, text)

    def causal(name: str, config: Any, model: Any) -> Case:
        return Case(name, lambda: model(config), _ids, {"input_ids": Sequence}, "logits", no_cache)

    def seq2seq(name: str, config: Any, model: Any) -> Case:
        def inputs(batch: int, length: int) -> Inputs:
            return {**_ids(batch, length), **_ids(batch, length // 2, "decoder_input_ids")}

        dynamic = {"input_ids": Sequence, "decoder_input_ids": {0: (1, 8), 1: (2, 32)}}
        return Case(name, lambda: model(config), inputs, dynamic, "logits", no_cache)

    def vision(name: str, config: Any, model: Any, size: int, output: str = "last_hidden_state") -> Case:
        return Case(name, lambda: model(config), _pixels(size), {"pixel_values": Batch}, output)

    def whisper(batch: int, _: int) -> Inputs:
        return {"input_features": torch.randn(batch, 8, 60), **_ids(batch, 5, "decoder_input_ids")}

    def clip(batch: int, _: int) -> Inputs:
        return {**_ids(batch, 16), **_pixels(32)(batch, 16)}

    half = {
        "d_model": 32,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
    }
    feed = {"encoder_ffn_dim": 48, "decoder_ffn_dim": 48}
    tower = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    return [
        encoder("bert", t.BertConfig(**small), t.BertModel),
        encoder("roberta", t.RobertaConfig(**small), t.RobertaModel),
        encoder("distilbert", t.DistilBertConfig(vocab_size=100, dim=32, n_layers=2, n_heads=4, hidden_dim=48), t.DistilBertModel),
        encoder("deberta-v2", t.DebertaV2Config(**small, relative_attention=True, pos_att_type=["p2c", "c2p"]), t.DebertaV2Model),
        causal("gpt2", t.GPT2Config(vocab_size=100, n_embd=32, n_layer=2, n_head=4, n_positions=64), t.GPT2LMHeadModel),
        causal("llama", t.LlamaConfig(**decoder), t.LlamaForCausalLM),
        causal("qwen2", t.Qwen2Config(**decoder), t.Qwen2ForCausalLM),
        causal("mistral", t.MistralConfig(**decoder, sliding_window=8), t.MistralForCausalLM),
        causal("gemma", t.GemmaConfig(**decoder), t.GemmaForCausalLM),
        causal("phi", t.PhiConfig(**{**decoder, "num_key_value_heads": 4}), t.PhiForCausalLM),
        seq2seq("t5", t.T5Config(vocab_size=100, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, decoder_start_token_id=0), t.T5ForConditionalGeneration),
        seq2seq("bart", t.BartConfig(vocab_size=100, **half, **feed, max_position_embeddings=64), t.BartForConditionalGeneration),
        Case(
            "whisper",
            lambda: t.WhisperForConditionalGeneration(t.WhisperConfig(vocab_size=100, num_mel_bins=8, max_source_positions=30, max_target_positions=16, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1, **half, **feed)),
            whisper, {"input_features": Batch, "decoder_input_ids": Batch}, "logits", no_cache,
        ),
        Case(
            "clip",
            lambda: t.CLIPModel(t.CLIPConfig(text_config={**tower, "vocab_size": 100, "max_position_embeddings": 64, "eos_token_id": 2}, vision_config={**tower, "image_size": 32, "patch_size": 8}, projection_dim=16)),
            clip, {"input_ids": Batch, "pixel_values": Batch}, "logits_per_image",
        ),
        vision("vit", t.ViTConfig(**tower, image_size=32, patch_size=8), t.ViTModel, 32),
        vision("swin", t.SwinConfig(image_size=32, patch_size=2, embed_dim=16, depths=[2, 2], num_heads=[2, 4], window_size=4), t.SwinModel, 32),
        vision("detr", t.DetrConfig(use_timm_backbone=False, use_pretrained_backbone=False, backbone=None, backbone_config=t.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], out_features=["stage4"]), num_queries=5, **half, **feed), t.DetrForObjectDetection, 64, "logits"),
        vision("segformer", t.SegformerConfig(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], num_attention_heads=[1, 2, 3, 4], decoder_hidden_size=16), t.SegformerForSemanticSegmentation, 64, "logits"),
        Case(
            "wav2vec2",
            lambda: t.Wav2Vec2Model(t.Wav2Vec2Config(**{**small, "conv_dim": (16, 16), "conv_stride": (5, 4), "conv_kernel": (10, 8), "num_feat_extract_layers": 2, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2})),
            lambda batch, _: {"input_values": torch.randn(batch, 800)}, {"input_values": Batch},
        ),
        Case(  # its scan is a Python loop over the sequence
            "mamba",
            lambda: t.MambaForCausalLM(t.MambaConfig(vocab_size=100, hidden_size=32, num_hidden_layers=2, state_size=8)),
            lambda batch, _: _ids(batch, 16), {"input_ids": Batch}, "logits", no_cache,
        ),
    ]  # fmt: skip


def run_case(case: Case) -> Outcome:
    """Compile twice, with fixed and with dynamic shapes."""
    messages, results = [], []
    for dynamic in (None, case.dynamic):
        result, message = _try(case, dynamic)
        results.append(result)
        messages.append(message)
    return Outcome(case.name, results[0], results[1], next((m for m in messages if m), ""))


def _try(case: Case, dynamic: Any) -> tuple[str, str]:
    from maas_rt.compiler import compile

    import maas_rt

    torch.manual_seed(0)
    part = Part(case.build().eval(), case.output, dict(case.options)).eval()
    try:
        artifact = compile(part, case.inputs(*SIZES[0]), dynamic=dynamic, verify=False)
        model = maas_rt.load(artifact.to_bytes(), threads=1)
        for size in SIZES if dynamic else SIZES[:1]:
            inputs = case.inputs(*size)
            with torch.inference_mode():
                want = part(**inputs).numpy()
            (got,) = model.run({name: value.numpy() for name, value in inputs.items()}).values()
            if got.shape != want.shape:
                return "wrong", f"shape {got.shape} instead of {want.shape}"
            error = float(np.abs(got - want).max() / max(float(np.abs(want).max()), 1e-6))
            if not error <= TOLERANCE:
                return "wrong", f"a relative error of {error:.2g} at {size}"
    except maas_rt.ImportModelError as error:
        return "not exported", str(error)
    except maas_rt.Error as error:
        return "refused", f"{type(error).__name__}: {error}"
    except Exception as error:
        return "crash", f"{type(error).__name__}: {error}"
    return "pass", ""


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.conformance transformers", description=__doc__.split("\n")[0] if __doc__ else ""
    )
    parser.add_argument("--match", default="", help="only architectures whose name contains this")
    parser.add_argument("--update", action="store_true", help="write results/transformers.json")
    parser.add_argument("-v", "--verbose", action="store_true", help="print messages")
    options = parser.parse_args(arguments)
    logging.disable(logging.WARNING)
    outcomes = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for case in cases():
            if options.match in case.name:
                outcomes.append(run_case(case))
                o = outcomes[-1]
                note = "" if o.fixed == o.dynamic == "pass" and not options.verbose else o.message[:300]
                print(f"{o.name:12} fixed: {o.fixed:14} dynamic: {o.dynamic:14} {note}", flush=True)
    fixed, dynamic = (sum(getattr(o, kind) == "pass" for o in outcomes) for kind in ("fixed", "dynamic"))
    print(f"transformers: {fixed} of {len(outcomes)} pass, {dynamic} with dynamic shapes")
    if options.update and not options.match:
        import transformers

        listed = {"transformers": transformers.__version__, "cases": [asdict(o) for o in outcomes]}
        RESULTS.write_text(json.dumps(listed, indent=1) + "\n")
    return 1 if any("wrong" in (o.fixed, o.dynamic) or "crash" in (o.fixed, o.dynamic) for o in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
