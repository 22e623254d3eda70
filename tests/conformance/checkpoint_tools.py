"""What training leaves, written by the tools themselves: each maker writes into a folder and says what belongs in it.

A maker that needs a package imports it, and so is not run where that is not installed. Makers of several processes are in
checkpoint_ranks.py, which torchrun starts.
"""

from __future__ import annotations

import argparse
import bz2
import collections
import datetime
import gzip
import lzma
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tests.compiler._make_checkpoints import build

State = Mapping[str, torch.Tensor]
Make = Callable[[], nn.Module]


@dataclass
class Left:
    """What to give the compiler, the architecture, and the weights that it should find."""

    paths: Path | list[Path]
    make: Make
    state: State


MAKERS: dict[str, Callable[[Path], Left]] = {}


def makes(name: str) -> Callable[[Callable[[Path], Left]], Callable[[Path], Left]]:
    def listed(maker: Callable[[Path], Left]) -> Callable[[Path], Left]:
        MAKERS[name] = maker
        return maker

    return listed


def trained(make: Make = build) -> tuple[nn.Module, Any]:
    """A module after a step of its optimizer, so that it is nobody's initial values."""
    module = make()
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.1)
    for value in module.parameters():
        value.grad = torch.randn_like(value)
    optimizer.step()
    return module, optimizer


def saved(name: str, wrap: Callable[[nn.Module, Any], Any], make: Make = build, **options: Any) -> None:
    """A leftover that torch.save writes of what `wrap` makes of module and optimizer."""

    @makes(name)
    def maker(folder: Path) -> Left:
        module, optimizer = trained(make)
        torch.save(wrap(module, optimizer), folder / "checkpoint.pt", **options)
        return Left(folder / "checkpoint.pt", make, tensors(module))


def averaged(module: nn.Module) -> nn.Module:
    average = torch.optim.swa_utils.AveragedModel(module)
    average.update_parameters(module)
    return average


def beside(module: nn.Module) -> dict[str, Any]:
    values = {
        "args": argparse.Namespace(lr=0.1, out=Path("x")),
        "when": datetime.datetime(2026, 1, 1),
        "count": collections.Counter("aab"),
    }
    return {"model": module.state_dict(), **values, "rng": torch.get_rng_state()}


saved("torch.save of a state dict", lambda m, o: m.state_dict())
saved("the same, as before torch 1.6", lambda m, o: m.state_dict(), _use_new_zipfile_serialization=False)
saved("PyTorch's ImageNet example", lambda m, o: {"epoch": 3, "arch": "r", "state_dict": nn.DataParallel(m).state_dict(), "best_acc1": torch.tensor(1.0), "optimizer": o.state_dict()})  # fmt: skip
saved("(state dict, epoch)", lambda m, o: (m.state_dict(), 3))
saved(
    "model, optimizer, and a loss as a tensor",
    lambda m, o: {"model": m.state_dict(), "optim": o.state_dict(), "loss": torch.ones(())},
)
saved("torch.compile", lambda m, o: torch.compile(m).state_dict())
saved("AveragedModel", lambda m, o: averaged(m).state_dict())
saved("an average beside the weights", lambda m, o: {"model": m.state_dict(), "model_ema": build().state_dict()})
saved("objects beside the weights", lambda m, o: beside(m))
saved("a whole module, pickled", lambda m, o: m)
saved(
    "a whole module beside its optimizer",
    lambda m, o: {"model": m, "ema": None, "optimizer": o.state_dict(), "epoch": -1},
)
saved("a whole DataParallel", lambda m, o: nn.DataParallel(m))


saved("under a wrapper's name", lambda m, o: {f"net.model.{n}": v for n, v in m.state_dict().items()})


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.head = build(), nn.Linear(5, 2)


class Gain(nn.Module):
    """With state that is no tensor, and a parametrization."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.gain = nn.utils.parametrizations.weight_norm(nn.Linear(3, 2)), 2.0

    def get_extra_state(self) -> Any:
        return {"gain": self.gain}

    def set_extra_state(self, state: Any) -> None:
        self.gain = state["gain"]


class Views(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 2, dtype=torch.complex64))


def on_meta() -> nn.Module:
    with torch.device("meta"):
        return build()


def lazy() -> nn.Module:
    return nn.Sequential(nn.LazyLinear(13), nn.ReLU(), nn.LazyBatchNorm1d(), nn.Linear(13, 5, bias=False))


def tensors(module: nn.Module) -> State:
    return {name: value for name, value in module.state_dict().items() if isinstance(value, torch.Tensor)}


def filling(name: str, make: Make) -> None:
    """The usual state dict, for a factory whose module has no values yet."""

    @makes(name)
    def maker(folder: Path) -> Left:
        module, _ = trained()
        torch.save(module.state_dict(), folder / "checkpoint.pt")
        return Left(folder / "checkpoint.pt", make, module.state_dict())


saved("parts under keys of their own", lambda m, o: {"encoder": m.encoder.state_dict(), "head": m.head.state_dict(), "optimizer": o.state_dict()}, Pair)  # fmt: skip
saved("extra state and parametrizations", lambda m, o: m.state_dict(), Gain)
saved("conjugate views", lambda m, o: {"weight": m.weight.detach().conj().resolve_conj().conj()}, Views)
filling("a factory on the meta device", on_meta)
filling("lazy modules", lazy)


def scripted(name: str, script: Callable[[nn.Module], Any]) -> None:
    @makes(name)
    def maker(folder: Path) -> Left:
        module, _ = trained()
        torch.jit.save(script(module.eval()), folder / "model.pt")  # type: ignore[no-untyped-call]
        return Left(folder / "model.pt", build, module.state_dict())


scripted("TorchScript, scripted", torch.jit.script)
scripted("TorchScript, traced", lambda module: torch.jit.trace(module, torch.ones(2, 6)))
scripted("TorchScript, frozen", lambda module: torch.jit.freeze(torch.jit.script(module)))


def packed(name: str, pack: Callable[[], Callable[[bytes], bytes]]) -> None:
    @makes(f"compressed with {name}")
    def maker(folder: Path) -> Left:
        module, _ = trained()
        torch.save(module.state_dict(), folder / "plain.pt")
        (folder / f"packed.pt.{name}").write_bytes(pack()((folder / "plain.pt").read_bytes()))
        return Left(folder / f"packed.pt.{name}", build, module.state_dict())


def zstd() -> Callable[[bytes], bytes]:
    import zstandard

    return zstandard.compress  # type: ignore[no-any-return]


packed("gz", lambda: gzip.compress)
packed("bz2", lambda: bz2.compress)
packed("xz", lambda: lzma.compress)
packed("zst", zstd)


# Hugging Face: transformers, accelerate, diffusers, PEFT.


def bert() -> nn.Module:
    import transformers

    config = transformers.BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, vocab_size=50
    )
    model: nn.Module = transformers.BertForMaskedLM(config)
    return model


def llama() -> nn.Module:
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    model: nn.Module = transformers.LlamaForCausalLM(config)
    return model


def gpt2() -> nn.Module:
    import transformers

    model: nn.Module = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=50, n_embd=16, n_layer=1, n_head=2, n_positions=8)
    )
    return model


def pretrained(name: str, make: Make, **options: Any) -> None:
    @makes(name)
    def maker(folder: Path) -> Left:
        model: Any = trained(make)[0]
        model.save_pretrained(folder / "model", **options)
        return Left(folder / "model", make, model.state_dict())


pretrained("transformers' save_pretrained", bert)
pretrained("transformers' save_pretrained, in parts", llama, max_shard_size="8KB")
pretrained("transformers' save_pretrained, tied weights", gpt2)


@makes("transformers' Trainer")
def trainer(folder: Path) -> Left:
    import transformers

    model: Any = bert()
    _train(model, folder / "run", transformers)
    return Left(folder / "run/checkpoint-2", bert, model.state_dict())


def _train(model: Any, folder: Path, transformers: Any) -> None:
    data = [{"input_ids": torch.arange(8), "labels": torch.arange(8)}] * 4
    quiet = {"report_to": [], "use_cpu": True, "disable_tqdm": True, "logging_strategy": "no"}
    arguments = transformers.TrainingArguments(output_dir=str(folder), max_steps=2, save_steps=2, **quiet)
    trainer = transformers.Trainer(model=model, args=arguments, train_dataset=data)
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train()


def unet() -> nn.Module:
    import diffusers

    blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)}
    model: nn.Module = diffusers.UNet2DModel(
        sample_size=8, block_out_channels=(8,), norm_num_groups=4, layers_per_block=1, **blocks
    )
    return model


pretrained("diffusers' save_pretrained", unet)


def accelerated(name: str, save: Callable[[Any, Any, Path], Any], make: Make = build) -> None:
    @makes(name)
    def maker(folder: Path) -> Left:
        import accelerate

        accelerator = accelerate.Accelerator(cpu=True)
        module = accelerator.prepare(*trained(make))[0]
        save(accelerator, module, folder / "state")
        return Left(folder / "state", make, module.state_dict())


accelerated("accelerate's save_state", lambda a, m, folder: a.save_state(str(folder)))
accelerated(
    "accelerate's save_state, pickled", lambda a, m, folder: a.save_state(str(folder), safe_serialization=False)
)
accelerated(
    "accelerate's save_model, in parts", lambda a, m, folder: a.save_model(m, str(folder), max_shard_size="8KB"), bert
)


def adapted(name: str, config: Callable[[Any], Any], paths: Callable[[Path], Path | list[Path]]) -> None:
    @makes(name)
    def maker(folder: Path) -> Left:
        import peft

        base: Any = llama()
        base.save_pretrained(folder / "base")
        model: Any = peft.get_peft_model(base, config(peft))
        for key, value in model.named_parameters():
            if value.requires_grad:
                value.data.add_(torch.rand_like(value) if "lora" in key else 1.0)
        model.save_pretrained(folder / "adapter", save_embedding_layers=False)
        torch.save(model.state_dict(), folder / "wrapped.pt")
        merged = model.merge_and_unload()
        torch.save(merged.state_dict(), folder / "merged.pt")
        return Left(paths(folder), llama, merged.state_dict())


Q_AND_V = ["q_proj", "v_proj"]


def pair(folder: Path) -> list[Path]:
    return [folder / "base", folder / "adapter"]


adapted(
    "PEFT, merge_and_unload", lambda peft: peft.LoraConfig(target_modules=Q_AND_V), lambda folder: folder / "merged.pt"
)
adapted("PEFT, LoRA beside its base", lambda peft: peft.LoraConfig(target_modules=Q_AND_V, r=4, lora_alpha=7), pair)
adapted(
    "PEFT, LoRA, rank-stabilized",
    lambda peft: peft.LoraConfig(target_modules=["down_proj"], use_rslora=True, r=3),
    pair,
)
adapted("PEFT, LoRA, embeddings and a head", lambda peft: peft.LoraConfig(target_modules=["embed_tokens", "q_proj"], modules_to_save=["lm_head"]), pair)  # fmt: skip
adapted("PEFT, DoRA", lambda peft: peft.LoraConfig(target_modules=Q_AND_V, use_dora=True), pair)
adapted("PEFT, a wrapped model's state dict", lambda peft: peft.LoraConfig(target_modules=Q_AND_V), lambda f: [f / "wrapped.pt", f / "adapter/adapter_config.json"])  # fmt: skip
adapted("PEFT, LoHa", lambda peft: peft.LoHaConfig(target_modules=Q_AND_V), pair)


@makes("transformers' Trainer with PEFT")
def trainer_with_peft(folder: Path) -> Left:
    import peft
    import transformers

    base: Any = llama()
    base.save_pretrained(folder / "base")
    model: Any = peft.get_peft_model(base, peft.LoraConfig(target_modules=Q_AND_V))
    _train(model, folder / "run", transformers)
    return Left([folder / "base", folder / "run/checkpoint-2"], llama, model.merge_and_unload().state_dict())


@makes("Lightning's .ckpt")
def lightning(folder: Path) -> Left:
    import pytorch_lightning

    class Task(pytorch_lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = build()

        def training_step(self, batch: Any, index: int) -> Any:
            return self.net(batch[0]).sum()

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters())

    task = Task()
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(8, 6)), batch_size=4)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
    runner = pytorch_lightning.Trainer(max_epochs=1, default_root_dir=str(folder), **quiet)
    runner.fit(task, loader)
    runner.save_checkpoint(folder / "task.ckpt")
    return Left(folder / "task.ckpt", build, task.net.state_dict())


def quantized(name: str, layer: Callable[[Any], nn.Module], floats: Callable[[Any, Any], torch.Tensor]) -> None:
    @makes(name)
    def maker(folder: Path) -> Left:
        import bitsandbytes

        made: Any = layer(bitsandbytes)
        torch.save(made.state_dict(), folder / "checkpoint.pt")
        state = {"weight": floats(bitsandbytes.functional, made.weight), "bias": made.bias.detach()}
        return Left(folder / "checkpoint.pt", lambda: nn.Linear(64, 8), state)


def four_bits(bnb: Any) -> nn.Module:
    made = bnb.nn.Linear4bit(64, 8, quant_type="nf4")
    made.weight = bnb.nn.Params4bit(torch.randn(8, 64), requires_grad=False, quant_type="nf4").to("cpu")
    return made  # type: ignore[no-any-return]


def eight_bits(bnb: Any) -> nn.Module:
    made = bnb.nn.Linear8bitLt(64, 8, has_fp16_weights=False)
    made.weight = bnb.nn.Int8Params(torch.randn(8, 64), requires_grad=False, has_fp16_weights=False).to("cpu")
    return made  # type: ignore[no-any-return]


quantized("bitsandbytes, NF4", four_bits, lambda f, weight: f.dequantize_4bit(weight.data, weight.quant_state))
quantized("bitsandbytes, LLM.int8()", eight_bits, lambda f, weight: f.int8_vectorwise_dequant(weight.data, weight.SCB))


def not_installed(error: ImportError) -> str:
    """Which package a maker lacks."""
    return (error.name or str(error)).partition(".")[0]


def versions() -> dict[str, str]:
    """Of the tools that are there."""
    from importlib import metadata

    tools = "accelerate bitsandbytes deepspeed diffusers peft pytorch-lightning safetensors torch transformers zstandard".split()
    found = {}
    for tool in tools:
        try:
            found[tool] = metadata.version(tool)
        except metadata.PackageNotFoundError:
            continue
    return {"python": sys.version.split()[0], **found}
